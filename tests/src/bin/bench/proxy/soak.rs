//! A day in its life, shortened: requests of all kinds at a fixed rate while services, routes, upstreams and connections come and
//! go. What it holds must not grow, and nothing of what it has opened may be left.

use std::time::Duration;

use anyhow::{Context, Result};
use http::Version;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep};
use tombolo_tests::ads::contract::Services;
use tombolo_tests::proxy::Software;

use super::contender::Contender;
use super::http::KEPT;
use super::latency::at_rate;
use super::listener;
use crate::Options;
use crate::load::{Asks, Lanes, Load, Upstream, Wire};
use crate::report::{Report, Table};
use crate::statistics::Sorted;

/// Of each of the kinds of traffic.
const PER_SECOND: f64 = 300.0;
/// How long one load is, before its connections are left and others made.
const SECONDS: f64 = 10.0;
/// Before memory is looked at for the first time: buffers, connections and tables have grown to what they need.
const WARM_UP: Duration = Duration::from_secs(60);
/// Idle connections to upstreams are closed within it.
const QUIET: Duration = Duration::from_secs(65);
const CHANGE_EVERY: Duration = Duration::from_millis(100);
const SERVICES: usize = 200;

struct Sample {
    rss_mib: f64,
    descriptors: usize,
}

pub(super) async fn run(options: &Options) -> Result<Report> {
    let dir = tempfile::tempdir().context("cannot create a temporary directory")?;
    let upstreams = [
        Upstream::start(Version::HTTP_11)?,
        Upstream::start(Version::HTTP_11)?,
    ];
    let addresses = upstreams.each_ref().map(Upstream::address);
    let listener = listener();
    let mut services = Services::new(listener, addresses, SERVICES);
    let resources = services.resources();
    let proxy = Contender::over_xds(Software::Tombolo, "soak", listener, resources, dir.path()).await?;
    proxy.serves(kinds()[0]).await?;

    let mut totals = Totals::default();
    println!("a minute to warm up");
    traffic(&proxy, &mut services, WARM_UP, &mut totals).await?;
    sleep(QUIET).await;
    let before = sample(&proxy)?;
    let minutes = u64::try_from(options.minutes)?;
    let mut busy = Vec::new();
    for minute in 0..minutes {
        traffic(&proxy, &mut services, Duration::from_secs(60), &mut totals).await?;
        let sample = sample(&proxy)?;
        println!(
            "minute {} of {minutes}: {:.1} MiB, {} descriptors, {} requests, {} lost",
            minute + 1,
            sample.rss_mib,
            sample.descriptors,
            totals.answered,
            totals.lost
        );
        busy.push(sample);
    }
    sleep(QUIET).await;
    let after = sample(&proxy)?;
    let memory = Sorted::new(busy.iter().map(|sample| sample.rss_mib)).context("no minute was run")?;
    let first = busy.first().map_or(0.0, |sample| sample.rss_mib);
    let last = busy.last().map_or(0.0, |sample| sample.rss_mib);
    let mut report = Report::default();
    report.tables.push(Table {
        title: format!(
            "{minutes} minutes, {} requests, {} changes",
            totals.answered, totals.changes
        ),
        heads: [
            "quiet before",
            "first minute",
            "last minute",
            "most",
            "quiet after",
        ]
        .map(str::to_owned)
        .to_vec(),
        rows: vec![
            vec![
                "resident memory, MiB".to_owned(),
                format!("{:.1}", before.rss_mib),
                format!("{first:.1}"),
                format!("{last:.1}"),
                format!("{:.1}", memory.max()),
                format!("{:.1}", after.rss_mib),
            ],
            vec![
                "file descriptors".to_owned(),
                before.descriptors.to_string(),
                busy.first().map_or(0, |sample| sample.descriptors).to_string(),
                busy.last().map_or(0, |sample| sample.descriptors).to_string(),
                busy.iter()
                    .map(|sample| sample.descriptors)
                    .max()
                    .unwrap_or(0)
                    .to_string(),
                after.descriptors.to_string(),
            ],
        ],
    });
    report.key("soak_memory_growth", last / first);
    report.key(
        "soak_descriptors_left",
        after.descriptors as f64 - before.descriptors as f64,
    );
    report.key("soak_lost", totals.lost as f64);
    Ok(report)
}

#[derive(Default)]
struct Totals {
    answered: usize,
    changes: usize,
    lost: usize,
}

/// Requests of all kinds for so long, while the configuration changes.
async fn traffic(
    proxy: &Contender,
    services: &mut Services,
    time: Duration,
    totals: &mut Totals,
) -> Result<()> {
    let end = Instant::now() + time;
    while Instant::now() < end {
        let mut loads = JoinSet::new();
        for kind in kinds() {
            loads.spawn(at_rate(kind, PER_SECOND, SECONDS).run(proxy.listener));
        }
        let mut turns = interval(CHANGE_EVERY);
        while !loads.is_empty() {
            tokio::select! {
                Some(done) = loads.join_next() => {
                    let outcome = done.context("a load panicked")??;
                    totals.answered += outcome.latencies.len();
                    totals.lost += outcome.lost.len();
                    for lost in outcome.lost.iter().take(3) {
                        println!("lost: {lost}");
                    }
                }
                _ = turns.tick() => {
                    services.change();
                    totals.changes += 1;
                    proxy.publish(services.resources());
                }
            }
        }
    }
    Ok(())
}

fn kinds() -> [Load; 4] {
    let get = Load {
        asks: Asks::Get,
        wire: Wire::Http1,
        lanes: KEPT,
        requests: 1,
        per_second: None,
    };
    [
        get,
        Load {
            asks: Asks::Put,
            ..get
        },
        Load {
            lanes: Lanes {
                fresh: true,
                ..Lanes::single(8)
            },
            ..get
        },
        Load {
            asks: Asks::Post,
            wire: Wire::Http2,
            lanes: Lanes {
                connections: 4,
                streams: 8,
                fresh: false,
            },
            ..get
        },
    ]
}

fn sample(proxy: &Contender) -> Result<Sample> {
    let usage = proxy.usage()?;
    Ok(Sample {
        rss_mib: usage.rss_bytes as f64 / f64::from(1 << 20),
        descriptors: usage.descriptors,
    })
}
