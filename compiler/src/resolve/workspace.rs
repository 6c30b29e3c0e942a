//! Who owns which namespaces: workspaces claim them, groups take parts of their workspace's.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::cluster::ClusterChange;
use super::resolver::{Part, Resolver, Update};
use super::{Resolved, ResolvedWorkspace, listed, same_workspace};
use crate::effective::{self, DecidedDelivery};
use crate::finding::{Claim, Code, Finding, Traced};
use crate::intent::{Failover, Group, Spec, Workspace};
use crate::name::{Fqn, Kind};
use crate::selector::Selector;

/// Of two workspaces whose selectors intersect, the one whose name sorts first keeps its selector: a rule that needs
/// no memory of who came first, which management has by refusing the second write.
///
/// So what a workspace holds depends on those before it only, and a change moves on towards the last name.
pub(super) fn update(update: &mut Update<'_>, clusters: &ClusterChange) {
    let mut dirty = dirty(update, clusters);
    while let Some(name) = dirty.pop_first() {
        update.recomputed += 1;
        let was = update.to.resolved.workspaces.get(&name);
        let held_before: BTreeSet<Selector> = was.map_or_else(BTreeSet::new, |was| {
            was.value.namespaces.iter().cloned().collect()
        });
        let mut findings = Vec::new();
        let is = match update.to.tree.spec(&name) {
            Some(Spec::Workspace(workspace)) => {
                let namespaces = claim(&name, workspace, &update.to.resolved, &mut findings);
                Some(ResolvedWorkspace {
                    failover: effective::failover(update.to.intent(), &name),
                    failover_of_groups: failover_of_groups(update.to, &name, &namespaces),
                    delivery: effective::delivery(update.to.intent(), &name),
                    delivery_of_groups: delivery_of_groups(update.to, &name, &namespaces),
                    namespaces,
                })
            }
            _ => None,
        };
        let held: BTreeSet<Selector> = is.iter().flat_map(|is| is.namespaces.iter().cloned()).collect();
        let moved: BTreeSet<Selector> = held_before.symmetric_difference(&held).cloned().collect();
        for selector in &moved {
            if held.contains(selector) {
                update.to.resolved.held.insert(selector, &name);
            } else {
                update.to.resolved.held.remove(selector, &name);
            }
            let others = update.to.wanted.namespaces.intersecting(selector);
            dirty.extend(others.filter(|other| **other > name).cloned());
        }
        if !moved.is_empty() {
            update.moved.insert(name.clone(), moved);
        }
        update.tell(Part::Claims, &name, findings);
        store(update, &name, is);
    }
    for winner in update.take_contested(&[Kind::Workspace]) {
        if let Some(held) = update.to.resolved.workspaces.get(&winner) {
            let held = held.value.clone();
            store(update, &winner, Some(held));
        }
    }
}

/// Workspaces that were written, and those to which other clusters or settings matter.
fn dirty(update: &mut Update<'_>, clusters: &ClusterChange) -> BTreeSet<Fqn> {
    let mut dirty = BTreeSet::new();
    let wanted = &mut update.to.wanted.namespaces;
    for touch in update.touched.of(Kind::Workspace) {
        for selector in selectors(touch.was()) {
            wanted.remove(selector, &touch.name);
        }
        for selector in selectors(touch.is()) {
            wanted.insert(selector, &touch.name);
        }
        dirty.insert(touch.name.clone());
    }
    if !clusters.flipped.is_empty() {
        let known = &update.to.resolved.clusters;
        // One that is not known is told which ones are.
        let concerns = |cluster: &str| clusters.flipped.contains(cluster) || !known.contains_key(cluster);
        let names_one = |name: &Fqn| {
            let named = selectors(update.to.tree.spec(name))
                .iter()
                .filter_map(Selector::exact_cluster);
            named.into_iter().any(concerns)
        };
        let workspaces = update.to.resolved.workspaces.keys();
        dirty.extend(workspaces.filter(|name| names_one(name)).cloned());
    }
    // Settings say where traffic of a workspace goes, and a group with a setting where that of some namespaces does.
    let settings = update
        .touched
        .of(Kind::TrafficSetting)
        .filter_map(|touch| touch.name.parent());
    let organizations = update
        .touched
        .of(Kind::Organization)
        .map(|touch| touch.name.clone());
    let groups = update
        .touched
        .of(Kind::TrafficGroup)
        .map(|touch| touch.name.clone());
    for node in settings.chain(organizations).chain(groups) {
        match node.ancestor(Kind::Workspace) {
            Some(workspace) => drop(dirty.insert(workspace)),
            None => {
                let below = update.to.resolved.workspaces.starting_with(&format!("{node}/"));
                dirty.extend(below.map(|(name, _)| name.clone()));
            }
        }
    }
    dirty
}

