//! One cluster on its own: a real edge, below a central that the test scripts. The slice is what `plan` makes of the
//! test's intent, of what the edge reports, and of what the test says that other clusters report.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tombolo_compiler::intent::{Intent, Resource};
use tombolo_compiler::name::ClusterName;
use tombolo_compiler::plan::plan;
use tombolo_compiler::report::{ClusterReport, ReportItem, Reports};
use tombolo_compiler::resolve::resolve;
use tombolo_runtime::authority::Authority;
use tombolo_runtime::plane_id::{Plane, PlaneId};

use crate::feed::{Above, Heard, ORGANIZATION, stamp};
use crate::process::Process;
use crate::proxy::await_ready;
use crate::{free_port, tombolo_binary};

/// Within the folder of an island.
const ISSUER_CA: &str = "issuers.pem";

/// What an island is made of.
#[derive(Clone, Debug)]
pub struct Given<'a> {
    pub cluster: &'a str,
    /// A YAML list of resources.
    pub intent: &'a str,
    /// The YAML of the static platform.
    pub platform: &'a str,
    /// What other clusters report.
    pub others: BTreeMap<ClusterName, ClusterReport>,
    /// By whom the hosts of issuers' keys are believed.
    pub issuer_ca: Option<&'a Path>,
}

/// A running edge; gone on drop.
#[derive(Debug)]
pub struct Island {
    edge: Process,
    xds: SocketAddr,
    admin: SocketAddr,
    central: Arc<Above>,
    planning: JoinHandle<()>,
    dir: TempDir,
    cluster: String,
}

impl Island {
    /// Starts the edge and waits until it serves its proxies.
    ///
    /// # Errors
    /// Something cannot be started; then the log is in the text.
    pub async fn start(given: Given<'_>) -> Result<Island> {
        let dir = tempfile::Builder::new().prefix("tombolo-island-").tempdir()?;
        let authority = Authority::create_or_open(&dir.path().join("authority"), ORGANIZATION)
            .context("cannot create an authority")?;
        let id = |plane, name| PlaneId::new(ORGANIZATION, plane, name);
        let central = Above::start(
            &authority,
            &id(Plane::Central, "scripted")?,
            (Ipv4Addr::LOCALHOST, 0).into(),
            dir.path(),
        )
        .await?;
        let central = Arc::new(central);
        authority
            .issue(&id(Plane::Edge, given.cluster)?, &dir.path().join("identity"))
            .context("cannot issue the edge's identity")?;
        let platform = dir.path().join("platform");
        fs::create_dir(&platform).context("cannot create the platform's folder")?;
        fs::write(platform.join("platform.yaml"), given.platform).context("cannot write the platform")?;

        if let Some(ca) = given.issuer_ca {
            fs::copy(ca, dir.path().join(ISSUER_CA)).context("cannot copy the issuers' authority")?;
        }
        let planning = tokio::spawn(keep_planned(
            given.cluster.parse()?,
            intent(given.intent)?,
            given.others,
            Arc::clone(&central),
        ));
        let (xds, admin) = (loopback(free_port()), loopback(free_port()));
        let mut edge = start_edge(given.cluster, &central.target(), xds, admin, dir.path())?;
        await_ready(&mut edge, admin, "/readyz").await?;
        Ok(Island {
            edge,
            xds,
            admin,
            central,
            planning,
            dir,
            cluster: given.cluster.to_owned(),
        })
    }

    /// Where its proxies find it.
    pub fn xds(&self) -> SocketAddr {
        self.xds
    }

    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    pub fn central(&self) -> &Above {
        &self.central
    }

    /// For whatever else belongs to this island.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Where the edge keeps its last good state.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("edge")
    }

    /// From here on the central says only what the test makes it say.
    pub fn stop_planning(&self) {
        self.planning.abort();
    }

    /// Kills the edge at once, starts it again, and waits until it is ready.
    ///
    /// # Errors
    /// It does not get ready.
    pub async fn restart_edge(&mut self) -> Result<()> {
        self.kill_edge();
        self.start_edge(&self.central.target())?;
        await_ready(&mut self.edge, self.admin, "/readyz").await
    }

    /// Starts the edge with a central at which nobody is, and does not wait: it may never be ready.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn start_edge_alone(&mut self) -> Result<()> {
        self.kill_edge();
        let nobody = format!("https://{}", loopback(free_port()));
        self.start_edge(&nobody)
    }

    fn start_edge(&mut self, central: &str) -> Result<()> {
        self.edge = start_edge(&self.cluster, central, self.xds, self.admin, self.dir.path())?;
        Ok(())
    }

    pub fn kill_edge(&mut self) {
        self.edge.end();
    }

    pub fn log_tail(&self) -> String {
        self.edge.log_tail()
    }
}

