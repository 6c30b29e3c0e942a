//! Who owns which namespaces: workspaces claim them, groups take parts of their workspace's.

use std::collections::{BTreeMap, BTreeSet};

use super::{ResolvedWorkspace, Tree, listed};
use crate::effective;
use crate::finding::{Claim, Code, Finding, Origin, Traced};
use crate::intent::{Cluster, Failover, Group, Intent, Spec, Workspace};
use crate::name::{ClusterName, Fqn, Kind, Label};
use crate::selector::Selector;

type Clusters = BTreeMap<ClusterName, Traced<Cluster>>;
type Workspaces = BTreeMap<Fqn, Traced<ResolvedWorkspace>>;

/// The namespaces of each group: its own, or all of its workspace's.
pub(super) type Groups<'a> = BTreeMap<&'a Fqn, Vec<Selector>>;

/// Of two workspaces whose selectors intersect, the one whose name sorts first keeps its selector: a rule that needs
/// no memory of who came first, which management has by refusing the second write.
pub(super) fn workspaces(tree: &Tree<'_>, clusters: &Clusters, findings: &mut Vec<Finding>) -> Workspaces {
    let regions: BTreeSet<&Label> = clusters.values().map(|cluster| &cluster.value.region).collect();
    let mut claims: Vec<(Selector, Fqn)> = Vec::new();
    let mut workspaces = Workspaces::new();
    for (name, resource) in tree {
        match &resource.spec {
            Spec::Organization(organization) => {
                check_regions(name, "spec", &organization.failover, &regions, findings);
            }
            Spec::TrafficSetting(setting) => {
                let halves = [
                    ("spec.defaults", &setting.defaults),
                    ("spec.mandates", &setting.mandates),
                ];
                for (half, traffic) in halves {
                    let failover = traffic.failover.as_deref().unwrap_or_default();
                    check_regions(name, half, failover, &regions, findings);
                }
            }
            Spec::Workspace(workspace) => {
                check_regions(name, "spec", &workspace.failover, &regions, findings);
                let namespaces = claim(name, workspace, clusters, &mut claims, &mut workspaces, findings);
                let resolved = ResolvedWorkspace {
                    namespaces,
                    failover: Vec::new(),
                    failover_of_groups: Vec::new(),
                };
                let origin = Origin::new((*name).clone(), "spec.namespaces");
                workspaces.insert((*name).clone(), Traced::new(resolved, origin));
            }
            _ => {}
        }
    }
    workspaces
}

/// The selectors that the workspace holds; the others become findings.
fn claim(
    name: &Fqn,
    workspace: &Workspace,
    clusters: &Clusters,
    claims: &mut Vec<(Selector, Fqn)>,
    winners: &mut Workspaces,
    findings: &mut Vec<Finding>,
) -> Vec<Selector> {
    let mut held = Vec::new();
    for (at, selector) in workspace.namespaces.iter().enumerate() {
        let field = format!("spec.namespaces[{at}]");
        let unknown = selector
            .exact_cluster()
            .filter(|cluster| !clusters.contains_key(*cluster));
        if let Some(cluster) = unknown {
            // Which ones exist is not every writer's to know.
            let message = format!("cluster {cluster} does not exist; use one that does, or create it first");
            findings.push(Finding::error(name, field, Code::UnknownCluster, message));
            continue;
        }
        let taken = claims
            .iter()
            .find(|(held, owner)| owner != name && held.intersects(selector));
        if let Some((_, owner)) = taken {
            let claim = Claim {
                what: format!("namespace selector {selector}"),
                holder: owner.clone(),
            };
            findings.push(Finding::taken(name, field, Code::NamespaceTaken, claim));
            if let Some(winner) = winners.get_mut(owner) {
                winner.won_over(name);
            }
            continue;
        }
        claims.push((selector.clone(), name.clone()));
        held.push(selector.clone());
    }
    held
}

/// Where traffic goes when neither its cluster nor its region can serve it, as settings say.
pub(super) fn failover(intent: &Intent, groups: &Groups<'_>, workspaces: &mut Workspaces) {
    for (name, workspace) in workspaces.iter_mut() {
        workspace.value.failover = effective::failover(intent, name);
    }
    for (group, namespaces) in groups {
        let workspace = group
            .parent()
            .and_then(|workspace| workspaces.get_mut(&workspace));
        if let Some(workspace) = workspace.filter(|_| effective::sets_failover(intent, group)) {
            let failover = effective::failover(intent, group);
            workspace
                .value
                .failover_of_groups
                .push((namespaces.clone(), failover));
        }
    }
}

fn check_regions(
    name: &Fqn,
    half: &str,
    failover: &[Failover],
    regions: &BTreeSet<&Label>,
    findings: &mut Vec<Finding>,
) {
    for (at, entry) in failover.iter().enumerate() {
        let from = std::iter::once((format!("{half}.failover[{at}].from"), &entry.from));
        let to = entry
            .to
            .iter()
            .enumerate()
            .map(|(to, region)| (format!("{half}.failover[{at}].to[{to}]"), region));
        for (field, region) in from.chain(to).filter(|(_, region)| !regions.contains(region)) {
            let message =
                format!("no cluster is in region {region}; correct the name, or create the cluster");
            findings.push(Finding::warning(name, field, Code::UnknownRegion, message));
        }
    }
}

/// A selector outside the workspace's has no effect; a group that is left with none has no namespace.
pub(super) fn groups<'a>(
    tree: &Tree<'a>,
    workspaces: &Workspaces,
    findings: &mut Vec<Finding>,
) -> Groups<'a> {
    let mut groups = Groups::new();
    for (name, resource) in tree {
        let (Spec::TrafficGroup(group) | Spec::GatewayGroup(group) | Spec::SecurityGroup(group)) =
            &resource.spec
        else {
            continue;
        };
        let workspace = name.ancestor(Kind::Workspace);
        let Some((workspace, resolved)) =
            workspace.and_then(|workspace| workspaces.get_key_value(&workspace))
        else {
            continue;
        };
        groups.insert(
            name,
            taken(name, group, workspace, &resolved.value.namespaces, findings),
        );
    }
    groups
}

fn taken(
    name: &Fqn,
    group: &Group,
    workspace: &Fqn,
    owned: &[Selector],
    findings: &mut Vec<Finding>,
) -> Vec<Selector> {
    if group.namespaces.is_empty() {
        return owned.to_vec();
    }
    let mut covered = Vec::new();
    for (at, selector) in group.namespaces.iter().enumerate() {
        if owned.iter().any(|owned| owned.covers(selector)) {
            covered.push(selector.clone());
        } else {
            let message = format!(
                "namespace selector {selector} is not within the namespaces of {workspace}: {}; a group takes a part of its workspace's namespaces",
                listed(owned)
            );
            let field = format!("spec.namespaces[{at}]");
            findings.push(Finding::error(name, field, Code::NamespaceNotOwned, message));
        }
    }
    covered
}
