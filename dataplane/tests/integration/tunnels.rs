//! Requests that become connections, over real sockets and two workers: upgrades and CONNECT, over HTTP/1.1 and over streams of
//! HTTP/2, with all that clients and hosts may make of them.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use envoy_types::pb::envoy::config::core::v3::Http2ProtocolOptions;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::{MaxStreamDuration, UpgradeConfig as OfRoute};
use envoy_types::pb::envoy::config::route::v3::route_action::upgrade_config::ConnectConfig;
use envoy_types::pb::envoy::config::route::v3::route_match::{ConnectMatcher, PathSpecifier};
use envoy_types::pb::envoy::config::route::v3::Route;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::UpgradeConfig;
use envoy_types::pb::google::protobuf::{BoolValue, Duration as PbDuration};
use h2::ext::Protocol;
use http::{Method, Request};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tombolo_dataplane::AccessLog;

use crate::support::ads::AdsServer;
use crate::support::certs::Authority;
use crate::support::proxy::{DEADLINE, Proxy, eventually, free_address};
use crate::support::site::{Site, at};
use crate::support::upstream::serving;
use crate::support::{certs, mesh};

mod asked;
mod ends;
mod http2_hosts;
mod streams;

/// More than every buffer on the way together.
const LONG: usize = 5_000_000;
const ASKS: &str = "host: h\r\nconnection: upgrade\r\nupgrade: websocket\r\n";

/// What ends the checks of a host that has it among what it has seen.
const DEAD: &str = "dead";

struct Stage {
    listener: SocketAddr,
    proxy: Proxy,
    edge: AdsServer,
    /// All that the host was sent.
    seen: Arc<Mutex<Vec<u8>>>,
    host: SocketAddr,
    data: tempfile::TempDir,
}

pub(crate) fn with_upgrades(listener: Listener) -> Listener {
    mesh::with_manager(listener, |manager| {
        manager.upgrade_configs = vec![UpgradeConfig {
            upgrade_type: "websocket".to_owned(),
            ..Default::default()
        }];
        manager.http2_protocol_options = Some(Http2ProtocolOptions {
            allow_connect: true,
            ..Default::default()
        });
    })
}

fn upgrading(mut route: Route, kind: &str, enabled: bool) -> Route {
    if let Some(Action::Route(action)) = &mut route.action {
        action.upgrade_configs = vec![OfRoute {
            upgrade_type: kind.to_owned(),
            enabled: Some(BoolValue { value: enabled }),
            connect_config: (kind == "CONNECT").then(ConnectConfig::default),
        }];
    }
    route
}

fn lasting(mut route: Route, lasts_ms: i32) -> Route {
    if let Some(Action::Route(action)) = &mut route.action {
        let lasts = PbDuration {
            seconds: (lasts_ms / 1000).into(),
            nanos: lasts_ms % 1000 * 1_000_000,
        };
        action.max_stream_duration = Some(MaxStreamDuration {
            max_stream_duration: Some(lasts),
            ..MaxStreamDuration::default()
        });
    }
    route
}

fn connecting(cluster: &str) -> Route {
    let mut route = upgrading(mesh::to_cluster("/", cluster), "CONNECT", true);
    if let Some(asked) = &mut route.r#match {
        asked.path_specifier = Some(PathSpecifier::ConnectMatcher(ConnectMatcher {}));
    }
    route
}

impl Stage {
    async fn start() -> Self {
        Self::start_with(with_upgrades, Thresholds::default()).await
    }

