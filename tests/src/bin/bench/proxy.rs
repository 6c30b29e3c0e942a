//! CPU per request and memory of our proxy, beside Envoy, HAProxy and nginx: the same upstream and the same route, one
//! worker each, HTTP/1.1 keep-alive, in alternating rounds so that whatever else the machine does hits all. Envoy and ours
//! are configured over the same xDS, the other two by a file.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use http::{Request, StatusCode, header};
use http_body_util::Full;
use tombolo_tests::ads::{Ads, Resources, contract};
use tombolo_tests::process::{Process, Usage};
use tombolo_tests::proxy::{Node, Proxy, Role, Software};
use tombolo_tests::{client, free_port, within};

use crate::Options;
use crate::load::{Asks, HOST, Load, Outcome, PATH, Upstream};
use crate::statistics::Sorted;
use peers::Peer;

pub(crate) mod instructions;
pub(crate) mod memory;
mod peers;
pub(crate) mod routes;

const CONNECTIONS: usize = 64;
/// Before the first round: connections to the upstream are made, code and counters are paged in.
const WARM_UP_REQUESTS: usize = 3_000;
const START_TIMEOUT: Duration = Duration::from_secs(20);
const OURS: &str = Software::Tombolo.name();

/// One proxy, ready for its rounds.
struct Bench {
    name: &'static str,
    asks: Asks,
    listener: SocketAddr,
    running: Running,
    rounds: Vec<Round>,
}

enum Running {
    Xds { proxy: Proxy, ads: Ads },
    File(Process),
}

/// What one proxy needed for one round.
struct Round {
    cpu_us_per_request: f64,
    requests_per_second: f64,
    p50_us: f64,
    p99_us: f64,
    rss_mib: f64,
}

/// A line of the table.
struct Figure {
    name: &'static str,
    of: fn(&Round) -> f64,
}

