//! The server over real gRPC.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;

use envoy_types::pb::envoy::service::rate_limit_quota::v3::rate_limit_quota_service_client::RateLimitQuotaServiceClient;
use envoy_types::pb::envoy::r#type::v3::rate_limit_strategy::Strategy as PbStrategy;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tombolo_runtime::shutdown::Trigger;
use tonic::Code;
use tonic::transport::Server;

use super::*;

const DEADLINE: Duration = Duration::from_secs(20);

struct Edge {
    address: SocketAddr,
    quotas: Quotas,
    trigger: Trigger,
}

struct Proxy {
    reports: mpsc::Sender<PbReports>,
    responses: Streaming<PbResponse>,
}

async fn edge() -> Edge {
    let (trigger, shutdown) = Shutdown::new();
    let quotas = Quotas::new(shutdown);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::builder().add_service(quotas.clone().into_service());
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    Edge {
        address,
        quotas,
        trigger,
    }
}

fn id(name: &str) -> PbBucketId {
    let parts = [("limit", "100/1s"), ("name", name)];
    PbBucketId {
        bucket: parts
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
    }
}

fn report(domain: &str, name: &str, allowed: u64, denied: u64) -> PbReports {
    PbReports {
        domain: domain.to_owned(),
        bucket_quota_usages: vec![PbUsage {
            bucket_id: Some(id(name)),
            time_elapsed: Some(PbDuration { seconds: 5, nanos: 0 }),
            num_requests_allowed: allowed,
            num_requests_denied: denied,
        }],
    }
}

impl Proxy {
    async fn connect(edge: &Edge, first: PbReports) -> Self {
        Self::named(edge, None, first).await
    }

    async fn named(edge: &Edge, name: Option<&'static str>, first: PbReports) -> Self {
        let url = format!("http://{}", edge.address);
        let mut client = RateLimitQuotaServiceClient::connect(url).await.unwrap();
        let (reports, queue) = mpsc::channel(4);
        reports.send(first).await.unwrap();
        let mut request = GrpcRequest::new(ReceiverStream::new(queue));
        if let Some(name) = name {
            let name = name.parse().unwrap();
            request.metadata_mut().insert(NAME_HEADER, name);
        }
        let responses = client.stream_rate_limit_quotas(request).await;
        Self {
            reports,
            responses: responses.unwrap().into_inner(),
        }
    }

    /// What it is assigned next: of which bucket, how many tokens it holds, and for how long.
    async fn assigned(&mut self) -> Result<(PbBucketId, u32, i64), Status> {
        let response = timeout(DEADLINE, self.responses.message()).await.unwrap()?;
        let actions = response.unwrap().bucket_action;
        let [
            PbBucketAction {
                bucket_id: Some(id),
                bucket_action: Some(PbAction::QuotaAssignmentAction(assignment)),
            },
        ] = &actions[..]
        else {
            panic!("{actions:?}")
        };
        let Some(PbStrategy::TokenBucket(bucket)) = assignment.rate_limit_strategy.unwrap().strategy else {
            panic!("{assignment:?}")
        };
        let lasts = assignment.assignment_time_to_live.unwrap().seconds;
        Ok((id.clone(), bucket.max_tokens, lasts))
    }
}

#[tokio::test]
async fn proxies_share_a_limit() {
    let edge = edge().await;
    let mut one = Proxy::connect(&edge, report("shop", "n", 5, 2000)).await;
    assert_eq!(one.assigned().await.unwrap(), (id("n"), 100, 15));
    // Of another domain.
    let mut apart = Proxy::connect(&edge, report("other", "n", 500, 0)).await;
    assert_eq!(apart.assigned().await.unwrap(), (id("n"), 100, 15));
    let mut other = Proxy::connect(&edge, report("shop", "n", 100, 0)).await;
    assert_eq!(other.assigned().await.unwrap(), (id("n"), 22, 15));
    assert_eq!(
        one.assigned().await.unwrap(),
        (id("n"), 78, 15),
        "without being asked"
    );
    // The domain is said once.
    other.reports.send(report("", "n", 0, 5000)).await.unwrap();
    assert_eq!(other.assigned().await.unwrap(), (id("n"), 50, 15));
    one.reports.send(report("", "n", 0, 5000)).await.unwrap();
    assert_eq!(one.assigned().await.unwrap(), (id("n"), 50, 15));
    // What a proxy had that is gone is not given to others at once.
    drop(other);
    one.reports.send(report("", "n", 0, 5000)).await.unwrap();
    assert_eq!(one.assigned().await.unwrap(), (id("n"), 50, 15));
}

#[tokio::test]
async fn a_proxy_that_comes_back_has_what_it_had() {
    let edge = edge().await;
    for (name, expected) in [
        (Some("one"), 100),
        (Some("one"), 100),
        (None, 50),
        (Some(""), 33),
        (Some("one"), 33),
    ] {
        let mut proxy = Proxy::named(&edge, name, report("shop", "n", 0, 5000)).await;
        let (_, tokens, _) = proxy.assigned().await.unwrap();
        assert_eq!(tokens, expected, "{name:?}");
    }
}

#[tokio::test]
async fn a_stream_ends_with_a_word() {
    let edge = edge().await;
    let mut nameless = Proxy::connect(&edge, report("", "n", 1, 0)).await;
    assert_eq!(
        nameless.assigned().await.unwrap_err().code(),
        Code::InvalidArgument
    );
    let mut proxy = Proxy::connect(&edge, report("shop", "n", 1, 0)).await;
    proxy.assigned().await.unwrap();
    let sweeping = tokio::spawn(edge.quotas.clone().sweep());
    edge.trigger.fire();
    assert_eq!(proxy.assigned().await.unwrap_err().code(), Code::Unavailable);
    timeout(DEADLINE, sweeping).await.unwrap().unwrap();
}
