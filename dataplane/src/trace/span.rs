//! The spans of one sampled request: itself, and each of its attempts if they are wanted, in the names of OpenTelemetry's
//! conventions (<https://opentelemetry.io/docs/specs/semconv/http/http-spans/>).

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use http::header::USER_AGENT;
use http::{Method, Version};

use super::context::{self, Context, SpanDigits, digits};
use super::{Spans, TagValue, Tracing, new_span};
use crate::access_log::{Ended, Requested};
use crate::exchange::Flag;
use crate::matcher::Headers;
use crate::otlp::{Exporter, KeyValue, Span, Status, integer, since_1970_ns, string};
use crate::outlier::Report;
use crate::snapshot::LiveHttp;
use crate::worker::Random;

/// Of what a client says; a head may have 64 KiB of it.
const VALUE_BYTES_MAX: usize = 1024;
/// Attempts of which there are spans; who has more of them has a policy without end.
const ATTEMPTS_MAX: usize = 16;

const KIND_SERVER: i32 = 2;
const KIND_CLIENT: i32 = 3;
const STATUS_ERROR: i32 = 2;
/// Of a span's flags: sampled, and whether its parent is of another process is known; it is.
const FLAGS_LOCAL: u32 = 0x101;
const FLAGS_REMOTE: u32 = 0x301;

/// A sampled request.
pub(crate) struct Traced {
    live: Rc<LiveHttp>,
    /// Of the request's own span.
    context: Context,
    started: SystemTime,
    began: Instant,
    /// The id of the first attempt's span, which its head has before there is an attempt.
    first: u64,
    said: RefCell<Said>,
}

#[derive(Default)]
struct Said {
    method: String,
    state: String,
    attributes: Vec<KeyValue>,
    tags: Vec<KeyValue>,
    cluster: String,
    attempts: Vec<Attempt>,
    /// Which of them the client hears of, if it is not the last.
    heard: Option<usize>,
}

struct Attempt {
    span: u64,
    host: SocketAddr,
    began: Duration,
    /// And what it brought, if that says something of its host.
    ended: Option<(Duration, Option<Report>)>,
}

impl Traced {
    pub(crate) fn new(live: Rc<LiveHttp>, context: Context, began: Instant, random: &Random) -> Self {
        Self {
            live,
            context,
            started: SystemTime::now()
                .checked_sub(began.elapsed())
                .unwrap_or(SystemTime::UNIX_EPOCH),
            began,
            first: new_span(random),
            said: RefCell::default(),
        }
    }

    /// Of the trace, and of the request's own span.
    pub(crate) fn ids(&self) -> (u128, u64) {
        (self.context.trace, self.context.span)
    }

    /// What the host of the present attempt, or the first, is told.
    pub(crate) fn told(&self) -> Context {
        let said = self.said.borrow();
        match (self.tracing().spans, said.attempts.last()) {
            (Spans::Request, _) => self.context,
            (Spans::Attempts, None) => self.context.with_span(self.first),
            (Spans::Attempts, Some(attempt)) => self.context.with_span(attempt.span),
        }
    }

    /// What the host before was told, and what the next one is told instead.
    pub(crate) fn renewed(&self) -> Option<(SpanDigits, SpanDigits)> {
        match self.said.borrow().attempts[..] {
            [.., Attempt { span: before, .. }, Attempt { span, .. }] => Some((digits(before), digits(span))),
            _ => None,
        }
    }

    fn tracing(&self) -> &Tracing {
        let tracing = self.live.config.tracing.as_ref();
        tracing.expect("invariant: only requests of listeners with tracing are traced")
    }

