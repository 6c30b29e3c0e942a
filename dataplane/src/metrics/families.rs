//! What there is to tell of everything that is counted, family by family.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::{
    Kind, LATENCY_BOUNDS_US, LOAD_RESULTS, ListenerCounters, Metrics, RouteCounters, Sink, TcpCounters,
    quotas,
};
use crate::exchange::Flag;
use crate::snapshot::{Health, Snapshot};
use crate::tcp::End;

/// Hosts, and clusters with outliers, of which there are series; the rest is counted.
const HOSTS_MAX: usize = 10_000;

/// Name, kind and meaning of a family with one number for each listener and cluster.
type PerRoute = (&'static str, Kind, &'static str, fn(&RouteCounters) -> u64);

impl Metrics {
    const PER_ROUTE: [PerRoute; 8] = [
        (
            "tombolo_shadow_denied_total",
            Kind::Counter,
            "Requests that the shadow rules of an authorization would have refused",
            |counters| counters.shadowed.get(),
        ),
        (
            "tombolo_requests_active",
            Kind::Gauge,
            "Requests that have come to a cluster and are not answered to the end",
            // What has ended is read first, so that a request that comes and goes meanwhile cannot make this negative.
            |counters| {
                let ended = counters.ended();
                counters.begun.get().saturating_sub(ended)
            },
        ),
        (
            "tombolo_request_bytes_total",
            Kind::Counter,
            "Bytes of bodies from clients, of requests that have ended",
            |counters| counters.bytes_received.get(),
        ),
        (
            "tombolo_response_bytes_total",
            Kind::Counter,
            "Bytes of bodies to clients, of requests that have ended",
            |counters| counters.bytes_sent.get(),
        ),
        (
            "tombolo_upstream_connect_failures_total",
            Kind::Counter,
            "Connections to hosts that failed",
            |counters| counters.connect_failures.get(),
        ),
        (
            "tombolo_upstream_resets_total",
            Kind::Counter,
            "Attempts that hosts refused or broke off",
            |counters| counters.resets.get(),
        ),
        (
            "tombolo_upstream_per_try_timeouts_total",
            Kind::Counter,
            "Attempts that took longer than one may",
            |counters| counters.per_try_timeouts.get(),
        ),
        (
            "tombolo_retries_total",
            Kind::Counter,
            "Attempts after the first",
            |counters| counters.retries.get(),
        ),
    ];

    /// Tells everything to `out`.
    pub(crate) fn visit(&self, snapshot: &Snapshot, out: &mut impl Sink) {
        self.render_routes(out);
        self.render_tcp(out);
        self.render_listeners(out);
        self.render_hosts(out, snapshot);
        quotas::render(out, snapshot);
        self.render_overload(out);
        self.render_process(out);
    }

    fn render_overload(&self, out: &mut impl Sink) {
        let Some(shared) = self.overload.get() else {
            return;
        };
        let figures = shared.figures();
        out.family(
            "tombolo_overload_active",
            Kind::Gauge,
            "1 while the proxy does this for running short of memory",
        );
        for (action, is_active) in [
            ("stop_accepting_requests", figures.sheds_requests),
            ("stop_accepting_connections", figures.accepts_nobody),
        ] {
            out.sample(&[("action", action)], u64::from(is_active));
        }
        for (name, help, value) in [
            (
                "tombolo_connections_max",
                "Connections of clients that there may be, by the limit of file descriptors",
                figures.connections_max,
            ),
            (
                "tombolo_memory_bytes",
                "Resident memory of the process",
                figures.memory_bytes,
            ),
            (
                "tombolo_memory_limit_bytes",
                "What there may be of it (--memory-limit); 0 without a limit",
                figures.memory_limit_bytes,
            ),
            (
                "tombolo_cgroup_memory_bytes",
                "Memory of all that is in the process's cgroup, without cache of files; 0 without a limit",
                figures.group_memory_bytes,
            ),
            (
                "tombolo_cgroup_memory_limit_bytes",
                "What that may become before the limit of the cgroup, or of one above it, is reached; 0 without a limit",
                figures.group_memory_limit_bytes,
            ),
        ] {
            out.family(name, Kind::Gauge, help);
            out.sample(&[], value);
        }
    }

