//! What a write would do: to the resources, and to the routes of each cluster.

use std::collections::BTreeMap;

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tombolo_compiler::finding::Finding;
use tombolo_compiler::plan::{self, SliceChange};
use tombolo_compiler::report::Reports;

use crate::change::{Prepared, Step};
use crate::mesh::Mesh;

pub(crate) fn answer(prepared: &Prepared, mesh: &Mesh) -> Response {
    let base = &prepared.base;
    let reports = Reports {
        joined: base.joined_clusters(),
        clusters: mesh.clusters.clone(),
    };
    let (before, _) = plan::plan(&base.judged.resolved, &reports);
    let (after, findings) = plan::plan(&prepared.judged.resolved, &reports);
    let routes: BTreeMap<_, Vec<Value>> = plan::diff(&before, &after)
        .into_iter()
        .map(|(cluster, changes)| (cluster, changes.iter().map(route).collect()))
        .collect();
    let changes: Vec<Value> = prepared.steps.iter().map(change).collect();
    let concerned = |finding: &&Finding| {
        let mut steps = prepared.steps.iter();
        steps.any(|step| *step.name() == finding.resource)
    };
    let findings: Vec<&Finding> = prepared
        .judged
        .findings
        .iter()
        .chain(&findings)
        .filter(concerned)
        .collect();
    Json(json!({
        "dryRun": true,
        "revision": base.version.revision,
        "changes": changes,
        "routes": routes,
        "findings": findings,
    }))
    .into_response()
}

fn change(step: &Step) -> Value {
    let (before, after) = match step {
        Step::Create(resource) => (None, Some(resource.to_json())),
        Step::Update(stored, resource) => (Some(stored.resource.to_json()), Some(resource.to_json())),
        Step::Delete(stored) => (Some(stored.resource.to_json()), None),
        Step::Keep(_) => (None, None),
    };
    let mut told = json!({"name": step.name(), "action": step.action()});
    if let Some(before) = before {
        told["before"] = before;
    }
    if let Some(after) = after {
        told["after"] = after;
    }
    told
}

fn route(change: &SliceChange) -> Value {
    let action = match (&change.before, &change.after) {
        (None, _) => "create",
        (Some(_), None) => "delete",
        (Some(_), Some(_)) => "update",
    };
    json!({"route": change.key.to_string(), "action": action, "before": change.before, "after": change.after})
}
