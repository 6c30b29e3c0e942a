//! The admin port: readiness, metrics, what is held, how hosts are, taps, drain. For the machine's own operator; it listens where
//! it is told to, which should be loopback.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures::StreamExt;
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

pub(crate) fn router(admin: Admin) -> Router {
    Router::new()
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/config_dump", get(config_dump))
        .route("/hosts", get(hosts))
        .route("/tap", get(tap).post(tap))
        .route("/drain", post(drain))
        .with_state(admin)
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
