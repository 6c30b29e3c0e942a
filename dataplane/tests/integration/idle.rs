//! Streams of which nothing moves, over real sockets and two workers: before an answer, within it, and once they are connections.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::route::v3::Route;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::google::protobuf::Duration as PbDuration;
use http::Request;
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::mesh;
use crate::support::proxy::{DEADLINE, http2_client, send};
use crate::support::site::{Site, at};
use crate::support::upstream::serving;
use crate::tunnels::with_upgrades;

/// Of the listener's streams.
const IDLE: Duration = Duration::from_millis(400);
/// How long the host waits before an answer that comes late.
const LATE: Duration = Duration::from_millis(900);

struct Stage {
    site: Site,
}

fn span(time: Duration) -> PbDuration {
    PbDuration {
        seconds: i64::try_from(time.as_secs()).unwrap(),
        nanos: i32::try_from(time.subsec_nanos()).unwrap(),
    }
}

fn with_idle(listener: Listener) -> Listener {
    mesh::with_manager(listener, |manager| manager.stream_idle_timeout = Some(span(IDLE)))
}

/// A route without a timeout, whose streams may be idle for so long if that is said.
fn to_host(prefix: &str, idle: Option<Duration>) -> Route {
    let mut route = mesh::with_timeout(mesh::to_cluster(prefix, "a"), 0);
    if let Some(Action::Route(action)) = &mut route.action {
        action.idle_timeout = idle.map(span);
    }
    route
}

impl Stage {
    async fn start() -> Self {
        let clusters = vec![at(mesh::cluster("a"), start_host().await)];
        let routes = vec![
            to_host("/never", Some(Duration::ZERO)),
            to_host("/longer", Some(LATE * 2)),
            mesh::with_rewrite(to_host("/bridged", None), "^/bridged", "/b"),
            mesh::with_timeout(mesh::to_cluster("/short", "a"), 100),
            to_host("/", None),
        ];
        let made = |plain| with_idle(with_upgrades(plain));
        Self {
            site: Site::start_listening(clusters, made, routes).await,
        }
    }

    /// All that comes back for `request` over HTTP/1.1, and how long that took.
    async fn talk(&self, request: &str) -> (String, Duration) {
        let began = Instant::now();
        let mut stream = TcpStream::connect(self.site.listener).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut told = Vec::new();
        let reading = async {
            let mut piece = [0; 1024];
            while let Ok(read) = stream.read(&mut piece).await
                && read > 0
            {
                told.extend_from_slice(&piece[..read]);
            }
        };
        tokio::time::timeout(DEADLINE, reading).await.unwrap();
        (String::from_utf8(told).unwrap(), began.elapsed())
    }

    async fn get(&self, path: &str) -> (String, Duration) {
        let request = format!("GET {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n");
        self.talk(&request).await
    }

    /// Status and body over HTTP/2, if all of them has come.
    async fn get_http2(&self, path: &str) -> Option<(u16, String)> {
        let request = Request::get(self.site.url(path));
        let answer = send(&http2_client(), request.body(Full::default()).unwrap()).await?;
        Some((answer.status.as_u16(), answer.body))
    }
}

async fn start_host() -> SocketAddr {
    serving(answer).await
}

