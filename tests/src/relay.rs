//! Between an edge and one of its proxies: hands on what both say, and moves the listeners to another address, so that two proxies of
//! one workload have room on one machine.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use anyhow::{Context, Result};
use envoy_types::pb::envoy::config::core::v3::address::Address;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use envoy_types::pb::envoy::service::rate_limit_quota::v3::rate_limit_quota_service_client::RateLimitQuotaServiceClient;
use envoy_types::pb::envoy::service::rate_limit_quota::v3::rate_limit_quota_service_server::{
    RateLimitQuotaService, RateLimitQuotaServiceServer,
};
use envoy_types::pb::envoy::service::rate_limit_quota::v3::{
    RateLimitQuotaResponse, RateLimitQuotaUsageReports,
};
use futures::future::ready;
use futures::{Stream, StreamExt};
use prost::{Message, Name};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

/// A running relay; gone on drop.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    assigned: watch::Receiver<Vec<RateLimitQuotaResponse>>,
    server: JoinHandle<()>,
}

#[derive(Clone)]
struct Between {
    edge: Endpoint,
    to: IpAddr,
    assigned: Arc<watch::Sender<Vec<RateLimitQuotaResponse>>>,
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Relay {
    /// The proxy behind it listens at `to`.
    ///
    /// # Errors
    /// There is no port.
    pub async fn start(edge: SocketAddr, to: IpAddr) -> Result<Relay> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .context("no port for the relay")?;
        let address = listener.local_addr()?;
        let (record, assigned) = watch::channel(Vec::new());
        let between = Between {
            edge: Endpoint::from_shared(format!("http://{edge}"))?,
            to,
            assigned: Arc::new(record),
        };
        let server = Server::builder()
            .add_service(AggregatedDiscoveryServiceServer::new(between.clone()))
            .add_service(RateLimitQuotaServiceServer::new(between));
        let server = tokio::spawn(async move {
            server
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .expect("cannot relay");
        });
        Ok(Relay {
            address,
            assigned,
            server,
        })
    }

    /// Where the proxy finds its edge.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the proxy was told of its quotas, oldest first.
    pub fn assigned(&self) -> Vec<RateLimitQuotaResponse> {
        self.assigned.borrow().clone()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Between {
    async fn edge(&self) -> Result<Channel, Status> {
        let connected = self.edge.connect().await;
        connected.map_err(|error| Status::unavailable(error.to_string()))
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Between {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        _: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("this relay speaks delta only"))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let mut edge = AggregatedDiscoveryServiceClient::new(self.edge().await?);
        let asked = request.into_inner().filter_map(|asked| ready(asked.ok()));
        let told = edge.delta_aggregated_resources(asked).await?.into_inner();
        let to = self.to;
        Ok(Response::new(Box::pin(
            told.map(move |told| Ok(moved(told?, to))),
        )))
    }
}

#[tonic::async_trait]
impl RateLimitQuotaService for Between {
    type StreamRateLimitQuotasStream = Responses<RateLimitQuotaResponse>;

    async fn stream_rate_limit_quotas(
        &self,
        request: Request<Streaming<RateLimitQuotaUsageReports>>,
    ) -> Result<Response<Self::StreamRateLimitQuotasStream>, Status> {
        const NAME: &str = "x-tombolo-quota-client";
        let mut edge = RateLimitQuotaServiceClient::new(self.edge().await?);
        let name = request.metadata().get(NAME).cloned();
        let mut reports = Request::new(request.into_inner().filter_map(|report| ready(report.ok())));
        if let Some(name) = name {
            reports.metadata_mut().insert(NAME, name);
        }
        let told = edge.stream_rate_limit_quotas(reports).await?.into_inner();
        let assigned = Arc::clone(&self.assigned);
        let noted = told.inspect(move |told| {
            if let Ok(told) = told {
                assigned.send_modify(|assigned| assigned.push(told.clone()));
            }
        });
        Ok(Response::new(Box::pin(noted)))
    }
}

fn moved(mut told: DeltaDiscoveryResponse, to: IpAddr) -> DeltaDiscoveryResponse {
    if told.type_url != Listener::type_url() {
        return told;
    }
    for body in told
        .resources
        .iter_mut()
        .filter_map(|told| told.resource.as_mut())
    {
        let mut listener =
            Listener::decode(body.value.as_slice()).expect("the edge says a listener that is none");
        let address = listener
            .address
            .as_mut()
            .and_then(|address| address.address.as_mut());
        if let Some(Address::SocketAddress(address)) = address {
            address.address = to.to_string();
        }
        body.value = listener.encode_to_vec();
    }
    told
}
