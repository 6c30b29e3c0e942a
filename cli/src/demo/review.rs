//! What a careful user looks at around a change: the plan before it, the receipt after it, the explanation of a request, and
//! the way back. Each is asked of the public API, and compared with what came.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::time::{Instant, sleep};
use tombolo_compiler::roll_up::{Outcome, Status};

use super::mesh::{Mesh, STATE_TIMEOUT};
use super::topology::{CLUSTERS, Cluster};
use crate::pages::whole;
use crate::plan::describe;

const ROUTES_POLL: Duration = Duration::from_millis(100);
/// Of `tombolo plan`, when there is something to do.
const CHANGES: i32 = 2;

/// A change that was planned, and may be made.
pub(super) struct Planned {
    id: String,
    /// On which the plan was made: the state before.
    revision: u64,
    before: Routes,
    /// As the plan says that they will be.
    after: Routes,
}

/// By cluster and name, without who decided them.
type Routes = BTreeMap<String, BTreeMap<String, Value>>;

/// Plans the change and prints the plan. Fails when that has changed anything.
pub(super) async fn plan(mesh: &Mesh, node: &str, documents: &str) -> anyhow::Result<Planned> {
    let before = whole_routes(mesh, node).await?;
    let args = ["plan", "-f", "-", "-o", "json"];
    let printed = mesh.tombolo(&mesh.tokens.ann, &args, documents).await?;
    ensure!(
        printed.code == Some(CHANGES),
        "`tombolo plan` failed:\n{}{}",
        printed.stdout,
        printed.stderr
    );
    let plan: Value = serde_json::from_str(&printed.stdout).context("read the plan")?;
    let id = plan["plan"].as_str().context("the plan has no name")?;
    let (revision, _) = id
        .split_once('-')
        .context("the plan is not named by a revision")?;
    for line in describe(&plan).lines() {
        println!("    | {line}");
    }
    ensure!(
        routes(mesh, node).await? == before,
        "to plan a change has changed the routes"
    );
    Ok(Planned {
        id: id.to_owned(),
        revision: revision.parse()?,
        after: planned(before.clone(), &plan),
        before,
    })
}

/// Makes the change if it still is what the plan says, and fails when the routes that came are others than the plan's, or
/// when the receipt is not whole. Gives the time until every proxy concerned had proven that it runs it.
pub(super) async fn apply(
    mesh: &Mesh,
    node: &str,
    documents: &str,
    planned: &Planned,
) -> anyhow::Result<Duration> {
    let started = Instant::now();
    let args = apply_args(&planned.id);
    let printed = mesh
        .tombolo(&mesh.tokens.ann, &args, documents)
        .await?
        .expect_success(&args)?;
    let held_after = started.elapsed();
    let applied: Value = serde_json::from_str(&printed.stdout).context("read what apply printed")?;
    let found = routes(mesh, node).await?;
    ensure!(
        found == planned.after,
        "what came is not what was planned: {found:?} and not {:?}",
        planned.after
    );
    receipt(mesh, node, applied["revision"].as_u64().context("no revision")?).await?;
    Ok(held_after)
}

/// Fails unless the plan is refused because the change would do something else by now.
pub(super) async fn refuse_stale(mesh: &Mesh, documents: &str, planned: &Planned) -> anyhow::Result<()> {
    let printed = mesh
        .tombolo(&mesh.tokens.ann, &apply_args(&planned.id), documents)
        .await?;
    ensure!(
        !printed.success && printed.stderr.contains("is stale"),
        "a plan that is stale was not refused as that:\n{}{}",
        printed.stdout,
        printed.stderr
    );
    let refusal = printed.stderr.lines().next().unwrap_or_default();
    println!("    the same plan once more: {refusal}");
    Ok(())
}

fn apply_args(plan: &str) -> [&str; 10] {
    [
        "apply",
        "-f",
        "-",
        "--plan",
        plan,
        "--wait",
        "--timeout",
        "30s",
        "-o",
        "json",
    ]
}

