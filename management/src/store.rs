//! All that is known of SQL. One file per aggregate; a write takes the transaction that it is part of, and a
//! transaction belongs to the principal for whom it was begun: row-level security shows it nothing else.

use std::sync::Arc;
use std::time::Duration;

use sea_query::{Iden, PostgresQueryBuilder};
use sea_query_sqlx::SqlxBinder;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions, PgRow};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Postgres};
use tokio::time::timeout;
use tombolo_compiler::name::Label;

use crate::iam::Principal;

pub(crate) mod audit;
pub(crate) mod device;
pub(crate) mod history;
pub(crate) mod idempotency;
pub(crate) mod joined;
pub(crate) mod login;
pub(crate) mod lookup;
pub(crate) mod organization;
pub(crate) mod plan;
pub(crate) mod realm;
pub(crate) mod report;
pub(crate) mod report_history;
pub(crate) mod resource;
pub(crate) mod role;
pub(crate) mod session;
pub(crate) mod token;

/// For statements that are transactions of their own.
pub(crate) type Connection = PoolConnection<Postgres>;
pub(crate) type Tx = sqlx::Transaction<'static, Postgres>;

static MIGRATIONS: Migrator = sqlx::migrate!("../migrations");

/// A write holds one connection and waits for one lock; more would only queue in Postgres instead of here.
const CONNECTIONS_MAX: u32 = 16;
/// A caller is better told to retry than left waiting.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);
/// Bounds every statement, the wait for the head row included; milliseconds, as Postgres reads it.
const STATEMENT_TIMEOUT_MS: &str = "5000";
/// A database that runs has ended a statement by [`STATEMENT_TIMEOUT_MS`]; one that is frozen, or behind a network
/// that drops packets, answers never and closes nothing.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(6);
const BEGIN_SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
/// A connection that has rested for longer is asked whether it still answers before it is used. Asking each time would
/// cost every request a round trip.
pub(crate) const REST_TRUSTED: Duration = Duration::from_secs(1);
/// SQLSTATE of a statement that its timeout has ended.
const QUERY_CANCELED: &str = "57014";
/// SQLSTATE of a row that no policy allows, and of what a role was not granted.
const INSUFFICIENT_PRIVILEGE: &str = "42501";

/// The database, seen from one organization.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    /// As whom the migrations run; owns the tables.
    owner: PgConnectOptions,
    /// Works as [`role::APP`].
    pool: PgPool,
    organization: Label,
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot {doing}: the database is not reachable; check that postgres runs")]
    Unavailable {
        doing: &'static str,
        #[source]
        source: sqlx::Error,
    },
    #[error("cannot {doing}: the database has not answered for {seconds} s", seconds = ANSWER_TIMEOUT.as_secs())]
    Silent { doing: &'static str },
    /// Of a statement that was asked for many.
    #[error(transparent)]
    Shared(Arc<StoreError>),
    #[error("management is stopping")]
    Stopping,
    #[error("cannot {doing}: it took the database longer than {STATEMENT_TIMEOUT_MS} ms; try again")]
    TooSlow {
        doing: &'static str,
        #[source]
        source: sqlx::Error,
    },
    #[error("cannot {doing}")]
    Query {
        doing: &'static str,
        #[source]
        source: sqlx::Error,
    },
    /// The first wall let through what the second one holds.
    #[error("cannot {doing}: row-level security keeps it from this principal")]
    Walled {
        doing: &'static str,
        #[source]
        source: sqlx::Error,
    },
    /// After an upgrade.
    #[error(
        "the audit record is being indexed, {records} records are left: try again in some minutes, or ask for the \
         newest ones, or those of before"
    )]
    Unindexed { records: u64 },
    #[error("the row of {name} in {table} cannot be read: {reason}")]
    Corrupt {
        table: &'static str,
        name: String,
        reason: String,
    },
    #[error("the row of {name} was changed by somebody else than tombolo; nothing was written")]
    Meddled { name: String },
    #[error("cannot apply the migrations: was the database used by a newer version?")]
    Migrate(#[source] MigrateError),
    #[error(
        "{user} may not make the roles that keep tenants apart; run this once as an administrator of the database: {sql}"
    )]
    RolesMissing { user: String, sql: String },
    #[error(
        "the role {role} bypasses row-level security; take that from it: ALTER ROLE {role} NOSUPERUSER NOBYPASSRLS"
    )]
    RoleTooStrong { role: String },
}

#[derive(Clone, Copy, Iden)]
enum Organizations {
    Table,
    Name,
    Epoch,
    Revision,
    AuditSequence,
    AuditHash,
    AuditTime,
    HistorySince,
}

#[derive(Clone, Copy, Iden)]
enum Resources {
    Table,
    Name,
    Organization,
    Uid,
    Kind,
    Document,
    Etag,
    Revision,
    CreatedAt,
    UpdatedAt,
    ManagedBy,
    ManagedRevision,
    ManagedFields,
    Owner,
}

