//! How long a request takes where nothing is near its limits: a fixed rate, the same for all, of 30 % of what Envoy answers at
//! most.

use anyhow::{Context, Result};

use super::contender::Contender;
use super::http::{H1, contenders, latencies};
use super::rounds::in_turns;
use crate::Options;
use crate::load::{Load, Upstream};
use crate::report::{Figure, Report, Table};

const SHARE: f64 = 0.3;
/// How long a round takes.
const SECONDS: f64 = 3.0;

struct Round {
    p50_us: f64,
    p99_us: f64,
}

const FIGURES: [Figure<Round>; 2] = [
    Figure {
        name: "median latency, µs",
        of: |round| round.p50_us,
    },
    Figure {
        name: "99 % latency, µs",
        of: |round| round.p99_us,
    },
];

pub(super) async fn run(options: &Options) -> Result<Report> {
    let dir = tempfile::tempdir().context("cannot create a temporary directory")?;
    let [work, ..] = &H1;
    let upstream = Upstream::start(work.upstream)?;
    let contenders = contenders(work, upstream.address(), dir.path()).await?;
    let mut envoy_per_second = 0.0;
    for (name, contender) in &contenders {
        let (outcome, _) = contender.under(work.load(options.requests)).await?;
        let outcome = outcome.whole()?;
        if *name == "envoy" {
            envoy_per_second = outcome.latencies.len() as f64 / outcome.elapsed.as_secs_f64();
        }
    }
    let per_second = envoy_per_second * SHARE;
    println!("{per_second:.0} requests a second");
    let load = at_rate(work.load(0), per_second, SECONDS);
    let measure = async |contender: &Contender| {
        let latencies = latencies(&contender.under(load).await?.0.whole()?)?;
        Ok(Round {
            p50_us: latencies.median(),
            p99_us: latencies.quantile(0.99),
        })
    };
    let measured = in_turns(options, &contenders, measure).await?;
    let mut report = Report::default();
    let title = format!("HTTP/1.1, {per_second:.0} requests a second");
    report.tables.push(Table::compare(&title, &FIGURES, &measured)?);
    for (figure, key) in FIGURES.iter().zip(["p50", "p99"]) {
        for (other, ratio) in figure.ratios(&measured)? {
            report.key(format!("{key}_vs_{other}"), ratio);
        }
    }
    Ok(report)
}

/// So many seconds of it at that rate.
pub(super) fn at_rate(load: Load, per_second: f64, seconds: f64) -> Load {
    Load {
        requests: (per_second * seconds) as usize,
        per_second: Some(per_second),
        ..load
    }
}
