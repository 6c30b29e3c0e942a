//! Teams made flat: who is a member of which, directly or through other teams.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tombolo_compiler::intent::{Intent, Spec};
use tombolo_compiler::name::Fqn;

/// The teams of each user and service account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memberships {
    members: BTreeMap<Fqn, Arc<[Fqn]>>,
}

impl Memberships {
    pub(crate) fn of(intent: &Intent) -> Memberships {
        let mut within: BTreeMap<&Fqn, BTreeSet<&Fqn>> = BTreeMap::new();
        for (name, resource) in intent {
            if let Spec::Team(team) = &resource.spec {
                for member in &team.members {
                    within.entry(member).or_default().insert(name);
                }
            }
        }
        let closed = |member: &Fqn| -> Arc<[Fqn]> {
            let mut all = BTreeSet::new();
            let mut ahead = vec![member];
            while let Some(next) = ahead.pop() {
                let teams = within.get(next).into_iter().flatten().copied();
                ahead.extend(teams.filter(|team| all.insert(*team)));
            }
            all.into_iter().cloned().collect()
        };
        let members = within.keys().filter(|member| member.kind().is_principal());
        Memberships {
            members: members
                .map(|member| ((*member).clone(), closed(member)))
                .collect(),
        }
    }

    pub(crate) fn teams(&self, member: &Fqn) -> &[Fqn] {
        self.members.get(member).map_or(&[], |teams| teams)
    }

    pub(crate) fn members_of(&self, team: &Fqn) -> Vec<Fqn> {
        let members = self.members.iter().filter(|(_, teams)| teams.contains(team));
        members.map(|(member, _)| member.clone()).collect()
    }

    pub(crate) fn has_members(&self, team: &Fqn) -> bool {
        self.members.values().any(|teams| teams.contains(team))
    }

    /// Who is in which teams here and was not in `before`.
    pub(crate) fn gained<'a>(&'a self, before: &'a Memberships) -> impl Iterator<Item = (&'a Fqn, &'a Fqn)> {
        self.members.iter().flat_map(move |(member, teams)| {
            let had = before.teams(member);
            let new = teams.iter().filter(|team| !had.contains(team));
            new.map(move |team| (member, team))
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::{Value, json};
    use tombolo_compiler::intent::Resource;

    use super::*;

    fn name(leaf: &str) -> Fqn {
        format!("organizations/acme/{leaf}").parse().unwrap()
    }

    fn memberships(teams: &[(&str, &[&str])]) -> Memberships {
        let team = |(leaf, members): &(&str, &[&str])| {
            let members: Vec<Fqn> = members.iter().map(|leaf| name(leaf)).collect();
            json!({"name": name(&format!("teams/{leaf}")), "spec": {"members": members}})
        };
        let resource = |document: Value| Arc::new(Resource::from_json(document).unwrap());
        let resources = teams.iter().map(team).map(resource);
        Memberships::of(
            &resources
                .map(|resource| (resource.name.clone(), resource))
                .collect(),
        )
    }

    #[test]
    fn teams_nest_and_a_circle_ends() {
        let all = memberships(&[
            ("a", &["users/bob", "teams/c"]),
            ("b", &["teams/a"]),
            ("c", &["teams/b", "serviceaccounts/ci"]),
        ]);
        let every = ["teams/a", "teams/b", "teams/c"].map(name);
        assert_eq!(all.teams(&name("users/bob")), every);
        assert_eq!(all.teams(&name("serviceaccounts/ci")), every);
        assert!(all.teams(&name("users/nobody")).is_empty());
        assert!(all.has_members(&name("teams/b")));
    }

    #[test]
    fn a_team_that_is_nested_brings_its_members_along() {
        let before = memberships(&[("a", &["users/bob"]), ("b", &[])]);
        let after = memberships(&[("a", &["users/bob"]), ("b", &["teams/a"])]);
        let gained: Vec<(&Fqn, &Fqn)> = after.gained(&before).collect();
        assert_eq!(gained, [(&name("users/bob"), &name("teams/b"))]);
        assert_eq!(before.gained(&after).count(), 0);
    }
}
