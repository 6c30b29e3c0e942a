//! `POST /v1/explain`: the chain from a request to its endpoints, as far as the caller may read it and as far as the
//! edge can be asked.

use std::time::Duration;

use anyhow::ensure;
use serde_json::{Value, json};
use tombolo_compiler::observe::Agent;
use tombolo_compiler::report::{ClusterReport, ReportItem};
use tombolo_tests::eventually;

use crate::central::Central;
use crate::support::{ACME, Api, Management, two_teams};

const DEADLINE: Duration = Duration::from_secs(20);
const PAY: &str = "organizations/acme/tenants/pay";

const INTENT: &str = "
name: organizations/acme/tenants/pay/workspaces/shop/trafficgroups/web/serviceroutes/reviews
spec:
  service: shop/reviews
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /beta}}]
    backendRefs: [{subset: v2}]
  - backendRefs: [{subset: v1}]
---
name: organizations/acme/tenants/pay/workspaces/shop/gatewaygroups/edge/gateways/web
spec:
  workload: mesh/gateway
  type: ingress
  port: 8080
  hosts: [shop.example.com]
  rules: [{backendRefs: [{namespace: shop, name: reviews}]}]
";

/// A mesh in which us-east offers the service and has the gateway.
async fn mesh(management: &Management) -> Central {
    two_teams(management).await;
    management.admin.apply(INTENT).await;
    let report: ClusterReport = serde_json::from_value(json!({
        "services": {"shop/reviews": {"ports": [{"name": "http", "port": 80}], "state": "up",
            "labelSets": [{"version": "v1"}, {"version": "v2"}]}},
        "gateways": {"mesh/gateway": {}},
    }))
    .unwrap();
    let items: Vec<(String, ReportItem)> = report
        .items()
        .into_iter()
        .map(|(name, item)| (format!("clusters/us-east/{name}"), item))
        .collect();
    let mut central = Central::connect(management, "a").await;
    let mut all: Vec<(&str, &dyn crate::central::erased::Noun)> =
        vec![("clusters/us-east/agent", &Agent::Live)];
    all.extend(
        items
            .iter()
            .map(|(name, item)| (name.as_str(), item as &dyn crate::central::erased::Noun)),
    );
    central.report(&all);
    central.answers(Err("the edge is away".to_owned()));
    eventually(DEADLINE, || async {
        let answer = explained(&management.admin, "us-east/shop/web", "http://reviews/").await;
        ensure!(answer["outcome"].get("forward").is_some(), "{answer}");
        Ok(())
    })
    .await;
    central
}

async fn explained(api: &Api, from: &str, url: &str) -> Value {
    let answer = api
        .post("explain", json!({"from": from, "request": {"url": url}}))
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()
}

