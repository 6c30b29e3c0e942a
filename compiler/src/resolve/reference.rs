//! Names of other resources that a resource gives: whether they are, and may be, what they are taken for.

use std::collections::BTreeSet;

use super::resolver::{Part, Update};
use super::tree::Tree;
use super::{application, identity};
use crate::finding::{Code, Finding};
use crate::intent::{ClaimOffer, NetworkReachability, Quota, RoleName, Spec, WasmExtension};
use crate::invariant::misnamed;
use crate::name::{Fqn, Kind, Label};

/// The kinds of which nothing else is to be found here than what is wrong with the names in them.
const KINDS: [Kind; 11] = [
    Kind::Application,
    Kind::Binding,
    Kind::ClaimOffer,
    Kind::Invariant,
    Kind::NetworkReachability,
    Kind::Quota,
    Kind::SecuritySetting,
    Kind::ServiceSecuritySetting,
    Kind::Team,
    Kind::TrafficSetting,
    Kind::WasmExtension,
];

pub(super) fn update(update: &mut Update<'_>) {
    let mut dirty = BTreeSet::new();
    let named_by = &mut update.to.wanted.named_by;
    for touch in KINDS.into_iter().flat_map(|kind| update.touched.of(kind)) {
        for name in named(&touch.name, touch.was()) {
            named_by.remove(&name, &touch.name);
        }
        for name in named(&touch.name, touch.is()) {
            named_by.insert(&name, &touch.name);
        }
        dirty.insert(touch.name.clone());
    }
    for touch in update.touched.all().filter(|touch| touch.flipped()) {
        dirty.extend(named_by.of(&touch.name).cloned());
    }
    // Who may use one is written in it.
    for touch in update.touched.of(Kind::WasmExtension) {
        dirty.extend(named_by.of(&touch.name).cloned());
    }
    for organization in update
        .touched
        .of(Kind::Cluster)
        .map(|touch| touch.name.organization())
    {
        dirty.extend(
            update
                .to
                .tree
                .children(&organization, Kind::NetworkReachability)
                .cloned(),
        );
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
fn named(name: &Fqn, spec: Option<&Spec>) -> Vec<Fqn> {
    match spec {
        Some(Spec::Application(application)) => vec![application.workspace.clone()],
        Some(Spec::Binding(binding)) => {
            let role = match &binding.role {
                RoleName::Own(role) => Some(role),
                RoleName::Builtin(_) => None,
            };
            binding.subjects.iter().chain(role).cloned().collect()
        }
        Some(Spec::Team(team)) => team.members.iter().cloned().collect(),
        Some(Spec::Quota(quota)) => quota.node.iter().cloned().collect(),
        Some(Spec::WasmExtension(extension)) => extension.tenants.iter().cloned().collect(),
        Some(spec) => extensions(spec)
            .into_iter()
            .filter_map(|(_, extension)| extension_name(name, extension))
            .collect(),
        None => Vec::new(),
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
        Spec::NetworkReachability(networks) => unknown_networks(tree, name, networks),
        Spec::SecuritySetting(_) | Spec::ServiceSecuritySetting(_) => unusable(tree, name, spec),
        Spec::TrafficSetting(setting) => setting
            .bad_cookies()
            .map(|(field, bad)| Finding::error(name, field, Code::SettingIgnored, bad.to_string()))
            .collect(),
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

/// The extensions that a setting attaches, each with the field that does.
fn extensions(spec: &Spec) -> Vec<(&'static str, &Label)> {
    let halves = match spec {
        Spec::SecuritySetting(setting) => vec![
            ("spec.defaults.extensions", &setting.defaults),
            ("spec.mandates.extensions", &setting.mandates),
        ],
        Spec::ServiceSecuritySetting(setting) => vec![("spec.settings.extensions", &setting.settings)],
        _ => Vec::new(),
    };
    halves
        .into_iter()
        .flat_map(|(field, security)| {
            let extensions = security.extensions.iter().flatten();
            extensions.map(move |extension| (field, extension))
        })
        .collect()
}

fn extension_name(setting: &Fqn, extension: &Label) -> Option<Fqn> {
    setting.organization().child(Kind::WasmExtension, extension).ok()
}

/// Which extensions there are for others is not for a tenant to know. A setting of the organization is the word of those
/// who say whom an extension is for.
fn unusable(tree: &Tree, name: &Fqn, spec: &Spec) -> Vec<Finding> {
    let tenant = name.ancestor(Kind::Tenant);
    let is_usable = |extension: &Label| {
        let extension = extension_name(name, extension);
        let Some(Spec::WasmExtension(extension)) = extension.and_then(|extension| tree.spec(&extension))
        else {
            return false;
        };
        tenant
            .as_ref()
            .is_none_or(|tenant| extension.tenants.contains(tenant))
    };
    let unusable = extensions(spec)
        .into_iter()
        .filter(|(_, extension)| !is_usable(extension));
    unusable
        .map(|(field, extension)| {
            let whose = tenant.as_ref().map_or_else(String::new, |tenant| format!(" that {tenant} may use"));
            let message = format!(
                "{extension} is not an extension of the organization{whose}; correct the name, or have the extension name the tenant"
            );
            Finding::error(name, field, Code::OutOfReach, message)
        })
        .collect()
}

fn unknown_networks(tree: &Tree, name: &Fqn, networks: &NetworkReachability) -> Vec<Finding> {
    let clusters = tree.children(&name.organization(), Kind::Cluster);
    let known: BTreeSet<&Label> = clusters
        .filter_map(|cluster| match tree.spec(cluster) {
            Some(Spec::Cluster(cluster)) => cluster.network.as_ref(),
            _ => None,
        })
        .collect();
    let named = networks
        .reaches
        .iter()
        .flat_map(|(from, to)| to.iter().chain([from]));
    let unknown: BTreeSet<&Label> = named.filter(|network| !known.contains(network)).collect();
    unknown
        .into_iter()
        .map(|network| {
            let message = format!(
                "no cluster is in network {network}; correct the name, or set the network of a cluster"
            );
            Finding::warning(name, "spec.reaches", Code::UnknownNetwork, message)
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
