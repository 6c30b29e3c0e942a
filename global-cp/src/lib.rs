//! The global control plane, "central": joins intent from management with reports from edges into routes, one slice per
//! cluster. It owns no truth and shares nothing with other centrals; what it knew last is on its disk, and it serves
//! from there before it reaches anybody.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;
use tombolo_compiler::name::ClusterName;
use tombolo_proto::link::{Inputs, server};
use tombolo_proto::session::Party;
use tombolo_runtime::admin::{self, AdminError, Condition, Health, Metrics};
use tombolo_runtime::plane_id::{Plane, PlaneId};
use tombolo_runtime::shutdown::{Shutdown, TaskError, Tasks};
use tombolo_runtime::tls::{self, Identity, TlsError};

mod admin_routes;
mod disk;
mod edges;
mod item;
mod mesh;
mod metrics;
mod mirror;
mod peer;
mod peers;
mod relay;
mod uplink;

pub use disk::DiskError;

use disk::{Disk, Known};
use edges::{Edges, KnownEdge};
use mesh::{Mesh, Source};
use metrics::CentralMetrics;
use peer::Peer;
use peers::{MANAGEMENT, Peers};
use relay::Relay;
use uplink::Uplink;

/// The loop also looks at everything this often, should it ever miss a wake.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Reports that arrive within this time go up together.
const REPORT_DELAY: Duration = Duration::from_millis(3);
/// Tasks of ours end at once; a last file may have to be written.
const GRACE: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
pub struct Config {
    /// The name in the certificate of `identity`.
    pub name: String,
    /// `https://HOST:PORT` of management's feed.
    pub management: String,
    /// Where edges dial, over mTLS.
    pub listen: SocketAddr,
    pub admin: SocketAddr,
    /// The folder with `cert.pem`, `key.pem` and `ca.pem`.
    pub identity: PathBuf,
    pub data_dir: PathBuf,
}

/// A central in this process.
pub struct Central;

/// A central that has been started.
#[derive(Debug)]
pub struct Running {
    pub feed_addr: SocketAddr,
    pub admin_addr: SocketAddr,
    tasks: Tasks,
}

#[derive(Debug, thiserror::Error)]
pub enum CentralError {
    #[error(transparent)]
    Identity(#[from] TlsError),
    #[error("the identity in {dir} is {id}, not that of the central {name}: check --identity and --name")]
    WrongIdentity {
        dir: PathBuf,
        id: Box<PlaneId>,
        name: String,
    },
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error("cannot listen on {addr} for edges: check that no other process has it")]
    Bind {
        addr: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error(transparent)]
    Task(#[from] TaskError),
}

/// Serves until the shutdown.
///
/// # Errors
/// When it cannot start, or a task of it fails.
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), CentralError> {
    Central::start(config, shutdown).await?.join().await
}

impl Central {
    /// Binds both ports and starts to serve what the disk knows, then reaches out.
    ///
    /// # Errors
    /// When the identity, the data folder or an address cannot be used.
    pub async fn start(config: Config, shutdown: Shutdown) -> Result<Running, CentralError> {
        let identity = Arc::new(load_identity(&config)?);
        let disk = Disk::open(&config.data_dir)?;
        let source = Source {
            name: config.name.clone(),
            incarnation: disk.next_incarnation()?,
        };
        let known = disk.load()?;

        let bind = |source| CentralError::Bind {
            addr: config.listen,
            source,
        };
        let listener = TcpListener::bind(config.listen).await.map_err(bind)?;
        let feed_addr = listener.local_addr().map_err(bind)?;

        let (mut tasks, shutdown) = Tasks::under(shutdown);
        let (health, metrics) = (Health::default(), Metrics::default());
        let parts = Parts::new(&config, identity.clone(), known, &metrics, shutdown.clone());
        let admin_router =
            admin::router(health.clone(), metrics).merge(admin_routes::routes(parts.peers.clone()));
        let admin_addr = admin::serve(config.admin, admin_router, &mut tasks, shutdown.clone()).await?;

        let planner = Planner {
            mesh: Mesh::new(source),
            peers: parts.peers.clone(),
            planner: parts.planner.clone(),
            metrics: parts.metrics.clone(),
            has_intent: health.condition("intent"),
        };
        let (accept, arrivals) = edges::door();
        let mut stop = shutdown.clone();
        let serving = tls::server()
            .add_service(server(accept))
            .serve_with_incoming_shutdown(
                tls::incoming(listener, identity),
                async move { stop.wait().await },
            );
        tasks.spawn("planner", planner.run(shutdown.clone()));
        tasks.spawn("edges", parts.edges.run(parts.known_edges, arrivals));
        tasks.spawn("feed-server", serving);
        tasks.spawn("uplink", parts.uplink.run(parts.uplink_inputs, shutdown.clone()));
        let failures = parts.metrics.save_failures.clone();
        tasks.spawn("disk", disk.keep(parts.peers, failures, shutdown));
        tracing::info!(name = config.name, %feed_addr, %admin_addr, "central is serving");
        Ok(Running {
            feed_addr,
            admin_addr,
            tasks,
        })
    }
}

