//! Guard rails: what a write is kept from although its caller may do it.

use std::collections::BTreeSet;
use std::fmt;

use tombolo_compiler::intent::Spec;
use tombolo_compiler::invariant::{Broken, broken};
use tombolo_compiler::name::{ClusterName, Fqn, Kind};
use tombolo_compiler::plan::{Plans, plan};
use tombolo_compiler::report::Reports;
use tombolo_compiler::resolve::{Resolved, Resolver};
use tombolo_compiler::routes::SliceKey;

use crate::change::{Prepared, Refusal, Step};
use crate::change_plan::PlanId;
use crate::mesh::Mesh;
use crate::snapshot::Snapshot;

/// A tenant of a handful of routes loses half of them by deleting two: that is no accident to ask about.
const WITHDRAWN_MIN: usize = 10;

/// Invariants that would be broken, as one caller is told of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BrokenInvariants(Vec<String>);

/// A tenant that would lose much at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Withdrawal {
    tenant: Fqn,
    withdrawn: usize,
    routes: usize,
}

pub(crate) fn check_protection(steps: &[Step]) -> Result<(), Refusal> {
    let protected = steps.iter().find_map(|step| match step {
        Step::Delete(stored) if stored.resource.deletion_protection => Some(stored.name()),
        _ => None,
    });
    match protected {
        None => Ok(()),
        Some(name) => Err(Refusal::Protected { name: name.clone() }),
    }
}

/// What was broken before is no reason to refuse what does not break it further.
pub(crate) fn check_invariants(
    base: &Snapshot,
    judged: &Resolver,
    may_read: impl Fn(&Fqn) -> bool,
) -> Result<(), Refusal> {
    let after = broken(judged.intent(), judged.resolved());
    if after.is_empty() {
        return Ok(());
    }
    let before = broken(base.judged.intent(), base.judged.resolved());
    let new: Vec<String> = after
        .difference(&before)
        .map(|broken| tell(broken, &may_read))
        .collect();
    match new.is_empty() {
        true => Ok(()),
        false => Err(Refusal::InvariantBroken(BrokenInvariants(new))),
    }
}

/// The invariant is told to everybody whom it stops; who breaks it, to those who may read that.
fn tell(broken: &Broken, may_read: impl Fn(&Fqn) -> bool) -> String {
    let example = match may_read(&broken.by) {
        true => broken.example.as_str(),
        false => "by a resource that you may not read",
    };
    format!("it would break {}: {example}", broken.invariant)
}

/// Asks whether a write that would withdraw much is meant, by what clusters report now.
pub(crate) fn check_withdrawals(prepared: &Prepared, mesh: &Mesh) -> Result<(), Refusal> {
    let touched = touched(prepared);
    if touched.is_empty() {
        return Ok(());
    }
    let reports = Reports {
        joined: prepared.base.joined_clusters(),
        clusters: mesh.clusters.clone(),
        ..Reports::default()
    };
    let withdrawals = withdrawals(prepared, &touched, &reports);
    match withdrawals.is_empty() {
        true => Ok(()),
        false => Err(Refusal::WithdrawsMuch {
            withdrawals,
            plan: PlanId::of(prepared),
        }),
    }
}

/// The tenants that would lose at least as much as the organization wants to be asked about.
fn withdrawals(prepared: &Prepared, tenants: &BTreeSet<Fqn>, reports: &Reports) -> Vec<Withdrawal> {
    let intent = prepared.base.judged.intent();
    let percent = intent.values().find_map(|resource| match &resource.spec {
        Spec::Organization(organization) => Some(usize::from(organization.confirm_withdrawal_percent.get())),
        _ => None,
    });
    let percent = percent.unwrap_or(100);
    tenants
        .iter()
        .filter_map(|tenant| {
            let before = routes(prepared.base.judged.resolved(), reports, tenant);
            let after = routes(prepared.judged.resolved(), reports, tenant);
            let withdrawn = before.difference(&after).count();
            let much = withdrawn >= WITHDRAWN_MIN && withdrawn * 100 >= before.len() * percent;
            much.then_some(Withdrawal {
                tenant: tenant.clone(),
                withdrawn,
                routes: before.len(),
            })
        })
        .collect()
}

