//! Nobody gives what it does not hold: what a change of policy gives to anybody, against what its writer holds there.
//!
//! This covers every way to give a right - a binding, a role that grows, a team that is joined or nested, a token for
//! somebody else - because it compares what results and not what was written.

use std::borrow::Cow;
use std::fmt;

use tombolo_compiler::intent::{Action, BuiltinRole};
use tombolo_compiler::name::{Fqn, Kind};

use super::index::Grant;
use super::role::{Actions, Relation, Rights};
use super::{Asker, Bindings, Principal};

/// A right that would be given by somebody who does not hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Excess {
    giver: Fqn,
    /// Who would get it.
    taker: String,
    action: Action,
    kind: Kind,
    pub(crate) node: Fqn,
    /// The binding that would give it.
    binding: Fqn,
}

/// Whether the principal holds all that comes with the role on the node, and under no condition.
pub(crate) fn holds(principal: &Principal, role: BuiltinRole, node: &Fqn, bindings: &Bindings) -> bool {
    beyond(principal, node, &Rights::builtin(role), bindings).is_none()
}

/// The first right that somebody has in `after` and not before, and that the asker does not hold on the node.
pub(crate) fn excess(asker: &Asker<'_>, before: &Bindings, after: &Bindings) -> Option<Excess> {
    let giver = asker.principal.name()?;
    let (old, new) = (&*before.index, &*after.index);
    let bound = new.all().filter(|(subject, node, grant)| {
        let mut had = old.grants_of(subject);
        !had.any(|(on, held)| on == *node && same(held, grant))
    });
    let bound = bound.map(|(subject, node, grant)| (Cow::from(subject.as_str()), node, grant));
    let joined = new.memberships.gained(&old.memberships);
    let joined = joined.flat_map(|(member, team)| {
        let grants = new.grants_of(team);
        grants.map(move |(node, grant)| (member.clone(), node, grant))
    });
    bound.chain(joined).find_map(|(taker, node, grant)| {
        let (action, kind) = beyond(asker.principal, node, &grant.rights, before)?;
        Some(Excess {
            giver: giver.clone(),
            taker: taker.into_owned(),
            action,
            kind,
            node: node.clone(),
            binding: grant.binding.clone(),
        })
    })
}

/// The first right that `holder` has and the asker has not: whoever holds its token could do more than before.
pub(crate) fn lacks(asker: &Asker<'_>, holder: &Fqn, bindings: &Bindings) -> Option<Excess> {
    let giver = asker.principal.name()?;
    if giver == holder {
        return None;
    }
    let index = &bindings.index;
    let granted = index
        .subjects_of(holder)
        .flat_map(|subject| index.grants_of(subject));
    let granted = granted.map(|(node, grant)| (node, grant.rights.clone(), grant.binding.clone()));
    let uid = bindings.uid(holder);
    let owned = bindings
        .tree
        .iter()
        .filter(|(_, stored)| uid.is_some() && stored.owner == uid);
    let owned = owned.map(|(node, _)| (node, std::sync::Arc::new(Rights::owner()), node.clone()));
    granted.chain(owned).find_map(|(node, rights, binding)| {
        let (action, kind) = beyond(asker.principal, node, &rights, bindings)?;
        Some(Excess {
            giver: giver.clone(),
            taker: giver.to_string(),
            action,
            kind,
            node: node.clone(),
            binding,
        })
    })
}

/// The first right of an owner of the node that the asker has not, and so cannot hand over.
pub(crate) fn owns_more(asker: &Asker<'_>, owner: &Fqn, node: &Fqn, bindings: &Bindings) -> Option<Excess> {
    let giver = asker.principal.name()?;
    let (action, kind) = beyond(asker.principal, node, &Rights::owner(), bindings)?;
    Some(Excess {
        giver: giver.clone(),
        taker: owner.to_string(),
        action,
        kind,
        node: node.clone(),
        binding: node.clone(),
    })
}

/// A grant under the same condition, or under none, that gives as much.
fn same(held: &Grant, given: &Grant) -> bool {
    (held.condition.is_none() || held.condition == given.condition) && held.rights == given.rights
}

/// What of `rights` the principal does not hold on the node. What it holds under a condition does not count: it may
/// not hold tomorrow.
fn beyond(principal: &Principal, node: &Fqn, rights: &Rights, bindings: &Bindings) -> Option<(Action, Kind)> {
    let held = held(principal, node, bindings);
    let here = node.kind();
    let missing = |given: Actions, held: Actions| given.without(held).iter().next();
    if let Some(action) = missing(rights.node[here as usize], held.node[here as usize]) {
        return Some((action, here));
    }
    Kind::ALL.into_iter().find_map(|kind| {
        let action = missing(rights.below[kind as usize], held.below[kind as usize])?;
        Some((action, kind))
    })
}

/// All that a principal holds on a node, under no condition.
fn held(principal: &Principal, node: &Fqn, bindings: &Bindings) -> Rights {
    let mut held = Rights::NONE;
    let (Some(name), Some(uid)) = (principal.name(), principal.uid()) else {
        return Rights::builtin(BuiltinRole::Admin);
    };
    if bindings.uid(name) != Some(uid) {
        return held;
    }
    let mut add = |relation: Relation, rights: &Rights| {
        let here = match relation {
            Relation::Node => &rights.node,
            Relation::Below => &rights.below,
        };
        for (held, given) in held.node.iter_mut().zip(here) {
            *held = held.with(*given);
        }
        for (held, given) in held.below.iter_mut().zip(&rights.below) {
            *held = held.with(*given);
        }
    };
    bindings
        .index
        .find::<()>(name, node.as_str(), |_, relation, grant| {
            if grant.condition.is_none() {
                add(relation, &grant.rights);
            }
            None
        });
    if let Some((_, relation)) = bindings.owned(uid, node.as_str()) {
        add(relation, &Rights::owner());
    }
    held
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Excess {
            giver,
            taker,
            action,
            kind,
            node,
            binding,
        } = self;
        write!(
            f,
            "{giver} cannot give what it does not hold itself: through {binding}, {taker} would get {action} of {kind} \
             on {node}; ask somebody who is admin there"
        )
    }
}
