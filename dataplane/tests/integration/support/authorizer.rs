//! An authorization service that does what the request that it is asked about says in `x-do`.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption, QueryParameter};
use envoy_types::pb::envoy::service::auth::v3::attribute_context::HttpRequest;
use envoy_types::pb::envoy::service::auth::v3::authorization_server::{Authorization, AuthorizationServer};
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{
    AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse,
};
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use envoy_types::pb::google::protobuf::BoolValue;
use envoy_types::pb::google::rpc::Status;
use tonic::transport::Server;

use super::asking;

/// What it was asked.
pub(crate) type Asked = Arc<Mutex<Vec<AttributeContext>>>;

struct Service(Asked);

pub(crate) async fn start() -> (SocketAddr, Asked) {
    let asked = Asked::default();
    let service = AuthorizationServer::new(Service(Arc::clone(&asked)));
    let address = asking::serve(Server::builder().add_service(service)).await;
    (address, asked)
}

pub(crate) fn http(asked: &AttributeContext) -> &HttpRequest {
    asked.request.as_ref().unwrap().http.as_ref().unwrap()
}

#[tonic::async_trait]
impl Authorization for Service {
    async fn check(
        &self,
        request: tonic::Request<CheckRequest>,
    ) -> Result<tonic::Response<CheckResponse>, tonic::Status> {
        let asked = request.into_inner().attributes.unwrap();
        let does = http(&asked).headers.get("x-do").cloned().unwrap_or_default();
        self.0.lock().unwrap().push(asked);
        let response = match &*does {
            "" | "allow" => allowed(OkHttpResponse::default()),
            "deny" => denied(
                401,
                "no",
                vec![
                    set("www-authenticate", "Basic"),
                    set("content-length", "1"),
                    set("set-cookie", "a"),
                    set("set-cookie", "b"),
                ],
            ),
            "forbid" => CheckResponse {
                status: Some(Status {
                    code: 7,
                    ..Status::default()
                }),
                ..CheckResponse::default()
            },
            "say-nothing" => CheckResponse::default(),
            "set-and-remove" => allowed(OkHttpResponse {
                query_parameters_to_set: ["a", "b"].map(parameter).into(),
                query_parameters_to_remove: vec!["b".to_owned(), "c".to_owned()],
                ..OkHttpResponse::default()
            }),
            "show" => denied(403, "<p>", vec![set("content-type", "text/html")]),
            "change" => allowed(OkHttpResponse {
                headers: vec![
                    set("x-user", "alice"),
                    append("x-list", "2"),
                    set("content-length", "1"),
                    set("transfer-encoding", "gzip"),
                    set("connection", "x-user"),
                ],
                headers_to_remove: ["authorization", "host", ":path"].map(str::to_owned).into(),
                response_headers_to_add: vec![set("x-told", "1"), set("content-length", "1")],
                query_parameters_to_set: vec![QueryParameter {
                    key: "user".to_owned(),
                    value: "alice".to_owned(),
                }],
                query_parameters_to_remove: vec!["token".to_owned()],
                ..OkHttpResponse::default()
            }),
            "steer" => allowed(OkHttpResponse {
                headers: vec![set("host", "elsewhere")],
                ..OkHttpResponse::default()
            }),
            "flood" => allowed(OkHttpResponse {
                headers: (0..101).map(|n| set(&format!("x-{n}"), "1")).collect(),
                ..OkHttpResponse::default()
            }),
            "swell" => allowed(OkHttpResponse {
                headers: vec![set("x-a", &"a".repeat(70_000))],
                ..OkHttpResponse::default()
            }),
            "flood-answer" => allowed(OkHttpResponse {
                response_headers_to_add: (0..101).map(|n| set(&format!("x-{n}"), "1")).collect(),
                ..OkHttpResponse::default()
            }),
            "talk" => denied(403, &"a".repeat(300_000), vec![]),
            "hang" => {
                tokio::time::sleep(Duration::from_secs(60)).await;
                CheckResponse::default()
            }
            _ => return Err(tonic::Status::internal("sick")),
        };
        Ok(tonic::Response::new(response))
    }
}

fn allowed(ok: OkHttpResponse) -> CheckResponse {
    CheckResponse {
        status: Some(Status::default()),
        http_response: Some(HttpResponse::OkResponse(ok)),
        ..CheckResponse::default()
    }
}

fn denied(code: i32, body: &str, headers: Vec<HeaderValueOption>) -> CheckResponse {
    CheckResponse {
        status: Some(Status {
            code: 16,
            ..Status::default()
        }),
        http_response: Some(HttpResponse::DeniedResponse(DeniedHttpResponse {
            status: Some(HttpStatus { code }),
            headers,
            body: body.to_owned(),
        })),
        ..CheckResponse::default()
    }
}

fn parameter(key: &str) -> QueryParameter {
    QueryParameter {
        key: key.to_owned(),
        value: "new".to_owned(),
    }
}

fn set(key: &str, value: &str) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: key.to_owned(),
            value: value.to_owned(),
            ..HeaderValue::default()
        }),
        ..HeaderValueOption::default()
    }
}

#[allow(deprecated, reason = "as services say it")]
fn append(key: &str, value: &str) -> HeaderValueOption {
    HeaderValueOption {
        append: Some(BoolValue { value: true }),
        ..set(key, value)
    }
}
