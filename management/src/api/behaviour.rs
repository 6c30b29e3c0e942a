//! The behaviour part of a plan, as one caller is told of it: what it may not read is counted and not shown.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::{Map, Value, json};
use tombolo_compiler::behaviour::{Behaviour, HostMove, Reach, ServiceMove};
use tombolo_compiler::name::{ClusterName, Fqn};

use crate::mesh::Mesh;
use crate::report_history::report_hash;

/// Of each list; a plan is for reading.
const SHOWN_MAX: usize = 100;

/// A list that hides what the caller may not read.
#[derive(Default)]
struct Shown {
    items: Vec<Value>,
    more: usize,
    hidden: usize,
}

/// `clusters` are those of which the caller sees a route change.
pub(crate) fn tell(
    behaviour: &Behaviour,
    mesh: &Mesh,
    clusters: &BTreeSet<&ClusterName>,
    may_read: impl Fn(&Fqn) -> bool,
) -> Value {
    let host = |host: &HostMove| {
        let mut places = host.before.iter().chain(&host.after);
        places.all(|place| may_read(&place.gateway))
    };
    let reach = |reach: &Reach| may_read(&reach.workspace);
    let lists = [
        ("hosts", shown(&behaviour.hosts, host)),
        (
            "services",
            shown(&behaviour.services, |moved: &ServiceMove| {
                may_read(&moved.workspace)
            }),
        ),
        ("newlyReachable", shown(&behaviour.newly_reachable, reach)),
        ("noLongerReachable", shown(&behaviour.no_longer_reachable, reach)),
    ];
    let hidden: usize = lists.iter().map(|(_, list)| list.hidden).sum();
    let more: usize = lists.iter().map(|(_, list)| list.more).sum();
    let mut told: Map<String, Value> = lists
        .into_iter()
        .map(|(name, list)| (name.to_owned(), list.items.into()))
        .collect();
    told.insert("hidden".to_owned(), hidden.into());
    told.insert("more".to_owned(), more.into());
    told.insert("proxies".to_owned(), proxies(mesh, clusters));
    told.insert("reports".to_owned(), stamps(mesh, clusters));
    told.into()
}

fn shown<'a, T: Serialize + 'a>(
    all: impl IntoIterator<Item = &'a T>,
    may_read: impl Fn(&T) -> bool,
) -> Shown {
    let mut list = Shown::default();
    for item in all {
        if !may_read(item) {
            list.hidden += 1;
        } else if list.items.len() == SHOWN_MAX {
            list.more += 1;
        } else {
            list.items.push(json!(item));
        }
    }
    list
}

/// How many proxies of each cluster are given something else, at most: which of them it concerns, the cluster's edge
/// alone knows, and is asked (`touched`). `null` where the edge has not told how many it has.
fn proxies(mesh: &Mesh, clusters: &BTreeSet<&ClusterName>) -> Value {
    let count = |cluster: &ClusterName| {
        let receipt = mesh.heard.get(cluster)?.receipt.as_ref()?;
        Some(receipt.proxies as usize + receipt.unknown.len())
    };
    clusters
        .iter()
        .map(|cluster| (cluster.to_string(), json!({"atMost": count(cluster)})))
        .collect::<Map<_, _>>()
        .into()
}

/// By cluster, the hash of the report that was computed with, and whether the cluster was heard then.
fn stamps(mesh: &Mesh, clusters: &BTreeSet<&ClusterName>) -> Value {
    let stamp = |cluster: &ClusterName| {
        let report = mesh.clusters.get(cluster)?;
        let hash: String = report_hash(report)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let agent = mesh.heard.get(cluster).map(|heard| heard.agent);
        Some(json!({"hash": hash, "agent": agent}))
    };
    clusters
        .iter()
        .map(|cluster| (cluster.to_string(), stamp(cluster).unwrap_or(Value::Null)))
        .collect::<Map<_, _>>()
        .into()
}
