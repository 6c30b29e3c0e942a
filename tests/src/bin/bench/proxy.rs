//! CPU per request and memory of our proxy, beside Envoy: the same configuration over xDS, the same upstream, one
//! worker each, HTTP/1.1 keep-alive, in alternating rounds so that whatever else the machine does hits both.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use http::StatusCode;
use tempfile::TempDir;
use tombolo_tests::ads::{Ads, contract};
use tombolo_tests::process::Usage;
use tombolo_tests::proxy::{Node, Proxy, Role, Software};
use tombolo_tests::{client, free_port, within};

use crate::Options;
use crate::load::{Load, Outcome, Upstream};
use crate::statistics::Sorted;

const CONNECTIONS: usize = 64;
/// Before the first round: connections to the upstream are made, code and counters are paged in.
const WARM_UP_REQUESTS: usize = 3_000;
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// One proxy, ready for its rounds.
struct Bench {
    software: Software,
    listener: SocketAddr,
    proxy: Proxy,
    rounds: Vec<Round>,
    _ads: Ads,
}

/// What one proxy needed for one round.
struct Round {
    cpu_us_per_request: f64,
    requests_per_second: f64,
    p50_us: f64,
    p99_us: f64,
    rss_mib: f64,
}

/// The medians of one proxy.
struct Summary {
    cpu_us_per_request: Sorted,
    requests_per_second: Sorted,
    p50_us: Sorted,
    p99_us: Sorted,
    rss_mib: Sorted,
}

pub(crate) async fn run(options: &Options) -> Result<()> {
    let dir = tempfile::tempdir().context("cannot create a temporary directory")?;
    let upstream = Upstream::start()?;
    let mut benches = Vec::new();
    for software in Software::BOTH {
        benches.push(Bench::start(software, upstream.address(), &dir).await?);
    }
    println!(
        "{} rounds of {} requests for each proxy, {CONNECTIONS} connections, one worker",
        options.rounds, options.requests
    );
    for round in 0..options.rounds {
        for bench in &mut benches {
            bench.round(options.requests).await?;
        }
        // Each goes first in every other round.
        benches.reverse();
        println!("round {} of {}", round + 1, options.rounds);
    }
    benches.sort_by_key(|bench| bench.software.name());
    report(&benches)
}

impl Bench {
    async fn start(software: Software, upstream: SocketAddr, dir: &TempDir) -> Result<Bench> {
        let listener = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let ads = Ads::start(contract::one_service(listener, &[upstream])).await;
        let node = Node {
            id: format!("bench-{}", software.name()),
            cluster: "bench".to_owned(),
            namespace: "bench".to_owned(),
            role: Role::Gateway {
                workload: "bench".to_owned(),
            },
        };
        let binary = crate::tombolo()?;
        let proxy = Proxy::start(software, &node, ads.address(), &binary, dir.path())
            .await
            .with_context(|| format!("cannot start {}", software.name()))?;
        within(START_TIMEOUT, async || {
            client::get(listener, "/").await?.expect(StatusCode::OK)
        })
        .await
        .with_context(|| {
            format!(
                "{} does not serve; its log ends with:\n{}",
                software.name(),
                proxy.log_tail()
            )
        })?;
        let mut bench = Bench {
            software,
            listener,
            proxy,
            rounds: Vec::new(),
            _ads: ads,
        };
        bench.round(WARM_UP_REQUESTS).await?;
        bench.rounds.clear();
        Ok(bench)
    }

    async fn round(&mut self, requests: usize) -> Result<()> {
        let load = Load {
            connections: CONNECTIONS,
            requests,
        };
        let pid = self.proxy.pid();
        let before = Usage::of(pid)?;
        let outcome = load
            .run(self.listener)
            .await
            .with_context(|| format!("through {}", self.software.name()))?;
        let after = Usage::of(pid)?;
        self.rounds.push(Round::new(&outcome, before, after)?);
        Ok(())
    }
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

impl Summary {
    fn of(rounds: &[Round]) -> Result<Summary> {
        let sorted =
            |figure: fn(&Round) -> f64| Sorted::new(rounds.iter().map(figure)).context("no rounds were run");
        Ok(Summary {
            cpu_us_per_request: sorted(|round| round.cpu_us_per_request)?,
            requests_per_second: sorted(|round| round.requests_per_second)?,
            p50_us: sorted(|round| round.p50_us)?,
            p99_us: sorted(|round| round.p99_us)?,
            rss_mib: sorted(|round| round.rss_mib)?,
        })
    }
}

fn report(benches: &[Bench]) -> Result<()> {
    let [envoy, tombolo] = benches else {
        anyhow::bail!("two proxies are compared, not {}", benches.len());
    };
    let (envoy, tombolo) = (Summary::of(&envoy.rounds)?, Summary::of(&tombolo.rounds)?);
    println!();
    println!("median (least-most) of {} rounds", envoy.rss_mib.len());
    println!("{:26}{:>26}{:>26}{:>10}", "", "envoy", "tombolo", "ratio");
    let rows = [
        (
            "CPU per request, µs",
            &envoy.cpu_us_per_request,
            &tombolo.cpu_us_per_request,
        ),
        ("resident memory, MiB", &envoy.rss_mib, &tombolo.rss_mib),
        (
            "requests per second",
            &envoy.requests_per_second,
            &tombolo.requests_per_second,
        ),
        ("median latency, µs", &envoy.p50_us, &tombolo.p50_us),
        ("99 % latency, µs", &envoy.p99_us, &tombolo.p99_us),
    ];
    for (name, envoy, tombolo) in rows {
        let ratio = tombolo.median() / envoy.median();
        println!("{name:26}{:>26}{:>26}{ratio:>10.2}", cell(envoy), cell(tombolo));
    }
    println!();
    println!(
        "bench proxy: h1_cpu_vs_envoy={:.2} rss_vs_envoy={:.2} cpu_us={:.1} envoy_cpu_us={:.1} rss_mib={:.1} \
         envoy_rss_mib={:.1} rounds={}",
        tombolo.cpu_us_per_request.median() / envoy.cpu_us_per_request.median(),
        tombolo.rss_mib.median() / envoy.rss_mib.median(),
        tombolo.cpu_us_per_request.median(),
        envoy.cpu_us_per_request.median(),
        tombolo.rss_mib.median(),
        envoy.rss_mib.median(),
        tombolo.rss_mib.len(),
    );
    Ok(())
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
