//! The last good configuration on disk: the resources as received, in the form of the one response that would bring a new
//! proxy to where this one is. Checksum and atomic replacement are `tombolo_runtime::last_good`'s.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, Resource as PbResource};
use envoy_types::pb::google::protobuf::Any;
use prost::Message;
use tokio::sync::watch;
use tokio::time::Instant;
use tombolo_runtime::last_good::{self, LastGoodError};

use crate::config::{Listener, ResourceKind};
use crate::decode::{RawResource, Rejection, Resources, Update};
use crate::metrics::Metrics;

/// Name of the file in the proxy's data folder.
pub(crate) const FILE_NAME: &str = "last-good.xds";
/// Changes come in bursts, over the whole machine at once, and each save costs two fsyncs: they wait until the
/// change is live everywhere. A crash meanwhile loses what the edge sends again.
const COLLECT_DELAY: Duration = Duration::from_secs(1);
/// Saves are this many times as far apart as one takes, so that a large configuration that changes all the time leaves the
/// processor to the requests...
const PAUSE_FACTOR: u32 = 200;
/// ...but no further than this, and as far when a save has failed.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// What a file holds, as far as this version reads it.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) resources: Resources,
    /// What was left out, and why.
    pub(crate) rejections: Vec<Rejection>,
}

/// What was running when the process last ran; nothing when it never did. A resource that this version refuses, as after
/// a rollback, costs only itself and what cannot work without it. A file that cannot be read at all is set aside.
pub(crate) fn load(path: &Path) -> Result<Loaded, LastGoodError> {
    match last_good::load(path)? {
        Some(bytes) => read(&bytes).map_err(|_| last_good::set_aside_unreadable(path)),
        None => Ok(Loaded::default()),
    }
}

/// What was encoded here, or by another version.
pub(crate) fn read(bytes: &[u8]) -> Result<Loaded, prost::DecodeError> {
    DeltaDiscoveryResponse::decode(bytes).map(|stored| readable(&stored))
}

/// Writes new values of `resources` to `path`, those that come close upon each other as one; the last one also when the sender is
/// gone, at once, then ends. What could not be written is tried again.
pub(crate) async fn keep(
    path: PathBuf,
    mut resources: watch::Receiver<Arc<Resources>>,
    metrics: Arc<Metrics>,
) {
    let mut not_before = Instant::now();
    while resources.changed().await.is_ok() {
        tokio::select! {
            () = tokio::time::sleep_until(not_before.max(Instant::now() + COLLECT_DELAY)) => {}
            () = ended(&mut resources) => {}
        }
        let is_last = resources.has_changed().is_err();
        let value = Arc::clone(&resources.borrow_and_update());
        let path = path.clone();
        let began = Instant::now();
        let saved = tokio::task::spawn_blocking(move || last_good::save(&path, &encode(&value))).await;
        match saved {
            Ok(Ok(())) => not_before = Instant::now() + pause_after(began.elapsed()),
            Ok(Err(error)) => {
                metrics.last_good_errors.fetch_add(1, Ordering::Relaxed);
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the configuration would not survive a restart"
                );
                if is_last {
                    return;
                }
                resources.mark_changed();
                not_before = Instant::now() + PAUSE_MAX;
            }
            // The runtime is shutting down.
            Err(_) => return,
        }
    }
}

/// Ready when no more values come.
async fn ended(resources: &mut watch::Receiver<Arc<Resources>>) {
    while resources.changed().await.is_ok() {}
}

/// The pause after a save that took so long.
fn pause_after(took: Duration) -> Duration {
    took.saturating_mul(PAUSE_FACTOR).clamp(COLLECT_DELAY, PAUSE_MAX)
}

pub(crate) fn encode(resources: &Resources) -> Vec<u8> {
    let mut all = Vec::new();
    for kind in ResourceKind::ALL {
        for (name, raw) in resources.held(kind) {
            let resource = PbResource {
                name: name.to_string(),
                version: raw.version.clone(),
                resource: Some(Any {
                    type_url: kind.type_url().to_owned(),
                    value: raw.body.clone(),
                }),
                ..PbResource::default()
            };
            let one = DeltaDiscoveryResponse {
                resources: vec![resource],
                ..DeltaDiscoveryResponse::default()
            };
            // Messages one behind the other are one message with the lists of all.
            one.encode(&mut all).expect("invariant: a vector has room");
        }
    }
    all
}

