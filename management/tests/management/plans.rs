//! Plans: what a change would do, and a write that is held to what somebody has seen.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::ensure;
use http::Method;
use serde_json::{Value, json};
use tombolo_compiler::name::ClusterName;
use tombolo_compiler::observe::Agent;
use tombolo_compiler::report::{ClusterReport, Receipt, ReportItem};
use tombolo_tests::edits::{self, Edits};
use tombolo_tests::eventually;

use crate::central::Central;
use crate::central::erased::Noun;
use crate::support::{ACME, Answer, Api, Management, two_teams};

const DEADLINE: Duration = Duration::from_secs(30);
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
async fn a_plan_names_the_proxies_that_the_edges_name_for_whoever_may_read_the_cluster() {
    let management = Management::start().await;
    two_teams(&management).await;
    let admin = &management.admin;
    let ann = management.user("ann", &[(PAY, "writer")]).await;
    let mut central = Central::connect(&management, "a").await;
    let receipt = ReportItem::Receipt(Receipt {
        proxies: 3,
        ..Receipt::default()
    });
    central.report(&[
        ("clusters/us-east/agent", &Agent::Live),
        ("clusters/us-east/receipt", &receipt),
        ("clusters/us-west/agent", &Agent::Lost),
        ("clusters/us-west/receipt", &receipt),
    ]);
    let named = json!({"version": [1, 7], "names": ["gw-1", "web-1"], "more": 0, "silent": 1});
    central.answers(Ok(named.to_string()));
    let change = namespaces(&["*/more"]);
    let proxies = async |api: &Api| {
        let plan = api.post("plans?overwrite=true", change.clone()).await;
        assert_eq!(plan.status, 200, "{}", plan.text);
        plan.json()["behaviour"]["proxies"].clone()
    };
    eventually(DEADLINE, async || {
        let found = proxies(admin).await;
        let expected = json!({
            "us-east": {"atMost": 3, "changed": named},
            "us-west": {"atMost": 3, "away": "the edge of us-west is not heard"},
        });
        ensure!(found == expected, "{found}");
        Ok(())
    })
    .await;
    let counted = json!({"us-east": {"atMost": 3}, "us-west": {"atMost": 3}});
    assert_eq!(proxies(&ann).await, counted, "she may not read the clusters");

    central.answers(Err("it is busy".to_owned()));
    assert_eq!(
        proxies(admin).await["us-east"],
        json!({"atMost": 3, "away": "it is busy"})
    );
    // What an edge of another version says is not passed on.
    central.answers(Ok(json!({"pods": 3}).to_string()));
    let away = proxies(admin).await["us-east"]["away"].to_string();
    assert!(
        away.contains("cannot read what the edge of us-east answers"),
        "{away}"
    );
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

/// As [`documents`], with what the plan says of them.
fn planned_documents(mut documents: BTreeMap<String, String>, plan: &Value) -> BTreeMap<String, String> {
    let [changes, handed] = ["changes", "handedOver"].map(|field| plan[field].as_array().unwrap());
    for change in changes.iter().chain(handed) {
        let name = change["name"].as_str().unwrap();
        match (&change["action"], &change["after"]) {
            (action, _) if action == "unchanged" => {}
            (_, Value::Null) => drop(documents.remove(name)),
            (_, after) => drop(documents.insert(name.to_owned(), after.to_string())),
        }
    }
    documents
}

/// All that is stored, by name, without what the server says of it.
async fn documents(admin: &Api) -> BTreeMap<String, String> {
    let tree = admin.get(&format!("{ACME}:tree?pageSize=500")).await.json();
    let all = tree["items"].as_array().unwrap().iter();
    all.map(|document| {
        let mut document = document.clone();
        for field in ["uid", "etag", "revision", "createTime", "updateTime", "owner"] {
            document.as_object_mut().unwrap().remove(field);
        }
        (
            document["name"].as_str().unwrap().to_owned(),
            document.to_string(),
        )
    })
    .collect()
}

/// Of the clusters of the random sequences, as a central passes them on.
fn reports() -> BTreeMap<String, ReportItem> {
    let clusters: BTreeMap<ClusterName, ClusterReport> = serde_json::from_value(edits::reports()).unwrap();
    let items = clusters.iter().flat_map(|(cluster, report)| {
        let items = report.items().into_iter();
        items.map(move |(name, item)| (format!("clusters/{cluster}/{name}"), item))
    });
    items.collect()
}

#[tokio::test]
async fn a_random_plan_equals_what_is_applied_over_http() {
    const SEQUENCES: u64 = 30;
    const WRITES: usize = 6;
    // Security that nothing enforces yet, and approvals, are not what this is about.
    const PLANNED: &str = "overwrite=true&allowUnenforced=true";
    const LET: &str = "overwrite=true&allowUnenforced=true&breakGlass=random";
    let management = Management::start().await;
    let admin = &management.admin;
    let made = admin.post("changes", edits::tree().into()).await;
    assert_eq!(made.status, 200, "{}", made.text);
    let mut central = Central::connect(&management, "a").await;
    let reports = reports();
    let nouns: Vec<(&str, &dyn Noun)> = reports
        .iter()
        .map(|(name, item)| (name.as_str(), item as _))
        .collect();
    central.report(&nouns);
    eventually(DEADLINE, async || {
        let found = compiled(admin).await["east"].to_string();
        ensure!(found.contains("services/shop/web"), "{found}");
        Ok(())
    })
    .await;
    let apply = async |plan: &str, document: &Value| {
        let if_plan = [("if-plan", plan)];
        let path = format!("changes?{LET}");
        admin
            .send(Method::POST, &path, &if_plan, document.to_string())
            .await
    };
    let start = json!({"rollback": {"name": ACME, "revision": made.json()["revision"]}});
    let mut written = 0;
    for seed in 1..=SEQUENCES {
        let back = admin.post("plans", start.clone()).await.json();
        let back = apply(back["plan"].as_str().unwrap(), &start).await;
        assert_eq!(back.status, 200, "{}", back.text);
        let mut edits = Edits::new(seed);
        for number in 0..WRITES {
            let at = format!("seed {seed}, write {number}");
            let before = documents(admin).await;
            let names: Vec<&str> = before.keys().map(String::as_str).collect();
            let change = edits.next(&names);
            let planned = admin.post(&format!("plans?{PLANNED}"), change.clone()).await;
            if planned.status != 200 {
                let refused = admin.post(&format!("changes?{LET}"), change).await;
                assert_eq!(refused.json()["detail"], planned.json()["detail"], "{at}");
                continue;
            }
            let (plan, routes) = (planned.json(), compiled(admin).await);
            let applied = apply(plan["plan"].as_str().unwrap(), &change).await;
            assert_eq!(applied.status, 200, "{at}: {}", applied.text);
            assert_eq!(documents(admin).await, planned_documents(before, &plan), "{at}");
            let found = compiled(admin).await.to_string();
            assert_eq!(found, patched(routes, &plan).to_string(), "{at}");
            written += 1;
        }
    }
    assert!(
        written > SEQUENCES,
        "only {written} of the random writes were good: they test nothing"
    );
    management.stop().await;
}

async fn compiled(admin: &Api) -> Value {
    let routes = admin.get(&format!("{ACME}:compiled?pageSize=500")).await.json()["routes"].clone();
    without_empty(without_origins(routes))
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
        let slices = routes.as_object_mut().unwrap();
        for change in changes.as_array().unwrap() {
            let slice = slices.entry(cluster).or_insert_with(|| json!({}));
            let slice = slice.as_object_mut().unwrap();
            let key = change["route"].as_str().unwrap();
            match &change["after"] {
                Value::Null => drop(slice.remove(key)),
                after => drop(slice.insert(key.to_owned(), without_origins(after.clone()))),
            }
        }
    }
    without_empty(routes)
}

/// A cluster without a route is not in an answer, however it has come to have none.
fn without_empty(mut routes: Value) -> Value {
    routes
        .as_object_mut()
        .unwrap()
        .retain(|_, routes| *routes != json!({}));
    routes
}