    async fn start_with(made: impl FnOnce(Listener) -> Listener, limits: Thresholds) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let host = start_host(Arc::clone(&seen)).await;
        let clusters = vec![
            at(mesh::with_limits(mesh::cluster("a"), limits), host),
            (mesh::cluster("closed"), vec![(free_address(), 0), (host, 0)]),
        ];
        let routes = vec![
            connecting("a"),
            upgrading(mesh::to_cluster("/off", "a"), "websocket", false),
            upgrading(mesh::to_cluster("/on", "a"), "other", true),
            lasting(mesh::to_cluster("/lasting", "a"), 700),
            mesh::with_timeout(mesh::to_cluster("/silent", "a"), 200),
            mesh::with_timeout(mesh::to_cluster("/short", "a"), 200),
            mesh::with_careful_retries(mesh::to_cluster("/retried", "closed"), 5),
            mesh::to_cluster("/", "a"),
        ];
        let start = |edge: &str, data: &Path| {
            let log = AccessLog::File(Proxy::log(data));
            Proxy::start_draining(edge, data, log, Duration::from_millis(300))
        };
        let site = Site::start_with(clusters, made, mesh::routes("in", routes), start).await;
        Self {
            listener: site.listener,
            proxy: site.proxy,
            edge: site.edge,
            seen,
            host,
            data: site.data,
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.listener).await.unwrap()
    }

    /// What comes back for `request` and its head's end, until the connection is closed.
    async fn talk(&self, request: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        String::from_utf8_lossy(&rest(&mut stream).await).into_owned()
    }

    fn has_seen(&self, text: &str) -> bool {
        String::from_utf8_lossy(&self.seen.lock().unwrap()).contains(text)
    }

    /// The lines of the access log, once there are so many.
    async fn log(&self, lines: usize) -> Vec<serde_json::Value> {
        let log = Proxy::log(self.data.path());
        let read = || std::fs::read_to_string(&log).unwrap_or_default();
        eventually("it is logged", || async { read().lines().count() >= lines }).await;
        read()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

/// Answers by the path; what is no request of HTTP it sends back, and `bye` once that has ended.
pub(crate) async fn start_host(seen: Arc<Mutex<Vec<u8>>>) -> SocketAddr {
    serving(move |stream| serve(stream, Arc::clone(&seen))).await
}

async fn serve(mut stream: TcpStream, seen: Arc<Mutex<Vec<u8>>>) -> Option<()> {
    let mut input = Vec::new();
    let is_http = |input: &[u8]| input.starts_with(b"GET ") || input.starts_with(b"POST ");
    let head = loop {
        if stream.read_buf(&mut input).await.ok()? == 0 && input.is_empty() {
            return None;
        }
        if input.len() >= 5 && !is_http(&input) {
            break 0;
        }
        if let Some(at) = input.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
    };
    let text = String::from_utf8_lossy(&input[..head]).into_owned();
    seen.lock().unwrap().extend_from_slice(&input);
    let path = text.split([' ', '?']).nth(1).unwrap_or_default().to_owned();
    let kind = path.rsplit('/').next().unwrap_or_default();
    let answer = match kind {
        "" | "ws" => {
            "101 Switching\r\nconnection: upgrade\r\nupgrade: WebSocket\r\nsec-websocket-accept: x\r\n\r\nhello"
        }
        "none" => "101 Switching\r\n\r\nhello",
        "other" => "101 Switching\r\nconnection: upgrade\r\nupgrade: other\r\n\r\nhello",
        "long" => {
            "101 Switching\r\nconnection: upgrade\r\nupgrade: websocket\r\ncontent-length: 5\r\n\r\nhello"
        }
        "early" => {
            "103 Early\r\nx: y\r\n\r\nHTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhello"
        }
        "healthz" if String::from_utf8_lossy(&seen.lock().unwrap()).contains(DEAD) => "503 No\r\n\r\n",
        "healthz" => "200 OK\r\n\r\n",
        "no" => "401 No\r\ncontent-length: 2\r\nx-mine: 1\r\n\r\nno",
        "pieces" => "403 No\r\ntransfer-encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
        "close" => "403 No\r\n\r\nno",
        "half" => "403 No\r\ncontent-length: 5\r\n\r\nno",
        "empty" => "204 No\r\n\r\n",
        "bad" => "403 No\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nno",
        _ => return std::future::pending().await,
    };
    if head > 0 {
        stream
            .write_all(format!("HTTP/1.1 {answer}").as_bytes())
            .await
            .ok()?;
    }
    if head > 0 && !answer.starts_with("10") {
        return stream.shutdown().await.ok();
    }
    stream.write_all(&input[head..]).await.ok()?;
    let (mut from, mut to) = stream.split();
    tokio::io::copy(&mut from, &mut to).await.ok()?;
    to.write_all(b"bye").await.ok()?;
    to.shutdown().await.ok()
}

async fn rest(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut answer = Vec::new();
    // A reset behind the answer takes nothing from it.
    let _ = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer))
        .await
        .expect("the connection is closed");
    answer
}

