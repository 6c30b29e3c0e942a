//! What the edge counts.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use tombolo_compiler::report::Receipt;
use tombolo_runtime::admin;

/// Cheap to clone; all clones count together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) responses: Counter,
    pub(crate) refusals: Counter,
    pub(crate) refused_streams: Counter,
    pub(crate) proxies: Gauge,
    pub(crate) proxies_behind: Gauge,
    pub(crate) proxies_unknown: Gauge,
    pub(crate) rejections: Gauge,
    pub(crate) slice_epoch: Gauge,
    pub(crate) slice_revision: Gauge,
    pub(crate) centrals_live: Gauge,
    pub(crate) alarms: Counter,
    pub(crate) platform_faults: Gauge,
}

impl Metrics {
    pub(crate) fn set_receipt(&self, receipt: Option<&Receipt>) {
        let Some(receipt) = receipt else { return };
        self.proxies.set(receipt.proxies.into());
        self.proxies_behind.set(gauge(receipt.behind.len()));
        self.proxies_unknown.set(gauge(receipt.unknown.len()));
        self.rejections.set(gauge(receipt.rejected.len()));
        self.slice_epoch.set(gauge(receipt.version.0));
        self.slice_revision.set(gauge(receipt.version.1));
    }

    pub(crate) fn register(&self, registry: &admin::Metrics) {
        registry.register(|registry| {
            let edge = registry.sub_registry_with_prefix("tombolo_edge");
            edge.register(
                "xds_responses",
                "Delta ADS responses sent",
                self.responses.clone(),
            );
            edge.register(
                "xds_refusals",
                "Responses that a proxy refused",
                self.refusals.clone(),
            );
            edge.register(
                "xds_streams_refused",
                "Streams ended because the proxy breaks the protocol",
                self.refused_streams.clone(),
            );
            edge.register("proxies", "Connected proxies", self.proxies.clone());
            edge.register(
                "proxies_behind",
                "Connected proxies that do not run the latest slice",
                self.proxies_behind.clone(),
            );
            edge.register(
                "proxies_unknown",
                "Proxies that went silent without a goodbye and are not forgotten yet",
                self.proxies_unknown.clone(),
            );
            edge.register(
                "rejections",
                "Resources that connected proxies refuse now",
                self.rejections.clone(),
            );
            edge.register(
                "slice_epoch",
                "Epoch of the slice in use",
                self.slice_epoch.clone(),
            );
            edge.register(
                "slice_revision",
                "Revision of the slice in use",
                self.slice_revision.clone(),
            );
            edge.register(
                "centrals_live",
                "Centrals whose feed is in step",
                self.centrals_live.clone(),
            );
            edge.register("feed_alarms", "Alarms that the feed raised", self.alarms.clone());
            edge.register(
                "platform_faults",
                "Parts of the platform that cannot be read; their last good content is in use",
                self.platform_faults.clone(),
            );
        });
    }
}

pub(crate) fn gauge(value: impl TryInto<i64>) -> i64 {
    value.try_into().unwrap_or(i64::MAX)
}
