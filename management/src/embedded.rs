//! A private Postgres for the demo, for tests, and for whoever starts management without a database.
//!
//! It is a real server under a data directory of ours, reached through a Unix socket only. The server never runs as
//! root and never outlives this process. It is not a supervisor: a server that crashes stays down, which
//! management answers like any other lost database.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

mod account;
mod binaries;

use account::Account;
use binaries::Binaries;

/// The name of the cluster's superuser and of the database that [`EmbeddedPostgres::url`] leads to.
const NAME: &str = "tombolo";
/// Names the socket file; nothing listens on a TCP port.
const PORT: u16 = 5432;
/// The kernel's limit for a socket's path, less the closing zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// From spawn to the first connection. A recovery after a crash of a small cluster takes seconds.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// A fast shutdown writes one checkpoint.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A running private server. Dropping it begins a fast shutdown without waiting for its end; so does the
/// end of this process, however it ends.
#[derive(Debug)]
pub struct EmbeddedPostgres {
    url: String,
    pid: u32,
    server: Child,
    watchdog: Child,
    /// Held for as long as we run, so that a second management cannot use the same directory.
    _lock: File,
}

#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    #[error(
        "no postgres server (14 or newer) found; set DATABASE_URL to a running server, set TOMBOLO_POSTGRES_BIN to a \
         folder with postgres and initdb, run `cargo xtask assets`, or install the package postgresql; looked in: {looked_in}"
    )]
    NoBinaries { looked_in: String },
    #[error("TOMBOLO_POSTGRES_BIN={path} is not usable: {reason}", path = path.display())]
    BadBinaries { path: PathBuf, reason: String },
    #[error(
        "postgres refuses to run as root and there is no user `postgres` or `nobody` to run it as; create one"
    )]
    NoAccount,
    #[error("user {user} cannot reach {path}; choose a data directory whose parents everyone may enter", path = path.display())]
    Unreachable { path: PathBuf, user: String },
    #[error("{path} is in use by another process; stop it, or choose another data directory", path = path.display())]
    InUse { path: PathBuf },
    #[error(
        "{path} was written by postgres {found}, but the server found is {server}; use pg_upgrade, or set \
         TOMBOLO_POSTGRES_BIN to a postgres {found}",
        path = path.display()
    )]
    OtherVersion {
        path: PathBuf,
        found: String,
        server: u32,
    },
    #[error(
        "the socket path {path} is longer than {SOCKET_PATH_BYTES_MAX} bytes; choose a data directory with a shorter path",
        path = path.display()
    )]
    SocketPathTooLong { path: PathBuf },
    #[error("cannot {doing} {path}", path = path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{program} failed: {output}", program = program.display())]
    Program { program: PathBuf, output: String },
    #[error("postgres did not get ready: {last_error}; its log {log} ends with: {tail}", log = log.display())]
    NotReady {
        last_error: String,
        log: PathBuf,
        tail: String,
    },
    #[error("cannot create the database {NAME}")]
    CreateDatabase(#[source] sqlx::Error),
}

/// What lies where in the data directory. Ours is the directory itself with lock and log; the server's account owns
/// the two folders below it, and nobody else may enter those.
#[derive(Clone, Debug)]
struct Layout {
    root: PathBuf,
}

/// Why one attempt to start did not lead to a ready server.
enum Attempt {
    /// The previous server, or one of its children, has not ended yet.
    Busy(String),
    Failed(String),
}

