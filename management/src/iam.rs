//! Who may do what: one pure decision over bindings, teams, roles and owners.
//!
//! A binding gives a role on the node that it stands below and on all below that. Whoever creates a resource owns it.
//! To change who may do what on a node takes `set-policy` there, and nobody gives what it does not hold itself.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use tombolo_compiler::intent::{BuiltinRole, Intent, RoleName};
use tombolo_compiler::name::{Fqn, Kind};
use uuid::Uuid;

mod access;
mod condition;
mod grant;
mod index;
mod role;
mod team;

pub use tombolo_compiler::intent::Action;

pub(crate) use access::access;
pub(crate) use condition::check as check_condition;
pub(crate) use grant::{excess, holds, lacks, owns_more};
use index::{Index, relation, upwards};
use role::{Actions, Relation, Rights};

use crate::realm::Opened;
use crate::snapshot::Tree;

/// How many whom to ask are named.
const ASKED_MAX: usize = 3;

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principal {
    /// Management itself: it creates the organization and records what clusters do.
    System,
    User {
        name: Fqn,
        uid: Uuid,
    },
    ServiceAccount {
        name: Fqn,
        uid: Uuid,
    },
    /// Whoever has the sealed credential.
    BreakGlass {
        organization: Fqn,
        uid: Uuid,
    },
}

/// Who calls, from where, and when: what a condition may look at.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    pub principal: &'a Principal,
    /// The address that the request came from; empty when it came from nowhere.
    pub source: &'a str,
    pub time: DateTime<Utc>,
    /// By the second wall, of which nothing here decides.
    pub(crate) opened: &'a Opened,
}

/// Where somebody may do something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reach {
    /// At and below these, perhaps, and nowhere else.
    pub(crate) nodes: Vec<Fqn>,
    /// Whether it may on all of them and on everything below them. Otherwise a role is of some kinds only, or has a scope, or
    /// a binding a condition, and [`may`] tells of each name.
    pub(crate) is_whole: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Allow(Because),
    Deny(Lack),
}

/// What settled it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Because {
    /// It is management itself.
    System,
    BreakGlass,
    /// Everybody keeps its own tokens and keys.
    OwnTokens,
    /// It owns the node, or one above it.
    Owner {
        node: Fqn,
    },
    Binding {
        binding: Fqn,
        role: RoleName,
        /// The principal, or the team through which it is reached.
        subject: Fqn,
    },
}

/// What is missing, and who could give it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lack {
    /// Of that name there is another one now, or none.
    Gone { principal: Fqn },
    /// The sealed credential is for that organization.
    Elsewhere { organization: Fqn },
    Role {
        principal: Fqn,
        action: Action,
        node: Fqn,
        /// The least one that comes with Tombolo and would do.
        role: BuiltinRole,
        /// Those who may change the bindings, as far as the principal may see them.
        ask: Vec<Fqn>,
        /// Bindings that would allow it if their conditions held.
        unmet: Vec<Fqn>,
    },
}

/// The bindings of a snapshot, and the tree whose uids and owners they are decided by.
#[derive(Clone, Debug, Default)]
pub struct Bindings {
    index: Arc<Index>,
    /// Users and service accounts.
    principals: Arc<BTreeMap<Uuid, Fqn>>,
    tree: Tree,
}

impl Bindings {
    /// Of an intent that has all identities.
    pub(crate) fn of(intent: &Intent, tree: Tree) -> Bindings {
        let principals = intent.keys().filter(|name| name.kind().is_principal());
        let principals = principals
            .filter_map(|name| Some((tree.get(name)?.uid, name.clone())))
            .collect();
        Bindings {
            index: Arc::new(Index::of(intent)),
            principals: Arc::new(principals),
            tree,
        }
    }

    /// The same bindings over a tree in which no identity has changed.
    pub(crate) fn over(&self, tree: Tree) -> Bindings {
        Bindings {
            index: self.index.clone(),
            principals: self.principals.clone(),
            tree,
        }
    }

