//! The whole mesh as real processes: management on Postgres, two centrals, and clusters with an edge, a gateway proxy and
//! a sidecar proxy each, every one on a loopback network of its own. What it starts ends with it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tombolo_management::embedded::EmbeddedPostgres;
use tombolo_runtime::authority::Authority;
use tombolo_runtime::plane_id::{Plane, PlaneId};

use crate::feed::ORGANIZATION;
use crate::postgres::REMOVE_WHEN_STOPPED;
use crate::process::{Process, Signal};
use crate::proxy::await_ready;
use crate::upstream::{Application, Applications};
use crate::watchdog::Watchdog;
use crate::within;

mod api;
mod command;

/// Of gateways, and the only port of an application.
pub const HTTP_PORT: u16 = 8080;
const EAST_WEST_PORT: u16 = 15443;
const OUTBOUND_PORT: u16 = 15001;
/// How the shop is called from outside, and `reviews` from inside.
pub const SHOP_HOST: &str = "shop.example.com";
pub const REVIEWS_HOST: &str = "reviews.shop:8080";
/// Management prints it once.
const TOKEN_LINE: &str = "bootstrap administrator token: ";
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// For a receipt from every proxy of the mesh.
const RUNNING_TIMEOUT: Duration = Duration::from_secs(30);

/// The processes are being killed meanwhile, and one of them may still write a file.
const REMOVE: &str =
    "i=0; while [ -e \"$2\" ] && [ $i -lt 20 ]; do rm -rf \"$2\"; sleep 0.1; i=$((i+1)); done";

/// What a team writes for a shop at [`SHOP_HOST`] whose service has two versions, `reviews`, and these rules in YAML.
pub fn shop(rules: &str) -> String {
    format!(
        "
name: organizations/acme/tenants/retail
---
name: organizations/acme/tenants/retail/workspaces/shop
spec: {{namespaces: ['*/shop']}}
---
name: organizations/acme/tenants/retail/workspaces/shop/gatewaygroups/public
---
name: organizations/acme/tenants/retail/workspaces/shop/gatewaygroups/public/gateways/shop
spec:
  workload: mesh/gateway
  type: ingress
  port: {HTTP_PORT}
  hosts: [{SHOP_HOST}]
  rules: [{{backendRefs: [{{namespace: shop, name: reviews}}]}}]
---
name: organizations/acme/tenants/retail/workspaces/shop/trafficgroups/web
---
name: organizations/acme/tenants/retail/workspaces/shop/trafficgroups/web/serviceroutes/reviews
spec:
  service: shop/reviews
  subsets:
  - {{name: v1, labels: {{version: v1}}}}
  - {{name: v2, labels: {{version: v2}}}}
  rules: {rules}
"
    )
}

/// One process of the mesh. The index is that of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Management,
    Central(&'static str),
    Edge(usize),
    Gateway(usize),
    Sidecar(usize),
}

/// Both centrals.
pub const CENTRALS: [Part; 2] = [Part::Central("a"), Part::Central("b")];

/// What to build.
#[derive(Clone, Debug)]
pub struct Blueprint {
    pub binary: PathBuf,
    /// The planes are on `127.0.N.x`, the first cluster on `127.0.(N+1).x`, and so on. Each mesh of one machine has its
    /// own.
    pub network: u8,
    /// Each is its own region.
    pub clusters: Vec<&'static str>,
}

/// A running mesh. Everything is gone when it is dropped; [`Mesh::stop`] does it in order and says what did not end well.
#[derive(Debug)]
pub struct Mesh {
    // Processes first: fields are dropped in this order.
    running: BTreeMap<Part, Process>,
    applications: BTreeMap<String, Application>,
    postgres: Option<EmbeddedPostgres>,
    blueprint: Blueprint,
    memory: Applications,
    admin_token: String,
    dir: TempDir,
    postgres_dir: TempDir,
    /// Values in statics are never dropped.
    _cleanup: [Watchdog; 2],
}

