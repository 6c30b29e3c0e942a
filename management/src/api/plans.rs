//! `POST /v1/plans`: what a change would do, to resources, to the routes of each cluster, and to who serves and
//! reaches whom.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::Value;
use tombolo_compiler::name::Fqn;

use super::body::Body;
use super::{App, Params, approvals, dry_run, past};
use crate::audit::Verb;
use crate::caller::Caller;
use crate::change::Refusal;
use crate::change_plan::PlanId;
use crate::document;
use crate::history::Entry;
use crate::problem::Problem;
use crate::store::history::HistoryFilter;
use crate::unenforced;
use crate::wish::Wish;
use crate::writer::WriteError;

pub(crate) const IF_PLAN: HeaderName = HeaderName::from_static("if-plan");
/// How many of the changes since a plan was made are named.
const MOVED_MAX: usize = 20;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RollbackTo {
    name: Fqn,
    revision: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PlanParams {
    /// Resources without an ETag replace what is there.
    #[serde(default)]
    overwrite: bool,
    /// Security that no plane enforces yet is kept.
    #[serde(default, rename = "allowUnenforced")]
    allow_unenforced: bool,
    /// Keeps the plan, for others to approve.
    #[serde(default)]
    submit: bool,
    /// For those who are to approve it.
    #[serde(default)]
    description: String,
}

pub(crate) async fn make(
    State(app): State<App>,
    caller: Caller,
    Params(params): Params<PlanParams>,
    body: Body,
) -> Result<Response, Problem> {
    let documents = document::parse(body.format, &body.bytes)?;
    // What is kept is applied to what it was planned on, or not at all: it has seen what it replaces.
    let taking = Taking {
        overwrite: params.overwrite || params.submit,
        allow_unenforced: params.allow_unenforced,
    };
    let wish = wish_of(&app, &caller, documents.clone(), taking).await?;
    let (prepared, described) = dry_run::plan(&app, &caller, wish, Verb::Change).await?;
    match params.submit {
        false => Ok(Json(described).into_response()),
        true => {
            let submission = approvals::Submission {
                documents,
                description: params.description,
            };
            approvals::submit(&app, &caller, &prepared, described, submission).await
        }
    }
}

/// How documents are taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taking {
    /// Resources without an ETag replace what is there.
    pub(crate) overwrite: bool,
    pub(crate) allow_unenforced: bool,
}

impl Taking {
    /// Of what was planned and kept: it was asked then.
    pub(crate) const PLANNED: Taking = Taking {
        overwrite: true,
        allow_unenforced: true,
    };
}

/// What a body wishes: documents or changes as for `POST /v1/changes`, or `{"rollback": {"name", "revision"}}`.
pub(crate) async fn wish(app: &App, caller: &Caller, body: &Body, taking: Taking) -> Result<Wish, Problem> {
    let documents = document::parse(body.format, &body.bytes)?;
    wish_of(app, caller, documents, taking).await
}

pub(crate) async fn wish_of(
    app: &App,
    caller: &Caller,
    mut documents: Vec<Value>,
    taking: Taking,
) -> Result<Wish, Problem> {
    if let [Value::Object(fields)] = documents.as_mut_slice()
        && fields.len() == 1
        && let Some(rollback) = fields.remove("rollback")
    {
        let RollbackTo { name, revision } = serde_json::from_value(rollback)
            .map_err(|error| Problem::bad_request(format!("/rollback: {error}")))?;
        return past::rollback(app, caller, &name, revision).await;
    }
    let changes = document::changes(documents, taking.overwrite)?;
    if !taking.allow_unenforced {
        unenforced::check(&changes)?;
    }
    Ok(Wish::Changes(changes))
}

/// The plan that a write is held to: the header `If-Plan`, or the parameter of that name.
pub(crate) fn required(headers: &HeaderMap, parameter: Option<&str>) -> Result<Option<PlanId>, Problem> {
    let header = headers
        .get(IF_PLAN)
        .map(|value| value.to_str().unwrap_or_default());
    header
        .or(parameter)
        .map(|text| {
            text.parse()
                .map_err(|error| Problem::bad_request(format!("plan: {error}")))
        })
        .transpose()
}

/// A refusal of a write; of one that was held to a stale plan, with what was written since that plan was made.
pub(crate) async fn refused(app: &App, caller: &Caller, error: WriteError) -> Problem {
    let since = match &error {
        WriteError::Refused(Refusal::PlanMoved { given, .. }) => Some(given.revision),
        _ => None,
    };
    let problem = Problem::of_write(error, &caller.principal, Verb::Change);
    match since {
        None => problem,
        Some(since) => match moved(app, caller, since).await {
            Ok(moved) => problem.with_details(moved),
            Err(error) => error,
        },
    }
}

async fn moved(app: &App, caller: &Caller, since: u64) -> Result<Vec<String>, Problem> {
    let filter = HistoryFilter {
        node: app.organization.clone(),
        below: true,
        since: since.saturating_add(1).min(i64::MAX as u64),
        until: None,
        after: None,
    };
    let mut tx = app.store.read_published().await?;
    let entries = app
        .store
        .list_history(&mut tx, &filter, 10 * MOVED_MAX as u64)
        .await?;
    let snapshot = app.writes.snapshot();
    let (shown, hidden): (Vec<Entry>, Vec<Entry>) = entries
        .into_iter()
        .partition(|entry| caller.may_read(&snapshot, &entry.name));
    let told = shown.iter().take(MOVED_MAX).map(|entry| {
        format!(
            "revision {}: {} of {} by {}",
            entry.revision,
            entry.event.action(),
            entry.name,
            entry.actor
        )
    });
    let rest = shown.len().saturating_sub(MOVED_MAX) + hidden.len();
    let rest = (rest > 0).then(|| format!("and {rest} or more others"));
    Ok(told.chain(rest).collect())
}
