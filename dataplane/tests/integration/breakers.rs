//! How much may be under way on a cluster, over real sockets and two workers: what is refused, and that it is taken again.

use std::net::SocketAddr;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::thresholds::RetryBudget;
use envoy_types::pb::envoy::config::route::v3::Route;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::google::protobuf::{Duration, UInt32Value};

use crate::support::mesh;
use crate::support::proxy::{Answer, Proxy, client, eventually, free_address, get, http2_client};
use crate::support::site::Site;
use crate::support::upstream::{Mood, Upstream};

/// A proxy before one cluster; below `/once` a request is tried once, below `/late` for a tenth of a second, else once more, on the next priority.
struct Stage {
    site: Site,
}

impl Stage {
    async fn start(limits: Thresholds, hosts: &[(SocketAddr, u32)]) -> Self {
        Self::start_with(mesh::with_limits(mesh::cluster("a"), limits), hosts).await
    }

    async fn start_with(cluster: Cluster, hosts: &[(SocketAddr, u32)]) -> Self {
        let routes = vec![
            mesh::to_cluster("/once", "a"),
            mesh::with_timeout(mesh::to_cluster("/late", "a"), 100),
            with_per_try(mesh::with_retries(mesh::to_cluster("/slow/tried", "a"), 1), 600),
            mesh::with_retries(mesh::to_cluster("/", "a"), 1),
        ];
        let clusters = vec![(cluster, hosts.to_vec())];
        let routes = mesh::routes("in", routes);
        Self {
            site: Site::start_with(clusters, |plain| plain, routes, Proxy::start_logging).await,
        }
    }

    /// One request over a connection of its own.
    async fn get(&self, path: &str) -> Answer {
        get(&client(), &self.site.url(path)).await.unwrap()
    }

    /// Begins a request over HTTP/1.1, or over HTTP/2.
    fn begin(&self, path: &str, http2: bool) -> tokio::task::JoinHandle<Option<Answer>> {
        let url = self.site.url(path);
        tokio::spawn(async move {
            let client = if http2 { http2_client() } else { client() };
            get(&client, &url).await
        })
    }

    /// What the access log says of requests to `path`.
    async fn flags(&self, path: &str) -> Vec<String> {
        let read = || {
            let text = std::fs::read_to_string(self.site.log()).unwrap_or_default();
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
                let answer = get(&client, &stage.site.url(path)).await.unwrap();
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
        let metrics = stage.site.proxy.metrics().await;
        let expected = format!(
            "tombolo_overflows_total{{listener=\"in\",cluster=\"a\",what=\"request\"}} {}\n",
            round * 10
        );
        assert!(metrics.contains(&expected), "{metrics}");
    }
    stage.site.proxy.stop().await;
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
        stage.site.proxy.stop().await;
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
        let metrics = stage.site.proxy.metrics().await;
        let expected = "tombolo_overflows_total{listener=\"in\",cluster=\"a\",what=\"retry\"} 10\n";
        assert!(metrics.contains(expected), "{metrics}");
        stage.site.proxy.stop().await;
    }
}

fn with_per_try(mut route: Route, timeout_ms: i32) -> Route {
    let Some(Action::Route(action)) = &mut route.action else {
        unreachable!("it goes to a cluster");
    };
    action.retry_policy.as_mut().unwrap().per_try_timeout = Some(Duration {
        seconds: 0,
        nanos: timeout_ms * 1_000_000,
    });
    route
}

