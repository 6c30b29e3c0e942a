//! Connections over HTTP whose proxy another one takes the place of.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use envoy_types::pb::envoy::config::listener::v3::{Listener, filter};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::google::protobuf::Duration as PbDuration;
use envoy_types::util::pack_any;
use prost::Message;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Mesh;
use crate::support::mesh;
use crate::support::proxy::DEADLINE;
use crate::tunnels::{ask_http2_at, receive, send, start_host, until, with_upgrades};

/// Whose clients of HTTP/2 are to go at once.
fn hurrying(mut listener: Listener) -> Listener {
    let filter = &mut listener.filter_chains[0].filters[0];
    if let Some(filter::ConfigType::TypedConfig(config)) = &mut filter.config_type {
        let mut manager = HttpConnectionManager::decode(config.value.as_slice()).unwrap();
        manager.drain_timeout = Some(PbDuration {
            seconds: 0,
            nanos: 100_000_000,
        });
        *config = pack_any(manager);
    }
    listener
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_become_a_connection_outlives_a_restart_until_its_drain_is_over() {
    let mesh = Mesh::start().await;
    let host = start_host(Arc::new(Mutex::new(Vec::new()))).await;
    mesh.edge.put("ws", &mesh::cluster("ws"));
    mesh.edge.put("ws", &mesh::endpoints("ws", &[(host, 0)]));
    let listener = hurrying(with_upgrades(mesh::listener("in", mesh.listener, "in")));
    mesh.edge.put("in", &listener);
    let routes = vec![mesh::to_cluster("/ws", "ws"), mesh::to_cluster("/", "a")];
    mesh.edge.put("in", &mesh::routes("in", routes));
    let mut running = mesh.ready_proxy(1).await;

    let mut stream = TcpStream::connect(mesh.listener).await.unwrap();
    let request = b"GET /ws HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    stream.write_all(request).await.unwrap();
    until(&mut stream, "hello").await;
    let (answer, mut sending) = ask_http2_at(mesh.listener, Some("websocket"), "http://h/ws").await;
    let mut body = answer.into_body();
    assert_eq!(receive(&mut body, 5).await.unwrap(), b"hello");

    let successor = mesh.successor(1);
    successor.says("took over").await;
    // Longer than a client without requests would be given.
    tokio::time::sleep(Duration::from_secs(2)).await;
    stream.write_all(b"still").await.unwrap();
    until(&mut stream, "still").await;
    send(&mut sending, "there".into()).await;
    assert_eq!(receive(&mut body, 5).await.unwrap(), b"there");
    assert!(running.child.try_wait().unwrap().is_none(), "{}", running.log());

    running.signal(Signal::TERM);
    running.ended().await;
    let ends = async {
        let _ = stream.read_to_end(&mut Vec::new()).await;
        let _ = receive(&mut body, 1).await;
    };
    tokio::time::timeout(DEADLINE, ends)
        .await
        .expect("they end with it");
}
