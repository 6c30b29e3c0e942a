//! How much may be under way on a cluster, over real sockets and two workers: what is refused, and that it is taken again.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::path::PathBuf;

use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::thresholds::RetryBudget;
use envoy_types::pb::google::protobuf::UInt32Value;
use tombolo_dataplane::AccessLog;

use ads::AdsServer;
use proxy::{Answer, Proxy, client, eventually, free_address, get, http2_client};
use upstream::{Mood, Upstream};

#[path = "support/ads.rs"]
#[allow(dead_code, reason = "shared with the other tests, which use more of it")]
mod ads;
#[path = "support/mesh.rs"]
#[allow(dead_code, reason = "shared with the other tests, which use more of it")]
mod mesh;
#[path = "support/proxy.rs"]
#[allow(dead_code, reason = "shared with the other tests, which use more of it")]
mod proxy;
#[path = "support/upstream.rs"]
#[allow(dead_code, reason = "shared with the other tests, which use more of it")]
mod upstream;

/// A proxy before one cluster; below `/once` a request is tried once, else once more, on the next priority.
struct Stage {
    listener: SocketAddr,
    log: PathBuf,
    proxy: Proxy,
    _edge: AdsServer,
    _data: tempfile::TempDir,
}

impl Stage {
    async fn start(limits: Thresholds, hosts: &[(SocketAddr, u32)]) -> Self {
        let edge = AdsServer::start_at(free_address()).await;
        let data = tempfile::tempdir().unwrap();
        let listener = free_address();
        edge.put("a", &mesh::with_limits(mesh::cluster("a"), limits));
        edge.put("a", &mesh::endpoints("a", hosts));
        edge.put("in", &mesh::listener("in", listener, "in"));
        let routes = vec![
            mesh::to_cluster("/once", "a"),
            mesh::with_retries(mesh::to_cluster("/", "a"), 1),
        ];
        edge.put("in", &mesh::routes("in", routes));
        let log = data.path().join("access.log");
        let proxy = Proxy::start_with(&edge.url(), data.path(), AccessLog::File(log.clone()));
        eventually("the proxy is ready", || proxy.is_ready()).await;
        Self {
            listener,
            log,
            proxy,
            _edge: edge,
            _data: data,
        }
    }

    /// One request over a connection of its own.
    async fn get(&self, path: &str) -> Answer {
        get(&client(), &self.url(path)).await.unwrap()
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.listener)
    }

    /// Begins a request over HTTP/1.1, or over HTTP/2.
    fn begin(&self, path: &str, http2: bool) -> tokio::task::JoinHandle<Option<Answer>> {
        let url = self.url(path);
        tokio::spawn(async move {
            let client = if http2 { http2_client() } else { client() };
            get(&client, &url).await
        })
    }

    /// What the access log says of requests to `path`.
    async fn flags(&self, path: &str) -> Vec<String> {
        let read = || {
            let text = std::fs::read_to_string(&self.log).unwrap_or_default();
            let lines = text
                .lines()
                .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
            lines
                .filter(|line| line["path"] == path)
                .map(|line| line["flags"].as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        eventually("it is logged", || async { !read().is_empty() }).await;
        read()
    }
}

fn number(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_beyond_the_limit_are_refused_at_once_over_all_workers() {
    let host = Upstream::start("a").await;
    let limits = Thresholds {
        max_requests: number(3),
        ..Default::default()
    };
    let stage = Stage::start(limits, &[(host.address, 0)]).await;
    for round in 1..=2 {
        host.mood.send_replace(Mood::Frozen);
        let before = host.requests();
        let under_way = [
            stage.begin("/once", false),
            stage.begin("/once", true),
            stage.begin("/", false),
        ];
        eventually("they have come", || async { host.requests() == before + 3 }).await;
        for (client, path) in [(client(), "/refused"), (http2_client(), "/refused-over-http2")] {
            // Enough of them to come to both workers.
            for _ in 0..5 {
                let answer = get(&client, &stage.url(path)).await.unwrap();
                assert_eq!(answer.status, 503, "{path}: {}", answer.body);
                assert_eq!(answer.headers["x-envoy-overloaded"], "true", "{path}");
                assert_eq!(
                    answer.body,
                    "upstream connect error or disconnect/reset before headers. reset reason: overflow"
                );
            }
            assert!(
                stage.flags(path).await.iter().all(|flags| flags == "UO"),
                "{path}"
            );
        }
        assert_eq!(host.requests(), before + 3, "what is refused comes to no host");
        host.mood.send_replace(Mood::Well);
        for answer in under_way {
            assert_eq!(answer.await.unwrap().unwrap().status, 200);
        }
        assert_eq!(stage.get("/once").await.status, 200, "there is room again");
        let metrics = stage.proxy.admin("/metrics").await.unwrap().body;
        let expected = format!(
            "tombolo_overflows_total{{listener=\"in\",cluster=\"a\",what=\"request\"}} {}\n",
            round * 10
        );
        assert!(metrics.contains(&expected), "{metrics}");
    }
    stage.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_too_many_passes_the_failure_on_and_says_so() {
    let refusing = Upstream::start("refusing").await;
    refusing.mood.send_replace(Mood::Refusing);
    let none = Thresholds {
        max_retries: number(0),
        ..Default::default()
    };
    for (limits, first, flags, tries) in [
        (none, refusing.address, "UO", 1),
        (none, free_address(), "UO,UF", 0),
        (Thresholds::default(), refusing.address, "URX", 2),
        (Thresholds::default(), free_address(), "URX", 1),
    ] {
        let stage = Stage::start(limits, &[(first, 0), (refusing.address, 1)]).await;
        let before = refusing.requests();
        assert_eq!(stage.get("/x").await.status, 503, "{flags}");
        assert_eq!(stage.flags("/x").await, [flags]);
        assert_eq!(refusing.requests() - before, tries, "{flags}");
        stage.proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retries_under_way_count_until_they_are_answered() {
    let (refusing, slow) = (Upstream::start("refusing").await, Upstream::start("slow").await);
    refusing.mood.send_replace(Mood::Refusing);
    let one = Thresholds {
        max_retries: number(1),
        ..Default::default()
    };
    let budget = Thresholds {
        max_retries: number(1024),
        retry_budget: Some(RetryBudget {
            min_retry_concurrency: number(1),
            ..Default::default()
        }),
        ..Default::default()
    };
    for limits in [one, budget] {
        let hosts = [(refusing.address, 0), (slow.address, 1)];
        let stage = Stage::start(limits, &hosts).await;
        slow.mood.send_replace(Mood::Frozen);
        for http2 in [false, true] {
            let before = slow.requests();
            let retried = stage.begin("/", http2);
            eventually("it is retried", || async { slow.requests() == before + 1 }).await;
            for _ in 0..5 {
                let answer = stage.get("/").await;
                assert_eq!((answer.status.as_u16(), answer.body.as_str()), (503, "refusing"));
            }
            assert_eq!(slow.requests(), before + 1);
            slow.mood.send_replace(Mood::Well);
            assert_eq!(retried.await.unwrap().unwrap().body, "slow / ");
            assert_eq!(stage.get("/").await.body, "slow / ", "there is room again");
            slow.mood.send_replace(Mood::Frozen);
        }
        let metrics = stage.proxy.admin("/metrics").await.unwrap().body;
        let expected = "tombolo_overflows_total{listener=\"in\",cluster=\"a\",what=\"retry\"} 10\n";
        assert!(metrics.contains(expected), "{metrics}");
        stage.proxy.stop().await;
    }
}
