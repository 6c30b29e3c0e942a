//! Puts the edge together: platform and feed in, snapshots, xDS and reports out. Each loop owns its state; they share
//! the latest values by `watch`.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tombolo_compiler::name::ClusterName;
use tombolo_compiler::view::View;
use tombolo_runtime::admin::{self, AdminError, Condition, Health};
use tombolo_runtime::last_good::LastGoodError;
use tombolo_runtime::plane_id::{Plane, PlaneId};
use tombolo_runtime::shutdown::{Shutdown, TaskError, Tasks};
use tombolo_runtime::tls::{Identity, TlsError};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::admin::{Sources, routes};
use crate::ads::server::Ads;
use crate::authorities::{self, BadAuthorities};
use crate::feed::{Adopted, Feed};
use crate::fleet::Fleet;
use crate::keep::Keep;
use crate::key_hosts::{self, Addresses};
use crate::metrics::{Metrics, gauge};
use crate::plaintext::Plaintext;
use crate::platform::static_dir::StaticDir;
use crate::platform::{Platform, Seen};
use crate::quota::server::Quotas;
use crate::report::{self, Reporter};
use crate::snapshot::Snapshot;

/// Streams end at once when told to; what remains is the last write of the files.
const GRACE: Duration = Duration::from_secs(5);
/// How soon a proxy that froze or was cut off is unknown.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
pub struct Config {
    /// The mesh cluster that this edge serves; its identity must have the same name.
    pub cluster: ClusterName,
    /// `https://HOST:PORT` of every central; it reports to all and follows one.
    pub centrals: Vec<String>,
    /// The folder with `cert.pem`, `key.pem` and `ca.pem`.
    pub identity: PathBuf,
    /// The folder of the platform `static`.
    pub static_dir: PathBuf,
    pub xds_listen: SocketAddr,
    /// Where proxies may be served, and where gateways may listen for other clusters.
    pub plaintext: Plaintext,
    pub admin: SocketAddr,
    pub data_dir: PathBuf,
    /// A file of the authorities that the hosts of issuers' keys are believed by, in PEM; the system's by default.
    pub issuer_ca: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    #[error(transparent)]
    Identity(#[from] TlsError),
    #[error(
        "the identity in {dir} is {given} and not an edge's of cluster {cluster}: issue one with `tombolo cluster add {cluster}`"
    )]
    OtherIdentity {
        dir: PathBuf,
        given: Box<PlaneId>,
        cluster: ClusterName,
    },
    #[error("cannot create the data folder {dir}")]
    DataDir {
        dir: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Authorities(#[from] BadAuthorities),
    #[error(transparent)]
    Keep(#[from] LastGoodError),
    #[error("cannot listen on {addr} for proxies: check that no other process has it")]
    Bind {
        addr: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error(
        "{addr} is not on loopback, and proxies are served in plain text: use 127.0.0.1, or --allow-plaintext on a \
         network that you trust"
    )]
    Plaintext { addr: SocketAddr },
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error(transparent)]
    Task(#[from] TaskError),
}

/// A started edge.
#[derive(Debug)]
pub struct Running {
    /// Where proxies are served; differs from the configuration's when its port is 0.
    pub xds_addr: SocketAddr,
    pub admin_addr: SocketAddr,
    tasks: Tasks,
}

/// Serves until the shutdown.
///
/// # Errors
/// When it cannot start, or a part of it fails.
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), EdgeError> {
    start(config, shutdown).await?.join().await
}

/// Starts an edge and returns when its ports are open; before that it has read its last good state.
///
/// # Errors
/// When the identity, the data folder or a port cannot be used.
pub async fn start(config: Config, parent: Shutdown) -> Result<Running, EdgeError> {
    if !config.plaintext.allows(&config.xds_listen) {
        let addr = config.xds_listen;
        return Err(EdgeError::Plaintext { addr });
    }
    let identity = Arc::new(identity(&config)?);
    let authorities = authorities::load(config.issuer_ca.as_deref())?;
    std::fs::create_dir_all(&config.data_dir).map_err(|source| EdgeError::DataDir {
        dir: config.data_dir.clone(),
        source,
    })?;
    let keep = Keep::new(&config.data_dir);
    let (stored_slice, stored_view) = (keep.load_slice(), keep.load_view());
    let incarnation = keep.next_incarnation()?;

    let metrics = Metrics::default();
    let registry = admin::Metrics::default();
    metrics.register(&registry);
    let health = Health::default();
    let fleet = Fleet::new(keep.load_roster());
    let (mut tasks, shutdown) = Tasks::under(parent);

    let (views_out, views) = watch::channel(stored_view);
    let (snapshots_out, snapshots) = watch::channel(None);
    let (seen_out, seen) = watch::channel(Seen::default());
    let (publications_out, publications) = watch::channel(None);

    let (feed, links) = Feed::new(
        &config.cluster,
        &config.centrals,
        stored_slice,
        snapshots.clone(),
        &fleet,
        &metrics,
    );
    // Taken before anything can arrive, so that the saver sees every change.
    let slices = feed.adopted();
    links.spawn(&identity, &publications, &mut tasks, &shutdown);
    let platform: Box<dyn Platform> = Box::new(StaticDir::new(&config.static_dir));
    tasks.spawn("platform", platform.run(seen_out, shutdown.clone()));
    tasks.spawn(
        "view",
        take_view(
            seen.clone(),
            views_out,
            config.plaintext,
            metrics.clone(),
            shutdown.clone(),
        ),
    );
    let stored_addresses = keep.load_addresses();
    let (addresses_out, addresses) = watch::channel(stored_addresses);
    tasks.spawn(
        "key-hosts",
        key_hosts::run(slices.clone(), addresses_out, shutdown.clone()),
    );
    tasks.spawn(
        "save-key-hosts",
        keep.clone().save_addresses(addresses.clone(), shutdown.clone()),
    );
    let compose = Compose {
        authorities,
        cluster: config.cluster.clone(),
        slice_ready: health.condition("slice"),
        view_ready: health.condition("view"),
        snapshots: snapshots_out,
    };
    tasks.spawn(
        "snapshot",
        compose.run(slices.clone(), views.clone(), addresses, shutdown.clone()),
    );
    tasks.spawn("save-slice", keep.clone().save_slices(slices, shutdown.clone()));
    tasks.spawn(
        "save-view",
        keep.clone().save_views(views.clone(), shutdown.clone()),
    );
    tasks.spawn(
        "save-proxies",
        keep.save_rosters(fleet.rosters(), shutdown.clone()),
    );
    let reporter = Reporter::new(&config.cluster, incarnation);
    tasks.spawn(
        "report",
        report::run(
            reporter,
            views,
            snapshots.clone(),
            fleet.clone(),
            metrics.clone(),
            publications_out,
            shutdown.clone(),
        ),
    );

    let ads = Ads {
        cluster: config.cluster.clone(),
        snapshots: snapshots.clone(),
        lower: Snapshot::lower,
        fleet: fleet.clone(),
        metrics,
        shutdown: shutdown.clone(),
    };
    let xds_addr = serve_xds(config.xds_listen, ads, &mut tasks, shutdown.clone()).await?;
    let sources = Sources {
        cluster: config.cluster.clone(),
        snapshots,
        seen,
        fleet,
        feed,
    };
    let admin_addr = admin::serve(
        config.admin,
        routes(health, registry, sources),
        &mut tasks,
        shutdown,
    )
    .await?;
    tracing::info!(cluster = %config.cluster, %xds_addr, %admin_addr, "edge started");
    Ok(Running {
        xds_addr,
        admin_addr,
        tasks,
    })
}

impl Running {
    /// Waits for the shutdown, then for the tasks.
    ///
    /// # Errors
    /// The first task that failed.
    pub async fn join(self) -> Result<(), EdgeError> {
        Ok(self.tasks.join(GRACE).await?)
    }
}

fn identity(config: &Config) -> Result<Identity, EdgeError> {
    let identity = Identity::load(&config.identity)?;
    let id = identity.id();
    if id.plane == Plane::Edge && id.name == config.cluster.as_str() {
        return Ok(identity);
    }
    Err(EdgeError::OtherIdentity {
        dir: config.identity.clone(),
        given: Box::new(id.clone()),
        cluster: config.cluster.clone(),
    })
}

async fn serve_xds(
    addr: SocketAddr,
    ads: Ads,
    tasks: &mut Tasks,
    mut shutdown: Shutdown,
) -> Result<SocketAddr, EdgeError> {
    let quotas = Quotas::new(shutdown.clone());
    let bind = |source| EdgeError::Bind { addr, source };
    let listener = TcpListener::bind(addr).await.map_err(bind)?;
    let bound = listener.local_addr().map_err(bind)?;
    let server = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_service(ads.into_service())
        .add_service(quotas.clone().into_service());
    tasks.spawn("quotas", quotas.sweep());
    tasks.spawn("xds", async move {
        let stopped = async move { shutdown.wait().await };
        server
            .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), stopped)
            .await
    });
    Ok(bound)
}

