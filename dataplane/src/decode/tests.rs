//! Each row changes one thing of a resource that is right, and names what the edge is told.
#![allow(clippy::unwrap_used)]

use envoy_types::pb::envoy::config::cluster::v3::Cluster as PbCluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig, LbConfig, LbPolicy};
use envoy_types::pb::envoy::config::core::v3::address::Address as AddressKind;
use envoy_types::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{Address, AggregatedConfigSource, ConfigSource, HealthCheck as PbHealthCheck, SocketAddress};
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, LbEndpoint};
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener as PbListener, filter};
use envoy_types::pb::envoy::config::route::v3::route::Action as PbAction;
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::weighted_cluster::ClusterWeight;
use envoy_types::pb::envoy::config::route::v3::{Route as PbRoute, RouteAction, RouteMatch, VirtualHost, WeightedCluster};
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{RouteSpecifier, ServerHeaderTransformation};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{HttpConnectionManager, HttpFilter, Rds, http_filter};
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::StringMatcher;
use envoy_types::pb::google::protobuf::{BoolValue, Duration, UInt32Value};
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
mod clusters;
mod endpoint_sets;
mod limits;
mod listener;
mod route_tables;
mod subset;
mod tls;

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
