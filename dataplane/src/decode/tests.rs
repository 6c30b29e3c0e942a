//! Each row changes one thing of a resource that is right, and names what the edge is told.
#![allow(clippy::unwrap_used)]

use envoy_types::pb::envoy::config::cluster::v3::Cluster as PbCluster;
use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::thresholds::RetryBudget;
use envoy_types::pb::envoy::config::cluster::v3::cluster::common_lb_config::LocalityConfigSpecifier;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, CommonLbConfig, DiscoveryType, EdsClusterConfig, LbConfig, LbPolicy, MaglevLbConfig, RingHashLbConfig,
};
use envoy_types::pb::envoy::config::core::v3::address::Address as AddressKind;
use envoy_types::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use envoy_types::pb::envoy::config::core::v3::health_check::{HealthChecker, HttpHealthCheck, TcpHealthCheck};
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{
    Address, AggregatedConfigSource, ConfigSource, HeaderValue, HeaderValueOption, HealthCheck as PbHealthCheck,
    Locality, SocketAddress, TypedExtensionConfig,
};
use envoy_types::pb::envoy::config::endpoint::v3::cluster_load_assignment::policy::DropOverload;
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint as PbEndpoint, LbEndpoint, LocalityLbEndpoints,
};
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener as PbListener, filter};
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::route::Action as PbAction;
use envoy_types::pb::envoy::config::route::v3::route_action::{ClusterSpecifier, MaxStreamDuration};
use envoy_types::pb::envoy::config::route::v3::redirect_action::SchemeRewriteSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::weighted_cluster::ClusterWeight;
use envoy_types::pb::envoy::config::route::v3::{
    DirectResponseAction, HeaderMatcher as PbHeaderMatcher, QueryParameterMatcher, RedirectAction, RetryPolicy as PbRetryPolicy, Route as PbRoute,
    RouteAction, RouteConfiguration, RouteMatch, VirtualHost, WeightedCluster,
};
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{RouteSpecifier, ServerHeaderTransformation};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds, http_filter,
};
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatchAndSubstitute, RegexMatcher, StringMatcher};
use envoy_types::pb::envoy::r#type::v3::{FractionalPercent, Int64Range, Percent};
use envoy_types::pb::google::protobuf::{BoolValue, Duration, UInt32Value, UInt64Value};
use envoy_types::util::pack_any;
use prost::Message;

use super::*;

/// A change that makes a resource wrong.
type Wrong<T> = fn(&mut T);

/// Decodes `right` after each change, and compares what the edge would be told.
fn check<T: Message + Clone>(kind: ResourceKind, right: &T, cases: &[(Wrong<T>, &str)]) {
    let outcome = |message: &T| {
        let raw = RawResource {
            version: "1".to_owned(),
            body: message.encode_to_vec(),
        };
        let update = Update {
            kind,
            resources: vec![("x".to_owned(), raw)],
            removed: vec![],
        };
        Resources::default()
            .with(&update)
            .map(drop)
            .map_err(|rejections| describe(&rejections))
    };
    assert_eq!(outcome(right), Ok(()), "the resource before any change");
    for (change, expected) in cases {
        let mut wrong = right.clone();
        change(&mut wrong);
        assert_eq!(outcome(&wrong), Err(format!("x: {expected}")));
    }
}

fn seconds(seconds: i64) -> Option<Duration> {
    Some(Duration { seconds, nanos: 0 })
}

fn duration(seconds: i64, nanos: i32) -> Option<Duration> {
    Some(Duration { seconds, nanos })
}

