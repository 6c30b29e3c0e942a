//! Starting and stopping the plane: database, organization, loops and listeners.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};
use tombolo_compiler::intent::Resource;
use tombolo_compiler::name::{BadName, Fqn, Kind, Label};
use tombolo_runtime::admin::{Health, Metrics};
use tombolo_runtime::backoff::{Backoff, jitter};
use tombolo_runtime::plane_id::{Plane, PlaneId};
use tombolo_runtime::shutdown::{Shutdown, TaskError, Tasks, Trigger};
use tombolo_runtime::telemetry::chain;
use tombolo_runtime::tls::{Identity, TlsError};

use crate::api::{self, App, AppState};
use crate::audit::{KeyError, SigningKey};
use crate::break_glass::{self, BreakGlassError};
use crate::change::{Change, ChangeVerb};
use crate::computations::Computations;
use crate::delivery::{Courier, Couriers, Target};
use crate::denial::Denials;
use crate::embedded::{EmbeddedError, EmbeddedPostgres};
use crate::feed::Feed;
use crate::iam::Principal;
use crate::idempotency::{self, InFlight};
use crate::indexer::Indexer;
use crate::keeper::Keeper;
use crate::limit::Limits;
use crate::login::{Login, LoginConfig, OidcError};
use crate::lookup::Lookups;
use crate::metrics::ApiMetrics;
use crate::outbound::{Outbound, OutboundError};
use crate::report_history;
use crate::site::{Site, SiteError};
use crate::snapshot::Snapshot;
use crate::standing::Standing;
use crate::store::{self, Store, StoreError};
use crate::token::{self, Issued, Order, Token};
use crate::writer::{WriteError, Writer, create_organization, load_since, write_steps};

/// A database that starts together with us may need a while.
const DATABASE_PATIENCE: Duration = Duration::from_secs(60);
/// What the limit of requests is counted over.
const REQUESTS_TIME: Duration = Duration::from_secs(1);
/// From the signal to the end: requests under way are answered, accepted writes are written.
const GRACE: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
pub struct Config {
    /// REST, `/healthz`, `/readyz` and `/metrics`.
    pub listen: SocketAddr,
    /// The feed for centrals, over mTLS.
    pub feed_listen: SocketAddr,
    /// The folder of this process's TLS identity.
    pub identity: PathBuf,
    pub organization: Label,
    /// Where the private Postgres lives when there is no `database_url`.
    pub data_dir: PathBuf,
    pub database_url: Option<String>,
    pub audit: AuditConfig,
    /// Of one principal, per second.
    pub requests_max: NonZeroU32,
    /// The files of the web admin, as its build leaves them; none by default.
    pub web_dir: Option<PathBuf>,
    /// The file of the break-glass credential, which is made when it is missing; none by default.
    pub break_glass: Option<PathBuf>,
    pub login: LoginConfig,
}