    /// The user or service account of that uid.
    pub(crate) fn principal(&self, uid: Uuid) -> Option<Principal> {
        let name = self.principals.get(&uid)?.clone();
        Some(Principal::of(name, uid))
    }

    /// Whether both give the same to the same, but for what owners have.
    pub(crate) fn give_the_same(&self, other: &Bindings) -> bool {
        Arc::ptr_eq(&self.index, &other.index)
    }

    /// What each user and service account was given, itself or through teams: on which node, and whether it is more than
    /// to look.
    pub(crate) fn given(&self) -> impl Iterator<Item = (Uuid, &Fqn, bool)> {
        self.principals.iter().flat_map(|(uid, name)| {
            let subjects = self.index.subjects_of(name);
            let grants = subjects.flat_map(|subject| self.index.grants_of(subject));
            grants.map(|(node, grant)| (*uid, node, grant.rights.change()))
        })
    }

    pub(crate) fn name_of(&self, uid: Uuid) -> Option<&Fqn> {
        self.principals.get(&uid)
    }

    /// Whether somebody has that role on the node itself, whatever the hour and wherever from.
    pub(crate) fn has_holder(&self, role: BuiltinRole, node: &Fqn) -> bool {
        self.index.has_holder(role, node)
    }

    /// The nodes on which the principal, or a team of it, was given a role: all that it may read without owning it
    /// stands at or below one of these.
    pub fn nodes_of<'a>(&'a self, principal: &'a Fqn) -> impl Iterator<Item = &'a Fqn> {
        self.index.nodes_of(principal)
    }

    /// Where a principal may do that by a binding, in the order of the names.
    pub(crate) fn reach(&self, principal: &Principal, action: Action) -> Reach {
        let (Some(name), Some(uid)) = (principal.name(), principal.uid()) else {
            let organization = self.tree.keys().next().map(Fqn::organization);
            return Reach {
                nodes: organization.into_iter().collect(),
                is_whole: true,
            };
        };
        let mut nodes: BTreeMap<&Fqn, bool> = BTreeMap::new();
        let subjects = self
            .index
            .subjects_of(name)
            .filter(|_| self.uid(name) == Some(uid));
        for (node, grant) in subjects.flat_map(|subject| self.index.grants_of(subject)) {
            let holds = |actions: &Actions| actions.holds(action);
            let (on, below) = (grant.rights.node[node.kind() as usize], grant.rights.below);
            if holds(&on) || below.iter().any(holds) {
                let is_whole = holds(&on) && below.iter().all(holds) && grant.condition.is_none();
                *nodes.entry(node).or_default() |= is_whole;
            }
        }
        let is_whole = |node: &Fqn| node.lineage().any(|above| nodes.get(&above) == Some(&true));
        Reach {
            is_whole: nodes.keys().all(|node| is_whole(node)),
            nodes: nodes.keys().copied().cloned().collect(),
        }
    }

    /// The teams of a principal, through other teams too.
    pub(crate) fn teams_of(&self, principal: &Fqn) -> &[Fqn] {
        self.index.memberships.teams(principal)
    }

    fn uid(&self, name: &Fqn) -> Option<Uuid> {
        self.tree.get(name).map(|stored| stored.uid)
    }

    /// The nearest node, of this one and those above it, that the uid owns.
    fn owned(&self, uid: Uuid, node: &str) -> Option<(&Fqn, Relation)> {
        upwards(node).find_map(|above| {
            let (name, stored) = self.tree.get_key_value(above)?;
            (stored.owner == Some(uid)).then(|| (name, relation(above, node)))
        })
    }
}

/// May the asker do that to `node`? A node that does not exist is decided like one that does, so that a denial
/// tells nothing.
pub fn decide(asker: &Asker<'_>, action: Action, node: &Fqn, bindings: &Bindings) -> Decision {
    match may(asker, action, node, bindings) {
        Some(because) => Decision::Allow(because),
        None => Decision::Deny(lack(asker, action, node, bindings)),
    }
}

