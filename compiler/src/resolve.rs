//! First pass: what users wrote, made into who owns what. One bad object becomes a finding, never a missing neighbour.
//!
//! The pass is a function of a key (a workspace, a group, a service, a gateway); `Resolver` computes those that a change
//! touches, and `resolve` is that for a change of everything.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Serialize;

use crate::claims::{Index, SelectorIndex};
use crate::effective::DecidedDelivery;
use crate::finding::{Finding, Traced};
use crate::intent::{Cluster, Failover, Intent, Subset};
use crate::name::{ClusterName, Fqn, Label, ServiceId, WorkloadId};
use crate::persistent::Map;
use crate::routes::{Delivery, RoutedGateway, ServiceRule, identical};
use crate::selector::Selector;

mod application;
mod cluster;
mod difference;
mod external;
mod gateway;
mod grant;
mod identity;
mod reference;
mod resolver;
mod route;
mod rules;
mod setting;
mod token;
mod tree;
mod workspace;

pub use difference::{ResolvedChange, difference};
pub use grant::Loans;
pub use resolver::{Changed, Edit, Resolver};

/// Intent without its conflicts: every name in the world has at most one owner. A copy costs nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    pub clusters: Map<ClusterName, Arc<Traced<Cluster>>>,
    pub workspaces: Map<Fqn, Arc<Traced<ResolvedWorkspace>>>,
    /// The route of a service, by owner and service.
    pub routes: Map<(Fqn, ServiceId), Arc<Traced<ResolvedRoute>>>,
    /// Gateways by their name: without hosts that somebody else holds, with a refusal for each rule that cannot be had.
    pub gateways: Map<Fqn, Arc<Traced<RoutedGateway>>>,
    /// Of gateways and APIs that use what others own.
    pub loans: Map<Fqn, Arc<Traced<Loans>>>,
    /// The selectors that workspaces hold.
    held: SelectorIndex,
    /// The gateways of a workspace; that of an API stands elsewhere.
    gateways_by_workspace: Index<Fqn>,
    gateways_by_workload: Index<WorkloadId>,
    gateways_by_backend: Index<ServiceId>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ResolvedWorkspace {
    /// Without those that somebody else holds.
    pub namespaces: Vec<Selector>,
    pub failover: Traced<Vec<Failover>>,
    /// Of those traffic groups that have a setting of their own, with their namespaces.
    pub failover_of_groups: Vec<(Vec<Selector>, Traced<Vec<Failover>>)>,
    #[serde(skip_serializing_if = "DecidedDelivery::is_empty")]
    pub(crate) delivery: DecidedDelivery,
    /// Of all traffic groups, where one of them has a setting of its own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) delivery_of_groups: Vec<(Vec<Selector>, DecidedDelivery)>,
}

/// A service route whose rules are in the order in which they are tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ResolvedRoute {
    /// The first of each name.
    pub subsets: Vec<Subset>,
    /// Each has at most one match; a rule that cannot be had refuses. The last one matches everything, when the user
    /// wrote such a rule.
    pub rules: Vec<Traced<ServiceRule>>,
}

/// Conflicts are findings: errors are what a write is refused for, warnings are shown.
pub fn resolve(intent: &Intent) -> (Resolved, Vec<Finding>) {
    let mut resolver = Resolver::default();
    resolver.update(intent.values().cloned().map(Edit::Put));
    (
        resolver.resolved().clone(),
        resolver.findings().cloned().collect(),
    )
}

impl Resolved {
    /// The workspace that owns a namespace of a cluster. Of a cluster that does not exist nobody owns anything.
    pub fn owner(&self, cluster: &ClusterName, namespace: &Label) -> Option<&Fqn> {
        if !self.clusters.contains_key(cluster) {
            return None;
        }
        self.held.matching(cluster, namespace).next()
    }

    /// The grant under which a gateway or an API uses a workload that somebody else owns in that cluster.
    pub(crate) fn grant_of_workload(&self, borrower: &Fqn, owner: &Fqn) -> Option<&Fqn> {
        self.loans.get(borrower)?.value.workload.get(owner)
    }

    /// The workspaces that own namespaces of that name in some cluster, in the order of their names.
    pub(crate) fn owners_somewhere(&self, namespace: &Label) -> BTreeSet<&Fqn> {
        self.held.matching_somewhere(namespace).collect()
    }

    pub(crate) fn gateways_of(
        &self,
        workspace: &Fqn,
    ) -> impl Iterator<Item = (&Fqn, &Traced<RoutedGateway>)> {
        self.gateways_at(self.gateways_by_workspace.of(workspace))
    }

    pub(crate) fn gateways_on(
        &self,
        workload: &WorkloadId,
    ) -> impl Iterator<Item = (&Fqn, &Traced<RoutedGateway>)> {
        self.gateways_at(self.gateways_by_workload.of(workload))
    }

    /// The gateways that send to a service of that name, whoever owns it.
    pub(crate) fn gateways_to(&self, id: &ServiceId) -> impl Iterator<Item = (&Fqn, &Traced<RoutedGateway>)> {
        self.gateways_at(self.gateways_by_backend.of(id))
    }

