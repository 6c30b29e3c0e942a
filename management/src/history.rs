//! The past of the intent: what each revision did, the tree as it was, and how two trees differ.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use tombolo_compiler::name::Fqn;
use uuid::Uuid;

use crate::iam::{Action, Asker, may};
use crate::snapshot::{Snapshot, Stored, Tree, below};

/// What one revision did to one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: Fqn,
    pub(crate) revision: u64,
    pub(crate) uid: Uuid,
    pub(crate) event: Event,
    pub(crate) actor: String,
    pub(crate) time: DateTime<Utc>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Created(Arc<Stored>),
    Updated(Arc<Stored>),
    Deleted,
}

/// Where an entry stands in a list, newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) revision: u64,
    pub(crate) name: Fqn,
}

/// One resource that differs between two trees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) name: Fqn,
    pub(crate) before: Option<Arc<Stored>>,
    pub(crate) after: Option<Arc<Stored>>,
}

impl Entry {
    pub(crate) fn to_json(&self) -> Value {
        let mut told = json!({
            "name": self.name,
            "revision": self.revision,
            "action": self.event.action(),
            "uid": self.uid,
            "actor": self.actor,
            "time": self.time,
        });
        if let Some(stored) = self.event.stored() {
            told["etag"] = stored.etag.clone().into();
        }
        told
    }
}

impl Event {
    /// The word for it in answers and rows.
    pub(crate) fn action(&self) -> &'static str {
        match self {
            Event::Created(_) => "create",
            Event::Updated(_) => "update",
            Event::Deleted => "delete",
        }
    }

    pub(crate) fn stored(&self) -> Option<&Arc<Stored>> {
        match self {
            Event::Created(stored) | Event::Updated(stored) => Some(stored),
            Event::Deleted => None,
        }
    }
}

impl Difference {
    /// Whether the name was deleted and created again in between: the two are different resources.
    pub(crate) fn is_recreated(&self) -> bool {
        match (&self.before, &self.after) {
            (Some(before), Some(after)) => before.uid != after.uid,
            _ => false,
        }
    }

    pub(crate) fn to_json(&self) -> Value {
        let action = match (&self.before, &self.after) {
            (None, _) => "create",
            (Some(_), None) => "delete",
            (Some(_), Some(_)) => "update",
        };
        let mut told = json!({"name": self.name, "action": action});
        if let Some(before) = &self.before {
            told["before"] = before.resource.to_json();
        }
        if let Some(after) = &self.after {
            told["after"] = after.resource.to_json();
        }
        if self.is_recreated() {
            told["recreated"] = true.into();
        }
        told
    }
}

/// Of `node` and all below it, what differs from `before` to `after`: in content, or because another resource has
/// the name.
pub(crate) fn differences(node: &Fqn, before: &Tree, after: &Tree) -> Vec<Difference> {
    let within = |tree: &Tree| -> Vec<Fqn> {
        let own = tree.get(node).into_iter();
        own.chain(below(tree, node.as_str()))
            .map(|stored| stored.name().clone())
            .collect()
    };
    let names: BTreeSet<Fqn> = within(before).into_iter().chain(within(after)).collect();
    let difference = |name: Fqn| Difference {
        before: before.get(&name).cloned(),
        after: after.get(&name).cloned(),
        name,
    };
    let differs = |difference: &Difference| match (&difference.before, &difference.after) {
        (Some(before), Some(after)) => before.resource != after.resource || before.uid != after.uid,
        _ => true,
    };
    names.into_iter().map(difference).filter(differs).collect()
}

/// May the asker read `name` as it was in `past`? Rights are those of today, and they are rights on resources and
/// not on names: who was given a tenant that bears the name of a deleted one has no right to the other's past.
pub(crate) fn may_read_past(asker: &Asker<'_>, now: &Snapshot, past: &Tree, name: &Fqn) -> bool {
    name.lineage().any(|node| {
        let same = match (now.get(&node), past.get(&node)) {
            (Some(now), Some(past)) => now.uid == past.uid,
            _ => false,
        };
        same && may(asker, Action::Read, &node, &now.bindings).is_some()
    })
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.revision, self.name)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("pageToken {0:?} is not from this list")]
pub(crate) struct BadPlace(String);

impl FromStr for Place {
    type Err = BadPlace;