#[tokio::test]
async fn every_step_has_the_resource_that_decided_it() {
    let management = Management::start().await;
    let _central = mesh(&management).await;
    let answer = explained(
        &management.admin,
        "us-east/gateway/web",
        "https://shop.example.com/beta/1",
    )
    .await;
    let steps: Vec<(&Value, &Value)> = answer["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| (&step["stage"], &step["origin"]["field"]))
        .collect();
    assert_eq!(
        json!(steps),
        json!([
            ["entry", null],
            ["host", "spec.hosts"],
            ["gatewayRule", "spec.rules[0]"],
            ["serviceRule", "spec.rules[0]"]
        ])
    );
    let target = &answer["outcome"]["forward"]["targets"][0];
    assert_eq!(target["upstream"], "pay/shop/shop/reviews:80/v2{version=v2}");
    assert_eq!(target["places"][0]["hosts"], json!({"reported": "up"}));
    assert_eq!(answer["edge"], json!({"away": "the edge is away"}));

    let missed = explained(
        &management.admin,
        "us-west/gateway/web",
        "https://shop.example.com/",
    )
    .await;
    let advice = missed["advice"][0]["told"].as_str().unwrap();
    assert!(
        advice.contains("no gateway in us-west serves the host shop.example.com"),
        "{advice}"
    );
    assert!(advice.ends_with("gateways/web does in us-east"), "{advice}");
    for (question, reason) in [
        (
            json!({"from": "us-east", "request": {"url": "http://a/"}}),
            "is not a viewpoint",
        ),
        (
            json!({"from": "us-east/shop/web", "request": {"url": "a"}}),
            "is not a URL",
        ),
        (json!({"from": "us-east/shop/web"}), "missing field"),
    ] {
        management
            .admin
            .post("explain", question)
            .await
            .refused(400, reason);
    }
    management.stop().await;
}

#[tokio::test]
async fn invariant_6_steps_over_what_the_caller_may_not_read_are_counted_and_not_shown() {
    let management = Management::start().await;
    let _central = mesh(&management).await;
    let media = management
        .user("mia", &[(&format!("{ACME}/tenants/media"), "reader")])
        .await;
    let inside = explained(&media, "us-east/shop/web", "http://reviews/").await;
    assert_eq!(inside["stepsHidden"], 3, "{inside}");
    assert_eq!(inside["outcome"], json!({"hidden": true}));
    let outside = explained(&media, "us-east/gateway/web", "https://shop.example.com/").await;
    let missing = explained(&media, "us-east/gateway/nobody", "https://shop.example.com/").await;
    assert_eq!(
        outside["outcome"]["notTaken"]["reason"]
            .as_str()
            .unwrap()
            .replace("web", "nobody"),
        missing["outcome"]["notTaken"]["reason"],
        "a gateway that may not be read is like one that is not there"
    );
    for answer in [inside, outside] {
        let text = answer.to_string();
        assert!(!text.contains(PAY) && !text.contains("mesh/gateway"), "{text}");
    }
    management
        .anonymous()
        .post("explain", json!({}))
        .await
        .refused(401, "send a token");
    management.stop().await;
}

#[tokio::test]
async fn the_edge_has_the_last_word_and_is_not_waited_for_for_ever() {
    let management = Management::start().await;
    let central = mesh(&management).await;
    let told = json!({"version": [1, 3], "trace": {"steps": [], "outcome": {"forward": {"targets": [
        {"upstream": "u", "weight": 100, "places": [{"priority": 0, "cluster": "us-east",
            "hosts": {"instances": [{"address": "10.1.2.3:8080", "usable": false}]}}]}]}}}});
    central.answers(Ok(told.to_string()));
    let answer = explained(&management.admin, "us-east/shop/web", "http://reviews/").await;
    let edge = &answer["edge"]["answer"];
    assert_eq!(edge["version"], json!([1, 3]));
    assert_eq!(edge["outcome"], told["trace"]["outcome"]);

    central.answers(Ok("nonsense".to_owned()));
    let answer = explained(&management.admin, "us-east/shop/web", "http://reviews/").await;
    assert!(
        answer["edge"]["away"]
            .as_str()
            .unwrap()
            .starts_with("cannot read"),
        "{answer}"
    );
    central.disconnect();
    eventually(DEADLINE, || async {
        let answer = explained(&management.admin, "us-east/shop/web", "http://reviews/").await;
        ensure!(answer["edge"]["away"] == "no central is connected", "{answer}");
        ensure!(
            answer["outcome"].get("forward").is_some(),
            "what was reported still tells: {answer}"
        );
        Ok(())
    })
    .await;
    management.stop().await;
}

#[tokio::test]
async fn a_search_finds_what_touches_a_host_as_far_as_the_caller_may_read() {
    let management = Management::start().await;
    two_teams(&management).await;
    management.admin.apply(INTENT).await;
    let found = async |api: &Api, query: &str| {
        let answer = api.get(&format!("search?{query}")).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()
    };
    let all = found(&management.admin, "host=reviews.shop.svc.clusterset.local").await;
    let fields: Vec<&Value> = all["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|touch| &touch["field"])
        .collect();
    assert_eq!(
        json!(fields),
        json!(["spec.rules[0].backendRefs[0]", "spec.service"])
    );
    assert_eq!(all["hidden"], 0);
    let media = management
        .user("mia", &[(&format!("{ACME}/tenants/media"), "reader")])
        .await;
    for (query, shown, hidden) in [
        ("host=*.example.com", 0, 1),
        ("namespace=shop", 0, 3),
        ("namespace=video", 1, 0),
    ] {
        let answer = found(&media, query).await;
        assert_eq!(
            answer["items"].as_array().unwrap().len(),
            shown,
            "{query}: {answer}"
        );
        assert_eq!(answer["hidden"], hidden, "{query}: {answer}");
        assert!(!answer.to_string().contains(PAY), "{answer}");
    }
    for query in ["", "host=a&service=b", "namespace=*"] {
        management
            .admin
            .get(&format!("search?{query}"))
            .await
            .refused(400, "");
    }
    management.stop().await;
}

#[tokio::test]
async fn readiness_tells_before_the_loss_what_it_would_be() {
    let management = Management::start().await;
    let _central = mesh(&management).await;
    let path = format!("{PAY}/workspaces/shop:readiness");
    let answer = management.admin.get(&path).await.json();
    let reviews = &answer["items"][0];
    assert_eq!(reviews["service"], "shop/reviews", "{answer}");
    let loss = &reviews["losses"][0];
    assert_eq!(loss["lost"], json!({"cluster": "us-east"}));
    assert_eq!(loss["verdict"], "lost");
    assert_eq!(
        loss["missing"],
        json!(["only us-east offers it; deploy it in a second cluster"])
    );
    let media = management
        .user("mia", &[(&format!("{ACME}/tenants/media"), "reader")])
        .await;
    media.get(&path).await.refused(404, "does not exist");
    management
        .admin
        .get(&format!("{PAY}:readiness"))
        .await
        .refused(404, "of a workspace :readiness");
    management.stop().await;
}

#[tokio::test]
async fn a_revision_is_explained_with_what_it_did() {
    let management = Management::start().await;
    let _central = mesh(&management).await;
    let admin = &management.admin;
    let question = json!({"from": "us-east/shop/web", "request": {"url": "http://reviews/"}});
    let at = async |api: &Api, revision: u64| {
        let answer = api
            .post(&format!("explain?revision={revision}"), question.clone())
            .await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()
    };
    let upstream = |answer: &Value| answer["outcome"]["forward"]["targets"][0]["upstream"].clone();
    let name = format!("{PAY}/workspaces/shop/trafficgroups/web/serviceroutes/reviews");
    let mut route = admin.get(&name).await.json();
    route["spec"]["rules"] = json!([{"backendRefs": [{"subset": "v2"}]}]);
    let changed = admin.put("*", route.clone()).await.json()["revision"]
        .as_u64()
        .unwrap();
    let hidden = json!({"name": format!("{ACME}/tenants/later")});
    admin.create(hidden).await;

    let (before, after) = (at(admin, changed - 1).await, at(admin, changed).await);
    assert_eq!(upstream(&before), "pay/shop/shop/reviews:80/v1{version=v1}");
    assert_eq!(upstream(&after), "pay/shop/shop/reviews:80/v2{version=v2}");
    let written = &after["written"];
    assert_eq!(written["actor"], format!("{ACME}/users/admin"));
    assert_eq!(written["changes"][0]["name"], name);
    assert_eq!(written["changes"][0]["after"]["spec"], route["spec"]);
    assert_eq!(
        written["changes"][0]["before"]["spec"]["rules"][1]["backendRefs"][0]["subset"],
        "v1"
    );
    assert!(after["reports"]["us-east"]["hash"].is_string(), "{after}");
    assert!(after["edge"].is_null(), "no edge knows the past");

    // Whoever may read less is told less, and nobody what is not theirs.
    let rob = management.user("rob", &[(PAY, "reader")]).await;
    let told = at(&rob, changed).await;
    assert_eq!(upstream(&told), upstream(&after));
    assert_eq!(told["written"], *written);
    assert!(at(&rob, changed + 1).await["written"].is_null());
    let stranger = management.user("stranger", &[]).await;
    let told = at(&stranger, changed).await;
    assert!(
        told["written"].is_null() && told["reports"] == json!({}),
        "{told}"
    );
    assert!(!told.to_string().contains(PAY), "{told}");
    admin
        .post("explain?revision=999", question)
        .await
        .refused(404, "revision 999 is not written yet");
    management.stop().await;
}
