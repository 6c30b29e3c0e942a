//! The thin drive of [`Session`]s over gRPC: one per stream, each on its own, and none waits for another.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest as PbRequest, DeltaDiscoveryResponse as PbResponse, DiscoveryRequest,
    DiscoveryResponse,
};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_stream::Stream;
use tombolo_compiler::finding::Finding;
use tombolo_compiler::name::ClusterName;
use tombolo_compiler::proxy::{ProxyConfig, ProxyNode};
use tombolo_runtime::shutdown::Shutdown;
use tonic::{Request as GrpcRequest, Response as GrpcResponse, Status, Streaming};

use super::node::{Introduction, introduce};
use super::session::{AdsAction, AdsEvent, Session, Target};
use super::wire::Request;
use crate::encode::{Resources, encode_since};
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

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Ads {
    pub(crate) fn into_service(self) -> AggregatedDiscoveryServiceServer<impl AggregatedDiscoveryService> {
        AggregatedDiscoveryServiceServer::new(self).max_decoding_message_size(REQUEST_BYTES_MAX)
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Ads {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<PbResponse>;

    async fn stream_aggregated_resources(
        &self,
        _: GrpcRequest<Streaming<DiscoveryRequest>>,
    ) -> Result<GrpcResponse<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented(
            "this edge serves delta ADS only: set api_type DELTA_GRPC in the proxy's ads_config",
        ))
    }

    async fn delta_aggregated_resources(
        &self,
        requests: GrpcRequest<Streaming<PbRequest>>,
    ) -> Result<GrpcResponse<Self::DeltaAggregatedResourcesStream>, Status> {
        let responses = self.clone().serve(requests.into_inner());
        Ok(GrpcResponse::new(Box::pin(responses)))
    }
}

impl Ads {
    /// One proxy's stream. It is polled by its connection only, so that a proxy that does not read stops nothing but
    /// its own session; what changes meanwhile is seen as the latest state when it reads again.
    fn serve(mut self, mut requests: Streaming<PbRequest>) -> impl Stream<Item = Result<PbResponse, Status>> {
        async_stream::try_stream! {
            let first = timeout(INTRODUCTION_TIMEOUT, requests.message())
                .await
                .map_err(|_| Status::deadline_exceeded("no first request within ten seconds"))??;
            let Some(first) = first else { return };
            let proxy = self.introduce(&first)?;
            let mut event = AdsEvent::Request(self.parse(&proxy, first)?);
            let seat = self.fleet.join(&proxy);
            let mut lowering = Lowering::new(self.lower, proxy.node.clone());
            let mut session = Session::default();
            self.snapshots.mark_changed();
            loop {
                for action in session.on(event) {
                    match action {
                        AdsAction::Send(response) => {
                            self.metrics.responses.inc();
                            yield response.into();
                        }
                        AdsAction::Refuse(nonsense) => Err(self.refuse(&proxy, &nonsense))?,
                    }
                }
                seat.update(&session.standing(), &lowering.findings);
                event = match self.next_event(&proxy, &mut requests, &mut lowering).await? {
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
    async fn next_event(
        &mut self,
        proxy: &Introduction,
        requests: &mut Streaming<PbRequest>,
        lowering: &mut Lowering,
    ) -> Result<Option<AdsEvent>, Status> {
        loop {
            tokio::select! {
                request = requests.message() => {
                    return match request? {
                        Some(request) => Ok(Some(AdsEvent::Request(self.parse(proxy, request)?))),
                        None => Ok(None),
                    };
                }
                Ok(()) = self.snapshots.changed() => {
                    if let Some(snapshot) = self.snapshots.borrow_and_update().clone() {
                        return Ok(Some(AdsEvent::Target(lowering.target(&snapshot))));
                    }
                }
                () = self.shutdown.wait() => return Err(Status::unavailable("the edge is stopping")),
            }
        }
    }

    fn introduce(&self, first: &PbRequest) -> Result<Introduction, Status> {
        introduce(first.node.as_ref(), &self.cluster).map_err(|error| {
            self.metrics.refused_streams.inc();
            tracing::warn!(error = %error, "refused a proxy");
            Status::invalid_argument(error.to_string())
        })
    }

    fn parse(&self, proxy: &Introduction, request: PbRequest) -> Result<Request, Status> {
        if let Some(error) = &request.error_detail {
            self.metrics.refusals.inc();
            tracing::warn!(
                node = proxy.node.id,
                type_url = request.type_url,
                reason = error.message,
                "a proxy refuses what it was sent"
            );
        }
        Request::try_from(request).map_err(|error| self.refuse(proxy, &error))
    }

    fn refuse(&self, proxy: &Introduction, error: &dyn std::error::Error) -> Status {
        self.metrics.refused_streams.inc();
        tracing::warn!(node = proxy.node.id, error = %error, "ended a proxy's stream: it breaks the protocol");
        Status::invalid_argument(error.to_string())
    }
}

/// What this proxy should hold, made again only when it differs.
#[derive(Debug)]
struct Lowering {
    lower: Lower,
    node: ProxyNode,
    config: ProxyConfig,
    resources: Arc<Resources>,
    findings: Arc<[Finding]>,
}

impl Lowering {
    fn new(lower: Lower, node: ProxyNode) -> Lowering {
        Lowering {
            lower,
            node,
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
            self.resources = Arc::new(encode_since(&self.config, &self.resources, &config));
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
