//! How the streams of quota services fare: what they assigned goes on for its time, so that requests do not tell.

use std::collections::BTreeMap;
use std::ptr;
use std::sync::Arc;

use super::{Kind, Sink};
use crate::quota::{Buckets, StreamState};
use crate::snapshot::Snapshot;

/// Services and domains of which there are series. A configuration has a few.
const SERVICES_MAX: usize = 1000;

/// Of one service and domain, which has a stream for each interval and behaviour.
#[derive(Default)]
struct Streams {
    up: u64,
    down: u64,
    failures: u64,
}

pub(super) fn render(out: &mut impl Sink, snapshot: &Snapshot) {
    let all = snapshot.quotas().filter_map(|quota| quota.buckets());
    // Filters of the same terms have the same.
    let all: BTreeMap<*const Buckets, &Arc<Buckets>> = all.map(|all| (ptr::from_ref(&**all), all)).collect();
    let mut services: BTreeMap<(&str, &str), Streams> = BTreeMap::new();
    for buckets in all.values() {
        let terms = buckets.terms();
        let streams = services
            .entry((&terms.callee.cluster, &terms.domain))
            .or_default();
        streams.failures += buckets.fares.failures();
        match buckets.fares.state() {
            StreamState::Unknown => {}
            StreamState::Up => streams.up += 1,
            StreamState::Down => streams.down += 1,
        }
    }
    out.family(
        "tombolo_quota_streams",
        Kind::Gauge,
        "Streams of quota services: up while the service says something on them, down when they have ended or cannot be opened",
    );
    for ((cluster, domain), streams) in services.iter().take(SERVICES_MAX) {
        for (state, value) in [("up", streams.up), ("down", streams.down)] {
            out.sample(
                &[("cluster", cluster), ("domain", domain), ("state", state)],
                value,
            );
        }
    }
    out.family(
        "tombolo_quota_stream_failures_total",
        Kind::Counter,
        "Times that a stream of a quota service has ended, or could not be opened",
    );
    for ((cluster, domain), streams) in services.iter().take(SERVICES_MAX) {
        out.sample(&[("cluster", cluster), ("domain", domain)], streams.failures);
    }
}
