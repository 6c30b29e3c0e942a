//! The stream to the edge: opened for ever, applied one response at a time, acknowledged after activation. While
//! there is no edge, what runs keeps running.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tombolo_runtime::backoff::{Backoff, jitter};
use tonic::transport::Endpoint;

use crate::activation::{Activation, Warming};
use crate::config::ResourceKind;
use crate::decode::{Rejection, Resources, Update, describe};
use crate::session::{Received, Session};
use crate::status::Status;

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
/// Requests that may wait for the edge to read them; more means that it does not.
const REQUESTS_QUEUED_MAX: usize = 256;

pub(crate) struct Ads {
    pub(crate) edge: Endpoint,
    pub(crate) node: Node,
    pub(crate) activation: Activation,
    pub(crate) resources: Arc<Resources>,
    pub(crate) status: Arc<Status>,
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

/// A response that is applied and not yet acknowledged.
struct Pending {
    type_url: String,
    nonce: String,
    update: Update,
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
    pub(crate) async fn run(&mut self) -> Infallible {
        let mut backoff = Backoff::new(BACK_OFF_MIN, BACK_OFF_MAX);
        let mut was_connected = true;
        loop {
            let error = self.stream(&mut backoff).await;
            self.status.metrics.xds_connected.store(0, Ordering::Relaxed);
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
    async fn stream(&mut self, backoff: &mut Backoff) -> StreamError {
        match self.try_stream(backoff).await {
            Ok(()) => StreamError::Ended,
            Err(error) => error,
        }
    }

    async fn try_stream(&mut self, backoff: &mut Backoff) -> Result<(), StreamError> {
        let channel = self.edge.connect().await.map_err(StreamError::Connect)?;
        let (sender, queue) = mpsc::channel(REQUESTS_QUEUED_MAX);
        let outbox = Outbox(sender);
        let (mut session, first) = Session::open(self.node.clone(), &self.resources);
        outbox.send_all(first)?;
        let mut client = AggregatedDiscoveryServiceClient::new(channel)
            // A large mesh's first response is larger than tonic's default of 4 MiB.
            .max_decoding_message_size(256 * 1024 * 1024);
        let broken = |status| StreamError::Broken(Box::new(status));
        let mut responses = client
            .delta_aggregated_resources(ReceiverStream::new(queue))
            .await
            .map_err(broken)?
            .into_inner();
        tracing::info!(edge = %self.edge.uri(), "stream to the edge opened");
        self.status.metrics.xds_connects.fetch_add(1, Ordering::Relaxed);
        self.status.metrics.xds_connected.store(1, Ordering::Relaxed);
        let mut health = self.activation.health_changes();
        let mut pending: Vec<Pending> = Vec::new();
        let mut let_go = tokio::time::interval(LET_GO_INTERVAL);
        loop {
            let until = pending.iter().map(|pending| pending.until).min();
            tokio::select! {
                response = responses.message() => {
                    let Some(response) = response.map_err(broken)? else { return Ok(()) };
                    backoff.reset();
                    if let Some(applied) = self.on(response.into(), &mut session, &outbox).await? {
                        pending.push(applied);
                    }
                }
                _ = health.changed(), if !pending.is_empty() => {}
                _ = let_go.tick() => self.activation.let_go(),
                () = tokio::time::sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {}
            }
            self.acknowledge(&mut pending, &mut session, &outbox)?;
        }
    }

    /// Applies a response whole, or refuses it whole.
    async fn on(
        &mut self,
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
        let before = self.status.snapshot.load_full();
        match self.apply(update).await {
            Ok(update) => {
                self.status.metrics.update(update.kind, "accepted");
                self.status.applied(&type_url, &update);
                outbox.send_all(session.follow(self.resources.config()))?;
                let warming = self.activation.warming(&update, &before);
                let until = Instant::now() + WARM_MAX;
                Ok(Some(Pending {
                    type_url,
                    nonce,
                    update,
                    warming,
                    until,
                }))
            }
            Err(rejections) => {
                if let Some(kind) = kind {
                    self.status.metrics.update(kind, "rejected");
                }
                let message = describe(&rejections);
                tracing::error!(%type_url, %message, "the edge's update was refused; the configuration stays as it is");
                self.status.rejected(&type_url, message);
                outbox.send(session.nack(&type_url, &nonce, &rejections))?;
                Ok(None)
            }
        }
    }

    async fn apply(&mut self, update: Result<Update, Vec<Rejection>>) -> Result<Update, Vec<Rejection>> {
        let update = update?;
        let next = self.resources.with(&update)?;
        self.activation.apply(next.config(), PORT_TRIES).await?;
        self.resources = Arc::new(next);
        self.status.run(Arc::clone(&self.resources));
        if matches!(
            update.kind,
            ResourceKind::Listener | ResourceKind::Secret | ResourceKind::Routes
        ) {
            self.status.listeners_known();
        }
        self.keep.send_replace(Arc::clone(&self.resources));
        Ok(update)
    }

    /// Acknowledges what is warm, or has waited long enough.
    fn acknowledge(
        &self,
        pending: &mut Vec<Pending>,
        session: &mut Session,
        outbox: &Outbox,
    ) -> Result<(), StreamError> {
        let now = Instant::now();
        let due = |pending: &mut Pending| {
            pending.until <= now
                || self
                    .activation
                    .is_warm(&mut pending.warming, self.resources.config())
        };
        for acknowledged in pending.extract_if(.., due) {
            self.status.acknowledged(&acknowledged.update);
            outbox.send(session.ack(&acknowledged.type_url, &acknowledged.nonce))?;
        }
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
