//! The record of one request, from its head to the last byte of its response; counted and logged when dropped, however it
//! ends.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderMap, HeaderName, Method, StatusCode};

use crate::access_log::{Ended, Note, Requested};
use crate::config::HeaderEdits;
use crate::grpc::{self, Code};
use crate::grpc_web::WebCall;
use crate::header_changes::HeaderChanges;
use crate::listener::Connection;
use crate::matcher::Headers;
use crate::metrics::RouteCounters;
use crate::outlier::Report;
use crate::retry::Outcome;
use crate::snapshot::LiveHttp;
use crate::tap::Tapped;
use crate::trace::{Begun, Context, Traced};
use crate::upload::Upload;

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Status of a request whose client left before there was an answer, as nginx records it.
pub(crate) const CLIENT_GONE: u16 = 499;

pub(crate) struct Exchange {
    connection: Rc<Connection>,
    started: Instant,
    /// 0 while there is no answer.
    status: u16,
    flag: Flag,
    /// What kept it from another attempt.
    limit: Flag,
    retries: u32,
    is_head: bool,
    is_call: bool,
    is_shadowed: bool,
    is_last: bool,
    /// Of a request whose body streams over hyper: what has come of it is known until the end.
    upload: Option<Rc<Upload>>,
    bytes_received: u64,
    bytes_sent: u64,
    counters: Option<Arc<RouteCounters>>,
    /// What filters do to the answer's head, which few do.
    edits: Option<Box<HeaderChanges>>,
    /// For the logs, if there are any.
    note: Option<Box<Note>>,
    /// If it is sampled.
    traced: Option<Rc<Traced>>,
    /// If somebody looks at it.
    tapped: Option<Box<Tapped>>,
}

/// Why a request went wrong, in the words of Envoy's access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flag {
    None,
    BadRequest,
    NoRoute,
    NoHealthyUpstream,
    ConnectFailure,
    UpstreamReset,
    UpstreamTimeout,
    ClientGone,
    FaultInjected,
    Overflow,
    RetriesUsedUp,
    RateLimited,
    Dropped,
    AllDropped,
    Unauthorized,
    LimiterFailed,
    /// Nothing has moved for long.
    StreamIdle,
    /// The proxy has ended it.
    LocalReset,
    /// The proxy runs short of memory.
    Overloaded,
}

/// The words for how a request went wrong, at most two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flags([&'static str; 2]);

impl Exchange {
    pub(crate) fn begin(connection: Rc<Connection>) -> Self {
        connection.begin();
        let note = connection.worker.logs.note(connection.listener.live());
        Self {
            connection,
            started: Instant::now(),
            status: 0,
            flag: Flag::ClientGone,
            limit: Flag::None,
            retries: 0,
            is_head: false,
            is_call: false,
            is_shadowed: false,
            is_last: false,
            upload: None,
            bytes_received: 0,
            bytes_sent: 0,
            counters: None,
            edits: None,
            note,
            traced: None,
            tapped: None,
        }
    }

    pub(crate) fn connection(&self) -> &Rc<Connection> {
        &self.connection
    }

    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// Its client's connection of HTTP/1.1 serves nothing behind it.
    pub(crate) fn last(&mut self) {
        self.is_last = true;
    }

    /// Whether its answer should ask the client to use another connection.
    pub(crate) fn wants_close(&self) -> bool {
        self.connection.wants_close(self.is_last)
    }

    /// What of its head says how it is answered.
    pub(crate) fn asks(&mut self, method: &Method, content_type: Option<&[u8]>) {
        self.is_head = method == Method::HEAD;
        self.is_call = content_type.is_some_and(grpc::is_call);
    }

    /// It is a call like others from here on, whose answer says what it is for a browser.
    pub(crate) fn of_web(&mut self, web: WebCall) {
        self.is_call = true;
        let (name, value) = web.line();
        let mut changes = HeaderChanges::default();
        changes.set(name, value);
        self.changes(changes);
    }

    /// Whether its answer has no body.
    pub(crate) fn is_head(&self) -> bool {
        self.is_head
    }

    /// Whether it is a call of gRPC.
    pub(crate) fn is_call(&self) -> bool {
        self.is_call
    }

    pub(crate) fn retries(&self) -> u32 {
        self.retries
    }