impl Mesh {
    /// Starts everything, registers the clusters, and waits until every plane is ready.
    ///
    /// # Errors
    /// Something does not start; then its log is in the text.
    pub async fn start(blueprint: Blueprint) -> Result<Mesh> {
        let mut mesh = Mesh::prepare(blueprint).await?;
        mesh.start_part(Part::Management)?;
        mesh.ready(Part::Management).await?;
        mesh.admin_token = mesh.bootstrap_token().await?;
        for part in CENTRALS {
            mesh.start_part(part)?;
        }
        mesh.register_clusters().await?;
        for cluster in 0..mesh.blueprint.clusters.len() {
            for part in [
                Part::Edge(cluster),
                Part::Gateway(cluster),
                Part::Sidecar(cluster),
            ] {
                mesh.start_part(part)?;
            }
        }
        for part in mesh.parts() {
            mesh.ready(part).await?;
        }
        Ok(mesh)
    }

    /// The folders, the identities, Postgres and the applications.
    async fn prepare(blueprint: Blueprint) -> Result<Mesh> {
        let dir = tempfile::Builder::new().prefix("tombolo-mesh-").tempdir()?;
        // Not below `dir`, which only its owner may enter: Postgres may run as somebody else.
        let postgres_dir = tempfile::Builder::new().prefix("tombolo-pg-").tempdir()?;
        let postgres = EmbeddedPostgres::start(postgres_dir.path())
            .await
            .context("cannot start postgres")?;
        let cleanup = [
            Watchdog::new(REMOVE, postgres.pid(), dir.path()),
            Watchdog::new(REMOVE_WHEN_STOPPED, postgres.pid(), postgres_dir.path()),
        ];
        let mut mesh = Mesh {
            running: BTreeMap::new(),
            applications: BTreeMap::new(),
            postgres: Some(postgres),
            memory: Applications::default(),
            admin_token: String::new(),
            blueprint,
            _cleanup: cleanup,
            dir,
            postgres_dir,
        };
        let authority = Authority::create_or_open(&mesh.path("authority"), ORGANIZATION)?;
        for part in mesh.parts() {
            if let Some((plane, name)) = mesh.plane(part) {
                authority.issue(&PlaneId::new(ORGANIZATION, plane, name)?, &mesh.identity(part))?;
            }
        }
        for (index, cluster) in mesh.blueprint.clusters.clone().into_iter().enumerate() {
            fs::create_dir_all(mesh.platform_dir(index))?;
            mesh.write_platform(index, &mesh.platform(index))?;
            for version in ["v1", "v2"] {
                let name = format!("reviews-{version}.{cluster}");
                let address = mesh.application_address(index, version);
                let application = mesh.memory.start(&name, address).await?;
                mesh.applications.insert(name, application);
            }
        }
        Ok(mesh)
    }

    /// Every part, from above to below.
    pub fn parts(&self) -> Vec<Part> {
        let clusters = 0..self.blueprint.clusters.len();
        let below = clusters.flat_map(|at| [Part::Edge(at), Part::Gateway(at), Part::Sidecar(at)]);
        [Part::Management]
            .into_iter()
            .chain(CENTRALS)
            .chain(below)
            .collect()
    }

    /// # Errors
    /// It runs already, or cannot be run.
    pub fn start_part(&mut self, part: Part) -> Result<()> {
        ensure!(!self.running.contains_key(&part), "{part} runs already");
        let logs = self.path("logs");
        let process = Process::start(&part.to_string(), &mut self.command(part), &logs)?;
        self.running.insert(part, process);
        Ok(())
    }

    /// Waits until it says that it is ready.
    ///
    /// # Errors
    /// It ends, or does not get ready; then its log is in the text.
    pub async fn ready(&mut self, part: Part) -> Result<()> {
        let (admin, path) = (self.admin(part), part.ready_path());
        await_ready(self.process_mut(part)?, admin, path).await
    }

