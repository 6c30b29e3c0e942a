//! What a listener says of how much its clients may ask for and how long that may take, over both versions of HTTP: each limit at
//! its border.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::{Http2ProtocolOptions, HttpProtocolOptions};
use envoy_types::pb::envoy::extensions::filters::http::buffer::v3::{
    Buffer, BufferPerRoute, buffer_per_route,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, http_filter,
};
use envoy_types::pb::google::protobuf::{Duration as PbDuration, UInt32Value};
use envoy_types::util::pack_any;
use futures::StreamExt;
use http::{Request, StatusCode};
use http_body_util::{Full, StreamBody};
use hyper::body::Frame;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::proxy_protocol::ask;
use crate::support::proxy::{DEADLINE, client, eventually, get, http2_client, send};
use crate::support::site::{Site, at};
use crate::support::upstream::Upstream;
use crate::support::{ads, mesh};

const SECOND: Option<PbDuration> = Some(PbDuration { seconds: 1, nanos: 0 });
const TWO_SECONDS: Option<PbDuration> = Some(PbDuration { seconds: 2, nanos: 0 });

struct Stage {
    site: Site,
    _host: Upstream,
}

fn number(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

impl Stage {
    async fn start(change: impl FnOnce(&mut HttpConnectionManager)) -> Self {
        let host = Upstream::start("a").await;
        let clusters = vec![at(mesh::cluster("a"), host.address)];
        let rewritten = mesh::with_rewrite(mesh::to_cluster("/bridged", "a"), "^/bridged", "/bridged");
        let routes = vec![rewritten, mesh::to_cluster("/", "a")];
        let made = |plain| mesh::with_manager(plain, change);
        let site = Site::start_listening(clusters, made, routes).await;
        site.acknowledges(ads::ENDPOINTS, "a").await;
        Self { site, _host: host }
    }

    /// The status that a head of these lines is answered with over HTTP/1.1.
    async fn status(&self, path: &str, lines: &str) -> String {
        let mut stream = TcpStream::connect(self.site.listener).await.unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n{lines}\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let answer = rest(&mut stream).await;
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    }

    /// And over HTTP/2.
    async fn status_h2(&self, lines: &[(&str, &str)]) -> StatusCode {
        let mut request = Request::get(self.site.url("/"));
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::default()).unwrap();
        send(&http2_client(), request).await.unwrap().status
    }

    async fn connections(&self) -> u64 {
        let series = "tombolo_connections_total{listener=\"in\"}";
        self.site.proxy.metric(series).await.unwrap_or(0)
    }
}

async fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer))
        .await
        .expect("the connection is closed");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_is_as_large_as_its_listener_takes() {
    let stage = Stage::start(|manager| {
        manager.max_request_headers_kb = number(2);
        manager.common_http_protocol_options = Some(HttpProtocolOptions {
            max_headers_count: number(6),
            ..Default::default()
        });
    })
    .await;
    for path in ["/", "/bridged"] {
        let around = format!("GET {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\nx: \r\n\r\n").len();
        let filled = |bytes: usize| format!("x: {}\r\n", "a".repeat(bytes - around));
        assert_eq!(stage.status(path, &filled(2048)).await, "200", "{path}");
        assert_eq!(stage.status(path, &filled(2049)).await, "431", "{path}");
        assert_eq!(stage.status(path, &filled(60_000)).await, "431", "{path}");
        assert_eq!(stage.status(path, &"x: 1\r\n".repeat(4)).await, "200", "{path}");
        assert_eq!(stage.status(path, &"x: 1\r\n".repeat(5)).await, "431", "{path}");
    }
    let long = "a".repeat(3000);
    assert_eq!(stage.status(&format!("/{long}"), "").await, "431");
    let mut unended = TcpStream::connect(stage.site.listener).await.unwrap();
    unended
        .write_all(format!("GET /{long}").as_bytes())
        .await
        .unwrap();
    assert!(rest(&mut unended).await.starts_with("HTTP/1.1 414"));

    assert_eq!(stage.status_h2(&[("x", "1"); 6]).await, StatusCode::OK);
    assert_eq!(
        stage.status_h2(&[("x", "1"); 7]).await,
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
    );
    // With 32 bytes more for each of six lines.
    assert_eq!(stage.status_h2(&[("x", &"a".repeat(1800))]).await, StatusCode::OK);
    assert_eq!(
        stage.status_h2(&[("x", &"a".repeat(2300))]).await,
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
    );
    stage.site.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_has_as_many_requests_as_its_listener_gives_it() {
    let stage = Stage::start(|manager| {
        manager.common_http_protocol_options = Some(HttpProtocolOptions {
            max_requests_per_connection: number(3),
            ..Default::default()
        });
    })
    .await;
    let mut stream = TcpStream::connect(stage.site.listener).await.unwrap();
    ask(&mut stream).await;
    ask(&mut stream).await;
    stream
        .write_all(&b"GET / HTTP/1.1\r\nhost: h\r\n\r\n".repeat(2))
        .await
        .unwrap();
    let answer = rest(&mut stream).await.to_lowercase();
    assert_eq!(answer.matches("http/1.1 200").count(), 1, "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    assert_eq!(stage.connections().await, 1);
    // Whoever is told to go comes back with the rest.
    for (begun, client) in [(1, client()), (4, http2_client())] {
        for nth in 0..9 {
            let answer = get(&client, &stage.site.url("/")).await.unwrap();
            assert_eq!(answer.status, StatusCode::OK);
            // It may take a moment until the client has heard of it.
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert_eq!(stage.connections().await, begun + nth / 3 + 1, "{nth}");
        }
    }
    stage.site.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_and_a_head_last_as_long_as_their_listener_lets_them() {
    let stage = Stage::start(|manager| {
        manager.common_http_protocol_options = Some(HttpProtocolOptions {
            max_connection_duration: Some(PbDuration { seconds: 2, nanos: 0 }),
            ..Default::default()
        });
        manager.request_headers_timeout = SECOND;
        manager.drain_timeout = SECOND;
    })
    .await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let begun = Instant::now();
    let mut idle = TcpStream::connect(stage.site.listener).await.unwrap();
    ask(&mut idle).await;
    let mut idle_h2 = TcpStream::connect(stage.site.listener).await.unwrap();
    idle_h2.write_all(preface).await.unwrap();
    let mut half = TcpStream::connect(stage.site.listener).await.unwrap();
    half.write_all(b"GET / HTTP/1.1\r\nhost: h\r\n").await.unwrap();
    let mut half_h2 = TcpStream::connect(stage.site.listener).await.unwrap();
    half_h2
        .write_all(&[&preface[..], b"\0\0\x09\x01\0\0\0\0\x01"].concat())
        .await
        .unwrap();
    // A request that is under way is answered.
    let slow = tokio::spawn({
        let url = stage.site.url("/slow");
        async move {
            let client = client();
            let mut last = StatusCode::OK;
            while begun.elapsed() < Duration::from_secs(4) {
                last = get(&client, &url).await.unwrap().status;
                assert_eq!(last, StatusCode::OK);
            }
            last
        }
    });
    let near = |seconds: f64| {
        let took = begun.elapsed().as_secs_f64();
        assert!(
            (seconds - 0.1..seconds + 3.0).contains(&took),
            "{took} s, not {seconds}"
        );
    };
    assert!(rest(&mut half).await.starts_with("HTTP/1.1 408"));
    near(1.0);
    rest(&mut half_h2).await;
    near(1.0);
    assert_eq!(rest(&mut idle).await, "");
    near(2.0);
    let said = rest(&mut idle_h2).await;
    assert!(said.contains("\u{7}"), "GOAWAY: {said:?}");
    near(3.0);
    assert_eq!(slow.await.unwrap(), StatusCode::OK);
    stage.site.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_http2_is_told_what_its_listener_takes() {
    let stage = Stage::start(|manager| {
        manager.http2_protocol_options = Some(Http2ProtocolOptions {
            max_concurrent_streams: number(7),
            initial_stream_window_size: number(70_000),
            initial_connection_window_size: number(200_000),
            ..Default::default()
        });
    })
    .await;
    let mut stream = TcpStream::connect(stage.site.listener).await.unwrap();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    stream.write_all(preface).await.unwrap();
    let (mut settings, mut window) = (Vec::new(), 65_535);
    while window == 65_535 || settings.is_empty() {
        let mut head = [0; 9];
        let read = tokio::time::timeout(DEADLINE, stream.read_exact(&mut head));
        read.await.unwrap().unwrap();
        let mut body = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        stream.read_exact(&mut body).await.unwrap();
        let number = |bytes: &[u8]| bytes.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte));
        match head[3] {
            4 if head[4] & 1 == 0 => {
                settings = body
                    .chunks(6)
                    .map(|one| (number(&one[..2]), number(&one[2..])))
                    .collect();
            }
            8 => window += number(&body),
            _ => {}
        }
    }
    assert!(settings.contains(&(3, 7)), "{settings:?}");
    assert!(settings.contains(&(4, 70_000)), "{settings:?}");
    assert_eq!(window, 200_000);
    stage.site.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_is_as_long_as_a_filter_lets_it() {
    let limited = |manager: &mut HttpConnectionManager| {
        let limit = Buffer {
            max_request_bytes: number(10),
        };
        let filter = HttpFilter {
            name: "envoy.filters.http.buffer".to_owned(),
            config_type: Some(http_filter::ConfigType::TypedConfig(pack_any(limit))),
            ..Default::default()
        };
        manager.http_filters.insert(0, filter);
    };
    let stage = Stage::start(limited).await;
    let mut free = mesh::to_cluster("/free", "a");
    let none = BufferPerRoute {
        r#override: Some(buffer_per_route::Override::Disabled(true)),
    };
    free.typed_per_filter_config = [("envoy.filters.http.buffer".to_owned(), pack_any(none))].into();
    let kept = mesh::with_retries(mesh::to_cluster("/", "a"), 1);
    stage.site.edge.put("in", &mesh::routes("in", vec![free, kept]));
    let known = || async { stage.site.edge.is_acknowledged(ads::ROUTES, "in") };
    eventually("its routes are known", known).await;
    let post = async |path: &str, framed: &str| {
        let mut stream = TcpStream::connect(stage.site.listener).await.unwrap();
        let request = format!("POST {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n{framed}");
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = rest(&mut stream).await;
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    };
    let sized = |bytes: usize| format!("content-length: {bytes}\r\n\r\n{}", "a".repeat(bytes));
    let chunked = |pieces: &[usize]| {
        let pieces = pieces
            .iter()
            .map(|bytes| format!("{bytes:x}\r\n{}\r\n", "a".repeat(*bytes)));
        format!(
            "transfer-encoding: chunked\r\n\r\n{}0\r\n\r\n",
            pieces.collect::<String>()
        )
    };
    for (path, framed, expected) in [
        ("/", "\r\n".to_owned(), "200"),
        ("/", sized(10), "200"),
        ("/", sized(11), "413"),
        ("/", chunked(&[4, 6]), "200"),
        ("/", chunked(&[4, 7]), "413"),
        ("/free", sized(11), "200"),
        ("/free", chunked(&[4, 7]), "200"),
    ] {
        assert_eq!(post(path, &framed).await, expected, "{path} {framed:?}");
    }
    type Pieces = futures::stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>;
    let client = Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build_http::<StreamBody<Pieces>>();
    for (pieces, expected) in [([4, 6], 200), ([4, 7], 413)] {
        let pieces = pieces.map(|bytes| Ok(Frame::data(Bytes::from("a".repeat(bytes)))));
        let body = StreamBody::new(futures::stream::iter(Vec::from(pieces)));
        let request = Request::post(stage.site.url("/")).body(body).unwrap();
        let answer = tokio::time::timeout(DEADLINE, client.request(request))
            .await
            .unwrap();
        assert_eq!(answer.unwrap().status().as_u16(), expected);
    }
    for (bytes, expected) in [(10, StatusCode::OK), (11, StatusCode::PAYLOAD_TOO_LARGE)] {
        let request = Request::post(stage.site.url("/"))
            .body(Full::from("a".repeat(bytes)))
            .unwrap();
        assert_eq!(send(&http2_client(), request).await.unwrap().status, expected);
    }
    stage.site.proxy.stop().await;
}

/// A drop now and then is no standstill, and would do for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_comes_in_its_time() {
    let stage = Stage::start(|manager| manager.request_timeout = TWO_SECONDS).await;
    let drops = |body_ms: u64| async move {
        tokio::time::sleep(Duration::from_millis(body_ms)).await;
        Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"a")))
    };
    for path in ["/", "/bridged"] {
        // All of it in time, which is not the time of its answer; and not.
        for (pause_ms, expected) in [(10, "HTTP/1.1 200"), (250, "HTTP/1.1 408")] {
            let began = Instant::now();
            let mut stream = TcpStream::connect(stage.site.listener).await.unwrap();
            let head =
                format!("POST {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-length: 20\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            let (mut from, mut to) = stream.into_split();
            let sending = tokio::spawn(async move {
                for _ in 0..20 {
                    tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                    // Who is refused need not be listened to.
                    if to.write_all(b"a").await.is_err() {
                        break;
                    }
                }
                // Whoever ends its side has left.
                to
            });
            let mut answer = vec![0; expected.len()];
            from.read_exact(&mut answer).await.unwrap();
            assert_eq!(String::from_utf8_lossy(&answer), expected, "{path} {pause_ms}");
            assert!(began.elapsed() < Duration::from_secs(4), "{path} {pause_ms}");
            sending.abort();
        }
    }
    for (pause_ms, expected) in [(10, 200), (250, 408)] {
        let body = futures::stream::iter(0..20).then(move |_| drops(pause_ms));
        let client = Client::builder(TokioExecutor::new())
            .http2_only(true)
            .build_http::<StreamBody<_>>();
        let request = Request::post(stage.site.url("/"))
            .body(StreamBody::new(Box::pin(body)))
            .unwrap();
        let answer = tokio::time::timeout(DEADLINE, client.request(request)).await;
        assert_eq!(answer.unwrap().unwrap().status().as_u16(), expected, "{pause_ms}");
    }
    stage.site.proxy.stop().await;
}
