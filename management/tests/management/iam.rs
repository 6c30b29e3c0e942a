//! Identity over HTTP: teams, roles, owners, conditions, and what tokens may not do.

use std::time::Duration;

use anyhow::ensure;
use http::Method;
use serde_json::{Value, json};
use tombolo_tests::eventually;

use crate::support::{ACME, Api, Management, two_teams};

const DEADLINE: Duration = Duration::from_secs(20);
const PAY: &str = "organizations/acme/tenants/pay";
const SHOP: &str = "organizations/acme/tenants/pay/workspaces/shop";

async fn can(api: &Api, who: Option<&str>, action: &str, name: &str) -> Value {
    let mut question = json!({"action": action, "names": [name]});
    if let Some(who) = who {
        question["who"] = json!(format!("{ACME}/{who}"));
    }
    let answer = api.post("iam:test", question).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()["decisions"][0].clone()
}

#[tokio::test]
async fn teams_nest_and_a_circle_is_refused_with_its_members() {
    let management = Management::start().await;
    two_teams(&management).await;
    let ann = management.user("ann", &[]).await;
    let admin = &management.admin;
    let team = |leaf: &str, member: &str| json!({"name": format!("{ACME}/teams/{leaf}"), "spec": {"members": [format!("{ACME}/{member}")]}});
    admin.create(team("on-call", "users/ann")).await;
    admin.create(team("web", "teams/on-call")).await;
    let binding = format!("{PAY}/bindings/web");
    let spec = json!({"role": "traffic-admin", "subjects": [format!("{ACME}/teams/web")]});
    admin.create(json!({"name": binding, "spec": spec})).await;

    let group = format!("{SHOP}/trafficgroups/mine");
    assert_eq!(
        ann.post(&format!("{SHOP}/trafficgroups"), json!({ "name": group }))
            .await
            .status,
        201
    );
    let security = json!({"name": format!("{SHOP}/securitygroups/mine")});
    ann.post(&format!("{SHOP}/securitygroups"), security)
        .await
        .refused(403, "needs the role security-admin to create");
    let told = can(admin, Some("users/ann"), "update", &group).await;
    assert_eq!(told["binding"], binding, "{told}");
    assert_eq!(told["subject"], format!("{ACME}/teams/web"));

    let circle = admin
        .post("changes?overwrite=true", team("on-call", "teams/web"))
        .await;
    circle.refused(
        409,
        "organizations/acme/teams/on-call holds organizations/acme/teams/web holds organizations/acme/teams/on-call",
    );
    management.stop().await;
}

#[tokio::test]
async fn the_creator_owns_until_it_gives_away() {
    let management = Management::start().await;
    two_teams(&management).await;
    let ann = management.user("ann", &[(PAY, "writer")]).await;
    let bob = management.user("bob", &[]).await;
    let cart = format!("{PAY}/workspaces/cart");
    let document = json!({"name": cart, "spec": {"namespaces": ["*/cart"]}});
    let created = ann.create(document).await;
    assert_eq!(created["owner"], format!("{ACME}/users/ann"));
    // As owner she says who may read it, and gives no more than she holds.
    let binding = |role: &str| json!({"name": format!("{cart}/bindings/bob"), "spec": {"role": role, "subjects": [format!("{ACME}/users/bob")]}});
    ann.post("changes", binding("admin"))
        .await
        .refused(403, "cannot give what it does not hold itself");
    assert_eq!(ann.post("changes", binding("writer")).await.status, 200);
    assert_eq!(bob.get(&cart).await.status, 200);
    bob.post(
        &format!("{cart}:transfer"),
        json!({"owner": format!("{ACME}/users/bob")}),
    )
    .await
    .refused(403, "needs the role admin to set the policy of");

    let transfer = json!({"owner": format!("{ACME}/users/bob")});
    let given = ann.post(&format!("{cart}:transfer"), transfer).await;
    assert_eq!(
        given.json()["owner"],
        format!("{ACME}/users/bob"),
        "{}",
        given.text
    );
    assert_eq!(
        can(&bob, None, "set-policy", &cart).await["because"],
        format!("it owns {cart}")
    );
    assert_eq!(can(&ann, None, "set-policy", &cart).await["allowed"], false);
    let nobody = json!({"owner": format!("{ACME}/users/none")});
    bob.post(&format!("{cart}:transfer"), nobody)
        .await
        .refused(422, "cannot own anything");

    // By uid: whoever has the name later owns nothing.
    let admin = &management.admin;
    let binding = format!("{cart}/bindings/bob");
    for name in [&binding, &format!("{ACME}/users/bob")] {
        assert_eq!(admin.delete(name, "*").await.status, 200);
    }
    let again = management.user("bob", &[]).await;
    again.get(&cart).await.refused(404, "is not yours to see");
    assert_eq!(admin.get(&cart).await.json().get("owner"), None);
    management.stop().await;
}

