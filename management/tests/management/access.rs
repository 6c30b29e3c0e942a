//! Who may see and do what, over HTTP.

use std::time::Duration;

use anyhow::ensure;
use http::Method;
use serde_json::{Value, json};
use tombolo_tests::eventually;

use crate::support::{ACME, Api, Management, two_teams};

const DEADLINE: Duration = Duration::from_secs(20);
const PAY: &str = "organizations/acme/tenants/pay";
const MEDIA: &str = "organizations/acme/tenants/media";
const SHOP: &str = "organizations/acme/tenants/pay/workspaces/shop";
const VIDEO: &str = "organizations/acme/tenants/media/workspaces/video";

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().unwrap().iter();
    items.map(|item| item["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn roles_are_inherited_downwards() {
    let management = Management::start().await;
    two_teams(&management).await;
    let reader = management.user("rita", &[(PAY, "reader")]).await;
    let writer = management.user("walt", &[(SHOP, "writer")]).await;
    let route = json!({"name": format!("{SHOP}/trafficgroups/web/serviceroutes/r"),
        "spec": {"service": "shop/web", "rules": []}});
    let collection = format!("{SHOP}/trafficgroups/web/serviceroutes");

    assert_eq!(reader.get(SHOP).await.status, 200);
    reader.post(&collection, route.clone()).await.refused(
        403,
        "organizations/acme/users/rita needs the role traffic-admin to create",
    );
    assert_eq!(writer.post(&collection, route).await.status, 201);
    writer
        .get(PAY)
        .await
        .refused(404, "does not exist, or is not yours to see");
    let binding = json!({"name": format!("{SHOP}/bindings/me"), "spec": {"role": "admin", "subjects": [format!("{ACME}/users/walt")]}});
    writer
        .post(&format!("{SHOP}/bindings"), binding.clone())
        .await
        .refused(
            403,
            "organizations/acme/users/walt needs the role admin to create",
        );
    // Nor in one transaction with something that is allowed.
    let before = management.traces().await;
    let group = json!({"name": format!("{SHOP}/securitygroups/s")});
    writer
        .post("changes", json!([group, binding]))
        .await
        .refused(403, "needs the role admin");
    assert_eq!(management.traces().await, before);
    management.stop().await;
}

#[tokio::test]
async fn a_list_shows_what_its_caller_may_read() {
    let management = Management::start().await;
    two_teams(&management).await;
    let rita = management.user("rita", &[(PAY, "reader")]).await;
    let tenants = rita.get(&format!("{ACME}/tenants")).await.json();
    assert_eq!(names(&tenants), [PAY]);
    assert_eq!(
        names(&rita.get(&format!("{PAY}/workspaces")).await.json()),
        [SHOP]
    );
    let elsewhere = rita.get(&format!("{MEDIA}/workspaces")).await;
    let nowhere = rita.get(&format!("{ACME}/tenants/none/workspaces")).await;
    assert_eq!(elsewhere.text, nowhere.text, "hidden and missing look the same");
    assert!(names(&rita.get("organizations").await.json()).is_empty());
    assert_eq!(names(&management.admin.get("organizations").await.json()), [ACME]);
    management.stop().await;
}

#[tokio::test]
async fn invariant_6_a_tenant_can_neither_read_nor_join_nor_shadow_another_tenants_names() {
    let management = Management::start().await;
    two_teams(&management).await;
    let mallory = management.user("mallory", &[(MEDIA, "admin")]).await;
    let before = management.traces().await;
    let missing = format!("{ACME}/tenants/none");

    for question in ["", ":status", ":receipt"] {
        let hidden = mallory.get(&format!("{PAY}{question}")).await;
        hidden.refused(404, "is not yours to see");
        let nothing = mallory.get(&format!("{missing}{question}")).await;
        let blind = |text: &str, id: &str, name: &str| text.replace(id, "ID").replace(name, "NAME");
        let id =
            |answer: &crate::support::Answer| answer.headers["x-request-id"].to_str().unwrap().to_owned();
        assert_eq!(
            blind(&hidden.text, &id(&hidden), PAY),
            blind(&nothing.text, &id(&nothing), &missing)
        );
    }
    for (document, words) in [
        (
            json!({"name": PAY, "description": "mine"}),
            "needs the role editor",
        ),
        (
            json!({"name": format!("{SHOP}/trafficgroups/mine")}),
            "needs the role traffic-admin",
        ),
        (
            json!({"name": format!("{missing}/workspaces/w"), "spec": {"namespaces": []}}),
            "needs the role writer",
        ),
        (
            json!({"name": format!("{PAY}/bindings/me"), "spec": {"role": "admin", "subjects": [format!("{ACME}/users/mallory")]}}),
            "needs the role admin",
        ),
    ] {
        mallory
            .post("changes?overwrite=true", document.clone())
            .await
            .refused(403, words);
        mallory
            .post("changes?overwrite=true&dry_run=true", document)
            .await
            .refused(403, words);
    }
    mallory
        .delete(SHOP, "*")
        .await
        .refused(403, "needs the role writer to delete");
    // Claims on what belongs to somebody else name the owner, and change nothing.
    for namespaces in [
        json!(["*/shop"]),
        json!(["us-east/shop"]),
        json!(["us-west/shop", "*/video"]),
    ] {
        let document = json!({"name": VIDEO, "spec": {"namespaces": namespaces}});
        mallory
            .post("changes?overwrite=true", document)
            .await
            .refused(409, SHOP);
    }
    let foreign = json!({"name": format!("{VIDEO}/trafficgroups/web/serviceroutes/r"),
        "spec": {"service": "shop/web", "rules": []}});
    let answer = mallory.post("changes", foreign).await;
    answer.refused(422, "namespace shop is not one of");
    assert_eq!(management.traces().await, before);

    let audit = mallory.get("audit?pageSize=500").await.json();
    for name in names(&audit) {
        assert!(name.starts_with(MEDIA), "the audit log shows {name}");
    }
    mallory
        .get("audit:verify")
        .await
        .refused(403, "needs the role auditor to read the audit log of");
    management.stop().await;
}

#[tokio::test]
async fn invariant_6_a_refusal_counts_what_it_would_break_elsewhere_and_names_it_not() {
    let management = Management::start().await;
    two_teams(&management).await;
    let gateway = |workspace: &str, name: &str, namespace: &str| {
        json!({"name": format!("{workspace}/gatewaygroups/edge/gateways/{name}"), "spec": {
            "workload": "mesh/gateway", "type": "ingress", "port": 8080, "hosts": [format!("{name}.example.com")],
            "rules": [{"backendRefs": [{"namespace": namespace, "name": "web"}]}]}})
    };
    for (workspace, name, namespace) in [(SHOP, "a", "shop"), (SHOP, "b", "shop"), (VIDEO, "c", "video")] {
        management.admin.create(gateway(workspace, name, namespace)).await;
    }
    let mallory = management.user("mallory", &[(MEDIA, "writer")]).await;
    let before = management.traces().await;
    let grab = json!({"name": format!("{MEDIA}/workspaces/mesh"), "spec": {"namespaces": ["*/mesh"]}});
    for path in ["changes", "changes?dry_run=true"] {
        let answer = mallory.post(path, grab.clone()).await;
        answer.refused(
            409,
            "2 resources that you may not read depend on what this changes; ask an administrator of the organization",
        );
        assert!(!answer.text.contains(PAY), "{}", answer.text);
        let own = format!("{VIDEO}/gatewaygroups/edge/gateways/c");
        assert!(answer.text.contains(&own), "{}", answer.text);
    }
    assert_eq!(management.traces().await, before);
    // Whoever may read them is told.
    let answer = management.admin.post("changes", grab).await;
    answer.refused(409, &format!("{SHOP}/gatewaygroups/edge/gateways/a"));
    assert!(!answer.text.contains("may not read"), "{}", answer.text);
    management.stop().await;
}

#[tokio::test]
async fn a_dry_run_is_decided_on_what_the_database_holds_like_the_write() {
    let management = Management::start().await;
    two_teams(&management).await;
    let mallory = management.user("mallory", &[(MEDIA, "writer")]).await;
    let (replica, other) = management.replica().await;
    let there = Api::new(other.addr, mallory.token.as_deref());
    let binding = format!("{MEDIA}/bindings/mallory-writer");
    let group = json!({"name": format!("{VIDEO}/trafficgroups/x")});
    assert_eq!(
        there.post("changes?dry_run=true", group.clone()).await.status,
        200
    );
    assert_eq!(management.admin.delete(&binding, "*").await.status, 200);
    // At once, and not when the replica polls.
    there
        .post("changes?dry_run=true", group)
        .await
        .refused(403, "needs the role traffic-admin");
    replica.stop().await.unwrap();
    management.stop().await;
}

#[tokio::test]
async fn tokens_are_shown_once_and_revoked_at_once() {
    let management = Management::start().await;
    let (replica, other) = management.replica().await;
    let ann = management.user("ann", &[(ACME, "reader")]).await;
    let bob = management.user("bob", &[]).await;
    let path = format!("{ACME}/users/ann/tokens");
    bob.get(&path)
        .await
        .refused(403, "needs the role admin to manage the tokens of");

    let listed = ann.get(&path).await;
    assert!(!listed.text.contains("tb_"), "{}", listed.text);
    let id = listed.json()["items"][0]["id"].as_str().unwrap().to_owned();
    let stored = "SELECT count(*) FROM tokens WHERE position(convert_to('tb_', 'UTF8') IN sha256) > 0 OR length(sha256) <> 32";
    assert_eq!(management.count(stored).await, 0);

    let elsewhere = Api::new(other.addr, ann.token.as_deref());
    // The other replica may not have heard of the binding yet.
    eventually(DEADLINE, || async {
        ensure!(elsewhere.get(ACME).await.status == 200);
        Ok(())
    })
    .await;
    let revoked = management
        .admin
        .send(Method::DELETE, &format!("{path}/{id}"), &[], "")
        .await;
    assert_eq!(revoked.status, 200, "{}", revoked.text);
    ann.get(ACME).await.refused(401, "revoked or has expired");
    elsewhere.get(ACME).await.refused(401, "revoked or has expired");
    management
        .admin
        .send(Method::DELETE, &format!("{path}/{id}"), &[], "")
        .await
        .refused(404, "does not exist");

    let past = json!({"expireTime": "2001-01-01T00:00:00Z"}).to_string();
    let admin = &management.admin;
    admin
        .send(Method::POST, &path, &[], past)
        .await
        .refused(400, "lies in the past");
    admin
        .send(Method::POST, &path, &[], r#"{"x": 1}"#)
        .await
        .refused(400, "unknown field `x`");
    replica.stop().await.unwrap();
    management.stop().await;
}

#[tokio::test]
async fn a_user_that_is_created_again_inherits_no_token() {
    let management = Management::start().await;
    let ann = management.user("ann", &[]).await;
    let name = format!("{ACME}/users/ann");
    assert_eq!(management.admin.delete(&name, "*").await.status, 200);
    ann.get(ACME).await.refused(401, "revoked or has expired");
    management.admin.create(json!({ "name": name })).await;
    ann.get(ACME).await.refused(401, "revoked or has expired");
    // Nor when the row is as it was, in a backup say: the token is of somebody else.
    management.sql("UPDATE tokens SET revoked_at = NULL").await;
    ann.get(ACME).await.refused(401, "does not exist any more");
    management.stop().await;
}

#[tokio::test]
async fn every_endpoint_asks_who_calls_and_records_who_was_refused() {
    let management = Management::start().await;
    let anonymous = management.anonymous();
    let endpoints = [
        (Method::GET, "organizations".to_owned()),
        (Method::GET, ACME.to_owned()),
        (Method::GET, format!("{ACME}/tenants")),
        (Method::GET, format!("{ACME}:status")),
        (Method::GET, format!("{ACME}:receipt")),
        (Method::POST, format!("{ACME}/tenants")),
        (Method::PUT, ACME.to_owned()),
        (Method::DELETE, ACME.to_owned()),
        (Method::POST, "changes".to_owned()),
        (Method::POST, format!("{ACME}:adopt")),
        (Method::GET, format!("{ACME}?revision=1")),
        (Method::GET, format!("{ACME}/tenants?revision=1")),
        (Method::GET, format!("{ACME}:history")),
        (Method::GET, format!("{ACME}:diff?from=1")),
        (Method::GET, format!("{ACME}:compiled")),
        (Method::POST, format!("{ACME}:rollback")),
        (Method::POST, "plans".to_owned()),
        (Method::GET, "plans".to_owned()),
        (
            Method::GET,
            "plans/0190a0b0-0000-7000-8000-000000000000".to_owned(),
        ),
        (
            Method::POST,
            "plans/0190a0b0-0000-7000-8000-000000000000:approve".to_owned(),
        ),
        (Method::GET, "audit".to_owned()),
        (Method::GET, "audit:verify".to_owned()),
        (Method::GET, format!("{ACME}/users/admin/tokens")),
        (Method::POST, format!("{ACME}/users/admin/tokens")),
        (
            Method::DELETE,
            format!("{ACME}/users/admin/tokens/0190a0b0-0000-7000-8000-000000000000"),
        ),
    ];
    for (method, path) in &endpoints {
        anonymous
            .send(method.clone(), path, &[], "{}")
            .await
            .refused(401, "send a token");
    }
    eventually(DEADLINE, || async {
        let listed = management
            .admin
            .get("audit?outcome=unauthenticated&pageSize=100")
            .await
            .json();
        let found = listed["items"].as_array().unwrap().len();
        ensure!(found == endpoints.len(), "{found} of {}", endpoints.len());
        Ok(())
    })
    .await;
    management.stop().await;
}

#[tokio::test]
async fn who_waits_for_a_receipt_is_told_nothing_once_the_right_to_it_is_gone() {
    let management = Management::start().await;
    two_teams(&management).await;
    let ann = management.user("ann", &[(PAY, "reader")]).await;
    let path = format!("{SHOP}:receipt?wait=60s");
    let binding = format!("{PAY}/bindings/ann-reader");
    let (receipt, deleted) = futures::join!(ann.get(&path), management.admin.delete(&binding, "*"));
    assert_eq!(deleted.status, 200, "{}", deleted.text);
    receipt.refused(404, "does not exist, or is not yours");
    management.stop().await;
}
