//! Management as a process of its own on a real Postgres, with a tenant, a writer and a stranger; and a copy of its
//! database for pgbench.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::Full;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use tempfile::TempDir;
use tombolo_runtime::authority::Authority;
use tombolo_runtime::plane_id::{Plane, PlaneId};
use tombolo_tests::client::Connection as Http;
use tombolo_tests::postgres::Postgres;
use tombolo_tests::process::Process;
use tombolo_tests::{free_port, within};

use super::pgbench::{Pgbench, Sample};

const ACME: &str = "organizations/acme";
const PREFIX: &str = "organizations/acme/tenants/bench/workspaces/bench/trafficgroups/g";
const TOKEN_LINE: &str = "bootstrap administrator token: ";
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Of the rows that one write touches, how far the two sides may differ: statistics arrive a little late.
const WORK_TOLERANCE: f64 = 0.1;

pub(crate) struct Rig {
    url: String,
    copy_url: String,
    pgbench: Pgbench,
    clients: usize,
    api: SocketAddr,
    writer: String,
    stranger: String,
    _management: Process,
    _dir: TempDir,
}

impl Rig {
    pub(crate) async fn start(clients: usize) -> Result<Rig> {
        let dir = tempfile::tempdir().context("cannot create a temporary directory")?;
        let authority = Authority::create_or_open(&dir.path().join("authority"), "acme")?;
        let id = PlaneId::new("acme", Plane::Management, "bench")?;
        authority.issue(&id, &dir.path().join("identity"))?;
        let url = Postgres::start().create_database().await;
        let api = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));

        let management = start_management(&url, api, &dir)?;
        let admin = bootstrap_token(&dir).await?;
        let writer = populate(api, &admin, clients).await?;
        let stranger = user(api, &admin, "stranger").await?;
        management.terminate(START_TIMEOUT)?;

        let copy_url = copy(&url).await?;
        let management = start_management(&url, api, &dir)?;
        ready(api).await?;
        let sample = sample(&url).await?;
        Ok(Rig {
            pgbench: Pgbench::new(&copy_url, PREFIX, sample, dir.path())?,
            url,
            copy_url,
            clients,
            api,
            writer,
            stranger,
            _management: management,
            _dir: dir,
        })
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn api(&self) -> SocketAddr {
        self.api
    }

    /// The token of who may write every resource.
    pub(crate) fn writer(&self) -> &str {
        &self.writer
    }

    /// The token of who may do nothing.
    pub(crate) fn stranger(&self) -> &str {
        &self.stranger
    }

    /// Of one client; nobody else writes it.
    pub(crate) fn resource(&self, client: usize) -> String {
        format!("{PREFIX}{client}")
    }

    /// Transactions per second of pgbench.
    pub(crate) async fn pgbench(&self, during: Duration) -> Result<f64> {
        let (pgbench, clients) = (self.pgbench.clone(), self.clients);
        tokio::task::spawn_blocking(move || pgbench.run(clients, during)).await?
    }

    pub(crate) async fn begin_counting(&self) -> Result<()> {
        for url in [&self.url, &self.copy_url] {
            let mut connection = PgConnection::connect(url).await?;
            sqlx::raw_sql("SELECT pg_stat_reset()")
                .execute(&mut connection)
                .await?;
        }
        Ok(())
    }

    /// That both sides have changed as many rows for each write, or the comparison says nothing.
    pub(crate) async fn check_same_work(&self) -> Result<()> {
        let ours = rows_per_write(&self.url).await?;
        let theirs = rows_per_write(&self.copy_url).await?;
        ensure!(
            (ours / theirs - 1.0).abs() < WORK_TOLERANCE,
            "a write changes {ours:.2} rows and pgbench's transaction {theirs:.2}: update the script in pgbench.rs"
        );
        Ok(())
    }
}

fn start_management(url: &str, api: SocketAddr, dir: &TempDir) -> Result<Process> {
    let mut command = Command::new(crate::tombolo()?);
    command
        .args([
            "management",
            "--organization",
            "acme",
            "--listen",
            &api.to_string(),
        ])
        .args(["--feed-listen", &format!("127.0.0.1:{}", free_port())])
        // All clients are one user, whom a fast machine would answer with 429.
        .args(["--requests-max", "1000000"])
        .arg("--identity")
        .arg(dir.path().join("identity"))
        .arg("--data-dir")
        .arg(dir.path().join("data"))
        .env("TOMBOLO_DATABASE_URL", url);
    Process::start("management", &mut command, dir.path())
}

async fn bootstrap_token(dir: &TempDir) -> Result<String> {
    let log = dir.path().join("management.log");
    within(START_TIMEOUT, async || {
        let text = fs::read_to_string(&log)?;
        let token = text.lines().find_map(|line| line.split_once(TOKEN_LINE));
        token
            .map(|(_, token)| token.trim().to_owned())
            .with_context(|| format!("management has printed no token:\n{text}"))
    })
    .await
}

