//! Who calls, looked up for many requests at once: those that come while two statements are under way share the next one. To
//! be woken costs Postgres more than a look-up does. The loops own their connections, so that no caller that hangs up
//! leaves a statement half read.

use std::sync::Arc;

use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::yield_now;
use tokio::time::{Instant, timeout};

use crate::store::lookup::{Found, FoundRow, Lookup};
use crate::store::{ANSWER_TIMEOUT, Connection, REST_TRUSTED, Store, StoreError};

/// Statements at a time: while one is answered another one is asked, and one connection that hangs does not hold up all.
pub(crate) const LOOPS: usize = 2;
/// In one statement; about two milliseconds' work for Postgres.
const TOGETHER_MAX: usize = 64;
/// Whoever comes when so many wait, waits too.
const QUEUED_MAX: usize = 1024;

/// Where they are asked for. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Lookups {
    queue: mpsc::Sender<Waiting>,
}

#[derive(Debug)]
pub(crate) struct LookupLoop {
    store: Store,
    queue: Arc<Mutex<mpsc::Receiver<Waiting>>>,
    held: Option<Held>,
}

#[derive(Debug)]
struct Waiting {
    lookup: Lookup,
    done: oneshot::Sender<Result<Option<FoundRow>, StoreError>>,
}

/// A connection between two statements.
#[derive(Debug)]
struct Held {
    connection: Connection,
    answered: Instant,
}

impl Lookups {
    pub(crate) fn new(store: &Store) -> (Lookups, [LookupLoop; LOOPS]) {
        let (sender, queue) = mpsc::channel(QUEUED_MAX);
        let queue = Arc::new(Mutex::new(queue));
        let loops = std::array::from_fn(|_| LookupLoop {
            store: store.clone(),
            queue: queue.clone(),
            held: None,
        });
        (Lookups { queue: sender }, loops)
    }

    /// `None` for what nobody holds.
    pub(crate) async fn find(&self, lookup: Lookup) -> Result<Option<Found>, StoreError> {
        let (done, answer) = oneshot::channel();
        let held = lookup.held.clone();
        let asking = async {
            let queued = self.queue.send(Waiting { lookup, done }).await;
            queued.map_err(|_| StoreError::Stopping)?;
            answer.await.map_err(|_| StoreError::Stopping)?
        };
        let doing = "look up who calls";
        let row = timeout(ANSWER_TIMEOUT, asking).await;
        let row = row.unwrap_or(Err(StoreError::Silent { doing }))?;
        row.map(|row| row.read(held.as_ref())).transpose()
    }
}

impl LookupLoop {
    /// Until nobody is left who could ask.
    pub(crate) async fn run(mut self) {
        let mut waiting = Vec::new();
        while self.receive(&mut waiting).await {
            // Of those whose callers have hung up, nobody wants to know.
            waiting.retain(|one| !one.done.is_closed());
            if waiting.is_empty() {
                continue;
            }
            // Who asks for several things at once is looked up once.
            waiting.sort_unstable_by_key(|one| one.lookup.sha256);
            let asked: Vec<&Lookup> = waiting.iter().map(|one| &one.lookup).collect();
            match self.ask(&asked).await {
                Ok(rows) => {
                    for (one, row) in waiting.drain(..).zip(rows) {
                        let _ = one.done.send(Ok(row));
                    }
                }
                Err(error) => {
                    let error = Arc::new(error);
                    for one in waiting.drain(..) {
                        let _ = one.done.send(Err(StoreError::Shared(error.clone())));
                    }
                }
            }
        }
    }

    /// False once there will be none.
    async fn receive(&self, waiting: &mut Vec<Waiting>) -> bool {
        let mut queue = self.queue.lock().await;
        let Some(first) = queue.recv().await else {
            return false;
        };
        waiting.push(first);
        // Those whose requests are being read just now come along.
        yield_now().await;
        while waiting.len() < TOGETHER_MAX
            && let Ok(one) = queue.try_recv()
        {
            waiting.push(one);
        }
        true
    }

    /// A connection that has rested goes back to the pool, which asks it whether it still answers; so does one on which
    /// a statement has failed.
    async fn ask(&mut self, lookups: &[&Lookup]) -> Result<Vec<Option<FoundRow>>, StoreError> {
        let held = self
            .held
            .take()
            .filter(|held| held.answered.elapsed() < REST_TRUSTED);
        let mut connection = match held {
            Some(held) => held.connection,
            None => self.store.connection().await?,
        };
        let rows = self.store.look_up(&mut connection, lookups).await?;
        self.held = Some(Held {
            connection,
            answered: Instant::now(),
        });
        Ok(rows)
    }
}
