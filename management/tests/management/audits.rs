//! The audit log: what it shows, what its verification finds, and what a flood of denials does to it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::ensure;
use futures::StreamExt;
use futures::stream;
use serde_json::{Value, json};
use tombolo_tests::eventually;

use crate::support::{ACME, Api, Management, two_teams};

const DEADLINE: Duration = Duration::from_secs(30);
const PAY: &str = "organizations/acme/tenants/pay";

#[tokio::test]
async fn the_log_is_newest_first_and_filtered() {
    let management = Management::start().await;
    two_teams(&management).await;
    let ann = management
        .user("ann", &[(&format!("{ACME}/tenants/pay"), "writer")])
        .await;
    ann.delete(&format!("{ACME}/tenants/media"), "*")
        .await
        .refused(403, "needs the role editor");
    let admin = &management.admin;
    eventually(DEADLINE, || async {
        let denied = admin.get("audit?outcome=denied").await.json();
        let items = denied["items"].as_array().unwrap().clone();
        ensure!(items.len() == 1, "{denied}");
        assert_eq!(items[0]["chain"], "denials");
        assert_eq!(items[0]["actor"], format!("{ACME}/users/ann"));
        assert_eq!(items[0]["verb"], "delete");
        assert_eq!(items[0]["source"], "127.0.0.1");
        assert!(
            items[0]["reason"]
                .as_str()
                .unwrap()
                .contains("needs the role editor")
        );
        Ok(())
    })
    .await;

    let all = admin.get("audit?pageSize=500").await.json();
    let all = all["items"].as_array().unwrap();
    let times: Vec<&str> = all
        .iter()
        .map(|record| record["time"].as_str().unwrap())
        .collect();
    assert!(times.is_sorted_by(|a, b| a >= b), "{times:?}");
    assert!(all.iter().any(|record| record["verb"] == "issue-token"));

    let mut paged = Vec::new();
    let mut token = String::new();
    loop {
        let page = admin.get(&format!("audit?pageSize=4{token}")).await.json();
        paged.extend(page["items"].as_array().unwrap().clone());
        match page["nextPageToken"].as_str() {
            Some(next) => token = format!("&pageToken={next}"),
            None => break,
        }
    }
    assert_eq!(&paged, all);

    let count = async |query: &str| admin.get(query).await.json()["items"].as_array().unwrap().len();
    assert_eq!(
        count(&format!("audit?name={ACME}/tenants/media")).await,
        5,
        "four created, one denied"
    );
    assert_eq!(count(&format!("audit?actor={ACME}/users/ann")).await, 1);
    assert_eq!(
        count("audit?actor=system").await,
        5,
        "three resources, a token and a key"
    );
    assert_eq!(count("audit?since=2999-01-01T00:00:00Z").await, 0);
    assert_eq!(count("audit?until=2001-01-01T00:00:00Z").await, 0);
    admin
        .get("audit?outcome=maybe")
        .await
        .refused(400, "is not done, denied or unauthenticated");
    admin.get("audit?actor=%00").await.refused(400, "NUL");
    admin.get("audit?since=yesterday").await.refused(400, "since");
    admin
        .get("audit?pageToken=x")
        .await
        .refused(400, "is not from this list");
    admin
        .get("audit?name=x")
        .await
        .refused(400, "expected organizations");
    management.stop().await;
}

/// What `query` lists, page by page of three.
async fn paged(api: &Api, query: &str) -> Vec<Value> {
    let mut found = Vec::new();
    let mut token = String::new();
    loop {
        let page = api.get(&format!("audit?pageSize=3{query}{token}")).await.json();
        found.extend(page["items"].as_array().unwrap().clone());
        match page["nextPageToken"].as_str() {
            Some(next) => token = format!("&pageToken={next}"),
            None => return found,
        }
    }
}

