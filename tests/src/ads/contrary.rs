//! A proxy that a test drives by hand: it subscribes, and acknowledges or refuses as it likes. For what no good proxy does.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use envoy_types::pb::envoy::config::core::v3::Node as PbNode;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};
use envoy_types::pb::google::rpc::Status as PbStatus;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Endpoint;

use crate::proxy::{Node, Role};

pub const CLUSTER_TYPE: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
pub const LISTENER_TYPE: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";

const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);
/// gRPC's INVALID_ARGUMENT, which a refusal carries.
const INVALID_ARGUMENT: i32 = 3;

/// One stream to an edge.
#[derive(Debug)]
pub struct ContraryProxy {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl ContraryProxy {
    /// Opens a stream as this node and subscribes to everything of a type.
    ///
    /// # Errors
    /// The edge cannot be reached, or does not take the stream.
    pub async fn connect(xds: SocketAddr, node: &Node, type_url: &str) -> Result<ContraryProxy> {
        let channel = Endpoint::from_shared(format!("http://{xds}"))?
            .connect()
            .await
            .with_context(|| format!("cannot connect to {xds}"))?;
        let (requests, queued) = mpsc::channel(16);
        let first = DeltaDiscoveryRequest {
            node: Some(pb_node(node)),
            type_url: type_url.to_owned(),
            ..DeltaDiscoveryRequest::default()
        };
        requests.send(first).await?;
        let responses = AggregatedDiscoveryServiceClient::new(channel)
            .delta_aggregated_resources(ReceiverStream::new(queued))
            .await
            .context("the edge refuses the stream")?
            .into_inner();
        Ok(ContraryProxy { requests, responses })
    }

    /// What the edge says next.
    ///
    /// # Errors
    /// Nothing in time, or the end of the stream with the edge's reason.
    pub async fn next(&mut self) -> Result<DeltaDiscoveryResponse> {
        timeout(RESPONSE_TIMEOUT, self.responses.message())
            .await
            .context("the edge says nothing")?
            .context("the edge ended the stream")?
            .context("the edge closed the stream")
    }

    /// Refuses a response, in these words.
    ///
    /// # Errors
    /// The stream has ended.
    pub async fn refuse(&self, response: &DeltaDiscoveryResponse, words: &str) -> Result<()> {
        let request = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail: Some(PbStatus {
                code: INVALID_ARGUMENT,
                message: words.to_owned(),
                details: Vec::new(),
            }),
            ..DeltaDiscoveryRequest::default()
        };
        self.say(request).await
    }

    /// Says anything at all.
    ///
    /// # Errors
    /// The stream has ended.
    pub async fn say(&self, request: DeltaDiscoveryRequest) -> Result<()> {
        self.requests.send(request).await.context("the stream has ended")
    }
}

fn pb_node(node: &Node) -> PbNode {
    let mut fields = BTreeMap::from([("tombolo.namespace", node.namespace.clone())]);
    match &node.role {
        Role::Gateway { workload } => {
            fields.insert("tombolo.role", "gateway".to_owned());
            fields.insert("tombolo.workload", workload.clone());
        }
        Role::Sidecar { outbound } => {
            fields.insert("tombolo.role", "sidecar".to_owned());
            fields.insert("tombolo.outbound", outbound.to_string());
        }
    }
    let fields = fields.into_iter().map(|(key, value)| {
        let value = Value {
            kind: Some(Kind::StringValue(value)),
        };
        (key.to_owned(), value)
    });
    PbNode {
        id: node.id.clone(),
        cluster: node.cluster.clone(),
        metadata: Some(Struct {
            fields: fields.collect(),
        }),
        ..PbNode::default()
    }
}
