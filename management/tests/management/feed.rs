//! Down the feed goes intent, up come reports; between them they make status and receipts.

use std::time::Duration;

use anyhow::ensure;
use serde_json::{Value, json};
use tombolo_compiler::finding::Origin;
use tombolo_compiler::observe::Agent;
use tombolo_compiler::report::{Receipt, Rejection, ReportItem};
use tombolo_proto::held::Version;
use tombolo_runtime::plane_id::Plane;
use tombolo_tests::eventually;

use crate::central::Central;
use crate::support::{ACME, Management, two_teams};

const DEADLINE: Duration = Duration::from_secs(20);
const SHOP: &str = "organizations/acme/tenants/pay/workspaces/shop";
const ROUTE: &str = "organizations/acme/tenants/pay/workspaces/shop/trafficgroups/web/serviceroutes/r";

fn receipt(revision: u64, proxies: u32) -> Receipt {
    Receipt {
        version: (1, revision),
        proxies,
        ..Receipt::default()
    }
}

async fn synced(central: &Central, revision: u64) {
    eventually(DEADLINE, || async {
        let state = central.state();
        let version = state.stamp.as_ref().map(|stamp| stamp.version);
        ensure!(
            version == Some(Version { epoch: 1, revision }) && state.complete,
            "{version:?}"
        );
        Ok(())
    })
    .await;
}

fn route(description: &str) -> Value {
    json!({"name": ROUTE, "description": description, "spec": {"service": "shop/web", "rules": []}})
}

#[tokio::test]
async fn invariant_2_intent_is_published_whole_and_in_commit_order() {
    let management = Management::start().await;
    let central = Central::connect(&management, "a").await;
    synced(&central, 1).await;
    assert_eq!(central.state().items.len(), 1, "identities and bindings stay");
    two_teams(&management).await;
    synced(&central, 2).await;
    let held = central.state().items.len();
    for number in 0..20 {
        let name = format!("{ACME}/tenants/t{number}");
        management.admin.create(json!({ "name": name })).await;
    }
    synced(&central, 22).await;
    let state = central.state();
    assert_eq!(state.items.len(), held + 20);
    assert!(state.alarms.is_empty(), "{:?}", state.alarms);
    let versions: Vec<u64> = state
        .steps
        .iter()
        .map(|(stamp, _)| stamp.version.revision)
        .collect();
    assert!(versions.is_sorted(), "{versions:?}");
    for (stamp, names) in &state.steps {
        let revision = stamp.version.revision as usize;
        if revision > 2 {
            assert_eq!(
                *names,
                held + revision - 2,
                "at {revision} everything before it is there"
            );
        }
    }
    management.admin.delete(&format!("{ACME}/tenants/t3"), "*").await;
    synced(&central, 23).await;
    assert!(!central.state().items.contains_key(&format!("{ACME}/tenants/t3")));
    let body: Value = serde_json::from_str(&central.state().items[SHOP]).unwrap();
    assert_eq!(body["kind"], "Workspace");
    assert_eq!(
        body.get("etag"),
        None,
        "what the server sets does not move the mesh"
    );
    management.stop().await;
}

#[tokio::test]
async fn what_another_replica_commits_is_published_here_too() {
    let management = Management::start().await;
    let (replica, other) = management.replica().await;
    let central = Central::connect(&management, "a").await;
    other.create(json!({"name": format!("{ACME}/tenants/pay")})).await;
    synced(&central, 2).await;
    assert!(central.state().items.contains_key(&format!("{ACME}/tenants/pay")));
    replica.stop().await.unwrap();
    management.stop().await;
}

