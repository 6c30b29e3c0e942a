//! Heads as they are sent on: the lines that stay are copied as they stand, runs of them at once; what concerns one connection
//! only is left out (RFC 9110, section 7.6.1).

use std::io::Write;
use std::time::SystemTime;

use http::header::{HeaderName, HeaderValue};
use http::{Method, StatusCode};
use httpdate::HttpDate;

use super::framing::Framing;
use super::head::{Field, Head, Known};
use crate::config::HeaderEdits;
use crate::trace::Context;

/// A request for a host.
#[derive(Clone, Copy)]
pub(crate) struct Request<'a> {
    pub(crate) head: Head<'a>,
    pub(crate) method: &'a Method,
    pub(crate) target: &'a [u8],
    pub(crate) framing: Framing,
    /// In place of the host that the client named.
    pub(crate) host: Option<&'a HeaderValue>,
    /// The client's address.
    pub(crate) peer: &'a HeaderValue,
    pub(crate) scheme: &'static str,
    /// If the client gave none.
    pub(crate) request_id: Option<&'a [u8]>,
    /// In the order in which they are made.
    pub(crate) edits: [&'a HeaderEdits; 2],
    /// What is said of its trace, whatever the client or the edits say.
    pub(crate) trace: Option<&'a Context>,
}

/// A host's response for the client.
#[derive(Clone, Copy)]
pub(crate) struct Response<'a> {
    pub(crate) head: Head<'a>,
    pub(crate) status: u16,
    pub(crate) framing: Framing,
    pub(crate) edits: &'a HeaderEdits,
    pub(crate) keep_alive: KeepAlive,
}

/// Whether a connection takes another request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeepAlive {
    Yes,
    No,
}

impl Request<'_> {
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let Self { head, edits, .. } = self;
        let replaced = Replaced::by(edits).and_by(self.trace);
        for part in [
            self.method.as_str().as_bytes(),
            b" ",
            self.target,
            b" HTTP/1.1\r\n",
        ] {
            out.extend_from_slice(part);
        }
        let named = Named::of(*head);
        copy(out, *head, |field| {
            (match field.known {
                Known::Connection
                | Known::Expect
                | Known::ForwardedClientCert
                | Known::ForwardedFor
                | Known::ForwardedProto
                | Known::KeepAlive
                | Known::ProxyConnection
                | Known::Te
                | Known::TransferEncoding
                | Known::Upgrade => return false,
                Known::Trailer if self.framing != Framing::Chunked => return false,
                Known::Host => return self.host.is_none(),
                Known::ContentLength => return matches!(self.framing, Framing::Length(_)),
                Known::RequestId => true,
                Known::ContentType | Known::Cookie | Known::Date | Known::Trailer | Known::Other => {
                    !named.has(*head, field)
                }
            }) && !replaced.has(head.name(field))
        });
        let mut line = |name: &str, values: &[&[u8]]| {
            if !replaced.has(name.as_bytes()) {
                push(out, name, values);
            }
        };
        if let Some(host) = self.host {
            line("host", &[host.as_bytes()]);
        }
        match head.values(Known::ForwardedFor).next() {
            None => line("x-forwarded-for", &[self.peer.as_bytes()]),
            Some(_) => {
                let mut before = Vec::new();
                for value in head.values(Known::ForwardedFor) {
                    before.extend([value, b","]);
                }
                before.push(self.peer.as_bytes());
                line("x-forwarded-for", &before);
            }
        }
        line("x-forwarded-proto", &[self.scheme.as_bytes()]);
        if let Some(id) = self.request_id {
            line("x-request-id", &[id]);
        }
        if head.takes_trailers() {
            line("te", &[b"trailers"]);
            push(out, "connection", &[b"te"]);
        }
        if self.framing == Framing::Chunked {
            push(out, "transfer-encoding", &[b"chunked"]);
        }
        write_edits(out, edits, self.trace);
        if let Some(trace) = self.trace {
            trace.lines(|name, value| push(out, name.as_str(), value));
        }
        out.extend_from_slice(b"\r\n");
    }
}

