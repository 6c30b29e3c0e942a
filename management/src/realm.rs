//! What the second wall knows of the first: which principal may read, and which may also write, in which realm. Coarser
//! than roles, on purpose: it keeps tenants apart when the decision in front of it is wrong.

use std::collections::BTreeMap;
use std::sync::Arc;

use tombolo_compiler::name::{Fqn, Kind};
use tombolo_compiler::persistent::Map;
use uuid::Uuid;

use crate::iam::Bindings;
use crate::snapshot::Stored;

/// The realm that stands for all of the organization.
const EVERYWHERE: &str = "*";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Access {
    Read,
    Write,
}

/// How much each principal owns, by realm.
#[derive(Clone, Debug, Default)]
pub(crate) struct Holdings(Map<(Uuid, String), usize>);

/// By principal and realm.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Realms(pub(crate) BTreeMap<(Uuid, String), Access>);

/// The realms of which a caller sees rows, as Postgres has told it: what is answered from memory stays within them too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Opened {
    Everything,
    /// Sorted.
    Realms(Arc<[String]>),
}

/// What leads from some realms to others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RealmChange {
    pub(crate) put: Vec<(Uuid, String, Access)>,
    pub(crate) removed: Vec<(Uuid, String)>,
}

impl Holdings {
    pub(crate) fn insert(&mut self, stored: &Stored) {
        if let Some(key) = holding(stored) {
            let held = self.0.get(&key).copied().unwrap_or_default();
            self.0.insert(key, held + 1);
        }
    }

    pub(crate) fn remove(&mut self, stored: &Stored) {
        let Some(key) = holding(stored) else {
            return;
        };
        match self.0.get(&key).copied().unwrap_or_default() {
            0 | 1 => self.0.remove(&key),
            held => self.0.insert(key, held - 1),
        };
    }

    /// Whether both own in the same realms, however much.
    pub(crate) fn same_realms(&self, other: &Holdings) -> bool {
        self.0.diff(&other.0, |_, _| true).is_empty()
    }
}

impl Realms {
    /// Whoever was given something on a node comes into the realm that the node stands in, or into everything when it
    /// stands on the organization itself; and so does whoever owns something there.
    pub(crate) fn of(bindings: &Bindings, owned: &Holdings) -> Realms {
        let given = bindings.given().map(|(principal, node, changes)| {
            let access = if changes { Access::Write } else { Access::Read };
            (principal, realm_of(node), access)
        });
        let exists = |principal: &Uuid| bindings.name_of(*principal).is_some();
        let owners = owned.0.keys().filter(|(principal, _)| exists(principal));
        let owners = owners.map(|(principal, realm)| (*principal, realm.clone(), Access::Write));
        let mut realms = Realms::default();
        for (principal, realm, access) in given.chain(owners) {
            let held = realms.0.entry((principal, realm)).or_insert(access);
            *held = access.max(*held);
        }
        realms
    }

    /// Also to somebody who is not in the tree.
    pub(crate) fn open_everything(&mut self, principal: Uuid) {
        self.0.insert((principal, EVERYWHERE.to_owned()), Access::Write);
    }

    pub(crate) fn to(&self, after: &Realms) -> RealmChange {
        let put = after
            .0
            .iter()
            .filter(|(key, access)| self.0.get(key) != Some(access));
        let removed = self.0.keys().filter(|key| !after.0.contains_key(key));
        RealmChange {
            put: put
                .map(|((uid, realm), access)| (*uid, realm.clone(), *access))
                .collect(),
            removed: removed.cloned().collect(),
        }
    }
}

impl Opened {
    pub(crate) fn of(mut realms: Vec<String>) -> Opened {
        if realms.iter().any(|realm| realm == EVERYWHERE) {
            return Opened::Everything;
        }
        realms.sort_unstable();
        Opened::Realms(realms.into())
    }

    pub(crate) fn has(&self, node: &Fqn) -> bool {
        match self {
            Opened::Everything => true,
            Opened::Realms(realms) => {
                let realm = stands_in(node);
                realms
                    .binary_search_by(|opened| opened.as_str().cmp(realm))
                    .is_ok()
            }
        }
    }
}

impl RealmChange {
    pub(crate) fn is_empty(&self) -> bool {
        self.put.is_empty() && self.removed.is_empty()
    }
}

/// The owner, and the realm.
fn holding(stored: &Stored) -> Option<(Uuid, String)> {
    Some((stored.owner?, realm_of(stored.name())))
}

/// What is bound on a cluster or a user opens the realm of what stands outside of tenants, and no tenant.
fn realm_of(node: &Fqn) -> String {
    match node.ancestor(Kind::Tenant) {
        Some(tenant) => tenant.to_string(),
        None if node.kind() == Kind::Organization => EVERYWHERE.to_owned(),
        None => node.organization().to_string(),
    }
}

