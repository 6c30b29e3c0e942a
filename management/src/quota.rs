//! Quotas: whether a tree has more of a kind below a node than somebody above allows.

use std::collections::BTreeSet;

use tombolo_compiler::intent::{Intent, Quota, Spec};
use tombolo_compiler::name::{Fqn, Kind};

use crate::snapshot::below;

/// One limit that a write would exceed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{quota} allows {limit} of {kind} below {node}, and this would make {wanted}; delete some, or ask who may change the quota"
)]
pub(crate) struct OverQuota {
    quota: Fqn,
    node: Fqn,
    kind: Kind,
    limit: u32,
    wanted: usize,
}

/// Whether `intent`, in which those names are new, is within every quota that concerns them. What stood before a
/// quota was lowered stands on; only more of it is refused.
pub(crate) fn check<'a>(intent: &Intent, created: impl Iterator<Item = &'a Fqn>) -> Result<(), OverQuota> {
    // Hundreds of routes of one group are under the same quotas.
    let places: BTreeSet<(Fqn, Kind)> = created
        .filter_map(|name| Some((name.parent()?, name.kind())))
        .collect();
    let mut checked = BTreeSet::new();
    for (parent, kind) in &places {
        for (name, quota) in parent.lineage().flat_map(|node| quotas_at(intent, &node)) {
            let Some((node, limit)) = limit(name, quota, parent, *kind) else {
                continue;
            };
            if checked.insert((name, *kind)) {
                let wanted = count(intent, &node, *kind);
                if wanted > limit as usize {
                    return Err(OverQuota {
                        quota: name.clone(),
                        node,
                        kind: *kind,
                        limit,
                        wanted,
                    });
                }
            }
        }
    }
    Ok(())
}

fn quotas_at<'a>(intent: &'a Intent, node: &Fqn) -> impl Iterator<Item = (&'a Fqn, &'a Quota)> + use<'a> {
    let collection = format!("{node}/{}", Kind::Quota.collection());
    below(intent, &collection).filter_map(|resource| match &resource.spec {
        Spec::Quota(quota) => Some((&resource.name, quota)),
        _ => None,
    })
}

/// What the quota says of a kind directly below `parent`, and of which node.
fn limit(name: &Fqn, quota: &Quota, parent: &Fqn, kind: Kind) -> Option<(Fqn, u32)> {
    let limit = *quota.limits.get(&kind)?;
    let node = match &quota.node {
        Some(node) => node.clone(),
        None => name.parent()?,
    };
    parent.is_within(&node).then_some((node, limit))
}

fn count(intent: &Intent, node: &Fqn, kind: Kind) -> usize {
    below(intent, node.as_str())
        .filter(|resource| resource.kind() == kind)
        .count()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;
    use tombolo_compiler::intent::Resource;

    use super::*;

    const ACME: &str = "organizations/acme";
    const PAY: &str = "organizations/acme/tenants/pay";
    const SHOP: &str = "organizations/acme/tenants/pay/workspaces/shop";

    fn intent(quotas: &[(&str, serde_json::Value)]) -> Intent {
        let quotas = quotas
            .iter()
            .map(|(name, spec)| json!({"name": name, "spec": spec}));
        let tree = [
            json!({"name": ACME}),
            json!({"name": PAY}),
            json!({"name": format!("{ACME}/tenants/media")}),
            json!({"name": SHOP, "spec": {"namespaces": []}}),
            json!({"name": format!("{PAY}/workspaces/cart"), "spec": {"namespaces": []}}),
        ];
        tree.into_iter()
            .chain(quotas)
            .map(|document| {
                let resource = Resource::from_json(document).unwrap();
                (resource.name.clone(), Arc::new(resource))
            })
            .collect()
    }

    #[test]
    fn every_quota_above_counts_and_no_other() {
        let pay = format!("{PAY}/quotas/q");
        let acme = format!("{ACME}/quotas/q");
        let of = |quota: &str, node: &str, kind: &str, limit: u32, wanted: usize| {
            format!(
                "{quota} allows {limit} of {kind} below {node}, and this would make {wanted}; \
                 delete some, or ask who may change the quota"
            )
        };
        let created = SHOP.parse::<Fqn>().unwrap();
        for (name, quota, expected) in [
            (&pay, json!({"limits": {"Workspace": 2}}), None),
            (
                &pay,
                json!({"limits": {"Workspace": 1}}),
                Some(of(&pay, PAY, "Workspace", 1, 2)),
            ),
            (&pay, json!({"limits": {"Tenant": 0}}), None),
            (
                &acme,
                json!({"limits": {"Workspace": 0}}),
                Some(of(&acme, ACME, "Workspace", 0, 2)),
            ),
            (
                &acme,
                json!({"node": PAY, "limits": {"Workspace": 1}}),
                Some(of(&acme, PAY, "Workspace", 1, 2)),
            ),
            (
                &acme,
                json!({"node": format!("{ACME}/tenants/media"), "limits": {"Workspace": 0}}),
                None,
            ),
        ] {
            let intent = intent(&[(name, quota.clone())]);
            let found = check(&intent, [&created].into_iter())
                .err()
                .map(|error| error.to_string());
            assert_eq!(found, expected, "{name} {quota}");
        }
    }

    #[test]
    fn a_quota_counts_the_one_that_is_being_made() {
        let name = format!("{PAY}/quotas/q");
        let intent = intent(&[(&name, json!({"limits": {"Quota": 0}}))]);
        let created = name.parse::<Fqn>().unwrap();
        assert!(check(&intent, [&created].into_iter()).is_err());
    }
}
