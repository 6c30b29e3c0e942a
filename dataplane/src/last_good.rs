//! The last good configuration on disk: the resources as received, in the form of the one response that would bring a new
//! proxy to where this one is. Checksum and atomic replacement are `tombolo_runtime::last_good`'s.

use std::path::Path;
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, Resource as PbResource};
use envoy_types::pb::google::protobuf::Any;
use prost::Message;
use tombolo_runtime::last_good::{self, LastGoodError};

use crate::config::{Listener, ResourceKind};
use crate::decode::{RawResource, Rejection, Resources, Update};

mod keeper;

pub(crate) use keeper::{Keeper, Rest};

/// Name of the file in the proxy's data folder.
pub(crate) const FILE_NAME: &str = "last-good.xds";
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