/// The tenants that a write could take routes from: with a workspace that names other namespaces, a gateway or an
/// application that moves, a grant that lends less, or something that goes. A cluster that goes takes from all.
fn touched(prepared: &Prepared) -> BTreeSet<Fqn> {
    let taking: Vec<&Fqn> = prepared
        .all()
        .filter(|step| match step {
            Step::Delete(stored) => stored.name().kind().is_published(),
            Step::Update(stored, _) => matches!(
                stored.name().kind(),
                Kind::Workspace | Kind::Gateway | Kind::Application | Kind::Api | Kind::ReferenceGrant
            ),
            Step::Create(_) | Step::Transfer(..) | Step::Keep(_) => false,
        })
        .map(Step::name)
        .collect();
    if taking.iter().any(|name| name.kind() == Kind::Cluster) {
        let names = prepared.base.tree.keys();
        return names
            .filter(|name| name.kind() == Kind::Tenant)
            .cloned()
            .collect();
    }
    let borrowers = taking.iter().flat_map(|name| borrowers(&prepared.base, name));
    borrowers
        .chain(taking.iter().copied())
        .filter_map(|name| name.ancestor(Kind::Tenant))
        .collect()
}

/// The gateways and APIs that live on what stands at or below a name.
fn borrowers<'a>(base: &'a Snapshot, lender: &Fqn) -> impl Iterator<Item = &'a Fqn> {
    let loans = base.judged.resolved().loans.iter();
    loans
        .filter(|(_, loans)| {
            let mut grants = loans.value.grants().into_iter();
            grants.any(|grant| grant.is_within(lender))
        })
        .map(|(borrower, _)| borrower)
}

/// The tenant's services and gateways, in each cluster that is told of them.
fn routes(resolved: &Resolved, reports: &Reports, tenant: &Fqn) -> BTreeSet<(ClusterName, SliceKey)> {
    let (plans, _): (Plans, _) = plan(&resolved.only(tenant), reports);
    plans
        .into_iter()
        .flat_map(|(cluster, slice)| {
            let keys = slice.items.into_keys();
            keys.filter(|key| matches!(key, SliceKey::Service(..) | SliceKey::Gateway(_)))
                .map(move |key| (cluster.clone(), key))
        })
        .collect()
}

