//! Checks by `grpc.health.v1.Health/Check`: one call over HTTP/2, whose answer says how the host is.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, TE};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::Full;
use prost::Message;

use super::{Told, authority, user_agent};
use crate::grpc::{self, Code, GRPC_STATUS};
use crate::snapshot::Host;

const PATH: PathAndQuery = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
/// `HealthCheckResponse.ServingStatus.SERVING`.
const SERVING: i32 = 1;

/// What is asked of each host.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct GrpcProbe {
    pub(crate) authority: HeaderValue,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// The request, as it is sent.
    message: Bytes,
}

/// `grpc.health.v1.HealthCheckRequest`
#[derive(Clone, PartialEq, Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`
#[derive(Clone, PartialEq, Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

impl GrpcProbe {
    /// About `service`, or about the host as a whole where it is empty.
    pub(crate) fn new(
        authority: HeaderValue,
        headers: Vec<(HeaderName, HeaderValue)>,
        service: String,
    ) -> Self {
        Self {
            authority,
            headers,
            message: grpc::framed(&HealthCheckRequest { service }.encode_to_vec()),
        }
    }

    pub(super) fn request(&self, host: &Host) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(self.message.clone()));
        *request.method_mut() = Method::POST;
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(host.scheme());
        uri.authority = Some(authority(&self.authority, host));
        uri.path_and_query = Some(PATH);
        *request.uri_mut() = Uri::from_parts(uri).expect("invariant: scheme, authority and path are a URI");
        let headers = request.headers_mut();
        user_agent(headers);
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.extend(self.headers.iter().cloned());
        headers.insert(CONTENT_TYPE, grpc::CONTENT_TYPE);
        request
    }
}

/// Whether the host says that it serves, and that the call went well.
pub(super) fn serves(told: Told) -> bool {
    let content_type = told.head.headers.get(CONTENT_TYPE);
    let is_call = content_type.is_some_and(|given| grpc::is_call(given.as_bytes()));
    let Some(body) = told.body else {
        return false;
    };
    let went_well = body.trailers().and_then(code) == Some(Code::OK);
    told.head.status == StatusCode::OK && is_call && went_well && says_serving(&body.to_bytes())
}

fn code(headers: &HeaderMap) -> Option<Code> {
    Code::read(headers.get(GRPC_STATUS)?.as_bytes())
}

fn says_serving(body: &[u8]) -> bool {
    let message = grpc::unframed(body).and_then(|message| HealthCheckResponse::decode(message).ok());
    message.is_some_and(|message| message.status == SERVING)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http::Response;
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn a_host_serves_when_all_of_its_answer_says_so() {
        let serving: &[u8] = b"\0\0\0\0\x02\x08\x01";
        let call = "application/grpc";
        for (status, content_type, body, trailer, expected) in [
            (200, call, serving, Some("0"), true),
            (200, "application/grpc+proto", serving, Some("0"), true),
            (503, call, serving, Some("0"), false),
            (200, "text/plain", serving, Some("0"), false),
            (200, call, serving, Some("5"), false),
            (200, call, serving, None, false),
            (200, call, b"\0\0\0\0\x02\x08\x02", Some("0"), false),
            (200, call, b"\0\0\0\0\0", Some("0"), false),
            (200, call, b"\0\0\0\0\x02\x08", Some("0"), false),
            (200, call, b"", Some("12"), false),
        ] {
            let trailers = trailer.map(|code| {
                let value = HeaderValue::from_static(code);
                Ok(HeaderMap::from_iter([(GRPC_STATUS, value)]))
            });
            let body = Full::new(Bytes::from_static(body)).with_trailers(std::future::ready(trailers));
            let response = Response::builder()
                .status(status)
                .header(CONTENT_TYPE, content_type);
            let told = Told {
                head: response.body(()).unwrap().into_parts().0,
                body: Some(body.collect().await.unwrap()),
            };
            assert_eq!(serves(told), expected, "{status} {content_type} {trailer:?}");
        }
    }

    #[test]
    fn a_service_is_asked_for_by_its_name() {
        let probe =
            |service: &str| GrpcProbe::new(HeaderValue::from_static("a"), Vec::new(), service.to_owned());
        assert_eq!(probe("").message, &b"\0\0\0\0\0"[..]);
        assert_eq!(probe("s").message, &b"\0\0\0\0\x03\x0a\x01s"[..]);
    }
}