impl Response<'_> {
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let Self { head, edits, .. } = self;
        let edits = [*edits];
        let replaced = Replaced::by(&edits);
        status_line(out, self.status);
        let named = Named::of(*head);
        copy(out, *head, |field| {
            (match field.known {
                Known::Connection
                | Known::Expect
                | Known::KeepAlive
                | Known::ProxyConnection
                | Known::Te
                | Known::TransferEncoding
                | Known::Upgrade => return false,
                Known::Trailer if self.framing != Framing::Chunked => return false,
                // What a HEAD or a 304 says is the length of what a GET would bring; nothing is behind a 204.
                Known::ContentLength => return self.framing != Framing::Chunked && self.status != 204,
                _ => !named.has(*head, field),
            }) && !replaced.has(head.name(field))
        });
        if matches!(self.framing, Framing::Chunked | Framing::UntilClose) {
            push(out, "transfer-encoding", &[b"chunked"]);
        }
        if !head.has(Known::Date) && !replaced.has(b"date") {
            date(out);
        }
        write_edits(out, &edits, None);
        end(out, self.keep_alive);
    }
}

/// The first line of a response.
pub(crate) fn status_line(out: &mut Vec<u8>, status: u16) {
    let reason = StatusCode::from_u16(status)
        .ok()
        .and_then(|status| status.canonical_reason());
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend([status / 100, status / 10 % 10, status % 10].map(|digit| b'0' + digit.to_le_bytes()[0]));
    out.push(b' ');
    out.extend_from_slice(reason.unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
}

pub(crate) fn push(out: &mut Vec<u8>, name: &str, values: &[&[u8]]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    for value in values {
        out.extend_from_slice(value);
    }
    out.extend_from_slice(b"\r\n");
}

/// What hosts without a clock leave to the proxy (RFC 9110, section 6.6.1).
pub(crate) fn date(out: &mut Vec<u8>) {
    // Writing to memory cannot fail.
    let _ = write!(out, "date: {}\r\n", HttpDate::from(SystemTime::now()));
}

pub(crate) fn date_value() -> HeaderValue {
    let now = HttpDate::from(SystemTime::now()).to_string();
    HeaderValue::from_str(&now).expect("invariant: a date is a header value")
}

/// The end of a response's head.
pub(crate) fn end(out: &mut Vec<u8>, keep_alive: KeepAlive) {
    match keep_alive {
        KeepAlive::Yes => out.extend_from_slice(b"\r\n"),
        KeepAlive::No => out.extend_from_slice(b"connection: close\r\n\r\n"),
    }
}

/// The headers that `connection` names; nearly always none.
struct Named<'a>(Vec<&'a [u8]>);

impl<'a> Named<'a> {
    fn of(head: Head<'a>) -> Self {
        if !head.has(Known::Connection) {
            return Self(Vec::new());
        }
        let of_its_own = |option: &&[u8]| {
            [&b"close"[..], b"keep-alive"]
                .iter()
                .any(|own| option.eq_ignore_ascii_case(own))
        };
        Self(head.options().filter(|option| !of_its_own(option)).collect())
    }

    fn has(&self, head: Head<'_>, field: &Field) -> bool {
        let Self(names) = self;
        names
            .iter()
            .any(|name| name.eq_ignore_ascii_case(head.name(field)))
    }
}

/// Copies the lines that stay, neighbours in one go.
fn copy(out: &mut Vec<u8>, head: Head<'_>, stays: impl Fn(&Field) -> bool) {
    let mut run = 0..0;
    for field in head.fields().iter().filter(|field| stays(field)) {
        match head.plain_line(field) {
            Some(line) if line.start == run.end => run.end = line.end,
            Some(line) => {
                out.extend_from_slice(&head.bytes[run]);
                run = line;
            }
            None => {
                out.extend_from_slice(&head.bytes[run]);
                run = 0..0;
                for part in [head.name(field), b": ", head.value(field), b"\r\n"] {
                    out.extend_from_slice(part);
                }
            }
        }
    }
    out.extend_from_slice(&head.bytes[run]);
}

