//! An organization of many resources, and what its clusters report.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tombolo_compiler::explain::Viewpoint;
use tombolo_compiler::explain::request::Request;
use tombolo_compiler::name::ClusterName;
use tombolo_compiler::report::{ClusterReport, Reports};

/// Below that, workspaces would have fewer routes than `ROUTES_MIN`.
pub(crate) const RESOURCES_MIN: usize = 5_000;
/// Every workspace has that many.
pub(crate) const ROUTES_MIN: usize = 30;
const RESOURCES_PER_WORKSPACE: usize = 50;
const TENANTS: usize = 100;
const CLUSTERS: usize = 50;
const USERS: usize = 500;
/// On each workspace.
const BINDINGS: usize = 3;
/// In each workspace, with two hosts each; every seventh host is a wildcard.
const GATEWAYS: usize = 3;
const TIMEOUT_MIN_MS: usize = 5_000;
pub(crate) const ORGANIZATION: &str = "organizations/acme";

pub(crate) fn workspaces(resources: usize) -> usize {
    resources / RESOURCES_PER_WORKSPACE
}

/// Every resource, parents first. Routes make up what the others leave.
pub(crate) fn documents(resources: usize) -> impl Iterator<Item = Value> {
    let organization =
        std::iter::once(json!({"name": ORGANIZATION, "spec": {"failover": [{"from": "r0", "to": ["r1"]}]}}));
    let clusters = (0..CLUSTERS).map(|cluster| {
        json!({"name": format!("{ORGANIZATION}/clusters/{}", cluster_name(cluster)),
            "spec": {"region": format!("r{}", cluster % 5), "zone": format!("r{}-{}", cluster % 5, cluster % 3)}})
    });
    let users = (0..USERS)
        .map(|user| json!({"name": user_name(user), "spec": {"displayName": format!("User {user}")}}));
    let tenants = (0..TENANTS).map(|tenant| json!({"name": tenant_name(tenant)}));
    let few: Vec<Value> = organization.chain(clusters).chain(users).chain(tenants).collect();
    let per_workspace = 1 + 3 + BINDINGS + GATEWAYS;
    let workspaces = workspaces(resources);
    let routes = resources - few.len() - workspaces * per_workspace;
    let below = (0..workspaces).flat_map(move |workspace| {
        let more = usize::from(workspace < routes % workspaces);
        workspace_documents(workspace, routes / workspaces + more)
    });
    few.into_iter().chain(below)
}

/// A route of some workspace, as it is written for the `version`th time; it was there before the first.
pub(crate) fn route(workspace: usize, service: usize, version: usize) -> Value {
    // Each version says something that none before it has said of any route, or nothing would come over the feed.
    let timeout = format!("{}ms", TIMEOUT_MIN_MS + version);
    json!({
        "kind": "ServiceRoute",
        "name": format!("{}/trafficgroups/web/serviceroutes/s{service:02}", workspace_name(workspace)),
        "spec": {
            "service": format!("{}/s{service:02}", namespace(workspace, service)),
            "subsets": [
                {"name": "v1", "labels": {"version": "v1"}},
                {"name": "v2", "labels": {"version": "v2"}},
            ],
            "rules": [
                {
                    "matches": [{"path": {"type": "PathPrefix", "value": "/beta"}, "headers": [{"name": "x-beta", "value": "yes"}]}],
                    "backendRefs": [{"subset": "v2"}],
                    "timeouts": {"request": timeout},
                },
                {"backendRefs": [{"subset": "v1", "weight": 95}, {"subset": "v2", "weight": 5}]},
            ],
        },
    })
}