    /// Decides whether it is sampled, and what its host is told of that; nothing where its listener traces none.
    pub(crate) fn trace(&mut self, live: &Rc<LiveHttp>, headers: &impl Headers) -> Option<Context> {
        let tracing = live.config.tracing.as_ref()?;
        let random = &self.connection.worker.random;
        let Begun { context, is_sampled } = tracing.begin(headers, random);
        let traced = || Rc::new(Traced::new(Rc::clone(live), context, self.started, random));
        self.traced = is_sampled.then(traced);
        Some(self.traced.as_ref().map_or(context, |traced| traced.told()))
    }

    /// What attempts are told by, if it is sampled.
    pub(crate) fn traced(&self) -> Option<Rc<Traced>> {
        self.traced.clone()
    }

    /// Notes what the logs and spans say of its head.
    pub(crate) fn asked<'a, H: Headers + 'a>(&mut self, asked: impl FnOnce() -> Requested<'a, H>) {
        let taps = &self.connection.worker.taps;
        if self.note.is_none() && self.traced.is_none() && !taps.is_open() {
            return;
        }
        let asked = asked();
        if taps.is_open() {
            let listener = &self.connection.listener;
            self.tapped = taps.begin(&listener.name, &listener.live().routes, &asked, self.started);
        }
        self.note(&asked);
    }

    /// The same again: who was asked about it has changed it.
    pub(crate) fn asks_otherwise<'a, H: Headers + 'a>(&mut self, asked: impl FnOnce() -> Requested<'a, H>) {
        if self.note.is_none() && self.traced.is_none() && self.tapped.is_none() {
            return;
        }
        let asked = asked();
        if let Some(tapped) = &mut self.tapped {
            tapped.asked(&asked);
        }
        self.note(&asked);
    }

    fn note(&mut self, asked: &Requested<'_, impl Headers>) {
        if let Some(note) = &mut self.note {
            self.connection.worker.logs.asked(note, asked);
        }
        if let Some(traced) = &self.traced {
            traced.asked(asked, self.connection.scheme());
        }
    }

    /// What filters do to the answer's head.
    pub(crate) fn edits(&mut self, edits: HeaderEdits) {
        if edits != HeaderEdits::default() {
            self.changes(edits.into());
        }
    }

    /// The same, behind what others do.
    pub(crate) fn changes(&mut self, changes: HeaderChanges) {
        if !changes.is_empty() {
            self.edits.get_or_insert_default().extend(changes);
        }
    }

    /// The same, before what others do.
    pub(crate) fn changes_before(&mut self, mut changes: HeaderChanges) {
        changes.extend(
            self.edits
                .take()
                .map_or_else(HeaderChanges::default, |said| *said),
        );
        self.changes(changes);
    }

    /// Why it is answered by the proxy itself, if that is known.
    pub(crate) fn decided(&mut self, why: impl FnOnce() -> Option<String>) {
        if let Some(tapped) = &mut self.tapped {
            tapped.decided(why());
        }
    }

    /// Rules that are only tried would have refused it.
    pub(crate) fn shadowed(&mut self) {
        self.is_shadowed = true;
    }

    /// What logs are to make of it, if that is said.
    pub(crate) fn hint(&mut self, hint: Option<bool>) {
        if let (Some(note), Some(hint)) = (&mut self.note, hint) {
            note.hint(hint);
        }
    }

    /// Does it.
    pub(crate) fn edit(&mut self, headers: &mut HeaderMap) {
        if let Some(edits) = self.edits.take() {
            edits.apply(headers);
        }
    }

    /// Notes what the logs say of the answer's head.
    pub(crate) fn answered(&mut self, headers: &impl Headers) {
        if let Some(tapped) = &mut self.tapped {
            tapped.answered(headers);
        }
        if let Some(note) = &mut self.note {
            self.connection.worker.logs.answered(note, headers);
            if self.is_call {
                note.said(headers);
            }
        }
    }

    /// What came behind its answer's body.
    pub(crate) fn trailed(&mut self, trailers: &HeaderMap) {
        if let Some(note) = self.note.as_mut().filter(|_| self.is_call) {
            note.said(trailers);
        }
    }

    pub(crate) fn cluster(&mut self, cluster: &str, counters: Arc<RouteCounters>) {
        counters.begun.add(1);
        self.counters = Some(counters);
        if let Some(note) = &mut self.note {
            note.cluster(cluster);
        }
        if let Some(traced) = &self.traced {
            traced.cluster(cluster);
        }
        if let Some(tapped) = &mut self.tapped {
            tapped.upstream(cluster);
        }
    }