#[tokio::test]
async fn invariant_9_nothing_is_running_before_every_cluster_has_proven_it() {
    let management = Management::start().await;
    two_teams(&management).await;
    let admin = &management.admin;
    admin.apply(&route("x").to_string()).await;
    let outcome = async |path: &str| admin.get(path).await.json()["status"]["outcome"].clone();
    assert_eq!(
        outcome(&format!("{ROUTE}:status")).await,
        "unknown",
        "nobody was heard"
    );

    let mut central = Central::connect(&management, "a").await;
    let (old, new) = (
        ReportItem::Receipt(receipt(2, 2)),
        ReportItem::Receipt(receipt(3, 2)),
    );
    let east = "clusters/us-east/receipt";
    let west = "clusters/us-west/receipt";
    let agents = ["clusters/us-east/agent", "clusters/us-west/agent"];
    central.report(&[
        (east, &new),
        (west, &old),
        (agents[0], &Agent::Live),
        (agents[1], &Agent::Live),
    ]);
    eventually(DEADLINE, || async {
        let status = admin.get(&format!("{ROUTE}:status")).await.json();
        ensure!(
            status["status"]["clusters"]["us-east"]["outcome"] == "running",
            "{status}"
        );
        ensure!(status["status"]["outcome"] == "pending", "{status}");
        Ok(())
    })
    .await;

    // A waiting caller is answered when the last cluster has it.
    let path = format!("{ROUTE}:receipt?revision=3&wait=20s");
    let waiting = admin.get(&path);
    let report = async {
        central.report(&[
            (east, &new),
            (west, &new),
            (agents[0], &Agent::Live),
            (agents[1], &Agent::Live),
        ]);
    };
    let (answer, ()) = futures::join!(waiting, report);
    assert_eq!(answer.json()["status"]["outcome"], "running", "{}", answer.text);
    let other = admin
        .get(&format!("{ACME}/tenants/media/workspaces/video:receipt?wait=0s"))
        .await
        .json();
    assert_eq!(other["status"]["outcome"], "running", "{other}");
    let early = admin
        .get(&format!("{ROUTE}:receipt?revision=4&wait=50ms"))
        .await
        .json();
    assert_eq!(early["status"]["outcome"], "pending", "{early}");
    admin
        .get(&format!("{ROUTE}:receipt?wait=soon"))
        .await
        .refused(400, "is not a duration");

    // What was deleted has a receipt too.
    let deleted = admin.delete(ROUTE, "*").await.json();
    let path = format!("{ROUTE}:receipt?revision={}", deleted["revision"]);
    let gone = admin.get(&path).await.json();
    assert_eq!(gone["status"]["outcome"], "pending", "{gone}");
    let organization = admin.get(&format!("{ACME}:status")).await.json();
    assert_eq!(
        organization["status"]["clusters"]["us-west"]["agent"], "live",
        "{organization}"
    );
    management.stop().await;
}

#[tokio::test]
async fn invariant_8_a_rejection_shows_on_the_resource_that_caused_it() {
    let management = Management::start().await;
    two_teams(&management).await;
    management.admin.apply(&route("x").to_string()).await;
    let mut central = Central::connect(&management, "a").await;
    let rejected = ReportItem::Receipt(Receipt {
        rejected: vec![Rejection {
            proxy: "gw-1".into(),
            origin: Some(Origin::new(ROUTE.parse().unwrap(), "spec.rules[0]")),
            reason: "no such cluster".into(),
        }],
        ..receipt(3, 1)
    });
    let fine = ReportItem::Receipt(receipt(3, 1));
    central.report(&[
        ("clusters/us-east/receipt", &rejected),
        ("clusters/us-east/agent", &Agent::Live),
        ("clusters/us-west/receipt", &fine),
        ("clusters/us-west/agent", &Agent::Live),
    ]);
    eventually(DEADLINE, || async {
        let status = management.admin.get(&format!("{ROUTE}:status")).await.json();
        ensure!(status["status"]["outcome"] == "rejected", "{status}");
        let words = &status["status"]["clusters"]["us-east"]["rejections"][0];
        assert_eq!(*words, "gw-1: no such cluster");
        Ok(())
    })
    .await;
    let video = format!("{ACME}/tenants/media/workspaces/video:status");
    let neighbour = management.admin.get(&video).await.json();
    assert_eq!(neighbour["status"]["outcome"], "running", "{neighbour}");
    management.stop().await;
}

#[tokio::test]
async fn what_a_central_cannot_use_shows_on_the_resource() {
    let management = Management::start().await;
    two_teams(&management).await;
    let _central = Central::connect_refusing(&management, "a", Plane::Central, Some(SHOP)).await;
    eventually(DEADLINE, || async {
        let status = management.admin.get(&format!("{SHOP}:status")).await.json();
        let message = &status["status"]["findings"][0]["message"];
        ensure!(
            *message == "central a cannot use it: not in this version",
            "{status}"
        );
        Ok(())
    })
    .await;
    management.stop().await;
}

#[tokio::test]
async fn a_cluster_that_was_heard_before_it_existed_joins_when_it_does() {
    let management = Management::start().await;
    let mut central = Central::connect(&management, "a").await;
    central.report(&[("clusters/mars/agent", &Agent::Live)]);
    let mars = json!({"name": format!("{ACME}/clusters/mars"), "spec": {"region": "red"}});
    management.admin.create(mars).await;
    eventually(DEADLINE, || async {
        ensure!(central.state().items.contains_key("joined/mars"));
        Ok(())
    })
    .await;
    management.stop().await;
}

