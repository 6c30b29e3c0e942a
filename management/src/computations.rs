//! What is computed over a whole organization: of a large one that takes seconds. A few at a time, each on a thread of
//! its own, so that whoever reads or writes something small is answered meanwhile.

use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::{block_in_place, spawn_blocking};
use tokio::time::timeout;
use tracing::Instrument;

use crate::metrics::Counted;

/// Two, so that a long one does not stand before everybody's short ones. Not more, for each of them may hold the
/// organization once more in memory, and takes a core from those who read and write.
const RUNNING_MAX: usize = 2;
/// Several of the longest: whoever would wait for more is better told to come back.
const WAIT_MAX: Duration = Duration::from_secs(10);

type BoxedWork<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Computations {
    turns: Arc<Semaphore>,
    wait_max: Duration,
    waiting: Gauge,
}

/// The turn of a computation has not come in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "too many ask for what is computed over the whole organization: none of those before has ended within {} s; ask \
     again later",
    WAIT_MAX.as_secs()
)]
pub(crate) struct Busy;

impl Default for Computations {
    fn default() -> Computations {
        Computations {
            turns: Arc::new(Semaphore::new(RUNNING_MAX)),
            wait_max: WAIT_MAX,
            waiting: Gauge::default(),
        }
    }
}

impl Computations {
    /// How many wait for their turn.
    pub(crate) fn waiting(&self) -> Gauge {
        self.waiting.clone()
    }

    /// Who asks and goes away leaves the queue, or ends the work where it next waits for something. What runs here asks
    /// for no other turn: it could wait for itself. The loop that writes asks for none.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> impl Future<Output = Result<T, Busy>> + Send {
        // What waits is small then, wherever it is part of a larger one.
        self.run_boxed(Box::pin(work))
    }

    async fn run_boxed<T: Send + 'static>(&self, work: BoxedWork<T>) -> Result<T, Busy> {
        let turn = {
            let _waiting = Counted::by(&self.waiting);
            let turn = timeout(self.wait_max, self.turns.clone().acquire_owned()).await;
            turn.map_err(|_| Busy)?
                .expect("invariant: the semaphore is never closed")
        };
        let (asker, asker_gone) = oneshot::channel::<()>();
        let (runtime, work) = (Handle::current(), work.in_current_span());
        let ended = spawn_blocking(move || {
            // Until the work is dropped, and what it holds.
            let _turn = turn;
            runtime.block_on(async {
                tokio::select! {
                    done = work => Some(done),
                    _ = asker_gone => None,
                }
            })
        });
        let done = ended.await;
        drop(asker);
        match done {
            Ok(done) => Ok(done.expect("invariant: who asks waits here")),
            Err(error) => resume_unwind(error.into_panic()),
        }
    }
}

/// What a write computes in its task: of a large organization that takes as long as many reads. Other tasks of this
/// thread are run by another one meanwhile.
#[expect(clippy::disallowed_methods, reason = "never on a current-thread runtime")]
pub(crate) fn aside<T>(work: impl FnOnce() -> T) -> T {
    match Handle::current().runtime_flavor() {
        // There is no other one.
        RuntimeFlavor::CurrentThread => work(),
        _ => block_in_place(work),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::mpsc;

    use tokio::task::{JoinHandle, yield_now};

    use super::*;

    /// A computation that lasts until something is sent, without ever waiting as a task would.
    fn long(computations: &Computations) -> (mpsc::Sender<()>, JoinHandle<Result<(), Busy>>) {
        let computations = computations.clone();
        let (end, ended) = mpsc::channel();
        let work = async move { ended.recv().unwrap() };
        let running = tokio::spawn(async move { computations.run(work).await });
        (end, running)
    }

    async fn until(is_so: impl Fn() -> bool) {
        while !is_so() {
            yield_now().await;
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn others_go_on_while_it_computes_and_one_more_waits_for_its_turn() {
        let computations = Computations::default();
        let running: Vec<_> = (0..RUNNING_MAX).map(|_| long(&computations)).collect();
        // The only thread of this runtime is free, or this would never be so.
        until(|| computations.turns.available_permits() == 0).await;
        let next = tokio::spawn({
            let computations = computations.clone();
            async move { computations.run(async { 7 }).await }
        });
        until(|| computations.waiting.get() == 1).await;
        assert!(!next.is_finished());
        for (end, running) in running {
            end.send(()).unwrap();
            assert_eq!(running.await.unwrap(), Ok(()));
        }
        assert_eq!(next.await.unwrap(), Ok(7));
        assert_eq!(computations.waiting.get(), 0);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn who_hangs_up_leaves_the_queue_and_gives_up_its_turn() {
        let computations = Computations::default();
        let gone: Vec<_> = (0..2 * RUNNING_MAX)
            .map(|_| {
                let computations = computations.clone();
                tokio::spawn(async move { computations.run(std::future::pending::<()>()).await })
            })
            .collect();
        until(|| computations.waiting.get() == RUNNING_MAX as i64).await;
        gone.iter().for_each(JoinHandle::abort);
        assert_eq!(computations.run(async { 7 }).await, Ok(7));
        assert_eq!(computations.waiting.get(), 0);
    }

    #[tokio::test]
    async fn a_turn_that_does_not_come_is_told() {
        let computations = Computations {
            wait_max: Duration::ZERO,
            ..Computations::default()
        };
        let _all = computations.turns.acquire_many(RUNNING_MAX as u32).await.unwrap();
        assert_eq!(computations.run(async { 7 }).await, Err(Busy));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn what_a_write_computes_keeps_nobody_from_the_only_worker() {
        const STUCK: Duration = Duration::from_secs(10);
        let (end, ended) = mpsc::channel();
        let writing = tokio::spawn(async move { aside(move || ended.recv_timeout(STUCK).unwrap()) });
        // On a worker, which this task is not.
        tokio::spawn(async move { end.send(7).unwrap() }).await.unwrap();
        assert_eq!(writing.await.unwrap(), 7);
    }

    #[tokio::test]
    async fn what_panics_gives_up_its_turn() {
        let computations = Computations::default();
        for _ in 0..=RUNNING_MAX {
            let computations = computations.clone();
            let panics = async move { computations.run(async { panic!("on purpose") }).await };
            let ended: Result<Result<(), Busy>, _> = tokio::spawn(panics).await;
            assert!(ended.unwrap_err().is_panic());
        }
        assert_eq!(computations.run(async { 7 }).await, Ok(7));
    }
}
