//! One real Postgres per test process, with a database for each test.

use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::runtime;
use tombolo_management::embedded::EmbeddedPostgres;

use crate::watchdog::Watchdog;

/// Waits, for ten seconds at most, until the server has let go of its cluster.
pub(crate) const REMOVE_WHEN_STOPPED: &str = "i=0; while [ -e \"$2/cluster/postmaster.pid\" ] && [ $i -lt 100 ]; \
                                   do sleep 0.1; i=$((i+1)); done; rm -rf \"$2\"";

static SERVER: OnceLock<Server> = OnceLock::new();
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// The server of this test process.
#[derive(Clone, Copy, Debug)]
pub struct Postgres {
    server: &'static Server,
}

/// Statics are never dropped: the end of the process closes the pipes that stop the server and remove its files.
#[derive(Debug)]
struct Server {
    postgres: EmbeddedPostgres,
    _cleanup: Watchdog,
}

impl Postgres {
    /// Starts the server, or gives the one that another test has started.
    ///
    /// A test that stops or kills its server starts an [`EmbeddedPostgres`] of its own instead.
    pub fn start() -> Postgres {
        let start = || thread::spawn(start_server).join().expect("cannot start postgres");
        Postgres {
            server: SERVER.get_or_init(start),
        }
    }

    /// The address of a new, empty database, as its superuser.
    pub async fn create_database(&self) -> String {
        let name = format!("test_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        let url = self.server.postgres.url();
        let mut connection = PgConnection::connect(url)
            .await
            .expect("cannot connect to postgres");
        sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}")))
            .execute(&mut connection)
            .await
            .expect("cannot create a database");
        connection.close().await.expect("cannot disconnect from postgres");
        url.replacen("/tombolo?", &format!("/{name}?"), 1)
    }

    /// The process id of the server.
    pub fn pid(&self) -> u32 {
        self.server.postgres.pid()
    }
}

/// Runs on a thread of its own: the caller may be inside a runtime that ends with its test.
fn start_server() -> Server {
    let dir = tempfile::Builder::new()
        .prefix("tombolo-test-")
        .tempdir()
        .expect("cannot create a temporary directory")
        .keep();
    let start = async |dir: &Path| {
        EmbeddedPostgres::start(dir)
            .await
            .unwrap_or_else(|error| panic!("{error}"))
    };
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("cannot build a runtime");
    let postgres = runtime.block_on(start(&dir));
    let cleanup = Watchdog::new(REMOVE_WHEN_STOPPED, postgres.pid(), &dir);
    Server {
        postgres,
        _cleanup: cleanup,
    }
}
