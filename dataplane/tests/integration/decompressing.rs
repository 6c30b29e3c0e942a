//! Bodies in gzip that the proxy passes on as what is in them, over real sockets: of requests and of answers, and bombs of both.

use std::io::Write;
use std::net::SocketAddr;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;
use envoy_types::pb::envoy::config::listener::v3::{Listener, filter};
use envoy_types::pb::envoy::extensions::compression::gzip::decompressor::v3::Gzip;
use envoy_types::pb::envoy::extensions::filters::http::decompressor::v3::Decompressor;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, http_filter,
};
use envoy_types::util::pack_any;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::Request;
use http_body_util::Full;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::ads::AdsServer;
use crate::support::mesh;
use crate::support::proxy::{Answer, Proxy, client, eventually, free_address, http2_client, send};
use crate::support::upstream::Upstream;

fn with_decompressor(mut listener: Listener) -> Listener {
    let decompressor = Decompressor {
        decompressor_library: Some(TypedExtensionConfig {
            name: "gzip".to_owned(),
            typed_config: Some(pack_any(Gzip::default())),
        }),
        ..Default::default()
    };
    let unzips = HttpFilter {
        name: "decompressor".to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(pack_any(decompressor))),
        ..Default::default()
    };
    let filter = &mut listener.filter_chains[0].filters[0];
    if let Some(filter::ConfigType::TypedConfig(config)) = &mut filter.config_type {
        let mut manager = HttpConnectionManager::decode(config.value.as_slice()).unwrap();
        manager.http_filters.insert(0, unzips);
        *config = pack_any(manager);
    }
    listener
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
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(answer(stream));
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_are_what_is_in_them_and_bombs_are_refused() {
    let edge = AdsServer::start_at(free_address()).await;
    let data = tempfile::tempdir().unwrap();
    let listener = free_address();
    let host = Upstream::start("a").await;
    for (name, address) in [("a", host.address), ("z", start_zipping().await)] {
        edge.put(name, &mesh::cluster(name));
        edge.put(name, &mesh::endpoints(name, &[(address, 0)]));
    }
    edge.put("in", &with_decompressor(mesh::listener("in", listener, "in")));
    let routes = vec![mesh::to_cluster("/zipped", "z"), mesh::to_cluster("/", "a")];
    edge.put("in", &mesh::routes("in", routes));
    let proxy = Proxy::start(&edge.url(), data.path());
    eventually("the proxy is ready", || proxy.is_ready()).await;
    let ask = async |http2: bool, path: &str, body: Vec<u8>| -> Option<Answer> {
        let client = if http2 { http2_client() } else { client() };
        let request = match body.len() {
            0 => Request::get(format!("http://{listener}{path}")),
            _ => Request::post(format!("http://{listener}{path}")).header("content-encoding", "gzip"),
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
    proxy.stop().await;
}