    pub(crate) fn host(&mut self, host: SocketAddr) {
        if let Some(note) = &mut self.note {
            note.host(host);
        }
        if let Some(traced) = &self.traced {
            traced.attempt(host, &self.connection.worker.random);
        }
        if let Some(tapped) = &mut self.tapped {
            tapped.attempt(host);
        }
    }

    /// Of several that were asked at once it is this one, the `nth`, that the client hears of.
    pub(crate) fn heard(&mut self, nth: usize, host: SocketAddr) {
        if let Some(note) = &mut self.note {
            note.host(host);
        }
        if let Some(traced) = &self.traced {
            traced.heard(nth);
        }
    }

    /// What the host that was asked as the `nth` has to do with how that ended.
    pub(crate) fn attempted(&mut self, nth: usize, report: Option<Report>) {
        if let Some(tapped) = &mut self.tapped {
            tapped.attempted(nth, report);
        }
        if let Some(traced) = &self.traced {
            traced.attempted(nth, report);
        }
    }

    pub(crate) fn retry(&mut self) {
        self.retries += 1;
        if let Some(counters) = &self.counters {
            counters.retries.add(1);
        }
    }

    /// There were as many attempts as the policy has.
    pub(crate) fn retries_used_up(&mut self) {
        self.limit = Flag::RetriesUsedUp;
    }

    /// There are as many retries as the cluster takes.
    pub(crate) fn retry_overflowed(&mut self) {
        self.limit = Flag::Overflow;
        if let Some(counters) = &self.counters {
            counters.retry_overflows.add(1);
        }
    }

    /// There are as many requests as the cluster takes.
    pub(crate) fn request_overflowed(&self) {
        if let Some(counters) = &self.counters {
            counters.request_overflows.add(1);
        }
    }

    /// As many requests wait for a connection as the cluster takes.
    pub(crate) fn pending_overflowed(&self) {
        if let Some(counters) = &self.counters {
            counters.pending_overflows.add(1);
        }
    }

    /// An attempt brought no answer.
    pub(crate) fn attempt_failed(&self, outcome: Outcome) {
        let Some(counters) = &self.counters else {
            return;
        };
        match outcome {
            Outcome::ConnectFailure | Outcome::NoSocket => counters.connect_failures.add(1),
            Outcome::RefusedStream | Outcome::Reset => counters.resets.add(1),
            Outcome::PerTryTimeout => counters.per_try_timeouts.add(1),
            Outcome::Status(_) => {}
        }
    }

    /// The status that the client sees. Until the response ends, the client may still leave.
    pub(crate) fn respond(&mut self, status: u16) {
        self.status = status;
    }

    /// So many bytes more of the answer's body.
    pub(crate) fn sent(&mut self, bytes: u64) {
        self.bytes_sent += bytes;
    }

    /// The request's body comes this way.
    pub(crate) fn uploads(&mut self, upload: Rc<Upload>) {
        self.upload = Some(upload);
    }

    /// Whether all of the request has come, as far as it comes by an upload.
    pub(crate) fn has_come(&self) -> bool {
        self.upload
            .as_ref()
            .is_none_or(|upload| upload.completed_at().is_some())
    }

    /// Its answer has not all come, be it by the host's doing or since the client broke off its request meanwhile.
    pub(crate) fn broke_off(&mut self) {
        let refusal = self.upload.as_ref().and_then(|upload| upload.refusal());
        self.end(refusal.map_or(Flag::UpstreamReset, |_| Flag::ClientGone));
    }

    /// So many bytes of the request's body in all.
    pub(crate) fn received(&mut self, bytes: u64) {
        self.bytes_received = bytes;
    }

    /// How it ended as a call, as far as that was said, else by its status.
    fn code(&self, note: Option<&Note>) -> Option<Code> {
        let note = note.filter(|_| self.is_call)?;
        let by_status = || StatusCode::from_u16(self.status).ok().map(Code::of);
        note.code().or_else(by_status)
    }