fn connections(max: u32, pending: Option<u32>) -> Thresholds {
    Thresholds {
        max_connections: number(max),
        max_pending_requests: pending.and_then(number),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_finds_no_connection_waits_for_one() {
    let host = Upstream::start("a").await;
    let stage = Stage::start(connections(1, None), &[(host.address, 0)]).await;
    for http2 in [false, true] {
        let under_way: Vec<_> = (0..8).map(|_| stage.begin("/slow", http2)).collect();
        for answer in under_way {
            assert_eq!(answer.await.unwrap().unwrap().body, "a /slow ");
        }
        let opened = host.connections();
        assert!((1..=2).contains(&opened), "{opened} connections of two workers");
    }
    // Both ways through the proxy at once.
    let under_way: Vec<_> = (0..8).map(|nth| stage.begin("/slow", nth % 2 == 0)).collect();
    for answer in under_way {
        assert_eq!(answer.await.unwrap().unwrap().body, "a /slow ");
    }
    let before = host.requests();
    for nth in 0..12 {
        let answer = stage.begin("/", nth % 2 == 0).await.unwrap().unwrap();
        assert_eq!(answer.body, "a / ");
    }
    assert_eq!(host.requests(), before + 12);
    stage.site.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_time_of_a_try_begins_with_its_connection() {
    let host = Upstream::start("a").await;
    let stage = Stage::start(connections(1, None), &[(host.address, 0)]).await;
    for http2 in [false, true] {
        // The last ones wait for longer than a try may take.
        let under_way: Vec<_> = (0..8).map(|_| stage.begin("/slow/tried", http2)).collect();
        for answer in under_way {
            assert_eq!(answer.await.unwrap().unwrap().status, 200, "{http2}");
        }
    }
    stage.site.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_has_one_connection_to_each_host_whatever_the_limit() {
    let host = Upstream::start("a").await;
    for limit in [0, 1] {
        let stage = Stage::start(connections(limit, None), &[(host.address, 0)]).await;
        let before = host.connections();
        let under_way: Vec<_> = (0..10).map(|_| stage.begin("/slow", false)).collect();
        for answer in under_way {
            assert_eq!(answer.await.unwrap().unwrap().status, 200);
        }
        let opened = host.connections() - before;
        assert!((1..=2).contains(&opened), "{opened} connections of two workers");
        stage.site.proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_so_many_wait_for_a_connection() {
    let host = Upstream::start("a").await;
    let stage = Stage::start(connections(1, Some(2)), &[(host.address, 0)]).await;
    for http2 in [false, true] {
        host.mood.send_replace(Mood::Frozen);
        let before = host.requests();
        let under_way: Vec<_> = (0..12).map(|_| stage.begin("/x", http2)).collect();
        let refused = || under_way.iter().filter(|answer| answer.is_finished()).count();
        // One or two have a connection, and no more than two wait.
        eventually("the others are refused", || async { refused() >= 8 }).await;
        eventually("one has come", || async { host.requests() > before }).await;
        assert!(refused() < 12);
        host.mood.send_replace(Mood::Well);
        let (mut served, mut refused) = (0, 0);
        for answer in under_way {
            let answer = answer.await.unwrap().unwrap();
            if answer.status == 200 {
                served += 1;
                continue;
            }
            refused += 1;
            assert_eq!(answer.status, 503);
            assert_eq!(answer.headers["x-envoy-overloaded"], "true");
            assert!(answer.body.ends_with("reset reason: overflow"), "{}", answer.body);
        }
        assert!(
            (1..=4).contains(&served) && refused >= 8,
            "{served} served, {refused} refused"
        );
        let flags = stage.flags("/x").await;
        assert!(
            flags.iter().all(|flags| flags.is_empty() || flags == "UO"),
            "{flags:?}"
        );
        assert_eq!(stage.get("/x").await.status, 200, "there is room again");
    }
    let series = "tombolo_overflows_total{listener=\"in\",cluster=\"a\",what=\"pending\"}";
    let counted = stage.site.proxy.metric(series).await.unwrap();
    assert!(counted >= 16, "eight of each kind: {counted}");
    stage.site.proxy.stop().await;
    let stage = Stage::start(connections(1, Some(0)), &[(host.address, 0)]).await;
    assert_eq!(
        stage.get("/y").await.status,
        503,
        "who opens a connection waits for it"
    );
    assert_eq!(stage.flags("/y").await, ["UO"]);
    stage.site.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_too_long_or_leaves_makes_room() {
    let host = Upstream::start("a").await;
    let stage = Stage::start(connections(1, Some(1)), &[(host.address, 0)]).await;
    host.mood.send_replace(Mood::Frozen);
    for http2 in [false, true] {
        // One for each worker, until one of them has to wait, and for more than a moment.
        let mut under_way = Vec::new();
        let mut refused = 0;
        while refused < 3 {
            if stage.get("/late").await.status == 503 {
                refused += 1;
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            } else {
                refused = 0;
                assert!(under_way.len() < 100, "somebody has to wait");
                under_way.push(stage.begin("/", false));
            }
        }
        for _ in 0..6 {
            let status = stage
                .begin("/late", http2)
                .await
                .unwrap()
                .unwrap()
                .status
                .as_u16();
            assert_eq!(status, 503);
        }
        under_way.into_iter().for_each(|client| client.abort());
        eventually("who left waits no more", || async {
            stage.get("/late").await.status == 504
        })
        .await;
    }
    host.mood.send_replace(Mood::Well);
    eventually("there is room again", || async {
        stage.get("/").await.status == 200
    })
    .await;
    stage.site.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_of_http2_carries_many_whatever_the_limit() {
    let host = Upstream::start("a").await;
    let cluster = mesh::with_http2(mesh::with_limits(mesh::cluster("a"), connections(1, None)));
    let stage = Stage::start_with(cluster, &[(host.address, 0)]).await;
    let before = host.connections();
    host.mood.send_replace(Mood::Frozen);
    let requests = host.requests();
    let under_way: Vec<_> = (0..20).map(|nth| stage.begin("/", nth % 2 == 0)).collect();
    eventually("all have come", || async { host.requests() == requests + 20 }).await;
    host.mood.send_replace(Mood::Well);
    for answer in under_way {
        assert_eq!(answer.await.unwrap().unwrap().status, 200);
    }
    assert!(
        host.connections() - before <= 2,
        "{}",
        host.connections() - before
    );
    stage.site.proxy.stop().await;
}
