//! HTTP filters: those of a listener, and what routes say of them instead. A kind is known by the type of its configuration, as
//! in Envoy; the name is what joins the two.

use std::collections::HashMap;
use std::fmt;
use std::mem::take;
use std::sync::Arc;

use envoy_types::pb::envoy::config::route::v3::FilterConfig;
use envoy_types::pb::envoy::extensions::filters::http::buffer::v3::{Buffer, BufferPerRoute};
use envoy_types::pb::envoy::extensions::filters::http::compressor::v3::{Compressor, CompressorPerRoute};
use envoy_types::pb::envoy::extensions::filters::http::cors::v3::{Cors, CorsPolicy};
use envoy_types::pb::envoy::extensions::filters::http::decompressor::v3::Decompressor;
use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::{ExtAuthz, ExtAuthzPerRoute};
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::HttpFault;
use envoy_types::pb::envoy::extensions::filters::http::grpc_web::v3::GrpcWeb;
use envoy_types::pb::envoy::extensions::filters::http::header_mutation::v3::{
    HeaderMutation, HeaderMutationPerRoute,
};
use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::{JwtAuthentication, PerRouteConfig};
use envoy_types::pb::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit;
use envoy_types::pb::envoy::extensions::filters::http::rate_limit_quota::v3::{
    RateLimitQuotaFilterConfig, RateLimitQuotaOverride,
};
use envoy_types::pb::envoy::extensions::filters::http::ratelimit::v3::{RateLimit, RateLimitPerRoute};
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::{Rbac, RbacPerRoute};
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::http::stateful_session::v3::{
    StatefulSession, StatefulSessionPerRoute,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_filter::ConfigType;
use envoy_types::pb::google::protobuf::Any;
use prost::Name;

use super::fields::{At, Reason, any, done};
use crate::filter::{Filter, ListenerFilter, Override, Overrides};

mod body_limit;
mod compressor;
mod cors;
mod decompressor;
mod ext_authz;
mod fault;
mod header_mutation;
mod jwt;
mod local_ratelimit;
mod quota;
mod rate_limit;
mod rbac;
mod session;

pub(crate) use quota::actions as quota_actions;

/// Where something is said of a filter.
#[derive(Clone, Copy)]
enum Place<'a> {
    Listener,
    Routes(fmt::Arguments<'a>),
}

/// The field's name, which the caller cannot put in front of every reason.
const FILTERS: &str = "http_filters";

/// Those before the router, which is last.
pub(super) fn of_listener(mut filters: Vec<HttpFilter>) -> Result<Box<[ListenerFilter]>, Reason> {
    let router = filters.pop().ok_or("http_filters: the router is required")?;
    let last = filters.len();
    let mut before = Vec::with_capacity(last);
    for (index, filter) in filters.into_iter().enumerate() {
        before.push(before_router(filter).at_index(FILTERS, index)?);
    }
    self::router(router).at_index(FILTERS, last)?;
    Ok(before.into())
}

fn before_router(mut pb: HttpFilter) -> Result<ListenerFilter, Reason> {
    let name = take(&mut pb.name);
    if name.is_empty() {
        return Err("name: is required".to_owned());
    }
    let is_on = !take(&mut pb.disabled);
    let filter = configured(&name, &typed_config(pb)?, Place::Listener).at("typed_config")?;
    Ok(ListenerFilter {
        name: name.into(),
        is_on,
        filter,
    })
}

fn router(mut pb: HttpFilter) -> Result<(), Reason> {
    take(&mut pb.name);
    let mut router: Router = any(&typed_config(pb)?).at("typed_config")?;
    // This proxy never adds the headers that this suppresses.
    router.suppress_envoy_headers = false;
    done(&router).at("typed_config")
}

fn typed_config(mut pb: HttpFilter) -> Result<Any, Reason> {
    let Some(ConfigType::TypedConfig(config)) = pb.config_type.take() else {
        return Err("typed_config: is required".to_owned());
    };
    done(&pb)?;
    Ok(config)
}

/// What a route, its host or its table says of filters, by their names. `place` tells it from the others of its table.
pub(super) fn overrides(
    configs: HashMap<String, Any>,
    place: fmt::Arguments<'_>,
) -> Result<Overrides, Reason> {
    let said = configs.into_iter().map(|(name, config)| {
        let said = said(&name, &config, Place::Routes(place)).at_key("typed_per_filter_config", &name)?;
        Ok((Arc::from(name), said))
    });
    said.collect()
}

fn said(name: &str, config: &Any, place: Place<'_>) -> Result<Override, Reason> {
    if config.type_url != FilterConfig::type_url() {
        return adjusted(config).unwrap_or_else(|| configured(name, config, place).map(Override::Replaced));
    }
    let mut pb: FilterConfig = any(config)?;
    let inner = pb.config.take();
    if take(&mut pb.disabled) {
        done(&pb)?;
        return Ok(Override::Off);
    }
    done(&pb)?;
    match inner {
        None => Err("config: is required".to_owned()),
        Some(config) if config.type_url.is_empty() => Ok(Override::On),
        Some(config) => adjusted(&config)
            .unwrap_or_else(|| configured(name, &config, place).map(Override::Replaced))
            .at("config"),
    }
}

/// What is not all of a filter's configuration, but a part of its own kind.
fn adjusted(config: &Any) -> Option<Result<Override, Reason>> {
    if config.type_url == RateLimitPerRoute::type_url() {
        return Some(rate_limit::of_route(config));
    }
    if config.type_url == RateLimitQuotaOverride::type_url() {
        return Some(quota::of_route(config));
    }
    if config.type_url == HeaderMutationPerRoute::type_url() {
        return Some(header_mutation::of_route(config));
    }
    (config.type_url == ExtAuthzPerRoute::type_url()).then(|| ext_authz::of_route(config))
}

fn configured(name: &str, config: &Any, place: Place<'_>) -> Result<Filter, Reason> {
    let is_of_routes = matches!(place, Place::Routes(_));
    if config.type_url == CorsPolicy::type_url() && is_of_routes {
        return cors::decode(config).map(|cors| Filter::Cors(Some(Arc::new(cors))));
    }
    if config.type_url == Cors::type_url() && !is_of_routes {
        return any::<Cors>(config).map(|Cors {}| Filter::Cors(None));
    }
    if config.type_url == Buffer::type_url() && !is_of_routes {
        return body_limit::of_listener(config).map(|limit| Filter::BodyLimit(Some(limit)));
    }
    if config.type_url == BufferPerRoute::type_url() && is_of_routes {
        return body_limit::of_route(config).map(Filter::BodyLimit);
    }
    if config.type_url == ExtAuthz::type_url() && !is_of_routes {
        return ext_authz::of_listener(config).map(Filter::ExtAuthz);
    }
    if config.type_url == RateLimit::type_url() && !is_of_routes {
        return rate_limit::of_listener(config).map(Filter::RateLimit);
    }
    if config.type_url == RateLimitQuotaFilterConfig::type_url() && !is_of_routes {
        return quota::of_listener(config).map(Filter::Quota);
    }
    if config.type_url == Compressor::type_url() && !is_of_routes {
        return compressor::of_listener(config).map(|found| Filter::Compressor(found.map(Arc::new)));
    }
    if config.type_url == CompressorPerRoute::type_url() && is_of_routes {
        return compressor::of_route(config).map(|found| Filter::Compressor(found.map(Arc::new)));
    }
    if config.type_url == Decompressor::type_url() && !is_of_routes {
        return decompressor::of_listener(config).map(|found| Filter::Decompressor(found.map(Arc::new)));
    }
    if config.type_url == GrpcWeb::type_url() && !is_of_routes {
        return any::<GrpcWeb>(config).map(|GrpcWeb {}| Filter::GrpcWeb);
    }
    if config.type_url == HttpFault::type_url() {
        return fault::decode(config).map(Filter::Fault);
    }
    if config.type_url == HeaderMutation::type_url() && !is_of_routes {
        return header_mutation::of_listener(config).map(Filter::HeaderMutation);
    }
    if config.type_url == LocalRateLimit::type_url() {
        return local_ratelimit::decode(name, config, place).map(Filter::LocalRateLimit);
    }
    if config.type_url == JwtAuthentication::type_url() && !is_of_routes {
        return jwt::of_listener(config).map(Filter::Jwt);
    }
    if config.type_url == PerRouteConfig::type_url() && is_of_routes {
        return jwt::of_route(config).map(Filter::Jwt);
    }
    if config.type_url == StatefulSession::type_url() && !is_of_routes {
        return session::of_listener(config).map(Filter::Session);
    }
    if config.type_url == StatefulSessionPerRoute::type_url() && is_of_routes {
        return session::of_route(config).map(Filter::Session);
    }
    let rbac = if config.type_url == Rbac::type_url() && !is_of_routes {
        rbac::of_listener(config)?
    } else if config.type_url == RbacPerRoute::type_url() && is_of_routes {
        rbac::of_route(config)?
    } else {
        return Err(format!("{} is not supported here", config.type_url));
    };
    Ok(Filter::Rbac(rbac.map(Arc::new)))
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::extensions::filters::http::buffer::v3::buffer_per_route::Override as PerRoute;
    use envoy_types::pb::google::protobuf::UInt32Value;
    use envoy_types::util::pack_any;

    use super::*;
    use crate::filter::{BodyLimit, Fault};

    #[test]
    fn what_routes_say_of_filters_is_taken_or_refused() {
        let off = FilterConfig {
            disabled: true,
            config: Some(pack_any(HttpFault::default())),
            ..FilterConfig::default()
        };
        let on = FilterConfig {
            config: Some(Any::default()),
            ..FilterConfig::default()
        };
        let wrapped = FilterConfig {
            config: Some(pack_any(HttpFault::default())),
            ..FilterConfig::default()
        };
        let optional = FilterConfig {
            is_optional: true,
            ..on.clone()
        };
        let misplaced = FilterConfig {
            config: Some(pack_any(Router::default())),
            ..FilterConfig::default()
        };
        let of_listeners = pack_any(Cors::default());
        let fault = HttpFault {
            upstream_cluster: "a".to_owned(),
            ..HttpFault::default()
        };
        let body_limit = |limit: Option<PerRoute>| BufferPerRoute { r#override: limit };
        let replaced = Override::Replaced(Filter::Fault(Fault::default()));
        let refused = |reason: &str| Err(format!("typed_per_filter_config[a.b].{reason}"));
        for (config, expected) in [
            (pack_any(HttpFault::default()), Ok(replaced.clone())),
            (pack_any(wrapped), Ok(replaced)),
            (pack_any(off), Ok(Override::Off)),
            (pack_any(on), Ok(Override::On)),
            (pack_any(FilterConfig::default()), refused("config: is required")),
            (
                pack_any(optional),
                refused("is_optional: is not supported by this proxy"),
            ),
            (
                pack_any(misplaced),
                refused(
                    "config: type.googleapis.com/envoy.extensions.filters.http.router.v3.Router is not supported here",
                ),
            ),
            (
                of_listeners,
                Err("typed_per_filter_config[a.b]: type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors is not supported here".to_owned()),
            ),
            (
                pack_any(body_limit(Some(PerRoute::Disabled(true)))),
                Ok(Override::Replaced(Filter::BodyLimit(None))),
            ),
            (
                pack_any(body_limit(Some(PerRoute::Disabled(false)))),
                refused("disabled: only true is supported"),
            ),
            (pack_any(body_limit(None)), refused("override: is required")),
            (
                pack_any(body_limit(Some(PerRoute::Buffer(Buffer::default())))),
                refused("buffer.max_request_bytes: is required"),
            ),
            (
                pack_any(body_limit(Some(PerRoute::Buffer(Buffer {
                    max_request_bytes: Some(UInt32Value { value: 0 }),
                })))),
                refused("buffer.max_request_bytes: must be more than 0"),
            ),
            (
                pack_any(body_limit(Some(PerRoute::Buffer(Buffer {
                    max_request_bytes: Some(UInt32Value { value: 7 }),
                })))),
                Ok(Override::Replaced(Filter::BodyLimit(Some(BodyLimit(7))))),
            ),
            (
                pack_any(fault),
                refused("upstream_cluster: is not supported by this proxy"),
            ),
        ] {
            let found = overrides([("a.b".to_owned(), config.clone())].into(), format_args!(""));
            let expected = expected.map(|said| Overrides::from([("a.b".into(), said)]));
            assert_eq!(found, expected, "{config:?}");
        }
    }
}