impl EmbeddedPostgres {
    /// Starts a server on `data_dir`, creating the cluster when there is none, and waits until it answers.
    ///
    /// The directory belongs to the server from then on. When we are root the server runs as `postgres` or, without such a
    /// user, `nobody`, and every parent of the directory must let that user pass.
    ///
    /// # Errors
    /// No usable binaries, a directory that is in use, unreachable or of another major version, or a server that
    /// does not get ready; the text names the fix.
    pub async fn start(data_dir: &Path) -> Result<EmbeddedPostgres, EmbeddedError> {
        let account = Account::for_server().await?;
        let layout = Layout::prepare(data_dir, account.as_ref())?;
        let lock = layout.lock()?;
        let binaries = Binaries::locate(account.as_ref()).await?;
        match layout.cluster_version()? {
            Some(found) if found != binaries.major.to_string() => {
                return Err(EmbeddedError::OtherVersion {
                    path: layout.cluster(),
                    found,
                    server: binaries.major,
                });
            }
            Some(_) => {}
            None => create_cluster(&layout, &binaries, account.as_ref()).await?,
        }

        let (server, pid, watchdog) = start_server(&layout, &binaries, account.as_ref()).await?;
        let postgres = EmbeddedPostgres {
            url: url(&layout.socket_dir()),
            pid,
            server,
            watchdog,
            _lock: lock,
        };
        ensure_database(&layout.socket_dir())
            .await
            .map_err(EmbeddedError::CreateDatabase)?;
        Ok(postgres)
    }

    /// Where to connect, as the cluster's superuser.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The process id of the server (the postmaster).
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Ends every session, writes a checkpoint and waits for the server's end.
    pub async fn stop(mut self) {
        if let Ok(Some(_)) = self.server.try_wait() {
            // The server is gone and its pid may be another's by now: the watchdog must not signal it.
            let _ = self.watchdog.kill().await;
            return;
        }
        drop(self.watchdog.stdin.take());
        if timeout(STOP_TIMEOUT, self.server.wait()).await.is_err() {
            tracing::warn!(pid = self.pid, "postgres did not stop in time; killing it");
            let _ = self.server.kill().await;
        }
        let _ = self.watchdog.wait().await;
    }
}

impl Layout {
    fn prepare(data_dir: &Path, account: Option<&Account>) -> Result<Layout, EmbeddedError> {
        fs::create_dir_all(data_dir).map_err(at("create", data_dir))?;
        let layout = Layout {
            root: fs::canonicalize(data_dir).map_err(at("resolve", data_dir))?,
        };
        let socket = layout.socket_dir().join(format!(".s.PGSQL.{PORT}"));
        if socket.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            return Err(EmbeddedError::SocketPathTooLong { path: socket });
        }
        let mode = if account.is_some() { 0o711 } else { 0o700 };
        fs::set_permissions(&layout.root, fs::Permissions::from_mode(mode))
            .map_err(at("set permissions of", &layout.root))?;
        if let Some(account) = account
            && !account.can_enter(&layout.root)
        {
            return Err(EmbeddedError::Unreachable {
                path: layout.root,
                user: account.name.clone(),
            });
        }
        create_private_dir(&layout.socket_dir(), account)?;
        Ok(layout)
    }

    /// The cluster itself, `PGDATA`.
    fn cluster(&self) -> PathBuf {
        self.root.join("cluster")
    }

    fn socket_dir(&self) -> PathBuf {
        self.root.join("socket")
    }

    fn log(&self) -> PathBuf {
        self.root.join("postgres.log")
    }

    fn lock(&self) -> Result<File, EmbeddedError> {
        let path = self.root.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(at("open", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(fs::TryLockError::WouldBlock) => Err(EmbeddedError::InUse {
                path: self.root.clone(),
            }),
            Err(fs::TryLockError::Error(source)) => Err(EmbeddedError::Io {
                doing: "lock",
                path,
                source,
            }),
        }
    }

    fn cluster_version(&self) -> Result<Option<String>, EmbeddedError> {
        let path = self.cluster().join("PG_VERSION");
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(EmbeddedError::Io {
                doing: "read",
                path,
                source,
            }),
        }
    }

    /// The server that holds the cluster, as its lock file says.
    fn owner_pid(&self) -> Option<u32> {
        let text = fs::read_to_string(self.cluster().join("postmaster.pid")).ok()?;
        text.lines().next()?.trim().parse().ok()
    }

    fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(8)..].join(" | ")
    }
}

