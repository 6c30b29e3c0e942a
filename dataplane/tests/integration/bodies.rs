//! Requests with bodies over HTTP/1.1 and hosts that fail them: what is sent to the next one, to the letter, and what is not.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::mesh;
use crate::support::proxy::{DEADLINE, ask_first, free_address};
use crate::support::site::Site;
use crate::support::upstream::serving;

/// How the host fails that is asked first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    /// Nobody listens.
    Dead,
    /// Closes once the head has come, with a reset if a body has.
    AfterHead,
    /// Closes once all has come.
    AfterAll,
    /// Answers 503 to the head alone.
    RefusesHead,
    /// Answers 503 once all has come.
    RefusesAll,
}

/// A proxy before two hosts, of which the second one, a failover, answers 200 and notes what it is sent. Below `/careful` only
/// what no host has seen is repeated, below `/kept` everything.
struct Stage {
    site: Site,
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Stage {
    async fn start(first: First) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let failing = match first {
            First::Dead => free_address(),
            first => host(Some(first), Arc::default()).await,
        };
        let well = host(None, Arc::clone(&seen)).await;
        let clusters = vec![(mesh::cluster("a"), vec![(failing, 0), (well, 1)])];
        let routes = vec![
            mesh::with_careful_retries(mesh::to_cluster("/careful", "a"), 1),
            mesh::with_retries(mesh::to_cluster("/kept", "a"), 1),
        ];
        Self {
            site: Site::start(clusters, routes).await,
            seen,
        }
    }

