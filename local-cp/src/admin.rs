//! The edge's admin port: what every process has, and `/config`, which says what the edge holds and how far its
//! proxies are.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tombolo_compiler::finding::Finding;
use tombolo_compiler::name::ClusterName;
use tombolo_compiler::report::Rejection;
use tombolo_runtime::admin::{Health, Metrics, router};

use crate::ads::node::Acknowledges;
use crate::feed::{CentralState, Feed};
use crate::fleet::{Fleet, Forget, receipt};
use crate::platform::{Fault, Seen};
use crate::snapshot::Snapshot;

/// What the page is made from.
#[derive(Clone, Debug)]
pub(crate) struct Sources {
    pub(crate) cluster: ClusterName,
    pub(crate) snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    pub(crate) seen: watch::Receiver<Seen>,
    pub(crate) fleet: Fleet,
    pub(crate) feed: Feed,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    cluster: ClusterName,
    /// (epoch, revision) of the slice in use; `null` while the edge does not hold both slice and view.
    slice_version: Option<(u64, u64)>,
    slice_items: usize,
    services: usize,
    gateways: usize,
    centrals: Vec<CentralState>,
    platform_faults: Vec<Fault>,
    proxies: BTreeMap<String, Proxy>,
    behind: BTreeMap<String, (u64, u64)>,
    /// Went silent; `POST /proxies/forget?id=…` forgets one that will not come back.
    unknown: BTreeMap<String, (u64, u64)>,
    rejected: Vec<Rejection>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Proxy {
    running: Option<(u64, u64)>,
    /// What its acknowledgement proves.
    acknowledges: &'static str,
    findings: Arc<[Finding]>,
}

pub(crate) fn routes(health: Health, metrics: Metrics, sources: Sources) -> Router {
    let own = Router::new()
        .route("/config", get(config))
        .route("/removals/confirm", post(confirm_removals))
        .route("/proxies/forget", post(forget))
        .with_state(sources);
    router(health, metrics).merge(own)
}

async fn config(State(sources): State<Sources>) -> Json<Page> {
    let snapshot = sources.snapshots.borrow().clone();
    let known = sources.fleet.proxies();
    let receipt = snapshot
        .as_ref()
        .map(|snapshot| receipt(snapshot.version, &known))
        .unwrap_or_default();
    let proxies = known.connected.into_iter().map(|(name, member)| {
        let proxy = Proxy {
            running: member.standing.running,
            acknowledges: match member.acknowledges {
                Acknowledges::Activated => "activated",
                Acknowledges::Accepted => "accepted",
            },
            findings: member.findings,
        };
        (name, proxy)
    });
    let platform_faults = sources.seen.borrow().faults.clone();
    Json(Page {
        cluster: sources.cluster.clone(),
        slice_version: snapshot.as_ref().map(|snapshot| snapshot.version),
        slice_items: snapshot.as_ref().map_or(0, |snapshot| snapshot.slice.items.len()),
        services: snapshot
            .as_ref()
            .map_or(0, |snapshot| snapshot.view.services.len()),
        gateways: snapshot
            .as_ref()
            .map_or(0, |snapshot| snapshot.view.gateways.len()),
        centrals: sources.feed.centrals(),
        platform_faults,
        proxies: proxies.collect(),
        behind: receipt.behind,
        unknown: receipt.unknown,
        rejected: receipt.rejected,
    })
}

async fn confirm_removals(State(sources): State<Sources>) -> StatusCode {
    sources.feed.confirm_removals();
    StatusCode::ACCEPTED
}

#[derive(Debug, Deserialize)]
struct Whom {
    id: String,
}

async fn forget(State(sources): State<Sources>, Query(Whom { id }): Query<Whom>) -> (StatusCode, String) {
    match sources.fleet.forget(&id) {
        Forget::Forgotten => (StatusCode::OK, format!("forgot proxy {id}\n")),
        Forget::Connected => (
            StatusCode::CONFLICT,
            format!("proxy {id} is connected: stop it first\n"),
        ),
        Forget::NotKnown => (
            StatusCode::NOT_FOUND,
            format!("no proxy {id} is known: see unknown in /config\n"),
        ),
    }
}
