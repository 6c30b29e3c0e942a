//! How a line looks: pieces, made once of what the configuration says, so that writing one is copying what is there. What a
//! line says of heads is noted when they are there; the rest is known at the end.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

use http::{HeaderName, Version};

use super::{CodeStyle, Ended, Note, OfChannel, Requested};
use crate::matcher::Headers;

/// What stands for nothing within a text.
const NOTHING: &[u8] = b"-";
/// The length of a value that is not there.
const ABSENT: u32 = u32::MAX;

/// One line, with its end.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Format {
    pieces: Box<[Piece]>,
    /// So many of them are noted of a request's head, and so many of an answer's.
    asks: usize,
    answers: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Piece {
    /// Stands as it is.
    Literal(Box<[u8]>),
    Value(Operator, Show),
}

/// What a value is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Show {
    /// As it is, or a dash.
    Text,
    /// A JSON value: a string with its quotes, a number, or null.
    Json,
    /// Within a JSON string, or a dash.
    JsonPart,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operator {
    Request(Request),
    Response(Field, Option<usize>),
    ResponseCode,
    ResponseFlags,
    DurationMs,
    BytesReceived,
    BytesSent,
    UpstreamHost,
    UpstreamCluster,
    Protocol,
    StartTime,
    RemoteAddress,
    RemoteAddressWithoutPort,
    Attempts,
    Channel(OfChannel),
    GrpcStatus(CodeStyle),
    Own(Own),
}

/// What a request's head, or the route that was found for it, has to say.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Request {
    /// The first of the two that is there, at most so many bytes of it.
    Field {
        field: Field,
        or: Option<Field>,
        bytes_max: Option<usize>,
    },
    Route,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Field {
    Method,
    Path,
    PathWithoutQuery,
    Authority,
    Scheme,
    Status,
    Header(HeaderName),
}

/// What only the proxy's own log has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Own {
    TimeMs,
    Status,
    DurationMs,
    Retries,
    Flags,
}

/// What was noted, one value after the other, each behind its length.
#[derive(Default)]
pub(super) struct Captured(Vec<u8>);

/// Reads what was noted, in the order in which it was.
#[derive(Default)]
pub(super) struct Cursor<'a>(&'a [u8]);

impl Format {
    pub(crate) fn new(pieces: Vec<Piece>) -> Self {
        let of = |wanted: fn(&Operator) -> bool| {
            let values = pieces.iter().filter(|piece| match piece {
                Piece::Literal(_) => false,
                Piece::Value(operator, _) => wanted(operator),
            });
            values.count()
        };
        Self {
            asks: of(|operator| matches!(operator, Operator::Request(_))),
            answers: of(|operator| matches!(operator, Operator::Response(..))),
            pieces: pieces.into(),
        }
    }

    /// That of the proxy's own log.
    pub(super) fn own() -> Self {
        let head = |field| {
            Operator::Request(Request::Field {
                field,
                or: None,
                bytes_max: None,
            })
        };
        let id = Field::Header(crate::exchange::REQUEST_ID);
        let fields = [
            ("time_ms", Operator::Own(Own::TimeMs)),
            ("method", head(Field::Method)),
            ("path", head(Field::PathWithoutQuery)),
            ("authority", head(Field::Authority)),
            ("status", Operator::Own(Own::Status)),
            ("duration_ms", Operator::Own(Own::DurationMs)),
            ("upstream_host", Operator::UpstreamHost),
            ("cluster", Operator::UpstreamCluster),
            ("retries", Operator::Own(Own::Retries)),
            ("request_id", head(id)),
            ("bytes_received", Operator::BytesReceived),
            ("bytes_sent", Operator::BytesSent),
            ("flags", Operator::Own(Own::Flags)),
        ];
        Self::object(&fields)
    }

    /// The same of connections that are passed on, of which nothing is asked.
    pub(super) fn own_passed() -> Self {
        Self::object(&[
            ("time_ms", Operator::Own(Own::TimeMs)),
            ("client", Operator::RemoteAddress),
            ("duration_ms", Operator::Own(Own::DurationMs)),
            ("upstream_host", Operator::UpstreamHost),
            ("cluster", Operator::UpstreamCluster),
            ("retries", Operator::Own(Own::Retries)),
            ("bytes_received", Operator::BytesReceived),
            ("bytes_sent", Operator::BytesSent),
            ("flags", Operator::Own(Own::Flags)),
        ])
    }

