//! Which settings bear on a node or a service, in their order.

use std::borrow::Cow;

use super::decide::{Layer, Path};
use crate::intent::{Group, Intent, Resource, Spec};
use crate::name::{ATTACHED, Fqn, Kind, Label, ServiceId};
use crate::setting::{Security, Setting, Traffic};

/// One of the things that settings decide about.
pub(super) trait Concern: Clone + Default + 'static {
    const SETTING: Kind;
    /// Of the groups that are made for this concern.
    const GROUP: Kind;

    fn read(spec: &Spec) -> Option<&Setting<Self>>;

    /// What a node says itself, in the field that was there before settings were.
    fn of_node_itself(spec: &Spec) -> Option<Self>;

    /// What is written for one service below a group.
    fn of_service<'a>(spec: &'a Spec, service: &ServiceId) -> Option<&'a Self>;
}

impl Concern for Traffic {
    const SETTING: Kind = Kind::TrafficSetting;
    const GROUP: Kind = Kind::TrafficGroup;

    fn read(spec: &Spec) -> Option<&Setting<Self>> {
        match spec {
            Spec::TrafficSetting(setting) => Some(setting),
            _ => None,
        }
    }

    fn of_node_itself(spec: &Spec) -> Option<Self> {
        let failover = match spec {
            Spec::Organization(organization) => &organization.failover,
            Spec::Workspace(workspace) => &workspace.failover,
            _ => return None,
        };
        (!failover.is_empty()).then(|| Traffic {
            failover: Some(failover.clone()),
            ..Traffic::default()
        })
    }

    fn of_service<'a>(_: &'a Spec, _: &ServiceId) -> Option<&'a Self> {
        None
    }
}

impl Concern for Security {
    const SETTING: Kind = Kind::SecuritySetting;
    const GROUP: Kind = Kind::SecurityGroup;

    fn read(spec: &Spec) -> Option<&Setting<Self>> {
        match spec {
            Spec::SecuritySetting(setting) => Some(setting),
            _ => None,
        }
    }

    fn of_node_itself(_: &Spec) -> Option<Self> {
        None
    }

    fn of_service<'a>(spec: &'a Spec, service: &ServiceId) -> Option<&'a Self> {
        match spec {
            Spec::ServiceSecuritySetting(setting) if setting.service == *service => Some(&setting.settings),
            _ => None,
        }
    }
}

pub(super) fn is_settable(node: &Fqn) -> bool {
    matches!(node.kind(), Kind::Organization | Kind::Tenant) || has_services(node)
}

pub(super) fn has_services(node: &Fqn) -> bool {
    matches!(
        node.kind(),
        Kind::Workspace | Kind::TrafficGroup | Kind::GatewayGroup | Kind::SecurityGroup
    )
}

/// Whether a workspace, or a group within its workspace, takes namespaces of that name somewhere.
pub(super) fn takes(intent: &Intent, node: &Fqn, namespace: &Label) -> bool {
    let spec = |node: &Fqn| intent.get(node).map(|resource| &resource.spec);
    let owned = node
        .ancestor(Kind::Workspace)
        .is_some_and(|workspace| match spec(&workspace) {
            Some(Spec::Workspace(workspace)) => {
                let mut selectors = workspace.namespaces.iter();
                selectors.any(|selector| selector.matches_namespace(namespace))
            }
            _ => false,
        });
    let taken = match spec(node) {
        Some(Spec::TrafficGroup(group) | Spec::GatewayGroup(group) | Spec::SecurityGroup(group)) => {
            in_group(group, namespace)
        }
        _ => true,
    };
    owned && taken
}

fn in_group(group: &Group, namespace: &Label) -> bool {
    let mut selectors = group.namespaces.iter();
    group.namespaces.is_empty() || selectors.any(|selector| selector.matches_namespace(namespace))
}

