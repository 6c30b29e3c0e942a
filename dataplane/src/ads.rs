//! The stream to the edge: opened for ever, applied one response at a time, acknowledged after activation. While
//! there is no edge, what runs keeps running.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tombolo_runtime::backoff::{Backoff, jitter};
use tonic::transport::Endpoint;

use crate::activation::Warming;
use crate::config::ResourceKind;
use crate::decode::{Rejection, Resources, Update, describe};
use crate::running::Running;
use crate::session::{Received, Session};
use crate::{Edge, Role};

/// How long an acknowledgement waits for new hosts' first checks, or for a new listener's routes.
const WARM_MAX: Duration = Duration::from_secs(2);
/// Tries to bind a listener's port before the update is refused; about a second, in which nothing else is applied.
const PORT_TRIES: u32 = 6;
/// How often what the last updates replaced is looked at, whether requests still use it.
const LET_GO_INTERVAL: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A dead edge is noticed within the sum of these two.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Waits between streams: short, because the edge is on the same machine or one hop away.
const BACK_OFF_MIN: Duration = Duration::from_millis(50);
const BACK_OFF_MAX: Duration = Duration::from_secs(2);
/// Of a response: a large mesh's first one is larger than tonic's 4 MiB where a control plane does not send it in parts.
const RESPONSE_BYTES_MAX: usize = 256 << 20;
/// Requests that may wait for the edge to read them; more means that it does not.
const REQUESTS_QUEUED_MAX: usize = 256;

pub(crate) struct Ads {
    pub(crate) edge: Endpoint,
    pub(crate) node: Node,
    /// Takes what is to be kept on disk.
    pub(crate) keep: watch::Sender<Arc<Resources>>,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error("cannot reach the edge")]
    Connect(#[source] tonic::transport::Error),
    #[error("the edge ended the stream")]
    Ended,
    #[error("the edge broke off the stream")]
    Broken(#[source] Box<tonic::Status>),
    #[error("the edge does not read what it is sent")]
    Stalled,
}

/// A response that is applied, or what can be had of it, and not yet answered.
struct Pending {
    type_url: String,
    nonce: String,
    update: Update,
    /// Why the rest is not.
    rejections: Vec<Rejection>,
    warming: Warming,
    until: Instant,
}

/// The requests of one stream.
struct Outbox(mpsc::Sender<DeltaDiscoveryRequest>);

/// The edge's address for gRPC, as configured here.
pub(crate) fn endpoint(xds: &str) -> Result<Endpoint, tonic::transport::Error> {
    Ok(Endpoint::from_shared(xds.to_owned())?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true))
}

