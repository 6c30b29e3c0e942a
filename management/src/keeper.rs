//! Keeps the audit record: adds the months to come, signs checkpoints of both chains, and drops the months that
//! retention has done with. Every replica keeps it; the numbers of the statements and the head's lock make them agree.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Datelike, Months, NaiveDate, TimeDelta, Utc};
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tombolo_compiler::name::Fqn;
use tombolo_runtime::admin::Metrics;
use tombolo_runtime::shutdown::Shutdown;
use tombolo_runtime::telemetry::chain;

use crate::audit::{
    Chain, ChainHead, Mark, Outcome, PublicKeys, Record, SigningKey, Statement, StatementKind, Verb, now,
};
use crate::iam::Principal;
use crate::store::audit::Month;
use crate::store::{self, Store, StoreError, Tx};

/// How often the ends of the chains are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// A checkpoint after so many records …
const CHECKPOINT_RECORDS: u64 = 500;
/// … or after so long, when there is any: that is what whoever administers the database can still make anew.
const CHECKPOINT_TIME: TimeDelta = TimeDelta::seconds(10);
/// How often months are added and dropped.
const MONTHS_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// Signs for one organization, and drops what is older than it wants to keep.
#[derive(Debug)]
pub(crate) struct Keeper {
    store: Store,
    organization: Fqn,
    key: Arc<SigningKey>,
    /// Whole months that are kept besides the present one; `None` keeps everything.
    retention: Option<u32>,
    /// The number of the last statement, for those who send it out.
    signed: watch::Sender<u64>,
    metrics: KeeperMetrics,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct KeeperMetrics {
    statement: Gauge,
    unsigned: Gauge,
}

impl KeeperMetrics {
    pub(crate) fn register(&self, registry: &Metrics) {
        registry.register(|registry| {
            let registry = registry.sub_registry_with_prefix("tombolo_management_audit");
            registry.register(
                "statement",
                "The number of the last signed statement of the audit record",
                self.statement.clone(),
            );
            registry.register(
                "unsigned_records",
                "Audit records behind the last checkpoint",
                self.unsigned.clone(),
            );
        });
    }
}

impl Keeper {
    pub(crate) fn new(
        store: Store,
        organization: Fqn,
        key: Arc<SigningKey>,
        retention: Option<u32>,
    ) -> (Keeper, watch::Receiver<u64>) {
        let (signed, hearing) = watch::channel(0);
        let keeper = Keeper {
            store,
            organization,
            key,
            retention,
            signed,
            metrics: KeeperMetrics::default(),
        };
        (keeper, hearing)
    }

    pub(crate) fn metrics(&self) -> KeeperMetrics {
        self.metrics.clone()
    }

    pub(crate) async fn run(self, mut shutdown: Shutdown) {
        let mut looks = interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut months_at = Instant::now();
        loop {
            tokio::select! {
                _ = looks.tick() => {}
                () = shutdown.wait() => return,
            }
            if let Err(error) = Box::pin(self.checkpoint()).await {
                tracing::warn!(
                    error = chain(&error),
                    "cannot sign a checkpoint of the audit record"
                );
            }
            if Instant::now() >= months_at {
                match Box::pin(self.keep_months()).await {
                    Ok(()) => months_at = Instant::now() + MONTHS_INTERVAL,
                    Err(error) => tracing::warn!(
                        error = chain(&error),
                        "cannot keep the months of the audit record"
                    ),
                }
            }
        }
    }

    /// Puts the key on record when it is new: whoever adds one is seen doing so.
    pub(crate) async fn register_key(&self) -> Result<(), StoreError> {
        let mut tx = self.store.begin_as(&Principal::System).await?;
        let public = self.key.public();
        if self.store.insert_audit_key(&mut tx, public, now()).await? {
            let reason = format!("audit key {}", public.id());
            self.record(&mut tx, Verb::AddKey, reason).await?;
        }
        store::commit(tx).await
    }

    async fn checkpoint(&self) -> Result<(), StoreError> {
        let mut tx = self.store.begin_as(&Principal::System).await?;
        let writes = self.store.head(&mut tx).await?.audit;
        let denials = self.store.denial_head(&mut tx).await?;
        let last = self
            .store
            .last_statement(&mut tx, StatementKind::Checkpoint)
            .await?;
        let last = last.and_then(|last| self.own().verify(&last.signed).ok());
        let unsigned = unsigned(last.as_ref(), &writes, &denials);
        self.metrics.unsigned.set(unsigned.cast_signed());
        if is_due(last.as_ref(), unsigned, now()) {
            let statement = Statement {
                kind: StatementKind::Checkpoint,
                organization: self.organization.leaf().to_owned(),
                number: self.store.next_statement(&mut tx).await?,
                time: now(),
                writes: writes.mark(),
                denials: denials.mark(),
            };
            self.sign(&mut tx, &statement).await?;
            self.metrics.unsigned.set(0);
        }
        let number = self.store.next_statement(&mut tx).await? - 1;
        store::commit(tx).await?;
        self.metrics.statement.set(number.cast_signed());
        self.signed.send_if_modified(|signed| {
            let is_new = *signed != number;
            *signed = number;
            is_new
        });
        Ok(())
    }

    async fn keep_months(&self) -> Result<(), StoreError> {
        self.store.add_partitions().await?;
        let Some(cutoff) = self.retention.and_then(|months| cutoff(now(), months)) else {
            return Ok(());
        };
        let mut tx = self.store.begin_as(&Principal::System).await?;
        let months = self.store.months_before(&mut tx, cutoff).await?;
        store::commit(tx).await?;
        for month in months {
            Box::pin(self.drop_month(&month)).await?;
        }
        Ok(())
    }