fn number(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

fn ads() -> Option<ConfigSource> {
    let ads = ConfigSourceSpecifier::Ads(AggregatedConfigSource {});
    Some(ConfigSource {
        config_source_specifier: Some(ads),
        ..Default::default()
    })
}

fn address(address: &str, port: u32) -> Option<Address> {
    let socket = SocketAddress {
        address: address.to_owned(),
        port_specifier: Some(PortSpecifier::PortValue(port)),
        ..Default::default()
    };
    Some(Address {
        address: Some(AddressKind::SocketAddress(socket)),
    })
}

#[test]
fn a_listener_is_as_the_contract_says() {
    fn manager(listener: &mut PbListener, change: impl FnOnce(&mut HttpConnectionManager)) {
        let mut manager = HttpConnectionManager {
            route_specifier: Some(RouteSpecifier::Rds(Rds {
                route_config_name: "r".to_owned(),
                config_source: ads(),
            })),
            http_filters: vec![HttpFilter {
                config_type: Some(http_filter::ConfigType::TypedConfig(pack_any(Router::default()))),
                ..Default::default()
            }],
            server_header_transformation: ServerHeaderTransformation::PassThrough as i32,
            ..Default::default()
        };
        change(&mut manager);
        listener.filter_chains[0].filters[0].config_type =
            Some(filter::ConfigType::TypedConfig(pack_any(manager)));
    }
    let mut right = PbListener {
        name: "x".to_owned(),
        address: address("127.0.0.1", 80),
        filter_chains: vec![FilterChain {
            filters: vec![Filter::default()],
            ..Default::default()
        }],
        ..Default::default()
    };
    manager(&mut right, |_| {});
    check(
        ResourceKind::Listener,
        &right,
        &[
            (
                |l| l.name = "y".to_owned(),
                "name: is \"y\", but the resource is named \"x\"",
            ),
            (|l| l.address = None, "address: is required"),
            (
                |l| l.address = address("localhost", 80),
                "address.socket_address.address: \"localhost\" is not an IP address",
            ),
            (
                |l| l.address = address("::1", 0),
                "address.socket_address.port_value: must be 1 to 65535",
            ),
            (
                |l| l.stat_prefix = "p".to_owned(),
                "stat_prefix: is not supported by this proxy",
            ),
            (
                |l| l.filter_chains.clear(),
                "filter_chains: at least one is required",
            ),
            (
                |l| l.filter_chains.push(l.filter_chains[0].clone()),
                "filter_chains[1].filter_chain_match: takes what filter_chains[0] takes",
            ),
            (
                |l| l.filter_chains[0].filters[0].config_type = None,
                "filter_chains[0].filters[0].typed_config: is required",
            ),
            (
                |l| {
                    let config = filter::ConfigType::TypedConfig(pack_any(Router::default()));
                    l.filter_chains[0].filters[0].config_type = Some(config);
                },
                "filter_chains[0].filters[0].typed_config: type.googleapis.com/envoy.extensions.filters.http.router.v3.Router is not supported here, expected type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            ),
            (
                |l| manager(l, |m| m.route_specifier = None),
                "filter_chains[0].http_connection_manager.route_specifier: only rds is supported",
            ),
            (
                |l| manager(l, |m| m.use_remote_address = Some(BoolValue { value: false })),
                "filter_chains[0].http_connection_manager.use_remote_address: false is not supported, only true",
            ),
            (
                |l| manager(l, |m| m.codec_type = 1),
                "filter_chains[0].http_connection_manager.codec_type: value 1 is not supported",
            ),
            (
                |l| manager(l, |m| m.path_with_escaped_slashes_action = 4),
                "filter_chains[0].http_connection_manager.path_with_escaped_slashes_action: value 4 is not supported",
            ),
            (
                |l| manager(l, |m| m.server_header_transformation = 0),
                "filter_chains[0].http_connection_manager.server_header_transformation: value 0 is not supported",
            ),
            (
                |l| manager(l, |m| m.merge_slashes = true),
                "filter_chains[0].http_connection_manager.merge_slashes: is not supported by this proxy",
            ),
            (
                |l| manager(l, |m| m.http_filters.insert(0, HttpFilter::default())),
                "filter_chains[0].http_connection_manager.http_filters[0].name: is required",
            ),
            (
                |l| {
                    manager(l, |m| {
                        let router = HttpFilter {
                            name: "again".to_owned(),
                            ..m.http_filters[0].clone()
                        };
                        m.http_filters[0].name = "router".to_owned();
                        m.http_filters.push(router);
                    });
                },
                "filter_chains[0].http_connection_manager.http_filters[0].typed_config: type.googleapis.com/envoy.extensions.filters.http.router.v3.Router is not supported here",
            ),
            (
                |l| manager(l, |m| m.access_log.push(Default::default())),
                "filter_chains[0].http_connection_manager.access_log[0].typed_config: is required",
            ),
            (
                |l| manager(l, |m| m.http_filters[0].disabled = true),
                "filter_chains[0].http_connection_manager.http_filters[0].disabled: is not supported by this proxy",
            ),
            (
                |l| manager(l, |m| m.http_filters.clear()),
                "filter_chains[0].http_connection_manager.http_filters: the router is required",
            ),
        ],
    );
}

mod arrival;
mod limits;
mod listener;
mod subset;
mod tls;

#[test]
fn a_cluster_is_as_the_contract_says() {
    let right = PbCluster {
        name: "x".to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: ads(),
            ..Default::default()
        }),
        lb_policy: LbPolicy::LeastRequest as i32,
        health_checks: vec![PbHealthCheck {
            timeout: seconds(1),
            interval: seconds(1),
            unhealthy_threshold: number(2),
            healthy_threshold: number(1),
            health_checker: Some(HealthChecker::TcpHealthCheck(TcpHealthCheck::default())),
            ..Default::default()
        }],
        ..Default::default()
    };
    fn http(cluster: &mut PbCluster, change: impl FnOnce(&mut HttpHealthCheck)) {
        let mut check = HttpHealthCheck {
            path: "/".to_owned(),
            ..Default::default()
        };
        change(&mut check);
        cluster.health_checks[0].health_checker = Some(HealthChecker::HttpHealthCheck(check));
    }
    fn breaker(cluster: &mut PbCluster, change: impl FnOnce(&mut Thresholds)) {
        let mut thresholds = Thresholds::default();
        change(&mut thresholds);
        let breakers = cluster.circuit_breakers.get_or_insert_default();
        breakers.thresholds.push(thresholds);
    }
    check(
        ResourceKind::Cluster,
        &right,
        &[
            (
                |c| {
                    c.common_lb_config = Some(CommonLbConfig {
                        locality_config_specifier: Some(LocalityConfigSpecifier::ZoneAwareLbConfig(
                            Default::default(),
                        )),
                        ..Default::default()
                    });
                },
                "common_lb_config.zone_aware_lb_config: is not supported",
            ),
            (
                |c| breaker(c, |t| t.max_connection_pools = number(1)),
                "circuit_breakers.thresholds[0].max_connection_pools: is not supported by this proxy",
            ),
            (
                |c| breaker(c, |t| t.priority = 1),
                "circuit_breakers.thresholds[0].priority: value 1 is not supported",
            ),
            (
                |c| {
                    breaker(c, |t| {
                        t.retry_budget = Some(RetryBudget {
                            budget_percent: Some(Percent { value: 101.0 }),
                            ..Default::default()
                        });
                    });
                },
                "circuit_breakers.thresholds[0].retry_budget.budget_percent: 101 is not a percentage",
            ),
            (
                |c| {
                    breaker(c, |_| {});
                    breaker(c, |_| {});
                },
                "circuit_breakers.thresholds: at most one is supported",
            ),
            (
                |c| c.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::Static as i32)),
                "type: only EDS and ORIGINAL_DST are supported",
            ),
            (|c| c.eds_cluster_config = None, "eds_cluster_config: is required"),
            (
                |c| c.eds_cluster_config.as_mut().unwrap().service_name = "s".to_owned(),
                "eds_cluster_config.service_name: is not supported by this proxy",
            ),
            (
                |c| c.lb_policy = LbPolicy::LoadBalancingPolicyConfig as i32,
                "lb_policy: value 7 is not supported",
            ),
            (
                |c| c.lb_config = Some(LbConfig::MaglevLbConfig(MaglevLbConfig::default())),
                "lb_config: is not supported with this lb_policy",
            ),
            (
                |c| {
                    c.lb_policy = LbPolicy::Maglev as i32;
                    let table_size = Some(UInt64Value { value: 65_536 });
                    c.lb_config = Some(LbConfig::MaglevLbConfig(MaglevLbConfig { table_size }));
                },
                "maglev_lb_config.table_size: must be a prime number of at most 5000011",
            ),
            (
                |c| {
                    c.lb_policy = LbPolicy::RingHash as i32;
                    c.lb_config = Some(LbConfig::RingHashLbConfig(RingHashLbConfig {
                        maximum_ring_size: Some(UInt64Value { value: 1000 }),
                        ..Default::default()
                    }));
                },
                "ring_hash_lb_config.minimum_ring_size: must be 1 to maximum_ring_size",
            ),
            (
                |c| {
                    c.lb_policy = LbPolicy::RingHash as i32;
                    c.lb_config = Some(LbConfig::RingHashLbConfig(RingHashLbConfig {
                        hash_function: 1,
                        ..Default::default()
                    }));
                },
                "ring_hash_lb_config.hash_function: value 1 is not supported",
            ),
            (
                |c| c.connect_timeout = seconds(0),
                "connect_timeout: must be more than 0",
            ),
            (
                |c| c.connect_timeout = seconds(-1),
                "connect_timeout: is negative",
            ),
            (
                |c| c.connect_timeout = seconds(315_360_001),
                "connect_timeout: is more than 315360000 s",
            ),
            (
                |c| c.connect_timeout = seconds(i64::MAX),
                "connect_timeout: is more than 315360000 s",
            ),
            (
                |c| c.connect_timeout = duration(315_360_000, 1),
                "connect_timeout: is more than 315360000 s",
            ),
            (
                |c| c.connect_timeout = duration(1, -1),
                "connect_timeout: has an invalid part of a second",
            ),
            (
                |c| c.connect_timeout = duration(1, 1_000_000_000),
                "connect_timeout: has an invalid part of a second",
            ),
            (
                |c| c.health_checks[0].interval = seconds(i64::MAX),
                "health_checks[0].interval: is more than 315360000 s",
            ),
            (
                |c| c.outlier_detection.get_or_insert_default().max_ejection_percent = number(101),
                "outlier_detection.max_ejection_percent: 101 is not a percentage",
            ),
            (
                |c| c.health_checks.push(c.health_checks[0].clone()),
                "health_checks: at most one is supported",
            ),
            (
                |c| c.health_checks[0].interval = None,
                "health_checks[0].interval: is required",
            ),
            (
                |c| c.health_checks[0].unhealthy_interval = seconds(1),
                "health_checks[0].unhealthy_interval: is not supported by this proxy",
            ),
            (
                |c| http(c, |h| h.path = "healthz".to_owned()),
                "health_checks[0].http_health_check.path: \"healthz\" does not start with a slash",
            ),
            (
                |c| {
                    http(c, |h| {
                        h.expected_statuses = vec![Int64Range { start: 300, end: 200 }];
                    });
                },
                "health_checks[0].http_health_check.expected_statuses[0]: 300..200 is not a range of status codes",
            ),
            (
                |c| http(c, |h| h.codec_client_type = 2),
                "health_checks[0].http_health_check.codec_client_type: value 2 is not supported",
            ),
            (
                |c| {
                    let threshold = Some(Percent { value: 101.0 });
                    c.common_lb_config = Some(CommonLbConfig {
                        healthy_panic_threshold: threshold,
                        ..Default::default()
                    });
                },
                "common_lb_config.healthy_panic_threshold: 101 is not a percentage",
            ),
            (
                |c| {
                    c.typed_extension_protocol_options
                        .insert("other".to_owned(), Default::default());
                },
                "typed_extension_protocol_options: other is not supported",
            ),
        ],
    );
}

