//! How connections that were requests end: with the host, with the proxy, and what they hold until then.

use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use envoy_types::pb::google::protobuf::UInt32Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{ASKS, DEAD, Stage, ask_http2, receive, until, with_upgrades};
use crate::support::mesh;
use crate::support::proxy::{DEADLINE, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_holds_its_place_until_it_ends() {
    let limits = Thresholds {
        max_requests: Some(UInt32Value { value: 1 }),
        ..Default::default()
    };
    let stage = Stage::start_with(with_upgrades, limits).await;
    let request = format!("GET /ws HTTP/1.1\r\n{ASKS}\r\n");
    let mut stream = stage.connect().await;
    stream.write_all(request.as_bytes()).await.unwrap();
    until(&mut stream, "hello").await;
    let answer = stage.talk(&request).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("x-envoy-overloaded: true"), "{answer}");
    drop(stream);
    eventually("the place is free again", || async {
        let mut stream = stage.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        &answer == b"HTTP/1.1 101"
    })
    .await;
    let flags: Vec<_> = stage
        .log(3)
        .await
        .iter()
        .map(|line| line["flags"].clone())
        .collect();
    assert!(flags.iter().any(|flags| flags == "UO"), "{flags:?}");
    stage.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_declared_dead_breaks_it_off() {
    let stage = Stage::start().await;
    stage
        .edge
        .put("a", &mesh::with_checks(mesh::cluster("a"), 50, 200));
    let request = format!("GET /ws HTTP/1.1\r\n{ASKS}\r\n");
    eventually("it is checked", || async { stage.has_seen("GET /healthz ") }).await;
    let mut stream = stage.connect().await;
    stream.write_all(request.as_bytes()).await.unwrap();
    until(&mut stream, "hello").await;
    let (answer, _sending) = ask_http2(&stage, Some("websocket"), "http://h/ws").await;
    let mut body = answer.into_body();
    receive(&mut body, 5).await.unwrap();
    stage.seen.lock().unwrap().extend_from_slice(DEAD.as_bytes());
    let end = tokio::time::timeout(DEADLINE, stream.read(&mut [0]))
        .await
        .expect("it ends");
    assert!(end.is_err(), "{end:?} is no end");
    let end = receive(&mut body, 1).await;
    assert!(end.is_err(), "{end:?} is no end");
    for line in stage.log(2).await {
        assert_eq!(line["flags"], "UR", "{line}");
    }
    stage.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_stops_breaks_it_off() {
    let mut stage = Stage::start().await;
    let mut stream = stage.connect().await;
    stream
        .write_all(format!("GET /ws HTTP/1.1\r\n{ASKS}\r\n").as_bytes())
        .await
        .unwrap();
    until(&mut stream, "hello").await;
    stage.proxy.begin_stop();
    stream.write_all(b"still").await.unwrap();
    until(&mut stream, "still").await;
    let mut left = Vec::new();
    let read = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut left)).await;
    assert!(read.is_ok(), "it ends with the drain");
    stage.proxy.stop().await;
}
