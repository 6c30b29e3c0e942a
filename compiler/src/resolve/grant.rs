//! Reference grants: under which of them a gateway or an API uses what another workspace owns.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::listed;
use super::resolver::{Part, Resolver, Update};
use super::tree::Tree;
use crate::finding::{Code, Finding};
use crate::intent::{ReferenceGrant, Spec};
use crate::name::{Fqn, Hostname, Kind, WorkloadId};

/// What one resource uses of others, with the grants that allow it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Loans {
    /// Of its workload, by the workspace that owns it in some clusters.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub workload: BTreeMap<Fqn, Fqn>,
    /// Of its hosts.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub hosts: BTreeMap<Hostname, Fqn>,
}

impl Loans {
    pub(super) fn is_empty(&self) -> bool {
        self.workload.is_empty() && self.hosts.is_empty()
    }

    /// The grants, each once.
    pub fn grants(&self) -> BTreeSet<&Fqn> {
        self.workload.values().chain(self.hosts.values()).collect()
    }
}

/// Grants that were written, and those of workspaces that hold other namespaces: whether what they lend is theirs.
pub(super) fn update(update: &mut Update<'_>) {
    let touched = update.touched.of(Kind::ReferenceGrant);
    let mut dirty: BTreeSet<Fqn> = touched.map(|touch| touch.name.clone()).collect();
    for workspace in update.moved.keys() {
        dirty.extend(update.to.tree.children(workspace, Kind::ReferenceGrant).cloned());
    }
    for name in dirty {
        update.recomputed += 1;
        let findings = check(update.to, &name);
        update.tell(Part::Claims, &name, findings);
    }
}

/// What lends itself to this resource: the grant of that workspace for the workload, the first by name.
pub(super) fn of_workload<'a>(
    tree: &'a Tree,
    lender: &Fqn,
    workload: &WorkloadId,
    borrower: &Fqn,
) -> Option<&'a Fqn> {
    let mut grants = grants(tree, lender);
    let lends = grants.find(|(_, grant)| grant.lends_workload(workload, borrower));
    lends.map(|(name, _)| name)
}

/// As [`of_workload`], for a host.
pub(super) fn of_host<'a>(tree: &'a Tree, lender: &Fqn, host: &Hostname, borrower: &Fqn) -> Option<&'a Fqn> {
    let mut grants = grants(tree, lender);
    let lends = grants.find(|(_, grant)| grant.lends_host(host, borrower));
    lends.map(|(name, _)| name)
}

fn grants<'a>(tree: &'a Tree, lender: &Fqn) -> impl Iterator<Item = (&'a Fqn, &'a ReferenceGrant)> + use<'a> {
    let names = tree.children(lender, Kind::ReferenceGrant);
    names.filter_map(move |name| match tree.spec(name)? {
        Spec::ReferenceGrant(grant) => Some((name, grant)),
        _ => None,
    })
}

/// A workload is its owner's to lend; whose a host is shows where it is served.
fn check(resolver: &Resolver, name: &Fqn) -> Vec<Finding> {
    let Some(Spec::ReferenceGrant(grant)) = resolver.tree.spec(name) else {
        return Vec::new();
    };
    let lender = name.parent();
    let lender = lender.and_then(|lender| resolver.resolved.workspaces.get_key_value(&lender));
    let Some((lender, owned)) = lender else {
        return Vec::new();
    };
    let foreign = grant.to.workloads.iter();
    let foreign = foreign.filter(|workload| !owned.value.owns_somewhere(&workload.namespace));
    foreign
        .map(|workload| {
            let message = format!(
                "workload {workload} is in no namespace of {lender}: {}; a workspace lends what it owns",
                listed(&owned.value.namespaces)
            );
            Finding::warning(name, "spec.to.workloads", Code::GrantsNothing, message)
        })
        .collect()
}
