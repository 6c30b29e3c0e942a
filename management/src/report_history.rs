//! The loop that keeps what clusters have reported, so that an old revision can be compiled with what was there then.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tombolo_compiler::name::ClusterName;
use tombolo_compiler::report::ClusterReport;
use tombolo_runtime::shutdown::Shutdown;
use tombolo_runtime::telemetry::chain;

use crate::audit;
use crate::iam::Principal;
use crate::mesh::Mesh;
use crate::store::report_history::ReportedThen;
use crate::store::{self, Store, StoreError};

/// How often changes are noted. What came and went in between is not kept: this is for looking back, and its size is
/// bounded by this pace.
const NOTE_INTERVAL: Duration = Duration::from_secs(5);

pub(crate) async fn run(store: Store, mesh: watch::Receiver<Arc<Mesh>>, mut shutdown: Shutdown) {
    let mut due = interval(NOTE_INTERVAL);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut noted: BTreeMap<ClusterName, Arc<ClusterReport>> = BTreeMap::new();
    loop {
        tokio::select! {
            _ = due.tick() => {}
            () = shutdown.wait() => return,
        }
        let latest = mesh.borrow().clone();
        for (cluster, report) in &latest.clusters {
            if noted.get(cluster) == Some(report) {
                continue;
            }
            match note(&store, cluster, report).await {
                Ok(()) => drop(noted.insert(cluster.clone(), report.clone())),
                Err(error) => tracing::debug!(%cluster, error = chain(&error), "cannot note the report yet"),
            }
        }
    }
}

/// By which a report is kept and named.
pub(crate) fn report_hash(report: &ClusterReport) -> [u8; 32] {
    Sha256::digest(document(report).to_string()).into()
}

fn document(report: &ClusterReport) -> Value {
    serde_json::to_value(report).expect("invariant: a report has string keys and whole numbers")
}

async fn note(store: &Store, cluster: &ClusterName, report: &ClusterReport) -> Result<(), StoreError> {
    let noted = ReportedThen {
        cluster: cluster.to_string(),
        since: audit::now(),
        hash: report_hash(report).to_vec(),
        body: document(report),
    };
    let mut tx = store.begin_as(&Principal::System).await?;
    store.note_report(&mut tx, noted).await?;
    store::commit(tx).await
}
