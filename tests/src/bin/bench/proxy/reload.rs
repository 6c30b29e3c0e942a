//! What a hundred changes of the configuration a second do to the requests meanwhile: the same load at a fixed rate, with and
//! without them, in turns.

use std::time::Duration;

use anyhow::{Context, Result};
use http::Version;
use tombolo_tests::ads::contract::Services;
use tombolo_tests::proxy::Software;

use super::contender::Contender;
use super::http::{H1, latencies, turn};
use super::latency::at_rate;
use super::listener;
use crate::Options;
use crate::load::Upstream;
use crate::report::{Figure, Measured, Report, Table};

/// Between two changes.
const EVERY: Duration = Duration::from_millis(10);
/// As many as a mid-sized cluster's gateway has.
const SERVICES: usize = 200;
/// Well below what either proxy answers at most.
const PER_SECOND: f64 = 2_000.0;
const SECONDS: f64 = 4.0;

/// A quiet time and one with changes.
struct Round {
    quiet_p99_us: f64,
    changing_p99_us: f64,
    lost: f64,
}

const FIGURES: [Figure<Round>; 4] = [
    Figure {
        name: "99 % latency without changes, µs",
        of: |round| round.quiet_p99_us,
    },
    Figure {
        name: "99 % latency with changes, µs",
        of: |round| round.changing_p99_us,
    },
    Figure {
        name: "99 % latency, with by without",
        of: |round| round.changing_p99_us / round.quiet_p99_us,
    },
    Figure {
        name: "requests lost",
        of: |round| round.lost,
    },
];

pub(super) async fn run(options: &Options) -> Result<Report> {
    let dir = tempfile::tempdir().context("cannot create a temporary directory")?;
    let [work, ..] = &H1;
    let upstreams = [
        Upstream::start(Version::HTTP_11)?,
        Upstream::start(Version::HTTP_11)?,
    ];
    let addresses = upstreams.each_ref().map(Upstream::address);
    let mut contenders = Vec::new();
    let mut measured = Vec::new();
    for software in [Software::Tombolo, Software::Envoy] {
        let listener = listener();
        let services = Services::new(listener, addresses, SERVICES);
        let name = software.name();
        let contender =
            Contender::over_xds(software, name, listener, services.resources(), dir.path()).await?;
        contender.serves(work.load(1)).await?;
        contenders.push((contender, services));
        measured.push(Measured {
            name: name.to_owned(),
            rounds: Vec::new(),
        });
    }
    for round in 0..options.rounds {
        for index in turn(round, contenders.len()) {
            let (contender, services) = &mut contenders[index];
            let load = at_rate(work.load(0), PER_SECOND, SECONDS);
            let quiet = contender.under(load).await?.0.whole()?;
            let changing = tokio::select! {
                outcome = contender.under(load) => outcome?.0,
                () = change(contender, services) => unreachable!("invariant: it goes on"),
            };
            measured[index].rounds.push(Round {
                quiet_p99_us: latencies(&quiet)?.quantile(0.99),
                changing_p99_us: latencies(&changing)?.quantile(0.99),
                lost: changing.lost.len() as f64,
            });
        }
        println!("round {} of {}", round + 1, options.rounds);
    }
    let mut report = Report::default();
    let title = format!("{SERVICES} services, {PER_SECOND:.0} requests and 100 changes a second");
    report.tables.push(Table::compare(&title, &FIGURES, &measured)?);
    let [_, _, ratio, lost] = &FIGURES;
    for (measured, key) in measured
        .iter()
        .zip(["reload_p99_ratio", "reload_p99_ratio_of_envoy"])
    {
        report.key(key, ratio.sorted(measured)?.median());
    }
    report.key("lost", lost.sorted(&measured[0])?.max());
    Ok(report)
}

/// Publishes one change after the other, for ever.
async fn change(contender: &Contender, services: &mut Services) {
    let mut turns = tokio::time::interval(EVERY);
    loop {
        turns.tick().await;
        services.change();
        contender.publish(services.resources());
    }
}
