//! Where requests go: one upstream per service, port and subset, with its hosts in the order of failover.

use std::collections::BTreeMap;

use super::offered::{Offered, Port};
use super::{Lowered, Site};
use crate::finding::Traced;
use crate::http::{Affinity, Path};
use crate::intent::Subset;
use crate::name::{Fqn, HostPort, Kind, Label, ServiceId};
use crate::proxy::{Balancer, Check, Endpoint, EndpointGroup, Endpoints, Health, Upstream};
use crate::report::State;
use crate::routes::Delivery;
use crate::setting::LoadBalancing;
use crate::view::{
    CONNECT_TIMEOUT, HEALTH_INTERVAL, HEALTH_TIMEOUT, HEALTH_UNHEALTHY_THRESHOLD, HealthCheck, Instance,
};

/// How far requests may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// To any cluster that offers the service.
    Mesh,
    /// They have arrived from another cluster, and go no further.
    Local,
}

/// Adds the upstream unless it is there, and says its name.
pub(super) fn upstream(
    site: &Site<'_>,
    offered: &Offered<'_>,
    port: &Port,
    subset: Option<&Label>,
    scope: Scope,
    lowered: &mut Lowered,
) -> String {
    let name = name(offered, port, subset, scope);
    if lowered.config.clusters.contains_key(&name) {
        return name;
    }
    let origin = offered.origin().cloned();
    let delivery = offered.delivery();
    let value = Upstream {
        http2: port.http2,
        connect_timeout: CONNECT_TIMEOUT,
        health: health(offered.id, port, subset, scope),
        balancer: balancer(&delivery),
        connections_max: delivery.connections_max,
        requests_max: delivery.requests_max,
        outliers: delivery.outliers,
    };
    let upstream = Traced {
        value,
        origin: origin.clone(),
    };
    lowered.config.clusters.insert(name.clone(), upstream);
    let value = endpoints(site, offered, port, subset, scope);
    lowered
        .config
        .endpoints
        .insert(name.clone(), Traced { value, origin });
    name
}

fn balancer(delivery: &Delivery) -> Balancer {
    match (&delivery.balancing, delivery.affinity()) {
        (Some(LoadBalancing::RoundRobin), _) => Balancer::RoundRobin,
        (Some(LoadBalancing::Random), _) => Balancer::Random,
        (_, Some(Affinity::Header(_) | Affinity::Cookie { .. })) => Balancer::Affinity,
        // A route by which clients come themselves makes it one of affinity by `Source`.
        (_, Some(Affinity::Source) | None) => Balancer::LeastRequest,
    }
}

/// The value of the header that says for whom a request is: `[subset.]service.namespace:port`.
pub(super) fn destination(id: &ServiceId, port: &Port, subset: Option<&Label>) -> String {
    let subset = subset.map_or_else(String::new, |subset| format!("{subset}."));
    format!("{subset}{}.{}:{}", id.name, id.namespace, port.port)
}

/// `tenant/workspace/namespace/service:port[/subset{label=value,…}]`, as people read it in metrics and logs. A subset's
/// labels are part of it: a subset that is redefined is another upstream, so that no proxy ever sends by the rules of
/// one definition to the endpoints of the other.
fn name(offered: &Offered<'_>, port: &Port, subset: Option<&Label>, scope: Scope) -> String {
    let service = upstream_prefix(offered.workspace, offered.id);
    let scope = match scope {
        Scope::Mesh => "",
        Scope::Local => "local/",
    };
    let subset = subset.map_or_else(String::new, |subset| {
        format!("/{subset}{}", selector(offered, subset))
    });
    format!("{scope}{service}{}{subset}", port.port)
}

/// What the names of all upstreams of a service begin with: `tenant/workspace/namespace/service:`.
pub(crate) fn upstream_prefix(workspace: Option<&Fqn>, id: &ServiceId) -> String {
    let owner = workspace.map_or_else(
        || "-".to_owned(),
        |workspace| {
            let tenant = workspace.ancestor(Kind::Tenant);
            let tenant = tenant.as_ref().map_or("-", |tenant| tenant.leaf());
            format!("{tenant}/{}", workspace.leaf())
        },
    );
    format!("{owner}/{id}:")
}

