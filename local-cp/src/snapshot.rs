//! What the proxies' configurations are made from: the slice of one central and the view of this cluster, both held.

use std::sync::Arc;

use tombolo_compiler::finding::Finding;
use tombolo_compiler::lower::lower;
use tombolo_compiler::name::ClusterName;
use tombolo_compiler::proxy::{ProxyConfig, ProxyNode};
use tombolo_compiler::routes::Slice;
use tombolo_compiler::view::View;

use crate::key_hosts::Addresses;

/// Immutable, and shared by every stream.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) cluster: ClusterName,
    /// (epoch, revision) of the intent behind the slice.
    pub(crate) version: (u64, u64),
    pub(crate) slice: Arc<Slice>,
    pub(crate) view: Arc<View>,
    /// Of the hosts that have issuers' keys.
    pub(crate) addresses: Arc<Addresses>,
    /// By whom these hosts are believed, in PEM; does not change while the edge runs.
    pub(crate) authorities: Option<Arc<str>>,
}

impl Snapshot {
    pub(crate) fn lower(&self, node: &ProxyNode) -> (ProxyConfig, Vec<Finding>) {
        let (mut config, findings) = lower(&self.cluster, &self.slice, &self.view, node);
        for host in config.key_hosts.values_mut().map(|host| &mut host.value) {
            let known = self.addresses.get(&host.host);
            host.addresses = known.cloned().unwrap_or_default();
        }
        (config, findings)
    }
}
