//! Streams of HTTP/2 that become connections, and those that do not.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::{LONG, Stage, ask_http2, long, receive, send};
use crate::support::mesh;
use crate::support::proxy::eventually;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_http2_may_be_a_connection() {
    let stage = Stage::start().await;
    for (protocol, uri, first) in [(Some("websocket"), "http://h/ws", "hello"), (None, "h:80", "")] {
        let (answer, mut sending) = ask_http2(&stage, protocol, uri).await;
        assert_eq!(answer.status(), StatusCode::OK, "{uri}");
        assert!(!answer.headers().contains_key("sec-websocket-accept"), "{uri}");
        let mut body = answer.into_body();
        let got = receive(&mut body, first.len()).await.unwrap();
        assert_eq!(got, first.as_bytes(), "{uri}");
        let sender = tokio::spawn(async move {
            send(&mut sending, long().into()).await;
            sending.send_data(Bytes::new(), true).unwrap();
        });
        let back = receive(&mut body, usize::MAX).await.unwrap();
        sender.await.unwrap();
        assert_eq!(back.len(), LONG + 3, "{uri}");
        assert!(
            back[..LONG] == long()[..],
            "{uri}: what comes back is what was sent"
        );
    }
    assert!(stage.has_seen("GET /ws HTTP/1.1\r\nhost: h\r\n"));
    assert!(
        stage.has_seen("sec-websocket-key: "),
        "hosts of HTTP/1.1 ask for one"
    );
    let logged = stage.log(2).await;
    assert_eq!(logged[0]["bytes_sent"], LONG + 8);
    assert_eq!(logged[0]["flags"], "");
    stage.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_no_connection_is_answered() {
    let stage = Stage::start().await;
    for (protocol, uri, status) in [
        (Some("websocket"), "http://h/no", 401),
        (Some("websocket"), "http://h/empty", 503),
        (Some("websocket"), "http://h/other", 503),
        (Some("websocket"), "http://h/off/ws", 403),
        (Some("other"), "http://h/ws", 403),
        (Some("h2c"), "http://h/ws", 403),
        (Some("connect"), "http://h/ws", 403),
        (None, "h", 400),
    ] {
        let (answer, _sending) = ask_http2(&stage, protocol, uri).await;
        assert_eq!(answer.status(), status, "{protocol:?} {uri}");
    }
    stage.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_breaks_off_is_reset() {
    let stage = Stage::start().await;
    // The client takes its stream back: the host sees the end of its connection, and the request is logged.
    let (answer, mut sending) = ask_http2(&stage, Some("websocket"), "http://h/ws").await;
    let mut body = answer.into_body();
    receive(&mut body, 5).await.unwrap();
    sending.send_reset(h2::Reason::CANCEL);
    assert_eq!(stage.log(1).await[0]["flags"], "DC");
    // The host breaks off: what has come is not taken for all.
    let breaking = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = breaking.local_addr().unwrap();
    stage.edge.put("a", &mesh::endpoints("a", &[(address, 0)]));
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = breaking.accept().await.unwrap();
            let mut head = [0; 1024];
            if stream.read(&mut head).await.unwrap_or_default() > 0 {
                let _ = stream.write_all(b"part").await;
                stream.set_zero_linger().unwrap();
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    });
    eventually("the new host is asked", || async {
        let (answer, mut sending) = ask_http2(&stage, None, "h:80").await;
        send(&mut sending, Bytes::from_static(b"hello")).await;
        let mut body = answer.into_body();
        let got = receive(&mut body, 4).await.unwrap_or_default();
        if got != b"part" {
            return false;
        }
        let end = receive(&mut body, 1).await;
        assert!(end.is_err(), "{end:?} is no end");
        true
    })
    .await;
    stage.proxy.stop().await;
}
