//! What hyper and h2 let a client do without end: to take back requests that are on their way already, to send frames that ask
//! nothing, and to begin a head and not end it. It is seen from beside the codec, in the bytes that pass.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Event, Frames, HEADERS, Head, PUSH_PROMISE, RST_STREAM,
    SETTINGS, go_away,
};
use crate::io::RewoundIo;
use crate::stream::Stream;

/// Bytes of the connection's preface before its first frame (RFC 9113, section 3.4).
const PREFACE_BYTES: usize = 24;
/// Requests that a client may take back at once: all that it may have under way, twice.
const RESETS_MAX: u32 = 200;
/// And each second more, as nghttp2 has it.
const RESETS_PER_SECOND: u32 = 33;
/// Frames that a client may send at once without asking for anything, as many as Envoy would answer before they are fetched.
const IDLE_FRAMES_MAX: u32 = 1000;
/// And each second more: keep-alives are rarer by far.
const IDLE_FRAMES_PER_SECOND: u32 = 100;
/// And for each frame of an answer, as in Envoy: each may be acknowledged by windows, and be a reason to measure the round trip.
const IDLE_FRAMES_PER_ANSWER_FRAME: u32 = 10;
/// What a client is told, by what it did (RFC 9113, section 7).
const PROTOCOL_ERROR: u32 = 0x1;
const ENHANCE_YOUR_CALM: u32 = 0xb;

/// Why a client is sent away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Abuse {
    #[error("the client took back too many requests")]
    Resets,
    #[error("the client sent too many frames that ask nothing")]
    IdleFrames,
    #[error("a request's head did not come in time")]
    SlowHead,
    #[error("the first frame was none of SETTINGS")]
    NoSettings,
}

/// What a client has done so far.
pub(super) struct Guard {
    preface_left: usize,
    has_settings: bool,
    received: Frames,
    sent: Frames,
    /// A block of headers has begun and not ended.
    in_block: bool,
    head_since: Option<Instant>,
    took: Instant,
    last_stream: u32,
    opened: u64,
    reset: u64,
    resets: Budget,
    idle_frames: Budget,
    abuse: Option<Abuse>,
}

/// So much at once, and so much more each second.
#[derive(Debug)]
struct Budget {
    left: u32,
    max: u32,
    per_second: u32,
    filled: Instant,
}

/// A client's connection, and what is to be said when it is closed for the client's deeds.
pub(super) struct GuardedIo {
    inner: RewoundIo<Stream>,
    guard: Rc<RefCell<Guard>>,
}

impl Guard {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            preface_left: PREFACE_BYTES,
            has_settings: false,
            received: Frames::default(),
            sent: Frames::default(),
            in_block: false,
            // The preface and the first frame are a head too.
            head_since: Some(now),
            took: now,
            last_stream: 0,
            opened: 0,
            reset: 0,
            resets: Budget::new(RESETS_MAX, RESETS_PER_SECOND, now),
            idle_frames: Budget::new(IDLE_FRAMES_MAX, IDLE_FRAMES_PER_SECOND, now),
            abuse: None,
        }
    }

    /// Since when a head, or a frame that is none of a body, has been coming.
    pub(super) fn head_since(&self) -> Option<Instant> {
        self.head_since
    }

    /// When the client last took something of an answer.
    pub(super) fn took(&self) -> Instant {
        self.took
    }

    /// The client is to be sent away.
    pub(super) fn condemn(&mut self, abuse: Abuse) {
        self.abuse = Some(abuse);
    }

    /// To be told what the client has sent.
    fn read(&mut self, bytes: &[u8], now: Instant) -> Result<(), Abuse> {
        let preface = self.preface_left.min(bytes.len());
        self.preface_left -= preface;
        let mut bytes = &bytes[preface..];
        while let Some(event) = self.received.next(&mut bytes) {
            match event {
                Event::Begun(head) => self.count(head, now)?,
                Event::Ended(head) => {
                    if matches!(head.kind, HEADERS | PUSH_PROMISE | CONTINUATION) {
                        self.in_block = !head.has(END_HEADERS);
                    }
                    if !self.in_block {
                        self.head_since = None;
                    }
                }
            }
        }
        if self.in_block || !self.has_settings || self.received.is_within_other_than_data() {
            self.head_since.get_or_insert(now);
        } else {
            // The first bytes of a frame do not tell yet that it is of a body.
            self.head_since = None;
        }
        Ok(())
    }

    fn count(&mut self, head: Head, now: Instant) -> Result<(), Abuse> {
        if !self.has_settings && head.kind != SETTINGS {
            return Err(Abuse::NoSettings);
        }
        self.has_settings = true;
        match head.kind {
            HEADERS => {
                if head.stream > self.last_stream {
                    self.last_stream = head.stream;
                    self.opened += 1;
                }
            }
            RST_STREAM => {
                self.reset += 1;
                // Some take back every other request, since they have asked two hosts and heard from one.
                if !self.resets.take(now) && self.reset > self.opened / 2 {
                    return Err(Abuse::Resets);
                }
            }
            CONTINUATION => {}
            DATA if head.length > 0 || head.has(END_STREAM) => {}
            _ => {
                if !self.idle_frames.take(now) {
                    return Err(Abuse::IdleFrames);
                }
            }
        }
        Ok(())
    }

    /// To be told what the client was sent.
    fn wrote(&mut self, mut bytes: &[u8], now: Instant) {
        let mut took = self.sent.is_within_data();
        while let Some(event) = self.sent.next(&mut bytes) {
            if let Event::Ended(Head {
                kind: DATA | HEADERS, ..
            }) = event
            {
                took = true;
                self.idle_frames.add(IDLE_FRAMES_PER_ANSWER_FRAME);
            }
        }
        if took || self.sent.is_within_data() {
            self.took = now;
        }
    }

    /// What the client is told at the end, if it can be.
    fn farewell(&self) -> Option<[u8; 17]> {
        let code = match self.abuse? {
            Abuse::Resets | Abuse::IdleFrames | Abuse::SlowHead => ENHANCE_YOUR_CALM,
            Abuse::NoSettings => PROTOCOL_ERROR,
        };
        self.sent.is_between().then(|| go_away(self.last_stream, code))
    }
}

