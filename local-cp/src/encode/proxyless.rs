//! What a gRPC client takes that is no proxy: for each name of a service a listener that is none, with the routes of that
//! service, to the instances of its own cluster. What such a client does not do is left out (`docs/xds.md`).

use std::collections::BTreeSet;

use envoy_types::pb::envoy::config::cluster::v3::Cluster as PbCluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::LbPolicy;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::listener::v3::{ApiListener, Listener as PbListener};
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::{
    Route as PbRoute, RouteAction as PbRouteAction, RouteConfiguration, VirtualHost as PbVirtualHost,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, Rds,
};
use envoy_types::util::pack_any;
use tombolo_compiler::finding::{Origin, Traced};
use tombolo_compiler::http::{Affinity, Edits, HttpMatch, Method, PathMatch};
use tombolo_compiler::name::ClusterName;
use tombolo_compiler::proxy::{
    Endpoints, Forward, ProxyConfig, RetryPolicy, Route, RouteAction, RouteTable, Upstream,
};

use super::{ads, cluster, endpoint, listener, number, route};

/// One port of a service: the name of its table, those under which it is dialled, and the table.
type Host = (String, BTreeSet<String>, Traced<RouteTable>);

/// What is left of a sidecar's configuration: services that speak HTTP/2, one table for each of their ports.
pub(super) fn hosts(config: &ProxyConfig) -> Vec<Host> {
    let speaks_http2 = |cluster: &String| {
        let upstream = config.clusters.get(cluster);
        upstream.is_some_and(|upstream| upstream.value.http2)
    };
    let tables = config.route_tables.values();
    tables
        .flat_map(|table| &table.value.hosts)
        .filter_map(|host| {
            let mut table = RouteTable {
                ignore_port: false,
                hosts: vec![host.clone()],
            };
            let kept = &mut table.hosts[0].value;
            kept.routes = kept.routes.iter().filter_map(of_a_call).collect();
            let clusters = route::clusters(&table);
            let is_for_calls = !clusters.is_empty() && clusters.iter().all(speaks_http2);
            let names = host.value.domains.clone();
            is_for_calls.then(|| {
                let value = table;
                let origin = host.origin.clone();
                (host.value.name.clone(), names, Traced { value, origin })
            })
        })
        .collect()
}

/// The clusters that some route sends to by a key.
pub(super) fn keyed(hosts: &[Host]) -> BTreeSet<String> {
    let tables = hosts.iter().flat_map(|(.., table)| &table.value.hosts);
    tables
        .flat_map(|host| &host.value.routes)
        .filter_map(|route| match &route.value.action {
            RouteAction::Forward(forward) if !forward.affinities.is_empty() => Some(&forward.targets),
            _ => None,
        })
        .flatten()
        .map(|target| target.cluster.clone())
        .collect()
}

/// A call is a POST, without a query and without cookies.
fn of_a_call(route: &Traced<Route>) -> Option<Traced<Route>> {
    let HttpMatch {
        path,
        method,
        headers,
        query_params,
        cookies,
    } = &route.value.matches;
    let is_met = query_params.is_empty()
        && cookies.is_empty()
        && method.is_none_or(|method| method == Method::Post)
        && !matches!(path, Some(PathMatch::All(_)));
    let action = match &route.value.action {
        RouteAction::Forward(forward) => RouteAction::Forward(Forward {
            retry: RetryPolicy::Careful { attempts: 0 },
            edits: Box::<Edits>::default(),
            mirrors: Vec::new(),
            fault: None,
            affinities: forward
                .affinities
                .iter()
                .filter(|affinity| matches!(affinity, Affinity::Header(_)))
                .cloned()
                .collect(),
            ..forward.clone()
        }),
        other => other.clone(),
    };
    is_met.then(|| Traced {
        value: Route {
            matches: HttpMatch {
                path: path.clone(),
                headers: headers.clone(),
                ..HttpMatch::default()
            },
            action,
        },
        origin: route.origin.clone(),
    })
}

