//! Whether what an organization has written down once still holds of what is resolved; when not, an example.
//!
//! Everything is read off the resolved tree, so that an answer does not depend on what clusters report.

use std::collections::BTreeSet;

use crate::intent::{Intent, Invariant, NoFailover, OnlyServedBy, Place, Spec};
use crate::name::{ClusterName, Fqn, Kind, ServiceId};
use crate::resolve::{Resolved, ResolvedWorkspace};
use crate::routes::{RoutedGateway, RoutedGatewayMode};
use crate::selector::Selector;

mod plaintext;

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Broken {
    pub invariant: Fqn,
    /// The resource that breaks it.
    pub by: Fqn,
    /// A sentence that names it.
    pub example: String,
}

/// All that are broken, each with every resource that breaks it.
pub fn broken(intent: &Intent, resolved: &Resolved) -> BTreeSet<Broken> {
    let Some(organization) = intent.keys().next() else {
        return BTreeSet::new();
    };
    let collection = format!("{organization}/{}/", Kind::Invariant.collection());
    let invariants = intent.starting_with(&collection);
    let invariants = invariants.filter_map(|(name, resource)| match &resource.spec {
        Spec::Invariant(invariant) => Some((name, invariant)),
        _ => None,
    });
    invariants
        .flat_map(|(name, invariant)| {
            breaks(invariant, intent, resolved)
                .into_iter()
                .map(|(by, example)| Broken {
                    invariant: name.clone(),
                    by,
                    example,
                })
        })
        .collect()
}

fn breaks(invariant: &Invariant, intent: &Intent, resolved: &Resolved) -> Vec<(Fqn, String)> {
    match invariant {
        Invariant::NeverFromOutside(place) => from_outside(place, resolved),
        Invariant::OnlyServedBy(only) => served_elsewhere(only, resolved),
        Invariant::NoFailover(never) => fails_over(never, resolved).into_iter().collect(),
        Invariant::NoPlaintextBetweenTenants {} => plaintext::between_tenants(intent, resolved),
    }
}

fn from_outside(place: &Place, resolved: &Resolved) -> Vec<(Fqn, String)> {
    let mut found = Vec::new();
    for (name, gateway) in &resolved.gateways {
        let gateway = &gateway.value;
        let RoutedGatewayMode::Ingress { hosts, .. } = &gateway.mode else {
            continue;
        };
        if let Some(service) = gateway
            .backends()
            .find(|service| is_there(place, gateway, service, resolved))
        {
            let hosts: Vec<&str> = hosts.iter().map(|host| host.as_str()).collect();
            let example = format!(
                "{name} lets requests for {} from outside come to {service}",
                hosts.join(", ")
            );
            found.push((name.clone(), example));
        }
    }
    found
}

/// A rule sends to services of its gateway's own workspace, and to no other.
fn is_there(place: &Place, gateway: &RoutedGateway, service: &ServiceId, resolved: &Resolved) -> bool {
    match place {
        Place::Workspace(workspace) => gateway.workspace == *workspace,
        Place::Namespace(selector) => {
            let Some(workspace) = resolved.workspaces.get(&gateway.workspace) else {
                return false;
            };
            let mut clusters = resolved.clusters_of(&gateway.workspace);
            clusters.any(|cluster| {
                selector.matches(cluster, &service.namespace)
                    && workspace.value.owns(cluster, &service.namespace)
            })
        }
    }
}

fn served_elsewhere(only: &OnlyServedBy, resolved: &Resolved) -> Vec<(Fqn, String)> {
    let mut found = Vec::new();
    for (name, gateway) in &resolved.gateways {
        let RoutedGatewayMode::Ingress { hosts, .. } = &gateway.value.mode else {
            continue;
        };
        if *name == only.gateway {
            continue;
        }
        if let Some(host) = hosts.iter().find(|host| host.intersects(&only.host)) {
            found.push((name.clone(), format!("{name} serves {host}")));
        }
    }
    found
}

