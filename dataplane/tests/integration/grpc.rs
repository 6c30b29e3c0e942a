//! Calls of gRPC: what they are told when no host answers them, when they are tried again, and how their hosts are checked.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::health_check::{GrpcHealthCheck, HealthChecker};
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::MaxStreamDuration;
use envoy_types::pb::envoy::config::route::v3::{RetryPolicy, Route};
use envoy_types::pb::envoy::extensions::filters::common::fault::v3::FaultDelay;
use envoy_types::pb::envoy::extensions::filters::common::fault::v3::fault_delay::FaultDelaySecifier;
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::HttpFault;
use envoy_types::pb::envoy::r#type::v3::FractionalPercent;
use envoy_types::pb::google::protobuf::{Duration, UInt32Value};
use envoy_types::util::pack_any;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::logs::{json_log, with_logs};
use crate::support::mesh;
use crate::support::proxy::{Answer, HttpClient, client, eventually, free_address, http2_client, send};
use crate::support::site::{Served, Site, at};
use crate::support::upstream::{Mood, Upstream};

/// A host of gRPC, which fails its first calls without a body.
#[derive(Default)]
struct Host {
    calls: AtomicU64,
    failures: AtomicU64,
    sick: AtomicBool,
    checks: AtomicU64,
}

async fn start_host() -> (SocketAddr, Arc<Host>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let host = Arc::new(Host::default());
    let shared = Arc::clone(&host);
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                continue;
            };
            let host = Arc::clone(&shared);
            let service = service_fn(move |request: Request<Incoming>| {
                let host = Arc::clone(&host);
                async move { Ok::<_, Infallible>(host.answer(request).await) }
            });
            tokio::spawn(async move {
                let server = auto::Builder::new(TokioExecutor::new());
                // A client that goes away is no failure of a test.
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    (address, host)
}

impl Host {
    async fn answer(&self, request: Request<Incoming>) -> Response<BoxBody<Bytes, Infallible>> {
        let (head, body) = request.into_parts();
        let asked = body
            .collect()
            .await
            .map(|body| body.to_bytes())
            .unwrap_or_default();
        let ended = |code| {
            let trailers = HeaderMap::from_iter([(
                http::HeaderName::from_static("grpc-status"),
                HeaderValue::from_static(code),
            )]);
            std::future::ready(Some(Ok(trailers)))
        };
        let mut response = Response::builder().header("content-type", "application/grpc");
        if let Some(told) = head.headers.get("grpc-timeout") {
            response = response.header("x-told", told);
        }
        if head.uri.path() == "/grpc.health.v1.Health/Check" {
            assert_eq!(head.uri.authority().unwrap(), "checked");
            assert_eq!(&asked[..], b"\0\0\0\0\x03\x0a\x01s");
            self.checks.fetch_add(1, Ordering::Relaxed);
            let status = if self.sick.load(Ordering::Relaxed) { 2 } else { 1 };
            let body = Full::new(Bytes::from(vec![0, 0, 0, 0, 2, 8, status]));
            return response.body(body.with_trailers(ended("0")).boxed()).unwrap();
        }
        self.calls.fetch_add(1, Ordering::Relaxed);
        let left = self.failures.load(Ordering::Relaxed);
        if left == 0 {
            let body = Full::new(asked).with_trailers(ended("0"));
            return response.body(body.boxed()).unwrap();
        }
        self.failures.store(left - 1, Ordering::Relaxed);
        // Trailers alone are a head.
        response
            .header("grpc-status", "14")
            .body(Full::default().boxed())
            .unwrap()
    }
}

struct Stage {
    site: Site,
}

impl Stage {
    async fn start(clusters: Vec<Served>, routes: Vec<Route>) -> Self {
        Self {
            site: Site::start(clusters, routes).await,
        }
    }

    async fn call(&self, client: &HttpClient, path: &str, content_type: &str) -> Answer {
        let request = Request::post(self.site.url(path)).header("content-type", content_type);
        let body = Full::from(&b"\0\0\0\0\0"[..]);
        send(client, request.body(body).unwrap()).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_no_host_answers_has_a_status_of_its_own() {
    let frozen = Upstream::start("frozen").await;
    frozen.mood.send_replace(Mood::Frozen);
    let clusters = vec![
        at(mesh::cluster("dead"), free_address()),
        at(mesh::cluster("frozen"), frozen.address),
        at(mesh::with_http2(mesh::cluster("dead2")), free_address()),
    ];
    let bridged = |route| mesh::with_rewrite(route, "^/b/", "/");
    let routes = vec![
        mesh::to_cluster("/dead", "dead"),
        bridged(mesh::to_cluster("/b/dead", "dead")),
        mesh::to_cluster("/second", "dead2"),
        mesh::with_timeout(mesh::to_cluster("/late", "frozen"), 50),
        bridged(mesh::with_timeout(mesh::to_cluster("/b/late", "frozen"), 50)),
        mesh::answer("/denied", 403, "100% no\n"),
        mesh::answer("/limited", 429, ""),
        mesh::to_cluster("/unknown", "unknown"),
        mesh::to_cluster("/known", "dead"),
    ];
    let stage = Stage::start(clusters, routes).await;
    let failed = "upstream connect error or disconnect/reset before headers";
    for (path, status, code, message) in [
        ("/dead", 503, "14", failed),
        ("/b/dead", 503, "14", failed),
        ("/second", 503, "14", failed),
        ("/late", 504, "14", "upstream request timeout"),
        ("/b/late", 504, "14", "upstream request timeout"),
        ("/denied", 403, "7", "100%25 no%0A"),
        ("/limited", 429, "14", ""),
        ("/nowhere", 404, "12", "no route"),
        ("/unknown", 503, "14", "unknown cluster unknown"),
        ("/known%", 400, "13", "the path does not start with a slash"),
    ] {
        for client in [client(), http2_client()] {
            for content_type in ["application/grpc", "application/grpc+json"] {
                let answer = stage.call(&client, path, content_type).await;
                let told = format!("{path}: {} {:?} {:?}", answer.status, answer.headers, answer.body);
                assert_eq!(answer.status, 200, "{told}");
                assert_eq!(answer.headers["content-type"], "application/grpc", "{told}");
                assert_eq!(answer.headers["grpc-status"], code, "{told}");
                let said = answer
                    .headers
                    .get("grpc-message")
                    .map_or("", |said| said.to_str().unwrap());
                assert!(
                    said.starts_with(message) && (said.is_empty() == message.is_empty()),
                    "{told}"
                );
                assert_eq!(answer.body, "", "{told}");
            }
            let answer = stage.call(&client, path, "application/grpc-web").await;
            assert_eq!(answer.status, status, "{path}");
            assert!(!answer.headers.contains_key("grpc-status"), "{path}");
        }
    }
    stage.site.proxy.stop().await;
}

fn lasting(mut route: Route, max_ms: i32, said_max_ms: Option<i32>) -> Route {
    let ms = |ms: i32| Duration {
        seconds: 0,
        nanos: ms * 1_000_000,
    };
    if let Some(Action::Route(action)) = &mut route.action {
        // Means nothing beside the other.
        action.timeout = Some(ms(1));
        action.max_stream_duration = Some(MaxStreamDuration {
            max_stream_duration: Some(ms(max_ms)),
            grpc_timeout_header_max: said_max_ms.map(ms),
            grpc_timeout_header_offset: None,
        });
    }
    route
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_lasts_as_long_as_it_may() {
    let frozen = Upstream::start("frozen").await;
    frozen.mood.send_replace(Mood::Frozen);
    let routes = vec![
        lasting(mesh::to_cluster("/max", "frozen"), 100, None),
        lasting(mesh::to_cluster("/said", "frozen"), 900, Some(500)),
        lasting(mesh::to_cluster("/slow", "well"), 0, Some(100)),
    ];
    let well = Upstream::start("well").await;
    let clusters = vec![
        at(mesh::cluster("frozen"), frozen.address),
        at(mesh::cluster("well"), well.address),
    ];
    let stage = Stage::start(clusters, routes).await;
    for client in [client(), http2_client()] {
        let unsaid = stage.call(&client, "/slow", "application/grpc").await;
        assert_eq!(unsaid.status, 200, "who says nothing has all the time there is");
        assert!(!unsaid.headers.contains_key("grpc-status"));
        // It never says the rest.
        let mut stream = TcpStream::connect(stage.site.listener).await.unwrap();
        let half = b"POST /max HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n1";
        stream.write_all(half).await.unwrap();
        let mut status = [0; 12];
        stream.read_exact(&mut status).await.unwrap();
        assert_eq!(&status, b"HTTP/1.1 408");
        for (path, said, at_least_ms) in [("/max", "10m", 100), ("/said", "150m", 150), ("/said", "1S", 500)]
        {
            for content_type in ["application/grpc", "text/plain"] {
                let request = Request::get(stage.site.url(path))
                    .header("content-type", content_type)
                    .header("grpc-timeout", said);
                let began = Instant::now();
                let answer = send(&client, request.body(Full::default()).unwrap())
                    .await
                    .unwrap();
                let took = began.elapsed().as_millis();
                assert!(
                    (at_least_ms..at_least_ms + 300).contains(&took),
                    "{path} {said}: {took}"
                );
                if content_type == "text/plain" {
                    assert_eq!(
                        (answer.status.as_u16(), &*answer.body),
                        (504, "downstream duration timeout")
                    );
                } else {
                    assert_eq!(answer.status, 200, "{path}");
                    assert_eq!(answer.headers["grpc-status"], "4", "{path}");
                }
            }
        }
    }
    stage.site.proxy.stop().await;
}

/// `listener`, which makes every request wait for a second.
fn delayed(listener: Listener) -> Listener {
    let fault = HttpFault {
        delay: Some(FaultDelay {
            percentage: Some(FractionalPercent {
                numerator: 100,
                denominator: 0,
            }),
            fault_delay_secifier: Some(FaultDelaySecifier::FixedDelay(Duration { seconds: 1, nanos: 0 })),
        }),
        ..Default::default()
    };
    mesh::with_filters(listener, [("envoy.filters.http.fault", pack_any(fault))])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_makes_no_stream_last_longer() {
    let well = Upstream::start("well").await;
    let routes = vec![lasting(mesh::to_cluster("/", "well"), 100, None)];
    let stage = Stage::start(vec![at(mesh::cluster("well"), well.address)], routes).await;
    let call = async |client: HttpClient| {
        let began = Instant::now();
        let answer = stage.call(&client, "/", "application/grpc").await;
        (answer, began.elapsed().as_millis())
    };
    assert!(!call(client()).await.0.headers.contains_key("grpc-status"));
    let listener = delayed(mesh::listener("in", stage.site.listener, "in"));
    stage.site.edge.put("in", &listener);
    eventually("it is late", || async {
        call(client()).await.0.headers.contains_key("grpc-status")
    })
    .await;
    for client in [client(), http2_client()] {
        let (answer, took) = call(client).await;
        assert_eq!(answer.headers["grpc-status"], "4");
        assert!((100..600).contains(&took), "{took}");
    }
    stage.site.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_host_of_a_call_is_told_how_long_it_may_last() {
    let (address, _) = start_host().await;
    let routes = vec![
        lasting(mesh::to_cluster("/both", "a"), 900, Some(500)),
        lasting(mesh::to_cluster("/endless", "a"), 0, Some(500)),
        mesh::to_cluster("/", "a"),
    ];
    let stage = Stage::start(vec![at(mesh::cluster("a"), address)], routes).await;
    let call = "application/grpc";
    for (path, content_type, said, told) in [
        ("/both", call, None, Some("900m")),
        ("/both", call, Some("150m"), Some("150m")),
        ("/both", call, Some("1S"), Some("500m")),
        ("/both", "text/plain", Some("1S"), Some("1S")),
        ("/endless", call, None, None),
        ("/endless", call, Some("1H"), Some("500m")),
        ("/", call, Some("1S"), Some("1S")),
    ] {
        for client in [client(), http2_client()] {
            let mut request = Request::post(stage.site.url(path)).header("content-type", content_type);
            if let Some(said) = said {
                request = request.header("grpc-timeout", said);
            }
            let answer = send(&client, request.body(Full::default()).unwrap())
                .await
                .unwrap();
            let got = answer.headers.get("x-told").map(|told| told.to_str().unwrap());
            assert_eq!(got, told, "{path} {content_type} {said:?}");
        }
    }
    stage.site.proxy.stop().await;
}

fn retried_on(mut route: Route, words: &str) -> Route {
    if let Some(Action::Route(action)) = &mut route.action {
        action.retry_policy = Some(RetryPolicy {
            retry_on: words.to_owned(),
            num_retries: Some(UInt32Value { value: 2 }),
            ..Default::default()
        });
    }
    route
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_tried_again_for_its_status() {
    let (address, host) = start_host().await;
    let clusters = vec![
        at(mesh::cluster("one"), address),
        at(mesh::with_http2(mesh::cluster("two")), address),
    ];
    let routes = vec![
        retried_on(mesh::to_cluster("/one", "one"), "unavailable"),
        retried_on(mesh::to_cluster("/two", "two"), "unavailable"),
        retried_on(mesh::to_cluster("/other", "two"), "cancelled,5xx"),
    ];
    let stage = Stage::start(clusters, routes).await;
    for (path, failures, calls, code) in [
        ("/one", 2, 3, None),
        ("/two", 2, 3, None),
        ("/two", 3, 3, Some("14")),
        ("/other", 1, 1, Some("14")),
    ] {
        for client in [client(), http2_client()] {
            host.failures.store(failures, Ordering::Relaxed);
            let before = host.calls.load(Ordering::Relaxed);
            let answer = stage.call(&client, path, "application/grpc").await;
            let got = answer
                .headers
                .get("grpc-status")
                .map(|code| code.to_str().unwrap());
            assert_eq!(got, code, "{path} {failures}");
            assert_eq!(
                host.calls.load(Ordering::Relaxed) - before,
                calls,
                "{path} {failures}"
            );
        }
    }
    stage.site.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_says_how_it_is_over_grpc() {
    let (address, host) = start_host().await;
    let mut cluster = mesh::with_http2(mesh::with_checks(mesh::cluster("a"), 20, 500));
    cluster.health_checks[0].health_checker = Some(HealthChecker::GrpcHealthCheck(GrpcHealthCheck {
        service_name: "s".to_owned(),
        authority: "checked".to_owned(),
        ..Default::default()
    }));
    let stage = Stage::start(vec![at(cluster, address)], vec![mesh::to_cluster("/", "a")]).await;
    let healthy = async || {
        let shown = stage.site.proxy.metrics().await;
        shown.contains(&format!(
            "tombolo_host_healthy{{cluster=\"a\",host=\"{address}\"}} 1\n"
        ))
    };
    eventually("it is well", &healthy).await;
    host.sick.store(true, Ordering::Relaxed);
    eventually("it is not", || async { !healthy().await }).await;
    host.sick.store(false, Ordering::Relaxed);
    eventually("it is again", &healthy).await;
    assert!(host.checks.load(Ordering::Relaxed) > 2);
    drop(stage.site.edge);
    stage.site.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_say_how_a_call_ended() {
    let (address, host) = start_host().await;
    let clusters = vec![at(mesh::with_http2(mesh::cluster("a")), address)];
    let stage = Stage::start(clusters, vec![mesh::to_cluster("/a", "a")]).await;
    let logged = tempfile::tempdir().unwrap();
    let path = logged.path().join("log");
    let log = json_log(&path, &[("path", "%REQ(:PATH)%"), ("code", "%GRPC_STATUS%")]);
    let listener = with_logs(mesh::listener("in", stage.site.listener, "in"), vec![log]);
    stage.site.edge.put("in", &listener);
    let read = || std::fs::read_to_string(&path).unwrap_or_default();
    eventually("it is logged", || async {
        stage.call(&http2_client(), "/a/first", "text/plain").await;
        !read().is_empty()
    })
    .await;
    stage.call(&http2_client(), "/a/well", "application/grpc").await;
    host.failures.store(1, Ordering::Relaxed);
    stage.call(&http2_client(), "/a/sick", "application/grpc").await;
    stage.call(&client(), "/nowhere", "application/grpc").await;
    stage.call(&client(), "/else", "text/plain").await;
    stage.site.proxy.stop().await;
    for (path, code) in [
        ("/a/well", "\"OK\""),
        ("/a/sick", "\"Unavailable\""),
        ("/nowhere", "\"Unimplemented\""),
        ("/else", "null"),
    ] {
        let line = format!("{{\"code\":{code},\"path\":\"{path}\"}}");
        assert!(read().lines().any(|found| found == line), "{line}: {}", read());
    }
}
