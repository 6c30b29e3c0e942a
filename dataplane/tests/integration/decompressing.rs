//! Bodies in gzip that the proxy passes on as what is in them, over real sockets: of requests and of answers, and bombs of both.

use std::io::Write;
use std::net::SocketAddr;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::extensions::compression::gzip::decompressor::v3::Gzip;
use envoy_types::pb::envoy::extensions::filters::http::decompressor::v3::Decompressor;
use envoy_types::util::pack_any;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::Request;
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::mesh;
use crate::support::proxy::{Answer, client, http2_client, send};
use crate::support::site::{Site, at};
use crate::support::upstream::{Upstream, serving};

fn with_decompressor(listener: Listener) -> Listener {
    let decompressor = Decompressor {
        decompressor_library: Some(TypedExtensionConfig {
            name: "gzip".to_owned(),
            typed_config: Some(pack_any(Gzip::default())),
        }),
        ..Default::default()
    };
    mesh::with_filters(listener, [("decompressor", pack_any(decompressor))])
}

fn zipped(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(9));
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

/// A thousand times as long as it is.
fn bomb() -> Vec<u8> {
    zipped(&vec![0; 10_000_000])
}

/// Answers in gzip: a bomb where the path says so.
async fn start_zipping() -> SocketAddr {
    async fn answer(mut stream: TcpStream) -> Option<()> {
        let mut head = vec![0; 4096];
        let read = stream.read(&mut head).await.ok()?;
        let is_bomb = head[..read].starts_with(b"GET /zipped/bomb");
        let body = if is_bomb { bomb() } else { zipped(b"hello") };
        let head = format!(
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.ok()?;
        stream.write_all(&body).await.ok()
    }
    serving(answer).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_are_what_is_in_them_and_bombs_are_refused() {
    let host = Upstream::start("a").await;
    let clusters = vec![
        at(mesh::cluster("a"), host.address),
        at(mesh::cluster("z"), start_zipping().await),
    ];
    let routes = vec![mesh::to_cluster("/zipped", "z"), mesh::to_cluster("/", "a")];
    let site = Site::start_listening(clusters, with_decompressor, routes).await;
    let ask = async |http2: bool, path: &str, body: Vec<u8>| -> Option<Answer> {
        let client = if http2 { http2_client() } else { client() };
        let request = match body.len() {
            0 => Request::get(site.url(path)),
            _ => Request::post(site.url(path)).header("content-encoding", "gzip"),
        };
        send(&client, request.body(Full::new(Bytes::from(body))).unwrap()).await
    };
    for http2 in [false, true] {
        let answer = ask(http2, "/up", zipped(b"what is in it")).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert!(answer.body.ends_with("what is in it"), "{}", answer.body);
        let headers = host.last_headers();
        assert!(!headers.contains_key("content-encoding"), "{headers:?}");
        assert_eq!(headers["accept-encoding"], "gzip");
        let answer = ask(http2, "/up", bomb()).await.unwrap();
        assert_eq!(answer.status, 413, "{}", answer.body);
        let answer = ask(http2, "/up", b"no gzip".to_vec()).await.unwrap();
        assert_eq!(answer.status, 400, "{}", answer.body);
        let answer = ask(http2, "/zipped", vec![]).await.unwrap();
        assert_eq!(answer.body, "hello");
        assert!(
            !answer.headers.contains_key("content-encoding"),
            "{:?}",
            answer.headers
        );
        assert!(
            ask(http2, "/zipped/bomb", vec![]).await.is_none(),
            "it is broken off"
        );
    }
    site.proxy.stop().await;
}
