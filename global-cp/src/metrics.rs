//! What central counts.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use tombolo_proto::held::Version;
use tombolo_runtime::admin::Metrics;

type Labels = [(&'static str, String); 1];

#[derive(Clone, Debug)]
pub(crate) struct CentralMetrics {
    epoch: Gauge,
    revision: Gauge,
    pub(crate) plan_seconds: Histogram,
    pub(crate) plan_keys: Counter,
    pub(crate) save_failures: Counter,
    up: Family<Labels, Gauge>,
    alarm: Family<Labels, Gauge>,
    alarms: Family<Labels, Counter>,
    braked: Family<Labels, Gauge>,
    refused: Family<Labels, Counter>,
}

/// The metrics of one link, `management` or a cluster's name.
#[derive(Clone, Debug)]
pub(crate) struct LinkMetrics {
    pub(crate) up: Gauge,
    pub(crate) alarm: Gauge,
    pub(crate) alarms: Counter,
    pub(crate) braked: Gauge,
    pub(crate) refused: Counter,
}

impl CentralMetrics {
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let own = Self {
            epoch: Gauge::default(),
            revision: Gauge::default(),
            // 50 µs to 1.6 s.
            plan_seconds: Histogram::new(exponential_buckets(0.000_05, 2.0, 16)),
            plan_keys: Counter::default(),
            save_failures: Counter::default(),
            up: Family::default(),
            alarm: Family::default(),
            alarms: Family::default(),
            braked: Family::default(),
            refused: Family::default(),
        };
        metrics.register(|registry| {
            let registry = registry.sub_registry_with_prefix("tombolo_central");
            registry.register("intent_epoch", "Epoch of the planned intent", own.epoch.clone());
            registry.register(
                "intent_revision",
                "Revision of the planned intent",
                own.revision.clone(),
            );
            registry.register("plan_seconds", "Time to plan the mesh", own.plan_seconds.clone());
            registry.register("plan_keys", "Keys computed while planning", own.plan_keys.clone());
            registry.register(
                "save_failures",
                "Last-good files that could not be written",
                own.save_failures.clone(),
            );
            registry.register("link_up", "1 while the peer's feed is connected", own.up.clone());
            registry.register(
                "link_alarm",
                "1 while the peer offers an older or another state than what is held",
                own.alarm.clone(),
            );
            registry.register("link_alarms", "Alarms raised by the feed", own.alarms.clone());
            registry.register(
                "link_braked",
                "Removals that wait for an operator",
                own.braked.clone(),
            );
            registry.register(
                "link_refused",
                "Resources of the peer that could not be read",
                own.refused.clone(),
            );
        });
        own
    }

    pub(crate) fn link(&self, name: &str) -> LinkMetrics {
        let labels = [("link", name.to_owned())];
        LinkMetrics {
            up: self.up.get_or_create(&labels).clone(),
            alarm: self.alarm.get_or_create(&labels).clone(),
            alarms: self.alarms.get_or_create(&labels).clone(),
            braked: self.braked.get_or_create(&labels).clone(),
            refused: self.refused.get_or_create(&labels).clone(),
        }
    }

    pub(crate) fn planned(&self, version: Version) {
        let clip = |number| i64::try_from(number).unwrap_or(i64::MAX);
        self.epoch.set(clip(version.epoch));
        self.revision.set(clip(version.revision));
    }
}
