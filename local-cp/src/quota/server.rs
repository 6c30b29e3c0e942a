//! The thin drive of Envoy's rate limit quota service: a report is taken and answered, and who has to share with one more is told.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::service::rate_limit_quota::v3::rate_limit_quota_response::BucketAction as PbBucketAction;
use envoy_types::pb::envoy::service::rate_limit_quota::v3::rate_limit_quota_response::bucket_action::{
    BucketAction as PbAction, QuotaAssignmentAction as PbAssignment,
};
use envoy_types::pb::envoy::service::rate_limit_quota::v3::rate_limit_quota_service_server::{
    RateLimitQuotaService, RateLimitQuotaServiceServer,
};
use envoy_types::pb::envoy::service::rate_limit_quota::v3::rate_limit_quota_usage_reports::BucketQuotaUsage as PbUsage;
use envoy_types::pb::envoy::service::rate_limit_quota::v3::{
    BucketId as PbBucketId, RateLimitQuotaResponse as PbResponse, RateLimitQuotaUsageReports as PbReports,
};
use envoy_types::pb::google::protobuf::Duration as PbDuration;
use tokio::sync::Notify;
use tokio_stream::Stream;
use tombolo_runtime::shutdown::Shutdown;
use tonic::metadata::MetadataMap;
use tonic::{Request as GrpcRequest, Response as GrpcResponse, Status, Streaming};

use super::ledger::{Assignment, Key, Ledger, StreamId, Usage};

/// How often what is over is looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);
/// By which a proxy is the same on its next stream: one word for each of its streams, that is no other proxy's.
const NAME_HEADER: &str = "x-tombolo-quota-client";
const NAME_BYTES_MAX: usize = 64;
/// Buckets that are looked at in one go; others wait meanwhile.
const AT_ONCE: usize = 256;

/// What all streams share.
#[derive(Clone, Debug)]
pub(crate) struct Quotas {
    ledger: Arc<Mutex<Ledger>>,
    shutdown: Shutdown,
}

/// One proxy's stream; it is closed however it ends.
struct Seat {
    quotas: Quotas,
    stream: StreamId,
    wake: Arc<Notify>,
    /// As its first report has it.
    domain: Option<Arc<str>>,
}

impl Quotas {
    pub(crate) fn new(shutdown: Shutdown) -> Self {
        Self {
            ledger: Arc::default(),
            shutdown,
        }
    }

    pub(crate) fn into_service(self) -> RateLimitQuotaServiceServer<impl RateLimitQuotaService> {
        RateLimitQuotaServiceServer::new(self)
    }

