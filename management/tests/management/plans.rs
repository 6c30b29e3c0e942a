//! Plans: what a change would do, and a write that is held to what somebody has seen.

use http::Method;
use serde_json::{Value, json};

use crate::support::{ACME, Answer, Api, Management, two_teams};

const PAY: &str = "organizations/acme/tenants/pay";
const SHOP: &str = "organizations/acme/tenants/pay/workspaces/shop";

fn namespaces(all: &[&str]) -> Value {
    json!({"name": SHOP, "spec": {"namespaces": all}})
}

async fn apply(api: &Api, plan: &str, document: &Value) -> Answer {
    api.send(
        Method::POST,
        "changes",
        &[("if-plan", plan)],
        document.to_string(),
    )
    .await
}

#[tokio::test]
async fn a_write_does_what_its_plan_says_or_nothing() {
    let management = Management::start().await;
    two_teams(&management).await;
    let admin = &management.admin;
    let change = namespaces(&["us-east/shop"]);
    let plan = admin.post("plans?overwrite=true", change.clone()).await.json();
    assert_eq!(plan["changes"][0]["action"], "update");
    assert_eq!(plan["routes"]["us-west"][0]["action"], "delete", "{plan}");
    assert_eq!(
        plan["behaviour"]["proxies"]["us-west"]["atMost"],
        json!(null),
        "nobody has told how many"
    );
    let id = plan["plan"].as_str().unwrap();

    // Somebody writes elsewhere: the plan holds.
    admin
        .create(json!({"name": format!("{ACME}/tenants/other")}))
        .await;
    let before = management.traces().await;
    apply(admin, "2-00", &change).await.refused(400, "is not a plan");
    assert_eq!(management.traces().await, before);

    // Somebody writes what the plan is about: it is refused, and says by whom.
    let ann = management.user("ann", &[(PAY, "writer")]).await;
    let etag = ann.get(SHOP).await.etag();
    ann.put(&etag, namespaces(&["*/shop", "*/more"])).await;
    let before = management.traces().await;
    let refused = apply(admin, id, &change).await;
    refused.refused(412, "is stale");
    let moved = refused.json()["errors"].to_string();
    assert!(
        moved.contains(&format!("update of {SHOP} by {ACME}/users/ann")),
        "{moved}"
    );
    assert_eq!(management.traces().await, before);

    let plan = admin.post("plans?overwrite=true", change.clone()).await.json();
    let id = plan["plan"].as_str().unwrap();
    let applied = apply(admin, id, &change).await;
    assert_eq!(applied.status, 200, "{}", applied.text);
    assert_eq!(admin.get(SHOP).await.json()["spec"], change["spec"]);
    // It was for that one write.
    apply(admin, id, &change).await.refused(412, "is stale");
    management.stop().await;
}

#[tokio::test]
async fn a_plan_tells_a_caller_what_it_may_read_and_counts_the_rest() {
    let management = Management::start().await;
    two_teams(&management).await;
    let ann = management.user("ann", &[(PAY, "writer")]).await;
    let moved_since = management.admin.get(ACME).await.json()["revision"].clone();
    let change = namespaces(&["us-east/shop"]);
    let plan = ann.post("plans?overwrite=true", change.clone()).await;
    assert_eq!(plan.status, 200, "{}", plan.text);
    assert!(!plan.text.contains("media"), "{}", plan.text);
    let id = plan.json()["plan"].as_str().unwrap().to_owned();
    management
        .admin
        .put(
            "*",
            json!({"name": format!("{ACME}/tenants/media"), "description": "x"}),
        )
        .await;
    management.admin.put("*", namespaces(&["*/shop", "*/more"])).await;
    let refused = apply(&ann, &id, &change).await;
    refused.refused(412, "is stale");
    assert!(!refused.text.contains("media"), "{}", refused.text);
    assert!(
        refused.text.contains("and 1 or more others"),
        "{} {moved_since}",
        refused.text
    );

    let stranger = management.user("stranger", &[]).await;
    stranger
        .post("plans", change)
        .await
        .refused(403, "needs the role");
    management.stop().await;
}

#[tokio::test]
async fn a_plan_equals_what_is_applied_over_http() {
    let management = Management::start().await;
    two_teams(&management).await;
    let admin = &management.admin;
    let group = format!("{SHOP}/gatewaygroups/edge");
    let gateway = |leaf: &str, host: &str| {
        json!({"name": format!("{group}/gateways/{leaf}"), "spec": {"workload": "shop/door", "type": "ingress",
            "port": 8080, "hosts": [host], "rules": [{"backendRefs": [{"namespace": "shop", "name": "web"}]}]}})
    };
    let delete =
        |leaf: &str| json!({"changes": [{"op": "delete", "name": format!("{group}/gateways/{leaf}")}]});
    for change in [
        gateway("a", "a.example.com"),
        namespaces(&["us-east/shop"]),
        json!([
            gateway("b", "b.example.com"),
            namespaces(&["*/shop", "us-west/cart"])
        ]),
        json!({"name": format!("{ACME}/clusters/us-west"), "spec": {"region": "us-east"}}),
        delete("a"),
        json!({"rollback": {"name": SHOP, "revision": 3}}),
        namespaces(&["*/shop", "*/cart"]),
    ] {
        let before = compiled(admin).await;
        let plan = admin.post("plans?overwrite=true", change.clone()).await;
        assert_eq!(plan.status, 200, "{change}: {}", plan.text);
        let plan = plan.json();
        let applied = apply(admin, plan["plan"].as_str().unwrap(), &change).await;
        assert_eq!(applied.status, 200, "{change}: {}", applied.text);
        assert_eq!(
            compiled(admin).await.to_string(),
            patched(before, &plan).to_string(),
            "{change}"
        );
        for changed in plan["changes"].as_array().unwrap() {
            let found = admin.get(changed["name"].as_str().unwrap()).await;
            match &changed["after"] {
                Value::Null if changed["action"] == "unchanged" => assert_eq!(found.status, 200),
                Value::Null => assert_eq!(found.status, 404, "{changed}"),
                after => assert_eq!(found.json()["spec"], after["spec"]),
            }
        }
    }
    management.stop().await;
}

async fn compiled(admin: &Api) -> Value {
    let routes = admin.get(&format!("{ACME}:compiled")).await.json()["routes"].clone();
    let mut routes = without_origins(routes);
    // A cluster without a route is not in the answer; for a plan it is one without changes.
    for cluster in ["us-east", "us-west"] {
        if routes[cluster].is_null() {
            routes[cluster] = json!({});
        }
    }
    routes
}

/// An origin that differs moves no proxy, and is not in a plan.
fn without_origins(mut value: Value) -> Value {
    match &mut value {
        Value::Object(fields) => {
            fields.remove("origin");
            fields
                .values_mut()
                .for_each(|field| *field = without_origins(field.take()));
        }
        Value::Array(items) => items
            .iter_mut()
            .for_each(|item| *item = without_origins(item.take())),
        _ => {}
    }
    value
}

/// The routes as the plan says that they will be.
fn patched(mut routes: Value, plan: &Value) -> Value {
    for (cluster, changes) in plan["routes"].as_object().unwrap() {
        for change in changes.as_array().unwrap() {
            let slice = routes[cluster].as_object_mut().unwrap();
            let key = change["route"].as_str().unwrap();
            match &change["after"] {
                Value::Null => drop(slice.remove(key)),
                after => drop(slice.insert(key.to_owned(), without_origins(after.clone()))),
            }
        }
    }
    routes
}
