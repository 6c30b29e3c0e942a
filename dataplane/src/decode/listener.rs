//! `envoy.config.listener.v3.Listener` with its filter chains, each an HTTP connection manager or a TCP proxy.

use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::listener::v3::listener_filter::ConfigType as ListenerFilterConfig;
use envoy_types::pb::envoy::config::listener::v3::{
    FilterChain as PbFilterChain, FilterChainMatch, Listener as PbListener, ListenerFilter,
};
use envoy_types::pb::envoy::extensions::filters::listener::original_dst::v3::OriginalDst;
use envoy_types::pb::envoy::extensions::filters::listener::proxy_protocol::v3::ProxyProtocol;
use envoy_types::pb::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use envoy_types::pb::envoy::config::listener::v3::filter::ConfigType as FilterConfig;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    CodecType, PathWithEscapedSlashesAction, RouteSpecifier, ServerHeaderTransformation,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;

use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy as PbTcpProxy;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::ClusterSpecifier as TcpClusters;
use prost::Name;

use super::fields::{
    At, Reason, ads, any, done, duration, message, only_bool, only_enum, required, same_name, socket_address,
};
use super::limits::{self, IDLE_TIMEOUT_DEFAULT};
use super::{access_log, filter, proxy_protocol, tls, tracing, upgrade};
use crate::arrival::Arrival;
use crate::config::{Choosing, FilterChain, Http, Listener, Network, TcpProxy, TcpTarget};
use crate::filter_chain::{ChainMatch, Choices, Transport};
use crate::original_dst::Redirected;
use crate::proxy_protocol::Taken;

/// Envoy's time for a look at what a connection begins with.
const LOOK_TIMEOUT_DEFAULT: Duration = Duration::from_secs(15);

pub(super) fn decode(name: &str, body: &[u8]) -> Result<Listener, Reason> {
    let mut pb: PbListener = message(body)?;
    same_name(&take(&mut pb.name), name).at("name")?;
    let address = socket_address(pb.address.take()).at("address")?;
    let mut chains = Vec::new();
    for (index, chain) in take(&mut pb.filter_chains).into_iter().enumerate() {
        chains.push(Arc::new(filter_chain(chain).at_index("filter_chains", index)?));
    }
    let default = match pb.default_filter_chain.take() {
        Some(chain) if chain.filter_chain_match.is_some() => {
            return Err("default_filter_chain.filter_chain_match: a default has no match".to_owned());
        }
        Some(chain) => {
            let chain = filter_chain(chain).at("default_filter_chain")?;
            Some(Arc::new(FilterChain {
                serves: None,
                ..chain
            }))
        }
        None if chains.is_empty() => return Err("filter_chains: at least one is required".to_owned()),
        None => None,
    };
    let looks = looks(&take(&mut pb.listener_filters))?;
    let timeout = match pb.listener_filters_timeout.take() {
        None => Some(LOOK_TIMEOUT_DEFAULT),
        Some(timeout) => {
            Some(duration(timeout).at("listener_filters_timeout")?).filter(|timeout| !timeout.is_zero())
        }
    };
    let hands_over = pb.use_original_dst.take().is_some_and(|hands| hands.value);
    let binds = pb.bind_to_port.take().is_none_or(|binds| binds.value);
    done(&pb)?;
    let matches = chains.iter().filter_map(|chain| chain.serves.as_ref());
    let inspects = looks.inspects || matches.clone().any(ChainMatch::needs_a_look);
    let default_at = default.is_some().then_some(chains.len());
    let choices = Choices::new(matches, default_at).map_err(|(one, other)| {
        format!("filter_chains[{other}].filter_chain_match: takes what filter_chains[{one}] takes")
    })?;
    let arrival = looks.arrival(hands_over, timeout)?;
    let choosing = if inspects {
        Choosing::Looking { choices, timeout }
    } else if arrival.is_some() {
        Choosing::ByPort(choices)
    } else {
        Choosing::Settled(choices.choose(address.port(), None))
    };
    chains.extend(default);
    Ok(Listener {
        address,
        binds,
        arrival,
        chains: chains.into(),
        choosing,
    })
}