impl Budget {
    fn new(max: u32, per_second: u32, now: Instant) -> Self {
        Self {
            left: max,
            max,
            per_second,
            filled: now,
        }
    }

    /// Takes one, if there is one left.
    fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.filled).as_millis();
        let earned = passed * u128::from(self.per_second) / 1000;
        if earned > 0 {
            self.add(u32::try_from(earned).unwrap_or(u32::MAX));
            self.filled = now;
        }
        let taken = self.left.checked_sub(1);
        self.left = taken.unwrap_or_default();
        taken.is_some()
    }

    fn add(&mut self, earned: u32) {
        self.left = self.left.saturating_add(earned).min(self.max);
    }
}

impl GuardedIo {
    pub(super) fn new(inner: RewoundIo<Stream>, guard: Rc<RefCell<Guard>>) -> Self {
        Self { inner, guard }
    }
}

impl Drop for GuardedIo {
    fn drop(&mut self) {
        if let Some(farewell) = self.guard.borrow().farewell() {
            // Whoever takes nothing more need not be told either.
            let _ = self.inner.try_write(&farewell);
        }
    }
}

impl AsyncRead for GuardedIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        let mut guard = self.guard.borrow_mut();
        if let Err(abuse) = guard.read(&buf.filled()[before..], Instant::now()) {
            guard.condemn(abuse);
            return Poll::Ready(Err(io::Error::other(abuse)));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for GuardedIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write(cx, buf))?;
        self.guard.borrow_mut().wrote(&buf[..written], Instant::now());
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write_vectored(cx, bufs))?;
        let mut guard = self.guard.borrow_mut();
        let (mut left, now) = (written, Instant::now());
        for buf in bufs {
            let taken = left.min(buf.len());
            guard.wrote(&buf[..taken], now);
            left -= taken;
        }
        Poll::Ready(Ok(written))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const PING: u8 = 0x6;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap_or_default().to_be_bytes();
        let head = [length[1], length[2], length[3], kind, flags];
        [&head, &stream.to_be_bytes()[..], payload].concat()
    }

    /// A guard whose client has begun well.
    fn begun(now: Instant) -> Guard {
        let mut guard = Guard::new(now);
        let first = [PREFACE, &frame(SETTINGS, 0, 0, b"")].concat();
        assert_eq!(guard.read(&first, now), Ok(()));
        assert_eq!(guard.head_since(), None);
        guard
    }

    #[test]
    fn the_time_of_a_head_begins_with_its_first_byte_and_ends_with_its_last() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let whole = frame(HEADERS, END_HEADERS, 1, b"head");
        let block = [
            frame(HEADERS, 0, 1, b"he"),
            frame(CONTINUATION, 0, 1, b"a"),
            frame(CONTINUATION, END_HEADERS, 1, b"d"),
        ]
        .concat();
        for head in [whole, block] {
            for cut in 1..head.len() {
                let mut guard = begun(start);
                for (second, piece) in [(5, &head[..cut]), (9, &[]), (10, &head[cut..])] {
                    assert_eq!(guard.read(piece, at(second)), Ok(()));
                    let expected = (second < 10).then(|| at(5));
                    assert_eq!(guard.head_since(), expected, "cut at {cut}, second {second}");
                }
                // Half of the next one is not half of this one.
                let both = [&head[..], &head[..cut]].concat();
                assert_eq!(guard.read(&both, at(20)), Ok(()));
                assert_eq!(guard.head_since(), Some(at(20)), "cut at {cut}");
            }
        }
    }

    #[test]
    fn a_preface_is_a_head_and_a_body_is_none() {
        let start = Instant::now();
        let mut guard = Guard::new(start);
        for byte in PREFACE.iter().chain(&frame(SETTINGS, 0, 0, b"")) {
            assert_eq!(guard.head_since(), Some(start));
            assert_eq!(guard.read(&[*byte], start + Duration::from_secs(1)), Ok(()));
        }
        assert_eq!(guard.head_since(), None);
        let body = frame(DATA, END_STREAM, 1, b"body");
        for cut in 1..=11 {
            let mut guard = begun(start);
            assert_eq!(guard.read(&body[..cut], start), Ok(()));
            assert_eq!(guard.read(&body[cut..12], start), Ok(()));
            assert_eq!(guard.head_since(), None, "cut at {cut}");
        }
    }

    #[test]
    fn requests_may_be_taken_back_up_to_a_measure() {
        let start = Instant::now();
        // How many of so many requests could be taken back, if one of `every` is.
        let taken_back = |every: u32| {
            let mut guard = begun(start);
            for request in 0..1000 {
                let id = 2 * request + 1;
                assert_eq!(guard.read(&frame(HEADERS, END_HEADERS, id, b""), start), Ok(()));
                if request % every == 0
                    && let Err(abuse) = guard.read(&frame(RST_STREAM, 0, id, b"code"), start)
                {
                    assert_eq!(abuse, Abuse::Resets);
                    return Some(request);
                }
            }
            None
        };
        assert_eq!(taken_back(1), Some(RESETS_MAX));
        assert_eq!(taken_back(3), None, "who wants most of the answers may go on");
    }

    #[test]
    fn a_budget_is_filled_as_time_goes_by() {
        let start = Instant::now();
        let mut budget = Budget::new(5, 2, start);
        for (millis, taken) in [(0, 5), (400, 0), (500, 1), (1000, 1), (2500, 3), (1_000_000, 5)] {
            let now = start + Duration::from_millis(millis);
            let got = std::iter::repeat_with(|| budget.take(now)).take_while(|had| *had);
            assert_eq!(got.count(), taken, "after {millis} ms");
        }
    }

    #[test]
    fn frames_that_ask_nothing_are_counted() {
        let start = Instant::now();
        let ping = frame(PING, 0, 0, b"12345678");
        for idle in [
            ping.clone(),
            frame(PING, 1, 0, b"12345678"),
            frame(SETTINGS, 0, 0, b""),
            frame(0x2, 0, 1, b"prior"),
            frame(0x8, 0, 0, b"more"),
            frame(DATA, 0, 1, b""),
            frame(0xff, 0, 1, b"what"),
        ] {
            let mut guard = begun(start);
            // The first one were its settings.
            for _ in 1..IDLE_FRAMES_MAX {
                assert_eq!(guard.read(&idle, start), Ok(()), "{idle:?}");
            }
            assert_eq!(guard.read(&idle, start), Err(Abuse::IdleFrames), "{idle:?}");
        }
        for asks in [
            frame(DATA, 0, 1, b"body"),
            frame(DATA, END_STREAM, 1, b""),
            frame(HEADERS, END_HEADERS, 1, b""),
        ] {
            let mut guard = begun(start);
            assert_eq!(guard.read(&asks.repeat(2000), start), Ok(()), "{asks:?}");
        }
        let mut guard = begun(start);
        let answers = [
            frame(HEADERS, END_HEADERS, 1, b""),
            frame(DATA, 0, 1, b"answer"),
            frame(PING, 1, 0, b"12345678"),
        ];
        for _ in 0..1000 {
            answers.iter().for_each(|answer| guard.wrote(answer, start));
            assert_eq!(
                guard.read(&ping.repeat(20), start),
                Ok(()),
                "two frames of an answer"
            );
        }
    }

    #[test]
    fn a_client_is_told_between_frames_only() {
        let mut guard = begun(Instant::now());
        assert_eq!(guard.farewell(), None);
        let _ = guard.read(&frame(HEADERS, END_HEADERS, 5, b""), Instant::now());
        guard.condemn(Abuse::SlowHead);
        assert_eq!(guard.farewell(), Some(go_away(5, 11)));
        let answer = frame(DATA, 0, 5, b"answer");
        guard.wrote(&answer[..10], Instant::now());
        assert_eq!(guard.farewell(), None);
        guard.wrote(&answer[10..], Instant::now());
        assert_eq!(guard.farewell(), Some(go_away(5, 11)));
        guard.condemn(Abuse::NoSettings);
        assert_eq!(guard.farewell(), Some(go_away(5, 1)));
    }
}
