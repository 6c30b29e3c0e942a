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
use super::caller::Bearer;
use super::paging::{PAGE_SIZE_MAX, PageParams, page_size};
use super::target::{Collection, PastQuestion, Target};
use super::{
    App, Params, access, changes, claim_offers, dry_run, effective, past, plans, readiness, status, watching,
};
use crate::audit::Verb;
use crate::caller::Caller;
use crate::change::{Change, ChangeVerb, IfMatch};
use crate::document::{self, Document};
use crate::iam::Action;
use crate::problem::Problem;
use crate::reply::Reply;
use crate::snapshot::{Snapshot, Stored, Tree};
use crate::store::resource::Window;
use crate::unenforced;
use crate::wish::Order;

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
    /// Of a collection: what changes from now on, or since `revision`.
    #[serde(default)]
    watch: bool,
}

impl GetParams {
    pub(crate) fn paging(&self) -> PageParams {
        PageParams {
            page_size: self.page_size,
            page_token: self.page_token.clone(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TransferWish {
    owner: Fqn,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WriteParams {
    #[serde(default)]
    pub(crate) dry_run: bool,
    /// Security that no plane enforces yet is kept.
    #[serde(default, rename = "allowUnenforced")]
    pub(crate) allow_unenforced: bool,
    /// The plan of a write that was asked to be confirmed.
    pub(crate) confirm: Option<String>,
    /// Why the write goes past approval policies. For administrators of the organization, and on record.
    #[serde(rename = "breakGlass")]
    pub(crate) break_glass: Option<String>,
}

pub(crate) async fn get_or_list(
    State(app): State<App>,
    bearer: Bearer,
    Path(path): Path<String>,
    Params(params): Params<GetParams>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    // The present is read in the statement that looks up the token; all else asks who calls first. Only what most requests
    // are has its place in the future of each: that is copied several times.
    match target(&path)? {
        Target::Resource(name) if params.revision.is_none() => get(&app, bearer, &name).await,
        Target::Collection(collection) if params.revision.is_none() && !params.watch => {
            Box::pin(list(&app, bearer, &collection, &params)).await
        }
        target => Box::pin(ask(&app, bearer, &path, target, params, &headers)).await,
    }
}

/// Of the past, of what comes, and what is known about a name.
async fn ask(
    app: &App,
    bearer: Bearer,
    path: &str,
    target: Target,
    params: GetParams,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let caller = app.identify(bearer).await?;
    let latest = || app.writes.snapshot().version.revision;
    let revision = params.revision.unwrap_or_else(latest);
    match target {
        Target::Collection(collection) if params.watch => {
            watching::watch(app, caller, collection, &params, headers).await
        }
        Target::Resource(name) => past::get(app, &caller, &name, revision).await,
        Target::Status(name) => status::status(app, &caller, &name),
        Target::Receipt(name) => status::receipt(app, caller, &name, &params).await,
        Target::Tree(name) => tree(app, &caller, &name, &params),
        Target::Effective(name) => effective::effective(app, &caller, &name, &params),
        Target::Access(name) => access::access(app, &caller, &name, &params.paging()),
        Target::Offers(name) => claim_offers::get(app, &caller, &name, &params.paging()),
        Target::Past(PastQuestion::History, name) => past::history(app, &caller, &name, &params).await,
        Target::Collection(collection) => {
            let listed = past::list(app.clone(), caller, collection, params, revision);
            app.computations.run(listed).await?
        }
        Target::Readiness(name) => {
            let planned = readiness::get(app.clone(), caller, name, params.paging());
            app.computations.run(planned).await?
        }
        Target::Past(PastQuestion::Diff, name) => {
            let compared = past::diff(app.clone(), caller, name, params);
            app.computations.run(compared).await?
        }
        Target::Past(PastQuestion::Compiled, name) => {
            let compiled = past::compiled(app.clone(), caller, name, revision, params.paging());
            app.computations.run(compiled).await?
        }
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
        Target::Transfer(name) => return transfer(&app, caller, name, &body, &params).await,
        Target::Past(PastQuestion::Rollback, name) => {
            return past::roll_back(&app, caller, &name, &body, &params).await;
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
    write(&app, caller, change, Verb::Create, &params, Reply::Created(name)).await
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
    write(&app, caller, change, Verb::Update, &params, Reply::Updated(name)).await
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
    write(&app, caller, change, Verb::Delete, &params, Reply::Deleted(name)).await
}

/// Gives the resource another owner.
async fn transfer(
    app: &App,
    caller: Caller,
    name: Fqn,
    body: &Body,
    params: &WriteParams,
) -> Result<Response, Problem> {
    let TransferWish { owner } = body.parse()?;
    let change = Change {
        name: name.clone(),
        verb: ChangeVerb::Transfer(owner),
        uid: None,
    };
    write(app, caller, change, Verb::Transfer, params, Reply::Updated(name)).await
}

/// Makes a restored database the truth again: all that was written before it was restored, and is not in it, is
/// given up, and everything is published under a new epoch.
async fn adopt(app: &App, caller: Caller, name: &Fqn) -> Result<Response, Problem> {
    app.allow(&app.writes.snapshot(), &caller, Action::Adopt, name, Verb::Adopt)?;
    let actor = caller.principal.clone();
    let adopted = app.writes.adopt(caller, name.clone()).await;
    let adopted = adopted.map_err(|error| Problem::of_write(error, &actor, Verb::Adopt))?;
    Ok(adopted.into_response())
}

async fn write(
    app: &App,
    caller: Caller,
    change: Change,
    verb: Verb,
    params: &WriteParams,
    reply: Reply,
) -> Result<Response, Problem> {
    if !params.allow_unenforced {
        unenforced::check(std::slice::from_ref(&change))?;
    }
    if params.dry_run {
        return dry_run::answer(app, &caller, vec![change].into(), verb).await;
    }
    let actor = caller.principal.clone();
    let plan = plans::required(&HeaderMap::new(), params.confirm.as_deref())?;
    let order = Order {
        reply,
        leave: changes::leave(params.break_glass.clone())?,
        ..app.order(vec![change].into(), plan)
    };
    let committed = app.writes.write(caller, order).await;
    let committed = committed.map_err(|error| Problem::of_write(error, &actor, verb))?;
    Ok(committed.into_response())
}

/// From the database, under the caller's own rights, and decided by the first wall all the same.
async fn get(app: &App, bearer: Bearer, name: &Fqn) -> Result<Response, Problem> {
    let found = app.look_up(&bearer, Some(name)).await?;
    let (holder, stored) = found.map(|found| (found.holder, found.resource)).unzip();
    let caller = app.caller(bearer, holder).await?;
    let mut snapshot = app.writes.snapshot();
    app.allow_read(&snapshot, &caller, name, Verb::Get)?;
    let stored = stored.flatten().ok_or_else(|| Problem::not_found(name))?;
    // Which fields are managed stands in memory, which another replica's write may not have reached yet.
    let is_known = |snapshot: &Snapshot| snapshot.get(name).is_some_and(|held| held.etag == stored.etag);
    if stored.managed.is_some() && !is_known(&snapshot) {
        app.writes.reach(caller.seen).await;
        snapshot = app.writes.snapshot();
    }
    Ok(represent(&snapshot, Some(&stored)))
}

/// What the caller may not read is left out, so that a list is empty where nothing is and where nothing may be seen.
async fn list(
    app: &App,
    bearer: Bearer,
    collection: &Collection,
    params: &GetParams,
) -> Result<Response, Problem> {
    let page_size = page_size(params.page_size)?;
    let sha256 = bearer.sha256();
    let mut window = Window {
        collection: collection.path(),
        after: start(collection, params)?,
        // One more tells whether there is another page.
        limit: page_size + 1,
    };
    let (holder, part) = app.store.list_by_token(sha256, &window).await?.unzip();
    let caller = app.caller(bearer, holder).await?;
    let mut part = part.unwrap_or_default();
    // The list holds at least what there was at the revision of its first part.
    let revision = part.revision;
    let mut readable: Vec<Stored> = Vec::new();
    loop {
        let ended = part.resources.len() < window.limit;
        if let Some(last) = part.resources.last() {
            window.after = last.name().to_string();
        }
        let snapshot = app.writes.snapshot();
        let shown = part.resources.into_iter();
        readable.extend(shown.filter(|stored| caller.may_read(&snapshot, stored.name())));
        if ended || readable.len() > page_size {
            break;
        }
        // Some of what the second wall shows, the first one holds back: there may be more to fill the page with.
        window.limit = PAGE_SIZE_MAX;
        let shown = app.store.list_by_token(sha256, &window).await?;
        part = shown.map(|(_, part)| part).unwrap_or_default();
    }
    let mut page = page_of(&app.writes.snapshot(), readable.iter(), page_size);
    page["revision"] = revision.into();
    Ok(Json(page).into_response())
}

/// Of a collection in a tree, what the caller may read. The snapshot knows the names of owners.
pub(crate) fn page(
    snapshot: &Snapshot,
    tree: &Tree,
    collection: &Collection,
    params: &GetParams,
    may_read: impl Fn(&Fqn) -> bool,
) -> Result<Value, Problem> {
    let (prefix, start) = (format!("{}/", collection.path()), start(collection, params)?);
    let behind = (Bound::Excluded(start.as_str()), Bound::Unbounded);
    let readable = tree
        .range::<str, _>(behind)
        .take_while(|(name, _)| name.as_str().starts_with(&prefix))
        .filter(|(name, _)| collection.holds(name) && may_read(name))
        .map(|(_, stored)| stored.as_ref());
    Ok(page_of(snapshot, readable, page_size(params.page_size)?))
}

/// The first of them, and where the next page begins when there are more.
fn page_of<'a>(snapshot: &Snapshot, readable: impl Iterator<Item = &'a Stored>, page_size: usize) -> Value {
    let mut readable = readable.peekable();
    let shown: Vec<&Stored> = readable.by_ref().take(page_size).collect();
    let items: Vec<Value> = shown.iter().map(|stored| snapshot.to_json(stored)).collect();
    let mut page = json!({ "items": items });
    if let (Some(last), Some(_)) = (shown.last(), readable.peek()) {
        page["nextPageToken"] = last.name().leaf().into();
    }
    page
}

/// Only names behind this one are on the page.
fn start(collection: &Collection, params: &GetParams) -> Result<String, Problem> {
    let path = collection.path();
    let Some(token) = &params.page_token else {
        return Ok(format!("{path}/"));
    };
    let leaf: Label = token
        .parse()
        .map_err(|_| Problem::bad_request(format!("pageToken {token:?} is not from this list")))?;
    Ok(format!("{path}/{leaf}"))
}

/// A node and all that stands below it, in the order of the names. As with lists, what the caller may not read is left out;
/// who may not read the node itself is told what they would be told if it did not exist.
fn tree(app: &App, caller: &Caller, node: &Fqn, params: &GetParams) -> Result<Response, Problem> {
    let page_size = page_size(params.page_size)?;
    let snapshot = app.writes.snapshot();
    app.allow_read(&snapshot, caller, node, Verb::List)?;
    snapshot.get(node).ok_or_else(|| Problem::not_found(node))?;
    let after: Option<Fqn> = params.page_token.as_deref().map(str::parse).transpose()?;
    let start = match &after {
        None => Bound::Included(node),
        Some(after) => Bound::Excluded(after),
    };
    let mut readable = snapshot
        .tree
        .range::<Fqn, _>((start, Bound::Unbounded))
        .take_while(|(name, _)| name.as_str().starts_with(node.as_str()))
        // A longer leaf sorts between a node and what stands below it.
        .filter(|(name, _)| name.is_within(node) && caller.may_read(&snapshot, name));
    let items: Vec<Value> = readable
        .by_ref()
        .take(page_size)
        .map(|(_, stored)| snapshot.to_json(stored))
        .collect();
    let last = items.last().map(|item| item["name"].clone());
    let mut page = json!({"items": items, "revision": snapshot.version.revision});
    if let Some(last) = last.filter(|_| readable.next().is_some()) {
        page["nextPageToken"] = last;
    }
    Ok(Json(page).into_response())
}

pub(crate) fn represent(snapshot: &Snapshot, stored: Option<&Stored>) -> Response {
    match stored {
        Some(stored) => {
            let etag = format!("\"{}\"", stored.etag);
            let headers = [
                (header::CONTENT_TYPE, "application/json"),
                (header::ETAG, etag.as_str()),
            ];
            (headers, snapshot.to_text(stored)).into_response()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_future_of_a_read_has_no_place_for_what_is_rare() {
        fn size<A, B, C, D, E, F>(_: impl FnOnce(A, B, C, D, E) -> F) -> usize {
            size_of::<F>()
        }
        let size = size(get_or_list);
        assert!(size <= 4096, "{size} bytes are copied for each request");
    }
}
