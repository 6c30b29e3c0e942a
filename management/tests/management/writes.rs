//! The life of resources: created, read, listed, changed together, deleted; and what a dry run tells.

use http::Method;
use serde_json::{Value, json};

use crate::support::{ACME, Management, two_teams};

const SHOP: &str = "organizations/acme/tenants/pay/workspaces/shop";

#[tokio::test]
async fn a_resource_lives_from_create_to_delete() {
    let management = Management::start().await;
    let admin = &management.admin;
    let name = format!("{ACME}/tenants/pay");
    let created = admin
        .post(
            &format!("{ACME}/tenants"),
            json!({"kind": "Tenant", "name": name}),
        )
        .await;
    assert_eq!(created.status, 201, "{}", created.text);
    assert_eq!(created.headers["location"], format!("/v1/{name}").as_str());
    let first = created.json();
    assert_eq!(first["revision"], 2, "the organization itself was revision 1");
    assert_eq!(created.etag(), format!("\"{}\"", first["etag"].as_str().unwrap()));
    assert_eq!(admin.get(&name).await.json(), first);

    let mut edited = first.clone();
    edited["description"] = "payments".into();
    let updated = admin.put(&created.etag(), edited.clone()).await;
    assert_eq!(updated.status, 200, "{}", updated.text);
    let second = updated.json();
    assert_eq!(second["revision"], 3);
    assert_eq!(second["uid"], first["uid"]);
    assert_eq!(second["createTime"], first["createTime"]);
    assert_ne!(second["etag"], first["etag"]);
    admin
        .put(&created.etag(), edited.clone())
        .await
        .refused(412, "has changed since");

    let again = admin.put(&updated.etag(), edited).await;
    assert_eq!(again.json(), second, "writing what is there changes nothing");

    let deleted = admin.delete(&name, &updated.etag()).await;
    assert_eq!(deleted.status, 200, "{}", deleted.text);
    assert_eq!(deleted.json()["revision"], 4);
    admin.get(&name).await.refused(404, "does not exist");

    let recreated = admin.create(json!({ "name": name })).await;
    assert_ne!(
        recreated["uid"], first["uid"],
        "a name that comes back is another resource"
    );
    management.stop().await;
}

#[tokio::test]
async fn an_etag_never_comes_back_with_its_content() {
    let management = Management::start().await;
    let admin = &management.admin;
    let document = |text: &str| json!({"name": format!("{ACME}/tenants/pay"), "description": text});
    let seen = admin.create(document("a")).await;
    admin.put("*", document("b")).await;
    let back = admin.put("*", document("a")).await.json();
    assert_eq!(back["description"], seen["description"]);
    let stale = format!("\"{}\"", seen["etag"].as_str().unwrap());
    admin
        .put(&stale, document("c"))
        .await
        .refused(412, "has changed since");
    management.stop().await;
}