    fn object(fields: &[(&str, Operator)]) -> Self {
        let mut pieces = Vec::new();
        let mut opening = "{";
        for (name, operator) in fields {
            pieces.push(Piece::Literal(
                format!("{opening}\"{name}\":").into_bytes().into(),
            ));
            pieces.push(Piece::Value(operator.clone(), Show::Json));
            opening = ",";
        }
        pieces.push(Piece::Literal((*b"}\n").into()));
        Self::new(pieces)
    }

    pub(super) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    pub(super) fn asks(&self) -> usize {
        self.asks
    }

    pub(super) fn answers(&self) -> usize {
        self.answers
    }

    pub(super) fn capture_request(&self, asked: &Requested<'_, impl Headers>, captured: &mut Captured) {
        for operator in self.operators() {
            match operator {
                Operator::Request(Request::Route) => {
                    captured.push(
                        [asked.route.as_bytes()]
                            .into_iter()
                            .filter(|name| !name.is_empty()),
                        None,
                    );
                }
                Operator::Request(Request::Field { field, or, bytes_max }) => {
                    let found = asked.capture(field, *bytes_max, captured);
                    match or {
                        Some(or) if !found => {
                            captured.forget_last();
                            asked.capture(or, *bytes_max, captured);
                        }
                        _ => {}
                    }
                }
                _ => {}
            }
        }
    }

    pub(super) fn capture_response(&self, headers: &impl Headers, captured: &mut Captured) {
        for operator in self.operators() {
            if let Operator::Response(field, bytes_max) = operator {
                let value = match field {
                    Field::Header(name) => headers.lines(name).next(),
                    _ => None,
                };
                captured.push(value.into_iter(), *bytes_max);
            }
        }
    }

    fn operators(&self) -> impl Iterator<Item = &Operator> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Literal(_) => None,
            Piece::Value(operator, _) => Some(operator),
        })
    }

    pub(super) fn write(
        &self,
        out: &mut Vec<u8>,
        note: &Note,
        ended: &Ended<'_>,
        asked: &mut Cursor<'_>,
        answered: &mut Cursor<'_>,
    ) {
        for piece in &self.pieces {
            let (operator, show) = match piece {
                Piece::Literal(bytes) => {
                    out.extend_from_slice(bytes);
                    continue;
                }
                Piece::Value(operator, show) => (operator, *show),
            };
            let status = u64::from(ended.status);
            match operator {
                Operator::Request(_) => text(out, show, asked.next()),
                Operator::Response(Field::Status, _) => {
                    answered.next();
                    match status {
                        0 => text(out, show, None),
                        status => quoted(out, show, |out| number(out, status)),
                    }
                }
                Operator::Response(..) => text(out, show, answered.next()),
                Operator::ResponseCode => number(out, status),
                Operator::ResponseFlags => quoted(out, show, |out| ended.flags.write(out, "-")),
                Operator::DurationMs => number(out, whole(ended.took.as_millis())),
                Operator::BytesReceived => number(out, ended.bytes_received),
                Operator::BytesSent => number(out, ended.bytes_sent),
                Operator::UpstreamHost => match note.host {
                    Some(host) => quoted(out, show, |out| address(out, host)),
                    None => text(out, show, None),
                },
                Operator::UpstreamCluster => {
                    text(out, show, Some(&note.cluster[..]).filter(|name| !name.is_empty()));
                }
                Operator::Protocol => text(out, show, note.protocol.map(protocol)),
                Operator::StartTime => quoted(out, show, |out| moment(out, since_1970_ms(note.started))),
                Operator::RemoteAddress => quoted(out, show, |out| address(out, ended.client)),
                Operator::RemoteAddressWithoutPort => quoted(out, show, |out| ip(out, ended.client.ip())),
                Operator::Attempts => {
                    let first = u64::from(note.host.is_some());
                    number(out, u64::from(ended.retries) + first);
                }
                Operator::Channel(of) => of.write(out, show, ended.channel),
                Operator::GrpcStatus(style) => style.write(out, show, ended.code),
                Operator::Own(own) => own.write(out, note, ended),
            }
        }
    }
}

