//! `…:readiness` of a workspace: whether its services would survive the loss of a cluster or a region today.

use std::collections::BTreeSet;

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tombolo_compiler::name::{ClusterName, Fqn};
use tombolo_compiler::observe::Agent;
use tombolo_compiler::readiness::readiness;
use tombolo_compiler::report::Reports;

use super::App;
use super::paging::PageParams;
use crate::audit::Verb;
use crate::caller::Caller;
use crate::problem::Problem;

/// Of a large organization a computation: each loss is planned.
pub(crate) async fn get(
    app: App,
    caller: Caller,
    name: Fqn,
    paging: PageParams,
) -> Result<Response, Problem> {
    let snapshot = app.writes.snapshot();
    app.allow_read(&snapshot, &caller, &name, Verb::Get)?;
    snapshot.get(&name).ok_or_else(|| Problem::not_found(&name))?;
    let mesh = app.mesh.borrow().clone();
    let heard = |cluster: &&ClusterName| {
        mesh.heard
            .get(*cluster)
            .is_some_and(|heard| heard.agent == Agent::Live)
    };
    let silent: BTreeSet<ClusterName> = mesh
        .clusters
        .keys()
        .filter(|cluster| !heard(cluster))
        .cloned()
        .collect();
    let reports = Reports {
        joined: snapshot.joined_clusters(),
        clusters: mesh.clusters.clone(),
        ..Reports::default()
    };
    let services = readiness(snapshot.judged.resolved(), &reports, &silent, &name);
    let page = paging.cut(services, |service| service.service.clone())?;
    let answer = json!({"name": name, "revision": snapshot.version.revision, "items": page.items});
    Ok(Json(page.told_in(answer)).into_response())
}
