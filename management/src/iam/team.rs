//! Teams made flat: who is a member of which, directly, through a group of the provider, or through other teams.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tombolo_compiler::intent::{Intent, ProviderGroup, Spec};
use tombolo_compiler::name::Fqn;

/// The teams of each user and service account, and of each of the provider's groups, whoever is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memberships {
    members: BTreeMap<Fqn, Arc<[Fqn]>>,
    groups: BTreeMap<ProviderGroup, Arc<[Fqn]>>,
}

impl Memberships {
    pub(crate) fn of(intent: &Intent) -> Memberships {
        let mut within: BTreeMap<&Fqn, BTreeSet<&Fqn>> = BTreeMap::new();
        let mut by_group: BTreeMap<&ProviderGroup, BTreeSet<&Fqn>> = BTreeMap::new();
        for (name, resource) in intent {
            if let Spec::Team(team) = &resource.spec {
                for member in &team.members {
                    within.entry(member).or_default().insert(name);
                }
                for group in &team.groups {
                    by_group.entry(group).or_default().insert(name);
                }
            }
        }
        for (name, resource) in intent {
            if let Spec::User(user) = &resource.spec {
                let teams = user.groups.iter().filter_map(|group| by_group.get(group));
                for team in teams.flatten() {
                    within.entry(name).or_default().insert(team);
                }
            }
        }
        let closed = |direct: &BTreeSet<&Fqn>| -> Arc<[Fqn]> {
            let mut all = direct.clone();
            let mut ahead: Vec<&Fqn> = direct.iter().copied().collect();
            while let Some(next) = ahead.pop() {
                let teams = within.get(next).into_iter().flatten().copied();
                ahead.extend(teams.filter(|team| all.insert(*team)));
            }
            all.into_iter().cloned().collect()
        };
        let members = within.iter().filter(|(member, _)| member.kind().is_principal());
        Memberships {
            members: members
                .map(|(member, direct)| ((*member).clone(), closed(direct)))
                .collect(),
            groups: by_group
                .iter()
                .map(|(group, direct)| ((*group).clone(), closed(direct)))
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

    /// Who is in which teams here and was not in `before`; also a group that nobody is in yet, for whoever will be.
    pub(crate) fn gained<'a>(
        &'a self,
        before: &'a Memberships,
    ) -> impl Iterator<Item = (Cow<'a, str>, &'a Fqn)> {
        let members = self.members.iter().flat_map(move |(member, teams)| {
            let new = beyond(teams, before.teams(member));
            new.map(move |team| (Cow::from(member.as_str()), team))
        });
        let groups = self.groups.iter().flat_map(move |(group, teams)| {
            let had = before.groups.get(group).map_or(&[][..], |teams| teams);
            let new = beyond(teams, had);
            new.map(move |team| {
                (
                    Cow::from(format!("the provider's group {}", group.as_str())),
                    team,
                )
            })
        });
        members.chain(groups)
    }
}

fn beyond<'a>(teams: &'a [Fqn], had: &'a [Fqn]) -> impl Iterator<Item = &'a Fqn> {
    teams.iter().filter(|team| !had.contains(team))
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
        let gained: Vec<(Cow<'_, str>, &Fqn)> = after.gained(&before).collect();
        assert_eq!(gained, [(name("users/bob").as_str().into(), &name("teams/b"))]);
        assert_eq!(before.gained(&after).count(), 0);
    }

    #[test]
    fn who_is_in_a_group_of_the_provider_is_in_its_teams() {
        let of = |groups: Value, team: Value| {
            let documents = [
                json!({"name": name("users/bob"), "spec": {"groups": groups}}),
                json!({"name": name("teams/a"), "spec": {"groups": team}}),
                json!({"name": name("teams/b"), "spec": {"members": [name("teams/a")]}}),
            ];
            let resources = documents.map(|document| Arc::new(Resource::from_json(document).unwrap()));
            let resources = resources.into_iter();
            Memberships::of(
                &resources
                    .map(|resource| (resource.name.clone(), resource))
                    .collect(),
            )
        };
        let bob = name("users/bob");
        let both = ["teams/a", "teams/b"].map(name);
        let ops = of(json!(["dev", "ops"]), json!(["ops"]));
        assert_eq!(ops.teams(&bob), both);
        assert!(ops.has_members(&name("teams/b")));
        for other in [of(json!(["dev"]), json!(["ops"])), of(json!([]), json!([]))] {
            assert!(other.teams(&bob).is_empty());
            assert!(!other.has_members(&name("teams/b")));
        }
        // Of a group that nobody is in.
        let after = of(json!(["dev"]), json!(["ops"]));
        let before = of(json!(["dev"]), json!([]));
        let gained: Vec<(Cow<'_, str>, &Fqn)> = after.gained(&before).collect();
        let ops = || Cow::from("the provider's group ops");
        assert_eq!(gained, [(ops(), &both[0]), (ops(), &both[1])]);
    }
}