/// `resources` less the listeners that are named.
pub(crate) fn without_listeners(resources: &Resources, names: Vec<String>) -> Resources {
    let removal = Update {
        kind: ResourceKind::Listener,
        resources: Vec::new(),
        removed: names,
    };
    resources
        .with(&removal)
        .expect("invariant: a removal adds nothing that could be refused")
}

/// All of `stored` that decodes, by kind.
fn readable(stored: &DeltaDiscoveryResponse) -> Loaded {
    let mut loaded = Loaded::default();
    for kind in ResourceKind::ALL {
        loaded.add(update(kind, stored));
    }
    loaded.remove_orphans();
    loaded
}

fn update(kind: ResourceKind, stored: &DeltaDiscoveryResponse) -> Update {
    let resources = stored.resources.iter().filter_map(|held| {
        let any = held.resource.as_ref()?;
        let raw = RawResource {
            version: held.version.clone(),
            body: any.value.clone(),
        };
        (any.type_url == kind.type_url()).then(|| (held.name.clone(), raw))
    });
    Update {
        kind,
        resources: resources.collect(),
        removed: Vec::new(),
    }
}

impl Loaded {
    /// Takes what of `update` is not refused.
    fn add(&mut self, mut update: Update) {
        loop {
            let rejections = match self.resources.with(&update) {
                Ok(next) => {
                    self.resources = next;
                    return;
                }
                Err(rejections) => rejections,
            };
            let before = update.resources.len();
            update
                .resources
                .retain(|(name, _)| !rejections.iter().any(|rejection| rejection.name == *name));
            self.rejections.extend(rejections);
            if update.resources.len() == before {
                // What is refused is none of these, so leaving them out one by one would not help.
                return;
            }
        }
    }

    /// A listener whose route table was left out would answer 404 where another proxy, or a retry, may know better.
    fn remove_orphans(&mut self) {
        let config = self.resources.config();
        let is_refused = |routes: &str| self.rejections.iter().any(|rejection| rejection.name == routes);
        let is_left_out = |routes: &str| !config.routes.contains(routes) && is_refused(routes);
        let orphan = |(name, listener): (&Arc<str>, &Arc<Listener>)| {
            let mut tables = listener.chains.iter().filter_map(|chain| chain.routes());
            let routes = tables.find(|routes| is_left_out(routes))?;
            Some(Rejection {
                name: name.to_string(),
                reason: format!("its route table {routes} was left out"),
            })
        };
        let orphans: Vec<Rejection> = config.listeners.iter().filter_map(orphan).collect();
        let names = orphans.iter().map(|orphan| orphan.name.clone()).collect();
        self.resources = without_listeners(&self.resources, names);
        self.rejections.extend(orphans);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::decode::samples;

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

    #[tokio::test]
    async fn the_last_value_is_on_disk_when_the_keeper_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE_NAME);
        let (sender, receiver) = watch::channel(Arc::default());
        let keeper = tokio::spawn(keep(path.clone(), receiver, Arc::default()));
        let began = Instant::now();
        for names in [&["a"][..], &["a", "b"], &["b", "c"]] {
            sender.send_replace(holding(names));
            tokio::task::yield_now().await;
        }
        drop(sender);
        keeper.await.unwrap();
        assert_eq!(names(&path), ["b", "c"]);
        assert!(
            began.elapsed() < COLLECT_DELAY,
            "nothing more was to be waited for"
        );
    }

    #[tokio::test]
    async fn what_could_not_be_written_is_written_later() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("later");
        let path = folder.join(FILE_NAME);
        let metrics = Arc::<Metrics>::default();
        let (sender, receiver) = watch::channel(Arc::default());
        let keeper = tokio::spawn(keep(path.clone(), receiver, Arc::clone(&metrics)));
        sender.send_replace(holding(&["a"]));
        while metrics.last_good_errors.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        std::fs::create_dir(&folder).unwrap();
        drop(sender);
        keeper.await.unwrap();
        assert_eq!(names(&path), ["a"]);
    }

    #[test]
    fn large_configurations_are_saved_less_often() {
        let ms = Duration::from_millis;
        for (took, pause) in [(0, 1_000), (5, 1_000), (20, 4_000), (1_000, 30_000)] {
            assert_eq!(pause_after(ms(took)), ms(pause), "{took}");
        }
    }
}
