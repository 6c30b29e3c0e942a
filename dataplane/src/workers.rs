//! The threads that serve: one worker each, from its start to its last word.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::access_log;
use crate::listener::Leaving;
use crate::metrics::Metrics;
use crate::orders::{Command, Remote, orders};
use crate::otlp::Exporter;
use crate::overload::{self, Pressure};
use crate::tap::Taps;
use crate::worker;
use crate::{FLUSH_TIMEOUT, ProxyConfig, ProxyError};

pub(crate) fn start_workers(
    config: &ProxyConfig,
    metrics: &Arc<Metrics>,
    logs: &Arc<access_log::Process>,
    exporter: &Arc<Exporter>,
    taps: &Arc<Taps>,
    shared: &Arc<overload::Shared>,
) -> Result<Vec<Remote>, ProxyError> {
    let mut workers = Vec::new();
    for index in 0..config.workers.max(1) {
        let (remote, orders) = orders();
        let (metrics, logs) = (Arc::clone(metrics), Arc::clone(logs));
        let (exporter, taps) = (Arc::clone(exporter), Arc::clone(taps));
        let pressure = Arc::clone(shared);
        std::thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(move || {
                let pressure = Pressure::new(pressure, index);
                worker::run(index, metrics, logs, exporter, taps, pressure, orders);
            })
            .map_err(ProxyError::Worker)?;
        workers.push(remote);
    }
    Ok(workers)
}

/// Lets every worker finish, up to `drain_timeout`.
pub(crate) async fn drain_workers(workers: &[Remote], leaving: Leaving, drain_timeout: Duration) {
    let drained = async {
        let mut finished = Vec::new();
        for worker in workers {
            let (done, drained) = oneshot::channel();
            if worker.send(Command::Drain { leaving, done }).await {
                finished.push(drained);
            }
        }
        for drained in finished {
            // A worker that is gone has nothing in flight.
            let _ = drained.await;
        }
    };
    if timeout(drain_timeout, drained).await.is_err() {
        tracing::warn!("requests were still in flight when the drain timeout ended");
    }
}

/// Has every worker hand on what it logged; one that is stuck is not waited for.
pub(crate) async fn flush_workers(workers: &[Remote]) {
    let flushed = async {
        for worker in workers {
            let (done, flushed) = oneshot::channel();
            if worker.send(Command::Flush { done }).await {
                // A worker that is gone has nothing left.
                let _ = flushed.await;
            }
        }
    };
    if timeout(FLUSH_TIMEOUT, flushed).await.is_err() {
        tracing::warn!("lines of the access log were not written: a worker did not hand them on in time");
    }
}
