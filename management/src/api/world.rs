//! The mesh as a revision left it: the intent of all tenants, and what clusters reported then.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use tombolo_compiler::finding::Finding;
use tombolo_compiler::intent::Intent;
use tombolo_compiler::name::{ClusterName, Fqn, Kind};
use tombolo_compiler::report::{ClusterReport, Reports};
use tombolo_compiler::resolve::{Resolved, resolve};

use super::App;
use super::past::check_revision;
use crate::caller::Caller;
use crate::history::Difference;
use crate::problem::Problem;
use crate::report_history::report_hash;
use crate::snapshot::Tree;
use crate::store::Tx;
use crate::store::history::{HistoryFilter, Part};

/// Of what a revision has written, how much is told.
const WRITTEN_MAX: usize = 20;
/// More than any one transaction may hold.
const ENTRIES_MAX: u64 = 10_000;

pub(super) struct World {
    tx: Tx,
    revision: u64,
    pub(super) tree: Tree,
    pub(super) resolved: Resolved,
    pub(super) findings: Vec<Finding>,
    pub(super) reports: Reports,
    sources: BTreeMap<ClusterName, ReportSource>,
}

/// Where the report of a cluster came from with which a revision was compiled.
#[derive(Debug, PartialEq, Eq)]
struct ReportSource {
    /// `None`: it is what the cluster reports now.
    since: Option<DateTime<Utc>>,
    hash: Vec<u8>,
}

impl World {
    /// It holds what the caller may not read as well.
    pub(super) async fn at(app: &App, revision: u64) -> Result<World, Problem> {
        let mut tx = app.store.read_published().await?;
        check_revision(app, &mut tx, revision).await?;
        let tree = app.store.tree_at(&mut tx, Part::All, revision).await?;
        let joined = app.store.joined_at(&mut tx, revision).await?;
        let (clusters, sources) = reports(app, &mut tx, revision).await?;
        let joined = tree
            .values()
            .filter(|stored| stored.resource.kind() == Kind::Cluster && joined.contains(&stored.uid))
            .filter_map(|stored| stored.name().leaf().parse().ok())
            .collect();
        let intent: Intent = tree
            .iter()
            .map(|(name, stored)| (name.clone(), stored.resource.clone()))
            .collect();
        let (resolved, findings) = resolve(&intent);
        let reports = Reports {
            joined,
            clusters,
            ..Reports::default()
        };
        Ok(World {
            tx,
            revision,
            tree,
            resolved,
            findings,
            reports,
            sources,
        })
    }

    /// Of the clusters that may be read, and of those that are `shown` anyway.
    pub(super) fn sources(
        &self,
        organization: &Fqn,
        may_read: impl Fn(&Fqn) -> bool,
        shown: impl Fn(&ClusterName) -> bool,
    ) -> BTreeMap<&ClusterName, Value> {
        let readable = |cluster: &ClusterName| {
            let name: Result<Fqn, _> = format!("{organization}/clusters/{cluster}").parse();
            name.is_ok_and(|name| may_read(&name))
        };
        let sources = self.sources.iter();
        sources
            .filter(|(cluster, _)| self.resolved.clusters.contains_key(*cluster))
            .filter(|(cluster, _)| shown(cluster) || readable(cluster))
            .map(|(cluster, source)| (cluster, source.to_json()))
            .collect()
    }

    /// What the revision has done, by whom and when, as far as the caller may read it; `None` when that is nothing.
    pub(super) async fn written(&mut self, app: &App, caller: &Caller) -> Result<Option<Value>, Problem> {
        let filter = HistoryFilter {
            node: app.organization.clone(),
            below: true,
            since: self.revision,
            until: Some(self.revision),
            after: None,
        };
        let entries = app.store.list_history(&mut self.tx, &filter, ENTRIES_MAX).await?;
        let snapshot = app.writes.snapshot();
        let names: Vec<Fqn> = entries.iter().map(|entry| entry.name.clone()).collect();
        let part = Part::Names(&names);
        let before = app
            .store
            .tree_at(&mut self.tx, part, self.revision.saturating_sub(1))
            .await?;
        let may_read = |name: &Fqn| caller.may_read_past(&snapshot, &self.tree, name);
        let readable = entries.iter().filter(|entry| may_read(&entry.name));
        let changes: Vec<Value> = readable
            .take(WRITTEN_MAX)
            .map(|entry| {
                let difference = Difference {
                    name: entry.name.clone(),
                    before: before.get(&entry.name).cloned(),
                    after: entry.event.stored().cloned(),
                };
                difference.to_json()
            })
            .collect();
        let Some(first) = entries.first().filter(|_| !changes.is_empty()) else {
            return Ok(None);
        };
        Ok(Some(json!({
            "actor": first.actor,
            "time": first.time,
            "changesHidden": entries.len() - changes.len(),
            "changes": changes,
        })))
    }
}

/// What each cluster reported when the revision ended, or reports now while it is the latest. A cluster of which
/// nothing was kept then is taken as it is now.
async fn reports(
    app: &App,
    tx: &mut Tx,
    revision: u64,
) -> Result<
    (
        BTreeMap<ClusterName, Arc<ClusterReport>>,
        BTreeMap<ClusterName, ReportSource>,
    ),
    Problem,
> {
    let mut clusters = app.mesh.borrow().clusters.clone();
    let mut sources: BTreeMap<ClusterName, ReportSource> = clusters
        .iter()
        .map(|(cluster, report)| {
            let hash = report_hash(report).to_vec();
            (cluster.clone(), ReportSource { since: None, hash })
        })
        .collect();
    let Some(ended) = app.store.ended_at(tx, revision).await? else {
        return Ok((clusters, sources));
    };
    for then in app.store.reports_at(tx, ended).await? {
        let (Ok(cluster), Ok(report)) = (
            then.cluster.parse::<ClusterName>(),
            serde_json::from_value(then.body),
        ) else {
            tracing::warn!(
                cluster = then.cluster,
                "left out a stored report that cannot be read"
            );
            continue;
        };
        clusters.insert(cluster.clone(), report);
        let source = ReportSource {
            since: Some(then.since),
            hash: then.hash,
        };
        sources.insert(cluster, source);
    }
    Ok((clusters, sources))
}

impl ReportSource {
    fn to_json(&self) -> Value {
        let hash: String = self.hash.iter().map(|byte| format!("{byte:02x}")).collect();
        match self.since {
            Some(since) => json!({"source": "stored", "since": since, "hash": hash}),
            None => json!({"source": "present", "hash": hash}),
        }
    }
}
