//! Resources as the edge writes them (docs/xds.md), with what the tests vary as arguments.

use std::collections::HashMap;
use std::net::SocketAddr;

use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use envoy_types::pb::envoy::config::cluster::v3::{CircuitBreakers, Cluster};
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType, EdsClusterConfig, LbPolicy,
};
use envoy_types::pb::envoy::config::core::v3::address::Address as AddressKind;
use envoy_types::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use envoy_types::pb::envoy::config::core::v3::health_check::{HealthChecker, HttpHealthCheck};
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{
    Address, AggregatedConfigSource, ApiVersion, ConfigSource, DataSource, HealthCheck, HeaderValue,
    HeaderValueOption, Http2ProtocolOptions, HttpProtocolOptions as CommonHttpOptions, SocketAddress, data_source, header_value_option::HeaderAppendAction,
};
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
};
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener, filter};
use envoy_types::pb::envoy::config::route::v3::retry_policy::{
    RetryBackOff, RetryHostPredicate, RetryPriority, retry_host_predicate, retry_priority,
};
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::weighted_cluster::ClusterWeight;
use envoy_types::pb::envoy::config::route::v3::{
    DirectResponseAction, RetryPolicy, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost,
    WeightedCluster,
};
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds, http_connection_manager::ServerHeaderTransformation, http_filter,
};
use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use envoy_types::pb::envoy::extensions::retry::priority::previous_priorities::v3::PreviousPrioritiesConfig;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::explicit_http_config::ProtocolConfig;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions,
};
use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatchAndSubstitute, RegexMatcher};
use envoy_types::pb::envoy::r#type::v3::Int64Range;
use envoy_types::pb::google::protobuf::{Any, BoolValue, Duration, UInt32Value};
use envoy_types::util::pack_any;
use prost::Message;

/// `listener`, whose connection manager is changed.
pub(crate) fn with_manager(
    mut listener: Listener,
    change: impl FnOnce(&mut HttpConnectionManager),
) -> Listener {
    let filter = &mut listener.filter_chains[0].filters[0];
    let Some(filter::ConfigType::TypedConfig(config)) = &mut filter.config_type else {
        panic!("{filter:?} has no configuration");
    };
    let mut manager = HttpConnectionManager::decode(config.value.as_slice()).unwrap();
    change(&mut manager);
    *config = pack_any(manager);
    listener
}

/// `listener`, with filters by name in front of those that it has.
pub(crate) fn with_filters<'a>(
    listener: Listener,
    filters: impl IntoIterator<Item = (&'a str, Any)>,
) -> Listener {
    let filters = filters.into_iter().map(|(name, config)| HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(config)),
        ..Default::default()
    });
    with_manager(listener, |manager| {
        manager.http_filters.splice(0..0, filters);
    })
}

/// `listener`, which closes connections that are idle for so long.
pub(crate) fn with_idle_timeout(listener: Listener, idle_ms: u64) -> Listener {
    with_manager(listener, |manager| {
        manager.common_http_protocol_options = Some(CommonHttpOptions {
            idle_timeout: Some(millis(idle_ms)),
            ..Default::default()
        });
    })
}

