//! The admin port: readiness, metrics, what is held, how hosts are, drain. For the machine's own operator; it listens where
//! it is told to, which should be loopback.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use tokio::sync::Notify;

use crate::status::Status;

#[derive(Clone)]
pub(crate) struct Admin {
    pub(crate) status: Arc<Status>,
    /// Told when somebody asks the proxy to drain.
    pub(crate) drain: Arc<Notify>,
}

pub(crate) fn router(admin: Admin) -> Router {
    Router::new()
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/config_dump", get(config_dump))
        .route("/hosts", get(hosts))
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

async fn drain(State(admin): State<Admin>) -> impl IntoResponse {
    admin.status.drain();
    admin.drain.notify_one();
    (StatusCode::ACCEPTED, "draining\n")
}
