//! Indexes the audit record behind the writes. Every replica does; for each segment one of them has the turn.

use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use tokio::time::{MissedTickBehavior, interval};
use tombolo_runtime::admin::Metrics;
use tombolo_runtime::shutdown::Shutdown;
use tombolo_runtime::telemetry::chain;

use crate::audit::Chain;
use crate::iam::Principal;
use crate::store::audit::Tier;
use crate::store::{Store, StoreError};

/// How often the ends of the chains are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// After an upgrade there may be millions to do, whose progress is told each time so many are done.
const TOLD_EACH: u64 = 100_000;

#[derive(Debug)]
pub(crate) struct Indexer {
    store: Store,
    unindexed: Gauge,
}

impl Indexer {
    pub(crate) fn new(store: Store) -> Indexer {
        Indexer {
            store,
            unindexed: Gauge::default(),
        }
    }

    pub(crate) fn register(&self, registry: &Metrics) {
        registry.register(|registry| {
            registry
                .sub_registry_with_prefix("tombolo_management_audit")
                .register(
                    "unindexed_records",
                    "Audit records in no segment of the index yet, which pages read one by one",
                    self.unindexed.clone(),
                );
        });
    }

    pub(crate) async fn run(self, shutdown: Shutdown) {
        let mut looks = interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ending = shutdown.clone();
        loop {
            tokio::select! {
                _ = looks.tick() => {}
                () = ending.wait() => return,
            }
            Box::pin(self.index(&shutdown)).await;
        }
    }

    /// All that is whole.
    async fn index(&self, shutdown: &Shutdown) {
        let mut told = u64::MAX;
        loop {
            let unindexed = or_told(self.count().await);
            if unindexed > TOLD_EACH && unindexed <= told - TOLD_EACH {
                tracing::info!(unindexed, "indexing the audit record");
                told = unindexed;
            }
            // What keeps one from going on keeps the other from nothing.
            let mut has_made_any = false;
            for chain in [Chain::Writes, Chain::Denials] {
                has_made_any |= or_told(self.store.index_audit(chain).await);
                for tiers in Tier::MERGED {
                    has_made_any |= or_told(self.store.merge_audit(chain, tiers).await);
                }
            }
            if !has_made_any || shutdown.is_fired() {
                return;
            }
        }
    }

    async fn count(&self) -> Result<u64, StoreError> {
        let mut tx = self.store.read_as(&Principal::System).await?;
        let writes = self.store.head(&mut tx).await?.audit.sequence;
        let denials = self.store.denial_head(&mut tx).await?.sequence;
        let unindexed = self.store.unindexed(&mut tx, Chain::Writes, writes).await?
            + self.store.unindexed(&mut tx, Chain::Denials, denials).await?;
        self.unindexed.set(unindexed.cast_signed());
        Ok(unindexed)
    }
}

fn or_told<T: Default>(done: Result<T, StoreError>) -> T {
    done.unwrap_or_else(|error| {
        tracing::warn!(error = chain(&error), "cannot index the audit record");
        T::default()
    })
}
