//! Second pass: who owns what, joined with what clusters report, made into one slice of routes per cluster.
//!
//! The pass is a function of a key; `plan` is that function over all keys, `Planner` over those that a change touches.

use std::collections::{BTreeMap, BTreeSet};

use crate::finding::{Finding, Traced};
use crate::name::{ClusterName, Fqn, Kind};
use crate::report::Reports;
use crate::resolve::Resolved;
use crate::routes::{Locality, NamespaceOwner, Slice, SliceItem, SliceKey};

mod gateway;
mod inputs;
mod key;
mod planner;
pub(crate) mod port;
mod remote;
mod service;
mod share;

pub(crate) use inputs::Inputs;
pub use key::PlanKey;
pub use planner::{Changed, Planner};

/// One slice for every cluster of the intent.
pub type Plans = BTreeMap<ClusterName, Slice>;

/// What became of one key: at most one item per cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Planned {
    items: BTreeMap<ClusterName, SliceItem>,
    findings: Vec<Finding>,
}

/// What a change would do to one item of one cluster's slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceChange {
    pub key: SliceKey,
    pub before: Option<SliceItem>,
    pub after: Option<SliceItem>,
}

pub fn plan(resolved: &Resolved, reports: &Reports) -> (Plans, Vec<Finding>) {
    let inputs = Inputs::new(resolved, reports);
    let mut plans: Plans = resolved
        .clusters
        .keys()
        .map(|cluster| {
            let slice = Slice {
                items: BTreeMap::new(),
                complete: inputs.is_complete(cluster),
            };
            (cluster.clone(), slice)
        })
        .collect();
    let mut findings = BTreeSet::new();
    for key in key::all(&inputs) {
        let planned = plan_key(&key, &inputs);
        for (cluster, item) in planned.items {
            plans
                .entry(cluster)
                .or_default()
                .items
                .insert(key.slice_key(), item);
        }
        findings.extend(planned.findings);
    }
    (plans, findings.into_iter().collect())
}

/// What one key puts into the slices of the clusters.
pub(crate) fn planned(key: &PlanKey, inputs: &Inputs<'_>) -> BTreeMap<ClusterName, SliceItem> {
    plan_key(key, inputs).items
}

/// The part of one cluster's slice that these keys make.
pub(crate) fn part<'a>(
    cluster: &ClusterName,
    keys: impl IntoIterator<Item = &'a PlanKey>,
    inputs: &Inputs<'_>,
) -> Slice {
    let items = keys.into_iter().filter_map(|key| {
        let item = plan_key(key, inputs).items.remove(cluster)?;
        Some((key.slice_key(), item))
    });
    Slice {
        items: items.collect(),
        complete: false,
    }
}

/// The clusters to which a resource matters: those whose proxies must have it before it is running.
pub fn concerned(resolved: &Resolved, resource: &Fqn) -> BTreeSet<ClusterName> {
    match resource.kind() {
        kind if !kind.is_published() => BTreeSet::new(),
        Kind::Api => resolved
            .gateways
            .get(resource)
            .into_iter()
            .flat_map(|gateway| resolved.clusters_of(&gateway.value.workspace))
            .cloned()
            .collect(),
        Kind::ReferenceGrant => {
            let loans = resolved.loans.iter();
            let borrowers = loans.filter(|(_, loans)| loans.value.grants().contains(resource));
            let borrowers = borrowers.filter_map(|(name, _)| resolved.gateways.get(name));
            let lender = resource.parent();
            let workspaces = borrowers.map(|gateway| &gateway.value.workspace).chain(&lender);
            workspaces
                .flat_map(|workspace| resolved.clusters_of(workspace))
                .cloned()
                .collect()
        }
        Kind::Application => {
            let apis = resolved
                .gateways
                .iter()
                .filter(|(name, _)| name.is_within(resource));
            apis.flat_map(|(_, gateway)| resolved.clusters_of(&gateway.value.workspace))
                .cloned()
                .collect()
        }
        Kind::Cluster => resolved
            .clusters
            .keys()
            .filter(|cluster| cluster.as_str() == resource.leaf())
            .cloned()
            .collect(),
        _ => {
            let attached = resource.parent().filter(|_| resource.kind().is_attached());
            let node = attached.as_ref().unwrap_or(resource);
            let workspaces = resolved.workspaces.keys();
            workspaces
                .filter(|workspace| workspace.is_within(node) || node.is_within(workspace))
                .flat_map(|workspace| resolved.clusters_of(workspace))
                .cloned()
                .collect()
        }
    }
}

