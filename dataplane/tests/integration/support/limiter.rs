//! A rate-limit service that answers as the value of the entry `do` says, and else that there may be more.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::HeaderValue;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::rate_limit::Unit;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::{
    Code, DescriptorStatus, RateLimit,
};
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_server::{
    RateLimitService, RateLimitServiceServer,
};
use envoy_types::pb::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use tonic::transport::Server;

use super::asking;

/// What it was asked, as `domain|key=value,key=value|..`.
pub(crate) type Asked = Arc<Mutex<Vec<String>>>;

struct Service(Asked);

pub(crate) async fn start() -> (SocketAddr, Asked) {
    let asked = Asked::default();
    let service = RateLimitServiceServer::new(Service(Arc::clone(&asked)));
    let address = asking::serve(Server::builder().add_service(service)).await;
    (address, asked)
}

#[tonic::async_trait]
impl RateLimitService for Service {
    async fn should_rate_limit(
        &self,
        request: tonic::Request<RateLimitRequest>,
    ) -> Result<tonic::Response<RateLimitResponse>, tonic::Status> {
        let asked = request.into_inner();
        let mut shown = vec![asked.domain];
        let mut does = String::new();
        for descriptor in asked.descriptors {
            let entries = descriptor
                .entries
                .iter()
                .map(|entry| format!("{}={}", entry.key, entry.value));
            shown.push(entries.collect::<Vec<_>>().join(","));
            let said = descriptor.entries.into_iter().find(|entry| entry.key == "do");
            does = said.map_or(does, |entry| entry.value);
        }
        self.0.lock().unwrap().push(shown.join("|"));
        let header = |key: &str, value: &str| HeaderValue {
            key: key.to_owned(),
            value: value.to_owned(),
            ..HeaderValue::default()
        };
        let told = match &*does {
            "over" => vec![header("content-type", "application/json")],
            _ => vec![],
        };
        let code = match &*does {
            "over" => Code::OverLimit,
            "hang" => {
                tokio::time::sleep(Duration::from_secs(60)).await;
                Code::Ok
            }
            "break" => return Err(tonic::Status::internal("sick")),
            _ => Code::Ok,
        };
        Ok(tonic::Response::new(RateLimitResponse {
            overall_code: code as i32,
            statuses: vec![DescriptorStatus {
                current_limit: Some(RateLimit {
                    requests_per_unit: 5,
                    unit: Unit::Minute as i32,
                    ..RateLimit::default()
                }),
                limit_remaining: 3,
                ..DescriptorStatus::default()
            }],
            response_headers_to_add: [header("x-told", "1"), header("content-length", "1")]
                .into_iter()
                .chain(told)
                .collect(),
            request_headers_to_add: vec![header("x-counted", "1"), header("content-length", "1")],
            raw_body: b"busy".to_vec(),
            ..RateLimitResponse::default()
        }))
    }
}
