//! What the proxies' configurations are made from: the slice of one central and the view of this cluster, both held.

use std::sync::Arc;

use tombolo_compiler::finding::Finding;
use tombolo_compiler::lower::lower;
use tombolo_compiler::name::ClusterName;
use tombolo_compiler::proxy::{ProxyConfig, ProxyNode};
use tombolo_compiler::routes::Slice;
use tombolo_compiler::view::View;

/// Immutable, and shared by every stream.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) cluster: ClusterName,
    /// (epoch, revision) of the intent behind the slice.
    pub(crate) version: (u64, u64),
    pub(crate) slice: Arc<Slice>,
    pub(crate) view: Arc<View>,
}

impl Snapshot {
    pub(crate) fn lower(&self, node: &ProxyNode) -> (ProxyConfig, Vec<Finding>) {
        lower(&self.cluster, &self.slice, &self.view, node)
    }
}