impl Ads {
    /// Follows the edge until dropped.
    pub(crate) async fn run(&mut self, running: &mut Running) -> Infallible {
        let mut backoff = Backoff::new(BACK_OFF_MIN, BACK_OFF_MAX);
        let mut was_connected = true;
        loop {
            let error = self.stream(running, &mut backoff).await;
            running.status.metrics.xds_connected.store(0, Ordering::Relaxed);
            // An edge that stays away is news once.
            if was_connected {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "no stream to the edge; what runs keeps running"
                );
            } else {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "still no stream to the edge"
                );
            }
            was_connected = !matches!(error, StreamError::Connect(_));
            let wait = backoff.next(jitter());
            tokio::time::sleep(wait).await;
        }
    }

    /// One stream, until it ends.
    async fn stream(&mut self, running: &mut Running, backoff: &mut Backoff) -> StreamError {
        match self.try_stream(running, backoff).await {
            Ok(()) => StreamError::Ended,
            Err(error) => error,
        }
    }

    async fn try_stream(&mut self, running: &mut Running, backoff: &mut Backoff) -> Result<(), StreamError> {
        let channel = self.edge.connect().await.map_err(StreamError::Connect)?;
        let (sender, queue) = mpsc::channel(REQUESTS_QUEUED_MAX);
        let outbox = Outbox(sender);
        let (mut session, first) = Session::open(self.node.clone(), &running.resources);
        outbox.send_all(first)?;
        let mut client =
            AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(RESPONSE_BYTES_MAX);
        let broken = |status| StreamError::Broken(Box::new(status));
        let mut responses = client
            .delta_aggregated_resources(ReceiverStream::new(queue))
            .await
            .map_err(broken)?
            .into_inner();
        tracing::info!(edge = %self.edge.uri(), "stream to the edge opened");
        running
            .status
            .metrics
            .xds_connects
            .fetch_add(1, Ordering::Relaxed);
        running.status.metrics.xds_connected.store(1, Ordering::Relaxed);
        let mut health = running.activation.health_changes();
        let mut pending: Vec<Pending> = Vec::new();
        let mut let_go = tokio::time::interval(LET_GO_INTERVAL);
        loop {
            let until = pending.iter().map(|pending| pending.until).min();
            tokio::select! {
                response = responses.message() => {
                    let Some(response) = response.map_err(broken)? else { return Ok(()) };
                    backoff.reset();
                    if let Some(applied) = self.on(running, response.into(), &mut session, &outbox).await? {
                        pending.push(applied);
                    }
                }
                _ = health.changed(), if !pending.is_empty() => {}
                _ = let_go.tick() => running.activation.let_go(),
                () = tokio::time::sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {}
            }
            acknowledge(running, &mut pending, &mut session, &outbox)?;
        }
    }

    /// Applies what can be had of a response, and refuses the rest by name.
    async fn on(
        &mut self,
        running: &mut Running,
        received: Received,
        session: &mut Session,
        outbox: &Outbox,
    ) -> Result<Option<Pending>, StreamError> {
        let Received {
            type_url,
            nonce,
            update,
        } = received;
        let kind = ResourceKind::of(&type_url);
        let before = running.status.snapshot.load_full();
        let (applied, rejections) = match update {
            Ok(update) => self.apply(running, update).await,
            Err(rejections) => (None, rejections),
        };
        if let Some(update) = &applied {
            running.status.applied(&type_url, update);
            outbox.send_all(session.follow(running.resources.config()))?;
        }
        if let Some(kind) = kind {
            let outcome = if rejections.is_empty() {
                "accepted"
            } else {
                "rejected"
            };
            running.status.metrics.update(kind, outcome);
        }
        if !rejections.is_empty() {
            let message = describe(&rejections);
            let taken = applied.as_ref().map_or(0, Update::len);
            tracing::error!(%type_url, %message, taken, "the edge's update was refused; what it names stays as it is");
            running.status.rejected(&type_url, message);
        }
        let Some(update) = applied else {
            outbox.send(session.nack(&type_url, &nonce, &rejections))?;
            return Ok(None);
        };
        Ok(Some(Pending {
            type_url,
            nonce,
            warming: running.activation.warming(&update, &before),
            until: Instant::now() + WARM_MAX,
            update,
            rejections,
        }))
    }

    /// What was applied of an update, and why the rest was not.
    async fn apply(&mut self, running: &mut Running, update: Update) -> (Option<Update>, Vec<Rejection>) {
        let mut rejections = Vec::new();
        let mut rest = Some(update);
        while let Some(update) = rest {
            match self.apply_all(running, &update).await {
                Ok(()) => return (Some(update), rejections),
                Err(refused) => {
                    rest = update.without(&refused);
                    rejections.extend(refused);
                }
            }
        }
        (None, rejections)
    }

    async fn apply_all(&mut self, running: &mut Running, update: &Update) -> Result<(), Vec<Rejection>> {
        let next = running.resources.with(update)?;
        running.activation.apply(next.config(), PORT_TRIES).await?;
        running.run(next);
        if matches!(
            update.kind,
            ResourceKind::Listener | ResourceKind::Secret | ResourceKind::Routes
        ) {
            running.status.listeners_known();
        }
        self.keep.send_replace(Arc::clone(&running.resources));
        Ok(())
    }
}

impl Outbox {
    fn send(&self, request: DeltaDiscoveryRequest) -> Result<(), StreamError> {
        self.0.try_send(request).map_err(|_| StreamError::Stalled)
    }

    fn send_all(&self, requests: Vec<DeltaDiscoveryRequest>) -> Result<(), StreamError> {
        requests.into_iter().try_for_each(|request| self.send(request))
    }
}

/// Answers what is warm, or has waited long enough.
fn acknowledge(
    running: &Running,
    pending: &mut Vec<Pending>,
    session: &mut Session,
    outbox: &Outbox,
) -> Result<(), StreamError> {
    let now = Instant::now();
    let due = |pending: &mut Pending| {
        pending.until <= now
            || running
                .activation
                .is_warm(&mut pending.warming, running.resources.config())
    };
    for acknowledged in pending.extract_if(.., due) {
        running.status.acknowledged(&acknowledged.update);
        let Pending {
            type_url,
            nonce,
            rejections,
            ..
        } = &acknowledged;
        outbox.send(if rejections.is_empty() {
            session.ack(type_url, nonce)
        } else {
            session.nack(type_url, nonce, rejections)
        })?;
    }
    Ok(())
}

/// Who this proxy is, in the words of docs/xds.md.
pub(crate) fn node(edge: &Edge) -> Node {
    let mut metadata = vec![("tombolo.namespace", edge.namespace.clone())];
    match &edge.role {
        Role::Gateway { workload } => {
            metadata.push(("tombolo.role", "gateway".to_owned()));
            metadata.push(("tombolo.workload", workload.clone()));
        }
        Role::Sidecar { outbound } => {
            metadata.push(("tombolo.role", "sidecar".to_owned()));
            metadata.push(("tombolo.outbound", outbound.to_string()));
        }
    }
    let string = |text: String| Value {
        kind: Some(Kind::StringValue(text)),
    };
    let fields = metadata
        .into_iter()
        .map(|(key, value)| (key.to_owned(), string(value)))
        .collect();
    Node {
        id: edge.node_id.clone(),
        cluster: edge.cluster.clone(),
        user_agent_name: "tombolo".to_owned(),
        metadata: Some(Struct { fields }),
        ..Node::default()
    }
}
