//! Approval by another person: which policies a write comes under, and whether it has what they ask for.

use std::collections::BTreeMap;
use std::sync::Arc;

use tombolo_compiler::intent::{ApprovalPolicy, BuiltinRole, Resource, Spec};
use tombolo_compiler::name::{Fqn, Kind};
use uuid::Uuid;

use crate::change::{Prepared, Refusal, Step};
use crate::iam::{Principal, holds};
use crate::snapshot::{Snapshot, below};

/// By what a write may pass the policies that it comes under.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Leave {
    #[default]
    None,
    /// A plan that others have approved.
    Approved {
        plan: Uuid,
        author: Uuid,
        /// Of those who approved exactly this plan.
        approvers: Vec<Principal>,
    },
    /// Because it cannot wait; the reason is for the audit.
    BreakGlass { reason: String },
}

/// A policy with the node that it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Required {
    pub(crate) policy: Fqn,
    pub(crate) node: Fqn,
    pub(crate) approver: BuiltinRole,
    pub(crate) expires_after_hours: u16,
}

/// The policies that a write comes under, as they are before it.
pub(crate) fn required<'a>(base: &Snapshot, steps: impl IntoIterator<Item = &'a Step>) -> Vec<Required> {
    let changed = steps.into_iter().filter(|step| !matches!(step, Step::Keep(_)));
    required_of(base, changed.map(Step::name))
}

/// The policies that a change may come under of which nobody can tell what it would be: those above a node and below it.
pub(crate) fn required_around(base: &Snapshot, node: &Fqn) -> Vec<Required> {
    let above = node.lineage().flat_map(|above| policies_at(base, &above));
    let below = below(base.judged.intent(), node.as_str()).filter_map(policy);
    let policies: BTreeMap<_, _> = above.chain(below).collect();
    let required = policies
        .into_iter()
        .filter_map(|(name, spec)| Some(of(name, &name.parent()?, spec)));
    required.collect()
}

/// The policies that changes of these come under.
pub(crate) fn required_of<'a>(base: &Snapshot, names: impl IntoIterator<Item = &'a Fqn>) -> Vec<Required> {
    let mut required = BTreeMap::new();
    for name in names {
        for node in name.lineage() {
            for (policy, spec) in policies_at(base, &node) {
                // What stands below a policy is nothing, so that the policy itself is below its own node.
                if spec.concerns(name.kind()) {
                    required
                        .entry(policy.clone())
                        .or_insert_with(|| of(policy, &node, spec));
                }
            }
        }
    }
    required.into_values().collect()
}

/// Whether a write has the leave that the policies above it ask for.
pub(crate) fn check(prepared: &Prepared, principal: &Principal, leave: &Leave) -> Result<(), Refusal> {
    let base = &prepared.base;
    let mut required = required(base, prepared.to_approve());
    if *principal == Principal::System {
        return Ok(());
    }
    match leave {
        // Also where nothing is in the way: it is on record as broken glass.
        Leave::BreakGlass { .. } => {
            let Some(organization) = prepared.steps.first().map(|step| step.name().organization()) else {
                return Ok(());
            };
            if holds(principal, BuiltinRole::Admin, &organization, &base.bindings) {
                return Ok(());
            }
            return Err(Refusal::Denied {
                because: format!(
                    "{principal} needs the role admin on {organization} to go past approval policies"
                ),
                name: organization,
            });
        }
        _ if required.is_empty() => return Ok(()),
        Leave::Approved {
            author, approvers, ..
        } => {
            required.retain(|required| !is_approved(base, required, *author, approvers));
        }
        Leave::None => {}
    }
    match required.into_iter().next() {
        None => Ok(()),
        Some(missing) => Err(Refusal::NeedsApproval {
            policy: missing.policy,
            node: missing.node,
            approver: missing.approver,
        }),
    }
}

