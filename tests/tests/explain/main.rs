//! What an explanation says is what real proxies do: random intents, lowered by a real edge for real proxies of both
//! kinds, and random requests sent through them.
//!
//! `TOMBOLO_SEED=N` draws others. A mismatch is shrunk before it is told.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use proptest::collection::vec;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngSeed, TestRunner};
use tombolo_compiler::explain::{Entry, Outcome, Place, Stage, Step, Viewpoint, explain, trace};
use tombolo_compiler::name::ClusterName;
use tombolo_compiler::plan::plan;
use tombolo_compiler::report::Reports;
use tombolo_compiler::resolve::resolve;
use tombolo_tests::proxy::Software;
use tombolo_tests::within;

mod decision;
mod question;
mod site;
#[path = "../../../compiler/tests/properties/world.rs"]
#[expect(dead_code, reason = "the compiler's properties also edit their worlds")]
mod world;

use question::{Expected, Question, questions};
use site::{HERE, Site, placed};
use world::{World, worlds};

const REQUESTS_MIN: usize = 8000;
const SEED: u64 = 20_261_121;
/// How long a proxy may take from its word that it runs something until it does: Envoy acknowledges before, and both
/// check a new host before they send to it. Only an answer that stays wrong waits so long.
const SETTLE: Duration = Duration::from_secs(20);
/// While a case is shrunk every answer is expected to stay wrong; one that is given up too soon is only larger.
const SETTLE_SHRINKING: Duration = Duration::from_secs(3);
const SHRINKING: Duration = Duration::from_secs(90);

/// Each request has its own, also where it is sent again.
static NUMBERS: AtomicUsize = AtomicUsize::new(0);

type Case = (World, Vec<Question>);

/// Requests by what happened to them.
#[derive(Debug, Default)]
struct Asked {
    intents: usize,
    forwarded: usize,
    /// By the proxy itself, also with a redirect.
    refused: usize,
    not_taken: usize,
    by_envoy: usize,
    /// By proxies of ours, which have said what they decided.
    decided: usize,
}

