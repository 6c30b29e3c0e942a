//! Whether teams, roles and bindings name what exists, and whether teams nest without a circle.

use std::collections::BTreeSet;

use super::Tree;
use crate::finding::{Code, Finding};
use crate::intent::{Binding, RoleName, Spec, Team};
use crate::name::{Fqn, Kind};

/// Bindings and teams name subjects and roles that exist. They are findings of identities only: nothing that a
/// cluster runs depends on them.
pub(crate) fn check(tree: &Tree<'_>, findings: &mut Vec<Finding>) {
    for (name, resource) in tree {
        match &resource.spec {
            Spec::Binding(binding) => {
                subjects(tree, name, "spec.subjects", &binding.subjects, findings);
                findings.extend(role(tree, name, binding));
            }
            Spec::Team(team) => {
                subjects(tree, name, "spec.members", &team.members, findings);
                findings.extend(cycle(tree, name));
            }
            _ => {}
        }
    }
}

fn subjects(tree: &Tree<'_>, name: &Fqn, field: &str, subjects: &BTreeSet<Fqn>, findings: &mut Vec<Finding>) {
    let unknown = |subject: &&Fqn| !subject.kind().is_subject() || !tree.contains_key(subject);
    findings.extend(subjects.iter().filter(unknown).map(|subject| {
        Finding::error(
            name,
            field,
            Code::UnknownSubject,
            format!("{subject} is not a user, team or service account that exists; create it first, or correct the name"),
        )
    }));
}

/// A role of one's own is usable where it stands and below.
fn role(tree: &Tree<'_>, name: &Fqn, binding: &Binding) -> Option<Finding> {
    let RoleName::Own(role) = &binding.role else {
        return None;
    };
    let reason = if !tree.contains_key(role) {
        "does not exist; create it first, or correct the name"
    } else if !role.parent().is_some_and(|node| name.is_within(&node)) {
        "stands elsewhere; use a role of this node or of a node above it"
    } else {
        return None;
    };
    Some(Finding::error(
        name,
        "spec.role",
        Code::UnknownRole,
        format!("{role} {reason}"),
    ))
}

/// Told of each team in the circle, each time beginning with itself.
fn cycle(tree: &Tree<'_>, start: &Fqn) -> Option<Finding> {
    let path = path_back(tree, start)?;
    let names: Vec<&str> = path
        .iter()
        .map(|team| team.as_str())
        .chain([start.as_str()])
        .collect();
    let message = format!(
        "the team is a member of itself: {}; take one of them out",
        names.join(" holds ")
    );
    Some(Finding::error(start, "spec.members", Code::TeamCycle, message))
}

/// The teams from `start` to one that holds it again, the shortest way.
fn path_back<'a>(tree: &Tree<'a>, start: &'a Fqn) -> Option<Vec<&'a Fqn>> {
    let mut seen = BTreeSet::from([start]);
    let mut paths = std::collections::VecDeque::from([vec![start]]);
    while let Some(path) = paths.pop_front() {
        let last = path.last()?;
        for member in teams_in(tree, last) {
            if member == start {
                return Some(path);
            }
            if seen.insert(member) {
                paths.push_back(path.iter().copied().chain([member]).collect());
            }
        }
    }
    None
}

fn teams_in<'a>(tree: &Tree<'a>, team: &Fqn) -> impl Iterator<Item = &'a Fqn> {
    let members = tree.get(team).and_then(|resource| match &resource.spec {
        Spec::Team(Team { members, .. }) => Some(members),
        _ => None,
    });
    let members = members.into_iter().flatten();
    members.filter(|member| member.kind() == Kind::Team)
}
