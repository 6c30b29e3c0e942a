//! `envoy.config.listener.v3.Listener` with its one HTTP connection manager.

use std::mem::take;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::config::listener::v3::Listener as PbListener;
use envoy_types::pb::envoy::config::listener::v3::filter::ConfigType as FilterConfig;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    CodecType, PathWithEscapedSlashesAction, RouteSpecifier, ServerHeaderTransformation,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;

use super::fields::{
    At, Reason, ads, any, done, duration, message, only_bool, only_enum, same_name, socket_address,
};
use super::{access_log, filter};
use crate::config::Listener;

/// Envoy's idle timeout of a connection when none is given.
const IDLE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(3600);

pub(super) fn decode(name: &str, body: &[u8]) -> Result<Listener, Reason> {
    let mut pb: PbListener = message(body)?;
    same_name(&take(&mut pb.name), name).at("name")?;
    let address = socket_address(pb.address.take()).at("address")?;
    let [mut chain] = <[_; 1]>::try_from(take(&mut pb.filter_chains))
        .map_err(|chains| format!("filter_chains: exactly one is supported, got {}", chains.len()))?;
    done(&pb)?;
    let [mut filter] = <[_; 1]>::try_from(take(&mut chain.filters)).map_err(|filters| {
        format!(
            "filter_chains[0].filters: exactly one is supported, got {}",
            filters.len()
        )
    })?;
    take(&mut chain.name);
    done(&chain).at_index("filter_chains", 0)?;
    let Some(FilterConfig::TypedConfig(config)) = filter.config_type.take() else {
        return Err("filter_chains[0].filters[0].typed_config: is required".to_owned());
    };
    let manager: HttpConnectionManager = any(&config).at("filter_chains[0].filters[0].typed_config")?;
    connection_manager(manager, address).at("http_connection_manager")
}

fn connection_manager(mut pb: HttpConnectionManager, address: SocketAddr) -> Result<Listener, Reason> {
    take(&mut pb.stat_prefix);
    only_enum(take(&mut pb.codec_type), &[CodecType::Auto as i32]).at("codec_type")?;
    let Some(RouteSpecifier::Rds(mut rds)) = pb.route_specifier.take() else {
        return Err("route_specifier: only rds is supported".to_owned());
    };
    let routes = take(&mut rds.route_config_name);
    if routes.is_empty() {
        return Err("rds.route_config_name: is required".to_owned());
    }
    ads(rds.config_source.take()).at("rds.config_source")?;
    done(&rds).at("rds")?;
    let filters = filter::of_listener(take(&mut pb.http_filters))?;
    let logs = access_log::of_listener(take(&mut pb.access_log))?;
    let idle_timeout =
        idle_timeout(pb.common_http_protocol_options.take()).at("common_http_protocol_options")?;
    only_bool(pb.normalize_path.take(), true).at("normalize_path")?;
    only_bool(pb.use_remote_address.take(), true).at("use_remote_address")?;
    only_bool(pb.generate_request_id.take(), true).at("generate_request_id")?;
    only_enum(
        take(&mut pb.server_header_transformation),
        &[ServerHeaderTransformation::PassThrough as i32],
    )
    .at("server_header_transformation")?;
    only_enum(
        take(&mut pb.path_with_escaped_slashes_action),
        &[
            PathWithEscapedSlashesAction::ImplementationSpecificDefault as i32,
            PathWithEscapedSlashesAction::KeepUnchanged as i32,
        ],
    )
    .at("path_with_escaped_slashes_action")?;
    done(&pb)?;
    Ok(Listener {
        address,
        routes: Arc::from(routes),
        idle_timeout,
        filters,
        logs,
    })
}

fn idle_timeout(options: Option<HttpProtocolOptions>) -> Result<Option<Duration>, Reason> {
    let Some(mut options) = options else {
        return Ok(Some(IDLE_TIMEOUT_DEFAULT));
    };
    let idle = options.idle_timeout.take();
    done(&options)?;
    match idle {
        None => Ok(Some(IDLE_TIMEOUT_DEFAULT)),
        Some(idle) => Ok(Some(duration(idle).at("idle_timeout")?).filter(|idle| !idle.is_zero())),
    }
}
