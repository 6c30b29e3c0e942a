//! The smallest configuration that docs/xds.md allows: one listener, one route, one cluster. It has what the edge
//! gives to every route (a timeout, careful retries, the destination header), so that its cost is a real one's.

use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType, EdsClusterConfig, LbPolicy,
};
use envoy_types::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::health_check::{HealthChecker, HttpHealthCheck};
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{
    Address, AggregatedConfigSource, ApiVersion, ConfigSource, HeaderValue, HeaderValueOption, HealthCheck,
    SocketAddress, address,
};
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
};
use envoy_types::pb::envoy::config::listener::v3::filter::ConfigType;
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener};
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::weighted_cluster::ClusterWeight;
use envoy_types::pb::envoy::config::route::v3::{
    RetryPolicy, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, WeightedCluster,
};
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    RouteSpecifier, ServerHeaderTransformation,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds, http_filter,
};
use envoy_types::pb::google::protobuf::{BoolValue, Duration as PbDuration, UInt32Value};
use envoy_types::util::pack_any;

use super::Resources;

/// The name of the one listener, route configuration and cluster.
pub const NAME: &str = "only";

/// What the edge retries, by the method of a request (RFC 9110, section 9.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retries {
    /// Of GET, PUT and their like: what an application may have seen, too.
    Idempotent,
    /// Of POST: only what never arrived.
    Other,
}

/// Everything that arrives at `listener` goes to one of `upstreams`.
pub fn one_service(listener: SocketAddr, upstreams: &[SocketAddr], retries: Retries) -> Resources {
    let mut resources = Resources::default();
    resources.insert(
        NAME,
        &Cluster {
            health_checks: vec![health_check()],
            close_connections_on_host_health_failure: true,
            ..cluster(NAME)
        },
    );
    resources.insert(NAME, &endpoints(NAME, upstreams));
    resources.insert(NAME, &http_listener(listener));
    let only = virtual_host(NAME, "*", vec![route("/", NAME, retries)]);
    resources.insert(NAME, &route_configuration(vec![only]));
    resources
}

/// [`one_service`] for `shop.example.com` only, and beside it so many more, each with a cluster and a host of its own,
/// `sN.example.com`. They are not checked: as many checks would be what is measured.
pub fn many_services(listener: SocketAddr, upstream: SocketAddr, count: usize) -> Resources {
    let mut resources = one_service(listener, &[upstream], Retries::Idempotent);
    let first = vec![route("/", NAME, Retries::Idempotent)];
    let mut hosts = vec![virtual_host(NAME, "shop.example.com", first)];
    for number in 0..count {
        let name = format!("s{number}");
        resources.insert(&name, &cluster(&name));
        resources.insert(&name, &endpoints(&name, &[upstream]));
        let routes = vec![route("/", &name, Retries::Idempotent)];
        hosts.push(virtual_host(&name, &format!("{name}.example.com"), routes));
    }
    resources.insert(NAME, &route_configuration(hosts));
    resources
}

/// [`one_service`] at the last of ten routes of `shop.example.com`, beside so many other hosts that have as many.
pub fn many_routes(listener: SocketAddr, upstream: SocketAddr, hosts: usize) -> Resources {
    let mut resources = one_service(listener, &[upstream], Retries::Idempotent);
    let host = |name: &str| {
        let others = (0..9).map(|number| route(&format!("/others/{number}"), NAME, Retries::Other));
        let last = route("/products", NAME, Retries::Idempotent);
        let domain = format!("{name}.example.com");
        virtual_host(name, &domain, others.chain([last]).collect())
    };
    let mut table = vec![host("shop")];
    table.extend((0..hosts).map(|number| host(&format!("h{number}"))));
    resources.insert(NAME, &route_configuration(table));
    resources
}

/// A route configuration named [`NAME`] with these virtual hosts.
pub fn route_configuration(virtual_hosts: Vec<VirtualHost>) -> RouteConfiguration {
    RouteConfiguration {
        name: NAME.to_owned(),
        virtual_hosts,
        ..RouteConfiguration::default()
    }
}

fn health_check() -> HealthCheck {
    HealthCheck {
        timeout: Some(span(Duration::from_millis(400))),
        interval: Some(span(Duration::from_millis(400))),
        no_traffic_interval: Some(span(Duration::from_millis(400))),
        unhealthy_threshold: Some(number(2)),
        healthy_threshold: Some(number(1)),
        health_checker: Some(HealthChecker::HttpHealthCheck(HttpHealthCheck {
            host: NAME.to_owned(),
            path: "/".to_owned(),
            ..HttpHealthCheck::default()
        })),
        ..HealthCheck::default()
    }
}

