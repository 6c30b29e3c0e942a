//! OpenTelemetry's protocol, as far as spans and records of logs are sent by it: the messages
//! (<https://github.com/open-telemetry/opentelemetry-proto>), and to whom they go. What is sent is encoded where it is made; the
//! main runtime sends it on.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use envoy_types::pb::opentelemetry::proto::common::v1 as common;
use http::header::{HeaderName, HeaderValue};
use prost::Message;

mod export;
mod retry;

pub(crate) use common::any_value::Value;
pub(crate) use common::{AnyValue, ArrayValue, KeyValue, KeyValueList};
pub(crate) use export::Exporter;

use export::Lane;

/// Who is told, of what, and by whom.
#[derive(Debug)]
pub(crate) struct Stream {
    signal: Signal,
    collector: Collector,
    /// Said of all that goes there.
    resource: Vec<KeyValue>,
    /// The way there, once it was gone.
    lane: OnceLock<Lane>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    Traces,
    Logs,
}

/// Where a collector is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Collector {
    pub(crate) target: Target,
    /// Of one batch.
    pub(crate) timeout: Duration,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Hosts of a cluster, whatever is spoken to them otherwise.
    Cluster {
        name: Box<str>,
        /// In place of the cluster's name.
        authority: Option<http::uri::Authority>,
    },
    /// `HOST:PORT`, without TLS.
    Address(http::uri::Authority),
}

/// `opentelemetry.proto.trace.v1.Span`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Span {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) span_id: Vec<u8>,
    #[prost(string, tag = "3")]
    pub(crate) trace_state: String,
    #[prost(bytes = "vec", tag = "4")]
    pub(crate) parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    pub(crate) name: String,
    #[prost(int32, tag = "6")]
    pub(crate) kind: i32,
    #[prost(fixed64, tag = "7")]
    pub(crate) start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    pub(crate) end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    pub(crate) attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    pub(crate) status: Option<Status>,
    #[prost(fixed32, tag = "16")]
    pub(crate) flags: u32,
}

/// `opentelemetry.proto.trace.v1.Status`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Status {
    #[prost(int32, tag = "3")]
    pub(crate) code: i32,
}

/// `opentelemetry.proto.logs.v1.LogRecord`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct LogRecord {
    #[prost(fixed64, tag = "1")]
    pub(crate) time_unix_nano: u64,
    #[prost(message, optional, tag = "5")]
    pub(crate) body: Option<AnyValue>,
    #[prost(message, repeated, tag = "6")]
    pub(crate) attributes: Vec<KeyValue>,
    #[prost(bytes = "vec", tag = "9")]
    pub(crate) trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "10")]
    pub(crate) span_id: Vec<u8>,
}

/// `ExportTraceServiceRequest` and `ExportLogsServiceRequest`, which are the same but for what the items are.
#[derive(Clone, PartialEq, Message)]
struct ExportRequest {
    #[prost(message, repeated, tag = "1")]
    groups: Vec<Group>,
}

/// `ResourceSpans` or `ResourceLogs`
#[derive(Clone, PartialEq, Message)]
struct Group {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scopes: Vec<Scope>,
}

/// `opentelemetry.proto.resource.v1.Resource`
#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

/// `ScopeSpans` or `ScopeLogs`
#[derive(Clone, PartialEq, Message)]
struct Scope {
    #[prost(message, optional, tag = "1")]
    scope: Option<common::InstrumentationScope>,
    /// Messages that are encoded.
    #[prost(bytes = "vec", repeated, tag = "2")]
    items: Vec<Vec<u8>>,
}

/// `ExportTraceServiceResponse` or `ExportLogsServiceResponse`
#[derive(Clone, PartialEq, Message)]
struct ExportResponse {
    #[prost(message, optional, tag = "1")]
    partial_success: Option<PartialSuccess>,
}

#[derive(Clone, PartialEq, Message)]
struct PartialSuccess {
    #[prost(int64, tag = "1")]
    rejected: i64,
}

impl Stream {
    pub(crate) fn new(signal: Signal, collector: Collector, resource: Vec<KeyValue>) -> Self {
        Self {
            signal,
            collector,
            resource,
            lane: OnceLock::new(),
        }
    }

    fn request(&self, items: Vec<Vec<u8>>) -> Vec<u8> {
        let scope = common::InstrumentationScope {
            name: "tombolo".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        };
        let group = Group {
            resource: Some(Resource {
                attributes: self.resource.clone(),
            }),
            scopes: vec![Scope {
                scope: Some(scope),
                items,
            }],
        };
        ExportRequest { groups: vec![group] }.encode_to_vec()
    }
}

/// The ways there do not count: they lead to the same place.
impl PartialEq for Stream {
    fn eq(&self, other: &Self) -> bool {
        self.signal == other.signal && self.collector == other.collector && self.resource == other.resource
    }
}

impl Signal {
    fn path(self) -> &'static str {
        match self {
            Self::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
            Self::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
        }
    }
}

pub(crate) fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..Default::default()
    }
}

pub(crate) fn string(key: &str, value: impl Into<String>) -> KeyValue {
    attribute(key, Value::StringValue(value.into()))
}

pub(crate) fn integer(key: &str, value: u64) -> KeyValue {
    attribute(key, Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)))
}

pub(crate) fn since_1970_ns(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