    fn render_routes(&self, out: &mut impl Sink) {
        let by_key = self.routes.all();
        let sum = |all: &[Arc<RouteCounters>], read: &dyn Fn(&RouteCounters) -> u64| -> u64 {
            all.iter().map(|counters| read(counters)).sum()
        };
        out.family(
            "tombolo_requests_total",
            Kind::Counter,
            "Requests answered, by class of the status",
        );
        for (key, all) in &by_key {
            for class in 0..5 {
                let value = sum(all, &|counters| counters.classes[class].get());
                if value > 0 {
                    out.sample(
                        &[&key.labels()[..], &[("code_class", &format!("{}xx", class + 1))]].concat(),
                        value,
                    );
                }
            }
        }
        for (name, kind, help, read) in Self::PER_ROUTE {
            out.family(name, kind, help);
            for (key, all) in &by_key {
                out.sample(&key.labels(), sum(all, &read));
            }
        }
        out.family(
            "tombolo_requests_flagged_total",
            Kind::Counter,
            "Requests that went wrong, by Envoy's word for why; some have two",
        );
        for (key, all) in &by_key {
            for flag in Flag::ALL {
                let value = sum(all, &|counters| counters.flags[flag as usize].get());
                if value > 0 {
                    out.sample(&[&key.labels()[..], &[("flag", flag.word())]].concat(), value);
                }
            }
        }
        out.family(
            "tombolo_overflows_total",
            Kind::Counter,
            "Requests and retries that were not sent because their cluster had as many as it takes",
        );
        for (key, all) in &by_key {
            let requests = sum(all, &|counters| counters.request_overflows.get());
            let retries = sum(all, &|counters| counters.retry_overflows.get());
            let pending = sum(all, &|counters| counters.pending_overflows.get());
            for (what, value) in [("request", requests), ("retry", retries), ("pending", pending)] {
                out.sample(&[&key.labels()[..], &[("what", what)]].concat(), value);
            }
        }
        out.family(
            "tombolo_request_duration_seconds",
            Kind::Histogram,
            "From the head of the request to the end of the response",
        );
        for (key, all) in &by_key {
            let counts: [u64; LATENCY_BOUNDS_US.len() + 1] =
                std::array::from_fn(|bucket| sum(all, &|counters| counters.latency[bucket].get()));
            let sum_us = sum(all, &|counters| counters.latency_sum_us.get());
            out.histogram(&key.labels(), &LATENCY_BOUNDS_US, &counts, sum_us);
        }
    }

    fn render_tcp(&self, out: &mut impl Sink) {
        let by_key = self.tcp.all();
        let sum = |all: &[Arc<TcpCounters>], read: &dyn Fn(&TcpCounters) -> u64| -> u64 {
            all.iter().map(|counters| read(counters)).sum()
        };
        out.family(
            "tombolo_tcp_connections_total",
            Kind::Counter,
            "Connections that were passed on and have ended, by why they did",
        );
        for (key, all) in &by_key {
            for end in End::ALL {
                let value = sum(all, &|counters| counters.ends[end as usize].get());
                if value > 0 {
                    out.sample(&[&key.labels()[..], &[("flags", end.word())]].concat(), value);
                }
            }
        }
        out.family(
            "tombolo_tcp_connect_failures_total",
            Kind::Counter,
            "Connections to hosts that failed, of those that are passed on",
        );
        for (key, all) in &by_key {
            out.sample(
                &key.labels(),
                sum(all, &|counters| counters.connect_failures.get()),
            );
        }
        out.family(
            "tombolo_tcp_bytes_total",
            Kind::Counter,
            "Bytes of connections that are passed on, to hosts and from them",
        );
        for (key, all) in &by_key {
            let sent = sum(all, &|counters| counters.sent.get());
            let received = sum(all, &|counters| counters.received.get());
            for (direction, value) in [("sent", sent), ("received", received)] {
                out.sample(&[&key.labels()[..], &[("direction", direction)]].concat(), value);
            }
        }
    }

    fn render_listeners(&self, out: &mut impl Sink) {
        let sums = |all: &[Arc<ListenerCounters>]| {
            // Closed is read first, so that a connection that comes and goes meanwhile cannot make this negative.
            let closed: u64 = all.iter().map(|counters| counters.closed.get()).sum();
            let opened: u64 = all.iter().map(|counters| counters.opened.get()).sum();
            (opened, closed)
        };
        let refusals = |all: &[Arc<ListenerCounters>]| {
            let unfit: u64 = all.iter().map(|counters| counters.unfit.get()).sum();
            let unserved: u64 = all.iter().map(|counters| counters.unserved.get()).sum();
            let overloaded: u64 = all.iter().map(|counters| counters.overloaded.get()).sum();
            [
                ("handshake", unfit),
                ("no_filter_chain", unserved),
                ("overload", overloaded),
            ]
        };
        let all = self.listeners.all();
        let active: BTreeMap<&Arc<str>, (u64, u64)> =
            all.iter().map(|(name, all)| (name, sums(all))).collect();
        let refused: BTreeMap<&Arc<str>, [(&str, u64); 3]> =
            all.iter().map(|(name, all)| (name, refusals(all))).collect();
        out.family("tombolo_connections_total", Kind::Counter, "Connections accepted");
        for (name, (opened, _)) in &active {
            out.sample(&[("listener", name)], *opened);
        }
        out.family(
            "tombolo_connections_active",
            Kind::Gauge,
            "Connections that are open",
        );
        for (name, (opened, closed)) in &active {
            out.sample(&[("listener", name)], opened.saturating_sub(*closed));
        }
        out.family(
            "tombolo_connections_refused_total",
            Kind::Counter,
            "Connections closed because of what they began with, for want of a filter chain, or of descriptors",
        );
        for (name, refused) in &refused {
            for (why, value) in refused {
                out.sample(&[("listener", name), ("why", why)], *value);
            }
        }
    }

