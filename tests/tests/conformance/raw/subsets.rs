//! Which hosts of a cluster a route leads to, by what is said of them.

use std::collections::HashMap;
use std::net::SocketAddr;

use anyhow::Result;
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::LbSubsetConfig;
use envoy_types::pb::envoy::config::cluster::v3::cluster::lb_subset_config::lb_subset_selector::LbSubsetSelectorFallbackPolicy as Otherwise;
use envoy_types::pb::envoy::config::cluster::v3::cluster::lb_subset_config::{
    LbSubsetFallbackPolicy, LbSubsetSelector,
};
use envoy_types::pb::envoy::config::core::v3::Metadata;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::config::route::v3::weighted_cluster::ClusterWeight;
use envoy_types::pb::envoy::config::route::v3::{Route, RouteAction, WeightedCluster};
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, UInt32Value, Value};
use tombolo_tests::ads::{Resources, contract};
use tombolo_tests::upstream::{Application, Applications};

use super::{Ask, BOTH, Site, at, prefix};
use crate::case::Expect;

const HOST: &str = "subsets.test";

type Said = &'static [(&'static str, &'static str)];

/// Their names, where they are, and what is said of them.
const APPLICATIONS: [(&str, &str, Said); 4] = [
    ("one", "127.0.29.82:8080", &[("stage", "prod"), ("v", "1")]),
    ("two", "127.0.29.83:8080", &[("stage", "prod"), ("v", "2")]),
    ("three", "127.0.29.84:8080", &[("v", "2")]),
    ("four", "127.0.29.85:8080", &[]),
];

const ANYBODY: Expect = Expect::AnsweredBy(&["one", "two", "three", "four"]);
const ONE: Expect = Expect::AnsweredBy(&["one"]);
const TWO: Expect = Expect::AnsweredBy(&["two"]);
const SECOND: Expect = Expect::AnsweredBy(&["two", "three"]);
const NOBODY: Expect = Expect::Body("no healthy upstream");

pub(super) async fn applications(all: &Applications) -> Result<Vec<Application>> {
    let mut started = Vec::new();
    for (name, address, _) in APPLICATIONS {
        started.push(all.start(name, address.parse()?).await?);
    }
    Ok(started)
}

/// The clusters, by how they fall back.
pub(super) fn insert(resources: &mut Resources) {
    let selector = |keys: &[&str], otherwise: Otherwise, kept: &[&str]| LbSubsetSelector {
        keys: keys.iter().map(|key| (*key).to_owned()).collect(),
        fallback_policy: otherwise as i32,
        fallback_keys_subset: kept.iter().map(|key| (*key).to_owned()).collect(),
        ..LbSubsetSelector::default()
    };
    let by_version = || vec![selector(&["v"], Otherwise::NotDefined, &[])];
    let falls = |fallback: LbSubsetFallbackPolicy, default: Said| LbSubsetConfig {
        fallback_policy: fallback as i32,
        default_subset: Some(said(default)),
        subset_selectors: by_version(),
        ..LbSubsetConfig::default()
    };
    let default = LbSubsetFallbackPolicy::DefaultSubset;
    let clusters = [
        (
            "nobody",
            LbSubsetConfig {
                subset_selectors: vec![
                    selector(&["v"], Otherwise::NotDefined, &[]),
                    selector(&["stage"], Otherwise::AnyEndpoint, &[]),
                    selector(&["stage", "v"], Otherwise::KeysSubset, &["v"]),
                ],
                ..falls(LbSubsetFallbackPolicy::NoFallback, &[("v", "1")])
            },
        ),
        ("anybody", falls(LbSubsetFallbackPolicy::AnyEndpoint, &[])),
        ("default", falls(default, &[("v", "1")])),
        ("empty", falls(default, &[("v", "9")])),
        (
            "panic",
            LbSubsetConfig {
                panic_mode_any: true,
                ..falls(default, &[("v", "9")])
            },
        ),
        // Nobody is not anybody in panic.
        (
            "strict",
            LbSubsetConfig {
                panic_mode_any: true,
                ..falls(LbSubsetFallbackPolicy::NoFallback, &[])
            },
        ),
        (
            "refusing",
            LbSubsetConfig {
                subset_selectors: vec![selector(&["v"], Otherwise::NoFallback, &[])],
                ..falls(LbSubsetFallbackPolicy::AnyEndpoint, &[])
            },
        ),
        ("all", LbSubsetConfig::default()),
    ];
    let addresses: Vec<SocketAddr> = APPLICATIONS
        .iter()
        .map(|(_, address, _)| address.parse().expect("invariant: it is an address"))
        .collect();
    for (name, config) in clusters {
        let name = full(name);
        let cluster = Cluster {
            lb_subset_config: Some(config),
            ..contract::cluster(&name)
        };
        resources.insert(&name, &cluster);
        let mut endpoints = contract::endpoints(&name, &addresses);
        let hosts = endpoints
            .endpoints
            .iter_mut()
            .flat_map(|all| &mut all.lb_endpoints);
        for (host, (_, _, labels)) in hosts.zip(APPLICATIONS) {
            host.metadata = (!labels.is_empty()).then(|| metadata(said(labels)));
        }
        resources.insert(&name, &endpoints);
    }
}

