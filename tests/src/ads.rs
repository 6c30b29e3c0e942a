//! A control plane that says what a test tells it to: delta ADS with fixed resources, and what the proxies answered.
//! What the edge says is tested with the edge; this is for what it never would say, and for measuring proxies alone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use envoy_types::pb::google::protobuf::Any;
use futures::StreamExt;
use futures::stream::{self, Stream};
use prost::{Message, Name};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{TcpListenerStream, WatchStream};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

pub mod contract;
pub mod contrary;

/// Encoded resources by type URL and name. Whoever changes a few of many and publishes them pays for those few.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    by_type: BTreeMap<String, Arc<ByName>>,
}

type ByName = BTreeMap<String, Arc<Vec<u8>>>;

/// A running control plane; gone on drop.
#[derive(Debug)]
pub struct Ads {
    address: SocketAddr,
    resources: watch::Sender<Resources>,
    answers: watch::Receiver<Vec<Answer>>,
    server: JoinHandle<()>,
}

/// What a proxy said to an update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// `node.id`.
    pub node: String,
    pub type_url: String,
    /// The proxy's words when it refused the update.
    pub refusal: Option<String>,
}

impl Resources {
    pub fn insert<M: Message + Name>(&mut self, name: &str, resource: &M) {
        self.insert_raw(&M::type_url(), name, resource.encode_to_vec());
    }

    /// Whatever bytes, under whatever type.
    pub fn insert_raw(&mut self, type_url: &str, name: &str, body: Vec<u8>) {
        let by_name = self.by_type.entry(type_url.to_owned()).or_default();
        Arc::make_mut(by_name).insert(name.to_owned(), Arc::new(body));
    }
}

impl Ads {
    /// Listens on a free port of 127.0.0.1.
    pub async fn start(resources: Resources) -> Ads {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("cannot bind a port on 127.0.0.1");
        let address = listener
            .local_addr()
            .expect("invariant: a bound listener has an address");
        let (resources, offered) = watch::channel(resources);
        let (record, answers) = watch::channel(Vec::new());
        let service = AggregatedDiscoveryServiceServer::new(Service {
            offered,
            record: Arc::new(record),
        });
        let server = tokio::spawn(async move {
            let serving = Server::builder().add_service(service);
            serving
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .expect("cannot serve ADS");
        });
        Ads {
            address,
            resources,
            answers,
            server,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Offers these from now on.
    pub fn publish(&self, resources: Resources) {
        self.resources.send_replace(resources);
    }

    /// Every answer so far, oldest first.
    pub fn answers(&self) -> Vec<Answer> {
        self.answers.borrow().clone()
    }
}

impl Drop for Ads {
    fn drop(&mut self) {
        self.server.abort();
    }
}

struct Service {
    offered: watch::Receiver<Resources>,
    record: Arc<watch::Sender<Vec<Answer>>>,
}

enum Event {
    Request(Box<DeltaDiscoveryRequest>),
    Offered(Resources),
}

/// One proxy's stream: what it subscribes to, and what it has been sent.
#[derive(Default)]
struct Conversation {
    node: String,
    /// Names by type; `*` is all of them.
    wanted: BTreeMap<String, BTreeSet<String>>,
    sent: BTreeMap<String, ByName>,
    offered: Resources,
    nonce: u64,
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        _: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("this control plane speaks delta only"))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let requests = request
            .into_inner()
            .filter_map(async |request| request.ok().map(|request| Event::Request(Box::new(request))));
        let offers = WatchStream::new(self.offered.clone()).map(Event::Offered);
        let record = Arc::clone(&self.record);
        let mut conversation = Conversation::default();
        let responses = stream::select(requests, offers).map(move |event| conversation.on(event, &record));
        Ok(Response::new(Box::pin(
            responses.flat_map(|batch| stream::iter(batch).map(Ok)),
        )))
    }
}

impl Conversation {
    fn on(&mut self, event: Event, record: &watch::Sender<Vec<Answer>>) -> Vec<DeltaDiscoveryResponse> {
        let types: Vec<String> = match event {
            Event::Offered(resources) => {
                let before = std::mem::replace(&mut self.offered, resources);
                let same = |type_url: &&String| match (
                    before.by_type.get(*type_url),
                    self.offered.by_type.get(*type_url),
                ) {
                    (Some(before), Some(offered)) => Arc::ptr_eq(before, offered),
                    (before, offered) => before.is_none() && offered.is_none(),
                };
                let wanted = self.wanted.keys();
                wanted.filter(|type_url| !same(type_url)).cloned().collect()
            }
            Event::Request(request) => {
                let type_url = request.type_url.clone();
                self.heard(*request, record);
                vec![type_url]
            }
        };
        types
            .iter()
            .filter_map(|type_url| self.update(type_url))
            .collect()
    }

    fn heard(&mut self, request: DeltaDiscoveryRequest, record: &watch::Sender<Vec<Answer>>) {
        if let Some(node) = request.node {
            self.node = node.id;
        }
        let first = !self.wanted.contains_key(&request.type_url);
        let wanted = self.wanted.entry(request.type_url.clone()).or_default();
        if first && request.resource_names_subscribe.is_empty() {
            wanted.insert("*".to_owned());
        }
        for name in request.resource_names_subscribe {
            // Whoever asks is answered, also when it was told before.
            self.sent
                .entry(request.type_url.clone())
                .or_default()
                .remove(&name);
            wanted.insert(name);
        }
        for name in &request.resource_names_unsubscribe {
            wanted.remove(name);
        }
        if !request.response_nonce.is_empty() {
            let answer = Answer {
                node: self.node.clone(),
                type_url: request.type_url,
                refusal: request.error_detail.map(|status| status.message),
            };
            record.send_modify(|answers| answers.push(answer));
        }
    }

    /// What this type's subscriber lacks.
    fn update(&mut self, type_url: &str) -> Option<DeltaDiscoveryResponse> {
        let wanted = &self.wanted[type_url];
        let wanted = |name: &&String| wanted.contains("*") || wanted.contains(*name);
        let nothing = Arc::default();
        let offered = self.offered.by_type.get(type_url).unwrap_or(&nothing);
        let sent = self.sent.entry(type_url.to_owned()).or_default();
        let is_same = |held: &Arc<Vec<u8>>, body: &Arc<Vec<u8>>| Arc::ptr_eq(held, body) || held == body;
        let changed: Vec<(String, Arc<Vec<u8>>)> = offered
            .iter()
            .filter(|(name, _)| wanted(name))
            .filter(|(name, body)| !sent.get(*name).is_some_and(|held| is_same(held, body)))
            .map(|(name, body)| (name.clone(), Arc::clone(body)))
            .collect();
        let is_offered = |name: &&String| wanted(name) && offered.contains_key(*name);
        let removed: Vec<String> = sent.keys().filter(|name| !is_offered(name)).cloned().collect();
        if changed.is_empty() && removed.is_empty() {
            return None;
        }
        self.nonce += 1;
        let version = self.nonce.to_string();
        for name in &removed {
            sent.remove(name);
        }
        sent.extend(changed.iter().cloned());
        let resources = changed.into_iter().map(|(name, body)| Resource {
            name,
            version: version.clone(),
            resource: Some(Any {
                type_url: type_url.to_owned(),
                value: body.to_vec(),
            }),
            ..Resource::default()
        });
        let response = DeltaDiscoveryResponse {
            system_version_info: version.clone(),
            resources: resources.collect(),
            type_url: type_url.to_owned(),
            removed_resources: removed,
            nonce: version.clone(),
            ..DeltaDiscoveryResponse::default()
        };
        Some(response)
    }
}
