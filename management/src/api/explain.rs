//! `POST /v1/explain`: where a request goes from somewhere in the mesh, and why.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use tombolo_compiler::explain::request::Request;
use tombolo_compiler::explain::{Advice, Asked, Explanation, Outcome, Step, Told, Trace, Viewpoint, explain};
use tombolo_compiler::finding::Origin;
use tombolo_compiler::name::Fqn;
use tombolo_compiler::report::Reports;

use super::body::Body;
use super::world::World;
use super::{App, Params};
use crate::caller::Caller;
use crate::document;
use crate::problem::Problem;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    from: Viewpoint,
    request: Request,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExplainParams {
    /// Of the past, where no edge can be asked.
    revision: Option<u64>,
}

pub(crate) async fn ask(
    State(app): State<App>,
    caller: Caller,
    Params(params): Params<ExplainParams>,
    body: Body,
) -> Result<Response, Problem> {
    let question = document::parse_one(body.format, &body.bytes)?;
    let question: Question =
        serde_json::from_value(question).map_err(|error| Problem::bad_request(error.to_string()))?;
    let (from, request) = (json!(question.from), json!(question.request));
    let mut answer = match params.revision {
        Some(revision) => {
            let explained = explain_past(app.clone(), caller, question, revision);
            app.computations.run(explained).await??
        }
        None => explain_present(&app, &caller, &question).await,
    };
    answer["from"] = from;
    answer["request"] = request;
    Ok(Json(answer).into_response())
}

async fn explain_present(app: &App, caller: &Caller, question: &Question) -> Value {
    app.writes.reach(caller.seen).await;
    let Question { from, request } = question;
    let snapshot = app.writes.snapshot();
    let reports = Reports {
        joined: snapshot.joined_clusters(),
        clusters: app.mesh.borrow().clusters.clone(),
        ..Reports::default()
    };
    let judged = &snapshot.judged;
    let may_read = |name: &Fqn| caller.may_read(&snapshot, name);
    let explanation = explain(
        judged.resolved(),
        &reports,
        judged.findings(),
        from,
        request,
        &may_read,
    );
    let mut answer = shown(&explanation, may_read);
    if let Some(entry) = explanation.entry {
        let asked = Asked {
            entry,
            request: request.clone(),
        };
        // Which instances there are is known to the edge only.
        answer["edge"] = match app.questions.ask::<Told>(&from.cluster, &asked).await {
            Ok(told) => {
                let mut shown = shown_trace(&told.trace, may_read);
                shown["version"] = json!(told.version);
                json!({"answer": shown})
            }
            Err(reason) => json!({"away": reason}),
        };
    }
    answer["revision"] = json!(snapshot.version.revision);
    answer
}

/// With what clusters reported when the revision ended, and what that revision had done.
async fn explain_past(app: App, caller: Caller, question: Question, revision: u64) -> Result<Value, Problem> {
    let mut world = World::at(&app, revision).await?;
    let snapshot = app.writes.snapshot();
    let mut answer = {
        let may_read = |name: &Fqn| caller.may_read_past(&snapshot, &world.tree, name);
        let explanation = explain(
            &world.resolved,
            &world.reports,
            &world.findings,
            &question.from,
            &question.request,
            &may_read,
        );
        let mut answer = shown(&explanation, may_read);
        answer["reports"] = json!(world.sources(&app.organization, may_read, |_| false));
        answer
    };
    answer["revision"] = json!(revision);
    if let Some(written) = world.written(&app, &caller).await? {
        answer["written"] = written;
    }
    Ok(answer)
}

/// What the caller may read of an explanation; the rest is counted.
fn shown(explanation: &Explanation, may_read: impl Fn(&Fqn) -> bool) -> Value {
    let mut answer = shown_trace(&explanation.trace, &may_read);
    let visible = |advice: &&Advice| advice.resources.iter().all(&may_read);
    let advice: Vec<&Advice> = explanation.advice.iter().filter(visible).collect();
    answer["adviceHidden"] = json!(explanation.advice.len() - advice.len());
    answer["advice"] = json!(advice);
    answer
}

fn shown_trace(trace: &Trace, may_read: impl Fn(&Fqn) -> bool) -> Value {
    let steps: Vec<Value> = trace
        .steps
        .iter()
        .map(|step| shown_step(step, &may_read))
        .collect();
    let hidden = steps.iter().filter(|step| step["hidden"] == true).count();
    let reads = |origin: Option<&Origin>| origin.is_none_or(|origin| may_read(&origin.resource));
    let outcome = match &trace.outcome {
        outcome if reads(outcome.origin()) => {
            let mut shown = json!(outcome);
            for decided in shown
                .as_object_mut()
                .into_iter()
                .flat_map(|outcome| outcome.values_mut())
            {
                hide_losers(decided, &may_read);
            }
            shown
        }
        Outcome::Refuse { status, .. } | Outcome::Redirect { status, .. } => {
            json!({"hidden": true, "status": status})
        }
        Outcome::Forward { .. } | Outcome::NotTaken { .. } => json!({"hidden": true}),
    };
    json!({"steps": steps, "stepsHidden": hidden, "outcome": outcome})
}

fn shown_step(step: &Step, may_read: impl Fn(&Fqn) -> bool) -> Value {
    let tried = step.tried.iter().map(|tried| &tried.origin);
    let deciding = tried.chain([&step.origin]).flatten();
    if !deciding.map(|origin| &origin.resource).all(&may_read) {
        return json!({"stage": step.stage, "hidden": true});
    }
    let mut shown = json!(step);
    hide_losers(&mut shown, may_read);
    shown
}

/// Who else wanted what the origin of a step or an outcome has, as far as the caller may know.
fn hide_losers(decided: &mut Value, may_read: impl Fn(&Fqn) -> bool) {
    let Some(lost) = decided.pointer_mut("/origin/lost").and_then(Value::as_array_mut) else {
        return;
    };
    let before = lost.len();
    lost.retain(|loser| {
        let name = loser.as_str().and_then(|name| name.parse::<Fqn>().ok());
        name.is_some_and(|name| may_read(&name))
    });
    let hidden = before - lost.len();
    if hidden > 0 {
        decided["origin"]["lostHidden"] = json!(hidden);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn losers_that_the_caller_may_not_read_are_counted() {
        let mine = "organizations/acme/tenants/mine";
        let step = |lost: &[&str]| json!({"origin": {"resource": mine, "field": "spec", "lost": lost}});
        for (given, expected) in [
            (json!({"told": "x"}), json!({"told": "x"})),
            (step(&[mine]), step(&[mine])),
            (
                step(&[mine, "organizations/acme/tenants/other"]),
                json!({"origin": {"resource": mine, "field": "spec", "lost": [mine], "lostHidden": 1}}),
            ),
        ] {
            let mut shown = given.clone();
            hide_losers(&mut shown, |name| name.as_str() == mine);
            assert_eq!(shown, expected, "{given}");
        }
    }
}