/// [`decide`] without the words of a denial, for lists.
pub(crate) fn may(asker: &Asker<'_>, action: Action, node: &Fqn, bindings: &Bindings) -> Option<Because> {
    let (name, uid) = match asker.principal {
        Principal::System => return Some(Because::System),
        Principal::BreakGlass { organization, .. } => {
            return node.is_within(organization).then_some(Because::BreakGlass);
        }
        Principal::User { name, uid } | Principal::ServiceAccount { name, uid } => (name, *uid),
    };
    // By uid: whoever has the name now may be somebody else.
    if bindings.uid(name) != Some(uid) {
        return None;
    }
    if action == Action::Tokens && name == node {
        return Some(Because::OwnTokens);
    }
    let (action, node) = asked(action, node);
    let kind = node.kind();
    let granted = bindings
        .index
        .find(name, node.as_str(), |subject, relation, grant| {
            let holds = || match &grant.condition {
                None => true,
                Some(condition) => condition.holds(asker, bindings.teams_of(name), action, &node),
            };
            let allowed = grant.rights.allow(relation, kind, action) && holds();
            allowed.then(|| Because::Binding {
                binding: grant.binding.clone(),
                role: grant.role.clone(),
                subject: subject.clone(),
            })
        });
    granted.or_else(|| {
        let (owned, relation) = bindings.owned(uid, node.as_str())?;
        let allowed = Rights::owner().allow(relation, kind, action);
        allowed.then(|| Because::Owner { node: owned.clone() })
    })
}

/// Bindings and roles are the policy of the node that they stand below: whoever may set it may write them.
fn asked(action: Action, node: &Fqn) -> (Action, Fqn) {
    let writes = matches!(
        action,
        Action::Create | Action::Update | Action::Delete | Action::SetPolicy
    );
    match node.parent() {
        Some(parent) if writes && role::is_policy(node.kind()) => (Action::SetPolicy, parent),
        _ => (action, node.clone()),
    }
}

fn lack(asker: &Asker<'_>, action: Action, node: &Fqn, bindings: &Bindings) -> Lack {
    let (name, uid) = match asker.principal {
        Principal::User { name, uid } | Principal::ServiceAccount { name, uid } => (name, uid),
        Principal::BreakGlass { organization, .. } => {
            return Lack::Elsewhere {
                organization: organization.clone(),
            };
        }
        Principal::System => unreachable!("invariant: management itself lacks nothing"),
    };
    if bindings.uid(name) != Some(*uid) {
        return Lack::Gone {
            principal: name.clone(),
        };
    }
    let (wanted, on) = asked(action, node);
    let mut unmet = Vec::new();
    bindings
        .index
        .find::<()>(name, on.as_str(), |_, relation, grant| {
            if grant.rights.allow(relation, on.kind(), wanted) {
                unmet.push(grant.binding.clone());
            }
            None
        });
    Lack::Role {
        principal: name.clone(),
        action,
        node: node.clone(),
        role: role::least(wanted, on.kind()),
        ask: whom_to_ask(asker, &on, bindings),
        unmet,
    }
}

/// Who may set the policy of the node, of those whom the asker may see bound: elsewhere even their names tell.
fn whom_to_ask(asker: &Asker<'_>, node: &Fqn, bindings: &Bindings) -> Vec<Fqn> {
    let visible = node.lineage().find(|above| {
        may(asker, Action::Read, above, bindings).is_some() && bindings.tree.contains_key(above)
    });
    let Some(visible) = visible else {
        return Vec::new();
    };
    let mut ask: Vec<Fqn> = bindings
        .index
        .all()
        .filter(|(_, on, grant)| {
            let relation = relation(on.as_str(), visible.as_str());
            visible.is_within(on)
                && grant.condition.is_none()
                && grant.rights.allow(relation, visible.kind(), Action::SetPolicy)
                && may(asker, Action::Read, on, bindings).is_some()
        })
        .map(|(subject, _, _)| subject.clone())
        .collect();
    ask.sort();
    ask.dedup();
    ask.truncate(ASKED_MAX);
    ask
}