/// What the platform sees becomes the view.
async fn take_view(
    mut seen: watch::Receiver<Seen>,
    views: watch::Sender<Option<Arc<View>>>,
    plaintext: Plaintext,
    metrics: Metrics,
    mut shutdown: Shutdown,
) {
    let mut told = BTreeSet::new();
    loop {
        tokio::select! {
            Ok(()) = seen.changed() => {}
            () = shutdown.wait() => return,
        }
        let now = seen.borrow_and_update().clone();
        metrics.platform_faults.set(gauge(now.faults.len()));
        views.send_if_modified(|held| {
            let next = now.listing.over(held.as_ref()).map(|view| {
                let (view, withheld) = plaintext.hold(view);
                for gateway in withheld.difference(&told) {
                    tracing::warn!(
                        %gateway,
                        "not listening for other clusters, because that is in plain text and not on loopback: \
                         use --allow-plaintext on a network that you trust"
                    );
                }
                told = withheld;
                view
            });
            let differs = next != *held;
            *held = next;
            differs
        });
    }
}

/// Makes a snapshot whenever slice or view changes and both are there.
struct Compose {
    cluster: ClusterName,
    authorities: Option<Arc<str>>,
    slice_ready: Condition,
    view_ready: Condition,
    snapshots: watch::Sender<Option<Arc<Snapshot>>>,
}