/// A tenant with a resource for each client, and the token of who may write there.
async fn populate(api: SocketAddr, admin: &str, clients: usize) -> Result<String> {
    ready(api).await?;
    let tenant = format!("{ACME}/tenants/bench");
    let workspace = format!("{tenant}/workspaces/bench");
    let mut documents = vec![
        json!({"name": tenant}),
        json!({"name": workspace, "spec": {"namespaces": ["*/bench"]}}),
        json!({"name": format!("{ACME}/users/writer")}),
        json!({"name": format!("{tenant}/bindings/writer"),
            "spec": {"role": "writer", "subjects": [format!("{ACME}/users/writer")]}}),
    ];
    documents.extend(
        (0..clients).map(|client| json!({"name": format!("{PREFIX}{client}"), "description": "new"})),
    );
    call(api, admin, Method::POST, "changes", &json!(documents)).await?;
    token(api, admin, "writer").await
}

async fn user(api: SocketAddr, admin: &str, leaf: &str) -> Result<String> {
    let document = json!({"name": format!("{ACME}/users/{leaf}")});
    call(api, admin, Method::POST, &format!("{ACME}/users"), &document).await?;
    token(api, admin, leaf).await
}

async fn token(api: SocketAddr, admin: &str, leaf: &str) -> Result<String> {
    let issued = call(
        api,
        admin,
        Method::POST,
        &format!("{ACME}/users/{leaf}/tokens"),
        &json!({}),
    )
    .await?;
    let token = issued["token"].as_str().context("no token was issued")?;
    Ok(token.to_owned())
}

async fn call(api: SocketAddr, token: &str, method: Method, path: &str, body: &Value) -> Result<Value> {
    let request = Request::builder()
        .method(method)
        .uri(format!("/v1/{path}"))
        .header(header::HOST, "management")
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body.to_string())))?;
    let mut connection = Http::open(api, http::Version::HTTP_11).await?;
    let reply = connection.send(request).await?;
    ensure!(
        reply.status.is_success(),
        "{path} was answered {}: {}",
        reply.status,
        String::from_utf8_lossy(&reply.body)
    );
    Ok(serde_json::from_slice(&reply.body)?)
}

async fn ready(api: SocketAddr) -> Result<()> {
    within(START_TIMEOUT, async || {
        let reply = tombolo_tests::client::get(api, "/readyz").await?;
        ensure!(reply.status.is_success(), "management is not ready");
        Ok(())
    })
    .await
}

/// Of a database to which nobody is connected.
async fn copy(url: &str) -> Result<String> {
    let (server, database) = url.rsplit_once('/').context("the address names no database")?;
    let (name, options) = database.split_once('?').unwrap_or((database, ""));
    let mut connection = PgConnection::connect(&format!("{server}/postgres?{options}")).await?;
    let statement = format!("CREATE DATABASE {name}_copy TEMPLATE {name}");
    sqlx::raw_sql(AssertSqlSafe(statement))
        .execute(&mut connection)
        .await
        .context("cannot copy the database")?;
    Ok(format!("{server}/{name}_copy?{options}"))
}

/// What a write puts into the rows.
async fn sample(url: &str) -> Result<Sample> {
    let mut connection = PgConnection::connect(url).await?;
    let row = sqlx::query(
        "SELECT r.uid::text, (SELECT document::text FROM resources WHERE name LIKE '%/trafficgroups/g0'), \
         (SELECT avg(length(record))::int FROM audit WHERE name LIKE '%/trafficgroups/g%') \
         FROM resources r WHERE r.name LIKE '%/users/writer'",
    )
    .fetch_one(&mut connection)
    .await?;
    // The record of an update also holds what was before.
    let record_bytes = usize::try_from(row.try_get::<i32, _>(2)?)? * 3 / 2;
    Ok(Sample {
        principal: row.try_get(0)?,
        document: row.try_get(1)?,
        record: "r".repeat(record_bytes),
    })
}

async fn rows_per_write(url: &str) -> Result<f64> {
    let mut connection = PgConnection::connect(url).await?;
    let query = "SELECT sum(n_tup_ins + n_tup_upd + n_tup_del)::float8 / \
                 nullif(sum(n_tup_upd) FILTER (WHERE relname = 'resources'), 0)::float8 \
                 FROM pg_stat_user_tables WHERE relname <> 'denial_heads' AND relname !~ '^audit_(postings|indexed)'";
    let rows: Option<f64> = sqlx::query_scalar(query).fetch_one(&mut connection).await?;
    rows.context("nothing was written")
}
