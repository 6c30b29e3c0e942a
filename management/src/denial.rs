//! Denials on their way to their own chain: a bounded queue that never makes a caller wait, and a loop that writes
//! batches at a bounded pace. Of a flood, those that are alike become one record with their number; what does not fit even
//! so is counted, and the count is part of the next record.

use std::collections::HashMap;
use std::mem;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tombolo_runtime::shutdown::Shutdown;
use tombolo_runtime::telemetry::chain;

use crate::audit::{Chain, Record, seal};
use crate::iam::Principal;
use crate::store::{self, Store, StoreError};

const QUEUED_MAX: usize = 1024;
const BATCH_MAX: usize = 128;
/// Between two batches: together with their size, at most about 500 records per second reach the disk.
const BATCH_INTERVAL: Duration = Duration::from_millis(250);

/// Where denials go. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Denials {
    queue: mpsc::Sender<Record>,
    dropped: Counter,
}

#[derive(Debug)]
pub(crate) struct DenialWriter {
    store: Store,
    queue: mpsc::Receiver<Record>,
    dropped: Counter,
    /// How many of the dropped ones a record tells of already.
    told: u64,
}

impl Denials {
    pub(crate) fn new(store: Store) -> (Denials, DenialWriter) {
        let (sender, queue) = mpsc::channel(QUEUED_MAX);
        let dropped = Counter::default();
        let denials = Denials {
            queue: sender,
            dropped: dropped.clone(),
        };
        let writer = DenialWriter {
            store,
            queue,
            dropped,
            told: 0,
        };
        (denials, writer)
    }

    pub(crate) fn record(&self, record: Record) {
        if self.queue.try_send(record).is_err() {
            self.dropped.inc();
        }
    }

    pub(crate) fn dropped(&self) -> Counter {
        self.dropped.clone()
    }
}

impl DenialWriter {
    pub(crate) async fn run(mut self, mut shutdown: Shutdown) {
        let mut waiting = Vec::new();
        loop {
            tokio::select! {
                received = self.receive(&mut waiting) => if !received { return },
                () = shutdown.wait() => break,
            }
            self.write(batch(&mut waiting)).await;
            tokio::select! {
                () = sleep(BATCH_INTERVAL) => {}
                () = shutdown.wait() => break,
            }
        }
        self.queue.close();
        while self.receive(&mut waiting).await {
            self.write(batch(&mut waiting)).await;
        }
    }

    /// Takes what has come, and waits for the first where there is none. False once there will be none.
    async fn receive(&mut self, waiting: &mut Vec<Record>) -> bool {
        if waiting.is_empty() {
            return self.queue.recv_many(waiting, QUEUED_MAX).await > 0;
        }
        while waiting.len() < QUEUED_MAX
            && let Ok(record) = self.queue.try_recv()
        {
            waiting.push(record);
        }
        true
    }

    /// A batch that cannot be written counts as dropped: keeping it would let the queue grow behind it.
    async fn write(&mut self, mut batch: Vec<Record>) {
        let dropped = self.dropped.get();
        if let Some(first) = batch.first_mut() {
            first.dropped = dropped - self.told;
        }
        match self.try_write(&batch).await {
            Ok(()) => self.told = dropped,
            Err(error) => {
                tracing::warn!(
                    error = chain(&error),
                    denials = batch.len(),
                    "cannot record denials"
                );
                self.dropped
                    .inc_by(batch.iter().map(|record| 1 + record.repeated).sum());
            }
        }
    }

    async fn try_write(&self, batch: &[Record]) -> Result<(), StoreError> {
        let mut tx = self.store.begin_as(&Principal::System).await?;
        let mut head = self.store.lock_denial_head(&mut tx).await?;
        let mut sealed = Vec::new();
        for record in batch {
            let (one, next) = seal(Chain::Denials, head, record.clone());
            head = next;
            sealed.push(one);
        }
        self.store.append_denials(&mut tx, &sealed, &head).await?;
        store::commit(tx).await
    }
}

/// The first of those that wait; the rest stays. More than one batch holds are a flood.
fn batch(waiting: &mut Vec<Record>) -> Vec<Record> {
    if waiting.len() > BATCH_MAX {
        *waiting = merge(mem::take(waiting));
    }
    waiting.drain(..waiting.len().min(BATCH_MAX)).collect()
}

/// Those that differ in nothing but their moment and their request id, as the first of them with the number of the
/// others.
fn merge(records: Vec<Record>) -> Vec<Record> {
    let mut merged: Vec<Record> = Vec::new();
    let mut places = HashMap::new();
    for record in records {
        let alike = (
            record.actor.clone(),
            record.teams.clone(),
            record.verb,
            record.name.clone(),
            record.outcome,
            record.source.clone(),
            record.reason.clone(),
        );
        let place = *places.entry(alike).or_insert(merged.len());
        match merged.get_mut(place) {
            Some(first) => first.repeated += 1 + record.repeated,
            None => merged.push(record),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{Outcome, Verb};

    fn denial(actor: &str, name: &str, request_id: usize) -> Record {
        Record {
            request_id: request_id.to_string(),
            ..Record::new(actor, Verb::Get, name, Outcome::Denied)
        }
    }

    fn told(records: &[Record]) -> Vec<(&str, &str, &str, u64)> {
        let told = records.iter().map(|record| {
            let Record {
                actor,
                name,
                request_id,
                repeated,
                ..
            } = record;
            (actor.as_str(), name.as_str(), request_id.as_str(), *repeated)
        });
        told.collect()
    }

    #[test]
    fn what_fits_a_batch_is_recorded_one_by_one() {
        let mut waiting: Vec<Record> = (0..BATCH_MAX).map(|id| denial("eve", "a", id)).collect();
        let batch = batch(&mut waiting);
        assert_eq!(batch.len(), BATCH_MAX);
        assert!(waiting.is_empty() && batch.iter().all(|record| record.repeated == 0));
    }

    #[test]
    fn of_a_flood_those_that_are_alike_become_one_record_with_their_number() {
        let mut waiting: Vec<Record> = (0..BATCH_MAX).map(|id| denial("eve", "a", id)).collect();
        waiting.insert(1, denial("eve", "b", 1000));
        waiting.insert(1, denial("bob", "a", 1001));
        let first = batch(&mut waiting);
        let more = BATCH_MAX as u64 - 1;
        assert_eq!(
            told(&first),
            [
                ("eve", "a", "0", more),
                ("bob", "a", "1001", 0),
                ("eve", "b", "1000", 0)
            ]
        );
        assert!(waiting.is_empty());
    }

    #[test]
    fn what_is_merged_already_keeps_its_number_and_what_does_not_fit_waits() {
        let mut waiting: Vec<Record> = (0..=BATCH_MAX)
            .map(|id| denial(&format!("actor{id}"), "a", id))
            .collect();
        waiting[BATCH_MAX].repeated = 4;
        assert_eq!(batch(&mut waiting).len(), BATCH_MAX);
        let last = format!("actor{BATCH_MAX}");
        waiting.extend((0..BATCH_MAX).map(|id| denial(&last, "a", id)));
        let second = batch(&mut waiting);
        assert_eq!(told(&second), [(last.as_str(), "a", "128", 4 + BATCH_MAX as u64)]);
    }
}