/// The settings of a node's lineage. At each node its setting is nearer than the field on the node itself.
pub(super) fn of_node<'a, S: Concern>(intent: &'a Intent, node: &Fqn) -> Path<'a, S> {
    let mut lineage: Vec<Fqn> = node.lineage().collect();
    lineage.reverse();
    lineage.iter().flat_map(|node| layers(intent, node)).collect()
}

fn layers<'a, S: Concern>(intent: &'a Intent, node: &Fqn) -> impl Iterator<Item = Layer<'a, S>> {
    let itself = intent
        .get(node)
        .and_then(|resource| S::of_node_itself(&resource.spec));
    let itself = itself.map(|said| Layer {
        resource: node.clone(),
        defaults_at: "spec",
        defaults: Cow::Owned(said),
        mandates: None,
    });
    itself.into_iter().chain(setting(intent, node))
}

/// What is attached to the node.
pub(super) fn setting<'a, S: Concern>(intent: &'a Intent, node: &Fqn) -> Option<Layer<'a, S>> {
    let name = node.child(S::SETTING, &ATTACHED.parse().ok()?).ok()?;
    let setting = S::read(&intent.get(&name)?.spec)?;
    Some(Layer {
        resource: name,
        defaults_at: "spec.defaults",
        defaults: Cow::Borrowed(&setting.defaults),
        mandates: Some(&setting.mandates),
    })
}

/// Whether something is set on a group for its concern.
pub(super) fn is_set(intent: &Intent, group: &Fqn) -> bool {
    match group.kind() {
        Kind::TrafficGroup => setting::<Traffic>(intent, group).is_some(),
        Kind::SecurityGroup => setting::<Security>(intent, group).is_some(),
        _ => false,
    }
}

/// A path through each group of the concern that takes the service, and below it through each setting of the service.
pub(super) fn of_service<'a, S: Concern>(
    intent: &'a Intent,
    node: &Fqn,
    service: &ServiceId,
) -> Vec<Path<'a, S>> {
    if node.kind() == S::GROUP {
        return below_group(intent, node, service);
    }
    let groups = children(intent, node, S::GROUP).filter(|group| takes(intent, group, &service.namespace));
    let paths: Vec<Path<'a, S>> = groups
        .flat_map(|group| below_group(intent, group, service))
        .collect();
    if paths.is_empty() {
        return vec![of_node(intent, node)];
    }
    paths
}

fn below_group<'a, S: Concern>(intent: &'a Intent, group: &Fqn, service: &ServiceId) -> Vec<Path<'a, S>> {
    let path: Path<'a, S> = of_node(intent, group);
    let prefix = format!("{group}/");
    let settings = within(intent, &prefix)
        .filter_map(|(name, resource)| Some(service_layer(name, S::of_service(&resource.spec, service)?)));
    let paths: Vec<Path<'a, S>> = settings
        .map(|layer| path.iter().cloned().chain([layer]).collect())
        .collect();
    if paths.is_empty() {
        return vec![path];
    }
    paths
}

pub(super) fn service_layer<'a, S: Clone>(name: &Fqn, settings: &'a S) -> Layer<'a, S> {
    Layer {
        resource: name.clone(),
        defaults_at: "spec.settings",
        defaults: Cow::Borrowed(settings),
        mandates: None,
    }
}

/// The resources of a kind directly below a node.
pub(super) fn children<'a>(
    intent: &'a Intent,
    node: &Fqn,
    kind: Kind,
) -> impl Iterator<Item = &'a Fqn> + use<'a> {
    let prefix = format!("{node}/{}/", kind.collection());
    within(intent, &prefix)
        .map(|(name, _)| name)
        .filter(move |name| name.kind() == kind)
}

fn within<'a>(intent: &'a Intent, prefix: &str) -> impl Iterator<Item = (&'a Fqn, &'a Resource)> + use<'a> {
    intent
        .starting_with(prefix)
        .map(|(name, resource)| (name, &**resource))
}
