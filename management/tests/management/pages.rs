//! Pages: every list has them, in the same words, and one after the other they are the list.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::ensure;
use serde_json::{Map, Value, json};
use tombolo_compiler::observe::Agent;
use tombolo_compiler::report::{ClusterReport, ReportItem};
use tombolo_tests::eventually;

use crate::central::Central;
use crate::central::erased::Noun;
use crate::support::{ACME, Api, Management, two_teams};

const DEADLINE: Duration = Duration::from_secs(30);
const PAY: &str = "organizations/acme/tenants/pay";
const SHOP: &str = "organizations/acme/tenants/pay/workspaces/shop";
const VIDEO: &str = "organizations/acme/tenants/media/workspaces/video";
/// A list that cannot grow: one entry for each kind.
const WHOLE: [&str; 1] = ["listSchemas"];

/// All entries of a list, read in pages of that size.
pub(crate) async fn in_pages(api: &Api, path: &str, size: usize) -> Vec<Value> {
    let (mut all, mut token) = (Vec::new(), String::new());
    loop {
        let sign = if path.contains('?') { '&' } else { '?' };
        let answer = api.get(&format!("{path}{sign}pageSize={size}{token}")).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        let page = answer.json();
        let entries = entries(&page);
        assert!(entries.len() <= size, "{path}: {page}");
        all.extend(entries);
        match page["nextPageToken"].as_str() {
            Some(next) => token = format!("&pageToken={next}"),
            None => return all,
        }
    }
}

fn entries(page: &Value) -> Vec<Value> {
    let list = page["items"].as_array().or(page["changes"].as_array());
    let routes = page["routes"].as_object().into_iter().flatten();
    let routes = routes.flat_map(|(cluster, routes)| {
        let routes = routes.as_object().into_iter().flatten();
        routes.map(move |(route, item)| json!([cluster, route, item]))
    });
    list.into_iter().flatten().cloned().chain(routes).collect()
}

/// A mesh in which each of the lists has several entries.
async fn mesh(management: &Management) -> Central {
    two_teams(management).await;
    let admin = &management.admin;
    for leaf in ["ann", "ben", "eve"] {
        management.user(leaf, &[(PAY, "writer")]).await;
    }
    let account = format!("{PAY}/serviceaccounts/ci");
    admin.create(json!({ "name": account })).await;
    for number in 0..3 {
        admin.post(&format!("{account}/keys"), json!({})).await;
        admin.post(&format!("{account}/tokens"), json!({})).await;
        let gateway = json!({"workload": "shop/door", "type": "ingress", "port": 8080,
            "hosts": [format!("{number}.example.com")], "rules": [{"backendRefs": [{"namespace": "shop", "name": "web"}]}]});
        let name = format!("{SHOP}/gatewaygroups/edge/gateways/g{number}");
        admin.create(json!({"name": name, "spec": gateway})).await;
        let workspace = format!("{PAY}/workspaces/w{number}");
        let namespace = format!("us-east/n{number}");
        admin
            .create(json!({"name": workspace, "spec": {"namespaces": [namespace]}}))
            .await;
        let offer = json!({"to": VIDEO, "namespaces": [namespace]});
        admin
            .create(json!({"name": format!("{workspace}/claimoffers/it"), "spec": offer}))
            .await;
    }
    let services = ["cart", "reviews", "web"].map(|name| {
        let service = json!({"ports": [{"name": "http", "port": 80}], "state": "up"});
        (format!("shop/{name}"), service)
    });
    let services: Map<String, Value> = services.into_iter().collect();
    let report: ClusterReport = serde_json::from_value(json!({ "services": services })).unwrap();
    let items: Vec<(String, ReportItem)> = report
        .items()
        .into_iter()
        .map(|(name, item)| (format!("clusters/us-east/{name}"), item))
        .collect();
    let mut central = Central::connect(management, "a").await;
    let mut all: Vec<(&str, &dyn Noun)> = vec![("clusters/us-east/agent", &Agent::Live)];
    all.extend(
        items
            .iter()
            .map(|(name, item)| (name.as_str(), item as &dyn Noun)),
    );
    central.report(&all);
    eventually(DEADLINE, async || {
        let readiness = admin.get(&format!("{SHOP}:readiness")).await.json();
        ensure!(entries(&readiness).len() == 3, "{readiness}");
        Ok(())
    })
    .await;
    central
}

#[tokio::test]
async fn the_pages_of_a_list_are_the_list() {
    let management = Management::start().await;
    let _central = mesh(&management).await;
    let admin = &management.admin;
    for path in [
        format!("{PAY}/serviceaccounts/ci/tokens"),
        format!("{PAY}/serviceaccounts/ci/keys"),
        format!("{SHOP}:access"),
        format!("{VIDEO}:offers"),
        format!("{SHOP}:readiness"),
        format!("{ACME}:diff?from=1"),
        format!("{ACME}:compiled"),
        "search?service=shop/web".to_owned(),
    ] {
        let whole = in_pages(admin, &path, 500).await;
        assert!(whole.len() >= 3, "{path}: {whole:?}");
        for size in [1, 2] {
            assert_eq!(in_pages(admin, &path, size).await, whole, "{path} by {size}");
        }
        let sign = if path.contains('?') { '&' } else { '?' };
        for (wrong, reason) in [
            ("pageSize=0", "pageSize 0 is not between 1 and 500"),
            ("pageSize=501", "pageSize 501 is not between 1 and 500"),
            ("pageToken=x", "pageToken \"x\" is not from this list"),
        ] {
            let refused = admin.get(&format!("{path}{sign}{wrong}")).await;
            refused.refused(400, reason);
        }
    }
    management.stop().await;
}

/// A list that forgets them grows until somebody's answer does not fit.
#[tokio::test]
async fn every_list_has_pages() {
    let management = Management::start().await;
    let document = management.admin.get("openapi.json").await.json();
    let named = |reference: &Value| {
        let path = reference["$ref"].as_str().unwrap_or_default();
        document
            .pointer(path.trim_start_matches('#'))
            .unwrap_or(reference)
            .clone()
    };
    let mut without = BTreeSet::new();
    for operations in document["paths"].as_object().unwrap().values() {
        let operation = &operations["get"];
        let answer = named(&operation["responses"]["200"]);
        let schema = named(&answer["content"]["application/json"]["schema"]);
        let fields = &schema["properties"];
        let is_list = ["items", "changes"].iter().any(|list| fields[list].is_object());
        if !is_list && fields["nextPageToken"].is_null() {
            continue;
        }
        let parameters = operation["parameters"].as_array().unwrap().iter().map(named);
        let names: Vec<String> = parameters
            .map(|parameter| parameter["name"].as_str().unwrap_or_default().to_owned())
            .collect();
        let has = |name: &str| names.iter().any(|given| given == name);
        if !(fields["nextPageToken"].is_object() && has("pageSize") && has("pageToken")) {
            without.insert(operation["operationId"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(without, BTreeSet::from(WHOLE.map(str::to_owned)));
    management.stop().await;
}
