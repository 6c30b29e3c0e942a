//! Names of other resources that a resource gives: whether they are, and may be, what they are taken for.

use std::collections::BTreeSet;

use super::resolver::{Part, Update};
use super::tree::Tree;
use super::{application, identity};
use crate::finding::{Code, Finding};
use crate::intent::{ClaimOffer, Quota, RoleName, Spec, WasmExtension};
use crate::invariant::misnamed;
use crate::name::{Fqn, Kind};

/// The kinds of which nothing else is to be found than what is wrong with the names in them.
const KINDS: [Kind; 7] = [
    Kind::Application,
    Kind::Binding,
    Kind::ClaimOffer,
    Kind::Invariant,
    Kind::Quota,
    Kind::Team,
    Kind::WasmExtension,
];

pub(super) fn update(update: &mut Update<'_>) {
    let mut dirty = BTreeSet::new();
    let named_by = &mut update.to.wanted.named_by;
    for touch in KINDS.into_iter().flat_map(|kind| update.touched.of(kind)) {
        for name in named(touch.was()) {
            named_by.remove(name, &touch.name);
        }
        for name in named(touch.is()) {
            named_by.insert(name, &touch.name);
        }
        dirty.insert(touch.name.clone());
    }
    for touch in update.touched.all().filter(|touch| touch.flipped()) {
        dirty.extend(named_by.of(&touch.name).cloned());
    }
    for touch in update.touched.of(Kind::Team) {
        dirty.extend(identity::holding(named_by, &touch.name));
    }
    for name in dirty {
        update.recomputed += 1;
        let findings = update
            .to
            .tree
            .spec(&name)
            .map(|spec| check(&update.to.tree, &name, spec));
        update.tell(Part::Claims, &name, findings.unwrap_or_default());
    }
}

/// All whose coming and going matters to a resource.
fn named(spec: Option<&Spec>) -> Vec<&Fqn> {
    match spec {
        Some(Spec::Application(application)) => vec![&application.workspace],
        Some(Spec::Binding(binding)) => {
            let role = match &binding.role {
                RoleName::Own(role) => Some(role),
                RoleName::Builtin(_) => None,
            };
            binding.subjects.iter().chain(role).collect()
        }
        Some(Spec::Team(team)) => team.members.iter().collect(),
        Some(Spec::Quota(quota)) => quota.node.iter().collect(),
        Some(Spec::WasmExtension(extension)) => extension.tenants.iter().collect(),
        _ => Vec::new(),
    }
}

fn check(tree: &Tree, name: &Fqn, spec: &Spec) -> Vec<Finding> {
    match spec {
        Spec::Application(application) => application::check(tree, name, application).into_iter().collect(),
        Spec::ClaimOffer(offer) => misdirected(name, offer).into_iter().collect(),
        Spec::Binding(binding) => identity::check_binding(tree, name, binding),
        Spec::Team(team) => identity::check_team(tree, name, team),
        Spec::Quota(quota) => limited(tree, name, quota).into_iter().collect(),
        Spec::WasmExtension(extension) => tenants(tree, name, extension),
        Spec::Invariant(invariant) => misnamed(invariant)
            .map(|message| Finding::error(name, "spec", Code::OutOfReach, message))
            .into_iter()
            .collect(),
        _ => Vec::new(),
    }
}

fn tenants(tree: &Tree, name: &Fqn, extension: &WasmExtension) -> Vec<Finding> {
    let unknown = |tenant: &&Fqn| tenant.kind() != Kind::Tenant || tree.get(tenant).is_none();
    let unknown = extension.tenants.iter().filter(unknown);
    unknown
        .map(|tenant| {
            let message =
                format!("{tenant} is not a tenant that exists; create the tenant first, or correct the name");
            Finding::error(name, "spec.tenants", Code::UnknownTenant, message)
        })
        .collect()
}

/// Whether there is such a workspace is not for the one who offers to know.
fn misdirected(name: &Fqn, offer: &ClaimOffer) -> Option<Finding> {
    let is_another = offer.to.kind() == Kind::Workspace
        && offer.to.organization() == name.organization()
        && name.parent().as_ref() != Some(&offer.to);
    (!is_another).then(|| {
        let message = format!(
            "{} is not another workspace of this organization; claims are offered to one",
            offer.to
        );
        Finding::error(name, "spec.to", Code::OutOfReach, message)
    })
}

/// A quota of a node that is gone waits for it to come back.
fn limited(tree: &Tree, name: &Fqn, quota: &Quota) -> Option<Finding> {
    let (node, parent) = (quota.node.as_ref()?, name.parent()?);
    if !node.is_within(&parent) {
        let message =
            format!("{node} does not stand below {parent}; a quota limits its own node or one below it");
        return Some(Finding::error(name, "spec.node", Code::OutOfReach, message));
    }
    tree.get(node).is_none().then(|| {
        let message = format!("{node} does not exist; until it does, nothing is limited");
        Finding::warning(name, "spec.node", Code::OutOfReach, message)
    })
}
