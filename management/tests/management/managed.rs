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
