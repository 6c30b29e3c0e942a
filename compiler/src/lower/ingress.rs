//! A gateway towards outside: the hosts of gateway resources, each with the rules of the services behind them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::forward::{Destination, Wishes, alternatives, forward, mirrors, refuse};
use super::offered::{Port, one};
use super::{Lowered, Site, gateways};
use crate::finding::{Code, Finding, Origin, Traced};
use crate::http::{Affinity, HttpMatch};
use crate::name::{Fqn, Kind, ServiceId, WorkloadId};
use crate::plan::port;
use crate::proxy::{Filter, Route, RouteAction, RouteTable, Target, VirtualHost};
use crate::routes::{GatewayAction, GatewayRule, RoutedGatewayMode, ServiceAction, ServiceRule};
use crate::view::LocalGateway;

/// An Envoy lets connections that are open when a filter is added go on without it: those that keep somebody out are always there.
const GUARDS: [Filter; 2] = [Filter::Deny, Filter::Allow];

pub(super) fn lower(site: &Site<'_>, workload: &WorkloadId, gateway: &LocalGateway, lowered: &mut Lowered) {
    let mut tables: BTreeMap<u16, Vec<Traced<VirtualHost>>> = BTreeMap::new();
    for (name, routed) in gateways(site.slice) {
        let RoutedGatewayMode::Ingress { port, hosts, rules } = &routed.value.mode else {
            continue;
        };
        // All of its hosts may be somebody else's.
        if routed.value.workload != *workload || hosts.is_empty() {
            continue;
        }
        if gateway.east_west_port == Some(*port) {
            lowered.findings.push(port_taken(site, name, workload, *port));
            continue;
        }
        let workspace = &routed.value.workspace;
        let mut taken = BTreeSet::new();
        let routes = rules
            .iter()
            .flat_map(|rule| routes(site, workspace, rule, &mut taken, lowered))
            .collect();
        let host = VirtualHost {
            name: name.to_string(),
            domains: hosts.iter().map(ToString::to_string).collect(),
            routes,
            conduct: routed.value.conduct.clone(),
        };
        tables.entry(*port).or_default().push(Traced {
            value: host,
            origin: routed.origin.clone(),
        });
    }
    for (port, hosts) in tables {
        for host in &hosts {
            lowered.fetch_keys(site.cluster, host);
        }
        let table = RouteTable {
            ignore_port: true,
            hosts,
        };
        let bind = SocketAddr::new(gateway.bind, port);
        // Nobody's alone: its hosts say whose they are.
        lowered.listen(&format!("ingress/{port}"), bind, &GUARDS, Traced::untraced(table));
    }
}

fn port_taken(site: &Site<'_>, name: &Fqn, workload: &WorkloadId, port: u16) -> Finding {
    let message = format!(
        "port {port} of workload {workload} is its east-west port, so this gateway does not listen there; use another port"
    );
    Finding::warning(name, "spec.port", Code::PortTaken, message).in_cluster(site.cluster)
}

/// The routes of one rule, in the order in which they are tried. As each service's rules end in one that matches
/// everything, a request that this rule matches never falls through to the next rule. `taken` are the matches of the
/// same host so far.
fn routes(
    site: &Site<'_>,
    workspace: &Fqn,
    rule: &Traced<GatewayRule>,
    taken: &mut BTreeSet<HttpMatch>,
    lowered: &mut Lowered,
) -> Vec<Traced<Route>> {
    let whole = |action| {
        let routes = super::forward::routes(&rule.value.matches, &action);
        let traced = |value| Traced {
            value,
            origin: rule.origin.clone(),
        };
        routes.into_iter().map(traced).collect()
    };
    match &rule.value.action {
        GatewayAction::Refuse(reason) => whole(refuse(reason)),
        GatewayAction::Redirect(to) => whole(RouteAction::Redirect(to.clone())),
        GatewayAction::Split(split) => match split.as_slice() {
            [(id, port, _)] => match backend(site, workspace, id, *port) {
                Ok(backend) => product(site, &backend, rule, taken, lowered),
                Err(reason) => whole(refuse(&reason)),
            },
            many => whole(shared(site, workspace, many, &rule.value, lowered)),
        },
    }
}

struct Backend<'a> {
    offered: super::offered::Offered<'a>,
    port: Port,
}