/// Runs initdb beside the final place and renames, so that a crash half-way leaves no half a cluster.
async fn create_cluster(
    layout: &Layout,
    binaries: &Binaries,
    account: Option<&Account>,
) -> Result<(), EmbeddedError> {
    let draft = layout.root.join("cluster.new");
    if draft.exists() {
        fs::remove_dir_all(&draft).map_err(at("remove", &draft))?;
    }
    create_private_dir(&draft, account)?;
    let program = binaries.program("initdb");
    let mut command = Command::new(&program);
    // Trust is as good as the folder of the socket, which only the server's account may enter.
    command
        .args([
            "--username",
            NAME,
            "--auth",
            "trust",
            "--encoding",
            "UTF8",
            "--locale",
            "C",
            "--pgdata",
        ])
        .arg(&draft)
        .current_dir(&layout.root);
    run(&program, command, account).await?;
    fs::rename(&draft, layout.cluster()).map_err(at("rename", &draft))
}

async fn start_server(
    layout: &Layout,
    binaries: &Binaries,
    account: Option<&Account>,
) -> Result<(Child, u32, Child), EmbeddedError> {
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        let (mut server, pid) = spawn_server(layout, binaries, account)?;
        let mut watchdog = spawn_watchdog(pid, account)?;
        let last_error = match await_ready(layout, &mut server, pid, deadline).await {
            Ok(()) => return Ok((server, pid, watchdog)),
            Err(Attempt::Busy(_)) if Instant::now() < deadline => {
                let _ = watchdog.kill().await;
                sleep(POLL_INTERVAL * 10).await;
                continue;
            }
            Err(Attempt::Busy(error) | Attempt::Failed(error)) => error,
        };
        return Err(EmbeddedError::NotReady {
            last_error,
            log: layout.log(),
            tail: layout.log_tail(),
        });
    }
}

fn spawn_server(
    layout: &Layout,
    binaries: &Binaries,
    account: Option<&Account>,
) -> Result<(Child, u32), EmbeddedError> {
    // Each attempt has a log of its own: what it says decides whether we try again.
    let log = File::create(layout.log()).map_err(at("create", &layout.log()))?;
    let program = binaries.program("postgres");
    let mut command = Command::new(&program);
    command
        .arg("-D")
        .arg(layout.cluster())
        .args(["-p", &PORT.to_string(), "-c", "listen_addresses=", "-k"])
        .arg(layout.socket_dir())
        .current_dir(&layout.root)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        // Ctrl-C in a terminal reaches the whole group; the server must outlive management's drain.
        .process_group(0);
    if let Some(account) = account {
        account.apply(&mut command);
    }
    let server = command.spawn().map_err(at("run", &program))?;
    let pid = server
        .id()
        .expect("invariant: a child that nobody waited for has a pid");
    Ok((server, pid))
}

/// A shell that reads from a pipe of which we hold the only other end. When we let go of it - by `stop`, by drop, or because this
/// process has ended in any way - it asks the server for a fast shutdown.
///
/// A parent-death signal would do less: Linux sends it when the *thread* that spawned the child ends.
fn spawn_watchdog(server_pid: u32, account: Option<&Account>) -> Result<Child, EmbeddedError> {
    let mut command = Command::new("sh");
    command
        .args([
            "-c",
            "read -r _; kill -INT \"$1\"",
            "watchdog",
            &server_pid.to_string(),
        ])
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    if let Some(account) = account {
        account.apply(&mut command);
    }
    command.spawn().map_err(at("run", Path::new("sh")))
}

async fn await_ready(
    layout: &Layout,
    server: &mut Child,
    pid: u32,
    deadline: Instant,
) -> Result<(), Attempt> {
    let options = connect_options(&layout.socket_dir()).database("postgres");
    let mut last_error = "it was never asked".to_owned();
    while Instant::now() < deadline {
        if let Ok(Some(status)) = server.try_wait() {
            let error = format!("it exited with {status}");
            return Err(if is_busy(&layout.log_tail()) {
                Attempt::Busy(error)
            } else {
                Attempt::Failed(error)
            });
        }
        // Until our server owns the cluster, its predecessor may be the one that answers.
        if layout.owner_pid() == Some(pid) {
            match options.connect().await {
                Ok(connection) => {
                    let _ = connection.close().await;
                    return Ok(());
                }
                Err(error) => last_error = error.to_string(),
            }
        }
        sleep(POLL_INTERVAL).await;
    }
    Err(Attempt::Failed(last_error))
}

