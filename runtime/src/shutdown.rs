//! Stopping a process: one signal that every task can wait for, and a set of named tasks that drains within
//! a grace period. A task that fails or panics stops its whole set, loudly.

use std::collections::HashMap;
use std::error::Error;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, timeout_at};

/// How long the end of a process waits for what still blocks a thread, as a disk that takes no writes does.
const BLOCKED_MAX: Duration = Duration::from_secs(2);

/// Runs `main` on `runtime`, and ends both: what blocks a thread of it then is waited for no longer than a moment, where dropping the
/// runtime would wait for ever.
pub fn run_to_end<T>(runtime: Runtime, main: impl Future<Output = T>) -> T {
    let result = runtime.block_on(main);
    runtime.shutdown_timeout(BLOCKED_MAX);
    result
}

/// Fires once; everybody who holds the matching [`Shutdown`] sees it. When every clone is dropped, that
/// counts as fired: nobody would be left to do it.
#[derive(Clone, Debug)]
pub struct Trigger {
    fired: Arc<watch::Sender<bool>>,
}

/// The waiting end of a shutdown. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Shutdown {
    fired: watch::Receiver<bool>,
}

/// Named tasks that live and end together.
#[derive(Debug)]
pub struct Tasks {
    set: JoinSet<Result<(), BoxError>>,
    names: HashMap<Id, &'static str>,
    trigger: Trigger,
    shutdown: Shutdown,
}

/// Why [`Tasks::join`] did not end well: the first failure, or who did not stop in time.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    #[error("task {name} failed")]
    Failed {
        name: &'static str,
        #[source]
        source: BoxError,
    },
    #[error("task {name} panicked, see the panic's message above")]
    Panicked { name: &'static str },
    #[error("tasks {names:?} did not stop within {grace:?} and were cut off")]
    Stuck {
        names: Vec<&'static str>,
        grace: Duration,
    },
}

type BoxError = Box<dyn Error + Send + Sync>;

/// What a task's future may return: nothing, or a result whose error stops the set.
pub trait Outcome: Send + 'static {
    fn into_result(self) -> Result<(), BoxError>;
}

impl Outcome for () {
    fn into_result(self) -> Result<(), BoxError> {
        Ok(())
    }
}

impl<E: Into<BoxError> + Send + 'static> Outcome for Result<(), E> {
    fn into_result(self) -> Result<(), BoxError> {
        self.map_err(Into::into)
    }
}

impl Trigger {
    pub fn fire(&self) {
        self.fired.send_replace(true);
    }
}

impl Shutdown {
    pub fn new() -> (Trigger, Self) {
        let (sender, fired) = watch::channel(false);
        (
            Trigger {
                fired: Arc::new(sender),
            },
            Self { fired },
        )
    }

    /// A shutdown that SIGTERM and SIGINT fire. Call it once, in `main`.
    ///
    /// # Errors
    /// When the signal handlers cannot be installed.
    pub fn from_signals() -> io::Result<Self> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let (trigger, shutdown) = Self::new();
        // Lives as long as the process and holds nothing, so nobody joins it.
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => tracing::info!("stopping: received SIGTERM"),
                _ = interrupt.recv() => tracing::info!("stopping: received SIGINT"),
            }
            trigger.fire();
        });
        Ok(shutdown)
    }

    /// Returns when the shutdown has fired. Cancel-safe.
    pub async fn wait(&mut self) {
        // An error means that every trigger is gone, which counts as fired.
        let _ = self.fired.wait_for(|fired| *fired).await;
    }

    pub fn is_fired(&self) -> bool {
        *self.fired.borrow() || self.fired.has_changed().is_err()
    }
}

impl Tasks {
    /// A set below `parent`: the returned [`Shutdown`], to be given to the tasks, fires when the parent does
    /// or when a task of this set fails. The parent is not stopped by a failure here; its owner learns of it
    /// from [`Tasks::join`].
    pub fn under(mut parent: Shutdown) -> (Self, Shutdown) {
        let (trigger, shutdown) = Shutdown::new();
        let mut tasks = Self {
            set: JoinSet::new(),
            names: HashMap::new(),
            trigger: trigger.clone(),
            shutdown: shutdown.clone(),
        };
        let mut own = shutdown.clone();
        tasks.spawn("parent-shutdown", async move {
            tokio::select! {
                () = parent.wait() => trigger.fire(),
                () = own.wait() => {}
            }
        });
        (tasks, shutdown)
    }

