//! `…:status` and `…:receipt`: what became of a resource in the clusters that it concerns.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tokio::time::{Instant, timeout_at};
use tombolo_compiler::finding::Finding;
use tombolo_compiler::http::Span;
use tombolo_compiler::name::{ClusterName, Fqn, Kind};
use tombolo_compiler::observe::Agent;
use tombolo_compiler::plan::concerned;
use tombolo_compiler::roll_up::{Heard, Outcome, Status, roll_up};

use super::App;
use super::resources::GetParams;
use crate::audit::Verb;
use crate::caller::Caller;
use crate::mesh::Mesh;
use crate::problem::Problem;
use crate::snapshot::Snapshot;

/// A caller that wants to wait longer asks again.
const WAIT_MAX: Duration = Duration::from_secs(60);

pub(crate) fn status(app: &App, caller: &Caller, name: &Fqn) -> Result<Response, Problem> {
    let snapshot = app.writes.snapshot();
    app.allow_read(&snapshot, caller, name, Verb::Get)?;
    let stored = snapshot.get(name).ok_or_else(|| Problem::not_found(name))?;
    let status = status_of(&snapshot, &app.mesh.borrow(), name, stored.revision);
    Ok(Json(json!({"name": name, "revision": stored.revision, "status": status})).into_response())
}

/// Answers when the outcome is settled, or when the wait is over.
pub(crate) async fn receipt(
    app: &App,
    mut caller: Caller,
    name: &Fqn,
    params: &GetParams,
) -> Result<Response, Problem> {
    let wait = match &params.wait {
        None => Duration::ZERO,
        Some(text) => Span::try_from(text.clone())
            .map(|span| Duration::from_millis(span.as_ms()).min(WAIT_MAX))
            .map_err(|error| Problem::bad_request(format!("wait: {error}")))?,
    };
    let deadline = Instant::now() + wait;
    let (mut snapshots, mut meshes) = (app.writes.watch(), app.mesh.clone());
    let mut ending = app.shutdown.clone();
    let mut stay = app.standing.stay(&caller);
    let mut snapshot = snapshots.borrow_and_update().clone();
    app.allow_read(&snapshot, &caller, name, Verb::Get)?;
    // A name that is gone can still be asked about at the revision that removed it.
    let revision = match (params.revision, snapshot.get(name)) {
        (Some(revision), _) => revision,
        (None, Some(stored)) => stored.revision,
        (None, None) => return Err(Problem::not_found(name)),
    };
    loop {
        let latest = snapshots.borrow_and_update().clone();
        app.renew(&mut caller, &snapshot, &latest).await?;
        snapshot = latest;
        app.allow_read(&snapshot, &caller, name, Verb::Get)?;
        let mesh = meshes.borrow_and_update().clone();
        let status = status_of(&snapshot, &mesh, name, revision);
        let settled = match status.outcome {
            Outcome::Running | Outcome::Accepted | Outcome::Rejected => true,
            Outcome::Pending | Outcome::Unknown => false,
        };
        let changed = async {
            tokio::select! {
                Ok(()) = snapshots.changed() => true,
                Ok(()) = meshes.changed() => true,
                () = stay.wait() => false,
                () = ending.wait() => false,
            }
        };
        if settled || !timeout_at(deadline, changed).await.unwrap_or(false) {
            let body = json!({"name": name, "revision": revision, "status": status});
            return Ok(Json(body).into_response());
        }
    }
}

/// An organization shows all of its clusters; a name that is gone may have concerned any of them. A cluster that never
/// joined runs nothing, so a change does not wait for it beside others; on its own it is no proof of anything.
fn status_of(snapshot: &Snapshot, mesh: &Mesh, name: &Fqn, revision: u64) -> Status {
    let everywhere = name.kind() == Kind::Organization || snapshot.get(name).is_none();
    let joined = snapshot.joined_clusters();
    let clusters: Vec<ClusterName> = if everywhere && name.kind().is_published() {
        snapshot.clusters().into_keys().collect()
    } else {
        let mut clusters = concerned(snapshot.judged.resolved(), name);
        let leaving = still_leaving(snapshot, mesh, name);
        clusters.extend(leaving.filter(|cluster| joined.contains(*cluster)).cloned());
        clusters.into_iter().collect()
    };
    let shows_all = matches!(name.kind(), Kind::Organization | Kind::Cluster)
        || clusters.iter().all(|cluster| !joined.contains(cluster));
    let heard: BTreeMap<ClusterName, Heard> = clusters
        .into_iter()
        .filter(|cluster| shows_all || joined.contains(cluster) || mesh.heard.contains_key(cluster))
        .map(|cluster| {
            let heard = mesh.heard.get(&cluster).cloned().unwrap_or(Heard {
                agent: Agent::Unknown,
                receipt: None,
            });
            (cluster, heard)
        })
        .collect();
    let planned = mesh.findings.iter().filter(|finding| finding.resource == *name);
    let mut findings: Vec<Finding> = snapshot
        .judged
        .findings_of(name)
        .iter()
        .chain(planned)
        .cloned()
        .collect();
    findings.sort();
    findings.dedup();
    roll_up(name, (snapshot.version.epoch, revision), &heard, findings)
}

