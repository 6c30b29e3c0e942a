//! What the edge keeps on disk: its slice, its view, where issuers' keys are, the proxies that it knows, and the incarnation of its reports. With
//! the first two it serves its proxies although everything above it is gone.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tombolo_compiler::view::View;
use tombolo_proto::frame::Rejection;
use tombolo_runtime::incarnation;
use tombolo_runtime::last_good::{LastGoodError, load, save, set_aside_unreadable};
use tombolo_runtime::shutdown::Shutdown;
use tombolo_runtime::telemetry::chain;

use crate::feed::Adopted;
use crate::feed::copy::SliceCopy;
use crate::fleet::Roster;
use crate::key_hosts::Addresses;

/// Changes come in bursts, and a file is written whole. Short for the slice: an edge that crashes and finds central gone
/// must not come back far behind what it had reported as running.
const SLICE_DELAY: Duration = Duration::from_millis(100);
/// The view comes again from the platform and the roster from the proxies, so their files can wait.
const VIEW_DELAY: Duration = Duration::from_secs(1);
const ROSTER_DELAY: Duration = Duration::from_secs(1);

/// The files in the data folder.
#[derive(Clone, Debug)]
pub(crate) struct Keep {
    dir: PathBuf,
}

impl Keep {
    pub(crate) fn new(dir: &Path) -> Keep {
        Keep { dir: dir.to_owned() }
    }

    fn slice(&self) -> PathBuf {
        self.dir.join("slice")
    }

    fn view(&self) -> PathBuf {
        self.dir.join("view")
    }

    fn addresses(&self) -> PathBuf {
        self.dir.join("key-hosts")
    }

    fn roster(&self) -> PathBuf {
        self.dir.join("proxies")
    }

    /// `None` when there is none, or none that can be used; the reason is logged and the file set aside.
    pub(crate) fn load_slice(&self) -> Option<SliceCopy> {
        let bytes = read(&self.slice())?;
        let loaded = SliceCopy::from_bytes(&bytes).inspect_err(|error| set_aside(&self.slice(), error));
        let (copy, unread) = loaded.ok()?;
        for Rejection { name, reason } in unread {
            tracing::error!(name, reason, "starting without an item of the stored slice");
        }
        Some(copy)
    }

    /// As with the slice.
    pub(crate) fn load_view(&self) -> Option<Arc<View>> {
        let bytes = read(&self.view())?;
        let loaded = serde_json::from_slice(&bytes).inspect_err(|error| set_aside(&self.view(), error));
        loaded.ok().map(Arc::new)
    }

    /// Empty when there is none.
    pub(crate) fn load_roster(&self) -> Roster {
        let stored = read(&self.roster()).map(|bytes| serde_json::from_slice(&bytes));
        let loaded = stored.transpose().inspect_err(|error| {
            tracing::error!(
                error = chain(error),
                "starting without the stored names of proxies"
            );
        });
        loaded.ok().flatten().unwrap_or_default()
    }

    /// `None` when there are none.
    pub(crate) fn load_addresses(&self) -> Option<Arc<Addresses>> {
        let bytes = read(&self.addresses())?;
        let loaded = serde_json::from_slice(&bytes).inspect_err(|error| {
            tracing::error!(
                error = chain(error),
                "starting without the stored addresses of issuers"
            );
        });
        loaded.ok().map(Arc::new)
    }

    /// # Errors
    /// When it cannot be stored.
    pub(crate) fn next_incarnation(&self) -> Result<u64, LastGoodError> {
        incarnation::next(&self.dir.join("incarnation"))
    }

    pub(crate) async fn save_slices(self, slices: watch::Receiver<Option<Adopted>>, shutdown: Shutdown) {
        let bytes = |adopted: &Adopted| adopted.copy.to_bytes();
        save_latest(self.slice(), SLICE_DELAY, slices, bytes, shutdown).await;
    }

    pub(crate) async fn save_views(self, views: watch::Receiver<Option<Arc<View>>>, shutdown: Shutdown) {
        let bytes = |view: &Arc<View>| {
            Some(serde_json::to_vec(&**view).expect("invariant: a view's keys are strings"))
        };
        save_latest(self.view(), VIEW_DELAY, views, bytes, shutdown).await;
    }

    pub(crate) async fn save_addresses(
        self,
        addresses: watch::Receiver<Option<Arc<Addresses>>>,
        shutdown: Shutdown,
    ) {
        let bytes = |addresses: &Arc<Addresses>| {
            Some(serde_json::to_vec(&**addresses).expect("invariant: its keys are strings"))
        };
        save_latest(self.addresses(), VIEW_DELAY, addresses, bytes, shutdown).await;
    }

    pub(crate) async fn save_rosters(
        self,
        rosters: watch::Receiver<Option<Arc<Roster>>>,
        shutdown: Shutdown,
    ) {
        let bytes = |roster: &Arc<Roster>| {
            Some(serde_json::to_vec(&**roster).expect("invariant: a roster's keys are strings"))
        };
        save_latest(self.roster(), ROSTER_DELAY, rosters, bytes, shutdown).await;
    }
}

fn read(path: &Path) -> Option<Vec<u8>> {
    load(path)
        .inspect_err(|error| {
            tracing::error!(error = chain(error), "cannot use a file of the last good state");
        })
        .ok()
        .flatten()
}

/// So that nothing overwrites what another version could read.
fn set_aside(path: &Path, why: &(dyn Error + 'static)) {
    let moved = set_aside_unreadable(path);
    tracing::error!(
        reason = chain(why),
        error = chain(&moved),
        "starting without a file of the last good state"
    );
}

/// Writes the latest value `delay` after a change, and once more at the end.
async fn save_latest<T: Clone + Send + Sync + 'static>(
    path: PathBuf,
    delay: Duration,
    mut values: watch::Receiver<Option<T>>,
    bytes: fn(&T) -> Option<Vec<u8>>,
    mut shutdown: Shutdown,
) {
    let mut stopping = false;
    while !stopping {
        tokio::select! {
            changed = values.changed() => {
                if changed.is_err() {
                    return;
                }
                tokio::select! {
                    () = sleep(delay) => {}
                    () = shutdown.wait() => {}
                }
            }
            () = shutdown.wait() => {
                stopping = true;
                if !values.has_changed().unwrap_or(false) {
                    return;
                }
            }
        }
        let value = values.borrow_and_update().clone();
        let path = path.clone();
        let saved = spawn_blocking(move || {
            value
                .as_ref()
                .and_then(bytes)
                .map_or(Ok(()), |bytes| save(&path, &bytes))
        });
        if let Ok(Err(error)) = saved.await {
            tracing::error!(error = chain(&error), "the last good state on disk is old");
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_kept_is_loaded_and_what_is_damaged_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let keep = Keep::new(dir.path());
        assert!(keep.load_view().is_none() && keep.load_slice().is_none());
        let (views, receiver) = watch::channel(None);
        let (trigger, shutdown) = Shutdown::new();
        views.send_replace(Some(Arc::new(View::default())));
        trigger.fire();
        keep.clone().save_views(receiver, shutdown).await;
        assert_eq!(
            keep.load_view(),
            Some(Arc::default()),
            "the last change is written at the end"
        );
        for file in [keep.view(), keep.slice()] {
            save(&file, b"{\"of\": \"another version\"}").unwrap();
        }
        assert!(keep.load_view().is_none() && keep.load_slice().is_none());
        for file in [keep.view(), keep.slice()] {
            assert!(!file.exists() && file.with_extension("corrupt").exists());
        }
    }
}