/// The clusters that a change of `resource` matters to for what it was before: they have something to withdraw, or an
/// order to change. They too must have taken the change before it is running.
pub fn left(before: &Resolved, after: &Resolved, resource: &Fqn) -> BTreeSet<ClusterName> {
    if resource.kind() == Kind::Cluster {
        let place = |resolved: &Resolved| {
            let found = resolved
                .clusters
                .iter()
                .find(|(name, _)| name.as_str() == resource.leaf());
            found.map(|(_, cluster)| cluster.value.clone())
        };
        // Every other cluster's failover goes by where this one is.
        let moved = place(before).is_some_and(|was| place(after).as_ref() != Some(&was));
        return after.clusters.keys().filter(|_| moved).cloned().collect();
    }
    let now = concerned(after, resource);
    concerned(before, resource).difference(&now).cloned().collect()
}

/// What differs between two plans, by cluster; clusters without a difference are left out.
pub fn diff(before: &Plans, after: &Plans) -> BTreeMap<ClusterName, Vec<SliceChange>> {
    let clusters: BTreeSet<&ClusterName> = before.keys().chain(after.keys()).collect();
    clusters
        .into_iter()
        .map(|cluster| (cluster.clone(), changes(before.get(cluster), after.get(cluster))))
        .filter(|(_, changes)| !changes.is_empty())
        .collect()
}

fn changes(before: Option<&Slice>, after: Option<&Slice>) -> Vec<SliceChange> {
    let keys: BTreeSet<&SliceKey> = [before, after]
        .into_iter()
        .flatten()
        .flat_map(|slice| slice.items.keys())
        .collect();
    keys.into_iter()
        .map(|key| SliceChange {
            key: key.clone(),
            before: before.and_then(|slice| slice.items.get(key)).cloned(),
            after: after.and_then(|slice| slice.items.get(key)).cloned(),
        })
        .filter(|change| change.before != change.after)
        .collect()
}

fn plan_key(key: &PlanKey, inputs: &Inputs<'_>) -> Planned {
    match key {
        PlanKey::Cluster(cluster) => only(cluster, locality(cluster, inputs)),
        PlanKey::Namespace(cluster, namespace) => {
            let known = inputs.is_known(cluster, namespace);
            let owner = known.then(|| inputs.owner(cluster, namespace)).flatten();
            let owner = owner.map(|(name, workspace)| {
                let owner = NamespaceOwner {
                    workspace: name.clone(),
                };
                let origin = workspace.origin.clone();
                SliceItem::Namespace(Traced { value: owner, origin })
            });
            only(cluster, owner)
        }
        PlanKey::Gateway(name) => gateway::plan(name, inputs),
        PlanKey::Service(workspace, id) => service::plan(workspace, id, inputs),
    }
}

fn locality(cluster: &ClusterName, inputs: &Inputs<'_>) -> Option<SliceItem> {
    let cluster = inputs.resolved.clusters.get(cluster)?;
    let locality = Locality {
        region: cluster.value.region.clone(),
        zone: cluster.value.zone.clone(),
    };
    Some(SliceItem::Cluster(Traced {
        value: locality,
        origin: cluster.origin.clone(),
    }))
}

