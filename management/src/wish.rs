//! What a caller wishes: changes as they were sent, or an earlier state of a node. What that comes to is decided on
//! the tree that it is written on, under the lock, so that nothing that was written meanwhile slips through.

use std::borrow::Cow;
use std::sync::Arc;

use tombolo_compiler::intent::{Resource, Spec};
use tombolo_compiler::name::Fqn;

use crate::approval::{self, Leave};
use crate::caller::Caller;
use crate::change::{Change, ChangeVerb, IfMatch, Prepared, Refusal, prepare};
use crate::change_plan::PlanId;
use crate::guard;
use crate::history::differences;
use crate::mesh::Mesh;
use crate::reply::Reply;
use crate::snapshot::{Snapshot, Tree};

/// Of one rollback: beyond this many resources the transaction would keep other writes waiting.
const ROLLBACK_CHANGES_MAX: usize = 2000;

#[derive(Clone, Debug)]
pub(crate) enum Wish {
    Changes(Vec<Change>),
    Rollback(Rollback),
}

/// A wish to be written, and what it is held to.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) wish: Wish,
    /// The plan that the caller has seen: what would do something else is refused, and what it would do is meant.
    pub(crate) plan: Option<PlanId>,
    /// What clusters report, for the question whether a write that withdraws much is meant. It is not asked without.
    pub(crate) mesh: Option<Arc<Mesh>>,
    pub(crate) leave: Leave,
    /// How it is answered.
    pub(crate) reply: Reply,
}

/// A node and all below it, as they were at a revision.
#[derive(Clone, Debug)]
pub(crate) struct Rollback {
    pub(crate) node: Fqn,
    pub(crate) revision: u64,
    /// Of that revision: the node, all below, and the principals that bindings there name.
    pub(crate) past: Tree,
}

impl Wish {
    /// Whether the caller may write that on `base`, and what becomes of it.
    pub(crate) fn prepare(&self, base: &Arc<Snapshot>, caller: &Caller) -> Result<Prepared, Refusal> {
        let changes = match self {
            Wish::Changes(changes) => Cow::Borrowed(changes.as_slice()),
            Wish::Rollback(rollback) => Cow::Owned(rollback.changes(base, caller)?),
        };
        let decide = |changes: &[Change]| prepare(base, &caller.asker(), changes);
        // What cannot be merged is told only to whoever may write it.
        let prepared = match caller.hand.merged(base, &changes) {
            Ok(merged) => decide(&merged)?,
            Err(refusal) => decide(&changes).and(Err(refusal))?,
        };
        caller.hand.claim(prepared, &changes)
    }

    fn reason(&self) -> Option<String> {
        match self {
            Wish::Changes(_) => None,
            Wish::Rollback(rollback) => Some(format!(
                "{} rolled back to revision {}",
                rollback.node, rollback.revision
            )),
        }
    }
}

impl Order {
    /// Decides it on `base`.
    pub(crate) fn prepare(&self, base: &Arc<Snapshot>, caller: &Caller) -> Result<Prepared, Refusal> {
        let prepared = self.wish.prepare(base, caller)?;
        self.hold(&prepared)?;
        approval::check(&prepared, &caller.principal, &self.leave)?;
        Ok(prepared)
    }

    /// To the plan; or asks, where there is none, whether what withdraws much is meant.
    pub(crate) fn hold(&self, prepared: &Prepared) -> Result<(), Refusal> {
        match (&self.plan, &self.mesh) {
            (Some(given), _) => {
                let found = PlanId::of(prepared);
                match given.agrees(&found) {
                    true => Ok(()),
                    false => Err(Refusal::PlanMoved {
                        given: given.clone(),
                        found,
                    }),
                }
            }
            (None, Some(mesh)) => guard::check_withdrawals(prepared, mesh),
            (None, None) => Ok(()),
        }
    }
}

impl Order {
    /// What the audit records say beside who and what.
    pub(crate) fn reason(&self) -> String {
        let reasons: Vec<String> = self
            .leave
            .reason()
            .into_iter()
            .chain(self.wish.reason())
            .collect();
        reasons.join("; ")
    }
}

