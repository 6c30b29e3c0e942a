//! CPU per request, memory and latency under as much load as is answered.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use http::Version;
use tombolo_tests::ads::Resources;
use tombolo_tests::ads::contract::{self, Serving};
use tombolo_tests::proxy::Software;

use super::contender::Contender;
use super::listener;
use super::peers::Peer;
use super::rounds::in_turns;
use crate::Options;
use crate::load::{Asks, Lanes, Load, Outcome, Trusted, Upstream, Wire};
use crate::report::{Figure, Measured, Report, Table};
use crate::statistics::Sorted;

/// Before the first round: connections to the upstream are made, code and counters are paged in.
const WARM_UP_REQUESTS: usize = 3_000;

/// Kept connections of HTTP/1.1, one request at a time on each.
pub(super) const KEPT: Lanes = Lanes {
    connections: 64,
    streams: 1,
    fresh: false,
};
/// As many requests at once.
const MULTIPLEXED: Lanes = Lanes {
    connections: 8,
    streams: 8,
    fresh: false,
};

/// What all the proxies do in the same way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work {
    /// Of its figures in the line for scripts.
    pub(super) key: &'static str,
    pub(super) title: &'static str,
    pub(super) asks: Asks,
    pub(super) wire: Wire,
    pub(super) lanes: Lanes,
    /// What the upstream speaks.
    pub(super) upstream: Version,
    /// Whether each request is a line of JSON in a file.
    pub(super) logged: bool,
    /// What of a round's requests are sent: fewer of those that take long.
    pub(super) part: usize,
}

const GET: Work = Work {
    key: "h1",
    title: "HTTP/1.1",
    asks: Asks::Get,
    wire: Wire::Http1,
    lanes: KEPT,
    upstream: Version::HTTP_11,
    logged: false,
    part: 1,
};

pub(super) const H1: [Work; 2] = [
    GET,
    Work {
        key: "h1log",
        title: "HTTP/1.1 with a JSON access log",
        logged: true,
        ..GET
    },
];

/// One that is not repeated once a host may have seen it, and one that is.
pub(super) const BODIES: [Work; 2] = [
    Work {
        key: "post",
        title: "HTTP/1.1, POST with 1 KiB that comes back",
        asks: Asks::Post,
        ..GET
    },
    Work {
        key: "put",
        title: "HTTP/1.1, PUT with 1 KiB that comes back",
        asks: Asks::Put,
        ..GET
    },
];

pub(super) const H2: [Work; 3] = [
    Work {
        key: "h2h1",
        title: "HTTP/2 in, HTTP/1.1 out",
        wire: Wire::Http2,
        lanes: MULTIPLEXED,
        ..GET
    },
    Work {
        key: "h2h2",
        title: "HTTP/2 in, HTTP/2 out",
        wire: Wire::Http2,
        lanes: MULTIPLEXED,
        upstream: Version::HTTP_2,
        ..GET
    },
    Work {
        key: "grpc",
        title: "unary gRPC",
        asks: Asks::Grpc,
        wire: Wire::Http2,
        lanes: MULTIPLEXED,
        upstream: Version::HTTP_2,
        ..GET
    },
];

pub(super) fn tls() -> Result<[Work; 2]> {
    let wire = Wire::Tls(Trusted::made()?);
    let kept = Work {
        key: "tls",
        title: "HTTP/1.1 in TLS 1.3",
        wire,
        ..GET
    };
    let fresh = Work {
        key: "hs",
        title: "a full handshake of TLS 1.3 for each request",
        lanes: Lanes { fresh: true, ..KEPT },
        part: 10,
        ..kept
    };
    Ok([kept, fresh])
}

/// What one proxy needed for one round.
struct Round {
    cpu_us_per_request: f64,
    user_us_per_request: f64,
    requests_per_second: f64,
    p50_us: f64,
    p99_us: f64,
    rss_mib: f64,
}

const FIGURES: [Figure<Round>; 6] = [
    Figure {
        name: "CPU per request, µs",
        of: |round| round.cpu_us_per_request,
    },
    Figure {
        name: "of it outside the kernel, µs",
        of: |round| round.user_us_per_request,
    },
    Figure {
        name: "resident memory, MiB",
        of: |round| round.rss_mib,
    },
    Figure {
        name: "requests per second",
        of: |round| round.requests_per_second,
    },
    Figure {
        name: "median latency, µs",
        of: |round| round.p50_us,
    },
    Figure {
        name: "99 % latency, µs",
        of: |round| round.p99_us,
    },
];

