//! What a hundred changes of the configuration a second do to the requests meanwhile: the same load at a fixed rate, with and
//! without them, in turns.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use http::Version;
use rustix::process::nice;
use tokio::runtime::{self, Runtime};
use tokio::task::JoinHandle;
use tombolo_tests::ads::contract::Services;
use tombolo_tests::ads::{Ads, Answer};
use tombolo_tests::proxy::Software;

use super::contender::Contender;
use super::http::{H1, latencies};
use super::latency::at_rate;
use super::listener;
use super::rounds::in_turns;
use crate::Options;
use crate::load::Upstream;
use crate::report::{Figure, Report, Table};

/// Between two changes.
const EVERY: Duration = Duration::from_millis(10);
/// As many as a mid-sized cluster's gateway has.
const SERVICES: usize = 200;
/// Well below what either proxy answers at most.
const PER_SECOND: f64 = 2_000.0;
const SECONDS: f64 = 4.0;
/// The most that a thread can yield to others.
const LAST: i32 = 19;

/// A proxy, and what it is told by.
type Changed = (Contender, Arc<Ads>, Arc<Mutex<Services>>);

/// A quiet time and one with changes.
struct Round {
    quiet_p99_us: f64,
    changing_p99_us: f64,
    lost: f64,
    /// Updates that the proxy has said to have taken; a change is two, of its endpoints and of the route table.
    taken_per_second: f64,
}

const FIGURES: [Figure<Round>; 5] = [
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
    Figure {
        name: "updates taken, two for each change, per second",
        of: |round| round.taken_per_second,
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
    let plane = Elsewhere::start()?;
    let mut contenders = Vec::new();
    for software in [Software::Tombolo, Software::Envoy] {
        let listener = listener();
        let services = Services::new(listener, addresses, SERVICES);
        let name = software.name();
        let ads = plane.spawn(Ads::start(services.resources()));
        let ads = Arc::new(ads.await.context("the control plane has ended")?);
        let contender =
            Contender::under_plane(software, name, listener, Arc::clone(&ads), dir.path()).await?;
        contender.serves(work.load(1)).await?;
        contenders.push((name, (contender, ads, Arc::new(Mutex::new(services)))));
    }
    let load = at_rate(work.load(0), PER_SECOND, SECONDS);
    let measure = async |(contender, ads, services): &Changed| {
        let quiet = contender.under(load).await?.0.whole()?;
        let before = ads.answers().len();
        let changes = plane.spawn(change(Arc::clone(ads), Arc::clone(services)));
        let changing = contender.under(load).await?.0;
        changes.abort();
        let taken = taken(&ads.answers()[before..])?;
        Ok(Round {
            quiet_p99_us: latencies(&quiet)?.quantile(0.99),
            changing_p99_us: latencies(&changing)?.quantile(0.99),
            lost: changing.lost.len() as f64,
            taken_per_second: taken as f64 / SECONDS,
        })
    };
    let measured = in_turns(options, &contenders, measure).await?;
    let mut report = Report::default();
    let title = format!("{SERVICES} services, {PER_SECOND:.0} requests and 100 changes a second");
    report.tables.push(Table::compare(&title, &FIGURES, &measured)?);
    let [_, _, ratio, lost, _] = &FIGURES;
    for (measured, key) in measured
        .iter()
        .zip(["reload_p99_ratio", "reload_p99_ratio_of_envoy"])
    {
        report.key(key, ratio.sorted(measured)?.median());
    }
    report.key("lost", lost.sorted(&measured[0])?.max());
    Ok(report)
}

/// How many updates there were, if none was refused.
fn taken(answers: &[Answer]) -> Result<usize> {
    match answers.iter().find_map(|answer| answer.refusal.as_ref()) {
        Some(refusal) => bail!("an update was refused: {refusal}"),
        None => Ok(answers.len()),
    }
}

/// A runtime for the control plane, which runs on another machine than proxies and clients: here it takes the time that
/// those leave.
struct Elsewhere(Option<Runtime>);

impl Elsewhere {
    fn start() -> Result<Elsewhere> {
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .on_thread_start(|| {
                nice(LAST).expect("cannot lower the priority of the control plane");
            })
            .build()
            .context("cannot build a runtime for the control plane")?;
        Ok(Elsewhere(Some(runtime)))
    }

    fn spawn<F: Future<Output: Send> + Send + 'static>(&self, task: F) -> JoinHandle<F::Output> {
        let runtime = self.0.as_ref();
        runtime
            .expect("invariant: it is there until it is dropped")
            .spawn(task)
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        // Another runtime drops it, which must not wait.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Publishes one change after the other, for ever.
async fn change(ads: Arc<Ads>, services: Arc<Mutex<Services>>) {
    let mut turns = tokio::time::interval(EVERY);
    loop {
        turns.tick().await;
        let mut services = services.lock().unwrap_or_else(PoisonError::into_inner);
        services.change();
        ads.publish(services.resources());
    }
}
