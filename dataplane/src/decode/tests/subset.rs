//! What hosts are told apart by.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::cluster::v3::cluster::LbSubsetConfig;
use envoy_types::pb::envoy::config::cluster::v3::cluster::lb_subset_config::LbSubsetSelector;
use envoy_types::pb::envoy::config::core::v3::Metadata;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Any, ListValue, Struct, Value};

use super::*;
use crate::config::Action;
use crate::matcher::Subject;

fn cluster() -> PbCluster {
    let (_, raw) = samples::cluster("x", 1);
    let mut cluster = PbCluster::decode(raw.body.as_slice()).unwrap();
    cluster.lb_subset_config = Some(LbSubsetConfig {
        subset_selectors: vec![LbSubsetSelector {
            keys: vec!["b".to_owned(), "a".to_owned()],
            ..Default::default()
        }],
        ..Default::default()
    });
    cluster
}

fn config(cluster: &mut PbCluster) -> &mut LbSubsetConfig {
    cluster.lb_subset_config.as_mut().unwrap()
}

fn selector(cluster: &mut PbCluster) -> &mut LbSubsetSelector {
    &mut config(cluster).subset_selectors[0]
}

/// It falls back as said.
fn falls_back(cluster: &mut PbCluster, policy: i32, keys: &[&str]) {
    let selector = selector(cluster);
    selector.fallback_policy = policy;
    selector.fallback_keys_subset = keys.iter().map(|key| (*key).to_owned()).collect();
}

fn said(namespace: &str, key: &str, kind: Option<Kind>) -> Metadata {
    let said = Struct {
        fields: HashMap::from([(key.to_owned(), Value { kind })]),
    };
    Metadata {
        filter_metadata: HashMap::from([(namespace.to_owned(), said)]),
        ..Default::default()
    }
}

#[test]
fn sets_of_a_cluster_are_as_the_contract_says() {
    const KEYS: &str =
        "lb_subset_config.subset_selectors[0].fallback_keys_subset: must be some of keys, and not all";
    check(
        ResourceKind::Cluster,
        &cluster(),
        &[
            (
                |c| config(c).fallback_policy = 3,
                "lb_subset_config.fallback_policy: value 3 is not supported",
            ),
            (
                |c| config(c).scale_locality_weight = true,
                "lb_subset_config.scale_locality_weight: is not supported by this proxy",
            ),
            (
                |c| config(c).list_as_any = true,
                "lb_subset_config.list_as_any: is not supported by this proxy",
            ),
            (
                |c| config(c).metadata_fallback_policy = 1,
                "lb_subset_config.metadata_fallback_policy: is not supported by this proxy",
            ),
            (
                |c| {
                    let mut other = selector(c).clone();
                    other.keys.reverse();
                    config(c).subset_selectors.push(other);
                },
                "lb_subset_config.subset_selectors[1].keys: are another selector's too",
            ),
            (
                |c| config(c).subset_selectors = vec![LbSubsetSelector::default(); 33],
                "lb_subset_config.subset_selectors: must be at most 32",
            ),
            (
                |c| selector(c).keys.clear(),
                "lb_subset_config.subset_selectors[0].keys: at least one is needed",
            ),
            (
                |c| selector(c).single_host_per_subset = true,
                "lb_subset_config.subset_selectors[0].single_host_per_subset: is not supported by this proxy",
            ),
            (
                |c| falls_back(c, 5, &[]),
                "lb_subset_config.subset_selectors[0].fallback_policy: value 5 is not supported",
            ),
            (|c| falls_back(c, 4, &[]), KEYS),
            (|c| falls_back(c, 4, &["c"]), KEYS),
            (|c| falls_back(c, 4, &["a", "b"]), KEYS),
            (
                |c| falls_back(c, 2, &["a"]),
                "lb_subset_config.subset_selectors[0].fallback_keys_subset: is for fallback_policy KEYS_SUBSET",
            ),
            (
                |c| {
                    c.cluster_discovery_type =
                        Some(ClusterDiscoveryType::Type(DiscoveryType::OriginalDst as i32));
                    c.eds_cluster_config = None;
                    c.lb_policy = LbPolicy::ClusterProvided as i32;
                },
                "lb_subset_config: is of hosts of which something is said",
            ),
        ],
    );
    let mut right = cluster();
    for (policy, keys) in [(0, &[][..]), (1, &[]), (2, &[]), (3, &[]), (4, &["a"])] {
        falls_back(&mut right, policy, keys);
        check(ResourceKind::Cluster, &right, &[]);
    }
}

