//! Tombolo's data plane: an HTTP proxy that runs what an edge sends it over xDS (docs/xds.md), and keeps running it without the
//! edge, also across its own restart. It knows Envoy's API and HTTP; it knows nothing of intent, routes or the feed.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::ArcSwap;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};
use tokio::net::TcpListener;
use tokio::sync::{Notify, oneshot, watch};

pub use access_log::AccessLog;

use activation::Activation;
use ads::Ads;
use decode::{Resources, describe};
use last_good::Loaded;
use metrics::Metrics;
use orders::{Command, Remote, orders};
use otlp::Exporter;
use snapshot::Snapshot;
use statsd::Statsd;
use status::Status;
use tap::Taps;

mod access_log;
mod activation;
mod admin;
mod ads;
mod arrival;
mod attempt;
mod balance;
mod body;
mod breaker;
mod by_name;
mod channel;
mod config;
mod deadline;
mod decode;
mod exchange;
mod filter;
mod filter_chain;
mod forward;
#[cfg(test)]
mod fuzz;
mod grpc;
mod h1;
mod hash;
mod health;
mod http2;
mod io;
mod json;
mod jwks;
mod last_good;
mod limits;
mod listener;
mod matcher;
mod metrics;
mod mirror;
mod orders;
mod original_dst;
mod otlp;
mod outlier;
mod pattern;
mod pool;
mod proxy_protocol;
mod reply;
mod retry;
mod rewrite;
mod router;
mod session;
mod slow_start;
mod snapshot;
mod sni;
mod statsd;
mod status;
mod stream;
mod tap;
mod tcp;
mod tls;
mod trace;
mod upload;
mod worker;

