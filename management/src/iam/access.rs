//! Who may do what on one node, and by which binding: the answer to `…:access`.

use serde::Serialize;
use tombolo_compiler::intent::Action;
use tombolo_compiler::name::Fqn;

use super::Bindings;
use super::index::relation;
use super::role::{Actions, Relation, Rights};

/// One way in which somebody may do something on the node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Access {
    /// A user, a service account, or a team, whose members are given beside it.
    pub(crate) subject: Fqn,
    pub(crate) role: String,
    /// The verbs that it allows on the node itself.
    pub(crate) verbs: Vec<Action>,
    /// What gives it; nothing for the owner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) binding: Option<Fqn>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) condition: Option<String>,
    /// Of a team: everybody in it, through other teams too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) members: Vec<Fqn>,
}

/// In the order of the subjects.
pub(crate) fn access(node: &Fqn, bindings: &Bindings) -> Vec<Access> {
    let kind = node.kind() as usize;
    let verbs = |relation: Relation, rights: &Rights| -> Actions {
        match relation {
            Relation::Node => rights.node[kind],
            Relation::Below => rights.below[kind],
        }
    };
    let granted = bindings.index.all().filter(|(_, on, _)| node.is_within(on));
    let granted = granted.map(|(subject, on, grant)| Access {
        subject: subject.clone(),
        role: grant.role.to_string(),
        verbs: verbs(relation(on.as_str(), node.as_str()), &grant.rights)
            .iter()
            .collect(),
        binding: Some(grant.binding.clone()),
        condition: grant
            .condition
            .as_ref()
            .map(|condition| condition.text().to_owned()),
        members: bindings.index.memberships.members_of(subject),
    });
    let owners = node.lineage().filter_map(|above| {
        let owner = bindings.tree.get(&above)?.owner?;
        let subject = bindings.name_of(owner)?.clone();
        let verbs = verbs(relation(above.as_str(), node.as_str()), &Rights::owner());
        Some(Access {
            subject,
            role: "owner".to_owned(),
            verbs: verbs.iter().collect(),
            binding: None,
            condition: None,
            members: Vec::new(),
        })
    });
    let mut all: Vec<Access> = granted
        .chain(owners)
        .filter(|access| !access.verbs.is_empty())
        .collect();
    all.sort();
    all
}
