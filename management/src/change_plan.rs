//! The plan of a change: what a write would do, from the same functions as the write. Its hash covers the change and
//! what it makes of the resolved tree, so that a write can be held to the plan that somebody has seen; what clusters
//! report is not part of it, for it moves by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tombolo_compiler::behaviour::{Behaviour, behaviour};
use tombolo_compiler::finding::Finding;
use tombolo_compiler::name::{ClusterName, Fqn};
use tombolo_compiler::plan::{SliceChange, diff, plan};
use tombolo_compiler::report::Reports;
use tombolo_compiler::resolve::difference;

use crate::change::{Prepared, Step};

/// What one write would do on one tree.
#[derive(Clone, Debug)]
pub(crate) struct ChangePlan {
    pub(crate) id: PlanId,
    /// By cluster.
    pub(crate) routes: BTreeMap<ClusterName, Vec<SliceChange>>,
    /// As far as the reports tell.
    pub(crate) behaviour: Behaviour,
    /// On what would change, as it would be.
    pub(crate) findings: Vec<Finding>,
}

/// The name of a plan: the revision that it was made on, and its hash. `17-5f2c…`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PlanId {
    pub(crate) revision: u64,
    hash: [u8; 32],
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a plan; use what `POST /v1/plans` or `tombolo plan` gave, such as 17-5f2c…")]
pub(crate) struct BadPlanId(String);

impl ChangePlan {
    pub(crate) fn of(prepared: &Prepared, reports: &Reports) -> ChangePlan {
        let (before, _) = plan(prepared.base.judged.resolved(), reports);
        let (after, planned) = plan(prepared.judged.resolved(), reports);
        let written: BTreeSet<&Fqn> = prepared.steps.iter().map(Step::name).collect();
        let resolved = written.iter().flat_map(|name| prepared.judged.findings_of(name));
        let planned = planned
            .iter()
            .filter(|finding| written.contains(&finding.resource));
        ChangePlan {
            id: PlanId::of(prepared),
            routes: diff(&before, &after),
            behaviour: behaviour(&before, &after),
            findings: resolved.chain(planned).cloned().collect(),
        }
    }
}

impl PlanId {
    pub(crate) fn of(prepared: &Prepared) -> PlanId {
        let steps: Vec<Value> = prepared.all().filter_map(step).collect();
        let resolved = difference(prepared.base.judged.resolved(), prepared.judged.resolved());
        let covered = json!({"steps": steps, "resolved": resolved});
        PlanId {
            revision: prepared.base.version.revision,
            hash: Sha256::digest(covered.to_string()).into(),
        }
    }

    /// Whether they say the same of the world, on whatever revision they were made.
    pub(crate) fn agrees(&self, other: &PlanId) -> bool {
        self.hash == other.hash
    }
}

/// What is changed is named by its uid: a name that was deleted and created again is another resource.
fn step(step: &Step) -> Option<Value> {
    let (held, after) = match step {
        Step::Keep(_) => return None,
        Step::Create(resource) => (None, Some(resource)),
        Step::Update(stored, resource) => (Some(stored), Some(resource)),
        Step::Delete(stored) => (Some(stored), None),
        Step::Transfer(stored, _) => (Some(stored), Some(&stored.resource)),
    };
    let mut told = json!({
        "name": step.name(),
        "uid": held.map(|stored| stored.uid),
        "before": held.map(|stored| stored.resource.to_json()),
        "after": after.map(|resource| resource.to_json()),
    });
    if let Step::Transfer(_, owner) = step {
        told["owner"] = json!(owner);
    }
    Some(told)
}