impl Own {
    fn write(self, out: &mut Vec<u8>, note: &Note, ended: &Ended<'_>) {
        match self {
            Self::TimeMs => number(out, since_1970_ms(note.started)),
            Self::Status if ended.status == 0 => number(out, crate::exchange::CLIENT_GONE.into()),
            Self::Status => number(out, ended.status.into()),
            Self::DurationMs => {
                let us = whole(ended.took.as_micros());
                number(out, us / 1000);
                out.push(b'.');
                digits(out, us % 1000, 3);
            }
            Self::Retries => number(out, ended.retries.into()),
            Self::Flags => quoted(out, Show::Json, |out| ended.flags.write(out, "")),
        }
    }
}

impl<H: Headers> Requested<'_, H> {
    /// Whether there is such a value.
    fn capture(&self, field: &Field, bytes_max: Option<usize>, captured: &mut Captured) -> bool {
        let one = |value| [value].into_iter();
        match field {
            Field::Method => captured.push(one(self.method.as_str().as_bytes()), bytes_max),
            Field::Path => captured.push(one(self.target), bytes_max),
            Field::PathWithoutQuery => captured.push(one(without_query(self.target)), bytes_max),
            Field::Authority => captured.push(one(self.authority), bytes_max),
            Field::Scheme => captured.push(one(b"http"), bytes_max),
            Field::Status => captured.push([].into_iter(), bytes_max),
            Field::Header(name) if *name == crate::exchange::REQUEST_ID => {
                captured.push(one(self.request_id), bytes_max)
            }
            // As it goes to the host.
            Field::Header(name) if *name == crate::forward::FORWARDED_FOR => {
                captured.push(self.headers.lines(name).chain(self.peer), bytes_max)
            }
            Field::Header(name) if *name == crate::forward::FORWARDED_PROTO => {
                captured.push(one(b"http"), bytes_max)
            }
            Field::Header(name) => captured.push(self.headers.lines(name).take(1), bytes_max),
        }
    }
}

impl Captured {
    /// Notes a value, of all its lines if there are several; whether there is any.
    pub(super) fn push<'a>(
        &mut self,
        lines: impl Iterator<Item = &'a [u8]>,
        bytes_max: Option<usize>,
    ) -> bool {
        let Self(bytes) = self;
        let start = bytes.len();
        bytes.extend_from_slice(&ABSENT.to_le_bytes());
        let value = bytes.len();
        let mut found = false;
        for line in lines {
            if found {
                bytes.push(b',');
            }
            bytes.extend_from_slice(line);
            found = true;
        }
        if let Some(bytes_max) = bytes_max {
            bytes.truncate(value.saturating_add(bytes_max));
        }
        if found {
            // A head is far shorter.
            let length = u32::try_from(bytes.len() - value).unwrap_or(ABSENT);
            bytes[start..value].copy_from_slice(&length.to_le_bytes());
        }
        found
    }

    /// Takes back a value that is not there.
    fn forget_last(&mut self) {
        let Self(bytes) = self;
        bytes.truncate(bytes.len() - ABSENT.to_le_bytes().len());
    }

    pub(super) fn cursor(&self) -> Cursor<'_> {
        Cursor(&self.0)
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn capacity(&self) -> usize {
        self.0.capacity()
    }
}

impl<'a> Cursor<'a> {
    pub(super) fn next(&mut self) -> Option<&'a [u8]> {
        let Self(bytes) = self;
        let (length, rest) = bytes.split_first_chunk()?;
        let length = u32::from_le_bytes(*length);
        if length == ABSENT {
            *bytes = rest;
            return None;
        }
        let (value, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        *bytes = rest;
        Some(value)
    }

    pub(super) fn skip(&mut self, values: usize) {
        (0..values).for_each(|_| {
            self.next();
        });
    }
}

pub(super) fn text(out: &mut Vec<u8>, show: Show, value: Option<&[u8]>) {
    match (show, value) {
        (Show::Text, Some(value)) => out.extend_from_slice(value),
        (Show::JsonPart, Some(value)) => escape(out, value),
        (Show::Json, Some(value)) => {
            out.push(b'"');
            escape(out, value);
            out.push(b'"');
        }
        (Show::Json, None) => out.extend_from_slice(b"null"),
        (Show::Text | Show::JsonPart, None) => out.extend_from_slice(NOTHING),
    }
}

