//! `/v1/<name>`: get, list, create, update, delete.

use std::ops::Bound;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use tombolo_compiler::name::{Fqn, Label};

use super::body::Body;
use super::target::{Collection, PastQuestion, Target};
use super::{App, Params, access, dry_run, effective, past, status};
use crate::audit::Verb;
use crate::change::{Change, ChangeVerb, IfMatch};
use crate::document::{self, Document};
use crate::iam::Action;
use crate::problem::Problem;
use crate::snapshot::{Snapshot, Stored, Tree};
use crate::writer::{Caller, Committed};

const PAGE_SIZE_DEFAULT: usize = 100;
const PAGE_SIZE_MAX: usize = 500;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct GetParams {
    pub(crate) page_size: Option<usize>,
    pub(crate) page_token: Option<String>,
    pub(crate) revision: Option<u64>,
    pub(crate) wait: Option<String>,
    /// Of `:diff`: the two revisions. Without `to`, the latest.
    pub(crate) from: Option<u64>,
    pub(crate) to: Option<u64>,
    /// Of `:history`: with all that stands below.
    #[serde(default)]
    pub(crate) below: bool,
    /// Of `:effective`.
    pub(crate) service: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WriteParams {
    #[serde(default)]
    dry_run: bool,
}

pub(crate) async fn get_or_list(
    State(app): State<App>,
    caller: Caller,
    Path(path): Path<String>,
    Params(params): Params<GetParams>,
) -> Result<Response, Problem> {
    match target(&path)? {
        Target::Resource(name) => match params.revision {
            None => get(&app, &caller, &name),
            Some(revision) => past::get(&app, &caller, &name, revision).await,
        },
        Target::Collection(collection) => match params.revision {
            None => list(&app, &caller, &collection, &params),
            Some(revision) => past::list(&app, &caller, &collection, &params, revision).await,
        },
        Target::Status(name) => status::status(&app, &caller, &name),
        Target::Receipt(name) => status::receipt(&app, &caller, &name, &params).await,
        Target::Effective(name) => effective::effective(&app, &caller, &name, &params),
        Target::Access(name) => access::access(&app, &caller, &name),
        Target::Past(PastQuestion::History, name) => past::history(&app, &caller, &name, &params).await,
        Target::Past(PastQuestion::Diff, name) => past::diff(&app, &caller, &name, &params).await,
        Target::Past(PastQuestion::Compiled, name) => past::compiled(&app, &caller, &name, &params).await,
        Target::Adopt(_) | Target::Transfer(_) | Target::Past(PastQuestion::Rollback, _) => {
            let detail = format!("{path} changes something: POST it");
            Err(Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method", detail))
        }
    }
}

pub(crate) async fn create(
    State(app): State<App>,
    caller: Caller,
    Path(path): Path<String>,
    Params(params): Params<WriteParams>,
    body: Body,
) -> Result<Response, Problem> {
    let collection = match target(&path)? {
        Target::Collection(collection) => collection,
        Target::Adopt(name) => return adopt(&app, caller, &name).await,
        Target::Transfer(name) => return access::transfer(&app, caller, name, &body).await,
        Target::Past(PastQuestion::Rollback, name) => {
            return past::roll_back(&app, caller, &name, &body, params.dry_run).await;
        }
        other => {
            let detail = match other.name() {
                Some(name) => format!("POST creates in a collection; to update {name}, PUT it"),
                None => "POST creates in a collection".to_owned(),
            };
            return Err(Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method", detail));
        }
    };
    let document = document(&body, None)?;
    let name = document.resource.name.clone();
    if !collection.holds(&name) {
        return Err(Problem::bad_request(format!(
            "/name: {name} does not stand in {path}"
        )));
    }
    let change = Change {
        name: name.clone(),
        verb: ChangeVerb::Create(document.resource),
        uid: None,
    };
    write(&app, caller, change, Verb::Create, &params, |committed| {
        let stored = committed.get(&name);
        let location = [(header::LOCATION, format!("/v1/{name}"))];
        (
            StatusCode::CREATED,
            location,
            represent(&committed.snapshot, stored.map(AsRef::as_ref)),
        )
            .into_response()
    })
    .await
}

pub(crate) async fn update(
    State(app): State<App>,
    caller: Caller,
    Path(path): Path<String>,
    Params(params): Params<WriteParams>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let name = resource_target(&path)?;
    let document = document(&body, Some(&name))?;
    if document.resource.name != name {
        let detail = format!("/name: {} is not the name in the path", document.resource.name);
        return Err(Problem::bad_request(detail));
    }
    let change = Change {
        name: name.clone(),
        verb: ChangeVerb::Update(document.resource, if_match(&headers)),
        uid: document.uid,
    };
    write(&app, caller, change, Verb::Update, &params, |committed| {
        represent(&committed.snapshot, committed.get(&name).map(AsRef::as_ref))
    })
    .await
}

pub(crate) async fn delete(
    State(app): State<App>,
    caller: Caller,
    Path(path): Path<String>,
    Params(params): Params<WriteParams>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let name = resource_target(&path)?;
    let change = Change {
        name: name.clone(),
        verb: ChangeVerb::Delete(if_match(&headers)),
        uid: None,
    };
    write(&app, caller, change, Verb::Delete, &params, |committed| {
        Json(json!({"name": name, "revision": committed.snapshot.version.revision})).into_response()
    })
    .await
}

/// Makes a restored database the truth again: all that was written before it was restored, and is not in it, is
/// given up, and everything is published under a new epoch.
async fn adopt(app: &App, caller: Caller, name: &Fqn) -> Result<Response, Problem> {
    app.allow(&app.writes.snapshot(), &caller, Action::Adopt, name, Verb::Adopt)?;
    let actor = caller.principal.clone();
    let version = app.writes.adopt(caller, name.clone()).await;
    let version = version.map_err(|error| Problem::of_write(error, &actor, Verb::Adopt))?;
    tracing::Span::current().record("revision", version.revision);
    Ok(Json(json!({"name": name, "epoch": version.epoch, "revision": version.revision})).into_response())
}

async fn write(
    app: &App,
    caller: Caller,
    change: Change,
    verb: Verb,
    params: &WriteParams,
    answer: impl FnOnce(&Committed) -> Response,
) -> Result<Response, Problem> {
    let actor = caller.principal.clone();
    let of_write = |error| Problem::of_write(error, &actor, verb);
    if params.dry_run {
        let prepared = app
            .writes
            .dry_run(&caller.asker(), &vec![change].into())
            .await
            .map_err(of_write)?;
        return Ok(dry_run::answer(&caller, &prepared, &app.mesh.borrow().clone()));
    }
    let committed = app
        .writes
        .write(caller, vec![change].into())
        .await
        .map_err(of_write)?;
    tracing::Span::current().record("revision", committed.snapshot.version.revision);
    Ok(answer(&committed))
}

fn get(app: &App, caller: &Caller, name: &Fqn) -> Result<Response, Problem> {
    let snapshot = app.writes.snapshot();
    app.allow_read(&snapshot, caller, name, Verb::Get)?;
    let stored = snapshot.get(name).ok_or_else(|| Problem::not_found(name))?;
    Ok(represent(&snapshot, Some(stored)))
}

/// What the caller may not read is left out, so that a list is empty where nothing is and where nothing may be seen.
fn list(
    app: &App,
    caller: &Caller,
    collection: &Collection,
    params: &GetParams,
) -> Result<Response, Problem> {
    let snapshot = app.writes.snapshot();
    let may_read = |name: &Fqn| caller.may_read(&snapshot, name);
    let mut page = page(&snapshot, &snapshot.tree, collection, params, may_read)?;
    page["revision"] = snapshot.version.revision.into();
    Ok(Json(page).into_response())
}

/// Of a collection in `tree`, what the caller may read. The snapshot knows the names of owners.
pub(crate) fn page(
    snapshot: &Snapshot,
    tree: &Tree,
    collection: &Collection,
    params: &GetParams,
    may_read: impl Fn(&Fqn) -> bool,
) -> Result<Value, Problem> {
    let page_size = page_size(params)?;
    let prefix = match &collection.parent {
        Some(parent) => format!("{parent}/{}/", collection.kind.collection()),
        None => format!("{}/", collection.kind.collection()),
    };
    let start = match &params.page_token {
        None => prefix.clone(),
        Some(token) => {
            let leaf: Label = token
                .parse()
                .map_err(|_| Problem::bad_request(format!("pageToken {token:?} is not from this list")))?;
            format!("{prefix}{leaf}")
        }
    };
    let behind = (Bound::Excluded(start.as_str()), Bound::Unbounded);
    let mut readable = tree
        .range::<str, _>(behind)
        .take_while(|(name, _)| name.as_str().starts_with(&prefix))
        .filter(|(name, _)| collection.holds(name) && may_read(name));
    let items: Vec<Value> = readable
        .by_ref()
        .take(page_size)
        .map(|(_, stored)| snapshot.to_json(stored))
        .collect();
    let last = items.last().and_then(|item| item["name"].as_str());
    let next = last.and_then(|name| name.rsplit('/').next()).map(str::to_owned);
    let mut page = json!({ "items": items });
    if readable.next().is_some() {
        page["nextPageToken"] = json!(next);
    }
    Ok(page)
}

pub(crate) fn page_size(params: &GetParams) -> Result<usize, Problem> {
    let page_size = params.page_size.unwrap_or(PAGE_SIZE_DEFAULT);
    match (1..=PAGE_SIZE_MAX).contains(&page_size) {
        true => Ok(page_size),
        false => Err(Problem::bad_request(format!(
            "pageSize {page_size} is not between 1 and {PAGE_SIZE_MAX}"
        ))),
    }
}

pub(crate) fn represent(snapshot: &Snapshot, stored: Option<&Stored>) -> Response {
    match stored {
        Some(stored) => {
            let etag = [(header::ETAG, format!("\"{}\"", stored.etag))];
            (etag, Json(snapshot.to_json(stored))).into_response()
        }
        // Written, and deleted by somebody else before we could look.
        None => StatusCode::NO_CONTENT.into_response(),
    }
}

pub(crate) fn target(path: &str) -> Result<Target, Problem> {
    path.parse::<Target>()
        .map_err(|error| Problem::new(StatusCode::NOT_FOUND, "not-found", error.to_string()))
}

fn resource_target(path: &str) -> Result<Fqn, Problem> {
    match target(path)? {
        Target::Resource(name) => Ok(name),
        _ => {
            let detail = format!("{path} is not the name of a resource");
            Err(Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method", detail))
        }
    }
}

/// The one document of a body. A name that the path tells may be left out.
fn document(body: &Body, named: Option<&Fqn>) -> Result<Document, Problem> {
    let mut value = document::parse_one(body.format, &body.bytes)?;
    if let (Some(fields), Some(name)) = (value.as_object_mut(), named) {
        fields.entry("name").or_insert_with(|| json!(name));
    }
    Ok(document::resource(value, "")?)
}

fn if_match(headers: &HeaderMap) -> IfMatch {
    match headers
        .get(header::IF_MATCH)
        .map(|value| value.to_str().unwrap_or_default())
    {
        None => IfMatch::Missing,
        Some("*") => IfMatch::Any,
        Some(etag) => IfMatch::Etag(document::unquoted(etag)),
    }
}
