//! What an organization of many resources costs: to resolve all of it, to bring one changed resource from the request to
//! what the feed sends to a central and from there to the routes of the clusters that it concerns, and to ask which
//! settings count for a group, and where a request goes.

use std::fs;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{Request, StatusCode, Version, header};
use http_body_util::Full;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tombolo_compiler::explain::{Outcome, explain};
use tombolo_compiler::intent::Resource;
use tombolo_compiler::name::Fqn;
use tombolo_compiler::plan::Planner;
use tombolo_compiler::report::Reports;
use tombolo_compiler::resolve::{Edit, Resolver};
use tombolo_management::embedded::EmbeddedPostgres;
use tombolo_management::{AuditConfig, Config, LoginConfig, Running, start};
use tombolo_proto::codec;
use tombolo_proto::held::Held;
use tombolo_proto::link::{self, Inputs};
use tombolo_proto::session::{Action, Expect, Party, Session};
use tombolo_runtime::authority::Authority;
use tombolo_runtime::plane_id::{Plane, PlaneId};
use tombolo_runtime::tls::{self, Identity, connect};
use tombolo_tests::client::{Connection, Reply};
use tombolo_tests::feed::ORGANIZATION as MESH;

use crate::Options;
use crate::statistics::Sorted;

mod population;

use population::{RESOURCES_MIN, ROUTES_MIN};

/// How many resources one request brings in: as many as management takes.
const BATCH: usize = 1_000;
/// A body may have a mebibyte; a resource has some hundred bytes.
const BATCH_BYTES_MAX: usize = 900 * 1024;
const WARM_UP_SAMPLES: usize = 20;
/// For all resources to come over the feed, or one.
const FEED_TIMEOUT: Duration = Duration::from_secs(120);
/// Changes that may wait for the bench to look at them.
const ARRIVALS_MAX: usize = 1_024;

/// One change, in milliseconds since the request.
struct Sample {
    /// The API's 200.
    written: f64,
    /// The central has it.
    sent: f64,
    /// The routes of every cluster that it concerns are as they should be, and encoded.
    planned: f64,
    /// Of that, resolving and planning.
    computed: f64,
}

/// How long answers take, in milliseconds.
struct Questions {
    /// Which settings count, over the API.
    effective: Sorted,
    /// Where a request goes, with all that clusters report, without the API.
    explained: Sorted,
}

pub(crate) async fn run(options: &Options) -> Result<()> {
    anyhow::ensure!(
        options.resources >= RESOURCES_MIN,
        "--resources must be at least {RESOURCES_MIN}"
    );
    let resources: Vec<Arc<Resource>> = population::documents(options.resources)
        .map(|document| Ok(Arc::new(Resource::from_json(document)?)))
        .collect::<Result<_>>()?;
    let reports = population::reports(options.resources)?;
    println!(
        "{} resources, {} clusters",
        resources.len(),
        reports.clusters.len()
    );

    let mut resolver = Resolver::default();
    let mut full = Vec::new();
    for _ in 0..options.rounds {
        // The last one is given back before the next is made.
        resolver = Resolver::default();
        let started = Instant::now();
        resolver.update(resources.iter().cloned().map(Edit::Put));
        full.push(started.elapsed().as_secs_f64());
    }
    let full = Sorted::new(full).context("no rounds were made")?;
    let errors = resolver
        .findings()
        .take(3)
        .map(ToString::to_string)
        .collect::<Vec<_>>();
    anyhow::ensure!(
        errors.is_empty(),
        "the intent is not sound: {}",
        errors.join("; ")
    );
    drop(resources);
    let rss_mib = peak_mib()?;
    println!(
        "full resolve: median {:.2} s, at most {:.2} s; at most {rss_mib:.0} MiB",
        full.median(),
        full.max()
    );

    let mut planner = Planner::new();
    let started = Instant::now();
    let keys = planner.update(resolver.resolved(), &reports).recomputed;
    println!(
        "full plan: {:.2} s for {keys} keys; at most {:.0} MiB with reports and slices",
        started.elapsed().as_secs_f64(),
        peak_mib()?
    );

    let mut mesh = Management::start().await?;
    mesh.load(options.resources).await?;
    mesh.restart().await?;
    let mut central = Central {
        resolver,
        planner,
        reports,
    };
    let mut arrivals = mesh.subscribe().await?;
    println!("{} changes of one route", options.samples);
    let workspaces = population::workspaces(options.resources);
    let mut samples = Vec::new();
    for nth in 0..WARM_UP_SAMPLES + options.samples {
        let sample = sample(&mut mesh, &mut arrivals, &mut central, workspaces, nth)
            .await
            .with_context(|| format!("change {nth}"))?;
        if nth >= WARM_UP_SAMPLES {
            samples.push(sample);
        }
    }
    println!(
        "at most {:.0} MiB with management and central in one process",
        peak_mib()?
    );
    let mut effective = Vec::new();
    let mut explained = Vec::new();
    for nth in 0..options.samples {
        let workspace = nth * 131 % workspaces;
        effective.push(mesh.effective(workspace).await?);
        explained.push(central.explain(workspace, nth % ROUTES_MIN)?);
    }
    mesh.stop().await?;
    let questions = Questions {
        effective: Sorted::new(effective).context("nothing was asked")?,
        explained: Sorted::new(explained).context("nothing was asked")?,
    };
    report(&samples, &full, rss_mib, &questions)
}