fn selector(offered: &Offered<'_>, subset: &Label) -> String {
    let Some(defined) = defined(offered, subset) else {
        return String::new();
    };
    let labels: Vec<String> = defined
        .labels
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    format!("{{{}}}", labels.join(","))
}

fn defined<'a>(offered: &Offered<'a>, subset: &Label) -> Option<&'a Subset> {
    offered.subsets().iter().find(|known| known.name == *subset)
}

fn health(id: &ServiceId, port: &Port, subset: Option<&Label>, scope: Scope) -> Health {
    let http = |path: Path| Check::Http {
        host: id.clusterset_host(),
        path,
        destination: (scope == Scope::Mesh).then(|| destination(id, port, subset)),
    };
    let check = match &port.health {
        HealthCheck::Auto => http(Path::root()),
        HealthCheck::Http { path } => http(path.clone()),
        HealthCheck::Tcp => Check::Tcp,
    };
    Health {
        interval: HEALTH_INTERVAL,
        timeout: HEALTH_TIMEOUT,
        unhealthy_threshold: HEALTH_UNHEALTHY_THRESHOLD,
        check,
    }
}

fn endpoints(
    site: &Site<'_>,
    offered: &Offered<'_>,
    port: &Port,
    subset: Option<&Label>,
    scope: Scope,
) -> Endpoints {
    let local = local(site, offered, port, subset).map(|group| vec![group]);
    let remote = match scope {
        Scope::Mesh => remote(offered, port, subset),
        Scope::Local => Vec::new(),
    };
    Endpoints {
        priorities: local.into_iter().chain(remote).collect(),
    }
}

fn local(
    site: &Site<'_>,
    offered: &Offered<'_>,
    port: &Port,
    subset: Option<&Label>,
) -> Option<EndpointGroup> {
    let name = port.name.as_ref()?;
    let subset = match subset {
        None => None,
        Some(subset) => Some(defined(offered, subset)?),
    };
    let instances = offered.local.map_or(&[][..], |local| &local.instances);
    let endpoints: Vec<Endpoint> = instances
        .iter()
        .filter(|instance| subset.is_none_or(|subset| is_in(instance, subset)))
        .map(|instance| Endpoint {
            address: HostPort::new(
                instance.address,
                instance.ports.get(name).copied().unwrap_or(port.port),
            ),
            usable: instance.state == State::Up,
        })
        .collect();
    let locality = site.locality();
    (!endpoints.is_empty()).then(|| EndpointGroup {
        region: locality.map(|locality| locality.region.clone()),
        zone: locality.and_then(|locality| locality.zone.clone()),
        cluster: site.cluster.clone(),
        endpoints,
    })
}

fn is_in(instance: &Instance, subset: &Subset) -> bool {
    subset
        .labels
        .iter()
        .all(|(name, value)| instance.labels.get(name) == Some(value))
}

/// One list per tier, best first.
fn remote(offered: &Offered<'_>, port: &Port, subset: Option<&Label>) -> Vec<Vec<EndpointGroup>> {
    let mut tiers: BTreeMap<u8, Vec<EndpointGroup>> = BTreeMap::new();
    for remote in offered.remotes() {
        let serves =
            remote.ports.contains(&port.port) && subset.is_none_or(|subset| remote.subsets.contains(subset));
        if !serves {
            continue;
        }
        let endpoints = remote.gateways.iter().map(|address| Endpoint {
            address: *address,
            usable: remote.state == State::Up,
        });
        tiers.entry(remote.tier).or_default().push(EndpointGroup {
            region: Some(remote.region.clone()),
            zone: None,
            cluster: remote.cluster.clone(),
            endpoints: endpoints.collect(),
        });
    }
    tiers.into_values().collect()
}
