//! Which host of a cluster has a request: by priority, locality, weight and hash.

use std::net::SocketAddr;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::common_lb_config::{
    LocalityConfigSpecifier, LocalityWeightedLbConfig,
};
use envoy_types::pb::envoy::config::cluster::v3::cluster::{CommonLbConfig, LbPolicy};
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{Address, HealthStatus, Locality, SocketAddress, address};
use envoy_types::pb::envoy::config::endpoint::v3::cluster_load_assignment::Policy;
use envoy_types::pb::envoy::config::endpoint::v3::cluster_load_assignment::policy::DropOverload;
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
};
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::hash_policy::{
    Header, PolicySpecifier, QueryParameter,
};
use envoy_types::pb::envoy::config::route::v3::route_action::{ClusterSpecifier, HashPolicy};
use envoy_types::pb::envoy::config::route::v3::weighted_cluster::ClusterWeight;
use envoy_types::pb::envoy::config::route::v3::{Route, RouteAction, WeightedCluster};
use envoy_types::pb::envoy::r#type::v3::{FractionalPercent, Percent, fractional_percent::DenominatorType};
use envoy_types::pb::google::protobuf::UInt32Value;
use http::Version;
use tombolo_tests::ads::contract;

use super::{Site, at, forwards, prefix, site, with};
use crate::case::{Case, Expect};

/// One that is spoken to in HTTP/2.
pub(super) const CALLS: &str = "calls";

/// Those of the clusters below.
pub(super) const HOSTS: &[(&str, &str)] = &[
    ("near", "127.0.29.73:8080"),
    ("far", "127.0.29.74:8080"),
    ("farther", "127.0.29.75:8080"),
];

/// Where nobody listens.
const NOBODY: [&str; 2] = ["127.0.29.76:8080", "127.0.29.77:8080"];

