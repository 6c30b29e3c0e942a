//! Tombolo's data plane: an HTTP proxy that runs what an edge sends it over xDS (docs/xds.md), and keeps running it without the
//! edge, also across its own restart; or what a file says, and no edge. It knows Envoy's API and HTTP; it knows nothing of intent, routes or the feed.

use std::future::Future;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::ArcSwap;
use envoy_types::pb::envoy::config::core::v3::Node;
use tokio::net::TcpListener;
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::transport::Endpoint;

pub use access_log::AccessLog;
pub use file::{Checked, FileError, Problem, check};
pub use restart::RestartError;

use activation::Activation;
use ads::Ads;
use decode::{Resources, describe};
use file::Watched;
use follow::Follow;
use last_good::{Keeper, Loaded, Rest};
use listener::{DRAIN_LINGER, Leaving};
use metrics::Metrics;
use otlp::Exporter;
use restart::{Estate, Lock, Offer, Predecessor};
use running::Running;
use snapshot::Snapshot;
use statsd::Statsd;
use status::Status;
use tap::Taps;
use workers::{drain_workers, flush_workers, start_workers};

mod access_log;
mod activation;
mod admin;
mod ads;
mod arrival;
mod asking;
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
mod file;
mod filter;
mod filter_chain;
mod follow;
mod forward;
#[cfg(test)]
mod fuzz;
mod grpc;
mod grpc_call;
mod grpc_web;
mod gunzip;
mod h1;
mod hash;
mod header_changes;
mod headers;
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
mod overload;
mod pattern;
mod pool;
mod proxy_protocol;
mod quota;
mod read_ahead;
mod recode;
mod reply;
mod restart;
mod retry;
mod rewrite;
mod router;
mod running;
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
mod tunnel;
mod upload;
mod upstream;
mod worker;
mod workers;

/// Tries to bind the ports of the last-good configuration, which a predecessor may still hold, before the proxy starts
/// without those that it cannot have; about ten seconds.
const PORT_TRIES: u32 = 50;
/// How long the folder's lock is waited for where nobody is left to take over from: a second.
const LOCK_TRIES: u32 = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(100);
/// How long a process that another one has relieved may take to end what it has, as a listener that is gone may; Envoy's
/// `--drain-time-s`.
const RELIEVED_DRAIN_MAX: Duration = Duration::from_secs(600);
/// How long the end of a process waits for what its workers have logged; they have it at hand.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// How to run a proxy.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    pub source: Source,
    pub admin: SocketAddr,
    /// Where the last good configuration is kept.
    pub data_dir: PathBuf,
    /// Threads that forward requests; at least one runs.
    pub workers: usize,
    pub access_log: AccessLog,
    /// `HOST:PORT` to which metrics are sent too.
    pub statsd: Option<String>,
    /// How long it serves on after it has been told to stop, while it says that it is not ready: balancers in front look now and
    /// then only.
    pub drain_grace: Duration,
    /// How long requests in flight may take to end at shutdown.
    pub drain_timeout: Duration,
    /// Memory at which requests are refused before the kernel ends the process; what its cgroup has is one too.
    pub memory_limit: Option<u64>,
    /// Takes the ports over from the proxy that runs with the same data folder, if one does.
    pub take_over: bool,
}

/// Where what it runs comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    Edge(Edge),
    /// A file like an Envoy's.
    File(PathBuf),
}

/// Who a proxy is to the edge that it follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    /// The edge's xDS address, e.g. `http://127.0.0.1:18000`.
    pub xds: String,
    /// Unique within the mesh cluster.
    pub node_id: String,
    /// Name of the mesh cluster.
    pub cluster: String,
    pub role: Role,
    /// Namespace of the workload.
    pub namespace: String,
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
    #[error(transparent)]
    File(#[from] FileError),
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
    #[error(
        "a proxy runs with the data folder {path} already: let this one take over from it (--take-over), or give it another folder"
    )]
    Running { path: PathBuf },
    #[error(
        "a proxy with the data folder {path} starts or stops, so that nobody can take over from it: try again, and else look in its log"
    )]
    Busy { path: PathBuf },
    #[error("cannot take over from the proxy that runs")]
    TakeOver(#[source] RestartError),
}

