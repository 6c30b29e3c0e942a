//! A shell in which the `tombolo` binary reaches a management plane, as its users have it.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;
use tombolo_compiler::name::ClusterName;
use tombolo_compiler::report::ClusterReport;
use tombolo_management::{AuditConfig, Config, LoginConfig, Running, start};
use tombolo_runtime::authority::Authority;
use tombolo_runtime::plane_id::{Plane, PlaneId};
use tombolo_runtime::tls::install_crypto;

use crate::central::Central;
use crate::feed::ORGANIZATION;
use crate::postgres::Postgres;
use crate::tombolo_binary;

/// Of one command, on a machine that may be busy.
const COMMAND_TIME_MAX: Duration = Duration::from_secs(60);

/// A management plane for the organization `acme` on a database of its own, and an empty folder to work in.
#[derive(Debug)]
pub struct Console {
    running: Running,
    dir: TempDir,
}

/// What a command has said on both of its outputs, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    pub text: String,
    /// `None` when it has not ended yet, or never ran, because the shell ended before.
    pub code: Option<i32>,
}

/// A bash that does what it is told, one command after the other, so that its variables and its folder last.
#[derive(Debug)]
pub struct Shell {
    /// Ended on drop.
    _child: Child,
    commands: ChildStdin,
    /// The exit code of each command.
    codes: Lines<BufReader<ChildStdout>>,
    outputs: TempDir,
    /// How many commands there were.
    count: usize,
}

/// A command that goes on while others are run; ended on drop.
#[derive(Debug)]
pub struct Open {
    child: Child,
    output: PathBuf,
}

impl Console {
    pub async fn start() -> Console {
        Console::start_with(|_, _| {}).await
    }

    /// With the web admin in this folder.
    pub async fn serving(web_dir: Option<PathBuf>, login: LoginConfig) -> Console {
        Console::start_with(|config, _| {
            config.web_dir = web_dir;
            config.login = login;
        })
        .await
    }

    /// Configured by `configure`, which is also told of the folder that scripts run in.
    pub async fn start_with(configure: impl FnOnce(&mut Config, &Path)) -> Console {
        install_crypto();
        let dir = tempfile::tempdir().expect("cannot create a temporary folder");
        let planes = dir.path().join("planes");
        let authority = Authority::create_or_open(&planes.join("authority"), ORGANIZATION)
            .expect("cannot make an authority");
        let id = PlaneId::new(ORGANIZATION, Plane::Management, "m1").expect("invariant: the names are valid");
        let identity = planes.join("identity");
        authority.issue(&id, &identity).expect("cannot issue an identity");
        let work = dir.path().join("work");
        fs::create_dir_all(&work).expect("cannot create a folder");
        let mut config = Config {
            listen: ([127, 0, 0, 1], 0).into(),
            feed_listen: ([127, 0, 0, 1], 0).into(),
            identity,
            organization: ORGANIZATION.parse().expect("invariant: the name is valid"),
            data_dir: planes.join("data"),
            database_url: Some(Postgres::start().create_database().await),
            audit: AuditConfig::default(),
            requests_max: NonZeroU32::MAX,
            web_dir: None,
            break_glass: None,
            login: LoginConfig::default(),
        };
        configure(&mut config, &work);
        let running = start(config).await.expect("management does not start");
        Console { running, dir }
    }

    /// A central that has reported these clusters, until it is dropped.
    ///
    /// # Errors
    /// Management does not take what it says.
    pub async fn reporting(&self, clusters: &BTreeMap<ClusterName, ClusterReport>) -> Result<Central> {
        let planes = self.dir.path().join("planes");
        let authority = Authority::create_or_open(&planes.join("authority"), ORGANIZATION)
            .context("cannot open the authority")?;
        Central::report(&authority, self.running.feed_addr(), &planes, clusters).await
    }

    pub fn api(&self) -> SocketAddr {
        self.running.api_addr()
    }

    /// Of an administrator.
    pub fn token(&self) -> &str {
        self.running.bootstrap_token().unwrap_or_default()
    }

