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

use inputs::Inputs;
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

/// The clusters to which a resource matters: those whose proxies must have it before it is running.
pub fn concerned(resolved: &Resolved, resource: &Fqn) -> BTreeSet<ClusterName> {
    match resource.kind() {
        // Identities never leave management.
        Kind::User | Kind::Binding => BTreeSet::new(),
        Kind::Cluster => resolved
            .clusters
            .keys()
            .filter(|cluster| cluster.as_str() == resource.leaf())
            .cloned()
            .collect(),
        _ => resolved
            .workspaces
            .keys()
            .filter(|workspace| workspace.is_within(resource) || resource.is_within(workspace))
            .flat_map(|workspace| resolved.clusters_of(workspace))
            .cloned()
            .collect(),
    }
}

/// What differs between two plans, by cluster; clusters without a difference are left out.
pub fn diff(before: &Plans, after: &Plans) -> BTreeMap<ClusterName, Vec<SliceChange>> {
    let nothing = BTreeMap::new();
    let clusters: BTreeSet<&ClusterName> = before.keys().chain(after.keys()).collect();
    clusters
        .into_iter()
        .filter_map(|cluster| {
            let items = |plans: &'_ Plans| plans.get(cluster).map(|slice| slice.items.clone());
            let before = items(before).unwrap_or_else(|| nothing.clone());
            let after = items(after).unwrap_or_else(|| nothing.clone());
            let keys: BTreeSet<&SliceKey> = before.keys().chain(after.keys()).collect();
            let changes: Vec<SliceChange> = keys
                .into_iter()
                .filter(|key| before.get(*key) != after.get(*key))
                .map(|key| SliceChange {
                    key: key.clone(),
                    before: before.get(key).cloned(),
                    after: after.get(key).cloned(),
                })
                .collect();
            (!changes.is_empty()).then(|| (cluster.clone(), changes))
        })
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