#[derive(Clone, Copy, Iden)]
enum History {
    Table,
    Organization,
    Name,
    Revision,
    Uid,
    Action,
    Actor,
    Time,
    Document,
    Etag,
    CreatedAt,
}

#[derive(Clone, Copy, Iden)]
enum IdempotencyKeys {
    Table,
    Organization,
    Principal,
    Key,
    Request,
    Status,
    Location,
    Etag,
    Body,
    CreatedAt,
}

#[derive(Clone, Copy, Iden)]
enum Tombstones {
    Table,
    Name,
    Organization,
    Uid,
    Revision,
}

#[derive(Clone, Copy, Iden)]
enum JoinedClusters {
    Table,
    Uid,
    Organization,
    Revision,
    JoinedAt,
}

#[derive(Clone, Copy, Iden)]
enum Realms {
    Table,
    Organization,
    Principal,
    Realm,
    Writes,
}

#[derive(Clone, Copy, Iden)]
enum Tokens {
    Table,
    Id,
    Organization,
    Sha256,
    UserUid,
    Description,
    CreatedAt,
    ExpiresAt,
    RevokedAt,
    IssuedBy,
    PublicKey,
}

#[derive(Clone, Copy, Iden)]
enum DenialHeads {
    Table,
    Organization,
    Sequence,
    Hash,
    Time,
}

#[derive(Clone, Copy, Iden)]
enum Reports {
    Table,
    Organization,
    Central,
    Document,
    ReceivedAt,
}

#[derive(Clone, Copy, Iden)]
enum Plans {
    Table,
    Id,
    Organization,
    Node,
    Author,
    AuthorUid,
    Description,
    Plan,
    Documents,
    CreatedAt,
    ExpiresAt,
    State,
    Manager,
    Force,
}

#[derive(Clone, Copy, Iden)]
enum PlanVotes {
    Table,
    PlanId,
    Organization,
    Node,
    Voter,
    VoterUid,
    Approves,
    Comment,
    Time,
}

#[derive(Clone, Copy, Iden)]
enum ReportBodies {
    Table,
    Organization,
    Hash,
    Body,
}

#[derive(Clone, Copy, Iden)]
enum ReportTimes {
    Table,
    Organization,
    Cluster,
    Since,
    Hash,
}

impl Store {
    /// Connects lazily: an unreachable database shows with the first statement.
    pub(crate) fn open(url: &str, organization: Label) -> Result<Store, StoreError> {
        let owner: PgConnectOptions = url.parse().map_err(|source| StoreError::Query {
            doing: "read the address of the database",
            source,
        })?;
        let owner = owner.application_name("tombolo");
        let options = owner.clone().options([
            ("statement_timeout", STATEMENT_TIMEOUT_MS),
            ("idle_in_transaction_session_timeout", STATEMENT_TIMEOUT_MS),
            ("role", role::APP),
            ("tombolo.organization", organization.as_str()),
        ]);
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS_MAX)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .test_before_acquire(false)
            .before_acquire(|connection, resting| {
                Box::pin(async move {
                    match resting.idle_for < REST_TRUSTED {
                        true => Ok(true),
                        false => still_answers(connection).await,
                    }
                })
            })
            .after_release(|connection, _| Box::pin(acts_for_nobody(connection)))
            .connect_lazy_with(options);
        Ok(Store {
            owner,
            pool,
            organization,
        })
    }

    /// Makes the roles and applies the migrations that are missing, under a lock that other replicas wait for. As the
    /// owner of the tables, on a connection of its own, and for as long as it takes: a table may be large.
    pub(crate) async fn migrate(&self) -> Result<(), StoreError> {
        let mut owner = bounded("connect", PgConnection::connect_with(&self.owner)).await?;
        role::ensure(&mut owner).await?;
        let done = MIGRATIONS.run(&mut owner).await;
        // What closing could fail at, the server does by itself.
        let _ = timeout(ANSWER_TIMEOUT, owner.close()).await;
        done.map_err(|error| match error {
            MigrateError::Execute(source) | MigrateError::ExecuteMigration(source, _) => {
                classify("apply the migrations", source)
            }
            error => StoreError::Migrate(error),
        })
    }

    /// A transaction that sees and changes what the second wall grants to the principal, in that transaction only.
    pub(crate) async fn begin_as(&self, principal: &Principal) -> Result<Tx, StoreError> {
        self.begin(format!("BEGIN; {}", acting_as(principal))).await
    }

    /// As [`Store::begin_as`], for reads that all see one moment.
    pub(crate) async fn read_as(&self, principal: &Principal) -> Result<Tx, StoreError> {
        let acting = acting_as(principal);
        self.begin(format!("{BEGIN_SNAPSHOT}; {acting}")).await
    }

    /// As [`Store::read_as`], with each statement planned once for all values: to plan a look at a dozen months takes longer
    /// than the look.
    pub(crate) async fn read_months_as(&self, principal: &Principal) -> Result<Tx, StoreError> {
        let acting = acting_as(principal);
        self.begin(format!(
            "{BEGIN_SNAPSHOT}; {acting}; SET LOCAL plan_cache_mode = force_generic_plan"
        ))
        .await
    }

    /// Reads what is published, of all tenants, at one moment: for the snapshot in memory, never for a caller.
    pub(crate) async fn read_published(&self) -> Result<Tx, StoreError> {
        self.begin(format!("{BEGIN_SNAPSHOT}; SET LOCAL ROLE {}", role::PUBLISHER))
            .await
    }

    /// One round trip: the statements travel together.
    async fn begin(&self, statements: String) -> Result<Tx, StoreError> {
        let begun = self.pool.begin_with(AssertSqlSafe(statements));
        bounded("begin a transaction", begun).await
    }

    /// For one statement that is a transaction of its own. It is nobody's.
    pub(crate) async fn connection(&self) -> Result<Connection, StoreError> {
        bounded("connect", self.pool.acquire()).await
    }

    pub(crate) async fn close(&self) {
        self.pool.close().await;
    }
}

