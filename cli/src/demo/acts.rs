//! The story: eleven acts, each a promise that is kept or broken before the reader's eyes.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::measure::{held_after, version_percent, who_answered};
use super::mesh::Mesh;
use super::review::{self, Planned};
use super::sample::Answer;
use super::topology::{CENTRALS, CLUSTERS, Cluster, ORGANIZATION};
use super::traffic::Sample;

pub(super) const PLATFORM: &str = include_str!("story/platform.yaml");
pub(super) const SHOP: &str = include_str!("story/shop.yaml");
pub(super) const BANK: &str = include_str!("story/bank.yaml");
const CANARY: &str = include_str!("story/canary.yaml");
const TESTERS: &str = include_str!("story/testers.yaml");
const RELEASE: &str = include_str!("story/release.yaml");
/// Bob's reach for what Ann owns.
const LAND_GRAB: &str =
    "name: organizations/acme/tenants/banking/workspaces/mine\nspec: {namespaces: [\"us-east/shop\"]}\n";
/// Of her route: with the rest of the shop, in three acts, and the rollback.
const ANNS_WRITES: usize = 5;
/// Of her route: one to change it, one to read it.
const BOBS_DENIALS: usize = 2;
const ROUTE: &str =
    "organizations/acme/tenants/retail/workspaces/shop/trafficgroups/web/serviceroutes/reviews";

/// What is looked at after a change has settled: long enough for failures that come late.
const WATCH: Duration = Duration::from_secs(4);
/// 5 % of at least 1,200 requests lies within these but for one run in a million.
const CANARY_SAMPLES_MIN: usize = 1200;
const CANARY_PERCENT: std::ops::RangeInclusive<f64> = 2.0..=9.0;

/// What an act has shown.
pub(super) struct Outcome {
    /// When something was broken on purpose; failures right after are excused, within limits.
    pub(super) incidents: Vec<Instant>,
    /// From the cause until the new state held.
    pub(super) held_after: Duration,
    pub(super) note: String,
}

/// What an act leaves to a later one.
#[derive(Default)]
pub(super) struct Story {
    canary: Option<Planned>,
    release: Option<Planned>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Act {
    Plan,
    Receipt,
    Testers,
    Explain,
    ServiceDies,
    ClusterDies,
    PlanesDie,
    PlanesReturn,
    Rollback,
    WrongTeam,
    Audit,
}

impl Act {
    pub(super) const ALL: [Act; 11] = [
        Act::Plan,
        Act::Receipt,
        Act::Testers,
        Act::Explain,
        Act::ServiceDies,
        Act::ClusterDies,
        Act::PlanesDie,
        Act::PlanesReturn,
        Act::Rollback,
        Act::WrongTeam,
        Act::Audit,
    ];

    pub(super) fn title(self) -> &'static str {
        match self {
            Act::Plan => "plan: what sending 5 % to v2 would change, before anything does",
            Act::Receipt => "receipt: 5 % go to v2 as planned, and every proxy has proven that it runs it",
            Act::Testers => "testers go to v2 by a header",
            Act::Explain => {
                "explain: why a request goes where it goes, by management, edge and traffic alike"
            }
            Act::ServiceDies => "the service dies in us-east",
            Act::ClusterDies => "us-west dies as well: killed, then frozen",
            Act::PlanesDie => "management, Postgres and both centrals die; an edge and a proxy restart",
            Act::PlanesReturn => "all come back, and a release to v2 is live everywhere",
            Act::Rollback => "rollback: the release is taken back, as a new change with a receipt of its own",
            Act::WrongTeam => "a member of the wrong team is denied",
            Act::Audit => "the audit log shows it all and verifies",
        }
    }

    pub(super) async fn play(self, mesh: &mut Mesh, story: &mut Story) -> anyhow::Result<Outcome> {
        match self {
            Act::Plan => plan(mesh, story).await,
            Act::Receipt => receipt(mesh, story).await,
            Act::Testers => testers(mesh).await,
            Act::Explain => explain(mesh).await,
            Act::ServiceDies => service_dies(mesh).await,
            Act::ClusterDies => cluster_dies(mesh).await,
            Act::PlanesDie => planes_die(mesh).await,
            Act::PlanesReturn => planes_return(mesh, story).await,
            Act::Rollback => rollback(mesh, story).await,
            Act::WrongTeam => wrong_team(mesh).await,
            Act::Audit => audit(mesh).await,
        }
    }
}