/// Roles are those of now: who has lost it since approved in vain.
fn is_approved(base: &Snapshot, required: &Required, author: Uuid, approvers: &[Principal]) -> bool {
    approvers.iter().any(|approver| {
        let Principal::User { name, uid } = approver else {
            return false;
        };
        *uid != author
            && base.get(name).is_some_and(|stored| stored.uid == *uid)
            && holds(approver, required.approver, &required.node, &base.bindings)
    })
}

fn policies_at<'a>(
    base: &'a Snapshot,
    node: &Fqn,
) -> impl Iterator<Item = (&'a Fqn, &'a ApprovalPolicy)> + use<'a> {
    let collection = format!("{node}/{}", Kind::ApprovalPolicy.collection());
    below(base.judged.intent(), &collection).filter_map(policy)
}

fn policy(resource: &Arc<Resource>) -> Option<(&Fqn, &ApprovalPolicy)> {
    match &resource.spec {
        Spec::ApprovalPolicy(policy) => Some((&resource.name, policy)),
        _ => None,
    }
}

fn of(policy: &Fqn, node: &Fqn, spec: &ApprovalPolicy) -> Required {
    Required {
        policy: policy.clone(),
        node: node.clone(),
        approver: spec.approver,
        expires_after_hours: spec.expires_after_hours(),
    }
}