/// Under each name by which an application may dial the service.
pub(super) fn listener(name: &str, table: &str) -> PbListener {
    let manager = HttpConnectionManager {
        route_specifier: Some(RouteSpecifier::Rds(Rds {
            config_source: Some(ads()),
            route_config_name: table.to_owned(),
        })),
        http_filters: vec![listener::router()],
        ..HttpConnectionManager::default()
    };
    PbListener {
        name: name.to_owned(),
        api_listener: Some(ApiListener {
            api_listener: Some(pack_any(manager)),
        }),
        ..PbListener::default()
    }
}

pub(super) fn table(name: &str, table: &RouteTable) -> (RouteConfiguration, Vec<(String, Origin)>) {
    let (encoded, origins) = route::encode(name, table);
    let virtual_hosts = encoded.virtual_hosts.into_iter().map(|host| PbVirtualHost {
        // Only who has dialled one of its names asks for it.
        domains: vec!["*".to_owned()],
        routes: host.routes.into_iter().map(for_calls).collect(),
        name: host.name,
        ..PbVirtualHost::default()
    });
    let encoded = RouteConfiguration {
        name: encoded.name,
        virtual_hosts: virtual_hosts.collect(),
        ..RouteConfiguration::default()
    };
    (encoded, origins)
}

fn for_calls(mut route: PbRoute) -> PbRoute {
    // Such a client knows no prefixes by whole segments, and would refuse all of the table.
    if let Some(matches) = &mut route.r#match
        && let Some(PathSpecifier::PathSeparatedPrefix(prefix)) = &matches.path_specifier
    {
        let pattern = format!("{}(?:/.*)?", escaped(prefix));
        matches.path_specifier = Some(PathSpecifier::SafeRegex(route::regex(&pattern)));
    }
    let action = match route.action {
        Some(Action::Route(action)) => Some(Action::Route(PbRouteAction {
            cluster_specifier: action.cluster_specifier.map(without_edits),
            hash_policy: action.hash_policy,
            ..PbRouteAction::default()
        })),
        other => other,
    };
    PbRoute {
        r#match: route.r#match,
        action,
        ..PbRoute::default()
    }
}

fn without_edits(mut to: ClusterSpecifier) -> ClusterSpecifier {
    if let ClusterSpecifier::WeightedClusters(split) = &mut to {
        for target in &mut split.clusters {
            target.request_headers_to_add.clear();
            target.request_headers_to_remove.clear();
        }
    }
    to
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_ascii_punctuation() {
            escaped.push('\\');
        }
        escaped.push(letter);
    }
    escaped
}

pub(super) fn cluster(name: &str, upstream: &Upstream, is_keyed: bool) -> PbCluster {
    let encoded = cluster::encode(name, upstream);
    let lb_policy = match is_keyed {
        true => LbPolicy::RingHash,
        // Others are refused, unless its environment allows them.
        false => LbPolicy::RoundRobin,
    };
    PbCluster {
        name: encoded.name,
        cluster_discovery_type: encoded.cluster_discovery_type,
        eds_cluster_config: encoded.eds_cluster_config,
        circuit_breakers: encoded.circuit_breakers,
        lb_policy: lb_policy as i32,
        ..PbCluster::default()
    }
}

/// Those of its own cluster: who is sent to another one has to say for whom a call is, which such a client does not.
pub(super) fn endpoints(name: &str, own: &ClusterName, endpoints: &Endpoints) -> ClusterLoadAssignment {
    let own = endpoints.priorities.iter().map(|groups| {
        let groups = groups.iter().filter(|group| group.cluster == *own);
        groups.cloned().collect()
    });
    let mut encoded = endpoint::encode(
        name,
        &Endpoints {
            priorities: own.collect(),
        },
    );
    for locality in &mut encoded.endpoints {
        // A place without a weight is passed over.
        let hosts = u32::try_from(locality.lb_endpoints.len()).unwrap_or(u32::MAX);
        locality.load_balancing_weight = Some(number(hosts));
    }
    encoded
}
