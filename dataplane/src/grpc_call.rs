//! Calls of gRPC that the proxy makes by itself while a request waits: one message there and one back, over the worker's own
//! connections. The cluster's balancer, limits and outliers count for them as for what is forwarded. There is one attempt, within
//! its time, and of an answer no more is read than a filter may want.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, TE};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use prost::Message;

use crate::attempt::{Failure, blamed};
use crate::balance::Tried;
use crate::body::HostBody;
use crate::config::Protocol;
use crate::exchange::CLIENT_GONE;
use crate::forward::only_http2;
use crate::grpc::{self, Code, GRPC_STATUS, GRPC_TIMEOUT};
use crate::h1::Buffers;
use crate::listener::Connection;
use crate::metrics::RouteCounters;
use crate::outlier::Report;
use crate::pool::HostPool;
use crate::snapshot::LiveCluster;
use crate::upload::RequestBody;
use crate::upstream::Attempt;
use crate::worker::{Worker, WorkerCluster};

/// More than the longest head and a page to be shown to who is denied.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// Who is called.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Callee {
    pub(crate) cluster: Arc<str>,
    pub(crate) authority: Authority,
    /// For all of a call.
    pub(crate) timeout: Duration,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
}

/// Why a call brought no message.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("there is no cluster {0}")]
    NoCluster(Arc<str>),
    #[error("cluster {0} is not spoken to in HTTP/2")]
    NotHttp2(Arc<str>),
    #[error("no healthy upstream")]
    NoHost,
    #[error("as many requests are under way as may be")]
    Overflow,
    #[error("no answer within {0:?}")]
    Late(Duration),
    #[error("{0}")]
    Failed(String),
    #[error("the answer is no answer to a call: {0}")]
    Malformed(&'static str),
    /// Whatever it says; a client may have made it as long as it is.
    #[error("the answer has more than {ANSWER_BYTES_MAX} bytes")]
    TooLarge,
    #[error("the call ended with status {0:?}")]
    Status(Code),
}

/// Counts a call when it has ended, or nobody waits for it any more.
struct Counted {
    counters: Arc<RouteCounters>,
    began: Instant,
    status: u16,
}

/// Calls `path` with `message` while a request of `connection` waits.
pub(crate) async fn call<A: Message + Default>(
    connection: &Connection,
    callee: &Callee,
    path: PathAndQuery,
    message: &impl Message,
) -> Result<A, CallError> {
    let worker = &connection.worker;
    let cluster = worker.view().cluster(&callee.cluster);
    let cluster = cluster.ok_or_else(|| CallError::NoCluster(Arc::clone(&callee.cluster)))?;
    let mut counted = Counted::begin(cluster.counters(worker, &connection.listener.name));
    let called = called(worker, &cluster, callee, path, message).await;
    counted.status = match &called {
        Ok(_) | Err(CallError::Status(_)) => 200,
        Err(CallError::Late(_)) => 504,
        Err(_) => 503,
    };
    called
}

async fn called<A: Message + Default>(
    worker: &Worker,
    cluster: &WorkerCluster,
    callee: &Callee,
    path: PathAndQuery,
    message: &impl Message,
) -> Result<A, CallError> {
    if cluster.live.config.protocol != Protocol::Http2 {
        return Err(CallError::NotHttp2(Arc::clone(&callee.cluster)));
    }
    let chosen = cluster.choose(&worker.random, &mut Tried::default(), None, None, None, None);
    let (pool, _) = chosen.ok_or(CallError::NoHost)?;
    if !cluster.allows_request() {
        return Err(CallError::Overflow);
    }
    let request = request(callee, pool.host.scheme(), path, &message.encode_to_vec());
    let connected = Cell::new(false);
    let answering = answered(&pool, &cluster.live, request, &connected, &worker.buffers);
    match tokio::time::timeout(callee.timeout, answering).await {
        Ok(answer) => answer,
        Err(_) => {
            // A host to which there was no connection yet is not to blame.
            if connected.get() {
                pool.report(Report::TimedOut);
            }
            Err(CallError::Late(callee.timeout))
        }
    }
}

fn request(callee: &Callee, scheme: Scheme, path: PathAndQuery, message: &[u8]) -> Request<RequestBody> {
    let mut request = Request::new(RequestBody::Kept {
        chunks: [grpc::framed(message)].into(),
        trailers: None,
    });
    *request.method_mut() = Method::POST;
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(scheme);
    uri.authority = Some(callee.authority.clone());
    uri.path_and_query = Some(path);
    *request.uri_mut() = Uri::from_parts(uri).expect("invariant: scheme, authority and path are a URI");
    let headers = request.headers_mut();
    headers.extend(callee.headers.iter().cloned());
    only_http2(headers);
    headers.insert(CONTENT_TYPE, grpc::CONTENT_TYPE);
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers.insert(GRPC_TIMEOUT, grpc::said_timeout(callee.timeout));
    request
}

async fn answered<A: Message + Default>(
    pool: &Rc<HostPool>,
    cluster: &LiveCluster,
    request: Request<RequestBody>,
    connected: &Cell<bool>,
    buffers: &Rc<Buffers>,
) -> Result<A, CallError> {
    let attempt = Attempt {
        config: &cluster.config,
        buffers,
        upload: None,
        connected,
    };
    // It counts on its host until all of the answer has come.
    let (response, _lease) = match attempt.over_http2(pool, request).await {
        Ok(answered) => answered,
        Err(failure) => {
            if let Some(report) = blamed(&failure) {
                pool.report(report);
            }
            return Err(CallError::from(failure));
        }
    };
    let (head, body) = response.into_parts();
    pool.report(Report::Status(head.status.as_u16()));
    let (body, trailers) = read(body).await?;
    message(&head, &body, trailers.as_ref())
}

