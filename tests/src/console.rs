//! A shell in which the `tombolo` binary reaches a management plane, as its users have it.

use std::env;
use std::fs;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::timeout;
use tombolo_management::{AuditConfig, Config, LoginConfig, Running, start};
use tombolo_runtime::authority::Authority;
use tombolo_runtime::plane_id::{Plane, PlaneId};
use tombolo_runtime::tls::install_crypto;

use crate::postgres::Postgres;
use crate::tombolo_binary;

/// Of one script. The longest has some dozens of commands that take less than a second each.
const SCRIPT_TIME_MAX: Duration = Duration::from_secs(180);

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
    /// `None` when it never ran, because the shell ended before.
    pub code: Option<i32>,
}

impl Console {
    pub async fn start() -> Console {
        Console::serving(None, LoginConfig::default()).await
    }

    /// With the web admin in this folder.
    pub async fn serving(web_dir: Option<PathBuf>, login: LoginConfig) -> Console {
        install_crypto();
        let dir = tempfile::tempdir().expect("cannot create a temporary folder");
        let planes = dir.path().join("planes");
        let authority =
            Authority::create_or_open(&planes.join("authority"), "acme").expect("cannot make an authority");
        let id = PlaneId::new("acme", Plane::Management, "m1").expect("invariant: the names are valid");
        let identity = planes.join("identity");
        authority.issue(&id, &identity).expect("cannot issue an identity");
        fs::create_dir_all(dir.path().join("work")).expect("cannot create a folder");
        let config = Config {
            listen: ([127, 0, 0, 1], 0).into(),
            feed_listen: ([127, 0, 0, 1], 0).into(),
            identity,
            organization: "acme".parse().expect("invariant: the name is valid"),
            data_dir: planes.join("data"),
            database_url: Some(Postgres::start().create_database().await),
            audit: AuditConfig::default(),
            requests_max: NonZeroU32::MAX,
            web_dir,
            break_glass: None,
            login,
        };
        let running = start(config).await.expect("management does not start");
        Console { running, dir }
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

    /// Runs the commands one after the other in one shell, so that its variables and its folder last. The token is that of
    /// an administrator.
    ///
    /// # Errors
    /// The shell cannot be run, or takes too long.
    pub async fn run(&self, commands: &[&str]) -> Result<Vec<Said>> {
        let outputs = tempfile::tempdir().context("cannot create a temporary folder")?;
        let output = |number: usize, what: &str| outputs.path().join(format!("{number}.{what}"));
        let steps = commands.iter().enumerate().map(|(number, command)| {
            let (text, code) = (output(number, "text"), output(number, "code"));
            format!(
                "{{\n{command}\n}} > '{}' 2>&1\necho $? > '{}'\n",
                text.display(),
                code.display()
            )
        });
        let script = outputs.path().join("script");
        fs::write(&script, steps.collect::<String>()).context("cannot write the script")?;
        let binary = tombolo_binary();
        let folder = binary.parent().unwrap_or(Path::new("/"));
        let path = format!("{}:{}", folder.display(), env::var("PATH").unwrap_or_default());
        let shell = Command::new("bash")
            .arg(&script)
            .current_dir(self.folder())
            .env_clear()
            .env("PATH", path)
            .env("HOME", self.dir.path())
            .env("TOMBOLO_SERVER", self.server())
            .env("TOMBOLO_TOKEN", self.token())
            .kill_on_drop(true)
            .output();
        timeout(SCRIPT_TIME_MAX, shell)
            .await
            .context("the script takes too long")?
            .context("cannot run bash")?;
        let said = (0..commands.len()).map(|number| Said {
            text: fs::read_to_string(output(number, "text")).unwrap_or_default(),
            code: fs::read_to_string(output(number, "code"))
                .ok()
                .and_then(|code| code.trim().parse().ok()),
        });
        Ok(said.collect())
    }

    pub async fn stop(self) {
        if let Err(error) = self.running.stop().await {
            panic!("management does not stop: {error:?}");
        }
    }
}