#[tokio::test]
async fn every_pair_of_filters_lists_what_both_let_through() {
    let management = Management::start().await;
    two_teams(&management).await;
    let shop = format!("{ACME}/tenants/pay/workspaces/shop");
    let ann = management
        .user("ann", &[(&shop, "writer"), (&shop, "auditor")])
        .await;
    ann.delete(&format!("{ACME}/tenants/media"), "*").await;
    ann.get(&format!("{ACME}/tenants/media")).await;
    management.anonymous().get(&shop).await;
    let rule = json!({"matches": [{"path": {"prefix": "/"}}], "backendRefs": [{"service": "shop/web", "weight": 1}]});
    let route = format!("{shop}/trafficgroups/web/serviceroutes/front");
    let route = json!({"name": route, "spec": {"service": "shop/web", "rules": [rule]}});
    ann.post(&format!("{shop}/trafficgroups/web/serviceroutes"), route)
        .await;
    let admin = &management.admin;
    let all = eventually(DEADLINE, || async {
        let page = admin.get("audit?pageSize=500").await.json();
        let all = page["items"].as_array().unwrap().clone();
        let denials = all.iter().filter(|record| record["chain"] == "denials").count();
        ensure!(denials == 3, "{denials} of 3 denials are on record");
        Ok(all)
    })
    .await;

    let text = |record: &Value, field: &str| record[field].as_str().unwrap_or_default().to_owned();
    let middle = text(&all[all.len() / 2], "time");
    type Holds = Box<dyn Fn(&Value) -> bool>;
    let mut filters: Vec<(String, Holds)> = Vec::new();
    for field in ["actor", "kind", "verb", "outcome"] {
        let values: BTreeSet<String> = all.iter().map(|record| text(record, field)).collect();
        for value in values {
            let parameter = format!("&{field}={value}");
            filters.push((parameter, Box::new(move |record| text(record, field) == value)));
        }
    }
    let names = [
        ACME,
        &format!("{ACME}/tenants/pay"),
        &shop,
        &format!("{shop}/trafficgroups/web"),
    ];
    for name in names.map(str::to_owned) {
        let within = format!("{name}/");
        let parameter = format!("&name={name}");
        let holds = move |record: &Value| {
            let found = text(record, "name");
            found == name || found.starts_with(&within)
        };
        filters.push((parameter, Box::new(holds)));
    }
    let (since, until) = (middle.clone(), middle.clone());
    filters.push((
        format!("&since={middle}"),
        Box::new(move |record| text(record, "time") >= since),
    ));
    filters.push((
        format!("&until={middle}"),
        Box::new(move |record| text(record, "time") < until),
    ));
    filters.push(("&text=checkout%20SHOP".to_owned(), Box::new(|_| false)));
    filters.push((
        "&text=Web%20ann".to_owned(),
        Box::new(|record| {
            let text = record.to_string();
            text.contains("web") && text.contains("users/ann")
        }),
    ));
    let mut found_any = 0;
    for (one, holds_one) in &filters {
        for (other, holds_other) in &filters {
            let parameter = |filter: &str| filter.split('=').next().map(str::to_owned);
            let other = match parameter(one) == parameter(other) {
                true if one == other => "",
                true => continue,
                false => other,
            };
            let expected: Vec<&Value> = all
                .iter()
                .filter(|record| holds_one(record) && holds_other(record))
                .collect();
            let found = paged(admin, &format!("{one}{other}")).await;
            assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{one}{other}");
            found_any += usize::from(!expected.is_empty());
        }
    }
    assert!(found_any > 50, "{found_any} pairs let anything through");

    let readable = |record: &&Value| text(record, "name").starts_with(&shop);
    let expected: Vec<&Value> = all.iter().filter(readable).collect();
    assert_eq!(paged(&ann, "").await.iter().collect::<Vec<_>>(), expected);
    let expected: Vec<&Value> = expected
        .into_iter()
        .filter(|record| record["kind"] == "TrafficGroup")
        .collect();
    assert_eq!(
        paged(&ann, "&kind=trafficgroup").await.iter().collect::<Vec<_>>(),
        expected
    );
    management.stop().await;
}

/// Of the log, as somebody is given it.
struct Part {
    leaf: &'static str,
    on: &'static str,
    /// Of the role.
    rule: Value,
    /// Of the binding.
    more: Value,
    is_readable: fn(&Value) -> bool,
}

/// By a role of some kinds, with a scope, or under a condition: less than all of a node and what is below it.
#[tokio::test]
async fn whoever_may_read_a_part_of_the_log_is_shown_that_part() {
    let management = Management::start().await;
    two_teams(&management).await;
    let admin = &management.admin;
    let parts = [
        Part {
            leaf: "kinds",
            on: ACME,
            rule: json!({"kinds": ["Workspace"], "verbs": ["read-audit"]}),
            more: json!({}),
            is_readable: |record| record["kind"] == "Workspace",
        },
        Part {
            leaf: "node",
            on: PAY,
            rule: json!({"verbs": ["read-audit"], "scope": "node"}),
            more: json!({}),
            is_readable: |record| record["name"] == PAY,
        },
        Part {
            leaf: "condition",
            on: ACME,
            rule: json!({"verbs": ["read-audit"]}),
            more: json!({"condition": "name.contains('/media')"}),
            is_readable: |record| record["name"].as_str().unwrap().contains("/media"),
        },
    ];
    for part in parts {
        let Part {
            leaf,
            on,
            is_readable,
            ..
        } = part;
        let role = format!("{ACME}/roles/{leaf}");
        admin
            .create(json!({"name": role, "spec": {"rules": [part.rule]}}))
            .await;
        let reader = management.user(leaf, &[]).await;
        let mut spec = json!({"role": role, "subjects": [format!("{ACME}/users/{leaf}")]});
        spec.as_object_mut()
            .unwrap()
            .extend(part.more.as_object().unwrap().clone());
        admin
            .create(json!({"name": format!("{on}/bindings/{leaf}"), "spec": spec}))
            .await;

        let mut expected = paged(admin, "").await;
        expected.retain(is_readable);
        assert!(!expected.is_empty(), "{leaf}");
        assert_eq!(paged(&reader, "").await, expected, "{leaf}");
        let exported = reader.get("audit:export").await;
        let lines: Vec<Value> = exported
            .text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines[0]["export"]["complete"], false, "{leaf}");
        let records = lines.iter().filter(|line| !line["record"].is_null());
        assert_eq!(
            records.clone().count(),
            expected.len(),
            "{leaf}: {}",
            exported.text
        );
        assert!(
            records.clone().all(|line| is_readable(&line["record"])),
            "{leaf}: {}",
            exported.text
        );
    }
    management.stop().await;
}

