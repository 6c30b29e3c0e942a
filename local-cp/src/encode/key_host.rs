//! The cluster in which an issuer's keys are: one host by its name, over TLS, with the addresses that the edge knows of it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use envoy_types::pb::envoy::config::cluster::v3::Cluster as PbCluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType, EdsClusterConfig,
};
use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::config::core::v3::transport_socket::ConfigType;
use envoy_types::pb::envoy::config::core::v3::{DataSource, TransportSocket};
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::subject_alt_name_matcher::SanType;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, SubjectAltNameMatcher, UpstreamTlsContext,
};
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::util::pack_any;
use tombolo_compiler::http::Span;
use tombolo_compiler::proxy::KeyHost;

use super::route::string_matcher;
use super::{address, ads, duration};

/// With the handshake, and less than a fetch may take.
const CONNECT_TIMEOUT: Span = Span::from_ms(3000);

/// `authorities` have signed the host's certificate, in PEM.
pub(super) fn cluster(name: &str, host: &KeyHost, authorities: &str) -> PbCluster {
    PbCluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: Some(ads()),
            ..EdsClusterConfig::default()
        }),
        connect_timeout: Some(duration(CONNECT_TIMEOUT)),
        transport_socket: Some(TransportSocket {
            name: "envoy.transport_sockets.tls".to_owned(),
            config_type: Some(ConfigType::TypedConfig(pack_any(tls(&host.host, authorities)))),
        }),
        ..PbCluster::default()
    }
}

pub(super) fn endpoints(name: &str, host: &KeyHost) -> ClusterLoadAssignment {
    let endpoint = |ip: &IpAddr| LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
            address: Some(address((*ip, host.port).into())),
            ..Endpoint::default()
        })),
        ..LbEndpoint::default()
    };
    let locality = |addresses: &BTreeSet<IpAddr>| LocalityLbEndpoints {
        lb_endpoints: addresses.iter().map(endpoint).collect(),
        ..LocalityLbEndpoints::default()
    };
    let known = Some(&host.addresses).filter(|addresses| !addresses.is_empty());
    ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints: known.map(locality).into_iter().collect(),
        ..ClusterLoadAssignment::default()
    }
}

fn tls(host: &str, authorities: &str) -> UpstreamTlsContext {
    let is_address = host.parse::<IpAddr>().is_ok();
    let san_type = if is_address {
        SanType::IpAddress
    } else {
        SanType::Dns
    };
    let validation = CertificateValidationContext {
        trusted_ca: Some(DataSource {
            specifier: Some(Specifier::InlineString(authorities.to_owned())),
            ..DataSource::default()
        }),
        match_typed_subject_alt_names: vec![SubjectAltNameMatcher {
            san_type: san_type as i32,
            matcher: Some(string_matcher(MatchPattern::Exact(host.to_owned()))),
            ..SubjectAltNameMatcher::default()
        }],
        ..CertificateValidationContext::default()
    };
    UpstreamTlsContext {
        // A name only (RFC 6066, section 3).
        sni: if is_address {
            String::new()
        } else {
            host.to_owned()
        },
        common_tls_context: Some(CommonTlsContext {
            validation_context_type: Some(ValidationContextType::ValidationContext(validation)),
            ..CommonTlsContext::default()
        }),
        ..UpstreamTlsContext::default()
    }
}