/// Traffic goes to whatever can serve when nothing nearer can, so that it fails over into a region as soon as the
/// workspace has the same namespace there and elsewhere.
fn fails_over(never: &NoFailover, resolved: &Resolved) -> Option<(Fqn, String)> {
    let workspace = &resolved.workspaces.get(&never.workspace)?.value;
    let region = |cluster: &ClusterName| resolved.clusters.get(cluster).map(|found| &found.value.region);
    let (inside, outside): (Vec<&ClusterName>, Vec<&ClusterName>) = resolved
        .clusters_of(&never.workspace)
        .partition(|cluster| region(cluster) == Some(&never.region));
    let shared = |(from, to): &(&ClusterName, &ClusterName)| shares(workspace, from, to);
    let mut pairs = outside
        .iter()
        .flat_map(|from| inside.iter().map(move |to| (*from, *to)));
    let (from, to) = pairs.find(shared)?;
    let example = format!(
        "{} has the same namespace in {from} and in {to}, which is in {}, so that requests fail over there when nothing \
         nearer can serve",
        never.workspace, never.region
    );
    Some((never.workspace.clone(), example))
}

/// Whether the workspace could have the same service in two clusters.
fn is_in_several(workspace: &Fqn, resolved: &Resolved) -> bool {
    let Some(owned) = resolved.workspaces.get(workspace) else {
        return false;
    };
    let clusters: Vec<&ClusterName> = resolved.clusters_of(workspace).collect();
    let mut pairs = clusters
        .iter()
        .enumerate()
        .flat_map(|(at, from)| clusters[at + 1..].iter().map(move |to| (from, to)));
    pairs.any(|(from, to)| shares(&owned.value, from, to))
}

/// Whether the workspace could own namespaces of one name in both.
fn shares(workspace: &ResolvedWorkspace, from: &ClusterName, to: &ClusterName) -> bool {
    let of = |cluster: &ClusterName| -> Vec<&Selector> {
        let selectors = workspace.namespaces.iter();
        selectors
            .filter(|selector| selector.matches_cluster(cluster))
            .collect()
    };
    let (there, here) = (of(to), of(from));
    here.iter().any(|a| there.iter().any(|b| same_namespace(a, b)))
}

fn same_namespace(a: &Selector, b: &Selector) -> bool {
    match (a.exact_namespace(), b.exact_namespace()) {
        (Some(a), _) => b.matches_namespace(a),
        (None, Some(b)) => a.matches_namespace(b),
        (None, None) => true,
    }
}