fn only(cluster: &ClusterName, item: Option<SliceItem>) -> Planned {
    Planned {
        items: item.map(|item| (cluster.clone(), item)).into_iter().collect(),
        findings: Vec::new(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::intent::{Intent, Resource};
    use crate::report::ClusterReport;
    use crate::resolve::resolve;

    const WORKSPACE: &str = "organizations/acme/tenants/a/workspaces/w";

    const APPLICATION: &str = "organizations/acme/tenants/a/applications/app";

    /// A workspace in one of two clusters.
    fn intent(more: &[Value]) -> Intent {
        let documents = [
            json!({"name": "organizations/acme"}),
            json!({"name": "organizations/acme/clusters/east", "spec": {"region": "us"}}),
            json!({"name": "organizations/acme/clusters/west", "spec": {"region": "eu"}}),
            json!({"name": "organizations/acme/users/ana"}),
            json!({"name": "organizations/acme/tenants/a"}),
            json!({"name": "organizations/acme/tenants/b"}),
            json!({"name": WORKSPACE, "spec": {"namespaces": ["east/shop"]}}),
            json!({"name": format!("{WORKSPACE}/trafficgroups/g")}),
        ];
        documents
            .iter()
            .chain(more)
            .map(|document| Resource::from_json(document.clone()).unwrap())
            .map(|resource| (resource.name.clone(), Arc::new(resource)))
            .collect()
    }

    #[test]
    fn a_resource_concerns_the_clusters_that_its_workspaces_name() {
        let (resolved, _) = resolve(&intent(&[]));
        for (resource, expected) in [
            ("organizations/acme", vec!["east"]),
            ("organizations/acme/tenants/a", vec!["east"]),
            ("organizations/acme/tenants/b", vec![]),
            (WORKSPACE, vec!["east"]),
            (
                "organizations/acme/tenants/a/workspaces/w/trafficgroups/g/serviceroutes/r",
                vec!["east"],
            ),
            ("organizations/acme/clusters/west", vec!["west"]),
            ("organizations/acme/clusters/gone", vec![]),
            ("organizations/acme/users/ana", vec![]),
            ("organizations/acme/tenants/a/workspaces/w/bindings/b", vec![]),
        ] {
            let found = concerned(&resolved, &resource.parse().unwrap());
            let found: Vec<&str> = found.iter().map(ClusterName::as_str).collect();
            assert_eq!(found, expected, "{resource}");
        }
    }

    #[test]
    fn whoever_loses_something_is_waited_for() {
        let resolved = |more: &[Value]| resolve(&intent(more)).0;
        let api = |workspace: &str| {
            let application = json!({"name": APPLICATION, "spec": {"workspace": workspace}});
            let openapi = json!({
                "openapi": "3.0.3",
                "info": {"title": "a", "version": "1"},
                "servers": [{"url": "https://a.example.com"}],
                "paths": {"/a": {"get": {"responses": {"200": {"description": "a"}}}}},
            });
            let api = json!({"name": format!("{APPLICATION}/apis/v1"), "spec": {
                "openapi": openapi, "workload": "mesh/gateway", "port": 80,
                "backendRefs": [{"namespace": "shop", "name": "a"}],
            }});
            [application, api]
        };
        let other = "organizations/acme/tenants/a/workspaces/x";
        let west = json!({"name": other, "spec": {"namespaces": ["west/web"]}});
        let with = |api: [Value; 2]| [vec![west.clone()], api.to_vec()].concat();
        for (case, before, after, resource, expected) in [
            ("nothing", vec![], vec![], WORKSPACE, vec![]),
            (
                "a workspace goes elsewhere",
                vec![json!({"name": WORKSPACE, "spec": {"namespaces": ["*/shop"]}})],
                vec![],
                WORKSPACE,
                vec!["west"],
            ),
            (
                "a cluster moves",
                vec![],
                vec![json!({"name": "organizations/acme/clusters/west", "spec": {"region": "us"}})],
                "organizations/acme/clusters/west",
                vec!["east", "west"],
            ),
            (
                "a cluster stays",
                vec![],
                vec![],
                "organizations/acme/clusters/west",
                vec![],
            ),
            (
                "an application goes to another workspace",
                with(api(other)),
                with(api(WORKSPACE)),
                APPLICATION,
                vec!["west"],
            ),
        ] {
            let found = left(&resolved(&before), &resolved(&after), &resource.parse().unwrap());
            let found: Vec<&str> = found.iter().map(ClusterName::as_str).collect();
            assert_eq!(found, expected, "{case}");
        }
    }

    #[test]
    fn a_dry_run_shows_what_moves_and_nothing_else() {
        let report: ClusterReport = serde_json::from_value(json!({"services": {
            "shop/reviews": {"ports": [{"name": "http", "port": 80}], "state": "up"},
            "shop/web": {"ports": [{"name": "http", "port": 80}], "state": "up"},
        }}))
        .unwrap();
        let reports = Reports {
            joined: BTreeSet::new(),
            clusters: [("east".parse().unwrap(), Arc::new(report))].into(),
            ..Reports::default()
        };
        let planned = |intent: &Intent| plan(&resolve(intent).0, &reports).0;
        let before = planned(&intent(&[]));
        let route = json!({"name": format!("{WORKSPACE}/trafficgroups/g/serviceroutes/r"), "spec": {
            "service": "shop/reviews",
            "subsets": [{"name": "v1", "labels": {"version": "1"}}],
            "rules": [{"backendRefs": [{"subset": "v1"}]}],
        }});
        let after = planned(&intent(&[route]));
        let changes = diff(&before, &after);
        let keys: Vec<String> = changes
            .iter()
            .flat_map(|(cluster, changes)| {
                changes
                    .iter()
                    .map(move |change| format!("{cluster} {}", change.key))
            })
            .collect();
        assert_eq!(keys, [format!("east services/shop/reviews/{WORKSPACE}")]);
        assert_eq!(diff(&after, &after), BTreeMap::new());
    }
}
