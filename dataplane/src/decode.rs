//! From the edge's resources to a [`Config`]: a pure function that takes what docs/xds.md names and refuses the
//! rest, by resource and field, so that a misunderstanding shows up on the resource that caused it instead of in the
//! traffic. One refused resource refuses its whole update.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::config::{Config, ResourceKind};

mod cluster;
mod endpoints;
mod fields;
mod filter;
mod listener;
mod matcher;
mod routes;

/// A resource as it came and as it is kept on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RawResource {
    pub(crate) version: String,
    pub(crate) body: Vec<u8>,
}

/// What one response changes, all of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Update {
    pub(crate) kind: ResourceKind,
    pub(crate) resources: Vec<(String, RawResource)>,
    pub(crate) removed: Vec<String>,
}

/// Why a resource was refused; shown as `NAME: reason`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rejection {
    pub(crate) name: String,
    pub(crate) reason: String,
}

/// Every resource the proxy holds, as received and as it is used.
#[derive(Clone, Debug, Default)]
pub(crate) struct Resources {
    raw: BTreeMap<ResourceKind, BTreeMap<Arc<str>, Arc<RawResource>>>,
    config: Config,
}

impl Resources {
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// The resources of a kind with their versions, by name.
    pub(crate) fn held(&self, kind: ResourceKind) -> impl Iterator<Item = (&Arc<str>, &Arc<RawResource>)> {
        self.raw.get(&kind).into_iter().flatten()
    }

    /// These resources after `update`, or everything that is wrong with it; `self` is unchanged either way.
    pub(crate) fn with(&self, update: &Update) -> Result<Self, Vec<Rejection>> {
        let mut next = self.clone();
        let mut rejections = Vec::new();
        for (name, raw) in &update.resources {
            match decode_one(update.kind, name, &raw.body, &mut next.config) {
                Ok(()) => {
                    next.raw
                        .entry(update.kind)
                        .or_default()
                        .insert(name.as_str().into(), Arc::new(raw.clone()));
                }
                Err(reason) => rejections.push(Rejection {
                    name: name.clone(),
                    reason,
                }),
            }
        }
        for name in &update.removed {
            next.remove(update.kind, name);
        }
        next.forget_unmentioned(ResourceKind::Endpoints);
        next.forget_unmentioned(ResourceKind::Routes);
        rejections.extend(next.conflicts());
        if rejections.is_empty() {
            Ok(next)
        } else {
            Err(rejections)
        }
    }

    fn remove(&mut self, kind: ResourceKind, name: &str) {
        if let Some(held) = self.raw.get_mut(&kind) {
            held.remove(name);
        }
        match kind {
            ResourceKind::Cluster => drop(self.config.clusters.remove(name)),
            ResourceKind::Endpoints => drop(self.config.endpoints.remove(name)),
            ResourceKind::Listener => drop(self.config.listeners.remove(name)),
            ResourceKind::Routes => drop(self.config.routes.remove(name)),
        }
    }

    /// Drops what is subscribed by name and not mentioned any more: the edge will not speak of it again.
    fn forget_unmentioned(&mut self, kind: ResourceKind) {
        let mentioned = self.config.mentioned(kind);
        let forgotten: Vec<Arc<str>> = self
            .held(kind)
            .map(|(name, _)| Arc::clone(name))
            .filter(|name| !mentioned.contains(name))
            .collect();
        for name in forgotten {
            self.remove(kind, &name);
        }
    }

    /// Listeners that exclude each other.
    fn conflicts(&self) -> Vec<Rejection> {
        let mut holders = BTreeMap::new();
        let mut conflicts = Vec::new();
        for (name, listener) in &self.config.listeners {
            if let Some(holder) = holders.insert(listener.address, name) {
                conflicts.push(Rejection {
                    name: name.to_string(),
                    reason: format!(
                        "address: {} is already used by listener {holder}",
                        listener.address
                    ),
                });
            }
        }
        conflicts
    }
}

/// Decodes one resource into its place in `config`.
pub(crate) fn decode_one(
    kind: ResourceKind,
    name: &str,
    body: &[u8],
    config: &mut Config,
) -> Result<(), String> {
    let key: Arc<str> = name.into();
    match kind {
        ResourceKind::Cluster => {
            config
                .clusters
                .insert(key, Arc::new(cluster::decode(name, body)?));
        }
        ResourceKind::Endpoints => {
            config
                .endpoints
                .insert(key, Arc::new(endpoints::decode(name, body)?));
        }
        ResourceKind::Listener => {
            config
                .listeners
                .insert(key, Arc::new(listener::decode(name, body)?));
        }
        ResourceKind::Routes => {
            config.routes.insert(key, Arc::new(routes::decode(name, body)?));
        }
    }
    Ok(())
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.reason)
    }
}

/// The text of a NACK.
pub(crate) fn describe(rejections: &[Rejection]) -> String {
    rejections
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

#[cfg(test)]
mod tests;
