//! What a change may cost at most, told from the change and from what was so before and is so after it, and not from
//! what the passes find dirty.

use std::collections::BTreeSet;

use tombolo_compiler::intent::{Intent, Spec};
use tombolo_compiler::name::{Fqn, Kind, ServiceId};
use tombolo_compiler::resolve::{Resolved, resolve};
use tombolo_compiler::routes::{GatewayAction, RoutedGateway, RoutedGatewayMode};

use crate::world::{Edit, World};

/// Keys of each pass. `None` is for edits that may concern everything, such as another region of a cluster.
#[derive(Debug)]
pub(crate) struct Most {
    pub(crate) resolved: Option<usize>,
    pub(crate) planned: Option<usize>,
}

impl Most {
    fn nothing() -> Most {
        Most {
            resolved: Some(0),
            planned: Some(0),
        }
    }
}

pub(crate) fn most(edit: &Edit, before: &World, after: &World) -> Most {
    match edit {
        Edit::Describe(..) | Edit::Unread(..) => Most::nothing(),
        Edit::View(..) | Edit::Join(_) => Most {
            planned: None,
            ..Most::nothing()
        },
        Edit::Service(_, id, _) => Most {
            planned: Some(service(id, before, after)),
            ..Most::nothing()
        },
        Edit::Write(_) | Edit::Delete(_) => written(before, after),
    }
}

/// The service of each of its owners, the namespace if it is the first or the last there, and the gateways that send to it,
/// or a copy.
fn service(id: &ServiceId, before: &World, after: &World) -> usize {
    if before.reports() == after.reports() {
        return 0;
    }
    let (resolved, _) = resolve(&after.intent);
    let owners = resolved.clusters.keys();
    let owners: BTreeSet<&Fqn> = owners
        .filter_map(|cluster| resolved.owner(cluster, &id.namespace))
        .collect();
    owners.len() + 1 + sending(&resolved, &BTreeSet::from([id.clone()]), |_| true).len()
}

fn written(before: &World, after: &World) -> Most {
    let differences = before.intent.diff(&after.intent, |was, is| was == is);
    let Some(differs) = differences.first() else {
        return Most::nothing();
    };
    let name = differs.key;
    let specs = [differs.before, differs.after].into_iter().flatten();
    let specs: Vec<&Spec> = specs.map(|resource| &resource.spec).collect();
    match name.kind() {
        Kind::ServiceRoute => {
            let services = specs.iter().filter_map(|spec| match spec {
                Spec::ServiceRoute(route) => Some(route.service.clone()),
                _ => None,
            });
            let services: BTreeSet<ServiceId> = services.collect();
            let workspace = name.ancestor(Kind::Workspace);
            let own = |gateway: &RoutedGateway| Some(&gateway.workspace) == workspace.as_ref();
            let gateways = sending(&resolve(&after.intent).0, &services, own).len();
            Most {
                resolved: Some(services.len()),
                planned: Some(services.len() + gateways),
            }
        }
        Kind::Gateway | Kind::Api => Most {
            resolved: Some(gateways(&before.intent).union(&gateways(&after.intent)).count()),
            planned: changed_gateways(&resolve(&before.intent).0, &resolve(&after.intent).0),
        },
        Kind::ReferenceGrant => {
            let (was, is) = (resolve(&before.intent).0, resolve(&after.intent).0);
            let lent = was.loans.diff(&is.loans, |was, is| was == is).len();
            Most {
                resolved: Some(1 + gateways(&before.intent).union(&gateways(&after.intent)).count()),
                planned: changed_gateways(&was, &is)
                    .filter(|_| !has_door(&is))
                    .map(|gateways| gateways + lent),
            }
        }
        // Whoever is bound is told of the user, and no plane is.
        Kind::User | Kind::Binding => {
            let names = after.intent.keys().chain(before.intent.keys());
            let bindings = names.filter(|name| name.kind() == Kind::Binding);
            Most {
                resolved: Some(bindings.collect::<BTreeSet<_>>().len()),
                planned: Some(0),
            }
        }
        _ => Most {
            resolved: None,
            planned: None,
        },
    }
}

/// Of whom one takes a host or a port, another may get it or lose it.
fn gateways(intent: &Intent) -> BTreeSet<Fqn> {
    let gateways = intent
        .keys()
        .filter(|name| matches!(name.kind(), Kind::Gateway | Kind::Api));
    gateways.cloned().collect()
}

/// Those that are resolved to something else; an east-west one is the door to all of its workspace.
fn changed_gateways(before: &Resolved, after: &Resolved) -> Option<usize> {
    let differences = before
        .gateways
        .diff(&after.gateways, |was, is| format!("{was:?}") == format!("{is:?}"));
    let mut sides = differences
        .iter()
        .flat_map(|differs| [differs.before, differs.after])
        .flatten();
    let is_door = sides.any(|gateway| gateway.value.mode == RoutedGatewayMode::EastWest);
    (!is_door).then_some(differences.len())
}

fn has_door(resolved: &Resolved) -> bool {
    let mut gateways = resolved.gateways.values();
    gateways.any(|gateway| gateway.value.mode == RoutedGatewayMode::EastWest)
}

fn sending<'a>(
    resolved: &'a Resolved,
    to: &BTreeSet<ServiceId>,
    counts: impl Fn(&RoutedGateway) -> bool,
) -> BTreeSet<&'a Fqn> {
    let sends = |gateway: &RoutedGateway| {
        gateway.rules().iter().any(|rule| {
            let mut mirrors = rule.value.conduct.mirrors.iter();
            let split = match &rule.value.action {
                GatewayAction::Split(targets) => targets.iter().any(|(id, ..)| to.contains(id)),
                GatewayAction::Redirect(_) | GatewayAction::Refuse(_) => false,
            };
            split || mirrors.any(|mirror| to.contains(&mirror.service))
        })
    };
    let gateways = resolved.gateways.iter();
    gateways
        .filter(|(_, gateway)| counts(&gateway.value) && sends(&gateway.value))
        .map(|(name, _)| name)
        .collect()
}
