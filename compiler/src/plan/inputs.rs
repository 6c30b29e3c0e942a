//! What a key is planned from, with the few questions that all keys ask.

use std::collections::{BTreeMap, BTreeSet};

use super::remote;
use crate::finding::Traced;
use crate::name::{ClusterName, Fqn, HostPort, Label, ServiceId};
use crate::report::{ClusterReport, Reports, ServiceReport, State};
use crate::resolve::{Resolved, ResolvedWorkspace};
use crate::routes::RoutedGateway;
use crate::selector::Selector;

pub(crate) struct Inputs<'a> {
    pub(crate) resolved: &'a Resolved,
    reports: &'a Reports,
    /// Clusters that have joined and have not been heard of: what they offer is not known, which is not nothing.
    pub(crate) unknown: BTreeSet<&'a ClusterName>,
    /// Clusters of which something that concerns them is not known.
    incomplete: BTreeSet<&'a ClusterName>,
}

impl<'a> Inputs<'a> {
    pub(crate) fn new(resolved: &'a Resolved, reports: &'a Reports) -> Inputs<'a> {
        let unknown: BTreeSet<&ClusterName> = reports
            .joined
            .iter()
            .filter(|cluster| resolved.clusters.contains_key(*cluster))
            .filter(|cluster| !reports.clusters.contains_key(*cluster))
            .collect();
        let doubtful: BTreeSet<&ClusterName> = unknown
            .iter()
            .copied()
            .chain(
                reports
                    .unread
                    .iter()
                    .filter(|cluster| resolved.clusters.contains_key(*cluster)),
            )
            .collect();
        let mut incomplete = doubtful.clone();
        if !doubtful.is_empty() {
            let workspaces = resolved.workspaces.iter();
            let concerned = workspaces
                .filter(|(_, workspace)| doubtful.iter().any(|cluster| workspace.value.reaches(cluster)));
            incomplete.extend(concerned.flat_map(|(name, _)| resolved.clusters_of(name)));
        }
        Inputs {
            resolved,
            reports,
            unknown,
            incomplete,
        }
    }

    /// What a cluster of the intent reports. Whoever else reports has no say.
    pub(crate) fn report(&self, cluster: &ClusterName) -> Option<&'a ClusterReport> {
        self.resolved
            .clusters
            .contains_key(cluster)
            .then(|| self.reports.clusters.get(cluster))
            .flatten()
            .map(|report| &**report)
    }

    pub(crate) fn reports(&self) -> impl Iterator<Item = (&'a ClusterName, &'a ClusterReport)> {
        self.resolved
            .clusters
            .keys()
            .filter_map(|cluster| Some((cluster, &**self.reports.clusters.get(cluster)?)))
    }

    pub(crate) fn owner(
        &self,
        cluster: &ClusterName,
        namespace: &Label,
    ) -> Option<(&'a Fqn, &'a Traced<ResolvedWorkspace>)> {
        let owner = self.resolved.owner(cluster, namespace)?;
        let (name, workspace) = self.resolved.workspaces.get_key_value(owner)?;
        Some((name, workspace))
    }

    /// Whether a namespace of a cluster is known by name: from the cluster's report, or from a selector that names it.
    pub(crate) fn is_known(&self, cluster: &ClusterName, namespace: &Label) -> bool {
        let first = ServiceId::first_in(namespace.clone());
        let reported = self.report(cluster).is_some_and(|report| {
            let service = report.services.range(&first..).next().map(|(id, _)| id);
            let workload = report.gateways.range(&first..).next().map(|(id, _)| id);
            let mut ids = service.into_iter().chain(workload);
            ids.any(|id| id.namespace == *namespace)
        });
        // What names it also owns it.
        let named = || {
            let owner = self.owner(cluster, namespace);
            let mut selectors = owner.into_iter().flat_map(|(_, owner)| &owner.value.namespaces);
            selectors.any(|selector| {
                selector.exact_namespace() == Some(namespace) && selector.matches_cluster(cluster)
            })
        };
        reported || named()
    }

    /// Where a workspace offers a service: the clusters that are then one service.
    pub(crate) fn offers(
        &self,
        workspace: &ResolvedWorkspace,
        id: &ServiceId,
    ) -> Vec<(&'a ClusterName, &'a ServiceReport)> {
        self.reports()
            .filter(|(cluster, _)| workspace.owns(cluster, &id.namespace))
            .filter_map(|(cluster, report)| Some((cluster, report.services.get(id)?)))
            .collect()
    }

    /// Whether what a workspace offers cannot be known yet.
    pub(crate) fn is_withheld(&self, workspace: &ResolvedWorkspace) -> bool {
        self.unknown.iter().any(|cluster| workspace.reaches(cluster))
    }

    /// Whether all that concerns a cluster is known.
    pub(crate) fn is_complete(&self, cluster: &ClusterName) -> bool {
        !self.incomplete.contains(cluster)
    }

    /// Whether a workspace's gateway runs on a workload of that cluster: one that the cluster reports, in a namespace
    /// that is the workspace's there, or nobody's, or whose owner there lends it. A workspace has no say in clusters that it
    /// does not name.
    pub(crate) fn runs(&self, name: &Fqn, gateway: &RoutedGateway, cluster: &ClusterName) -> bool {
        let workspace = self.resolved.workspaces.get(&gateway.workspace);
        let reaches = workspace.is_some_and(|workspace| workspace.value.reaches(cluster));
        let reported = || {
            self.report(cluster)
                .is_some_and(|report| report.gateways.contains_key(&gateway.workload))
        };
        let allowed = || {
            let owner = self.resolved.owner(cluster, &gateway.workload.namespace);
            owner.is_none_or(|owner| {
                *owner == gateway.workspace || self.resolved.grant_of_workload(name, owner).is_some()
            })
        };
        reaches && reported() && allowed()
    }

    /// Whether a gateway has no part in any slice yet, because of what its workspace offers.
    pub(crate) fn withholds(&self, gateway: &RoutedGateway) -> bool {
        let workspace = self.resolved.workspaces.get(&gateway.workspace);
        workspace.is_none_or(|workspace| self.is_withheld(&workspace.value))
    }

    /// The east-west listeners through which others reach a workspace's services in a cluster, and whether any is up.
    pub(crate) fn doors(&self, workspace: &Fqn, cluster: &ClusterName) -> (BTreeSet<HostPort>, State) {
        remote::doors(self, workspace, cluster)
    }

    /// Those whose own name it is, the last of their path.
    pub(crate) fn gateways_named<'b>(
        &self,
        name: &'b Label,
    ) -> impl Iterator<Item = (&'a Fqn, &'a Traced<RoutedGateway>)> + use<'a, 'b> {
        let gateways = self.resolved.gateways.iter();
        gateways
            .filter(move |(fqn, _)| fqn.leaf() == name.as_str())
            .map(|(fqn, gateway)| (fqn, &**gateway))
    }

    /// The services that a workspace offers, and those that it has routes for.
    pub(crate) fn services_of(&self, workspace: &Fqn) -> BTreeSet<ServiceId> {
        let Some((name, resolved)) = self.resolved.workspaces.get_key_value(workspace) else {
            return BTreeSet::new();
        };
        let mut ids: BTreeSet<ServiceId> = self.resolved.routes_of(name).cloned().collect();
        for selector in &resolved.value.namespaces {
            let reports = self.reports();
            for (_, report) in reports.filter(|(cluster, _)| selector.matches_cluster(cluster)) {
                ids.extend(taken(&report.services, selector).cloned());
            }
        }
        ids
    }
}

/// Those of a cluster's services, or workloads, that are in the namespaces that a selector matches, without looking at the
/// others.
pub(super) fn taken<'a, V>(
    ids: &'a BTreeMap<ServiceId, V>,
    selector: &'a Selector,
) -> impl Iterator<Item = &'a ServiceId> {
    let ids = ids.range(selector.first_service()..).map(|(id, _)| id);
    ids.take_while(|id| selector.matches_namespace(&id.namespace))
}
