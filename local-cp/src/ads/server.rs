//! The thin drive of sessions over gRPC, of both variants of ADS: one per stream, each on its own, and none waits for another.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node as PbNode;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest as PbRequest, DeltaDiscoveryResponse as PbResponse,
    DiscoveryRequest as PbWorldRequest, DiscoveryResponse as PbWorldResponse,
};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_stream::Stream;
use tombolo_compiler::finding::Finding;
use tombolo_compiler::name::ClusterName;
use tombolo_compiler::proxy::{ProxyConfig, ProxyNode};
use tombolo_runtime::shutdown::Shutdown;
use tonic::{Request as GrpcRequest, Response as GrpcResponse, Status, Streaming};

use super::node::{Dialect, Introduction, introduce};
use super::session::{AdsAction, AdsEvent, Nonsense, Session, Standing, Target};
use super::wire::{Request, UnknownType, WorldRequest};
use super::world::World;
use crate::encode::{Resources, encode_proxyless_since, encode_since};
use crate::fleet::Fleet;
use crate::metrics::Metrics;
use crate::snapshot::Snapshot;

/// A reconnecting proxy names every resource with its version in one request.
const REQUEST_BYTES_MAX: usize = 32 * 1024 * 1024;
/// A stream whose proxy does not say who it is holds resources for nothing.
const INTRODUCTION_TIMEOUT: Duration = Duration::from_secs(10);

/// What all streams share.
#[derive(Clone, Debug)]
pub(crate) struct Ads {
    pub(crate) cluster: ClusterName,
    /// `None` until the edge holds both slice and view: until then proxies wait for their first answer.
    pub(crate) snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    pub(crate) lower: Lower,
    pub(crate) fleet: Fleet,
    pub(crate) metrics: Metrics,
    pub(crate) shutdown: Shutdown,
}

/// From what the edge holds to what one proxy runs: [`Snapshot::lower`], or a test's own.
pub(crate) type Lower = fn(&Snapshot, &ProxyNode) -> (ProxyConfig, Vec<Finding>);

/// What ends a stream: the proxy breaks the protocol.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Type(#[from] UnknownType),
    #[error(transparent)]
    Nonsense(#[from] Nonsense),
}

/// How a proxy is talked to.
trait Variant: Send + 'static {
    type Request: Send;
    type Response: Send;

    fn begin() -> Self;

    fn node(request: &Self::Request) -> Option<&PbNode>;

    /// The type, and the proxy's own words, where it refuses what it was sent.
    fn refusal(request: &Self::Request) -> Option<(&str, &str)>;

    fn on_request(&mut self, request: Self::Request) -> Result<Vec<Self::Response>, Broken>;

    fn on_target(&mut self, target: Target) -> Result<Vec<Self::Response>, Broken>;

    fn standing(&self) -> Standing;
}

