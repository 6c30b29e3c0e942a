//! The walls between the crates, as ARCHITECTURE.md draws them, held over `cargo metadata`.
//!
//! A new edge is a line of these tables, reviewed as such. Dependencies of tests alone (`[dev-dependencies]`) are free,
//! and so are the two crates that are not product: `tombolo-tests` sees everything, `xtask` sees nothing.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Each crate of ours, and those of ours that it may use.
const OURS: &[(&str, &[&str])] = &[
    ("tombolo-compiler", &[]),
    ("tombolo-runtime", &[]),
    ("tombolo-proto", &["tombolo-compiler"]),
    (
        "tombolo-management",
        &["tombolo-compiler", "tombolo-proto", "tombolo-runtime"],
    ),
    (
        "tombolo-global-cp",
        &["tombolo-compiler", "tombolo-proto", "tombolo-runtime"],
    ),
    (
        "tombolo-local-cp",
        &["tombolo-compiler", "tombolo-proto", "tombolo-runtime"],
    ),
    // Speaks Envoy's xDS only, so that it can be exchanged for any other proxy that does.
    ("tombolo-dataplane", &["tombolo-runtime"]),
    (
        "tombolo-cli",
        &[
            "tombolo-compiler",
            "tombolo-dataplane",
            "tombolo-global-cp",
            "tombolo-local-cp",
            "tombolo-management",
            "tombolo-runtime",
        ],
    ),
    ("xtask", &[]),
];

/// Sees everything.
const TESTS: &str = "tombolo-tests";

/// How many crates of ours may stand on each other: compiler, proto, a plane, the command line.
const CHAIN_MAX: usize = 4;

/// Others' crates that stand for a world of their own, and who of us may use them.
const GUARDED: &[(&str, &[&str])] = &[
    ("sqlx", &["tombolo-management"]),
    ("sea-query", &["tombolo-management"]),
    ("sea-query-sqlx", &["tombolo-management"]),
    ("envoy-types", &["tombolo-local-cp", "tombolo-dataplane"]),
    ("kube", &["tombolo-local-cp"]),
    ("k8s-openapi", &["tombolo-local-cp"]),
    (
        "axum",
        // Each plane adds routes of its own to the runtime's admin port.
        &[
            "tombolo-management",
            "tombolo-runtime",
            "tombolo-global-cp",
            "tombolo-local-cp",
            "tombolo-dataplane",
        ],
    ),
    (
        "tonic",
        &[
            "tombolo-proto",
            "tombolo-runtime",
            "tombolo-management",
            "tombolo-global-cp",
            "tombolo-local-cp",
            "tombolo-dataplane",
        ],
    ),
];

/// What may not even be reached through somebody else.
const UNREACHABLE: &[(&str, &[&str])] = &[
    (
        // The brain is synchronous and knows neither the wire, nor storage, nor the time.
        "tombolo-compiler",
        &[
            "axum",
            "chrono",
            "envoy-types",
            "hyper",
            "kube",
            "prost",
            "rand",
            "sqlx",
            "time",
            "tokio",
            "tonic",
            "uuid",
        ],
    ),
    ("tombolo-proto", &["envoy-types", "kube", "sqlx"]),
    (
        "tombolo-runtime",
        &["envoy-types", "kube", "sqlx", "tombolo-compiler"],
    ),
    (
        "tombolo-dataplane",
        &["kube", "sqlx", "tombolo-compiler", "tombolo-proto"],
    ),
    ("tombolo-global-cp", &["envoy-types", "kube", "sqlx"]),
    ("tombolo-local-cp", &["sqlx"]),
    ("tombolo-management", &["envoy-types", "kube"]),
];

type Edges = BTreeMap<String, BTreeSet<String>>;

#[test]
fn every_crate_of_ours_has_its_walls() {
    let members: BTreeSet<String> = direct_edges().into_keys().collect();
    let listed: BTreeSet<String> = OURS
        .iter()
        .map(|(name, _)| *name)
        .chain([TESTS])
        .map(str::to_owned)
        .collect();
    assert_eq!(
        members, listed,
        "workspace members (left) and the table OURS (right) differ"
    );
}

