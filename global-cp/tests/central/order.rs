//! Nothing goes backwards, and too much is not removed at once.

use serde_json::{Value, json};

use crate::peers::stamp;
use crate::world::{REVIEWS, World, at_rest, intent, joined, remotes, report};

#[tokio::test]
async fn invariant_2_an_older_intent_is_kept_out_and_shown() {
    let world = World::new().await;
    let central = world.central().await;
    let (management, east, _west) = at_rest(&world, &central).await;
    let bodies: Vec<_> = intent().into_iter().chain(joined()).collect();
    management.publish(stamp(1, 7, "management"), true, &bodies);
    east.until("revision 7", |told| {
        (told.stamp.as_ref()?.version.revision == 7).then_some(())
    })
    .await;
    management.stop().await;

    // Restored from a backup: the same epoch, an older revision, and less in it.
    let restored = world.management().await;
    restored.publish(stamp(1, 3, "management"), true, &intent()[..2]);
    let link = central
        .until_link("management", |link| !link["alarm"].is_null())
        .await;
    let alarm = link["alarm"].as_str().unwrap();
    assert!(
        alarm.contains("offered 1.3#0 of management, which is older than 1.7#0 of management"),
        "{alarm}"
    );
    assert_eq!(link["stamp"], "1.7#0 of management");
    let metrics = central.http("GET", "/metrics").await;
    assert!(
        metrics.contains("tombolo_central_link_alarm{link=\"management\"} 1"),
        "{metrics}"
    );
    assert!(metrics.contains("tombolo_central_intent_revision 7"), "{metrics}");
    assert!(east.told(|told| told.json(REVIEWS)).is_some());

    // A new epoch is adopted, and the alarm ends.
    let bodies: Vec<_> = intent().into_iter().chain(joined()).collect();
    restored.publish(stamp(2, 1, "management"), true, &bodies);
    east.until("the new epoch", |told| {
        (told.stamp.as_ref()?.version.epoch == 2).then_some(())
    })
    .await;
    central
        .until_link("management", |link| link["alarm"].is_null())
        .await;
    central.stop().await;
}

#[tokio::test]
async fn invariant_9_removing_half_of_the_intent_waits_for_an_operator_and_is_not_claimed() {
    let world = World::new().await;
    let central = world.central().await;
    let (management, east, west) = at_rest(&world, &central).await;
    let names: Vec<String> = (0..30)
        .map(|n| format!("organizations/acme/tenants/t{n}"))
        .collect();
    let tenants = names.iter().map(|name| (name.as_str(), json!({"name": name})));
    let all: Vec<(&str, Value)> = intent().into_iter().chain(joined()).chain(tenants).collect();
    management.publish(stamp(1, 2, "management"), true, &all);
    central
        .until_link("management", |link| link["stamp"] == "1.2#0 of management")
        .await;

    let renamed = json!({"name": "organizations/acme/tenants/new"});
    let rest: Vec<_> = intent()
        .into_iter()
        .chain(joined())
        .chain([("organizations/acme/tenants/new", renamed)])
        .collect();
    management.publish(stamp(1, 3, "management"), true, &rest);
    let braked = central
        .until_link("management", |link| {
            link["braked"].as_array().is_some_and(|names| names.len() == 30)
        })
        .await;
    assert_eq!(braked["stamp"], "1.3#0 of management", "what is new applies");
    let metrics = central.http("GET", "/metrics").await;
    assert!(
        metrics.contains("tombolo_central_link_braked{link=\"management\"} 30"),
        "{metrics}"
    );
    // The rest of the mesh goes on meanwhile, at the version that holds: nobody may take the removals for done.
    let held = management
        .until("the brake among the findings", |told| {
            let findings = told.json("findings")?;
            let mut findings = findings.as_array()?.iter();
            findings
                .find(|finding| finding["code"] == "RemovalsHeld")
                .cloned()
        })
        .await;
    assert_eq!(held["resource"], "organizations/acme");
    assert_eq!(held["severity"], "Error");
    let message = held["message"].as_str().unwrap();
    assert!(
        message.contains("30 resources")
            && message.contains("tenants/t0, ")
            && message.contains("and 25 more")
            && message.contains("POST /brake/confirm?link=management"),
        "{message}"
    );
    west.publish(stamp(100, 2, "us-west"), true, &report(3));
    east.until("the news beside the brake", |told| {
        (remotes(&told.json(REVIEWS)?) == ["127.0.3.1:15443"]).then_some(())
    })
    .await;
    assert_eq!(east.told(|told| told.stamp.as_ref().unwrap().version.revision), 2);

    let unknown = central.http("POST", "/brake/confirm?link=us-north").await;
    assert!(
        unknown.starts_with("HTTP/1.1 404") && unknown.contains("GET /links"),
        "{unknown}"
    );
    let confirmed = central.http("POST", "/brake/confirm?link=management").await;
    assert!(confirmed.starts_with("HTTP/1.1 202"), "{confirmed}");
    central
        .until_link("management", |link| link["braked"] == json!([]))
        .await;
    east.until("the revision, now that it is whole", |told| {
        (told.stamp.as_ref()?.version.revision == 3).then_some(())
    })
    .await;
    management
        .until("no finding any more", |told| {
            (!told.json("findings")?.to_string().contains("RemovalsHeld")).then_some(())
        })
        .await;
    central.stop().await;
}

/// The same rule for what an edge reports: an older life of it does not overwrite a newer one.
#[tokio::test]
async fn an_older_report_is_kept_out() {
    let world = World::new().await;
    let central = world.central().await;
    let (_management, east, west) = at_rest(&world, &central).await;
    let again = world.edge_again("us-east", &central, &east);
    drop(east);
    again.publish(stamp(99, 9, "us-east"), true, &report(1)[..1]);
    let link = central
        .until_link("us-east", |link| !link["alarm"].is_null())
        .await;
    assert_eq!(link["stamp"], "100.1#0 of us-east");
    assert!(west.told(|told| told.json(REVIEWS)).is_some());
    central.stop().await;
}