#[tokio::test]
async fn many_resources_are_one_transaction_and_one_revision() {
    let management = Management::start().await;
    two_teams(&management).await;
    let before = management.traces().await;
    let answer = management
        .admin
        .post(
            "changes",
            json!({"changes": [
                {"op": "create", "resource": {"name": format!("{ACME}/tenants/new")}},
                {"op": "apply", "resource": {"name": format!("{ACME}/tenants/pay")}},
                {"op": "delete", "name": format!("{SHOP}/trafficgroups/web"), "etag":
                    management.admin.get(&format!("{SHOP}/trafficgroups/web")).await.etag()},
            ]}),
        )
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let actions: Vec<Value> = answer.json()["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|change| change["action"].clone())
        .collect();
    assert_eq!(actions, ["create", "unchanged", "delete"]);
    assert_eq!(answer.json()["revision"], 3);
    let after = management.traces().await;
    assert_ne!(after, before);
    assert_eq!(
        management
            .count(
                "SELECT count(*) FROM audit WHERE name LIKE '%/tenants/%' AND chain = 'writes' \
                          AND convert_from(record, 'UTF8')::jsonb->>'revision' = '3'"
            )
            .await,
        2,
        "what is unchanged leaves no record"
    );
    management.stop().await;
}

#[tokio::test]
async fn get_edit_apply_works_in_yaml() {
    let management = Management::start().await;
    two_teams(&management).await;
    let admin = &management.admin;
    let got = admin.get(SHOP).await.json();
    let edited = {
        let mut edited = got.clone();
        edited["description"] = "edited".into();
        edited
    };
    let applied = admin.apply(&edited.to_string()).await;
    assert_eq!(applied["changes"][0]["action"], "update");
    let again = admin.apply_raw("changes", &edited.to_string()).await;
    again.refused(412, "has changed since");
    let mut unseen = edited;
    unseen["description"] = "again".into();
    unseen.as_object_mut().unwrap().remove("etag");
    admin
        .apply_raw("changes", &unseen.to_string())
        .await
        .refused(428, SHOP);
    let forced = admin
        .apply_raw("changes?overwrite=true", &unseen.to_string())
        .await;
    assert_eq!(forced.status, 200, "{}", forced.text);
    management.stop().await;
}

#[tokio::test]
async fn lists_come_in_pages_and_in_order() {
    let management = Management::start().await;
    let admin = &management.admin;
    let documents: Vec<Value> = (0..25)
        .map(|number| json!({"name": format!("{ACME}/tenants/t{number:02}")}))
        .collect();
    assert_eq!(admin.post("changes", json!(documents)).await.status, 200);
    let mut found = Vec::new();
    let mut token = String::new();
    for _ in 0..3 {
        let page = admin
            .get(&format!("{ACME}/tenants?pageSize=10{token}"))
            .await
            .json();
        for item in page["items"].as_array().unwrap() {
            found.push(item["name"].clone());
        }
        token = match page["nextPageToken"].as_str() {
            Some(next) => format!("&pageToken={next}"),
            None => break,
        };
    }
    let names: Vec<Value> = documents
        .iter()
        .map(|document| document["name"].clone())
        .collect();
    assert_eq!(found, names);
    admin
        .get(&format!("{ACME}/tenants?pageSize=501"))
        .await
        .refused(400, "not between 1 and 500");
    admin
        .get(&format!("{ACME}/tenants?pageToken=A"))
        .await
        .refused(400, "is not from this list");
    management.stop().await;
}

#[tokio::test]
async fn a_dry_run_tells_what_would_change_and_changes_nothing() {
    let management = Management::start().await;
    two_teams(&management).await;
    let before = management.traces().await;
    let gateway = format!(
        "
name: {SHOP}/gatewaygroups/edge/gateways/in
spec:
  workload: shop/gateway
  type: ingress
  port: 8080
  hosts: [shop.example.com]
  rules: [{{backendRefs: [{{namespace: shop, name: web}}]}}]
"
    );
    let answer = management.admin.apply_raw("changes?dry_run=true", &gateway).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let told = answer.json();
    assert_eq!(told["dryRun"], true);
    assert_eq!(told["changes"][0]["action"], "create");
    assert_eq!(told["changes"][0]["after"]["spec"]["port"], 8080);
    assert!(told["routes"].is_object(), "{told}");
    let tenant = format!("{ACME}/tenants/pay");
    for (method, path, headers, body) in [
        (
            Method::POST,
            format!("{ACME}/tenants?dry_run=true"),
            [("if-match", "*")],
            json!({"name": format!("{ACME}/tenants/x")}),
        ),
        (
            Method::PUT,
            format!("{tenant}?dry_run=true"),
            [("if-match", "*")],
            json!({"name": tenant, "description": "x"}),
        ),
        (
            Method::DELETE,
            format!("{SHOP}/trafficgroups/web?dry_run=true"),
            [("if-match", "*")],
            Value::Null,
        ),
    ] {
        let answer = management
            .admin
            .send(method, &path, &headers, body.to_string())
            .await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        assert_eq!(answer.json()["dryRun"], true);
    }
    management
        .admin
        .send(
            Method::DELETE,
            &format!("{tenant}?dry_run=true"),
            &[("if-match", "*")],
            "",
        )
        .await
        .refused(409, "still has");
    assert_eq!(management.traces().await, before);
    management.stop().await;
}

#[tokio::test]
async fn what_something_else_needs_is_not_deleted() {
    let management = Management::start().await;
    two_teams(&management).await;
    management
        .admin
        .apply(&format!(
            "name: {ACME}/tenants/pay/workspaces/only\nspec: {{namespaces: ['us-west/only']}}\n"
        ))
        .await;
    let before = management.traces().await;
    management
        .admin
        .delete(&format!("{ACME}/clusters/us-west"), "*")
        .await
        .refused(409, "organizations/acme/tenants/pay/workspaces/only");
    assert_eq!(management.traces().await, before);
    management.stop().await;
}
