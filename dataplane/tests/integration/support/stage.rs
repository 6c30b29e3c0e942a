//! A proxy with a host behind it that answers what its test wants, to the letter, and notes every byte that it is sent.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::ads::AdsServer;
use crate::support::mesh;
use crate::support::proxy::{DEADLINE, Proxy, eventually, free_address};
use crate::support::upstream::serving;

/// A proxy in front of a host that notes every byte that it is sent. Below `/relayed` a request goes through as it comes, below
/// `/kept` it may be repeated, for which it is kept, and below `/bridged` it goes the way of HTTP/2 too.
pub(crate) struct Stage {
    pub(crate) listener: SocketAddr,
    pub(crate) proxy: Proxy,
    pub(crate) seen: Arc<Mutex<Vec<u8>>>,
    _edge: AdsServer,
    _data: tempfile::TempDir,
}

pub(crate) const WAYS: [&str; 3] = ["/relayed", "/kept", "/bridged"];

impl Stage {
    pub(crate) async fn start() -> Self {
        let edge = AdsServer::start_at(free_address()).await;
        let data = tempfile::tempdir().unwrap();
        let listener = free_address();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let host = start_host(Arc::clone(&seen)).await;
        edge.put("a", &mesh::cluster("a"));
        edge.put("a", &mesh::endpoints("a", &[(host, 0)]));
        edge.put("in", &mesh::listener("in", listener, "in"));
        let routes = vec![
            mesh::with_retries(mesh::to_cluster("/kept", "a"), 1),
            mesh::with_rewrite(
                mesh::with_retries(mesh::to_cluster("/bridged", "a"), 1),
                "^/bridged",
                "/bridged",
            ),
            mesh::to_cluster("/", "a"),
        ];
        edge.put("in", &mesh::routes("in", routes));
        let proxy = Proxy::start(&edge.url(), data.path());
        eventually("the proxy is ready", || proxy.is_ready()).await;
        Self {
            listener,
            proxy,
            seen,
            _edge: edge,
            _data: data,
        }
    }

    /// All that comes back for `request`, until the proxy closes the connection; `step` bytes are sent at a time.
    pub(crate) async fn talk(&self, request: &[u8], step: usize) -> String {
        let stream = TcpStream::connect(self.listener).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (mut from, mut to) = stream.into_split();
        let request = request.to_vec();
        let sending = tokio::spawn(async move {
            for piece in request.chunks(step) {
                // Whoever is refused need not be listened to.
                if to.write_all(piece).await.is_err() {
                    break;
                }
                if step == 1 {
                    tokio::task::yield_now().await;
                }
            }
            to
        });
        let mut answer = Vec::new();
        // A reset behind the answer takes nothing from it.
        let _ = tokio::time::timeout(DEADLINE, from.read_to_end(&mut answer))
            .await
            .expect("the connection is closed");
        drop(sending.await.unwrap());
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// All that comes back for what is all that the client ever sends.
    pub(crate) async fn talk_and_end(&self, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.listener).await.unwrap();
        stream.write_all(request).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer))
            .await
            .expect("the connection is closed");
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Whether the host has seen it, in whichever pieces a body came.
    pub(crate) fn has_seen(&self, text: &str) -> bool {
        let seen = String::from_utf8_lossy(&self.seen.lock().unwrap()).into_owned();
        seen.contains(text) || joined(&seen).contains(text)
    }
}

/// Without the lengths between the chunks of a body; the last one stays.
fn joined(seen: &str) -> String {
    let mut parts = seen.split("\r\n").peekable();
    let mut joined = parts.next().unwrap_or_default().to_owned();
    while let Some(part) = parts.next() {
        let length = usize::from_str_radix(part, 16).unwrap_or_default();
        match parts.peek() {
            Some(data) if length > 0 && data.len() == length => joined.extend(parts.next()),
            _ => joined.extend(["\r\n", part]),
        }
    }
    joined
}

/// Answers by the path: what follows `/says/`, in hexadecimal, to the letter; to `/early` before the body has come, and it waits
/// for that ever after; to `/echo` at once, and with the body as it comes; to `/once` only if it is the connection's first
/// request; to `/twice` with two answers; else once the body has come, with 200 and the request's number on its connection.
async fn start_host(seen: Arc<Mutex<Vec<u8>>>) -> SocketAddr {
    serving(move |stream| serve(stream, Arc::clone(&seen))).await
}

async fn serve(mut stream: TcpStream, seen: Arc<Mutex<Vec<u8>>>) -> Option<()> {
    let mut input = Vec::new();
    for nth in 1.. {
        let head = loop {
            if let Some(at) = input.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            receive(&mut stream, &mut input, &seen).await?;
        };
        let text = String::from_utf8_lossy(&input[..head]).to_lowercase();
        if text.contains("/once") && nth > 1 {
            return None;
        }
        if text.contains("/early") {
            let answer = b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 2\r\n\r\nno";
            stream.write_all(answer).await.ok()?;
            while receive(&mut stream, &mut input, &seen).await.is_some() {}
            return None;
        }
        if text.contains("/echo") {
            let answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
            stream.write_all(answer).await.ok()?;
            input.drain(..head);
            loop {
                stream.write_all(&input).await.ok()?;
                input.clear();
                receive(&mut stream, &mut input, &seen).await?;
            }
        }
        let rest = |input: &[u8]| input[head..].to_vec();
        let length = text
            .lines()
            .find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        let end = if text.contains("transfer-encoding: chunked") {
            while !rest(&input).ends_with(b"\r\n\r\n") {
                receive(&mut stream, &mut input, &seen).await?;
            }
            input.len()
        } else {
            while rest(&input).len() < length.unwrap_or(0) {
                receive(&mut stream, &mut input, &seen).await?;
            }
            head + length.unwrap_or(0)
        };
        if let Some(said) = text.split_once("/says/").map(|(_, said)| said) {
            let digits: Vec<u8> = said.bytes().take_while(u8::is_ascii_hexdigit).collect();
            let bytes = digits
                .chunks(2)
                .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap());
            stream.write_all(&bytes.collect::<Vec<u8>>()).await.ok()?;
            stream.shutdown().await.ok()?;
            // Until the proxy has closed its side too.
            while receive(&mut stream, &mut input, &seen).await.is_some() {}
            return None;
        }
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{nth:02}");
        let times = if text.contains("/twice") { 2 } else { 1 };
        stream.write_all(answer.repeat(times).as_bytes()).await.ok()?;
        input.drain(..end);
    }
    None
}

async fn receive(stream: &mut TcpStream, input: &mut Vec<u8>, seen: &Arc<Mutex<Vec<u8>>>) -> Option<()> {
    let before = input.len();
    let read = stream.read_buf(input).await.ok()?;
    seen.lock().unwrap().extend_from_slice(&input[before..]);
    (read > 0).then_some(())
}