impl Running {
    /// Runs until the shutdown.
    ///
    /// # Errors
    /// The first task that failed.
    pub async fn join(self) -> Result<(), CentralError> {
        Ok(self.tasks.join(GRACE).await?)
    }
}

/// Everything around the loop, wired.
struct Parts {
    peers: Arc<Peers>,
    planner: Arc<Notify>,
    metrics: CentralMetrics,
    edges: Edges,
    known_edges: BTreeMap<ClusterName, KnownEdge>,
    uplink: Uplink,
    uplink_inputs: Inputs,
}

impl Parts {
    fn new(
        config: &Config,
        identity: Arc<Identity>,
        known: Known,
        metrics: &Metrics,
        shutdown: Shutdown,
    ) -> Self {
        let metrics = CentralMetrics::register(metrics);
        let planner = Arc::new(Notify::new());
        let local = Party {
            node: config.name.clone(),
            plane: Plane::Central.to_string(),
        };
        let (management, uplink_inputs) = Peer::new(
            MANAGEMENT.to_owned(),
            known.intent,
            planner.clone(),
            metrics.link(MANAGEMENT),
        );
        let management = Arc::new(management);
        let peers = Arc::new(Peers::new(management.clone()));
        let relay = Arc::new(Relay::new(peers.clone()));
        let edges = Edges {
            local: local.clone(),
            relay: relay.clone(),
            peers: peers.clone(),
            planner: planner.clone(),
            metrics: metrics.clone(),
            shutdown,
        };
        let known_edges = known
            .reports
            .into_iter()
            .map(|(cluster, mirror)| (cluster.clone(), edges.add(&cluster, mirror)))
            .collect();
        let uplink = Uplink {
            target: config.management.clone(),
            identity,
            local,
            management,
            relay,
        };
        Self {
            peers,
            planner,
            metrics,
            edges,
            known_edges,
            uplink,
            uplink_inputs,
        }
    }
}

/// The one loop that owns the mesh. It wakes on a signal and on a timer, and works from the latest state.
struct Planner {
    mesh: Mesh,
    peers: Arc<Peers>,
    planner: Arc<Notify>,
    metrics: CentralMetrics,
    has_intent: Condition,
}

impl Planner {
    async fn run(mut self, mut shutdown: Shutdown) {
        self.has_intent
            .set_waiting("no intent on disk, and management has not been reached yet");
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut report_at = None;
        loop {
            self.look();
            if report_at.is_none() && self.mesh.has_news_for_management() {
                report_at = Some(Instant::now() + REPORT_DELAY);
            }
            tokio::select! {
                () = shutdown.wait() => return,
                () = self.planner.notified() => {}
                _ = looks.tick() => {}
                () = at(report_at), if report_at.is_some() => {
                    self.peers.management().publish(Some(self.mesh.upward()));
                    report_at = None;
                }
            }
        }
    }

    fn look(&mut self) {
        let edges = self.peers.edges();
        if let Some(news) = self.peers.management().news() {
            self.mesh.intent(news);
        }
        for (cluster, edge) in &edges {
            if let Some(news) = edge.news() {
                self.mesh.report(cluster, news);
            }
            self.mesh.agent(cluster, edge.agent());
        }
        let started = Instant::now();
        if let Some(recomputed) = self.mesh.settle() {
            self.metrics.plan_seconds.observe(started.elapsed().as_secs_f64());
            self.metrics.plan_keys.inc_by(recomputed as u64);
        }
        if let Some(version) = self.mesh.version() {
            self.metrics.planned(version);
            self.has_intent.set_ready();
        }
        for (cluster, edge) in &edges {
            edge.publish(self.mesh.publication(cluster));
        }
    }
}

async fn at(moment: Option<Instant>) {
    if let Some(moment) = moment {
        tokio::time::sleep_until(moment.into()).await;
    }
}

fn load_identity(config: &Config) -> Result<Identity, CentralError> {
    let identity = Identity::load(&config.identity)?;
    let id = identity.id();
    if id.plane == Plane::Central && id.name == config.name {
        return Ok(identity);
    }
    Err(CentralError::WrongIdentity {
        dir: config.identity.clone(),
        id: Box::new(id.clone()),
        name: config.name.clone(),
    })
}