/// How the audit record is kept.
#[derive(Clone, Debug, Default)]
pub struct AuditConfig {
    /// The file of the key that signs checkpoints; `audit-key.pem` in the data folder by default.
    pub key: Option<PathBuf>,
    /// Whole months that are kept besides the present one; everything by default.
    pub retention_months: Option<u32>,
    /// Where signed checkpoints go.
    pub targets: Vec<Target>,
    /// The authorities of targets over TLS, a PEM file; the public ones by default.
    pub authorities: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub enum ManagementError {
    #[error("cannot start the private postgres")]
    Embedded(#[from] EmbeddedError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot load the organization")]
    Load(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("cannot use the TLS identity")]
    Identity(#[from] TlsError),
    #[error("the TLS identity in {dir} is {given}, which is not a management of {organization}", dir = dir.display())]
    OtherIdentity {
        dir: PathBuf,
        given: Box<PlaneId>,
        organization: Label,
    },
    #[error("cannot listen on {addr}: check that no other process has it")]
    Bind {
        addr: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("the organization's name cannot be used")]
    Organization(#[from] BadName),
    #[error(transparent)]
    Site(#[from] SiteError),
    #[error(transparent)]
    AuditKey(#[from] KeyError),
    #[error("cannot send audit checkpoints out")]
    AuditTarget(#[from] OutboundError),
    #[error(transparent)]
    BreakGlass(#[from] BreakGlassError),
    #[error("cannot let people log in at the provider")]
    Oidc(#[from] OidcError),
    #[error("the system gives no randomness for a token")]
    Randomness(#[source] getrandom::Error),
    #[error(transparent)]
    Task(#[from] TaskError),
}

/// A management plane that serves.
#[derive(Debug)]
pub struct Running {
    api_addr: SocketAddr,
    feed_addr: SocketAddr,
    bootstrap_token: Option<String>,
    tasks: Tasks,
    trigger: Trigger,
    store: Store,
    embedded: Option<EmbeddedPostgres>,
}

/// Serves until the shutdown. Prints the bootstrap administrator's token when it creates the organization.
///
/// # Errors
/// What keeps it from starting, or the loop that failed.
pub async fn run(config: Config, mut shutdown: Shutdown) -> Result<(), ManagementError> {
    let running = tokio::select! {
        running = start(config) => running?,
        () = shutdown.wait() => return Ok(()),
    };
    running.until(shutdown).await
}

/// # Errors
/// What keeps it from starting.
pub async fn start(config: Config) -> Result<Running, ManagementError> {
    Box::pin(assemble(config)).await
}

async fn assemble(config: Config) -> Result<Running, ManagementError> {
    let organization: Fqn = format!("organizations/{}", config.organization).parse()?;
    let identity = Arc::new(Identity::load(&config.identity)?);
    let id = identity.id();
    if id.plane != Plane::Management || id.organization != config.organization.as_str() {
        return Err(ManagementError::OtherIdentity {
            dir: config.identity,
            given: Box::new(id.clone()),
            organization: config.organization,
        });
    }
    let site = config.web_dir.as_deref().map(Site::load).transpose()?;
    let (embedded, url) = match &config.database_url {
        Some(url) => (None, url.clone()),
        None => {
            let postgres = EmbeddedPostgres::start(&config.data_dir.join("postgres")).await?;
            let url = postgres.url().to_owned();
            (Some(postgres), url)
        }
    };
    let store = Store::open(&url, config.organization.clone())?;
    Box::pin(migrate(&store)).await?;
    // Whoever was away for months has none to write into.
    Box::pin(store.add_partitions()).await?;
    let bootstrap_token = Box::pin(bootstrap(&store, &organization))
        .await
        .map_err(load_error)?;
    if let Some(token) = &bootstrap_token {
        // The one time that it is shown.
        println!("bootstrap administrator token: {}", token.reveal());
    }
    let snapshot = Box::pin(load(&store)).await.map_err(load_error)?;
    let sealed_until = match &config.break_glass {
        Some(path) => Box::pin(break_glass::seal(&store, &organization, &id.to_string(), path)).await?,
        None => None,
    };
    let key_file = config.audit.key.clone();
    let key_file = key_file.unwrap_or_else(|| config.data_dir.join("audit-key.pem"));
    let key = Arc::new(SigningKey::open_or_create(&key_file)?);
    let outbound = Outbound::new(config.audit.authorities.as_deref())?;
    let (keeper, signed) = Keeper::new(
        store.clone(),
        organization.clone(),
        key,
        config.audit.retention_months,
    );
    Box::pin(keeper.register_key()).await?;

    let (trigger, shutdown) = Shutdown::new();
    let (mut tasks, shutdown) = Tasks::under(shutdown);
    let health = Health::default();
    health.condition("migrations").set_ready();
    let postgres = health.condition("postgres");
    postgres.set_ready();
    let (writer, writes) = Writer::new(store.clone(), snapshot, postgres);
    let behind = writer.behind();
    let (denials, denial_writer) = Denials::new(store.clone());
    let feed = Feed::open(store.clone(), writes.clone(), identity).await?;
    let computations = Computations::default();
    let waiting = computations.waiting();
    let metrics = ApiMetrics::register(&Metrics::default(), denials.dropped(), behind, waiting);
    metrics.break_glass().set_expiry(sealed_until);
    keeper.metrics().register(metrics.registry());
    let indexer = Indexer::new(store.clone());
    indexer.register(metrics.registry());
    let couriers = Couriers::default();
    for target in config.audit.targets {
        let organization = organization.leaf().to_owned();
        let courier = Courier::new(
            store.clone(),
            organization,
            target,
            outbound.clone(),
            signed.clone(),
            &couriers,
        );
        tasks.spawn("audit-courier", courier.run(shutdown.clone()));
    }
    couriers.register(metrics.registry());
    let standing = Standing::default();
    let (lookups, loops) = Lookups::new(&store);
    for lookup_loop in loops {
        tasks.spawn("lookups", lookup_loop.run());
    }
    let app = App::from(AppState {
        organization,
        store: store.clone(),
        lookups,
        writes: writes.clone(),
        computations,
        denials,
        mesh: feed.mesh(),
        questions: feed.questions(),
        metrics: metrics.clone(),
        site: site.map(Arc::new),
        in_flight: InFlight::default(),
        limits: Limits::new(config.requests_max, REQUESTS_TIME),
        login: Login::new(&config.login)?,
        standing: standing.clone(),
        shutdown: shutdown.clone(),
    });

    let api_listener = bind(config.listen).await?;
    let feed_listener = bind(config.feed_listen).await?;
    let (api_addr, feed_addr) = (addr(&api_listener)?, addr(&feed_listener)?);
    tasks.spawn("writer", writer.run(shutdown.clone()));
    tasks.spawn("denials", denial_writer.run(shutdown.clone()));
    tasks.spawn(
        "report-history",
        report_history::run(store.clone(), feed.mesh(), shutdown.clone()),
    );
    tasks.spawn(
        "idempotency-keys",
        idempotency::prune(store.clone(), shutdown.clone()),
    );
    tasks.spawn("standing", standing.run(store.clone(), shutdown.clone()));
    tasks.spawn("audit-keeper", keeper.run(shutdown.clone()));
    tasks.spawn("audit-indexer", indexer.run(shutdown.clone()));
    tasks.spawn("feed", feed.run(feed_listener, shutdown.clone()));
    let router = api::router(app, health).into_make_service_with_connect_info::<SocketAddr>();
    let mut drain = shutdown.clone();
    tasks.spawn("api", async move {
        axum::serve(api_listener, router)
            .with_graceful_shutdown(async move { drain.wait().await })
            .await
    });
    let (mut snapshots, mut ending) = (writes.watch(), shutdown);
    tasks.spawn("revision-metric", async move {
        loop {
            let revision = snapshots.borrow_and_update().version.revision;
            metrics.revision.set(revision.cast_signed());
            tokio::select! {
                changed = snapshots.changed() => if changed.is_err() { return },
                () = ending.wait() => return,
            }
        }
    });
    tracing::info!(%api_addr, %feed_addr, "management serves");
    Ok(Running {
        api_addr,
        feed_addr,
        bootstrap_token: bootstrap_token.map(|token| token.reveal()),
        tasks,
        trigger,
        store,
        embedded,
    })
}

impl Running {
    pub fn api_addr(&self) -> SocketAddr {
        self.api_addr
    }

    pub fn feed_addr(&self) -> SocketAddr {
        self.feed_addr
    }

    /// The administrator's first token, when this start created the organization.
    pub fn bootstrap_token(&self) -> Option<&str> {
        self.bootstrap_token.as_deref()
    }

    /// Serves until `shutdown` fires or a task fails, then drains.
    ///
    /// # Errors
    /// The task that failed, or that did not stop in time.
    pub async fn until(self, mut shutdown: Shutdown) -> Result<(), ManagementError> {
        let trigger = self.trigger.clone();
        let joined = {
            let mut joining = Box::pin(self.tasks.join(GRACE));
            tokio::select! {
                joined = &mut joining => joined,
                () = shutdown.wait() => {
                    trigger.fire();
                    joining.await
                }
            }
        };
        self.store.close().await;
        if let Some(postgres) = self.embedded {
            postgres.stop().await;
        }
        Ok(joined?)
    }

    /// Stops now.
    ///
    /// # Errors
    /// As [`Running::until`].
    pub async fn stop(self) -> Result<(), ManagementError> {
        let (trigger, shutdown) = Shutdown::new();
        trigger.fire();
        self.until(shutdown).await
    }
}

/// Waits for a database that is not there yet, and then for other replicas that migrate.
async fn migrate(store: &Store) -> Result<(), StoreError> {
    let deadline = Instant::now() + DATABASE_PATIENCE;
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    loop {
        match store.migrate().await {
            Err(error) if error.is_transient() && Instant::now() < deadline => {
                tracing::warn!(error = chain(&error), "waiting for the database");
                sleep(backoff.next(jitter())).await;
            }
            done => return done,
        }
    }
}

/// At the first start: the organization, the user `admin`, its binding and its token, in one transaction.
async fn bootstrap(
    store: &Store,
    organization: &Fqn,
) -> Result<Option<Token>, Box<dyn std::error::Error + Send + Sync>> {
    let admin = organization.child(Kind::User, &"admin".parse()?)?;
    let binding = organization.child(Kind::Binding, &"admin".parse()?)?;
    let documents = [
        json!({"name": organization}),
        json!({"name": admin, "spec": {"displayName": "bootstrap administrator"}}),
        json!({"name": binding, "spec": {"role": "admin", "subjects": [admin]}}),
    ];
    let mut changes = Vec::new();
    for document in documents {
        let resource = Resource::from_json(document)?;
        changes.push(Change {
            name: resource.name.clone(),
            verb: ChangeVerb::Create(Arc::new(resource)),
            uid: None,
        });
    }
    let mut tx = store.begin_as(&Principal::System).await?;
    let Some((prepared, caller)) = create_organization(store, &mut tx, &changes).await? else {
        return Ok(None);
    };
    let head = store.lock_head(&mut tx).await?;
    let (mut tx, snapshot) = write_steps(store, tx, &head, &caller, &prepared, "").await?;
    let user = snapshot.get(&admin).ok_or("the administrator was not created")?;
    let user_uid = user.uid;
    let token = Token::generate().map_err(ManagementError::Randomness)?;
    let order = Order {
        user: admin,
        description: "bootstrap".to_owned(),
        expires_at: None,
    };
    let head = store.lock_head(&mut tx).await?;
    token::store_token(
        store,
        &mut tx,
        head,
        &caller,
        &order,
        user_uid,
        Issued::Token(&token),
    )
    .await?;
    store::commit(tx).await?;
    Ok(Some(token))
}

/// Everything, with the realms made to fit: they are derived, and an older version may have written bindings.
async fn load(store: &Store) -> Result<Snapshot, WriteError> {
    // Of a large organization that takes longer than Postgres lets a transaction rest, and others write meanwhile: only what
    // they wrote is left for behind the lock.
    let snapshot = load_since(store, &Snapshot::empty()).await?;
    let mut tx = store.begin_as(&Principal::System).await?;
    store.lock_head(&mut tx).await?;
    let snapshot = load_since(store, &snapshot).await?;
    store.set_realms(&mut tx, &snapshot.realms()).await?;
    store::commit(tx).await?;
    Ok(snapshot)
}

fn load_error(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ManagementError {
    ManagementError::Load(error.into())
}

async fn bind(addr: SocketAddr) -> Result<TcpListener, ManagementError> {
    let bound = TcpListener::bind(addr).await;
    bound.map_err(|source| ManagementError::Bind { addr, source })
}

fn addr(listener: &TcpListener) -> Result<SocketAddr, ManagementError> {
    let bound = listener.local_addr();
    bound.map_err(|source| ManagementError::Bind {
        addr: SocketAddr::from(([0, 0, 0, 0], 0)),
        source,
    })
}
