//! A gateway towards other clusters: what arrives for a service of this cluster goes to an instance of this cluster, and
//! never on to a third one (ADR 0002).

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::forward::{UNAVAILABLE, by_affinity, otherwise};
use super::offered::{Offered, Port, of_workspace};
use super::upstream::{Scope, destination, upstream};
use super::{EAST_WEST_RETRY_ATTEMPTS, EAST_WEST_TIMEOUT, Lowered, Site, gateways};
use crate::finding::Traced;
use crate::http::{Affinity, Edits, HeaderEdits, HeaderMatch, HeaderName, HttpMatch, ValueMatch};
use crate::name::{Fqn, Label, WorkloadId};
use crate::proxy::{Forward, RetryPolicy, Route, RouteAction, RouteTable, Target, VirtualHost};
use crate::routes::{HostConduct, RoutedGatewayMode};
use crate::view::LocalGateway;

pub(crate) const NAME: &str = "eastwest";

pub(super) fn lower(site: &Site<'_>, workload: &WorkloadId, gateway: &LocalGateway, lowered: &mut Lowered) {
    let Some(port) = gateway.east_west_port else {
        return;
    };
    let mut routes = Vec::new();
    for workspace in served(site, workload) {
        let services = of_workspace(site, workspace).into_iter();
        for offered in services.filter(|offered| offered.local.is_some()) {
            for port in offered.ports().iter().filter(|port| port.name.is_some()) {
                let subsets = offered.subsets().iter().map(|subset| Some(&subset.name));
                for subset in std::iter::once(None).chain(subsets) {
                    let value = route(site, &offered, port, subset, lowered);
                    let origin = offered.origin().cloned();
                    routes.push(Traced { value, origin });
                }
            }
        }
    }
    let body = format!(
        "cluster {} does not offer the service that the header {} names, or not through this gateway\n",
        site.cluster,
        HeaderName::destination().as_str()
    );
    routes.push(Traced::untraced(otherwise(UNAVAILABLE, body)));
    let host = VirtualHost {
        name: NAME.to_owned(),
        domains: ["*".to_owned()].into(),
        routes,
        conduct: HostConduct::default(),
    };
    let table = RouteTable {
        ignore_port: true,
        hosts: vec![Traced::untraced(host)],
    };
    let bind = SocketAddr::new(gateway.bind, port);
    lowered.listen(NAME, bind, &[], Traced::untraced(table));
}

/// The workspaces whose services come in at this workload: those that have a namespace here, and have no gateway of
/// their own for it on other workloads only. What nobody owns is never offered.
fn served<'a>(site: &Site<'a>, workload: &WorkloadId) -> BTreeSet<&'a Fqn> {
    let doors: Vec<(&Fqn, &WorkloadId)> = gateways(site.slice)
        .into_values()
        .filter(|gateway| gateway.value.mode == RoutedGatewayMode::EastWest)
        .map(|gateway| (&gateway.value.workspace, &gateway.value.workload))
        .collect();
    let namespaces = site.view.services.keys().map(|id| &id.namespace);
    let workspaces = namespaces.filter_map(|namespace| site.owner(namespace));
    workspaces
        .map(|owner| &owner.value.workspace)
        .filter(|workspace| {
            let mut own = doors.iter().filter(|(owner, _)| owner == workspace).peekable();
            own.peek().is_none() || own.any(|(_, door)| *door == workload)
        })
        .collect()
}

fn route(
    site: &Site<'_>,
    offered: &Offered<'_>,
    port: &Port,
    subset: Option<&Label>,
    lowered: &mut Lowered,
) -> Route {
    let header = HeaderMatch {
        name: HeaderName::destination(),
        value: ValueMatch::Exact(destination(offered.id, port, subset)),
    };
    let affinities = affinities(offered);
    let cluster = upstream(site, offered, port, subset, Scope::Local, lowered);
    if !affinities.is_empty() {
        by_affinity(&cluster, lowered);
    }
    let target = Target {
        cluster,
        weight: 100,
        destination: None,
    };
    Route {
        matches: HttpMatch {
            headers: [header].into(),
            ..HttpMatch::default()
        },
        action: RouteAction::Forward(Forward {
            targets: vec![target],
            timeout: EAST_WEST_TIMEOUT,
            retry: RetryPolicy::Careful {
                attempts: EAST_WEST_RETRY_ATTEMPTS,
            },
            edits: Box::new(Edits {
                request_headers: HeaderEdits {
                    remove: [HeaderName::destination()].into(),
                    ..HeaderEdits::default()
                },
                ..Edits::default()
            }),
            mirrors: Vec::new(),
            fault: None,
            affinities,
        }),
    }
}

/// Which rule a request has matched is not told, so what any of them asks for counts. Of gateways elsewhere nothing is known. The
/// peer is the proxy that has sent it, whose address is nobody's session.
fn affinities(offered: &Offered<'_>) -> Vec<Affinity> {
    let rules = offered.rules();
    let sessions = rules
        .iter()
        .filter_map(|rule| rule.value.conduct.session.as_ref());
    let mut affinities: Vec<Affinity> = Vec::new();
    for affinity in sessions
        .map(Affinity::passed_on)
        .chain(offered.delivery().affinity())
    {
        if affinity != Affinity::Source && !affinities.contains(&affinity) {
            affinities.push(affinity);
        }
    }
    affinities
}
