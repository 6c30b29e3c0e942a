//! Writers at the same time, on one replica and on two.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::ensure;
use futures::future::join_all;
use http::Method;
use serde_json::{Value, json};
use tombolo_tests::eventually;

use crate::support::{ACME, Api, Management, two_teams};

const DEADLINE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn of_conflicting_writers_exactly_one_wins() {
    let management = Management::start().await;
    let (replica, other) = management.replica().await;
    let name = format!("{ACME}/tenants/pay");
    management.admin.create(json!({ "name": name })).await;
    for round in 0..5 {
        let etag = management.admin.get(&name).await.etag();
        let writers = (0..8).map(|number| {
            let api: &Api = if number % 2 == 0 {
                &management.admin
            } else {
                &other
            };
            api.put(
                &etag,
                json!({"name": name, "description": format!("{round}-{number}")}),
            )
        });
        let answers = join_all(writers).await;
        let won = answers.iter().filter(|answer| answer.status == 200).count();
        let stale = answers.iter().filter(|answer| answer.status == 412).count();
        assert_eq!((won, stale), (1, 7), "{answers:?}");
    }
    replica.stop().await.unwrap();
    management.stop().await;
}

#[tokio::test]
async fn of_two_who_claim_one_namespace_exactly_one_wins() {
    let management = Management::start().await;
    two_teams(&management).await;
    let (replica, other) = management.replica().await;
    let claim = |tenant: &str| json!({"name": format!("{ACME}/tenants/{tenant}/workspaces/new"), "spec": {"namespaces": ["*/wanted"]}});
    let (pay, media) = (
        format!("{ACME}/tenants/pay/workspaces"),
        format!("{ACME}/tenants/media/workspaces"),
    );
    let answers = futures::join!(
        management.admin.post(&pay, claim("pay")),
        other.post(&media, claim("media"))
    );
    let mut statuses = [answers.0.status.as_u16(), answers.1.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 409], "{answers:?}");
    replica.stop().await.unwrap();
    management.stop().await;
}

#[tokio::test]
async fn invariant_2_revision_order_is_commit_order() {
    let management = Management::start().await;
    let (replica, other) = management.replica().await;
    let tenants = format!("{ACME}/tenants");
    let writers = (0..40).map(|number| {
        let api: &Api = if number % 2 == 0 {
            &management.admin
        } else {
            &other
        };
        api.post(&tenants, json!({"name": format!("{tenants}/t{number}")}))
    });
    let answers = join_all(writers).await;
    let revisions: BTreeSet<u64> = answers
        .iter()
        .map(|answer| {
            assert_eq!(answer.status, 201, "{}", answer.text);
            answer.json()["revision"].as_u64().unwrap()
        })
        .collect();
    assert_eq!(revisions, (2..42).collect(), "every revision once, without gaps");
    let disordered = "SELECT count(*) FROM (SELECT (convert_from(record, 'UTF8')::jsonb->>'revision')::bigint AS now, \
                      lag((convert_from(record, 'UTF8')::jsonb->>'revision')::bigint) OVER (ORDER BY sequence) AS before \
                      FROM audit WHERE chain = 'writes' AND convert_from(record, 'UTF8')::jsonb ? 'revision') x WHERE now < before";
    assert_eq!(management.count(disordered).await, 0);
    // Whoever sees the last revision has seen everything before it, on either replica.
    for api in [&management.admin, &other] {
        eventually(DEADLINE, || async {
            let list = api.get(&format!("{ACME}/tenants?pageSize=100")).await.json();
            ensure!(list["revision"] == 41, "at {}", list["revision"]);
            assert_eq!(list["items"].as_array().unwrap().len(), 40);
            Ok(())
        })
        .await;
    }
    replica.stop().await.unwrap();
    management.stop().await;
}