    /// Starts a task. Its name appears in logs and errors.
    pub fn spawn<F>(&mut self, name: &'static str, task: F)
    where
        F: Future + Send + 'static,
        F::Output: Outcome,
    {
        let handle = self.set.spawn(async move { task.await.into_result() });
        self.names.insert(handle.id(), name);
    }

    /// Runs until the shutdown fires, then gives the tasks `grace` to end, and cuts off those that remain.
    /// A task may end earlier without error.
    ///
    /// # Errors
    /// The first task that failed or panicked (which fires the shutdown), else the tasks that were cut off.
    pub async fn join(mut self, grace: Duration) -> Result<(), TaskError> {
        let mut first_error = None;
        let mut shutdown = self.shutdown.clone();
        loop {
            tokio::select! {
                () = shutdown.wait() => break,
                ended = self.set.join_next_with_id() => match ended {
                    Some(ended) => self.note(ended, &mut first_error),
                    None => break,
                },
            }
        }
        let deadline = Instant::now() + grace;
        while !self.set.is_empty() {
            match timeout_at(deadline, self.set.join_next_with_id()).await {
                Ok(Some(ended)) => self.note(ended, &mut first_error),
                Ok(None) => break,
                Err(_) => {
                    let mut names: Vec<_> = self.names.values().copied().collect();
                    names.sort_unstable();
                    self.set.shutdown().await;
                    return Err(first_error.unwrap_or(TaskError::Stuck { names, grace }));
                }
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    fn note(
        &mut self,
        ended: Result<(Id, Result<(), BoxError>), JoinError>,
        first_error: &mut Option<TaskError>,
    ) {
        let error = match ended {
            Ok((id, Ok(()))) => {
                self.names.remove(&id);
                return;
            }
            Ok((id, Err(source))) => TaskError::Failed {
                name: self.forget(id),
                source,
            },
            Err(error) => TaskError::Panicked {
                name: self.forget(error.id()),
            },
        };
        tracing::error!(
            error = crate::telemetry::chain(&error),
            "stopping: a task ended badly"
        );
        self.trigger.fire();
        first_error.get_or_insert(error);
    }

    fn forget(&mut self, id: Id) -> &'static str {
        self.names
            .remove(&id)
            .expect("invariant: spawn names every task of the set")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::future::pending;
    use std::io;
    use std::time::Duration;

    use super::{Shutdown, Tasks};

    const GRACE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn the_parents_shutdown_drains_the_tasks() {
        let (trigger, shutdown) = Shutdown::new();
        let (mut tasks, mut own) = Tasks::under(shutdown);
        tasks.spawn("loop", async move { own.wait().await });
        tasks.spawn("once", async { Ok::<(), io::Error>(()) });
        trigger.fire();
        tasks.join(GRACE).await.unwrap();
    }

    #[tokio::test]
    async fn a_failed_task_stops_its_set_but_not_its_parent() {
        let (_trigger, parent) = Shutdown::new();
        let (mut tasks, mut own) = Tasks::under(parent.clone());
        tasks.spawn("loop", async move { own.wait().await });
        tasks.spawn("listener", async { Err(io::Error::other("address taken")) });
        let error = tasks.join(GRACE).await.unwrap_err();
        assert_eq!(
            crate::telemetry::chain(&error),
            "task listener failed: address taken"
        );
        assert!(!parent.is_fired());
    }

    #[tokio::test]
    async fn a_panic_stops_the_set_and_is_named() {
        let (_trigger, parent) = Shutdown::new();
        let (mut tasks, _own) = Tasks::under(parent);
        tasks.spawn("planner", async {
            assert!(std::hint::black_box(false), "this panic belongs to the test");
        });
        let error = tasks.join(GRACE).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "task planner panicked, see the panic's message above"
        );
    }

    #[tokio::test]
    async fn who_does_not_stop_is_named() {
        let (trigger, parent) = Shutdown::new();
        let (mut tasks, _own) = Tasks::under(parent);
        tasks.spawn("stubborn", pending::<()>());
        trigger.fire();
        let error = tasks.join(Duration::from_millis(1)).await.unwrap_err();
        assert!(error.to_string().contains("stubborn"), "{error}");
    }

    #[tokio::test]
    async fn a_dropped_trigger_counts_as_fired() {
        let (trigger, mut shutdown) = Shutdown::new();
        assert!(!shutdown.is_fired());
        drop(trigger);
        shutdown.wait().await;
        assert!(shutdown.is_fired());
    }
}