/// What a change took from these clusters, they may still serve.
fn still_leaving<'a>(
    snapshot: &'a Snapshot,
    mesh: &'a Mesh,
    name: &Fqn,
) -> impl Iterator<Item = &'a ClusterName> {
    let epoch = snapshot.version.epoch;
    let has_left = move |cluster: &ClusterName, revision| {
        let receipt = mesh.heard.get(cluster).and_then(|heard| heard.receipt.as_ref());
        receipt.is_some_and(|receipt| receipt.proves((epoch, revision)))
    };
    let left = snapshot.left(name);
    left.filter(move |(cluster, revision)| !has_left(cluster, *revision))
        .map(|(cluster, _)| cluster)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use chrono::Utc;
    use serde_json::Value;
    use tombolo_compiler::intent::Resource;
    use tombolo_compiler::report::Receipt;
    use tombolo_proto::held::Version;
    use uuid::Uuid;

    use super::*;
    use crate::snapshot::{Delta, Stored};

    const WORKSPACE: &str = "organizations/acme/tenants/a/workspaces/w";

    fn stored(document: Value, revision: u64) -> Stored {
        Stored {
            resource: Arc::new(Resource::from_json(document).unwrap()),
            uid: Uuid::now_v7(),
            etag: String::new(),
            revision,
            created_at: Utc::now(),
            updated_at: Utc::now(),
            managed: None,
            owner: None,
        }
    }

    fn workspace(namespaces: &str, revision: u64) -> Stored {
        stored(
            json!({"name": WORKSPACE, "spec": {"namespaces": [namespaces]}}),
            revision,
        )
    }

    fn version(revision: u64) -> Version {
        Version { epoch: 1, revision }
    }

    #[test]
    fn invariant_9_a_cluster_that_must_let_go_is_waited_for() {
        let clusters = ["east", "west"].map(|leaf| {
            let document =
                json!({"name": format!("organizations/acme/clusters/{leaf}"), "spec": {"region": leaf}});
            stored(document, 1)
        });
        let joined = clusters.iter().map(|cluster| cluster.uid).collect();
        let mut put = vec![
            stored(json!({"name": "organizations/acme"}), 1),
            stored(json!({"name": "organizations/acme/tenants/a"}), 1),
            workspace("*/shop", 1),
        ];
        put.extend(clusters);
        let wide = Delta {
            put,
            joined,
            ..Delta::default()
        };
        let narrow = Delta {
            put: vec![workspace("east/shop", 2)],
            ..Delta::default()
        };
        let snapshot = Snapshot::empty().advance(version(1), wide, None);
        let snapshot = snapshot.advance(version(2), narrow, None);
        let status = |east: u64, west: u64| {
            let heard = [("east", east), ("west", west)].map(|(cluster, revision)| {
                let receipt = Receipt {
                    version: (1, revision),
                    proxies: 1,
                    ..Receipt::default()
                };
                let heard = Heard {
                    agent: Agent::Live,
                    receipt: Some(receipt),
                };
                (cluster.parse().unwrap(), heard)
            });
            let mesh = Mesh {
                heard: heard.into(),
                ..Mesh::default()
            };
            let status = status_of(&snapshot, &mesh, &WORKSPACE.parse().unwrap(), 2);
            let shown: Vec<String> = status.clusters.keys().map(ClusterName::to_string).collect();
            (status.outcome, shown.join(" "))
        };
        for (east, west, outcome, shown) in [
            (1, 1, Outcome::Pending, "east west"),
            (2, 1, Outcome::Pending, "east west"),
            (1, 2, Outcome::Pending, "east"),
            (2, 2, Outcome::Running, "east"),
        ] {
            assert_eq!(status(east, west), (outcome, shown.to_owned()), "{east} {west}");
        }
    }
}
