//! Taps: whoever runs the proxy looks at some of the requests that come, as they come (`/tap` of the admin port). What is seen of
//! one is its heads, without what is nobody's to see, and what was decided about it; no bodies. Where no tap is open, a request pays
//! one look at that.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::Stream;
use http::HeaderName;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc};

use crate::access_log::{Ended, Requested};
use crate::matcher::Headers;
use crate::outlier::Report;
use crate::router::RouteTable;

mod redact;

/// Taps at once.
const TAPS_MAX: usize = 4;
const REQUESTS_DEFAULT: usize = 100;
const REQUESTS_MAX: usize = 10_000;
const SECONDS_DEFAULT: u64 = 30;
const SECONDS_MAX: u64 = 3600;
/// Requests under way of which a tap keeps what it has seen, and those that wait for who reads it.
const HELD_MAX: usize = 256;
const QUEUE_MAX: usize = 64;
/// Of the lines of one head.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Attempts that are told of one by one.
const ATTEMPTS_MAX: usize = 16;

/// All that are open.
#[derive(Default)]
pub(crate) struct Taps {
    /// How many, which is all that requests look at.
    open: AtomicUsize,
    taps: Mutex<Vec<Arc<Tap>>>,
}

/// What of requests is wanted, as the admin port is asked for it; what is not said is any.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    listener: Option<String>,
    /// By its name.
    route: Option<String>,
    path_prefix: Option<String>,
    /// `NAME`, or `NAME:VALUE`.
    header: Option<String>,
    /// `503`, or `5xx`.
    status: Option<String>,
    requests: Option<usize>,
    seconds: Option<u64>,
}

struct Tap {
    matcher: Matcher,
    until: Instant,
    lines: mpsc::Sender<Vec<u8>>,
    /// How many more requests it takes.
    left: AtomicUsize,
    held: AtomicUsize,
    /// Those that it should have shown, and had no room for.
    missed: AtomicUsize,
    /// Told when it has shown all that it was to.
    full: Notify,
}

