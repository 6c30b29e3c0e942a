//! A sidecar: the outgoing requests of one application, to the services of its own workspace (ADR 0004).

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::forward::{Destination, NOT_FOUND, Wishes, otherwise, routes};
use super::offered::{Offered, Port, of_unowned_namespace, of_workspace};
use super::{Lowered, Site};
use crate::finding::Traced;
use crate::name::{Label, ServiceId};
use crate::proxy::{RouteTable, VirtualHost};
use crate::resolve::listed;
use crate::routes::HostConduct;

pub(crate) const NAME: &str = "outbound";
/// The port that a bare host means, when the service has it.
const DEFAULT_PORT: u16 = 80;
/// A text that names more helps nobody.
const NAMED_MAX: usize = 20;

pub(super) fn lower(site: &Site<'_>, namespace: &Label, outbound: SocketAddr, lowered: &mut Lowered) {
    let owner = site.owner(namespace);
    let services = match owner {
        Some(owner) => of_workspace(site, &owner.value.workspace),
        None => of_unowned_namespace(site, namespace),
    };
    let mut hosts: Vec<Traced<VirtualHost>> = services
        .iter()
        .flat_map(|offered| virtual_hosts(site, offered, namespace, lowered))
        .map(Traced::untraced)
        .collect();
    hosts.push(Traced::untraced(VirtualHost {
        name: "unknown".to_owned(),
        domains: ["*".to_owned()].into(),
        routes: vec![Traced {
            value: otherwise(NOT_FOUND, unknown(site, namespace, &services)),
            origin: owner.and_then(|owner| owner.origin.clone()),
        }],
        conduct: HostConduct::default(),
    }));
    let table = RouteTable {
        ignore_port: false,
        hosts,
    };
    let origin = owner.and_then(|owner| owner.origin.clone());
    lowered.listen(NAME, outbound, &[], Traced { value: table, origin });
}

/// One per port that speaks HTTP.
fn virtual_hosts(
    site: &Site<'_>,
    offered: &Offered<'_>,
    from: &Label,
    lowered: &mut Lowered,
) -> Vec<VirtualHost> {
    let ports = offered.ports();
    let default = ports
        .iter()
        .find(|port| port.port == DEFAULT_PORT)
        .or(ports.first())
        .map(|port| port.port);
    let rules = offered.rules();
    ports
        .iter()
        .map(|port| {
            let destination = Destination { offered, port };
            let mut table = Vec::new();
            for rule in rules.iter() {
                let action = destination.action(site, &rule.value, Wishes::default(), lowered);
                let origin = rule.origin.as_ref().or(offered.origin());
                table.extend(
                    routes(&rule.value.matches, &action)
                        .into_iter()
                        .map(|value| Traced {
                            value,
                            origin: origin.cloned(),
                        }),
                );
            }
            VirtualHost {
                name: format!("{}:{}", offered.id, port.port),
                domains: domains(offered.id, from, port, default == Some(port.port)),
                routes: table,
                conduct: HostConduct::default(),
            }
        })
        .collect()
}

/// The names by which applications call a service: the clusterset's, and those of its platform.
fn domains(id: &ServiceId, from: &Label, port: &Port, is_default: bool) -> BTreeSet<String> {
    let (name, namespace) = (&id.name, &id.namespace);
    let mut hosts = vec![
        id.clusterset_host(),
        format!("{name}.{namespace}.svc.cluster.local"),
        format!("{name}.{namespace}.svc"),
        format!("{name}.{namespace}"),
    ];
    if namespace == from {
        hosts.push(name.to_string());
    }
    let with_port: Vec<String> = hosts.iter().map(|host| format!("{host}:{}", port.port)).collect();
    let bare = if is_default { hosts } else { Vec::new() };
    with_port.into_iter().chain(bare).collect()
}

/// The service that a host names for an application in `from`: the other way round of [`domains`].
pub(crate) fn named_service(host: &str, from: &Label) -> Option<ServiceId> {
    let labels: Vec<&str> = host.split('.').collect();
    let (name, namespace) = match labels.as_slice() {
        [name] => (*name, from.as_str()),
        [name, namespace]
        | [name, namespace, "svc"]
        | [name, namespace, "svc", "cluster" | "clusterset", "local"] => (*name, *namespace),
        _ => return None,
    };
    Some(ServiceId {
        namespace: namespace.parse().ok()?,
        name: name.parse().ok()?,
    })
}

fn unknown(site: &Site<'_>, namespace: &Label, services: &[Offered<'_>]) -> String {
    let names: BTreeSet<String> = services
        .iter()
        .filter(|offered| !offered.ports().is_empty())
        .map(|offered| format!("{}.{}", offered.id.name, offered.id.namespace))
        .collect();
    let reachable = match names.len() {
        0 => "there are none".to_owned(),
        count if count > NAMED_MAX => {
            format!(
                "{} and {} more",
                names
                    .iter()
                    .take(NAMED_MAX)
                    .cloned()
                    .collect::<Vec<_>>()
                    .join(", "),
                count - NAMED_MAX
            )
        }
        _ => listed(names),
    };
    let why = match site.owner(namespace) {
        Some(owner) => format!("the services of its workspace, {}", owner.value.workspace.leaf()),
        None => "the services of that namespace in its own cluster, because no workspace owns it".to_owned(),
    };
    format!(
        "no service of that name is reachable from namespace {namespace}; a sidecar there reaches {why}: {reachable}\n"
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::view::HealthCheck;

    use super::*;

    #[test]
    fn every_name_of_a_service_names_it() {
        let id: ServiceId = "shop/reviews".parse().unwrap();
        let port = Port {
            port: 90,
            name: None,
            http2: false,
            health: HealthCheck::Auto,
        };
        for from in ["shop", "cart"] {
            let from = from.parse().unwrap();
            for domain in domains(&id, &from, &port, true) {
                let host = domain.strip_suffix(":90").unwrap_or(&domain);
                assert_eq!(named_service(host, &from).as_ref(), Some(&id), "{domain}");
            }
        }
        for host in ["", "a.b.c", "a.b.svc.cluster", "a.b.svc.cluster.example", "a_b"] {
            assert_eq!(named_service(host, &id.namespace), None, "{host}");
        }
    }
}
