//! An edge in the test's own process: a delta-ADS server that is told what to hold, pushes what differs, and writes down
//! what the proxy answers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use envoy_types::pb::google::protobuf::Any;
use prost::{Message, Name};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::proxy::free_address;
use super::quotas::Quotas;

pub(crate) const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
pub(crate) const ENDPOINTS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
pub(crate) const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
pub(crate) const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
pub(crate) const ROUTES: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
/// The order on the wire of docs/xds.md.
const ORDER: [&str; 5] = [CLUSTER, ENDPOINTS, SECRET, LISTENER, ROUTES];

/// Type URL and name.
type Key = (String, String);

/// Version and body of each resource.
type Held = BTreeMap<Key, (String, Vec<u8>)>;

/// The edge; drop it and it is dead.
pub(crate) struct AdsServer {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

struct Shared {
    held: watch::Sender<Held>,
    log: Mutex<Vec<DeltaDiscoveryRequest>>,
    /// The version of each resource that the proxy acknowledged last.
    acknowledged: Mutex<BTreeMap<Key, String>>,
    /// What is sent as it is, whether it makes sense or not.
    nonsense: Mutex<Vec<DeltaDiscoveryResponse>>,
}

/// What one stream has been told.
#[derive(Default)]
struct Told {
    names: BTreeMap<String, BTreeSet<String>>,
    versions: BTreeMap<Key, String>,
    /// What waits for an answer, by nonce.
    unanswered: BTreeMap<String, Vec<(Key, String)>>,
}

/// A resource in the form of a response, and of a last-good file.
pub(crate) fn stored<M: Message + Name>(name: &str, message: &M) -> Resource {
    Resource {
        name: name.to_owned(),
        version: "1".to_owned(),
        resource: Some(Any {
            type_url: M::type_url(),
            value: message.encode_to_vec(),
        }),
        ..Resource::default()
    }
}

impl AdsServer {
    pub(crate) async fn start_at(address: SocketAddr) -> Self {
        Self::serve(address, None).await
    }

    /// As an edge is, which assigns quotas as well.
    pub(crate) async fn start_beside(quotas: &Quotas) -> Self {
        Self::serve(free_address(), Some(quotas)).await
    }

