//! `…:offers` of a workspace: the claims that others offer to it. Whoever offers lets the one to whom it offers know.

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tombolo_compiler::name::Fqn;

use super::App;
use super::paging::PageParams;
use crate::audit::Verb;
use crate::caller::Caller;
use crate::handover;
use crate::problem::Problem;

pub(crate) fn get(app: &App, caller: &Caller, name: &Fqn, paging: &PageParams) -> Result<Response, Problem> {
    let snapshot = app.writes.snapshot();
    app.allow_read(&snapshot, caller, name, Verb::Get)?;
    snapshot.get(name).ok_or_else(|| Problem::not_found(name))?;
    let offered = handover::offered_to(&snapshot, name, caller.time);
    let page = paging.cut(offered, |(offer, _)| offer.name.clone())?;
    let offers = page.items.iter().map(|(offer, expires_at)| {
        let spec = &offer.to_json()["spec"];
        let claims = |field: &str| spec.get(field).cloned().unwrap_or_else(|| json!([]));
        json!({
            "name": offer.name,
            "from": offer.name.parent(),
            "namespaces": claims("namespaces"),
            "hosts": claims("hosts"),
            "ports": claims("ports"),
            "expireTime": expires_at,
        })
    });
    let offers: Vec<Value> = offers.collect();
    let answer = json!({"name": name, "revision": snapshot.version.revision, "items": offers});
    Ok(Json(page.told_in(answer)).into_response())
}
