//! `envoy.config.core.v3.GrpcService` of a collector, and what is said of everything that goes there.

use std::mem::take;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::GrpcService;
use envoy_types::pb::envoy::config::core::v3::grpc_service::{EnvoyGrpc, GoogleGrpc, TargetSpecifier};
use http::uri::Authority;

use super::fields::{At, Reason, done, header_name, header_value, positive, required};
use crate::otlp::{Collector, Target};

/// As OpenTelemetry's exporters have it.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

pub(super) fn collector(pb: Option<GrpcService>) -> Result<Collector, Reason> {
    let mut pb = required(pb)?;
    let target = match required(pb.target_specifier.take()).at("target_specifier")? {
        TargetSpecifier::EnvoyGrpc(grpc) => cluster(grpc).at("envoy_grpc")?,
        TargetSpecifier::GoogleGrpc(grpc) => address(grpc).at("google_grpc")?,
    };
    let timeout = match pb.timeout.take() {
        None => TIMEOUT_DEFAULT,
        Some(timeout) => positive(timeout).at("timeout")?,
    };
    let mut headers = Vec::new();
    for (index, mut header) in take(&mut pb.initial_metadata).into_iter().enumerate() {
        let name = header_name(&take(&mut header.key)).at("key");
        let value = header_value(&take(&mut header.value)).at("value");
        let line = name.and_then(|name| Ok((name, value?)));
        let whole = line.and_then(|line| done(&header).map(|()| line));
        headers.push(whole.at_index("initial_metadata", index)?);
    }
    done(&pb)?;
    Ok(Collector {
        target,
        timeout,
        headers,
    })
}

fn cluster(mut pb: EnvoyGrpc) -> Result<Target, Reason> {
    let name = take(&mut pb.cluster_name);
    if name.is_empty() {
        return Err("cluster_name: is required".to_owned());
    }
    let authority = take(&mut pb.authority);
    done(&pb)?;
    let authority = match &*authority {
        "" => None,
        given => Some(parsed(given).at("authority")?),
    };
    Ok(Target::Cluster {
        name: name.into(),
        authority,
    })
}

fn address(mut pb: GoogleGrpc) -> Result<Target, Reason> {
    take(&mut pb.stat_prefix);
    let uri = take(&mut pb.target_uri);
    done(&pb)?;
    let address = parsed(&uri).at("target_uri")?;
    if address.port().is_none() {
        return Err(format!("target_uri: {uri:?} is not HOST:PORT"));
    }
    Ok(Target::Address(address))
}

fn parsed(text: &str) -> Result<Authority, Reason> {
    text.parse()
        .map_err(|_| format!("{text:?} is not a host with or without a port"))
}