pub(super) async fn run(options: &Options, works: &[Work]) -> Result<Report> {
    let mut report = Report::default();
    for work in works {
        let measured = rounds(options, work)
            .await
            .with_context(|| work.title.to_owned())?;
        report
            .tables
            .push(Table::compare(work.title, &FIGURES, &measured)?);
        let [cpu, _, rss, ..] = &FIGURES;
        for (other, ratio) in cpu.ratios(&measured)? {
            report.key(format!("{}_cpu_vs_{other}", work.key), ratio);
        }
        for (other, ratio) in rss.ratios(&measured)? {
            report.key(format!("{}_rss_vs_{other}", work.key), ratio);
        }
    }
    Ok(report)
}

async fn rounds(options: &Options, work: &Work) -> Result<Vec<Measured<Round>>> {
    let dir = tempfile::tempdir().context("cannot create a temporary directory")?;
    let upstream = Upstream::start(work.upstream)?;
    let contenders = contenders(work, upstream.address(), dir.path()).await?;
    for (_, contender) in &contenders {
        contender
            .under(work.load(WARM_UP_REQUESTS / work.part))
            .await?
            .0
            .whole()?;
    }
    println!(
        "{}: {} requests in a round",
        work.title,
        options.requests / work.part
    );
    let load = work.load(options.requests / work.part);
    in_turns(options, &contenders, async |contender| {
        measure(contender, load).await
    })
    .await
}

async fn measure(contender: &Contender, load: Load) -> Result<Round> {
    let (outcome, [before, after]) = contender.under(load).await?;
    let outcome = outcome.whole()?;
    let requests = outcome.latencies.len() as f64;
    let latencies = latencies(&outcome)?;
    let each =
        |after: Duration, before: Duration| after.saturating_sub(before).as_secs_f64() * 1e6 / requests;
    Ok(Round {
        cpu_us_per_request: each(after.cpu, before.cpu),
        user_us_per_request: each(after.user, before.user),
        requests_per_second: requests / outcome.elapsed.as_secs_f64(),
        p50_us: latencies.median(),
        p99_us: latencies.quantile(0.99),
        rss_mib: after.rss_bytes as f64 / f64::from(1 << 20),
    })
}

/// In microseconds.
pub(super) fn latencies(outcome: &Outcome) -> Result<Sorted> {
    Sorted::new(
        outcome
            .latencies
            .iter()
            .map(|latency| latency.as_secs_f64() * 1e6),
    )
    .context("a round without requests")
}

/// Ours first, then those that do this work and are installed; each of them serves.
pub(super) async fn contenders(
    work: &Work,
    upstream: SocketAddr,
    dir: &Path,
) -> Result<Vec<(&'static str, Contender)>> {
    let mut contenders = Vec::new();
    for software in [Software::Tombolo, Software::Envoy] {
        let listener = listener();
        let log = dir.join(format!("{}.access.log", software.name()));
        let resources = work.resources(listener, upstream, Some(&log));
        let contender = Contender::over_xds(software, software.name(), listener, resources, dir).await?;
        contenders.push((software.name(), contender));
    }
    for peer in Peer::ALL {
        let Some(binary) = peer.find() else {
            println!(
                "without {0}, which is not installed: apt-get install {0}",
                peer.name()
            );
            continue;
        };
        let listener = listener();
        match peer.start(&binary, work, listener, upstream, dir)? {
            Some(process) => contenders.push((peer.name(), Contender::of_file(listener, process))),
            None => println!("without {}, which does not do this", peer.name()),
        }
    }
    for (name, contender) in &contenders {
        let served = contender.serves(work.load(1)).await;
        served.with_context(|| format!("through {name}"))?;
    }
    Ok(contenders)
}

impl Work {
    /// What the proxies that speak xDS are given; `log` is where they log to if they do.
    pub(super) fn resources(
        &self,
        listener: SocketAddr,
        upstream: SocketAddr,
        log: Option<&Path>,
    ) -> Resources {
        let serving = Serving {
            retries: self.asks.retries(),
            upstream: self.upstream,
            access_log: log.filter(|_| self.logged),
            identity: self.wire.identity(),
        };
        contract::service(listener, &[upstream], &serving)
    }

    pub(super) fn load(&self, requests: usize) -> Load {
        Load {
            asks: self.asks,
            wire: self.wire,
            lanes: self.lanes,
            requests,
            per_second: None,
        }
    }
}
