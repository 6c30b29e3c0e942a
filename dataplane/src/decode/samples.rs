//! Resources for tests of what becomes of many of them.

use std::net::SocketAddr;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType, EdsClusterConfig, LbPolicy,
};
use envoy_types::pb::envoy::config::core::v3::address::Address as AddressKind;
use envoy_types::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{Address, AggregatedConfigSource, ConfigSource, SocketAddress};
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
};
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener, filter};
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::{
    DirectResponseAction, FilterConfig, Route, RouteConfiguration, RouteMatch, VirtualHost,
};
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    RouteSpecifier, ServerHeaderTransformation,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds, http_filter,
};
use envoy_types::pb::google::protobuf::{Any, Duration};
use envoy_types::util::pack_any;
use prost::Message;

use super::{RawResource, Update};
use crate::config::ResourceKind;

/// A resource with its name.
pub(crate) type Named = (String, RawResource);

pub(crate) fn update(kind: ResourceKind, resources: Vec<Named>, removed: &[&str]) -> Update {
    Update {
        kind,
        resources,
        removed: removed.iter().map(|name| (*name).to_owned()).collect(),
    }
}

pub(crate) fn cluster(name: &str, connect_timeout_s: i64) -> Named {
    let cluster = Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: Some(ads()),
            ..EdsClusterConfig::default()
        }),
        connect_timeout: Some(Duration {
            seconds: connect_timeout_s,
            nanos: 0,
        }),
        lb_policy: LbPolicy::LeastRequest as i32,
        ..Cluster::default()
    };
    named(name, &cluster)
}

/// At these ports of this machine.
pub(crate) fn endpoints(cluster: &str, ports: &[u16]) -> Named {
    let endpoint = |port: &u16| LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
            address: Some(address(([127, 0, 0, 1], *port).into())),
            ..Endpoint::default()
        })),
        ..LbEndpoint::default()
    };
    let assignment = ClusterLoadAssignment {
        cluster_name: cluster.to_owned(),
        endpoints: vec![LocalityLbEndpoints {
            lb_endpoints: ports.iter().map(endpoint).collect(),
            ..LocalityLbEndpoints::default()
        }],
        ..ClusterLoadAssignment::default()
    };
    named(cluster, &assignment)
}

pub(crate) fn listener(name: &str, at: SocketAddr, routes: &str) -> Named {
    let router = HttpFilter {
        name: "router".to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(pack_any(Router::default()))),
        ..HttpFilter::default()
    };
    let manager = HttpConnectionManager {
        route_specifier: Some(RouteSpecifier::Rds(Rds {
            config_source: Some(ads()),
            route_config_name: routes.to_owned(),
        })),
        http_filters: vec![router],
        server_header_transformation: ServerHeaderTransformation::PassThrough as i32,
        ..HttpConnectionManager::default()
    };
    let listener = Listener {
        name: name.to_owned(),
        address: Some(address(at)),
        filter_chains: vec![FilterChain {
            filters: vec![Filter {
                config_type: Some(filter::ConfigType::TypedConfig(pack_any(manager))),
                ..Filter::default()
            }],
            ..FilterChain::default()
        }],
        ..Listener::default()
    };
    named(name, &listener)
}

pub(crate) fn routes(name: &str, virtual_hosts: Vec<VirtualHost>) -> Named {
    let table = RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts,
        ..RouteConfiguration::default()
    };
    named(name, &table)
}

/// A host that answers by itself, at a domain of its name.
pub(crate) fn virtual_host(name: &str, status: u32) -> VirtualHost {
    let route = Route {
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix("/".to_owned())),
            ..RouteMatch::default()
        }),
        action: Some(Action::DirectResponse(DirectResponseAction {
            status,
            ..DirectResponseAction::default()
        })),
        ..Route::default()
    };
    VirtualHost {
        name: name.to_owned(),
        domains: vec![format!("{name}.example.com")],
        routes: vec![route],
        ..VirtualHost::default()
    }
}

/// What a host, a route or a table may say of the filter of that name.
pub(crate) fn turns_off(filter: &str) -> std::collections::HashMap<String, Any> {
    let off = FilterConfig {
        disabled: true,
        ..FilterConfig::default()
    };
    [(filter.to_owned(), pack_any(off))].into()
}

fn named(name: &str, message: &impl Message) -> Named {
    let raw = RawResource {
        version: "1".to_owned(),
        body: message.encode_to_vec(),
    };
    (name.to_owned(), raw)
}

fn address(of: SocketAddr) -> Address {
    Address {
        address: Some(AddressKind::SocketAddress(SocketAddress {
            address: of.ip().to_string(),
            port_specifier: Some(PortSpecifier::PortValue(of.port().into())),
            ..SocketAddress::default()
        })),
    }
}

fn ads() -> ConfigSource {
    ConfigSource {
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource::default())),
        ..ConfigSource::default()
    }
}
