//! What a write would do: to the resources, and to the routes of each cluster.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tombolo_compiler::name::{ClusterName, Fqn};
use tombolo_compiler::plan::SliceChange;
use tombolo_compiler::report::Reports;
use tombolo_compiler::routes::{SliceItem, SliceKey};

use super::touched::{self, Asking};
use super::{App, behaviour};
use crate::audit::Verb;
use crate::caller::Caller;
use crate::change::{Prepared, Step};
use crate::change_plan::ChangePlan;
use crate::mesh::Mesh;
use crate::problem::Problem;
use crate::wish::Wish;

pub(crate) async fn answer(app: &App, caller: &Caller, wish: Wish, verb: Verb) -> Result<Response, Problem> {
    let (_, mut described) = plan(app, caller, wish, verb).await?;
    described["dryRun"] = true.into();
    Ok(Json(described).into_response())
}

/// What a wish comes to, and how the caller is told of it.
pub(crate) async fn plan(
    app: &App,
    caller: &Caller,
    wish: Wish,
    verb: Verb,
) -> Result<(Prepared, Value), Problem> {
    let (planning, caller) = (app.clone(), caller.clone());
    let planned = async move {
        let prepared = planning.writes.dry_run(&caller, &wish).await;
        let prepared = prepared.map_err(|error| Problem::of_write(error, &caller.principal, verb))?;
        let mesh = planning.mesh.borrow().clone();
        let (described, asking) = describe(&caller, &prepared, &mesh);
        Ok::<_, Problem>((prepared, described, asking))
    };
    let (prepared, mut described, asking) = app.computations.run(planned).await??;
    // Not in its turn: edges that are slow hold up no computation.
    touched::name(&app.questions, asking, &mut described["behaviour"]["proxies"]).await;
    Ok((prepared, described))
}

/// The plan of a change, and what the edges have yet to tell of it. What the caller may not read of it is counted and not
/// shown.
fn describe(caller: &Caller, prepared: &Prepared, mesh: &Mesh) -> (Value, Asking) {
    let base = &prepared.base;
    let reports = Reports {
        joined: base.joined_clusters(),
        clusters: mesh.clusters.clone(),
        ..Reports::default()
    };
    let plan = ChangePlan::of(prepared, &reports);
    let may_read = |name: &Fqn| caller.may_read(base, name);
    let (readable, hidden) = readable(&plan.routes, may_read);
    let clusters: BTreeSet<&ClusterName> = readable.keys().copied().collect();
    let there = base.clusters();
    let may_know = |cluster: &ClusterName| there.get(cluster).is_some_and(|(held, _)| may_read(held.name()));
    // Of the others, the names of the proxies that they touch would tell.
    let asking = touched::questions(&readable, mesh, may_know);
    let mut behaviour = behaviour::tell(&plan.behaviour, mesh, &clusters, may_read);
    for (cluster, hidden) in hidden
        .iter()
        .filter(|(cluster, _)| asking.contains_key(**cluster))
    {
        behaviour["proxies"][cluster.as_str()]["routesHidden"] = (*hidden).into();
    }
    let routes: BTreeMap<_, Vec<Value>> = readable
        .into_iter()
        .map(|(cluster, changes)| (cluster, changes.into_iter().map(route).collect()))
        .collect();
    let changes: Vec<Value> = prepared.steps.iter().map(change).collect();
    let (handed, handed_hidden): (Vec<&Step>, Vec<&Step>) =
        prepared.handed.iter().partition(|step| may_read(step.name()));
    let handed: Vec<Value> = handed.into_iter().map(change).collect();
    let described = json!({
        "plan": plan.id.to_string(),
        "revision": base.version.revision,
        "changes": changes,
        "handedOver": handed,
        "handedOverHidden": handed_hidden.len(),
        "routes": routes,
        "routesHidden": hidden.values().sum::<usize>(),
        "behaviour": behaviour,
        "findings": plan.findings,
    });
    (described, asking)
}

/// By cluster, what the caller may read of the routes that change, and how many others change.
fn readable<'a>(
    clusters: impl IntoIterator<Item = (&'a ClusterName, &'a Vec<SliceChange>)>,
    may_read: impl Fn(&Fqn) -> bool,
) -> (
    BTreeMap<&'a ClusterName, Vec<&'a SliceChange>>,
    BTreeMap<&'a ClusterName, usize>,
) {
    let mut routes: BTreeMap<_, Vec<_>> = BTreeMap::new();
    let mut hidden: BTreeMap<_, usize> = BTreeMap::new();
    for (cluster, changes) in clusters {
        for change in changes {
            if owners(change).into_iter().all(&may_read) {
                routes.entry(cluster).or_default().push(change);
            } else {
                *hidden.entry(cluster).or_default() += 1;
            }
        }
    }
    (routes, hidden)
}

