//! Who manages a resource: what the server records, whom it refuses, and what force leaves behind.

use http::Method;
use serde_json::{Value, json};

use crate::support::{ACME, Answer, Api, Management};

const PAY: &str = "organizations/acme/tenants/pay";

async fn apply(api: &Api, headers: &[(&str, &str)], document: Value) -> Answer {
    api.send(
        Method::POST,
        "changes?overwrite=true",
        headers,
        document.to_string(),
    )
    .await
}

fn pay(description: &str) -> Value {
    json!({"name": PAY, "description": description})
}

async fn managed(api: &Api) -> (Value, bool) {
    let held = api.get(PAY).await.json();
    let touched = held["revision"].as_u64() > held["managedRevision"].as_u64();
    (held["managedBy"].clone(), touched)
}

#[tokio::test]
async fn what_one_manages_no_other_changes_by_accident() {
    let management = Management::start().await;
    let admin = &management.admin;
    let (ci, terraform, force) = (
        ("tombolo-manager", "ci"),
        ("tombolo-manager", "terraform"),
        ("tombolo-force", "true"),
    );
    admin.create(pay("by hand")).await;
    assert_eq!(managed(admin).await.0, Value::Null);

    // Applying what is there takes it over.
    assert_eq!(apply(admin, &[ci], pay("by hand")).await.status, 200);
    assert_eq!(managed(admin).await, (json!("ci"), false));
    let revision = admin.get(ACME).await.json()["revision"].clone();
    let again = apply(admin, &[ci], pay("by hand")).await;
    assert_eq!(
        again.json()["changes"][0]["action"],
        "unchanged",
        "once is enough: {revision}"
    );

    let before = management.traces().await;
    for headers in [&[][..], &[terraform][..]] {
        apply(admin, headers, pay("mine"))
            .await
            .refused(409, "is managed by ci");
    }
    apply(admin, &[terraform], pay("by hand"))
        .await
        .refused(409, "is managed by ci");
    assert_eq!(
        apply(admin, &[], pay("by hand")).await.status,
        200,
        "nothing would change"
    );
    let held = admin.get(PAY).await;
    admin
        .delete(PAY, &held.etag())
        .await
        .refused(409, "is managed by ci");
    let dry = "changes?overwrite=true&dry_run=true";
    let dry = admin.send(Method::POST, dry, &[], pay("mine").to_string()).await;
    dry.refused(409, "is managed by ci");
    assert_eq!(management.traces().await, before, "nothing of it was written");

    // Nobody in particular leaves it with its manager, who can tell; another manager takes it.
    assert_eq!(apply(admin, &[force], pay("at night")).await.status, 200);
    assert_eq!(managed(admin).await, (json!("ci"), true));
    assert_eq!(
        apply(admin, &[terraform, force], pay("by night")).await.status,
        200
    );
    assert_eq!(managed(admin).await, (json!("terraform"), false));

    // What was got can be applied: the server's fields are its own.
    let mut got = admin.get(PAY).await.json();
    got["description"] = "edited".into();
    assert_eq!(apply(admin, &[terraform], got).await.status, 200);
    management.stop().await;
}

const SHOP: &str = "organizations/acme/tenants/pay/workspaces/shop";
const CI: (&str, &str) = ("tombolo-manager", "ci");
const FORCE: (&str, &str) = ("tombolo-force", "true");

fn shop(namespaces: &str) -> Value {
    json!({"name": SHOP, "spec": {"namespaces": [namespaces]}})
}

fn described(mut document: Value, description: &str) -> Value {
    document["description"] = description.into();
    document
}

/// What is managed of the workspace, its description and its namespaces, and whether somebody has forced a change.
async fn kept(api: &Api) -> (Value, Value, Value, bool) {
    let held = api.get(SHOP).await.json();
    let touched = held["revision"].as_u64() > held["managedRevision"].as_u64();
    (
        held["managedFields"].clone(),
        held["description"].clone(),
        held["spec"]["namespaces"][0].clone(),
        touched,
    )
}

async fn applied(api: &Api, headers: &[(&str, &str)], document: Value) {
    let answer = apply(api, headers, document).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
}