#[tokio::test]
async fn a_replica_answers_for_what_the_other_has_just_written() {
    let management = Management::start().await;
    let (replica, other) = management.replica().await;
    for number in 0..5 {
        let name = format!("{ACME}/tenants/t{number}");
        let created = management.admin.create(json!({ "name": name })).await;
        let etag = format!("\"{}\"", created["etag"].as_str().unwrap());
        let answer = other.put(&etag, json!({"name": name, "description": "x"})).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
    replica.stop().await.unwrap();
    management.stop().await;
}

#[tokio::test]
async fn invariant_1_no_write_without_its_audit_record_and_none_without_its_write() {
    let management = Management::start().await;
    two_teams(&management).await;
    let admin = &management.admin;
    let name = format!("{ACME}/tenants/pay");
    admin.put("*", json!({"name": name, "description": "x"})).await;
    admin
        .put("\"stale\"", json!({"name": name, "description": "y"}))
        .await
        .refused(412, "");
    admin
        .create(json!({"name": format!("{ACME}/tenants/gone")}))
        .await;
    admin.delete(&format!("{ACME}/tenants/gone"), "*").await;

    let records = admin.get("audit?outcome=done&pageSize=500").await.json();
    let records = records["items"].as_array().unwrap();
    let of = |name: &str| -> Vec<&Value> { records.iter().filter(|record| record["name"] == name).collect() };
    let verbs: Vec<&Value> = of(&name).iter().map(|record| &record["verb"]).collect();
    assert_eq!(
        verbs,
        ["update", "create"],
        "newest first, and nothing of the refused one"
    );
    assert_eq!(of(&name)[0]["before"]["etag"], of(&name)[1]["after"]["etag"]);
    assert_eq!(of(&name)[0]["after"], admin.get(&name).await.json());
    assert_eq!(of(&format!("{ACME}/tenants/gone")).len(), 2);

    // Without the record, no write.
    management
        .sql(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'disk full'; END $$",
        )
        .await;
    management
        .sql("CREATE TRIGGER refuse BEFORE INSERT ON audit FOR EACH ROW EXECUTE FUNCTION refuse()")
        .await;
    let before = management.traces().await;
    let answer = admin.put("*", json!({"name": name, "description": "z"})).await;
    answer.refused(500, "its log tells why");
    assert!(
        !answer.text.contains("disk full"),
        "the inside is not for callers"
    );
    let issued = admin
        .send(Method::POST, &format!("{ACME}/users/admin/tokens"), &[], "{}")
        .await;
    issued.refused(500, "");
    assert_eq!(management.traces().await, before);
    assert_eq!(management.count("SELECT count(*) FROM tokens").await, 1);
    assert_eq!(admin.get(&name).await.json()["description"], "x");
    management.sql("DROP TRIGGER refuse ON audit").await;
    assert_eq!(
        admin
            .put("*", json!({"name": name, "description": "z"}))
            .await
            .status,
        200
    );
    management.stop().await;
}

/// Who calls is looked up when a request comes, and its body and the lock may take their time.
#[tokio::test]
async fn who_is_revoked_while_a_write_waits_has_written_nothing() {
    let management = Management::start().await;
    two_teams(&management).await;
    let pay = format!("{ACME}/tenants/pay");
    let ann = management.user("ann", &[(&pay, "admin")]).await;
    let revoked = |at: &str| {
        format!(
            "UPDATE tokens t SET revoked_at = {at} FROM resources u WHERE u.uid = t.user_uid AND u.name LIKE '%/ann'"
        )
    };
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                   AND wait_event_type = 'Lock' AND query LIKE '%is_unrevoked(%'";
    let before = management.traces().await;
    let group = format!("{pay}/workspaces/shop/trafficgroups/late");
    let tokens = format!("{ACME}/users/ann/tokens");
    for (path, body) in [
        (
            format!("{pay}/workspaces/shop/trafficgroups"),
            json!({ "name": group }),
        ),
        ("changes".to_owned(), json!([{ "name": group }])),
        ("plans?submit=true".to_owned(), json!([{ "name": group }])),
        (tokens, json!({})),
    ] {
        let holder = management.hold_head().await;
        let revoking = async {
            // Those who keep the record may wait for the same lock.
            eventually(DEADLINE, async || {
                ensure!(
                    management.count(waiting).await == 1,
                    "the write does not wait yet"
                );
                Ok(())
            })
            .await;
            management.sql(&revoked("now()")).await;
            drop(holder);
        };
        let (answer, ()) = futures::join!(ann.post(&path, body), revoking);
        answer.refused(401, "was revoked or has expired meanwhile");
        management.sql(&revoked("NULL")).await;
    }
    assert_eq!(management.traces().await, before);
    assert_eq!(management.count("SELECT count(*) FROM plans").await, 0);
    management.stop().await;
}