pub(crate) fn listener(name: &str, address: SocketAddr, routes: &str) -> Listener {
    let manager = HttpConnectionManager {
        stat_prefix: name.to_owned(),
        route_specifier: Some(RouteSpecifier::Rds(Rds {
            route_config_name: routes.to_owned(),
            config_source: Some(ads()),
        })),
        http_filters: vec![HttpFilter {
            name: "envoy.filters.http.router".to_owned(),
            config_type: Some(http_filter::ConfigType::TypedConfig(pack_any(Router::default()))),
            ..Default::default()
        }],
        normalize_path: Some(BoolValue { value: true }),
        use_remote_address: Some(BoolValue { value: true }),
        generate_request_id: Some(BoolValue { value: true }),
        server_header_transformation: ServerHeaderTransformation::PassThrough as i32,
        ..Default::default()
    };
    let filter = Filter {
        name: "envoy.filters.network.http_connection_manager".to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(pack_any(manager))),
    };
    Listener {
        name: name.to_owned(),
        address: Some(self::address(address)),
        filter_chains: vec![FilterChain {
            filters: vec![filter],
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// One virtual host for every domain.
pub(crate) fn routes(name: &str, routes: Vec<Route>) -> RouteConfiguration {
    RouteConfiguration {
        name: name.to_owned(),
        ignore_port_in_host_matching: true,
        virtual_hosts: vec![VirtualHost {
            name: "all".to_owned(),
            domains: vec!["*".to_owned()],
            routes,
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// Everything below `prefix` goes to `cluster`.
pub(crate) fn to_cluster(prefix: &str, cluster: &str) -> Route {
    route(
        prefix,
        RouteAction {
            cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.to_owned())),
            ..Default::default()
        },
    )
}

pub(crate) fn to_weighted(prefix: &str, clusters: &[(&str, u32)]) -> Route {
    let clusters = clusters
        .iter()
        .map(|(name, weight)| ClusterWeight {
            name: (*name).to_owned(),
            weight: Some(UInt32Value { value: *weight }),
            request_headers_to_add: vec![set_header("x-tombolo-destination", name)],
            ..Default::default()
        })
        .collect();
    route(
        prefix,
        RouteAction {
            cluster_specifier: Some(ClusterSpecifier::WeightedClusters(WeightedCluster {
                clusters,
                ..Default::default()
            })),
            ..Default::default()
        },
    )
}

pub(crate) fn answer(prefix: &str, status: u32, body: &str) -> Route {
    Route {
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix(prefix.to_owned())),
            ..Default::default()
        }),
        action: Some(Action::DirectResponse(DirectResponseAction {
            status,
            body: Some(DataSource {
                specifier: Some(data_source::Specifier::InlineString(body.to_owned())),
                ..Default::default()
            }),
            ..Default::default()
        })),
        ..Default::default()
    }
}

/// `route`, with a timeout in milliseconds.
pub(crate) fn with_timeout(route: Route, timeout_ms: u64) -> Route {
    with_action(route, |action| action.timeout = Some(millis(timeout_ms)))
}

/// `route`, with what matches `pattern` in the path replaced.
pub(crate) fn with_rewrite(route: Route, pattern: &str, substitution: &str) -> Route {
    with_action(route, |action| {
        action.regex_rewrite = Some(RegexMatchAndSubstitute {
            pattern: Some(RegexMatcher {
                regex: pattern.to_owned(),
                ..Default::default()
            }),
            substitution: substitution.to_owned(),
        });
    })
}

/// `route`, retried elsewhere as the edge does it for what may be repeated.
pub(crate) fn with_retries(route: Route, retries: u32) -> Route {
    retried(
        route,
        retries,
        "connect-failure,refused-stream,reset,retriable-status-codes",
    )
}

/// `route`, retried elsewhere as the edge does it for what may not.
pub(crate) fn with_careful_retries(route: Route, retries: u32) -> Route {
    retried(route, retries, "connect-failure,refused-stream")
}

fn retried(route: Route, retries: u32, on: &str) -> Route {
    with_action(route, |action| {
        action.retry_policy = Some(RetryPolicy {
            retry_on: on.to_owned(),
            num_retries: Some(UInt32Value { value: retries }),
            retriable_status_codes: vec![503],
            retry_host_predicate: vec![RetryHostPredicate {
                name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
                config_type: Some(retry_host_predicate::ConfigType::TypedConfig(pack_any(
                    PreviousHostsPredicate::default(),
                ))),
            }],
            host_selection_retry_max_attempts: 20,
            retry_priority: Some(RetryPriority {
                name: "envoy.retry_priorities.previous_priorities".to_owned(),
                config_type: Some(retry_priority::ConfigType::TypedConfig(pack_any(
                    PreviousPrioritiesConfig { update_frequency: 1 },
                ))),
            }),
            retry_back_off: Some(RetryBackOff {
                base_interval: Some(millis(1)),
                max_interval: Some(millis(10)),
            }),
            ..Default::default()
        });
    })
}

pub(crate) fn cluster(name: &str) -> Cluster {
    Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: Some(ads()),
            ..Default::default()
        }),
        connect_timeout: Some(millis(500)),
        lb_policy: LbPolicy::LeastRequest as i32,
        close_connections_on_host_health_failure: true,
        circuit_breakers: Some(CircuitBreakers {
            thresholds: vec![Thresholds {
                max_retries: Some(UInt32Value { value: 1024 }),
                ..Default::default()
            }],
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// `cluster`, checked at `/healthz` every `interval_ms`.
pub(crate) fn with_checks(mut cluster: Cluster, interval_ms: u64, timeout_ms: u64) -> Cluster {
    cluster.health_checks = vec![HealthCheck {
        timeout: Some(millis(timeout_ms)),
        interval: Some(millis(interval_ms)),
        no_traffic_interval: Some(millis(interval_ms)),
        unhealthy_threshold: Some(UInt32Value { value: 2 }),
        healthy_threshold: Some(UInt32Value { value: 1 }),
        health_checker: Some(HealthChecker::HttpHealthCheck(HttpHealthCheck {
            path: "/healthz".to_owned(),
            expected_statuses: vec![Int64Range { start: 200, end: 300 }],
            ..Default::default()
        })),
        ..Default::default()
    }];
    cluster
}

/// `cluster`, with so much under way at once.
pub(crate) fn with_limits(mut cluster: Cluster, limits: Thresholds) -> Cluster {
    cluster.circuit_breakers = Some(CircuitBreakers {
        thresholds: vec![limits],
        ..Default::default()
    });
    cluster
}

/// `cluster`, spoken to in HTTP/2.
pub(crate) fn with_http2(mut cluster: Cluster) -> Cluster {
    let options = HttpProtocolOptions {
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(
                Http2ProtocolOptions::default(),
            )),
        })),
        ..Default::default()
    };
    cluster.typed_extension_protocol_options = HashMap::from([(
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions".to_owned(),
        pack_any(options),
    )]);
    cluster
}

