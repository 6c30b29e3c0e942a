//! `envoy.config.core.v3.GrpcService`: whom filters ask, which is always a cluster.

use std::mem::take;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::grpc_service::TargetSpecifier;
use envoy_types::pb::envoy::config::core::v3::{ApiVersion, GrpcService, HeaderValue as PbHeaderValue};
use http::header::{HeaderName, HeaderValue};
use http::uri::Authority;

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
    let authority = match &*take(&mut target.authority) {
        "" => authority_of(&cluster),
        said => said
            .parse()
            .map_err(|_| format!("envoy_grpc.authority: {said:?} is no authority"))?,
    };
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

/// The name of a cluster, with a dash for each letter that no name of a host has.
fn authority_of(cluster: &str) -> Authority {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '.' | '_' | '~');
    let plain = |letter| if is_plain(letter) { letter } else { '-' };
    let name: String = cluster.chars().map(plain).collect();
    let as_it_is = cluster.parse().ok().filter(|_| !cluster.contains('@'));
    as_it_is.unwrap_or_else(|| {
        name.parse()
            .expect("invariant: letters, digits and dashes are a name")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cluster_has_an_authority() {
        for (cluster, expected) in [
            ("authz", "authz"),
            ("authz.mesh:9000", "authz.mesh:9000"),
            ("outbound|9000||authz.mesh", "outbound-9000--authz.mesh"),
            ("a b/c", "a-b-c"),
            ("a@d", "a-d"),
            ("a:b:c", "a-b-c"),
            ("[", "-"),
            ("größe", "gr--e"),
            ("%zz", "-zz"),
        ] {
            assert_eq!(authority_of(cluster), expected, "{cluster}");
        }
    }
}
