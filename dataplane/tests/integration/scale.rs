//! A proxy with many clusters, most of which nobody asks for: what happens to the others while some of them change.

use std::time::Duration;

use prost::{Message, Name};

use crate::support::ads::AdsServer;
use crate::support::clients::Clients;
use crate::support::proxy::{Proxy, client, eventually, free_address, get};
use crate::support::upstream::Upstream;
use crate::support::{ads, mesh};

const CLUSTERS: usize = 1000;

/// What the metrics say of a cluster's requests, if anything.
async fn requests(proxy: &Proxy, cluster: &str) -> Option<u64> {
    let series =
        format!("tombolo_requests_total{{listener=\"in\",cluster=\"{cluster}\",code_class=\"2xx\"}}");
    proxy.metric(&series).await
}

fn encoded<M: Message + Name>(message: &M) -> (String, Vec<u8>) {
    (M::type_url(), message.encode_to_vec())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_among_many_clusters_lose_no_request_and_no_count() {
    let (a, b) = (Upstream::start("a").await, Upstream::start("b").await);
    let edge = AdsServer::start_at(free_address()).await;
    let data = tempfile::tempdir().unwrap();
    let listener = free_address();
    let names: Vec<String> = (0..CLUSTERS).map(|number| format!("c{number}")).collect();
    let clusters = names.iter().flat_map(|name| {
        let cluster = encoded(&mesh::cluster(name));
        let endpoints = encoded(&mesh::endpoints(name, &[(a.address, 0)]));
        [cluster, endpoints].map(|(type_url, body)| (name.as_str(), type_url, body))
    });
    edge.put_all(&clusters.collect::<Vec<_>>());
    edge.put("in", &mesh::listener("in", listener, "in"));
    let first = mesh::to_cluster("/", "c0");
    edge.put("in", &mesh::routes("in", vec![first.clone()]));
    let proxy = Proxy::start(&edge.url(), data.path());
    eventually("the proxy is ready", || proxy.is_ready()).await;
    eventually("all endpoints are there", || async {
        edge.is_acknowledged(ads::ENDPOINTS, "c999")
    })
    .await;

    let clients = Clients::start(&format!("http://{listener}/"), 2);
    for round in 0..100 {
        let other = &names[1 + round % (CLUSTERS - 1)];
        match round % 4 {
            0 => edge.put("c0", &mesh::endpoints("c0", &[(b.address, 0)])),
            1 => edge.remove(ads::CLUSTER, other),
            2 => edge.put("c0", &mesh::endpoints("c0", &[(a.address, 0), (b.address, 0)])),
            _ => {
                let host = mesh::to_cluster(&format!("/{round}"), other);
                edge.put("in", &mesh::routes("in", vec![host, first.clone()]));
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    eventually("the last change is acknowledged", || async {
        edge.is_acknowledged(ads::ROUTES, "in")
    })
    .await;
    let answered = clients.stop().await;
    assert!(a.requests() > 0 && b.requests() > 0);
    assert_eq!(edge.nacks(), Vec::<String>::new());
    // The last one is counted when it is over, which its client may know before.
    eventually("all are counted", || async {
        requests(&proxy, "c0").await == Some(answered)
    })
    .await;

    // The cluster goes, with its counters at the workers, and comes back.
    edge.put("in", &mesh::routes("in", vec![mesh::to_cluster("/", "c999")]));
    edge.remove(ads::CLUSTER, "c0");
    eventually("c0 is gone", || async {
        !proxy.admin("/hosts").await.unwrap().body.contains("\"c0\"")
    })
    .await;
    assert_eq!(requests(&proxy, "c0").await, Some(answered), "it is still told");
    edge.put("c0", &mesh::cluster("c0"));
    edge.put("in", &mesh::routes("in", vec![first]));
    eventually("c0 is asked again", || async {
        let _ = get(&client(), &format!("http://{listener}/")).await;
        requests(&proxy, "c0").await > Some(answered)
    })
    .await;
    proxy.stop().await;
}
