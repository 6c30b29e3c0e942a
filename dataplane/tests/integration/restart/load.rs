//! Clients that ask all the time: over connections that they keep, over a new one for each request, over HTTP/2, and for what
//! takes a while. Each notes what went wrong for it, and goes on until it is stopped, or until the proxy has taken leave of it.

use std::error::Error;
use std::io;
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
    /// Of each client.
    each: Vec<AtomicU64>,
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

/// When clients end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    WhenStopped,
    /// An answer closed the connection, or a new one is refused.
    WhenLeft,
}

enum Failure {
    /// Nobody listens: there was no request.
    Refused,
    Lost(String),
}

impl Load {
    pub(crate) fn start(listener: SocketAddr) -> Self {
        // So many new connections that there are always some that nobody has accepted yet.
        let clients = [
            (Client::Kept, 3),
            (Client::New, 24),
            (Client::Slow, 2),
            (Client::Http2, 1),
        ];
        Self::of(&clients, listener, Ends::WhenStopped)
    }

    /// Those with connections that they keep, until the proxy takes leave of them.
    pub(crate) fn start_until_left(listener: SocketAddr) -> Self {
        let clients = [(Client::Kept, 6), (Client::Slow, 4), (Client::Http2, 1)];
        Self::of(&clients, listener, Ends::WhenLeft)
    }

    fn of(kinds: &[(Client, usize)], listener: SocketAddr, ends: Ends) -> Self {
        let kinds = kinds
            .iter()
            .flat_map(|(client, times)| std::iter::repeat_n(*client, *times));
        let shared = Arc::new(Shared {
            each: kinds.clone().map(|_| AtomicU64::default()).collect(),
            ..Shared::default()
        });
        let mut clients = JoinSet::new();
        for (nth, client) in kinds.enumerate() {
            let run = run(client, nth, listener, ends, Arc::clone(&shared));
            match client {
                // On a thread of its own: hyper's client may begin a request on a connection while another thread reads there
                // that it is to begin none, and fail it unsent.
                Client::Http2 => drop(clients.spawn_blocking(move || block_on(run))),
                Client::Kept | Client::New | Client::Slow => drop(clients.spawn(run)),
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

    /// Waits until what every client asks now is answered, and what it asks next.
    pub(crate) async fn answers_each(&self) {
        let answers = || {
            self.shared
                .each
                .iter()
                .map(|answers| answers.load(Ordering::Relaxed))
        };
        let before: Vec<u64> = answers().collect();
        eventually("each client is answered", || async {
            answers().zip(&before).all(|(now, before)| now >= before + 2)
        })
        .await;
    }

    /// What went wrong.
    pub(crate) async fn stop(mut self) -> Vec<String> {
        self.shared.ends.store(true, Ordering::Relaxed);
        std::mem::take(&mut self.clients).join_all().await;
        self.failures()
    }

    /// What went wrong until the proxy had taken leave of each of them.
    pub(crate) async fn left(mut self) -> Vec<String> {
        let left = std::mem::take(&mut self.clients).join_all();
        let left = tokio::time::timeout(DEADLINE, left).await;
        assert!(
            left.is_ok(),
            "the proxy does not take leave: {:?}",
            self.failures()
        );
        self.failures()
    }

    fn failures(&self) -> Vec<String> {
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

async fn run(client: Client, nth: usize, listener: SocketAddr, ends: Ends, shared: Arc<Shared>) {
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
        match asked.unwrap_or_else(|_| Err(Failure::Lost("no answer in time".to_owned()))) {
            Ok(()) => {
                shared.answers.fetch_add(1, Ordering::Relaxed);
                shared.each[nth].fetch_add(1, Ordering::Relaxed);
                if ends == Ends::WhenLeft && kept.is_none() && !matches!(client, Client::Http2) {
                    return;
                }
            }
            Err(Failure::Refused) if ends == Ends::WhenLeft => return,
            Err(failure) => {
                let why = match failure {
                    Failure::Refused => "nobody listens".to_owned(),
                    Failure::Lost(why) => why,
                };
                let mut failures = shared.failures.lock().unwrap_or_else(PoisonError::into_inner);
                failures.push(format!("{client:?}: {why}"));
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

async fn ask_http2(client: &HttpClient, listener: SocketAddr) -> Result<(), Failure> {
    let url = format!("http://{listener}/http2").parse().unwrap();
    let answer = client.get(url).await.map_err(|error| {
        if is_refused(&error) {
            Failure::Refused
        } else {
            Failure::Lost(format!("{error:?}"))
        }
    })?;
    let status = answer.status();
    let body = answer.into_body().collect().await;
    let body = body
        .map_err(|error| Failure::Lost(format!("{error:?}")))?
        .to_bytes();
    if body == "host /http2 " {
        Ok(())
    } else {
        let body = String::from_utf8_lossy(&body);
        Err(Failure::Lost(format!("{status} {body}")))
    }
}

fn is_refused(error: &(dyn Error + 'static)) -> bool {
    let cause = error.downcast_ref::<io::Error>();
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::ConnectionRefused)
        || error.source().is_some_and(is_refused)
}

/// One request and its whole answer; the connection stays in `kept` unless the answer takes leave of it.
async fn ask(kept: &mut Option<TcpStream>, listener: SocketAddr, path: &str) -> Result<(), Failure> {
    let lost = |how: &str, error: io::Error| Failure::Lost(format!("{how}: {error}"));
    let mut stream = match kept.take() {
        Some(stream) => stream,
        None => TcpStream::connect(listener).await.map_err(|error| {
            if is_refused(&error) {
                Failure::Refused
            } else {
                lost("cannot connect", error)
            }
        })?,
    };
    let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
    let written = stream.write_all(request.as_bytes()).await;
    written.map_err(|error| lost("cannot write", error))?;
    let (mut answer, end) = (Vec::new(), format!("host {path} "));
    while !answer.ends_with(end.as_bytes()) {
        if !answer.is_empty() && !answer.starts_with(&b"HTTP/1.1 200 "[..answer.len().min(13)]) {
            return Err(Failure::Lost(String::from_utf8_lossy(&answer).into_owned()));
        }
        match stream.read_buf(&mut answer).await {
            Ok(0) => {
                let answer = String::from_utf8_lossy(&answer);
                return Err(Failure::Lost(format!("ended after {answer:?}")));
            }
            Err(error) => return Err(lost("broke", error)),
            Ok(_) => {}
        }
    }
    if !String::from_utf8_lossy(&answer).contains("connection: close") {
        *kept = Some(stream);
    }
    Ok(())
}