impl Leave {
    /// For the audit.
    pub(crate) fn reason(&self) -> Option<String> {
        match self {
            Leave::None => None,
            Leave::Approved { plan, approvers, .. } => {
                let approvers: Vec<String> = approvers.iter().map(Principal::to_string).collect();
                Some(format!("plan {plan}, approved by {}", approvers.join(", ")))
            }
            Leave::BreakGlass { reason } => Some(format!("break glass: {reason}")),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use chrono::Utc;
    use serde_json::{Value, json};
    use tombolo_proto::held::Version;

    use super::*;
    use crate::change::{Change, ChangeVerb, IfMatch, prepare};
    use crate::iam::Asker;
    use crate::snapshot::{Delta, Stored, etag};

    const ACME: &str = "organizations/acme";
    const PAY: &str = "organizations/acme/tenants/pay";
    const POLICY: &str = "organizations/acme/tenants/pay/approvalpolicies/two";

    /// `ann` and `ben` are administrators of pay, `root` of everything, `rob` may only read.
    fn base(policy: &Value) -> Arc<Snapshot> {
        let binding = |node: &str, role: &str, leaf: &str| {
            let spec = json!({"role": role, "subjects": [format!("{ACME}/users/{leaf}")]});
            json!({"name": format!("{node}/bindings/{leaf}"), "spec": spec})
        };
        let mut documents = vec![
            json!({"name": ACME}),
            json!({"name": PAY}),
            json!({"name": POLICY, "spec": policy}),
            binding(ACME, "admin", "root"),
            binding(PAY, "admin", "ann"),
            binding(PAY, "admin", "ben"),
            binding(PAY, "reader", "rob"),
        ];
        documents.extend(
            ["root", "ann", "ben", "rob"].map(|leaf| json!({"name": format!("{ACME}/users/{leaf}")})),
        );
        let put = documents.into_iter().map(|document| {
            let resource = Resource::from_json(document).unwrap();
            let uid = uid(resource.name.as_str());
            Stored {
                resource: Arc::new(resource),
                uid,
                etag: etag(uid, 1),
                revision: 1,
                created_at: Utc::now(),
                updated_at: Utc::now(),
                managed: None,
                owner: None,
            }
        });
        let delta = Delta {
            put: put.collect(),
            ..Delta::default()
        };
        let version = Version {
            epoch: 1,
            revision: 1,
        };
        Arc::new(Snapshot::empty().advance(version, delta, None))
    }

    /// The same for the same name.
    fn uid(name: &str) -> Uuid {
        Uuid::from_u128(
            name.bytes()
                .fold(7, |sum, byte| sum * 31 % (1 << 100) + u128::from(byte)),
        )
    }

    fn user(leaf: &str) -> Principal {
        let name = format!("{ACME}/users/{leaf}");
        Principal::User {
            uid: uid(&name),
            name: name.parse().unwrap(),
        }
    }

    fn approved(author: &str, approvers: &[&str]) -> Leave {
        Leave::Approved {
            plan: Uuid::nil(),
            author: uid(&format!("{ACME}/users/{author}")),
            approvers: approvers.iter().map(|leaf| user(leaf)).collect(),
        }
    }

    fn write(document: Value) -> Change {
        let resource = Arc::new(Resource::from_json(document).unwrap());
        Change {
            name: resource.name.clone(),
            verb: ChangeVerb::Apply(resource, IfMatch::Any),
            uid: None,
        }
    }

    #[test]
    fn a_change_below_a_policy_needs_another_person_with_the_role() {
        let workspace =
            || write(json!({"name": format!("{PAY}/workspaces/w"), "spec": {"namespaces": ["*/w"]}}));
        let tenant = || write(json!({"name": PAY, "description": "x"}));
        let elsewhere = || write(json!({"name": format!("{ACME}/tenants/media")}));
        let policy = || write(json!({"name": POLICY, "spec": {"approver": "reader"}}));
        let all = json!({"approver": "admin"});
        let tenants = json!({"approver": "admin", "kinds": ["Tenant"]});
        let break_glass = || Leave::BreakGlass {
            reason: "fire".to_owned(),
        };
        for (name, spec, change, who, leave, passes) in [
            ("alone", &all, workspace(), "ann", Leave::None, false),
            ("the node itself", &all, tenant(), "root", Leave::None, false),
            ("elsewhere", &all, elsewhere(), "root", Leave::None, true),
            ("another kind", &tenants, workspace(), "ann", Leave::None, true),
            ("that kind", &tenants, tenant(), "root", Leave::None, false),
            ("the policy itself", &tenants, policy(), "ann", Leave::None, false),
            (
                "approved",
                &all,
                workspace(),
                "ann",
                approved("ann", &["ben"]),
                true,
            ),
            (
                "by herself",
                &all,
                workspace(),
                "ann",
                approved("ann", &["ann"]),
                false,
            ),
            (
                "by herself, applied by another",
                &all,
                workspace(),
                "ben",
                approved("ann", &["ann"]),
                false,
            ),
            (
                "from above",
                &all,
                workspace(),
                "ann",
                approved("ann", &["root"]),
                true,
            ),
            (
                "without the role",
                &all,
                workspace(),
                "ann",
                approved("ann", &["rob"]),
                false,
            ),
            (
                "one of two",
                &all,
                workspace(),
                "ann",
                approved("ann", &["rob", "ben"]),
                true,
            ),
            (
                "who is gone",
                &all,
                workspace(),
                "ann",
                approved("ann", &["gone"]),
                false,
            ),
            ("fire", &all, workspace(), "root", break_glass(), true),
            (
                "fire, not hers to say",
                &all,
                workspace(),
                "ann",
                break_glass(),
                false,
            ),
        ] {
            let base = base(spec);
            let prepared = prepare(&base, &Asker::here(&user(who)), &[change]).unwrap();
            let found = check(&prepared, &user(who), &leave);
            assert_eq!(found.is_ok(), passes, "{name}: {found:?}");
        }
    }

    #[test]
    fn a_refusal_says_how_to_go_on() {
        let base = base(&json!({"approver": "admin"}));
        let change = write(json!({"name": format!("{PAY}/workspaces/w"), "spec": {"namespaces": ["*/w"]}}));
        let prepared = prepare(&base, &Asker::here(&user("ann")), &[change]).unwrap();
        let refusal = check(&prepared, &user("ann"), &Leave::None)
            .unwrap_err()
            .to_string();
        assert_eq!(
            refusal,
            format!(
                "changes of {PAY} and below need the approval of another person with the role admin there ({POLICY}); \
                 make a plan with `tombolo plan submit`, or with --submit, or POST it to /v1/plans?submit=true"
            )
        );
    }
}
