//! The last good configuration on disk: the resources as received, in the form of the one response that would bring a new
//! proxy to where this one is. Checksum and atomic replacement are `tombolo_runtime::last_good`'s.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, Resource as PbResource};
use envoy_types::pb::google::protobuf::Any;
use prost::Message;
use tokio::sync::watch;
use tombolo_runtime::last_good::{self, LastGoodError};

use crate::config::ResourceKind;
use crate::decode::{RawResource, Rejection, Resources, Update, describe};
use crate::metrics::Metrics;

/// Name of the file in the proxy's data folder.
pub(crate) const FILE_NAME: &str = "last-good.xds";

#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error(transparent)]
    File(#[from] LastGoodError),
    #[error("the last-good configuration is not one: it was written by something else, remove it")]
    Decode(#[source] prost::DecodeError),
    #[error("the last-good configuration is not understood by this version ({}); starting without", describe(.0))]
    Rejected(Vec<Rejection>),
}

/// What was running when the process last ran; nothing when it never did.
pub(crate) fn load(path: &Path) -> Result<Resources, LoadError> {
    match last_good::load(path)? {
        Some(bytes) => decode(&bytes),
        None => Ok(Resources::default()),
    }
}

/// Writes each new value of `resources` to `path`; the last one also when the sender is gone, then ends.
pub(crate) async fn keep(
    path: PathBuf,
    mut resources: watch::Receiver<Arc<Resources>>,
    metrics: Arc<Metrics>,
) {
    while resources.changed().await.is_ok() {
        let value = Arc::clone(&resources.borrow_and_update());
        let path = path.clone();
        let saved = tokio::task::spawn_blocking(move || last_good::save(&path, &encode(&value))).await;
        match saved {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                metrics.last_good_errors.fetch_add(1, Ordering::Relaxed);
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the configuration would not survive a restart"
                );
            }
            // The runtime is shutting down.
            Err(_) => return,
        }
    }
}

fn encode(resources: &Resources) -> Vec<u8> {
    let mut all = DeltaDiscoveryResponse::default();
    for kind in ResourceKind::ALL {
        all.resources
            .extend(resources.held(kind).map(|(name, raw)| PbResource {
                name: name.to_string(),
                version: raw.version.clone(),
                resource: Some(Any {
                    type_url: kind.type_url().to_owned(),
                    value: raw.body.clone(),
                }),
                ..PbResource::default()
            }));
    }
    all.encode_to_vec()
}

fn decode(bytes: &[u8]) -> Result<Resources, LoadError> {
    let all = DeltaDiscoveryResponse::decode(bytes).map_err(LoadError::Decode)?;
    let mut resources = Resources::default();
    for kind in ResourceKind::ALL {
        let mut update = Update {
            kind,
            resources: Vec::new(),
            removed: Vec::new(),
        };
        for held in &all.resources {
            if let Some(any) = held
                .resource
                .as_ref()
                .filter(|any| any.type_url == kind.type_url())
            {
                let raw = RawResource {
                    version: held.version.clone(),
                    body: any.value.clone(),
                };
                update.resources.push((held.name.clone(), raw));
            }
        }
        resources = resources.with(&update).map_err(LoadError::Rejected)?;
    }
    Ok(resources)
}