/// Hosts of one locality.
struct Place {
    priority: u32,
    weight: Option<u32>,
    /// Each with what the control plane says of its health.
    hosts: Vec<(&'static str, HealthStatus)>,
}

pub(super) fn clusters() -> Vec<(Cluster, ClusterLoadAssignment)> {
    use HealthStatus::{Draining, Healthy, Timeout, Unhealthy, Unknown};
    let [near, far, farther] = [0, 1, 2].map(|number| HOSTS[number].1);
    let place = |priority, hosts: &[(&'static str, HealthStatus)]| Place {
        priority,
        weight: None,
        hosts: hosts.to_vec(),
    };
    let weighs = |weight, host| Place {
        priority: 0,
        weight,
        hosts: vec![(host, Healthy)],
    };
    let panic = |percent| CommonLbConfig {
        healthy_panic_threshold: Some(Percent { value: percent }),
        ..CommonLbConfig::default()
    };
    let by_locality = || CommonLbConfig {
        locality_config_specifier: Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(
            LocalityWeightedLbConfig::default(),
        )),
        ..CommonLbConfig::default()
    };
    let with_common = |name, common, places: &[Place]| {
        let (cluster, endpoints) = cluster(name, places);
        let cluster = Cluster {
            common_lb_config: Some(common),
            ..cluster
        };
        (cluster, endpoints)
    };
    let balanced = |name, policy| {
        let hosts = [(near, Healthy), (far, Healthy), (farther, Healthy)];
        let (cluster, endpoints) = cluster(name, &[place(0, &hosts)]);
        let cluster = Cluster {
            lb_policy: policy as i32,
            ..cluster
        };
        (cluster, endpoints)
    };
    let dropping = |name, percent| {
        let (cluster, endpoints) = cluster(name, &[place(0, &[(near, Healthy)])]);
        let dropping = Policy {
            drop_overloads: vec![DropOverload {
                category: "all".to_owned(),
                drop_percentage: Some(FractionalPercent {
                    numerator: percent,
                    denominator: DenominatorType::Hundred as i32,
                }),
            }],
            ..Policy::default()
        };
        let endpoints = ClusterLoadAssignment {
            policy: Some(dropping),
            ..endpoints
        };
        (cluster, endpoints)
    };
    let (calls, called) = cluster(CALLS, &[place(0, &[(near, Healthy)])]);
    let calls = Cluster {
        typed_extension_protocol_options: contract::protocol_options(Version::HTTP_2),
        ..calls
    };
    vec![
        (calls, called),
        cluster(
            "first",
            &[place(0, &[(near, Healthy)]), place(1, &[(far, Healthy)])],
        ),
        cluster(
            "unknown",
            &[place(0, &[(near, Unknown)]), place(1, &[(far, Healthy)])],
        ),
        cluster(
            "second",
            &[place(0, &[(near, Unhealthy)]), place(1, &[(far, Healthy)])],
        ),
        cluster(
            "draining",
            &[place(0, &[(near, Draining)]), place(1, &[(far, Healthy)])],
        ),
        cluster(
            "late",
            &[place(0, &[(near, Timeout)]), place(1, &[(far, Healthy)])],
        ),
        cluster(
            "third",
            &[
                place(0, &[(near, Unhealthy)]),
                place(1, &[(far, Unhealthy)]),
                place(2, &[(farther, Healthy)]),
            ],
        ),
        // Three healthy ones of four hosts are enough for all, by the factor of 1.4.
        cluster(
            "enough",
            &[
                place(
                    0,
                    &[
                        (near, Healthy),
                        (far, Healthy),
                        (farther, Healthy),
                        (NOBODY[0], Unhealthy),
                    ],
                ),
                place(1, &[(NOBODY[1], Healthy)]),
            ],
        ),
        // With nobody healthy anywhere, hosts are used as if all were.
        cluster(
            "panic",
            &[place(0, &[(near, Unhealthy)]), place(1, &[(far, Unhealthy)])],
        ),
        with_common(
            "calm",
            panic(0.0),
            &[place(0, &[(near, Unhealthy)]), place(1, &[(far, Unhealthy)])],
        ),
        with_common(
            "calm-second",
            panic(0.0),
            &[place(0, &[(near, Unhealthy)]), place(1, &[(far, Healthy)])],
        ),
        cluster("nobody", &[]),
        cluster("dead", &[place(0, &[(NOBODY[0], Healthy)])]),
        with_common(
            "weighed",
            by_locality(),
            &[weighs(Some(1), near), weighs(None, far)],
        ),
        with_common("weightless", by_locality(), &[weighs(None, near)]),
        dropping("dropped", 100),
        dropping("kept", 0),
        balanced("ring", LbPolicy::RingHash),
        balanced("maglev", LbPolicy::Maglev),
    ]
}

pub(super) fn sites() -> Vec<Site> {
    vec![places(), hashes()]
}

fn places() -> Site {
    let by: fn(&'static [&'static str]) -> Expect = Expect::AnsweredBy;
    let unhealthy: &[Expect] = &[Expect::Status(503), Expect::Body("no healthy upstream")];
    let rows: &[(&'static str, &[Expect])] = &[
        ("first", &[by(&["near"])]),
        ("unknown", &[by(&["near"])]),
        ("second", &[by(&["far"])]),
        ("draining", &[by(&["far"])]),
        ("late", &[by(&["far"])]),
        ("third", &[by(&["farther"])]),
        ("enough", &[by(&["near", "far", "farther"])]),
        ("panic", &[by(&["near", "far"])]),
        ("calm", unhealthy),
        ("calm-second", &[by(&["far"])]),
        ("nobody", unhealthy),
        ("dead", &[Expect::Status(503)]),
        ("weighed", &[by(&["near"])]),
        (
            "dropped",
            &[
                Expect::Status(503),
                Expect::Header("x-envoy-unconditional-drop-overload", "true"),
            ],
        ),
        ("kept", &[by(&["near"])]),
    ];
    let path = |name: &str| -> &'static str { format!("/{name}/").leak() };
    let routes = rows
        .iter()
        .map(|(name, _)| forwards(prefix(path(name)), name, RouteAction::default()));
    // A weight of nothing is never drawn.
    let weighted = [("second", 0), ("first", 1)].map(|(name, weight)| ClusterWeight {
        name: name.to_owned(),
        weight: Some(UInt32Value { value: weight }),
        ..ClusterWeight::default()
    });
    let weighted = Route {
        action: Some(Action::Route(RouteAction {
            cluster_specifier: Some(ClusterSpecifier::WeightedClusters(WeightedCluster {
                clusters: weighted.into(),
                ..WeightedCluster::default()
            })),
            ..RouteAction::default()
        })),
        ..forwards(prefix("/weights"), "first", RouteAction::default())
    };
    let asks: Vec<(Case, &[Expect])> = rows
        .iter()
        .map(|(name, expects)| (at(path(name)), *expects))
        .chain([(at("/weights"), &[Expect::AnsweredBy(&["near"])] as &[Expect])])
        .collect();
    site("places", "places.test", routes.chain([weighted]).collect(), &asks)
}

/// A key has the same host through both.
fn hashes() -> Site {
    let by_header = || {
        PolicySpecifier::Header(Header {
            header_name: "x-a".to_owned(),
            ..Header::default()
        })
    };
    let by_parameter = || PolicySpecifier::QueryParameter(QueryParameter { name: "q".to_owned() });
    let route = |path: &str, cluster: &str, specifier| {
        let policy = HashPolicy {
            policy_specifier: Some(specifier),
            ..HashPolicy::default()
        };
        let action = RouteAction {
            hash_policy: vec![policy],
            ..RouteAction::default()
        };
        forwards(prefix(path), cluster, action)
    };
    let routes = vec![
        route("/ring", "ring", by_header()),
        route("/maglev", "maglev", by_header()),
        route("/query", "ring", by_parameter()),
    ];
    let keyed = |path: &'static str, headers: &'static [(&'static str, &'static str)]| Case {
        path,
        ..with(headers)
    };
    let by: fn(&'static [&'static str]) -> Expect = Expect::AnsweredBy;
    site(
        "hashes",
        "hashes.test",
        routes,
        &[
            (keyed("/ring", &[("x-a", "a")]), &[by(&["near"])]),
            (keyed("/ring", &[("x-a", "b")]), &[by(&["far"])]),
            (keyed("/ring", &[("x-a", "c")]), &[by(&["far"])]),
            (keyed("/ring", &[("x-a", "d")]), &[by(&["far"])]),
            (keyed("/ring", &[("x-a", "e")]), &[by(&["near"])]),
            (keyed("/ring", &[("x-a", "f")]), &[by(&["near"])]),
            (keyed("/maglev", &[("x-a", "a")]), &[by(&["near"])]),
            (keyed("/maglev", &[("x-a", "b")]), &[by(&["near"])]),
            (keyed("/maglev", &[("x-a", "c")]), &[by(&["farther"])]),
            (keyed("/maglev", &[("x-a", "d")]), &[by(&["near"])]),
            (keyed("/maglev", &[("x-a", "e")]), &[by(&["farther"])]),
            (keyed("/maglev", &[("x-a", "f")]), &[by(&["near"])]),
            (at("/query?q=a"), &[by(&["near"])]),
            (at("/query?p=z&q=d"), &[by(&["far"])]),
        ],
    )
}

