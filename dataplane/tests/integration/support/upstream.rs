//! Small hosts for the proxy to forward to, each with a switch for how it behaves.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    /// Answers with its name, the path and the request's body.
    Well,
    /// Takes requests, health checks too, and never answers.
    Frozen,
    /// Answers 503 to everything but health checks.
    Refusing,
}

/// How the connections of a host end with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parting {
    Closes,
    Resets,
}

/// A host; drop it and its connections break.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    pub(crate) mood: watch::Sender<Mood>,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    requests: AtomicU64,
    checks: AtomicU64,
    connections: AtomicU64,
    last: Mutex<HeaderMap>,
}

/// A host whose connections are served by `serve`, all of them beside each other.
pub(crate) async fn serving<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output: Send> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(stream));
        }
    });
    address
}

impl Upstream {
    pub(crate) async fn start(name: &'static str) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), name, Parting::Closes).await
    }

    pub(crate) async fn start_at(address: SocketAddr, name: &'static str, parting: Parting) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let mood = watch::channel(Mood::Well).0;
        let (state, moods) = (Arc::clone(&shared), mood.clone());
        let task = tokio::spawn(async move {
            // Aborting this task aborts its connections.
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    continue;
                };
                state.connections.fetch_add(1, Ordering::Relaxed);
                if parting == Parting::Resets {
                    let linger = Some(Duration::ZERO);
                    socket2::SockRef::from(&stream).set_linger(linger).unwrap();
                }
                let (state, moods) = (Arc::clone(&state), moods.clone());
                connections.spawn(async move {
                    let service = service_fn(move |request: Request<Incoming>| {
                        let (state, mood) = (Arc::clone(&state), moods.subscribe());
                        async move { Ok::<_, Infallible>(answer(name, request, &state, mood).await) }
                    });
                    let mut server = auto::Builder::new(TokioExecutor::new());
                    // As many as a client may send, and what a proxy and those whom it asks add.
                    server.http1().max_headers(300);
                    // A client that goes away is no failure of a test.
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self {
            address,
            mood,
            shared,
            task,
        }
    }

    /// Requests so far, without health checks.
    pub(crate) fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// Health checks so far.
    pub(crate) fn checks(&self) -> u64 {
        self.shared.checks.load(Ordering::Relaxed)
    }

    /// Connections so far, those of health checks too.
    pub(crate) fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Headers of the last request.
    pub(crate) fn last_headers(&self) -> HeaderMap {
        self.shared
            .last
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(
    name: &str,
    request: Request<Incoming>,
    shared: &Shared,
    mut mood: watch::Receiver<Mood>,
) -> Response<Full<Bytes>> {
    let is_check = request.uri().path() == "/healthz";
    if is_check {
        shared.checks.fetch_add(1, Ordering::Relaxed);
    } else {
        shared.requests.fetch_add(1, Ordering::Relaxed);
        *shared.last.lock().unwrap_or_else(PoisonError::into_inner) = request.headers().clone();
    }
    // Frozen until told otherwise.
    let _ = mood.wait_for(|mood| *mood != Mood::Frozen).await;
    let path = request.uri().path().to_owned();
    if path.starts_with("/slow") {
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    if *mood.borrow() == Mood::Refusing && !is_check {
        let mut refusal = Response::new(Full::from("refusing"));
        *refusal.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        return refusal;
    }
    let body = request
        .into_body()
        .collect()
        .await
        .map(|body| body.to_bytes())
        .unwrap_or_default();
    let shown = String::from_utf8_lossy(&body).into_owned();
    Response::new(Full::from(format!("{name} {path} {shown}")))
}
