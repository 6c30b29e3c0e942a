//! From the edge's resources to a [`Config`]: a pure function that takes what docs/xds.md names and refuses the
//! rest, by resource and field, so that a misunderstanding shows up on the resource that caused it instead of in the
//! traffic.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::sync::Arc;

use crate::by_name::ByName;
use crate::config::{Config, ResourceKind};

mod access_log;
mod cluster;
mod descriptor;
mod endpoints;
mod fields;
mod filter;
mod grpc_service;
mod hash;
mod header_rules;
mod limits;
mod listener;
mod matcher;
mod otlp;
mod outlier;
mod proxy_protocol;
mod require_tls;
mod retry;
mod routes;
mod slow_start;
mod subset;
mod tls;
mod tracing;
mod upgrade;
mod wire;

pub(crate) use fields::join as joined;
pub(crate) use filter::quota_actions;

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

impl Update {
    pub(crate) fn len(&self) -> usize {
        self.resources.len() + self.removed.len()
    }

    /// What can still be had of it, if anything, when these were refused; a refusal of none of its resources is one of all.
    pub(crate) fn without(mut self, refused: &[Rejection]) -> Option<Self> {
        let before = self.resources.len();
        let refused: HashSet<&str> = refused.iter().map(|refused| refused.name.as_str()).collect();
        self.resources
            .retain(|(name, _)| !refused.contains(name.as_str()));
        let is_less = self.resources.len() < before;
        (is_less && self.len() > 0).then_some(self)
    }
}

/// Every resource the proxy holds, as received and as it is used.
#[derive(Clone, Debug, Default)]
pub(crate) struct Resources {
    raw: BTreeMap<ResourceKind, ByName<Arc<RawResource>>>,
    config: Config,
}

impl Resources {
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// The resources of a kind with their versions, by name.
    pub(crate) fn held(&self, kind: ResourceKind) -> impl Iterator<Item = (&Arc<str>, &Arc<RawResource>)> {
        self.raw.get(&kind).into_iter().flat_map(ByName::iter)
    }

    /// These resources after `update`, or everything that is wrong with it; `self` is unchanged either way.
    pub(crate) fn with(&self, update: &Update) -> Result<Self, Vec<Rejection>> {
        let mut next = self.clone();
        let mut rejections = Vec::new();
        for (name, raw) in &update.resources {
            if let Err(reason) = next.take(update.kind, name, raw) {
                rejections.push(Rejection {
                    name: name.clone(),
                    reason,
                });
            }
        }
        for name in &update.removed {
            next.remove(update.kind, name);
        }
        next.forget_unwanted(update);
        if update.kind == ResourceKind::Listener {
            rejections.extend(next.conflicts(update));
        }
        if rejections.is_empty() {
            Ok(next)
        } else {
            Err(rejections)
        }
    }

    /// Decodes one resource into its place.
    fn take(&mut self, kind: ResourceKind, name: &str, raw: &RawResource) -> Result<(), String> {
        let key: Arc<str> = name.into();
        let body = &raw.body;
        let held = self.raw.entry(kind).or_default();
        let config = &mut self.config;
        let is_held = held.get(name).is_some_and(|held| held.body == *body);
        match kind {
            // Said again, as after a change of the edge's mind: all that it may have anew is its version.
            _ if is_held => {}
            ResourceKind::Cluster => {
                let cluster = Arc::new(cluster::decode(name, body)?);
                config.clusters.insert(Arc::clone(&key), cluster);
            }
            ResourceKind::Endpoints => {
                let endpoints = Arc::new(endpoints::decode(name, body)?);
                config.endpoints.insert(Arc::clone(&key), endpoints);
            }
            ResourceKind::Listener => {
                let listener = Arc::new(listener::decode(name, body)?);
                config.listeners.insert(Arc::clone(&key), listener);
            }
            ResourceKind::Secret => {
                let secret = Arc::new(tls::secret(name, body)?);
                config.secrets.insert(Arc::clone(&key), secret);
            }
            ResourceKind::Routes => {
                let table = config.routes.get(name).zip(held.get(name));
                let table = table.map(|(table, raw)| routes::Held::new(table, &raw.body));
                let table = Arc::new(routes::decode(name, body, table)?);
                config.routes.insert(Arc::clone(&key), table);
            }
        }
        held.insert(key, Arc::new(raw.clone()));
        Ok(())
    }

    fn remove(&mut self, kind: ResourceKind, name: &str) {
        if let Some(held) = self.raw.get_mut(&kind) {
            held.remove(name);
        }
        match kind {
            ResourceKind::Cluster => self.config.clusters.remove(name),
            ResourceKind::Endpoints => self.config.endpoints.remove(name),
            ResourceKind::Listener => self.config.listeners.remove(name),
            ResourceKind::Secret => self.config.secrets.remove(name),
            ResourceKind::Routes => self.config.routes.remove(name),
        }
    }

    /// Drops what is subscribed by name and after `update` is not wanted any more: the edge will not speak of it again.
    fn forget_unwanted(&mut self, update: &Update) {
        let unheard = |wanted: &BTreeSet<Arc<str>>, held: Vec<&Arc<str>>| -> Vec<Arc<str>> {
            let unwanted = held.into_iter().filter(|name| !wanted.contains(*name));
            unwanted.cloned().collect()
        };
        let endpoints = match update.kind {
            ResourceKind::Cluster | ResourceKind::Endpoints => {
                let told = update.resources.iter().map(|(name, _)| name);
                let told = told.chain(&update.removed);
                let told = told.filter(|name| !self.config.clusters.contains(name));
                told.map(|name| name.as_str().into()).collect()
            }
            _ => Vec::new(),
        };
        let routes = match update.kind {
            ResourceKind::Listener | ResourceKind::Routes => {
                unheard(&self.config.wanted_routes(), self.config.routes.names().collect())
            }
            _ => Vec::new(),
        };
        let secrets = match update.kind {
            ResourceKind::Cluster | ResourceKind::Listener | ResourceKind::Secret => unheard(
                &self.config.wanted_secrets(),
                self.config.secrets.names().collect(),
            ),
            _ => Vec::new(),
        };
        for (kind, names) in [
            (ResourceKind::Endpoints, endpoints),
            (ResourceKind::Routes, routes),
            (ResourceKind::Secret, secrets),
        ] {
            names.iter().for_each(|name| self.remove(kind, name));
        }
    }

    /// Listeners that exclude each other; the update's are to blame, if any of it is.
    fn conflicts(&self, update: &Update) -> Vec<Rejection> {
        let mut holders = BTreeMap::new();
        let mut conflicts = Vec::new();
        for (name, listener) in self.config.listeners.iter() {
            if let Some(holder) = holders.insert(listener.address, name) {
                let is_new = update.resources.iter().any(|(new, _)| **new == **name);
                let (new, old) = if is_new { (name, holder) } else { (holder, name) };
                conflicts.push(Rejection {
                    name: new.to_string(),
                    reason: format!("address: {} is already used by listener {old}", listener.address),
                });
            }
        }
        conflicts
    }
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
mod reuse_tests;
#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod tests;
