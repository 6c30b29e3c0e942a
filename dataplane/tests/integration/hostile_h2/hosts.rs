//! Hosts of HTTP/2 that do not take a request, or not so many, and say so: what was not looked at may be sent elsewhere.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Request, StatusCode};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::hostile_h2::wire::{
    ACK, CONCURRENT_STREAMS, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, GOAWAY, HEADERS,
    INITIAL_WINDOW, NO_ERROR, PREFACE, REFUSED_STREAM, RST_STREAM, SETTINGS, WINDOW_UPDATE, Wire, frame,
    request, setting, status,
};
use crate::support::mesh;
use crate::support::proxy::{DEADLINE, client, send};
use crate::support::site::Site;

/// As large as a frame may be, nearly, and as many as fill most of what the proxy takes of one answer.
const PIECE_BYTES: usize = 16_000;
const PIECES: usize = 16;

/// What a host says to the first request of each connection; then it reads on, or closes.
#[derive(Clone, Copy, Debug)]
enum Says {
    Well,
    /// [`PIECES`] pieces, without a look at any window.
    Much,
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

/// Its address, and how many connections it has had.
async fn host(says: Says) -> (SocketAddr, Arc<AtomicUsize>) {
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(serve(Wire::of(stream), says));
        }
    });
    (address, connections)
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
            Says::Much => {
                wire.send(&frame(HEADERS, END_HEADERS, asked.stream, &[0x88]))
                    .await;
                let piece = frame(DATA, 0, asked.stream, &[b'x'; PIECE_BYTES]);
                wire.send(&piece.repeat(PIECES)).await;
                wire.send(&frame(DATA, END_STREAM, asked.stream, b"")).await;
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

/// Takes two requests of a connection at once, and answers the first one there is, and then each when as many are under way as it
/// waits for.
async fn serve_two_at_once(mut wire: Wire, mut gate: Gate) -> Option<()> {
    wire.skip(PREFACE.len()).await.then_some(())?;
    wire.send(&setting(CONCURRENT_STREAMS, 2)).await;
    wire.send(&frame(SETTINGS, ACK, 0, b"")).await;
    let mut open = Vec::new();
    loop {
        tokio::select! {
            asked = wire.next_of(&[HEADERS]) => {
                open.push(asked?.stream);
                assert!(open.len() <= 2, "more than it takes");
                gate.asked.send_modify(|asked| *asked += 1);
            }
            () = opened(&mut gate.opened), if !open.is_empty() => {
                for stream in open.drain(..) {
                    wire.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &[0x88])).await;
                }
            }
        }
    }
}

async fn opened(gate: &mut watch::Receiver<bool>) {
    let _ = gate.wait_for(|opened| *opened).await;
}

/// How many requests a host has been asked, over how many connections, and whether it answers.
#[derive(Clone)]
struct Gate {
    asked: watch::Sender<usize>,
    connections: watch::Sender<usize>,
    opened: watch::Receiver<bool>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_takes_two_at_once_is_asked_over_more_connections() {
    let (open, opened) = watch::channel(true);
    let gate = Gate {
        asked: watch::channel(0).0,
        connections: watch::channel(0).0,
        opened,
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap();
    tokio::spawn({
        let gate = gate.clone();
        async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                gate.connections.send_modify(|connections| *connections += 1);
                tokio::spawn(serve_two_at_once(Wire::of(stream), gate.clone()));
            }
        }
    });
    let stage = Stage::start(&[(host, 0)]).await;
    // One connection of a client, and with it one worker.
    let mut client = Wire::start(stage.site.listener).await;
    assert!(client.is_answered(1, "/").await);
    for round in 1..=2 {
        open.send_replace(false);
        gate.asked.send_replace(0);
        let streams = (0..5).map(|nth| round * 100 + 2 * nth + 1);
        for stream in streams.clone() {
            client.send(&request(stream, "/")).await;
        }
        let mut asked = gate.asked.subscribe();
        tokio::time::timeout(DEADLINE, asked.wait_for(|asked| *asked == 5))
            .await
            .expect("all are asked at once")
            .unwrap();
        assert_eq!(
            *gate.connections.borrow(),
            3,
            "no more than it takes, and the same again"
        );
        open.send_replace(true);
        for _ in streams {
            let answer = client.next_of(&[HEADERS, RST_STREAM, GOAWAY]).await.unwrap();
            assert_eq!((answer.kind, status(&answer.payload)), (HEADERS, 200));
        }
    }
    stage.site.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_takes_leave_room_for_others() {
    let (host, connections) = host(Says::Much).await;
    let stage = Stage::start(&[(host, 0)]).await;
    let mut client = Wire::open(stage.site.listener, &setting(INITIAL_WINDOW, 0)).await;
    client.send(&frame(WINDOW_UPDATE, 0, 0, &[0, 0x10, 0, 0])).await;
    // On one connection of the host, that of this client's worker.
    for nth in 0..50 {
        client.send(&request(2 * nth + 1, "/")).await;
        let answer = client.next_of(&[HEADERS, RST_STREAM, GOAWAY]).await.unwrap();
        assert_eq!((answer.kind, status(&answer.payload)), (HEADERS, 200));
    }
    client.send(&request(101, "/")).await;
    client.send(&frame(WINDOW_UPDATE, 0, 101, &[0, 0x10, 0, 0])).await;
    let mut taken = 0;
    while taken < PIECES * PIECE_BYTES {
        let piece = client.next_of(&[DATA, RST_STREAM, GOAWAY]).await.unwrap();
        assert_eq!((piece.kind, piece.stream), (DATA, 101), "after {taken} bytes");
        taken += piece.payload.len();
    }
    let connections = connections.load(Ordering::Relaxed);
    assert_eq!(
        connections, 1,
        "there is one only where none was ended for too much"
    );
    stage.site.proxy.stop().await;
}

/// A proxy before some hosts of HTTP/2; what none of them has looked at is sent to another one.
struct Stage {
    site: Site,
}

impl Stage {
    async fn start(hosts: &[(SocketAddr, u32)]) -> Self {
        let cluster = mesh::with_http2(mesh::cluster("a"));
        let route = mesh::with_careful_retries(mesh::to_cluster("/", "a"), 1);
        Self {
            site: Site::start(vec![(cluster, hosts.to_vec())], vec![route]).await,
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
        let stage = Stage::start(&[(host(says).await.0, 0), (host(Says::Well).await.0, 1)]).await;
        for body in ["", "body"] {
            let request = Request::post(stage.site.url("/")).body(body.into()).unwrap();
            let answer = send(&client(), request).await.expect("it is answered");
            let expected = StatusCode::from_u16(status).unwrap();
            assert_eq!(answer.status, expected, "{says:?} to {body:?}: {}", answer.body);
        }
        stage.site.proxy.stop().await;
    }
}
