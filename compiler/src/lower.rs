//! Last pass: one cluster's slice and view, made into what each of its proxies runs.

use crate::finding::Finding;
use crate::name::ClusterName;
use crate::proxy::{ProxyConfig, ProxyNode};
use crate::routes::Slice;
use crate::view::View;

pub fn lower(
    cluster: &ClusterName,
    slice: &Slice,
    view: &View,
    node: &ProxyNode,
) -> (ProxyConfig, Vec<Finding>) {
    let _ = (cluster, slice, view, node);
    (ProxyConfig::default(), Vec::new())
}
