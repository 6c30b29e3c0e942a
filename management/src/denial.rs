//! Denials on their way to their own chain: a bounded queue that never makes a caller wait, and a loop that writes
//! batches at a bounded pace. What does not fit is counted, and the count is part of the next record.

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
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                received = self.queue.recv_many(&mut batch, BATCH_MAX) => if received == 0 { return },
                () = shutdown.wait() => break,
            }
            self.write(&mut batch).await;
            tokio::select! {
                () = sleep(BATCH_INTERVAL) => {}
                () = shutdown.wait() => break,
            }
        }
        self.queue.close();
        while self.queue.recv_many(&mut batch, BATCH_MAX).await > 0 {
            self.write(&mut batch).await;
        }
    }

    /// A batch that cannot be written counts as dropped: keeping it would let the queue grow behind it.
    async fn write(&mut self, batch: &mut Vec<Record>) {
        let dropped = self.dropped.get();
        if let Some(first) = batch.first_mut() {
            first.dropped = dropped - self.told;
        }
        match self.try_write(batch).await {
            Ok(()) => self.told = dropped,
            Err(error) => {
                tracing::warn!(
                    error = chain(&error),
                    denials = batch.len(),
                    "cannot record denials"
                );
                self.dropped.inc_by(batch.len() as u64);
            }
        }
        batch.clear();
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
        self.store.insert_audit(&mut tx, &sealed).await?;
        self.store.set_denial_head(&mut tx, &head).await?;
        store::commit(tx).await
    }
}