/// Makes the node as it was before the change, and fails when its routes do not become those of then. Gives the time
/// until every proxy concerned had proven that it runs them.
pub(super) async fn roll_back(mesh: &Mesh, node: &str, change: &Planned) -> anyhow::Result<Duration> {
    let started = Instant::now();
    let to = change.revision.to_string();
    let args = [
        "rollback",
        node,
        "--to",
        &to,
        "--wait",
        "--timeout",
        "30s",
        "-o",
        "json",
    ];
    let done = mesh.json(&mesh.tokens.ann, &args).await?;
    let held_after = started.elapsed();
    let found = routes(mesh, node).await?;
    ensure!(
        found == change.before,
        "the rollback has not brought the routes back: {found:?} and not {:?}",
        change.before
    );
    let revision = done["revision"].as_u64().context("no revision")?;
    println!("    rolled back to revision {to}, as revision {revision}");
    receipt(mesh, node, revision).await?;
    Ok(held_after)
}

/// The routes of all clusters in which the node has a part, as they are compiled from what is stored and reported.
async fn routes(mesh: &Mesh, node: &str) -> anyhow::Result<Routes> {
    let client = mesh.client(&mesh.tokens.ann)?;
    let answer = whole(&client, &format!("{node}:compiled"), &[]).await?;
    let routes = serde_json::from_value(without_origins(answer["routes"].clone()));
    routes.context("read the routes")
}

/// As [`routes`], once every cluster has it from every other one: some may just have come back.
async fn whole_routes(mesh: &Mesh, node: &str) -> anyhow::Result<Routes> {
    let deadline = Instant::now() + STATE_TIMEOUT;
    loop {
        let found = routes(mesh, node).await?;
        if is_whole(&found) {
            return Ok(found);
        }
        ensure!(
            Instant::now() < deadline,
            "not every cluster has its routes within {STATE_TIMEOUT:?}: {found:?}"
        );
        sleep(ROUTES_POLL).await;
    }
}

fn is_whole(routes: &Routes) -> bool {
    let up = |remote: &Value| remote["state"] == "up";
    let all_up = |route: &Value| {
        let remotes = route["service"]["value"]["remotes"].as_array();
        remotes.is_some_and(|remotes| remotes.len() + 1 == CLUSTERS.len() && remotes.iter().all(up))
    };
    CLUSTERS.iter().all(|cluster| {
        let routes = routes.get(cluster.name);
        routes.is_some_and(|routes| routes.values().any(all_up))
    })
}

/// What is explained of a request to the service `reviews` from a cluster's frontend.
pub(super) struct Explained {
    answer: Value,
}

/// Asks management, which asks the edge as well. Fails unless both give v2 the same share.
pub(super) async fn explain(mesh: &Mesh, from: Cluster, headers: &[&str]) -> anyhow::Result<Explained> {
    let viewpoint = format!("{}/shop/frontend", from.name);
    let mut args = vec![
        "explain",
        "--from",
        &viewpoint,
        "GET http://reviews/",
        "-o",
        "json",
    ];
    args.extend(headers.iter().flat_map(|header| ["-H", *header]));
    let answer = mesh.json(&mesh.tokens.ann, &args).await?;
    let [here, at_edge] =
        [&answer["outcome"], &answer["edge"]["answer"]["outcome"]].map(|outcome| percent(outcome, "v2"));
    ensure!(
        here.is_some() && here == at_edge,
        "management explains {here:?} % to v2, and the edge {at_edge:?} %: {answer}"
    );
    Ok(Explained { answer })
}

impl Explained {
    /// The share of the answers that a version gives.
    pub(super) fn percent(&self, version: &str) -> f64 {
        percent(&self.answer["outcome"], version).unwrap_or(0.0)
    }

    /// As `tombolo explain` prints it.
    pub(super) fn text(&self) -> String {
        crate::explain::describe(&self.answer)
    }
}

/// `None` when the request goes nowhere.
fn percent(outcome: &Value, version: &str) -> Option<f64> {
    let targets = outcome["forward"]["targets"].as_array()?;
    let weight = |target: &Value| target["weight"].as_f64().unwrap_or(0.0);
    let subset = format!("/{version}{{");
    let of_version = |target: &&Value| {
        target["upstream"]
            .as_str()
            .is_some_and(|name| name.contains(&subset))
    };
    let sum: f64 = targets.iter().map(weight).sum();
    (sum > 0.0).then(|| 100.0 * targets.iter().filter(of_version).map(weight).sum::<f64>() / sum)
}

