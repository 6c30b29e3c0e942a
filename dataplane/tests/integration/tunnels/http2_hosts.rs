//! Upgrades whose hosts speak HTTP/2: those that say that they know of them, and those that do not.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::config::cluster::v3::OutlierDetection;
use envoy_types::pb::google::protobuf::UInt32Value;
use h2::ext::Protocol;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Method, Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::{ASKS, LONG, Stage, ask_http2, echoes, lasting, long, receive, rest, send, until};
use crate::support::mesh;
use crate::support::proxy::eventually;
use crate::support::upstream::serving;

/// What was asked of a host: of which protocol, and in which lines.
type Seen = Arc<Mutex<Vec<(Option<String>, HeaderMap)>>>;

/// Requests below `/new` go to a host that knows upgrades over HTTP/2, and below `/old` to one that does not.
async fn start() -> (Stage, Seen) {
    let stage = Stage::start().await;
    let seen = Seen::default();
    for (name, knows) in [("new", true), ("old", false)] {
        let host = start_host(knows, Arc::clone(&seen)).await;
        let mut cluster = mesh::with_http2(mesh::cluster(name));
        // Two failures in a row would leave it out.
        cluster.outlier_detection = Some(OutlierDetection {
            consecutive_5xx: Some(UInt32Value { value: 2 }),
            max_ejection_percent: Some(UInt32Value { value: 100 }),
            ..OutlierDetection::default()
        });
        stage.edge.put(name, &cluster);
        stage.edge.put(name, &mesh::endpoints(name, &[(host, 0)]));
    }
    let routes =
        ["new", "old"].map(|name| mesh::with_retries(mesh::to_cluster(&format!("/{name}"), name), 5));
    stage.edge.put("in", &mesh::routes("in", routes.into()));
    eventually("the hosts are known", || async {
        ask(&stage, "/new/no").await.starts_with("HTTP/1.1 403 ")
            && ask(&stage, "/old/ws").await.starts_with("HTTP/1.1 503 ")
    })
    .await;
    seen.lock().unwrap().clear();
    (stage, seen)
}

async fn ask(stage: &Stage, path: &str) -> String {
    stage.talk(&format!("GET {path} HTTP/1.1\r\n{ASKS}\r\n")).await
}

async fn start_host(knows: bool, seen: Seen) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(stream, knows, Arc::clone(&seen)));
        }
    });
    address
}

async fn serve(stream: TcpStream, knows: bool, seen: Seen) -> Option<()> {
    let mut builder = h2::server::Builder::new();
    if knows {
        builder.enable_connect_protocol();
    }
    let mut connection = builder.handshake::<_, Bytes>(stream).await.ok()?;
    while let Some(Ok((request, respond))) = connection.accept().await {
        let protocol = request.extensions().get::<Protocol>();
        let protocol = protocol.map(|protocol| protocol.as_str().to_owned());
        assert!(protocol.is_none() || request.method() == Method::CONNECT);
        seen.lock().unwrap().push((protocol, request.headers().clone()));
        tokio::spawn(answer(request, respond));
    }
    None
}