impl StoreError {
    /// Whether it may work later without anybody changing anything.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            StoreError::Shared(error) => error.is_transient(),
            StoreError::TooSlow { .. } | StoreError::Unindexed { .. } | StoreError::Stopping => true,
            error => error.is_away(),
        }
    }

    /// Whether it says something of the database as a whole, and not of one statement.
    pub(crate) fn is_away(&self) -> bool {
        match self {
            StoreError::Shared(error) => error.is_away(),
            error => matches!(error, StoreError::Unavailable { .. } | StoreError::Silent { .. }),
        }
    }
}

/// Ends with the transaction. Nothing in it comes from outside: a uid is hexadecimal.
fn acting_as(principal: &Principal) -> String {
    match principal {
        Principal::System => format!("SET LOCAL ROLE {}", role::SYSTEM),
        Principal::User { uid, .. }
        | Principal::ServiceAccount { uid, .. }
        | Principal::BreakGlass { uid, .. } => {
            format!("SET LOCAL tombolo.principal = '{uid}'")
        }
    }
}

pub(crate) async fn commit(tx: Tx) -> Result<(), StoreError> {
    bounded("commit", tx.commit()).await
}

/// How many rows it touched.
async fn execute(
    connection: &mut PgConnection,
    doing: &'static str,
    statement: &impl SqlxBinder,
) -> Result<u64, StoreError> {
    let (sql, values) = statement.build_sqlx(PostgresQueryBuilder);
    let done = sqlx::query_with(AssertSqlSafe(sql), values).execute(connection);
    Ok(bounded(doing, done).await?.rows_affected())
}

async fn fetch(
    connection: &mut PgConnection,
    doing: &'static str,
    statement: &impl SqlxBinder,
) -> Result<Vec<PgRow>, StoreError> {
    let (sql, values) = statement.build_sqlx(PostgresQueryBuilder);
    let rows = sqlx::query_with(AssertSqlSafe(sql), values).fetch_all(connection);
    bounded(doing, rows).await
}

async fn bounded<T>(
    doing: &'static str,
    asking: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, StoreError> {
    match timeout(ANSWER_TIMEOUT, asking).await {
        Ok(answer) => answer.map_err(|source| classify(doing, source)),
        Err(_) => Err(StoreError::Silent { doing }),
    }
}

/// Keeps a connection out of the pool, and the pool from waiting for it, when nobody answers any more.
async fn still_answers(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    in_time(connection.ping()).await.map(|()| true)
}

/// Rolls back what a dropped transaction has left. Of one that is dropped while it begins sqlx 0.9.0 does not know
/// (launchbadge/sqlx#4393): such a connection would carry its principal into the next request, so it is closed.
async fn acts_for_nobody(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let principals = "SELECT current_setting('role') = $1 AND coalesce(current_setting('tombolo.principal', true), '') = ''";
    let nobody = sqlx::query_scalar(principals).bind(role::APP);
    in_time(nobody.fetch_one(connection)).await
}

async fn in_time<T>(asking: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    match timeout(ANSWER_TIMEOUT, asking).await {
        Ok(answer) => answer,
        Err(_) => Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())),
    }
}

/// Tells a database that is away, stopping or overloaded from a statement that will never work.
fn classify(doing: &'static str, source: sqlx::Error) -> StoreError {
    match source
        .as_database_error()
        .and_then(|error| error.code())
        .as_deref()
    {
        Some(QUERY_CANCELED) => return StoreError::TooSlow { doing, source },
        Some(INSUFFICIENT_PRIVILEGE) => return StoreError::Walled { doing, source },
        _ => {}
    }
    let away = match &source {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::Protocol(_)
        | sqlx::Error::WorkerCrashed => true,
        // Classes of SQLSTATE: connection, rollback for want of order, resources, operator, and system.
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            ["08", "40", "53", "55", "57", "58"]
                .iter()
                .any(|c| code.starts_with(c))
        }),
        _ => false,
    };
    if away {
        StoreError::Unavailable { doing, source }
    } else {
        StoreError::Query { doing, source }
    }
}
