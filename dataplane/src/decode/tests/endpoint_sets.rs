//! Endpoints, as the contract has them.

use envoy_types::pb::envoy::config::core::v3::Locality;
use envoy_types::pb::envoy::config::endpoint::v3::cluster_load_assignment::policy::DropOverload;
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{Endpoint as PbEndpoint, LocalityLbEndpoints};
use envoy_types::pb::envoy::r#type::v3::FractionalPercent;

use super::*;

#[test]
fn endpoints_are_as_the_contract_says() {
    let endpoint = |port| {
        let endpoint = PbEndpoint {
            address: address("10.0.0.1", port),
            ..Default::default()
        };
        LbEndpoint {
            host_identifier: Some(HostIdentifier::Endpoint(endpoint)),
            ..Default::default()
        }
    };
    let level = |priority| LocalityLbEndpoints {
        priority,
        lb_endpoints: vec![endpoint(80 + priority)],
        ..Default::default()
    };
    fn dropping(endpoints: &mut ClusterLoadAssignment, drops: &[(&str, u32)]) {
        let drops = drops.iter().map(|(category, percent)| DropOverload {
            category: (*category).to_owned(),
            drop_percentage: Some(FractionalPercent {
                numerator: *percent,
                ..Default::default()
            }),
        });
        endpoints.policy.get_or_insert_default().drop_overloads = drops.collect();
    }
    // Endpoints are kept for clusters that are known, but refused either way.
    let right = ClusterLoadAssignment {
        cluster_name: "x".to_owned(),
        endpoints: vec![level(0), level(1)],
        ..Default::default()
    };
    check(
        ResourceKind::Endpoints,
        &right,
        &[
            (
                |e| e.cluster_name.clear(),
                "cluster_name: is \"\", but the resource is named \"x\"",
            ),
            (
                |e| e.endpoints[1].priority = 2,
                "endpoints: no endpoint has priority 1, but a later one is used",
            ),
            (
                |e| e.endpoints[0].priority = 1,
                "endpoints: no endpoint has priority 0, but a later one is used",
            ),
            (
                |e| e.endpoints[1].priority = 129,
                "endpoints[1].priority: 129 is more than 128",
            ),
            (
                |e| e.endpoints[0].lb_endpoints[0].host_identifier = None,
                "endpoints[0].lb_endpoints[0].endpoint: is required",
            ),
            (
                |e| e.endpoints[0].lb_endpoints[0].health_status = 5,
                "endpoints[0].lb_endpoints[0].health_status: value 5 is not supported",
            ),
            (
                |e| e.endpoints[0].lb_endpoints[0].load_balancing_weight = number(0),
                "endpoints[0].lb_endpoints[0].load_balancing_weight: must be more than 0",
            ),
            (
                |e| {
                    let endpoints = &mut e.endpoints[0].lb_endpoints;
                    let heavy = LbEndpoint {
                        load_balancing_weight: number(u32::MAX),
                        ..endpoints[0].clone()
                    };
                    endpoints.push(heavy);
                },
                "endpoints: the weights of priority 0 are more than 4294967295 together",
            ),
            (
                |e| e.endpoints[0].load_balancing_weight = number(0),
                "endpoints[0].load_balancing_weight: must be more than 0",
            ),
            (
                |e| {
                    let mut other = e.endpoints[0].clone();
                    other.locality = Some(Locality::default());
                    other.locality.as_mut().unwrap().zone = "other".to_owned();
                    e.endpoints.push(other);
                    e.endpoints[0].load_balancing_weight = number(1);
                    e.endpoints[2].load_balancing_weight = number(u32::MAX);
                },
                "endpoints: of localities, the weights of priority 0 are more than 4294967295 together",
            ),
            (
                |e| dropping(e, &[("", 1)]),
                "policy.drop_overloads[0].category: is required",
            ),
            (
                |e| dropping(e, &[("a", 101)]),
                "policy.drop_overloads[0].drop_percentage.numerator: is more than all",
            ),
            (
                |e| dropping(e, &[("a", 1), ("b", 1)]),
                "policy.drop_overloads: at most one is supported",
            ),
            (
                |e| e.policy.get_or_insert_default().weighted_priority_health = true,
                "policy.weighted_priority_health: is not supported by this proxy",
            ),
            (
                |e| {
                    e.policy = Some(Default::default());
                    e.policy.as_mut().unwrap().overprovisioning_factor = number(0);
                },
                "policy.overprovisioning_factor: must be more than 0",
            ),
        ],
    );
}

#[test]
fn those_of_one_place_are_of_one_locality() {
    let at = |zone: &str, priority, weight, port| LocalityLbEndpoints {
        locality: Some(Locality {
            zone: zone.to_owned(),
            ..Default::default()
        }),
        priority,
        load_balancing_weight: weight,
        lb_endpoints: vec![LbEndpoint {
            host_identifier: Some(HostIdentifier::Endpoint(PbEndpoint {
                address: address("10.0.0.1", port),
                ..Default::default()
            })),
            ..Default::default()
        }],
        ..Default::default()
    };
    let assignment = ClusterLoadAssignment {
        cluster_name: "x".to_owned(),
        endpoints: vec![
            at("b", 0, number(3), 1),
            at("a", 1, number(9), 2),
            at("a", 0, None, 3),
            at("b", 0, None, 4),
            at("b", 0, number(5), 5),
        ],
        ..Default::default()
    };
    let endpoints = endpoints::decode("x", &assignment.encode_to_vec()).unwrap();
    let localities: Vec<_> = endpoints
        .endpoints
        .iter()
        .map(|endpoint| {
            let locality = endpoint.locality;
            (endpoint.address.port(), locality.nth, locality.weight)
        })
        .collect();
    assert_eq!(
        localities,
        [(1, 1, 5), (2, 2, 9), (3, 0, 0), (4, 1, 5), (5, 1, 5)]
    );
}
