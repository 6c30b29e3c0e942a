//! What our proxy and Envoy hold in memory: connections on which nothing happens, and a large configuration, with what it takes
//! to load it over xDS. Every round has processes of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http::{Request, StatusCode, header};
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tombolo_tests::ads::contract;
use tombolo_tests::process::Usage;
use tombolo_tests::proxy::Software;
use tombolo_tests::{client, within};

use super::{Running, cell, listener, over_xds, us};
use crate::Options;
use crate::load::Upstream;
use crate::statistics::Sorted;

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

/// A line of the table.
struct Figure {
    name: &'static str,
    of: fn(&Round) -> f64,
}

const FIGURES: [Figure; 3] = [
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

pub(crate) async fn run(options: &Options) -> Result<()> {
    let upstream = Upstream::start()?;
    let mut rounds = Software::BOTH.map(|software| (software, Vec::new()));
    println!("{CONNECTIONS} idle connections, then {SERVICES} services with a route each");
    for number in 0..options.rounds {
        for (software, rounds) in &mut rounds {
            let dir = tempfile::tempdir().context("cannot create a temporary directory")?;
            let round = round(*software, upstream.address(), dir.path()).await;
            rounds.push(round.with_context(|| software.name())?);
        }
        println!("round {} of {}", number + 1, options.rounds);
    }
    println!();
    println!("median (least-most) of {} rounds", options.rounds);
    print!("{:32}", "");
    for (software, _) in &rounds {
        print!("{:>24}", software.name());
    }
    println!();
    let mut ratios = Vec::new();
    for figure in &FIGURES {
        print!("{:32}", figure.name);
        let mut medians = Vec::new();
        for (_, rounds) in &rounds {
            let sorted = Sorted::new(rounds.iter().map(figure.of)).context("no rounds were run")?;
            print!("{:>24}", cell(&sorted));
            medians.push(sorted.median());
        }
        println!();
        ratios.push(medians[1] / medians[0]);
    }
    println!();
    println!(
        "bench proxy memory: idle_mem_vs_envoy={:.2} config_mem_vs_envoy={:.2} config_time_vs_envoy={:.2} rounds={}",
        ratios[0], ratios[1], ratios[2], options.rounds
    );
    Ok(())
}

async fn round(software: Software, upstream: SocketAddr, dir: &Path) -> Result<Round> {
    let (listener, running) = started(software, upstream, dir, "idle").await?;
    let before = settled(running.pid()).await?;
    let mut connections = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        connections.push(used(listener).await?);
    }
    let idle = settled(running.pid()).await?;
    drop((connections, running));
    // Another process: what the first one has freed would be used again, and not be seen.
    let (listener, running) = started(software, upstream, dir, "config").await?;
    let Running::Xds { ads, .. } = &running else {
        unreachable!("invariant: it is configured over xDS");
    };
    let unloaded = settled(running.pid()).await?;
    ads.publish(contract::many_services(listener, upstream, SERVICES));
    for service in (0..SERVICES).step_by(SERVICES / 10).chain([SERVICES - 1]) {
        answered(listener, &format!("s{service}.example.com")).await?;
    }
    let loaded = settled(running.pid()).await?;
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
        config_cpu_ms: us(loaded.cpu.saturating_sub(unloaded.cpu)) / 1e3,
    })
}

/// A new process that serves one service.
async fn started(
    software: Software,
    upstream: SocketAddr,
    dir: &Path,
    part: &str,
) -> Result<(SocketAddr, Running)> {
    let listener = listener();
    let resources = contract::many_services(listener, upstream, 0);
    let id = format!("{}-{part}", software.name());
    let running = over_xds(software, &id, resources, dir).await?;
    answered(listener, "shop.example.com").await?;
    Ok((listener, running))
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
async fn settled(pid: u32) -> Result<Usage> {
    let mut before = Usage::of(pid)?;
    loop {
        tokio::time::sleep(QUIET).await;
        let now = Usage::of(pid)?;
        if now.cpu == before.cpu {
            return Ok(now);
        }
        before = now;
    }
}