#[tokio::test]
async fn a_manager_keeps_the_fields_that_it_sets_and_no_others() {
    let management = Management::start().await;
    let admin = &management.admin;
    admin.create(pay("")).await;
    applied(admin, &[CI], shop("*/a")).await;
    let namespaces = json!(["/spec/namespaces"]);
    assert_eq!(
        kept(admin).await,
        (namespaces.clone(), Value::Null, json!("*/a"), false)
    );

    // Beside it, everybody sets what they like.
    applied(admin, &[], described(shop("*/a"), "by hand")).await;
    assert_eq!(
        kept(admin).await,
        (namespaces.clone(), json!("by hand"), json!("*/a"), false)
    );
    let before = management.traces().await;
    let refused = apply(admin, &[], described(shop("*/b"), "mine")).await;
    refused.refused(409, "is managed by ci in /spec/namespaces");
    let etag = admin.get(SHOP).await.etag();
    admin.delete(SHOP, &etag).await.refused(409, "is managed by ci");
    assert_eq!(management.traces().await, before, "nothing of it was written");

    // The manager does not undo what it does not set, and asks before it takes that.
    applied(admin, &[CI], shop("*/b")).await;
    assert_eq!(
        kept(admin).await,
        (namespaces.clone(), json!("by hand"), json!("*/b"), false)
    );
    let contested = apply(admin, &[CI], described(shop("*/b"), "ci's")).await;
    contested.refused(409, "somebody else has set /description");
    applied(admin, &[CI, FORCE], described(shop("*/b"), "ci's")).await;
    let both = json!(["/description", "/spec/namespaces"]);
    assert_eq!(kept(admin).await, (both, json!("ci's"), json!("*/b"), false));
    apply(admin, &[], shop("*/b"))
        .await
        .refused(409, "is managed by ci in /description");

    // What it sets no more goes, and is free.
    applied(admin, &[CI], shop("*/b")).await;
    assert_eq!(
        kept(admin).await,
        (namespaces.clone(), Value::Null, json!("*/b"), false)
    );
    applied(admin, &[], described(shop("*/b"), "by hand")).await;
    applied(admin, &[FORCE], described(shop("*/c"), "by hand")).await;
    assert_eq!(
        kept(admin).await,
        (namespaces.clone(), json!("by hand"), json!("*/c"), true)
    );
    applied(admin, &[], described(shop("*/c"), "still")).await;
    assert_eq!(
        kept(admin).await,
        (namespaces, json!("still"), json!("*/c"), true)
    );
    management.stop().await;
}

/// A folder that has set a part of an object newly sets all of it.
#[tokio::test]
async fn what_a_person_has_set_below_a_new_field_is_contested() {
    let management = Management::start().await;
    let admin = &management.admin;
    let labelled = |labels: Value| json!({"name": PAY, "labels": labels});
    applied(admin, &[CI], labelled(json!({"a": "1"}))).await;
    applied(admin, &[], labelled(json!({"a": "1", "b": "by hand"}))).await;
    let refused = apply(admin, &[CI], labelled(json!({}))).await;
    refused.refused(409, "somebody else has set /labels/b");
    assert_eq!(admin.get(PAY).await.json()["labels"]["b"], "by hand");
    applied(admin, &[CI, FORCE], labelled(json!({}))).await;
    assert_eq!(admin.get(PAY).await.json()["labels"]["b"], Value::Null);
    management.stop().await;
}

/// Whose a resource is, is not what its manager keeps.
#[tokio::test]
async fn another_owner_is_no_change_of_what_is_managed() {
    let management = Management::start().await;
    let admin = &management.admin;
    admin.create(pay("")).await;
    applied(admin, &[CI], shop("*/a")).await;
    management.user("ann", &[]).await;
    let owner = json!({"owner": format!("{ACME}/users/ann")});
    let given = admin.post(&format!("{SHOP}:transfer"), owner).await;
    assert_eq!(given.status, 200, "{}", given.text);
    let namespaces = json!(["/spec/namespaces"]);
    assert_eq!(kept(admin).await, (namespaces, Value::Null, json!("*/a"), false));
    management.stop().await;
}

