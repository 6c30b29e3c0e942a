//! The past of a node: read, listed, compared, compiled again, and brought back as a new change.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use tombolo_compiler::name::{ClusterName, Fqn, Kind};
use tombolo_compiler::plan::{self, Plans, SliceChange};

use super::body::Body;
use super::paging::{PageParams, page_size};
use super::resources::{GetParams, WriteParams, page, represent};
use super::target::Collection;
use super::world::World;
use super::{App, changes, dry_run, plans};
use crate::audit::Verb;
use crate::caller::Caller;
use crate::document;
use crate::history::{Entry, Place, differences};
use crate::problem::Problem;
use crate::snapshot::Tree;
use crate::store::Tx;
use crate::store::history::{HistoryFilter, Part};
use crate::wish::{Order, Rollback, Wish, subjects};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RollbackWish {
    revision: u64,
}

/// One moment of the database, and the part of the past that is asked for.
struct Past {
    tx: Tx,
    tree: Tree,
}

pub(crate) async fn get(app: &App, caller: &Caller, name: &Fqn, revision: u64) -> Result<Response, Problem> {
    let lineage: Vec<Fqn> = name.lineage().collect();
    let past = open(app, caller, name, revision, Part::Names(&lineage)).await?;
    match past.tree.get(name) {
        Some(stored) => Ok(represent(&app.writes.snapshot(), Some(stored))),
        None => Err(Problem::not_found(format!("{name} at revision {revision}"))),
    }
}

pub(crate) async fn list(
    app: App,
    caller: Caller,
    collection: Collection,
    params: GetParams,
    revision: u64,
) -> Result<Response, Problem> {
    let around = collection.parent.as_ref().unwrap_or(&app.organization);
    let mut tx = app.store.read_as(&caller.principal).await?;
    check_revision(&app, &mut tx, revision).await?;
    let tree = app.store.tree_at(&mut tx, Part::Around(around), revision).await?;
    let snapshot = app.writes.snapshot();
    let may_read = |name: &Fqn| caller.may_read_past(&snapshot, &tree, name);
    let mut page = page(&snapshot, &tree, &collection, &params, may_read)?;
    page["revision"] = revision.into();
    Ok(Json(page).into_response())
}

pub(crate) async fn history(
    app: &App,
    caller: &Caller,
    name: &Fqn,
    params: &GetParams,
) -> Result<Response, Problem> {
    let page_size = page_size(params.page_size)?;
    let after: Option<Place> = params
        .page_token
        .as_ref()
        .map(|token| token.parse())
        .transpose()
        .map_err(|error| Problem::bad_request(format!("{error}")))?;
    let mut tx = app.store.read_as(&caller.principal).await?;
    let since = readable_since(app, &mut tx, caller, name).await?;
    let filter = HistoryFilter {
        node: name.clone(),
        below: params.below,
        since,
        until: None,
        after,
    };
    // One more tells whether there is another page.
    let mut entries = app
        .store
        .list_history(&mut tx, &filter, page_size as u64 + 1)
        .await?;
    let more = entries.len() > page_size;
    entries.truncate(page_size);
    if entries.is_empty() && filter.after.is_none() {
        return Err(Problem::not_found(name));
    }
    let items: Vec<Value> = entries.iter().map(Entry::to_json).collect();
    let mut page = json!({ "items": items });
    if let Some(last) = entries.last().filter(|_| more) {
        let place = Place {
            revision: last.revision,
            name: last.name.clone(),
        };
        page["nextPageToken"] = place.to_string().into();
    }
    Ok(Json(page).into_response())
}

