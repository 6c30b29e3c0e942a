//! Claims that change hands: offered by the one who holds them, and taken by a write of the one to whom they are offered.
//! What that takes from the holder is part of the same write, so that no claim ever has two holders, or none.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use tombolo_compiler::finding::{Code, Finding};
use tombolo_compiler::intent::{ClaimOffer, Intent, Resource, Spec};
use tombolo_compiler::name::{Fqn, Kind};

use crate::change::Step;
use crate::managed::Manager;
use crate::snapshot::{Snapshot, Stored, below};

/// What a write takes from others: their part of the transfers that it accepts. `after` is the tree that the write alone
/// would lead to.
pub(crate) fn accepted(base: &Snapshot, steps: &[Step], after: &Intent, now: DateTime<Utc>) -> Vec<Step> {
    let mut left: BTreeMap<Fqn, Option<Arc<Resource>>> = BTreeMap::new();
    for (name, offer, holder) in offers(base, steps, after, now) {
        left.insert(name.clone(), None);
        for resource in claiming(base.judged.intent(), &holder) {
            let written = steps.iter().any(|step| *step.name() == resource.name);
            let now = left
                .get(&resource.name)
                .cloned()
                .unwrap_or_else(|| Some(resource.clone()));
            if let Some(rest) = now.filter(|_| !written).and_then(|now| without(&now, offer)) {
                left.insert(resource.name.clone(), rest.map(Arc::new));
            }
        }
    }
    let steps = left.into_iter().filter_map(|(name, rest)| {
        let stored = base.get(&name)?.clone();
        Some(match rest {
            Some(rest) => Step::Update(stored, rest),
            None => Step::Delete(stored),
        })
    });
    steps.collect()
}

/// The offers that are made to a workspace and may still be taken, and until when.
pub(crate) fn offered_to<'a>(
    snapshot: &'a Snapshot,
    workspace: &'a Fqn,
    now: DateTime<Utc>,
) -> impl Iterator<Item = (&'a Arc<Resource>, DateTime<Utc>)> {
    let offers = snapshot.private().values();
    offers.filter_map(move |resource| match &resource.spec {
        Spec::ClaimOffer(offer) if offer.to == *workspace => {
            let expires_at = expires_at(snapshot, &resource.name, offer)?;
            (now < expires_at).then_some((resource, expires_at))
        }
        _ => None,
    })
}

/// Of an offer that is there.
fn expires_at(snapshot: &Snapshot, name: &Fqn, offer: &ClaimOffer) -> Option<DateTime<Utc>> {
    let lifetime = TimeDelta::days(offer.lifetime_days.get().into());
    Some(snapshot.get(name)?.updated_at + lifetime)
}

/// Whose say it takes before a write takes from others what a pipeline keeps there: the first offer that it accepts, unless
/// that pipeline has made such an offer itself, or is the one that writes.
pub(crate) fn kept(handed: &[Step], taker: Option<&Manager>) -> Option<Fqn> {
    let held = handed.iter().filter_map(|step| match step {
        Step::Update(held, _) | Step::Delete(held) => Some(held),
        Step::Create(_) | Step::Transfer(..) | Step::Keep(_) => None,
    });
    let (offers, losing): (Vec<_>, Vec<_>) = held.partition(|held| held.name().kind() == Kind::ClaimOffer);
    let manager = |held: &Arc<Stored>| held.managed.as_ref().map(|managed| managed.by.clone());
    let consenting: Vec<Manager> = offers.iter().copied().filter_map(manager).collect();
    let mut managers = losing.into_iter().filter_map(manager);
    let is_kept = managers.any(|by| taker != Some(&by) && !consenting.contains(&by));
    let offer = offers.first().filter(|_| is_kept)?;
    Some(offer.name().clone())
}

