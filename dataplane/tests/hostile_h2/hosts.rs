//! Hosts of HTTP/2 that do not take a request, and say so: it is nothing that was sent, so it may be sent elsewhere.

use std::net::SocketAddr;

use http::{Request, StatusCode};
use tokio::net::TcpListener;

use crate::ads::AdsServer;
use crate::mesh;
use crate::proxy::{Proxy, client, eventually, free_address, send};
use crate::wire::{
    ACK, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, GOAWAY, HEADERS, NO_ERROR, PREFACE,
    REFUSED_STREAM, RST_STREAM, SETTINGS, Wire, frame,
};

/// What a host says to the first request of each connection; then it reads on, or closes.
#[derive(Clone, Copy, Debug)]
enum Says {
    Well,
    Reset(u32),
    /// Of the last stream that it looks at, and why.
    GoesAway {
        last: u32,
        code: u32,
    },
    /// As before, and it closes.
    GoesAwayAndCloses {
        last: u32,
        code: u32,
    },
}

async fn host(says: Says) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(Wire::of(stream), says));
        }
    });
    address
}

async fn serve(mut wire: Wire, says: Says) -> Option<()> {
    wire.skip(PREFACE.len()).await.then_some(())?;
    wire.send(&frame(SETTINGS, 0, 0, b"")).await;
    wire.send(&frame(SETTINGS, ACK, 0, b"")).await;
    let go_away =
        |last: u32, code: u32| frame(GOAWAY, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat());
    loop {
        let asked = wire.next_of(&[HEADERS]).await?;
        match says {
            Says::Well => {
                // After all of it has come.
                let mut last = asked.clone();
                while last.flags & END_STREAM == 0 {
                    last = wire.next_of(&[DATA, HEADERS]).await?;
                }
                wire.send(&frame(HEADERS, END_HEADERS | END_STREAM, asked.stream, &[0x88]))
                    .await;
            }
            Says::Reset(code) => {
                wire.send(&frame(RST_STREAM, 0, asked.stream, &code.to_be_bytes()))
                    .await;
            }
            Says::GoesAway { last, code } => wire.send(&go_away(last, code)).await,
            Says::GoesAwayAndCloses { last, code } => {
                wire.send(&go_away(last, code)).await;
                return None;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_host_did_not_look_at_is_sent_elsewhere() {
    let (internal, cancel) = (2, 8);
    for (says, status) in [
        (Says::Well, 200),
        (Says::Reset(REFUSED_STREAM), 200),
        (Says::Reset(internal), 503),
        (Says::Reset(cancel), 503),
        (
            Says::GoesAway {
                last: 0,
                code: NO_ERROR,
            },
            200,
        ),
        (
            Says::GoesAway {
                last: 0,
                code: ENHANCE_YOUR_CALM,
            },
            200,
        ),
        (
            Says::GoesAwayAndCloses {
                last: 0,
                code: NO_ERROR,
            },
            200,
        ),
        // It may have looked at this one.
        (
            Says::GoesAwayAndCloses {
                last: 1,
                code: NO_ERROR,
            },
            503,
        ),
        (
            Says::GoesAwayAndCloses {
                last: 1,
                code: internal,
            },
            503,
        ),
    ] {
        let edge = AdsServer::start_at(free_address()).await;
        let data = tempfile::tempdir().unwrap();
        let listener = free_address();
        let hosts = [(host(says).await, 0), (host(Says::Well).await, 1)];
        edge.put("a", &mesh::with_http2(mesh::cluster("a")));
        edge.put("a", &mesh::endpoints("a", &hosts));
        edge.put("in", &mesh::listener("in", listener, "in"));
        let route = mesh::with_careful_retries(mesh::to_cluster("/", "a"), 1);
        edge.put("in", &mesh::routes("in", vec![route]));
        let proxy = Proxy::start(&edge.url(), data.path());
        eventually("the proxy is ready", || proxy.is_ready()).await;
        for body in ["", "body"] {
            let request = Request::post(format!("http://{listener}/"))
                .body(body.into())
                .unwrap();
            let answer = send(&client(), request).await.expect("it is answered");
            let expected = StatusCode::from_u16(status).unwrap();
            assert_eq!(answer.status, expected, "{says:?} to {body:?}: {}", answer.body);
        }
        proxy.stop().await;
    }
}
