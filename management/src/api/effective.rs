//! `…:effective`: the settings that count for a node or one of its services, each with who decided it and who lost.

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tombolo_compiler::effective::{NoSettings, node_of, of_node, of_service};
use tombolo_compiler::name::{Fqn, ServiceId};

use super::App;
use super::resources::GetParams;
use crate::audit::Verb;
use crate::caller::Caller;
use crate::problem::Problem;

/// Who may read a node may know what binds it: values and names of the settings above it are told, also to those who may
/// not read these. Their names hold nothing that the node's own does not
/// (`docs/adr/0005-mandates-beside-defaults.md`).
pub(crate) fn effective(
    app: &App,
    caller: &Caller,
    node: &Fqn,
    params: &GetParams,
) -> Result<Response, Problem> {
    let snapshot = app.writes.snapshot();
    app.allow_read(&snapshot, caller, node, Verb::Get)?;
    let service: Option<ServiceId> = params.service.as_deref().map(str::parse).transpose()?;
    let intent = snapshot.judged.intent();
    let settled = node_of(intent, node)?;
    if !node.is_within(&settled) {
        // An application names the workspace that serves it, and naming it is no right to read it.
        app.allow_read(&snapshot, caller, &settled, Verb::Get)?;
    }
    let effective = match &service {
        None => of_node(intent, &settled),
        Some(service) => of_service(intent, &settled, service),
    }?;
    let mut answer = json!({
        "name": node,
        "revision": snapshot.version.revision,
        "fields": effective.rows(),
    });
    if let Some(service) = service {
        answer["service"] = json!(service);
    }
    Ok(Json(answer).into_response())
}

impl From<NoSettings> for Problem {
    fn from(error: NoSettings) -> Problem {
        match &error {
            NoSettings::NotFound(node) => Problem::not_found(node),
            NoSettings::NotANode(_)
            | NoSettings::NoWorkspace(_)
            | NoSettings::NoServices(_)
            | NoSettings::NotInNode { .. } => Problem::bad_request(error.to_string()),
        }
    }
}