    /// The exchange ended by itself.
    pub(crate) fn end(&mut self, flag: Flag) {
        self.flag = flag;
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let now = Instant::now();
        self.connection.end(now);
        let took = now - self.started;
        if let Some(upload) = &self.upload {
            self.bytes_received = upload.received();
        }
        let counters = self
            .counters
            .as_deref()
            .unwrap_or(&self.connection.listener.unrouted);
        counters.request(
            if self.status == 0 {
                CLIENT_GONE
            } else {
                self.status
            },
            took,
        );
        counters.bytes_received.add(self.bytes_received);
        counters.bytes_sent.add(self.bytes_sent);
        if self.is_shadowed {
            counters.shadowed.add(1);
        }
        for flag in [self.flag, self.limit] {
            if flag != Flag::None {
                counters.flag(flag);
            }
        }
        let (note, traced, tapped) = (self.note.take(), self.traced.take(), self.tapped.take());
        if note.is_some() || traced.is_some() || tapped.is_some() {
            let ended = Ended {
                status: self.status,
                flags: Flags::of(self.flag, self.limit),
                took,
                retries: self.retries,
                bytes_received: self.bytes_received,
                bytes_sent: self.bytes_sent,
                client: self.connection.address(),
                channel: self.connection.client().channel,
                code: self.code(note.as_deref()),
                trace: traced.as_ref().map(|traced| traced.ids()),
            };
            if let Some(note) = note {
                self.connection
                    .worker
                    .logs
                    .write(note, &ended, &self.connection.worker.exporter);
            }
            if let Some(tapped) = tapped {
                tapped.end(&ended);
            }
            if let Some(traced) = traced {
                traced.end(&ended, &self.connection.worker.exporter);
            }
        }
    }
}

impl Flag {
    /// In their order.
    pub(crate) const ALL: [Self; 19] = [
        Self::None,
        Self::BadRequest,
        Self::NoRoute,
        Self::NoHealthyUpstream,
        Self::ConnectFailure,
        Self::UpstreamReset,
        Self::UpstreamTimeout,
        Self::ClientGone,
        Self::FaultInjected,
        Self::Overflow,
        Self::RetriesUsedUp,
        Self::RateLimited,
        Self::Dropped,
        Self::AllDropped,
        Self::Unauthorized,
        Self::LimiterFailed,
        Self::StreamIdle,
        Self::LocalReset,
        Self::Overloaded,
    ];

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::None => "",
            Self::BadRequest => "DPE",
            Self::NoRoute => "NR",
            Self::NoHealthyUpstream => "UH",
            Self::ConnectFailure => "UF",
            Self::UpstreamReset => "UR",
            Self::UpstreamTimeout => "UT",
            Self::ClientGone => "DC",
            Self::FaultInjected => "FI",
            Self::RateLimited => "RL",
            Self::Unauthorized => "UAEX",
            Self::LimiterFailed => "RLSE",
            Self::Overflow => "UO",
            Self::RetriesUsedUp => "URX",
            Self::Dropped => "DO",
            Self::AllDropped => "UDO",
            Self::StreamIdle => "SI",
            Self::LocalReset => "LR",
            Self::Overloaded => "OM",
        }
    }
}

impl Flags {
    /// `""` is none.
    pub(crate) const fn said(words: [&'static str; 2]) -> Self {
        Self(words)
    }

    /// As Envoy lists them: what came first.
    pub(crate) fn of(flag: Flag, limit: Flag) -> Self {
        let (flag, limit) = (flag.word(), limit.word());
        Self(if limit == flag { [flag, ""] } else { [limit, flag] })
    }

    pub(crate) fn words(self) -> impl Iterator<Item = &'static str> {
        self.0.into_iter().filter(|word| !word.is_empty())
    }

    /// With commas; `none` where there are none.
    pub(crate) fn write(self, out: &mut Vec<u8>, none: &str) {
        let mut words = self.words();
        out.extend_from_slice(words.next().unwrap_or(none).as_bytes());
        for word in words {
            out.push(b',');
            out.extend_from_slice(word.as_bytes());
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_listed_in_their_order() {
        for (place, flag) in Flag::ALL.into_iter().enumerate() {
            assert_eq!(flag as usize, place, "{flag:?}");
        }
    }

    #[test]
    fn a_request_may_have_gone_wrong_in_two_ways() {
        for (flag, limit, expected) in [
            (Flag::None, Flag::None, "-"),
            (Flag::Overflow, Flag::None, "UO"),
            (Flag::None, Flag::RetriesUsedUp, "URX"),
            (Flag::ConnectFailure, Flag::RetriesUsedUp, "URX,UF"),
            (Flag::ConnectFailure, Flag::Overflow, "UO,UF"),
            (Flag::Overflow, Flag::Overflow, "UO"),
        ] {
            let mut out = Vec::new();
            Flags::of(flag, limit).write(&mut out, "-");
            assert_eq!(String::from_utf8(out).unwrap(), expected, "{flag:?} {limit:?}");
        }
    }
}
