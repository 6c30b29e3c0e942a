//! What is wrong with settings, and with what nodes say themselves: looked at where the settings above or beside have
//! changed.

use std::collections::BTreeSet;

use super::cluster::ClusterChange;
use super::resolver::{Part, Update};
use crate::effective;
use crate::finding::{Code, Finding};
use crate::intent::{Failover, Spec};
use crate::name::{Fqn, Kind, Label};

/// Nodes that say something themselves, and settings.
const KINDS: [Kind; 5] = [
    Kind::Organization,
    Kind::Workspace,
    Kind::TrafficSetting,
    Kind::SecuritySetting,
    Kind::ServiceSecuritySetting,
];

pub(super) fn update(update: &mut Update<'_>, clusters: &ClusterChange) {
    for touch in KINDS.into_iter().flat_map(|kind| update.touched.of(kind)) {
        if touch.is().is_some() {
            update.to.wanted.settings.insert(touch.name.clone(), ());
        } else {
            update.to.wanted.settings.remove(&touch.name);
        }
    }
    for name in dirty(update, clusters) {
        update.recomputed += 1;
        let mut findings = Vec::new();
        if let Some(spec) = update.to.tree.spec(&name) {
            effective::check(update.to.intent(), &name, spec, &mut findings);
            for (half, failover) in failovers(spec) {
                check_regions(&name, half, failover, &clusters.regions, &mut findings);
            }
        }
        update.tell(Part::Settings, &name, findings);
    }
}

/// A setting bears on all below its node, and, where it is that of a group, on the groups beside.
fn dirty(update: &Update<'_>, clusters: &ClusterChange) -> BTreeSet<Fqn> {
    let resolver = &*update.to;
    let mut dirty = BTreeSet::new();
    let mut nodes = BTreeSet::new();
    let groups = [Kind::TrafficGroup, Kind::SecurityGroup];
    for touch in KINDS
        .into_iter()
        .chain(groups)
        .flat_map(|kind| update.touched.of(kind))
    {
        dirty.insert(touch.name.clone());
        let node = match touch.name.kind() {
            Kind::TrafficSetting | Kind::SecuritySetting | Kind::ServiceSecuritySetting => {
                touch.name.parent()
            }
            _ => Some(touch.name.clone()),
        };
        nodes.extend(node);
    }
    for node in nodes {
        let below = resolver.wanted.settings.starting_with(&format!("{node}/"));
        dirty.extend(below.map(|(name, _)| name.clone()));
        let beside = node.parent().filter(|_| groups.contains(&node.kind()));
        dirty.extend(
            beside
                .iter()
                .flat_map(|workspace| resolver.tree.children(workspace, node.kind()))
                .cloned(),
        );
        dirty.insert(node);
    }
    if clusters.regions_changed {
        let settings = resolver.wanted.settings.keys();
        let concerned = settings.filter(|name| {
            let spec = resolver.tree.spec(name);
            spec.is_some_and(|spec| failovers(spec).iter().any(|(_, failover)| !failover.is_empty()))
        });
        dirty.extend(concerned.cloned());
    }
    dirty
}

/// Each where it stands.
fn failovers(spec: &Spec) -> Vec<(&'static str, &[Failover])> {
    match spec {
        Spec::Organization(organization) => vec![("spec", &organization.failover)],
        Spec::Workspace(workspace) => vec![("spec", &workspace.failover)],
        Spec::TrafficSetting(setting) => {
            let halves = [
                ("spec.defaults", &setting.defaults),
                ("spec.mandates", &setting.mandates),
            ];
            let failovers =
                halves.map(|(half, traffic)| (half, traffic.failover.as_deref().unwrap_or_default()));
            failovers.to_vec()
        }
        _ => Vec::new(),
    }
}

fn check_regions(
    name: &Fqn,
    half: &str,
    failover: &[Failover],
    regions: &BTreeSet<Label>,
    findings: &mut Vec<Finding>,
) {
    for (at, entry) in failover.iter().enumerate() {
        let from = std::iter::once((format!("{half}.failover[{at}].from"), &entry.from));
        let to = entry
            .to
            .iter()
            .enumerate()
            .map(|(to, region)| (format!("{half}.failover[{at}].to[{to}]"), region));
        for (field, region) in from.chain(to).filter(|(_, region)| !regions.contains(*region)) {
            // Which regions there are is not every writer's to know.
            let message =
                format!("no cluster is in region {region}; correct the name, or create the cluster");
            findings.push(Finding::warning(name, field, Code::UnknownRegion, message));
        }
    }
}