impl From<Wish> for Order {
    fn from(wish: Wish) -> Order {
        Order {
            wish,
            plan: None,
            mesh: None,
            leave: Leave::None,
            reply: Reply::Changes,
        }
    }
}

impl From<Vec<Change>> for Wish {
    fn from(changes: Vec<Change>) -> Wish {
        Wish::Changes(changes)
    }
}

impl Rollback {
    /// The changes that make the present like the past. A resource that exists keeps its uid; one that is gone comes
    /// back as a new one.
    fn changes(&self, base: &Snapshot, caller: &Caller) -> Result<Vec<Change>, Refusal> {
        caller.asker().check_open(&self.node)?;
        let refuse = |reasons: Vec<String>| Refusal::CannotRollBack {
            node: self.node.clone(),
            revision: self.revision,
            reasons,
        };
        if !self.past.contains_key(&self.node) {
            return Err(refuse(vec![
                "it did not exist then; to be rid of it, delete it".to_owned(),
            ]));
        }
        let mut changes = Vec::new();
        let mut reasons = Vec::new();
        for difference in differences(&self.node, &base.tree, &self.past) {
            caller.asker().check_open(&difference.name)?;
            let verb = match (difference.before, difference.after) {
                (Some(now), Some(then)) if now.resource == then.resource => continue,
                (Some(now), Some(then)) => {
                    ChangeVerb::Update(then.resource.clone(), IfMatch::Etag(now.etag.clone()))
                }
                (None, Some(then)) => ChangeVerb::Create(then.resource.clone()),
                (Some(now), None) => ChangeVerb::Delete(IfMatch::Etag(now.etag.clone())),
                (None, None) => continue,
            };
            if let ChangeVerb::Update(resource, _) | ChangeVerb::Create(resource) = &verb {
                reasons.extend(self.strangers(base, resource));
            }
            changes.push(Change {
                name: difference.name,
                verb,
                uid: None,
            });
        }
        if changes.len() > ROLLBACK_CHANGES_MAX {
            reasons.push(format!(
                "{} resources differ, and at most {ROLLBACK_CHANGES_MAX} can be rolled back at once; roll back its children one by one",
                changes.len()
            ));
        }
        match reasons.is_empty() {
            true => Ok(changes),
            false => Err(refuse(reasons)),
        }
    }

    /// A name that was deleted and created again is somebody else, who must not come into the other's rights.
    fn strangers(&self, base: &Snapshot, resource: &Resource) -> Vec<String> {
        let is_other = |subject: &&Fqn| match (base.get(subject), self.past.get(*subject)) {
            (Some(now), Some(then)) => now.uid != then.uid,
            _ => false,
        };
        subjects(resource)
            .into_iter()
            .filter(is_other)
            .map(|subject| {
                format!(
                    "{} named a {subject} that was deleted since; the one that bears the name now is another: \
                     write it by hand",
                    resource.name
                )
            })
            .collect()
    }
}

