//! The demo's mesh: every process, the people who use it, and the traffic.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::{Instant, sleep};
use tombolo_management::embedded::EmbeddedPostgres;
use tombolo_runtime::authority::Authority;
use tombolo_runtime::plane_id::{Plane, PlaneId};

use super::process::{PROGRAM, Process, Recipe};
use super::topology::{CENTRALS, CLUSTERS, Cluster, ORGANIZATION, Topology};
use super::traffic::{Sample, Traffic};
use crate::client::{Client, ServerArgs};

/// How long any wanted state may take before an act has failed.
pub(super) const STATE_TIMEOUT: Duration = Duration::from_secs(30);
const STATE_POLL: Duration = Duration::from_millis(20);
/// What management prints before the administrator's token, once.
const TOKEN_LINE: &str = "bootstrap administrator token: ";

pub(super) struct Mesh {
    pub(super) topology: Topology,
    pub(super) traffic: Option<Traffic>,
    pub(super) tokens: Tokens,
    processes: BTreeMap<String, Process>,
    postgres: Option<EmbeddedPostgres>,
}

/// What each person proves their identity with.
#[derive(Default)]
pub(super) struct Tokens {
    pub(super) admin: String,
    pub(super) ann: String,
    pub(super) bob: String,
}

/// What a `tombolo` command printed and returned.
pub(super) struct Printed {
    pub(super) success: bool,
    pub(super) code: Option<i32>,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl Mesh {
    pub(super) fn new(topology: Topology) -> Mesh {
        Mesh {
            topology,
            traffic: None,
            tokens: Tokens::default(),
            processes: BTreeMap::new(),
            postgres: None,
        }
    }

    pub(super) async fn start_planes(&mut self) -> anyhow::Result<()> {
        std::fs::create_dir_all(self.topology.logs()).context("create the folder of logs")?;
        let authority = Authority::create_or_open(&self.topology.authority(), ORGANIZATION)?;
        let issue = |plane, name: &str, folder: &str| -> anyhow::Result<()> {
            Ok(authority.issue(
                &PlaneId::new(ORGANIZATION, plane, name)?,
                &self.topology.identity(folder),
            )?)
        };
        issue(Plane::Management, "management", "management")?;
        for name in CENTRALS {
            issue(Plane::Central, name, &format!("central-{name}"))?;
        }
        self.start_management().await?;
        self.tokens.admin = self.bootstrap_token()?;
        for name in CENTRALS {
            self.start(&self.topology.central(name))?;
        }
        Ok(())
    }

    pub(super) async fn start_management(&mut self) -> anyhow::Result<()> {
        let postgres = EmbeddedPostgres::start(&self.topology.postgres())
            .await
            .context("start Postgres")?;
        let management = self.topology.management(postgres.url());
        self.postgres = Some(postgres);
        self.start(&management)?;
        self.ready(&management.name).await
    }

    /// Registers a cluster over the API, which also writes its edge's identity; then starts all of its processes.
    pub(super) async fn add_cluster(&mut self, cluster: Cluster) -> anyhow::Result<()> {
        let authority = self.topology.authority().display().to_string();
        let identity = self.topology.identity(cluster.name).display().to_string();
        let admin = self.tokens.admin.clone();
        let args = [
            "cluster",
            "add",
            cluster.name,
            "--region",
            cluster.name,
            "--authority",
            &authority,
            "--out",
            &identity,
        ];
        self.tombolo(&admin, &args, "").await?.expect_success(&args)?;
        self.topology.write_platform(cluster)?;
        self.start_cluster(cluster)
    }

    pub(super) fn start_cluster(&mut self, cluster: Cluster) -> anyhow::Result<()> {
        for recipe in self.recipes(cluster) {
            self.start(&recipe)?;
        }
        Ok(())
    }

    pub(super) async fn cluster_ready(&mut self, cluster: Cluster) -> anyhow::Result<()> {
        for recipe in self.recipes(cluster) {
            self.ready(&recipe.name).await?;
        }
        Ok(())
    }

    /// All of a cluster's processes, the applications first.
    fn recipes(&self, cluster: Cluster) -> [Recipe; 5] {
        [
            cluster.reviews(1),
            cluster.reviews(2),
            self.topology.edge(cluster),
            self.topology.gateway(cluster),
            self.topology.sidecar(cluster),
        ]
    }

    pub(super) fn start(&mut self, recipe: &Recipe) -> anyhow::Result<()> {
        let process = recipe.start(&self.topology.logs())?;
        self.processes.insert(recipe.name.clone(), process);
        Ok(())
    }

    pub(super) async fn ready(&mut self, name: &str) -> anyhow::Result<()> {
        self.process(name)?.ready().await
    }

    pub(super) async fn kill(&mut self, name: &str) -> anyhow::Result<()> {
        let process = self
            .processes
            .remove(name)
            .with_context(|| format!("{name} does not run"))?;
        process.kill().await
    }

    pub(super) async fn kill_cluster(&mut self, cluster: Cluster) -> anyhow::Result<()> {
        for recipe in self.recipes(cluster) {
            self.kill(&recipe.name).await?;
        }
        Ok(())
    }

    pub(super) fn freeze_cluster(&mut self, cluster: Cluster) -> anyhow::Result<()> {
        self.recipes(cluster)
            .iter()
            .try_for_each(|recipe| self.process(&recipe.name)?.freeze())
    }

    pub(super) fn thaw_cluster(&mut self, cluster: Cluster) -> anyhow::Result<()> {
        self.recipes(cluster)
            .iter()
            .try_for_each(|recipe| self.process(&recipe.name)?.thaw())
    }

    /// As a power cut would: no checkpoint, no farewell.
    pub(super) async fn kill_postgres(&mut self) -> anyhow::Result<()> {
        let postgres = self.postgres.take().context("postgres does not run")?;
        let pid = Pid::from_raw(postgres.pid().cast_signed()).context("postgres has no process id")?;
        kill_process(pid, Signal::QUIT).context("end postgres at once")?;
        postgres.stop().await;
        Ok(())
    }

    fn process(&mut self, name: &str) -> anyhow::Result<&mut Process> {
        self.processes
            .get_mut(name)
            .with_context(|| format!("{name} does not run"))
    }

    /// Runs this program's own client, as that person would.
    pub(super) async fn tombolo(&self, token: &str, args: &[&str], stdin: &str) -> anyhow::Result<Printed> {
        let mut child = Command::new(PROGRAM)
            .args(args)
            .env("TOMBOLO_SERVER", format!("http://{}", self.topology.api))
            .env("TOMBOLO_ORGANIZATION", ORGANIZATION)
            .env("TOMBOLO_TOKEN", token)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("start the client")?;
        let mut input = child.stdin.take().context("reach the client's input")?;
        input
            .write_all(stdin.as_bytes())
            .await
            .context("write to the client")?;
        drop(input);
        let output = child.wait_with_output().await.context("wait for the client")?;
        Ok(Printed {
            success: output.status.success(),
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// For what no command asks.
    pub(super) fn client(&self, token: &str) -> anyhow::Result<Client> {
        Client::new(ServerArgs::new(
            &format!("http://{}", self.topology.api),
            Some(token),
        ))
    }

    /// Applies documents and waits until every proxy concerned has proven that it runs them.
    pub(super) async fn apply(&self, token: &str, documents: &str) -> anyhow::Result<Duration> {
        let started = Instant::now();
        let args = ["apply", "-f", "-", "--overwrite", "--wait", "--timeout", "30s"];
        self.tombolo(token, &args, documents)
            .await?
            .expect_success(&args)?;
        Ok(started.elapsed())
    }

    pub(super) async fn json(&self, token: &str, args: &[&str]) -> anyhow::Result<Value> {
        let printed = self.tombolo(token, args, "").await?.expect_success(args)?;
        serde_json::from_str(&printed.stdout)
            .with_context(|| format!("read what `tombolo {}` printed", args.join(" ")))
    }

    pub(super) async fn new_token(&self, user: &str) -> anyhow::Result<String> {
        let name = format!("organizations/{ORGANIZATION}/users/{user}");
        let created = self
            .json(&self.tokens.admin, &["token", "create", &name, "-o", "json"])
            .await?;
        created["token"]
            .as_str()
            .map(str::to_owned)
            .context("the answer holds no token")
    }

    fn bootstrap_token(&self) -> anyhow::Result<String> {
        let log = self.topology.logs().join("management.log");
        let text = std::fs::read_to_string(&log).with_context(|| format!("read {}", log.display()))?;
        let token = text
            .lines()
            .find_map(|line| line.split_once(TOKEN_LINE))
            .map(|(_, token)| token.trim().to_owned());
        token.with_context(|| format!("{} does not show the administrator's token", log.display()))
    }

    pub(super) fn traffic(&self) -> anyhow::Result<&Traffic> {
        self.traffic.as_ref().context("the traffic has not started")
    }

    /// Waits until the samples since `from` are as wanted.
    pub(super) async fn until(
        &self,
        what: &str,
        from: Instant,
        wanted: impl Fn(&[Sample]) -> bool,
    ) -> anyhow::Result<Vec<Sample>> {
        let deadline = Instant::now() + STATE_TIMEOUT;
        loop {
            let samples = self.traffic()?.ledger.since(from);
            if wanted(&samples) {
                return Ok(samples);
            }
            if Instant::now() > deadline {
                let last = samples
                    .iter()
                    .rev()
                    .find_map(|sample| sample.outcome.as_ref().err());
                bail!("{what} did not come to be within {STATE_TIMEOUT:?}; last failure: {last:?}");
            }
            sleep(STATE_POLL).await;
        }
    }

    /// Ends every process, clients first, truth last.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        drop(self.traffic.take());
        for (_, process) in std::mem::take(&mut self.processes) {
            process.kill().await?;
        }
        if let Some(postgres) = self.postgres.take() {
            postgres.stop().await;
        }
        Ok(())
    }

    pub(super) async fn all_ready(&mut self) -> anyhow::Result<()> {
        let names: Vec<String> = self.processes.keys().cloned().collect();
        for name in names {
            self.ready(&name).await?;
        }
        for cluster in CLUSTERS {
            self.cluster_ready(cluster).await?;
        }
        Ok(())
    }
}

impl Printed {
    pub(super) fn expect_success(self, args: &[&str]) -> anyhow::Result<Printed> {
        if self.success {
            return Ok(self);
        }
        bail!(
            "`tombolo {}` failed:\n{}{}",
            args.join(" "),
            self.stdout,
            self.stderr
        )
    }
}
