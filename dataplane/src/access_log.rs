//! The record of every request: what is noted of it while it lasts, and the lines that come of it. Each worker has notes and
//! buffers of its own, so that a line costs a request what copying it costs, and no request waits for a disk or a pipe.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderName, Method, Version};

use crate::channel::Channel;
use crate::config::HeaderEdits;
use crate::exchange::Flags;
use crate::grpc::{Code, GRPC_STATUS};
use crate::h1::Head;
use crate::matcher::Headers;
use crate::metrics::Metrics;
use crate::otlp::Exporter;
use crate::snapshot::LiveHttp;

mod channel;
mod filter;
mod format;
mod passed;
mod records;
mod writer;

pub(crate) use channel::{CodeStyle, OfChannel};
pub(crate) use filter::{Comparison, Filter, Relation};
pub(crate) use format::{Field, Format, Operator, Piece, Request, Show, escape};
pub(crate) use passed::Passed;
pub(crate) use records::{Records, Shape, Shapes};
pub(crate) use writer::{Destination, Process};

use format::Captured;
use writer::Sinks;

/// Notes that a worker keeps for requests to come; more than are under way on most.
const NOTES_KEPT_MAX: usize = 256;
/// What a note may take while it is kept: most heads have less that is logged.
const NOTE_BYTES_KEPT_MAX: usize = 4096;

/// Where access is logged to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLog {
    Off,
    Stdout,
    /// Appended to.
    File(PathBuf),
}

/// One log: which requests are written to it, and how.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Log {
    pub(crate) medium: Medium,
    pub(crate) filter: Option<Filter>,
    pub(crate) format: Format,
}

/// What it is written as.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Medium {
    Lines(Destination),
    Records(Arc<Records>),
}

/// A worker's end of all logs.
pub(crate) struct Logs {
    /// The proxy's own, beside those of its listeners: of requests, and of connections that are passed on.
    own: Option<Log>,
    own_passed: Option<Log>,
    sinks: Sinks,
    #[allow(
        clippy::vec_box,
        reason = "an exchange holds its note by its box, and gives it back"
    )]
    notes: RefCell<Vec<Box<Note>>>,
}

/// What is known of a request that is logged. It is kept and filled again.
pub(crate) struct Note {
    /// The logs are those that were there when it began.
    live: Option<Rc<LiveHttp>>,
    started: SystemTime,
    protocol: Option<Version>,
    host: Option<SocketAddr>,
    /// What the formats ask of the request's head, what they ask of the answer's, and the cluster.
    asked: Captured,
    answered: Captured,
    cluster: Vec<u8>,
    /// Whether rules want it logged.
    hint: Option<bool>,
    /// What an answer or its trailers say of a call.
    code: Option<Code>,
}

/// A request's head, as logs see it.
pub(crate) struct Requested<'a, H> {
    pub(crate) method: &'a Method,
    /// With its query.
    pub(crate) target: &'a [u8],
    pub(crate) authority: &'a [u8],
    pub(crate) protocol: Version,
    pub(crate) request_id: &'a [u8],
    /// The client's address, unless the head has it already.
    pub(crate) peer: Option<&'a [u8]>,
    pub(crate) route: &'a str,
    pub(crate) headers: &'a H,
}

/// How it ended.
pub(crate) struct Ended<'a> {
    /// Of the answer; 0 when there was none.
    pub(crate) status: u16,
    pub(crate) flags: Flags,
    pub(crate) took: Duration,
    pub(crate) retries: u32,
    pub(crate) bytes_received: u64,
    pub(crate) bytes_sent: u64,
    pub(crate) client: SocketAddr,
    pub(crate) channel: &'a Channel,
    /// What it was as a call of gRPC, if it was one.
    pub(crate) code: Option<Code>,
    /// Its trace and its own span, if it is sampled.
    pub(crate) trace: Option<(u128, u64)>,
}

/// A host's head as the client is sent it.
pub(crate) struct Edited<'a> {
    pub(crate) head: Head<'a>,
    pub(crate) edits: &'a HeaderEdits,
}

impl Logs {
    pub(crate) fn new(process: Arc<Process>) -> Self {
        let own = |format: Format| {
            process.own().map(|destination| Log {
                medium: Medium::Lines(destination),
                filter: None,
                format,
            })
        };
        Self {
            own: own(Format::own()),
            own_passed: own(Format::own_passed()),
            sinks: Sinks::new(process),
            notes: RefCell::default(),
        }
    }

    /// A note, if anything is logged of that listener's requests.
    pub(crate) fn note(&self, live: Rc<LiveHttp>) -> Option<Box<Note>> {
        if self.own.is_none() && live.config.logs.is_empty() {
            return None;
        }
        let kept = self.notes.borrow_mut().pop();
        let mut note = kept.unwrap_or_else(|| Box::new(Note::new()));
        note.live = Some(live);
        note.started = SystemTime::now();
        Some(note)
    }

    /// Writes the lines of a request that has ended.
    pub(crate) fn write(&self, mut note: Box<Note>, ended: &Ended<'_>, exporter: &Exporter) {
        if let Some(live) = note.live.take() {
            self.write_to(self.of(&live), &note, ended, exporter);
        }
        let mut notes = self.notes.borrow_mut();
        if notes.len() < NOTES_KEPT_MAX && note.bytes() <= NOTE_BYTES_KEPT_MAX {
            note.clear();
            notes.push(note);
        }
    }