pub(crate) async fn diff(
    app: App,
    caller: Caller,
    name: Fqn,
    params: GetParams,
) -> Result<Response, Problem> {
    let from = params
        .from
        .ok_or_else(|| Problem::bad_request("from: say from which revision, and to which"))?;
    let mut before = open(&app, &caller, &name, from, Part::Around(&name)).await?;
    let to = match params.to {
        Some(to) => to,
        None => app.store.head(&mut before.tx).await?.version.revision,
    };
    check_revision(&app, &mut before.tx, to).await?;
    let after = app.store.tree_at(&mut before.tx, Part::Around(&name), to).await?;
    let snapshot = app.writes.snapshot();
    if !after.is_empty() && !caller.may_read_past(&snapshot, &after, &name) {
        return Err(Problem::not_found(format!("{name} at revision {to}")));
    }
    let differences = differences(&name, &before.tree, &after);
    let page = params
        .paging()
        .cut(&differences, |difference| difference.name.clone())?;
    let changes: Vec<Value> = page.items.iter().map(|difference| difference.to_json()).collect();
    let answer = json!({"name": name, "from": from, "to": to, "changes": changes});
    Ok(Json(page.told_in(answer)).into_response())
}

/// The routes of each cluster, as they come out of the intent of a revision: of the whole organization, or those that
/// a node has a part in.
pub(crate) async fn compiled(
    app: App,
    caller: Caller,
    name: Fqn,
    revision: u64,
    paging: PageParams,
) -> Result<Response, Problem> {
    let lineage: Vec<Fqn> = name.lineage().collect();
    open(&app, &caller, &name, revision, Part::Names(&lineage)).await?;
    // Routes come of all tenants' resources; what of them is shown is decided below.
    let world = World::at(&app, revision).await?;
    let (plans, findings) = plan::plan(&world.resolved, &world.reports);
    let snapshot = app.writes.snapshot();
    let may_read = |owner: &Fqn| caller.may_read_past(&snapshot, &world.tree, owner);
    let (routes, hidden) = routes(&plans, &name, may_read);
    let clusters: BTreeSet<ClusterName> = routes.iter().map(|route| route.cluster.clone()).collect();
    let page = paging.cut(&routes, |route| (route.cluster.clone(), route.key.clone()))?;
    let mut shown: BTreeMap<&ClusterName, BTreeMap<&str, &Value>> = BTreeMap::new();
    for route in &page.items {
        let cluster = shown.entry(&route.cluster).or_default();
        cluster.insert(&route.key, &route.item);
    }
    let findings: Vec<_> = findings
        .iter()
        .filter(|finding| finding.resource.is_within(&name) && may_read(&finding.resource))
        .collect();
    let answer = json!({
        "name": name,
        "revision": revision,
        "reports": world.sources(&app.organization, may_read, |cluster| clusters.contains(cluster)),
        "routes": shown,
        "routesHidden": hidden,
        "findings": findings,
    });
    Ok(Json(page.told_in(answer)).into_response())
}

pub(crate) async fn roll_back(
    app: &App,
    caller: Caller,
    name: &Fqn,
    body: &Body,
    params: &WriteParams,
) -> Result<Response, Problem> {
    let wish: RollbackWish = serde_json::from_value(document::parse_one(body.format, &body.bytes)?)
        .map_err(|error| Problem::bad_request(format!("{error}; send the revision to roll back to")))?;
    let plan = plans::required(&HeaderMap::new(), params.confirm.as_deref())?;
    let wish = rollback(app, &caller, name, wish.revision).await?;
    if params.dry_run {
        return dry_run::answer(app, &caller, wish, Verb::Change).await;
    }
    let actor = caller.principal.clone();
    let order = Order {
        leave: changes::leave(params.break_glass.clone())?,
        ..app.order(wish, plan)
    };
    let committed = app.writes.write(caller, order).await;
    let committed = committed.map_err(|error| Problem::of_write(error, &actor, Verb::Change))?;
    Ok(committed.into_response())
}

/// What is to be known of the past for a rollback.
pub(crate) async fn rollback(app: &App, caller: &Caller, node: &Fqn, revision: u64) -> Result<Wish, Problem> {
    let read = past_of(app.clone(), caller.clone(), node.clone(), revision);
    Ok(Wish::Rollback(Rollback {
        node: node.clone(),
        revision,
        past: app.computations.run(read).await??,
    }))
}

