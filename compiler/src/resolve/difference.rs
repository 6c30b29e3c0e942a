//! What differs between two resolved trees, in the words of their nouns: what a write does to who owns and routes what,
//! whatever clusters report.

use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use super::Resolved;
use crate::finding::Traced;
use crate::persistent::Map;

/// One thing that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ResolvedChange {
    /// Such as `workspaces/organizations/acme/…`.
    pub what: String,
    pub before: Option<Value>,
    pub after: Option<Value>,
}

/// In the order of what differs. An origin that differs is no difference.
pub fn difference(before: &Resolved, after: &Resolved) -> Vec<ResolvedChange> {
    // Whoever adds a noun to what is resolved is made to add it here.
    let Resolved {
        clusters,
        workspaces,
        routes,
        gateways,
        loans,
        // Indexes over these.
        held: _,
        gateways_by_workspace: _,
        gateways_by_workload: _,
        gateways_by_backend: _,
    } = before;
    let mut changes = Vec::new();
    changes.extend(of("clusters", clusters, &after.clusters, |name| name.to_string()));
    changes.extend(of("gateways", gateways, &after.gateways, |name| name.to_string()));
    changes.extend(of("loans", loans, &after.loans, |name| name.to_string()));
    changes.extend(of("routes", routes, &after.routes, |(workspace, service)| {
        format!("{service}/{workspace}")
    }));
    changes.extend(of("workspaces", workspaces, &after.workspaces, |name| {
        name.to_string()
    }));
    changes
}

fn of<'a, K: Ord, V: PartialEq + Serialize>(
    noun: &'a str,
    before: &'a Map<K, Arc<Traced<V>>>,
    after: &'a Map<K, Arc<Traced<V>>>,
    name: impl Fn(&K) -> String + 'a,
) -> impl Iterator<Item = ResolvedChange> + 'a {
    let differences = before.diff(after, |before, after| before == after);
    differences.into_iter().map(move |difference| ResolvedChange {
        what: format!("{noun}/{}", name(difference.key)),
        before: difference.before.map(|traced| value(traced)),
        after: difference.after.map(|traced| value(traced)),
    })
}

fn value<V: Serialize>(traced: &Traced<V>) -> Value {
    serde_json::to_value(&traced.value)
        .expect("invariant: what is resolved has string keys and whole numbers")
}