/// Fails unless every proxy of every cluster has proven that it runs the node at that revision.
async fn receipt(mesh: &Mesh, node: &str, revision: u64) -> anyhow::Result<()> {
    let client = mesh.client(&mesh.tokens.ann)?;
    let answer = client
        .get(&format!("{node}:receipt?revision={revision}"))
        .await?
        .body;
    let status: Status = serde_json::from_value(answer["status"].clone()).context("read the receipt")?;
    check_receipt(&status).map_err(anyhow::Error::msg)?;
    let clusters = status
        .clusters
        .iter()
        .map(|(cluster, status)| format!("{cluster} {}/{} proxies", status.proxies_with, status.proxies));
    let clusters: Vec<String> = clusters.collect();
    println!("    receipt of revision {revision}: {}", clusters.join(", "));
    Ok(())
}

fn check_receipt(status: &Status) -> Result<(), String> {
    let proven = |cluster: &Cluster| {
        let found = status
            .clusters
            .iter()
            .find(|(name, _)| name.to_string() == cluster.name);
        found.is_some_and(|(_, status)| {
            status.outcome == Outcome::Running && status.proxies > 0 && status.proxies_with == status.proxies
        })
    };
    match CLUSTERS.iter().find(|cluster| !proven(cluster)) {
        None => Ok(()),
        Some(missing) => Err(format!(
            "the receipt does not prove it in {}: {status:?}",
            missing.name
        )),
    }
}

/// The routes as the plan says that they will be.
fn planned(mut routes: Routes, plan: &Value) -> Routes {
    for (cluster, changes) in plan["routes"].as_object().into_iter().flatten() {
        let slice = routes.entry(cluster.clone()).or_default();
        for change in changes.as_array().into_iter().flatten() {
            let name = change["route"].as_str().unwrap_or_default();
            match &change["after"] {
                Value::Null => drop(slice.remove(name)),
                after => drop(slice.insert(name.to_owned(), without_origins(after.clone()))),
            }
        }
    }
    routes
}

/// Which line of which resource decided a route is no part of what proxies run.
fn without_origins(mut value: Value) -> Value {
    match &mut value {
        Value::Object(fields) => {
            fields.remove("origin");
            fields
                .values_mut()
                .for_each(|field| *field = without_origins(field.take()));
        }
        Value::Array(items) => items
            .iter_mut()
            .for_each(|item| *item = without_origins(item.take())),
        _ => {}
    }
    value
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_plan_that_is_not_what_came_is_found() {
        let routes = |weight: u32| -> Routes {
            serde_json::from_value(json!({"us-east": {"a": {"weight": weight}, "b": {"weight": 1}}})).unwrap()
        };
        let plan = |after: Value| json!({"routes": {"us-east": [{"route": "a", "after": after}]}});
        let origin = json!({"weight": 5, "origin": {"field": "spec"}});
        assert_eq!(planned(routes(0), &plan(origin)), routes(5));
        assert_ne!(planned(routes(0), &plan(json!({"weight": 6}))), routes(5));
        assert_ne!(planned(routes(5), &plan(Value::Null)), routes(5));
    }

    #[test]
    fn a_receipt_that_is_not_whole_is_found() {
        let status = |with: u32, clusters: &[&str]| -> Status {
            let cluster = json!({"outcome": "running", "agent": "live", "proxies": 2, "proxiesWith": with});
            let clusters: BTreeMap<&str, &Value> = clusters.iter().map(|name| (*name, &cluster)).collect();
            serde_json::from_value(json!({"outcome": "running", "clusters": clusters})).unwrap()
        };
        let all = CLUSTERS.map(|cluster| cluster.name);
        assert_eq!(check_receipt(&status(2, &all)), Ok(()));
        assert!(check_receipt(&status(1, &all)).is_err());
        assert!(check_receipt(&status(2, &all[1..])).is_err());
    }

    #[test]
    fn an_explanation_gives_a_version_its_share() {
        let target = |version: &str, weight: u32| json!({"upstream": format!("retail/shop/shop/reviews:80/{version}{{version={version}}}"), "weight": weight});
        let outcome = json!({"forward": {"targets": [target("v1", 95), target("v2", 5)]}});
        assert_eq!(percent(&outcome, "v2"), Some(5.0));
        assert_eq!(percent(&outcome, "v1"), Some(95.0));
        assert_eq!(percent(&json!({"refuse": {"status": 404}}), "v2"), None);
    }
}