const FIGURES: [Figure; 5] = [
    Figure {
        name: "CPU per request, µs",
        of: |round| round.cpu_us_per_request,
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

pub(crate) async fn run(options: &Options, asks: Asks) -> Result<()> {
    let dir = tempfile::tempdir().context("cannot create a temporary directory")?;
    let upstream = Upstream::start()?;
    let mut benches = Vec::new();
    for software in Software::BOTH {
        benches.push(Bench::xds(software, asks, upstream.address(), dir.path()).await?);
    }
    for peer in Peer::ALL {
        match peer.find() {
            Some(binary) => {
                benches.push(Bench::file(peer, &binary, asks, upstream.address(), dir.path()).await?);
            }
            None => println!(
                "without {0}, which is not installed: apt-get install {0}",
                peer.name()
            ),
        }
    }
    println!(
        "{} rounds of {} {} requests for each proxy, {CONNECTIONS} connections, one worker",
        options.rounds,
        options.requests,
        asks.method()
    );
    for round in 0..options.rounds {
        for bench in &mut benches {
            bench.round(options.requests).await?;
        }
        // Each goes first in every other round.
        benches.reverse();
        println!("round {} of {}", round + 1, options.rounds);
    }
    report(&benches)
}

impl Bench {
    async fn xds(software: Software, asks: Asks, upstream: SocketAddr, dir: &Path) -> Result<Bench> {
        let listener = listener();
        let resources = contract::one_service(listener, &[upstream], asks.retries());
        let running = over_xds(software, software.name(), resources, dir).await?;
        Bench::ready(software.name(), asks, listener, running).await
    }

    async fn file(peer: Peer, binary: &Path, asks: Asks, upstream: SocketAddr, dir: &Path) -> Result<Bench> {
        let listener = listener();
        let process = peer.start(binary, listener, upstream, dir)?;
        Bench::ready(peer.name(), asks, listener, Running::File(process)).await
    }

    async fn ready(name: &'static str, asks: Asks, listener: SocketAddr, running: Running) -> Result<Bench> {
        within(START_TIMEOUT, async || {
            let request = Request::get(PATH)
                .header(header::HOST, HOST)
                .body(Full::default())?;
            client::send(listener, request).await?.expect(StatusCode::OK)
        })
        .await
        .with_context(|| {
            format!(
                "{name} does not serve; its log ends with:\n{}",
                running.log_tail()
            )
        })?;
        let mut bench = Bench {
            name,
            asks,
            listener,
            running,
            rounds: Vec::new(),
        };
        bench.round(WARM_UP_REQUESTS).await?;
        bench.rounds.clear();
        Ok(bench)
    }

    async fn round(&mut self, requests: usize) -> Result<()> {
        let load = Load {
            asks: self.asks,
            connections: CONNECTIONS,
            requests,
        };
        let pid = self.running.pid();
        let before = Usage::of(pid)?;
        let outcome = load
            .run(self.listener)
            .await
            .with_context(|| format!("through {}", self.name))?;
        let after = Usage::of(pid)?;
        self.rounds.push(Round::new(&outcome, before, after)?);
        Ok(())
    }
}

/// A proxy that is given `resources`; `id` tells it from the others of the bench.
async fn over_xds(software: Software, id: &str, resources: Resources, dir: &Path) -> Result<Running> {
    let ads = Ads::start(resources).await;
    let proxy = Proxy::start(software, &node(id), ads.address(), &crate::tombolo()?, dir)
        .await
        .with_context(|| format!("cannot start {}", software.name()))?;
    Ok(Running::Xds { proxy, ads })
}

impl Round {
    fn new(outcome: &Outcome, before: Usage, after: Usage) -> Result<Round> {
        let requests = outcome.latencies.len() as f64;
        let latencies = Sorted::new(outcome.latencies.iter().map(|latency| us(*latency)))
            .context("a round without requests")?;
        Ok(Round {
            cpu_us_per_request: us(after.cpu.saturating_sub(before.cpu)) / requests,
            requests_per_second: requests / outcome.elapsed.as_secs_f64(),
            p50_us: latencies.median(),
            p99_us: latencies.quantile(0.99),
            rss_mib: after.rss_bytes as f64 / f64::from(1 << 20),
        })
    }
}

impl Running {
    fn pid(&self) -> u32 {
        match self {
            Running::Xds { proxy, .. } => proxy.pid(),
            Running::File(process) => process.pid(),
        }
    }

    fn log_tail(&self) -> String {
        match self {
            Running::Xds { proxy, .. } => proxy.log_tail(),
            Running::File(process) => process.log_tail(),
        }
    }
}

impl Figure {
    fn sorted(&self, bench: &Bench) -> Result<Sorted> {
        Sorted::new(bench.rounds.iter().map(self.of)).context("no rounds were run")
    }
}

fn report(benches: &[Bench]) -> Result<()> {
    let (ours, others): (Vec<_>, Vec<_>) = benches.iter().partition(|bench| bench.name == OURS);
    let [ours] = ours[..] else {
        bail!("one proxy of ours is measured, not {}", ours.len());
    };
    println!();
    println!(
        "median (least-most) of {} rounds; × is ours by theirs",
        ours.rounds.len()
    );
    print!("{:24}{OURS:>24}", "");
    for other in &others {
        print!("{:>24}{:>7}", other.name, "×");
    }
    println!();
    for figure in &FIGURES {
        let own = figure.sorted(ours)?;
        print!("{:24}{:>24}", figure.name, cell(&own));
        for other in &others {
            let theirs = figure.sorted(other)?;
            print!("{:>24}{:>7.2}", cell(&theirs), own.median() / theirs.median());
        }
        println!();
    }
    println!();
    let [cpu, rss, ..] = &FIGURES;
    let (own_cpu, own_rss) = (cpu.sorted(ours)?.median(), rss.sorted(ours)?.median());
    let asked = ours.asks.key();
    print!("bench proxy:");
    for other in &others {
        print!(
            " {asked}_cpu_vs_{}={:.2}",
            other.name,
            own_cpu / cpu.sorted(other)?.median()
        );
    }
    for other in &others {
        print!(
            " rss_vs_{}={:.2}",
            other.name,
            own_rss / rss.sorted(other)?.median()
        );
    }
    println!(
        " cpu_us={own_cpu:.1} rss_mib={own_rss:.1} rounds={}",
        ours.rounds.len()
    );
    Ok(())
}

fn listener() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()))
}

fn node(id: &str) -> Node {
    Node {
        id: format!("bench-{id}"),
        cluster: "bench".to_owned(),
        namespace: "bench".to_owned(),
        role: Role::Gateway {
            workload: "bench".to_owned(),
        },
    }
}

fn cell(figures: &Sorted) -> String {
    format!(
        "{:.1} ({:.1}-{:.1})",
        figures.median(),
        figures.min(),
        figures.max()
    )
}

fn us(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}
