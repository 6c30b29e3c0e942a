//! `GET /v1/<collection>?watch=true&revision=N`: what changes in a collection, as server-sent events.
//!
//! A batch of `put` and `delete` events ends with `synced`, which alone has an id: the revision up to which everything
//! was told. Whoever comes back with it, as `revision` or `Last-Event-ID`, misses nothing. Of a resource that has
//! changed several times only the latest state is told.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tombolo_compiler::name::{Fqn, Kind};

use super::App;
use super::resources::GetParams;
use super::target::Collection;
use crate::caller::Caller;
use crate::problem::Problem;
use crate::snapshot::{Snapshot, Stored, below};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// So that proxies in between do not take a quiet collection for a dead connection.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// What a caller sees of a collection.
type View = BTreeMap<Fqn, Arc<Stored>>;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Change {
    /// Forget everything: what follows is all there is.
    Reset,
    Put(Arc<Stored>),
    /// It is gone, or is not the caller's to see any more.
    Delete(Fqn),
}

pub(crate) async fn watch(
    app: &App,
    mut caller: Caller,
    collection: Collection,
    params: &GetParams,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let since = since(params, headers)?;
    let mut snapshots = app.writes.watch();
    let mut snapshot = snapshots.borrow_and_update().clone();
    if since.is_some_and(|since| since > snapshot.version.revision) {
        // Another replica may have drawn it.
        snapshot = app.writes.catch_up().await?;
    }
    if caller.seen != snapshot.version {
        // Of another moment than what is shown.
        caller.opened = app.store.opened(&caller.principal).await?;
    }
    let mut seen = view(&snapshot, &caller, &collection);
    let first = match since {
        // Nothing is older than the first revision: of what is gone, nothing was told.
        None | Some(0) => all(&seen),
        Some(since) if since > snapshot.version.revision => {
            let drawn = snapshot.version.revision;
            let detail =
                format!("revision {since} is not drawn yet, the latest is {drawn}; watch from the beginning");
            return Err(Problem::bad_request(detail));
        }
        Some(since) => {
            // Of all tenants: a right that is gone may have stood where its holder sees nothing any more.
            let mut tx = app.store.read_published().await?;
            let gone = app.store.tombstones_since(&mut tx, since).await?;
            let gone: Vec<Fqn> = gone
                .into_iter()
                .filter(|name| caller.may_read(&snapshot, name))
                .collect();
            missed(&seen, &snapshot, &collection, &gone, since)
        }
    };
    let mut ending = app.shutdown.clone();
    let mut stay = app.standing.stay(&caller);
    let app = app.clone();
    let stream = async_stream::stream! {
        let mut batch = events(&first, &snapshot);
        loop {
            for event in batch.drain(..) {
                yield Ok::<Event, Infallible>(event);
            }
            let changed = tokio::select! {
                changed = snapshots.changed() => changed.is_ok(),
                () = stay.wait() => false,
                () = ending.wait() => false,
            };
            if !changed {
                return;
            }
            let latest = snapshots.borrow_and_update().clone();
            // Who cannot be told of it begins again.
            if app.renew(&mut caller, &snapshot, &latest).await.is_err() {
                return;
            }
            snapshot = latest.clone();
            let now = view(&latest, &caller, &collection);
            let changes = between(&seen, &now);
            if !changes.is_empty() {
                batch = events(&changes, &latest);
            }
            seen = now;
        }
    };
    let mut response = Sse::new(stream)
        .keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
        .into_response();
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// The revision up to which the caller knows everything. A browser that reconnects tells it in the header, which is
/// then later than the one in the address.
fn since(params: &GetParams, headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    match headers
        .get(LAST_EVENT_ID)
        .map(|id| id.to_str().unwrap_or_default())
    {
        None => Ok(params.revision),
        Some(id) => id
            .parse()
            .map(Some)
            .map_err(|_| Problem::bad_request(format!("Last-Event-ID {id:?} is not a revision"))),
    }
}

fn view(snapshot: &Snapshot, caller: &Caller, collection: &Collection) -> View {
    below(&snapshot.tree, &collection.path())
        .filter(|stored| collection.holds(stored.name()) && caller.may_read(snapshot, stored.name()))
        .map(|stored| (stored.name().clone(), stored.clone()))
        .collect()
}

fn all(view: &View) -> Vec<Change> {
    let puts = view.values().cloned().map(Change::Put);
    std::iter::once(Change::Reset).chain(puts).collect()
}

/// What has happened since a revision. When rights may have changed since, everything is told again: what one may read
/// only now can be as old as it likes.
fn missed(
    seen: &View,
    snapshot: &Snapshot,
    collection: &Collection,
    gone: &[Fqn],
    since: u64,
) -> Vec<Change> {
    let rights = |kind: Kind| !kind.is_published() && kind != Kind::Quota;
    let changed = snapshot.tree.values().filter(|stored| stored.revision > since);
    let mut touched = changed
        .map(|stored| stored.name().kind())
        .chain(gone.iter().map(Fqn::kind));
    // Whoever owns a node above may read what is below.
    let mut above = collection.parent.iter().flat_map(Fqn::lineage);
    let given = above.any(|node| snapshot.get(&node).is_some_and(|stored| stored.revision > since));
    if given || touched.any(rights) {
        return all(seen);
    }
    let deletes: BTreeSet<&Fqn> = gone
        .iter()
        .filter(|name| collection.holds(name) && !snapshot.tree.contains_key(*name))
        .collect();
    let puts = seen.values().filter(|stored| stored.revision > since);
    let puts = puts.cloned().map(Change::Put);
    deletes
        .into_iter()
        .cloned()
        .map(Change::Delete)
        .chain(puts)
        .collect()
}

/// What turns one view into the other.
fn between(before: &View, after: &View) -> Vec<Change> {
    let gone = before.keys().filter(|name| !after.contains_key(*name));
    let changed = after
        .iter()
        .filter(|(name, stored)| before.get(*name).is_none_or(|held| held.etag != stored.etag));
    gone.cloned()
        .map(Change::Delete)
        .chain(changed.map(|(_, stored)| Change::Put(stored.clone())))
        .collect()
}

fn events(changes: &[Change], snapshot: &Snapshot) -> Vec<Event> {
    let revision = snapshot.version.revision;
    let told = changes.iter().map(|change| match change {
        Change::Reset => event("reset", &json!({})),
        Change::Put(stored) => event("put", &snapshot.to_json(stored)),
        Change::Delete(name) => event("delete", &json!({ "name": name })),
    });
    let synced = event("synced", &json!({ "revision": revision })).id(revision.to_string());
    told.chain([synced]).collect()
}

fn event(name: &str, data: &Value) -> Event {
    Event::default().event(name).data(data.to_string())
}