    fn write_to<'a>(
        &self,
        logs: impl Iterator<Item = &'a Log>,
        note: &Note,
        ended: &Ended<'_>,
        exporter: &Exporter,
    ) {
        let (mut asked, mut answered) = (note.asked.cursor(), note.answered.cursor());
        for log in logs {
            let takes = |filter: &Filter| filter.takes(ended, note.hint, &mut asked);
            if !log.filter.as_ref().is_none_or(takes) {
                asked.skip(log.format.asks());
                answered.skip(log.format.answers());
                continue;
            }
            match &log.medium {
                Medium::Lines(destination) => self.sinks.write(destination, |out| {
                    log.format.write(out, note, ended, &mut asked, &mut answered);
                }),
                Medium::Records(records) => {
                    let record = records.record(note, ended, &mut asked, &mut answered);
                    exporter.send(&records.stream, &record);
                }
            }
        }
    }

    /// What was noted before is forgotten.
    pub(crate) fn asked(&self, note: &mut Note, asked: &Requested<'_, impl Headers>) {
        let Note {
            live: Some(live),
            asked: captured,
            protocol,
            ..
        } = note
        else {
            return;
        };
        *protocol = Some(asked.protocol);
        captured.clear();
        self.of(live).for_each(|log| {
            if let Some(filter) = &log.filter {
                filter.capture(asked, captured);
            }
            log.format.capture_request(asked, captured);
        });
    }

    pub(crate) fn answered(&self, note: &mut Note, headers: &impl Headers) {
        let Note {
            live: Some(live),
            answered: captured,
            ..
        } = note
        else {
            return;
        };
        self.of(live)
            .for_each(|log| log.format.capture_response(headers, captured));
    }

    /// Hands on what has not been.
    pub(crate) fn flush(&self) {
        self.sinks.flush();
    }

    fn of<'a>(&'a self, live: &'a LiveHttp) -> impl Iterator<Item = &'a Log> {
        self.own.iter().chain(live.config.logs.iter())
    }
}

impl Note {
    fn new() -> Self {
        Self {
            live: None,
            started: SystemTime::UNIX_EPOCH,
            protocol: None,
            host: None,
            asked: Captured::default(),
            answered: Captured::default(),
            cluster: Vec::new(),
            hint: None,
            code: None,
        }
    }

    /// What was said later is said instead.
    pub(crate) fn hint(&mut self, hint: bool) {
        self.hint = Some(hint);
    }

    pub(crate) fn cluster(&mut self, name: &str) {
        self.cluster.clear();
        self.cluster.extend_from_slice(name.as_bytes());
    }

    pub(crate) fn host(&mut self, host: SocketAddr) {
        self.host = Some(host);
    }

    /// Of a call: what its answer's head or trailers say last.
    pub(crate) fn said(&mut self, headers: &impl Headers) {
        let said = headers.lines(&GRPC_STATUS).next().and_then(Code::read);
        self.code = said.or(self.code);
    }

    pub(crate) fn code(&self) -> Option<Code> {
        self.code
    }

    fn bytes(&self) -> usize {
        self.asked.capacity() + self.answered.capacity() + self.cluster.capacity()
    }

    fn clear(&mut self) {
        self.protocol = None;
        self.host = None;
        self.hint = None;
        self.code = None;
        self.asked.clear();
        self.answered.clear();
        self.cluster.clear();
    }
}

impl Headers for Edited<'_> {
    fn lines<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> {
        let Self { head, edits } = self;
        let stays = !edits.replaced().any(|replaced| replaced == name);
        let of_head = stays.then(|| head.named(name.as_str().as_bytes()));
        let of_name = move |lines: &'a [(HeaderName, http::HeaderValue)]| {
            let lines = lines.iter().filter(move |(line, _)| line == name);
            lines.map(|(_, value)| value.as_bytes())
        };
        let set = of_name(&edits.set).last();
        of_head
            .into_iter()
            .flatten()
            .chain(set)
            .chain(of_name(&edits.add))
    }

    fn each(&self, show: &mut dyn FnMut(&[u8], &[u8])) {
        let Self { head, edits } = self;
        head.each(&mut |name, value| {
            if !edits.replaces(name) {
                show(name, value);
            }
        });
        for (name, value) in edits.set.iter().chain(&edits.add) {
            show(name.as_str().as_bytes(), value.as_bytes());
        }
    }
}

/// Opens what a proxy logs to by itself, or says why it cannot.
pub(crate) fn open(log: &AccessLog, metrics: &Arc<Metrics>) -> std::io::Result<Arc<Process>> {
    let own = match log {
        AccessLog::Off => None,
        AccessLog::Stdout => Some(Destination::Stdout),
        AccessLog::File(path) => Some(Destination::of_path(path)),
    };
    Process::start(own, Arc::clone(metrics))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::h1::{Fields, read_response};

    #[test]
    fn an_answer_is_logged_as_it_is_sent() {
        let text = b"HTTP/1.1 200 OK\r\nA: 1\r\na: 2\r\nb: 3\r\n\r\n";
        let mut fields = Fields::default();
        read_response(text, &mut fields).unwrap();
        let line = |name, value| (HeaderName::from_static(name), HeaderValue::from_static(value));
        let edits = HeaderEdits {
            remove: vec![HeaderName::from_static("b")],
            set: vec![line("c", "4"), line("c", "5")],
            add: vec![line("a", "6"), line("c", "7")],
        };
        let edited = Edited {
            head: fields.of(text),
            edits: &edits,
        };
        for (name, expected) in [("a", "1 2 6"), ("b", ""), ("c", "5 7"), ("d", "")] {
            let name = HeaderName::from_static(name);
            let lines: Vec<&[u8]> = edited.lines(&name).collect();
            assert_eq!(lines.join(&b' '), expected.as_bytes(), "{name}");
        }
    }
}
