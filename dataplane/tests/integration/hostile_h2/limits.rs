//! What one client may hold, how long, and how often it may ask for nothing.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use envoy_types::pb::google::protobuf::UInt32Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::hostile_h2::wire::{
    ACK, CANCEL, CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, GOAWAY, HEADERS,
    INITIAL_WINDOW, NO_ERROR, PING, PRIORITY, REFUSED_STREAM, RST_STREAM, SETTINGS, WINDOW_UPDATE, Wire,
    block, frame, request, setting, status,
};
use crate::support::proxy::{DEADLINE, Proxy, eventually};
use crate::support::site::{Site, at};
use crate::support::stage::Stage;
use crate::support::{ads, mesh};

/// How the proxy parts from a client that does not answer: within this time.
const PARTING: Duration = Duration::from_secs(10);

/// So long that a machine that does other things as well asks the host within it.
const ROUTE_MS: u64 = 1_000;
const IDLE_MS: u64 = 1_000;

/// A proxy before a host that answers without end; the route's time and that of an idle connection are short, and one request at
/// a time is let through.
struct Endless {
    site: Site,
    /// Connections that the host has had, and those that it has at the moment.
    connections: watch::Receiver<(u32, u32)>,
}

impl Endless {
    async fn start() -> Self {
        let (host, connections) = endless_host().await;
        let one = Thresholds {
            max_requests: Some(UInt32Value { value: 1 }),
            ..Default::default()
        };
        let clusters = vec![at(mesh::with_limits(mesh::cluster("a"), one), host)];
        let made = |plain| mesh::with_idle_timeout(plain, IDLE_MS);
        let routes = vec![
            mesh::answer("/own", 200, "own"),
            mesh::with_rewrite(
                mesh::with_timeout(mesh::to_cluster("/bridged", "a"), ROUTE_MS),
                "^/bridged",
                "/bridged",
            ),
            mesh::with_timeout(mesh::to_cluster("/", "a"), ROUTE_MS),
        ];
        let routes = mesh::routes("in", routes);
        Self {
            site: Site::start_with(clusters, made, routes, Proxy::start_logging).await,
            connections,
        }
    }