    /// Ends it at once, as a power cut would.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&mut self, part: Part) -> Result<()> {
        let process = self
            .running
            .remove(&part)
            .with_context(|| format!("{part} does not run"))?;
        process.kill();
        Ok(())
    }

    /// Kills it, starts it again, and waits until it is ready.
    ///
    /// # Errors
    /// As for [`Mesh::kill`] and [`Mesh::ready`].
    pub async fn restart(&mut self, part: Part) -> Result<()> {
        self.kill(part)?;
        self.start_part(part)?;
        self.ready(part).await
    }

    /// # Errors
    /// It does not run.
    pub fn signal(&mut self, part: Part, signal: Signal) -> Result<()> {
        self.process_mut(part)?.signal(signal);
        Ok(())
    }

    /// Ends Postgres. Management stays and has nothing to stand on.
    pub async fn stop_postgres(&mut self) {
        if let Some(postgres) = self.postgres.take() {
            postgres.stop().await;
        }
    }

    /// # Errors
    /// It runs already, or cannot start.
    pub async fn start_postgres(&mut self) -> Result<()> {
        ensure!(self.postgres.is_none(), "postgres runs already");
        let postgres = EmbeddedPostgres::start(self.postgres_dir.path())
            .await
            .context("cannot start postgres")?;
        self.postgres = Some(postgres);
        Ok(())
    }

    /// # Errors
    /// It was stopped already.
    pub fn postgres_url(&self) -> Result<&str> {
        let postgres = self.postgres.as_ref().context("postgres does not run")?;
        Ok(postgres.url())
    }

    /// The instance `VERSION` of reviews in a cluster.
    ///
    /// # Errors
    /// There is no such instance.
    pub fn application(&mut self, cluster: usize, version: &str) -> Result<&mut Application> {
        let name = format!("reviews-{version}.{}", self.blueprint.clusters[cluster]);
        self.applications
            .get_mut(&name)
            .with_context(|| format!("no application {name}"))
    }

    /// Where requests enter the mesh from outside, and from the applications of a cluster.
    pub fn ingress(&self, cluster: usize) -> SocketAddr {
        self.at(cluster, 1, HTTP_PORT)
    }

    pub fn outbound(&self, cluster: usize) -> SocketAddr {
        self.at(cluster, 3, OUTBOUND_PORT)
    }

    /// Where a part shows its health.
    pub fn admin(&self, part: Part) -> SocketAddr {
        match part {
            Part::Management => self.api(),
            Part::Central(name) => self.plane_address(central_host(name), 8083),
            Part::Edge(cluster) => self.at(cluster, 2, 15014),
            Part::Gateway(cluster) => self.at(cluster, 1, 15000),
            Part::Sidecar(cluster) => self.at(cluster, 3, 15000),
        }
    }

    /// Management's API.
    pub fn api(&self) -> SocketAddr {
        self.plane_address(1, 8080)
    }

    pub fn xds(&self, cluster: usize) -> SocketAddr {
        self.at(cluster, 2, 15010)
    }

    /// Where a central's edges find it.
    pub fn central_feed(&self, part: Part) -> SocketAddr {
        let Part::Central(name) = part else {
            panic!("{part} is no central");
        };
        self.plane_address(central_host(name), 8082)
    }

    pub fn management_feed(&self) -> SocketAddr {
        self.plane_address(1, 8081)
    }

    pub fn admin_token(&self) -> &str {
        &self.admin_token
    }

    /// Where a part keeps what it needs to live on.
    pub fn data_dir(&self, part: Part) -> PathBuf {
        self.path(&format!("data/{part}"))
    }

    /// Where `identity issue` and `cluster add` sign.
    pub fn authority_dir(&self) -> PathBuf {
        self.path("authority")
    }

    pub fn log_tail(&self, part: Part) -> String {
        let log = self.path(&format!("logs/{part}.log"));
        let text = fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// Replaces what a cluster's platform tells its edge.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_platform(&self, cluster: usize, yaml: &str) -> Result<()> {
        let dir = self.platform_dir(cluster);
        // Renamed into place, as whoever writes for a watcher should.
        let next = self.path(&format!("platform-{cluster}.next"));
        fs::write(&next, yaml).context("cannot write the platform")?;
        fs::rename(&next, dir.join("platform.yaml")).context("cannot replace the platform")
    }

    /// What a cluster's platform tells its edge at first.
    pub fn platform(&self, cluster: usize) -> String {
        let instance = |version| self.application_address(cluster, version).ip();
        let (v1, v2, gateway) = (instance("v1"), instance("v2"), self.at(cluster, 1, 0).ip());
        format!(
            "services:\n\
             - namespace: shop\n  name: reviews\n  ports: [{{name: http, port: {HTTP_PORT}}}]\n  instances:\n\
             \x20 - {{address: {v1}, labels: {{version: v1}}}}\n\
             \x20 - {{address: {v2}, labels: {{version: v2}}}}\n\
             gateways:\n\
             - {{namespace: mesh, name: gateway, bind: {gateway}, eastWestPort: {EAST_WEST_PORT}}}\n"
        )
    }

    /// Ends every part in order: the truth last.
    ///
    /// # Errors
    /// Postgres does not end.
    pub async fn stop(mut self) -> Result<()> {
        let parts: Vec<Part> = self.running.keys().copied().rev().collect();
        for part in parts {
            self.kill(part)?;
        }
        if let Some(postgres) = self.postgres.take() {
            postgres.stop().await;
        }
        Ok(())
    }

    fn process_mut(&mut self, part: Part) -> Result<&mut Process> {
        self.running
            .get_mut(&part)
            .with_context(|| format!("{part} does not run"))
    }

    async fn register_clusters(&self) -> Result<()> {
        let documents: Vec<String> = self
            .blueprint
            .clusters
            .iter()
            .map(|cluster| {
                format!(
                    "{{name: organizations/{ORGANIZATION}/clusters/{cluster}, spec: {{region: {cluster}}}}}"
                )
            })
            .collect();
        self.write(&documents.join("\n---\n"))
            .await
            .context("cannot register the clusters")
    }

    async fn bootstrap_token(&self) -> Result<String> {
        let log = self.path(&format!("logs/{}.log", Part::Management));
        within(START_TIMEOUT, async || {
            let text = fs::read_to_string(&log)?;
            let token = text.lines().find_map(|line| line.split_once(TOKEN_LINE));
            token
                .map(|(_, token)| token.trim().to_owned())
                .context("management has printed no token")
        })
        .await
    }

    fn plane(&self, part: Part) -> Option<(Plane, &'static str)> {
        match part {
            Part::Management => Some((Plane::Management, "management")),
            Part::Central(name) => Some((Plane::Central, name)),
            Part::Edge(cluster) => Some((Plane::Edge, self.blueprint.clusters[cluster])),
            Part::Gateway(_) | Part::Sidecar(_) => None,
        }
    }

    fn application_address(&self, cluster: usize, version: &str) -> SocketAddr {
        self.at(cluster, if version == "v1" { 11 } else { 12 }, HTTP_PORT)
    }

    fn at(&self, cluster: usize, host: u8, port: u16) -> SocketAddr {
        let cluster = u8::try_from(cluster).expect("invariant: a mesh has a handful of clusters");
        (
            Ipv4Addr::new(127, 0, self.blueprint.network + 1 + cluster, host),
            port,
        )
            .into()
    }

    fn plane_address(&self, host: u8, port: u16) -> SocketAddr {
        (Ipv4Addr::new(127, 0, self.blueprint.network, host), port).into()
    }

    fn identity(&self, part: Part) -> PathBuf {
        self.path(&format!("identities/{part}"))
    }

    fn platform_dir(&self, cluster: usize) -> PathBuf {
        self.path(&format!("platform/{cluster}"))
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.dir.path().join(relative)
    }
}

impl Part {
    fn ready_path(self) -> &'static str {
        match self {
            Part::Management | Part::Central(_) | Part::Edge(_) => "/readyz",
            Part::Gateway(_) | Part::Sidecar(_) => "/ready",
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Part::Management => f.write_str("management"),
            Part::Central(name) => write!(f, "central-{name}"),
            Part::Edge(cluster) => write!(f, "edge-{cluster}"),
            Part::Gateway(cluster) => write!(f, "gateway-{cluster}"),
            Part::Sidecar(cluster) => write!(f, "sidecar-{cluster}"),
        }
    }
}

fn central_host(name: &str) -> u8 {
    if name == "a" { 2 } else { 3 }
}
