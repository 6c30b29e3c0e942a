//! What management counts.

use std::time::Duration;

use axum::http::Method;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use tombolo_runtime::admin::Metrics;

use crate::break_glass::BreakGlassMetrics;

/// Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct ApiMetrics {
    registry: Metrics,
    requests: Family<RequestLabels, Counter>,
    seconds: Histogram,
    in_flight: Gauge,
    break_glass: BreakGlassMetrics,
    pub(crate) revision: Gauge,
}

/// One of those that a gauge counts, for as long as it lives.
#[derive(Debug)]
pub(crate) struct Counted(Gauge);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    status: u16,
}

impl Counted {
    pub(crate) fn by(gauge: &Gauge) -> Counted {
        gauge.inc();
        Counted(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl ApiMetrics {
    pub(crate) fn register(
        registry: &Metrics,
        denials_dropped: Counter,
        behind: Gauge,
        computations_waiting: Gauge,
    ) -> ApiMetrics {
        let metrics = ApiMetrics {
            registry: registry.clone(),
            requests: Family::default(),
            // From half a millisecond to about two seconds.
            seconds: Histogram::new(exponential_buckets(0.0005, 2.0, 13)),
            in_flight: Gauge::default(),
            break_glass: BreakGlassMetrics::default(),
            revision: Gauge::default(),
        };
        registry.register(|registry| {
            let registry = registry.sub_registry_with_prefix("tombolo_management");
            registry.register(
                "requests",
                "Requests by method and status",
                metrics.requests.clone(),
            );
            registry.register(
                "request_seconds",
                "How long requests took to answer",
                metrics.seconds.clone(),
            );
            registry.register(
                "requests_in_flight",
                "Requests under way",
                metrics.in_flight.clone(),
            );
            registry.register("revision", "The latest revision held", metrics.revision.clone());
            registry.register(
                "database_behind",
                "1 while writes are refused because the database is behind what a central holds",
                behind,
            );
            registry.register(
                "denials_dropped",
                "Denials that were too many to be recorded",
                denials_dropped,
            );
            registry.register(
                "computations_waiting",
                "Requests that wait for a turn to compute something over the whole organization",
                computations_waiting,
            );
        });
        metrics.break_glass.register(registry);
        metrics
    }

    pub(crate) fn break_glass(&self) -> &BreakGlassMetrics {
        &self.break_glass
    }

    pub(crate) fn registry(&self) -> &Metrics {
        &self.registry
    }

    /// Counts a request as under way for as long as the guard lives; a caller that hangs up drops it too.
    pub(crate) fn begin(&self) -> Counted {
        Counted::by(&self.in_flight)
    }

    pub(crate) fn request(&self, method: &Method, status: u16, elapsed: Duration) {
        // Only methods that are served have a series of their own: callers do not choose labels.
        let method = match *method {
            Method::GET => "GET",
            Method::POST => "POST",
            Method::PUT => "PUT",
            Method::DELETE => "DELETE",
            _ => "other",
        };
        self.requests
            .get_or_create(&RequestLabels { method, status })
            .inc();
        self.seconds.observe(elapsed.as_secs_f64());
    }
}