async fn plan(mesh: &Mesh, story: &mut Story) -> anyhow::Result<Outcome> {
    let started = Instant::now();
    story.canary = Some(review::plan(mesh, ROUTE, CANARY).await?);
    let held_after = started.elapsed();
    let samples = enough_traffic(mesh).await?;
    let percent = version_percent(&samples, "v2");
    ensure!(
        percent == 0.0,
        "v2 answered {percent:.1} % of what was only planned"
    );
    Ok(Outcome {
        incidents: vec![],
        held_after,
        note: "no route has changed".to_owned(),
    })
}

async fn receipt(mesh: &Mesh, story: &Story) -> anyhow::Result<Outcome> {
    let planned = story.canary.as_ref().context("the change was not planned")?;
    let held_after = review::apply(mesh, ROUTE, CANARY, planned).await?;
    review::refuse_stale(mesh, CANARY, planned).await?;
    let samples = enough_traffic(mesh).await?;
    let percent = version_percent(&samples, "v2");
    ensure!(
        CANARY_PERCENT.contains(&percent),
        "v2 answered {percent:.1} % instead of 5 %"
    );
    Ok(Outcome {
        incidents: vec![],
        held_after,
        note: format!("v2 answered {percent:.1} % of {}", samples.len()),
    })
}

async fn testers(mesh: &Mesh) -> anyhow::Result<Outcome> {
    let held_after = mesh.apply(&mesh.tokens.ann, TESTERS).await?;
    let (testers, others) = testers_and_others(mesh).await?;
    ensure!(testers > 99.9, "v2 answered {testers:.1} % of the testers");
    ensure!(
        CANARY_PERCENT.contains(&others),
        "v2 answered {others:.1} % of those who are no testers instead of 5 %"
    );
    Ok(Outcome {
        incidents: vec![],
        held_after,
        note: format!("v2 answered every tester and {others:.1} % of the others"),
    })
}

async fn explain(mesh: &Mesh) -> anyhow::Result<Outcome> {
    let started = Instant::now();
    let [us_east, ..] = CLUSTERS;
    for cluster in CLUSTERS {
        let tester = review::explain(mesh, cluster, &["x-group: testers"]).await?;
        let other = review::explain(mesh, cluster, &[]).await?;
        let (testers, others) = (tester.percent("v2"), other.percent("v2"));
        ensure!(
            testers == 100.0 && others == 5.0,
            "in {} it is explained that v2 answers {testers} % of the testers and {others} % of the others",
            cluster.name
        );
        if cluster == us_east {
            for line in tester.text().lines() {
                println!("    | {line}");
            }
        }
    }
    let held_after = started.elapsed();
    let (testers, others) = testers_and_others(mesh).await?;
    ensure!(
        testers > 99.9 && CANARY_PERCENT.contains(&others),
        "v2 answered {testers:.1} % of the testers and {others:.1} % of the others, which is not what was explained"
    );
    Ok(Outcome {
        incidents: vec![],
        held_after,
        note: format!(
            "explained: v2 answers all testers and 5 % of the others; traffic: {testers:.0} % and {others:.1} %"
        ),
    })
}

/// The share of each that v2 answers.
async fn testers_and_others(mesh: &Mesh) -> anyhow::Result<(f64, f64)> {
    let samples = enough_traffic(mesh).await?;
    let (testers, others): (Vec<Sample>, Vec<Sample>) = samples.into_iter().partition(|sample| sample.tester);
    Ok((version_percent(&testers, "v2"), version_percent(&others, "v2")))
}

async fn enough_traffic(mesh: &Mesh) -> anyhow::Result<Vec<Sample>> {
    let enough = |samples: &[Sample]| samples.len() >= CANARY_SAMPLES_MIN;
    mesh.until("enough traffic", Instant::now(), enough).await
}

async fn service_dies(mesh: &mut Mesh) -> anyhow::Result<Outcome> {
    let [us_east, ..] = CLUSTERS;
    let incident = Instant::now();
    for version in [1, 2] {
        mesh.kill(&us_east.reviews(version).name).await?;
    }
    let (held_after, note) = moves_to(mesh, us_east, "us-west", incident).await?;
    Ok(Outcome {
        incidents: vec![incident],
        held_after,
        note,
    })
}