    fn gateways_at<'a>(
        &'a self,
        names: impl Iterator<Item = &'a Fqn>,
    ) -> impl Iterator<Item = (&'a Fqn, &'a Traced<RoutedGateway>)> {
        names.filter_map(|name| Some((name, &**self.gateways.get(name)?)))
    }

    fn insert_gateway(&mut self, name: &Fqn, gateway: Traced<RoutedGateway>) {
        self.remove_gateway(name);
        let is = &gateway.value;
        self.gateways_by_workspace.insert(&is.workspace, name);
        self.gateways_by_workload.insert(&is.workload, name);
        for id in is.backends() {
            self.gateways_by_backend.insert(id, name);
        }
        self.gateways.insert(name.clone(), Arc::new(gateway));
    }

    fn remove_gateway(&mut self, name: &Fqn) {
        let Some(was) = self.gateways.remove(name) else {
            return;
        };
        self.gateways_by_workspace.remove(&was.value.workspace, name);
        self.gateways_by_workload.remove(&was.value.workload, name);
        for id in was.value.backends() {
            self.gateways_by_backend.remove(id, name);
        }
    }

    /// As if there were no workspaces but those within `node`.
    pub fn only(&self, node: &Fqn) -> Resolved {
        let mut only = Resolved {
            clusters: self.clusters.clone(),
            ..Resolved::default()
        };
        for (name, workspace) in self.workspaces.iter().filter(|(name, _)| name.is_within(node)) {
            for selector in &workspace.value.namespaces {
                only.held.insert(selector, name);
            }
            only.workspaces.insert(name.clone(), workspace.clone());
        }
        for (key, route) in self.routes.iter().filter(|((owner, _), _)| owner.is_within(node)) {
            only.routes.insert(key.clone(), route.clone());
        }
        for (name, gateway) in &self.gateways {
            if gateway.value.workspace.is_within(node) {
                only.insert_gateway(name, (**gateway).clone());
                let loans = self.loans.get(name).cloned();
                only.loans.extend(loans.map(|loans| (name.clone(), loans)));
            }
        }
        only
    }

    /// The services that a workspace has routes for.
    pub(crate) fn routes_of<'a>(&'a self, workspace: &'a Fqn) -> impl Iterator<Item = &'a ServiceId> {
        self.routes
            .from_first(|(owner, _): &(Fqn, ServiceId)| owner < workspace)
            .map(|(key, _)| key)
            .take_while(move |(owner, _)| owner == workspace)
            .map(|(_, id)| id)
    }

    /// The known clusters in which a workspace owns, or could own, a namespace.
    pub fn clusters_of<'a>(&'a self, workspace: &'a Fqn) -> impl Iterator<Item = &'a ClusterName> {
        let workspace = self.workspaces.get(workspace);
        self.clusters
            .keys()
            .filter(move |cluster| workspace.is_some_and(|workspace| workspace.value.reaches(cluster)))
    }
}

impl ResolvedWorkspace {
    pub fn owns(&self, cluster: &ClusterName, namespace: &Label) -> bool {
        self.namespaces
            .iter()
            .any(|selector| selector.matches(cluster, namespace))
    }

    /// Whether it owns namespaces of that name somewhere.
    pub fn owns_somewhere(&self, namespace: &Label) -> bool {
        self.namespaces
            .iter()
            .any(|selector| selector.matches_namespace(namespace))
    }

    /// Where traffic for a service of that namespace goes, as seen from a cluster: the nearest setting decides.
    pub(crate) fn failover_in(&self, cluster: &ClusterName, namespace: &Label) -> &Traced<Vec<Failover>> {
        let takes = |selectors: &[Selector]| {
            let mut selectors = selectors.iter();
            selectors.any(|selector| selector.matches(cluster, namespace))
        };
        let mut groups = self.failover_of_groups.iter();
        groups
            .find(|(selectors, _)| takes(selectors))
            .map_or(&self.failover, |(_, failover)| failover)
    }

    /// How requests come to a service of that namespace: as strict as each group that takes it somewhere would have it.
    pub(crate) fn delivery_in(&self, namespace: &Label) -> Delivery {
        let takes = |selectors: &[Selector]| {
            let mut selectors = selectors.iter();
            selectors.any(|selector| selector.matches_namespace(namespace))
        };
        let groups = self.delivery_of_groups.iter();
        let decided = groups.filter(|(selectors, _)| takes(selectors));
        let all: Vec<&DecidedDelivery> = decided.map(|(_, decided)| decided).collect();
        match all.as_slice() {
            [] => self.delivery.delivery.clone(),
            all => DecidedDelivery::strictest(all),
        }
    }

    /// Whether it could own a namespace in that cluster.
    pub fn reaches(&self, cluster: &ClusterName) -> bool {
        self.namespaces
            .iter()
            .any(|selector| selector.matches_cluster(cluster))
    }
}

/// Equal with all origins.
pub(crate) fn same_workspace(was: &Traced<ResolvedWorkspace>, is: &Traced<ResolvedWorkspace>) -> bool {
    let (was_of_groups, is_of_groups) = (&was.value.failover_of_groups, &is.value.failover_of_groups);
    let mut of_groups = was_of_groups.iter().zip(is_of_groups);
    was.is_identical(is)
        && was.value.failover.is_identical(&is.value.failover)
        && of_groups.all(|((_, was), (_, is))| was.is_identical(is))
}

/// Equal with all origins: rules that swap places keep their value and change their field.
pub(crate) fn same_route(was: &Traced<ResolvedRoute>, is: &Traced<ResolvedRoute>) -> bool {
    was.is_identical(is) && identical(&was.value.rules, &is.value.rules)
}

/// Equal with all origins.
pub(crate) fn same_gateway(was: &Traced<RoutedGateway>, is: &Traced<RoutedGateway>) -> bool {
    was.is_identical(is) && identical(was.value.rules(), is.value.rules())
}

/// `a, b and c`, for messages.
pub(crate) fn listed<T: ToString>(names: impl IntoIterator<Item = T>) -> String {
    let names: BTreeSet<String> = names.into_iter().map(|name| name.to_string()).collect();
    let names: Vec<String> = names.into_iter().collect();
    match names.as_slice() {
        [] => "none".to_owned(),
        [only] => only.clone(),
        [many @ .., last] => format!("{} and {last}", many.join(", ")),
    }
}
