//! What the second wall knows of the first: which principal may read, and which may also write, in which realm. Coarser
//! than roles, on purpose: it keeps tenants apart when the decision in front of it is wrong.

use std::collections::{BTreeMap, BTreeSet};

use tombolo_compiler::intent::{Role, Spec};
use tombolo_compiler::name::{Fqn, Kind};
use uuid::Uuid;

use crate::snapshot::Stored;

/// The realm that stands for all of the organization.
const EVERYWHERE: &str = "*";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Access {
    Read,
    Write,
}

/// By principal and realm.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Realms(pub(crate) BTreeMap<(Uuid, String), Access>);

/// What leads from some realms to others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RealmChange {
    pub(crate) put: Vec<(Uuid, String, Access)>,
    pub(crate) removed: Vec<(Uuid, String)>,
}

impl Realms {
    /// Of all resources of an organization: each binding opens to its subjects the realm that its node stands in, or
    /// everything when it stands on the organization itself.
    pub(crate) fn of<'a>(resources: impl Iterator<Item = &'a Stored> + Clone) -> Realms {
        let users: BTreeMap<&Fqn, Uuid> = resources
            .clone()
            .filter(|stored| stored.resource.kind() == Kind::User)
            .map(|stored| (stored.name(), stored.uid))
            .collect();
        let mut realms = Realms::default();
        for stored in resources {
            let Spec::Binding(binding) = &stored.resource.spec else {
                continue;
            };
            let Some(node) = stored.name().parent() else {
                continue;
            };
            let access = match binding.role {
                Role::Reader => Access::Read,
                Role::Writer | Role::Admin => Access::Write,
            };
            for uid in binding.subjects.iter().filter_map(|subject| users.get(subject)) {
                let given = realms.0.entry((*uid, realm_of(&node))).or_insert(access);
                *given = access.max(*given);
            }
        }
        realms
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

impl RealmChange {
    /// What a write changes: `put` replaces, and `removed` takes away, resources of the tree that it was made on.
    pub(crate) fn of_write<'a>(
        before: impl Iterator<Item = &'a Stored> + Clone,
        put: &'a [Stored],
        removed: &'a [Fqn],
    ) -> RealmChange {
        let mut written = put.iter().map(Stored::name).chain(removed);
        if !written.clone().any(|name| concerns(name.kind())) {
            return RealmChange::default();
        }
        let written: BTreeSet<&Fqn> = written.by_ref().collect();
        let kept = before.clone().filter(|stored| !written.contains(stored.name()));
        Realms::of(before).to(&Realms::of(kept.chain(put)))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.put.is_empty() && self.removed.is_empty()
    }
}

/// Whether realms depend on resources of this kind.
fn concerns(kind: Kind) -> bool {
    matches!(kind, Kind::User | Kind::Binding)
}

/// What is bound on a cluster or a user opens the realm of what stands outside of tenants, and no tenant.
fn realm_of(node: &Fqn) -> String {
    match node.ancestor(Kind::Tenant) {
        Some(tenant) => tenant.to_string(),
        None if node.kind() == Kind::Organization => EVERYWHERE.to_owned(),
        None => node.organization().to_string(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use chrono::Utc;
    use serde_json::{Value, json};
    use tombolo_compiler::intent::Resource;

    use super::*;
    use crate::snapshot::etag;

    const ACME: &str = "organizations/acme";
    const ANN: Uuid = Uuid::from_u128(1);
    const BOB: Uuid = Uuid::from_u128(2);

    fn stored(uid: Uuid, document: Value) -> Stored {
        Stored {
            resource: Arc::new(Resource::from_json(document).unwrap()),
            uid,
            etag: etag(uid, 1),
            revision: 1,
            created_at: Utc::now(),
            updated_at: Utc::now(),
            managed: None,
        }
    }

    fn binding(node: &str, role: &str, leaf: &str) -> Stored {
        let subjects = json!([format!("{ACME}/users/{leaf}")]);
        let name = format!("{node}/bindings/{leaf}-{role}");
        stored(
            Uuid::now_v7(),
            json!({"name": name, "spec": {"role": role, "subjects": subjects}}),
        )
    }

    fn users() -> Vec<Stored> {
        [("ann", ANN), ("bob", BOB)]
            .map(|(leaf, uid)| stored(uid, json!({"name": format!("{ACME}/users/{leaf}")})))
            .to_vec()
    }

    #[test]
    fn a_binding_opens_the_realm_that_its_node_stands_in() {
        use Access::{Read, Write};
        let pay = format!("{ACME}/tenants/pay");
        for (node, role, realm, access) in [
            (ACME.to_owned(), "reader", "*", Read),
            (ACME.to_owned(), "admin", "*", Write),
            (pay.clone(), "reader", &pay, Read),
            (pay.clone(), "writer", &pay, Write),
            (
                format!("{pay}/workspaces/shop/trafficgroups/web"),
                "writer",
                &pay,
                Write,
            ),
            (format!("{ACME}/clusters/us"), "reader", ACME, Read),
            (format!("{ACME}/clusters/us"), "admin", ACME, Write),
        ] {
            let mut all = users();
            all.push(binding(&node, role, "ann"));
            let expected = BTreeMap::from([((ANN, realm.to_owned()), access)]);
            assert_eq!(Realms::of(all.iter()).0, expected, "{role} on {node}");
        }
    }

    #[test]
    fn the_greater_access_counts_and_nobody_who_is_gone_has_any() {
        let pay = format!("{ACME}/tenants/pay");
        let mut all = users();
        all.extend([
            binding(&pay, "writer", "ann"),
            binding(&format!("{pay}/workspaces/shop"), "reader", "ann"),
            binding(&pay, "admin", "nobody"),
        ]);
        let expected = BTreeMap::from([((ANN, pay), Access::Write)]);
        assert_eq!(Realms::of(all.iter()).0, expected);
    }

    #[test]
    fn a_write_changes_what_its_bindings_change_and_else_nothing() {
        let pay = format!("{ACME}/tenants/pay");
        let mut all = users();
        all.extend([binding(&pay, "reader", "ann"), binding(&pay, "reader", "bob")]);
        let workspace = stored(
            Uuid::now_v7(),
            json!({"name": format!("{pay}/workspaces/shop"), "spec": {"namespaces": []}}),
        );
        assert!(RealmChange::of_write(all.iter(), &[workspace], &[]).is_empty());
        let removed = [all[2].name().clone()];
        let put = [binding(&pay, "admin", "bob")];
        let change = RealmChange::of_write(all.iter(), &put, &removed);
        let expected = RealmChange {
            put: vec![(BOB, pay.clone(), Access::Write)],
            removed: vec![(ANN, pay)],
        };
        assert_eq!(change, expected);
    }
}