/// Sends back what comes, and `bye` once that has ended.
async fn answer(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let path = request.uri().path().to_owned();
    let status = if path.ends_with("/no") { 403 } else { 200 };
    let mut response = Response::builder().status(status).header("x-mine", "1");
    if path.ends_with("/length") {
        response = response.header("content-length", "1000");
    }
    let response = response.body(()).unwrap();
    let mut sending = respond.send_response(response, false).unwrap();
    if status == 403 {
        sending.send_data(Bytes::from_static(b"no"), true).unwrap();
        return;
    }
    send(&mut sending, Bytes::from_static(b"hello")).await;
    if path.ends_with("/breaks") {
        // The rest is broken off once that has gone.
        tokio::time::sleep(Duration::from_millis(50)).await;
        sending.send_reset(Reason::INTERNAL_ERROR);
        return;
    }
    if path.ends_with("/ends") {
        // Nobody reads what the client still sends, which a reset without an error says.
        send(&mut sending, long().into()).await;
        sending.send_data(Bytes::new(), true).unwrap();
        return;
    }
    let mut body = request.into_body();
    while let Some(Ok(piece)) = body.data().await {
        body.flow_control().release_capacity(piece.len()).unwrap();
        send(&mut sending, piece).await;
    }
    sending.send_data(Bytes::from_static(b"bye"), true).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_is_a_stream_with_a_host_of_http2() {
    let (stage, seen) = start().await;
    let mut stream = stage.connect().await;
    let key = "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let request = format!("GET /new/ws?q=1 HTTP/1.1\r\n{ASKS}{key}content-length: 0\r\nx: y\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let answer = until(&mut stream, "hello").await;
    assert!(
        answer.starts_with("HTTP/1.1 101 Switching Protocols\r\n"),
        "{answer}"
    );
    for line in [
        "connection: upgrade\r\n",
        "upgrade: websocket\r\n",
        "sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n",
        "x-mine: 1\r\n",
    ] {
        assert_eq!(answer.matches(line).count(), 1, "{line:?} of {answer}");
    }
    echoes(stream).await;
    let (answer, mut sending) = ask_http2(&stage, Some("websocket"), "http://h/new/ws").await;
    assert_eq!(
        (
            answer.status().as_u16(),
            answer.headers()["x-mine"].to_str().unwrap()
        ),
        (200, "1")
    );
    assert!(!answer.headers().contains_key("sec-websocket-accept"));
    let mut body = answer.into_body();
    let sender = tokio::spawn(async move {
        send(&mut sending, long().into()).await;
        sending.send_data(Bytes::new(), true).unwrap();
    });
    let back = receive(&mut body, usize::MAX).await.unwrap();
    sender.await.unwrap();
    assert_eq!(back.len(), LONG + 8);
    assert!(back[5..LONG + 5] == long()[..] && back.ends_with(b"bye"));
    let seen = seen.lock().unwrap().clone();
    assert_eq!(seen.len(), 2);
    for (protocol, headers) in &seen {
        assert_eq!(protocol.as_deref(), Some("websocket"));
        for name in ["connection", "upgrade", "content-length", "host"] {
            assert!(!headers.contains_key(name), "{name}");
        }
    }
    assert_eq!(seen[0].1["x"], "y");
    stage.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_host_of_http2_makes_no_stream_is_answered() {
    let (stage, seen) = start().await;
    let answer = ask(&stage, "/new/no").await;
    assert!(
        answer.starts_with("HTTP/1.1 403 ") && answer.contains("x-mine: 1"),
        "{answer}"
    );
    assert!(answer.contains("no"), "{answer}");
    seen.lock().unwrap().clear();
    let answer = ask(&stage, "/old/ws").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(
        answer.contains("the host knows no upgrades over HTTP/2"),
        "{answer}"
    );
    for (path, status) in [("/new/no", 403), ("/old/ws", 503)] {
        let (answer, _sending) = ask_http2(&stage, Some("websocket"), &format!("http://h{path}")).await;
        assert_eq!(answer.status(), status, "{path}");
    }
    let asked = seen.lock().unwrap().len();
    assert_eq!(asked, 1, "who knows of none is not asked");
    stage.proxy.stop().await;
}

/// How the requests for `path` have ended, once there are so many.
async fn flags(stage: &Stage, path: &str, count: usize) -> Vec<String> {
    let of_path = || async {
        let lines = stage.log(0).await.into_iter();
        let lines = lines.filter(|line| line["path"] == path);
        lines
            .map(|line| line["flags"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    eventually("it is logged", || async { of_path().await.len() >= count }).await;
    of_path().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_a_host_breaks_off_is_no_end() {
    let (stage, _seen) = start().await;
    let mut stream = stage.connect().await;
    let request = format!("GET /new/breaks HTTP/1.1\r\n{ASKS}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    until(&mut stream, "hello").await;
    rest(&mut stream).await;
    let (answer, _sending) = ask_http2(&stage, Some("websocket"), "http://h/new/breaks").await;
    let mut body = answer.into_body();
    let got = receive(&mut body, 5).await.unwrap();
    assert_eq!(got, b"hello");
    let end = receive(&mut body, 1).await;
    assert!(end.is_err(), "{end:?} is no end");
    assert_eq!(flags(&stage, "/new/breaks", 2).await, ["UR", "UR"]);
    // So is one that its client leaves.
    let mut stream = stage.connect().await;
    let request = format!("GET /new/leaves HTTP/1.1\r\n{ASKS}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    until(&mut stream, "hello").await;
    stream.set_zero_linger().unwrap();
    drop(stream);
    assert_eq!(flags(&stage, "/new/leaves", 1).await, ["DC"]);
    stage.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_ends_first_and_reads_no_more_breaks_nothing_off() {
    let (stage, _seen) = start().await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 * 1024).unwrap();
    let mut stream = socket.connect(stage.listener).await.unwrap();
    let request = format!("GET /new/ends HTTP/1.1\r\n{ASKS}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    // It takes its time, and all that the host has sent waits for it.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with(b"HTTP/1.1 101 "));
    assert!(answer.ends_with(&long()), "{} bytes came", answer.len());
    // What it sends now is nobody's.
    stream.write_all(b"bye").await.unwrap();
    drop(stream);
    let (answer, mut sending) = ask_http2(&stage, Some("websocket"), "http://h/new/ends").await;
    let mut body = answer.into_body();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let got = receive(&mut body, usize::MAX).await.unwrap();
    assert_eq!(got.len(), LONG + 5);
    sending.send_data(Bytes::from_static(b"bye"), true).unwrap();
    assert_eq!(flags(&stage, "/new/ends", 2).await, ["", ""]);
    stage.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_is_not_blamed_for_what_it_does_not_know() {
    let (stage, _seen) = start().await;
    for path in ["/old/ws", "/new/length"] {
        for _ in 0..4 {
            let answer = ask(&stage, path).await;
            assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
            assert!(answer.contains("the host "), "{path} {answer}");
        }
        let cluster = &path[1..4];
        let series = format!(r#"tombolo_ejections_total{{cluster="{cluster}",why="consecutive_5xx"}}"#);
        assert_eq!(stage.proxy.metric(&series).await.unwrap_or_default(), 0, "{path}");
        let other = path.replace("/ws", "/any").replace("/length", "/any");
        let request = format!("GET {other} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n");
        let answer = stage.talk(&request).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{path} {answer}");
    }
    let retries = |line: &serde_json::Value| line["retries"].as_u64().unwrap();
    let lines = stage.log(10).await;
    let asked = lines.iter().filter(|line| line["path"] == "/new/length");
    assert_eq!(asked.map(retries).sum::<u64>(), 0, "nobody else is asked");
    stage.proxy.stop().await;
}

/// Takes a connection of HTTP/2 with room for all that ever comes, makes a stream of what is asked, and reads no more.
async fn serve_once(stream: TcpStream) -> Option<()> {
    let room = 1 << 30;
    let mut builder = h2::server::Builder::new();
    builder.enable_connect_protocol();
    builder
        .initial_window_size(room)
        .initial_connection_window_size(room);
    let mut connection = builder.handshake::<_, Bytes>(stream).await.ok()?;
    let (_request, mut respond) = connection.accept().await?.ok()?;
    let mut sending = respond.send_response(Response::new(()), false).ok()?;
    sending.send_data(Bytes::from_static(b"hello"), false).ok()?;
    let _ = tokio::time::timeout(Duration::from_millis(200), connection.accept()).await;
    std::future::pending().await
}

/// How many connections to `host` are open on this machine.
fn open_to(host: SocketAddr) -> usize {
    let port = format!(":{:04X}", host.port());
    let is_open = |line: &&str| {
        let mut fields = line.split_whitespace().skip(2);
        fields.next().is_some_and(|to| to.ends_with(&port)) && fields.next() == Some("01")
    };
    let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
    sockets.lines().filter(is_open).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_broken_off_ends_though_its_host_reads_nothing() {
    let stage = Stage::start().await;
    let host = serving(serve_once).await;
    stage.edge.put("stuck", &mesh::with_http2(mesh::cluster("stuck")));
    stage.edge.put("stuck", &mesh::endpoints("stuck", &[(host, 0)]));
    stage.edge.put(
        "in",
        &mesh::routes("in", vec![lasting(mesh::to_cluster("/stuck", "stuck"), 3000)]),
    );
    let request = format!("GET /stuck/no HTTP/1.1\r\n{ASKS}\r\n");
    let asks = || async {
        let mut stream = stage.connect().await;
        // Whoever drops it leaves.
        stream.set_zero_linger().unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        (&answer == b"HTTP/1.1 101").then_some(stream)
    };
    eventually("the host is known", || async { asks().await.is_some() }).await;
    let mut stream = asks().await.unwrap();
    assert!(open_to(host) > 0);
    // Until nothing goes on behind the proxy, and its time is over.
    while stream.write(&[0; 65_536]).await.is_ok() {}
    eventually("none is open", || async { open_to(host) == 0 }).await;
    stage.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_is_asked_in_the_letters_of_the_protocol() {
    let (stage, seen) = start().await;
    let asks = ASKS.replace("websocket", "WebSocket");
    let mut stream = stage.connect().await;
    let request = format!("GET /new/ws HTTP/1.1\r\n{asks}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    until(&mut stream, "hello").await;
    assert_eq!(seen.lock().unwrap()[0].0.as_deref(), Some("websocket"));
    stage.proxy.stop().await;
}