    /// The status of the answer, and what the second host saw behind the head.
    async fn send(&self, path: &str, framing: &str, body: &[u8]) -> (u16, Vec<Vec<u8>>) {
        let mut stream = TcpStream::connect(self.site.listener).await.unwrap();
        let head =
            format!("PUT {path} HTTP/1.1\r\nhost: h\r\nX-Mixed: Case\r\n{framing}connection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        // A host that answers early need not be sent the rest.
        for piece in body.chunks(10_000) {
            if stream.write_all(piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer))
            .await
            .expect("the connection is closed");
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.get(9..12).unwrap_or_else(|| panic!("{path}: {answer:?}"));
        let seen = std::mem::take(&mut *self.seen.lock().unwrap());
        for request in &seen {
            let text = String::from_utf8_lossy(request);
            assert!(text.contains("\r\nX-Mixed: Case\r\n"), "not relayed: {text:.200}");
        }
        let bodies = seen
            .iter()
            .map(|request| request[head_end(request).unwrap()..].to_vec());
        (status.parse().unwrap(), bodies.collect())
    }
}

fn head_end(bytes: &[u8]) -> Option<usize> {
    Some(bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4)
}

fn is_whole(request: &[u8]) -> bool {
    let Some(end) = head_end(request) else {
        return false;
    };
    let head = String::from_utf8_lossy(&request[..end]).into_owned();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    match length {
        Some(length) => request.len() - end >= length.parse::<usize>().unwrap(),
        None => !head.contains("transfer-encoding") || request.ends_with(b"\r\n\r\n") && request.len() > end,
    }
}

async fn host(fails: Option<First>, seen: Arc<Mutex<Vec<Vec<u8>>>>) -> SocketAddr {
    serving(move |stream| serve(stream, fails, Arc::clone(&seen))).await
}

/// Answers one request.
async fn serve(mut stream: TcpStream, fails: Option<First>, seen: Arc<Mutex<Vec<Vec<u8>>>>) -> Option<()> {
    let mut input = Vec::new();
    while head_end(&input).is_none() {
        (stream.read_buf(&mut input).await.ok()? > 0).then_some(())?;
    }
    let answer = match fails {
        Some(First::RefusesHead | First::RefusesAll) => {
            "HTTP/1.1 503 Unavailable\r\ncontent-length: 0\r\n\r\n"
        }
        _ => "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    };
    match fails {
        Some(First::AfterHead) => return None,
        Some(First::RefusesHead) => stream.write_all(answer.as_bytes()).await.ok()?,
        _ => {}
    }
    while !is_whole(&input) {
        (stream.read_buf(&mut input).await.ok()? > 0).then_some(())?;
    }
    match fails {
        Some(First::AfterAll | First::RefusesHead) => return None,
        None => seen.lock().unwrap().push(input),
        _ => {}
    }
    stream.write_all(answer.as_bytes()).await.ok()
}

/// What a body may hold to be sent again.
const KEPT_MAX_BYTES: usize = 64 * 1024;

fn length(bytes: usize) -> (String, Vec<u8>) {
    let body = (0..bytes).map(|at| b'a' + (at % 23) as u8).collect();
    (format!("content-length: {bytes}\r\n"), body)
}

fn chunked(chunks: &[usize]) -> (String, Vec<u8>) {
    let mut body = Vec::new();
    for bytes in chunks {
        body.extend_from_slice(format!("{bytes:x};part\r\n").as_bytes());
        body.extend(std::iter::repeat_n(b'c', *bytes));
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"0\r\nx-sum: 1\r\n\r\n");
    ("transfer-encoding: chunked\r\n".to_owned(), body)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_host_fails_another_one_gets_whole() {
    use First::{AfterAll, AfterHead, Dead, RefusesAll, RefusesHead};
    for first in [Dead, AfterHead, AfterAll, RefusesHead, RefusesAll] {
        let stage = Stage::start(first).await;
        for (framing, body) in [
            length(0),
            length(1),
            length(1_000),
            length(KEPT_MAX_BYTES - 1),
            length(KEPT_MAX_BYTES),
            chunked(&[]),
            chunked(&[5, 1_000]),
            chunked(&[30_000, 30_000]),
        ] {
            let (status, seen) = stage.send("/kept", &framing, &body).await;
            let bytes = body.len();
            assert_eq!(status, 200, "{first:?} {framing:?} of {bytes} bytes");
            assert!(
                seen == [body],
                "{first:?} {framing:?} of {bytes} bytes came changed"
            );
        }
        stage.site.proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_host_has_seen_is_sent_to_the_next_however_large() {
    let stage = Stage::start(First::Dead).await;
    for path in ["/careful", "/kept"] {
        for (framing, body) in [
            length(1),
            length(KEPT_MAX_BYTES + 1),
            length(1_000_000),
            chunked(&[1]),
            chunked(&[100_000; 5]),
        ] {
            let (status, seen) = stage.send(path, &framing, &body).await;
            assert_eq!(status, 200, "{path} {framing:?} of {} bytes", body.len());
            assert!(seen == [body], "{path} {framing:?} came changed");
        }
    }
    stage.site.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_host_may_have_seen_is_not_repeated_unasked_nor_beyond_what_is_kept() {
    for first in [First::AfterAll, First::RefusesAll] {
        let stage = Stage::start(first).await;
        for (path, (framing, body)) in [
            ("/careful", length(1)),
            ("/careful", chunked(&[1])),
            ("/kept", length(KEPT_MAX_BYTES + 1)),
            ("/kept", chunked(&[KEPT_MAX_BYTES])),
        ] {
            let (status, seen) = stage.send(path, &framing, &body).await;
            assert_eq!(
                status,
                503,
                "{first:?} {path} {framing:?} of {} bytes",
                body.len()
            );
            assert_eq!(seen.len(), 0, "{first:?} {path} {framing:?} was repeated");
        }
        stage.site.proxy.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_asks_first_is_told_by_whichever_host_takes_it() {
    let stage = Stage::start(First::Dead).await;
    for path in ["/careful", "/kept"] {
        let head = format!(
            "PUT {path} HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 5\r\nconnection: close\r\n\r\n"
        );
        let answer = ask_first(stage.site.listener, &head).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    stage.site.proxy.stop().await;
}