async fn sample(
    mesh: &mut Management,
    arrivals: &mut mpsc::Receiver<Arrived>,
    central: &mut Central,
    workspaces: usize,
    nth: usize,
) -> Result<Sample> {
    // Another place of the tree each time.
    let document = population::route(nth * 131 % workspaces, nth % ROUTES_MIN, 1 + nth);
    let name: Fqn = document["name"]
        .as_str()
        .context("a route without a name")?
        .parse()?;
    let etag = mesh.etag(&name).await?;
    let asked = Instant::now();
    let since = |moment: Instant| moment.duration_since(asked).as_secs_f64() * 1e3;
    let (written, arrived) = tokio::try_join!(mesh.put(&name, &etag, &document), next(arrivals))?;
    let began = Instant::now();
    let edits = arrived
        .put
        .iter()
        .map(|resource| Ok(Edit::Put(Arc::new(codec::decode(resource)?))));
    central.take(edits.collect::<Result<_>>()?)?;
    let planned = Instant::now();
    Ok(Sample {
        written: since(written),
        sent: since(arrived.at),
        // What is waited for between the two, the bench has itself to blame for.
        planned: since(arrived.at) + (planned - began).as_secs_f64() * 1e3,
        computed: (planned - began).as_secs_f64() * 1e3,
    })
}

async fn next(arrivals: &mut mpsc::Receiver<Arrived>) -> Result<Arrived> {
    tokio::time::timeout(FEED_TIMEOUT, arrivals.recv())
        .await
        .context("nothing came over the feed")?
        .context("the feed has ended")
}

/// What a central makes of a change.
struct Central {
    resolver: Resolver,
    planner: Planner,
    reports: Reports,
}

impl Central {
    /// Resolves and plans, and encodes what the edges are to be sent.
    fn take(&mut self, edits: Vec<Edit>) -> Result<()> {
        self.resolver.update(edits);
        let changed = self.planner.update(self.resolver.resolved(), &self.reports);
        anyhow::ensure!(!changed.slices.is_empty(), "the change moved no route");
        for (cluster, keys) in &changed.slices {
            let slice = &self.planner.slices()[cluster];
            for key in keys {
                codec::encode(key.to_string(), &slice.items.get(key))?;
            }
        }
        Ok(())
    }

    /// Explains a request for a service of the workspace, sent by another service of it.
    fn explain(&self, workspace: usize, service: usize) -> Result<f64> {
        let (from, request) = population::question(workspace, service)?;
        let started = Instant::now();
        let explanation = explain(
            self.resolver.resolved(),
            &self.reports,
            self.resolver.findings(),
            &from,
            &request,
            &|_| true,
        );
        let taken = started.elapsed().as_secs_f64() * 1e3;
        anyhow::ensure!(
            matches!(explanation.trace.outcome, Outcome::Forward { .. }),
            "a request from {from} goes nowhere: {explanation:?}"
        );
        Ok(taken)
    }
}

/// Something that came over the feed.
struct Arrived {
    at: Instant,
    put: Vec<tombolo_proto::resource::Resource>,
}

/// Management on a Postgres of its own.
struct Management {
    running: Option<Running>,
    api: Connection,
    token: String,
    config: Config,
    authority: Authority,
    feed: Option<JoinHandle<()>>,
    postgres: Option<EmbeddedPostgres>,
    /// Removed at the end.
    dir: TempDir,
    _postgres_dir: TempDir,
}

