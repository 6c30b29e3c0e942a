//! Hosts that end and come back while clients ask: what may be repeated is not lost.

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use tokio::net::TcpStream;

use super::Load;
use crate::support::ads::AdsServer;
use crate::support::mesh;
use crate::support::proxy::{Proxy, eventually, free_address};
use crate::support::upstream::{Parting, Upstream};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_of_http_1_that_restart_in_turn_lose_no_request() {
    restarted_in_turn(&mesh::cluster("a")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_of_http_2_that_restart_in_turn_lose_no_request() {
    restarted_in_turn(&mesh::with_http2(mesh::cluster("a"))).await;
}

/// The balancer prefers whoever has least to do, and that is who is gone: of twenty draws of another host all may miss it, three
/// times in a thousand, but not so often in a row.
const RETRIES: u32 = 3;

/// Nothing checks the hosts: what is lost could only be saved by a retry.
async fn restarted_in_turn(cluster: &Cluster) {
    let places = [free_address(), free_address()];
    let mut hosts = Vec::new();
    for place in places {
        hosts.push(Some(Upstream::start_at(place, "host", Parting::Resets).await));
    }
    let edge = AdsServer::start_at(free_address()).await;
    let data = tempfile::tempdir().unwrap();
    let listener = free_address();
    edge.put("a", cluster);
    edge.put("a", &mesh::endpoints("a", &places.map(|place| (place, 0))));
    edge.put("in", &mesh::listener("in", listener, "in"));
    let route = mesh::with_retries(mesh::to_cluster("/", "a"), RETRIES);
    edge.put("in", &mesh::routes("in", vec![route]));
    let proxy = Proxy::start(&edge.url(), data.path());
    eventually("the proxy is ready", || proxy.is_ready()).await;
    let load = Load::start(listener);
    load.answers(300).await;
    // As those end that run, and then as those do that came instead of them.
    for parting in [Parting::Closes, Parting::Resets] {
        for (host, place) in hosts.iter_mut().zip(places) {
            let had = retries(&proxy).await;
            *host = None;
            eventually("nobody listens there", || async {
                TcpStream::connect(place).await.is_err()
            })
            .await;
            load.answers(300).await;
            // What was cut off is with the other one.
            load.answers_each().await;
            assert!(retries(&proxy).await > had, "nothing was tried where nobody is");
            let back = host.insert(Upstream::start_at(place, "host", parting).await);
            eventually("it is asked again", || async { back.requests() > 100 }).await;
            // Who began without it has had a retry already, and would find no host that it has not tried.
            load.answers_each().await;
        }
    }
    assert_eq!(load.stop().await, Vec::<String>::new());
    proxy.stop().await;
}

async fn retries(proxy: &Proxy) -> u64 {
    let metrics = proxy.admin("/metrics").await.unwrap().body;
    let lines = metrics.lines().filter_map(|line| {
        let (name, value) = line.rsplit_once(' ')?;
        name.starts_with("tombolo_retries_total{").then_some(value)
    });
    lines.map(|value| value.parse::<u64>().unwrap()).sum()
}
