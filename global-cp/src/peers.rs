//! The peers of this central: management above, and the edges below that were ever heard.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tombolo_compiler::name::ClusterName;

use crate::item::{Reported, Wanted};
use crate::peer::{LinkStatus, Peer};

/// How the admin port and the logs call the link upwards.
pub(crate) const MANAGEMENT: &str = "management";

#[derive(Debug)]
pub(crate) struct Peers {
    management: Arc<Peer<Wanted>>,
    edges: Mutex<BTreeMap<ClusterName, Arc<Peer<Reported>>>>,
}

impl Peers {
    pub(crate) fn new(management: Arc<Peer<Wanted>>) -> Self {
        Self {
            management,
            edges: Mutex::default(),
        }
    }

    pub(crate) fn management(&self) -> &Peer<Wanted> {
        &self.management
    }

    pub(crate) fn add(&self, cluster: ClusterName, edge: Arc<Peer<Reported>>) {
        self.lock().insert(cluster, edge);
    }

    pub(crate) fn edges(&self) -> Vec<(ClusterName, Arc<Peer<Reported>>)> {
        let edges = self.lock();
        edges
            .iter()
            .map(|(cluster, edge)| (cluster.clone(), edge.clone()))
            .collect()
    }

    pub(crate) fn edge(&self, cluster: &str) -> Option<Arc<Peer<Reported>>> {
        self.lock().get(cluster).cloned()
    }

    pub(crate) fn statuses(&self) -> Vec<LinkStatus> {
        let edges = self.edges();
        let edges = edges.iter().map(|(_, edge)| edge.status());
        std::iter::once(self.management.status()).chain(edges).collect()
    }

    /// Whether there is such a link and it takes the word.
    pub(crate) fn confirm_removals(&self, link: &str) -> bool {
        if link == MANAGEMENT {
            return self.management.confirm_removals();
        }
        self.edge(link).is_some_and(|edge| edge.confirm_removals())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ClusterName, Arc<Peer<Reported>>>> {
        // Each change is one insert, so a panic elsewhere cannot leave the map half-written.
        self.edges.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