    /// The flags of each request so far.
    fn flags(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.site.log()).unwrap_or_default();
        let lines = text
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        lines
            .map(|line| line["flags"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Waits until the host has had so many connections, and has none any more.
    async fn host_is_left(&self, had: u32) {
        let mut connections = self.connections.clone();
        tokio::time::timeout(
            DEADLINE,
            connections.wait_for(|connections| *connections == (had, 0)),
        )
        .await
        .expect("the host is asked, and left")
        .unwrap();
    }

    async fn no_connection_is_left(&self) {
        eventually("no connection is left", || async {
            let metrics = self.site.proxy.metrics().await;
            metrics.contains("tombolo_connections_active{listener=\"in\"} 0")
        })
        .await;
    }
}

async fn endless_host() -> (SocketAddr, watch::Receiver<(u32, u32)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (connections, seen) = watch::channel((0, 0));
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let connections = connections.clone();
            tokio::spawn(async move {
                connections.send_modify(|(had, open)| (*had, *open) = (*had + 1, *open + 1));
                let mut head = [0; 4096];
                let _ = stream.read(&mut head).await;
                let piece = [b"1000\r\n".as_slice(), &[b'x'; 0x1000], b"\r\n"].concat();
                let mut said = stream
                    .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
                    .await;
                while said.is_ok() {
                    said = stream.write_all(&piece).await;
                }
                connections.send_modify(|(_, open)| *open -= 1);
            });
        }
    });
    (address, seen)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_that_stays_shut_holds_no_host() {
    let stage = Endless::start().await;
    for (had, window) in [(0, 0), (2, 1), (4, 10_000)] {
        let mut wire = Wire::open(stage.site.listener, &setting(INITIAL_WINDOW, window)).await;
        let started = Instant::now();
        wire.send(&request(1, "/")).await;
        let head = wire.next_of(&[HEADERS, RST_STREAM]).await.unwrap();
        assert_eq!(
            (head.kind, status(&head.payload)),
            (HEADERS, 200),
            "window of {window}"
        );
        let end = wire.next_of(&[RST_STREAM, GOAWAY]).await.unwrap();
        assert_eq!((end.kind, end.stream, end.code()), (RST_STREAM, 1, CANCEL));
        assert!(started.elapsed() < PARTING);
        stage.host_is_left(had + 1).await;
        // And there is room for the next one.
        wire.send(&request(3, "/")).await;
        let head = wire.next_of(&[HEADERS]).await.unwrap();
        assert_eq!((head.stream, status(&head.payload)), (3, 200));
        wire.next_of(&[RST_STREAM]).await.unwrap();
    }
    eventually("all is logged", || async { stage.flags().len() == 6 }).await;
    assert_eq!(stage.flags(), ["UT"; 6]);
    stage.site.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_http_1_1_that_takes_nothing_holds_no_host_either() {
    let stage = Endless::start().await;
    for (had, path) in [(1, "/relayed"), (2, "/bridged")] {
        let mut stream = TcpStream::connect(stage.site.listener).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: h\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        stage.host_is_left(had).await;
    }
    eventually("all is logged", || async { stage.flags().len() == 2 }).await;
    assert_eq!(stage.flags(), ["UT"; 2]);
    stage.site.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_go_when_told_to_is_left() {
    let stage = Endless::start().await;
    for begins in [&b""[..], &request(1, "/own"), &request(1, "/")] {
        let mut wire = Wire::open(stage.site.listener, &setting(INITIAL_WINDOW, 0)).await;
        wire.send(begins).await;
        let started = Instant::now();
        let told = wire
            .next_of(&[GOAWAY])
            .await
            .expect("an idle client is told to go");
        assert_eq!(told.code(), NO_ERROR);
        assert!(
            wire.next_of(&[GOAWAY]).await.is_none(),
            "it says no more, and closes"
        );
        assert!(started.elapsed() < PARTING);
    }
    // Who answers goes at once.
    let mut wire = Wire::start(stage.site.listener).await;
    wire.next_of(&[GOAWAY])
        .await
        .expect("an idle client is told to go");
    let ping = wire.next_of(&[PING]).await.unwrap();
    let started = Instant::now();
    wire.send(&frame(PING, ACK, 0, &ping.payload)).await;
    assert!(wire.next_of(&[PING]).await.is_none());
    assert!(started.elapsed() < Duration::from_secs(3));
    stage.no_connection_is_left().await;
    stage.site.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_that_is_gone_keeps_no_silent_client() {
    let stage = Endless::start().await;
    stage
        .site
        .edge
        .put("in", &mesh::listener("in", stage.site.listener, "in"));
    let mut half = Wire::bare(stage.site.listener).await;
    half.send(b"PRI * HTTP/2.0\r\n\r\n").await;
    let mut idle = Wire::start(stage.site.listener).await;
    assert!(idle.is_answered(1, "/own").await);
    stage.site.edge.remove(ads::LISTENER, "in");
    idle.next_of(&[GOAWAY]).await.expect("it is told to go");
    stage.no_connection_is_left().await;
    stage.site.proxy.stop().await;
}

/// How a connection ends after `begin` and all that follows it, and what was said before that.
async fn ended(to: SocketAddr, begin: &[u8], flood: impl Iterator<Item = Vec<u8>>) -> (Option<u32>, Vec<u8>) {
    let mut wire = Wire::start(to).await;
    wire.send(begin).await;
    for piece in flood {
        wire.send(&piece).await;
    }
    let mut kinds = Vec::new();
    wire.end().await;
    while let Some(frame) = wire.next().await {
        if frame.kind == GOAWAY {
            return (Some(frame.code()), kinds);
        }
        kinds.push(frame.kind);
    }
    (None, kinds)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_end_their_connection() {
    let stage = Stage::start().await;
    let to = stage.listener;
    let post = |id| {
        frame(
            HEADERS,
            END_HEADERS,
            id,
            &block(":method POST|:scheme http|:authority h|:path /relayed/flooded"),
        )
    };
    let ping = frame(PING, 0, 0, b"12345678");
    let floods: [(&str, Vec<u8>, Vec<u8>, usize); 10] = [
        ("PING", vec![], ping.clone(), 1500),
        ("PING with ACK", vec![], frame(PING, ACK, 0, b"12345678"), 1500),
        ("SETTINGS", vec![], frame(SETTINGS, 0, 0, b""), 1500),
        ("PRIORITY", vec![], frame(PRIORITY, 0, 3, &[0, 0, 0, 1, 1]), 1500),
        (
            "WINDOW_UPDATE",
            vec![],
            frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
            1500,
        ),
        ("what nobody knows", vec![], frame(0xbe, 0, 0, b"what"), 1500),
        ("empty DATA", post(1), frame(DATA, 0, 1, b""), 1500),
        (
            "CONTINUATION",
            frame(
                HEADERS,
                END_STREAM,
                1,
                &block(":method GET|:scheme http|:authority h|:path /relayed/flooded"),
            ),
            frame(CONTINUATION, 0, 1, &block("x y")),
            100,
        ),
        (
            "empty CONTINUATION",
            frame(
                HEADERS,
                END_STREAM,
                1,
                &block(":method GET|:scheme http|:authority h|:path /relayed/flooded"),
            ),
            frame(CONTINUATION, 0, 1, b""),
            100,
        ),
        (
            "data for what has ended",
            request(1, "/relayed/ended"),
            [
                frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]),
                frame(DATA, 0, 1, b"x").repeat(10_000),
            ]
            .concat(),
            1,
        ),
    ];
    for (what, begin, piece, times) in floods {
        let (code, kinds) = ended(to, &begin, std::iter::repeat_n(piece, times)).await;
        assert_eq!(code, Some(ENHANCE_YOUR_CALM), "{what}: {kinds:?}");
    }
    assert!(Wire::start(to).await.is_answered(1, "/relayed/next").await);
    // As many as somebody may have reason for are answered.
    let (code, kinds) = ended(to, b"", std::iter::repeat_n(ping, 500)).await;
    assert_eq!(code, None);
    assert_eq!(kinds.iter().filter(|kind| **kind == PING).count(), 500);
    stage.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_are_taken_back_are_counted() {
    let stage = Stage::start().await;
    let to = stage.listener;
    let reset = |id| frame(RST_STREAM, 0, id, &[0, 0, 0, 8]);
    // Before anybody looks at them.
    let ids = (0..100).map(|nth| 2 * nth + 1);
    let unseen = ids.flat_map(|id| [request(id, "/relayed/early"), reset(id)].concat());
    let (code, _) = ended(to, &unseen.collect::<Vec<u8>>(), std::iter::empty()).await;
    assert_eq!(code, Some(ENHANCE_YOUR_CALM), "before they are accepted");
    // And after that, however slowly one after the other.
    let mut wire = Wire::start(to).await;
    let mut taken_back = 0;
    let code = loop {
        let id = 2 * taken_back + 1;
        wire.send(&[request(id, "/relayed/early"), frame(PING, 0, 0, b"12345678")].concat())
            .await;
        match wire.next_of(&[PING, GOAWAY]).await {
            Some(frame) if frame.kind == GOAWAY => break frame.code(),
            Some(_) => {}
            None => panic!("closed without a word after {taken_back}"),
        }
        wire.send(&reset(id)).await;
        taken_back += 1;
        assert!(taken_back < 2000, "nobody counts");
    };
    assert_eq!(code, ENHANCE_YOUR_CALM);
    assert!(taken_back >= 200, "only {taken_back}");
    // Who takes back a third of them stays.
    let mut wire = Wire::start(to).await;
    for nth in 0..900 {
        let id = 2 * nth + 1;
        if nth % 3 == 0 {
            wire.send(&[request(id, "/relayed/early"), reset(id)].concat())
                .await;
        } else {
            assert!(wire.is_answered(id, "/relayed/well").await, "{nth}");
        }
    }
    stage.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_at_once_are_bounded() {
    let stage = Stage::start().await;
    let mut wire = Wire::start(stage.listener).await;
    let open = |id| {
        frame(
            HEADERS,
            END_HEADERS,
            id,
            &block(":method POST|:scheme http|:authority h|:path /relayed/open"),
        )
    };
    for nth in 0..101 {
        wire.send(&open(2 * nth + 1)).await;
    }
    let refused = wire.next_of(&[RST_STREAM, GOAWAY]).await.unwrap();
    assert_eq!((refused.stream, refused.code()), (201, REFUSED_STREAM));
    // The others are as they were, and when one ends there is room for the next.
    wire.send(&frame(DATA, END_STREAM, 1, b"")).await;
    let answer = wire.next_of(&[HEADERS, RST_STREAM, GOAWAY]).await.unwrap();
    assert_eq!((answer.kind, answer.stream), (HEADERS, 1));
    wire.send(&open(203)).await;
    wire.send(&frame(DATA, END_STREAM, 203, b"")).await;
    let answer = wire.next_of(&[HEADERS, RST_STREAM, GOAWAY]).await.unwrap();
    assert_eq!((answer.kind, answer.stream), (HEADERS, 203));
    drop(wire);
    assert!(
        Wire::start(stage.listener)
            .await
            .is_answered(1, "/relayed/next")
            .await
    );
    stage.proxy.stop().await;
}
