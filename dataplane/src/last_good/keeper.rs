//! Who writes the last good configuration to disk, and who may have it rest while the folder becomes another process's.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tombolo_runtime::last_good::{self, LastGoodError};

use super::encode;
use crate::decode::Resources;
use crate::metrics::Metrics;
use crate::restart::Lock;

/// Changes come in bursts, over the whole machine at once, and each save costs two fsyncs: they wait until the
/// change is live everywhere. A crash meanwhile loses what the edge sends again.
const COLLECT_DELAY: Duration = Duration::from_secs(1);
/// Saves are this many times as far apart as one takes, so that a large configuration that changes all the time leaves the
/// processor to the requests...
const PAUSE_FACTOR: u32 = 200;
/// ...but no further than this, and as far when a save has failed.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How long anybody waits for what is being written: a good disk takes a part of a second, and one that takes nothing must hold up
/// neither a successor nor the end.
const WRITTEN_MAX: Duration = Duration::from_secs(5);

/// The task that writes; it ends with this.
pub(crate) struct Keeper {
    rests: mpsc::Sender<Asked>,
    task: JoinHandle<()>,
}

/// As long as it is there, nothing is begun to be written.
pub(crate) struct Rest {
    _over: oneshot::Sender<()>,
}

/// Somebody wants a rest, once all is written.
struct Asked {
    begun: oneshot::Sender<()>,
    over: oneshot::Receiver<()>,
}

/// What has the task look at what it has.
enum Call {
    Due,
    /// Nothing more comes.
    Last,
    Rest(Asked),
}

#[derive(Debug, thiserror::Error)]
enum SaveError {
    #[error(transparent)]
    File(#[from] LastGoodError),
    #[error("the data folder is another process's")]
    Lost,
}

impl Keeper {
    /// Writes new values of `resources` to `path`, those that come close upon each other as one; the last one also when the sender is
    /// gone, at once, then ends. What could not be written is tried again. Nothing is written where the lock is another process's.
    pub(crate) fn start(
        path: PathBuf,
        resources: watch::Receiver<Arc<Resources>>,
        lock: Arc<Lock>,
        metrics: Arc<Metrics>,
    ) -> Self {
        // One successor at a time.
        let (rests, asked) = mpsc::channel(1);
        let task = tokio::spawn(keep(path, resources, asked, lock, metrics));
        Self { rests, task }
    }

    /// Writes what there is now, and nothing for as long as the rest lasts. A disk that takes it too late is left to the lock: what comes
    /// of it does not replace what another process has written.
    pub(crate) async fn rest(&self) -> Rest {
        let (begin, begun) = oneshot::channel();
        let (rest, over) = oneshot::channel();
        let resting = async {
            let asked = Asked { begun: begin, over };
            // A task that has ended has nothing to write.
            if self.rests.send(asked).await.is_ok() {
                let _ = begun.await;
            }
        };
        if timeout(WRITTEN_MAX, resting).await.is_err() {
            not_in_time();
        }
        Rest { _over: rest }
    }