/// Answers one request as its path wants it, and keeps its connection.
async fn answer(mut stream: TcpStream) {
    let mut head = vec![0; 4096];
    let read = stream.read(&mut head).await.unwrap_or(0);
    let head = String::from_utf8_lossy(&head[..read]).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default();
    let long = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 12\r\n\r\n";
    // A proxy that gives up is no failure of its host.
    let written = if path.ends_with("begun") {
        stream.write_all(&[long, &b"abc"[..]].concat()).await
    } else if path.ends_with("dripping") {
        let mut written = stream.write_all(long).await;
        for _ in 0..12 {
            tokio::time::sleep(IDLE / 4).await;
            written = written.and(stream.write_all(b"x").await);
        }
        written
    } else if path.ends_with("late") {
        tokio::time::sleep(LATE).await;
        stream.write_all(&[long, &b"late, indeed"[..]].concat()).await
    } else if path.ends_with("upgrade") {
        let switching =
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        stream.write_all(switching).await
    } else {
        Ok(())
    };
    if written.is_ok() {
        tokio::time::sleep(DEADLINE).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_without_an_answer_ends_when_nothing_moves() {
    let stage = Stage::start().await;
    for path in ["/silent", "/bridged/silent"] {
        let (told, took) = stage.get(path).await;
        assert!(told.starts_with("HTTP/1.1 504 "), "{path}: {told}");
        assert!(told.ends_with("\r\n\r\nstream timeout"), "{path}: {told}");
        assert!(took >= IDLE && took < DEADLINE / 2, "{path}: {took:?}");
    }
    let expected = Some((504, "stream timeout".to_owned()));
    assert_eq!(stage.get_http2("/silent").await, expected);
    // What is over before is what it was.
    let (told, _) = stage.get("/short/silent").await;
    assert!(told.ends_with("\r\n\r\nupstream request timeout"), "{told}");
    for path in ["/up", "/bridged/up"] {
        let request = format!("POST {path} HTTP/1.1\r\nhost: h\r\ncontent-length: 9\r\n\r\nabc");
        let (told, took) = stage.talk(&request).await;
        assert!(told.starts_with("HTTP/1.1 408 "), "{path}: {told}");
        assert!(told.ends_with("\r\n\r\nstream timeout"), "{path}: {told}");
        assert!(took >= IDLE && took < DEADLINE / 2, "{path}: {took:?}");
    }
    let metrics = stage.site.proxy.metrics().await;
    assert!(metrics.contains("flag=\"SI\""), "{metrics}");
    stage.site.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_stands_still_is_broken_off_and_a_slow_one_is_not() {
    let stage = Stage::start().await;
    for path in ["/begun", "/bridged/begun"] {
        let (told, took) = stage.get(path).await;
        assert!(
            told.starts_with("HTTP/1.1 200 ") && told.ends_with("abc"),
            "{path}: {told}"
        );
        assert!(took >= IDLE && took < DEADLINE / 2, "{path}: {took:?}");
    }
    assert_eq!(stage.get_http2("/begun").await, None);
    for path in ["/dripping", "/bridged/dripping"] {
        let (told, took) = stage.get(path).await;
        assert!(told.ends_with("xxxxxxxxxxxx"), "{path}: {told}");
        assert!(took > IDLE * 2, "{path}: {took:?}");
        let expected = Some((200, "xxxxxxxxxxxx".to_owned()));
        assert_eq!(stage.get_http2(path).await, expected);
    }
    stage.site.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_says_for_itself_how_long_nothing_may_move() {
    let stage = Stage::start().await;
    for path in ["/never/late", "/longer/late"] {
        let (told, _) = stage.get(path).await;
        assert!(told.ends_with("\r\n\r\nlate, indeed"), "{path}: {told}");
        let expected = Some((200, "late, indeed".to_owned()));
        assert_eq!(stage.get_http2(path).await, expected);
    }
    let (told, took) = stage.get("/longer/silent").await;
    assert!(
        told.starts_with("HTTP/1.1 504 ") && took > LATE,
        "{took:?}: {told}"
    );
    stage.site.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_over_http_ends_when_nothing_moves() {
    let stage = Stage::start().await;
    let ask =
        |path| format!("GET {path} HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n");
    let (told, took) = stage.talk(&ask("/upgrade")).await;
    assert!(told.starts_with("HTTP/1.1 101 "), "{told}");
    assert!(took >= IDLE && took < DEADLINE / 2, "{took:?}");
    let (told, took) = stage.talk(&ask("/longer/upgrade")).await;
    assert!(told.starts_with("HTTP/1.1 101 "), "{told}");
    assert!(took > LATE, "{took:?}");
    // Until its host has answered, the stream's time is all that it has too.
    let (told, took) = stage.talk(&ask("/silent")).await;
    assert!(told.ends_with("\r\n\r\nstream timeout"), "{told}");
    assert!(took >= IDLE && took < DEADLINE / 2, "{took:?}");
    for path in ["/never/late", "/longer/late"] {
        let (told, _) = stage.talk(&ask(path)).await;
        assert!(told.ends_with("\r\n\r\nlate, indeed"), "{path}: {told}");
    }
    stage.site.proxy.stop().await;
}
