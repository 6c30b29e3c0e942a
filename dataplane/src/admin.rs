//! The admin port: readiness, metrics, what is held, how hosts are, taps, drain. For the machine's own operator; it listens where
//! it is told to, which should be loopback.

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::map_response_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::Listener;
use axum::{Json, Router};
use futures::StreamExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::status::Status;
use crate::tap::{TapError, Taps, Wanted};

#[derive(Clone)]
pub(crate) struct Admin {
    pub(crate) status: Arc<Status>,
    /// Told when somebody asks the proxy to drain.
    pub(crate) drain: Arc<Notify>,
    pub(crate) taps: Arc<Taps>,
}

/// The admin port, until another process answers there; what has connected before is answered.
struct Port {
    listener: Option<TcpListener>,
    status: Arc<Status>,
}

impl Listener for Port {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        if let Some(listener) = &mut self.listener {
            tokio::select! {
                biased;
                () = self.status.relieved() => self.listener = None,
                accepted = Listener::accept(listener) => return accepted,
            }
        }
        pending().await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        let listener = self.listener.as_ref();
        listener.map_or(Err(io::ErrorKind::NotConnected.into()), TcpListener::local_addr)
    }
}

/// Serves until the task is aborted.
pub(crate) async fn serve(listener: TcpListener, admin: Admin) {
    let port = Port {
        listener: Some(listener),
        status: Arc::clone(&admin.status),
    };
    // It does not end by itself.
    let _ = axum::serve(port, router(admin)).await;
}

fn router(admin: Admin) -> Router {
    Router::new()
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/config_dump", get(config_dump))
        .route("/hosts", get(hosts))
        .route("/tap", get(tap).post(tap))
        .route("/drain", post(drain))
        .layer(map_response_with_state(Arc::clone(&admin.status), leave))
        .with_state(admin)
}

/// Whoever keeps a connection to a process that was relieved asks the other one next.
async fn leave(State(status): State<Arc<Status>>, mut answer: Response) -> Response {
    if status.is_relieved() {
        let close = HeaderValue::from_static("close");
        answer.headers_mut().insert(header::CONNECTION, close);
    }
    answer
}

async fn ready(State(admin): State<Admin>) -> impl IntoResponse {
    if admin.status.is_ready() {
        (StatusCode::OK, "ready\n")
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "not ready: no listener runs, or the proxy drains\n",
        )
    }
}

async fn metrics(State(admin): State<Admin>) -> impl IntoResponse {
    let text = admin.status.metrics.render(&admin.status.snapshot.load());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text)
}

async fn config_dump(State(admin): State<Admin>) -> impl IntoResponse {
    Json(admin.status.config_dump())
}

async fn hosts(State(admin): State<Admin>) -> impl IntoResponse {
    Json(admin.status.hosts())
}

/// What is seen of requests, for as long as whoever asks reads it, and no longer than it is asked for.
async fn tap(
    State(admin): State<Admin>,
    Query(wanted): Query<Wanted>,
) -> Result<Response, (StatusCode, String)> {
    let lines = admin.taps.open(wanted).map_err(|error| {
        let status = match error {
            TapError::Malformed { .. } => StatusCode::BAD_REQUEST,
            TapError::TooMany => StatusCode::TOO_MANY_REQUESTS,
        };
        (status, format!("{error}\n"))
    })?;
    let body = Body::from_stream(lines.map(Ok::<_, Infallible>));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

async fn drain(State(admin): State<Admin>) -> impl IntoResponse {
    admin.drain.notify_one();
    (StatusCode::ACCEPTED, "draining\n")
}