impl Asker<'_> {
    /// By the second wall. Everybody exists for itself.
    pub(crate) fn is_open(&self, node: &Fqn) -> bool {
        self.opened.has(node) || self.principal.name() == Some(node)
    }

    /// By both walls.
    pub(crate) fn may_read(&self, node: &Fqn, bindings: &Bindings) -> bool {
        may(self, Action::Read, node, bindings).is_some() && self.is_open(node)
    }
}

#[cfg(test)]
impl<'a> Asker<'a> {
    /// Now, and from nowhere.
    pub(crate) fn here(principal: &'a Principal) -> Asker<'a> {
        Asker {
            principal,
            source: "",
            time: Utc::now(),
            opened: &Opened::Everything,
        }
    }
}

impl Principal {
    /// The user or service account of that name.
    pub(crate) fn of(name: Fqn, uid: Uuid) -> Principal {
        match name.kind() {
            Kind::ServiceAccount => Principal::ServiceAccount { name, uid },
            _ => Principal::User { name, uid },
        }
    }

    /// `None` for who is not in the tree.
    pub fn name(&self) -> Option<&Fqn> {
        match self {
            Principal::System | Principal::BreakGlass { .. } => None,
            Principal::User { name, .. } | Principal::ServiceAccount { name, .. } => Some(name),
        }
    }

    /// `None` for management itself.
    pub fn uid(&self) -> Option<Uuid> {
        match self {
            Principal::System => None,
            Principal::User { uid, .. }
            | Principal::ServiceAccount { uid, .. }
            | Principal::BreakGlass { uid, .. } => Some(*uid),
        }
    }
}

impl Decision {
    pub fn is_allowed(&self) -> bool {
        matches!(self, Decision::Allow(_))
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Principal::System => f.write_str("system"),
            Principal::BreakGlass { .. } => f.write_str("break-glass"),
            Principal::User { name, .. } | Principal::ServiceAccount { name, .. } => {
                fmt::Display::fmt(name, f)
            }
        }
    }
}

impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Because::System => f.write_str("it is management itself"),
            Because::BreakGlass => f.write_str("it is the break-glass credential"),
            Because::OwnTokens => f.write_str("everybody keeps its own tokens"),
            Because::Owner { node } => write!(f, "it owns {node}"),
            Because::Binding {
                binding,
                role,
                subject,
            } => {
                write!(f, "{binding} gives {subject} the role {role}")
            }
        }
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (principal, action, node, role, ask, unmet) = match self {
            Lack::Gone { principal } => return write!(f, "{principal} does not exist any more"),
            Lack::Elsewhere { organization } => {
                return write!(f, "the break-glass credential is for {organization} alone");
            }
            Lack::Role {
                principal,
                action,
                node,
                role,
                ask,
                unmet,
            } => (principal, *action, node, role, ask, unmet),
        };
        write!(
            f,
            "{principal} needs the role {role} to {} {node}",
            phrase(action)
        )?;
        if !unmet.is_empty() {
            write!(f, ", and the condition of {} does not hold now", joined(unmet))?;
        }
        match ask.as_slice() {
            [] => f.write_str("; ask an administrator for a binding on it or on a node above it"),
            ask => write!(
                f,
                "; ask {} for a binding on it or on a node above it",
                joined(ask)
            ),
        }
    }
}

/// The verb as it stands before a name in a sentence.
fn phrase(action: Action) -> &'static str {
    match action {
        Action::Read => "read",
        Action::Create => "create",
        Action::Update => "update",
        Action::Delete => "delete",
        Action::SetPolicy => "set the policy of",
        Action::ReadAudit => "read the audit log of",
        Action::Tokens => "manage the tokens of",
        Action::Adopt => "adopt the database of",
    }
}

fn joined(names: &[Fqn]) -> String {
    let names: Vec<&str> = names.iter().map(Fqn::as_str).collect();
    names.join(" or ")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod matrix;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
