//! Settings over HTTP: what counts, who may ask, and that a mandate holds against whoever writes below it.

use http::Method;
use serde_json::{Value, json};

use crate::support::{ACME, Answer, Api, Management, two_teams};

const PAY: &str = "organizations/acme/tenants/pay";
const SHOP: &str = "organizations/acme/tenants/pay/workspaces/shop";

fn setting(node: &str, spec: &Value) -> Value {
    json!({"name": format!("{node}/securitysettings/default"), "spec": spec})
}

fn field<'a>(answer: &'a Value, field: &str) -> &'a Value {
    let fields = answer["fields"].as_array().unwrap();
    fields.iter().find(|row| row["field"] == field).unwrap()
}

/// No plane enforces them yet, so whoever writes them must insist.
async fn insist(api: &Api, method: Method, path: &str, etag: &str, document: Value) -> Answer {
    let path = format!("{path}?allowUnenforced=true");
    let headers = [("if-match", etag)];
    api.send(method, &path, &headers, document.to_string()).await
}

async fn create(api: &Api, document: Value) -> Value {
    let name = document["name"].as_str().unwrap();
    let collection = name.strip_suffix("/default").unwrap().to_owned();
    let answer = insist(api, Method::POST, &collection, "*", document).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    answer.json()
}

/// Holds invariant 7.
#[tokio::test]
async fn invariant_7_who_would_relax_a_mandate_is_refused_and_told_of_it() {
    let management = Management::start().await;
    two_teams(&management).await;
    let ann = management.user("ann", &[(SHOP, "writer")]).await;
    let mandate = setting(ACME, &json!({"mandates": {"mtls": "strict"}}));
    create(&management.admin, mandate).await;

    let before = management.traces().await;
    let relaxing = setting(SHOP, &json!({"defaults": {"mtls": "permissive"}}));
    let settings = format!("{SHOP}/securitysettings");
    let answer = insist(&ann, Method::POST, &settings, "*", relaxing).await;
    answer.refused(
        422,
        "organizations/acme/securitysettings/default mandates in spec.mandates.mtls",
    );
    let problem = answer.json();
    assert_eq!(problem["errors"][0]["pointer"], "/spec/defaults/mtls");
    assert_eq!(problem["errors"][0]["code"], "MandateRelaxed");
    assert_eq!(management.traces().await, before, "nothing of it was written");

    let elsewhere = json!({"name": format!("{SHOP}/securitysettings/mine")});
    let answer = ann.post(&settings, elsewhere).await;
    answer.refused(400, "that is named \"default\", not \"mine\"");
    management.stop().await;
}

/// A setting that was there first cannot hold up a mandate.
#[tokio::test]
async fn a_mandate_is_tightened_over_the_heads_of_those_below() {
    let management = Management::start().await;
    two_teams(&management).await;
    let ann = management.user("ann", &[(SHOP, "writer")]).await;
    let weak = create(&ann, setting(SHOP, &json!({"defaults": {"mtls": "disabled"}}))).await;

    let mandate = setting(ACME, &json!({"mandates": {"mtls": "strict"}}));
    create(&management.admin, mandate).await;
    let effective = ann.get(&format!("{SHOP}:effective")).await.json();
    let mtls = field(&effective, "security.mtls");
    assert_eq!(mtls["value"], "strict");
    assert_eq!(
        mtls["origin"]["resource"],
        format!("{ACME}/securitysettings/default")
    );
    assert_eq!(mtls["origin"]["field"], "spec.mandates.mtls");
    assert_eq!(
        mtls["origin"]["lost"],
        json!([format!("{SHOP}/securitysettings/default")])
    );
    let status = ann.get(&format!("{SHOP}/securitysettings/default:status")).await;
    assert!(status.text.contains("MandateRelaxed"), "{}", status.text);

    // What was overruled may stay, and may be touched as long as it asks for no less than before.
    let mut touched = weak.clone();
    touched["description"] = "under review".into();
    let etag = weak["etag"].as_str().unwrap();
    let name = weak["name"].as_str().unwrap();
    let answer = insist(&ann, Method::PUT, name, etag, touched).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    management.stop().await;
}

