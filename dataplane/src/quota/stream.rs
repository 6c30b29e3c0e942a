//! The stream of one service: what was used goes there each interval, and what is assigned comes back. It is opened when somebody
//! first wants a bucket, and again when it has ended; what is assigned meanwhile goes on, and ends in its time.

use std::future::pending;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::service::rate_limit_quota::v3::rate_limit_quota_service_client::RateLimitQuotaServiceClient;
use envoy_types::pb::envoy::service::rate_limit_quota::v3::rate_limit_quota_usage_reports::BucketQuotaUsage;
use envoy_types::pb::envoy::service::rate_limit_quota::v3::{
    BucketId as PbBucketId, RateLimitQuotaResponse, RateLimitQuotaUsageReports,
};
use envoy_types::pb::google::protobuf::Duration as PbDuration;
use futures::future::BoxFuture;
use futures::{FutureExt, TryFutureExt};
use http::header::{HeaderName, HeaderValue};
use http::{Request, Response, Uri};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::ReceiverStream;
use tombolo_runtime::backoff::{Backoff, jitter};
use tonic::body::Body;
use tonic::codegen::{Service as GrpcService, StdError};
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;

use super::bucket::Bucket;
use super::buckets::Buckets;
use super::{Service, StreamState};
use crate::config::Protocol;
use crate::decode::quota_actions;
use crate::grpc_call::Callee;
use crate::health;
use crate::snapshot::{Host, Snapshot};

/// Between a stream that has ended and the next.
const BACK_OFF_MIN: Duration = Duration::from_millis(100);
const BACK_OFF_MAX: Duration = Duration::from_secs(10);
/// When a service that is gone without a word is noticed, as an edge is.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Buckets in one message: with ids of clients' making half a megabyte, where services take four.
const REPORTED_AT_ONCE: usize = 1024;
/// Messages that the service has not taken yet; what is used meanwhile is told later.
const QUEUE_MAX: usize = 2;
/// A service that takes none for so long is given up: all buckets are held meanwhile.
const QUEUED_MAX: Duration = Duration::from_secs(5);
/// By which an edge knows that another stream is of the same proxy, which so does not share with what it had on the one before.
const NAME_HEADER: HeaderName = HeaderName::from_static("x-tombolo-quota-client");
/// How long the first of new buckets waits for others.
const NEW_WAIT: Duration = Duration::from_millis(5);

/// What `tonic` speaks over.
#[derive(Clone)]
enum Over {
    Host(http2::SendRequest<Body>),
    Edge(Channel),
}

/// A stream's connection, and what it is to.
struct Opened {
    over: Over,
    origin: Uri,
    /// None of the edge, of which no configuration says that it is gone.
    host: Option<Arc<Host>>,
}