/// Tries to bind the ports of the last-good configuration, which a predecessor may still hold, before the proxy starts
/// without those that it cannot have; about ten seconds.
const PORT_TRIES: u32 = 50;
/// How long the end of a process waits for what its workers have logged; they have it at hand.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// How to run a proxy.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    /// Unique within the mesh cluster.
    pub node_id: String,
    /// Name of the mesh cluster.
    pub cluster: String,
    pub role: Role,
    /// Namespace of the workload.
    pub namespace: String,
    /// The edge's xDS address, e.g. `http://127.0.0.1:18000`.
    pub xds: String,
    pub admin: SocketAddr,
    /// Where the last good configuration is kept.
    pub data_dir: PathBuf,
    /// Threads that forward requests; at least one runs.
    pub workers: usize,
    pub access_log: AccessLog,
    /// `HOST:PORT` to which metrics are sent too.
    pub statsd: Option<String>,
    /// How long requests in flight may take to end at shutdown.
    pub drain_timeout: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    Gateway {
        /// The platform's name of the gateway it belongs to.
        workload: String,
    },
    Sidecar {
        /// Its outbound HTTP listener.
        outbound: SocketAddr,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    #[error("{xds} is not an address of an edge: use http://HOST:PORT")]
    Xds {
        xds: String,
        #[source]
        source: tonic::transport::Error,
    },
    #[error("cannot listen on the admin address {address}: check that nothing else does")]
    Admin {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot open the access log {log:?}: check its folder and permissions")]
    AccessLog {
        log: AccessLog,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot use the data folder {path}: check its permissions")]
    DataDir {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot start a worker thread")]
    Worker(#[source] std::io::Error),
}

/// Runs a proxy until `shutdown` is ready (or the admin port is told to drain), then drains it.
pub async fn run(
    config: ProxyConfig,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ProxyError> {
    let edge = ads::endpoint(&config.xds).map_err(|source| ProxyError::Xds {
        xds: config.xds.clone(),
        source,
    })?;
    std::fs::create_dir_all(&config.data_dir).map_err(|source| ProxyError::DataDir {
        path: config.data_dir.clone(),
        source,
    })?;
    let admin_listener = TcpListener::bind(config.admin)
        .await
        .map_err(|source| ProxyError::Admin {
            address: config.admin,
            source,
        })?;
    let metrics = Arc::new(Metrics::default());
    let logs = access_log::open(&config.access_log, &metrics).map_err(|source| ProxyError::AccessLog {
        log: config.access_log.clone(),
        source,
    })?;
    let current: Arc<ArcSwap<Snapshot>> = Arc::default();
    let exporter = Exporter::new(Arc::clone(&current), Arc::clone(&metrics));
    let taps = Arc::<Taps>::default();
    let workers = start_workers(&config, &metrics, &logs, &exporter, &taps)?;
    let status = Arc::new(Status::new(Arc::clone(&current), Arc::clone(&metrics)));
    let drain = Arc::new(Notify::new());
    let admin = admin::Admin {
        status: Arc::clone(&status),
        drain: Arc::clone(&drain),
        taps,
    };
    let admin = tokio::spawn(axum::serve(admin_listener, admin::router(admin)).into_future());
    let counted = Arc::clone(&metrics);
    let forgetting = tokio::spawn(async move { counted.forget_unused().await });

    let statsd = config.statsd.clone();
    let statsd = statsd.map(|to| Statsd::start(to, Arc::clone(&metrics), Arc::clone(&current)));

    let path = config.data_dir.join(last_good::FILE_NAME);
    let (keep, kept) = watch::channel(Arc::new(Resources::default()));
    let keeper = tokio::spawn(last_good::keep(path.clone(), kept, Arc::clone(&metrics)));
    let loaded = last_good::load(&path).unwrap_or_else(|error| {
        metrics.last_good_errors.fetch_add(1, Ordering::Relaxed);
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "starting without the last good configuration"
        );
        Loaded::default()
    });
    if !loaded.rejections.is_empty() {
        metrics.last_good_errors.fetch_add(1, Ordering::Relaxed);
        let message = describe(&loaded.rejections);
        tracing::error!(%message, "starting without a part of the last good configuration");
    }
    let activation = Activation::new(workers.clone(), current);
    let mut ads = Ads {
        edge,
        node: node(&config),
        activation,
        resources: Arc::default(),
        status: Arc::clone(&status),
        keep,
    };
    let serve = async {
        resume(&mut ads, loaded.resources, &metrics).await;
        ads.run().await;
    };
    tokio::select! {
        () = serve => {}
        () = shutdown => {}
        () = drain.notified() => {}
    }
    status.drain();
    // What was accepted last is on disk before the process ends.
    drop(ads);
    if let Err(error) = keeper.await {
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "the last good configuration was not written"
        );
    }
    drain_workers(&workers, config.drain_timeout).await;
    flush_workers(&workers).await;
    exporter.finish(FLUSH_TIMEOUT).await;
    if let Some(statsd) = statsd {
        statsd.finish(FLUSH_TIMEOUT).await;
    }
    // A writer that dies takes its lines with it, and nothing else.
    let _ = tokio::task::spawn_blocking(move || logs.finish()).await;
    admin.abort();
    forgetting.abort();
    Ok(())
}

/// Runs what the disk holds. A port that stays taken costs its listener and nothing else; the edge sends it again.
async fn resume(ads: &mut Ads, mut loaded: Resources, metrics: &Metrics) {
    let mut tries = PORT_TRIES;
    while let Err(rejections) = ads.activation.apply(loaded.config(), tries).await {
        metrics.last_good_errors.fetch_add(1, Ordering::Relaxed);
        let message = describe(&rejections);
        tracing::error!(%message, "starting without a part of the last good configuration");
        let names = rejections.into_iter().map(|rejection| rejection.name).collect();
        loaded = last_good::without_listeners(&loaded, names);
        // The others have been tried as often.
        tries = 1;
    }
    ads.resources = Arc::new(loaded);
    ads.status.run(Arc::clone(&ads.resources));
    if !ads.resources.config().listeners.is_empty() {
        ads.status.listeners_known();
    }
}

fn start_workers(
    config: &ProxyConfig,
    metrics: &Arc<Metrics>,
    logs: &Arc<access_log::Process>,
    exporter: &Arc<Exporter>,
    taps: &Arc<Taps>,
) -> Result<Vec<Remote>, ProxyError> {
    let mut workers = Vec::new();
    for index in 0..config.workers.max(1) {
        let (remote, orders) = orders();
        let (metrics, logs) = (Arc::clone(metrics), Arc::clone(logs));
        let (exporter, taps) = (Arc::clone(exporter), Arc::clone(taps));
        std::thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(move || worker::run(index, metrics, logs, exporter, taps, orders))
            .map_err(ProxyError::Worker)?;
        workers.push(remote);
    }
    Ok(workers)
}

/// Lets every worker finish, up to `timeout`.
async fn drain_workers(workers: &[Remote], timeout: Duration) {
    let drained = async {
        let mut finished = Vec::new();
        for worker in workers {
            let (done, drained) = oneshot::channel();
            if worker.send(Command::Drain { done }).await {
                finished.push(drained);
            }
        }
        for drained in finished {
            // A worker that is gone has nothing in flight.
            let _ = drained.await;
        }
    };
    if tokio::time::timeout(timeout, drained).await.is_err() {
        tracing::warn!("requests were still in flight when the drain timeout ended");
    }
}

/// Has every worker hand on what it logged; one that is stuck is not waited for.
async fn flush_workers(workers: &[Remote]) {
    let flushed = async {
        for worker in workers {
            let (done, flushed) = oneshot::channel();
            if worker.send(Command::Flush { done }).await {
                // A worker that is gone has nothing left.
                let _ = flushed.await;
            }
        }
    };
    if tokio::time::timeout(FLUSH_TIMEOUT, flushed).await.is_err() {
        tracing::warn!("lines of the access log were not written: a worker did not hand them on in time");
    }
}

/// Who this proxy is, in the words of docs/xds.md.
fn node(config: &ProxyConfig) -> Node {
    let mut metadata = vec![("tombolo.namespace", config.namespace.clone())];
    match &config.role {
        Role::Gateway { workload } => {
            metadata.push(("tombolo.role", "gateway".to_owned()));
            metadata.push(("tombolo.workload", workload.clone()));
        }
        Role::Sidecar { outbound } => {
            metadata.push(("tombolo.role", "sidecar".to_owned()));
            metadata.push(("tombolo.outbound", outbound.to_string()));
        }
    }
    let string = |text: String| Value {
        kind: Some(Kind::StringValue(text)),
    };
    let fields = metadata
        .into_iter()
        .map(|(key, value)| (key.to_owned(), string(value)))
        .collect();
    Node {
        id: config.node_id.clone(),
        cluster: config.cluster.clone(),
        user_agent_name: "tombolo".to_owned(),
        metadata: Some(Struct { fields }),
        ..Node::default()
    }
}
