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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use prometheus_client::metrics::counter::Counter;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::{Health, Metrics, router, serve};
    use crate::shutdown::{Shutdown, Tasks};

    async fn get(address: std::net::SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn the_admin_port_tells_life_readiness_and_metrics() {
        let (trigger, parent) = Shutdown::new();
        let (mut tasks, shutdown) = Tasks::under(parent);
        let (health, metrics) = (Health::default(), Metrics::default());
        let requests: Counter = Counter::default();
        metrics.register(|registry| registry.register("requests", "Requests served", requests.clone()));
        requests.inc();
        let database = health.condition("postgres");
        let feed = health.condition("feed");

        let any = "127.0.0.1:0".parse().unwrap();
        let router = router(health.clone(), metrics);
        let address = serve(any, router.clone(), &mut tasks, shutdown.clone())
            .await
            .unwrap();
        assert!(get(address, "/healthz").await.ends_with("ok\n"));
        assert!(get(address, "/metrics").await.contains("\nrequests_total 1\n"));

        feed.set_ready();
        database.set_waiting("connection refused");
        let answer = get(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(
            answer.ends_with("\r\n\r\npostgres: connection refused\n"),
            "{answer}"
        );
        database.set_ready();
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));

        let error = serve(address, router, &mut tasks, shutdown).await.unwrap_err();
        let expected = format!("cannot listen on {address} for the admin port");
        assert!(error.to_string().starts_with(&expected), "{error}");

        trigger.fire();
        tasks.join(Duration::from_secs(20)).await.unwrap();
    }
}