/// Reads until `end` has come.
pub(crate) async fn until(stream: &mut (impl AsyncRead + Unpin), end: &str) -> String {
    let mut answer = Vec::new();
    while !answer.ends_with(end.as_bytes()) {
        let read = tokio::time::timeout(DEADLINE, stream.read_buf(&mut answer)).await;
        let text = String::from_utf8_lossy(&answer).into_owned();
        assert!(read.expect("it comes").unwrap() > 0, "{end:?} is not in {text:?}");
    }
    String::from_utf8_lossy(&answer).into_owned()
}

fn long() -> Vec<u8> {
    (0..LONG).map(|at| (at / 7 % 251) as u8).collect()
}

/// Sends much, ends, and expects all of it back and a word more.
async fn echoes(stream: impl AsyncRead + AsyncWrite + Send + 'static) {
    let (mut from, mut to) = tokio::io::split(stream);
    let sending = tokio::spawn(async move {
        to.write_all(&long()).await.unwrap();
        to.shutdown().await.unwrap();
        to
    });
    let back = rest(&mut from).await;
    drop(sending.await.unwrap());
    assert_eq!(back.len(), LONG + 3);
    assert!(back[..LONG] == long()[..], "what comes back is what was sent");
    assert_eq!(&back[LONG..], b"bye", "each direction ends by itself");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_is_a_connection_with_the_host() {
    let stage = Stage::start().await;
    let mut stream = stage.connect().await;
    let request = format!("GET /ws HTTP/1.1\r\n{ASKS}sec-websocket-key: k\r\nte: trailers\r\nx: y\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let answer = until(&mut stream, "hello").await;
    assert!(
        answer.starts_with("HTTP/1.1 101 Switching Protocols\r\n"),
        "{answer}"
    );
    for line in [
        "connection: upgrade\r\n",
        "upgrade: WebSocket\r\n",
        "sec-websocket-accept: x\r\n",
    ] {
        assert_eq!(answer.matches(line).count(), 1, "{line:?} of {answer}");
    }
    for line in ["content-length", "transfer-encoding"] {
        assert!(!answer.contains(line), "{line:?} of {answer}");
    }
    for line in [
        "GET /ws HTTP/1.1\r\nhost: h\r\n",
        "\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        "sec-websocket-key: k\r\n",
        "x: y\r\n",
        "x-forwarded-for: 127.",
        "x-request-id: ",
    ] {
        assert!(stage.has_seen(line), "{line:?} did not come");
    }
    echoes(stream).await;
    let logged = &stage.log(1).await[0];
    assert_eq!(logged["status"], 101);
    assert_eq!(logged["flags"], "");
    assert_eq!(logged["bytes_received"], LONG);
    assert_eq!(logged["bytes_sent"], LONG + 8);
    stage.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_upgrade_is_answered_and_the_connection_closed() {
    let stage = Stage::start().await;
    let other = ASKS.replace("websocket", "other");
    let listed = ASKS.replace("websocket", "websocket, other");
    let next = "GET /smuggled/no HTTP/1.1\r\nhost: h\r\n\r\n";
    // Path, what it asks for, its body, the status, and what the client gets behind the head, if that ends well.
    let cases: [(&str, &str, &str, u16, Option<&str>); 21] = [
        ("/no", ASKS, "\r\n", 401, Some("no")),
        ("/pieces", ASKS, "\r\n", 403, Some("2\r\nno\r\n0\r\n\r\n")),
        ("/close", ASKS, "\r\n", 403, Some("2\r\nno\r\n0\r\n\r\n")),
        ("/empty", ASKS, "\r\n", 204, Some("")),
        ("/half", ASKS, "\r\n", 403, None),
        ("/bad", ASKS, "\r\n", 503, None),
        ("/none", ASKS, "\r\n", 503, None),
        ("/other", ASKS, "\r\n", 503, None),
        ("/long", ASKS, "\r\n", 503, None),
        ("/silent/for-ever", ASKS, "\r\n", 504, None),
        ("/off/ws", ASKS, "\r\n", 403, Some("")),
        (
            "/off/ws",
            ASKS,
            "content-type: application/grpc\r\n\r\n",
            403,
            Some(""),
        ),
        ("/ws", &other, "\r\n", 403, Some("")),
        ("/ws", &listed, "\r\n", 403, Some("")),
        ("/off/ws", &other, "\r\n", 403, Some("")),
        ("/on/ws", &listed, "\r\n", 403, Some("")),
        ("/on/ws", &other, "\r\n", 503, None),
        ("/ws", ASKS, "content-length: 5\r\n\r\nhello", 400, None),
        (
            "/ws",
            ASKS,
            "transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            None,
        ),
        ("/ws", ASKS, "upgrade: websocket\r\n\r\n", 403, Some("")),
        (
            "/ws",
            &ASKS.replace("websocket", "connect"),
            "\r\n",
            403,
            Some(""),
        ),
    ];
    for (path, asks, body, status, expected) in cases {
        let request = format!("GET {path} HTTP/1.1\r\n{asks}{body}{next}");
        let answer = stage.talk(&request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{request:?}: {answer:?}"
        );
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{request:?}: {answer:?}");
        let (head, got) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("connection: close"), "{request:?}: {answer:?}");
        if let Some(expected) = expected {
            assert_eq!(got, expected, "{request:?}: {answer:?}");
        }
        assert!(!stage.has_seen("smuggled"), "{request:?}");
    }
    assert!(
        stage
            .talk(&format!("GET /no HTTP/1.1\r\n{ASKS}\r\n"))
            .await
            .contains("x-mine: 1")
    );
    stage.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_before_the_answer_belongs_to_the_connection() {
    let stage = Stage::start().await;
    for path in ["/ws", "/early", "/on/other"] {
        let asks = if path.starts_with("/on") {
            ASKS.replace("websocket", "OTHER")
        } else {
            ASKS.to_owned()
        };
        let mut stream = stage.connect().await;
        let request = format!("GET {path} HTTP/1.1\r\n{asks}\r\nGET /smuggled HTTP/1.1\r\nhost: h\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap_or_default();
        drop(stream);
        let mut stream = stage.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = until(&mut stream, "helloGET /smuggled HTTP/1.1\r\nhost: h\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        assert!(!answer.contains("103"), "{answer}");
    }
    stage.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_routes_time_ends_with_the_answer() {
    let stage = Stage::start().await;
    let mut stream = stage.connect().await;
    let request = format!("GET /short/ws HTTP/1.1\r\n{ASKS}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    until(&mut stream, "hello").await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    echoes(stream).await;
    stage.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_is_tried_again_until_a_host_has_answered() {
    let stage = Stage::start().await;
    // One of two hosts takes no connections.
    for _ in 0..8 {
        let mut stream = stage.connect().await;
        let request = format!("GET /retried/ws HTTP/1.1\r\n{ASKS}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = until(&mut stream, "hello").await;
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    }
    let retries: u64 = stage
        .log(8)
        .await
        .iter()
        .filter_map(|line| line["retries"].as_u64())
        .sum();
    assert!(retries > 0, "the other one was never asked");
    stage.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connect_is_a_connection_with_a_host() {
    let stage = Stage::start().await;
    let mut stream = stage.connect().await;
    let request = "CONNECT h:80 HTTP/1.1\r\nhost: h:80\r\n\r\nfirst";
    stream.write_all(request.as_bytes()).await.unwrap();
    let answer = until(&mut stream, "first").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(
        !answer.contains("content-length") && !answer.contains("transfer-encoding"),
        "{answer}"
    );
    assert!(!stage.has_seen("CONNECT"), "the host is asked nothing");
    echoes(stream).await;
    let logged = &stage.log(1).await[0];
    assert_eq!(logged["method"], "CONNECT");
    assert_eq!(logged["status"], 200);
    assert_eq!(logged["bytes_received"], LONG + 5);
    stage.proxy.stop().await;
}

/// A stream of HTTP/2 that asks for a connection: what is answered, and its two directions.
async fn ask_http2(
    stage: &Stage,
    protocol: Option<&'static str>,
    uri: &str,
) -> (http::Response<h2::RecvStream>, h2::SendStream<Bytes>) {
    ask_http2_at(stage.listener, protocol, uri).await
}

pub(crate) async fn ask_http2_at(
    listener: SocketAddr,
    protocol: Option<&'static str>,
    uri: &str,
) -> (http::Response<h2::RecvStream>, h2::SendStream<Bytes>) {
    let stream = TcpStream::connect(listener).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(async move {
        // However it ends.
        let _ = connection.await;
    });
    // The proxy's settings say that it takes such requests.
    eventually("settings have come", || async {
        client.clone().ready().await.is_ok() && client.is_extended_connect_protocol_enabled()
    })
    .await;
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .uri(uri)
        .body(())
        .unwrap();
    if let Some(protocol) = protocol {
        request.extensions_mut().insert(Protocol::from_static(protocol));
    }
    let (answer, sending) = client.send_request(request, false).unwrap();
    let answer = tokio::time::timeout(DEADLINE, answer)
        .await
        .expect("it is answered")
        .unwrap();
    (answer, sending)
}

pub(crate) async fn receive(body: &mut h2::RecvStream, length: usize) -> Result<Vec<u8>, h2::Error> {
    let mut all = Vec::new();
    while all.len() < length {
        let next = tokio::time::timeout(DEADLINE, body.data())
            .await
            .expect("it comes");
        let Some(piece) = next else { break };
        let piece = piece?;
        all.extend_from_slice(&piece);
        body.flow_control().release_capacity(piece.len())?;
    }
    Ok(all)
}

pub(crate) async fn send(sending: &mut h2::SendStream<Bytes>, mut bytes: Bytes) {
    while !bytes.is_empty() {
        sending.reserve_capacity(bytes.len());
        let room = std::future::poll_fn(|cx| sending.poll_capacity(cx))
            .await
            .unwrap()
            .unwrap();
        let piece = bytes.split_to(room.min(bytes.len()));
        sending.send_data(piece, false).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_may_come_in_tls() {
    let authority = Authority::new();
    let context = certs::context(vec![certs::certificate(&authority.sign(&["h"]))], &[]);
    let made = |listener| {
        let mut listener = with_upgrades(listener);
        listener.filter_chains[0].transport_socket = certs::socket(context);
        listener
    };
    let stage = Stage::start_with(made, Thresholds::default()).await;
    let connector = TlsConnector::from(authority.client(&[], None));
    let name = ServerName::try_from("h").unwrap();
    let mut stream = connector.connect(name, stage.connect().await).await.unwrap();
    let request = format!("GET /ws HTTP/1.1\r\n{ASKS}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    until(&mut stream, "hello").await;
    echoes(stream).await;
    assert_ne!(stage.host.port(), 0);
    stage.proxy.stop().await;
}