fn change(step: &Step) -> Value {
    let (before, after) = match step {
        Step::Create(resource) => (None, Some(resource.to_json())),
        Step::Update(stored, resource) => (Some(stored.resource.to_json()), Some(resource.to_json())),
        Step::Delete(stored) => (Some(stored.resource.to_json()), None),
        Step::Transfer(..) | Step::Keep(_) => (None, None),
    };
    let mut told = json!({"name": step.name(), "action": step.action()});
    if let Some(before) = before {
        told["before"] = before;
    }
    if let Some(after) = after {
        told["after"] = after;
    }
    told
}

/// The resources whose owners a change of a route tells of.
pub(crate) fn owners(change: &SliceChange) -> BTreeSet<&Fqn> {
    let key = match &change.key {
        SliceKey::Service(_, workspace) => Some(workspace),
        SliceKey::Gateway(gateway) => Some(gateway),
        SliceKey::Namespace(_) | SliceKey::Cluster => None,
    };
    let items = [&change.before, &change.after].into_iter().flatten();
    key.into_iter().chain(items.flat_map(item_owners)).collect()
}

fn item_owners(item: &SliceItem) -> Vec<&Fqn> {
    let (workspace, origin, rules): (_, _, Vec<_>) = match item {
        SliceItem::Namespace(item) => (Some(&item.value.workspace), &item.origin, Vec::new()),
        SliceItem::Cluster(item) => (None, &item.origin, Vec::new()),
        SliceItem::Service(item) => (
            Some(&item.value.workspace),
            &item.origin,
            item.value.rules.iter().map(|rule| &rule.origin).collect(),
        ),
        SliceItem::Gateway(item) => (
            Some(&item.value.workspace),
            &item.origin,
            item.value.rules().iter().map(|rule| &rule.origin).collect(),
        ),
    };
    let origins = rules.into_iter().chain([origin]).flatten();
    let origins = origins.flat_map(|origin| origin.lost.iter().chain([&origin.resource]));
    workspace.into_iter().chain(origins).collect()
}

fn route(change: &SliceChange) -> Value {
    let action = match (&change.before, &change.after) {
        (None, _) => "create",
        (Some(_), None) => "delete",
        (Some(_), Some(_)) => "update",
    };
    json!({"route": change.key.to_string(), "action": action, "before": change.before, "after": change.after})
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tombolo_compiler::finding::{Origin, Traced};
    use tombolo_compiler::routes::NamespaceOwner;

    use super::*;

    fn namespace(workspace: &str) -> SliceItem {
        let workspace: Fqn = workspace.parse().unwrap();
        let origin = Origin::new(workspace.clone(), "spec.namespaces[0]");
        SliceItem::Namespace(Traced::new(NamespaceOwner { workspace }, origin))
    }

    #[test]
    fn routes_of_others_are_counted_and_not_shown() {
        let mine = "organizations/acme/tenants/media/workspaces/video";
        let other = "organizations/acme/tenants/pay/workspaces/shop";
        let change = |before: Option<&str>, after: Option<&str>| SliceChange {
            key: SliceKey::Namespace("x".parse().unwrap()),
            before: before.map(namespace),
            after: after.map(namespace),
        };
        let gateway = SliceChange {
            key: format!("gateways/{other}/gatewaygroups/g/gateways/in")
                .parse()
                .unwrap(),
            before: None,
            after: None,
        };
        let changes = vec![
            change(None, Some(mine)),
            change(Some(other), Some(mine)),
            change(Some(other), None),
            gateway,
        ];
        let clusters: BTreeMap<ClusterName, _> = [("us-east".parse().unwrap(), changes)].into();
        let (routes, hidden) = readable(&clusters, |name| name.as_str().starts_with(mine));
        assert_eq!(hidden.into_values().collect::<Vec<_>>(), [3]);
        let shown: Vec<Value> = routes.values().flatten().map(|change| route(change)).collect();
        let shown = serde_json::to_string(&shown).unwrap();
        assert!(shown.contains(mine) && !shown.contains(other), "{shown}");
    }
}