#[test]
fn endpoints_are_as_the_contract_says() {
    let endpoint = |port| {
        let endpoint = PbEndpoint {
            address: address("10.0.0.1", port),
            ..Default::default()
        };
        LbEndpoint {
            host_identifier: Some(HostIdentifier::Endpoint(endpoint)),
            ..Default::default()
        }
    };
    let level = |priority| LocalityLbEndpoints {
        priority,
        lb_endpoints: vec![endpoint(80 + priority)],
        ..Default::default()
    };
    fn dropping(endpoints: &mut ClusterLoadAssignment, drops: &[(&str, u32)]) {
        let drops = drops.iter().map(|(category, percent)| DropOverload {
            category: (*category).to_owned(),
            drop_percentage: Some(FractionalPercent {
                numerator: *percent,
                ..Default::default()
            }),
        });
        endpoints.policy.get_or_insert_default().drop_overloads = drops.collect();
    }
    // Endpoints are kept for clusters that are known, but refused either way.
    let right = ClusterLoadAssignment {
        cluster_name: "x".to_owned(),
        endpoints: vec![level(0), level(1)],
        ..Default::default()
    };
    check(
        ResourceKind::Endpoints,
        &right,
        &[
            (
                |e| e.cluster_name.clear(),
                "cluster_name: is \"\", but the resource is named \"x\"",
            ),
            (
                |e| e.endpoints[1].priority = 2,
                "endpoints: no endpoint has priority 1, but a later one is used",
            ),
            (
                |e| e.endpoints[0].priority = 1,
                "endpoints: no endpoint has priority 0, but a later one is used",
            ),
            (
                |e| e.endpoints[1].priority = 129,
                "endpoints[1].priority: 129 is more than 128",
            ),
            (
                |e| e.endpoints[0].lb_endpoints[0].host_identifier = None,
                "endpoints[0].lb_endpoints[0].endpoint: is required",
            ),
            (
                |e| e.endpoints[0].lb_endpoints[0].health_status = 5,
                "endpoints[0].lb_endpoints[0].health_status: value 5 is not supported",
            ),
            (
                |e| e.endpoints[0].lb_endpoints[0].load_balancing_weight = number(0),
                "endpoints[0].lb_endpoints[0].load_balancing_weight: must be more than 0",
            ),
            (
                |e| {
                    let endpoints = &mut e.endpoints[0].lb_endpoints;
                    let heavy = LbEndpoint {
                        load_balancing_weight: number(u32::MAX),
                        ..endpoints[0].clone()
                    };
                    endpoints.push(heavy);
                },
                "endpoints: the weights of priority 0 are more than 4294967295 together",
            ),
            (
                |e| e.endpoints[0].load_balancing_weight = number(0),
                "endpoints[0].load_balancing_weight: must be more than 0",
            ),
            (
                |e| {
                    let mut other = e.endpoints[0].clone();
                    other.locality = Some(Locality::default());
                    other.locality.as_mut().unwrap().zone = "other".to_owned();
                    e.endpoints.push(other);
                    e.endpoints[0].load_balancing_weight = number(1);
                    e.endpoints[2].load_balancing_weight = number(u32::MAX);
                },
                "endpoints: of localities, the weights of priority 0 are more than 4294967295 together",
            ),
            (
                |e| dropping(e, &[("", 1)]),
                "policy.drop_overloads[0].category: is required",
            ),
            (
                |e| dropping(e, &[("a", 101)]),
                "policy.drop_overloads[0].drop_percentage.numerator: is more than all",
            ),
            (
                |e| dropping(e, &[("a", 1), ("b", 1)]),
                "policy.drop_overloads: at most one is supported",
            ),
            (
                |e| e.policy.get_or_insert_default().weighted_priority_health = true,
                "policy.weighted_priority_health: is not supported by this proxy",
            ),
            (
                |e| {
                    e.policy = Some(Default::default());
                    e.policy.as_mut().unwrap().overprovisioning_factor = number(0);
                },
                "policy.overprovisioning_factor: must be more than 0",
            ),
        ],
    );
}