    /// Where management is.
    pub fn server(&self) -> String {
        format!("http://{}", self.api())
    }

    /// The folder in which scripts run.
    pub fn folder(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    /// A shell in which the token is that of an administrator.
    ///
    /// # Errors
    /// There is no bash.
    pub fn shell(&self) -> Result<Shell> {
        let outputs = tempfile::tempdir().context("cannot create a temporary folder")?;
        let binary = tombolo_binary();
        let folder = binary.parent().unwrap_or(Path::new("/"));
        let path = format!("{}:{}", folder.display(), env::var("PATH").unwrap_or_default());
        let mut child = Command::new("bash")
            .current_dir(self.folder())
            .env_clear()
            .env("PATH", path)
            .env("HOME", self.dir.path())
            .env("TOMBOLO_SERVER", self.server())
            .env("TOMBOLO_TOKEN", self.token())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("cannot run bash")?;
        let commands = child.stdin.take().context("bash has no standard input")?;
        let codes = child.stdout.take().context("bash has no standard output")?;
        Ok(Shell {
            _child: child,
            commands,
            codes: BufReader::new(codes).lines(),
            outputs,
            count: 0,
        })
    }

    /// Runs the commands one after the other in one shell.
    ///
    /// # Errors
    /// As for [`Console::shell`] and [`Shell::run`].
    pub async fn run(&self, commands: &[&str]) -> Result<Vec<Said>> {
        let mut shell = self.shell()?;
        let mut said = Vec::new();
        for command in commands {
            said.push(shell.run(command).await?);
        }
        Ok(said)
    }

    pub async fn stop(self) {
        if let Err(error) = self.running.stop().await {
            panic!("management does not stop: {error:?}");
        }
    }
}

impl Shell {
    /// # Errors
    /// It takes too long.
    pub async fn run(&mut self, command: &str) -> Result<Said> {
        let output = self.next_output();
        let script = format!(
            "{{\n{command}\n}} < /dev/null > '{}' 2>&1\necho $?\n",
            output.display()
        );
        let told = timeout(COMMAND_TIME_MAX, self.tell(&script)).await;
        let code = told.with_context(|| format!("it takes too long: {command}"))?;
        Ok(Said {
            text: fs::read_to_string(output).unwrap_or_default(),
            code: code.and_then(|code| code.parse().ok()),
        })
    }

    /// Starts one simple command, with the folder and the exported variables of this moment.
    ///
    /// # Errors
    /// There is no bash, or this one has ended.
    pub async fn open(&mut self, command: &str) -> Result<Open> {
        let exported = self.next_output();
        let script = format!("export -p > '{}'\necho $?\n", exported.display());
        let told = timeout(COMMAND_TIME_MAX, self.tell(&script)).await;
        told.context("bash takes too long")?.context("bash has ended")?;
        let output = self.next_output();
        let file = File::create(&output).context("cannot create a file for the output")?;
        // `exec`, so that it is the command itself that ends with the value.
        let script = format!("source '{}'\ncd \"$PWD\"\nexec {command}", exported.display());
        let child = Command::new("bash")
            .args(["-c", &script])
            .env_clear()
            .stdin(Stdio::null())
            .stdout(file.try_clone().context("cannot share the file of the output")?)
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .context("cannot run bash")?;
        Ok(Open { child, output })
    }

    /// The exit code of what it is told; `None` when it has ended before.
    async fn tell(&mut self, script: &str) -> Option<String> {
        self.commands.write_all(script.as_bytes()).await.ok()?;
        self.commands.flush().await.ok()?;
        self.codes.next_line().await.ok()?
    }

    fn next_output(&mut self) -> PathBuf {
        self.count += 1;
        self.outputs.path().join(self.count.to_string())
    }
}

impl Open {
    /// So far.
    ///
    /// # Errors
    /// Its state cannot be asked for.
    pub fn said(&mut self) -> Result<Said> {
        let ended = self.child.try_wait().context("cannot ask for its state")?;
        Ok(Said {
            text: fs::read_to_string(&self.output).unwrap_or_default(),
            code: ended.and_then(|status| status.code()),
        })
    }
}
