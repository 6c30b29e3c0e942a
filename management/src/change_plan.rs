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
        let steps: Vec<Value> = prepared.steps.iter().filter_map(step).collect();
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
    };
    Some(json!({
        "name": step.name(),
        "uid": held.map(|stored| stored.uid),
        "before": held.map(|stored| stored.resource.to_json()),
        "after": after.map(|resource| resource.to_json()),
    }))
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
    use tombolo_compiler::intent::Resource;
    use tombolo_compiler::name::Fqn;
    use tombolo_compiler::plan::Plans;
    use tombolo_compiler::routes::{SliceItem, SliceKey};
    use tombolo_proto::held::Version;
    use uuid::Uuid;

    use super::*;
    use crate::change::{Change, ChangeVerb, IfMatch, prepare};
    use crate::iam::Principal;
    use crate::snapshot::{Delta, Snapshot, Stored, etag};

    const ACME: &str = "organizations/acme";
    const WORKSPACES: [&str; 3] = [
        "tenants/a/workspaces/v",
        "tenants/a/workspaces/w",
        "tenants/b/workspaces/w",
    ];
    /// Of the property below, which the project promises for this many.
    const SEQUENCES: u64 = 1000;

    /// Marsaglia's xorshift: a sequence is its seed, so that one that fails can be run again.
    struct Random(u64);

    impl Random {
        fn below(&mut self, limit: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            usize::try_from(self.0 >> 33).unwrap() % limit
        }

        fn one_of<'a>(&mut self, all: &[&'a str]) -> &'a str {
            all[self.below(all.len())]
        }
    }

    fn resource(name: &str, spec: &Value) -> Arc<Resource> {
        let document = json!({"name": format!("{ACME}{name}"), "spec": spec});
        Arc::new(Resource::from_json(document).unwrap())
    }

    fn reports() -> Reports {
        let report = |services: &[&str]| {
            let services: serde_json::Map<String, Value> = services
                .iter()
                .map(|id| {
                    let labels = json!([{"version": "1"}, {"version": "2"}]);
                    let ports = json!([{"name": "http", "port": 80}]);
                    (
                        (*id).to_owned(),
                        json!({"ports": ports, "labelSets": labels, "state": "up"}),
                    )
                })
                .collect();
            let gateways = json!({"mesh/gateway": {"eastWest": ["127.0.0.1:15443"], "state": "up"}});
            serde_json::from_value(json!({"services": services, "gateways": gateways})).unwrap()
        };
        Reports {
            joined: BTreeSet::new(),
            clusters: [
                (
                    "east".parse().unwrap(),
                    report(&["shop/web", "shop/reviews", "cart/basket"]),
                ),
                ("west".parse().unwrap(), report(&["shop/web", "cart/basket"])),
            ]
            .into(),
            ..Reports::default()
        }
    }

    fn start() -> Arc<Snapshot> {
        let root = json!({"role": "admin", "subjects": [format!("{ACME}/users/root")]});
        let mut all = vec![
            resource("", &json!({})),
            resource("/users/root", &json!({})),
            resource("/bindings/root", &root),
            resource("/clusters/east", &json!({"region": "r1"})),
            resource("/clusters/west", &json!({"region": "r2"})),
            resource("/tenants/a", &json!({})),
            resource("/tenants/b", &json!({})),
        ];
        for (workspace, namespaces) in WORKSPACES.into_iter().zip(["*/cart", "*/shop", "*/mesh"]) {
            all.push(resource(
                &format!("/{workspace}"),
                &json!({"namespaces": [namespaces]}),
            ));
            all.push(resource(&format!("/{workspace}/trafficgroups/g"), &json!({})));
            all.push(resource(&format!("/{workspace}/gatewaygroups/g"), &json!({})));
        }
        let steps = all.into_iter().map(Step::Create);
        applied(&Snapshot::empty(), &steps.collect::<Vec<_>>())
    }

    /// The tree after the steps, resolved from its rows alone, as another replica would.
    fn applied(base: &Snapshot, steps: &[Step]) -> Arc<Snapshot> {
        let revision = base.version.revision + 1;
        let mut delta = Delta::default();
        for step in steps {
            let (uid, after) = match step {
                Step::Keep(_) => continue,
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
            });
        }
        let version = Version { epoch: 1, revision };
        Arc::new(base.advance(version, delta, None))
    }

    fn change(random: &mut Random, base: &Snapshot) -> Change {
        let workspace = random.one_of(&WORKSPACES);
        let leaf = random.one_of(&["p", "q"]);
        let service = random.one_of(&["shop/web", "shop/reviews", "cart/basket"]);
        let (namespace, name) = service.split_once('/').unwrap();
        let weight = random.below(101);
        let resource = match random.below(8) {
            0 => {
                let namespaces = ["*/cart", "*/shop", "east/shop", "*/mesh", "west/*"];
                resource(
                    &format!("/{workspace}"),
                    &json!({"namespaces": [random.one_of(&namespaces)]}),
                )
            }
            1 => resource("/clusters/west", &json!({"region": random.one_of(&["r1", "r2"])})),
            2..4 => resource(
                &format!("/{workspace}/trafficgroups/g/serviceroutes/{leaf}"),
                &json!({"service": service, "subsets": [
                    {"name": "v1", "labels": {"version": "1"}}, {"name": "v2", "labels": {"version": "2"}}],
                    "rules": [{"backendRefs": [
                        {"subset": "v1", "weight": weight}, {"subset": "v2", "weight": 100 - weight}]}]}),
            ),
            4..6 => resource(
                &format!("/{workspace}/gatewaygroups/g/gateways/{leaf}"),
                &json!({"workload": "mesh/gateway", "type": "ingress", "port": 8080,
                    "hosts": [random.one_of(&["a.example.com", "b.example.com", "*.example.com"])],
                    "rules": [{"backendRefs": [{"namespace": namespace, "name": name}]}]}),
            ),
            _ => {
                let names: Vec<&Fqn> = base
                    .tree
                    .keys()
                    .filter(|name| name.as_str().contains("/tenants/"))
                    .collect();
                return Change {
                    name: names[random.below(names.len())].clone(),
                    verb: ChangeVerb::Delete(IfMatch::Any),
                    uid: None,
                };
            }
        };
        Change {
            name: resource.name.clone(),
            verb: ChangeVerb::Apply(resource, IfMatch::Any),
            uid: None,
        }
    }

    fn slices(snapshot: &Snapshot) -> Plans {
        plan(snapshot.judged.resolved(), &reports()).0
    }

    fn bytes(item: &SliceItem) -> String {
        serde_json::to_string(item).unwrap()
    }

    /// Where the plan says that a route changes, its bytes are those of the plan; elsewhere it moves no proxy.
    fn assert_routes(planned: &ChangePlan, before: &Plans, after: &Plans, seed: u64) {
        for (cluster, slice) in after {
            let changes = planned.routes.get(cluster).map(Vec::as_slice).unwrap_or_default();
            let planned: BTreeMap<&SliceKey, Option<&SliceItem>> = changes
                .iter()
                .map(|change| (&change.key, change.after.as_ref()))
                .collect();
            let held = before.get(cluster).map(|slice| &slice.items);
            let keys = held
                .into_iter()
                .flat_map(BTreeMap::keys)
                .chain(slice.items.keys());
            for key in keys.chain(planned.keys().copied()).collect::<BTreeSet<_>>() {
                let found = slice.items.get(key);
                match planned.get(key) {
                    Some(expected) => assert_eq!(
                        found.map(bytes),
                        expected.map(bytes),
                        "seed {seed} {cluster} {key}"
                    ),
                    None => assert_eq!(
                        found,
                        held.and_then(|held| held.get(key)),
                        "seed {seed} {cluster} {key}"
                    ),
                }
            }
        }
    }

    #[test]
    fn a_plan_equals_what_is_applied_to_the_byte() {
        let mut written = 0;
        for seed in 1..=SEQUENCES {
            let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let mut base = start();
            for _ in 0..12 {
                let changes: Vec<Change> = (0..=random.below(2))
                    .map(|_| change(&mut random, &base))
                    .collect();
                // What cannot be written has no plan; the write is refused by the same function.
                let Ok(prepared) = prepare(&base, &Principal::System, &changes) else {
                    continue;
                };
                let planned = ChangePlan::of(&prepared, &reports());
                let next = applied(&base, &prepared.steps);
                for step in &prepared.steps {
                    let expected = match step {
                        Step::Delete(_) => None,
                        Step::Create(resource) | Step::Update(_, resource) => {
                            Some(resource.to_json().to_string())
                        }
                        Step::Keep(stored) => Some(stored.resource.to_json().to_string()),
                    };
                    let found = next
                        .get(step.name())
                        .map(|stored| stored.resource.to_json().to_string());
                    assert_eq!(found, expected, "seed {seed}");
                }
                let (before, after) = (slices(&base), slices(&next));
                assert_routes(&planned, &before, &after, seed);
                assert_eq!(planned.behaviour, behaviour(&before, &after), "seed {seed}");
                assert!(
                    prepared.judged.findings().eq(next.judged.findings()),
                    "seed {seed}"
                );
                written += usize::from(!prepared.changes_nothing());
                base = next;
            }
        }
        assert!(
            written > 1000,
            "only {written} of the random writes were good: they test nothing"
        );
    }

    fn id(base: &Arc<Snapshot>, changes: &[Change]) -> PlanId {
        PlanId::of(&prepare(base, &Principal::System, changes).unwrap())
    }

    fn write(base: &Arc<Snapshot>, changes: &[Change]) -> Arc<Snapshot> {
        applied(base, &prepare(base, &Principal::System, changes).unwrap().steps)
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