/// The principals to whom a resource gives something.
pub(crate) fn subjects(resource: &Resource) -> Vec<&Fqn> {
    match &resource.spec {
        Spec::Binding(binding) => binding.subjects.iter().collect(),
        Spec::Team(team) => team.members.iter().collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use chrono::Utc;
    use serde_json::{Value, json};
    use tombolo_proto::held::Version;
    use uuid::Uuid;

    use super::*;
    use crate::change::Step;
    use crate::iam::Principal;
    use crate::managed::Hand;
    use crate::realm::Opened;
    use crate::snapshot::{Delta, Stored, etag};

    const ACME: &str = "organizations/acme";
    const PAY: &str = "organizations/acme/tenants/pay";

    fn stored(name: &str, uid: u128, document: &Value) -> Stored {
        let mut document = document.clone();
        document["name"] = format!("{ACME}{name}").into();
        let uid = Uuid::from_u128(uid);
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

    /// An organization with an administrator, and what the test adds.
    fn base(more: Vec<Stored>) -> Arc<Snapshot> {
        let root = json!({"spec": {"role": "admin", "subjects": [format!("{ACME}/users/root")]}});
        let mut put = vec![
            stored("", 1, &json!({})),
            stored("/users/root", 2, &json!({})),
            stored("/bindings/root", 3, &root),
            stored("/tenants/pay", 4, &json!({})),
        ];
        put.extend(more);
        let delta = Delta {
            put,
            ..Delta::default()
        };
        let version = Version {
            epoch: 1,
            revision: 9,
        };
        Arc::new(Snapshot::empty().advance(version, delta, None))
    }

    fn roll_back(now: &Arc<Snapshot>, past: &Snapshot, node: &str) -> Result<Prepared, Refusal> {
        let wish = Wish::Rollback(Rollback {
            node: node.parse().unwrap(),
            revision: 5,
            past: past.tree.clone(),
        });
        let root = Caller {
            principal: Principal::User {
                name: format!("{ACME}/users/root").parse().unwrap(),
                uid: Uuid::from_u128(2),
            },
            source: String::new(),
            request_id: String::new(),
            hand: Hand::default(),
            keyed: None,
            teams: Vec::new(),
            time: Utc::now(),
            seen: Version::default(),
            opened: Opened::Everything,
            credential: None,
        };
        wish.prepare(now, &root)
    }

    fn shop(text: &str) -> Value {
        json!({"description": text, "spec": {"namespaces": ["*/shop"]}})
    }

    #[test]
    fn a_rollback_makes_the_node_as_it_was_and_touches_nothing_else() {
        let past = base(vec![
            stored("/tenants/pay/workspaces/shop", 10, &shop("then")),
            stored(
                "/tenants/pay/workspaces/gone",
                11,
                &json!({"spec": {"namespaces": ["*/gone"]}}),
            ),
            stored("/tenants/media", 12, &json!({"description": "then"})),
        ]);
        let now = base(vec![
            stored("/tenants/pay/workspaces/shop", 20, &shop("now")),
            stored(
                "/tenants/pay/workspaces/new",
                21,
                &json!({"spec": {"namespaces": ["*/new"]}}),
            ),
            stored("/tenants/media", 12, &json!({"description": "now"})),
        ]);
        let prepared = roll_back(&now, &past, PAY).unwrap();
        let steps: Vec<String> = prepared
            .steps
            .iter()
            .map(|step| format!("{} {}", step.action(), step.name().leaf()))
            .collect();
        assert_eq!(steps, ["create gone", "delete new", "update shop"]);
        let Step::Update(held, then) = &prepared.steps[2] else {
            panic!("an update of what exists");
        };
        assert_eq!(
            held.uid,
            Uuid::from_u128(20),
            "what bears the name now keeps its uid"
        );
        assert_eq!(then.description, "then");

        let again = roll_back(&now, &now, PAY).unwrap();
        assert!(again.changes_nothing());
    }

    #[test]
    fn a_rollback_that_cannot_stand_says_why() {
        let ann = |uid| stored("/users/ann", uid, &json!({}));
        let binding = json!({"spec": {"role": "writer", "subjects": [format!("{ACME}/users/ann")]}});
        let bound = stored("/tenants/pay/bindings/ann", 31, &binding);
        let held = stored("/tenants/pay/workspaces/shop", 32, &shop(""));
        let taken = stored("/tenants/a", 33, &json!({}));
        let holder = stored("/tenants/a/workspaces/w", 34, &shop(""));
        for (past, now, node, reason) in [
            (
                vec![],
                vec![],
                "organizations/acme/tenants/none",
                "it did not exist then",
            ),
            (
                vec![ann(30), bound.clone()],
                vec![ann(40)],
                PAY,
                "the one that bears the name now is another",
            ),
            (
                vec![ann(30), bound],
                vec![],
                PAY,
                "is not a user, team or service account that exists",
            ),
            (
                vec![held],
                vec![taken, holder],
                PAY,
                "already held by organizations/acme/tenants/a/workspaces/w",
            ),
        ] {
            let refusal = roll_back(&base(now), &base(past), node).unwrap_err().to_string();
            assert!(refusal.contains(reason), "{refusal}");
        }
    }
}
