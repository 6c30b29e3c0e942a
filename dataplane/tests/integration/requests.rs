//! What becomes of a request: where it is sent, how often, and what is said when nobody answers.

use http::{Request, StatusCode};
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::proxy::{DEADLINE, client, free_address, get, http2_client, send};
use crate::support::site::Site;
use crate::support::upstream::{Mood, Upstream};
use crate::support::{ads, mesh};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_routed_in_both_protocols() {
    let (a, b) = (Upstream::start("a").await, Upstream::start("b").await);
    let mesh = Site::start(
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
    let mesh = Site::start(
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
    let mesh = Site::start(
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
    let metrics = mesh.proxy.metrics().await;
    let failures = "tombolo_upstream_connect_failures_total{listener=\"in\",cluster=\"a\"} 0";
    assert!(
        !metrics.contains(failures),
        "the dead host was never tried:\n{metrics}"
    );
    assert!(refusing.requests() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_host_is_a_503_without_a_retry_policy() {
    let mesh = Site::start(
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
async fn timeouts_are_504() {
    let frozen = Upstream::start("frozen").await;
    frozen.mood.send_replace(Mood::Frozen);
    let mesh = Site::start(
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
async fn large_bodies_pass_through_and_are_sent_once() {
    let (a, b) = (Upstream::start("a").await, Upstream::start("b").await);
    let mesh = Site::start(
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
async fn what_is_not_http_is_a_400() {
    let mesh = Site::start(vec![], vec![mesh::answer("/", 200, "here")]).await;
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
    let mesh = Site::start(vec![], vec![mesh::answer("/", 200, "here")]).await;
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
async fn a_worker_keeps_its_connections() {
    let host = Upstream::start("a").await;
    let mesh = Site::start(
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
