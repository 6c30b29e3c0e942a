//! What the proxy says about itself: readiness, what it holds and has acknowledged, what it refused. Written by the
//! configuration loop, read by the admin port.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use serde::Serialize;
use tokio::sync::watch;

use crate::config::ResourceKind;
use crate::decode::{Resources, Update};
use crate::metrics::Metrics;
use crate::snapshot::{LiveListener, Snapshot};

pub(crate) struct Status {
    pub(crate) snapshot: Arc<ArcSwap<Snapshot>>,
    pub(crate) metrics: Arc<Metrics>,
    configured: AtomicBool,
    draining: AtomicBool,
    relieved: watch::Sender<bool>,
    resources: ArcSwap<Resources>,
    /// Applied, and waiting to be warm before they are acknowledged.
    pending: Mutex<BTreeSet<(ResourceKind, String)>>,
    /// The last refusal of each type of resource, until an update of it is accepted.
    rejected: Mutex<BTreeMap<String, String>>,
}

/// What `/config_dump` shows.
#[derive(Debug, Serialize)]
pub(crate) struct ConfigDump {
    connected: bool,
    resources: Vec<DumpedResource>,
    rejected: BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
struct DumpedResource {
    kind: &'static str,
    type_url: &'static str,
    name: String,
    version: String,
    acknowledged: bool,
}

/// What `/hosts` shows of one host.
#[derive(Debug, Serialize)]
pub(crate) struct DumpedHost {
    address: String,
    health: &'static str,
    priority: usize,
    weight: u32,
    eligible: bool,
    /// Left out as an outlier.
    ejected: bool,
}

impl Status {
    pub(crate) fn new(snapshot: Arc<ArcSwap<Snapshot>>, metrics: Arc<Metrics>) -> Self {
        Self {
            snapshot,
            metrics,
            configured: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            relieved: watch::channel(false).0,
            resources: ArcSwap::default(),
            pending: Mutex::default(),
            rejected: Mutex::default(),
        }
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.configured.load(Ordering::Relaxed) && !self.draining.load(Ordering::Relaxed)
    }

    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Another process serves in place of this one, which has to say nothing any more.
    pub(crate) fn relieve(&self) {
        self.relieved.send_replace(true);
    }

    pub(crate) fn is_relieved(&self) -> bool {
        *self.relieved.borrow()
    }

    /// Ready once it is.
    pub(crate) async fn relieved(&self) {
        // The sender is here as well.
        let _ = self.relieved.subscribe().wait_for(|relieved| *relieved).await;
    }

    /// These resources run now.
    pub(crate) fn run(&self, resources: Arc<Resources>) {
        self.resources.store(resources);
    }

    pub(crate) fn resources(&self) -> Arc<Resources> {
        self.resources.load_full()
    }

    /// The proxy is ready once every listener it was told of runs, even if it was told of none.
    pub(crate) fn listeners_known(&self) {
        let (resources, snapshot) = (self.resources.load(), self.snapshot.load());
        if resources
            .config()
            .listeners
            .names()
            .all(|name| snapshot.listeners.contains_key(name))
        {
            self.configured.store(true, Ordering::Relaxed);
        }
    }

    /// A listener that serves what nobody could who began with what is known now: its routes or secrets have not come since it was
    /// changed, or are gone.
    pub(crate) fn unrepeatable(&self) -> Option<Arc<str>> {
        let (resources, snapshot) = (self.resources.load(), self.snapshot.load());
        let config = resources.config();
        let is_unrepeatable = |(name, live): &(&Arc<str>, &Arc<LiveListener>)| {
            let wanted = config.listeners.get(name);
            wanted.is_some_and(|wanted| !live.is_repeatable(wanted, config))
        };
        let found = snapshot.listeners.iter().find(is_unrepeatable);
        found.map(|(name, _)| Arc::clone(name))
    }

    pub(crate) fn applied(&self, type_url: &str, update: &Update) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.extend(
            update
                .resources
                .iter()
                .map(|(name, _)| (update.kind, name.clone())),
        );
        drop(pending);
        self.accepted(type_url);
    }

    /// What was refused of it is so no more.
    pub(crate) fn accepted(&self, what: &str) {
        self.rejected
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(what);
    }

    pub(crate) fn acknowledged(&self, update: &Update) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, _) in &update.resources {
            pending.remove(&(update.kind, name.clone()));
        }
    }

    pub(crate) fn rejected(&self, type_url: &str, message: String) {
        self.rejected
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(type_url.to_owned(), message);
    }

    pub(crate) fn config_dump(&self) -> ConfigDump {
        let held = self.resources.load();
        let pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let mut resources = Vec::new();
        for kind in ResourceKind::ALL {
            resources.extend(held.held(kind).map(|(name, raw)| DumpedResource {
                kind: kind.word(),
                type_url: kind.type_url(),
                name: name.to_string(),
                version: raw.version.clone(),
                acknowledged: !pending.contains(&(kind, name.to_string())),
            }));
        }
        ConfigDump {
            connected: self.metrics.xds_connected.load(Ordering::Relaxed) == 1,
            resources,
            rejected: self
                .rejected
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
        }
    }

    pub(crate) fn hosts(&self) -> BTreeMap<Arc<str>, Vec<DumpedHost>> {
        let snapshot = self.snapshot.load();
        let dumped = |cluster: &crate::snapshot::LiveCluster| {
            let hosts = cluster.hosts.iter().map(|live| DumpedHost {
                address: live.host.address.to_string(),
                health: live.host.health().word(),
                priority: live.endpoint.priority,
                weight: live.endpoint.weight,
                eligible: live.endpoint.eligible,
                ejected: live.host.is_ejected(),
            });
            hosts.collect()
        };
        snapshot
            .clusters
            .iter()
            .map(|(name, cluster)| (Arc::clone(name), dumped(cluster)))
            .collect()
    }
}
