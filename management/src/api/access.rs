//! Who may do what: `POST /v1/iam:test` and `GET …:access`.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Value, json};
use tombolo_compiler::name::Fqn;

use super::App;
use super::body::Body;
use super::paging::PageParams;
use crate::audit::Verb;
use crate::caller::Caller;
use crate::change::WALLED;
use crate::iam::{self, Action, Asker, Because, Decision, Lack, Principal, decide, may};
use crate::problem::Problem;
use crate::snapshot::Snapshot;

/// Of one question.
const NAMES_MAX: usize = 100;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Question {
    /// The caller itself when left out.
    who: Option<Fqn>,
    action: Action,
    names: Vec<Fqn>,
    /// For conditions; the caller's own address and the present when left out.
    source: Option<String>,
    time: Option<DateTime<Utc>>,
}

/// What would be decided, and because of what.
pub(crate) async fn test(State(app): State<App>, caller: Caller, body: Body) -> Result<Json<Value>, Problem> {
    let question: Question = body.parse()?;
    if question.names.is_empty() || question.names.len() > NAMES_MAX {
        let detail = format!("/names: name between 1 and {NAMES_MAX} nodes");
        return Err(Problem::bad_request(detail));
    }
    app.writes.reach(caller.seen).await;
    let snapshot = app.writes.snapshot();
    let principal = match &question.who {
        Some(who) if Some(who) != caller.principal.name() => {
            for node in &question.names {
                allow_to_see(&app, &snapshot, &caller, node)?;
            }
            named(&snapshot, who)?
        }
        _ => caller.principal.clone(),
    };
    let asker = Asker {
        principal: &principal,
        source: question.source.as_deref().unwrap_or(&caller.source),
        time: question.time.unwrap_or(caller.time),
        opened: &caller.opened,
    };
    let told = |node: &Fqn| match decide(&asker, question.action, node, &snapshot.bindings) {
        // Of the caller itself: of others it may ask only where it may see who may do what.
        Decision::Allow(_) if !caller.is_open(node) => {
            json!({"name": node, "allowed": false, "because": WALLED})
        }
        decision => answer(node, &decision),
    };
    let decisions: Vec<Value> = question.names.iter().map(told).collect();
    Ok(Json(json!({
        "who": principal.to_string(),
        "action": question.action,
        "decisions": decisions,
        "revision": snapshot.version.revision,
    })))
}

/// Everybody who may do something to the node, and through what.
pub(crate) fn access(
    app: &App,
    caller: &Caller,
    node: &Fqn,
    paging: &PageParams,
) -> Result<Response, Problem> {
    let snapshot = app.writes.snapshot();
    app.allow_read(&snapshot, caller, node, Verb::Get)?;
    allow_to_see(app, &snapshot, caller, node)?;
    if snapshot.get(node).is_none() {
        return Err(Problem::not_found(node));
    }
    let page = paging.cut(iam::access(node, &snapshot.bindings), |access| {
        access.subject.clone()
    })?;
    let answer = json!({"name": node, "items": page.items, "revision": snapshot.version.revision});
    Ok(Json(page.told_in(answer)).into_response())
}

/// Who may set the policy of a node may see it, and so may who reads its audit log.
fn allow_to_see(app: &App, snapshot: &Snapshot, caller: &Caller, node: &Fqn) -> Result<(), Problem> {
    let sets_it = may(&caller.asker(), Action::SetPolicy, node, &snapshot.bindings).is_some();
    if sets_it && caller.is_open(node) {
        return Ok(());
    }
    app.allow(snapshot, caller, Action::ReadAudit, node, Verb::Get)
}

fn named(snapshot: &Snapshot, who: &Fqn) -> Result<Principal, Problem> {
    let stored = snapshot.get(who);
    let principal = stored.and_then(|stored| snapshot.bindings.principal(stored.uid));
    principal.ok_or_else(|| {
        Problem::bad_request(format!(
            "/who: {who} is not a user or service account that exists"
        ))
    })
}

fn answer(node: &Fqn, decision: &Decision) -> Value {
    match decision {
        Decision::Allow(because) => {
            let mut told = json!({"name": node, "allowed": true, "because": because.to_string()});
            if let Because::Binding {
                binding,
                role,
                subject,
            } = because
            {
                told["binding"] = json!(binding);
                told["role"] = json!(role);
                told["subject"] = json!(subject);
            }
            told
        }
        Decision::Deny(lack) => {
            let mut told = json!({"name": node, "allowed": false, "because": lack.to_string()});
            if let Lack::Role { role, ask, unmet, .. } = lack {
                told["missingRole"] = json!(role.as_str());
                told["ask"] = json!(ask);
                told["unmetConditions"] = json!(unmet);
            }
            told
        }
    }
}