    fn from_str(text: &str) -> Result<Place, BadPlace> {
        let read = || {
            let (revision, name) = text.split_once('.')?;
            Some(Place {
                revision: revision.parse().ok()?,
                name: name.parse().ok()?,
            })
        };
        read().ok_or_else(|| BadPlace(text.to_owned()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tombolo_compiler::intent::Resource;
    use tombolo_proto::held::Version;

    use super::*;
    use crate::iam::Principal;
    use crate::snapshot::{Delta, etag};

    const ACME: &str = "organizations/acme";

    fn stored(name: &str, uid: u128, spec: &Value) -> Stored {
        let document = json!({"name": format!("{ACME}{name}"), "spec": spec});
        Stored {
            resource: Arc::new(Resource::from_json(document).unwrap()),
            uid: Uuid::from_u128(uid),
            etag: etag(Uuid::from_u128(uid), 1),
            revision: 1,
            created_at: Utc::now(),
            updated_at: Utc::now(),
            managed: None,
            owner: None,
        }
    }

    fn snapshot(put: Vec<Stored>) -> Snapshot {
        let delta = Delta {
            put,
            ..Delta::default()
        };
        let version = Version {
            epoch: 1,
            revision: 1,
        };
        Snapshot::empty().advance(version, delta, None)
    }

    #[test]
    fn a_difference_is_in_content_or_in_who_bears_the_name() {
        let shop = |namespace: &str| json!({"namespaces": [namespace]});
        let before = snapshot(vec![
            stored("", 1, &json!({})),
            stored("/tenants/a", 2, &json!({})),
            stored("/tenants/a/workspaces/same", 3, &shop("*/same")),
            stored("/tenants/a/workspaces/changed", 4, &shop("*/one")),
            stored("/tenants/a/workspaces/gone", 5, &shop("*/gone")),
            stored("/tenants/a/workspaces/again", 6, &shop("*/again")),
            stored("/tenants/ab", 7, &json!({})),
        ]);
        let after = snapshot(vec![
            stored("", 1, &json!({})),
            stored("/tenants/a", 2, &json!({})),
            stored("/tenants/a/workspaces/same", 3, &shop("*/same")),
            stored("/tenants/a/workspaces/changed", 4, &shop("*/two")),
            stored("/tenants/a/workspaces/new", 8, &shop("*/new")),
            stored("/tenants/a/workspaces/again", 9, &shop("*/again")),
        ]);
        let node = format!("{ACME}/tenants/a").parse().unwrap();
        let found: Vec<String> = differences(&node, &before.tree, &after.tree)
            .iter()
            .map(|difference| {
                let told = difference.to_json();
                let recreated = if told["recreated"] == true {
                    " recreated"
                } else {
                    ""
                };
                format!(
                    "{} {}{recreated}",
                    told["action"].as_str().unwrap(),
                    difference.name.leaf()
                )
            })
            .collect();
        assert_eq!(
            found,
            [
                "update again recreated",
                "update changed",
                "delete gone",
                "create new"
            ],
            "a sibling with a longer name is not below"
        );
    }

    #[test]
    fn a_right_to_a_name_is_no_right_to_what_had_the_name_before() {
        let ann = "organizations/acme/users/ann";
        let binding = json!({"role": "reader", "subjects": [ann]});
        let base = |pay: u128| {
            snapshot(vec![
                stored("", 1, &json!({})),
                stored("/users/ann", 2, &json!({})),
                stored("/tenants/pay", pay, &json!({})),
                stored("/tenants/pay/bindings/ann", 3, &binding),
            ])
        };
        let principal = Principal::User {
            name: ann.parse().unwrap(),
            uid: Uuid::from_u128(2),
        };
        let asker = Asker::here(&principal);
        let pay: Fqn = "organizations/acme/tenants/pay".parse().unwrap();
        let deleted: Fqn = "organizations/acme/tenants/pay/workspaces/deleted"
            .parse()
            .unwrap();
        let now = base(10);
        for (past, name, readable) in [
            (base(10), &pay, true),
            (base(10), &deleted, true),
            (base(11), &pay, false),
            (base(11), &deleted, false),
        ] {
            assert_eq!(may_read_past(&asker, &now, &past.tree, name), readable, "{name}");
        }
    }

    #[test]
    fn places_read_back() {
        let place = Place {
            revision: 7,
            name: ACME.parse().unwrap(),
        };
        assert_eq!(place.to_string().parse(), Ok(place));
        assert!("7".parse::<Place>().is_err());
    }
}
