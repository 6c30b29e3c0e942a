#![allow(clippy::unwrap_used)]

use chrono::Utc;
use serde_json::{Value, json};
use tombolo_proto::held::Version;

use super::*;
use crate::realm::Opened;
use crate::snapshot::{Delta, etag};

const ACME: &str = "organizations/acme";
const PAY: &str = "organizations/acme/tenants/pay";
const SHOP: &str = "organizations/acme/tenants/pay/workspaces/shop";

fn resource(document: Value) -> Arc<Resource> {
    Arc::new(Resource::from_json(document).unwrap())
}

/// An organization with an administrator, `ann` who may write in `pay`, and one workspace.
fn base() -> Arc<Snapshot> {
    let subjects = |leaf: &str| json!([format!("{ACME}/users/{leaf}")]);
    let documents = [
        json!({"name": ACME}),
        json!({"name": format!("{ACME}/users/root")}),
        json!({"name": format!("{ACME}/users/ann")}),
        json!({"name": format!("{ACME}/bindings/root"), "spec": {"role": "admin", "subjects": subjects("root")}}),
        json!({"name": PAY}),
        json!({"name": format!("{PAY}/bindings/ann"), "spec": {"role": "writer", "subjects": subjects("ann")}}),
        json!({"name": SHOP, "spec": {"namespaces": ["*/shop"]}}),
    ];
    let put = documents
        .map(|document| Stored {
            resource: resource(document),
            uid: Uuid::now_v7(),
            etag: etag(Uuid::nil(), 1),
            revision: 1,
            created_at: Utc::now(),
            updated_at: Utc::now(),
            managed: None,
            owner: None,
        })
        .to_vec();
    let delta = Delta {
        put,
        ..Delta::default()
    };
    let version = Version {
        epoch: 1,
        revision: 1,
    };
    Arc::new(Snapshot::empty().advance(version, delta, None))
}

fn user(base: &Snapshot, leaf: &str) -> Principal {
    let name: Fqn = format!("{ACME}/users/{leaf}").parse().unwrap();
    let uid = base.get(&name).map_or(Uuid::nil(), |stored| stored.uid);
    Principal::User { name, uid }
}

/// What [`super::prepare`] says to that principal, now and from nowhere.
fn prepare(base: &Arc<Snapshot>, principal: &Principal, changes: &[Change]) -> Result<Prepared, Refusal> {
    super::prepare(base, &Asker::here(principal), changes)
}