    /// Notes what its spans say of its head.
    pub(crate) fn asked(&self, asked: &Requested<'_, impl Headers>, scheme: &str) {
        let tracing = self.tracing();
        let (path, _) = asked.target.split_at(
            asked
                .target
                .iter()
                .position(|byte| *byte == b'?')
                .unwrap_or(asked.target.len()),
        );
        let method = asked.method.as_str();
        let mut attributes = vec![
            string("http.request.method", method),
            string("url.path", text(path, tracing.path_bytes_max)),
            string("url.scheme", scheme),
            string("server.address", text(asked.authority, VALUE_BYTES_MAX)),
            string("network.protocol.version", version(asked.protocol)),
        ];
        let mut add = |name: &str, value: &[u8]| {
            if !value.is_empty() {
                attributes.push(string(name, text(value, VALUE_BYTES_MAX)));
            }
        };
        if let Some(agent) = asked.headers.lines(&USER_AGENT).next() {
            add("user_agent.original", agent);
        }
        add("tombolo.route", asked.route.as_bytes());
        add("tombolo.request_id", asked.request_id);
        let tags = tracing.tags.iter().filter_map(|tag| {
            let value = match &tag.value {
                TagValue::Literal(value) => value.to_string(),
                TagValue::Header { name, or } => match asked.headers.lines(name).next() {
                    Some(value) => text(value, VALUE_BYTES_MAX),
                    None if or.is_empty() => return None,
                    None => or.to_string(),
                },
            };
            Some(string(&tag.name, value))
        });
        let mut said = self.said.borrow_mut();
        said.tags = tags.collect();
        said.attributes = attributes;
        said.method = known(asked.method).to_owned();
        said.state = context::state(asked.headers);
    }

    pub(crate) fn cluster(&self, name: &str) {
        name.clone_into(&mut self.said.borrow_mut().cluster);
    }

    /// Another host is asked.
    pub(crate) fn attempt(&self, host: SocketAddr, random: &Random) {
        let mut said = self.said.borrow_mut();
        let wanted = self.tracing().spans == Spans::Attempts && said.attempts.len() < ATTEMPTS_MAX;
        if wanted {
            let span = if said.attempts.is_empty() {
                self.first
            } else {
                new_span(random)
            };
            said.attempts.push(Attempt {
                span,
                host,
                began: self.began.elapsed(),
                ended: None,
            });
        }
    }

    /// The host that was asked as the `nth` has answered, or will not; what follows an answer that is passed on belongs to it.
    pub(crate) fn attempted(&self, nth: usize, report: Option<Report>) {
        if let Some(attempt) = self.said.borrow_mut().attempts.get_mut(nth) {
            attempt.ended.get_or_insert((self.began.elapsed(), report));
        }
    }

    /// The client hears of this one, and the others are given up.
    pub(crate) fn heard(&self, nth: usize) {
        let mut said = self.said.borrow_mut();
        said.heard = Some(nth);
        let now = self.began.elapsed();
        for attempt in &mut said.attempts {
            attempt.ended.get_or_insert((now, None));
        }
    }

    /// Hands on the spans of a request that has ended.
    pub(crate) fn end(&self, ended: &Ended<'_>, exporter: &Exporter) {
        let mut said = self.said.take();
        let stream = &self.tracing().stream;
        let flags: Vec<&str> = ended.flags.words().collect();
        let heard = said.heard.unwrap_or(said.attempts.len().saturating_sub(1));
        for (place, attempt) in said.attempts.iter().enumerate() {
            exporter.send(
                stream,
                &self.attempt_span(&said, place, attempt, (place == heard).then_some(ended)),
            );
        }
        let mut attributes = std::mem::take(&mut said.attributes);
        attributes.append(&mut said.tags);
        attributes.extend([
            string("client.address", ended.client.ip().to_string()),
            string("network.peer.address", ended.client.ip().to_string()),
            integer("network.peer.port", ended.client.port().into()),
            integer("http.request.body.size", ended.bytes_received),
            integer("http.response.body.size", ended.bytes_sent),
        ]);
        if ended.status > 0 {
            attributes.push(integer("http.response.status_code", ended.status.into()));
        }
        if !said.cluster.is_empty() {
            attributes.push(string("tombolo.cluster", said.cluster));
        }
        if !flags.is_empty() {
            attributes.push(string("tombolo.response_flags", flags.join(",")));
        }
        // What a client did wrong is no mistake of who serves it.
        let error = match ended.status {
            0 => Some("499".to_owned()),
            500.. => Some(ended.status.to_string()),
            _ => broken_off(ended).map(str::to_owned),
        };
        let is_error = error.is_some();
        attributes.extend(error.map(|error| string("error.type", error)));
        let parent = self.context.parent();
        exporter.send(
            stream,
            &Span {
                trace_id: self.context.trace.to_be_bytes().to_vec(),
                span_id: self.context.span.to_be_bytes().to_vec(),
                trace_state: said.state,
                parent_span_id: parent
                    .map(|parent| parent.to_be_bytes().to_vec())
                    .unwrap_or_default(),
                name: said.method,
                kind: KIND_SERVER,
                start_time_unix_nano: since_1970_ns(self.started),
                end_time_unix_nano: since_1970_ns(self.started + ended.took),
                attributes,
                status: status(is_error),
                flags: if parent.is_some() {
                    FLAGS_REMOTE
                } else {
                    FLAGS_LOCAL
                },
            },
        );
    }

