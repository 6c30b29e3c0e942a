//! Hosts that are left out for what they answer, over real sockets and two workers, and how they come back.

use std::net::SocketAddr;

use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use envoy_types::pb::envoy::config::cluster::v3::{Cluster, OutlierDetection};
use envoy_types::pb::google::protobuf::{BoolValue, Duration, UInt32Value};

use crate::support::mesh;
use crate::support::proxy::{client, eventually, free_address, get, http2_client};
use crate::support::site::Site;
use crate::support::upstream::{Mood, Upstream};

/// A proxy before one cluster.
struct Stage {
    site: Site,
}

impl Stage {
    async fn start(cluster: Cluster, hosts: &[SocketAddr]) -> Self {
        let hosts = hosts.iter().map(|host| (*host, 0)).collect();
        let routes = vec![
            mesh::with_timeout(mesh::to_cluster("/late", "a"), 50),
            mesh::to_cluster("/", "a"),
        ];
        Self {
            site: Site::start(vec![(cluster, hosts)], routes).await,
        }
    }

    async fn status(&self, path: &str, http2: bool) -> u16 {
        let client = if http2 { http2_client() } else { client() };
        let answer = get(&client, &self.site.url(path)).await;
        answer.unwrap().status.as_u16()
    }

    /// Which hosts are left out.
    async fn ejected(&self) -> Vec<String> {
        let hosts = self.site.proxy.admin("/hosts").await.unwrap().body;
        let hosts: serde_json::Value = serde_json::from_str(&hosts).unwrap();
        let of_cluster = hosts["a"].as_array().unwrap().iter();
        of_cluster
            .filter(|host| host["ejected"] == true)
            .map(|host| host["address"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Sends requests until `hosts` are left out, and nobody else.
    async fn until_ejected(&self, path: &str, hosts: &[SocketAddr]) {
        let expected: Vec<String> = hosts.iter().map(SocketAddr::to_string).collect();
        eventually("they are left out", || async {
            self.status(path, false).await;
            self.ejected().await == expected
        })
        .await;
    }

    async fn counts(&self, metric: &str) -> bool {
        let metrics = self.site.proxy.metrics().await;
        metrics.lines().any(|line| line.starts_with(metric))
    }
}

fn number(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

fn millis(millis: i32) -> Option<Duration> {
    Some(Duration {
        seconds: (millis / 1000).into(),
        nanos: millis % 1000 * 1_000_000,
    })
}

/// Three failures in a row leave a host out for `base_ms`.
fn detection(base_ms: i32) -> OutlierDetection {
    OutlierDetection {
        consecutive_5xx: number(3),
        interval: millis(50),
        base_ejection_time: millis(base_ms),
        max_ejection_percent: number(100),
        ..Default::default()
    }
}

fn with(cluster: Cluster, detection: OutlierDetection) -> Cluster {
    Cluster {
        outlier_detection: Some(detection),
        ..cluster
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_fails_is_left_out_and_comes_back() {
    let hosts = [
        Upstream::start("a").await,
        Upstream::start("b").await,
        Upstream::start("c").await,
    ];
    let addresses = hosts.each_ref().map(|host| host.address);
    for cluster in [mesh::cluster("a"), mesh::with_http2(mesh::cluster("a"))] {
        let stage = Stage::start(with(cluster, detection(600)), &addresses).await;
        hosts[1].mood.send_replace(Mood::Refusing);
        stage.until_ejected("/", &addresses[1..2]).await;
        let before = hosts[1].requests();
        for nth in 0..20 {
            assert_eq!(stage.status("/", nth % 2 == 0).await, 200);
        }
        assert_eq!(hosts[1].requests(), before, "nothing is sent to it");
        assert!(
            stage
                .counts("tombolo_ejections_total{cluster=\"a\",why=\"consecutive_5xx\"} 1")
                .await
        );
        hosts[1].mood.send_replace(Mood::Well);
        eventually("it is asked again", || async {
            stage.status("/", false).await;
            hosts[1].requests() > before
        })
        .await;
        assert!(stage.ejected().await.is_empty());
        assert!(stage.counts("tombolo_hosts_ejected{cluster=\"a\"} 0").await);
        stage.site.proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_does_not_answer_is_left_out_too() {
    let well = Upstream::start("well").await;
    let frozen = Upstream::start("frozen").await;
    frozen.mood.send_replace(Mood::Frozen);
    let split = OutlierDetection {
        split_external_local_origin_errors: true,
        consecutive_local_origin_failure: number(3),
        ..detection(60_000)
    };
    let nobody = free_address();
    for (bad, detection, path) in [
        (frozen.address, detection(60_000), "/late"),
        (nobody, detection(60_000), "/"),
        (nobody, split, "/"),
    ] {
        let stage = Stage::start(with(mesh::cluster("a"), detection), &[well.address, bad]).await;
        stage.until_ejected(path, &[bad]).await;
        for _ in 0..10 {
            assert_eq!(stage.status(path, false).await, 200);
        }
        stage.site.proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_is_not_blamed_for_those_that_wait_for_its_connection() {
    let host = Upstream::start("a").await;
    let limits = Thresholds {
        max_connections: number(1),
        ..Default::default()
    };
    let cluster = mesh::with_limits(mesh::cluster("a"), limits);
    let stage = Stage::start(with(cluster, detection(60_000)), &[host.address]).await;
    host.mood.send_replace(Mood::Frozen);
    // As many as take the connections of both workers.
    let held = futures::future::join_all((0..12).map(|nth| stage.status("/", nth % 2 == 0)));
    let waiting = async {
        eventually("both connections are taken", || async { host.requests() == 2 }).await;
        for nth in 0..12 {
            assert_eq!(stage.status("/late", nth % 2 == 0).await, 504);
        }
        assert_eq!(stage.ejected().await, Vec::<String>::new());
        host.mood.send_replace(Mood::Well);
    };
    let (held, ()) = tokio::join!(held, waiting);
    assert_eq!(held, [200; 12]);
    stage.site.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_are_left_out_than_may_be_and_all_are_used_if_none_is_left() {
    let hosts = [Upstream::start("a").await, Upstream::start("b").await];
    let addresses = hosts.each_ref().map(|host| host.address);
    hosts.iter().for_each(|host| {
        host.mood.send_replace(Mood::Refusing);
    });
    let half = OutlierDetection {
        max_ejection_percent: number(50),
        ..detection(60_000)
    };
    let stage = Stage::start(with(mesh::cluster("a"), half), &addresses).await;
    eventually("one stays that should go", || async {
        stage.status("/", false).await;
        stage
            .counts("tombolo_ejections_total{cluster=\"a\",why=\"not_ejected\"}")
            .await
    })
    .await;
    assert_eq!(stage.ejected().await.len(), 1);
    // What is looked for has changed: all begin anew.
    stage
        .site
        .edge
        .put("a", &with(mesh::cluster("a"), detection(60_000)));
    stage.until_ejected("/", &addresses).await;
    hosts.iter().for_each(|host| {
        host.mood.send_replace(Mood::Well);
    });
    assert_eq!(stage.status("/", false).await, 200, "in panic all are used");
    stage.site.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_that_passes_brings_a_host_back_unless_it_may_not() {
    let hosts = [Upstream::start("a").await, Upstream::start("b").await];
    let addresses = hosts.each_ref().map(|host| host.address);
    // Its checks pass.
    hosts[1].mood.send_replace(Mood::Refusing);
    let checked = || mesh::with_checks(mesh::cluster("a"), 100, 1000);
    let stays = OutlierDetection {
        successful_active_health_check_uneject_host: Some(BoolValue { value: false }),
        ..detection(60_000)
    };
    let stage = Stage::start(with(checked(), stays), &addresses).await;
    stage.until_ejected("/", &addresses[1..]).await;
    let checks = hosts[1].checks();
    eventually("it is checked again", || async { hosts[1].checks() > checks + 3 }).await;
    assert_eq!(stage.ejected().await, [addresses[1].to_string()]);
    assert_eq!(stage.status("/", false).await, 200);

    stage.site.edge.put("a", &with(checked(), detection(60_000)));
    stage.until_ejected("/", &addresses[1..]).await;
    eventually("it is back", || async { stage.ejected().await.is_empty() }).await;
    stage.site.proxy.stop().await;
}