impl Management {
    async fn start() -> Result<Management> {
        tls::install_crypto();
        let dir = tempfile::Builder::new().prefix("tombolo-bench-").tempdir()?;
        // Not below `dir`, which only its owner may enter: Postgres may run as somebody else.
        let postgres_dir = tempfile::Builder::new().prefix("tombolo-pg-").tempdir()?;
        let postgres = EmbeddedPostgres::start(postgres_dir.path())
            .await
            .context("cannot start postgres")?;
        let authority = Authority::create_or_open(&dir.path().join("authority"), MESH)?;
        let identity = dir.path().join("management");
        authority.issue(&PlaneId::new(MESH, Plane::Management, "m")?, &identity)?;
        let any = ([127, 0, 0, 1], 0).into();
        let config = Config {
            listen: any,
            feed_listen: any,
            identity,
            organization: MESH.parse()?,
            data_dir: dir.path().join("data"),
            database_url: Some(postgres.url().to_owned()),
            audit: AuditConfig::default(),
            requests_max: NonZeroU32::MAX,
            web_dir: None,
            break_glass: None,
            login: LoginConfig::default(),
        };
        let running = start(config.clone()).await?;
        let token = running
            .bootstrap_token()
            .context("the organization exists already")?
            .to_owned();
        let api = Connection::open(running.api_addr(), Version::HTTP_11).await?;
        Ok(Management {
            running: Some(running),
            api,
            token,
            config,
            authority,
            feed: None,
            postgres: Some(postgres),
            dir,
            _postgres_dir: postgres_dir,
        })
    }

    /// Writes every resource, in as few requests as management takes.
    async fn load(&mut self, resources: usize) -> Result<()> {
        let started = Instant::now();
        let mut batch = Vec::new();
        let mut bytes = 0;
        for document in population::documents(resources) {
            let size = document.to_string().len() + 64;
            if batch.len() == BATCH || bytes + size > BATCH_BYTES_MAX {
                self.apply(std::mem::take(&mut batch)).await?;
                bytes = 0;
            }
            bytes += size;
            batch.push(document);
        }
        self.apply(batch).await?;
        println!("written in {:.1} s", started.elapsed().as_secs_f64());
        Ok(())
    }

    async fn apply(&mut self, documents: Vec<Value>) -> Result<()> {
        let request = self.request("POST", "changes?overwrite=true", None, &Value::Array(documents))?;
        self.api.send(request).await?.expect(StatusCode::OK)?;
        Ok(())
    }

    /// As after an update of the software: how long until it serves all that is in the database.
    async fn restart(&mut self) -> Result<()> {
        if let Some(running) = self.running.take() {
            running.stop().await?;
        }
        let started = Instant::now();
        let running = start(self.config.clone()).await?;
        println!("started again in {:.2} s", started.elapsed().as_secs_f64());
        self.api = Connection::open(running.api_addr(), Version::HTTP_11).await?;
        self.running = Some(running);
        Ok(())
    }

    async fn etag(&mut self, name: &Fqn) -> Result<String> {
        let request = self.request("GET", name.as_str(), None, &Value::Null)?;
        let reply = self.api.send(request).await?.expect(StatusCode::OK)?;
        Ok(reply.header("etag"))
    }

    /// Of a traffic group, in milliseconds.
    async fn effective(&mut self, workspace: usize) -> Result<f64> {
        let group = format!(
            "{}/trafficgroups/web:effective",
            population::workspace_name(workspace)
        );
        let request = self.request("GET", &group, None, &Value::Null)?;
        let started = Instant::now();
        self.api.send(request).await?.expect(StatusCode::OK)?;
        Ok(started.elapsed().as_secs_f64() * 1e3)
    }

    /// When the answer was there.
    async fn put(&mut self, name: &Fqn, etag: &str, document: &Value) -> Result<Instant> {
        let request = self.request("PUT", name.as_str(), Some(etag), document)?;
        let _: Reply = self.api.send(request).await?.expect(StatusCode::OK)?;
        Ok(Instant::now())
    }

