//! Teams made flat: who is a member of which, directly or through other teams.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tombolo_compiler::intent::{GroupName, Intent, Spec};
use tombolo_compiler::name::{Fqn, Kind};

/// The teams of each user, service account and group of the identity provider.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memberships {
    members: BTreeMap<Fqn, Arc<[Fqn]>>,
    groups: BTreeMap<GroupName, Arc<[Fqn]>>,
}

impl Memberships {
    pub(crate) fn of(intent: &Intent) -> Memberships {
        let mut within: BTreeMap<&Fqn, BTreeSet<&Fqn>> = BTreeMap::new();
        let mut by_group: BTreeMap<&GroupName, BTreeSet<&Fqn>> = BTreeMap::new();
        for (name, resource) in intent {
            let Spec::Team(team) = &resource.spec else {
                continue;
            };
            for member in &team.members {
                within.entry(member).or_default().insert(name);
            }
            for group in &team.groups {
                by_group.entry(group).or_default().insert(name);
            }
        }
        let closed = |direct: &BTreeSet<&Fqn>| -> Arc<[Fqn]> {
            let mut all = BTreeSet::new();
            let mut ahead: Vec<&Fqn> = direct.iter().copied().collect();
            while let Some(team) = ahead.pop() {
                if all.insert(team) {
                    ahead.extend(within.get(team).into_iter().flatten());
                }
            }
            all.into_iter().cloned().collect()
        };
        let mut direct: BTreeMap<&Fqn, BTreeSet<&Fqn>> = BTreeMap::new();
        for (member, teams) in &within {
            if member.kind() != Kind::Team {
                direct.entry(member).or_default().extend(teams);
            }
        }
        for (name, resource) in intent {
            if let Spec::User(user) = &resource.spec {
                for group in &user.groups {
                    if let Some(teams) = by_group.get(group) {
                        direct.entry(name).or_default().extend(teams);
                    }
                }
            }
        }
        Memberships {
            members: direct
                .into_iter()
                .map(|(member, teams)| (member.clone(), closed(&teams)))
                .collect(),
            groups: by_group
                .into_iter()
                .map(|(group, teams)| (group.clone(), closed(&teams)))
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

    /// Who is in which teams here and was not in `before`. Groups stand for those who will log in with them.
    pub(crate) fn gained<'a>(&'a self, before: &'a Memberships) -> impl Iterator<Item = (&'a str, &'a Fqn)> {
        let members = self.members.iter().flat_map(move |(member, teams)| {
            let had = before.teams(member);
            teams
                .iter()
                .filter(|team| !had.contains(team))
                .map(|team| (member.as_str(), team))
        });
        let groups = self.groups.iter().flat_map(move |(group, teams)| {
            let had = before.groups.get(group);
            let new = move |team: &&Fqn| !had.is_some_and(|had| had.contains(team));
            teams.iter().filter(new).map(|team| (group.as_str(), team))
        });
        members.chain(groups)
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

    fn memberships(teams: &[(&str, &[&str], &[&str])]) -> Memberships {
        let team = |(leaf, members, groups): &(&str, &[&str], &[&str])| {
            let members: Vec<Fqn> = members.iter().map(|leaf| name(leaf)).collect();
            json!({"name": name(&format!("teams/{leaf}")), "spec": {"members": members, "groups": groups}})
        };
        let ann = json!({"name": name("users/ann"), "spec": {"groups": ["eng"]}});
        let documents = teams.iter().map(team).chain([ann]);
        let resource = |document: Value| Arc::new(Resource::from_json(document).unwrap());
        let resources = documents.map(resource);
        Memberships::of(
            &resources
                .map(|resource| (resource.name.clone(), resource))
                .collect(),
        )
    }

    #[test]
    fn teams_nest_groups_join_and_a_circle_ends() {
        let all = memberships(&[
            ("a", &["users/bob", "teams/c"], &[]),
            ("b", &["teams/a"], &[]),
            ("c", &["teams/b", "users/eve"], &["eng"]),
        ]);
        let every = ["teams/a", "teams/b", "teams/c"].map(name);
        assert_eq!(all.teams(&name("users/bob")), every);
        assert_eq!(all.teams(&name("users/eve")), every);
        assert_eq!(all.teams(&name("users/ann")), every, "through a group");
        assert!(all.teams(&name("users/nobody")).is_empty());
        assert!(all.has_members(&name("teams/b")));
    }

    #[test]
    fn what_is_gained_names_members_and_groups() {
        let before = memberships(&[("a", &["users/bob"], &[]), ("b", &[], &[])]);
        let after = memberships(&[("a", &["users/bob"], &["ops"]), ("b", &["teams/a"], &[])]);
        let gained: Vec<(&str, &str)> = after
            .gained(&before)
            .map(|(who, team)| (who, team.leaf()))
            .collect();
        assert_eq!(
            gained,
            [("organizations/acme/users/bob", "b"), ("ops", "a"), ("ops", "b")]
        );
        assert_eq!(before.gained(&after).count(), 0);
    }
}
