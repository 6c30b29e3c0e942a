//! The audit record at its size: pages by every filter and pair of filters, free text, what appending costs a write, and
//! how fast an export is verified. A real management on a private Postgres, with row-level security as in production and
//! Postgres' own defaults.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Method, Request, Version};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use tempfile::TempDir;
use tombolo_management::audit::{Export, PublicKeys};
use tombolo_management::embedded::EmbeddedPostgres;
use tombolo_management::{AuditConfig, Config, LoginConfig, Running, start};
use tombolo_runtime::authority::Authority;
use tombolo_runtime::plane_id::{Plane, PlaneId};
use tombolo_runtime::tls::install_crypto;
use tombolo_tests::client::{Connection, Reply};

use crate::Options;

mod append;
mod load;
mod pages;

const ACME: &str = "organizations/acme";

/// A management that serves, and where its files are.
struct World {
    _dir: TempDir,
    postgres: EmbeddedPostgres,
    config: Config,
    running: Option<Running>,
    /// An administrator of the organization.
    admin: String,
    /// A reader of one tenant, the one with the most records.
    reader: String,
}

pub(crate) async fn run(options: &Options) -> Result<()> {
    let mut world = World::start().await?;
    world.stop().await?;
    let loaded = load::run(world.postgres.url(), options.records).await?;
    let began = Instant::now();
    world.resume().await?;
    let indexing = load::indexed(world.postgres.url(), options.records, began).await?;
    let indexing = indexing / u32::try_from(options.records)?;

    let pages = pages::run(&world, &loaded).await?;
    let append = append::run(&mut world, options.samples, indexing).await?;
    let verified = verify(&world, options.records).await?;
    world.stop().await?;

    println!();
    println!(
        "bench audit: page_p99_ms={:.1} text_p99_ms={:.1} append_share={:.3} verify_per_s={:.0} records={}",
        pages.page_p99_ms, pages.text_p99_ms, append.share, verified, options.records
    );
    world.postgres.stop().await;
    Ok(())
}

impl World {
    /// With the tenant that the records below are about, and somebody who may read it.
    async fn start() -> Result<World> {
        install_crypto();
        let dir = tempfile::tempdir().context("cannot create a temporary directory")?;
        let postgres = EmbeddedPostgres::start(&dir.path().join("postgres")).await?;
        let authority = Authority::create_or_open(&dir.path().join("authority"), "acme")?;
        let identity = dir.path().join("identity");
        authority.issue(&PlaneId::new("acme", Plane::Management, "m1")?, &identity)?;
        let config = Config {
            listen: ([127, 0, 0, 1], 0).into(),
            feed_listen: ([127, 0, 0, 1], 0).into(),
            identity,
            organization: "acme".parse()?,
            data_dir: dir.path().join("data"),
            database_url: Some(postgres.url().to_owned()),
            audit: AuditConfig::default(),
            requests_max: NonZeroU32::MAX,
            web_dir: None,
            break_glass: None,
            login: LoginConfig::default(),
        };
        let running = start(config.clone()).await?;
        let admin = running
            .bootstrap_token()
            .context("no token for the administrator")?;
        let mut world = World {
            _dir: dir,
            postgres,
            config,
            admin: admin.to_owned(),
            reader: String::new(),
            running: Some(running),
        };
        let admin = world.admin.clone();
        let mut api = world.connect().await?;
        let (tenant, user) = (load::tenant(0), format!("{ACME}/users/reader"));
        let binding = json!({"name": format!("{tenant}/bindings/reader"), "spec": {"role": "reader", "subjects": [user]}});
        for document in [json!({"name": tenant}), json!({"name": user}), binding] {
            post(&mut api, &admin, "changes", &document).await?;
        }
        let token = post(&mut api, &admin, &format!("{user}/tokens"), &json!({})).await?;
        world.reader = token["token"]
            .as_str()
            .context("no token for the reader")?
            .to_owned();
        Ok(world)
    }

    async fn stop(&mut self) -> Result<()> {
        if let Some(running) = self.running.take() {
            running.stop().await?;
        }
        Ok(())
    }

    async fn resume(&mut self) -> Result<()> {
        self.running = Some(start(self.config.clone()).await?);
        Ok(())
    }

    async fn connect(&self) -> Result<Connection> {
        let running = self.running.as_ref().context("management does not run")?;
        Connection::open(running.api_addr(), Version::HTTP_11).await
    }
}

async fn post(api: &mut Connection, token: &str, path: &str, body: &Value) -> Result<Value> {
    let reply = send(api, Method::POST, token, path, body.to_string()).await?;
    Ok(serde_json::from_slice(&reply.body)?)
}

async fn get(api: &mut Connection, token: &str, path: &str) -> Result<Reply> {
    send(api, Method::GET, token, path, String::new()).await
}

async fn send(api: &mut Connection, method: Method, token: &str, path: &str, body: String) -> Result<Reply> {
    let request = Request::builder()
        .method(method)
        .uri(format!("/v1/{path}"))
        .header("authorization", format!("Bearer {token}"))
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body)))?;
    let reply = api.send(request).await?;
    let text = || String::from_utf8_lossy(&reply.body).into_owned();
    ensure!(reply.status.is_success(), "{path}: {}: {}", reply.status, text());
    Ok(reply)
}

/// Verifies the export as it arrives, and gives records per second of the verifier alone.
async fn verify(world: &World, records: usize) -> Result<f64> {
    let keys: Value = serde_json::from_slice(
        &get(&mut world.connect().await?, &world.admin, "audit:key")
            .await?
            .body,
    )?;
    let pem: Vec<&str> = keys["keys"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|key| key["pem"].as_str())
        .collect();
    let mut export = Export::new(PublicKeys::from_pem(&pem.concat())?, &[])?;
    let running = world.running.as_ref().context("management does not run")?;
    let stream = tokio::net::TcpStream::connect(running.api_addr()).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::get("/v1/audit:export")
        .header("host", running.api_addr().to_string())
        .header("authorization", format!("Bearer {}", world.admin))
        .body(Full::new(Bytes::new()))?;
    let mut body = sender.send_request(request).await?.into_body();
    let (mut rest, mut verifying, mut done) = (Vec::new(), Duration::ZERO, 0_usize);
    while let Some(frame) = body.frame().await {
        let frame = frame.context("the export broke off")?;
        rest.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        let whole = rest
            .iter()
            .rposition(|&byte| byte == b'\n')
            .map_or(0, |at| at + 1);
        let began = Instant::now();
        for line in rest[..whole].split_inclusive(|&byte| byte == b'\n') {
            export.line(line)?;
            done += 1;
            if done.is_multiple_of(1_000_000) {
                println!("verified {done} of {records} records");
            }
        }
        verifying += began.elapsed();
        rest.drain(..whole);
    }
    drop(sender);
    connection.await??;
    let report = export.finish()?;
    ensure!(
        report.is_whole(),
        "the record that was loaded does not verify: {report:?}"
    );
    let good: u64 = report.chains.iter().map(|chain| chain.records).sum();
    println!(
        "verified {good} records in {:.1} s of the verifier's own time",
        verifying.as_secs_f64()
    );
    Ok(good as f64 / verifying.as_secs_f64())
}

async fn database(url: &str) -> Result<PgConnection> {
    PgConnection::connect(url)
        .await
        .context("cannot connect to postgres")
}
