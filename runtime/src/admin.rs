//! The admin port of a process: `/healthz`, `/readyz`, `/metrics`, and what a plane adds to them. It has no
//! authentication of its own and belongs on loopback or behind the platform's network policy.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use crate::shutdown::{Shutdown, Tasks};

/// The named conditions under which a process is ready. It is ready when all are met.
#[derive(Clone, Debug, Default)]
pub struct Health {
    conditions: Arc<Mutex<BTreeMap<&'static str, Readiness>>>,
}

/// One condition of a [`Health`].
#[derive(Clone, Debug)]
pub struct Condition {
    name: &'static str,
    health: Health,
}

/// The metrics of a process, or of one plane in a test that runs several.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
}

#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error("cannot listen on {addr} for the admin port: check that no other process has it")]
    Bind {
        addr: SocketAddr,
        #[source]
        source: io::Error,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Readiness {
    Ready,
    Waiting { reason: String },
}

impl Health {
    /// Adds a condition that is not met until [`Condition::set_ready`]. Asking for the same name again gives
    /// the same condition.
    pub fn condition(&self, name: &'static str) -> Condition {
        self.lock().entry(name).or_insert_with(|| Readiness::Waiting {
            reason: "not checked yet".to_owned(),
        });
        Condition {
            name,
            health: self.clone(),
        }
    }

    /// The conditions that are not met, with the reason of each. Empty means ready.
    pub fn unmet(&self) -> Vec<(&'static str, String)> {
        self.lock()
            .iter()
            .filter_map(|(name, readiness)| match readiness {
                Readiness::Ready => None,
                Readiness::Waiting { reason } => Some((*name, reason.clone())),
            })
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Readiness>> {
        // Each write is one insert, so a panic elsewhere cannot leave the map half-written.
        self.conditions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Condition {
    pub fn set_ready(&self) {
        self.set(Readiness::Ready);
    }

    /// `reason` is shown by `/readyz`: say what is waited for.
    pub fn set_waiting(&self, reason: impl Into<String>) {
        self.set(Readiness::Waiting {
            reason: reason.into(),
        });
    }

    fn set(&self, readiness: Readiness) {
        let before = self.health.lock().insert(self.name, readiness.clone());
        if before.as_ref() != Some(&readiness) {
            match readiness {
                Readiness::Ready => tracing::info!(condition = self.name, "ready"),
                Readiness::Waiting { reason } => {
                    tracing::warn!(condition = self.name, reason, "not ready");
                }
            }
        }
    }
}

impl Metrics {
    /// Registers metrics: `metrics.register(|registry| registry.register("name", "help", counter.clone()))`.
    pub fn register<T>(&self, register: impl FnOnce(&mut Registry) -> T) -> T {
        register(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// All metrics in the OpenMetrics text format.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(
            &mut text,
            &self.registry.lock().unwrap_or_else(PoisonError::into_inner),
        )?;
        Ok(text)
    }
}

/// The routes that every process has. A plane merges its own into it.
pub fn router(health: Health, metrics: Metrics) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready).with_state(health))
        .route("/metrics", get(scrape).with_state(metrics))
}

/// Binds `addr`, serves `router` as a task until the shutdown, and returns the bound address (which differs
/// from `addr` when its port is 0).
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve(
    addr: SocketAddr,
    router: Router,
    tasks: &mut Tasks,
    mut shutdown: Shutdown,
) -> Result<SocketAddr, AdminError> {
    let bind = |source| AdminError::Bind { addr, source };
    let listener = TcpListener::bind(addr).await.map_err(bind)?;
    let bound = listener.local_addr().map_err(bind)?;
    tasks.spawn("admin", async move {
        axum::serve(listener, router)
            .with_graceful_shutdown(async move { shutdown.wait().await })
            .await
    });
    Ok(bound)
}

async fn ready(State(health): State<Health>) -> Response {
    let unmet = health.unmet();
    if unmet.is_empty() {
        return "ready\n".into_response();
    }
    let lines: String = unmet
        .into_iter()
        .map(|(name, reason)| format!("{name}: {reason}\n"))
        .collect();
    (StatusCode::SERVICE_UNAVAILABLE, lines).into_response()
}

async fn scrape(State(metrics): State<Metrics>) -> Response {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("cannot encode the metrics: {error}\n"),
        )
            .into_response(),
    }
}