    /// Forgets what is over, until the shutdown.
    pub(crate) async fn sweep(mut self) {
        let mut often = tokio::time::interval(SWEEP_INTERVAL);
        loop {
            tokio::select! {
                _ = often.tick() => self.ledger().sweep(Instant::now()),
                () = self.shutdown.wait() => return,
            }
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One proxy's stream, polled by its connection only: one that does not read is told the latest when it does.
    fn serve(
        self,
        name: Option<Box<str>>,
        mut reports: Streaming<PbReports>,
    ) -> impl Stream<Item = Result<PbResponse, Status>> + Send {
        async_stream::try_stream! {
            let mut seat = Seat::take(self, name);
            while let Some(keys) = seat.next(&mut reports).await? {
                let response = seat.response(&keys);
                if !response.bucket_action.is_empty() {
                    yield response;
                }
            }
        }
    }
}

impl Seat {
    fn take(quotas: Quotas, name: Option<Box<str>>) -> Self {
        let (stream, wake) = quotas.ledger().open(name);
        Self {
            quotas,
            stream,
            wake,
            domain: None,
        }
    }

    /// The buckets of which the proxy is to be told next; `None` when it has closed the stream. Cancel-safe.
    async fn next(&mut self, reports: &mut Streaming<PbReports>) -> Result<Option<Vec<Key>>, Status> {
        tokio::select! {
            reported = reports.message() => match reported? {
                Some(reported) => self.on(reported).map(Some),
                None => Ok(None),
            },
            () = self.wake.notified() => {
                let outdated = self.quotas.ledger().outdated(self.stream);
                Ok(Some(outdated.into_iter().collect()))
            }
            () = self.quotas.shutdown.wait() => Err(Status::unavailable("the edge is stopping")),
        }
    }

    fn on(&mut self, reported: PbReports) -> Result<Vec<Key>, Status> {
        if self.domain.is_none() && !reported.domain.is_empty() {
            self.domain = Some(reported.domain.into());
        }
        let Some(domain) = &self.domain else {
            return Err(Status::invalid_argument(
                "domain is missing from the first report",
            ));
        };
        Ok(self.report(domain, reported.bucket_quota_usages))
    }

    /// Takes what was reported; returns of which buckets.
    fn report(&self, domain: &Arc<str>, usages: Vec<PbUsage>) -> Vec<Key> {
        let now = Instant::now();
        let read: Vec<_> = usages.into_iter().map(|usage| read(domain, usage)).collect();
        for some in read.chunks(AT_ONCE) {
            let mut ledger = self.quotas.ledger();
            for (key, usage) in some {
                ledger.report(self.stream, key, *usage, now);
            }
        }
        read.into_iter().map(|(key, _)| key).collect()
    }

    fn response(&self, keys: &[Key]) -> PbResponse {
        let mut bucket_action = Vec::with_capacity(keys.len());
        for some in keys.chunks(AT_ONCE) {
            let mut ledger = self.quotas.ledger();
            bucket_action.extend(some.iter().filter_map(|key| {
                let assignment = ledger.assignment(self.stream, key)?;
                Some(action(key, assignment))
            }));
        }
        PbResponse { bucket_action }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.quotas.ledger().close(self.stream);
    }
}

#[tonic::async_trait]
impl RateLimitQuotaService for Quotas {
    type StreamRateLimitQuotasStream = Pin<Box<dyn Stream<Item = Result<PbResponse, Status>> + Send>>;

    async fn stream_rate_limit_quotas(
        &self,
        reports: GrpcRequest<Streaming<PbReports>>,
    ) -> Result<GrpcResponse<Self::StreamRateLimitQuotasStream>, Status> {
        let name = name(reports.metadata());
        let responses = self.clone().serve(name, reports.into_inner());
        Ok(GrpcResponse::new(Box::pin(responses)))
    }
}

/// One that is too long is none.
fn name(said: &MetadataMap) -> Option<Box<str>> {
    let name = said.get(NAME_HEADER)?.to_str().ok()?;
    (1..=NAME_BYTES_MAX).contains(&name.len()).then(|| name.into())
}

fn read(domain: &Arc<str>, usage: PbUsage) -> (Key, Usage) {
    let bucket: BTreeMap<String, String> = match usage.bucket_id {
        Some(PbBucketId { bucket }) => bucket.into_iter().collect(),
        None => BTreeMap::new(),
    };
    let key = Key {
        domain: Arc::clone(domain),
        id: Arc::new(bucket),
    };
    let elapsed = usage.time_elapsed.unwrap_or_default();
    let seconds = u64::try_from(elapsed.seconds).unwrap_or(0);
    let nanos = u32::try_from(elapsed.nanos).unwrap_or(0);
    let usage = Usage {
        // Who was denied wanted it as much.
        requests: usage
            .num_requests_allowed
            .saturating_add(usage.num_requests_denied),
        elapsed: Duration::from_secs(seconds).saturating_add(Duration::from_nanos(nanos.into())),
    };
    (key, usage)
}

fn action(key: &Key, assignment: Assignment) -> PbBucketAction {
    let lasts = PbDuration {
        seconds: i64::try_from(assignment.lasts.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(assignment.lasts.subsec_nanos()).unwrap_or(0),
    };
    PbBucketAction {
        bucket_id: Some(PbBucketId {
            bucket: key
                .id
                .iter()
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
        }),
        bucket_action: Some(PbAction::QuotaAssignmentAction(PbAssignment {
            assignment_time_to_live: Some(lasts),
            rate_limit_strategy: Some(assignment.limit.told(assignment.parts)),
        })),
    }
}

#[cfg(test)]
mod tests;