#[test]
fn those_of_one_place_are_of_one_locality() {
    let at = |zone: &str, priority, weight, port| LocalityLbEndpoints {
        locality: Some(Locality {
            zone: zone.to_owned(),
            ..Default::default()
        }),
        priority,
        load_balancing_weight: weight,
        lb_endpoints: vec![LbEndpoint {
            host_identifier: Some(HostIdentifier::Endpoint(PbEndpoint {
                address: address("10.0.0.1", port),
                ..Default::default()
            })),
            ..Default::default()
        }],
        ..Default::default()
    };
    let assignment = ClusterLoadAssignment {
        cluster_name: "x".to_owned(),
        endpoints: vec![
            at("b", 0, number(3), 1),
            at("a", 1, number(9), 2),
            at("a", 0, None, 3),
            at("b", 0, None, 4),
            at("b", 0, number(5), 5),
        ],
        ..Default::default()
    };
    let endpoints = endpoints::decode("x", &assignment.encode_to_vec()).unwrap();
    let localities: Vec<_> = endpoints
        .endpoints
        .iter()
        .map(|endpoint| {
            let locality = endpoint.locality;
            (endpoint.address.port(), locality.nth, locality.weight)
        })
        .collect();
    assert_eq!(
        localities,
        [(1, 1, 5), (2, 2, 9), (3, 0, 0), (4, 1, 5), (5, 1, 5)]
    );
}

