//! Names of other resources that a resource of the organization gives: whether they are, and may be, what they are
//! taken for.

use super::Tree;
use crate::finding::{Code, Finding};
use crate::intent::Spec;
use crate::invariant::misnamed;
use crate::name::{Fqn, Kind};

pub(super) fn check(tree: &Tree<'_>, findings: &mut Vec<Finding>) {
    for (name, resource) in tree {
        match &resource.spec {
            Spec::Quota(quota) => {
                findings.extend(quota.node.as_ref().and_then(|node| limited(tree, name, node)));
            }
            Spec::WasmExtension(extension) => {
                let unknown = |tenant: &&Fqn| tenant.kind() != Kind::Tenant || !tree.contains_key(tenant);
                findings.extend(extension.tenants.iter().filter(unknown).map(|tenant| {
                    let message = format!(
                        "{tenant} is not a tenant that exists; create the tenant first, or correct the name"
                    );
                    Finding::error(name, "spec.tenants", Code::UnknownTenant, message)
                }));
            }
            Spec::Invariant(invariant) => {
                let finding = |message| Finding::error(name, "spec", Code::OutOfReach, message);
                findings.extend(misnamed(invariant).map(finding));
            }
            _ => {}
        }
    }
}

/// A quota of a node that is gone waits for it to come back.
fn limited(tree: &Tree<'_>, quota: &Fqn, node: &Fqn) -> Option<Finding> {
    let parent = quota.parent()?;
    if !node.is_within(&parent) {
        let message =
            format!("{node} does not stand below {parent}; a quota limits its own node or one below it");
        return Some(Finding::error(quota, "spec.node", Code::OutOfReach, message));
    }
    (!tree.contains_key(node)).then(|| {
        let message = format!("{node} does not exist; until it does, nothing is limited");
        Finding::warning(quota, "spec.node", Code::OutOfReach, message)
    })
}