    fn render_hosts(&self, out: &mut impl Sink, snapshot: &Snapshot) {
        out.family(
            "tombolo_host_healthy",
            Kind::Gauge,
            "1 when the host's checks pass, or it needs none",
        );
        let hosts: BTreeMap<_, _> = snapshot
            .hosts()
            .take(HOSTS_MAX)
            .map(|live| ((&live.host.cluster, live.host.address), live.host.health()))
            .collect();
        for ((cluster, address), health) in hosts {
            let labels = [("cluster", &**cluster), ("host", &address.to_string())];
            out.sample(&labels, u64::from(health == Health::Healthy));
        }
        out.family(
            "tombolo_hosts_left_out",
            Kind::Gauge,
            "Hosts of which there is no series, since there are too many",
        );
        out.sample(&[], snapshot.hosts().count().saturating_sub(HOSTS_MAX) as u64);
        Self::render_ejections(out, snapshot);
    }

    fn render_ejections(out: &mut impl Sink, snapshot: &Snapshot) {
        let watched: BTreeMap<_, _> = snapshot
            .clusters
            .iter()
            .filter_map(|(name, cluster)| Some((name, (cluster, cluster.ejections.as_ref()?))))
            .take(HOSTS_MAX)
            .collect();
        out.family(
            "tombolo_ejections_total",
            Kind::Counter,
            "Outliers that were left out, by why; not_ejected are those that would have been too many",
        );
        for (name, (_, ejections)) in &watched {
            for (why, count) in ejections.counts() {
                out.sample(&[("cluster", name), ("why", why)], count);
            }
        }
        out.family(
            "tombolo_hosts_ejected",
            Kind::Gauge,
            "Hosts that are left out as outliers",
        );
        for (name, (cluster, _)) in &watched {
            let ejected = cluster.hosts.iter().filter(|live| live.host.is_ejected());
            out.sample(&[("cluster", name)], ejected.count() as u64);
        }
    }

    fn render_process(&self, out: &mut impl Sink) {
        out.family(
            "tombolo_config_updates_total",
            Kind::Counter,
            "Updates from the edge",
        );
        for ((kind, result), count) in self.updates.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            out.sample(&[("kind", kind), ("result", result)], *count);
        }
        out.family(
            "tombolo_config_file_loads_total",
            Kind::Counter,
            "Times the file of --config was read, by whether it runs",
        );
        for (result, count) in LOAD_RESULTS.iter().zip(&self.file_loads) {
            out.sample(&[("result", result)], count.load(Ordering::Relaxed));
        }
        let single = [
            (
                "tombolo_xds_connected",
                Kind::Gauge,
                "1 while a stream to the edge is open",
                &self.xds_connected,
            ),
            (
                "tombolo_xds_connects_total",
                Kind::Counter,
                "Streams opened to the edge",
                &self.xds_connects,
            ),
            (
                "tombolo_last_good_errors_total",
                Kind::Counter,
                "Last-good configurations that could not be read or written",
                &self.last_good_errors,
            ),
            (
                "tombolo_access_log_dropped_total",
                Kind::Counter,
                "Access log lines dropped because the writer was behind",
                &self.access_log_dropped,
            ),
            (
                "tombolo_spans_sent_total",
                Kind::Counter,
                "Spans that a collector has taken",
                &self.spans.sent,
            ),
            (
                "tombolo_spans_dropped_total",
                Kind::Counter,
                "Spans dropped because a collector was behind, or did not take them",
                &self.spans.dropped,
            ),
            (
                "tombolo_log_records_sent_total",
                Kind::Counter,
                "Records of access logs that a collector has taken",
                &self.log_records.sent,
            ),
            (
                "tombolo_log_records_dropped_total",
                Kind::Counter,
                "Records of access logs dropped because a collector was behind, or did not take them",
                &self.log_records.dropped,
            ),
        ];
        for (name, kind, help, value) in single {
            out.family(name, kind, help);
            out.sample(&[], value.load(Ordering::Relaxed));
        }
        out.family(
            "tombolo_series_left_out_total",
            Kind::Counter,
            "Listeners and clusters that came to a worker when there were too many, and are counted as left_out",
        );
        for (what, count) in [
            ("requests", self.routes.left_out()),
            ("tcp", self.tcp.left_out()),
            ("connections", self.listeners.left_out()),
        ] {
            out.sample(&[("what", what)], count);
        }
    }
}
