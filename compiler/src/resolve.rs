//! First pass: what users wrote, made into who owns what. One bad object becomes a finding, never a missing neighbour.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::effective;
use crate::finding::{Code, Finding, Origin, Traced};
use crate::intent::{Binding, Cluster, Failover, Intent, Resource, Spec, Subset};
use crate::name::{ClusterName, Fqn, Kind, Label, ServiceId};
use crate::routes::{RoutedGateway, ServiceRule};
use crate::selector::Selector;

mod application;
mod difference;
mod gateway;
mod reference;
mod route;
mod rules;
mod workspace;

pub use difference::{ResolvedChange, difference};

/// Intent without its conflicts: every name in the world has at most one owner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    pub clusters: BTreeMap<ClusterName, Traced<Cluster>>,
    pub workspaces: BTreeMap<Fqn, Traced<ResolvedWorkspace>>,
    /// The route of a service, by owner and service.
    pub routes: BTreeMap<(Fqn, ServiceId), Traced<ResolvedRoute>>,
    /// Gateways by their name: without hosts that somebody else holds, with a refusal for each rule that cannot be had.
    pub gateways: BTreeMap<Fqn, Traced<RoutedGateway>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ResolvedWorkspace {
    /// Without those that somebody else holds.
    pub namespaces: Vec<Selector>,
    pub failover: Vec<Failover>,
    /// Of those traffic groups that have a setting of their own, with their namespaces.
    pub failover_of_groups: Vec<(Vec<Selector>, Vec<Failover>)>,
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
    let mut findings = Vec::new();
    let tree = standing(intent, &mut findings);
    let mut resolved = Resolved {
        clusters: clusters(&tree),
        ..Resolved::default()
    };
    resolved.workspaces = workspace::workspaces(&tree, &resolved.clusters, &mut findings);
    let groups = workspace::groups(&tree, &resolved.workspaces, &mut findings);
    workspace::failover(intent, &groups, &mut resolved.workspaces);
    effective::check(intent, &mut findings);
    resolved.routes = route::routes(&tree, &groups, &mut findings);
    application::check(&tree, &mut findings);
    resolved.gateways = gateway::gateways(&tree, &resolved.workspaces, &mut findings);
    subjects(&tree, &mut findings);
    reference::check(&tree, &mut findings);
    findings.extend(tree.values().flat_map(|resource| not_enforced(resource)));
    findings.sort();
    findings.dedup();
    (resolved, findings)
}

impl Resolved {
    /// The workspace that owns a namespace of a cluster. Of a cluster that does not exist nobody owns anything.
    pub fn owner(&self, cluster: &ClusterName, namespace: &Label) -> Option<&Fqn> {
        if !self.clusters.contains_key(cluster) {
            return None;
        }
        self.workspaces
            .iter()
            .find(|(_, workspace)| workspace.value.owns(cluster, namespace))
            .map(|(name, _)| name)
    }

    /// As if there were no workspaces but those within `node`.
    pub fn only(&self, node: &Fqn) -> Resolved {
        let within = |workspace: &Fqn| workspace.is_within(node);
        Resolved {
            clusters: self.clusters.clone(),
            workspaces: (self.workspaces.iter())
                .filter(|(name, _)| within(name))
                .map(|(name, workspace)| (name.clone(), workspace.clone()))
                .collect(),
            routes: (self.routes.iter())
                .filter(|((workspace, _), _)| within(workspace))
                .map(|(key, route)| (key.clone(), route.clone()))
                .collect(),
            gateways: (self.gateways.iter())
                .filter(|(_, gateway)| within(&gateway.value.workspace))
                .map(|(name, gateway)| (name.clone(), gateway.clone()))
                .collect(),
        }
    }

    /// The services that a workspace has routes for.
    pub(crate) fn routes_of<'a>(&'a self, workspace: &'a Fqn) -> impl Iterator<Item = &'a ServiceId> {
        self.routes
            .keys()
            .filter(move |(owner, _)| owner == workspace)
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
    pub(crate) fn failover_in(&self, cluster: &ClusterName, namespace: &Label) -> &[Failover] {
        let takes = |selectors: &[Selector]| {
            let mut selectors = selectors.iter();
            selectors.any(|selector| selector.matches(cluster, namespace))
        };
        let mut groups = self.failover_of_groups.iter();
        groups
            .find(|(selectors, _)| takes(selectors))
            .map_or(&self.failover, |(_, failover)| failover)
    }

    /// Whether it could own a namespace in that cluster.
    pub fn reaches(&self, cluster: &ClusterName) -> bool {
        self.namespaces
            .iter()
            .any(|selector| selector.matches_cluster(cluster))
    }
}

/// The resources whose ancestors all exist. The others have no effect.
type Tree<'a> = BTreeMap<&'a Fqn, &'a Resource>;

fn standing<'a>(intent: &'a Intent, findings: &mut Vec<Finding>) -> Tree<'a> {
    let mut tree = Tree::new();
    for (name, resource) in intent {
        let missing = name.lineage().skip(1).find(|above| !intent.contains_key(above));
        match missing {
            None => {
                tree.insert(name, resource);
            }
            Some(missing) => findings.push(Finding::error(
                name,
                "",
                Code::ParentMissing,
                format!("{missing} does not exist; create it before, or in the same change as, what stands below it"),
            )),
        }
    }
    tree
}

fn clusters(tree: &Tree<'_>) -> BTreeMap<ClusterName, Traced<Cluster>> {
    tree.iter()
        .filter_map(|(name, resource)| {
            let Spec::Cluster(cluster) = &resource.spec else {
                return None;
            };
            let leaf = name.leaf().parse().ok()?;
            let origin = Origin::new((*name).clone(), "spec");
            Some((leaf, Traced::new(cluster.clone(), origin)))
        })
        .collect()
}

/// Every subject of a binding is a user that exists.
fn subjects(tree: &Tree<'_>, findings: &mut Vec<Finding>) {
    for (name, resource) in tree {
        let Spec::Binding(Binding { subjects, .. }) = &resource.spec else {
            continue;
        };
        let unknown = |subject: &&Fqn| subject.kind() != Kind::User || !tree.contains_key(subject);
        findings.extend(subjects.iter().filter(unknown).map(|subject| {
            Finding::error(
                name,
                "spec.subjects",
                Code::UnknownSubject,
                format!("{subject} is not a user that exists; create the user first, or correct the name"),
            )
        }));
    }
}

fn not_enforced(resource: &Resource) -> impl Iterator<Item = Finding> {
    resource.gaps.iter().map(|gap| {
        let message = format!("accepted, not yet enforced: {}", gap.reason);
        Finding::warning(&resource.name, gap.field.clone(), Code::NotEnforced, message)
    })
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