/// What is looked at of connections before a chain is chosen.
#[derive(Default)]
struct Looks {
    proxy: Option<Taken>,
    /// For where they were to go before they were redirected.
    destination: bool,
    inspects: bool,
}

fn looks(filters: &[ListenerFilter]) -> Result<Looks, Reason> {
    let mut looks = Looks::default();
    for (index, filter) in filters.iter().enumerate() {
        looks.add(filter.clone()).at_index("listener_filters", index)?;
    }
    Ok(looks)
}

impl Looks {
    fn arrival(&self, hands_over: bool, timeout: Option<Duration>) -> Result<Option<Arrival>, Reason> {
        let redirected = match (hands_over, self.destination) {
            (true, _) => Redirected::HandedOver,
            (false, true) => Redirected::Known,
            (false, false) => Redirected::Unknown,
        };
        match (self.proxy, redirected) {
            (None, Redirected::Unknown) => Ok(None),
            (Some(_), Redirected::Known | Redirected::HandedOver) => Err(
                "listener_filters: where a connection was to go is said by the PROXY protocol or by the kernel, not by both"
                    .to_owned(),
            ),
            (proxy, redirected) => Ok(Some(Arrival {
                proxy,
                redirected,
                timeout,
            })),
        }
    }

    fn add(&mut self, mut filter: ListenerFilter) -> Result<(), Reason> {
        take(&mut filter.name);
        let Some(ListenerFilterConfig::TypedConfig(config)) = filter.config_type.take() else {
            return Err("typed_config: is required".to_owned());
        };
        done(&filter)?;
        if config.type_url == ProxyProtocol::type_url() {
            if self.proxy.is_some() || self.inspects {
                return Err("typed_config: a PROXY protocol filter must be the first".to_owned());
            }
            self.proxy = Some(proxy_protocol::of_clients(&config).at("typed_config")?);
        } else if config.type_url == OriginalDst::type_url() {
            let OriginalDst {} = any(&config).at("typed_config")?;
            self.destination = true;
        } else {
            let inspector: TlsInspector = any(&config).at("typed_config")?;
            done(&inspector).at("typed_config")?;
            self.inspects = true;
        }
        Ok(())
    }
}

fn filter_chain(mut pb: PbFilterChain) -> Result<FilterChain, Reason> {
    take(&mut pb.name);
    let serves = chain_match(pb.filter_chain_match.take().unwrap_or_default()).at("filter_chain_match")?;
    let tls = match pb.transport_socket.take() {
        None => None,
        Some(socket) => Some(Arc::new(tls::server(socket).at("transport_socket")?)),
    };
    let [mut filter] = <[_; 1]>::try_from(take(&mut pb.filters))
        .map_err(|filters| format!("filters: exactly one is supported, got {}", filters.len()))?;
    done(&pb)?;
    let Some(FilterConfig::TypedConfig(config)) = filter.config_type.take() else {
        return Err("filters[0].typed_config: is required".to_owned());
    };
    let network = if config.type_url == PbTcpProxy::type_url() {
        let proxy = any(&config).at("filters[0].typed_config")?;
        Network::Tcp(Arc::new(tcp_proxy(proxy).at("tcp_proxy")?))
    } else {
        let manager = any(&config).at("filters[0].typed_config")?;
        Network::Http(Arc::new(
            connection_manager(manager).at("http_connection_manager")?,
        ))
    };
    Ok(FilterChain {
        serves: Some(serves),
        tls,
        network,
    })
}

