//! The bindings of a tree, ready to be asked: by subject and by node, with roles and teams made flat.

use std::collections::BTreeMap;
use std::sync::Arc;

use tombolo_compiler::intent::{BuiltinRole, Intent, RoleName, Spec};
use tombolo_compiler::name::{Fqn, Kind};

use super::condition::Compiled;
use super::role::{Relation, Rights};
use super::team::Memberships;

/// What one binding gives each of its subjects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) binding: Fqn,
    pub(crate) role: RoleName,
    pub(crate) rights: Arc<Rights>,
    pub(crate) condition: Option<Arc<Compiled>>,
}

type ByNode = BTreeMap<Fqn, Vec<Grant>>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Index {
    grants: BTreeMap<Fqn, ByNode>,
    pub(crate) memberships: Memberships,
}

impl Index {
    pub(crate) fn of(intent: &Intent) -> Index {
        let mut index = Index {
            grants: BTreeMap::new(),
            memberships: Memberships::of(intent),
        };
        let builtin: BTreeMap<BuiltinRole, Arc<Rights>> = BuiltinRole::ALL
            .into_iter()
            .map(|role| (role, Arc::new(Rights::builtin(role))))
            .collect();
        let mut own = BTreeMap::new();
        for (name, resource) in intent {
            if let Spec::Role(role) = &resource.spec {
                own.insert(name, Arc::new(Rights::own(role)));
            }
        }
        for (name, resource) in intent {
            let Spec::Binding(binding) = &resource.spec else {
                continue;
            };
            let Some(node) = name.parent() else {
                continue;
            };
            let rights = match &binding.role {
                RoleName::Builtin(role) => builtin.get(role),
                RoleName::Own(role) => own.get(role),
            };
            // A role that is gone gives nothing; the binding has a finding.
            let Some(rights) = rights else {
                continue;
            };
            let grant = Grant {
                binding: name.clone(),
                role: binding.role.clone(),
                rights: rights.clone(),
                condition: binding
                    .condition
                    .as_ref()
                    .map(|text| Arc::new(Compiled::of(text))),
            };
            for subject in &binding.subjects {
                let nodes = index.grants.entry(subject.clone()).or_default();
                nodes.entry(node.clone()).or_default().push(grant.clone());
            }
        }
        index
    }

    /// The principal itself and its teams: all that a grant may name to reach it.
    pub(crate) fn subjects_of<'a>(&'a self, principal: &'a Fqn) -> impl Iterator<Item = &'a Fqn> {
        [principal].into_iter().chain(self.memberships.teams(principal))
    }

    /// The first answer of `pick` over the grants that concern `node`, nearest first: it is told who is named and
    /// whether the grant stands on the node itself.
    pub(crate) fn find<'a, T>(
        &'a self,
        principal: &'a Fqn,
        node: &str,
        mut pick: impl FnMut(&'a Fqn, Relation, &'a Grant) -> Option<T>,
    ) -> Option<T> {
        let named: Vec<(&Fqn, &ByNode)> = self
            .subjects_of(principal)
            .filter_map(|subject| Some((subject, self.grants.get(subject)?)))
            .collect();
        for above in upwards(node) {
            for (subject, nodes) in &named {
                for grant in nodes.get(above).into_iter().flatten() {
                    if let Some(picked) = pick(subject, relation(above, node), grant) {
                        return Some(picked);
                    }
                }
            }
        }
        None
    }

    /// Every grant, with its subject and its node.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&Fqn, &Fqn, &Grant)> {
        self.grants.iter().flat_map(|(subject, nodes)| {
            let each = nodes.iter();
            each.flat_map(move |(node, grants)| grants.iter().map(move |grant| (subject, node, grant)))
        })
    }

    pub(crate) fn grants_of(&self, subject: &Fqn) -> impl Iterator<Item = (&Fqn, &Grant)> {
        let nodes = self.grants.get(subject).into_iter().flatten();
        nodes.flat_map(|(node, grants)| grants.iter().map(move |grant| (node, grant)))
    }

    pub(crate) fn nodes_of<'a>(&'a self, principal: &'a Fqn) -> impl Iterator<Item = &'a Fqn> {
        let named = self
            .subjects_of(principal)
            .filter_map(|subject| self.grants.get(subject));
        named.flat_map(BTreeMap::keys)
    }

    /// Whether somebody has that role on the node itself, whatever the hour and wherever from.
    pub(crate) fn has_holder(&self, role: BuiltinRole, node: &Fqn) -> bool {
        self.all().any(|(subject, on, grant)| {
            let somebody = match subject.kind() {
                Kind::Team => self.memberships.has_members(subject),
                _ => true,
            };
            on == node && grant.role == RoleName::Builtin(role) && grant.condition.is_none() && somebody
        })
    }
}

/// The node and those above it, nearest first, without making a name of each.
pub(crate) fn upwards(node: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(node), |below| {
        let (collection, _) = below.rsplit_once('/')?;
        collection.rsplit_once('/').map(|(above, _)| above)
    })
}

pub(crate) fn relation(above: &str, node: &str) -> Relation {
    match above.len() == node.len() {
        true => Relation::Node,
        false => Relation::Below,
    }
}