/// The tenant, or else the organization: what a row's realm is. Asked for every node that is shown.
fn stands_in(node: &Fqn) -> &str {
    let mut realm = node.as_str();
    for above in std::iter::once(realm).chain(node.above()) {
        if above.rsplit('/').nth(1) == Some(Kind::Tenant.collection()) {
            return above;
        }
        realm = above;
    }
    realm
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use chrono::Utc;
    use serde_json::{Value, json};
    use tombolo_compiler::intent::Resource;
    use tombolo_proto::held::Version;

    use super::*;
    use crate::snapshot::{Delta, Snapshot, etag};

    const ACME: &str = "organizations/acme";
    const ANN: Uuid = Uuid::from_u128(1);
    const BOB: Uuid = Uuid::from_u128(2);
    const CI: Uuid = Uuid::from_u128(3);

    fn stored(uid: Uuid, document: Value) -> Stored {
        Stored {
            resource: Arc::new(Resource::from_json(document).unwrap()),
            uid,
            etag: etag(uid, 1),
            revision: 1,
            created_at: Utc::now(),
            updated_at: Utc::now(),
            managed: None,
            owner: None,
        }
    }

    fn owned(owner: Uuid, name: &str) -> Stored {
        Stored {
            owner: Some(owner),
            ..stored(Uuid::now_v7(), json!({ "name": name }))
        }
    }

    fn binding(node: &str, role: &str, subject: &str) -> Stored {
        let name = format!("{node}/bindings/b{}", Uuid::now_v7().simple());
        let subjects = json!([format!("{ACME}/{subject}")]);
        stored(
            Uuid::now_v7(),
            json!({"name": name, "spec": {"role": role, "subjects": subjects}}),
        )
    }

    /// Users, a service account in the team `inner`, and that in the team `outer`.
    fn identities() -> Vec<Stored> {
        let team = |leaf: &str, member: &str| {
            let members = [format!("{ACME}/{member}")];
            let document = json!({"name": format!("{ACME}/teams/{leaf}"), "spec": {"members": members}});
            stored(Uuid::now_v7(), document)
        };
        vec![
            stored(ANN, json!({"name": format!("{ACME}/users/ann")})),
            stored(BOB, json!({"name": format!("{ACME}/users/bob")})),
            stored(CI, json!({"name": format!("{ACME}/serviceaccounts/ci")})),
            team("inner", "serviceaccounts/ci"),
            team("outer", "teams/inner"),
        ]
    }

    fn advance(before: &Snapshot, put: Vec<Stored>, removed: Vec<Fqn>) -> Snapshot {
        let version = Version {
            epoch: 1,
            revision: before.version.revision + 1,
        };
        let delta = Delta {
            put,
            removed,
            ..Delta::default()
        };
        before.advance(version, delta, None)
    }

    fn snapshot(more: Vec<Stored>) -> Snapshot {
        let mut all = identities();
        all.extend(more);
        advance(&Snapshot::empty(), all, Vec::new())
    }

    /// Of those in the tree.
    fn realms(snapshot: &Snapshot) -> BTreeMap<(Uuid, String), Access> {
        let mut realms = snapshot.realms().0;
        let sealed = crate::break_glass::uid(&ACME.parse().unwrap());
        assert_eq!(
            realms.remove(&(sealed, EVERYWHERE.to_owned())),
            Some(Access::Write)
        );
        realms
    }

    #[test]
    fn a_binding_opens_the_realm_that_its_node_stands_in() {
        use Access::{Read, Write};
        let pay = format!("{ACME}/tenants/pay");
        let group = format!("{pay}/workspaces/shop/trafficgroups/web");
        let cluster = format!("{ACME}/clusters/us");
        for (node, role, realm, access) in [
            (ACME, "reader", "*", Read),
            (ACME, "auditor", "*", Read),
            (ACME, "admin", "*", Write),
            (&pay, "reader", &pay, Read),
            (&pay, "writer", &pay, Write),
            (&pay, "security-admin", &pay, Write),
            (&group, "traffic-admin", &pay, Write),
            (&cluster, "reader", ACME, Read),
            (&cluster, "admin", ACME, Write),
        ] {
            let all = snapshot(vec![binding(node, role, "users/ann")]);
            let expected = BTreeMap::from([((ANN, realm.to_owned()), access)]);
            assert_eq!(realms(&all), expected, "{role} on {node}");
        }
    }

    #[test]
    fn roles_of_ones_own_teams_and_owners_open_realms_too() {
        use Access::{Read, Write};
        let pay = format!("{ACME}/tenants/pay");
        let role = |verb: &str| {
            let document =
                json!({"name": format!("{ACME}/roles/own"), "spec": {"rules": [{"verbs": [verb]}]}});
            stored(Uuid::now_v7(), document)
        };
        let own = format!("{ACME}/roles/own");
        for (case, more, expected) in [
            (
                "a role that looks",
                vec![role("read-audit"), binding(&pay, &own, "users/ann")],
                vec![(ANN, &*pay, Read)],
            ),
            (
                "a role that changes",
                vec![role("set-policy"), binding(&pay, &own, "users/ann")],
                vec![(ANN, &*pay, Write)],
            ),
            (
                "a team in a team",
                vec![binding(&pay, "writer", "teams/outer")],
                vec![(CI, &*pay, Write)],
            ),
            (
                "an owner",
                vec![
                    owned(BOB, &format!("{pay}/workspaces/w/trafficgroups/cart")),
                    owned(BOB, &format!("{ACME}/teams/own")),
                ],
                vec![(BOB, ACME, Write), (BOB, &*pay, Write)],
            ),
            (
                "an owner who is gone",
                vec![owned(Uuid::from_u128(9), &pay)],
                vec![],
            ),
        ] {
            let expected: BTreeMap<(Uuid, String), Access> = expected
                .into_iter()
                .map(|(principal, realm, access)| ((principal, realm.to_owned()), access))
                .collect();
            assert_eq!(realms(&snapshot(more)), expected, "{case}");
        }
    }

    #[test]
    fn the_greater_access_counts_and_nobody_who_is_gone_has_any() {
        let pay = format!("{ACME}/tenants/pay");
        let all = snapshot(vec![
            binding(&pay, "writer", "users/ann"),
            binding(&format!("{pay}/workspaces/shop"), "reader", "users/ann"),
            binding(&pay, "admin", "users/nobody"),
        ]);
        let expected = BTreeMap::from([((ANN, pay), Access::Write)]);
        assert_eq!(realms(&all), expected);
    }

    #[test]
    fn a_write_changes_what_its_rights_change_and_else_nothing() {
        let pay = format!("{ACME}/tenants/pay");
        let bound = binding(&pay, "reader", "users/ann");
        let removed = vec![bound.name().clone()];
        let before = snapshot(vec![bound, binding(&pay, "reader", "users/bob")]);
        let document = json!({"name": format!("{pay}/workspaces/shop"), "spec": {"namespaces": []}});
        let after = advance(&before, vec![stored(Uuid::now_v7(), document)], Vec::new());
        assert!(before.realms_to(&after).is_empty());

        let after = advance(&before, vec![binding(&pay, "admin", "users/bob")], removed);
        let expected = RealmChange {
            put: vec![(BOB, pay.clone(), Access::Write)],
            removed: vec![(ANN, pay)],
        };
        assert_eq!(before.realms_to(&after), expected);
    }

    #[test]
    fn what_is_open_is_what_stands_in_an_open_realm() {
        let pay = format!("{ACME}/tenants/pay");
        for (realms, node, is_open) in [
            (vec![], ACME, false),
            (vec!["*"], &*format!("{pay}/workspaces/w/trafficgroups/g"), true),
            (vec![&*format!("{ACME}/tenants/web"), &*pay, ACME], &pay, true),
            (vec![&*pay], &format!("{pay}/workspaces/w/trafficgroups/g"), true),
            (vec![&*pay], &format!("{pay}2"), false),
            (vec![&*pay], &format!("{ACME}/tenants/media/workspaces/w"), false),
            (vec![&*pay], ACME, false),
            (vec![&*pay], &format!("{ACME}/users/ann"), false),
            (vec![ACME], &format!("{ACME}/clusters/us/bindings/b"), true),
            (vec![ACME], &pay, false),
        ] {
            let opened = Opened::of(realms.iter().map(ToString::to_string).collect());
            assert_eq!(
                opened.has(&node.parse().unwrap()),
                is_open,
                "{node} of {realms:?}"
            );
        }
    }

    #[test]
    fn the_last_thing_that_is_owned_closes_its_realm() {
        let pay = format!("{ACME}/tenants/pay");
        let [one, two] =
            ["one", "two"].map(|leaf| owned(BOB, &format!("{pay}/workspaces/w/trafficgroups/{leaf}")));
        let names = [&one, &two].map(|stored| stored.name().clone());
        let both = snapshot(vec![one, two]);
        let [first, last] = names;
        let left = advance(&both, Vec::new(), vec![first]);
        assert!(both.realms_to(&left).is_empty());
        let given = Stored {
            owner: Some(ANN),
            ..(**left.get(&last).unwrap()).clone()
        };
        let expected = RealmChange {
            put: vec![(ANN, pay.clone(), Access::Write)],
            removed: vec![(BOB, pay)],
        };
        assert_eq!(left.realms_to(&advance(&left, vec![given], Vec::new())), expected);
    }
}