/// An offer of what its workspace does not hold would take effect when that one has got it some day.
pub(crate) fn misses(steps: &[Step], after: &Intent) -> Vec<Finding> {
    let written = steps.iter().filter_map(|step| match step {
        Step::Create(resource) | Step::Update(_, resource) => Some(resource),
        Step::Delete(_) | Step::Keep(_) | Step::Transfer(..) => None,
    });
    let missing = written.filter_map(|resource| {
        let Spec::ClaimOffer(offer) = &resource.spec else {
            return None;
        };
        let holder = resource.name.parent()?;
        let missing = unclaimed(offer, after, &holder);
        (!missing.is_empty()).then(|| {
            let message = format!(
                "{holder} does not claim {}; a workspace offers what it claims, as it claims it",
                listed(&missing)
            );
            Finding::error(&resource.name, "spec", Code::GrantsNothing, message)
        })
    });
    missing.collect()
}

/// The offers that a write accepts, with those who make them: the write is about the workspace to which they are made, or
/// its gateways, and that workspace then claims all that is offered.
fn offers<'a>(
    base: &'a Snapshot,
    steps: &'a [Step],
    after: &'a Intent,
    now: DateTime<Utc>,
) -> impl Iterator<Item = (&'a Fqn, &'a ClaimOffer, Fqn)> {
    let written = |name: &Fqn| steps.iter().any(|step| step.name() == name);
    let concerns = |to: &Fqn| {
        let mut changed = steps
            .iter()
            .filter(|step| matches!(step, Step::Create(_) | Step::Update(..)));
        changed.any(|step| step.name().is_within(to))
    };
    let offers = base
        .private()
        .iter()
        .filter_map(|(name, resource)| match &resource.spec {
            Spec::ClaimOffer(offer) => Some((name, offer, name.parent()?)),
            _ => None,
        });
    offers.filter(move |(name, offer, _)| {
        expires_at(base, name, offer).is_some_and(|expires_at| now < expires_at)
            && !written(name)
            && concerns(&offer.to)
            && unclaimed(offer, after, &offer.to).is_empty()
    })
}

fn unclaimed(offer: &ClaimOffer, tree: &Intent, workspace: &Fqn) -> ClaimOffer {
    offer.unclaimed(claiming(tree, workspace).map(|resource| &resource.spec))
}

/// A workspace and all below it.
fn claiming<'a>(tree: &'a Intent, workspace: &Fqn) -> impl Iterator<Item = &'a Arc<Resource>> {
    tree.get(workspace)
        .into_iter()
        .chain(below(tree, workspace.as_str()))
}

/// What is left of a resource without what is offered of it: `None` when that is all of it, and no answer when it has nothing
/// of that.
fn without(resource: &Resource, offer: &ClaimOffer) -> Option<Option<Resource>> {
    let mut document = resource.to_json();
    match &resource.spec {
        Spec::Workspace(_) => {
            let offered = |text: &str| {
                text.parse()
                    .is_ok_and(|selector| offer.namespaces.contains(&selector))
            };
            take(&mut document["spec"]["namespaces"], offered).then_some(())?;
        }
        Spec::Gateway(gateway) => {
            let (port, hosts) = gateway.mode.listener()?;
            let mut ports = offer.ports.iter();
            if ports.any(|offered| offered.workload == gateway.workload && offered.port.get() == port) {
                return Some(None);
            }
            if gateway.hosts_from.is_some() {
                return None;
            }
            if hosts.is_some_and(|hosts| hosts.iter().all(|host| offer.hosts.contains(host))) {
                return Some(None);
            }
            take(&mut document["spec"]["hosts"], |host| offer.hosts.contains(host)).then_some(())?;
        }
        _ => return None,
    }
    let rest = Resource::from_json(document);
    Some(Some(rest.expect(
        "invariant: a list that could be written can be written without some of it",
    )))
}

/// Whether something was taken from the list.
fn take(list: &mut Value, is_offered: impl Fn(&str) -> bool) -> bool {
    let Some(items) = list.as_array_mut() else {
        return false;
    };
    let before = items.len();
    items.retain(|item| !item.as_str().is_some_and(&is_offered));
    items.len() < before
}

fn listed(claims: &ClaimOffer) -> String {
    let namespaces = claims
        .namespaces
        .iter()
        .map(|selector| format!("namespaces {selector}"));
    let hosts = claims.hosts.iter().map(|host| format!("host {host}"));
    let ports = claims.ports.iter();
    let ports = ports.map(|claim| format!("port {} of workload {}", claim.port, claim.workload));
    let all: Vec<String> = namespaces.chain(hosts).chain(ports).collect();
    all.join(", ")
}