    fn attempt_span(&self, said: &Said, place: usize, attempt: &Attempt, heard: Option<&Ended<'_>>) -> Span {
        let (answered, report) = attempt.ended.unwrap_or((self.began.elapsed(), None));
        // The one that the client hears of lasts as long as its answer does.
        let until = heard.map_or(answered, |ended| ended.took);
        let error = match report {
            None => Some("_OTHER".to_owned()),
            Some(Report::Status(status)) => (status >= 400).then(|| status.to_string()),
            Some(Report::NoConnection) => Some("connect_failure".to_owned()),
            Some(Report::Broken) => Some("reset".to_owned()),
            Some(Report::TimedOut) => Some("timeout".to_owned()),
        };
        let error = error.or_else(|| heard.and_then(broken_off).map(str::to_owned));
        let mut attributes = vec![
            string("http.request.method", said.method.as_str()),
            string("server.address", attempt.host.ip().to_string()),
            integer("server.port", attempt.host.port().into()),
            string("tombolo.cluster", said.cluster.as_str()),
        ];
        attributes.extend(said.tags.iter().cloned());
        if let Some(Report::Status(status)) = report {
            attributes.push(integer("http.response.status_code", status.into()));
        }
        if place > 0 {
            attributes.push(integer("http.request.resend_count", place as u64));
        }
        let is_error = error.is_some();
        attributes.extend(error.map(|error| string("error.type", error)));
        Span {
            trace_id: self.context.trace.to_be_bytes().to_vec(),
            span_id: attempt.span.to_be_bytes().to_vec(),
            trace_state: said.state.clone(),
            parent_span_id: self.context.span.to_be_bytes().to_vec(),
            name: said.method.clone(),
            kind: KIND_CLIENT,
            start_time_unix_nano: since_1970_ns(self.started + attempt.began),
            end_time_unix_nano: since_1970_ns(self.started + until),
            attributes,
            status: status(is_error),
            flags: FLAGS_LOCAL,
        }
    }
}

/// How an answer that had begun did not come to its end, where that is its host's doing.
fn broken_off(ended: &Ended<'_>) -> Option<&'static str> {
    let named = [(Flag::UpstreamReset, "reset"), (Flag::UpstreamTimeout, "timeout")];
    let mut words = ended.flags.words();
    words.find_map(|word| {
        named
            .iter()
            .find(|(flag, _)| flag.word() == word)
            .map(|(_, name)| *name)
    })
}

fn status(is_error: bool) -> Option<Status> {
    is_error.then_some(Status { code: STATUS_ERROR })
}

/// At most so many bytes of it.
fn text(value: &[u8], bytes_max: usize) -> String {
    let value = &value[..value.len().min(bytes_max)];
    String::from_utf8_lossy(value).into_owned()
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    }
}

/// Names of spans are few, whatever clients send.
fn known(method: &Method) -> &str {
    match *method {
        Method::GET
        | Method::HEAD
        | Method::POST
        | Method::PUT
        | Method::DELETE
        | Method::CONNECT
        | Method::OPTIONS
        | Method::TRACE
        | Method::PATCH => method.as_str(),
        _ => "HTTP",
    }
}