#[tokio::test]
async fn who_may_read_a_node_may_ask_what_counts_for_it_and_nobody_else() {
    let management = Management::start().await;
    two_teams(&management).await;
    let ann = management.user("ann", &[(SHOP, "reader")]).await;
    let written = management
        .admin
        .apply_raw(
            "changes?allowUnenforced=true",
            &format!(
                "
name: {PAY}/trafficsettings/default
spec: {{defaults: {{failover: [{{from: us-east, to: [us-west]}}], resilience: {{timeout: 5s}}}}}}
---
name: {SHOP}/securitygroups/sec
---
name: {SHOP}/securitygroups/sec/servicesecuritysettings/web
spec: {{service: shop/web, settings: {{mtls: strict}}}}
"
            ),
        )
        .await;
    assert_eq!(written.status, 200, "{}", written.text);

    let shop = ann.get(&format!("{SHOP}:effective")).await.json();
    assert_eq!(
        field(&shop, "traffic.failover")["value"],
        json!([{"from": "us-east", "to": ["us-west"]}])
    );
    assert!(field(&shop, "traffic.failover").get("notEnforced").is_none());
    let timeout = field(&shop, "traffic.resilience.timeout");
    assert_eq!(timeout["value"], "5s");
    assert!(
        timeout["notEnforced"].is_string(),
        "never shown as enforced: {timeout}"
    );
    assert_eq!(field(&shop, "security.mtls")["value"], "permissive");

    let of_service = |service: &str| format!("{SHOP}:effective?service={service}");
    let web = ann.get(&of_service("shop/web")).await.json();
    assert_eq!(web["service"], "shop/web");
    assert_eq!(field(&web, "security.mtls")["value"], "strict");
    let db = ann.get(&of_service("shop/db")).await.json();
    assert_eq!(field(&db, "security.mtls")["value"], "permissive");

    ann.get(&of_service("video/web"))
        .await
        .refused(400, "namespace video of service video/web is not one of");
    ann.get(&of_service("web"))
        .await
        .refused(400, "use namespace/name");
    let clusters = format!("{ACME}/clusters/us-east:effective");
    management
        .admin
        .get(&clusters)
        .await
        .refused(400, "ask one of these");
    ann.get(&format!("{PAY}:effective"))
        .await
        .refused(404, "is not yours to see");
    let nowhere = format!("{SHOP}/trafficgroups/none:effective");
    ann.get(&nowhere).await.refused(404, "is not yours to see");
    management.stop().await;
}

#[tokio::test]
async fn plain_text_between_tenants_is_ruled_out_by_what_settings_ask_for() {
    let management = Management::start().await;
    two_teams(&management).await;
    let admin = &management.admin;
    let invariant =
        json!({"name": format!("{ACME}/invariants/sealed"), "spec": {"noPlaintextBetweenTenants": {}}});
    let invariants = format!("{ACME}/invariants");
    let answer = admin.post(&invariants, invariant.clone()).await;
    answer.refused(422, "no proxy encrypts what it sends to another yet");

    // Both workspaces are in two clusters, and nothing is said of mTLS.
    let answer = insist(admin, Method::POST, &invariants, "*", invariant.clone()).await;
    answer.refused(409, "organizations/acme/tenants/media can reach services of");
    answer.refused(409, "where no setting says mtls: permissive is built in");

    create(admin, setting(ACME, &json!({"defaults": {"mtls": "strict"}}))).await;
    let answer = insist(admin, Method::POST, &invariants, "*", invariant).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    let status = admin
        .get(&format!("{ACME}/invariants/sealed:status"))
        .await
        .json();
    assert_eq!(status["status"]["findings"][0]["code"], "NotEnforced", "{status}");

    let lax = setting(SHOP, &json!({"defaults": {"mtls": "permissive"}}));
    let settings = format!("{SHOP}/securitysettings");
    let ann = management.user("ann", &[(SHOP, "writer")]).await;
    let answer = insist(&ann, Method::POST, &settings, "*", lax).await;
    answer.refused(409, "it would break organizations/acme/invariants/sealed: ");
    answer.refused(
        409,
        "where spec.defaults.mtls of organizations/acme/tenants/pay/workspaces/shop/securitysettings/default lets",
    );
    management.stop().await;
}

#[tokio::test]
async fn what_stands_or_is_served_at_a_node_has_its_settings() {
    let management = Management::start().await;
    two_teams(&management).await;
    let admin = &management.admin;
    let (web, app) = (
        format!("{SHOP}/trafficgroups/web"),
        format!("{PAY}/applications/app"),
    );
    let spec = json!({"defaults": {"resilience": {"timeout": "7s"}}});
    let timeouts = json!({"name": format!("{SHOP}/trafficsettings/default"), "spec": spec});
    create(admin, timeouts).await;
    let route = format!("{web}/serviceroutes/r");
    admin
        .create(json!({"name": route, "spec": {"service": "shop/web", "rules": []}}))
        .await;
    let door = format!("{SHOP}/gatewaygroups/edge/gateways/door");
    admin
        .create(json!({"name": door, "spec": {"workload": "shop/door", "type": "eastwest"}}))
        .await;
    admin
        .create(json!({"name": app, "spec": {"workspace": SHOP}}))
        .await;
    for asked in [&route, &door, &app, &format!("{SHOP}/gatewaygroups/edge")] {
        let answer = admin.get(&format!("{asked}:effective")).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let answer = answer.json();
        assert_eq!(answer["name"], asked.as_str());
        let timeout = field(&answer, "traffic.resilience.timeout");
        assert_eq!(timeout["value"], "7s", "{asked}");
        assert_eq!(
            timeout["origin"]["resource"],
            format!("{SHOP}/trafficsettings/default")
        );
    }
    let cluster = admin.get(&format!("{ACME}/clusters/us-east:effective")).await;
    cluster.refused(400, "ask one of these, not organizations/acme/clusters/us-east");

    // Naming a workspace is no right to read it.
    let tim = management.user("tim", &[(&app, "reader")]).await;
    assert_eq!(tim.get(&app).await.status, 200);
    tim.get(&format!("{app}:effective")).await.refused(404, SHOP);
    management.stop().await;
}