impl Drop for Island {
    fn drop(&mut self) {
        self.planning.abort();
    }
}

/// Resources from a YAML list.
///
/// # Errors
/// It is no YAML, or no list of resources.
pub fn intent(yaml: &str) -> Result<Intent> {
    let documents: Vec<Value> = serde_saphyr::from_str(yaml).context("the intent is not a YAML list")?;
    documents
        .into_iter()
        .map(|document| {
            let resource = Resource::from_json(document)?;
            Ok((resource.name.clone(), Arc::new(resource)))
        })
        .collect()
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn start_edge(
    cluster: &str,
    central: &str,
    xds: SocketAddr,
    admin: SocketAddr,
    dir: &Path,
) -> Result<Process> {
    let mut command = Command::new(tombolo_binary());
    command
        .args(["edge", "--cluster", cluster, "--central", central])
        .args(["--xds-listen", &xds.to_string(), "--admin", &admin.to_string()])
        .arg("--identity")
        .arg(dir.join("identity"))
        .arg("--static-dir")
        .arg(dir.join("platform"))
        .arg("--data-dir")
        .arg(dir.join("edge"));
    let issuer_ca = dir.join(ISSUER_CA);
    if issuer_ca.is_file() {
        command.arg("--issuer-ca").arg(issuer_ca);
    }
    Process::start(&format!("edge-{cluster}"), &mut command, dir)
}

/// What a central does, without its memory: publishes the plan again whenever the edge has reported something.
async fn keep_planned(
    cluster: ClusterName,
    intent: Intent,
    others: BTreeMap<ClusterName, ClusterReport>,
    central: Arc<Above>,
) {
    let (resolved, _) = resolve(&intent);
    let mut hearing: watch::Receiver<Heard> = central.hearing();
    let mut published = BTreeMap::new();
    for sequence in 1.. {
        let mut reports = Reports {
            joined: others.keys().cloned().chain([cluster.clone()]).collect(),
            clusters: others
                .iter()
                .map(|(cluster, report)| (cluster.clone(), Arc::new(report.clone())))
                .collect(),
            ..Reports::default()
        };
        let heard = hearing.borrow_and_update().items.clone();
        if !heard.is_empty() {
            reports.clusters.insert(cluster.clone(), Arc::new(report(&heard)));
        }
        let (mut plans, _) = plan(&resolved, &reports);
        let slice = plans.remove(&cluster).expect("the intent has no such cluster");
        let items: BTreeMap<String, Bytes> = slice
            .items
            .iter()
            .map(|(key, item)| {
                let body = serde_json::to_vec(item).expect("invariant: slices have string keys");
                (key.to_string(), body.into())
            })
            .collect();
        if slice.complete && items != published {
            published.clone_from(&items);
            central
                .publish(stamp("scripted/1", 1, 1, sequence), items)
                .expect("the plan is beyond the feed's limits");
        }
        if hearing.changed().await.is_err() {
            return;
        }
    }
}

fn report(heard: &BTreeMap<String, Bytes>) -> ClusterReport {
    let mut report = ClusterReport::default();
    for (name, body) in heard {
        let item = serde_json::from_slice(body).expect("the edge reports what is no report");
        match (name.split_once('/'), item) {
            (Some(("services", id)), ReportItem::Service(service)) => {
                report
                    .services
                    .insert(id.parse().expect("a bad service id"), service);
            }
            (Some(("gateways", id)), ReportItem::Gateway(gateway)) => {
                report
                    .gateways
                    .insert(id.parse().expect("a bad gateway id"), gateway);
            }
            _ => {}
        }
    }
    report
}
