//! Counters of the request path and of configuration, and their Prometheus text. Each worker writes its own counters,
//! without locked instructions; a scrape adds them up.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use crate::config::ResourceKind;
use crate::exchange::Flag;
use crate::otlp::Signal;
use crate::overload::Shared;
use crate::snapshot::Snapshot;
use crate::tcp::End;

mod exposition;
mod families;
mod quotas;
mod registry;

use exposition::Exposition;
use registry::{Keyed, Registry};

/// Upper bounds of the latency histogram, in microseconds: what a mesh hop takes, up to a common timeout.
const LATENCY_BOUNDS_US: [u64; 14] = [
    250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 5_000_000,
    15_000_000,
];

/// How often what is to be forgotten is looked for.
const FORGET_INTERVAL: Duration = Duration::from_secs(60);

/// What comes of a file that is read.
const LOAD_RESULTS: [&str; 2] = ["accepted", "rejected"];

/// What takes all series, one family after the other.
pub(crate) trait Sink {
    fn family(&mut self, name: &'static str, kind: Kind, help: &str);

    fn sample(&mut self, labels: &[(&str, &str)], value: u64);

    /// `counts` has one more for what is above the last bound.
    fn histogram(&mut self, labels: &[(&str, &str)], bounds_us: &[u64], counts: &[u64], sum_us: u64);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A number that one thread writes and others read.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

/// What one worker counts for one listener and one cluster.
#[derive(Debug, Default)]
pub(crate) struct RouteCounters {
    /// Responses by class, 1xx to 5xx.
    classes: [Counter; 5],
    latency: [Counter; LATENCY_BOUNDS_US.len() + 1],
    latency_sum_us: Counter,
    /// Requests that were given to the cluster.
    pub(crate) begun: Counter,
    /// Of bodies, from the client and to it.
    pub(crate) bytes_received: Counter,
    pub(crate) bytes_sent: Counter,
    /// Why requests went wrong.
    flags: [Counter; Flag::ALL.len()],
    pub(crate) retries: Counter,
    pub(crate) connect_failures: Counter,
    pub(crate) resets: Counter,
    pub(crate) per_try_timeouts: Counter,
    pub(crate) request_overflows: Counter,
    pub(crate) retry_overflows: Counter,
    pub(crate) pending_overflows: Counter,
    /// Refused by rules that are only tried.
    pub(crate) shadowed: Counter,
}

/// What one worker counts of connections that are passed on, for one listener and one cluster.
#[derive(Debug, Default)]
pub(crate) struct TcpCounters {
    ends: [Counter; End::ALL.len()],
    pub(crate) connect_failures: Counter,
    /// Bytes to hosts, and from them.
    pub(crate) sent: Counter,
    pub(crate) received: Counter,
}

/// What one worker counts for one listener.
#[derive(Debug, Default)]
pub(crate) struct ListenerCounters {
    pub(crate) opened: Counter,
    pub(crate) closed: Counter,
    /// Those that began with something else than they should, or with nothing.
    pub(crate) unfit: Counter,
    /// Those that no filter chain serves, or none yet.
    pub(crate) unserved: Counter,
    /// Those that were turned away for want of descriptors.
    pub(crate) overloaded: Counter,
}

/// What one worker counts for listeners and clusters that are too many to be told apart.
#[derive(Debug)]
pub(crate) struct LeftOut {
    pub(crate) routes: Arc<RouteCounters>,
    pub(crate) tcp: Arc<TcpCounters>,
    pub(crate) listeners: Arc<ListenerCounters>,
}

/// All counters of a process.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    routes: Registry<RouteKey, RouteCounters>,
    tcp: Registry<RouteKey, TcpCounters>,
    listeners: Registry<Arc<str>, ListenerCounters>,
    updates: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
    pub(crate) overload: OnceLock<Arc<Shared>>,
    file_loads: [AtomicU64; LOAD_RESULTS.len()],
    pub(crate) last_good_errors: AtomicU64,
    pub(crate) access_log_dropped: AtomicU64,
    spans: Exported,
    log_records: Exported,
    pub(crate) xds_connects: AtomicU64,
    /// 1 while a stream to the edge is open.
    pub(crate) xds_connected: AtomicU64,
}

/// What was to be sent to collectors.
#[derive(Debug, Default)]
struct Exported {
    sent: AtomicU64,
    dropped: AtomicU64,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct RouteKey {
    listener: Arc<str>,
    cluster: Arc<str>,
}

impl Counter {
    /// Only the owning thread may call this.
    pub(crate) fn add(&self, amount: u64) {
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_add(amount),
            Ordering::Relaxed,
        );
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl RouteCounters {
    pub(crate) fn request(&self, status: u16, took: Duration) {
        let class = usize::from(status / 100).clamp(1, 5) - 1;
        self.classes[class].add(1);
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = LATENCY_BOUNDS_US.partition_point(|bound| *bound < us);
        self.latency[bucket].add(1);
        self.latency_sum_us.add(us);
    }

    pub(crate) fn flag(&self, flag: Flag) {
        self.flags[flag as usize].add(1);
    }

    fn ended(&self) -> u64 {
        self.classes.iter().map(Counter::get).sum()
    }
}

impl TcpCounters {
    pub(crate) fn ended(&self, end: End) {
        self.ends[end as usize].add(1);
    }
}

impl Metrics {
    /// Counters for one worker, unless there are too many already.
    pub(crate) fn tcp(&self, listener: &Arc<str>, cluster: &Arc<str>) -> Option<Arc<TcpCounters>> {
        self.tcp.take(RouteKey {
            listener: Arc::clone(listener),
            cluster: Arc::clone(cluster),
        })
    }