#[derive(Debug, PartialEq)]
struct Matcher {
    listener: Option<String>,
    route: Option<String>,
    path_prefix: Option<String>,
    header: Option<(HeaderName, Option<String>)>,
    status: Option<std::ops::Range<u16>>,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TapError {
    #[error("{field}: {value:?} is not understood")]
    Malformed { field: &'static str, value: String },
    #[error("there are {TAPS_MAX} taps already: end one of them")]
    TooMany,
}

/// A request that a tap sees.
pub(crate) struct Tapped {
    seen: Vec<(Arc<Tap>, Held)>,
    shown: Shown,
    began: Instant,
}

/// Counts it as long as it is under way.
struct Held(Arc<Tap>);

/// One line.
#[derive(Debug, Serialize)]
struct Shown {
    time_ms: u64,
    method: String,
    /// Without its query, and what looks like a secret in it.
    path: String,
    authority: String,
    client: String,
    protocol: String,
    request_headers: Vec<(String, String)>,
    status: u16,
    response_headers: Vec<(String, String)>,
    flags: Vec<&'static str>,
    duration_ms: f64,
    bytes_received: u64,
    bytes_sent: u64,
    decision: Decision,
}

/// What was decided, in the words of `tombolo explain`.
#[derive(Debug, Serialize)]
struct Decision {
    listener: String,
    /// The virtual host, which the edge names like the gateway or service that it is.
    host: Option<String>,
    route: Option<String>,
    upstream: Option<String>,
    attempts: Vec<Attempt>,
    outcome: &'static str,
    /// Why the proxy has answered it by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Debug, Serialize)]
struct Attempt {
    address: String,
    began_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_ms: Option<f64>,
    brought: String,
}

/// A reader's end.
struct Reading {
    taps: Arc<Taps>,
    tap: Arc<Tap>,
    queue: mpsc::Receiver<Vec<u8>>,
    is_over: bool,
}

impl Taps {
    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed) > 0
    }

    /// Opens one; what it sees are lines of JSON, and the last one says how much that was.
    pub(crate) fn open(
        self: &Arc<Self>,
        wanted: Wanted,
    ) -> Result<impl Stream<Item = Vec<u8>> + use<>, TapError> {
        let requests = wanted.requests.unwrap_or(REQUESTS_DEFAULT).min(REQUESTS_MAX);
        let seconds = wanted.seconds.unwrap_or(SECONDS_DEFAULT).min(SECONDS_MAX);
        let (lines, queue) = mpsc::channel(QUEUE_MAX);
        let tap = Arc::new(Tap {
            matcher: Matcher::new(wanted)?,
            until: Instant::now() + Duration::from_secs(seconds),
            lines,
            left: AtomicUsize::new(requests),
            held: AtomicUsize::new(0),
            missed: AtomicUsize::new(0),
            full: Notify::new(),
        });
        let mut taps = self.taps.lock().unwrap_or_else(PoisonError::into_inner);
        if taps.len() >= TAPS_MAX {
            return Err(TapError::TooMany);
        }
        taps.push(Arc::clone(&tap));
        self.open.store(taps.len(), Ordering::Relaxed);
        drop(taps);
        let reading = Reading {
            taps: Arc::clone(self),
            tap,
            queue,
            is_over: false,
        };
        Ok(futures::stream::unfold(reading, async |mut reading| {
            let line = reading.next().await?;
            Some((line, reading))
        }))
    }

    /// A request with that head, if one of them wants to see it.
    pub(crate) fn begin(
        &self,
        listener: &str,
        routes: &RouteTable,
        asked: &Requested<'_, impl Headers>,
        began: Instant,
    ) -> Option<Box<Tapped>> {
        let mut taps = self.taps.lock().unwrap_or_else(PoisonError::into_inner);
        // One whose reader has stopped reading does not end by itself.
        taps.retain(|tap| began < tap.until);
        self.open.store(taps.len(), Ordering::Relaxed);
        let wants = |tap: &&Arc<Tap>| began < tap.until && tap.matcher.wants(listener, asked);
        let seen: Vec<_> = taps
            .iter()
            .filter(wants)
            .filter_map(|tap| Some((Arc::clone(tap), Held::new(tap)?)))
            .collect();
        drop(taps);
        if seen.is_empty() {
            return None;
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Some(Box::new(Tapped {
            seen,
            began,
            shown: Shown {
                time_ms: u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX),
                method: asked.method.to_string(),
                path: redact::path(path(asked.target)),
                authority: text(asked.authority),
                client: String::new(),
                protocol: format!("{:?}", asked.protocol),
                request_headers: head(asked.headers),
                status: 0,
                response_headers: Vec::new(),
                flags: Vec::new(),
                duration_ms: 0.0,
                bytes_received: 0,
                bytes_sent: 0,
                decision: Decision {
                    listener: listener.to_owned(),
                    host: routes.host_name(&text(asked.authority)).map(str::to_owned),
                    route: Some(asked.route.to_owned()).filter(|name| !name.is_empty()),
                    upstream: None,
                    attempts: Vec::new(),
                    outcome: "answer",
                    reason: None,
                },
            },
        }))
    }
}

impl Tapped {
    /// It is another request than it was.
    pub(crate) fn asked(&mut self, asked: &Requested<'_, impl Headers>) {
        self.shown.path = redact::path(path(asked.target));
        self.shown.request_headers = head(asked.headers);
    }

    pub(crate) fn answered(&mut self, headers: &impl Headers) {
        self.shown.response_headers = head(headers);
    }

    pub(crate) fn upstream(&mut self, cluster: &str) {
        self.shown.decision.upstream = Some(cluster.to_owned());
        self.shown.decision.outcome = "forward";
    }

    pub(crate) fn decided(&mut self, why: Option<String>) {
        self.shown.decision.reason = why;
    }

    pub(crate) fn attempt(&mut self, address: std::net::SocketAddr) {
        if self.shown.decision.attempts.len() < ATTEMPTS_MAX {
            self.shown.decision.attempts.push(Attempt {
                address: address.to_string(),
                began_ms: ms(self.began.elapsed()),
                ended_ms: None,
                brought: "nothing".to_owned(),
            });
        }
    }

    pub(crate) fn attempted(&mut self, nth: usize, report: Option<Report>) {
        if let Some(attempt) = self.shown.decision.attempts.get_mut(nth) {
            attempt.ended_ms = Some(ms(self.began.elapsed()));
            attempt.brought = match report {
                None => "nothing".to_owned(),
                Some(Report::Status(status)) => status.to_string(),
                Some(Report::NoConnection) => "no connection".to_owned(),
                Some(Report::Broken) => "reset".to_owned(),
                Some(Report::TimedOut) => "timeout".to_owned(),
            };
        }
    }