/// Runs a proxy until `shutdown` is ready (or the admin port is told to drain), then drains it.
pub async fn run(
    config: ProxyConfig,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ProxyError> {
    let start = Start::new(&config.source)?;
    std::fs::create_dir_all(&config.data_dir).map_err(|source| ProxyError::DataDir {
        path: config.data_dir.clone(),
        source,
    })?;
    let (mut predecessor, lock) = predecessor(&config).await?;
    let held = predecessor
        .as_mut()
        .and_then(|held| held.take_admin(config.admin));
    let admin_listener = admin_listener(config.admin, held)?;
    let admin_shared = admin_listener.as_fd().try_clone_to_owned();
    let admin_shared = admin_shared.map_err(|source| ProxyError::Admin {
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
    let shared = overload::Shared::new(config.workers.max(1), overload::raise_descriptors());
    let _ = metrics.overload.set(Arc::clone(&shared));
    let workers = start_workers(&config, &metrics, &logs, &exporter, &taps, &shared)?;
    // Workers end when nobody is left to tell them anything, so that it must not outlive this.
    let mut watching = JoinSet::new();
    watching.spawn(overload::watch(shared, workers.clone(), config.memory_limit));
    let status = Arc::new(Status::new(Arc::clone(&current), Arc::clone(&metrics)));
    let drain = Arc::new(Notify::new());
    let admin = admin::Admin {
        status: Arc::clone(&status),
        drain: Arc::clone(&drain),
        taps,
    };
    let (open_admin, admin_opened) = oneshot::channel::<()>();
    let admin = tokio::spawn(async move {
        if admin_opened.await.is_ok() {
            admin::serve(admin_listener, admin).await;
        }
    });
    let counted = Arc::clone(&metrics);
    let forgetting = tokio::spawn(async move { counted.forget_unused().await });

    let statsd = config.statsd.clone();
    let statsd = statsd.map(|to| Statsd::start(to, Arc::clone(&metrics), Arc::clone(&current)));

    let path = config.data_dir.join(last_good::FILE_NAME);
    let (keep, kept) = watch::channel(Arc::new(Resources::default()));
    let lock = Arc::new(lock);
    let keeper = Keeper::start(path.clone(), kept, Arc::clone(&lock), Arc::clone(&metrics));
    let mut running = Running {
        activation: Activation::new(workers.clone(), current, start.edge()),
        resources: Arc::default(),
        status: Arc::clone(&status),
    };
    let (serving_workers, serving_status) = (workers.clone(), Arc::clone(&status));
    let data_dir = config.data_dir.clone();
    let (locked, keeps) = (&lock, &keeper);
    let mut serving = Box::pin(async move {
        let relieved = match predecessor {
            Some(predecessor) => predecessor.relieve(&mut running.activation).await,
            None => Ok(None),
        };
        let inherited = relieved.map_err(ProxyError::TakeOver)?;
        let took_over = inherited.is_some();
        locked.claim();
        if let Some(resources) = inherited {
            run_from_now_on(&mut running, resources);
        }
        let mut follow = match start {
            Start::Edge(given) => {
                let (edge, node) = *given;
                let _ = open_admin.send(());
                if took_over {
                    // Its predecessor may not have got so far.
                    keep.send_replace(Arc::clone(&running.resources));
                } else {
                    let loaded = load(&path, &serving_status.metrics);
                    resume(&mut running, loaded, &serving_status.metrics).await;
                }
                Follow::Edge(Box::new(Ads { edge, node, keep }))
            }
            Start::File { mut file, resources } => {
                if took_over {
                    // It serves already.
                    let _ = open_admin.send(());
                    file.run_again(&mut running).await;
                } else {
                    file.run_first(&mut running, resources).await?;
                    let _ = open_admin.send(());
                }
                Follow::File(file)
            }
        };
        let estate = Estate {
            workers: &serving_workers,
            admin: admin_shared.as_fd(),
            lock: locked.as_fd(),
            status: &serving_status,
            keeper: keeps,
        };
        let rest = serve(&mut follow, &mut running, &data_dir, estate).await;
        // What is under way still chooses among hosts.
        Ok::<_, ProxyError>((rest, running.activation))
    });
    let mut shutdown = pin!(shutdown);
    let mut relieved = tokio::select! {
        served = serving.as_mut() => Some(served?),
        () = shutdown.as_mut() => None,
        () = drain.notified() => None,
    };
    let was_ready = status.is_ready();
    let was_told = relieved.is_none();
    if was_told {
        status.drain();
    }
    if was_told && was_ready {
        // What the edge says meanwhile counts, and so does who was taking over.
        if let Ok(served) = timeout(config.drain_grace, serving.as_mut()).await {
            relieved = Some(served?);
        }
    }
    drop(serving);
    if relieved.is_some() {
        drop(keeper);
    } else {
        // What was accepted last is on disk before the process ends.
        keeper.finish().await;
    }
    drop(lock);
    if let Some((_rest, _activation)) = relieved {
        // Who asks on a connection of before is told what holds of the other one, and asks that next.
        status.relieve();
        let shutdown = async {
            if !was_told {
                shutdown.await;
            }
        };
        let drained = async {
            tokio::select! {
                () = drain_workers(&workers, Leaving::Relieved, RELIEVED_DRAIN_MAX) => {}
                () = shutdown => drain_workers(&workers, Leaving::Closing, config.drain_timeout).await,
            }
        };
        // Who has connected to the admin port meanwhile is answered too.
        tokio::join!(drained, tokio::time::sleep(DRAIN_LINGER));
    } else {
        drain_workers(&workers, Leaving::Closing, config.drain_timeout).await;
    }
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

/// What is known of where the configuration comes from, before anything is served.
enum Start {
    Edge(Box<(Endpoint, Node)>),
    File { file: Watched, resources: Resources },
}

impl Start {
    fn new(source: &Source) -> Result<Self, ProxyError> {
        match source {
            Source::Edge(given) => {
                let edge = ads::endpoint(&given.xds).map_err(|source| ProxyError::Xds {
                    xds: given.xds.clone(),
                    source,
                })?;
                Ok(Self::Edge(Box::new((edge, ads::node(given)))))
            }
            Source::File(path) => {
                let (file, resources) = file::from_file(path)?;
                Ok(Self::File { file, resources })
            }
        }
    }

    fn edge(&self) -> Option<Endpoint> {
        match self {
            Self::Edge(given) => Some(given.0.clone()),
            Self::File { .. } => None,
        }
    }
}

/// Whom this process takes over from, if it is to, and the folder that is its own from now on.
async fn predecessor(config: &ProxyConfig) -> Result<(Option<Predecessor>, Lock), ProxyError> {
    let path = || config.data_dir.clone();
    if config.take_over {
        let asked = Predecessor::ask(&config.data_dir).await;
        if let Some((predecessor, lock)) = asked.map_err(ProxyError::TakeOver)? {
            return Ok((Some(predecessor), lock));
        }
    }
    let mut taken = Lock::take(&config.data_dir);
    for _ in 0..LOCK_TRIES {
        // One that has just ended may have it a moment longer.
        if !config.take_over || !matches!(taken, Ok(None)) {
            break;
        }
        tokio::time::sleep(LOCK_PAUSE).await;
        taken = Lock::take(&config.data_dir);
    }
    match taken {
        Ok(Some(lock)) => Ok((None, lock)),
        Ok(None) if config.take_over => Err(ProxyError::Busy { path: path() }),
        Ok(None) => Err(ProxyError::Running { path: path() }),
        Err(source) => {
            tracing::warn!(
                path = %path().display(),
                error = &source as &dyn std::error::Error,
                "the data folder cannot be locked, so that nothing keeps another proxy out of it"
            );
            let lock = Lock::of_nothing().map_err(|source| ProxyError::DataDir { path: path(), source })?;
            Ok((None, lock))
        }
    }
}

fn admin_listener(address: SocketAddr, held: Option<StdTcpListener>) -> Result<TcpListener, ProxyError> {
    let bound = held.map_or_else(|| StdTcpListener::bind(address), Ok);
    let listening = bound.and_then(|bound| {
        bound.set_nonblocking(true)?;
        TcpListener::from_std(bound)
    });
    listening.map_err(|source| ProxyError::Admin { address, source })
}

fn load(path: &Path, metrics: &Metrics) -> Resources {
    let loaded = last_good::load(path).unwrap_or_else(|error| {
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
    loaded.resources
}

/// Follows the edge, or the file, until another process serves in its place; nothing of what that has is touched from then on.
async fn serve(follow: &mut Follow, running: &mut Running, data_dir: &Path, estate: Estate<'_>) -> Rest {
    let offer = Offer::open(data_dir);
    let mut following = pin!(follow.run(running));
    loop {
        let successor = tokio::select! {
            never = following.as_mut() => match never {},
            successor = offer.next() => successor,
        };
        // The configuration stands still meanwhile.
        if let Some(rest) = offer.hand_over(&successor, &estate).await {
            return rest;
        }
    }
}

/// Runs what the disk holds. A port that stays taken costs its listener and nothing else; the edge sends it again.
async fn resume(running: &mut Running, mut loaded: Resources, metrics: &Metrics) {
    let mut tries = PORT_TRIES;
    while let Err(rejections) = running.activation.apply(loaded.config(), tries).await {
        metrics.last_good_errors.fetch_add(1, Ordering::Relaxed);
        let message = describe(&rejections);
        tracing::error!(%message, "starting without a part of the last good configuration");
        let names = rejections.into_iter().map(|rejection| rejection.name).collect();
        loaded = last_good::without_listeners(&loaded, names);
        // The others have been tried as often.
        tries = 1;
    }
    run_from_now_on(running, loaded);
}

fn run_from_now_on(running: &mut Running, resources: Resources) {
    running.run(resources);
    if !running.resources.config().listeners.is_empty() {
        running.status.listeners_known();
    }
}