#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error("there is no cluster of that name, or no host in it that is well")]
    NoHost,
    #[error("the cluster is not spoken to in HTTP/2")]
    NotHttp2,
    #[error("no connection in time")]
    Late,
    #[error("cannot connect")]
    Connect(#[source] std::io::Error),
    #[error("cannot reach the edge")]
    Edge(#[source] tonic::transport::Error),
    #[error("the connection broke")]
    Http(#[source] hyper::Error),
    #[error("the service has ended the stream")]
    Ended(#[source] Option<Box<tonic::Status>>),
    #[error("the service takes no reports")]
    Deaf,
    #[error("its host is gone")]
    Gone,
}

/// Until the task is aborted.
pub(super) async fn run(buckets: Arc<Buckets>, service: Service) {
    tokio::join!(follow(&buckets, &service), age(&buckets));
}

/// Ends what has lasted as long as it may, and forgets what nobody wants.
async fn age(buckets: &Buckets) {
    let mut often = tokio::time::interval(buckets.terms().interval);
    often.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let due = buckets.age(Instant::now());
        let over = async {
            match due {
                Some(due) => tokio::time::sleep_until(due.into()).await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = over => {}
            () = buckets.changed.notified() => {}
            _ = often.tick() => buckets.sweep(Instant::now()),
        }
    }
}

async fn follow(buckets: &Buckets, service: &Service) {
    let mut back_off = Backoff::new(BACK_OFF_MIN, BACK_OFF_MAX);
    let mut is_down = false;
    let name = name();
    loop {
        if !buckets.all().iter().any(|bucket| bucket.is_wanted()) {
            buckets.begun.notified().await;
        }
        let mut was_heard = false;
        let Err(error) = stream(buckets, service, &name, &mut was_heard).await;
        buckets.fares.failed();
        if was_heard {
            back_off.reset();
        }
        // One that worked may end, and be opened again: only what does not come back is worth a word.
        if !was_heard && !std::mem::replace(&mut is_down, true) {
            let cluster = &buckets.terms().callee.cluster;
            tracing::warn!(
                %cluster,
                error = &error as &dyn std::error::Error,
                "nobody assigns quotas: check that the service runs and speaks Envoy's protocol of them"
            );
        }
        is_down &= !was_heard;
        tokio::time::sleep(back_off.next(jitter())).await;
    }
}

/// One stream, as long as it goes.
async fn stream(
    buckets: &Buckets,
    service: &Service,
    name: &HeaderValue,
    was_heard: &mut bool,
) -> Result<std::convert::Infallible, StreamError> {
    let callee = &buckets.terms().callee;
    let opening = tokio::time::timeout(callee.timeout, service.open(callee)).await;
    let Opened { over, origin, host } = opening.unwrap_or(Err(StreamError::Late))?;
    let client = RateLimitQuotaServiceClient::with_origin(over, origin);
    let (reports, queue) = mpsc::channel(QUEUE_MAX);
    let mut request = tonic::Request::new(ReceiverStream::new(queue));
    let named = (NAME_HEADER, name.clone());
    let headers = std::iter::once(named).chain(callee.headers.iter().cloned());
    *request.metadata_mut() = MetadataMap::from_headers(headers.collect());
    let is_there = || host.as_deref().is_none_or(|host| service.has(host));
    tokio::select! {
        ended = hear(client, request, buckets, was_heard) => ended,
        ended = tell(buckets, &reports, is_there) => ended,
    }
}

/// Takes what the service says.
async fn hear(
    mut client: RateLimitQuotaServiceClient<Over>,
    request: tonic::Request<ReceiverStream<RateLimitQuotaUsageReports>>,
    buckets: &Buckets,
    was_heard: &mut bool,
) -> Result<std::convert::Infallible, StreamError> {
    let ended = |status: tonic::Status| StreamError::Ended(Some(Box::new(status)));
    let answered = client.stream_rate_limit_quotas(request).await;
    let mut said = answered.map_err(ended)?.into_inner();
    loop {
        let response = said.message().await.map_err(ended)?;
        take(buckets, response.ok_or(StreamError::Ended(None))?);
        *was_heard = true;
        buckets.fares.is(StreamState::Up);
    }
}

fn take(buckets: &Buckets, response: RateLimitQuotaResponse) {
    let now = Instant::now();
    let mut unfit = None;
    for action in quota_actions(response) {
        match action {
            Ok((id, action)) => buckets.on(&id, action, now),
            Err(reason) => unfit = unfit.or(Some(reason)),
        }
    }
    if let Some(reason) = unfit {
        let cluster = &buckets.terms().callee.cluster;
        tracing::warn!(%cluster, reason, "what was assigned is nothing that this proxy can do");
    }
    buckets.changed.notify_one();
}

/// Tells it what was used, of all buckets each interval, and of those that are new at once.
async fn tell(
    buckets: &Buckets,
    reports: &mpsc::Sender<RateLimitQuotaUsageReports>,
    is_there: impl Fn() -> bool,
) -> Result<std::convert::Infallible, StreamError> {
    let interval = buckets.terms().interval;
    let open = Instant::now();
    let mut often = tokio::time::interval(interval);
    often.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // It is said once on each stream.
    let mut domain = buckets.terms().domain.to_string();
    loop {
        let is_new_only = tokio::select! {
            _ = often.tick() => false,
            () = buckets.begun.notified() => {
                tokio::time::sleep(NEW_WAIT).await;
                true
            }
        };
        if !is_there() {
            return Err(StreamError::Gone);
        }
        let mut told = buckets.all();
        told.retain(|bucket| !is_new_only || bucket.is_new());
        for told in told.chunks(REPORTED_AT_ONCE) {
            // What waits for its turn is counted when that comes.
            let place = tokio::time::timeout(QUEUED_MAX, reports.reserve()).await;
            let place = place.map_err(|_| StreamError::Deaf)?;
            let place = place.map_err(|_| StreamError::Ended(None))?;
            let now = Instant::now();
            let usages = told
                .iter()
                .filter_map(|bucket| usage(bucket, now, interval, open));
            let bucket_quota_usages: Vec<_> = usages.collect();
            if !bucket_quota_usages.is_empty() {
                place.send(RateLimitQuotaUsageReports {
                    domain: std::mem::take(&mut domain),
                    bucket_quota_usages,
                });
            }
        }
    }
}

fn usage(bucket: &Bucket, now: Instant, interval: Duration, open: Instant) -> Option<BucketQuotaUsage> {
    let usage = bucket.tell(now, interval, open)?;
    let named = |(name, value): &(Box<str>, Box<str>)| (name.to_string(), value.to_string());
    Some(BucketQuotaUsage {
        bucket_id: Some(PbBucketId {
            bucket: bucket.id.iter().map(named).collect(),
        }),
        time_elapsed: Some(PbDuration {
            seconds: i64::try_from(usage.elapsed.as_secs()).unwrap_or(i64::MAX),
            nanos: i32::try_from(usage.elapsed.subsec_nanos()).unwrap_or(0),
        }),
        num_requests_allowed: usage.used.allowed,
        num_requests_denied: usage.used.denied,
    })
}

impl Service {
    async fn open(&self, callee: &Callee) -> Result<Opened, StreamError> {
        match self {
            Self::Edge(edge) => Ok(Opened {
                over: Over::Edge(edge.connect().await.map_err(StreamError::Edge)?),
                origin: edge.uri().clone(),
                host: None,
            }),
            Self::Cluster(current) => {
                let host = host(&current.load(), &callee.cluster)?;
                let over = Over::Host(open(&host).await?);
                let origin = Uri::builder()
                    .scheme(host.scheme())
                    .authority(callee.authority.clone())
                    .path_and_query("/")
                    .build()
                    .expect("invariant: scheme, authority and path are a URI");
                Ok(Opened {
                    over,
                    origin,
                    host: Some(host),
                })
            }
        }
    }

    fn has(&self, host: &Host) -> bool {
        match self {
            Self::Edge(_) => true,
            Self::Cluster(current) => is_there(&current.load(), host),
        }
    }
}

async fn open(host: &Host) -> Result<http2::SendRequest<Body>, StreamError> {
    let stream = health::connect(host).await.map_err(StreamError::Connect)?;
    let opened = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .handshake(TokioIo::new(stream))
        .await;
    let (sender, connection) = opened.map_err(StreamError::Http)?;
    // Its task ends with its sender.
    tokio::spawn(connection);
    Ok(sender)
}

/// One that nobody else has.
fn name() -> HeaderValue {
    let drawn = RandomState::new().hash_one(0u8);
    HeaderValue::try_from(format!("{drawn:016x}")).expect("invariant: digits are a header's value")
}

fn host(snapshot: &Snapshot, cluster: &str) -> Result<Arc<Host>, StreamError> {
    let cluster = snapshot.clusters.get(cluster).ok_or(StreamError::NoHost)?;
    if cluster.config.protocol != Protocol::Http2 {
        return Err(StreamError::NotHttp2);
    }
    cluster.any_host().ok_or(StreamError::NoHost)
}

fn is_there(snapshot: &Snapshot, host: &Host) -> bool {
    let cluster = snapshot.clusters.get(&host.cluster);
    cluster.is_some_and(|cluster| cluster.hosts.iter().any(|live| live.host.id == host.id))
}

impl GrpcService<Request<Body>> for Over {
    type Response = Response<Body>;
    type Error = StdError;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        match self {
            Self::Host(sender) => sender.poll_ready(cx).map_err(Into::into),
            Self::Edge(channel) => channel.poll_ready(cx).map_err(Into::into),
        }
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        request
            .headers_mut()
            .insert(http::header::USER_AGENT, HeaderValue::from_static("tombolo"));
        match self {
            Self::Host(sender) => {
                let answered = sender.send_request(request);
                answered.map(|answer| Ok(answer?.map(Body::new))).boxed()
            }
            Self::Edge(channel) => channel.call(request).err_into().boxed(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quota::Terms;
    use crate::quota::buckets::samples;

    #[tokio::test]
    async fn a_service_that_takes_no_reports_is_given_up() {
        let buckets = Buckets::new(Terms {
            interval: Duration::from_millis(1),
            ..samples::terms()
        });
        let bucket = buckets.named(&[("name".into(), "n".into())].into());
        assert!(buckets.take(&bucket, Instant::now()));
        let (reports, _queue) = mpsc::channel(QUEUE_MAX);
        let told = tokio::time::timeout(2 * QUEUED_MAX, tell(&buckets, &reports, || true)).await;
        assert!(matches!(told, Ok(Err(StreamError::Deaf))), "{told:?}");
        assert_eq!(Arc::strong_count(&bucket), 2, "it is held by nobody else");
    }
}
