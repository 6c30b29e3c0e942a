//! `envoy.config.endpoint.v3.ClusterLoadAssignment`: hosts by priority and place.

use envoy_types::pb::envoy::config::core::v3::{HealthStatus, Locality};
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint as PbEndpoint, LbEndpoint, LocalityLbEndpoints,
};
use tombolo_compiler::name::Label;
use tombolo_compiler::proxy::{Endpoint, EndpointGroup, Endpoints};

use super::address;

pub(super) fn encode(name: &str, endpoints: &Endpoints) -> ClusterLoadAssignment {
    let groups = endpoints
        .priorities
        .iter()
        .map(|groups| groups.iter().filter(|group| !group.endpoints.is_empty()))
        // A priority without hosts would be a gap to the proxy.
        .filter(|groups| groups.clone().next().is_some())
        .zip(0..)
        .flat_map(|(groups, priority)| groups.map(move |group| locality(group, priority)));
    ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints: groups.collect(),
        ..ClusterLoadAssignment::default()
    }
}

fn locality(group: &EndpointGroup, priority: u32) -> LocalityLbEndpoints {
    let text = |label: &Option<Label>| label.as_ref().map(Label::to_string).unwrap_or_default();
    LocalityLbEndpoints {
        locality: Some(Locality {
            region: text(&group.region),
            zone: text(&group.zone),
            sub_zone: group.cluster.to_string(),
        }),
        lb_endpoints: group.endpoints.iter().map(host).collect(),
        priority,
        ..LocalityLbEndpoints::default()
    }
}

fn host(endpoint: &Endpoint) -> LbEndpoint {
    let at = (endpoint.address.ip(), endpoint.address.port()).into();
    // Unknown is left to the proxy's own checks.
    let health = if endpoint.usable {
        HealthStatus::Unknown
    } else {
        HealthStatus::Unhealthy
    };
    LbEndpoint {
        health_status: health as i32,
        host_identifier: Some(HostIdentifier::Endpoint(PbEndpoint {
            address: Some(address(at)),
            ..PbEndpoint::default()
        })),
        ..LbEndpoint::default()
    }
}
