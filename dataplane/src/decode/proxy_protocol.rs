//! The PROXY protocol, from clients (a listener filter) and to hosts (a transport socket around another one).

use std::mem::take;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::proxy_protocol_config::Version as PbVersion;
use envoy_types::pb::envoy::config::core::v3::transport_socket::ConfigType;
use envoy_types::pb::envoy::config::core::v3::{ProxyProtocolConfig, TransportSocket};
use envoy_types::pb::envoy::extensions::filters::listener::proxy_protocol::v3::ProxyProtocol;
use envoy_types::pb::envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport;
use envoy_types::pb::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use envoy_types::pb::google::protobuf::Any;
use prost::Name;

use super::fields::{At, Reason, any, done, required};
use super::tls;
use crate::config::Protocol;
use crate::proxy_protocol::{Taken, Version};
use crate::tls::ClientTls;

/// What a cluster says of connections to its hosts.
#[derive(Default)]
pub(super) struct Transport {
    pub(super) tls: Option<Arc<ClientTls>>,
    pub(super) greeting: Option<Version>,
}

pub(super) fn of_clients(config: &Any) -> Result<Taken, Reason> {
    let mut pb: ProxyProtocol = any(config)?;
    let none = take(&mut pb.allow_requests_without_proxy_protocol);
    // It is part of the names of counters that are not ours.
    take(&mut pb.stat_prefix);
    let mut taken = Taken {
        v1: true,
        v2: true,
        none,
    };
    for (index, version) in take(&mut pb.disallowed_versions).into_iter().enumerate() {
        match self::version(version).at_index("disallowed_versions", index)? {
            Version::V1 => taken.v1 = false,
            Version::V2 => taken.v2 = false,
        }
    }
    done(&pb)?;
    if !taken.v1 && !taken.v2 {
        return Err("disallowed_versions: leave none".to_owned());
    }
    Ok(taken)
}

pub(super) fn of_hosts(socket: TransportSocket, protocol: Protocol) -> Result<Transport, Reason> {
    if !is(&socket, &ProxyProtocolUpstreamTransport::type_url()) {
        return Ok(Transport {
            tls: Some(Arc::new(tls::client(socket, protocol)?)),
            greeting: None,
        });
    }
    let mut pb: ProxyProtocolUpstreamTransport = typed(socket)?;
    let inner = required(pb.transport_socket.take()).at("transport_socket")?;
    let mut config: ProxyProtocolConfig = pb.config.take().unwrap_or_default();
    done(&pb)?;
    let greeting = version(take(&mut config.version)).at("config.version")?;
    done(&config).at("config")?;
    let tls = if is(&inner, &RawBuffer::type_url()) {
        typed::<RawBuffer>(inner)
            .map(|RawBuffer {}| None)
            .at("transport_socket")?
    } else {
        let tls = tls::client(inner, protocol).at("transport_socket")?;
        Some(Arc::new(tls))
    };
    Ok(Transport {
        tls,
        greeting: Some(greeting),
    })
}

fn version(version: i32) -> Result<Version, Reason> {
    match PbVersion::try_from(version) {
        Ok(PbVersion::V1) => Ok(Version::V1),
        Ok(PbVersion::V2) => Ok(Version::V2),
        Err(_) => Err(format!("value {version} is not supported")),
    }
}

fn is(socket: &TransportSocket, type_url: &str) -> bool {
    matches!(&socket.config_type, Some(ConfigType::TypedConfig(config)) if config.type_url == type_url)
}

fn typed<M: prost::Message + Name + Default + PartialEq>(mut socket: TransportSocket) -> Result<M, Reason> {
    take(&mut socket.name);
    let Some(ConfigType::TypedConfig(config)) = socket.config_type.take() else {
        return Err("typed_config: is required".to_owned());
    };
    any(&config).at("typed_config")
}
