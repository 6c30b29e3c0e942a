//! The proxy as a whole: an edge, hosts and a client in one process, over real sockets.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use http::{Request, StatusCode};
use http_body_util::Full;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tombolo_runtime::last_good;

use crate::support::ads::AdsServer;
use crate::support::proxy::{DEADLINE, Proxy, client, eventually, free_address, get, http2_client, send};
use crate::support::upstream::{Mood, Upstream};
use crate::support::{ads, mesh};

/// An edge and a proxy with one listener.
struct Mesh {
    edge: AdsServer,
    proxy: Proxy,
    data: tempfile::TempDir,
    listener: std::net::SocketAddr,
}

impl Mesh {
    /// Clusters with their hosts, and the routes; returns when the proxy is ready.
    async fn start(
        clusters: Vec<(
            envoy_types::pb::envoy::config::cluster::v3::Cluster,
            Vec<(std::net::SocketAddr, u32)>,
        )>,
        routes: Vec<envoy_types::pb::envoy::config::route::v3::Route>,
    ) -> Self {
        let edge = AdsServer::start_at(free_address()).await;
        let data = tempfile::tempdir().unwrap();
        let listener = free_address();
        for (cluster, hosts) in &clusters {
            edge.put(&cluster.name, cluster);
            edge.put(&cluster.name, &mesh::endpoints(&cluster.name, hosts));
        }
        edge.put("in", &mesh::listener("in", listener, "in"));
        edge.put("in", &mesh::routes("in", routes));
        let proxy = Proxy::start(&edge.url(), data.path());
        let started = Self {
            edge,
            proxy,
            data,
            listener,
        };
        started.ready().await;
        started
    }