async fn read(body: HostBody) -> Result<(Bytes, Option<HeaderMap>), CallError> {
    let read = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
    let read = read.map_err(|error| {
        if error.is::<LengthLimitError>() {
            CallError::TooLarge
        } else {
            CallError::Failed(error.to_string())
        }
    })?;
    let trailers = read.trailers().cloned();
    Ok((read.to_bytes(), trailers))
}

/// The message of an answer that went well.
fn message<A: Message + Default>(
    head: &http::response::Parts,
    body: &[u8],
    trailers: Option<&HeaderMap>,
) -> Result<A, CallError> {
    let is_call = |given: &HeaderValue| grpc::is_call(given.as_bytes());
    if head.status != StatusCode::OK || !head.headers.get(CONTENT_TYPE).is_some_and(is_call) {
        return Err(CallError::Malformed("it is not of gRPC"));
    }
    // A call without a message ends with its head.
    let code = trailers.unwrap_or(&head.headers).get(GRPC_STATUS);
    match code.and_then(|code| Code::read(code.as_bytes())) {
        Some(Code::OK) => {}
        Some(code) => return Err(CallError::Status(code)),
        None => return Err(CallError::Malformed("it has no status")),
    }
    let message = grpc::unframed(body).ok_or(CallError::Malformed("it is not one message"))?;
    A::decode(message).map_err(|_| CallError::Malformed("its message is none"))
}

impl Counted {
    fn begin(counters: Arc<RouteCounters>) -> Self {
        counters.begun.add(1);
        Self {
            counters,
            began: Instant::now(),
            status: CLIENT_GONE,
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.counters.request(self.status, self.began.elapsed());
    }
}

impl From<Failure> for CallError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Attempt { detail, .. } => Self::Failed(detail),
            Failure::Overflow => Self::Overflow,
            // The request has no client of its own.
            Failure::Late { .. } | Failure::Client(_) | Failure::ClientLeft => {
                Self::Failed("the call broke off".to_owned())
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http::Response;

    use super::*;

    #[test]
    fn what_is_added_to_a_call_breaks_none() {
        let line = |name, value| (HeaderName::from_static(name), HeaderValue::from_static(value));
        let callee = Callee {
            cluster: "c".into(),
            authority: Authority::from_static("h"),
            timeout: Duration::from_secs(1),
            headers: vec![
                line("connection", "close"),
                line("keep-alive", "1"),
                line("te", "gzip"),
                line("transfer-encoding", "chunked"),
                line("x-token", "t"),
            ],
        };
        let request = request(&callee, Scheme::HTTP, PathAndQuery::from_static("/s/m"), b"");
        let mut names: Vec<&str> = request.headers().keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-type", "grpc-timeout", "te", "x-token"]);
        assert_eq!(request.headers()[TE], "trailers");
    }

    #[test]
    fn an_answer_is_one_message_that_went_well() {
        let call = "application/grpc";
        let message: &[u8] = b"\0\0\0\0\x02\x08\x01";
        let malformed = |why: &str| Err(format!("the answer is no answer to a call: {why}"));
        let ended = |code: u8| Err(format!("the call ended with status Code({code})"));
        for (status, content_type, in_head, body, in_trailers, expected) in [
            (200, call, None, message, Some("0"), Ok(true)),
            (200, "application/grpc+proto", None, message, Some("0"), Ok(true)),
            (200, call, None, b"\0\0\0\0\0", Some("0"), Ok(false)),
            (200, call, Some("0"), message, None, Ok(true)),
            (200, call, Some("0"), message, Some("5"), ended(5)),
            (200, call, Some("14"), b"", None, ended(14)),
            (200, call, None, message, Some("7"), ended(7)),
            (200, call, None, message, None, malformed("it has no status")),
            (200, call, None, message, Some("x"), malformed("it has no status")),
            (
                503,
                call,
                None,
                message,
                Some("0"),
                malformed("it is not of gRPC"),
            ),
            (
                200,
                "text/plain",
                None,
                message,
                Some("0"),
                malformed("it is not of gRPC"),
            ),
            (
                200,
                call,
                None,
                b"",
                Some("0"),
                malformed("it is not one message"),
            ),
            (
                200,
                call,
                None,
                b"\x01\0\0\0\0",
                Some("0"),
                malformed("it is not one message"),
            ),
            (
                200,
                call,
                None,
                b"\0\0\0\0\x01\x08",
                Some("0"),
                malformed("its message is none"),
            ),
        ] {
            let code = |code: &'static str| (GRPC_STATUS, HeaderValue::from_static(code));
            let mut head = Response::builder()
                .status(status)
                .header(CONTENT_TYPE, content_type);
            head.headers_mut()
                .unwrap()
                .extend(in_head.map(code).map(|(name, code)| (Some(name), code)));
            let trailers = in_trailers.map(|given| HeaderMap::from_iter([code(given)]));
            let head = head.body(()).unwrap().into_parts().0;
            let got = super::message::<bool>(&head, body, trailers.as_ref());
            let got = got.map_err(|error| error.to_string());
            assert_eq!(
                got, expected,
                "{status} {content_type} {in_head:?} {body:?} {in_trailers:?}"
            );
        }
    }
}