/// Each cluster offers the services of the workspaces that have namespaces in it.
pub(crate) fn reports(resources: usize) -> Result<Reports> {
    let mut clusters: BTreeMap<ClusterName, ClusterReport> = BTreeMap::new();
    let service = json!({
        "ports": [{"name": "http", "port": 8080}],
        "labelSets": [{"version": "v1"}, {"version": "v2"}],
        "state": "up",
    });
    for cluster in 0..CLUSTERS {
        let gateway = json!({"eastWest": [format!("127.1.{cluster}.1:15443")], "state": "up"});
        let report = ClusterReport {
            gateways: [("mesh/gateway".parse()?, serde_json::from_value(gateway)?)].into(),
            ..ClusterReport::default()
        };
        clusters.insert(cluster_name(cluster).parse()?, report);
    }
    for workspace in 0..workspaces(resources) {
        for cluster in clusters_of(workspace) {
            let name: ClusterName = cluster_name(cluster).parse()?;
            let report = clusters.get_mut(&name).context("a cluster without a report")?;
            for number in 0..40 {
                let id = format!("{}/s{number:02}", namespace(workspace, number)).parse()?;
                report
                    .services
                    .insert(id, serde_json::from_value(service.clone())?);
            }
        }
    }
    Ok(Reports {
        joined: clusters.keys().cloned().collect(),
        clusters: clusters
            .into_iter()
            .map(|(cluster, report)| (cluster, Arc::new(report)))
            .collect(),
        ..Reports::default()
    })
}

/// Where a request for that service goes that the workspace's first service sends.
pub(crate) fn question(workspace: usize, service: usize) -> Result<(Viewpoint, Request)> {
    let [cluster, _] = clusters_of(workspace);
    let from = format!("{}/{}/s00", cluster_name(cluster), namespace(workspace, 0));
    let url = format!("http://s{service:02}.{}:8080/beta", namespace(workspace, service));
    let request = json!({"url": url, "headers": {"x-beta": "yes"}});
    Ok((from.parse()?, serde_json::from_value(request)?))
}

fn workspace_documents(workspace: usize, routes: usize) -> impl Iterator<Item = Value> {
    let name = workspace_name(workspace);
    let selectors: Vec<String> = clusters_of(workspace)
        .into_iter()
        .flat_map(|cluster| {
            let cluster = cluster_name(cluster);
            [0, 1].map(|service| format!("{cluster}/{}", namespace(workspace, service)))
        })
        .collect();
    let mut documents = vec![json!({"name": name, "spec": {"namespaces": selectors}})];
    documents.extend(
        ["trafficgroups/web", "gatewaygroups/edge", "securitygroups/sec"]
            .map(|group| json!({"name": format!("{name}/{group}")})),
    );
    documents.extend((0..BINDINGS).map(|binding| {
        let role = ["reader", "writer", "admin"][binding % 3];
        let subjects = [0, 1].map(|user| user_name((workspace * BINDINGS + binding + user * 7) % USERS));
        json!({"name": format!("{name}/bindings/b{binding}"), "spec": {"role": role, "subjects": subjects}})
    }));
    documents.extend((0..GATEWAYS).map(|gateway| {
        let hosts = [0, 1].map(|host| {
            let number = gateway * 2 + host;
            let wildcard = if (workspace + number).is_multiple_of(7) { "*." } else { "" };
            format!("{wildcard}g{number}.{}.example.com", namespace(workspace, 0))
        });
        let rules = [0, 1].map(|service| {
            json!({
                "matches": [{"path": {"type": "PathPrefix", "value": format!("/{service}")}}],
                "backendRefs": [{"namespace": namespace(workspace, service), "name": format!("s{service:02}")}],
            })
        });
        json!({"name": format!("{name}/gatewaygroups/edge/gateways/g{gateway}"), "spec": {
            "workload": "mesh/gateway", "type": "ingress", "port": 8080, "hosts": hosts, "rules": rules}})
    }));
    documents
        .into_iter()
        .chain((0..routes).map(move |service| route(workspace, service, 0)))
}

/// Two of them.
fn clusters_of(workspace: usize) -> [usize; 2] {
    let first = workspace % CLUSTERS;
    [
        first,
        (first + 1 + workspace / CLUSTERS % (CLUSTERS - 1)) % CLUSTERS,
    ]
}

fn namespace(workspace: usize, service: usize) -> String {
    let part = ["web", "api"][service % 2];
    format!("w{workspace:04}-{part}")
}

pub(crate) fn workspace_name(workspace: usize) -> String {
    let tenant = tenant_name(workspace % TENANTS);
    format!("{tenant}/workspaces/w{workspace:04}")
}

fn tenant_name(tenant: usize) -> String {
    format!("{ORGANIZATION}/tenants/t{tenant:03}")
}

fn user_name(user: usize) -> String {
    format!("{ORGANIZATION}/users/u{user:03}")
}

fn cluster_name(cluster: usize) -> String {
    format!("c{cluster:02}")
}