/// One host per address, each with its priority.
pub(crate) fn endpoints(cluster: &str, hosts: &[(SocketAddr, u32)]) -> ClusterLoadAssignment {
    let endpoints = hosts
        .iter()
        .map(|(host, priority)| LocalityLbEndpoints {
            priority: *priority,
            lb_endpoints: vec![LbEndpoint {
                host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
                    address: Some(address(*host)),
                    ..Default::default()
                })),
                ..Default::default()
            }],
            ..Default::default()
        })
        .collect();
    ClusterLoadAssignment {
        cluster_name: cluster.to_owned(),
        endpoints,
        ..Default::default()
    }
}

pub(crate) fn set_header(name: &str, value: &str) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: name.to_owned(),
            value: value.to_owned(),
            ..Default::default()
        }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd as i32,
        ..Default::default()
    }
}

fn route(prefix: &str, action: RouteAction) -> Route {
    Route {
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix(prefix.to_owned())),
            ..Default::default()
        }),
        action: Some(Action::Route(action)),
        ..Default::default()
    }
}

fn with_action(mut route: Route, change: impl FnOnce(&mut RouteAction)) -> Route {
    if let Some(Action::Route(action)) = &mut route.action {
        change(action);
    }
    route
}

fn address(address: SocketAddr) -> Address {
    Address {
        address: Some(AddressKind::SocketAddress(SocketAddress {
            address: address.ip().to_string(),
            port_specifier: Some(PortSpecifier::PortValue(u32::from(address.port()))),
            ..Default::default()
        })),
    }
}

fn ads() -> ConfigSource {
    ConfigSource {
        resource_api_version: ApiVersion::V3 as i32,
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..Default::default()
    }
}

fn millis(value: u64) -> Duration {
    Duration {
        seconds: (value / 1000) as i64,
        nanos: (value % 1000) as i32 * 1_000_000,
    }
}
