//! The delta-xDS session without its I/O: what to ask for when a stream opens, what to ask for when the configuration has changed,
//! how a response is understood, acknowledged and refused.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use envoy_types::pb::google::rpc::Status;

use crate::by_name::{ByName, Change};
use crate::config::{Cluster, Config, ResourceKind};
use crate::decode::{RawResource, Rejection, Resources, Update, describe};

/// gRPC's `INVALID_ARGUMENT`.
const INVALID_ARGUMENT: i32 = 3;

/// One stream's subscriptions.
#[derive(Debug)]
pub(crate) struct Session {
    node: Option<Node>,
    /// Those whose endpoints are subscribed.
    clusters: ByName<Arc<Cluster>>,
    routes: BTreeSet<Arc<str>>,
    secrets: BTreeSet<Arc<str>>,
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
        let config = resources.config();
        let mut session = Self {
            node: Some(node),
            clusters: config.clusters.clone(),
            routes: config.wanted_routes(),
            secrets: config.wanted_secrets(),
        };
        let mut requests = Vec::new();
        for kind in ResourceKind::ALL {
            let names: Vec<String> = match kind {
                ResourceKind::Endpoints => {
                    let clusters = config
                        .clusters
                        .iter()
                        .filter(|(_, cluster)| has_endpoints(cluster));
                    clusters.map(|(name, _)| name.to_string()).collect()
                }
                ResourceKind::Secret => session.secrets.iter().map(ToString::to_string).collect(),
                ResourceKind::Routes => session.routes.iter().map(ToString::to_string).collect(),
                ResourceKind::Cluster | ResourceKind::Listener => Vec::new(),
            };
            // For what is subscribed by name, a first request without names would be a wildcard.
            if names.is_empty() && is_by_name(kind) {
                continue;
            }
            requests.push(DeltaDiscoveryRequest {
                resource_names_subscribe: names,
                initial_resource_versions: versions(resources, kind),
                ..session.request(kind.type_url())
            });
        }
        (session, requests)
    }

    /// The changes of subscriptions that `config` calls for.
    pub(crate) fn follow(&mut self, config: &Config) -> Vec<DeltaDiscoveryRequest> {
        // It is names that are subscribed, whatever else they stand for.
        let same = |now: &Arc<Cluster>, before: &Arc<Cluster>| has_endpoints(now) == has_endpoints(before);
        let clusters = config.clusters.changes(&self.clusters, same);
        let names = |is_meant: fn(&&Change<'_, Arc<Cluster>>) -> bool| -> Vec<String> {
            let meant = clusters.iter().filter(is_meant);
            meant.map(|change| change.name.to_string()).collect()
        };
        let endpoints = (
            names(|change| change.now.is_some_and(has_endpoints)),
            names(|change| change.before.is_some_and(has_endpoints)),
        );
        let wanted = config.wanted_routes();
        let names = |of: &BTreeSet<Arc<str>>, without: &BTreeSet<Arc<str>>| -> Vec<String> {
            of.difference(without).map(ToString::to_string).collect()
        };
        let routes = (names(&wanted, &self.routes), names(&self.routes, &wanted));
        self.routes = wanted;
        let wanted = config.wanted_secrets();
        let secrets = (names(&wanted, &self.secrets), names(&self.secrets, &wanted));
        self.secrets = wanted;
        self.clusters = config.clusters.clone();
        let mut requests = Vec::new();
        for (kind, (added, dropped)) in [
            (ResourceKind::Endpoints, endpoints),
            (ResourceKind::Secret, secrets),
            (ResourceKind::Routes, routes),
        ] {
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

/// Whether the edge says which hosts it has.
fn has_endpoints(cluster: &Arc<Cluster>) -> bool {
    cluster.original.is_none()
}

fn is_by_name(kind: ResourceKind) -> bool {
    matches!(
        kind,
        ResourceKind::Endpoints | ResourceKind::Secret | ResourceKind::Routes
    )
}

fn versions(resources: &Resources, kind: ResourceKind) -> HashMap<String, String> {
    resources
        .held(kind)
        .map(|(name, raw)| (name.to_string(), raw.version.clone()))
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use envoy_types::pb::envoy::service::discovery::v3::Resource;
    use envoy_types::pb::google::protobuf::Any;

    use super::*;
    use crate::config::{Cluster, Protocol};

    fn config(clusters: &[&str]) -> Config {
        let cluster = Arc::new(Cluster {
            connect_timeout: std::time::Duration::from_secs(1),
            protocol: Protocol::Http1,
            health_check: None,
            panic_threshold_percent: 50.0,
            close_on_failure: false,
            balancer: crate::balance::Balancer::LeastRequest,
            is_by_locality: false,
            subsets: None,
            slow_start: None,
            limits: crate::breaker::Limits::DEFAULT,
            outliers: None,
            tls: None,
            greeting: None,
            original: None,
        });
        let clusters = clusters
            .iter()
            .map(|name| ((*name).into(), Arc::clone(&cluster)))
            .collect();
        Config {
            clusters,
            ..Config::default()
        }
    }

    /// `config`, with a cluster of which the edge says no hosts.
    fn captured(name: &str, mut config: Config) -> Config {
        let cluster = config.clusters.values().next().unwrap();
        let cluster = Cluster {
            original: Some(std::time::Duration::from_secs(5)),
            ..(**cluster).clone()
        };
        config.clusters.insert(name.into(), Arc::new(cluster));
        config
    }

    /// Kind, names subscribed, names unsubscribed, whether the node is named.
    fn shown(requests: &[DeltaDiscoveryRequest]) -> Vec<(&'static str, String, String, bool)> {
        requests
            .iter()
            .map(|request| {
                (
                    ResourceKind::of(&request.type_url).map_or("?", ResourceKind::word),
                    request.resource_names_subscribe.join(" "),
                    request.resource_names_unsubscribe.join(" "),
                    request.node.is_some(),
                )
            })
            .collect()
    }

    fn row(
        kind: &'static str,
        subscribed: &str,
        unsubscribed: &str,
        node: bool,
    ) -> (&'static str, String, String, bool) {
        (kind, subscribed.to_owned(), unsubscribed.to_owned(), node)
    }

    #[test]
    fn subscriptions_follow_the_configuration() {
        let (mut session, first) = Session::open(Node::default(), &Resources::default());
        assert_eq!(
            shown(&first),
            [row("cluster", "", "", true), row("listener", "", "", false)]
        );
        let cases = [
            (config(&["a", "b"]), vec![row("endpoints", "a b", "", false)]),
            (config(&["a", "b"]), vec![]),
            (config(&["b", "c"]), vec![row("endpoints", "c", "a", false)]),
            (
                captured("c", config(&["b"])),
                vec![row("endpoints", "", "c", false)],
            ),
            (
                captured("d", config(&["b", "c"])),
                vec![row("endpoints", "c", "", false)],
            ),
            (config(&[]), vec![row("endpoints", "", "b c", false)]),
        ];
        for (config, expected) in cases {
            assert_eq!(shown(&session.follow(&config)), expected);
        }
    }

    #[test]
    fn answers_carry_the_nonce_and_the_reasons() {
        let (mut session, _) = Session::open(Node::default(), &Resources::default());
        let type_url = ResourceKind::Cluster.type_url();
        let ack = session.ack(type_url, "7");
        assert_eq!((ack.response_nonce.as_str(), ack.error_detail), ("7", None));
        let rejections = ["a", "b"].map(|name| Rejection {
            name: name.to_owned(),
            reason: "bad".to_owned(),
        });
        let nack = session.nack(type_url, "8", &rejections);
        assert_eq!(nack.response_nonce, "8");
        let status = nack.error_detail.unwrap_or_default();
        assert_eq!(
            (status.code, status.message.as_str()),
            (INVALID_ARGUMENT, "a: bad; b: bad")
        );
    }

    #[test]
    fn a_response_is_of_one_known_type() {
        let type_url = ResourceKind::Cluster.type_url();
        let resource = |type_url: &str| Resource {
            name: "a".to_owned(),
            resource: Some(Any {
                type_url: type_url.to_owned(),
                value: vec![],
            }),
            ..Resource::default()
        };
        let cases = [
            (type_url, vec![resource(type_url)], None),
            (
                "what",
                vec![],
                Some("what: this type was not asked for".to_owned()),
            ),
            (
                type_url,
                vec![resource("what")],
                Some(format!("a: resource: is a what, not a {type_url}")),
            ),
            (
                type_url,
                vec![Resource {
                    name: "a".to_owned(),
                    ..Resource::default()
                }],
                Some("a: resource: is required".to_owned()),
            ),
        ];
        for (type_url, resources, expected) in cases {
            let response = DeltaDiscoveryResponse {
                type_url: type_url.to_owned(),
                resources,
                ..Default::default()
            };
            let told = Received::from(response)
                .update
                .err()
                .map(|rejections| describe(&rejections));
            assert_eq!(told, expected);
        }
    }
}
