//! The keys of the pass, and which of them a change touches.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::inputs::{Inputs, taken};
use crate::name::{ClusterName, Fqn, Label, ServiceId, WorkloadId};
use crate::report::ClusterReport;
use crate::resolve::{Resolved, same_gateway, same_route};
use crate::routes::{RoutedGateway, RoutedGatewayMode, SliceKey};
use crate::selector::Selector;

/// What one step of the pass computes, for all clusters at once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PlanKey {
    Cluster(ClusterName),
    Namespace(ClusterName, Label),
    Gateway(Fqn),
    /// Of a workspace.
    Service(Fqn, ServiceId),
}

impl PlanKey {
    /// The name of its items in the slices.
    pub(super) fn slice_key(&self) -> SliceKey {
        match self {
            PlanKey::Cluster(_) => SliceKey::Cluster,
            PlanKey::Namespace(_, namespace) => SliceKey::Namespace(namespace.clone()),
            PlanKey::Gateway(name) => SliceKey::Gateway(name.clone()),
            PlanKey::Service(workspace, id) => SliceKey::Service(id.clone(), workspace.clone()),
        }
    }
}

/// Every key that has anything to say.
pub(super) fn all(inputs: &Inputs<'_>) -> BTreeSet<PlanKey> {
    let clusters = inputs.resolved.clusters.keys().cloned().map(PlanKey::Cluster);
    let gateways = inputs.resolved.gateways.keys().cloned().map(PlanKey::Gateway);
    let mut keys: BTreeSet<PlanKey> = clusters.chain(gateways).collect();
    for (cluster, report) in inputs.reports() {
        let namespaces = namespaces(report.services.keys().chain(report.gateways.keys())).into_iter();
        keys.extend(namespaces.map(|namespace| PlanKey::Namespace(cluster.clone(), namespace.clone())));
    }
    for (name, workspace) in &inputs.resolved.workspaces {
        keys.extend(named(inputs.resolved, &workspace.value.namespaces));
        keys.extend(services_of(name, inputs));
    }
    keys
}

/// Every key whose result may differ between the two inputs, also those that exist in only one of them.
pub(super) fn dirty(before: &Inputs<'_>, after: &Inputs<'_>) -> BTreeSet<PlanKey> {
    let mut touched = Touched::default();
    touched.clusters(before, after);
    touched.reports(before, after);
    touched.workspaces(before, after);
    touched.routes(before, after);
    touched.gateways(before, after);
    touched.loans(before, after);
    for inputs in [before, after] {
        touched.expand(inputs);
    }
    touched.keys
}

fn namespaces<'a>(ids: impl Iterator<Item = &'a ServiceId>) -> BTreeSet<&'a Label> {
    ids.map(|id| &id.namespace).collect()
}

/// The namespaces that selectors name, in the clusters that they match.
fn named(resolved: &Resolved, selectors: &[Selector]) -> BTreeSet<PlanKey> {
    let mut keys = BTreeSet::new();
    for selector in selectors {
        let Some(namespace) = selector.exact_namespace() else {
            continue;
        };
        let clusters = resolved.clusters.keys();
        let clusters = clusters.filter(|cluster| selector.matches_cluster(cluster));
        keys.extend(clusters.map(|cluster| PlanKey::Namespace(cluster.clone(), namespace.clone())));
    }
    keys
}

/// Services that it offers, and those that it has routes for.
fn services_of(name: &Fqn, inputs: &Inputs<'_>) -> BTreeSet<PlanKey> {
    let services = inputs.services_of(name).into_iter();
    services.map(|id| PlanKey::Service(name.clone(), id)).collect()
}

/// What differs, in the words of the inputs; `expand` turns it into keys.
#[derive(Default)]
struct Touched {
    keys: BTreeSet<PlanKey>,
    /// Whoever owns them.
    services: BTreeSet<ServiceId>,
    workloads: BTreeSet<WorkloadId>,
    /// With all that they have.
    workspaces: BTreeSet<Fqn>,
}

