//! A collector of OpenTelemetry's protocol that keeps what it is sent.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use envoy_types::pb::opentelemetry::proto::common::v1::any_value::Value;
use envoy_types::pb::opentelemetry::proto::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::TcpListener;

/// A request to export, whose items are spans or records of logs, encoded.
#[derive(Clone, PartialEq, Message)]
struct Export {
    #[prost(message, repeated, tag = "1")]
    groups: Vec<Group>,
}

#[derive(Clone, PartialEq, Message)]
struct Group {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scopes: Vec<Scope>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct Scope {
    #[prost(message, optional, tag = "1")]
    scope: Option<InstrumentationScope>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    items: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Span {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(string, tag = "3")]
    pub(crate) trace_state: String,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    pub(crate) name: String,
    #[prost(int32, tag = "6")]
    pub(crate) kind: i32,
    #[prost(fixed64, tag = "7")]
    pub(crate) start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    pub(crate) end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
    #[prost(fixed32, tag = "16")]
    flags: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "3")]
    code: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct LogRecord {
    #[prost(fixed64, tag = "1")]
    pub(crate) time_unix_nano: u64,
    #[prost(message, optional, tag = "5")]
    pub(crate) body: Option<AnyValue>,
    #[prost(message, repeated, tag = "6")]
    attributes: Vec<KeyValue>,
    #[prost(bytes = "vec", tag = "9")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "10")]
    span_id: Vec<u8>,
}

#[derive(Default)]
struct Seen {
    /// How calls with spans end, until there are no more of them.
    refusals: Vec<&'static str>,
    calls: usize,
    spans: Vec<Span>,
    logs: Vec<LogRecord>,
    resource: Vec<KeyValue>,
    headers: http::HeaderMap,
}

/// Drop it, and its connections break.
pub(crate) struct Collector {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    task: tokio::task::JoinHandle<()>,
}

impl Collector {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Mutex<Seen>>::default();
        let all = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let seen = Arc::clone(&all);
                connections.spawn(async move {
                    let service = service_fn(move |request| take(request, Arc::clone(&seen)));
                    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    // A proxy that goes away is no failure of a test.
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, seen, task }
    }

    pub(crate) fn spans(&self) -> Vec<Span> {
        self.seen.lock().unwrap().spans.clone()
    }

    /// The next calls with spans end so, and what they bring is not taken.
    pub(crate) fn refuses(&self, codes: &[&'static str]) {
        self.seen.lock().unwrap().refusals = codes.iter().rev().copied().collect();
    }

    /// How often it was called with spans.
    pub(crate) fn calls(&self) -> usize {
        self.seen.lock().unwrap().calls
    }

    pub(crate) fn logs(&self) -> Vec<LogRecord> {
        self.seen.lock().unwrap().logs.clone()
    }

    pub(crate) fn resource(&self) -> BTreeMap<String, String> {
        shown(&self.seen.lock().unwrap().resource)
    }

    pub(crate) fn headers(&self) -> http::HeaderMap {
        self.seen.lock().unwrap().headers.clone()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Span {
    pub(crate) fn trace(&self) -> String {
        hex(&self.trace_id)
    }

    pub(crate) fn id(&self) -> String {
        hex(&self.span_id)
    }

    pub(crate) fn parent(&self) -> String {
        hex(&self.parent_span_id)
    }

    pub(crate) fn is_error(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.code == 2)
    }

    pub(crate) fn attributes(&self) -> BTreeMap<String, String> {
        shown(&self.attributes)
    }
}

impl LogRecord {
    pub(crate) fn trace(&self) -> String {
        hex(&self.trace_id)
    }

    pub(crate) fn span(&self) -> String {
        hex(&self.span_id)
    }

    pub(crate) fn attributes(&self) -> BTreeMap<String, String> {
        shown(&self.attributes)
    }
}

async fn take(
    request: Request<Incoming>,
    seen: Arc<Mutex<Seen>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let mut seen = seen.lock().unwrap();
    let mut code = "0";
    if head.uri.path().ends_with("TraceService/Export") {
        seen.calls += 1;
        code = seen.refusals.pop().unwrap_or(code);
    }
    if code != "0" {
        return Ok(ended(code));
    }
    for group in Export::decode(&body[5..]).unwrap().groups {
        seen.resource = group.resource.unwrap().attributes;
        for item in group.scopes.into_iter().flat_map(|scope| scope.items) {
            match head.uri.path() {
                "/opentelemetry.proto.collector.trace.v1.TraceService/Export" => {
                    seen.spans.push(Span::decode(&*item).unwrap());
                }
                "/opentelemetry.proto.collector.logs.v1.LogsService/Export" => {
                    seen.logs.push(LogRecord::decode(&*item).unwrap());
                }
                other => panic!("{other} is no way to export anything"),
            }
        }
    }
    seen.headers = head.headers;
    Ok(ended(code))
}

fn ended(code: &'static str) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::default());
    let headers = answer.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from_static(code));
    answer
}

pub(crate) fn text(value: &AnyValue) -> String {
    match &value.value {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::KvlistValue(list)) => format!("{:?}", shown(&list.values)),
        other => format!("{other:?}"),
    }
}

fn shown(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let shown = |pair: &KeyValue| {
        (
            pair.key.clone(),
            pair.value.as_ref().map(text).unwrap_or_default(),
        )
    };
    attributes.iter().map(shown).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