    /// The boundary, the record of it and the drop in one transaction that keeps every write out: nobody ever sees a
    /// chain that begins late without the statement that says why.
    async fn drop_month(&self, month: &Month) -> Result<(), StoreError> {
        let mut tx = self.store.begin_as(&Principal::System).await?;
        // Before the heads, with which every writer would wait for a merge too.
        self.store.lock_indexing(&mut tx).await?;
        self.store.lock_head(&mut tx).await?;
        self.store.lock_denial_head(&mut tx).await?;
        let before = self
            .store
            .last_statement(&mut tx, StatementKind::Boundary)
            .await?
            .and_then(|last| self.own().verify(&last.signed).ok());
        let mut marks = [Mark::default(); 2];
        for (mark, chain) in marks.iter_mut().zip([Chain::Writes, Chain::Denials]) {
            let Some(found) = self.store.last_before(&mut tx, chain, month.ends).await? else {
                tracing::warn!(month = %month.begins, %chain, "a month of the audit record waits for the next one to be dropped");
                return Ok(());
            };
            let held = before
                .as_ref()
                .map(|before| before.mark(chain))
                .unwrap_or_default();
            *mark = if found.sequence > held.sequence {
                found
            } else {
                held
            };
        }
        if !self.store.drop_month(&mut tx, month).await? {
            tracing::warn!(month = %month.begins, "another organization has audit records in a month that this one is done with; it stays");
            return Ok(());
        }
        let [writes, denials] = marks;
        if marks.iter().any(|mark| mark.sequence > 0) {
            let statement = Statement {
                kind: StatementKind::Boundary,
                organization: self.organization.leaf().to_owned(),
                number: self.store.next_statement(&mut tx).await?,
                time: now(),
                writes,
                denials,
            };
            self.sign(&mut tx, &statement).await?;
        }
        let reason = format!(
            "dropped {}: writes up to {}, denials up to {}",
            month.begins.format("%Y-%m"),
            writes.sequence,
            denials.sequence
        );
        self.record(&mut tx, Verb::Prune, reason.clone()).await?;
        store::commit(tx).await?;
        tracing::info!(reason, "retention of the audit record");
        Ok(())
    }

    async fn sign(&self, tx: &mut Tx, statement: &Statement) -> Result<(), StoreError> {
        let signed = self.key.sign(statement);
        self.store.insert_statement(tx, statement, &signed).await?;
        Ok(())
    }

    async fn record(&self, tx: &mut Tx, verb: Verb, reason: String) -> Result<(), StoreError> {
        let record = Record {
            reason,
            ..Record::new("system", verb, self.organization.as_str(), Outcome::Done)
        };
        self.store.append_record(tx, record).await
    }

    /// What another key has signed is not gone on from: then this one signs anew.
    fn own(&self) -> PublicKeys {
        [self.key.public()].into_iter().collect()
    }
}

fn unsigned(last: Option<&Statement>, writes: &ChainHead, denials: &ChainHead) -> u64 {
    let behind = |head: &ChainHead, chain| {
        let mark = last.map(|last| last.mark(chain)).unwrap_or_default();
        head.sequence.abs_diff(mark.sequence)
    };
    behind(writes, Chain::Writes) + behind(denials, Chain::Denials)
}

fn is_due(last: Option<&Statement>, unsigned: u64, now: DateTime<Utc>) -> bool {
    let is_late = last.is_none_or(|last| now - last.time >= CHECKPOINT_TIME);
    unsigned >= CHECKPOINT_RECORDS || unsigned > 0 && is_late
}

/// The beginning of the oldest month that is kept.
fn cutoff(now: DateTime<Utc>, months: u32) -> Option<DateTime<Utc>> {
    let month = NaiveDate::from_ymd_opt(now.year(), now.month(), 1)?;
    let oldest = month.checked_sub_months(Months::new(months))?;
    Some(oldest.and_hms_opt(0, 0, 0)?.and_utc())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_due_by_count_or_by_time() {
        let signed_at = DateTime::UNIX_EPOCH;
        let last = Statement {
            kind: StatementKind::Checkpoint,
            organization: "acme".to_owned(),
            number: 1,
            time: signed_at,
            writes: Mark::default(),
            denials: Mark::default(),
        };
        let soon = signed_at + TimeDelta::seconds(1);
        let late = signed_at + CHECKPOINT_TIME;
        for (last, unsigned, now, due) in [
            (None, 0, soon, false),
            (None, 1, soon, true),
            (Some(&last), 0, late, false),
            (Some(&last), CHECKPOINT_RECORDS - 1, soon, false),
            (Some(&last), CHECKPOINT_RECORDS, soon, true),
            (Some(&last), 1, late, true),
        ] {
            assert_eq!(is_due(last, unsigned, now), due, "{last:?} {unsigned} {now}");
        }
    }

    #[test]
    fn retention_keeps_whole_months() {
        let now = "2026-01-15T12:00:00Z".parse().unwrap();
        for (months, oldest) in [(0, "2026-01-01"), (1, "2025-12-01"), (12, "2025-01-01")] {
            let expected: DateTime<Utc> = format!("{oldest}T00:00:00Z").parse().unwrap();
            assert_eq!(cutoff(now, months), Some(expected), "{months}");
        }
    }
}
