//! What our proxy and Envoy hold in memory: connections on which nothing happens, and a large configuration, with what it takes
//! to load it over xDS. Every round has processes of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http::{Request, StatusCode, Version, header};
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tombolo_tests::ads::contract::Services;
use tombolo_tests::process::Usage;
use tombolo_tests::proxy::Software;
use tombolo_tests::{client, within};

use super::contender::Contender;
use super::listener;
use crate::Options;
use crate::load::Upstream;
use crate::report::{Figure, Measured, Report, Table};

const CONNECTIONS: usize = 10_000;
const SERVICES: usize = 5_000;
/// An Envoy takes a few seconds for so many.
const LOAD_TIMEOUT: Duration = Duration::from_secs(60);
/// A proxy that has used no CPU time for so long has done what it had to do.
const QUIET: Duration = Duration::from_millis(500);

/// What one process needed.
struct Round {
    idle_kib: f64,
    config_kib: f64,
    config_cpu_ms: f64,
}

const FIGURES: [Figure<Round>; 3] = [
    Figure {
        name: "KiB for an idle connection",
        of: |round| round.idle_kib,
    },
    Figure {
        name: "KiB for a service",
        of: |round| round.config_kib,
    },
    Figure {
        name: "CPU ms to load them all",
        of: |round| round.config_cpu_ms,
    },
];

pub(super) async fn run(options: &Options) -> Result<Report> {
    let upstream = Upstream::start(Version::HTTP_11)?;
    let mut measured = [Software::Tombolo, Software::Envoy].map(|software| {
        let name = software.name().to_owned();
        (
            software,
            Measured {
                name,
                rounds: Vec::new(),
            },
        )
    });
    println!("{CONNECTIONS} idle connections, then {SERVICES} services with a route each");
    for number in 0..options.rounds {
        for (software, measured) in &mut measured {
            let dir = tempfile::tempdir().context("cannot create a temporary directory")?;
            let round = round(*software, upstream.address(), dir.path()).await;
            measured.rounds.push(round.with_context(|| software.name())?);
        }
        println!("round {} of {}", number + 1, options.rounds);
    }
    let measured = measured.map(|(_, measured)| measured);
    let mut report = Report::default();
    let title = format!("{CONNECTIONS} idle connections, {SERVICES} services with a route each");
    report.tables.push(Table::compare(&title, &FIGURES, &measured)?);
    let keys = ["idle_mem_vs_envoy", "config_mem_vs_envoy", "config_time_vs_envoy"];
    for (figure, key) in FIGURES.iter().zip(keys) {
        for (_, ratio) in figure.ratios(&measured)? {
            report.key(key, ratio);
        }
    }
    Ok(report)
}

async fn round(software: Software, upstream: SocketAddr, dir: &Path) -> Result<Round> {
    let proxy = started(software, upstream, dir, "idle").await?;
    let before = settled(&proxy).await?;
    let mut connections = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        connections.push(used(proxy.listener).await?);
    }
    let idle = settled(&proxy).await?;
    drop((connections, proxy));
    // Another process: what the first one has freed would be used again, and not be seen.
    let proxy = started(software, upstream, dir, "config").await?;
    let listener = proxy.listener;
    let unloaded = settled(&proxy).await?;
    proxy.publish(Services::new(listener, [upstream; 2], SERVICES).resources());
    for service in (0..SERVICES).step_by(SERVICES / 10).chain([SERVICES - 1]) {
        answered(listener, &format!("s{service}.example.com")).await?;
    }
    let loaded = settled(&proxy).await?;
    let kib = |after: Usage, before: Usage, count: usize| {
        let more = after
            .rss_bytes
            .checked_sub(before.rss_bytes)
            .context("it holds less than before")?;
        anyhow::Ok(more as f64 / 1024.0 / count as f64)
    };
    Ok(Round {
        idle_kib: kib(idle, before, CONNECTIONS)?,
        config_kib: kib(loaded, unloaded, SERVICES)?,
        config_cpu_ms: loaded.cpu.saturating_sub(unloaded.cpu).as_secs_f64() * 1e3,
    })
}

/// A new process that serves one service.
async fn started(software: Software, upstream: SocketAddr, dir: &Path, part: &str) -> Result<Contender> {
    let listener = listener();
    let resources = Services::new(listener, [upstream; 2], 0).resources();
    let id = format!("{}-{part}", software.name());
    let proxy = Contender::over_xds(software, &id, listener, resources, dir).await?;
    answered(listener, "shop.example.com").await?;
    Ok(proxy)
}

/// A connection on which one request was answered.
async fn used(listener: SocketAddr) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(listener)
        .await
        .context("cannot open another connection; is the limit of descriptors (ulimit -n) above 15000?")?;
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: shop.example.com\r\n\r\n")
        .await?;
    let mut answer = Vec::new();
    // The head, and the kilobyte that the upstream answers with.
    while !answer.ends_with(b"xxxx\r\n") && !answer.ends_with(b"xxxx") {
        ensure!(
            stream.read_buf(&mut answer).await? > 0,
            "the connection was closed"
        );
    }
    ensure!(
        answer.starts_with(b"HTTP/1.1 200"),
        "it was not answered with 200"
    );
    Ok(stream)
}

/// Waits until a request for `host` is answered by the upstream.
async fn answered(listener: SocketAddr, host: &str) -> Result<()> {
    within(LOAD_TIMEOUT, async || {
        let request = Request::get("/")
            .header(header::HOST, host)
            .body(Full::default())?;
        client::send(listener, request).await?.expect(StatusCode::OK)
    })
    .await
    .map(drop)
}

/// What a process has used when it uses no more.
async fn settled(proxy: &Contender) -> Result<Usage> {
    let mut before = proxy.usage()?;
    loop {
        tokio::time::sleep(QUIET).await;
        let now = proxy.usage()?;
        if now.cpu == before.cpu {
            return Ok(now);
        }
        before = now;
    }
}
