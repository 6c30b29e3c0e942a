//! Every kind against the real server: its example is taken and given back as it was sent, what protects nothing is
//! refused, and quotas hold.

use serde_json::{Value, json};
use tombolo_compiler::name::Kind;
use tombolo_compiler::schema;

use crate::support::{ACME, Answer, Management};

const PAYMENTS: &str = "organizations/acme/tenants/payments";
const GATEWAY: &str =
    "organizations/acme/tenants/payments/workspaces/checkout/gatewaygroups/edge/gateways/shop";

/// The examples, with the region that they name besides.
fn examples() -> Value {
    let europe = json!({"name": format!("{ACME}/clusters/eu-west"), "spec": {"region": "eu"}});
    Kind::ALL
        .into_iter()
        .map(schema::example)
        .chain([europe])
        .collect()
}

async fn apply(management: &Management, flags: &str) -> Answer {
    apply_all(management, examples(), flags).await
}

async fn apply_all(management: &Management, documents: Value, flags: &str) -> Answer {
    let path = format!("changes?overwrite=true{flags}");
    management.admin.post(&path, documents).await
}

#[tokio::test]
async fn every_example_is_taken_and_given_back_as_it_was_sent() {
    let management = Management::start().await;
    let applied = apply(&management, "&allowUnenforced=true").await;
    assert_eq!(applied.status, 200, "{}", applied.text);
    for kind in Kind::ALL {
        let example = schema::example(kind);
        let name = example["name"].as_str().unwrap();
        let got = management.admin.get(name).await.json();
        for field in ["kind", "name", "spec", "description", "labels"] {
            assert_eq!(got[field], example[field], "{kind}: {field}");
        }
    }
    // Nothing that was left out has come back as a default.
    let again = apply(&management, "&allowUnenforced=true").await.json();
    let changes = again["changes"].as_array().unwrap();
    assert!(
        changes.iter().all(|change| change["action"] == "unchanged"),
        "{again}"
    );
}

#[tokio::test]
async fn what_protects_nothing_is_refused_unless_the_writer_insists() {
    let management = Management::start().await;
    let before = management.traces().await;
    let mut documents = examples();
    let mut gateways = documents.as_array_mut().unwrap().iter_mut();
    let gateway = gateways.find(|document| document["name"] == GATEWAY).unwrap();
    // By itself a proxy counts no users apart.
    gateway["spec"]["rateLimit"]["over"] = "Proxy".into();
    let refused = apply_all(&management, documents.clone(), "").await;
    assert_eq!(refused.status, 422, "{}", refused.text);
    let problem = refused.json();
    assert_eq!(problem["type"], "urn:tombolo:problem:not-enforced");
    let fields: Vec<&Value> = problem["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| &error["pointer"])
        .collect();
    assert_eq!(
        fields,
        [
            "/spec/rateLimit/by/header",
            "/spec/validateRequests",
            "/spec/defaults/reachability",
            "/spec/defaults/egress",
            "/spec/defaults",
            "/spec/mandates",
            "/spec/settings",
        ]
    );
    assert_eq!(management.traces().await, before);

    let kept = apply_all(&management, documents, "&allowUnenforced=true").await;
    assert_eq!(kept.status, 200, "{}", kept.text);
    let status = management.admin.get(&format!("{GATEWAY}:status")).await.json();
    assert_ne!(status["status"]["outcome"], "running", "{status}");
    let findings = status["status"]["findings"].as_array().unwrap();
    let fields: Vec<&Value> = findings
        .iter()
        .filter(|finding| finding["code"] == "NotEnforced")
        .map(|finding| &finding["field"])
        .collect();
    assert_eq!(fields, ["spec.rateLimit.by.header"]);
}

#[tokio::test]
async fn a_quota_refuses_what_would_be_too_much_and_names_both_numbers() {
    let management = Management::start().await;
    let tenant = json!({ "name": PAYMENTS });
    management.admin.create(tenant).await;
    let quota = json!({
        "name": format!("{ACME}/quotas/payments"),
        "spec": {"node": PAYMENTS, "limits": {"Workspace": 1}},
    });
    management.admin.create(quota).await;
    let workspace =
        |leaf: &str| json!({"name": format!("{PAYMENTS}/workspaces/{leaf}"), "spec": {"namespaces": []}});
    management.admin.create(workspace("one")).await;
    let before = management.traces().await;
    let refused = management
        .admin
        .post(&format!("{PAYMENTS}/workspaces"), workspace("two"))
        .await;
    assert_eq!(refused.status, 409, "{}", refused.text);
    let problem = refused.json();
    assert_eq!(problem["type"], "urn:tombolo:problem:over-quota");
    let detail = problem["detail"].as_str().unwrap();
    let expected =
        format!("{ACME}/quotas/payments allows 1 of Workspace below {PAYMENTS}, and this would make 2");
    assert!(detail.starts_with(&expected), "{detail}");
    assert_eq!(management.traces().await, before);
}

#[tokio::test]
async fn every_kind_has_a_schema() {
    let management = Management::start().await;
    let listed = management.admin.get("schemas").await.json();
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(Kind::ALL.len()));
    for kind in Kind::ALL {
        let answer = management.admin.get(&format!("schemas/{kind}")).await;
        assert_eq!(answer.status, 200, "{kind}");
        assert_eq!(answer.json()["title"], kind.to_string());
    }
    assert_eq!(management.admin.get("schemas/Gatewy").await.status, 404);
    assert_eq!(management.anonymous().get("schemas").await.status, 401);
}