    async fn ready(&self) {
        eventually("the proxy is ready", || self.proxy.is_ready()).await;
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.listener)
    }

    /// Waits until the proxy runs a resource as the edge holds it.
    async fn acknowledges(&self, type_url: &str, name: &str) {
        eventually(&format!("{name} is acknowledged"), || async {
            self.edge.is_acknowledged(type_url, name)
        })
        .await;
    }

    /// Waits until every host of `cluster` is as `health` says.
    async fn hosts_are(&self, cluster: &str, health: &[&str]) {
        eventually(&format!("hosts of {cluster} are {health:?}"), || async {
            let hosts = self.proxy.admin("/hosts").await.unwrap().body;
            let hosts: HashMap<String, Vec<serde_json::Value>> = serde_json::from_str(&hosts).unwrap();
            hosts.get(cluster).is_some_and(|hosts| {
                hosts
                    .iter()
                    .map(|host| host["health"].as_str().unwrap())
                    .eq(health.iter().copied())
            })
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_routed_in_both_protocols() {
    let (a, b) = (Upstream::start("a").await, Upstream::start("b").await);
    let mesh = Mesh::start(
        vec![
            (mesh::cluster("a"), vec![(a.address, 0)]),
            (mesh::with_http2(mesh::cluster("b")), vec![(b.address, 0)]),
        ],
        vec![
            mesh::to_cluster("/a", "a"),
            mesh::to_weighted("/b", &[("b", 10_000), ("a", 0)]),
            mesh::answer("/teapot", 418, "short and stout"),
            mesh::to_cluster("/lost", "nowhere"),
        ],
    )
    .await;
    let cases = [
        ("/a/1", 200, "a /a/1 hello"),
        ("/a/../b/2", 200, "b /b/2 hello"),
        ("/teapot", 418, "short and stout"),
        ("/none", 404, "no route"),
        ("/lost", 503, "unknown cluster nowhere"),
    ];
    for (protocol, client) in [("http/1.1", client()), ("http/2", http2_client())] {
        for (path, status, body) in cases {
            let request = Request::post(mesh.url(path)).body(Full::from("hello")).unwrap();
            let answer = send(&client, request).await.unwrap();
            assert_eq!(
                (answer.status.as_u16(), answer.body.as_str()),
                (status, body),
                "{path} in {protocol}"
            );
        }
    }
    let headers = b.last_headers();
    assert_eq!(headers["x-tombolo-destination"], "b");
    assert_eq!(headers["x-forwarded-for"], "127.0.0.1");
    assert_eq!(headers["x-request-id"].len(), 36);
    mesh.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weights_are_kept() {
    let (a, b) = (Upstream::start("a").await, Upstream::start("b").await);
    let mesh = Mesh::start(
        vec![
            (mesh::cluster("a"), vec![(a.address, 0)]),
            (mesh::cluster("b"), vec![(b.address, 0)]),
        ],
        vec![mesh::to_weighted("/", &[("a", 95), ("b", 5)])],
    )
    .await;
    let client = client();
    for _ in 0..1000 {
        assert_eq!(get(&client, &mesh.url("/")).await.unwrap().status, StatusCode::OK);
    }
    // Nearly five standard deviations (6.9) around 50.
    assert!(
        (17..=83).contains(&b.requests()),
        "{} of 1000 at 5 %",
        b.requests()
    );
    assert_eq!(a.requests() + b.requests(), 1000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_attempt_is_repeated_on_another_host() {
    let (well, refusing) = (Upstream::start("well").await, Upstream::start("refusing").await);
    refusing.mood.send_replace(Mood::Refusing);
    let dead = free_address();
    let mesh = Mesh::start(
        vec![(
            mesh::cluster("a"),
            vec![(dead, 0), (refusing.address, 0), (well.address, 1)],
        )],
        vec![mesh::with_retries(mesh::to_cluster("/", "a"), 3)],
    )
    .await;
    let client = client();
    for n in 0..50 {
        let request = Request::post(mesh.url("/x"))
            .body(Full::from(format!("body {n}")))
            .unwrap();
        let answer = send(&client, request).await.unwrap();
        assert_eq!(
            (answer.status, answer.body),
            (StatusCode::OK, format!("well /x body {n}"))
        );
    }
    let metrics = mesh.proxy.admin("/metrics").await.unwrap().body;
    let failures = "tombolo_upstream_connect_failures_total{listener=\"in\",cluster=\"a\"} 0";
    assert!(
        !metrics.contains(failures),
        "the dead host was never tried:\n{metrics}"
    );
    assert!(refusing.requests() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_host_is_a_503_without_a_retry_policy() {
    let mesh = Mesh::start(
        vec![(mesh::cluster("a"), vec![(free_address(), 0)])],
        vec![mesh::to_cluster("/", "a")],
    )
    .await;
    let answer = get(&client(), &mesh.url("/")).await.unwrap();
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(
        answer.body.starts_with("upstream connect error"),
        "{}",
        answer.body
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_hosts_requests_move_when_its_check_fails() {
    for http2 in [false, true] {
        let (frozen, well) = (Upstream::start("frozen").await, Upstream::start("well").await);
        let mut cluster = mesh::with_checks(mesh::cluster("a"), 50, 200);
        if http2 {
            cluster = mesh::with_http2(cluster);
        }
        let mesh = Mesh::start(
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
    let mesh = Mesh::start(
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
    let mesh = Mesh::start(vec![], vec![mesh::to_cluster("/", "a")]).await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_pass_through_and_are_sent_once() {
    let (a, b) = (Upstream::start("a").await, Upstream::start("b").await);
    let mesh = Mesh::start(
        vec![
            (mesh::cluster("a"), vec![(a.address, 0)]),
            (mesh::with_http2(mesh::cluster("b")), vec![(b.address, 0)]),
        ],
        vec![
            mesh::with_retries(mesh::to_cluster("/a", "a"), 3),
            mesh::with_retries(mesh::to_cluster("/b", "b"), 3),
        ],
    )
    .await;
    let body = "0123456789".repeat(500_000);
    for client in [client(), http2_client()] {
        for path in ["/a", "/b"] {
            let request = Request::post(mesh.url(path))
                .body(Full::from(body.clone()))
                .unwrap();
            let answer = send(&client, request).await.unwrap();
            assert_eq!(answer.status, StatusCode::OK);
            assert!(
                answer.body.ends_with(&body),
                "{} bytes of {}",
                answer.body.len(),
                body.len()
            );
        }
    }
    // Not more than was kept of it can be sent again, so a refusal is final.
    a.mood.send_replace(Mood::Refusing);
    let before = a.requests();
    let request = Request::post(mesh.url("/a")).body(Full::from(body)).unwrap();
    // The host refuses without reading, so the client may find its connection broken instead.
    if let Some(answer) = send(&client(), request).await {
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    }
    let small = Request::post(mesh.url("/a")).body(Full::from("small")).unwrap();
    assert_eq!(
        send(&client(), small).await.unwrap().status,
        StatusCode::SERVICE_UNAVAILABLE
    );
    assert!(
        a.requests() - before >= 5,
        "the small one is tried four times: {}",
        a.requests() - before
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_moves_without_a_gap() {
    let mesh = Mesh::start(vec![], vec![mesh::answer("/", 200, "here")]).await;
    let moved = free_address();
    let client = client();
    assert_eq!(get(&client, &mesh.url("/")).await.unwrap().body, "here");
    mesh.edge.put("in", &mesh::listener("in", moved, "in"));
    eventually("the new port answers", || async {
        get(&client, &format!("http://{moved}/"))
            .await
            .is_some_and(|answer| answer.body == "here")
    })
    .await;
    eventually("the old port is closed", || async {
        tokio::net::TcpStream::connect(mesh.listener).await.is_err()
    })
    .await;
}

/// Invariant 3: make before break.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_3_a_listener_keeps_its_routes_until_the_new_ones_are_known() {
    let mesh = Mesh::start(vec![], vec![mesh::answer("/", 200, "old")]).await;
    mesh.edge.put("in", &mesh::listener("in", mesh.listener, "next"));
    eventually("the new routes are asked for", || async {
        let asked = |name: &str| name == "next";
        mesh.edge
            .requests()
            .iter()
            .any(|request| request.resource_names_subscribe.iter().any(|n| asked(n)))
    })
    .await;
    let client = client();
    assert_eq!(get(&client, &mesh.url("/")).await.unwrap().body, "old");
    mesh.edge
        .put("next", &mesh::routes("next", vec![mesh::answer("/", 200, "new")]));
    eventually("the new routes are used", || async {
        get(&client, &mesh.url("/")).await.unwrap().body == "new"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_http_is_a_400() {
    let mesh = Mesh::start(vec![], vec![mesh::answer("/", 200, "here")]).await;
    for request in [
        "GET / HTTP/1.1\r\nconnection: close\r\n\r\n",
        "GET / HTTP/1.1\r\nconnection: close\r\nhost: a/b\r\n\r\n",
        "nonsense\r\n\r\n",
    ] {
        let mut stream = tokio::net::TcpStream::connect(mesh.listener).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(DEADLINE, stream.read_to_string(&mut answer))
            .await
            .unwrap()
            .unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 "), "{request:?}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_are_closed() {
    let mesh = Mesh::start(vec![], vec![mesh::answer("/", 200, "here")]).await;
    mesh.edge.put(
        "in",
        &mesh::with_idle_timeout(mesh::listener("in", mesh.listener, "in"), 200),
    );
    mesh.acknowledges(ads::LISTENER, "in").await;
    for start in ["", "GET / HTTP/1.1\r\nhost: a\r\n\r\n"] {
        let mut stream = tokio::net::TcpStream::connect(mesh.listener).await.unwrap();
        stream.write_all(start.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(DEADLINE, stream.read_to_string(&mut answer))
            .await
            .expect("it stays open")
            .unwrap();
        assert_eq!(answer.is_empty(), start.is_empty(), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timeouts_are_504() {
    let frozen = Upstream::start("frozen").await;
    frozen.mood.send_replace(Mood::Frozen);
    let mesh = Mesh::start(
        vec![(mesh::cluster("a"), vec![(frozen.address, 0)])],
        vec![mesh::with_timeout(mesh::to_cluster("/", "a"), 100)],
    )
    .await;
    let answer = get(&client(), &mesh.url("/")).await.unwrap();
    assert_eq!(
        (answer.status.as_u16(), answer.body.as_str()),
        (504, "upstream request timeout")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_lost_while_the_configuration_changes() {
    let (a, b) = (Upstream::start("a").await, Upstream::start("b").await);
    let mesh = Mesh::start(
        vec![
            (mesh::cluster("a"), vec![(a.address, 0)]),
            (mesh::cluster("b"), vec![(b.address, 0)]),
        ],
        vec![mesh::to_cluster("/", "a")],
    )
    .await;
    let done = Arc::new(AtomicBool::new(false));
    let load: Vec<_> = (0..4)
        .map(|_| {
            let (done, url) = (Arc::clone(&done), mesh.url("/"));
            tokio::spawn(async move {
                let client = client();
                let mut answered = 0;
                while !done.load(Ordering::Relaxed) {
                    let answer = get(&client, &url).await.expect("every request is answered");
                    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
                    answered += 1;
                }
                answered
            })
        })
        .collect();
    for round in 0..20 {
        let (cluster, hosts) = if round % 2 == 0 {
            ("b", [(b.address, 0), (a.address, 1)])
        } else {
            ("a", [(a.address, 0), (b.address, 1)])
        };
        mesh.edge.put(cluster, &mesh::endpoints(cluster, &hosts));
        mesh.edge
            .put("in", &mesh::routes("in", vec![mesh::to_cluster("/", cluster)]));
        mesh.acknowledges(ads::ROUTES, "in").await;
    }
    done.store(true, Ordering::Relaxed);
    let mut answered = 0;
    for client in load {
        answered += client.await.unwrap();
    }
    assert!(answered > 100, "only {answered} requests");
    assert!(a.requests() > 0 && b.requests() > 0);
    assert_eq!(mesh.edge.nacks(), Vec::<String>::new());
    mesh.proxy.stop().await;
}

/// Invariant 4: losing every plane above it changes nothing that a plane serves, also across its own restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invariant_4_a_restarted_proxy_serves_with_its_edge_dead() {
    let host = Upstream::start("a").await;
    let mesh = Mesh::start(
        vec![(mesh::cluster("a"), vec![(host.address, 0)])],
        vec![mesh::to_cluster("/", "a")],
    )
    .await;
    let (url, edge) = (mesh.url("/"), mesh.edge.address);
    assert_eq!(get(&client(), &url).await.unwrap().body, "a / ");
    let Mesh {
        edge: server,
        proxy,
        data,
        ..
    } = mesh;
    drop(server);
    proxy.stop().await;

    let proxy = Proxy::start(&format!("http://{edge}"), data.path());
    eventually("the proxy is ready without its edge", || proxy.is_ready()).await;
    assert_eq!(get(&client(), &url).await.unwrap().body, "a / ");

    let server = AdsServer::start_at(edge).await;
    eventually("the proxy says what it holds", || async {
        server.requests().iter().any(|request| {
            request.type_url == ads::CLUSTER && request.initial_resource_versions.contains_key("a")
        })
    })
    .await;
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_corrupt_last_good_file_is_set_aside() {
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("last-good.xds");
    std::fs::write(&file, b"not a configuration").unwrap();
    let edge = AdsServer::start_at(free_address()).await;
    let listener = free_address();
    edge.put("in", &mesh::listener("in", listener, "in"));
    edge.put("in", &mesh::routes("in", vec![mesh::answer("/", 200, "served")]));
    let proxy = Proxy::start(&edge.url(), data.path());
    eventually("the proxy is ready", || proxy.is_ready()).await;
    assert_eq!(
        get(&client(), &format!("http://{listener}/")).await.unwrap().body,
        "served"
    );
    let aside = data.path().join("last-good.xds.corrupt");
    assert_eq!(std::fs::read(aside).unwrap(), b"not a configuration");
    let metrics = proxy.admin("/metrics").await.unwrap().body;
    assert!(metrics.contains("tombolo_last_good_errors_total 1"), "{metrics}");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_stays_taken_costs_a_restarted_proxy_only_its_listener() {
    let data = tempfile::tempdir().unwrap();
    let (free, taken) = (free_address(), free_address());
    let stored = DeltaDiscoveryResponse {
        resources: vec![
            ads::stored("free", &mesh::listener("free", free, "all")),
            ads::stored("taken", &mesh::listener("taken", taken, "all")),
            ads::stored(
                "all",
                &mesh::routes("all", vec![mesh::answer("/", 200, "served")]),
            ),
        ],
        ..Default::default()
    };
    last_good::save(&data.path().join("last-good.xds"), &stored.encode_to_vec()).unwrap();
    let other = std::net::TcpListener::bind(taken).unwrap();
    let proxy = Proxy::start(&format!("http://{}", free_address()), data.path());
    eventually("the other port answers", || async {
        get(&client(), &format!("http://{free}/"))
            .await
            .is_some_and(|answer| answer.body == "served")
    })
    .await;
    let metrics = proxy.admin("/metrics").await.unwrap().body;
    assert!(metrics.contains("tombolo_last_good_errors_total 1"), "{metrics}");
    drop(other);
    proxy.stop().await;
}

/// A rollback: the file is of a version that knew more, and everything above is dead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_last_good_file_has_beyond_this_version_costs_only_itself() {
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("last-good.xds");
    let (good, bad) = (free_address(), free_address());
    let answer = || mesh::routes("good", vec![mesh::answer("/", 200, "served")]);
    let of_later = RouteConfiguration {
        name: "bad".to_owned(),
        validate_clusters: Some(envoy_types::pb::google::protobuf::BoolValue { value: true }),
        ..answer()
    };
    let stored = DeltaDiscoveryResponse {
        resources: vec![
            ads::stored("good", &mesh::listener("good", good, "good")),
            ads::stored("good", &answer()),
            ads::stored("bad", &mesh::listener("bad", bad, "bad")),
            ads::stored("bad", &of_later),
        ],
        ..Default::default()
    };
    last_good::save(&file, &stored.encode_to_vec()).unwrap();
    let proxy = Proxy::start(&format!("http://{}", free_address()), data.path());
    eventually("the proxy is ready", || proxy.is_ready()).await;
    let served = get(&client(), &format!("http://{good}/")).await.unwrap();
    assert_eq!(served.body, "served");
    assert!(
        get(&client(), &format!("http://{bad}/")).await.is_none(),
        "no listener without its route table"
    );
    let metrics = proxy.admin("/metrics").await.unwrap().body;
    assert!(metrics.contains("tombolo_last_good_errors_total 1"), "{metrics}");
    assert!(file.exists(), "a later version may read all of it");
    proxy.stop().await;

    last_good::save(&file, b"\xff\xff").unwrap();
    let proxy = Proxy::start(&format!("http://{}", free_address()), data.path());
    eventually("the file is set aside", || async {
        data.path().join("last-good.xds.corrupt").exists() && !file.exists()
    })
    .await;
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_is_refused_and_changes_nothing() {
    let host = Upstream::start("a").await;
    let mesh = Mesh::start(
        vec![(mesh::cluster("a"), vec![(host.address, 0)])],
        vec![mesh::to_cluster("/", "a")],
    )
    .await;
    let mut odd = mesh::listener("in", free_address(), "in");
    odd.stat_prefix = "odd".to_owned();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().map(|address| (taken, address)).unwrap();
    let resource = |name: &str, type_url: &str, body: Vec<u8>| {
        envoy_types::pb::envoy::service::discovery::v3::Resource {
            name: name.to_owned(),
            version: "nonsense".to_owned(),
            resource: Some(envoy_types::pb::google::protobuf::Any {
                type_url: type_url.to_owned(),
                value: body,
            }),
            ..Default::default()
        }
    };
    let cases = [
        (
            ads::ROUTES,
            vec![resource("in", ads::ROUTES, vec![0xff; 9])],
            "in: not a valid message",
        ),
        (
            ads::ROUTES,
            vec![resource("in", ads::CLUSTER, vec![])],
            "in: resource: is a type.googleapis.com/envoy.config.cluster.v3.Cluster, not a ",
        ),
        (
            "type.googleapis.com/what",
            vec![],
            "type.googleapis.com/what: this type was not asked for",
        ),
        (
            ads::LISTENER,
            vec![resource("in", ads::LISTENER, odd.encode_to_vec())],
            "in: stat_prefix: is not supported by this proxy",
        ),
        (
            ads::LISTENER,
            vec![resource(
                "in",
                ads::LISTENER,
                mesh::listener("in", taken.1, "in").encode_to_vec(),
            )],
            "in: address: cannot listen on",
        ),
        (
            ads::CLUSTER,
            vec![
                resource(
                    "a",
                    ads::CLUSTER,
                    mesh::with_http2(mesh::cluster("a")).encode_to_vec(),
                ),
                resource("b", ads::CLUSTER, mesh::cluster("c").encode_to_vec()),
            ],
            "b: name: is \"c\", but the resource is named \"b\"",
        ),
    ];
    for (index, (type_url, resources, expected)) in cases.into_iter().enumerate() {
        mesh.edge.send_nonsense(DeltaDiscoveryResponse {
            type_url: type_url.to_owned(),
            resources,
            ..Default::default()
        });
        eventually("the nonsense is refused", || async {
            mesh.edge.nacks().len() > index
        })
        .await;
        let nack = mesh.edge.nacks().pop().unwrap();
        assert!(nack.starts_with(expected), "{nack}");
        assert_eq!(
            get(&client(), &mesh.url("/")).await.unwrap().body,
            "a / ",
            "after {nack}"
        );
    }
    let dump = mesh.proxy.admin("/config_dump").await.unwrap().body;
    assert!(!dump.contains("\"nonsense\""), "{dump}");
    assert!(dump.contains("but the resource is named"), "{dump}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_listener_finishes_what_it_has() {
    for (client, connection) in [(client(), Some("close")), (http2_client(), None)] {
        let host = Upstream::start("a").await;
        let mesh = Mesh::start(
            vec![(mesh::cluster("a"), vec![(host.address, 0)])],
            vec![mesh::to_cluster("/", "a")],
        )
        .await;
        let slow = tokio::spawn({
            let url = mesh.url("/slow");
            async move { get(&client, &url).await }
        });
        eventually("the request is in flight", || async { host.requests() == 1 }).await;
        mesh.edge.remove(ads::LISTENER, "in");
        eventually("the port is closed", || async {
            tokio::net::TcpStream::connect(mesh.listener).await.is_err()
        })
        .await;
        let answer = slow.await.unwrap().unwrap();
        assert_eq!(answer.body, "a /slow ");
        let told = answer
            .headers
            .get("connection")
            .map(|value| value.to_str().unwrap());
        assert_eq!(told, connection, "HTTP/2 says so by GOAWAY instead");
        eventually("no connection is left", || async {
            let metrics = mesh.proxy.admin("/metrics").await.unwrap().body;
            metrics.contains("tombolo_connections_active{listener=\"in\"} 0")
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_proxy_finishes_what_it_has_and_ends() {
    let host = Upstream::start("a").await;
    let mesh = Mesh::start(
        vec![(mesh::cluster("a"), vec![(host.address, 0)])],
        vec![mesh::to_cluster("/", "a")],
    )
    .await;
    let slow = tokio::spawn({
        let url = mesh.url("/slow");
        async move { get(&client(), &url).await }
    });
    eventually("the request is in flight", || async { host.requests() == 1 }).await;
    assert!(mesh.proxy.is_ready().await);
    let request = Request::post(format!("http://{}/drain", mesh.proxy.admin))
        .body(Full::default())
        .unwrap();
    assert_eq!(
        send(&client(), request).await.unwrap().status,
        StatusCode::ACCEPTED
    );
    let ready = mesh.proxy.admin("/ready").await.unwrap();
    assert_eq!(ready.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(ready.body.contains("the proxy drains"), "{}", ready.body);
    assert_eq!(slow.await.unwrap().unwrap().body, "a /slow ");
    tokio::time::timeout(DEADLINE, mesh.proxy.task)
        .await
        .expect("the proxy ends")
        .unwrap()
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_admin_port_says_what_runs_and_when_nothing_does() {
    let data = tempfile::tempdir().unwrap();
    let edge = AdsServer::start_at(free_address()).await;
    let proxy = Proxy::start(&edge.url(), data.path());
    eventually("the admin port answers", || async {
        proxy.admin("/ready").await.is_some()
    })
    .await;
    let ready = proxy.admin("/ready").await.unwrap();
    assert_eq!(ready.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(ready.body.contains("no listener runs"), "{}", ready.body);

    let host = Upstream::start("a").await;
    edge.put("a", &mesh::cluster("a"));
    edge.put("a", &mesh::endpoints("a", &[(host.address, 0)]));
    edge.put("in", &mesh::listener("in", free_address(), "in"));
    edge.put("in", &mesh::routes("in", vec![mesh::to_cluster("/a", "a")]));
    eventually("the proxy is ready", || proxy.is_ready()).await;
    let dump = proxy.admin("/config_dump").await.unwrap().body;
    let hosts = proxy.admin("/hosts").await.unwrap().body;
    let dump: serde_json::Value = serde_json::from_str(&dump).unwrap();
    let kinds: Vec<&str> = dump["resources"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|resource| resource["acknowledged"] == true)
        .map(|resource| resource["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["cluster", "endpoints", "listener", "routes"]);
    assert!(hosts.contains(&host.address.to_string()), "{hosts}");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_keeps_its_connections() {
    let host = Upstream::start("a").await;
    let mesh = Mesh::start(
        vec![(mesh::cluster("a"), vec![(host.address, 0)])],
        vec![mesh::to_cluster("/", "a")],
    )
    .await;
    // One connection, and with it one worker; a client with a pool may open another one.
    let mut stream = tokio::net::TcpStream::connect(mesh.listener).await.unwrap();
    let one = "GET / HTTP/1.1\r\nhost: h\r\n\r\n".repeat(50);
    let last = "GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n";
    stream.write_all(format!("{one}{last}").as_bytes()).await.unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).await.unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200 OK\r\n").count(), 51, "{answers}");
    assert_eq!(host.connections(), 1);
    mesh.proxy.stop().await;
}