/// What needs no escapes.
pub(super) fn quoted(out: &mut Vec<u8>, show: Show, write: impl FnOnce(&mut Vec<u8>)) {
    let quote: &[u8] = if show == Show::Json { b"\"" } else { b"" };
    out.extend_from_slice(quote);
    write(out);
    out.extend_from_slice(quote);
}

/// The inside of a JSON string (RFC 8259, section 7). What is not UTF-8 stands there byte by byte, as in Envoy.
pub(crate) fn escape(out: &mut Vec<u8>, value: &[u8]) {
    let is_plain = |byte: &u8| (b' '..0x7f).contains(byte) && !matches!(byte, b'"' | b'\\');
    if value.iter().all(is_plain) {
        return out.extend_from_slice(value);
    }
    let is_utf8 = std::str::from_utf8(value).is_ok();
    for byte in value {
        match byte {
            b'"' | b'\\' => out.extend([b'\\', *byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ if is_plain(byte) || (is_utf8 && *byte >= 0x80) => out.push(*byte),
            _ => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.extend_from_slice(b"\\u00");
                out.extend([byte >> 4, byte & 0xf].map(|digit| HEX[usize::from(digit)]));
            }
        }
    }
}

pub(super) fn number(out: &mut Vec<u8>, value: u64) {
    let width = value.checked_ilog10().map_or(1, |log| log + 1);
    digits(out, value, width);
}

/// The last `width` digits.
fn digits(out: &mut Vec<u8>, mut value: u64, width: u32) {
    let start = out.len();
    for _ in 0..width {
        out.push(b'0' + (value % 10).to_le_bytes()[0]);
        value /= 10;
    }
    out[start..].reverse();
}

fn whole(value: u128) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

pub(super) fn address(out: &mut Vec<u8>, address: SocketAddr) {
    match address {
        SocketAddr::V4(v4) => {
            ip(out, IpAddr::V4(*v4.ip()));
            out.push(b':');
            number(out, v4.port().into());
        }
        SocketAddr::V6(_) => {
            // Writing to memory cannot fail.
            let _ = write!(out, "{address}");
        }
    }
}

pub(super) fn ip(out: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(v4) => {
            for (place, octet) in v4.octets().into_iter().enumerate() {
                if place > 0 {
                    out.push(b'.');
                }
                number(out, octet.into());
            }
        }
        IpAddr::V6(_) => {
            // Writing to memory cannot fail.
            let _ = write!(out, "{ip}");
        }
    }
}

fn protocol(version: Version) -> &'static [u8] {
    match version {
        Version::HTTP_10 => b"HTTP/1.0",
        Version::HTTP_2 => b"HTTP/2",
        _ => b"HTTP/1.1",
    }
}

fn without_query(target: &[u8]) -> &[u8] {
    target.split(|byte| *byte == b'?').next().unwrap_or_default()
}

fn since_1970_ms(moment: SystemTime) -> u64 {
    let since = moment.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    whole(since.as_millis())
}

/// As in `2026-11-23T01:02:03.456Z`.
fn moment(out: &mut Vec<u8>, ms: u64) {
    let (days, of_day) = (ms / 86_400_000, ms % 86_400_000);
    let (year, month, day) = date(days);
    let parts = [
        (year, 4, b'-'),
        (month, 2, b'-'),
        (day, 2, b'T'),
        (of_day / 3_600_000, 2, b':'),
        (of_day / 60_000 % 60, 2, b':'),
        (of_day / 1000 % 60, 2, b'.'),
        (of_day % 1000, 3, b'Z'),
    ];
    for (value, width, behind) in parts {
        digits(out, value, width);
        out.push(behind);
    }
}

/// Year, month and day of the day that is so many after 1970-01-01, in the proleptic Gregorian calendar; years that begin
/// in March end with the leap day.
fn date(days: u64) -> (u64, u64, u64) {
    const DAYS_OF_ERA: u64 = 400 * 365 + 97;
    // Days from 0000-03-01 to 1970-01-01.
    let days = days + 719_468;
    let (era, of_era) = (days / DAYS_OF_ERA, days % DAYS_OF_ERA);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, later) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    (era * 400 + year + later, month, day)
}

#[cfg(test)]
mod tests;