impl fmt::Display for PlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-", self.revision)?;
        self.hash.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for PlanId {
    type Err = BadPlanId;

    fn from_str(text: &str) -> Result<PlanId, BadPlanId> {
        let read = || {
            let (revision, hex) = text.trim_matches('"').split_once('-')?;
            let bytes: Option<Vec<u8>> = (0..hex.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok())
                .collect();
            Some(PlanId {
                revision: revision.parse().ok()?,
                hash: bytes?.try_into().ok()?,
            })
        };
        read().ok_or_else(|| BadPlanId(text.to_owned()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use chrono::Utc;
    use tombolo_compiler::intent::{Intent, Resource};
    use tombolo_compiler::name::Kind;
    use tombolo_compiler::plan::Plans;
    use tombolo_compiler::resolve::resolve;
    use tombolo_compiler::routes::{SliceItem, SliceKey};
    use tombolo_proto::held::Version;
    use tombolo_tests::edits::{self, Edits};
    use uuid::Uuid;

    use super::*;
    use crate::change::{Change, ChangeVerb, IfMatch, prepare};
    use crate::document;
    use crate::iam::{Asker, Principal};
    use crate::snapshot::{Delta, Snapshot, Stored, etag};

    const ACME: &str = "organizations/acme";
    /// Of the property below, which the project promises for this many.
    const SEQUENCES: u64 = 1000;
    /// Of one sequence.
    const WRITES: usize = 8;

    fn resource(name: &str, spec: &Value) -> Arc<Resource> {
        let document = json!({"name": format!("{ACME}{name}"), "spec": spec});
        Arc::new(Resource::from_json(document).unwrap())
    }

    fn reports() -> Reports {
        Reports {
            clusters: serde_json::from_value(edits::reports()).unwrap(),
            ..Reports::default()
        }
    }

    fn start() -> Arc<Snapshot> {
        let root = json!({"role": "admin", "subjects": [format!("{ACME}/users/admin")]});
        let mut all = vec![
            resource("", &json!({})),
            resource("/users/admin", &json!({})),
            resource("/bindings/admin", &root),
        ];
        let tree = edits::tree().into_iter();
        all.extend(tree.map(|document| Arc::new(Resource::from_json(document).unwrap())));
        let steps = all.into_iter().map(Step::Create);
        applied(&Snapshot::empty(), &steps.collect::<Vec<_>>())
    }

    /// The tree after the steps, from its rows, as another replica would have it.
    fn applied(base: &Snapshot, steps: &[Step]) -> Arc<Snapshot> {
        let revision = base.version.revision + 1;
        let mut delta = Delta::default();
        for step in steps {
            let (uid, after) = match step {
                Step::Keep(_) | Step::Transfer(..) => continue,
                Step::Create(resource) => (Uuid::now_v7(), resource),
                Step::Update(held, resource) => (held.uid, resource),
                Step::Delete(held) => {
                    delta.removed.push(held.name().clone());
                    continue;
                }
            };
            delta.put.push(Stored {
                resource: after.clone(),
                uid,
                etag: etag(uid, revision),
                revision,
                created_at: Utc::now(),
                updated_at: Utc::now(),
                managed: None,
                owner: None,
            });
        }
        let version = Version { epoch: 1, revision };
        Arc::new(base.advance(version, delta, None))
    }

    /// By name, as the API writes it.
    fn documents(snapshot: &Snapshot) -> BTreeMap<Fqn, String> {
        let tree = snapshot.tree.values();
        tree.map(|stored| (stored.name().clone(), stored.resource.to_json().to_string()))
            .collect()
    }

    /// Those before with what the plan says of them.
    fn planned_documents(prepared: &Prepared) -> BTreeMap<Fqn, String> {
        let mut documents = documents(&prepared.base);
        for step in prepared.all() {
            match step {
                Step::Keep(_) | Step::Transfer(..) => {}
                Step::Delete(_) => drop(documents.remove(step.name())),
                Step::Create(after) | Step::Update(_, after) => {
                    documents.insert(step.name().clone(), after.to_json().to_string());
                }
            }
        }
        documents
    }

    /// The routes of each cluster, from the rows alone and without the memory of any state before.
    fn slices(snapshot: &Snapshot) -> Plans {
        let tree = snapshot.tree.iter();
        let intent: Intent = tree
            .map(|(name, stored)| (name.clone(), stored.resource.clone()))
            .collect();
        plan(&resolve(&intent).0, &reports()).0
    }

    fn bytes(item: &SliceItem) -> String {
        serde_json::to_string(item).unwrap()
    }

    /// Where the plan says that a route changes, its bytes are those of the plan; elsewhere it moves no proxy.
    fn assert_routes(planned: &ChangePlan, before: &Plans, after: &Plans, at: &str) {
        for cluster in planned.routes.keys().chain(before.keys()).chain(after.keys()) {
            let changes = planned.routes.get(cluster).map(Vec::as_slice).unwrap_or_default();
            let planned: BTreeMap<&SliceKey, Option<&SliceItem>> = changes
                .iter()
                .map(|change| (&change.key, change.after.as_ref()))
                .collect();
            let [held, found] = [before, after].map(|plans| plans.get(cluster).map(|slice| &slice.items));
            let keys = [held, found].into_iter().flatten().flat_map(BTreeMap::keys);
            for key in keys.chain(planned.keys().copied()).collect::<BTreeSet<_>>() {
                let found = found.and_then(|items| items.get(key));
                match planned.get(key) {
                    Some(expected) => {
                        assert_eq!(found.map(bytes), expected.map(bytes), "{at} {cluster} {key}");
                    }
                    None => assert_eq!(found, held.and_then(|held| held.get(key)), "{at} {cluster} {key}"),
                }
            }
        }
    }

    #[test]
    fn a_plan_equals_what_is_applied_to_the_byte() {
        let (start, mut written, mut accepted) = (start(), 0, 0);
        let mut kinds = BTreeSet::new();
        let slices_of_start = slices(&start);
        for seed in 1..=SEQUENCES {
            let (mut edits, mut base) = (Edits::new(seed), start.clone());
            let mut before = slices_of_start.clone();
            for number in 0..WRITES {
                let at = format!("seed {seed}, write {number}");
                let names: Vec<&str> = base.tree.keys().map(Fqn::as_str).collect();
                let changes = document::changes(vec![edits.next(&names)], true).unwrap();
                // What cannot be written has no plan; the write is refused by the same function.
                let Ok(prepared) = prepare(&base, &Asker::here(&Principal::System), &changes) else {
                    continue;
                };
                let planned = ChangePlan::of(&prepared, &reports());
                let steps: Vec<Step> = prepared.all().cloned().collect();
                let next = applied(&base, &steps);
                assert_eq!(documents(&next), planned_documents(&prepared), "{at}");
                let after = slices(&next);
                assert_routes(&planned, &before, &after, &at);
                assert_eq!(planned.behaviour, behaviour(&before, &after), "{at}");
                assert!(prepared.judged.findings().eq(next.judged.findings()), "{at}");
                written += u64::from(!prepared.changes_nothing());
                accepted += u64::from(!prepared.handed.is_empty());
                let changed = steps.iter().filter(|step| !matches!(step, Step::Keep(_)));
                kinds.extend(changed.map(|step| step.name().kind()));
                let done = Prepared {
                    judged: next.judged.clone(),
                    ..prepared
                };
                assert_eq!(planned.id, PlanId::of(&done), "{at}");
                (base, before) = (next, after);
            }
        }
        assert!(
            written > SEQUENCES,
            "only {written} of the random writes were good: they test nothing"
        );
        assert!(
            accepted > SEQUENCES / 50,
            "only {accepted} of the random writes have accepted an offer"
        );
        assert_eq!(kinds, BTreeSet::from(Kind::ALL), "a kind was never written");
    }

    fn id(base: &Arc<Snapshot>, changes: &[Change]) -> PlanId {
        PlanId::of(&prepare(base, &Asker::here(&Principal::System), changes).unwrap())
    }

    fn write(base: &Arc<Snapshot>, changes: &[Change]) -> Arc<Snapshot> {
        applied(
            base,
            &prepare(base, &Asker::here(&Principal::System), changes)
                .unwrap()
                .steps,
        )
    }

    fn put(name: &str, spec: &Value) -> Change {
        let resource = resource(name, spec);
        Change {
            name: resource.name.clone(),
            verb: ChangeVerb::Apply(resource, IfMatch::Any),
            uid: None,
        }
    }

    #[test]
    fn a_plan_is_stale_when_the_change_would_do_something_else_and_not_before() {
        let base = start();
        let change = [put(
            "/tenants/a/workspaces/w",
            &json!({"namespaces": ["east/shop"]}),
        )];
        let seen = id(&base, &change);
        let elsewhere = write(&base, &[put("/tenants/c", &json!({}))]);
        assert!(
            seen.agrees(&id(&elsewhere, &change)),
            "an unrelated write leaves it good"
        );
        assert_ne!(
            seen,
            id(&elsewhere, &change),
            "and the new one is of a later revision"
        );

        let same_resource = write(
            &base,
            &[put(
                "/tenants/a/workspaces/w",
                &json!({"namespaces": ["west/shop"]}),
            )],
        );
        let failover = json!({"failover": [{"from": "r1", "to": ["r2"]}]});
        let inherited = write(&base, &[put("", &failover)]);
        for moved in [same_resource, inherited] {
            assert!(!seen.agrees(&id(&moved, &change)));
        }

        let name = |leaf: &str| format!("{ACME}/tenants/{leaf}").parse::<Fqn>().unwrap();
        let delete = |leaf: &str| Change {
            name: name(leaf),
            verb: ChangeVerb::Delete(IfMatch::Any),
            uid: None,
        };
        let seen = id(&elsewhere, &[delete("c")]);
        let recreated = write(
            &write(&elsewhere, &[delete("c")]),
            &[put("/tenants/c", &json!({}))],
        );
        assert!(
            !seen.agrees(&id(&recreated, &[delete("c")])),
            "it is another resource"
        );
    }

    #[test]
    fn a_plan_is_named_by_revision_and_hash() {
        let id = id(&start(), &[put("/tenants/c", &json!({}))]);
        assert_eq!(id.to_string().parse(), Ok(id.clone()));
        assert_eq!(format!("\"{id}\"").parse(), Ok(id));
        for bad in ["", "1", "1-", "1-zz", "x-00", &format!("1-{}", "é".repeat(32))] {
            assert!(bad.parse::<PlanId>().is_err(), "{bad}");
        }
    }
}
