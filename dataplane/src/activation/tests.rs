//! What runs after a row of updates is what would run from scratch, in the snapshot and in a worker, and what an update does not
//! change is not touched.
#![allow(clippy::unwrap_used)]

use std::rc::Rc;

use super::*;
use crate::balance::Draw;
use crate::decode::Resources;
use crate::decode::samples::{self, cluster, endpoints};
use crate::orders::{Order, Orders, orders};
use crate::worker::{Random, View, WorkerCluster};

/// A worker that has no requests.
struct IdleWorker {
    orders: Orders,
    view: View,
}

impl IdleWorker {
    async fn apply(&mut self) {
        let Some(Order::Run(Command::Apply {
            snapshot,
            difference,
            done,
            ..
        })) = self.orders.next().await
        else {
            unreachable!("nothing else is said");
        };
        drop(self.view.apply(&snapshot, &difference));
        done.send(()).unwrap();
    }
}

fn started() -> (Activation, IdleWorker) {
    let (remote, orders) = orders();
    let view = View::new(0);
    (
        Activation::new(vec![remote], Arc::default(), None),
        IdleWorker { orders, view },
    )
}

fn some_update(random: &Random) -> Update {
    let mut names: Vec<String> = (0..1 + random.below(3))
        .map(|_| format!("c{}", random.below(8)))
        .collect();
    names.sort();
    names.dedup();
    let ports = |_: &String| -> Vec<u16> {
        let ports = (0..4).filter(|_| random.below(2) == 0);
        ports.map(|port| 8000 + port).collect()
    };
    match random.below(5) {
        0 => Update {
            kind: ResourceKind::Cluster,
            resources: vec![],
            removed: names,
        },
        1..3 => {
            let clusters = names
                .iter()
                .map(|name| cluster(name, 1 + i64::from(random.below(2))));
            samples::update(ResourceKind::Cluster, clusters.collect(), &[])
        }
        _ => {
            let endpoints = names.iter().map(|name| endpoints(name, &ports(name)));
            samples::update(ResourceKind::Endpoints, endpoints.collect(), &[])
        }
    }
}

fn addresses(cluster: &LiveCluster) -> Vec<SocketAddr> {
    cluster.hosts.iter().map(|live| live.host.address).collect()
}

/// Whether all of the snapshot, of what is kept beside it and of the worker's view is as the configuration says.
fn check(activation: &Activation, config: &Config, worker: &IdleWorker, context: &str) {
    let snapshot = activation.current.load();
    let names: Vec<_> = config.clusters.names().collect();
    assert!(snapshot.clusters.names().eq(names.iter().copied()), "{context}");
    for (name, live) in snapshot.clusters.iter() {
        assert!(
            Arc::ptr_eq(&live.config, config.clusters.get(name).unwrap()),
            "{context}: {name}"
        );
        let endpoints = config
            .endpoints
            .get(name)
            .map(|given| given.endpoints.clone())
            .unwrap_or_default();
        let told: Vec<_> = endpoints.iter().map(|endpoint| endpoint.address).collect();
        assert_eq!(addresses(live), told, "{context}: {name}");
        let joined = worker.view.cluster(name).unwrap();
        assert!(Arc::ptr_eq(&joined.live, live), "{context}: {name} is stale");
    }
    for number in 0..8 {
        let name = format!("c{number}");
        assert_eq!(
            worker.view.cluster(&name).is_some(),
            config.clusters.contains(&name),
            "{context}: {name}"
        );
    }
    let hosts: BTreeSet<u64> = snapshot.hosts().map(|live| live.host.id).collect();
    let tracked: BTreeSet<u64> = activation.hosts.values().map(|tracked| tracked.host.id).collect();
    assert_eq!(tracked, hosts, "{context}");
    let pooled: BTreeSet<u64> = worker.view.pools().map(|pool| pool.host.id).collect();
    assert_eq!(pooled, hosts, "{context}");
    assert!(
        activation
            .traffic
            .keys()
            .chain(activation.loads.keys())
            .all(|name| config.clusters.contains(name))
    );
}

#[tokio::test]
async fn a_row_of_updates_runs_what_they_leave() {
    for seed in 0..30 {
        let random = Random::seeded(seed);
        let (mut activation, mut worker) = started();
        let mut resources = Resources::default();
        for step in 0..50 {
            // Some of them at once: what is applied is the latest, not each.
            for _ in 0..1 + random.below(2) {
                resources = resources.with(&some_update(&random)).unwrap();
            }
            let (applied, ()) = tokio::join!(activation.apply(resources.config(), 1), worker.apply());
            applied.unwrap();
            check(
                &activation,
                resources.config(),
                &worker,
                &format!("seed {seed}, step {step}"),
            );
        }
    }
}

#[tokio::test]
async fn a_change_of_one_of_five_thousand_touches_one() {
    let names = || (0..5000).map(|number| format!("c{number}"));
    let (mut activation, mut worker) = started();
    let clusters = names().map(|name| cluster(&name, 1)).collect();
    let hosts = names().map(|name| endpoints(&name, &[8000])).collect();
    let resources = Resources::default();
    let resources = resources
        .with(&samples::update(ResourceKind::Cluster, clusters, &[]))
        .unwrap();
    let resources = resources
        .with(&samples::update(ResourceKind::Endpoints, hosts, &[]))
        .unwrap();
    let (applied, ()) = tokio::join!(activation.apply(resources.config(), 1), worker.apply());
    applied.unwrap();
    let before = activation.current.load_full();
    let joined = |worker: &IdleWorker| -> Vec<Rc<WorkerCluster>> {
        names().map(|name| worker.view.cluster(&name).unwrap()).collect()
    };
    let selections = |snapshot: &Snapshot| -> Vec<usize> {
        let clusters = snapshot.clusters.values();
        clusters
            .map(|cluster| Arc::as_ptr(&cluster.selection.load_full()) as usize)
            .collect()
    };
    let (view_before, selections_before) = (joined(&worker), selections(&before));

    let one = samples::update(
        ResourceKind::Endpoints,
        vec![endpoints("c2500", &[8000, 8001])],
        &[],
    );
    let resources = resources.with(&one).unwrap();
    let (applied, ()) = tokio::join!(activation.apply(resources.config(), 1), worker.apply());
    applied.unwrap();

    let after = activation.current.load_full();
    let changes = after.clusters.changes(&before.clusters, Arc::ptr_eq);
    assert_eq!(
        changes.iter().map(|change| &**change.name).collect::<Vec<_>>(),
        ["c2500"]
    );
    let changed = joined(&worker)
        .iter()
        .zip(&view_before)
        .filter(|(one, other)| !Rc::ptr_eq(one, other))
        .count();
    assert_eq!(changed, 1, "of the worker's");
    let selected = selections(&after)
        .iter()
        .zip(&selections_before)
        .filter(|(one, other)| one != other)
        .count();
    assert_eq!(selected, 1, "selections");
    // The host that stayed is the same, with what is known of it.
    let ids = |snapshot: &Snapshot| snapshot.clusters.get("c2500").unwrap().hosts[0].host.id;
    assert_eq!(ids(&before), ids(&after));
}
