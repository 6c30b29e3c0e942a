//! The whole mesh, small: management on Postgres, two centrals and two clusters as real processes. The tests take turns
//! on one mesh and leave it as they found it.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::Mutex;
use tombolo_tests::mesh::{self, Blueprint, Mesh, REVIEWS_HOST, SHOP_HOST};
use tombolo_tests::{client, eventually, tombolo_binary};

mod invariants;
mod users;

const DEADLINE: Duration = Duration::from_secs(20);
const EAST: usize = 0;
const WEST: usize = 1;
const SHOP: &str = "organizations/acme/tenants/retail/workspaces/shop";
const ROUTE: &str =
    "organizations/acme/tenants/retail/workspaces/shop/trafficgroups/web/serviceroutes/reviews";

/// Statics are never dropped: the processes' watchdogs end them with this process.
static RUNTIME: OnceLock<Runtime> = OnceLock::new();
static MESH: Mutex<Option<Mesh>> = Mutex::const_new(None);

/// Runs a test on the mesh while nobody else does. The applications live in the runtime, which outlives every test. A
/// mesh that a test has failed on is not used again.
fn on_mesh(test: impl AsyncFnOnce(&mut Mesh) -> Result<()>) {
    let runtime = RUNTIME.get_or_init(|| Runtime::new().unwrap());
    runtime.block_on(async {
        let mut shared = MESH.lock().await;
        let mut mesh = match shared.take() {
            Some(mesh) => mesh,
            None => start().await.unwrap_or_else(|error| panic!("{error:#}")),
        };
        test(&mut mesh).await.unwrap_or_else(|error| panic!("{error:#}"));
        *shared = Some(mesh);
    });
}

async fn start() -> Result<Mesh> {
    let mesh = Mesh::start(Blueprint {
        binary: tombolo_binary(),
        network: 40,
        clusters: vec!["us-east", "us-west"],
    })
    .await?;
    let shop = mesh::shop("[{backendRefs: [{subset: v1}]}]");
    mesh.write(&format!("name: organizations/acme/tenants/banking\n---{shop}"))
        .await?;
    mesh.running(ROUTE).await?;
    Ok(mesh)
}

#[test]
fn intent_over_rest_becomes_traffic_in_two_clusters() {
    on_mesh(async |mesh| {
        everywhere(mesh, "reviews-v1").await;

        write_route(mesh, &json!([{"backendRefs": [{"subset": "v2"}]}])).await?;
        mesh.running(ROUTE).await?;
        // Running is proven: the first request already goes the new way.
        for (address, host, cluster) in doors(mesh) {
            let by = ask(address, host).await?;
            ensure!(
                by == format!("reviews-v2.{cluster}"),
                "{host} in {cluster} answers from {by}"
            );
        }
        restore_route(mesh).await
    });
}

#[test]
fn a_service_that_dies_is_answered_by_the_other_cluster_without_any_configuration() {
    on_mesh(async |mesh| {
        everywhere(mesh, "reviews-v1").await;
        mesh.application(EAST, "v1")?.take_down().await;
        for (address, host, _) in [doors(mesh)[0], doors(mesh)[1]] {
            answered_by(address, host, "reviews-v1.us-west").await;
        }
        mesh.application(EAST, "v1")?.bring_up().await?;
        everywhere(mesh, "reviews-v1").await;
        Ok(())
    });
}

fn doors(mesh: &Mesh) -> Vec<(SocketAddr, &'static str, &'static str)> {
    [(EAST, "us-east"), (WEST, "us-west")]
        .into_iter()
        .flat_map(|(at, cluster)| {
            [
                (mesh.ingress(at), SHOP_HOST, cluster),
                (mesh.outbound(at), REVIEWS_HOST, cluster),
            ]
        })
        .collect()
}

/// Who answers.
async fn ask(address: SocketAddr, host: &str) -> Result<String> {
    let request = Request::get("/").header("host", host).body(Full::default())?;
    let reply = client::send(address, request).await?.expect(StatusCode::OK)?;
    Ok(reply.header("x-answered-by"))
}

async fn answered_by(address: SocketAddr, host: &str, wanted: &str) {
    eventually(DEADLINE, || async {
        let by = ask(address, host).await?;
        ensure!(
            by == wanted,
            "{host} at {address} answers from {by}, not {wanted}"
        );
        Ok(())
    })
    .await;
}

/// Waits until every proxy answers from its own cluster's instance.
async fn everywhere(mesh: &Mesh, instance: &str) {
    for (address, host, cluster) in doors(mesh) {
        answered_by(address, host, &format!("{instance}.{cluster}")).await;
    }
}

/// Every proxy answers from its own cluster's instance, now and every time.
async fn unmoved(mesh: &Mesh, instance: &str) -> Result<()> {
    for _ in 0..20 {
        for (address, host, cluster) in doors(mesh) {
            let by = ask(address, host)
                .await
                .with_context(|| format!("{host} in {cluster}"))?;
            ensure!(
                by == format!("{instance}.{cluster}"),
                "{host} in {cluster} answers from {by}"
            );
        }
    }
    Ok(())
}

async fn write_route(mesh: &Mesh, rules: &Value) -> Result<()> {
    let token = mesh.admin_token();
    let reply = mesh
        .call(token, Method::GET, ROUTE, None)
        .await?
        .expect(StatusCode::OK)?;
    let document = route(rules);
    let etag = reply.header("etag");
    mesh.call_if(token, Method::PUT, ROUTE, Some(&document), Some(&etag))
        .await?
        .expect(StatusCode::OK)?;
    Ok(())
}

fn route(rules: &Value) -> Value {
    json!({
        "name": ROUTE,
        "spec": {
            "service": "shop/reviews",
            "subsets": [
                {"name": "v1", "labels": {"version": "v1"}},
                {"name": "v2", "labels": {"version": "v2"}},
            ],
            "rules": rules,
        },
    })
}

async fn restore_route(mesh: &Mesh) -> Result<()> {
    write_route(mesh, &json!([{"backendRefs": [{"subset": "v1"}]}])).await?;
    mesh.running(ROUTE).await?;
    everywhere(mesh, "reviews-v1").await;
    Ok(())
}

/// Waits until a resource is shown as refused.
async fn refused(mesh: &Mesh, name: &str) -> Value {
    eventually(DEADLINE, || async {
        let status = mesh.receipt(name).await?;
        ensure!(status["outcome"] == "rejected", "{status}");
        Ok(status)
    })
    .await
}

/// A page of an admin port.
async fn page(admin: SocketAddr, path: &str) -> Result<Value> {
    let reply = client::get(admin, path).await?.expect(StatusCode::OK)?;
    Ok(serde_json::from_slice(&reply.body)?)
}