    /// Counters for one worker, unless there are too many already.
    pub(crate) fn route(&self, listener: &Arc<str>, cluster: &Arc<str>) -> Option<Arc<RouteCounters>> {
        self.routes.take(RouteKey {
            listener: Arc::clone(listener),
            cluster: Arc::clone(cluster),
        })
    }

    /// Counters for one worker, unless there are too many already.
    pub(crate) fn listener(&self, listener: &Arc<str>) -> Option<Arc<ListenerCounters>> {
        self.listeners.take(Arc::clone(listener))
    }

    /// For one worker, counters of all for which it has none of their own.
    pub(crate) fn left_out(&self) -> LeftOut {
        LeftOut {
            routes: self.routes.take_left_out(),
            tcp: self.tcp.take_left_out(),
            listeners: self.listeners.take_left_out(),
        }
    }

    /// Forgets what counts for nothing any more, for as long as the process runs.
    pub(crate) async fn forget_unused(&self) {
        let mut often = tokio::time::interval(FORGET_INTERVAL);
        loop {
            let now = often.tick().await.into_std();
            self.routes.forget_unused(now);
            self.tcp.forget_unused(now);
            self.listeners.forget_unused(now);
        }
    }

    pub(crate) fn update(&self, kind: ResourceKind, result: &'static str) {
        let mut updates = self.updates.lock().unwrap_or_else(PoisonError::into_inner);
        *updates.entry((kind.word(), result)).or_default() += 1;
    }

    /// The file that says what runs was read.
    pub(crate) fn file_loaded(&self, is_taken: bool) {
        self.file_loads[usize::from(!is_taken)].fetch_add(1, Ordering::Relaxed);
    }

    /// So many spans or log records have come to their collector.
    pub(crate) fn export_sent(&self, signal: Signal, count: u64) {
        self.exported(signal).sent.fetch_add(count, Ordering::Relaxed);
    }

    /// So many have not.
    pub(crate) fn export_dropped(&self, signal: Signal, count: u64) {
        self.exported(signal).dropped.fetch_add(count, Ordering::Relaxed);
    }

    fn exported(&self, signal: Signal) -> &Exported {
        match signal {
            Signal::Traces => &self.spans,
            Signal::Logs => &self.log_records,
        }
    }

    /// Everything, as Prometheus text.
    pub(crate) fn render(&self, snapshot: &Snapshot) -> String {
        let mut out = Exposition::default();
        self.visit(snapshot, &mut out);
        out.text
    }
}

impl Keyed for RouteKey {
    fn left_out() -> Self {
        let name = <Arc<str>>::left_out();
        Self {
            listener: Arc::clone(&name),
            cluster: name,
        }
    }
}

impl Keyed for Arc<str> {
    fn left_out() -> Self {
        "left_out".into()
    }
}

impl RouteKey {
    fn labels(&self) -> [(&str, &str); 2] {
        [("listener", &self.listener), ("cluster", &self.cluster)]
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_added_up() {
        let metrics = Metrics::default();
        let (listener, cluster): (Arc<str>, Arc<str>) = ("in".into(), "a\"b".into());
        for _ in 0..2 {
            let counters = metrics.route(&listener, &cluster).unwrap();
            (0..3).for_each(|_| counters.begun.add(1));
            counters.flag(Flag::UpstreamTimeout);
            counters.bytes_sent.add(5);
            counters.request(200, Duration::from_micros(300));
            counters.request(503, Duration::from_secs(20));
        }
        let connections = metrics.listener(&listener).unwrap();
        connections.opened.add(3);
        connections.closed.add(1);
        metrics.update(ResourceKind::Cluster, "rejected");
        let text = metrics.render(&Snapshot::default());
        for line in [
            "tombolo_requests_total{listener=\"in\",cluster=\"a\\\"b\",code_class=\"2xx\"} 2",
            "tombolo_requests_total{listener=\"in\",cluster=\"a\\\"b\",code_class=\"5xx\"} 2",
            "tombolo_request_duration_seconds_bucket{listener=\"in\",cluster=\"a\\\"b\",le=\"0.00025\"} 0",
            "tombolo_request_duration_seconds_bucket{listener=\"in\",cluster=\"a\\\"b\",le=\"0.0005\"} 2",
            "tombolo_request_duration_seconds_bucket{listener=\"in\",cluster=\"a\\\"b\",le=\"+Inf\"} 4",
            "tombolo_request_duration_seconds_sum{listener=\"in\",cluster=\"a\\\"b\"} 40.0006",
            "tombolo_requests_active{listener=\"in\",cluster=\"a\\\"b\"} 2",
            "tombolo_response_bytes_total{listener=\"in\",cluster=\"a\\\"b\"} 10",
            "tombolo_requests_flagged_total{listener=\"in\",cluster=\"a\\\"b\",flag=\"UT\"} 2",
            "tombolo_connections_active{listener=\"in\"} 2",
            "tombolo_config_updates_total{kind=\"cluster\",result=\"rejected\"} 1",
            "tombolo_xds_connected 0",
        ] {
            assert!(
                text.lines().any(|shown| shown == line),
                "{line} is missing in\n{text}"
            );
        }
    }
}