impl Touched {
    fn clusters(&mut self, before: &Inputs<'_>, after: &Inputs<'_>) {
        let flipped: Vec<&ClusterName> = before
            .unknown
            .symmetric_difference(&after.unknown)
            .copied()
            .collect();
        let (was, is) = (&before.resolved.clusters, &after.resolved.clusters);
        let names: BTreeSet<&ClusterName> = was.keys().chain(is.keys()).collect();
        for name in names {
            let (was, is) = (was.get(name), is.get(name));
            let identical = match (was, is) {
                (Some(was), Some(is)) => was.is_identical(is),
                _ => false,
            };
            if !identical {
                self.keys.insert(PlanKey::Cluster(name.clone()));
            }
            let region = was.map(|cluster| &cluster.value.region) == is.map(|cluster| &cluster.value.region);
            if !region || flipped.contains(&name) {
                self.reaching(name, before);
                self.reaching(name, after);
            }
            if was.is_some() != is.is_some() {
                self.named_in(name, before);
                self.named_in(name, after);
            }
        }
    }

    fn reaching(&mut self, cluster: &ClusterName, inputs: &Inputs<'_>) {
        let workspaces = inputs.resolved.workspaces.iter();
        let reaching = workspaces.filter(|(_, workspace)| workspace.value.reaches(cluster));
        self.workspaces.extend(reaching.map(|(name, _)| name.clone()));
    }

    fn named_in(&mut self, cluster: &ClusterName, inputs: &Inputs<'_>) {
        let selectors = inputs
            .resolved
            .workspaces
            .values()
            .flat_map(|workspace| &workspace.value.namespaces)
            .filter(|selector| selector.matches_cluster(cluster))
            .filter_map(Selector::exact_namespace);
        let keys = selectors.map(|namespace| PlanKey::Namespace(cluster.clone(), namespace.clone()));
        self.keys.extend(keys);
    }

    fn reports(&mut self, before: &Inputs<'_>, after: &Inputs<'_>) {
        let nothing = ClusterReport::default();
        let clusters = before
            .resolved
            .clusters
            .keys()
            .chain(after.resolved.clusters.keys());
        for cluster in clusters.collect::<BTreeSet<_>>() {
            let was = before.report(cluster).unwrap_or(&nothing);
            let is = after.report(cluster).unwrap_or(&nothing);
            if std::ptr::eq(was, is) || was == is {
                continue;
            }
            for id in was.services.keys().chain(is.services.keys()) {
                let (was, is) = (was.services.get(id), is.services.get(id));
                if was != is {
                    self.services.insert(id.clone());
                }
                if was.is_some() != is.is_some() {
                    self.keys
                        .insert(PlanKey::Namespace(cluster.clone(), id.namespace.clone()));
                }
            }
            for id in was.gateways.keys().chain(is.gateways.keys()) {
                if was.gateways.contains_key(id) != is.gateways.contains_key(id) {
                    self.workloads.insert(id.clone());
                    self.keys
                        .insert(PlanKey::Namespace(cluster.clone(), id.namespace.clone()));
                }
            }
            // They are the doors to all that the cluster offers.
            if was.gateways != is.gateways {
                let services = was.services.keys().chain(is.services.keys());
                self.services.extend(services.cloned());
            }
        }
    }

    fn workspaces(&mut self, before: &Inputs<'_>, after: &Inputs<'_>) {
        let (was, is) = (&before.resolved.workspaces, &after.resolved.workspaces);
        for differs in was.diff(is, |was, is| Arc::ptr_eq(was, is) || was.is_identical(is)) {
            self.workspaces.insert(differs.key.clone());
            for (workspace, inputs) in [(differs.before, before), (differs.after, after)] {
                let Some(workspace) = workspace else { continue };
                self.keys
                    .extend(named(inputs.resolved, &workspace.value.namespaces));
                for inputs in [before, after] {
                    self.owned(&workspace.value.namespaces, inputs);
                }
            }
        }
    }