fn apply(document: Value, if_match: IfMatch) -> Change {
    let resource = resource(document);
    Change {
        name: resource.name.clone(),
        verb: ChangeVerb::Apply(resource, if_match),
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

#[test]
fn each_refusal_has_its_reason() {
    let base = base();
    let shop = |text: &str| json!({"name": SHOP, "description": text, "spec": {"namespaces": ["*/shop"]}});
    let new = |name: &str| apply(json!({ "name": name }), IfMatch::Missing);
    let etag = |text: &str| IfMatch::Etag(text.to_owned());
    let cases = [
        (
            "ann",
            vec![apply(shop("x"), IfMatch::Missing)],
            "say which state you have seen",
        ),
        ("ann", vec![apply(shop("x"), etag("old"))], "read it again"),
        (
            "ann",
            vec![delete(SHOP), new(PAY)],
            "needs the role editor to update",
        ),
        ("ann", vec![delete(SHOP), delete(SHOP)], "is named twice"),
        (
            "ann",
            vec![delete(&format!("{PAY}/workspaces/none"))],
            "does not exist",
        ),
        (
            "root",
            vec![delete(PAY)],
            "still has organizations/acme/tenants/pay/bindings/ann,",
        ),
        (
            "root",
            vec![delete(&format!("{ACME}/bindings/root"))],
            "without an administrator",
        ),
        ("gone", vec![delete(SHOP)], "does not exist any more"),
    ];
    for (who, changes, reason) in cases {
        let refusal = prepare(&base, &user(&base, who), &changes).unwrap_err();
        assert!(
            refusal.to_string().contains(reason),
            "{who} {changes:?}: {refusal}"
        );
    }
}

#[test]
fn what_belongs_together_may_come_and_go_together() {
    let base = base();
    let root = user(&base, "root");
    let binding = format!("{PAY}/bindings/ann");
    let changes = [delete(PAY), delete(SHOP), delete(&binding)];
    let prepared = prepare(&base, &root, &changes).unwrap();
    assert_eq!(prepared.steps.len(), 3);
    assert_eq!(prepared.judged.intent().len(), 4);

    let group = format!("{SHOP}/trafficgroups/web");
    let route =
        json!({"name": format!("{group}/serviceroutes/r"), "spec": {"service": "shop/web", "rules": []}});
    let changes = [
        apply(route, IfMatch::Missing),
        apply(json!({ "name": group }), IfMatch::Missing),
    ];
    let prepared = prepare(&base, &user(&base, "ann"), &changes).unwrap();
    let names: Vec<&str> = prepared.steps.iter().map(|step| step.name().leaf()).collect();
    assert_eq!(names, ["web", "r"], "parents first, however they came");
}

#[test]
fn applying_what_is_there_changes_nothing_and_needs_no_etag() {
    let base = base();
    let document = json!({"name": SHOP, "spec": {"namespaces": ["*/shop"]}});
    let changes = [apply(document, IfMatch::Missing)];
    let prepared = prepare(&base, &user(&base, "ann"), &changes).unwrap();
    assert!(prepared.changes_nothing());
}

#[test]
fn who_deletes_is_told_of_what_stands_below_as_far_as_it_may_read() {
    let base = base();
    let root = user(&base, "root");
    let asker = Asker {
        opened: &Opened::of(vec![ACME.to_owned()]),
        ..Asker::here(&root)
    };
    let refusal = super::prepare(&base, &asker, &[delete(ACME)]).unwrap_err();
    let told = refusal.to_string();
    assert!(
        told.contains("users/ann, organizations/acme/users/root, and 3 below it that you may not read"),
        "{told}"
    );
    assert!(!told.contains("tenants"), "{told}");
}

#[test]
fn a_user_that_was_created_again_is_somebody_else() {
    let base = base();
    let Principal::User { name, .. } = user(&base, "ann") else {
        unreachable!("it is a user");
    };
    let stranger = Principal::User {
        name,
        uid: Uuid::now_v7(),
    };
    let refusal = prepare(&base, &stranger, &[delete(SHOP)]).unwrap_err();
    assert!(
        refusal.to_string().contains("does not exist any more"),
        "{refusal}"
    );
}

#[test]
fn a_caller_is_told_of_what_it_may_read_and_only_counts_the_rest() {
    let shop: Fqn = SHOP.parse().unwrap();
    let pay: Fqn = PAY.parse().unwrap();
    let finding = |name: &Fqn, text: &str| Finding::error(name, "spec", Code::BadBackend, text);
    let mine = |count: usize| (0..count).map(|number| finding(&shop, &format!("wrong {number}")));
    let told = |findings: Vec<Finding>| Told::of(findings, |name| *name == shop);

    let both = told(mine(1).chain([finding(&pay, "a"), finding(&pay, "b")]).collect());
    assert_eq!(
        both.to_string(),
        format!(
            "{SHOP}: wrong 0; 1 resource that you may not read depends on what this changes; \
             ask an administrator of the organization"
        )
    );
    let many = told(mine(FINDINGS_MAX + 5).collect());
    assert_eq!(many.findings.len(), FINDINGS_MAX);
    assert_eq!(many.rest(FINDINGS_MAX), ["and 5 more"]);
    assert!(many.to_string().ends_with("wrong 9; and 95 more"), "{many}");
}