/// Names of which edits leave no line as it is. Their lengths say of most lines that they are others.
struct Replaced<'a> {
    edits: &'a [&'a HeaderEdits],
    trace: Option<&'a Context>,
    /// A bit for each length; the last one is of all that are longer as well.
    lengths: u64,
}

impl<'a> Replaced<'a> {
    fn by(edits: &'a [&'a HeaderEdits]) -> Self {
        let names = edits.iter().flat_map(|edits| edits.replaced());
        let lengths = names.fold(0, |lengths, name| lengths | length_bit(name.as_str().as_bytes()));
        Self {
            edits,
            trace: None,
            lengths,
        }
    }

    fn and_by(self, trace: Option<&'a Context>) -> Self {
        let lengths = self.lengths | trace.map_or(0, Context::lengths);
        Self {
            trace,
            lengths,
            ..self
        }
    }

    fn has(&self, name: &[u8]) -> bool {
        self.lengths & length_bit(name) != 0
            && (self.edits.iter().any(|edits| edits.replaces(name))
                || self.trace.is_some_and(|trace| trace.replaces(name)))
    }
}

fn length_bit(name: &[u8]) -> u64 {
    1 << name.len().min(63)
}

/// The lines that edits bring, without those that a later one takes away again.
fn write_edits(out: &mut Vec<u8>, stages: &[&HeaderEdits], trace: Option<&Context>) {
    for (at, stage) in stages.iter().enumerate() {
        let stays = |name: &HeaderName| {
            let ours = [
                http::header::CONNECTION,
                http::header::CONTENT_LENGTH,
                http::header::HOST,
                http::header::TRANSFER_ENCODING,
            ];
            let mut later = stages[at + 1..].iter();
            !ours.contains(name)
                && !later.any(|later| later.replaces(name.as_str().as_bytes()))
                && !trace.is_some_and(|trace| trace.replaces(name.as_str().as_bytes()))
        };
        for (place, (name, value)) in stage.set.iter().enumerate() {
            let last = !stage.set[place + 1..].iter().any(|(other, _)| other == name);
            if last && stays(name) {
                push(out, name.as_str(), &[value.as_bytes()]);
            }
        }
        for (name, value) in stage.add.iter().filter(|(name, _)| stays(name)) {
            push(out, name.as_str(), &[value.as_bytes()]);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::h1::head::{Fields, read_request, read_response};

    fn edits(remove: &[&'static str], set: &[&'static str], add: &[&'static str]) -> HeaderEdits {
        let name = |name: &&'static str| HeaderName::from_static(name);
        let line = |name: &&'static str| (HeaderName::from_static(name), HeaderValue::from_static("new"));
        HeaderEdits {
            remove: remove.iter().map(name).collect(),
            set: set.iter().map(line).collect(),
            add: add.iter().map(line).collect(),
        }
    }

    fn sent(lines: &str, framing: Framing, edits: [&HeaderEdits; 2]) -> String {
        let text = format!("GET /a HTTP/1.1\r\n{lines}\r\n");
        let mut fields = Fields::default();
        read_request(text.as_bytes(), &mut fields).unwrap().unwrap();
        let mut out = Vec::new();
        let request = Request {
            head: fields.of(text.as_bytes()),
            method: &Method::GET,
            target: b"/b",
            framing,
            host: None,
            peer: &HeaderValue::from_static("1.2.3.4"),
            scheme: "http",
            request_id: Some(b"id"),
            edits,
            trace: None,
        };
        request.write(&mut out);
        String::from_utf8(out).unwrap()
    }

    const OURS: &str = "x-forwarded-for: 1.2.3.4\r\nx-forwarded-proto: http\r\nx-request-id: id\r\n";

    #[test]
    fn what_concerns_one_connection_stays_there() {
        let none = HeaderEdits::default();
        let cases = [
            ("Host: h\r\nA: b\r\n", "Host: h\r\nA: b\r\n"),
            ("Host:h\r\nA:  b \r\nC: d\r\n", "Host: h\r\nA: b\r\nC: d\r\n"),
            (
                "host: h\r\nconnection: keep-alive\r\na: b\r\n",
                "host: h\r\na: b\r\n",
            ),
            (
                "host: h\r\nconnection: x-mine, Host\r\nX-Mine: 1\r\nx-yours: 2\r\n",
                "host: h\r\nx-yours: 2\r\n",
            ),
            (
                "host: h\r\nconnection: close\r\nconnection: x-mine\r\nx-mine: 1\r\n",
                "host: h\r\n",
            ),
            (
                "host: h\r\nkeep-alive: 5\r\nproxy-connection: a\r\nte: gzip\r\nupgrade: h2c\r\nexpect: 100-continue\r\n",
                "host: h\r\n",
            ),
            ("host: h\r\nx-forwarded-proto: https\r\n", "host: h\r\n"),
            ("host: h\r\nx-forwarded-client-cert: By=me\r\n", "host: h\r\n"),
        ];
        for (lines, expected) in cases {
            let got = sent(lines, Framing::Empty, [&none, &none]);
            assert_eq!(got, format!("GET /b HTTP/1.1\r\n{expected}{OURS}\r\n"), "{lines}");
        }
        let got = sent(
            "host: h\r\nX-Forwarded-For: 5.6.7.8, 9.9.9.9\r\nx-forwarded-for: 7.7.7.7\r\n",
            Framing::Empty,
            [&none, &none],
        );
        assert!(
            got.contains("x-forwarded-for: 5.6.7.8, 9.9.9.9,7.7.7.7,1.2.3.4\r\n"),
            "{got}"
        );
    }

    #[test]
    fn the_length_is_said_once() {
        let none = HeaderEdits::default();
        let got = sent(
            "host: h\r\ncontent-length: 5\r\n",
            Framing::Length(5),
            [&none, &none],
        );
        assert_eq!(got.matches("content-length: 5\r\n").count(), 1, "{got}");
        let got = sent(
            "host: h\r\ntransfer-encoding: Chunked\r\nconnection: transfer-encoding\r\n",
            Framing::Chunked,
            [&none, &none],
        );
        assert_eq!(
            got.to_lowercase()
                .matches("transfer-encoding: chunked\r\n")
                .count(),
            1,
            "{got}"
        );
    }

    #[test]
    fn trailers_are_announced_and_asked_for() {
        let none = HeaderEdits::default();
        let lines = "host: h\r\ntrailer: x-sum\r\nTE: deflate;q=0.5 , Trailers\r\n";
        let asked = "te: trailers\r\nconnection: te\r\n";
        let got = sent(lines, Framing::Chunked, [&none, &none]);
        assert!(got.contains("host: h\r\ntrailer: x-sum\r\n"), "{got}");
        assert!(
            got.ends_with(&format!("{asked}transfer-encoding: chunked\r\n\r\n")),
            "{got}"
        );
        let got = sent(lines, Framing::Length(1), [&none, &none]);
        assert!(!got.contains("trailer: "), "{got}");
        assert!(got.ends_with(&format!("{asked}\r\n")), "{got}");
    }

    #[test]
    fn edits_are_made_in_their_order() {
        let lines = "host: h\r\nA: old\r\nb: old\r\n";
        let none = edits(&[], &[], &[]);
        let cases = [
            (edits(&["a"], &[], &[]), none.clone(), "host: h\r\nb: old\r\n", ""),
            (
                edits(&[], &["a"], &[]),
                none.clone(),
                "host: h\r\nb: old\r\n",
                "a: new\r\n",
            ),
            (edits(&[], &[], &["a"]), none.clone(), lines, "a: new\r\n"),
            (
                edits(&["a"], &["a"], &["a"]),
                none.clone(),
                "host: h\r\nb: old\r\n",
                "a: new\r\na: new\r\n",
            ),
            (
                edits(&[], &["a"], &[]),
                edits(&["a"], &[], &[]),
                "host: h\r\nb: old\r\n",
                "",
            ),
            (
                edits(&[], &[], &["a"]),
                edits(&[], &["a"], &[]),
                "host: h\r\nb: old\r\n",
                "a: new\r\n",
            ),
            (edits(&["host"], &["content-length"], &[]), none, lines, ""),
        ];
        for (first, second, kept, added) in cases {
            let got = sent(lines, Framing::Empty, [&first, &second]);
            let expected = format!("GET /b HTTP/1.1\r\n{kept}{OURS}{added}\r\n");
            assert_eq!(got, expected, "{first:?} {second:?}");
        }
        let ours = edits(&["x-forwarded-for"], &["x-request-id"], &[]);
        let got = sent("host: h\r\n", Framing::Empty, [&ours, &edits(&[], &[], &[])]);
        assert_eq!(
            got,
            "GET /b HTTP/1.1\r\nhost: h\r\nx-forwarded-proto: http\r\nx-request-id: new\r\n\r\n"
        );
    }

    #[test]
    fn what_is_said_of_a_trace_is_ours_alone() {
        let none = HeaderEdits::default();
        let by_edits = edits(&[], &["traceparent"], &["tracestate"]);
        let text = b"GET /a HTTP/1.1\r\nhost: h\r\nTraceParent: x\r\nb3: 0\r\nx-trace: 1\r\n\r\n";
        let mut fields = Fields::default();
        read_request(text, &mut fields).unwrap().unwrap();
        let head = fields.of(text);
        let trace = Context::told_by(&head, 15, 10);
        let mut out = Vec::new();
        Request {
            head,
            method: &Method::GET,
            target: b"/b",
            framing: Framing::Empty,
            host: None,
            peer: &HeaderValue::from_static("1.2.3.4"),
            scheme: "http",
            request_id: Some(b"id"),
            edits: [&by_edits, &none],
            trace: Some(&trace),
        }
        .write(&mut out);
        let expected = format!(
            "GET /b HTTP/1.1\r\nhost: h\r\nx-trace: 1\r\n{OURS}\
             traceparent: 00-0000000000000000000000000000000f-000000000000000a-00\r\n\
             b3: 0000000000000000000000000000000f-000000000000000a-0\r\n\r\n"
        );
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn responses_say_how_they_end() {
        let none = HeaderEdits::default();
        let date = "date: then\r\n";
        let cases = [
            (
                200,
                "content-length: 5\r\n",
                Framing::Length(5),
                KeepAlive::Yes,
                "content-length: 5\r\n",
                "",
            ),
            (
                200,
                "content-length: 5\r\n",
                Framing::Empty,
                KeepAlive::Yes,
                "content-length: 5\r\n",
                "",
            ),
            (
                204,
                "content-length: 5\r\n",
                Framing::Empty,
                KeepAlive::Yes,
                "",
                "",
            ),
            (
                304,
                "content-length: 5\r\n",
                Framing::Empty,
                KeepAlive::Yes,
                "content-length: 5\r\n",
                "",
            ),
            (
                200,
                "transfer-encoding: chunked\r\ntrailer: x\r\n",
                Framing::Chunked,
                KeepAlive::Yes,
                "trailer: x\r\n",
                "transfer-encoding: chunked\r\n",
            ),
            (
                200,
                "",
                Framing::UntilClose,
                KeepAlive::No,
                "",
                "transfer-encoding: chunked\r\n",
            ),
            (
                200,
                "connection: x-a\r\nx-a: 1\r\nx-b: 2\r\n",
                Framing::Length(0),
                KeepAlive::Yes,
                "x-b: 2\r\n",
                "",
            ),
        ];
        for (status, lines, framing, keep_alive, kept, added) in cases {
            let text = format!("HTTP/1.1 {status} Whatever\r\n{lines}{date}\r\n");
            let mut fields = Fields::default();
            read_response(text.as_bytes(), &mut fields).unwrap().unwrap();
            let mut out = Vec::new();
            let response = Response {
                head: fields.of(text.as_bytes()),
                status,
                framing,
                edits: &none,
                keep_alive,
            };
            response.write(&mut out);
            let reason = StatusCode::from_u16(status).unwrap().canonical_reason().unwrap();
            let close = if keep_alive == KeepAlive::No {
                "connection: close\r\n"
            } else {
                ""
            };
            assert_eq!(
                String::from_utf8(out).unwrap(),
                format!("HTTP/1.1 {status} {reason}\r\n{kept}{date}{added}{close}\r\n"),
                "{lines}"
            );
        }
    }
}