#[tokio::test]
async fn a_cluster_that_was_heard_has_joined_for_good() {
    let management = Management::start().await;
    two_teams(&management).await;
    let mut central = Central::connect(&management, "a").await;
    synced(&central, 2).await;
    let fine = ReportItem::Receipt(receipt(2, 1));
    central.report(&[
        ("clusters/us-east/receipt", &fine),
        ("clusters/us-east/agent", &Agent::Live),
        ("clusters/mars/agent", &Agent::Live),
        ("clusters/us-west/agent", &Agent::Unknown),
    ]);
    synced(&central, 3).await;
    let joined: Vec<String> = central
        .state()
        .items
        .keys()
        .filter(|name| name.starts_with("joined/"))
        .cloned()
        .collect();
    assert_eq!(joined, ["joined/us-east"]);
    let records = management.admin.get("audit?actor=plane/central/a").await.json();
    assert_eq!(records["items"][0]["verb"], "join", "{records}");
    assert_eq!(management.admin.get("audit:verify").await.json()["ok"], true);

    // A restarted management still knows, and shows the last reports until a central speaks.
    eventually(DEADLINE, || async {
        let stored = management.count("SELECT count(*) FROM reports").await;
        ensure!(stored == 1);
        Ok(())
    })
    .await;
    central.disconnect();
    let (replica, other) = management.replica().await;
    let status = other.get(&format!("{ACME}:status")).await.json();
    let east = &status["status"]["clusters"]["us-east"];
    assert_eq!(
        (east["proxies"].clone(), east["agent"].clone()),
        (json!(1), json!("lost")),
        "{status}"
    );
    replica.stop().await.unwrap();

    let again = Central::connect(&management, "b").await;
    synced(&again, 3).await;
    assert!(again.state().items.contains_key("joined/us-east"));
    management.stop().await;
}

#[tokio::test]
async fn a_central_that_connects_twice_keeps_only_its_latest_connection() {
    let management = Management::start().await;
    two_teams(&management).await;
    let first = Central::connect(&management, "a").await;
    synced(&first, 2).await;
    let second = Central::connect(&management, "a").await;
    synced(&second, 2).await;
    let error = first.ended().await;
    assert!(!error.to_string().is_empty());
    management.stop().await;
}

#[tokio::test]
async fn nonsense_from_a_central_is_rejected_by_name() {
    let management = Management::start().await;
    two_teams(&management).await;
    let mut central = Central::connect(&management, "a").await;
    let fine = ReportItem::Receipt(receipt(2, 1));
    central.report(&[
        ("clusters/us-east/services/shop/web", &"nonsense"),
        ("clusters/us-east/receipt", &fine),
        ("pods/x", &1),
    ]);
    eventually(DEADLINE, || async {
        let acks = central.state().acks;
        let last = acks.last().ok_or_else(|| anyhow::anyhow!("no ack"))?;
        let rejected: Vec<(&str, &str)> = last
            .rejected
            .iter()
            .map(|rejection| (rejection.name.as_str(), rejection.reason.as_str()))
            .collect();
        let [
            ("clusters/us-east/services/shop/web", unread),
            ("pods/x", unknown),
        ] = rejected[..]
        else {
            anyhow::bail!("{rejected:?}");
        };
        ensure!(unread.contains("unknown variant `nonsense`"), "{unread}");
        ensure!(unknown.contains("not the name of a report"), "{unknown}");
        Ok(())
    })
    .await;
    management.stop().await;
}

#[tokio::test]
async fn who_waits_for_a_receipt_is_answered_when_management_stops() {
    let mut management = Management::start().await;
    two_teams(&management).await;
    let path = format!("{SHOP}:receipt?wait=60s");
    let waiting = management.admin.get(&path);
    let running = management.running.take().unwrap();
    let began = std::time::Instant::now();
    let stopping = async {
        eventually(DEADLINE, || async {
            let metrics = management.admin.get("/metrics").await.text;
            ensure!(
                metrics.contains("tombolo_management_requests_in_flight 1"),
                "{metrics}"
            );
            Ok(())
        })
        .await;
        running.stop().await
    };
    let (answer, stopped) = futures::join!(waiting, stopping);
    stopped.unwrap();
    assert_eq!(answer.json()["status"]["outcome"], "unknown", "{}", answer.text);
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

#[tokio::test]
async fn only_centrals_get_the_feed() {
    let management = Management::start().await;
    let edge = Central::connect_as(&management, "us-east", Plane::Edge).await;
    let error = tombolo_runtime::telemetry::chain(&edge.ended().await);
    assert!(error.contains("is not a central"), "{error}");
    management.stop().await;
}