fn store(update: &mut Update<'_>, name: &Fqn, workspace: Option<ResolvedWorkspace>) {
    let Some(workspace) = workspace else {
        update.to.resolved.workspaces.remove(name);
        return;
    };
    let resolved = Traced::new(workspace, update.origin(name, "spec.namespaces"));
    let same = update
        .to
        .resolved
        .workspaces
        .get(name)
        .is_some_and(|was| same_workspace(was, &resolved));
    if !same {
        update
            .to
            .resolved
            .workspaces
            .insert(name.clone(), Arc::new(resolved));
    }
}

fn selectors(spec: Option<&Spec>) -> &[Selector] {
    match spec {
        Some(Spec::Workspace(workspace)) => &workspace.namespaces,
        _ => &[],
    }
}

/// The selectors that the workspace holds, given what those before it hold; the others become findings.
fn claim(
    name: &Fqn,
    workspace: &Workspace,
    resolved: &Resolved,
    findings: &mut Vec<Finding>,
) -> Vec<Selector> {
    let mut held = Vec::new();
    for (at, selector) in workspace.namespaces.iter().enumerate() {
        let field = format!("spec.namespaces[{at}]");
        let unknown = selector
            .exact_cluster()
            .filter(|cluster| !resolved.clusters.contains_key(*cluster));
        if let Some(cluster) = unknown {
            // Which ones exist is not every writer's to know.
            let message = format!("cluster {cluster} does not exist; use one that does, or create it first");
            findings.push(Finding::error(name, field, Code::UnknownCluster, message));
            continue;
        }
        let before = resolved.held.intersecting(selector).filter(|owner| *owner < name);
        match before.min() {
            None => held.push(selector.clone()),
            Some(owner) => {
                let claim = Claim {
                    what: format!("namespace selector {selector}"),
                    holder: owner.clone(),
                };
                findings.push(Finding::taken(name, field, Code::NamespaceTaken, claim));
            }
        }
    }
    held
}

fn failover_of_groups(
    resolver: &Resolver,
    workspace: &Fqn,
    owned: &[Selector],
) -> Vec<(Vec<Selector>, Traced<Vec<Failover>>)> {
    let groups = resolver.tree.children(workspace, Kind::TrafficGroup);
    let setting = groups.filter(|group| effective::sets_failover(resolver.intent(), group));
    setting
        .filter_map(|name| {
            let Some(Spec::TrafficGroup(group)) = resolver.tree.spec(name) else {
                return None;
            };
            // What is wrong with the group is told of the group.
            let namespaces = taken(name, group, workspace, owned, &mut Vec::new());
            Some((namespaces, effective::failover(resolver.intent(), name)))
        })
        .collect()
}

fn delivery_of_groups(
    resolver: &Resolver,
    workspace: &Fqn,
    owned: &[Selector],
) -> Vec<(Vec<Selector>, DecidedDelivery)> {
    let groups = || resolver.tree.children(workspace, Kind::TrafficGroup);
    if !groups().any(|group| effective::sets_traffic(resolver.intent(), group)) {
        return Vec::new();
    }
    groups()
        .filter_map(|name| {
            let Some(Spec::TrafficGroup(group)) = resolver.tree.spec(name) else {
                return None;
            };
            // What is wrong with the group is told of the group.
            let namespaces = taken(name, group, workspace, owned, &mut Vec::new());
            Some((namespaces, effective::delivery(resolver.intent(), name)))
        })
        .collect()
}

/// Groups whose namespaces may be others than before: a selector outside the workspace's has no effect, and a group that is
/// left with none has no namespace.
pub(super) fn update_groups(update: &mut Update<'_>) -> BTreeSet<Fqn> {
    let kinds = [Kind::TrafficGroup, Kind::GatewayGroup, Kind::SecurityGroup];
    let mut dirty = BTreeSet::new();
    for kind in kinds {
        dirty.extend(update.touched.of(kind).map(|touch| touch.name.clone()));
        for workspace in update.moved.keys() {
            dirty.extend(update.to.tree.children(workspace, kind).cloned());
        }
    }
    for name in &dirty {
        update.recomputed += 1;
        let mut findings = Vec::new();
        namespaces(update.to, name, &mut findings);
        update.tell(Part::Claims, name, findings);
    }
    dirty
}

/// The namespaces of a group: its own, or all of its workspace's.
pub(super) fn namespaces(resolver: &Resolver, group: &Fqn, findings: &mut Vec<Finding>) -> Vec<Selector> {
    let Some(Spec::TrafficGroup(spec) | Spec::GatewayGroup(spec) | Spec::SecurityGroup(spec)) =
        resolver.tree.spec(group)
    else {
        return Vec::new();
    };
    let workspace = group.ancestor(Kind::Workspace);
    let workspace = workspace.and_then(|workspace| resolver.resolved.workspaces.get_key_value(&workspace));
    let Some((workspace, resolved)) = workspace else {
        return Vec::new();
    };
    taken(group, spec, workspace, &resolved.value.namespaces, findings)
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
