//! Runs what a file says, and again whenever that is another: when the file or one that it includes was replaced or written, and at
//! SIGHUP. All or nothing: what cannot be run leaves what runs, and is told.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::stamp::Stamp;
use super::{FileError, Problem, Said, read};
use crate::decode::{Rejection, Resources};
use crate::running::Running;

/// How often files are looked at. One that was written is read once it is the same for two looks: nobody says when a file is whole.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// How often what was replaced is looked at, whether requests still use it.
const LET_GO_INTERVAL: Duration = Duration::from_secs(10);
/// Tries to bind a port before a file is refused; about a second, in which nothing else is applied.
const PORT_TRIES: u32 = 6;

/// A file that is run, and what is known of it.
pub(crate) struct Watched {
    path: PathBuf,
    /// With those that it includes, as they were when they were read.
    read: Vec<(PathBuf, Stamp)>,
}

/// What the file says, of which nothing runs yet.
///
/// # Errors
/// It cannot be run.
pub(crate) fn from_file(path: &Path) -> Result<(Watched, Resources), FileError> {
    let mut watched = Watched {
        path: path.to_owned(),
        read: Vec::new(),
    };
    let said = watched.read()?;
    let resources = said.resolve(&Resources::default(), path)?;
    Ok((watched, resources))
}

impl Watched {
    /// Runs `resources`, which are what the file says, before anything else listens.
    ///
    /// # Errors
    /// A port cannot be had.
    pub(crate) async fn run_first(
        &self,
        running: &mut Running,
        resources: Resources,
    ) -> Result<(), FileError> {
        let applied = running.activation.apply(resources.config(), PORT_TRIES).await;
        applied.map_err(|rejections| self.refused(&rejections))?;
        running.run(resources);
        running.status.listeners_known();
        running.status.metrics.file_loaded(true);
        Ok(())
    }

    /// Runs what the file says from now on, until dropped.
    pub(crate) async fn follow(&mut self, running: &mut Running) -> Infallible {
        let mut hangup = signal(SignalKind::hangup())
            .inspect_err(|error| tracing::warn!(%error, "SIGHUP is not heard; the file is still looked at"))
            .ok();
        let mut look = interval_at(Instant::now() + LOOK_INTERVAL, LOOK_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut let_go = interval_at(Instant::now() + LET_GO_INTERVAL, LET_GO_INTERVAL);
        let mut seen = self.read.clone();
        loop {
            let is_due = tokio::select! {
                () = heard(&mut hangup) => true,
                _ = let_go.tick() => {
                    running.activation.let_go();
                    false
                }
                _ = look.tick() => {
                    let now = self.stamps();
                    let is_due = now != self.read && now == seen;
                    seen = now;
                    is_due
                }
            };
            if is_due {
                self.run_again(running).await;
                seen = self.read.clone();
            }
        }
    }

    /// Runs what the file says now; what cannot be run changes nothing.
    pub(crate) async fn run_again(&mut self, running: &mut Running) {
        let status = Arc::clone(&running.status);
        let what = self.path.display().to_string();
        match self.try_run_again(running).await {
            Ok(()) => {
                status.metrics.file_loaded(true);
                status.accepted(&what);
                tracing::info!(path = %what, "the configuration was read again, and runs");
            }
            Err(error) => {
                status.metrics.file_loaded(false);
                let message = error.to_string();
                let source = std::error::Error::source(&error).map(ToString::to_string);
                let source = source.map_or_else(String::new, |source| format!(": {source}"));
                let message = format!("{message}{source}");
                tracing::error!(%message, "the configuration was refused; what runs keeps running");
                status.rejected(&what, message);
            }
        }
    }

    async fn try_run_again(&mut self, running: &mut Running) -> Result<(), FileError> {
        let said = self.read()?;
        let next = said.resolve(&running.resources, &self.path)?;
        let applied = running.activation.apply(next.config(), PORT_TRIES).await;
        applied.map_err(|rejections| self.refused(&rejections))?;
        running.run(next);
        running.status.listeners_known();
        Ok(())
    }

    /// Whatever comes of it, the file is known as it is now.
    fn read(&mut self) -> Result<Said, FileError> {
        self.read = vec![(self.path.clone(), Stamp::of(&self.path))];
        let said = read(&self.path)?;
        self.read.extend(said.included.iter().cloned());
        Ok(said)
    }

    fn stamps(&self) -> Vec<(PathBuf, Stamp)> {
        let stamps = self.read.iter().map(|(path, _)| (path.clone(), Stamp::of(path)));
        stamps.collect()
    }

    fn refused(&self, rejections: &[Rejection]) -> FileError {
        let problems = rejections.iter().map(|rejection| Problem {
            path: format!("listener {}", rejection.name),
            reason: rejection.reason.clone(),
        });
        FileError::Refused {
            path: self.path.clone(),
            problems: problems.collect(),
        }
    }
}

/// Never, where nothing can be heard.
async fn heard(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}
