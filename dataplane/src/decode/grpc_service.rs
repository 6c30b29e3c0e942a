//! `envoy.config.core.v3.GrpcService`: whom filters ask, which is always a cluster.

use std::mem::take;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::grpc_service::TargetSpecifier;
use envoy_types::pb::envoy::config::core::v3::{ApiVersion, GrpcService, HeaderValue as PbHeaderValue};
use http::header::{HeaderName, HeaderValue};

use super::fields::{At, Reason, done, header_name, header_value, only_enum, positive, required};
use crate::grpc_call::Callee;

/// `timeout` is for those that say none.
pub(super) fn decode(pb: Option<GrpcService>, timeout: Duration) -> Result<Callee, Reason> {
    let mut pb = required(pb)?;
    let timeout = match pb.timeout.take() {
        None => timeout,
        Some(timeout) => positive(timeout).at("timeout")?,
    };
    let Some(TargetSpecifier::EnvoyGrpc(mut target)) = pb.target_specifier.take() else {
        return Err("target_specifier: only envoy_grpc is supported".to_owned());
    };
    let mut headers = Vec::new();
    for (index, given) in take(&mut pb.initial_metadata).into_iter().enumerate() {
        headers.push(header(given).at_index("initial_metadata", index)?);
    }
    done(&pb)?;
    let cluster = take(&mut target.cluster_name);
    if cluster.is_empty() {
        return Err("envoy_grpc.cluster_name: is required".to_owned());
    }
    let authority = Some(take(&mut target.authority)).filter(|authority| !authority.is_empty());
    let authority = authority.unwrap_or_else(|| cluster.clone());
    let authority = authority
        .parse()
        .map_err(|_| format!("envoy_grpc.authority: {authority:?} is no authority"))?;
    // This proxy adds no headers of Envoy's.
    target.skip_envoy_headers = false;
    done(&target).at("envoy_grpc")?;
    Ok(Callee {
        cluster: cluster.into(),
        authority,
        timeout,
        headers,
    })
}

pub(super) fn api_version(version: i32) -> Result<(), Reason> {
    only_enum(version, &[ApiVersion::Auto as i32, ApiVersion::V3 as i32])
}

fn header(mut given: PbHeaderValue) -> Result<(HeaderName, HeaderValue), Reason> {
    let name = header_name(&take(&mut given.key)).at("key")?;
    let value = header_value(&take(&mut given.value)).at("value")?;
    done(&given)?;
    Ok((name, value))
}
