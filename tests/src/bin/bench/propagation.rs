//! From the API's 200 to the new route answering in every proxy: the demo's topology in real processes, one change after
//! the other, each asked for at all six proxies until it is there. What changes is the subset that a header leads to; both
//! subsets are in use all the time, so that no proxy has to get to know new hosts first.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Method, Request, StatusCode, Version, header};
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::time::sleep;
use tombolo_tests::client::{self, Connection};
use tombolo_tests::mesh::{self, Blueprint, Mesh, Part, REVIEWS_HOST, SHOP_HOST};
use tombolo_tests::upstream::WISH;
use tombolo_tests::within;

use crate::Options;
use crate::control::Control;
use crate::probe::{Connection as Asking, Probes};
use crate::statistics::Sorted;

/// Apart from the demo's and the tests' networks.
const NETWORK: u8 = 60;
const CLUSTERS: [&str; 3] = ["us-east", "us-west", "eu-central"];
const WARM_UP_SAMPLES: usize = 20;
/// Between two changes, at least: the receipts of the last one have gone up by then, and the edges have written it to their
/// disks. A varying part is added, so that no timer of the planes is hit always at the same point.
const REST: Duration = Duration::from_millis(150);
const REST_STEPS: u32 = 20;
const WORKSPACE: &str = "organizations/acme/tenants/retail/workspaces/shop";
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// Of the service: the first one is what changes.
const RULES: &str = "[
    {matches: [{headers: [{name: x-bench, value: yes-please}]}], backendRefs: [{subset: v1}]},
    {backendRefs: [{subset: v1, weight: 50}, {subset: v2, weight: 50}]},
  ]";

/// One change.
struct Sample {
    /// From the request to the API's 200.
    write: Duration,
    /// From the 200 to the first answer of each proxy.
    arrivals: Vec<Duration>,
    control: Duration,
}

/// The writer of the one route that changes all the time.
struct Writer {
    api: Connection,
    token: String,
    etag: String,
    name: String,
}

pub(crate) async fn run(options: &Options) -> Result<()> {
    println!("starting Postgres, management, two centrals and three clusters");
    let mesh = Mesh::start(Blueprint {
        binary: crate::tombolo()?,
        network: NETWORK,
        clusters: CLUSTERS.to_vec(),
    })
    .await?;
    mesh.write(&mesh::shop(RULES)).await?;
    let mut writer = Writer::new(&mesh).await?;
    let probes = probes(&mesh).await?;
    let mut control = Control::start(mesh.postgres_url()?).await?;
    println!("{} changes, each asked for at every proxy", options.samples);
    let mut samples = Vec::new();
    for nth in 0..WARM_UP_SAMPLES + options.samples {
        let version = if nth % 2 == 0 { "v2" } else { "v1" };
        let sample = sample(&mut writer, &probes, &mut control, version)
            .await
            .with_context(|| format!("change {nth}"))?;
        if nth >= WARM_UP_SAMPLES {
            samples.push(sample);
        }
        let varying = u32::try_from(nth * 7).unwrap_or(0) % REST_STEPS;
        sleep(REST + Duration::from_millis(1) * varying).await;
    }
    drop(probes);
    mesh.stop().await?;
    report(&samples)
}

async fn sample(
    writer: &mut Writer,
    probes: &Probes,
    control: &mut Control,
    version: &str,
) -> Result<Sample> {
    let wanted = format!("reviews-{version}");
    let asked = Instant::now();
    writer.route_to(version).await?;
    let written = Instant::now();
    let arrivals = probes.until(&wanted, written).await?;
    Ok(Sample {
        write: written - asked,
        arrivals,
        control: control.measure().await?,
    })
}