impl Compose {
    async fn run(
        self,
        mut slices: watch::Receiver<Option<Adopted>>,
        mut views: watch::Receiver<Option<Arc<View>>>,
        mut addresses: watch::Receiver<Option<Arc<Addresses>>>,
        mut shutdown: Shutdown,
    ) {
        loop {
            let known = addresses.borrow_and_update().clone();
            let slice = slices.borrow_and_update().clone();
            let view = views.borrow_and_update().clone();
            match &slice {
                Some(_) => self.slice_ready.set_ready(),
                None => self
                    .slice_ready
                    .set_waiting("no central has sent a complete slice, and none is on disk"),
            }
            match &view {
                Some(_) => self.view_ready.set_ready(),
                None => self
                    .view_ready
                    .set_waiting("the platform could not be listed whole, and no view is on disk"),
            }
            if let (Some(slice), Some(view)) = (slice, view) {
                self.snapshots.send_replace(Some(Arc::new(Snapshot {
                    cluster: self.cluster.clone(),
                    version: slice.version,
                    slice: slice.slice,
                    view,
                    addresses: known.unwrap_or_default(),
                    authorities: self.authorities.clone(),
                })));
            }
            tokio::select! {
                Ok(()) = slices.changed() => {}
                Ok(()) = views.changed() => {}
                Ok(()) = addresses.changed() => {}
                () = shutdown.wait() => return,
            }
        }
    }
}
