//! The filters of the one listener, in the order of docs/xds.md. Those that can be are idle but where a route says what they do.

use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;
use envoy_types::pb::envoy::config::route::v3::{FilterConfig, Route};
use envoy_types::pb::envoy::extensions::compression::gzip::compressor::v3::Gzip;
use envoy_types::pb::envoy::extensions::filters::http::buffer::v3::Buffer;
use envoy_types::pb::envoy::extensions::filters::http::compressor::v3::Compressor;
use envoy_types::pb::envoy::extensions::filters::http::cors::v3::Cors;
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::HttpFault;
use envoy_types::pb::envoy::extensions::filters::http::grpc_web::v3::GrpcWeb;
use envoy_types::pb::envoy::extensions::filters::http::header_mutation::v3::HeaderMutation;
use envoy_types::pb::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit;
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::Rbac;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpFilter, http_filter,
};
use envoy_types::pb::google::protobuf::{Any, UInt32Value};
use envoy_types::util::pack_any;

use super::tokens;

pub(super) const CALLS_OF_PAGES: &str = "envoy.filters.http.grpc_web";
pub(super) const COMPRESSOR: &str = "envoy.filters.http.compressor";
pub(super) const CORS: &str = "envoy.filters.http.cors";
pub(super) const TOKENS: &str = "envoy.filters.http.jwt_authn";
pub(super) const ACCESS: &str = "envoy.filters.http.rbac";
pub(super) const LIMIT: &str = "envoy.filters.http.local_ratelimit";
pub(super) const BODIES: &str = "envoy.filters.http.buffer";
pub(super) const FAULT: &str = "envoy.filters.http.fault";
pub(super) const MUTATION: &str = "envoy.filters.http.header_mutation";

pub(super) fn of_listener() -> Vec<HttpFilter> {
    let filter = |name: &str, config| HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(config)),
        ..HttpFilter::default()
    };
    let off = |filter| HttpFilter {
        disabled: true,
        ..filter
    };
    let compressor = Compressor {
        compressor_library: Some(TypedExtensionConfig {
            name: "gzip".to_owned(),
            typed_config: Some(pack_any(Gzip::default())),
        }),
        ..Compressor::default()
    };
    let limit = LocalRateLimit {
        stat_prefix: "raw".to_owned(),
        ..LocalRateLimit::default()
    };
    let bodies = Buffer {
        max_request_bytes: Some(UInt32Value { value: 1000 }),
    };
    vec![
        off(filter(CALLS_OF_PAGES, pack_any(GrpcWeb::default()))),
        off(filter(COMPRESSOR, pack_any(compressor))),
        filter(CORS, pack_any(Cors::default())),
        filter(TOKENS, pack_any(tokens::authentication())),
        filter(ACCESS, pack_any(Rbac::default())),
        filter(LIMIT, pack_any(limit)),
        off(filter(BODIES, pack_any(bodies))),
        filter(FAULT, pack_any(HttpFault::default())),
        filter(MUTATION, pack_any(HeaderMutation::default())),
    ]
}

/// What a route says to switch a filter on that its listener has switched off.
pub(super) fn on() -> Any {
    pack_any(FilterConfig {
        config: Some(Any::default()),
        ..FilterConfig::default()
    })
}

/// The route, saying this to a filter.
pub(super) fn told(route: Route, filter: &str, config: Any) -> Route {
    let mut route = route;
    route.typed_per_filter_config.insert(filter.to_owned(), config);
    route
}