    /// All in the namespaces whose owner may have changed, whoever asks for it.
    fn owned(&mut self, selectors: &[Selector], inputs: &Inputs<'_>) {
        for selector in selectors {
            let reports = inputs.reports();
            for (cluster, report) in reports.filter(|(cluster, _)| selector.matches_cluster(cluster)) {
                let services = taken(&report.services, selector);
                let workloads = taken(&report.gateways, selector);
                let namespaces = namespaces(services.chain(workloads)).into_iter();
                self.keys.extend(
                    namespaces.map(|namespace| PlanKey::Namespace(cluster.clone(), namespace.clone())),
                );
                self.services.extend(taken(&report.services, selector).cloned());
                for workload in taken(&report.gateways, selector) {
                    self.workloads.insert(workload.clone());
                    let dedicated = inputs
                        .resolved
                        .gateways_on(workload)
                        .filter(|(_, gateway)| gateway.value.mode == RoutedGatewayMode::EastWest);
                    self.workspaces
                        .extend(dedicated.map(|(_, gateway)| gateway.value.workspace.clone()));
                }
            }
        }
    }

    fn routes(&mut self, before: &Inputs<'_>, after: &Inputs<'_>) {
        let (was, is) = (&before.resolved.routes, &after.resolved.routes);
        for differs in was.diff(is, |was, is| Arc::ptr_eq(was, is) || same_route(was, is)) {
            let (workspace, id) = differs.key.clone();
            let using = after.resolved.gateways_of(&workspace);
            let using = using.filter(|(_, gateway)| sends_to(&gateway.value, &id));
            self.keys
                .extend(using.map(|(name, _)| PlanKey::Gateway(name.clone())));
            self.keys.insert(PlanKey::Service(workspace, id));
        }
    }

    fn gateways(&mut self, before: &Inputs<'_>, after: &Inputs<'_>) {
        let (was, is) = (&before.resolved.gateways, &after.resolved.gateways);
        for differs in was.diff(is, |was, is| Arc::ptr_eq(was, is) || same_gateway(was, is)) {
            self.keys.insert(PlanKey::Gateway(differs.key.clone()));
            let doors = [differs.before, differs.after].into_iter().flatten();
            let doors = doors.map(|gateway| &gateway.value);
            let doors = doors.filter(|gateway| gateway.mode == RoutedGatewayMode::EastWest);
            self.workspaces
                .extend(doors.map(|gateway| gateway.workspace.clone()));
        }
    }

    /// Where gateways may be that were there before and after.
    fn loans(&mut self, before: &Inputs<'_>, after: &Inputs<'_>) {
        let (was, is) = (&before.resolved.loans, &after.resolved.loans);
        for differs in was.diff(is, |was, is| was.value.workload == is.value.workload) {
            for inputs in [before, after] {
                let Some((name, gateway)) = inputs.resolved.gateways.get_key_value(differs.key) else {
                    continue;
                };
                self.keys.insert(PlanKey::Gateway(name.clone()));
                if gateway.value.mode == RoutedGatewayMode::EastWest {
                    self.workspaces.insert(gateway.value.workspace.clone());
                }
            }
        }
    }

    fn expand(&mut self, inputs: &Inputs<'_>) {
        for workspace in &self.workspaces {
            let gateways = inputs.resolved.gateways_of(workspace);
            self.keys
                .extend(gateways.map(|(name, _)| PlanKey::Gateway(name.clone())));
            self.keys.extend(services_of(workspace, inputs));
        }
        for id in &self.services {
            let offering = inputs.reports();
            let offering = offering.filter(|(_, report)| report.services.contains_key(id));
            let owners = offering.filter_map(|(cluster, _)| inputs.owner(cluster, &id.namespace));
            self.keys
                .extend(owners.map(|(owner, _)| PlanKey::Service(owner.clone(), id.clone())));
        }
        let resolved = inputs.resolved;
        let on = self
            .workloads
            .iter()
            .flat_map(|workload| resolved.gateways_on(workload));
        let to = self.services.iter().flat_map(|id| resolved.gateways_to(id));
        self.keys
            .extend(on.chain(to).map(|(name, _)| PlanKey::Gateway(name.clone())));
    }
}

fn sends_to(gateway: &RoutedGateway, id: &ServiceId) -> bool {
    gateway.backends().any(|backend| backend == id)
}
