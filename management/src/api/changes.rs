//! `POST /v1/changes`: many resources in one transaction.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::body::Body;
use super::{App, Params, dry_run};
use crate::audit::Verb;
use crate::change::Step;
use crate::document;
use crate::problem::Problem;
use crate::unenforced;
use crate::wish::Wish;
use crate::writer::{Caller, Committed};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChangesParams {
    #[serde(default)]
    dry_run: bool,
    /// Resources without an ETag replace what is there.
    #[serde(default)]
    overwrite: bool,
    /// Security that no plane enforces yet is kept.
    #[serde(default, rename = "allowUnenforced")]
    allow_unenforced: bool,
}

pub(crate) async fn write(
    State(app): State<App>,
    caller: Caller,
    Params(params): Params<ChangesParams>,
    body: Body,
) -> Result<Response, Problem> {
    let documents = document::parse(body.format, &body.bytes)?;
    let changes = document::changes(documents, params.overwrite)?;
    if !params.allow_unenforced {
        unenforced::check(&changes)?;
    }
    let wish = Wish::Changes(changes);
    let actor = caller.principal.clone();
    let of_write = |error| Problem::of_write(error, &actor, Verb::Change);
    if params.dry_run {
        let prepared = app.writes.dry_run(&caller, &wish).await.map_err(of_write)?;
        return Ok(dry_run::answer(&caller, &prepared, &app.mesh.borrow().clone()));
    }
    let committed = app.writes.write(caller, wish).await.map_err(of_write)?;
    Ok(answer(&committed))
}

/// What a transaction did.
pub(crate) fn answer(committed: &Committed) -> Response {
    let revision = committed.snapshot.version.revision;
    tracing::Span::current().record("revision", revision);
    let changes: Vec<Value> = committed.steps.iter().map(|step| told(step, committed)).collect();
    Json(json!({"revision": revision, "changes": changes})).into_response()
}

fn told(step: &Step, committed: &Committed) -> Value {
    let mut told = json!({"name": step.name(), "action": step.action()});
    if let Some(stored) = committed.get(step.name()) {
        told["etag"] = stored.etag.clone().into();
        told["revision"] = stored.revision.into();
    }
    told
}
