//! `envoy.config.listener.v3.Listener`: one HTTP connection manager whose routes come from ADS.

use envoy_types::pb::envoy::config::listener::v3::filter::ConfigType as FilterConfig;
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener as PbListener};
use envoy_types::pb::envoy::extensions::filters::http::cors::v3::Cors;
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::HttpFault;
use envoy_types::pb::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit;
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::Rbac;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    CodecType, RouteSpecifier, ServerHeaderTransformation, UpgradeConfig,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_filter::ConfigType as HttpFilterConfig;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds,
};
use envoy_types::pb::google::protobuf::Any;
use envoy_types::util::pack_any;
use tombolo_compiler::proxy::{Filter as RouteFilter, Listener};

use super::{address, ads, quota, token, yes};

const CONNECTION_MANAGER: &str = "envoy.filters.network.http_connection_manager";
const ROUTER: &str = "envoy.filters.http.router";
pub(super) const CORS: &str = "envoy.filters.http.cors";
pub(super) const JWT: &str = "envoy.filters.http.jwt_authn";
/// Two filters of one kind, each with one action.
pub(super) const DENY: &str = "envoy.filters.http.rbac.deny";
pub(super) const ALLOW: &str = "envoy.filters.http.rbac.allow";
pub(super) const FAULT: &str = "envoy.filters.http.fault";
/// Every application may speak it: what it is let through by are routes, like any request.
const WEBSOCKET: &str = "websocket";
pub(super) const RATE_LIMIT: &str = "envoy.filters.http.local_ratelimit";

pub(super) fn encode(name: &str, listener: &Listener) -> PbListener {
    let filter = Filter {
        name: CONNECTION_MANAGER.to_owned(),
        config_type: Some(FilterConfig::TypedConfig(pack_any(connection_manager(
            name, listener,
        )))),
    };
    PbListener {
        name: name.to_owned(),
        address: Some(address(listener.bind)),
        filter_chains: vec![FilterChain {
            filters: vec![filter],
            ..FilterChain::default()
        }],
        ..PbListener::default()
    }
}

fn connection_manager(name: &str, listener: &Listener) -> HttpConnectionManager {
    // Each does nothing but where a host or a route says so; the router is last.
    let filters = listener.filters.iter().flat_map(|filter| {
        let one = |name, config| vec![http_filter(name, config)];
        match filter {
            RouteFilter::Cors => one(CORS, pack_any(Cors {})),
            RouteFilter::Jwt => one(JWT, pack_any(token::authentication(&listener.issuers))),
            RouteFilter::Deny => one(DENY, pack_any(Rbac::default())),
            RouteFilter::Allow => one(ALLOW, pack_any(Rbac::default())),
            RouteFilter::RateLimit => one(RATE_LIMIT, pack_any(unlimited(name))),
            RouteFilter::Quota => {
                let quotas = listener.quotas.iter();
                quotas
                    .map(|(host, limit)| quota::of_listener(host, limit))
                    .collect()
            }
            RouteFilter::Fault => one(FAULT, pack_any(HttpFault::default())),
        }
    });
    HttpConnectionManager {
        stat_prefix: name.to_owned(),
        codec_type: CodecType::Auto as i32,
        route_specifier: Some(RouteSpecifier::Rds(Rds {
            config_source: Some(ads()),
            route_config_name: listener.route_table.clone(),
        })),
        http_filters: filters.chain([router()]).collect(),
        normalize_path: Some(yes()),
        // Appends to x-forwarded-for, and trusts nobody to have done so before.
        use_remote_address: Some(yes()),
        generate_request_id: Some(yes()),
        server_header_transformation: ServerHeaderTransformation::PassThrough as i32,
        upgrade_configs: vec![UpgradeConfig {
            upgrade_type: WEBSOCKET.to_owned(),
            ..UpgradeConfig::default()
        }],
        ..HttpConnectionManager::default()
    }
}

/// Envoy demands a name for what it counts, here and on every host.
pub(super) fn unlimited(stat_prefix: &str) -> LocalRateLimit {
    LocalRateLimit {
        stat_prefix: stat_prefix.to_owned(),
        ..LocalRateLimit::default()
    }
}

pub(super) fn router() -> HttpFilter {
    http_filter(ROUTER, pack_any(Router::default()))
}

pub(super) fn http_filter(name: &str, config: Any) -> HttpFilter {
    HttpFilter {
        name: name.to_owned(),
        config_type: Some(HttpFilterConfig::TypedConfig(config)),
        ..HttpFilter::default()
    }
}
