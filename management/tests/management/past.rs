//! The past: read, listed, compared, compiled again, and brought back as a new change.

use std::time::Duration;

use anyhow::ensure;
use http::Method;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tombolo_compiler::observe::Agent;
use tombolo_compiler::report::ReportItem;
use tombolo_tests::eventually;

use crate::central::Central;
use crate::support::{ACME, Management, two_teams};

const DEADLINE: Duration = Duration::from_secs(30);
const PAY: &str = "organizations/acme/tenants/pay";
const SHOP: &str = "organizations/acme/tenants/pay/workspaces/shop";
const ROUTE: &str = "organizations/acme/tenants/pay/workspaces/shop/trafficgroups/web/serviceroutes/r";

fn route(description: &str) -> Value {
    json!({"kind": "ServiceRoute", "name": ROUTE, "description": description,
        "spec": {"service": "shop/web", "rules": []}})
}

fn actions(answer: &Value) -> Vec<String> {
    let changes = answer["changes"].as_array().unwrap().iter();
    changes
        .map(|change| {
            let name = change["name"].as_str().unwrap();
            format!(
                "{} {}",
                change["action"].as_str().unwrap(),
                name.rsplit('/').next().unwrap()
            )
        })
        .collect()
}

#[tokio::test]
async fn every_revision_can_be_read_listed_and_compared() {
    let management = Management::start().await;
    two_teams(&management).await;
    let admin = &management.admin;
    let first = admin.create(route("first")).await;
    let second = admin.put("*", route("second")).await.json();
    admin.delete(ROUTE, "*").await;
    let again = admin.create(route("again")).await;

    for (revision, expected) in [
        (3, Some(&first)),
        (4, Some(&second)),
        (5, None),
        (6, Some(&again)),
        (2, None),
    ] {
        let answer = admin.get(&format!("{ROUTE}?revision={revision}")).await;
        match expected {
            Some(expected) => {
                // Whose it is, is told of the present only.
                let mut expected = expected.clone();
                expected.as_object_mut().unwrap().remove("owner");
                assert_eq!(answer.json(), expected, "at {revision}");
            }
            None => answer.refused(404, &format!("at revision {revision}")),
        }
    }
    let collection = ROUTE.strip_suffix("/r").unwrap();
    let listed = admin.get(&format!("{collection}?revision=4")).await.json();
    let mut expected = second.clone();
    expected.as_object_mut().unwrap().remove("owner");
    assert_eq!(listed["items"], json!([expected]));
    let listed = admin.get(&format!("{collection}?revision=5")).await.json();
    assert_eq!(listed["items"], json!([]));
    admin
        .get(&format!("{ROUTE}?revision=99"))
        .await
        .refused(404, "revision 99 is not written yet; the latest is 6");

    let history = admin.get(&format!("{ROUTE}:history")).await.json();
    let told: Vec<String> = history["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| format!("{} {}", entry["revision"], entry["action"].as_str().unwrap()))
        .collect();
    assert_eq!(told, ["6 create", "5 delete", "4 update", "3 create"]);
    assert_eq!(history["items"][0]["actor"], format!("{ACME}/users/admin"));
    assert_eq!(
        history["items"][1]["uid"], first["uid"],
        "it tells which of the two was deleted"
    );
    assert_ne!(history["items"][0]["uid"], first["uid"]);

    let page = admin
        .get(&format!("{PAY}:history?below=true&pageSize=3"))
        .await
        .json();
    let token = page["nextPageToken"].as_str().unwrap();
    let next = admin
        .get(&format!("{PAY}:history?below=true&pageSize=3&pageToken={token}"))
        .await
        .json();
    assert_eq!(next["items"][0]["revision"], 3);
    assert_eq!(
        next["items"][1],
        json!({"name": PAY, "revision": 2, "action": "create",
        "uid": admin.get(PAY).await.json()["uid"], "etag": admin.get(PAY).await.json()["etag"],
        "actor": format!("{ACME}/users/admin"), "time": admin.get(PAY).await.json()["createTime"]})
    );

    let diff = admin.get(&format!("{SHOP}:diff?from=3&to=6")).await.json();
    assert_eq!(actions(&diff), ["update r"]);
    assert_eq!(diff["changes"][0]["before"]["description"], "first");
    assert_eq!(diff["changes"][0]["after"]["description"], "again");
    assert_eq!(diff["changes"][0]["recreated"], true);
    let diff = admin.get(&format!("{ACME}:diff?from=2&to=3")).await.json();
    assert_eq!(actions(&diff), ["create r"]);
    management.stop().await;
}

#[tokio::test]
async fn a_rollback_is_a_new_change_with_its_own_audit() {
    let management = Management::start().await;
    two_teams(&management).await;
    let admin = &management.admin;
    let first = admin.create(route("first")).await;
    admin.put("*", route("second")).await;
    admin
        .create(json!({"name": format!("{SHOP}/trafficgroups/extra")}))
        .await;
    admin.delete(&format!("{SHOP}/gatewaygroups/edge"), "*").await;

    let before = management.traces().await;
    let wish = json!({"revision": 3});
    let dry = admin
        .post(&format!("{PAY}:rollback?dry_run=true"), wish.clone())
        .await
        .json();
    assert_eq!(actions(&dry), ["create edge", "delete extra", "update r"]);
    assert_eq!(management.traces().await, before, "a dry run leaves nothing");

    let done = admin.post(&format!("{PAY}:rollback"), wish.clone()).await;
    assert_eq!(done.status, 200, "{}", done.text);
    assert_eq!(done.json()["revision"], 7);
    assert_eq!(actions(&done.json()), ["create edge", "delete extra", "update r"]);
    let back = admin.get(ROUTE).await.json();
    assert_eq!(
        (&back["description"], &back["uid"]),
        (&json!("first"), &first["uid"])
    );
    assert_ne!(back["etag"], first["etag"], "it is a new state of the resource");
    let audit = admin.get(&format!("audit?name={ROUTE}&pageSize=1")).await.json();
    assert_eq!(
        audit["items"][0]["reason"],
        format!("{PAY} rolled back to revision 3")
    );
    let diff = admin.get(&format!("{PAY}:diff?from=3&to=7")).await.json();
    assert_eq!(
        actions(&diff),
        ["update edge"],
        "what was deleted came back as another resource"
    );

    let again = admin.post(&format!("{PAY}:rollback"), wish).await.json();
    assert_eq!(
        (&again["changes"], &again["revision"]),
        (&json!([]), &json!(7)),
        "there is nothing to do"
    );
    management.stop().await;
}

#[tokio::test]
async fn a_rollback_that_cannot_stand_is_refused_whole() {
    let management = Management::start().await;
    two_teams(&management).await;
    let admin = &management.admin;
    // Revision 3: pay gives its namespace up, 4: media takes it.
    admin
        .put("*", json!({"name": SHOP, "spec": {"namespaces": ["*/other"]}}))
        .await;
    let video = format!("{ACME}/tenants/media/workspaces/video");
    admin
        .put(
            "*",
            json!({"name": video, "spec": {"namespaces": ["*/video", "*/shop"]}}),
        )
        .await;
    let before = management.traces().await;
    let back = format!("{PAY}:rollback");
    admin
        .post(&back, json!({"revision": 2}))
        .await
        .refused(409, &format!("is already held by {video}"));
    admin
        .post(&back, json!({"revision": 1}))
        .await
        .refused(409, "it did not exist then");
    admin
        .post(&back, json!({"revision": "two"}))
        .await
        .refused(400, "revision");
    assert_eq!(management.traces().await, before);

    let reader = management.user("reader", &[(PAY, "reader")]).await;
    reader
        .post(&back, json!({"revision": 2}))
        .await
        .refused(403, "needs the role");
    management.stop().await;
}

#[tokio::test]
async fn invariant_6_the_past_of_a_name_belongs_to_who_had_it() {
    let management = Management::start().await;
    let admin = &management.admin;
    let tenant = format!("{ACME}/tenants/secret");
    admin
        .create(json!({"name": tenant, "description": "of the old owner"}))
        .await;
    admin.delete(&tenant, "*").await;
    admin
        .create(json!({"name": tenant, "description": "of the new owner"}))
        .await;
    let new = management.user("new", &[(tenant.as_str(), "reader")]).await;

    let latest = new.get(&format!("{tenant}?revision=4")).await.json();
    assert_eq!(latest["description"], "of the new owner");
    new.get(&format!("{tenant}?revision=2"))
        .await
        .refused(404, "at revision 2");
    new.get(&format!("{tenant}:diff?from=2&to=4"))
        .await
        .refused(404, "at revision 2");
    new.get(&format!("{tenant}:compiled?revision=2"))
        .await
        .refused(404, "at revision 2");
    let collection = new.get(&format!("{ACME}/tenants?revision=2")).await.json();
    assert_eq!(collection["items"], json!([]));
    let history = new.get(&format!("{tenant}:history")).await.json();
    assert_eq!(history["items"].as_array().unwrap().len(), 1, "{history}");
    let all = admin.get(&format!("{tenant}:history")).await.json();
    assert_eq!(all["items"].as_array().unwrap().len(), 3, "{all}");

    let stranger = management.user("stranger", &[]).await;
    for question in [":history", ":diff?from=2", ":compiled", "?revision=2"] {
        stranger
            .get(&format!("{tenant}{question}"))
            .await
            .refused(404, "not yours to see");
    }
    management.stop().await;
}

#[tokio::test]
async fn a_binding_is_not_rolled_back_onto_somebody_else() {
    let management = Management::start().await;
    two_teams(&management).await;
    let admin = &management.admin;
    management.user("ann", &[(PAY, "admin")]).await;
    let revision = admin.get(PAY).await.json()["revision"].as_u64().unwrap();
    let bound = admin.get(&format!("{PAY}/bindings/ann-admin")).await.json()["revision"]
        .as_u64()
        .unwrap();
    assert!(revision < bound);
    admin.delete(&format!("{PAY}/bindings/ann-admin"), "*").await;
    admin.delete(&format!("{ACME}/users/ann"), "*").await;
    admin.create(json!({"name": format!("{ACME}/users/ann")})).await;
    admin
        .post(&format!("{PAY}:rollback"), json!({ "revision": bound }))
        .await
        .refused(409, "the one that bears the name now is another");
    management.stop().await;
}

#[tokio::test]
async fn an_old_revision_is_compiled_with_what_clusters_reported_then() {
    let management = Management::start().await;
    let mut central = Central::connect(&management, "a").await;
    two_teams(&management).await;
    let service: ReportItem =
        serde_json::from_value(json!({"service": {"ports": [{"name": "http", "port": 80}], "state": "up"}}))
            .unwrap();
    let noted = async |count: i64| {
        eventually(DEADLINE, || async {
            let found = management.count("SELECT count(*) FROM report_times").await;
            ensure!(found == count, "{found} reports are noted");
            Ok(())
        })
        .await;
    };
    let agent = Agent::Live;
    central.report(&[
        ("clusters/us-east/services/shop/web", &service),
        ("clusters/us-east/agent", &agent),
    ]);
    noted(1).await;
    management
        .admin
        .create(json!({"name": format!("{ACME}/tenants/later")}))
        .await;
    central.report(&[("clusters/us-east/agent", &agent)]);
    noted(2).await;

    let routed = format!("services/shop/web/{SHOP}");
    let then = management
        .admin
        .get(&format!("{ACME}:compiled?revision=2"))
        .await
        .json();
    assert_eq!(then["reports"]["us-east"]["source"], "stored", "{then}");
    assert!(then["routes"]["us-east"][&routed].is_object(), "{then}");
    let now = management.admin.get(&format!("{ACME}:compiled")).await.json();
    assert_eq!(now["reports"]["us-east"]["source"], "present");
    assert!(now["routes"]["us-east"][&routed].is_null(), "{now}");

    // Of a node, what it has a part in; of others, nothing.
    let media = management
        .user("media", &[(&format!("{ACME}/tenants/media"), "reader")])
        .await;
    let seen = media
        .get(&format!("{ACME}/tenants/media:compiled?revision=2"))
        .await
        .json();
    assert!(
        seen["routes"]["us-east"]["namespaces/video"].is_object(),
        "{seen}"
    );
    assert!(!seen.to_string().contains("pay"), "{seen}");
    management.stop().await;
}

#[tokio::test]
async fn the_history_only_grows() {
    let management = Management::start().await;
    for statement in ["UPDATE history SET actor = 'x'", "DELETE FROM history"] {
        let mut connection = PgConnection::connect(management.url()).await.unwrap();
        let error = sqlx::query(statement).execute(&mut connection).await.unwrap_err();
        assert!(error.to_string().contains("the history only grows"), "{error}");
    }
    let answer = management
        .admin
        .send(Method::GET, &format!("{ACME}:rollback"), &[], "")
        .await;
    answer.refused(405, "POST");
    management.stop().await;
}
