//! What is wrong with settings. Nothing here changes what counts: of two that contradict each other the stricter does.

use super::decide::{Layer, Path, Relaxation};
use super::{EffectiveSecurity, EffectiveTraffic, paths};
use crate::finding::{Code, Finding};
use crate::intent::{Group, Intent, Spec};
use crate::name::{Fqn, Kind, ServiceId};
use crate::selector::Selector;
use crate::setting::{Security, Traffic};

/// What is wrong with one resource, as far as settings go. Depends on its lineage with the settings there, and on what
/// stands beside it.
pub(crate) fn check(intent: &Intent, name: &Fqn, spec: &Spec, findings: &mut Vec<Finding>) {
    match spec {
        Spec::Organization(_) | Spec::Workspace(_) => {
            let path = paths::of_node::<Traffic>(intent, name);
            let itself = path.iter().position(|layer| layer.resource == *name);
            if let Some(at) = itself {
                findings.extend(relaxed(EffectiveTraffic::relaxations(&path[..=at])));
                findings.extend(path.get(at + 1).and_then(|setting| shadowed(name, setting)));
            }
        }
        Spec::TrafficGroup(group) | Spec::SecurityGroup(group) => {
            if let Some(workspace) = name.parent().filter(|_| paths::is_set(intent, name)) {
                let others = paths::children(intent, &workspace, name.kind());
                let before = others.filter(|other| *other < name && paths::is_set(intent, other));
                findings.extend(
                    before.filter_map(|other| overlapping((name, group), (other, group_of(intent, other)?))),
                );
            }
        }
        Spec::TrafficSetting(_) => {
            let path = attached::<Traffic>(intent, name);
            findings.extend(relaxed(EffectiveTraffic::relaxations(&path)));
        }
        Spec::SecuritySetting(_) => {
            let path = attached::<Security>(intent, name);
            findings.extend(relaxed(EffectiveSecurity::relaxations(&path)));
        }
        Spec::ServiceSecuritySetting(setting) => {
            let Some(group) = name.parent() else { return };
            let mut path = paths::of_node::<Security>(intent, &group);
            path.push(paths::service_layer(name, &setting.settings));
            findings.extend(relaxed(EffectiveSecurity::relaxations(&path)));
            findings.extend(not_in_group(intent, name, &group, &setting.service));
            let mut others = paths::children(intent, &group, Kind::ServiceSecuritySetting);
            let is_for_it = |other: &&Fqn| match intent.get(*other).map(|other| &other.spec) {
                Some(Spec::ServiceSecuritySetting(other)) => other.service == setting.service,
                _ => false,
            };
            let first = others.find(is_for_it).filter(|first| *first != name);
            findings.extend(first.map(|first| twice(name, &setting.service, first)));
        }
        _ => {}
    }
}

fn group_of<'a>(intent: &'a Intent, name: &Fqn) -> Option<&'a Group> {
    match &intent.get(name)?.spec {
        Spec::TrafficGroup(group) | Spec::SecurityGroup(group) => Some(group),
        _ => None,
    }
}

/// The path that ends in a setting.
fn attached<'a, S: paths::Concern>(intent: &'a Intent, setting: &Fqn) -> Path<'a, S> {
    setting
        .parent()
        .map(|node| paths::of_node(intent, &node))
        .unwrap_or_default()
}

/// Warnings, for an ancestor must be able to mandate something although somebody below says less. Who writes the
/// setting itself is refused ([`Code::refuses_its_writer`]).
fn relaxed(relaxations: Vec<Relaxation>) -> impl Iterator<Item = Finding> {
    relaxations.into_iter().map(|Relaxation { below, mandate }| {
        let message = format!(
            "{} asks for less than {} mandates in {}; ask for as much, or leave the field out",
            below.field, mandate.resource, mandate.field
        );
        Finding::warning(&below.resource, below.field, Code::MandateRelaxed, message)
    })
}

/// The node says in its own field what its setting says as well.
fn shadowed(node: &Fqn, setting: &Layer<'_, Traffic>) -> Option<Finding> {
    setting.defaults.failover.as_ref()?;
    let message = format!(
        "the failover of {} counts, and this one does not; remove it",
        setting.resource
    );
    Some(Finding::warning(
        node,
        "spec.failover",
        Code::SettingIgnored,
        message,
    ))
}

fn not_in_group(intent: &Intent, name: &Fqn, group: &Fqn, service: &ServiceId) -> Option<Finding> {
    if paths::takes(intent, group, &service.namespace) {
        return None;
    }
    let message = format!(
        "namespace {} is not one of {group}; set something for a service of its namespaces",
        service.namespace
    );
    Some(Finding::error(
        name,
        "spec.service",
        Code::NamespaceNotOwned,
        message,
    ))
}

fn twice(name: &Fqn, service: &ServiceId, first: &Fqn) -> Finding {
    let message = format!(
        "{first} is for service {service} of this group already; until one of them goes, the stricter of both counts"
    );
    Finding::error(name, "spec.service", Code::ServiceTaken, message)
}

fn overlapping((name, group): (&Fqn, &Group), (other, theirs): (&Fqn, &Group)) -> Option<Finding> {
    let is_shared = |selector: &Selector| {
        let mut theirs = theirs.namespaces.iter();
        theirs.any(|their| their.intersects(selector))
    };
    let all = group.namespaces.is_empty() || theirs.namespaces.is_empty();
    if !all && !group.namespaces.iter().any(is_shared) {
        return None;
    }
    let message = format!(
        "{other} takes some of the same namespaces and has a setting too; for services in both the stricter of the two counts"
    );
    Some(Finding::warning(
        name,
        "spec.namespaces",
        Code::SettingsOverlap,
        message,
    ))
}