fn cluster(name: &str) -> Cluster {
    Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: Some(over_ads()),
            ..EdsClusterConfig::default()
        }),
        connect_timeout: Some(span(Duration::from_secs(1))),
        lb_policy: LbPolicy::LeastRequest as i32,
        ..Cluster::default()
    }
}

fn endpoints(cluster: &str, upstreams: &[SocketAddr]) -> ClusterLoadAssignment {
    let lb_endpoints = upstreams.iter().map(|upstream| LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
            address: Some(socket_address(*upstream)),
            ..Endpoint::default()
        })),
        ..LbEndpoint::default()
    });
    ClusterLoadAssignment {
        cluster_name: cluster.to_owned(),
        endpoints: vec![LocalityLbEndpoints {
            lb_endpoints: lb_endpoints.collect(),
            ..LocalityLbEndpoints::default()
        }],
        ..ClusterLoadAssignment::default()
    }
}

fn http_listener(address: SocketAddr) -> Listener {
    let manager = HttpConnectionManager {
        stat_prefix: NAME.to_owned(),
        route_specifier: Some(RouteSpecifier::Rds(Rds {
            config_source: Some(over_ads()),
            route_config_name: NAME.to_owned(),
        })),
        http_filters: vec![HttpFilter {
            name: "router".to_owned(),
            config_type: Some(http_filter::ConfigType::TypedConfig(pack_any(Router::default()))),
            ..HttpFilter::default()
        }],
        normalize_path: Some(yes()),
        use_remote_address: Some(yes()),
        generate_request_id: Some(yes()),
        server_header_transformation: ServerHeaderTransformation::PassThrough as i32,
        ..HttpConnectionManager::default()
    };
    Listener {
        name: NAME.to_owned(),
        address: Some(socket_address(address)),
        filter_chains: vec![FilterChain {
            filters: vec![Filter {
                name: "http".to_owned(),
                config_type: Some(ConfigType::TypedConfig(pack_any(manager))),
            }],
            ..FilterChain::default()
        }],
        ..Listener::default()
    }
}

fn route(prefix: &str, cluster: &str, retries: Retries) -> Route {
    let (retry_on, statuses) = match retries {
        Retries::Idempotent => (
            "connect-failure,refused-stream,reset,retriable-status-codes",
            vec![503],
        ),
        Retries::Other => ("connect-failure,refused-stream", Vec::new()),
    };
    let target = ClusterWeight {
        name: cluster.to_owned(),
        weight: Some(number(100)),
        request_headers_to_add: vec![HeaderValueOption {
            header: Some(HeaderValue {
                key: "x-tombolo-destination".to_owned(),
                value: "only.bench:8080".to_owned(),
                ..HeaderValue::default()
            }),
            append_action: HeaderAppendAction::OverwriteIfExistsOrAdd as i32,
            ..HeaderValueOption::default()
        }],
        ..ClusterWeight::default()
    };
    let forward = RouteAction {
        cluster_specifier: Some(ClusterSpecifier::WeightedClusters(WeightedCluster {
            clusters: vec![target],
            ..WeightedCluster::default()
        })),
        timeout: Some(span(Duration::from_secs(15))),
        retry_policy: Some(RetryPolicy {
            retry_on: retry_on.to_owned(),
            num_retries: Some(number(2)),
            retriable_status_codes: statuses,
            ..RetryPolicy::default()
        }),
        ..RouteAction::default()
    };
    Route {
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix(prefix.to_owned())),
            ..RouteMatch::default()
        }),
        action: Some(Action::Route(forward)),
        ..Route::default()
    }
}

fn virtual_host(name: &str, domain: &str, routes: Vec<Route>) -> VirtualHost {
    VirtualHost {
        name: name.to_owned(),
        domains: vec![domain.to_owned()],
        routes,
        ..VirtualHost::default()
    }
}

fn over_ads() -> ConfigSource {
    ConfigSource {
        resource_api_version: ApiVersion::V3 as i32,
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource::default())),
        ..ConfigSource::default()
    }
}

fn socket_address(at: SocketAddr) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: at.ip().to_string(),
            port_specifier: Some(PortSpecifier::PortValue(at.port().into())),
            ..SocketAddress::default()
        })),
    }
}

fn span(duration: Duration) -> PbDuration {
    PbDuration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: duration.subsec_nanos().cast_signed(),
    }
}

fn number(value: u32) -> UInt32Value {
    UInt32Value { value }
}

fn yes() -> BoolValue {
    BoolValue { value: true }
}
