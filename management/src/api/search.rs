//! `GET /v1/search`: every resource that touches a host, a service or a namespace.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;
use tombolo_compiler::search::{Sought, search};

use super::paging::PageParams;
use super::{App, Params};
use crate::caller::Caller;
use crate::problem::Problem;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SearchParams {
    host: Option<String>,
    service: Option<String>,
    namespace: Option<String>,
    #[serde(rename = "pageSize")]
    page_size: Option<usize>,
    #[serde(rename = "pageToken")]
    page_token: Option<String>,
}

/// What the caller may not read is counted and not shown.
pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
    Params(params): Params<SearchParams>,
) -> Result<Response, Problem> {
    let paging = PageParams {
        page_size: params.page_size,
        page_token: params.page_token,
    };
    let sought = match (params.host, params.service, params.namespace) {
        (Some(host), None, None) => Sought::Host(host),
        (None, Some(service), None) => Sought::Service(service),
        (None, None, Some(namespace)) => Sought::Namespace(namespace.parse()?),
        _ => return Err(Problem::bad_request("ask for one of host, service and namespace")),
    };
    let found = look(app.clone(), caller, sought, paging);
    app.computations.run(found).await?
}

/// Every document of the organization is looked at.
async fn look(app: App, caller: Caller, sought: Sought, paging: PageParams) -> Result<Response, Problem> {
    let snapshot = app.writes.snapshot();
    let mut touches = search(snapshot.judged.intent(), &sought);
    let all = touches.len();
    touches.retain(|touch| caller.may_read(&snapshot, &touch.resource));
    let hidden = all - touches.len();
    let page = paging.cut(touches, |touch| touch.resource.clone())?;
    let answer = json!({"revision": snapshot.version.revision, "items": page.items, "hidden": hidden});
    Ok(Json(page.told_in(answer)).into_response())
}