    async fn serve(address: SocketAddr, quotas: Option<&Quotas>) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            held: watch::channel(Held::new()).0,
            log: Mutex::default(),
            acknowledged: Mutex::default(),
            nonsense: Mutex::default(),
        });
        let service = AggregatedDiscoveryServiceServer::new(Edge(Arc::clone(&shared)));
        let quotas = quotas.map(Quotas::service);
        let task = tokio::spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            tonic::transport::Server::builder()
                .add_service(service)
                .add_optional_service(quotas)
                .serve_with_incoming(incoming)
                .await
                .unwrap();
        });
        Self {
            address,
            shared,
            task,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Holds `message` under `name`, at a version that its bytes determine.
    pub(crate) fn put<M: Message + Name>(&self, name: &str, message: &M) {
        self.put_all(&[(name, M::type_url(), message.encode_to_vec())]);
    }

    pub(crate) fn put_all(&self, resources: &[(&str, String, Vec<u8>)]) {
        self.shared.held.send_modify(|held| {
            for (name, type_url, body) in resources {
                let version = format!(
                    "{:x}",
                    body.iter()
                        .fold(7u64, |hash, byte| hash.wrapping_mul(31) ^ u64::from(*byte))
                );
                held.insert((type_url.clone(), (*name).to_owned()), (version, body.clone()));
            }
        });
    }

    pub(crate) fn remove(&self, type_url: &str, name: &str) {
        self.shared.held.send_modify(|held| {
            held.remove(&(type_url.to_owned(), name.to_owned()));
        });
    }

    /// Sends a response that no edge would send.
    pub(crate) fn send_nonsense(&self, response: DeltaDiscoveryResponse) {
        self.shared
            .nonsense
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(response);
        self.shared.held.send_modify(|_| {});
    }

    /// Every request so far, of all streams.
    pub(crate) fn requests(&self) -> Vec<DeltaDiscoveryRequest> {
        self.shared
            .log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Texts of the refusals so far.
    pub(crate) fn nacks(&self) -> Vec<String> {
        self.requests()
            .into_iter()
            .filter_map(|request| request.error_detail)
            .map(|status| status.message)
            .collect()
    }

    /// Whether the proxy runs a resource as it is held now, by its own word. Acknowledgements are not counted: a proxy is
    /// ready before it has acknowledged what made it ready.
    pub(crate) fn is_acknowledged(&self, type_url: &str, name: &str) -> bool {
        let key = (type_url.to_owned(), name.to_owned());
        let held = self.shared.held.borrow();
        let acknowledged = self
            .shared
            .acknowledged
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        held.get(&key)
            .is_some_and(|(version, _)| acknowledged.get(&key) == Some(version))
    }
}

impl Drop for AdsServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Edge(Arc<Shared>);

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Edge {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        _request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("the contract is the delta variant"))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let mut requests = request.into_inner();
        let (responses, stream) = mpsc::channel(64);
        let shared = Arc::clone(&self.0);
        tokio::spawn(async move {
            let mut told = Told::default();
            let mut held = shared.held.subscribe();
            let mut nonce = 0;
            loop {
                tokio::select! {
                    request = requests.next() => {
                        let Some(Ok(request)) = request else { return };
                        let acknowledged = told.hear(&request);
                        shared
                            .acknowledged
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .extend(acknowledged);
                        shared.log.lock().unwrap_or_else(PoisonError::into_inner).push(request);
                    }
                    changed = held.changed() => if changed.is_err() { return },
                }
                let mut due = told.due(&held.borrow_and_update());
                due.append(&mut shared.nonsense.lock().unwrap_or_else(PoisonError::into_inner));
                for mut response in due {
                    nonce += 1;
                    response.nonce = nonce.to_string();
                    told.sends(&response);
                    if responses.send(Ok(response)).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

impl Told {
    /// Takes a request, and returns what it acknowledges.
    fn hear(&mut self, request: &DeltaDiscoveryRequest) -> Vec<(Key, String)> {
        let type_url = &request.type_url;
        let names = self.names.entry(type_url.clone()).or_default();
        names.extend(request.resource_names_subscribe.iter().cloned());
        for name in &request.resource_names_unsubscribe {
            names.remove(name);
            self.versions.remove(&(type_url.clone(), name.clone()));
        }
        for (name, version) in &request.initial_resource_versions {
            self.versions
                .insert((type_url.clone(), name.clone()), version.clone());
        }
        let answered = self.unanswered.remove(&request.response_nonce);
        answered
            .filter(|_| request.error_detail.is_none())
            .unwrap_or_default()
    }

    fn sends(&mut self, response: &DeltaDiscoveryResponse) {
        let resources = response.resources.iter().map(|resource| {
            let key = (response.type_url.clone(), resource.name.clone());
            (key, resource.version.clone())
        });
        self.unanswered
            .insert(response.nonce.clone(), resources.collect());
    }

    /// What differs from what has been told, one response per type.
    fn due(&mut self, held: &Held) -> Vec<DeltaDiscoveryResponse> {
        let mut due = Vec::new();
        for type_url in ORDER {
            let Some(names) = self.names.get(type_url) else {
                continue;
            };
            let wildcard = type_url == CLUSTER || type_url == LISTENER;
            let wanted = |name: &str| wildcard || names.contains(name);
            let mut response = DeltaDiscoveryResponse {
                type_url: type_url.to_owned(),
                ..Default::default()
            };
            for (key, (version, body)) in held
                .iter()
                .filter(|((of, name), _)| of == type_url && wanted(name))
            {
                if self.versions.get(key) != Some(version) {
                    self.versions.insert(key.clone(), version.clone());
                    response.resources.push(Resource {
                        name: key.1.clone(),
                        version: version.clone(),
                        resource: Some(Any {
                            type_url: type_url.to_owned(),
                            value: body.clone(),
                        }),
                        ..Default::default()
                    });
                }
            }
            let gone: Vec<_> = self
                .versions
                .keys()
                .filter(|key| key.0 == type_url && !held.contains_key(key))
                .cloned()
                .collect();
            for key in gone {
                self.versions.remove(&key);
                response.removed_resources.push(key.1);
            }
            if !response.resources.is_empty() || !response.removed_resources.is_empty() {
                due.push(response);
            }
        }
        due
    }
}
