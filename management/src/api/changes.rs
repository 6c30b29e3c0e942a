//! `POST /v1/changes`: many resources in one transaction.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::body::Body;
use super::plans::{self, Taking};
use super::{App, Params, dry_run};
use crate::approval::Leave;
use crate::audit::Verb;
use crate::caller::Caller;
use crate::problem::Problem;
use crate::wish::Order;

const REASON_BYTES_MAX: usize = 500;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChangesParams {
    #[serde(default)]
    dry_run: bool,
    /// Resources without an ETag replace what is there.
    #[serde(default)]
    pub(crate) overwrite: bool,
    /// Security that no plane enforces yet is kept.
    #[serde(default, rename = "allowUnenforced")]
    pub(crate) allow_unenforced: bool,
    /// The plan that the write is held to. It has seen what it replaces, so that it needs no ETag.
    plan: Option<String>,
    /// The plan of a write that was asked to be confirmed.
    confirm: Option<String>,
    /// Why the write goes past approval policies. For administrators of the organization, and on record.
    #[serde(rename = "breakGlass")]
    break_glass: Option<String>,
}

pub(crate) async fn write(
    State(app): State<App>,
    caller: Caller,
    Params(params): Params<ChangesParams>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let plan = plans::required(&headers, params.plan.as_deref().or(params.confirm.as_deref()))?;
    let taking = Taking {
        overwrite: params.overwrite || plan.is_some(),
        allow_unenforced: params.allow_unenforced,
    };
    let wish = plans::wish(&app, &caller, &body, taking).await?;
    if params.dry_run {
        return dry_run::answer(&app, &caller, wish, Verb::Change).await;
    }
    let order = Order {
        leave: leave(params.break_glass)?,
        ..app.order(wish, plan)
    };
    match app.writes.write(caller.clone(), order).await {
        Ok(committed) => Ok(committed.into_response()),
        Err(error) => Err(plans::refused(&app, &caller, error).await),
    }
}

/// What lets a write go past approval policies. A reason that says nothing is none.
pub(super) fn leave(reason: Option<String>) -> Result<Leave, Problem> {
    match reason {
        None => Ok(Leave::None),
        Some(reason)
            if reason.trim().is_empty() || reason.len() > REASON_BYTES_MAX || reason.contains('\0') =>
        {
            let detail = format!("breakGlass: say why, in at most {REASON_BYTES_MAX} bytes");
            Err(Problem::bad_request(detail))
        }
        Some(reason) => Ok(Leave::BreakGlass { reason }),
    }
}