#[test]
fn what_is_said_of_hosts_is_as_the_contract_says() {
    fn endpoint(endpoints: &mut ClusterLoadAssignment) -> &mut LbEndpoint {
        &mut endpoints.endpoints[0].lb_endpoints[0]
    }
    let (_, raw) = samples::endpoints("x", &[80]);
    let mut right = ClusterLoadAssignment::decode(raw.body.as_slice()).unwrap();
    let text = || Some(Kind::StringValue("1".to_owned()));
    let list = ListValue {
        values: vec![
            Value { kind: text() },
            Value {
                kind: Some(Kind::NullValue(0)),
            },
        ],
    };
    for kind in [
        text(),
        Some(Kind::NumberValue(1.5)),
        Some(Kind::BoolValue(true)),
        Some(Kind::ListValue(list)),
    ] {
        endpoint(&mut right).metadata = Some(said("envoy.lb", "v", kind));
        check(ResourceKind::Endpoints, &right, &[]);
    }
    check(
        ResourceKind::Endpoints,
        &right,
        &[
            (
                |e| {
                    endpoint(e).metadata = Some(said(
                        "envoy.transport_socket_match",
                        "v",
                        Some(Kind::BoolValue(true)),
                    ));
                },
                "endpoints[0].lb_endpoints[0].metadata: envoy.transport_socket_match is not supported, only envoy.lb",
            ),
            (
                |e| {
                    let metadata = endpoint(e).metadata.as_mut().unwrap();
                    let any = Any {
                        type_url: "x".to_owned(),
                        ..Default::default()
                    };
                    metadata.typed_filter_metadata.insert("envoy.lb".to_owned(), any);
                },
                "endpoints[0].lb_endpoints[0].metadata.typed_filter_metadata: is not supported by this proxy",
            ),
            (
                |e| endpoint(e).metadata = Some(said("envoy.lb", "v", Some(Kind::NumberValue(f64::NAN)))),
                "endpoints[0].lb_endpoints[0].metadata.envoy.lb.v: NaN is not a number of JSON",
            ),
        ],
    );
}

#[test]
fn what_a_route_wants_holds_for_all_its_clusters() {
    let text = |text: &str| Some(Kind::StringValue(text.to_owned()));
    let weighted = |name: &str, metadata_match| ClusterWeight {
        name: name.to_owned(),
        weight: number(1),
        metadata_match,
        ..Default::default()
    };
    let clusters = vec![
        weighted("a", None),
        weighted("b", Some(said("envoy.lb", "v", Some(Kind::NumberValue(1.0))))),
        weighted("c", Some(said("envoy.lb", "w", text("2")))),
    ];
    let route = PbRoute {
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix("/".to_owned())),
            ..Default::default()
        }),
        action: Some(PbAction::Route(RouteAction {
            cluster_specifier: Some(ClusterSpecifier::WeightedClusters(WeightedCluster {
                clusters,
                ..Default::default()
            })),
            metadata_match: Some(said("envoy.lb", "v", text("1"))),
            ..Default::default()
        })),
        ..Default::default()
    };
    let host = VirtualHost {
        name: "h".to_owned(),
        domains: vec!["*".to_owned()],
        routes: vec![route],
        ..Default::default()
    };
    let (_, raw) = samples::routes("x", vec![host]);
    let table = routes::decode("x", &raw.body, None).unwrap();
    let request = http::Request::get("/").body(()).unwrap().into_parts().0;
    let subject = Subject {
        authority: "any",
        path: "/",
        client: [10, 0, 0, 1].into(),
        direct: [10, 0, 0, 1].into(),
        request: &request,
    };
    let Action::Forward(forward) = &table.route(&subject).unwrap().action else {
        panic!("it forwards");
    };
    let labels = |said: &[(&str, &str)]| {
        let said = said.iter().map(|(key, value)| ((*key).into(), (*value).into()));
        Some(Box::new(crate::balance::Labels::new(said.collect())))
    };
    let wanted: Vec<_> = forward
        .targets
        .iter()
        .map(|target| target.labels.clone())
        .collect();
    assert_eq!(
        wanted,
        [
            labels(&[("v", "\"1\"")]),
            labels(&[("v", "1")]),
            labels(&[("v", "\"1\""), ("w", "\"2\"")]),
        ]
    );
}
