//! A snapshot's clusters, joined with this worker's connections. A cluster is joined when the worker first has a request for it, so
//! that an update costs a worker what it uses of what the update changes.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use foldhash::HashMap;

use super::WorkerCluster;
use super::handover::Addresses;
use crate::breaker::Share;
use crate::pool::HostPool;
use crate::snapshot::{Difference, LiveCluster, LiveHost, Snapshot};

/// So much is let go at once: a host may have hundreds of connections, to close each takes microseconds, and requests wait meanwhile.
const LET_GO_AT_ONCE: usize = 8;

pub(crate) struct View {
    /// The worker's place among the workers.
    worker: usize,
    pub(super) snapshot: RefCell<Arc<Snapshot>>,
    /// Those that were asked for, as the snapshot has them.
    clusters: RefCell<HashMap<Arc<str>, Rc<WorkerCluster>>>,
    /// Of the snapshot's listeners, once it was asked for.
    pub(super) addresses: RefCell<Option<Addresses>>,
    /// By their hosts' ids.
    pools: RefCell<HashMap<u64, Rc<HostPool>>>,
}

/// What a worker uses no more.
#[derive(Default)]
pub(crate) struct Left {
    clusters: Vec<Rc<WorkerCluster>>,
    pools: Vec<Rc<HostPool>>,
}

impl View {
    pub(crate) fn new(worker: usize) -> Self {
        Self {
            worker,
            snapshot: RefCell::default(),
            clusters: RefCell::default(),
            addresses: RefCell::default(),
            pools: RefCell::default(),
        }
    }

    pub(crate) fn cluster(&self, name: &str) -> Option<Rc<WorkerCluster>> {
        let joined = self.clusters.borrow().get(name).map(Rc::clone);
        joined.or_else(|| self.join(name))
    }

    pub(super) fn joined(&self) -> impl Iterator<Item = Rc<WorkerCluster>> {
        let joined: Vec<_> = self.clusters.borrow().values().map(Rc::clone).collect();
        joined.into_iter()
    }

    pub(super) fn pool(&self, host: u64) -> Option<Rc<HostPool>> {
        self.pools.borrow().get(&host).map(Rc::clone)
    }

    pub(crate) fn pools(&self) -> impl Iterator<Item = Rc<HostPool>> {
        let pools: Vec<_> = self.pools.borrow().values().map(Rc::clone).collect();
        pools.into_iter()
    }

    /// Runs `snapshot`, and returns what it has no use for. Whoever sent it holds the one before, so that this is not who drops it.
    pub(crate) fn apply(&self, snapshot: &Arc<Snapshot>, difference: &Difference) -> Left {
        *self.snapshot.borrow_mut() = Arc::clone(snapshot);
        *self.addresses.borrow_mut() = None;
        let (mut clusters, mut pools) = (self.clusters.borrow_mut(), self.pools.borrow_mut());
        let names = difference.changed.iter().chain(&difference.removed);
        Left {
            clusters: names.filter_map(|name| clusters.remove(name)).collect(),
            pools: difference
                .hosts
                .iter()
                .filter_map(|host| pools.remove(host))
                .collect(),
        }
    }

    fn join(&self, name: &str) -> Option<Rc<WorkerCluster>> {
        let live = Arc::clone(self.snapshot.borrow().clusters.get(name)?);
        let pools = live.hosts.iter().map(|host| self.pool_of(&live, host)).collect();
        let joined = Rc::new(WorkerCluster::new(Arc::clone(&live), pools, self.worker));
        let mut clusters = self.clusters.borrow_mut();
        clusters.insert(Arc::clone(&live.name), Rc::clone(&joined));
        Some(joined)
    }

    fn pool_of(&self, cluster: &LiveCluster, host: &LiveHost) -> Rc<HostPool> {
        let mut pools = self.pools.borrow_mut();
        let new = || HostPool::new(Arc::clone(&host.host), Share::new(&cluster.load, self.worker));
        Rc::clone(pools.entry(host.host.id).or_insert_with(new))
    }
}

impl Left {
    /// Drops all of it, a part at a time, with requests in between.
    pub(super) fn let_go(mut self) {
        let is_little = self.clusters.len() + self.pools.len() <= LET_GO_AT_ONCE;
        if is_little {
            return;
        }
        tokio::task::spawn_local(async move {
            // Clusters first: they hold pools.
            while !(self.clusters.is_empty() && self.pools.is_empty()) {
                drop(last(&mut self.clusters));
                drop(last(&mut self.pools));
                tokio::task::yield_now().await;
            }
        });
    }
}

fn last<T>(all: &mut Vec<T>) -> Vec<T> {
    let left = all.len().saturating_sub(LET_GO_AT_ONCE);
    all.split_off(left)
}
