//! A rate limit quota service: it notes what it is told, and assigns what the test says.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use envoy_types::pb::envoy::service::rate_limit_quota::v3::rate_limit_quota_response::BucketAction;
use envoy_types::pb::envoy::service::rate_limit_quota::v3::rate_limit_quota_response::bucket_action::BucketAction as Action;
use envoy_types::pb::envoy::service::rate_limit_quota::v3::rate_limit_quota_service_server::{
    RateLimitQuotaService, RateLimitQuotaServiceServer,
};
use envoy_types::pb::envoy::service::rate_limit_quota::v3::{
    BucketId, RateLimitQuotaResponse, RateLimitQuotaUsageReports,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio_stream::Stream;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};

/// What was told of one bucket, `name=value,..`, over all streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) reports: u64,
    pub(crate) allowed: u64,
    pub(crate) denied: u64,
}

#[derive(Clone)]
pub(crate) struct Quotas {
    pub(crate) address: SocketAddr,
    behind: SocketAddr,
    told: Arc<Mutex<BTreeMap<String, Told>>>,
    /// Of each stream, as its first message has it.
    domains: Arc<Mutex<Vec<String>>>,
    /// What each stream says of whose it is.
    names: Arc<Mutex<Vec<String>>>,
    /// For all buckets, with each report and whenever it changes.
    says: watch::Sender<Option<Action>>,
    serving: Arc<Mutex<Option<AbortHandle>>>,
}

impl Quotas {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let behind = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let quotas = Self {
            address: listener.local_addr().unwrap(),
            behind: behind.local_addr().unwrap(),
            told: Arc::default(),
            domains: Arc::default(),
            names: Arc::default(),
            says: watch::Sender::new(None),
            serving: Arc::default(),
        };
        let service = quotas.service();
        tokio::spawn(async move {
            let server = tonic::transport::Server::builder().add_service(service);
            server
                .serve_with_incoming(TcpListenerStream::new(behind))
                .await
                .unwrap();
        });
        quotas.serve(listener);
        quotas
    }

    /// To be served elsewhere too.
    pub(crate) fn service(&self) -> RateLimitQuotaServiceServer<Self> {
        RateLimitQuotaServiceServer::new(self.clone())
    }

    fn serve(&self, listener: TcpListener) {
        let behind = self.behind;
        let serving = tokio::spawn(async move {
            // They end with it.
            let mut connections = JoinSet::new();
            loop {
                let (mut outer, _) = listener.accept().await.unwrap();
                connections.spawn(async move {
                    let mut inner = TcpStream::connect(behind).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
                });
            }
        });
        *self.serving.lock().unwrap() = Some(serving.abort_handle());
    }

    /// Ends without a word.
    pub(crate) fn stop(&self) {
        self.serving.lock().unwrap().take().unwrap().abort();
    }

    pub(crate) async fn again(&self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.serve(listener);
    }

    pub(crate) fn say(&self, action: Option<Action>) {
        self.says.send_replace(action);
    }

    pub(crate) fn told(&self, bucket: &str) -> Told {
        self.told.lock().unwrap().get(bucket).copied().unwrap_or_default()
    }

    pub(crate) fn buckets(&self) -> Vec<String> {
        self.told.lock().unwrap().keys().cloned().collect()
    }

    pub(crate) fn domains(&self) -> Vec<String> {
        self.domains.lock().unwrap().clone()
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.names.lock().unwrap().clone()
    }

    fn note(&self, reports: &RateLimitQuotaUsageReports) -> Vec<BucketId> {
        if !reports.domain.is_empty() {
            self.domains.lock().unwrap().push(reports.domain.clone());
        }
        let mut told = self.told.lock().unwrap();
        let usages = reports.bucket_quota_usages.iter();
        let ids = usages.map(|usage| {
            let id = usage.bucket_id.clone().unwrap();
            let elapsed = usage.time_elapsed.unwrap();
            assert!(elapsed.seconds > 0 || elapsed.nanos > 0, "{usage:?}");
            let told = told.entry(shown(&id.bucket)).or_default();
            told.reports += 1;
            told.allowed += usage.num_requests_allowed;
            told.denied += usage.num_requests_denied;
            id
        });
        ids.collect()
    }
}

fn shown(bucket: &HashMap<String, String>) -> String {
    let sorted: BTreeMap<_, _> = bucket.iter().collect();
    let parts = sorted.into_iter().map(|(name, value)| format!("{name}={value}"));
    parts.collect::<Vec<_>>().join(",")
}

#[tonic::async_trait]
impl RateLimitQuotaService for Quotas {
    type StreamRateLimitQuotasStream =
        Pin<Box<dyn Stream<Item = Result<RateLimitQuotaResponse, Status>> + Send>>;

    async fn stream_rate_limit_quotas(
        &self,
        request: Request<Streaming<RateLimitQuotaUsageReports>>,
    ) -> Result<Response<Self::StreamRateLimitQuotasStream>, Status> {
        let quotas = self.clone();
        let name = request.metadata().get("x-tombolo-quota-client").unwrap();
        let name = name.to_str().unwrap().to_owned();
        self.names.lock().unwrap().push(name);
        let mut reports = request.into_inner();
        let (answers, queue) = tokio::sync::mpsc::channel(1);
        tokio::spawn(async move {
            let mut says = quotas.says.subscribe();
            let mut ids = Vec::new();
            loop {
                tokio::select! {
                    report = reports.message() => match report {
                        Ok(Some(report)) => {
                            let reported = quotas.note(&report);
                            ids.retain(|id| !reported.contains(id));
                            ids.extend(reported);
                        }
                        Ok(None) | Err(_) => return,
                    },
                    Ok(()) = says.changed() => {}
                }
                let Some(action) = *says.borrow_and_update() else {
                    continue;
                };
                let bucket_action = ids.iter().map(|id| BucketAction {
                    bucket_id: Some(id.clone()),
                    bucket_action: Some(action),
                });
                let response = RateLimitQuotaResponse {
                    bucket_action: bucket_action.collect(),
                };
                if !ids.is_empty() && answers.send(Ok(response)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(
            tokio_stream::wrappers::ReceiverStream::new(queue),
        )))
    }
}