#[tokio::test]
async fn verification_finds_what_was_edited_deleted_or_moved() {
    let cases = [
        (
            "UPDATE audit SET record = convert_to(replace(convert_from(record, 'UTF8'), 'admin', 'nobody'), 'UTF8') WHERE sequence = 3",
            3,
            "its bytes do not have its hash",
        ),
        (
            "UPDATE audit SET actor = 'nobody' WHERE sequence = 4",
            4,
            "its columns say something else",
        ),
        ("DELETE FROM audit WHERE sequence = 5", 5, "it is missing"),
        (
            "UPDATE audit SET sequence = sequence - 13 WHERE sequence IN (6, 7); UPDATE audit SET sequence = -sequence WHERE sequence < 0",
            6,
            "it does not continue the record before it",
        ),
        (
            "DELETE FROM audit WHERE sequence = (SELECT max(sequence) FROM audit)",
            15,
            "it is missing: the head says",
        ),
        (
            "UPDATE organizations SET audit_sequence = audit_sequence - 1",
            15,
            "the head row has another",
        ),
    ];
    for (meddle, sequence, reason) in cases {
        let management = Management::start().await;
        two_teams(&management).await;
        let good = management.admin.get("audit:verify").await.json();
        assert_eq!(good["ok"], true, "{good}");
        assert_eq!(good["chains"][0]["records"], 15, "{good}");
        management.sql(meddle).await;
        let bad = management.admin.get("audit:verify").await.json();
        assert_eq!(bad["ok"], false, "{meddle}: {bad}");
        let broken = &bad["chains"][0]["broken"];
        assert_eq!(broken["sequence"], sequence, "{meddle}: {bad}");
        assert!(
            broken["reason"].as_str().unwrap().contains(reason),
            "{meddle}: {bad}"
        );
        management.stop().await;
    }
}

#[tokio::test]
async fn a_flood_of_denials_is_bounded_and_stalls_no_write() {
    const SENT: usize = 3000;
    let management = Management::start().await;
    let anonymous = &management.anonymous();
    let began = Instant::now();
    let mallory = &management.user("mallory", &[]).await;
    let flood = stream::iter(0..SENT)
        .map(|number| async move {
            if number % 2 == 0 {
                anonymous.get(ACME).await
            } else {
                mallory.delete(ACME, "*").await
            }
        })
        .buffer_unordered(32)
        .for_each(|answer| async move { assert!([401, 403].contains(&answer.status.as_u16())) });
    let write = async {
        let written = Instant::now();
        for number in 0..10 {
            let name = format!("{ACME}/tenants/t{number}");
            management.admin.create(json!({ "name": name })).await;
        }
        written.elapsed()
    };
    let (_, wrote) = futures::join!(flood, write);
    assert!(wrote < Duration::from_secs(10), "ten writes took {wrote:?}");
    let recorded = management
        .count("SELECT count(*) FROM audit WHERE chain = 'denials'")
        .await;
    let batches = began.elapsed().as_millis() / 250 + 2;
    assert!(
        recorded as u128 <= batches * 128,
        "{recorded} records in {batches} batches"
    );

    // Each denial is either on record, alone or with others like it, or counted.
    eventually(DEADLINE, || async {
        let recorded = management
            .count(
                "SELECT sum(1 + coalesce((convert_from(record, 'UTF8')::jsonb->>'repeated')::bigint, 0))::bigint \
                 FROM audit WHERE chain = 'denials'",
            )
            .await;
        let metrics = management.admin.get("/metrics").await.text;
        let line = metrics
            .lines()
            .find(|line| line.starts_with("tombolo_management_denials_dropped_total"))
            .unwrap();
        let dropped: i64 = line.rsplit(' ').next().unwrap().parse()?;
        ensure!(
            recorded + dropped == SENT as i64,
            "{recorded} recorded, {dropped} dropped"
        );
        Ok(())
    })
    .await;
    let verified: Value = management.admin.get("audit:verify").await.json();
    assert_eq!(verified["ok"], true, "{verified}");
    management.stop().await;
}