impl fmt::Display for BrokenInvariants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl fmt::Display for Withdrawal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "it would withdraw {} of {} routes of {}",
            self.withdrawn, self.routes, self.tenant
        )
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use chrono::Utc;
    use serde_json::{Value, json};
    use tombolo_compiler::intent::Resource;
    use tombolo_proto::held::Version;
    use uuid::Uuid;

    use super::*;
    use crate::change::{Change, ChangeVerb, IfMatch, prepare};
    use crate::iam::{Asker, Principal};
    use crate::snapshot::{Delta, Stored, etag};

    const ACME: &str = "organizations/acme";
    const SHOP: &str = "organizations/acme/tenants/pay/workspaces/shop";

    fn resource(document: Value) -> Arc<Resource> {
        Arc::new(Resource::from_json(document).unwrap())
    }

    fn base(organization: &Value, more: Vec<Value>) -> Arc<Snapshot> {
        let root = json!({"role": "admin", "subjects": [format!("{ACME}/users/root")]});
        let documents = [
            json!({"name": ACME, "spec": organization}),
            json!({"name": format!("{ACME}/users/root")}),
            json!({"name": format!("{ACME}/bindings/root"), "spec": root}),
            json!({"name": format!("{ACME}/clusters/us"), "spec": {"region": "us"}}),
            json!({"name": format!("{ACME}/tenants/pay")}),
            json!({"name": SHOP, "spec": {"namespaces": ["*/shop", "*/cart"]}}),
        ];
        let stored = |document| Stored {
            resource: resource(document),
            uid: Uuid::now_v7(),
            etag: etag(Uuid::nil(), 1),
            revision: 1,
            created_at: Utc::now(),
            updated_at: Utc::now(),
            managed: None,
            owner: None,
        };
        let delta = Delta {
            put: documents.into_iter().chain(more).map(stored).collect(),
            ..Delta::default()
        };
        let version = Version {
            epoch: 1,
            revision: 1,
        };
        Arc::new(Snapshot::empty().advance(version, delta, None))
    }

    fn put(document: Value) -> Change {
        let resource = resource(document);
        Change {
            name: resource.name.clone(),
            verb: ChangeVerb::Apply(resource, IfMatch::Any),
            uid: None,
        }
    }

    fn delete(name: &str) -> Change {
        Change {
            name: name.parse().unwrap(),
            verb: ChangeVerb::Delete(IfMatch::Any),
            uid: None,
        }
    }

    /// Two namespaces with that many services each.
    fn mesh(services: usize) -> Mesh {
        let service = json!({"ports": [{"name": "http", "port": 80}], "state": "up"});
        let services: serde_json::Map<String, Value> = ["shop", "cart"]
            .iter()
            .flat_map(|namespace| (0..services).map(move |number| format!("{namespace}/s{number}")))
            .map(|id| (id, service.clone()))
            .collect();
        let report = serde_json::from_value(json!({ "services": services })).unwrap();
        Mesh {
            clusters: [("us".parse().unwrap(), report)].into(),
            ..Mesh::default()
        }
    }

    #[test]
    fn a_write_that_withdraws_much_is_asked_about() {
        let half = || vec![put(json!({"name": SHOP, "spec": {"namespaces": ["*/cart"]}}))];
        let all = || vec![delete(SHOP)];
        let adds = || {
            vec![put(
                json!({"name": SHOP, "spec": {"namespaces": ["*/shop", "*/cart", "*/new"]}}),
            )]
        };
        for (organization, services, changes, asked) in [
            (
                json!({}),
                10,
                half(),
                Some("10 of 20 routes of organizations/acme/tenants/pay"),
            ),
            (json!({}), 10, all(), Some("20 of 20 routes")),
            (json!({}), 9, half(), None),
            (json!({}), 4, all(), None),
            (json!({"confirmWithdrawalPercent": 51}), 10, half(), None),
            (
                json!({"confirmWithdrawalPercent": 51}),
                10,
                all(),
                Some("20 of 20 routes"),
            ),
            (json!({}), 10, adds(), None),
            (
                json!({}),
                10,
                vec![put(json!({"name": format!("{SHOP}/trafficgroups/g")}))],
                None,
            ),
        ] {
            let base = base(&organization, vec![]);
            let prepared = prepare(&base, &Asker::here(&Principal::System), &changes).unwrap();
            let found = check_withdrawals(&prepared, &mesh(services));
            match (asked, found) {
                (None, found) => assert_eq!(found, Ok(()), "{services} {changes:?}"),
                (Some(asked), found) => {
                    let refusal = found.unwrap_err().to_string();
                    let confirm = format!("?confirm={}", PlanId::of(&prepared));
                    assert!(
                        refusal.contains(asked) && refusal.ends_with(&confirm),
                        "{refusal}"
                    );
                }
            }
        }
    }

    /// Whoever takes it may not even see whose routes they are.
    #[test]
    fn what_is_handed_over_is_withdrawn_from_its_holder() {
        let media = format!("{ACME}/tenants/media/workspaces/video");
        let taken = |namespaces: Value| json!({"name": media, "spec": {"namespaces": namespaces}});
        let offer = json!({"to": media, "namespaces": ["*/shop"]});
        let more = vec![
            json!({"name": format!("{ACME}/tenants/media")}),
            taken(json!(["*/video"])),
            json!({"name": format!("{SHOP}/claimoffers/shop"), "spec": offer}),
        ];
        let base = base(&json!({}), more);
        let changes = [put(taken(json!(["*/video", "*/shop"])))];
        let prepared = prepare(&base, &Asker::here(&Principal::System), &changes).unwrap();
        let refusal = check_withdrawals(&prepared, &mesh(10)).unwrap_err().to_string();
        assert!(
            refusal.starts_with("it would withdraw 10 of 20 routes of organizations/acme/tenants/pay;"),
            "{refusal}"
        );
        assert_eq!(check_withdrawals(&prepared, &mesh(9)), Ok(()));
    }

    #[test]
    fn what_others_borrow_is_withdrawn_from_them() {
        let media = format!("{ACME}/tenants/media");
        let grant = |workloads: &[&str]| {
            json!({"name": format!("{SHOP}/referencegrants/media"), "spec": {
                "from": [{"kind": "Gateway", "node": media}],
                "to": {"workloads": workloads},
            }})
        };
        let video = format!("{media}/workspaces/video");
        let mut more = vec![
            json!({"name": media}),
            json!({"name": video, "spec": {"namespaces": ["*/video"]}}),
            json!({"name": format!("{video}/gatewaygroups/g")}),
            grant(&["shop/door", "shop/side"]),
        ];
        more.extend((0..10).map(|number| {
            json!({"name": format!("{video}/gatewaygroups/g/gateways/g{number}"), "spec": {
                "workload": "shop/door", "type": "ingress", "port": 8000 + number,
                "hosts": [format!("v{number}.example.com")],
                "rules": [{"backendRefs": [{"namespace": "video", "name": "films"}]}]}})
        }));
        let base = base(&json!({}), more);
        let service = json!({"ports": [{"name": "http", "port": 80}], "state": "up"});
        let report =
            json!({"services": {"video/films": service}, "gateways": {"shop/door": {"state": "up"}}});
        let mesh = Mesh {
            clusters: [("us".parse().unwrap(), serde_json::from_value(report).unwrap())].into(),
            ..Mesh::default()
        };
        let recalled = format!("{SHOP}/referencegrants/media");
        for (change, asked) in [
            (delete(&recalled), true),
            (put(grant(&["shop/side"])), true),
            (put(grant(&["shop/door"])), false),
        ] {
            let prepared = prepare(
                &base,
                &Asker::here(&Principal::System),
                std::slice::from_ref(&change),
            )
            .unwrap();
            let found = check_withdrawals(&prepared, &mesh).map_err(|refusal| refusal.to_string());
            let wanted = "10 of 11 routes of organizations/acme/tenants/media";
            let told = found.err().is_some_and(|refusal| refusal.contains(wanted));
            assert_eq!(told, asked, "{change:?}");
        }
    }

    #[test]
    fn what_is_protected_is_not_deleted_before_that_is_taken_back() {
        let protected = |protection: bool| json!({"name": SHOP, "deletionProtection": protection, "spec": {"namespaces": ["*/shop"]}});
        let base = base(&json!({}), vec![protected(true)]);
        let refusal = prepare(&base, &Asker::here(&Principal::System), &[delete(SHOP)]).unwrap_err();
        assert!(
            refusal
                .to_string()
                .contains("write it with `deletionProtection: false` first"),
            "{refusal}"
        );
        prepare(&base, &Asker::here(&Principal::System), &[put(protected(false))]).unwrap();
    }

    #[test]
    fn an_invariant_stops_what_would_break_it_and_nothing_else() {
        let group = json!({"name": format!("{SHOP}/gatewaygroups/g")});
        let gateway = |port: u16| {
            json!({"name": format!("{SHOP}/gatewaygroups/g/gateways/door"), "spec": {
                "workload": "shop/door", "type": "ingress", "port": port, "hosts": ["shop.example.com"],
                "rules": [{"backendRefs": [{"namespace": "shop", "name": "web"}]}]}})
        };
        let invariant = json!({"name": format!("{ACME}/invariants/inside"), "spec": {"neverFromOutside": {"workspace": SHOP}}});
        let example = "it would break organizations/acme/invariants/inside: \
                       organizations/acme/tenants/pay/workspaces/shop/gatewaygroups/g/gateways/door lets requests";

        let kept = base(&json!({}), vec![group.clone(), invariant.clone()]);
        let refusal = prepare(&kept, &Asker::here(&Principal::System), &[put(gateway(80))]).unwrap_err();
        assert!(refusal.to_string().starts_with(example), "{refusal}");

        let open = base(&json!({}), vec![group.clone(), gateway(80)]);
        let refusal =
            prepare(&open, &Asker::here(&Principal::System), &[put(invariant.clone())]).unwrap_err();
        assert!(
            refusal.to_string().starts_with(example),
            "nor is one written that does not hold: {refusal}"
        );

        let broken = base(&json!({}), vec![group, gateway(80), invariant]);
        prepare(&broken, &Asker::here(&Principal::System), &[put(gateway(81))]).unwrap();
    }

    #[test]
    fn a_caller_is_told_which_invariant_stops_it_and_no_more_than_it_may_read() {
        let broken = Broken {
            invariant: format!("{ACME}/invariants/inside").parse().unwrap(),
            by: SHOP.parse().unwrap(),
            example: format!("{SHOP} is open"),
        };
        assert!(tell(&broken, |_| true).ends_with("is open"));
        assert_eq!(
            tell(&broken, |_| false),
            "it would break organizations/acme/invariants/inside: by a resource that you may not read"
        );
    }
}
