//! Central's last-good files: `incarnation`, `intent`, and `reports/CLUSTER` for each cluster that was ever heard.
//! They are read before anything is served, and written off the loop whenever something new is known.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tombolo_compiler::name::ClusterName;
use tombolo_runtime::incarnation;
use tombolo_runtime::last_good::{self, LastGoodError};
use tombolo_runtime::shutdown::Shutdown;
use tombolo_runtime::telemetry::chain;

use crate::item::{Reported, Wanted};
use crate::mirror::{Item, Mirror};
use crate::peer::Peer;
use crate::peers::Peers;

/// Files are flushed to the disk and receipts come with every change, so what arrives within this time is written together.
/// A crash meanwhile loses nothing: peers say it again.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
pub(crate) struct Disk {
    dir: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    #[error("cannot create the folder {path}: check --data-dir")]
    Create {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot list the folder {path}: check --data-dir")]
    List {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot record the start of this central: check --data-dir")]
    Incarnation(#[source] LastGoodError),
}

/// What was known when it was last known.
pub(crate) struct Known {
    pub(crate) intent: Mirror<Wanted>,
    pub(crate) reports: BTreeMap<ClusterName, Mirror<Reported>>,
}

impl Disk {
    /// # Errors
    /// When the folder cannot be created.
    pub(crate) fn open(dir: &Path) -> Result<Self, DiskError> {
        let disk = Self { dir: dir.to_owned() };
        let path = disk.reports_dir();
        fs::create_dir_all(&path).map_err(|source| DiskError::Create { path, source })?;
        Ok(disk)
    }

    /// # Errors
    /// When it cannot be written, without which the next life could not be told from this one.
    pub(crate) fn next_incarnation(&self) -> Result<u64, DiskError> {
        incarnation::next(&self.dir.join("incarnation")).map_err(DiskError::Incarnation)
    }

    /// A file that is damaged is reported and left out: what it concerned is then unknown, which is never empty.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub(crate) fn load(&self) -> Result<Known, DiskError> {
        let path = self.reports_dir();
        let list = |source| DiskError::List {
            path: path.clone(),
            source,
        };
        let mut reports = BTreeMap::new();
        for file in fs::read_dir(&path).map_err(list)? {
            let file = file.map_err(list)?;
            // What was set aside, or left by a crash, has a suffix that no cluster's name can have.
            let cluster = file.file_name().to_str().and_then(|name| name.parse().ok());
            if let Some(cluster) = cluster
                && let Some(mirror) = load_mirror(&file.path())
            {
                reports.insert(cluster, mirror);
            }
        }
        let intent = load_mirror(&self.intent_path()).unwrap_or_default();
        Ok(Known { intent, reports })
    }

    /// Writes what is new, or could not be written before, until the shutdown, and once more at it.
    pub(crate) async fn keep(self, peers: Arc<Peers>, failures: Counter, mut shutdown: Shutdown) {
        let mut is_last = false;
        while !is_last {
            tokio::select! {
                () = tokio::time::sleep(SAVE_INTERVAL) => {}
                () = shutdown.wait() => is_last = true,
            }
            save(self.intent_path(), peers.management(), &failures).await;
            for (cluster, edge) in peers.edges() {
                save(self.reports_dir().join(cluster.as_str()), &edge, &failures).await;
            }
        }
    }

    fn intent_path(&self) -> PathBuf {
        self.dir.join("intent")
    }

    fn reports_dir(&self) -> PathBuf {
        self.dir.join("reports")
    }
}

async fn save<T: Item>(path: PathBuf, peer: &Peer<T>, failures: &Counter) {
    let Some(bytes) = peer.take_unsaved() else { return };
    let saved = tokio::task::spawn_blocking(move || last_good::save(&path, &bytes)).await;
    if let Ok(Err(error)) = saved {
        tracing::error!(error = chain(&error), "a restart would not know the latest state");
        failures.inc();
        peer.set_unsaved();
    }
}

fn load_mirror<T: Item>(path: &Path) -> Option<Mirror<T>> {
    let bytes = readable(last_good::load(path))?;
    match Mirror::from_bytes(&bytes) {
        Ok(mirror) => Some(mirror),
        Err(error) => {
            tracing::error!(path = %path.display(), error = chain(&error), "starting without a last-good file");
            let aside = last_good::set_aside_unreadable(path);
            tracing::error!("{aside}");
            None
        }
    }
}

fn readable(loaded: Result<Option<Vec<u8>>, LastGoodError>) -> Option<Vec<u8>> {
    loaded.unwrap_or_else(|error| {
        tracing::error!(error = chain(&error), "starting without a last-good file");
        None
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn damaged_files_are_left_out_alone() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::open(folder.path()).unwrap();
        let reports = folder.path().join("reports");
        let whole = Mirror::<Reported>::default().to_bytes().unwrap();
        last_good::save(&reports.join("us-east"), &whole).unwrap();
        last_good::save(&reports.join("us-west"), b"{}").unwrap();
        fs::write(reports.join("eu-central"), "tmblo").unwrap();
        fs::write(folder.path().join("intent"), "").unwrap();
        let known = disk.load().unwrap();
        assert_eq!(
            known.reports.keys().map(ClusterName::as_str).collect::<Vec<_>>(),
            ["us-east"]
        );
        assert!(known.intent.stamp().is_none());
        assert!(reports.join("eu-central.corrupt").exists());
        assert!(
            reports.join("us-west.corrupt").exists(),
            "another version may read it"
        );
        assert!(folder.path().join("intent.corrupt").exists());
    }
}