/// Each place is a locality of its own.
fn cluster(name: &str, places: &[Place]) -> (Cluster, ClusterLoadAssignment) {
    let endpoints = places
        .iter()
        .enumerate()
        .map(|(number, place)| LocalityLbEndpoints {
            locality: Some(Locality {
                zone: number.to_string(),
                ..Locality::default()
            }),
            priority: place.priority,
            load_balancing_weight: place.weight.map(|value| UInt32Value { value }),
            lb_endpoints: place.hosts.iter().map(|(at, health)| host(at, *health)).collect(),
            ..LocalityLbEndpoints::default()
        });
    let endpoints = ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints: endpoints.collect(),
        ..ClusterLoadAssignment::default()
    };
    (contract::cluster(name), endpoints)
}

fn host(at: &str, health: HealthStatus) -> LbEndpoint {
    let at: SocketAddr = at.parse().expect("invariant: hosts are addresses");
    let address = SocketAddress {
        address: at.ip().to_string(),
        port_specifier: Some(PortSpecifier::PortValue(at.port().into())),
        ..SocketAddress::default()
    };
    LbEndpoint {
        health_status: health as i32,
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
            address: Some(Address {
                address: Some(address::Address::SocketAddress(address)),
            }),
            ..Endpoint::default()
        })),
        ..LbEndpoint::default()
    }
}