/// What happens on a stream.
enum Event<R> {
    Request(R),
    Target(Target),
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Ads {
    pub(crate) fn into_service(self) -> AggregatedDiscoveryServiceServer<impl AggregatedDiscoveryService> {
        AggregatedDiscoveryServiceServer::new(self).max_decoding_message_size(REQUEST_BYTES_MAX)
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Ads {
    type StreamAggregatedResourcesStream = Responses<PbWorldResponse>;
    type DeltaAggregatedResourcesStream = Responses<PbResponse>;

    async fn stream_aggregated_resources(
        &self,
        requests: GrpcRequest<Streaming<PbWorldRequest>>,
    ) -> Result<GrpcResponse<Self::StreamAggregatedResourcesStream>, Status> {
        let responses = self.clone().serve::<World>(requests.into_inner());
        Ok(GrpcResponse::new(Box::pin(responses)))
    }

    async fn delta_aggregated_resources(
        &self,
        requests: GrpcRequest<Streaming<PbRequest>>,
    ) -> Result<GrpcResponse<Self::DeltaAggregatedResourcesStream>, Status> {
        let responses = self.clone().serve::<Session>(requests.into_inner());
        Ok(GrpcResponse::new(Box::pin(responses)))
    }
}

impl Ads {
    /// One proxy's stream. It is polled by its connection only, so that a proxy that does not read stops nothing but
    /// its own session; what changes meanwhile is seen as the latest state when it reads again.
    fn serve<V: Variant>(
        mut self,
        mut requests: Streaming<V::Request>,
    ) -> impl Stream<Item = Result<V::Response, Status>> + Send {
        async_stream::try_stream! {
            let first = timeout(INTRODUCTION_TIMEOUT, requests.message())
                .await
                .map_err(|_| Status::deadline_exceeded("no first request within ten seconds"))??;
            let Some(first) = first else { return };
            let proxy = self.introduce(V::node(&first))?;
            let mut event = Event::Request(first);
            let seat = self.fleet.join(&proxy);
            let mut lowering = Lowering::new(self.lower, &proxy);
            let mut session = V::begin();
            self.snapshots.mark_changed();
            loop {
                let responses = match event {
                    Event::Request(request) => {
                        self.note_refusal(&proxy, V::refusal(&request));
                        session.on_request(request)
                    }
                    Event::Target(target) => session.on_target(target),
                };
                for response in responses.map_err(|broken| self.refuse(&proxy, &broken))? {
                    self.metrics.responses.inc();
                    yield response;
                }
                seat.update(&session.standing(), &lowering.findings);
                event = match self.next_event(&mut requests, &mut lowering).await? {
                    Some(event) => event,
                    None => {
                        seat.leave();
                        return;
                    }
                };
            }
        }
    }

    /// What happens next on a stream; `None` when the proxy has closed it. Cancel-safe.
    async fn next_event<R>(
        &mut self,
        requests: &mut Streaming<R>,
        lowering: &mut Lowering,
    ) -> Result<Option<Event<R>>, Status> {
        loop {
            tokio::select! {
                request = requests.message() => {
                    return Ok(request?.map(Event::Request));
                }
                Ok(()) = self.snapshots.changed() => {
                    if let Some(snapshot) = self.snapshots.borrow_and_update().clone() {
                        return Ok(Some(Event::Target(lowering.target(&snapshot))));
                    }
                }
                () = self.shutdown.wait() => return Err(Status::unavailable("the edge is stopping")),
            }
        }
    }

    fn introduce(&self, node: Option<&PbNode>) -> Result<Introduction, Status> {
        introduce(node, &self.cluster).map_err(|error| {
            self.metrics.refused_streams.inc();
            tracing::warn!(error = %error, "refused a proxy");
            Status::invalid_argument(error.to_string())
        })
    }

    fn note_refusal(&self, proxy: &Introduction, refusal: Option<(&str, &str)>) {
        if let Some((type_url, reason)) = refusal {
            self.metrics.refusals.inc();
            tracing::warn!(
                node = proxy.node.id,
                type_url,
                reason,
                "a proxy refuses what it was sent"
            );
        }
    }

    fn refuse(&self, proxy: &Introduction, error: &dyn std::error::Error) -> Status {
        self.metrics.refused_streams.inc();
        tracing::warn!(node = proxy.node.id, error = %error, "ended a proxy's stream: it breaks the protocol");
        Status::invalid_argument(error.to_string())
    }
}

impl Variant for Session {
    type Request = PbRequest;
    type Response = PbResponse;

    fn begin() -> Session {
        Session::default()
    }

    fn node(request: &PbRequest) -> Option<&PbNode> {
        request.node.as_ref()
    }

    fn refusal(request: &PbRequest) -> Option<(&str, &str)> {
        let error = request.error_detail.as_ref()?;
        Some((&request.type_url, &error.message))
    }

    fn on_request(&mut self, request: PbRequest) -> Result<Vec<PbResponse>, Broken> {
        let event = AdsEvent::Request(Request::try_from(request)?);
        sent(self.on(event))
    }

    fn on_target(&mut self, target: Target) -> Result<Vec<PbResponse>, Broken> {
        sent(self.on(AdsEvent::Target(target)))
    }

    fn standing(&self) -> Standing {
        Session::standing(self)
    }
}

impl Variant for World {
    type Request = PbWorldRequest;
    type Response = PbWorldResponse;

    fn begin() -> World {
        World::new()
    }

    fn node(request: &PbWorldRequest) -> Option<&PbNode> {
        request.node.as_ref()
    }

    fn refusal(request: &PbWorldRequest) -> Option<(&str, &str)> {
        let error = request.error_detail.as_ref()?;
        Some((&request.type_url, &error.message))
    }

    fn on_request(&mut self, request: PbWorldRequest) -> Result<Vec<PbWorldResponse>, Broken> {
        let responses = World::on_request(self, WorldRequest::try_from(request)?)?;
        Ok(responses.into_iter().map(Into::into).collect())
    }

    fn on_target(&mut self, target: Target) -> Result<Vec<PbWorldResponse>, Broken> {
        let responses = World::on_target(self, target)?;
        Ok(responses.into_iter().map(Into::into).collect())
    }

    fn standing(&self) -> Standing {
        World::standing(self)
    }
}

fn sent(actions: Vec<AdsAction>) -> Result<Vec<PbResponse>, Broken> {
    let responses = actions.into_iter().map(|action| match action {
        AdsAction::Send(response) => Ok(response.into()),
        AdsAction::Refuse(nonsense) => Err(nonsense.into()),
    });
    responses.collect()
}

/// What this proxy should hold, made again only when it differs.
#[derive(Debug)]
struct Lowering {
    lower: Lower,
    node: ProxyNode,
    dialect: Dialect,
    config: ProxyConfig,
    resources: Arc<Resources>,
    findings: Arc<[Finding]>,
}

impl Lowering {
    fn new(lower: Lower, proxy: &Introduction) -> Lowering {
        Lowering {
            lower,
            node: proxy.node.clone(),
            dialect: proxy.dialect,
            config: ProxyConfig::default(),
            resources: Arc::default(),
            findings: Arc::default(),
        }
    }

    fn target(&mut self, snapshot: &Snapshot) -> Target {
        let (config, findings) = (self.lower)(snapshot, &self.node);
        if *self.findings != *findings {
            self.findings = findings.into();
        }
        if self.config != config {
            let resources = match self.dialect {
                Dialect::Proxy => encode_since(
                    &self.config,
                    &self.resources,
                    &config,
                    snapshot.authorities.as_deref(),
                ),
                Dialect::Proxyless => {
                    encode_proxyless_since(&snapshot.cluster, &self.config, &self.resources, &config)
                }
            };
            self.resources = Arc::new(resources);
            self.config = config;
        }
        Target {
            version: snapshot.version,
            resources: self.resources.clone(),
        }
    }
}

#[cfg(test)]
mod tests;