fn backend<'a>(
    site: &Site<'a>,
    workspace: &'a Fqn,
    id: &'a ServiceId,
    wanted: Option<u16>,
) -> Result<Backend<'a>, String> {
    let offered =
        one(site, workspace, id).ok_or_else(|| format!("service {id} is not known in {}", site.cluster))?;
    let picked = port::pick(id, &offered.service_ports(), wanted).map_err(|bad| bad.to_string())?;
    let mut ports = offered.ports().into_iter();
    let port = ports.find(|port| port.port == picked);
    let port = port.ok_or_else(|| format!("service {id} is not routed at port {picked}"))?;
    Ok(Backend { offered, port })
}

/// Every rule of the service below the one of the gateway: what both match, unless an earlier route matches the same.
fn product(
    site: &Site<'_>,
    backend: &Backend<'_>,
    rule: &Traced<GatewayRule>,
    taken: &mut BTreeSet<HttpMatch>,
    lowered: &mut Lowered,
) -> Vec<Traced<Route>> {
    let destination = Destination {
        offered: &backend.offered,
        port: &backend.port,
    };
    let wishes = wishes(site, backend.offered.workspace, &rule.value, lowered);
    let mut routes = Vec::new();
    for outer in alternatives(&rule.value.matches) {
        for inner in backend.offered.rules().iter() {
            let both: Vec<_> = alternatives(&inner.value.matches)
                .iter()
                .filter_map(|inner| outer.and(inner))
                .filter(|both| taken.insert(both.clone()))
                .collect();
            if both.is_empty() {
                continue;
            }
            let action = destination.action(site, &inner.value, wishes.clone(), lowered);
            let origin = decided_by(rule.origin.as_ref(), inner.origin.as_ref());
            routes.extend(both.into_iter().map(|matches| {
                let value = Route {
                    matches,
                    action: action.clone(),
                };
                let origin = origin.cloned();
                Traced { value, origin }
            }));
        }
    }
    routes
}

fn wishes<'a>(
    site: &Site<'_>,
    workspace: Option<&Fqn>,
    rule: &'a GatewayRule,
    lowered: &mut Lowered,
) -> Wishes<'a> {
    let copied = workspace.map(|workspace| mirrors(site, workspace, &rule.conduct, None, lowered));
    Wishes {
        mirrors: copied.unwrap_or_default(),
        fault: rule.conduct.fault,
        timeout: rule.timeout,
        retry: rule.retry.as_ref(),
        edits: rule.edits.clone(),
        affinities: rule.conduct.session.iter().cloned().collect(),
        of_clients: true,
    }
}

/// The service's route where there is one, else the gateway.
fn decided_by<'a>(gateway: Option<&'a Origin>, service: Option<&'a Origin>) -> Option<&'a Origin> {
    service
        .filter(|origin| origin.resource.kind() == Kind::ServiceRoute)
        .or(gateway)
}

/// Several services: the last rule of each, which matches everything, in shares of 10 000. A backend that cannot be
/// had leaves its share to the others.
fn shared(
    site: &Site<'_>,
    workspace: &Fqn,
    split: &[(ServiceId, Option<u16>, u32)],
    rule: &GatewayRule,
    lowered: &mut Lowered,
) -> RouteAction {
    let mut targets: Vec<Target> = Vec::new();
    let mut reason = "this route has no backend".to_owned();
    let mut of_services: Option<Affinity> = None;
    for (id, port, share) in split.iter().filter(|(.., share)| *share > 0) {
        let backend = match backend(site, workspace, id, *port) {
            Ok(backend) => backend,
            Err(why) => {
                reason = why;
                continue;
            }
        };
        let rules = backend.offered.rules();
        let last: Option<&ServiceRule> = rules.last().map(|rule| &rule.value);
        match last.map(|rule| &rule.action) {
            Some(ServiceAction::Split(shares)) => {
                let destination = Destination {
                    offered: &backend.offered,
                    port: &backend.port,
                };
                targets.extend(destination.targets(site, shares, *share, lowered));
                // One key for all of them: that of the first which has one.
                of_services = of_services.or_else(|| backend.offered.delivery().affinity());
            }
            Some(ServiceAction::Refuse(why)) => reason.clone_from(why),
            // A part of the requests cannot be answered with a redirect: the others would come back here.
            Some(ServiceAction::Redirect(_)) => reason = format!("service {id} answers with a redirect"),
            None => {}
        }
    }
    if targets.is_empty() {
        refuse(&reason)
    } else {
        let mut wishes = wishes(site, Some(workspace), rule, lowered);
        wishes.affinities.extend(of_services);
        forward(targets, wishes, lowered)
    }
}