/// The node and all below, with whom bindings there name.
async fn past_of(app: App, caller: Caller, node: Fqn, revision: u64) -> Result<Tree, Problem> {
    let mut past = open(&app, &caller, &node, revision, Part::Around(&node)).await?;
    let principals: Vec<Fqn> = past
        .tree
        .values()
        .filter(|stored| stored.name().is_within(&node))
        .flat_map(|stored| subjects(&stored.resource))
        .cloned()
        .collect();
    if !principals.is_empty() {
        // Who is bound stands outside of the tenant; only the write looks at it.
        let mut tx = app.store.read_published().await?;
        let part = Part::Names(&principals);
        let principals = app.store.tree_at(&mut tx, part, revision).await?;
        let principals = principals
            .iter()
            .map(|(name, stored)| (name.clone(), stored.clone()));
        past.tree.extend(principals);
    }
    Ok(past.tree)
}

/// The part of a revision that is asked for, when the caller may read `name` there.
async fn open(
    app: &App,
    caller: &Caller,
    name: &Fqn,
    revision: u64,
    part: Part<'_>,
) -> Result<Past, Problem> {
    let snapshot = app.writes.snapshot();
    app.allow_read(&snapshot, caller, name, Verb::Get)?;
    let mut tx = app.store.read_as(&caller.principal).await?;
    check_revision(app, &mut tx, revision).await?;
    let tree = app.store.tree_at(&mut tx, part, revision).await?;
    if !caller.may_read_past(&snapshot, &tree, name) {
        return Err(Problem::not_found(format!("{name} at revision {revision}")));
    }
    Ok(Past { tx, tree })
}

pub(super) async fn check_revision(app: &App, tx: &mut Tx, revision: u64) -> Result<(), Problem> {
    let latest = app.store.head(tx).await?.version.revision;
    if revision > latest {
        let detail = format!("revision {revision} is not written yet; the latest is {latest}");
        return Err(Problem::new(StatusCode::NOT_FOUND, "not-found", detail));
    }
    let since = app.store.history_since(tx).await?;
    if revision < since {
        let detail = format!(
            "revision {revision} is from before there was a history; the first that can be read is {since}"
        );
        return Err(Problem::new(StatusCode::GONE, "gone", detail));
    }
    Ok(())
}

/// The first revision of which the caller may read what bears the name: since the uppermost node on which it has a
/// right exists. Parents exist before and after their children, so that this one is the oldest of those nodes.
async fn readable_since(app: &App, tx: &mut Tx, caller: &Caller, name: &Fqn) -> Result<u64, Problem> {
    let snapshot = app.writes.snapshot();
    app.allow_read(&snapshot, caller, name, Verb::List)?;
    let uppermost = name
        .lineage()
        .filter(|node| caller.may_read(&snapshot, node))
        .filter_map(|node| snapshot.get(&node).cloned())
        .last();
    let stored = uppermost.ok_or_else(|| Problem::not_found(name))?;
    let first = app.store.first_revision(tx, stored.name(), stored.uid).await?;
    first.ok_or_else(|| Problem::not_found(name))
}

/// A route as it is shown.
struct Shown {
    cluster: ClusterName,
    key: String,
    item: Value,
}

/// The routes in which the node has a part, by cluster and name, and how many of them the caller may not read.
fn routes(plans: &Plans, node: &Fqn, may_read: impl Fn(&Fqn) -> bool) -> (Vec<Shown>, usize) {
    let mut routes = Vec::new();
    let mut hidden = 0;
    for (cluster, slice) in plans {
        for (key, item) in &slice.items {
            let change = SliceChange {
                key: key.clone(),
                before: None,
                after: Some(item.clone()),
            };
            let owners = dry_run::owners(&change);
            if node.kind() != Kind::Organization && !owners.iter().any(|owner| owner.is_within(node)) {
                continue;
            }
            if owners.into_iter().all(&may_read) {
                routes.push(Shown {
                    cluster: cluster.clone(),
                    key: key.to_string(),
                    item: json!(item),
                });
            } else {
                hidden += 1;
            }
        }
    }
    routes.sort_by(|a, b| (&a.cluster, &a.key).cmp(&(&b.cluster, &b.key)));
    (routes, hidden)
}
