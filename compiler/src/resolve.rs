//! First pass: what users wrote, made into who owns what. One bad object becomes a finding, never a missing neighbour.

use std::collections::BTreeMap;

use crate::finding::{Finding, Traced};
use crate::intent::{Cluster, Failover, Gateway, Intent, ServiceRoute};
use crate::name::{ClusterName, Fqn, Label, ServiceId};
use crate::selector::Selector;

/// Intent without its conflicts: every name in the world has at most one owner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    pub clusters: BTreeMap<ClusterName, Traced<Cluster>>,
    pub workspaces: BTreeMap<Fqn, Traced<ResolvedWorkspace>>,
    /// The route of a service, by owner and service.
    pub routes: BTreeMap<(Fqn, ServiceId), Traced<ServiceRoute>>,
    /// Gateways by their name, with the workspace that they stand in.
    pub gateways: BTreeMap<Fqn, Traced<ResolvedGateway>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedWorkspace {
    /// Without those that somebody else holds.
    pub namespaces: Vec<Selector>,
    /// The nearest: the workspace's own, else the organization's.
    pub failover: Vec<Failover>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedGateway {
    pub workspace: Fqn,
    /// Without hosts that somebody else holds.
    pub gateway: Gateway,
}

pub fn resolve(intent: &Intent) -> (Resolved, Vec<Finding>) {
    let _ = intent;
    (Resolved::default(), Vec::new())
}

impl Resolved {
    /// The workspace that owns a namespace of a cluster.
    pub fn owner(&self, cluster: &ClusterName, namespace: &Label) -> Option<&Fqn> {
        self.workspaces
            .iter()
            .find(|(_, workspace)| {
                workspace
                    .value
                    .namespaces
                    .iter()
                    .any(|s| s.matches(cluster, namespace))
            })
            .map(|(name, _)| name)
    }
}
