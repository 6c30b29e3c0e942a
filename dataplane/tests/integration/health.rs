//! Checks of hosts: who fails them is left at once, and what they have found outlives updates.

use std::time::{Duration, Instant};

use crate::support::proxy::{client, eventually, free_address, get};
use crate::support::site::Site;
use crate::support::upstream::{Mood, Upstream};
use crate::support::{ads, mesh};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_hosts_requests_move_when_its_check_fails() {
    for http2 in [false, true] {
        let (frozen, well) = (Upstream::start("frozen").await, Upstream::start("well").await);
        let mut cluster = mesh::with_checks(mesh::cluster("a"), 50, 200);
        if http2 {
            cluster = mesh::with_http2(cluster);
        }
        let mesh = Site::start(
            vec![(cluster, vec![(frozen.address, 0), (well.address, 1)])],
            vec![mesh::with_retries(mesh::to_cluster("/", "a"), 2)],
        )
        .await;
        mesh.hosts_are("a", &["healthy", "healthy"]).await;
        let client = client();
        assert_eq!(get(&client, &mesh.url("/1")).await.unwrap().body, "frozen /1 ");
        frozen.mood.send_replace(Mood::Frozen);
        let before = Instant::now();
        let answer = get(&client, &mesh.url("/2")).await.unwrap();
        assert_eq!(answer.body, "well /2 ", "http/2 {http2}");
        // The route's own timeout is 15 s: it was the check that moved the request.
        assert!(
            before.elapsed() < Duration::from_secs(10),
            "took {:?}",
            before.elapsed()
        );
        mesh.hosts_are("a", &["unhealthy", "healthy"]).await;
        frozen.mood.send_replace(Mood::Well);
        mesh.hosts_are("a", &["healthy", "healthy"]).await;
        eventually("the host is used again", || async {
            get(&client, &mesh.url("/3")).await.unwrap().body == "frozen /3 "
        })
        .await;
    }
}

/// A check of one host keeps its opinion while the endpoints around it change: otherwise every update would send all
/// traffic to the next priority until the checks have run again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_survives_updates_of_endpoints() {
    let (near, far) = (Upstream::start("near").await, Upstream::start("far").await);
    let cluster = mesh::with_checks(mesh::cluster("a"), 60_000, 1_000);
    let mesh = Site::start(
        vec![(cluster, vec![(near.address, 0), (far.address, 1)])],
        vec![mesh::to_cluster("/", "a")],
    )
    .await;
    mesh.hosts_are("a", &["healthy", "healthy"]).await;
    let client = client();
    for round in 0..10 {
        let mut hosts = vec![(near.address, 0), (far.address, 1)];
        if round % 2 == 0 {
            hosts.push((free_address(), 2));
        }
        mesh.edge.put("a", &mesh::endpoints("a", &hosts));
        mesh.acknowledges(ads::ENDPOINTS, "a").await;
        assert_eq!(
            get(&client, &mesh.url("/")).await.unwrap().body,
            "near / ",
            "round {round}"
        );
    }
    assert_eq!(far.requests(), 0);
    // The interval is a minute: a second check would be one that started over.
    assert_eq!((near.checks(), far.checks()), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_endpoints_are_acknowledged_after_their_first_check() {
    let (well, frozen) = (Upstream::start("well").await, Upstream::start("frozen").await);
    frozen.mood.send_replace(Mood::Frozen);
    let mesh = Site::start(vec![], vec![mesh::to_cluster("/", "a")]).await;
    mesh.edge
        .put("a", &mesh::with_checks(mesh::cluster("a"), 1_000, 300));
    mesh.edge.put(
        "a",
        &mesh::endpoints("a", &[(frozen.address, 0), (well.address, 1)]),
    );
    mesh.acknowledges(ads::ENDPOINTS, "a").await;
    let hosts = mesh.proxy.admin("/hosts").await.unwrap().body;
    assert!(!hosts.contains("unchecked"), "{hosts}");
    assert_eq!(get(&client(), &mesh.url("/")).await.unwrap().body, "well / ");
}