impl Writer {
    async fn new(mesh: &Mesh) -> Result<Writer> {
        let name = format!("{WORKSPACE}/trafficgroups/web/serviceroutes/reviews");
        let reply = mesh
            .call(mesh.admin_token(), Method::GET, &name, None)
            .await?
            .expect(StatusCode::OK)?;
        Ok(Writer {
            api: Connection::open(mesh.api(), Version::HTTP_11).await?,
            token: mesh.admin_token().to_owned(),
            etag: reply.header("etag"),
            name,
        })
    }

    async fn route_to(&mut self, version: &str) -> Result<()> {
        let request = Request::put(format!("/v1/{}", self.name))
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token))
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::IF_MATCH, &self.etag)
            .body(Full::new(Bytes::from(document(&self.name, version).to_string())))?;
        let reply = self.api.send(request).await?.expect(StatusCode::OK)?;
        self.etag = reply.header("etag");
        ensure!(!self.etag.is_empty(), "the API's answer has no ETag");
        Ok(())
    }
}

fn document(name: &str, version: &str) -> Value {
    json!({
        "name": name,
        "spec": {
            "service": "shop/reviews",
            "subsets": [
                {"name": "v1", "labels": {"version": "v1"}},
                {"name": "v2", "labels": {"version": "v2"}},
            ],
            "rules": [
                {
                    "matches": [{"headers": [{"name": "x-bench", "value": "yes-please"}]}],
                    "backendRefs": [{"subset": version}],
                },
                {"backendRefs": [{"subset": "v1", "weight": 50}, {"subset": "v2", "weight": 50}]},
            ],
        },
    })
}

/// One probe for each proxy, once every proxy serves.
async fn probes(mesh: &Mesh) -> Result<Probes> {
    let mut connections = Vec::new();
    for cluster in 0..CLUSTERS.len() {
        for (part, address, host) in [
            (Part::Gateway(cluster), mesh.ingress(cluster), SHOP_HOST),
            (Part::Sidecar(cluster), mesh.outbound(cluster), REVIEWS_HOST),
        ] {
            within(READY_TIMEOUT, async || {
                let request = Request::get("/")
                    .header(header::HOST, host)
                    .body(Full::default())?;
                client::send(address, request).await?.expect(StatusCode::OK)
            })
            .await?;
            // The cheapest answer: what the asking costs is taken from what is measured.
            let headers = format!("host: {host}\r\nx-bench: yes-please\r\n{WISH}: status=200\r\n");
            connections.push(Asking::open(part, address, &headers)?);
        }
    }
    let probes = Probes::start(connections);
    probes.until("reviews-v1", Instant::now()).await?;
    Ok(probes)
}

fn report(samples: &[Sample]) -> Result<()> {
    let sorted = |figure: &dyn Fn(&Sample) -> Option<Duration>| {
        Sorted::new(samples.iter().filter_map(figure).map(ms)).context("no changes were made")
    };
    let control = sorted(&|sample| Some(sample.control))?;
    let write = sorted(&|sample| Some(sample.write))?;
    let first = sorted(&|sample| sample.arrivals.iter().min().copied())?;
    let all = sorted(&|sample| sample.arrivals.iter().max().copied())?;
    println!();
    println!(
        "{:44}{:>10}{:>10}{:>10}{:>10}",
        "milliseconds", "median", "90 %", "99 %", "most"
    );
    for (name, figures) in [
        ("control: a commit, and a round trip per hop", &control),
        ("the write itself, until the API's 200", &write),
        ("from the 200 to the first proxy", &first),
        ("from the 200 to every proxy", &all),
    ] {
        println!(
            "{name:44}{:>10.2}{:>10.2}{:>10.2}{:>10.2}",
            figures.median(),
            figures.quantile(0.9),
            figures.quantile(0.99),
            figures.max()
        );
    }
    println!();
    println!(
        "bench propagation: median_ms={:.2} p99_ms={:.2} samples={} vs_control={:.2} control_ms={:.2} max_ms={:.2}",
        all.median(),
        all.quantile(0.99),
        all.len(),
        all.median() / control.median(),
        control.median(),
        all.max(),
    );
    Ok(())
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