/// Names in an invariant that are of another kind than they are taken for; such an invariant would hold of nothing.
pub fn misnamed(invariant: &Invariant) -> Option<String> {
    let (name, kind) = match invariant {
        Invariant::NeverFromOutside(Place::Workspace(name)) => (name, Kind::Workspace),
        Invariant::OnlyServedBy(only) => (&only.gateway, Kind::Gateway),
        Invariant::NoFailover(never) => (&never.workspace, Kind::Workspace),
        Invariant::NeverFromOutside(Place::Namespace(_)) | Invariant::NoPlaintextBetweenTenants {} => {
            return None;
        }
    };
    (name.kind() != kind).then(|| format!("{name} is a {} where a {kind} is expected", name.kind()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::intent::Resource;
    use crate::resolve::resolve;

    const SHOP: &str = "organizations/acme/tenants/pay/workspaces/shop";
    const DOOR: &str = "organizations/acme/tenants/pay/workspaces/shop/gatewaygroups/g/gateways/door";

    fn examples(invariant: &Value, namespaces: &[&str]) -> Vec<String> {
        let gateway = json!({"workload": "shop/door", "type": "ingress", "port": 8080, "hosts": ["shop.example.com"],
            "rules": [{"backendRefs": [{"namespace": "shop", "name": "web"}]}]});
        let documents = [
            json!({"name": "organizations/acme"}),
            json!({"name": "organizations/acme/clusters/us", "spec": {"region": "us"}}),
            json!({"name": "organizations/acme/clusters/eu", "spec": {"region": "eu"}}),
            json!({"name": "organizations/acme/tenants/pay"}),
            json!({"name": SHOP, "spec": {"namespaces": namespaces}}),
            json!({"name": format!("{SHOP}/gatewaygroups/g")}),
            json!({"name": DOOR, "spec": gateway}),
            json!({"name": "organizations/acme/invariants/i", "spec": invariant}),
        ];
        let mut intent = Intent::new();
        for document in documents {
            let resource = Resource::from_json(document).unwrap();
            intent.insert(resource.name.clone(), Arc::new(resource));
        }
        let (resolved, _) = resolve(&intent);
        broken(&intent, &resolved)
            .into_iter()
            .map(|broken| broken.example)
            .collect()
    }

    #[test]
    fn what_is_broken_comes_with_an_example() {
        let outside = format!("{DOOR} lets requests for shop.example.com from outside come to shop/web");
        let over = format!("{SHOP} has the same namespace in us and in eu,");
        let other = "organizations/acme/tenants/pay/workspaces/other";
        for (invariant, namespaces, example) in [
            (
                json!({"neverFromOutside": {"workspace": SHOP}}),
                vec!["*/shop"],
                Some(outside.clone()),
            ),
            (
                json!({"neverFromOutside": {"workspace": other}}),
                vec!["*/shop"],
                None,
            ),
            (
                json!({"neverFromOutside": {"namespace": "eu/shop"}}),
                vec!["*/shop"],
                Some(outside),
            ),
            (
                json!({"neverFromOutside": {"namespace": "eu/shop"}}),
                vec!["us/shop"],
                None,
            ),
            (
                json!({"neverFromOutside": {"namespace": "*/cart"}}),
                vec!["*/shop", "*/cart"],
                None,
            ),
            (
                json!({"onlyServedBy": {"host": "*.example.com", "gateway": DOOR.replace("door", "other")}}),
                vec!["*/shop"],
                Some(format!("{DOOR} serves shop.example.com")),
            ),
            (
                json!({"onlyServedBy": {"host": "*.example.com", "gateway": DOOR}}),
                vec!["*/shop"],
                None,
            ),
            (
                json!({"onlyServedBy": {"host": "a.example.com", "gateway": DOOR.replace("door", "x")}}),
                vec!["*/shop"],
                None,
            ),
            (
                json!({"noFailover": {"workspace": SHOP, "region": "eu"}}),
                vec!["*/shop"],
                Some(over.clone()),
            ),
            (
                json!({"noFailover": {"workspace": SHOP, "region": "eu"}}),
                vec!["us/sh*", "eu/shop"],
                Some(over),
            ),
            (
                json!({"noFailover": {"workspace": SHOP, "region": "eu"}}),
                vec!["us/shop", "eu/cart"],
                None,
            ),
            (
                json!({"noFailover": {"workspace": SHOP, "region": "eu"}}),
                vec!["us/*"],
                None,
            ),
            (
                json!({"noFailover": {"workspace": SHOP, "region": "asia"}}),
                vec!["*/shop"],
                None,
            ),
        ] {
            let found = examples(&invariant, &namespaces);
            match &example {
                None => assert_eq!(found, Vec::<String>::new(), "{invariant} {namespaces:?}"),
                Some(example) => assert!(
                    found.len() == 1 && found[0].starts_with(example),
                    "{invariant}: {found:?}"
                ),
            }
        }
    }

    #[test]
    fn a_name_of_another_kind_is_told() {
        let misnamed = |spec: Value| misnamed(&serde_json::from_value(spec).unwrap());
        let tenant = "organizations/acme/tenants/pay";
        let told = misnamed(json!({"neverFromOutside": {"workspace": tenant}}));
        assert_eq!(
            told.unwrap(),
            format!("{tenant} is a Tenant where a Workspace is expected")
        );
        assert_eq!(
            misnamed(json!({"noFailover": {"workspace": SHOP, "region": "eu"}})),
            None
        );
    }
}