pub(super) fn sites() -> Vec<Site> {
    let text = |labels: Said| Some(metadata(said(labels)));
    let number = Struct {
        fields: HashMap::from([(
            "v".to_owned(),
            Value {
                kind: Some(Kind::NumberValue(1.0)),
            },
        )]),
    };
    // Where it is asked, which cluster that leads to, what is wanted there, and who answers.
    let rows: [(&'static str, &str, Option<Metadata>, Expect); 25] = [
        ("/nobody/1", "nobody", text(&[("v", "1")]), ONE),
        ("/nobody/2", "nobody", text(&[("v", "2")]), SECOND),
        (
            "/nobody/both",
            "nobody",
            text(&[("v", "2"), ("stage", "prod")]),
            TWO,
        ),
        // By the version alone.
        (
            "/nobody/fewer",
            "nobody",
            text(&[("v", "2"), ("stage", "dev")]),
            SECOND,
        ),
        (
            "/nobody/other",
            "nobody",
            text(&[("v", "1"), ("stage", "dev")]),
            ONE,
        ),
        (
            "/nobody/none",
            "nobody",
            text(&[("v", "9"), ("stage", "dev")]),
            NOBODY,
        ),
        ("/nobody/stage", "nobody", text(&[("stage", "dev")]), ANYBODY),
        ("/nobody/3", "nobody", text(&[("v", "3")]), NOBODY),
        ("/nobody/more", "nobody", text(&[("v", "1"), ("w", "1")]), NOBODY),
        ("/nobody/number", "nobody", Some(metadata(number)), NOBODY),
        ("/nobody/unsaid", "nobody", None, NOBODY),
        ("/anybody/2", "anybody", text(&[("v", "2")]), SECOND),
        ("/anybody/3", "anybody", text(&[("v", "3")]), ANYBODY),
        ("/anybody/unsaid", "anybody", None, ANYBODY),
        ("/default/2", "default", text(&[("v", "2")]), SECOND),
        ("/default/3", "default", text(&[("v", "3")]), ONE),
        ("/default/unsaid", "default", None, ONE),
        ("/empty/unsaid", "empty", None, NOBODY),
        ("/panic/unsaid", "panic", None, ANYBODY),
        ("/strict/2", "strict", text(&[("v", "2")]), SECOND),
        ("/strict/9", "strict", text(&[("v", "9")]), NOBODY),
        ("/strict/unsaid", "strict", None, NOBODY),
        ("/refusing/3", "refusing", text(&[("v", "3")]), NOBODY),
        ("/refusing/unsaid", "refusing", None, ANYBODY),
        // There are no sets without selectors.
        ("/all/3", "all", text(&[("v", "3")]), ANYBODY),
    ];
    let mut site = Site {
        name: "subsets",
        domains: vec![HOST.to_owned()],
        routes: vec![],
        versions: BOTH,
        asks: vec![],
    };
    let mut add = |path: &'static str, specifier, wanted, expect| {
        site.routes.push(Route {
            r#match: Some(prefix(path)),
            action: Some(Action::Route(RouteAction {
                cluster_specifier: Some(specifier),
                metadata_match: wanted,
                ..RouteAction::default()
            })),
            ..Route::default()
        });
        site.asks.push(Ask {
            host: HOST.to_owned(),
            case: at(path),
            expect,
        });
    };
    for (path, cluster, wanted, expect) in rows {
        add(path, ClusterSpecifier::Cluster(full(cluster)), wanted, expect);
    }
    // What a weighted cluster says comes before what its route does.
    let weighted: [(&'static str, Said, Said, Expect); 3] = [
        (
            "/weighted/over",
            &[("v", "1")],
            &[("v", "2"), ("stage", "prod")],
            TWO,
        ),
        ("/weighted/beside", &[("stage", "prod")], &[("v", "2")], TWO),
        ("/weighted/outer", &[("v", "1")], &[], ONE),
    ];
    for (path, outer, inner, expect) in weighted {
        let cluster = ClusterWeight {
            name: full("nobody"),
            weight: Some(UInt32Value { value: 1 }),
            metadata_match: (!inner.is_empty()).then(|| metadata(said(inner))),
            ..ClusterWeight::default()
        };
        let specifier = ClusterSpecifier::WeightedClusters(WeightedCluster {
            clusters: vec![cluster],
            ..WeightedCluster::default()
        });
        add(path, specifier, text(outer), expect);
    }
    vec![site]
}

/// Other sites have clusters of such names too.
fn full(cluster: &str) -> String {
    format!("subsets/{cluster}")
}

fn metadata(said: Struct) -> Metadata {
    Metadata {
        filter_metadata: HashMap::from([("envoy.lb".to_owned(), said)]),
        ..Metadata::default()
    }
}

fn said(labels: Said) -> Struct {
    let value = |text: &str| Value {
        kind: Some(Kind::StringValue(text.to_owned())),
    };
    let fields = labels.iter().map(|(key, text)| ((*key).to_owned(), value(text)));
    Struct {
        fields: fields.collect(),
    }
}