    /// Waits until the last value is on disk; none comes any more.
    pub(crate) async fn finish(mut self) {
        match timeout(WRITTEN_MAX, &mut self.task).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(
                error = &error as &dyn std::error::Error,
                "the last good configuration was not written"
            ),
            Err(_) => not_in_time(),
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn not_in_time() {
    tracing::error!(
        "the last good configuration was not written in time: what the edge said last would not survive a restart; check the disk"
    );
}

async fn keep(
    path: PathBuf,
    mut resources: watch::Receiver<Arc<Resources>>,
    mut rests: mpsc::Receiver<Asked>,
    lock: Arc<Lock>,
    metrics: Arc<Metrics>,
) {
    let mut not_before = Instant::now();
    // When what is not on disk is written, if anything is not.
    let mut due = None;
    loop {
        let call = tokio::select! {
            // What was said before a rest was asked for is written before it begins.
            biased;
            changed = resources.changed() => match changed {
                Ok(()) => {
                    due.get_or_insert(not_before.max(Instant::now() + COLLECT_DELAY));
                    continue;
                }
                Err(_) => Call::Last,
            },
            () = until(due) => Call::Due,
            Some(asked) = rests.recv() => Call::Rest(asked),
        };
        if due.take().is_some() {
            let value = Arc::clone(&resources.borrow_and_update());
            let (path, lock) = (path.clone(), Arc::clone(&lock));
            let began = Instant::now();
            let saved = tokio::task::spawn_blocking(move || save(&path, &value, &lock)).await;
            match saved {
                Ok(Ok(())) => not_before = Instant::now() + pause_after(began.elapsed()),
                Ok(Err(error)) => {
                    metrics.last_good_errors.fetch_add(1, Ordering::Relaxed);
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "the configuration would not survive a restart"
                    );
                    if matches!(error, SaveError::Lost) {
                        return;
                    }
                    not_before = Instant::now() + PAUSE_MAX;
                    due = Some(not_before);
                }
                // The runtime is shutting down.
                Err(_) => return,
            }
        }
        match call {
            Call::Due => {}
            Call::Last => return,
            Call::Rest(Asked { begun, over }) => {
                // Who asked may have given up, and the rest is over when it is dropped.
                let _ = begun.send(());
                let _ = over.await;
            }
        }
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// The lock is asked before, so that nothing is touched that is another's, and when all is done but the last step.
fn save(path: &Path, resources: &Resources, lock: &Lock) -> Result<(), SaveError> {
    if lock.is_own() && last_good::save_if(path, &encode(resources), || lock.is_own())? {
        Ok(())
    } else {
        Err(SaveError::Lost)
    }
}

/// The pause after a save that took so long.
fn pause_after(took: Duration) -> Duration {
    took.saturating_mul(PAUSE_FACTOR).clamp(COLLECT_DELAY, PAUSE_MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::fd::AsFd;

    use tombolo_runtime::shutdown::run_to_end;

    use super::*;
    use crate::config::ResourceKind;
    use crate::decode::samples;
    use crate::last_good::{FILE_NAME, load};

    /// With clusters of these names.
    fn holding(names: &[&str]) -> Arc<Resources> {
        let clusters = names.iter().map(|name| samples::cluster(name, 1));
        let update = samples::update(ResourceKind::Cluster, clusters.collect(), &[]);
        Arc::new(Resources::default().with(&update).unwrap())
    }

    fn names(path: &Path) -> Vec<String> {
        let loaded = load(path).unwrap();
        assert!(loaded.rejections.is_empty());
        let held = loaded.resources.held(ResourceKind::Cluster);
        held.map(|(name, _)| name.to_string()).collect()
    }

    struct Stage {
        dir: tempfile::TempDir,
        path: PathBuf,
        lock: Arc<Lock>,
        metrics: Arc<Metrics>,
        sender: watch::Sender<Arc<Resources>>,
        keeper: Keeper,
    }

    /// Writes to a folder in the one that it locks.
    fn start(folder: &str) -> Stage {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(folder).join(FILE_NAME);
        let lock = Arc::new(Lock::take(dir.path()).unwrap().unwrap());
        let metrics = Arc::<Metrics>::default();
        let (sender, receiver) = watch::channel(Arc::default());
        let keeper = Keeper::start(path.clone(), receiver, Arc::clone(&lock), Arc::clone(&metrics));
        Stage {
            dir,
            path,
            lock,
            metrics,
            sender,
            keeper,
        }
    }

    #[tokio::test]
    async fn the_last_value_is_on_disk_when_the_keeper_ends() {
        let stage = start("");
        let began = Instant::now();
        for names in [&["a"][..], &["a", "b"], &["b", "c"]] {
            stage.sender.send_replace(holding(names));
            tokio::task::yield_now().await;
        }
        drop(stage.sender);
        stage.keeper.finish().await;
        assert_eq!(names(&stage.path), ["b", "c"]);
        assert!(
            began.elapsed() < COLLECT_DELAY,
            "nothing more was to be waited for"
        );
    }

    #[tokio::test]
    async fn what_could_not_be_written_is_written_later() {
        let stage = start("later");
        stage.sender.send_replace(holding(&["a"]));
        while stage.metrics.last_good_errors.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        std::fs::create_dir(stage.path.parent().unwrap()).unwrap();
        drop(stage.sender);
        stage.keeper.finish().await;
        assert_eq!(names(&stage.path), ["a"]);
    }

    #[tokio::test]
    async fn a_rest_begins_with_all_written_and_ends_when_nobody_took_over() {
        let stage = start("");
        let began = Instant::now();
        stage.sender.send_replace(holding(&["a"]));
        let rest = stage.keeper.rest().await;
        assert_eq!(names(&stage.path), ["a"]);
        assert!(began.elapsed() < COLLECT_DELAY, "it was not waited for");
        stage.sender.send_replace(holding(&["b"]));
        tokio::time::sleep(2 * COLLECT_DELAY).await;
        assert_eq!(names(&stage.path), ["a"]);
        drop(rest);
        let written = async {
            while names(&stage.path) != ["b"] {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(Duration::from_secs(10), written).await.unwrap();
    }

    #[tokio::test]
    async fn nothing_is_written_where_another_process_has_the_folder() {
        let stage = start("");
        let successors = Lock::from(stage.lock.as_fd().try_clone_to_owned().unwrap());
        assert!(stage.lock.is_own() && successors.is_own());
        successors.claim();
        assert!(!stage.lock.is_own() && successors.is_own());
        stage.sender.send_replace(holding(&["a"]));
        drop(stage.sender);
        stage.keeper.finish().await;
        assert!(!stage.path.exists());
        assert_eq!(stage.metrics.last_good_errors.load(Ordering::Relaxed), 1);
        // Nor is there anything beside what is locked.
        assert_eq!(std::fs::read_dir(stage.dir.path()).unwrap().count(), 1);
        assert!(save(&stage.path, &holding(&["b"]), &successors).is_ok());
        assert_eq!(names(&stage.path), ["b"]);
    }

    /// What is to be written stands behind what never ends, as behind a disk.
    #[test]
    fn what_a_disk_does_not_take_holds_nobody_up() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(1)
            .build()
            .unwrap();
        let (end, never) = std::sync::mpsc::channel::<()>();
        let began = Instant::now();
        // Gone before the runtime if this fails.
        let end = run_to_end(runtime, async move {
            let (stuck, is_stuck) = oneshot::channel();
            tokio::task::spawn_blocking(move || {
                stuck.send(()).unwrap();
                let _ = never.recv();
            });
            is_stuck.await.unwrap();
            let stage = start("");
            stage.sender.send_replace(holding(&["a"]));
            drop(stage.keeper.rest().await);
            assert!(began.elapsed() >= WRITTEN_MAX, "it may still be written");
            drop(stage.sender);
            stage.keeper.finish().await;
            assert!(!stage.path.exists());
            end
        });
        assert!(began.elapsed() < 3 * WRITTEN_MAX);
        drop(end);
    }

    #[test]
    fn large_configurations_are_saved_less_often() {
        let ms = Duration::from_millis;
        for (took, pause) in [(0, 1_000), (5, 1_000), (20, 4_000), (1_000, 30_000)] {
            assert_eq!(pause_after(ms(took)), ms(pause), "{took}");
        }
    }
}
