//! Quotas (docs/adr/0011): limits over all proxies, of which a service assigns each one a part for a time. Requests are judged by
//! what was assigned last and wait for nobody; a task of the main runtime tells the service what was used, and takes what it says.
//! What a filter says of them is `filter::RateLimitQuota`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::task::AbortHandle;
use tonic::transport::Endpoint;

use crate::filter::Rate;
use crate::grpc_call::Callee;
use crate::snapshot::Snapshot;

mod bucket;
mod buckets;
mod life;
mod stream;

pub(crate) use bucket::{Bucket, BucketId};
pub(crate) use buckets::{Buckets, KEY_BYTES_MAX, Key};

/// The cluster by which a filter means the edge that its configuration comes from, as the bootstrap of an Envoy calls it.
const EDGE: &str = "xds";

/// What requests of a bucket are held to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Strategy {
    #[default]
    AllowAll,
    DenyAll,
    Rate(Rate),
}

/// By what buckets are kept. Those of the same terms are one, wherever they are said, and have one stream.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Terms {
    pub(crate) callee: Callee,
    pub(crate) domain: Box<str>,
    /// How often the service is told.
    pub(crate) interval: Duration,
    /// What holds until anything is assigned.
    pub(crate) unassigned: Strategy,
    pub(crate) expired: Expired,
}

/// What holds when an assignment is over and there is no other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Expired {
    /// The same, as long once more.
    #[default]
    OnceMore,
    /// The same, for so long.
    Reuse(Duration),
    Fallback(Strategy, Duration),
}

/// What a service says of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Assign {
        strategy: Strategy,
        /// For ever without one.
        lasts: Option<Duration>,
    },
    /// It has nothing more to do with it.
    Abandon,
}

/// How the stream of some buckets fares; its task writes it.
#[derive(Debug, Default)]
pub(crate) struct Fares {
    state: AtomicU8,
    failures: AtomicU64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum StreamState {
    /// Nobody has wanted it, or it has not been answered yet.
    #[default]
    Unknown,
    /// The service has said something on it.
    Up,
    /// It has ended, or could not be opened, and there is no other yet.
    Down,
}

/// Those that the listeners have, one task for each terms.
pub(crate) struct Quotas {
    current: Arc<ArcSwap<Snapshot>>,
    edge: Option<Endpoint>,
    /// There are few.
    running: Vec<Running>,
}

struct Running {
    buckets: Arc<Buckets>,
    task: AbortHandle,
}

/// Where the service is.
enum Service {
    /// At a host of the cluster that the terms name.
    Cluster(Arc<ArcSwap<Snapshot>>),
    /// Beside what says the configuration.
    Edge(Box<Endpoint>),
}

impl Quotas {
    /// Without an edge where a file says what runs.
    pub(crate) fn new(current: Arc<ArcSwap<Snapshot>>, edge: Option<Endpoint>) -> Self {
        Self {
            current,
            edge,
            running: Vec::new(),
        }
    }

    /// Has the filters of `snapshot` know their buckets, before any request comes to them.
    pub(crate) fn attach(&mut self, snapshot: &Snapshot) {
        for filter in snapshot.quotas() {
            filter.attach(|terms| self.buckets(terms));
        }
    }

    fn buckets(&mut self, terms: Terms) -> Arc<Buckets> {
        let mut held = self.running.iter().map(|running| &running.buckets);
        if let Some(held) = held.find(|held| *held.terms() == terms) {
            return Arc::clone(held);
        }
        let edge = self.edge.clone().filter(|_| *terms.callee.cluster == *EDGE);
        let service = match edge {
            Some(edge) => Service::Edge(Box::new(edge)),
            None => Service::Cluster(Arc::clone(&self.current)),
        };
        let buckets = Arc::new(Buckets::new(terms));
        let run = stream::run(Arc::clone(&buckets), service);
        let task = tokio::spawn(run).abort_handle();
        self.running.push(Running {
            buckets: Arc::clone(&buckets),
            task,
        });
        buckets
    }

    /// Ends what no listener wants any more.
    pub(crate) fn let_go(&mut self) {
        // Ours, and the task's.
        self.running
            .retain(|running| Arc::strong_count(&running.buckets) > 2);
    }
}

impl Fares {
    fn is(&self, state: StreamState) {
        self.state.store(state as u8, Ordering::Relaxed);
    }

    fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        self.is(StreamState::Down);
    }

    pub(crate) fn state(&self) -> StreamState {
        let states = [StreamState::Unknown, StreamState::Up, StreamState::Down];
        states[usize::from(self.state.load(Ordering::Relaxed))]
    }

    /// How often it has ended, or could not be opened.
    pub(crate) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}