#[test]
fn routes_are_as_the_contract_says() {
    fn route(config: &mut RouteConfiguration) -> &mut PbRoute {
        &mut config.virtual_hosts[0].routes[0]
    }
    fn action(config: &mut RouteConfiguration) -> &mut RouteAction {
        match &mut route(config).action {
            Some(PbAction::Route(action)) => action,
            _ => unreachable!(),
        }
    }
    fn weighted(config: &mut RouteConfiguration, weights: &[u32]) {
        let clusters = weights
            .iter()
            .map(|weight| ClusterWeight {
                name: "c".to_owned(),
                weight: number(*weight),
                ..Default::default()
            })
            .collect();
        action(config).cluster_specifier = Some(ClusterSpecifier::WeightedClusters(WeightedCluster {
            clusters,
            ..Default::default()
        }));
    }
    fn header(config: &mut RouteConfiguration, name: &str, specifier: HeaderMatchSpecifier) {
        route(config).r#match.as_mut().unwrap().headers = vec![PbHeaderMatcher {
            name: name.to_owned(),
            header_match_specifier: Some(specifier),
            ..Default::default()
        }];
    }
    fn string(pattern: MatchPattern) -> HeaderMatchSpecifier {
        HeaderMatchSpecifier::StringMatch(StringMatcher {
            match_pattern: Some(pattern),
            ..Default::default()
        })
    }
    fn regex(regex: &str) -> HeaderMatchSpecifier {
        string(MatchPattern::SafeRegex(RegexMatcher {
            regex: regex.to_owned(),
            ..Default::default()
        }))
    }
    fn added(config: &mut RouteConfiguration, name: &str, value: &str, append_action: i32) {
        let header = HeaderValue {
            key: name.to_owned(),
            value: value.to_owned(),
            ..Default::default()
        };
        route(config).request_headers_to_add = vec![HeaderValueOption {
            header: Some(header),
            append_action,
            ..Default::default()
        }];
    }
    fn retried(config: &mut RouteConfiguration, change: impl FnOnce(&mut PbRetryPolicy)) {
        let mut policy = PbRetryPolicy {
            retry_on: "reset".to_owned(),
            ..Default::default()
        };
        change(&mut policy);
        action(config).retry_policy = Some(policy);
    }
    let right = RouteConfiguration {
        name: "x".to_owned(),
        ignore_port_in_host_matching: true,
        virtual_hosts: vec![VirtualHost {
            domains: vec!["a".to_owned()],
            routes: vec![PbRoute {
                r#match: Some(RouteMatch {
                    path_specifier: Some(PathSpecifier::Prefix("/".to_owned())),
                    ..Default::default()
                }),
                action: Some(PbAction::Route(RouteAction {
                    cluster_specifier: Some(ClusterSpecifier::Cluster("c".to_owned())),
                    ..Default::default()
                })),
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    };
    check(
        ResourceKind::Routes,
        &right,
        &[
            (
                |r| r.virtual_hosts.push(r.virtual_hosts[0].clone()),
                "virtual_hosts[1].name: \"\" is another virtual host's too",
            ),
            (
                |r| {
                    let mut host = r.virtual_hosts[0].clone();
                    host.name = "another".to_owned();
                    r.virtual_hosts.push(host);
                },
                "virtual_hosts[1].domains: domain a is listed twice",
            ),
            (
                |r| r.virtual_hosts[0].include_request_attempt_count = true,
                "virtual_hosts[0].include_request_attempt_count: is not supported by this proxy",
            ),
            (
                |r| route(r).r#match = None,
                "virtual_hosts[0].routes[0].match: is required",
            ),
            (
                |r| {
                    let path = PathSpecifier::PathMatchPolicy(TypedExtensionConfig::default());
                    route(r).r#match.as_mut().unwrap().path_specifier = Some(path);
                },
                "virtual_hosts[0].routes[0].match.path_specifier: only path, prefix, path_separated_prefix, safe_regex and connect_matcher are supported",
            ),
            (
                |r| header(r, "x", regex("(")),
                "virtual_hosts[0].routes[0].match.headers[0].string_match.safe_regex.regex: is not a regular expression that can be had: error: unclosed group",
            ),
            (
                |r| header(r, ":scheme", regex("http")),
                "virtual_hosts[0].routes[0].match.headers[0].name: \":scheme\" is not a header name",
            ),
            (
                |r| header(r, "x", string(MatchPattern::Prefix(String::new()))),
                "virtual_hosts[0].routes[0].match.headers[0].string_match.prefix: is empty",
            ),
            (
                |r| {
                    header(r, "x", regex("a"));
                    let matcher = &mut route(r).r#match.as_mut().unwrap().headers[0];
                    match matcher.header_match_specifier.as_mut() {
                        Some(HeaderMatchSpecifier::StringMatch(string)) => string.ignore_case = true,
                        _ => unreachable!(),
                    }
                },
                "virtual_hosts[0].routes[0].match.headers[0].string_match.ignore_case: is not supported beside safe_regex",
            ),
            (
                |r| route(r).action = None,
                "virtual_hosts[0].routes[0].action: is required",
            ),
            (
                |r| {
                    let direct = DirectResponseAction {
                        status: 1000,
                        ..Default::default()
                    };
                    route(r).action = Some(PbAction::DirectResponse(direct));
                },
                "virtual_hosts[0].routes[0].direct_response.status: must be 200 to 599",
            ),
            (
                |r| weighted(r, &[0, 0]),
                "virtual_hosts[0].routes[0].route.weighted_clusters: the weights add up to 0",
            ),
            (
                |r| weighted(r, &[10_001]),
                "virtual_hosts[0].routes[0].route.weighted_clusters.clusters[0].weight: 10001 is more than 10000",
            ),
            (
                // Their sum would not fit 32 bits.
                |r| weighted(r, &vec![10_000; 429_497]),
                "virtual_hosts[0].routes[0].route.weighted_clusters: the weights add up to more than 4294967295",
            ),
            (
                |r| action(r).timeout = seconds(i64::MAX),
                "virtual_hosts[0].routes[0].route.timeout: is more than 315360000 s",
            ),
            (
                |r| retried(r, |p| p.per_try_timeout = seconds(i64::MAX)),
                "virtual_hosts[0].routes[0].route.retry_policy.per_try_timeout: is more than 315360000 s",
            ),
            (
                |r| retried(r, |p| p.host_selection_retry_max_attempts = 1001),
                "virtual_hosts[0].routes[0].route.retry_policy.host_selection_retry_max_attempts: must be 0 to 1000",
            ),
            (
                |r| {
                    action(r).prefix_rewrite = "/b".to_owned();
                    action(r).regex_rewrite = Some(RegexMatchAndSubstitute::default());
                },
                "virtual_hosts[0].routes[0].route.prefix_rewrite: is not supported beside regex_rewrite",
            ),
            (
                |r| action(r).idle_timeout = seconds(-1),
                "virtual_hosts[0].routes[0].route.idle_timeout: is negative",
            ),
            (
                |r| action(r).internal_redirect_policy = Some(Default::default()),
                "virtual_hosts[0].routes[0].route.internal_redirect_policy: is not supported by this proxy",
            ),
            (
                |r| {
                    action(r).max_stream_duration = Some(MaxStreamDuration {
                        grpc_timeout_header_max: duration(-1, 0),
                        ..Default::default()
                    });
                },
                "virtual_hosts[0].routes[0].route.max_stream_duration.grpc_timeout_header_max: is negative",
            ),
            (
                |r| {
                    retried(r, |p| {
                        p.retriable_headers = vec![PbHeaderMatcher {
                            name: ":path".to_owned(),
                            ..Default::default()
                        }];
                    });
                },
                "virtual_hosts[0].routes[0].route.retry_policy.retriable_headers[0].name: is not of an answer",
            ),
            (
                |r| retried(r, |p| p.retry_on = "reset,http3-post-connect-failure".to_owned()),
                "virtual_hosts[0].routes[0].route.retry_policy.retry_on: http3-post-connect-failure is not supported",
            ),
            (
                |r| retried(r, |p| p.retriable_status_codes = vec![99]),
                "virtual_hosts[0].routes[0].route.retry_policy.retriable_status_codes: not a status code",
            ),
            (
                |r| retried(r, |p| p.retry_host_predicate = vec![Default::default()]),
                "virtual_hosts[0].routes[0].route.retry_policy.retry_host_predicate[0].typed_config: is required",
            ),
            (
                |r| retried(r, |p| p.per_try_idle_timeout = seconds(-1)),
                "virtual_hosts[0].routes[0].route.retry_policy.per_try_idle_timeout: is negative",
            ),
            (
                |r| added(r, "x", "v", 1),
                "virtual_hosts[0].routes[0].request_headers_to_add[0].append_action: value 1 is not supported",
            ),
            (
                |r| added(r, "x", "%REQ(a)%", 2),
                "virtual_hosts[0].routes[0].request_headers_to_add[0].header.value: \"%REQ(a)%\" has a %, and substitutions are not supported",
            ),
            (
                |r| added(r, "Host", "v", 2),
                "virtual_hosts[0].routes[0].request_headers_to_add[0].header.key: host cannot be changed",
            ),
            (
                |r| added(r, "Transfer-Encoding", "chunked", 2),
                "virtual_hosts[0].routes[0].request_headers_to_add[0].header.key: transfer-encoding cannot be changed",
            ),
            (
                |r| route(r).request_headers_to_remove = vec!["x".to_owned(), "content-length".to_owned()],
                "virtual_hosts[0].routes[0].request_headers_to_remove[1]: content-length cannot be changed",
            ),
            (
                |r| route(r).response_headers_to_remove = vec!["Keep-Alive".to_owned()],
                "virtual_hosts[0].routes[0].response_headers_to_remove[0]: keep-alive cannot be changed",
            ),
            (
                |r| {
                    let present = QueryParameterMatcher {
                        name: "q".to_owned(),
                        query_parameter_match_specifier: Some(QueryParameterMatchSpecifier::PresentMatch(
                            false,
                        )),
                    };
                    route(r).r#match.as_mut().unwrap().query_parameters = vec![present];
                },
                "virtual_hosts[0].routes[0].match.query_parameters[0].present_match: false is not supported, only true",
            ),
            (
                |r| {
                    let redirect = RedirectAction {
                        scheme_rewrite_specifier: Some(SchemeRewriteSpecifier::SchemeRedirect(
                            "ftp".to_owned(),
                        )),
                        ..Default::default()
                    };
                    route(r).action = Some(PbAction::Redirect(redirect));
                },
                "virtual_hosts[0].routes[0].redirect.scheme_rewrite_specifier: only http and https are supported",
            ),
            (
                |r| {
                    let redirect = RedirectAction {
                        port_redirect: 65_536,
                        ..Default::default()
                    };
                    route(r).action = Some(PbAction::Redirect(redirect));
                },
                "virtual_hosts[0].routes[0].redirect.port_redirect: 65536 is not a port",
            ),
            (
                |r| {
                    route(r).action = Some(PbAction::Redirect(RedirectAction::default()));
                    route(r).response_headers_to_remove = vec!["server".to_owned()];
                },
                "virtual_hosts[0].routes[0].response_headers_to_remove: is not supported by this proxy",
            ),
            (
                |r| {
                    action(r).regex_rewrite = Some(RegexMatchAndSubstitute {
                        pattern: Some(RegexMatcher {
                            regex: "^/a".to_owned(),
                            ..Default::default()
                        }),
                        substitution: "/\\1".to_owned(),
                    });
                },
                "virtual_hosts[0].routes[0].route.regex_rewrite.substitution: \\1 is no group of the pattern",
            ),
            (
                |r| route(r).request_headers_to_remove = vec!["a b".to_owned()],
                "virtual_hosts[0].routes[0].request_headers_to_remove[0]: \"a b\" is not a header name",
            ),
        ],
    );
}

fn raw(message: &impl Message) -> RawResource {
    RawResource {
        version: "1".to_owned(),
        body: message.encode_to_vec(),
    }
}

#[test]
fn every_refused_resource_of_an_update_is_named() {
    let update = Update {
        kind: ResourceKind::Cluster,
        resources: vec![
            (
                "a".to_owned(),
                RawResource {
                    version: "1".to_owned(),
                    body: vec![0xff],
                },
            ),
            (
                "b".to_owned(),
                raw(&PbCluster {
                    name: "b".to_owned(),
                    ..Default::default()
                }),
            ),
            // Field 9999, which no version of the message has.
            (
                "c".to_owned(),
                RawResource {
                    version: "1".to_owned(),
                    body: vec![0xf8, 0xf0, 0x04, 0x01],
                },
            ),
        ],
        removed: vec![],
    };
    let told = describe(&Resources::default().with(&update).unwrap_err());
    let parts: Vec<&str> = told.split("; ").collect();
    assert!(parts[0].starts_with("a: not a valid message"), "{told}");
    assert_eq!(parts[1], "b: type: only EDS and ORIGINAL_DST are supported");
    assert_eq!(
        parts[2],
        "c: has fields that this proxy's version of the Envoy API does not know"
    );
}

#[test]
fn what_is_refused_is_left_out() {
    for (refused, removed, expected) in [
        (&["b"][..], &[][..], Some(&["a", "c"][..])),
        (&["a", "b", "c"], &[], None),
        (&["a", "b", "c"], &["x"], Some(&[])),
        // All of it is refused, or somebody else for its sake.
        (&[""], &[], None),
        (&["other"], &["x"], None),
    ] {
        let resource = |name: &&str| (name.to_string(), raw(&PbCluster::default()));
        let rejection = |name: &&str| Rejection {
            name: name.to_string(),
            reason: "is wrong".to_owned(),
        };
        let update = Update {
            kind: ResourceKind::Cluster,
            resources: ["a", "b", "c"].iter().map(resource).collect(),
            removed: removed.iter().map(ToString::to_string).collect(),
        };
        let left = update.without(&refused.iter().map(rejection).collect::<Vec<_>>());
        let expected = expected.map(|names: &[&str]| names.iter().map(ToString::to_string).collect());
        let names = left.map(|left| {
            left.resources
                .into_iter()
                .map(|(name, _)| name)
                .collect::<Vec<_>>()
        });
        assert_eq!(names, expected, "{refused:?}");
    }
}

#[test]
fn what_nothing_mentions_is_forgotten() {
    let cluster = PbCluster {
        name: "x".to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: ads(),
            ..Default::default()
        }),
        lb_policy: LbPolicy::LeastRequest as i32,
        ..Default::default()
    };
    let endpoints = ClusterLoadAssignment {
        cluster_name: "x".to_owned(),
        ..Default::default()
    };
    let put = |kind, raw| Update {
        kind,
        resources: vec![("x".to_owned(), raw)],
        removed: vec![],
    };
    let held = Resources::default()
        .with(&put(ResourceKind::Cluster, raw(&cluster)))
        .unwrap();
    let held = held.with(&put(ResourceKind::Endpoints, raw(&endpoints))).unwrap();
    assert_eq!(held.held(ResourceKind::Endpoints).count(), 1);
    let removal = Update {
        kind: ResourceKind::Cluster,
        resources: vec![],
        removed: vec!["x".to_owned(), "y".to_owned()],
    };
    let held = held.with(&removal).unwrap();
    assert_eq!(
        held.held(ResourceKind::Cluster).count() + held.held(ResourceKind::Endpoints).count(),
        0
    );
    assert!(held.config().endpoints.is_empty());
}