fn tcp_proxy(mut pb: PbTcpProxy) -> Result<TcpProxy, Reason> {
    take(&mut pb.stat_prefix);
    let target = |name: String, weight: u32| {
        let name = Some(name).filter(|name| !name.is_empty());
        Ok::<_, Reason>(TcpTarget {
            cluster: required(name)?.into(),
            weight,
        })
    };
    let targets = match required(pb.cluster_specifier.take()).at("cluster_specifier")? {
        TcpClusters::Cluster(name) => vec![target(name, 1).at("cluster")?],
        TcpClusters::WeightedClusters(clusters) => {
            let mut targets = Vec::new();
            for (index, mut pb) in clusters.clusters.into_iter().enumerate() {
                let named = target(take(&mut pb.name), take(&mut pb.weight)).at("name");
                let at = |result: Result<TcpTarget, Reason>| {
                    result.at_index("clusters", index).at("weighted_clusters")
                };
                targets.push(at(done(&pb).and(named))?);
            }
            targets
        }
    };
    let total_weight = targets
        .iter()
        .try_fold(0, |sum: u32, target| sum.checked_add(target.weight));
    let total_weight = total_weight.filter(|sum| *sum > 0);
    let total_weight = total_weight.ok_or_else(|| {
        "weighted_clusters.clusters: their weights must add up to 1 to 4294967295".to_owned()
    })?;
    let idle_timeout = match pb.idle_timeout.take() {
        None => Some(IDLE_TIMEOUT_DEFAULT),
        Some(idle) => Some(duration(idle).at("idle_timeout")?).filter(|idle| !idle.is_zero()),
    };
    let connect_attempts_max = pb
        .max_connect_attempts
        .take()
        .map_or(1, |attempts| attempts.value);
    if connect_attempts_max == 0 {
        return Err("max_connect_attempts: must be more than 0".to_owned());
    }
    let logs = access_log::of_listener(take(&mut pb.access_log))?;
    done(&pb)?;
    Ok(TcpProxy {
        targets: targets.into(),
        total_weight,
        idle_timeout,
        connect_attempts_max,
        logs,
    })
}

fn chain_match(mut pb: FilterChainMatch) -> Result<ChainMatch, Reason> {
    let destination_port = match pb.destination_port.take() {
        None => None,
        Some(port) => {
            let port = u16::try_from(port.value).ok().filter(|port| *port > 0);
            Some(port.ok_or_else(|| "destination_port: must be 1 to 65535".to_owned())?)
        }
    };
    let transport = match &*take(&mut pb.transport_protocol) {
        "" => None,
        "tls" => Some(Transport::Tls),
        "raw_buffer" => Some(Transport::Plain),
        other => return Err(format!("transport_protocol: {other:?} is not supported")),
    };
    let server_names = take(&mut pb.server_names);
    let is_name = |name: &&String| {
        let name = name.strip_prefix("*.").unwrap_or(name);
        name.is_ascii() && !name.contains('*') && name.split('.').all(|label| !label.is_empty())
    };
    if let Some(wrong) = server_names.iter().find(|name| !is_name(name)) {
        return Err(format!(
            "server_names: {wrong:?} is neither a name nor *. before one"
        ));
    }
    let protocols = take(&mut pb.application_protocols);
    done(&pb)?;
    Ok(ChainMatch {
        destination_port,
        server_names: server_names
            .iter()
            .map(|name| name.to_ascii_lowercase().into())
            .collect(),
        transport,
        protocols: protocols
            .into_iter()
            .map(|protocol| protocol.into_bytes().into())
            .collect(),
    })
}

fn connection_manager(mut pb: HttpConnectionManager) -> Result<Http, Reason> {
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
    let tracing = pb.tracing.take().map(tracing::of_listener);
    let tracing = tracing.transpose().at("tracing")?.map(Arc::new);
    let upgrades = upgrade::of_listener(take(&mut pb.upgrade_configs))?;
    let connects = upgrade::connects(pb.http2_protocol_options.as_mut());
    let (limits, idle_timeout) = limits::take(&mut pb)?;
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
    Ok(Http {
        routes: Arc::from(routes),
        idle_timeout,
        limits,
        filters,
        logs,
        tracing,
        upgrades,
        connects,
    })
}