/// us-east's service is still dead, so its requests are in us-west when that goes.
async fn cluster_dies(mesh: &mut Mesh) -> anyhow::Result<Outcome> {
    let [us_east, us_west, _] = CLUSTERS;
    mesh.traffic()?.pause(us_west.name);
    let killed = Instant::now();
    mesh.kill_cluster(us_west).await?;
    let (after_kill, _) = moves_to(mesh, us_east, "eu-central", killed).await?;

    mesh.start_cluster(us_west)?;
    mesh.cluster_ready(us_west).await?;
    mesh.traffic()?.resume(us_west.name);
    moves_to(mesh, us_east, "us-west", Instant::now()).await?;

    mesh.traffic()?.pause(us_west.name);
    let frozen = Instant::now();
    mesh.freeze_cluster(us_west)?;
    let (after_freeze, _) = moves_to(mesh, us_east, "eu-central", frozen).await?;
    mesh.thaw_cluster(us_west)?;
    mesh.traffic()?.resume(us_west.name);
    moves_to(mesh, us_east, "us-west", Instant::now()).await?;

    for version in [1, 2] {
        mesh.start(&us_east.reviews(version))?;
    }
    moves_to(mesh, us_east, us_east.name, Instant::now()).await?;
    let note = format!(
        "killed: eu-central after {after_kill:.1?}; frozen: after {after_freeze:.1?}; back home at the end"
    );
    Ok(Outcome {
        incidents: vec![killed, frozen],
        held_after: after_kill.max(after_freeze),
        note,
    })
}

async fn planes_die(mesh: &mut Mesh) -> anyhow::Result<Outcome> {
    let [us_east, ..] = CLUSTERS;
    mesh.kill("management").await?;
    mesh.kill_postgres().await?;
    for name in CENTRALS {
        mesh.kill(&format!("central-{name}")).await?;
    }
    sleep(WATCH).await;

    // With its edge dead, the restarted proxy has only its own last good configuration.
    let edge = mesh.topology.edge(us_east);
    let sidecar = mesh.topology.sidecar(us_east);
    let [client, _] = us_east.paths();
    mesh.kill(&edge.name).await?;
    mesh.traffic()?.pause_path(&client);
    let killed = Instant::now();
    mesh.kill(&sidecar.name).await?;
    mesh.start(&sidecar)?;
    mesh.ready(&sidecar.name).await?;
    let held_after = killed.elapsed();
    mesh.traffic()?.resume_path(&client);
    sleep(WATCH).await;
    mesh.start(&edge)?;
    mesh.ready(&edge.name).await?;
    let restarted = Instant::now();
    sleep(WATCH).await;

    let samples = mesh.traffic()?.ledger.since(restarted);
    for path in CLUSTERS.iter().flat_map(|cluster| cluster.paths()) {
        let answered = |sample: &&Sample| {
            (sample.cluster, sample.via) == (path.cluster, path.via) && sample.outcome.is_ok()
        };
        ensure!(
            samples.iter().any(|sample| answered(&sample)),
            "no request through {}'s {} was answered",
            path.cluster,
            path.via
        );
    }
    let note = format!("answered by {}", who_answered(&samples));
    Ok(Outcome {
        incidents: vec![],
        held_after,
        note,
    })
}

async fn planes_return(mesh: &mut Mesh, story: &mut Story) -> anyhow::Result<Outcome> {
    mesh.start_management().await?;
    for name in CENTRALS {
        let central = mesh.topology.central(name);
        mesh.start(&central)?;
    }
    for name in CENTRALS {
        mesh.ready(&format!("central-{name}")).await?;
    }
    let planned = review::plan(mesh, ROUTE, RELEASE).await?;
    let held_after = review::apply(mesh, ROUTE, RELEASE, &planned).await?;
    story.release = Some(planned);
    let live = Instant::now();
    sleep(WATCH).await;
    let samples = mesh.traffic()?.ledger.since(live);
    let percent = version_percent(&samples, "v2");
    ensure!(percent > 99.9, "v2 answered only {percent:.1} %");
    Ok(Outcome {
        incidents: vec![],
        held_after,
        note: format!("v2 answered {percent:.0} % of {}", samples.len()),
    })
}

async fn rollback(mesh: &Mesh, story: &Story) -> anyhow::Result<Outcome> {
    let release = story.release.as_ref().context("there was no release")?;
    let held_after = review::roll_back(mesh, ROUTE, release).await?;
    let (testers, others) = testers_and_others(mesh).await?;
    ensure!(
        testers > 99.9 && CANARY_PERCENT.contains(&others),
        "v2 answered {testers:.1} % of the testers and {others:.1} % of the others, not all and 5 % as before"
    );
    Ok(Outcome {
        incidents: vec![],
        held_after,
        note: format!("v2 answered every tester and {others:.1} % of the others, as before the release"),
    })
}

