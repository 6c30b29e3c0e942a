//! The delta-xDS session without its I/O: what to ask for when a stream opens, what to ask for when the configuration has changed,
//! how a response is understood, acknowledged and refused.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use envoy_types::pb::google::rpc::Status;

use crate::config::{Config, ResourceKind};
use crate::decode::{RawResource, Rejection, Resources, Update, describe};

/// gRPC's `INVALID_ARGUMENT`.
const INVALID_ARGUMENT: i32 = 3;

/// One stream's subscriptions.
#[derive(Debug)]
pub(crate) struct Session {
    node: Option<Node>,
    subscribed: BTreeMap<ResourceKind, BTreeSet<Arc<str>>>,
}

/// A response, as far as it can be understood without its resources' insides.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) type_url: String,
    pub(crate) nonce: String,
    pub(crate) update: Result<Update, Vec<Rejection>>,
}

impl Session {
    /// Starts a stream that continues from `resources`: wildcards for clusters and listeners, names for the rest, with the
    /// versions held.
    pub(crate) fn open(node: Node, resources: &Resources) -> (Self, Vec<DeltaDiscoveryRequest>) {
        let mut session = Self {
            node: Some(node),
            subscribed: BTreeMap::new(),
        };
        let mut requests = Vec::new();
        for kind in ResourceKind::ALL {
            let names = resources.config().mentioned(kind);
            // For what is subscribed by name, a first request without names would be a wildcard.
            if names.is_empty() && is_by_name(kind) {
                continue;
            }
            requests.push(DeltaDiscoveryRequest {
                resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
                initial_resource_versions: versions(resources, kind),
                ..session.request(kind.type_url())
            });
            session.subscribed.insert(kind, names);
        }
        (session, requests)
    }

    /// The changes of subscriptions that `config` calls for.
    pub(crate) fn follow(&mut self, config: &Config) -> Vec<DeltaDiscoveryRequest> {
        let mut requests = Vec::new();
        for kind in [ResourceKind::Endpoints, ResourceKind::Routes] {
            let wanted = config.mentioned(kind);
            let held = self.subscribed.entry(kind).or_default();
            let names = |of: &BTreeSet<Arc<str>>, without: &BTreeSet<Arc<str>>| -> Vec<String> {
                of.difference(without).map(ToString::to_string).collect()
            };
            let (added, dropped) = (names(&wanted, held), names(held, &wanted));
            *held = wanted;
            if !added.is_empty() || !dropped.is_empty() {
                requests.push(DeltaDiscoveryRequest {
                    resource_names_subscribe: added,
                    resource_names_unsubscribe: dropped,
                    ..self.request(kind.type_url())
                });
            }
        }
        requests
    }

    pub(crate) fn ack(&mut self, type_url: &str, nonce: &str) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest {
            response_nonce: nonce.to_owned(),
            ..self.request(type_url)
        }
    }

    pub(crate) fn nack(
        &mut self,
        type_url: &str,
        nonce: &str,
        rejections: &[Rejection],
    ) -> DeltaDiscoveryRequest {
        let status = Status {
            code: INVALID_ARGUMENT,
            message: describe(rejections),
            ..Status::default()
        };
        DeltaDiscoveryRequest {
            error_detail: Some(status),
            ..self.ack(type_url, nonce)
        }
    }

    /// A request; the first of a stream names the node.
    fn request(&mut self, type_url: &str) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest {
            node: self.node.take(),
            type_url: type_url.to_owned(),
            ..DeltaDiscoveryRequest::default()
        }
    }
}

impl From<DeltaDiscoveryResponse> for Received {
    fn from(response: DeltaDiscoveryResponse) -> Self {
        let DeltaDiscoveryResponse {
            type_url,
            nonce,
            resources,
            removed_resources,
            ..
        } = response;
        let Some(kind) = ResourceKind::of(&type_url) else {
            let rejection = Rejection {
                name: type_url.clone(),
                reason: "this type was not asked for".to_owned(),
            };
            return Self {
                type_url,
                nonce,
                update: Err(vec![rejection]),
            };
        };
        let mut update = Update {
            kind,
            resources: Vec::new(),
            removed: removed_resources,
        };
        let mut rejections = Vec::new();
        for resource in resources {
            let reject = |reason: String| Rejection {
                name: resource.name.clone(),
                reason,
            };
            match resource.resource {
                None => rejections.push(reject("resource: is required".to_owned())),
                Some(any) if any.type_url != type_url => {
                    rejections.push(reject(format!(
                        "resource: is a {}, not a {type_url}",
                        any.type_url
                    )));
                }
                Some(any) => {
                    let raw = RawResource {
                        version: resource.version,
                        body: any.value,
                    };
                    update.resources.push((resource.name, raw));
                }
            }
        }
        let update = if rejections.is_empty() {
            Ok(update)
        } else {
            Err(rejections)
        };
        Self {
            type_url,
            nonce,
            update,
        }
    }
}

fn is_by_name(kind: ResourceKind) -> bool {
    matches!(kind, ResourceKind::Endpoints | ResourceKind::Routes)
}

fn versions(resources: &Resources, kind: ResourceKind) -> HashMap<String, String> {
    resources
        .held(kind)
        .map(|(name, raw)| (name.to_string(), raw.version.clone()))
        .collect()
}