#[test]
fn crates_of_ours_use_each_other_only_as_drawn() {
    let edges = direct_edges();
    for (name, allowed) in OURS {
        let ours = edges[*name].iter().filter(|used| edges.contains_key(*used));
        let beyond: Vec<_> = ours.filter(|used| !allowed.contains(&used.as_str())).collect();
        assert!(beyond.is_empty(), "{name} may not use {beyond:?}");
    }
}

#[test]
fn the_longest_chain_is_four() {
    let edges = direct_edges();
    for (name, _) in OURS {
        let length = chain_length(&edges, name);
        assert!(
            length <= CHAIN_MAX,
            "{name} stands on a chain of {length} crates, at most {CHAIN_MAX} may"
        );
    }
}

#[test]
fn guarded_crates_are_used_only_by_their_owners() {
    let edges = direct_edges();
    for (guarded, owners) in GUARDED {
        let users = edges
            .iter()
            .filter(|(_, used)| used.contains(*guarded))
            .map(|(name, _)| name.as_str());
        let beyond: Vec<_> = users
            .filter(|user| *user != TESTS && !owners.contains(user))
            .collect();
        assert!(
            beyond.is_empty(),
            "{guarded} may be used by {owners:?} only, and is by {beyond:?}"
        );
    }
}

#[test]
fn what_is_walled_off_is_not_reached_through_others() {
    let graph = resolved_edges();
    for (name, forbidden) in UNREACHABLE {
        let reached = reachable(&graph, name);
        let beyond: Vec<_> = forbidden
            .iter()
            .filter(|other| reached.contains(**other))
            .collect();
        assert!(
            beyond.is_empty(),
            "{name} reaches {beyond:?}; `cargo tree -p {name} -i NAME` shows how"
        );
    }
}

fn chain_length(edges: &Edges, name: &str) -> usize {
    let ours = edges[name].iter().filter(|used| edges.contains_key(*used));
    1 + ours.map(|used| chain_length(edges, used)).max().unwrap_or(0)
}

fn reachable(graph: &Edges, from: &str) -> BTreeSet<String> {
    let mut reached = BTreeSet::new();
    let mut open = vec![from.to_owned()];
    while let Some(name) = open.pop() {
        for used in graph.get(&name).into_iter().flatten() {
            if reached.insert(used.clone()) {
                open.push(used.clone());
            }
        }
    }
    reached
}

/// What the manifests of the workspace's members declare, without what only tests use.
fn direct_edges() -> Edges {
    let metadata = metadata(&["--no-deps"]);
    let packages = metadata["packages"].as_array().unwrap();
    let edges_of = |package: &Value| {
        let dependencies = package["dependencies"].as_array().unwrap().iter();
        let used = dependencies
            .filter(|dependency| dependency["kind"] != "dev")
            .map(|used| text(&used["name"]));
        (text(&package["name"]), used.collect())
    };
    packages.iter().map(edges_of).collect()
}

/// The whole graph as resolved, by name: all versions of a crate are one.
fn resolved_edges() -> Edges {
    let metadata = metadata(&[]);
    let packages = metadata["packages"].as_array().unwrap();
    let names: BTreeMap<String, String> = packages
        .iter()
        .map(|package| (text(&package["id"]), text(&package["name"])))
        .collect();
    let mut edges = Edges::new();
    for node in metadata["resolve"]["nodes"].as_array().unwrap() {
        let used = node["deps"].as_array().unwrap().iter().filter(|dependency| {
            dependency["dep_kinds"]
                .as_array()
                .unwrap()
                .iter()
                .any(|kind| kind["kind"].is_null())
        });
        let used = used.map(|dependency| names[&text(&dependency["pkg"])].clone());
        edges
            .entry(names[&text(&node["id"])].clone())
            .or_default()
            .extend(used);
    }
    edges
}

fn metadata(args: &[&str]) -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .args(args)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}