/// Whether the server's log says that its predecessor is still going away, as it is for a moment after
/// management was killed and started again.
fn is_busy(log_tail: &str) -> bool {
    [
        "lock file \"postmaster.pid\" already exists",
        "pre-existing shared memory block",
        "lock file \"/",
    ]
    .iter()
    .any(|sign| log_tail.contains(sign))
}

async fn ensure_database(socket_dir: &Path) -> Result<(), sqlx::Error> {
    let mut connection = connect_options(socket_dir).database("postgres").connect().await?;
    let exists: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM pg_database WHERE datname = $1)")
        .bind(NAME)
        .fetch_one(&mut connection)
        .await?;
    if !exists {
        sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {NAME}")))
            .execute(&mut connection)
            .await?;
    }
    connection.close().await
}

fn connect_options(socket_dir: &Path) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass()
        .socket(socket_dir)
        .port(PORT)
        .username(NAME)
        .ssl_mode(PgSslMode::Disable)
}

/// An address that libpq's programs understand too: the socket's folder, percent-encoded, stands for the host.
fn url(socket_dir: &Path) -> String {
    let mut host = String::new();
    for &byte in socket_dir.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            host.push(char::from(byte));
        } else {
            host.push_str(&format!("%{byte:02X}"));
        }
    }
    format!("postgres://{NAME}@{host}:{PORT}/{NAME}?sslmode=disable")
}

fn create_private_dir(path: &Path, account: Option<&Account>) -> Result<(), EmbeddedError> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        result => result.map_err(at("create", path))?,
    }
    match account {
        Some(account) => {
            chown(path, Some(account.uid), Some(account.gid)).map_err(at("change the owner of", path))
        }
        None => Ok(()),
    }
}

/// Runs a program to its end; its output becomes the error's text when it fails.
async fn run(
    program: &Path,
    mut command: Command,
    account: Option<&Account>,
) -> Result<String, EmbeddedError> {
    if let Some(account) = account {
        account.apply(&mut command);
    }
    let output = command
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(at("run", program))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let text = [output.stdout, output.stderr].concat();
    Err(EmbeddedError::Program {
        program: program.to_owned(),
        output: String::from_utf8_lossy(&text).trim().replace('\n', " | "),
    })
}

fn at(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> EmbeddedError {
    let path = path.to_owned();
    move |source| EmbeddedError::Io { doing, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_predecessor_that_is_going_away_is_waited_for() {
        let cases = [
            (
                "FATAL:  lock file \"postmaster.pid\" already exists | HINT: ...",
                true,
            ),
            (
                "FATAL:  lock file \"/tmp/x/.s.PGSQL.5432.lock\" already exists",
                true,
            ),
            (
                "FATAL:  pre-existing shared memory block (key 1, ID 2) is still in use",
                true,
            ),
            ("FATAL:  could not access the server configuration file", false),
            ("", false),
        ];
        for (log, busy) in cases {
            assert_eq!(is_busy(log), busy, "{log}");
        }
    }

    #[test]
    fn a_folder_with_odd_letters_survives_the_url() {
        let url = url(Path::new("/tmp/a b/ü?&"));
        assert_eq!(
            url,
            "postgres://tombolo@%2Ftmp%2Fa%20b%2F%C3%BC%3F%26:5432/tombolo?sslmode=disable"
        );
    }

    #[test]
    fn errors_say_what_to_do() {
        let error = EmbeddedError::OtherVersion {
            path: "/data/cluster".into(),
            found: "15".into(),
            server: 18,
        };
        assert_eq!(
            error.to_string(),
            "/data/cluster was written by postgres 15, but the server found is 18; use pg_upgrade, or set \
             TOMBOLO_POSTGRES_BIN to a postgres 15"
        );
    }
}