impl Asked {
    fn requests(&self) -> usize {
        self.forwarded + self.refused + self.not_taken
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explanations_are_what_real_proxies_do() {
    let seed = std::env::var("TOMBOLO_SEED").map_or(SEED, |seed| seed.parse().unwrap());
    let mut runner = TestRunner::new(Config {
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        ..Config::default()
    });
    let cases = (worlds(), vec(questions(), 30..=50));
    let mut site = Site::start().await.unwrap();
    let (mut asked, started) = (Asked::default(), Instant::now());
    while asked.requests() < REQUESTS_MIN {
        let mut tree = cases.new_tree(&mut runner).unwrap();
        let case = tree.current();
        if let Err(error) = check(&mut site, &case, SETTLE, &mut asked).await {
            let (case, error) = shrunk(&mut site, &mut tree, case, error).await;
            panic!(
                "after {asked:?} with TOMBOLO_SEED={seed}: {error:#}\n{:#?}\n{:#?}\nthe edge's log ends with:\n{}",
                case.0,
                case.1,
                site.log_tail()
            );
        }
    }
    println!("seed {seed}: {asked:?} in {:?}", started.elapsed());
    let least = REQUESTS_MIN / 10;
    assert!(
        asked.forwarded > least && asked.refused > least && asked.by_envoy > least && asked.decided > least,
        "one-sided: {asked:?}"
    );
}

/// Gives the edge what the world plans for it, and asks all questions.
async fn check(
    site: &mut Site,
    (world, questions): &Case,
    settle: Duration,
    asked: &mut Asked,
) -> Result<()> {
    let here: ClusterName = HERE.parse()?;
    let reports = reports(world, site);
    let (resolved, findings) = resolve(&world.intent);
    let (mut plans, _) = plan(&resolved, &reports);
    // A world without this cluster has nothing for its edge.
    let Some(slice) = plans.remove(&here) else {
        return Ok(());
    };
    site.run(&slice).await?;
    asked.intents += 1;
    for question in questions {
        let door = question.door(site);
        let request = question.request(&door.entry);
        let traced = trace(&here, &slice, site.view(), &door.entry, &request);
        for from in viewpoints(&door.entry) {
            let explanation = explain(&resolved, &reports, &findings, &from, &request, &|_| true);
            if explanation.entry.as_ref() == Some(&door.entry) {
                // An edge is not told who lent a gateway what, nor who decided an order of failover.
                let is_told = |step: &&Step| !matches!(step.stage, Stage::Grant | Stage::Failover);
                let steps = explanation.trace.steps.iter().filter(is_told);
                ensure!(
                    steps.eq(&traced.steps),
                    "{from} {request}: {explanation:?} is not {traced:?}"
                );
                let (told, done) = (spread(&explanation.trace.outcome), spread(&traced.outcome));
                ensure!(told == done, "{from} {request}: {told:?} is not {done:?}");
            }
        }
        let expected = Expected::of(&traced.outcome, site);
        let about = || {
            format!(
                "{:?} {:?} {request} {:?}: {expected:?}, because {traced:#?}",
                door.software,
                door.entry,
                request.headers()
            )
        };
        let answered = within(settle, async || {
            let number = NUMBERS.fetch_add(1, Ordering::Relaxed).to_string();
            let reply = question.send(door, &number).await?;
            expected.check(reply.as_ref())?;
            Ok(reply.map(|_| number))
        });
        let number = answered.await.with_context(about)?;
        if let (Some(decisions), Some(number)) = (&door.decisions, number) {
            let decided = decisions.of_request(&number).await;
            decided
                .and_then(|decided| decision::check(&traced.outcome, &decided))
                .with_context(about)?;
            asked.decided += 1;
        }
        asked.by_envoy += usize::from(door.software == Software::Envoy);
        match traced.outcome {
            Outcome::Forward { .. } => asked.forwarded += 1,
            Outcome::Refuse { .. } | Outcome::Redirect { .. } => asked.refused += 1,
            Outcome::NotTaken { .. } => asked.not_taken += 1,
        }
    }
    Ok(())
}

/// The smallest case that fails as well, as far as it is found in time.
async fn shrunk(
    site: &mut Site,
    tree: &mut impl ValueTree<Value = Case>,
    case: Case,
    error: anyhow::Error,
) -> (Case, anyhow::Error) {
    let mut least = (case, error);
    let (mut fails, end) = (true, Instant::now() + SHRINKING);
    while Instant::now() < end && if fails { tree.simplify() } else { tree.complicate() } {
        let case = tree.current();
        let checked = check(site, &case, SETTLE_SHRINKING, &mut Asked::default()).await;
        fails = checked.is_err();
        if let Err(error) = checked {
            least = (case, error);
        }
    }
    least
}

/// What this cluster's edge reports, and what the world says of the others; nobody is unknown.
fn reports(world: &World, site: &Site) -> Reports {
    let others = world.views.iter().filter(|(cluster, _)| cluster.as_str() != HERE);
    let others = others.map(|(cluster, view)| (cluster.clone(), placed(cluster.as_str(), view.report())));
    let here = (HERE.parse().unwrap(), site.view().report());
    let reports = others.chain([here]);
    let clusters: BTreeMap<_, _> = reports
        .map(|(cluster, report)| (cluster, Arc::new(report)))
        .collect();
    Reports {
        joined: clusters.keys().cloned().collect(),
        clusters,
        ..Reports::default()
    }
}

/// Those from which somebody could ask about a door.
fn viewpoints(entry: &Entry) -> Vec<Viewpoint> {
    let places = match entry {
        Entry::Sidecar(namespace) => vec![Place::Application(format!("{namespace}/any").parse().unwrap())],
        Entry::Ingress(_) | Entry::EastWest(_) => ["p", "q"]
            .map(|name| Place::Gateway(name.parse().unwrap()))
            .to_vec(),
    };
    let at = |place| Viewpoint {
        cluster: HERE.parse().unwrap(),
        place,
    };
    places.into_iter().map(at).collect()
}

type Spread = Vec<(String, u32, Vec<(usize, ClusterName)>)>;

/// Where it goes, as far as management can know.
fn spread(outcome: &Outcome) -> Result<Spread, String> {
    match outcome {
        Outcome::Forward { targets, .. } => Ok(targets
            .iter()
            .map(|target| {
                let places = target
                    .places
                    .iter()
                    .map(|place| (place.priority, place.cluster.clone()));
                (target.upstream.clone(), target.weight, places.collect())
            })
            .collect()),
        Outcome::Refuse { status, reason, .. } => Err(format!("{status} {reason}")),
        Outcome::Redirect { status, location, .. } => Err(format!("{status} {location}")),
        Outcome::NotTaken { reason } => Err(reason.clone()),
    }
}