async fn wrong_team(mesh: &mut Mesh) -> anyhow::Result<Outcome> {
    let started = Instant::now();
    let before = mesh.json(&mesh.tokens.ann, &["get", ROUTE, "-o", "json"]).await?;
    for (attempt, args, documents, because) in [
        (
            "change Ann's route",
            vec!["apply", "-f", "-", "--overwrite"],
            CANARY,
            "needs the role traffic-admin",
        ),
        (
            "claim Ann's namespace",
            vec!["apply", "-f", "-"],
            LAND_GRAB,
            "is already held by",
        ),
        ("read Ann's route", vec!["get", ROUTE], "", "is not yours to see"),
    ] {
        let printed = mesh.tombolo(&mesh.tokens.bob, &args, documents).await?;
        ensure!(!printed.success, "Bob could {attempt}");
        let refusal: Vec<&str> = printed
            .stderr
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect();
        let refusal = refusal.join(" ");
        println!("    Bob tries to {attempt}: {refusal}");
        ensure!(refusal.contains(because), "Bob is not told that: {because}");
    }
    let after = mesh.json(&mesh.tokens.ann, &["get", ROUTE, "-o", "json"]).await?;
    ensure!(before == after, "Ann's route has changed");
    Ok(Outcome {
        incidents: vec![],
        held_after: started.elapsed(),
        note: "three attempts, three refusals".to_owned(),
    })
}

async fn audit(mesh: &mut Mesh) -> anyhow::Result<Outcome> {
    let started = Instant::now();
    let by = |records: &[Value], user: &str, outcome: &str| {
        let actor = format!("organizations/{ORGANIZATION}/users/{user}");
        let is_wanted = |record: &&Value| {
            record["actor"] == actor && record["outcome"] == outcome && record["name"] == ROUTE
        };
        records.iter().filter(is_wanted).count()
    };
    let records = loop {
        let list = ["audit", "list", "-n", "500", "-o", "json"];
        let list = mesh.json(&mesh.tokens.admin, &list).await?;
        let records = list["items"]
            .as_array()
            .or(list.as_array())
            .context("the audit list holds no records")?
            .clone();
        // Denials are written in batches, so the last one may be on its way.
        if by(&records, "bob", "denied") == BOBS_DENIALS || started.elapsed() > WATCH {
            break records;
        }
    };
    ensure!(
        by(&records, "ann", "done") == ANNS_WRITES,
        "{} of Ann's {ANNS_WRITES} changes of her route are in the audit log",
        by(&records, "ann", "done")
    );
    ensure!(
        by(&records, "bob", "denied") == BOBS_DENIALS,
        "{} of Bob's {BOBS_DENIALS} denials are in the audit log",
        by(&records, "bob", "denied")
    );
    let verify = ["audit", "verify"];
    let printed = mesh
        .tombolo(&mesh.tokens.admin, &verify, "")
        .await?
        .expect_success(&verify)?;
    let note = format!(
        "{} records; {}",
        records.len(),
        printed.stdout.lines().last().unwrap_or_default()
    );
    Ok(Outcome {
        incidents: vec![],
        held_after: started.elapsed(),
        note,
    })
}

/// Waits until that cluster's requests are answered there, watches for a while, and says how long it took.
async fn moves_to(
    mesh: &Mesh,
    from: Cluster,
    to: &str,
    incident: Instant,
) -> anyhow::Result<(Duration, String)> {
    let there = |answer: &Answer| answer.cluster == to;
    let from_here = |samples: &[Sample]| -> Vec<Sample> {
        samples
            .iter()
            .filter(|sample| sample.cluster == from.name)
            .cloned()
            .collect()
    };
    let settled = |samples: &[Sample]| {
        let now = Instant::now();
        let recent: Vec<Sample> = from_here(samples)
            .into_iter()
            .filter(|sample| sample.sent >= incident.max(now.checked_sub(WATCH / 2).unwrap_or(incident)))
            .collect();
        let watched = now.duration_since(incident) >= WATCH;
        watched
            && !recent.is_empty()
            && recent
                .iter()
                .all(|sample| sample.outcome.as_ref().is_ok_and(there))
    };
    let samples = mesh
        .until(&format!("{} answering {}", to, from.name), incident, settled)
        .await?;
    let samples = from_here(&samples);
    let held = held_after(&samples, incident, there).context("no request was answered")?;
    Ok((held, format!("{to} answers {}'s requests", from.name)))
}