/// As a version left it that knew no fields, or wrote after one that did.
#[tokio::test]
async fn what_was_managed_as_a_whole_is_until_its_manager_writes_again() {
    for older in ["managed_fields = NULL", "managed_revision = managed_revision - 1"] {
        let management = Management::start().await;
        management.admin.create(pay("")).await;
        applied(&management.admin, &[CI], shop("*/a")).await;
        management
            .sql(&format!(
                "UPDATE resources SET {older} WHERE managed_by IS NOT NULL"
            ))
            .await;
        let (running, replica) = management.replica().await;
        assert_eq!(kept(&replica).await.0, Value::Null, "{older}");
        let by_hand = described(shop("*/a"), "by hand");
        apply(&replica, &[], by_hand.clone())
            .await
            .refused(409, "is managed by ci in /description");
        applied(&replica, &[CI], shop("*/a")).await;
        assert_eq!(kept(&replica).await.0, json!(["/spec/namespaces"]), "{older}");
        applied(&replica, &[], by_hand).await;
        running.stop().await.unwrap();
        management.stop().await;
    }
}

/// An invariant is of one sort: two cannot stand in one resource.
#[tokio::test]
async fn what_a_manager_and_a_person_cannot_have_both_is_refused_with_the_reason() {
    let management = Management::start().await;
    let admin = &management.admin;
    admin.create(pay("")).await;
    admin.create(shop("*/a")).await;
    let invariant = |spec: Value| json!({"name": format!("{ACME}/invariants/it"), "spec": spec});
    let never = json!({"neverFromOutside": {"workspace": SHOP}});
    let failover = json!({"noFailover": {"workspace": SHOP, "region": "us"}});
    admin.create(invariant(never)).await;
    let refused = apply(admin, &[CI], invariant(failover.clone())).await;
    refused.refused(422, "cannot be what its manager and others have set together");
    applied(admin, &[CI, FORCE], invariant(failover.clone())).await;
    let held = admin.get(&format!("{ACME}/invariants/it")).await.json();
    assert_eq!(held["spec"], failover);

    // It tells nobody what stands there who may not write it.
    let ann = management.user("ann", &[]).await;
    let never = json!({"neverFromOutside": {"workspace": SHOP}});
    let refused = apply(&ann, &[CI], invariant(never)).await;
    assert!(!refused.text.contains("together"), "{}", refused.text);
    refused.refused(403, "");
    management.stop().await;
}

#[tokio::test]
async fn a_replica_knows_who_manages_what() {
    let management = Management::start().await;
    let created = apply(&management.admin, &[("tombolo-manager", "ci")], pay("")).await;
    assert_eq!(created.status, 200, "{}", created.text);
    let (running, replica) = management.replica().await;
    assert_eq!(managed(&replica).await, (json!("ci"), false));
    apply(&replica, &[], pay("mine"))
        .await
        .refused(409, "is managed by ci");
    running.stop().await.unwrap();
    management.stop().await;
}

#[tokio::test]
async fn headers_that_cannot_be_meant_are_refused() {
    let management = Management::start().await;
    for (header, value) in [
        ("tombolo-manager", ""),
        ("tombolo-manager", "two words"),
        ("tombolo-force", "yes"),
    ] {
        let answer = apply(&management.admin, &[(header, value)], pay("")).await;
        answer.refused(400, &format!("the header {header}"));
    }
    management.stop().await;
}

#[tokio::test]
async fn a_tree_is_read_in_pages_and_only_as_far_as_its_reader_may() {
    let management = Management::start().await;
    let media = format!("{ACME}/tenants/payments");
    management.admin.create(pay("")).await;
    management.admin.create(json!({ "name": media })).await;
    let workspaces: Vec<Value> = (0..5)
        .map(|number| json!({"name": format!("{PAY}/workspaces/w{number}"), "spec": {"namespaces": []}}))
        .collect();
    for workspace in &workspaces {
        management.admin.create(workspace.clone()).await;
    }
    let ann = management.user("ann", &[(PAY, "reader")]).await;
    let mut names: Vec<String> = Vec::new();
    let mut path = format!("{PAY}:tree?pageSize=3");
    loop {
        let page = ann.get(&path).await.json();
        let items = page["items"].as_array().unwrap();
        names.extend(items.iter().map(|item| item["name"].as_str().unwrap().to_owned()));
        let Some(token) = page["nextPageToken"].as_str() else {
            break;
        };
        path = format!("{PAY}:tree?pageSize=3&pageToken={token}");
    }
    assert_eq!(names.first().map(String::as_str), Some(PAY));
    assert_eq!(
        names.iter().filter(|name| name.contains("/workspaces/")).count(),
        5,
        "{names:?}"
    );
    assert!(names.iter().all(|name| !name.starts_with(&media)), "{names:?}");
    ann.get(&format!("{ACME}:tree"))
        .await
        .refused(404, "is not yours to see");
    management.stop().await;
}