#[tokio::test]
async fn who_may_do_what_is_told_to_those_with_the_right() {
    let management = Management::start().await;
    two_teams(&management).await;
    let reader = management.user("rita", &[(PAY, "reader")]).await;
    let auditor = management.user("otto", &[(PAY, "auditor")]).await;
    reader
        .get(&format!("{SHOP}:access"))
        .await
        .refused(403, "needs the role auditor to read the audit log of");
    reader
        .post(
            "iam:test",
            json!({"who": format!("{ACME}/users/otto"), "action": "read", "names": [SHOP]}),
        )
        .await
        .refused(403, "needs the role auditor");
    let denied = can(&reader, None, "update", SHOP).await;
    assert_eq!(denied["allowed"], false);
    assert_eq!(denied["missingRole"], "writer");

    let listed = auditor.get(&format!("{SHOP}:access")).await.json();
    let items = listed["items"].as_array().unwrap();
    let of = |leaf: &str| {
        let subject = format!("{ACME}/users/{leaf}");
        let found: Vec<&Value> = items.iter().filter(|item| item["subject"] == subject).collect();
        found
            .into_iter()
            .map(|item| item["role"].as_str().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(of("rita"), ["reader"]);
    assert_eq!(of("otto"), ["auditor"]);
    assert_eq!(of("admin"), ["admin", "owner", "owner"], "{listed}");
    auditor
        .get(&format!("{PAY}/workspaces/none:access"))
        .await
        .refused(404, "does not exist");
    auditor
        .get("organizations/acme/tenants/media:access")
        .await
        .refused(404, "is not yours to see");
    management.stop().await;
}

#[tokio::test]
async fn a_condition_is_checked_when_written_and_when_asked() {
    let management = Management::start().await;
    two_teams(&management).await;
    let ann = management.user("ann", &[]).await;
    let binding = |condition: &str| {
        json!({"name": format!("{PAY}/bindings/ann"), "spec": {
        "role": "writer", "subjects": [format!("{ACME}/users/ann")], "condition": condition}})
    };
    let admin = &management.admin;
    admin
        .post("changes", binding("teams.exists(t, true)"))
        .await
        .refused(422, "cannot be evaluated");
    assert_eq!(
        admin
            .post("changes", binding("inNetwork(source, '10.0.0.0/8')"))
            .await
            .status,
        200
    );
    ann.get(SHOP).await.refused(404, "is not yours to see");
    let question = json!({"who": format!("{ACME}/users/ann"), "action": "update", "names": [SHOP], "source": "10.1.1.1"});
    let told = admin.post("iam:test", question).await.json();
    assert_eq!(told["decisions"][0]["allowed"], true, "{told}");
    let told = can(admin, Some("users/ann"), "update", SHOP).await;
    assert_eq!(told["unmetConditions"], json!([format!("{PAY}/bindings/ann")]));
    management.stop().await;
}

/// A pipeline is not to stop because a person has lost a laptop; what was made is found and revoked.
#[tokio::test]
async fn what_a_token_made_for_others_goes_on_and_is_found() {
    let management = Management::start().await;
    let admin = &management.admin;
    two_teams(&management).await;
    let account = format!("{PAY}/serviceaccounts/ci");
    admin.create(json!({ "name": account })).await;
    let own = format!("{ACME}/users/admin/tokens");
    let issued = admin.post(&own, json!({})).await.json();
    let lost = Api::new(admin.addr, issued["token"].as_str());
    let made = lost.post(&format!("{account}/tokens"), json!({})).await.json();
    assert_eq!(made["issuedBy"], issued["id"]);
    let ci = Api::new(admin.addr, made["token"].as_str());
    // What the program makes for itself is the program's.
    let more = ci.post(&format!("{account}/tokens"), json!({})).await.json();
    let more = Api::new(admin.addr, more["token"].as_str());
    let revoke = async |collection: &str, id: &Value| {
        let path = format!("{collection}/{}", id.as_str().unwrap());
        let revoked = admin.send(Method::DELETE, &path, &[], "").await;
        assert_eq!(revoked.status, 200, "{}", revoked.text);
    };
    revoke(&own, &issued["id"]).await;
    lost.get("auth:whoami").await.refused(401, "was revoked");
    for api in [&ci, &more] {
        assert_eq!(api.get("auth:whoami").await.status, 200);
    }
    let with = format!("audit?verb=issue-token&text={}", issued["id"].as_str().unwrap());
    let found = admin.get(&with).await.json();
    assert_eq!(found["items"].as_array().unwrap().len(), 2, "{found}");
    assert_eq!(found["items"][0]["name"], account);
    revoke(&format!("{account}/tokens"), &made["id"]).await;
    for api in [&ci, &more] {
        api.get("auth:whoami").await.refused(401, "was revoked");
    }
    management.stop().await;
}

#[tokio::test]
async fn a_token_issues_none_that_lives_longer_or_holds_more() {
    let management = Management::start().await;
    let admin = &management.admin;
    let ann = management.user("ann", &[]).await;
    let tokens = format!("{ACME}/users/ann/tokens");
    let soon = json!({"expireTime": "2096-01-01T00:00:00Z"});
    let short = ann.post(&tokens, soon).await.json();
    let short = Api::new(ann.addr, short["token"].as_str());
    short
        .post(&tokens, json!({"expireTime": "2097-01-01T00:00:00Z"}))
        .await
        .refused(400, "it would outlive what you identified yourself with");
    let child = short.post(&tokens, json!({})).await.json();
    assert_eq!(child["expireTime"], "2096-01-01T00:00:00Z");

    // Whoever takes back a token takes back what was issued with it.
    let child = Api::new(ann.addr, child["token"].as_str());
    assert_eq!(child.get(&tokens).await.status, 200);
    let listed = ann.get(&tokens).await.json();
    let parent = listed["items"][1]["id"].as_str().unwrap();
    let revoked = ann
        .send(Method::DELETE, &format!("{tokens}/{parent}"), &[], "")
        .await;
    assert_eq!(revoked.status, 200, "{}", revoked.text);
    child.get(&tokens).await.refused(401, "revoked or has expired");
    assert_eq!(ann.get(&tokens).await.status, 200);

    // Keeping tokens is not enough to become an administrator.
    let role = json!({"name": format!("{ACME}/roles/keeper"), "spec": {"rules": [{"kinds": ["User"], "verbs": ["tokens"]}]}});
    admin.create(role).await;
    let keeper = management
        .user("kim", &[(ACME, "organizations/acme/roles/keeper")])
        .await;
    assert_eq!(keeper.post(&tokens, json!({})).await.status, 201);
    keeper
        .post(&format!("{ACME}/users/admin/tokens"), json!({}))
        .await
        .refused(403, "cannot give what it does not hold itself");
    management.stop().await;
}

#[tokio::test]
async fn who_may_only_update_creates_nothing_by_an_apply() {
    let management = Management::start().await;
    two_teams(&management).await;
    let role = json!({"name": format!("{PAY}/roles/router"), "spec": {"rules": [{"kinds": ["TrafficGroup"], "verbs": ["read", "update"]}]}});
    management.admin.create(role).await;
    let router = management
        .user("rob", &[(PAY, "organizations/acme/tenants/pay/roles/router")])
        .await;
    let name = format!("{SHOP}/trafficgroups/mine");
    let applied = router.post("changes", json!({ "name": name })).await;
    applied.refused(403, "to create");
    management.admin.create(json!({ "name": name })).await;
    let applied = router
        .post(
            "changes?overwrite=true",
            json!({"name": name, "spec": {"namespaces": ["*/shop"]}}),
        )
        .await;
    assert_eq!(applied.status, 200, "{}", applied.text);
    management.stop().await;
}

#[tokio::test]
async fn a_right_that_was_taken_away_elsewhere_issues_no_token_here() {
    let management = Management::start().await;
    let (replica, there) = management.replica().await;
    let eve = management.user("eve", &[(ACME, "admin")]).await;
    management.user("ann", &[]).await;
    let elsewhere = Api::new(there.addr, eve.token.as_deref());
    eventually(DEADLINE, || async {
        let answer = elsewhere.get(ACME).await;
        ensure!(answer.status == 200, "{}", answer.text);
        Ok(())
    })
    .await;
    let binding = format!("{ACME}/bindings/eve-admin");
    assert_eq!(management.admin.delete(&binding, "*").await.status, 200);
    // At once, and not when the replica polls; by the second wall, which asks Postgres, when that is so.
    elsewhere
        .post(&format!("{ACME}/users/ann/tokens"), json!({}))
        .await
        .refused(403, "");
    replica.stop().await.unwrap();
    management.stop().await;
}

#[tokio::test]
async fn a_service_account_acts_with_tokens_of_its_own() {
    let management = Management::start().await;
    two_teams(&management).await;
    let eve = management.user("eve", &[(PAY, "admin")]).await;
    let account = format!("{PAY}/serviceaccounts/ci");
    eve.create(json!({ "name": account })).await;
    let spec = json!({"role": "gateway-admin", "subjects": [account]});
    eve.create(json!({"name": format!("{PAY}/bindings/ci"), "spec": spec}))
        .await;
    let issued = eve.post(&format!("{account}/tokens"), json!({})).await;
    assert_eq!(issued.status, 201, "{}", issued.text);
    let ci = Api::new(eve.addr, issued.json()["token"].as_str());
    let group = json!({"name": format!("{SHOP}/gatewaygroups/ci")});
    let (groups, key) = (format!("{SHOP}/gatewaygroups"), [("idempotency-key", "k")]);
    for _ in 0..2 {
        let created = ci.send(Method::POST, &groups, &key, group.to_string()).await;
        assert_eq!(created.status, 201, "{}", created.text);
        assert_eq!(created.json()["owner"], account);
    }
    ci.post(
        &format!("{SHOP}/trafficgroups"),
        json!({"name": format!("{SHOP}/trafficgroups/ci")}),
    )
    .await
    .refused(403, "needs the role traffic-admin");
    for name in [format!("{PAY}/bindings/ci"), account] {
        assert_eq!(eve.delete(&name, "*").await.status, 200);
    }
    ci.get(SHOP).await.refused(401, "revoked or has expired");
    management.stop().await;
}