    /// Shows it to those who want to see how it ended.
    pub(crate) fn end(mut self, ended: &Ended<'_>) {
        let shown = &mut self.shown;
        shown.client = ended.client.to_string();
        shown.status = ended.status;
        shown.flags = ended.flags.words().collect();
        shown.duration_ms = ms(ended.took);
        shown.bytes_received = ended.bytes_received;
        shown.bytes_sent = ended.bytes_sent;
        if shown.decision.upstream.is_none() {
            shown.decision.outcome = match ended.status {
                300..400 => "redirect",
                400.. => "refuse",
                _ => "answer",
            };
        }
        for (tap, _) in &self.seen {
            let status = tap.matcher.status.as_ref();
            if status.is_none_or(|range| range.contains(&ended.status)) {
                tap.show(&self.shown);
            }
        }
    }
}

impl Tap {
    fn show(&self, shown: &Shown) {
        let less = |left: usize| left.checked_sub(1);
        let Ok(left) = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less) else {
            return;
        };
        let mut line = serde_json::to_vec(shown).unwrap_or_default();
        line.push(b'\n');
        if self.lines.try_send(line).is_err() {
            self.missed.fetch_add(1, Ordering::Relaxed);
        }
        if left == 1 {
            self.full.notify_one();
        }
    }
}

impl Held {
    /// Unless there are so many.
    fn new(tap: &Arc<Tap>) -> Option<Self> {
        if tap.left.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let held = Self(Arc::clone(tap));
        let before = tap.held.fetch_add(1, Ordering::Relaxed);
        if before < HELD_MAX {
            return Some(held);
        }
        tap.missed.fetch_add(1, Ordering::Relaxed);
        None
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Reading {
    async fn next(&mut self) -> Option<Vec<u8>> {
        if self.is_over {
            return None;
        }
        tokio::select! {
            biased;
            line = self.queue.recv() => return line,
            () = self.tap.full.notified() => {}
            () = tokio::time::sleep_until(self.tap.until.into()) => {}
        }
        // What was shown last may have come meanwhile.
        if let Ok(line) = self.queue.try_recv() {
            self.tap.full.notify_one();
            return Some(line);
        }
        self.is_over = true;
        let missed = self.tap.missed.load(Ordering::Relaxed);
        Some(format!("{{\"missed\":{missed}}}\n").into_bytes())
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let mut taps = self.taps.taps.lock().unwrap_or_else(PoisonError::into_inner);
        taps.retain(|tap| !Arc::ptr_eq(tap, &self.tap));
        self.taps.open.store(taps.len(), Ordering::Relaxed);
    }
}

impl Matcher {
    fn new(wanted: Wanted) -> Result<Self, TapError> {
        let malformed = |field, value: &str| TapError::Malformed {
            field,
            value: value.to_owned(),
        };
        let header = wanted.header.map(|given| {
            let (name, value) = match given.split_once(':') {
                Some((name, value)) => (name, Some(value.trim().to_owned())),
                None => (&*given, None),
            };
            let name = name.parse().map_err(|_| malformed("header", &given))?;
            Ok((name, value))
        });
        let status = wanted.status.map(|given| match *given.as_bytes() {
            [class @ b'1'..=b'5', b'x', b'x'] => {
                let from = u16::from(class - b'0') * 100;
                Ok(from..from + 100)
            }
            _ => match given.parse::<u16>() {
                Ok(status) if status < 1000 => Ok(status..status + 1),
                _ => Err(malformed("status", &given)),
            },
        });
        Ok(Self {
            listener: wanted.listener,
            route: wanted.route,
            path_prefix: wanted.path_prefix,
            header: header.transpose()?,
            status: status.transpose()?,
        })
    }

    fn wants(&self, listener: &str, asked: &Requested<'_, impl Headers>) -> bool {
        let is = |wanted: &Option<String>, given: &str| wanted.as_ref().is_none_or(|wanted| wanted == given);
        let prefix = self.path_prefix.as_ref();
        is(&self.listener, listener)
            && is(&self.route, asked.route)
            && prefix.is_none_or(|prefix| path(asked.target).starts_with(prefix.as_bytes()))
            && self.header.as_ref().is_none_or(|(name, value)| {
                let mut lines = asked.headers.lines(name);
                match value {
                    None => lines.next().is_some(),
                    Some(value) => lines.any(|line| line == value.as_bytes()),
                }
            })
    }
}

/// The lines of a head as they may be seen, as many as there is room for.
fn head(headers: &impl Headers) -> Vec<(String, String)> {
    let (mut shown, mut left) = (Vec::new(), HEAD_BYTES_MAX);
    headers.each(&mut |name, value| {
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        let value = redact::value(&name, value);
        if let Some(rest) = left.checked_sub(name.len() + value.len()) {
            left = rest;
            shown.push((name, value));
        }
    });
    shown
}

fn path(target: &[u8]) -> &[u8] {
    let end = target.iter().position(|byte| *byte == b'?');
    &target[..end.unwrap_or(target.len())]
}

fn ms(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}
