//! Clients that ask all the time: over connections that they keep, over a new one for each request, over HTTP/2, and for what
//! takes a while. Each notes what went wrong for it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::support::proxy::{DEADLINE, HttpClient, eventually, http2_client};

pub(crate) struct Load {
    shared: Arc<Shared>,
    clients: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    ends: AtomicBool,
    answers: AtomicU64,
    failures: Mutex<Vec<String>>,
}

#[derive(Clone, Copy, Debug)]
enum Client {
    Kept,
    New,
    /// In the middle of an answer when a process ends.
    Slow,
    Http2,
}

impl Load {
    pub(crate) fn start(listener: SocketAddr) -> Self {
        let shared = Arc::<Shared>::default();
        let mut clients = JoinSet::new();
        // So many new connections that there are always some that nobody has accepted yet.
        for (client, times) in [
            (Client::Kept, 3),
            (Client::New, 24),
            (Client::Slow, 2),
            (Client::Http2, 1),
        ] {
            for _ in 0..times {
                let run = run(client, listener, Arc::clone(&shared));
                match client {
                    // On a thread of its own: hyper's client may begin a request on a connection while another thread reads there
                    // that it is to begin none, and fail it unsent.
                    Client::Http2 => drop(clients.spawn_blocking(move || block_on(run))),
                    Client::Kept | Client::New | Client::Slow => drop(clients.spawn(run)),
                }
            }
        }
        Self { shared, clients }
    }

    /// Waits for so many more.
    pub(crate) async fn answers(&self, more: u64) {
        let answers = || self.shared.answers.load(Ordering::Relaxed);
        let enough = answers() + more;
        eventually("requests are answered", || async { answers() >= enough }).await;
    }

    /// What went wrong.
    pub(crate) async fn stop(mut self) -> Vec<String> {
        self.shared.ends.store(true, Ordering::Relaxed);
        std::mem::take(&mut self.clients).join_all().await;
        std::mem::take(
            &mut *self
                .shared
                .failures
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }
}

fn block_on(run: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().unwrap();
    runtime.block_on(run);
}

async fn run(client: Client, listener: SocketAddr, shared: Arc<Shared>) {
    let (mut kept, http2) = (None, http2_client());
    while !shared.ends.load(Ordering::Relaxed) {
        let asked = async {
            match client {
                Client::Kept => ask(&mut kept, listener, "/kept").await,
                Client::New => ask(&mut None, listener, "/new").await,
                Client::Slow => ask(&mut kept, listener, "/slow").await,
                Client::Http2 => ask_http2(&http2, listener).await,
            }
        };
        let asked = tokio::time::timeout(DEADLINE, asked).await;
        match asked.unwrap_or_else(|_| Err("no answer in time".to_owned())) {
            Ok(()) => {
                shared.answers.fetch_add(1, Ordering::Relaxed);
            }
            Err(failure) => {
                let mut failures = shared.failures.lock().unwrap_or_else(PoisonError::into_inner);
                failures.push(format!("{client:?}: {failure}"));
            }
        }
        if !matches!(client, Client::New) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Load {
    /// A test that fails waits for none of them.
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Relaxed);
    }
}

async fn ask_http2(client: &HttpClient, listener: SocketAddr) -> Result<(), String> {
    let url = format!("http://{listener}/http2").parse().unwrap();
    let answer = client.get(url).await.map_err(|error| format!("{error:?}"))?;
    let status = answer.status();
    let body = answer.into_body().collect().await;
    let body = body.map_err(|error| format!("{error:?}"))?.to_bytes();
    if body == "host /http2 " {
        Ok(())
    } else {
        Err(format!("{status} {}", String::from_utf8_lossy(&body)))
    }
}

/// One request and its whole answer; the connection stays in `kept` unless the answer takes leave of it.
async fn ask(kept: &mut Option<TcpStream>, listener: SocketAddr, path: &str) -> Result<(), String> {
    let mut stream = match kept.take() {
        Some(stream) => stream,
        None => TcpStream::connect(listener)
            .await
            .map_err(|error| format!("cannot connect: {error}"))?,
    };
    let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
    let written = stream.write_all(request.as_bytes()).await;
    written.map_err(|error| format!("cannot write: {error}"))?;
    let (mut answer, end) = (Vec::new(), format!("host {path} "));
    while !answer.ends_with(end.as_bytes()) {
        match stream.read_buf(&mut answer).await {
            Ok(0) => return Err(format!("ended after {:?}", String::from_utf8_lossy(&answer))),
            Err(error) => return Err(format!("broke: {error}")),
            Ok(_) => {}
        }
    }
    let answer = String::from_utf8_lossy(&answer).into_owned();
    if !answer.starts_with("HTTP/1.1 200 ") {
        return Err(answer);
    }
    if !answer.contains("connection: close") {
        *kept = Some(stream);
    }
    Ok(())
}
