//! Whether teams, roles and bindings name what exists, and whether teams nest without a circle. Nothing that a cluster
//! runs depends on it.

use std::collections::{BTreeSet, VecDeque};

use super::tree::Tree;
use crate::claims::Index;
use crate::finding::{Code, Finding};
use crate::intent::{Binding, RoleName, Spec, Team};
use crate::name::{Fqn, Kind};

pub(super) fn check_binding(tree: &Tree, name: &Fqn, binding: &Binding) -> Vec<Finding> {
    let mut findings = check_subjects(tree, name, "spec.subjects", &binding.subjects);
    findings.extend(check_role(tree, name, binding));
    findings
}

pub(super) fn check_team(tree: &Tree, name: &Fqn, team: &Team) -> Vec<Finding> {
    let mut findings = check_subjects(tree, name, "spec.members", &team.members);
    findings.extend(check_circle(tree, name));
    findings
}

/// The teams whose circles may go through `team`: those that hold it, through others too, and itself.
pub(super) fn holding(named_by: &Index<Fqn>, team: &Fqn) -> BTreeSet<Fqn> {
    let mut holding = BTreeSet::new();
    let mut ahead = vec![team.clone()];
    while let Some(held) = ahead.pop() {
        let holders = named_by.of(&held).filter(|holder| holder.kind() == Kind::Team);
        let new: Vec<Fqn> = holders
            .filter(|holder| !holding.contains(*holder))
            .cloned()
            .collect();
        holding.insert(held);
        ahead.extend(new);
    }
    holding
}

fn check_subjects(tree: &Tree, name: &Fqn, field: &str, subjects: &BTreeSet<Fqn>) -> Vec<Finding> {
    let unknown = |subject: &&Fqn| !subject.kind().is_subject() || tree.get(subject).is_none();
    let unknown = subjects.iter().filter(unknown);
    unknown
        .map(|subject| {
            let message = format!(
                "{subject} is not a user, team or service account that exists; create it first, or correct the name"
            );
            Finding::error(name, field, Code::UnknownSubject, message)
        })
        .collect()
}

/// A role of one's own is usable where it stands and below.
fn check_role(tree: &Tree, name: &Fqn, binding: &Binding) -> Option<Finding> {
    let RoleName::Own(role) = &binding.role else {
        return None;
    };
    let reason = if tree.get(role).is_none() {
        "does not exist; create it first, or correct the name"
    } else if !role.parent().is_some_and(|node| name.is_within(&node)) {
        "stands elsewhere; use a role of this node or of a node above it"
    } else {
        return None;
    };
    let message = format!("{role} {reason}");
    Some(Finding::error(name, "spec.role", Code::UnknownRole, message))
}

/// Told of each team in the circle, each time beginning with itself.
fn check_circle(tree: &Tree, start: &Fqn) -> Option<Finding> {
    let path = path_back(tree, start)?;
    let names: Vec<&str> = path.into_iter().chain([start]).map(Fqn::as_str).collect();
    let message = format!(
        "the team is a member of itself: {}; take one of them out",
        names.join(" holds ")
    );
    Some(Finding::error(start, "spec.members", Code::TeamCycle, message))
}

/// The teams from `start` to one that holds it again, the shortest way.
fn path_back<'a>(tree: &'a Tree, start: &'a Fqn) -> Option<Vec<&'a Fqn>> {
    let mut seen = BTreeSet::from([start]);
    let mut paths = VecDeque::from([vec![start]]);
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

fn teams_in<'a>(tree: &'a Tree, team: &Fqn) -> impl Iterator<Item = &'a Fqn> + use<'a> {
    let members = match tree.spec(team) {
        Some(Spec::Team(Team { members, .. })) => Some(members),
        _ => None,
    };
    let members = members.into_iter().flatten();
    members.filter(|member| member.kind() == Kind::Team)
}