    fn request(
        &self,
        method: &str,
        path: &str,
        etag: Option<&str>,
        body: &Value,
    ) -> Result<Request<Full<Bytes>>> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/v1/{path}"))
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token))
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(etag) = etag {
            request = request.header(header::IF_MATCH, etag);
        }
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        Ok(request.body(Full::new(Bytes::from(body)))?)
    }

    /// Dials the feed as a central does, and waits until all of the intent is there; from then on, gives what comes.
    async fn subscribe(&mut self) -> Result<mpsc::Receiver<Arrived>> {
        let folder = self.dir.path().join("central");
        self.authority
            .issue(&PlaneId::new(MESH, Plane::Central, "a")?, &folder)?;
        let identity = Arc::new(Identity::load(&folder)?);
        let running = self.running.as_ref().context("management does not run")?;
        let target = format!("https://{}", running.feed_addr());
        let channel = connect(&target, Plane::Management, identity).await?;
        let party = |node: &str, plane: Plane| Party {
            node: node.to_owned(),
            plane: plane.to_string(),
        };
        let expect = Expect {
            plane: Plane::Management.to_string(),
            node: None,
        };
        let mut session = Session::new(party("a", Plane::Central), expect, Held::default());
        let (arrived, mut arrivals) = mpsc::channel(ARRIVALS_MAX);
        let (_reports, publications) = watch::channel(None);
        let started = Instant::now();
        self.feed = Some(tokio::spawn(async move {
            let (_events, events) = mpsc::channel(1);
            let mut inputs = Inputs { publications, events };
            let Ok(link) = link::dial(channel).await else {
                return;
            };
            let on = |action| {
                if let Action::Apply(applied) = action {
                    let at = Instant::now();
                    // A bench that does not look has failed already.
                    let _ = arrived.try_send((at, applied));
                }
                Vec::new()
            };
            drop(link.drive(&mut session, &mut inputs, on).await);
        }));
        let mut held = 0;
        loop {
            let (_, applied) = tokio::time::timeout(FEED_TIMEOUT, arrivals.recv())
                .await
                .context("nothing came over the feed")?
                .context("the feed has ended")?;
            held += applied.put.len();
            if applied.complete {
                break;
            }
        }
        println!(
            "{held} resources came over the feed in {:.2} s",
            started.elapsed().as_secs_f64()
        );
        let (forward, changes) = mpsc::channel(ARRIVALS_MAX);
        tokio::spawn(async move {
            while let Some((at, applied)) = arrivals.recv().await {
                let put = applied.put;
                if !put.is_empty() && forward.send(Arrived { at, put }).await.is_err() {
                    return;
                }
            }
        });
        Ok(changes)
    }

    async fn stop(mut self) -> Result<()> {
        if let Some(feed) = self.feed.take() {
            feed.abort();
        }
        if let Some(running) = self.running.take() {
            running.stop().await?;
        }
        if let Some(postgres) = self.postgres.take() {
            postgres.stop().await;
        }
        Ok(())
    }
}

/// The most memory that this process has had at any time.
fn peak_mib() -> Result<f64> {
    let status = fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    match kib.and_then(|kib| kib.trim().parse::<f64>().ok()) {
        Some(kib) => Ok(kib / 1024.0),
        None => bail!("/proc/self/status does not tell VmHWM"),
    }
}

fn report(samples: &[Sample], full: &Sorted, rss_mib: f64, questions: &Questions) -> Result<()> {
    let sorted = |figure: &dyn Fn(&Sample) -> f64| {
        Sorted::new(samples.iter().map(figure)).context("no changes were made")
    };
    let planned = sorted(&|sample| sample.planned)?;
    println!();
    println!(
        "{:48}{:>10}{:>10}{:>10}{:>10}",
        "milliseconds", "median", "90 %", "99 %", "most"
    );
    for (name, figures) in [
        (
            "the write itself, until the API's 200",
            &sorted(&|sample| sample.written)?,
        ),
        ("from the request to the central", &sorted(&|sample| sample.sent)?),
        (
            "resolving and planning there",
            &sorted(&|sample| sample.computed)?,
        ),
        ("from the request to the clusters' routes", &planned),
        (
            "the effective settings of a group, over the API",
            &questions.effective,
        ),
        ("explaining one request, computed", &questions.explained),
    ] {
        println!(
            "{name:48}{:>10.2}{:>10.2}{:>10.2}{:>10.2}",
            figures.median(),
            figures.quantile(0.9),
            figures.quantile(0.99),
            figures.max()
        );
    }
    println!();
    println!(
        "bench intent: resolve_s={:.2} rss_mib={rss_mib:.0} delta_ms={:.2} delta_p99_ms={:.2} \
         effective_ms={:.2} explain_ms={:.2} samples={}",
        full.median(),
        planned.median(),
        planned.quantile(0.99),
        questions.effective.median(),
        questions.explained.median(),
        planned.len(),
    );
    Ok(())
}
