//! A request put to a host over HTTP/1.1 by those who have it as lines of a map and a body in frames: what came over HTTP/2, is
//! mirrored, or needs more than to be passed on. There is no task of its own for it, unless the host answers before it has been
//! sent everything.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use http::response::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use hyper::body::{Body, Frame, SizeHint};
use tokio::io::AsyncWrite;
use tokio::task::AbortHandle;

use super::answer::{Asked, Reading};
use super::bridge::trailers;
use super::buffer::{Buffer, Buffers};
use super::chunked::may_trail;
use super::encode;
use super::framing::{Decoder, Framing, Malformed, Version};
use super::head::Head;
use super::relay::GATHERED_BYTES_MAX;
use crate::io::BreakableIo;
use crate::upload::{RequestBody, UploadError};

/// A request as it is written: what is in `ahead`, the piece of its body behind it, and what ends the piece.
pub(crate) struct Outgoing {
    is_head: bool,
    /// Whether the connection may become another protocol's.
    may_switch: bool,
    is_idempotent: bool,
    ahead: Vec<u8>,
    written: usize,
    piece: Bytes,
    behind: &'static [u8],
    /// What is left of a body with a length; else it is in chunks.
    left: Option<u64>,
    body: RequestBody,
    ended: bool,
    untouched: bool,
}

/// An answer whose head has come.
pub(crate) struct Answered {
    pub(crate) head: Parts,
    pub(crate) body: Incoming,
}

/// What comes behind an answer's head.
pub(crate) struct Incoming {
    line: Line,
    input: Buffer,
    decoder: Decoder,
    length: Option<u64>,
    trailers: Option<HeaderMap>,
    ended: bool,
    /// Whether the host takes another request behind this one.
    keeps: bool,
}

/// A connection to a host, with what it is still to be sent.
enum Line {
    Idle(BreakableIo),
    Sending {
        sending: Rc<RefCell<Sending>>,
        _task: Task,
    },
    Gone,
}

struct Sending {
    io: BreakableIo,
    /// Until all of it was sent, or the host takes no more.
    outgoing: Option<Outgoing>,
    is_cut: bool,
    sender: Waker,
}

/// Ends with whom it is for.
struct Task(AbortHandle);

/// Why there is no answer.
pub(crate) enum Unanswered {
    /// Nothing was sent: it can be sent to somebody else as it is.
    Unsent(Box<Outgoing>, String),
    /// The connection ended without a byte of an answer.
    Unheard(Box<Outgoing>, String),
    Failed(String),
}

impl Unanswered {
    pub(crate) fn detail(self) -> String {
        match self {
            Self::Unsent(_, detail) | Self::Unheard(_, detail) | Self::Failed(detail) => detail,
        }
    }
}

/// Why a request was not sent.
enum Broken {
    Host(io::Error),
    Client(UploadError),
}

impl Outgoing {
    /// `head` says how long the body is, or that it is in chunks, if there is one.
    pub(crate) fn new(method: &Method, head: Vec<u8>, length: Option<u64>, body: RequestBody) -> Self {
        Self {
            is_head: *method == Method::HEAD,
            may_switch: false,
            is_idempotent: method.is_idempotent(),
            ahead: head,
            written: 0,
            piece: Bytes::new(),
            behind: b"",
            left: length,
            ended: body.is_end_stream(),
            body,
            untouched: true,
        }
    }

    /// Asks for another protocol.
    pub(crate) fn switching(self) -> Self {
        Self {
            may_switch: true,
            ..self
        }
    }

    /// Whether it may be sent again on our own account (RFC 9110, section 9.2.2).
    pub(crate) fn is_repeatable(&self) -> bool {
        self.is_idempotent && matches!(self.body, RequestBody::Empty)
    }

    /// As it was before any of it was sent.
    pub(crate) fn again(self) -> Self {
        Self {
            written: 0,
            untouched: true,
            ..self
        }
    }

    fn poll<W: AsyncWrite + Unpin>(&mut self, to: &mut W, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        loop {
            // The head goes with what has come of the body already.
            while self.takes_more() {
                let Poll::Ready(frame) = self.poll_frame(cx) else {
                    ready!(self.poll_write(to, cx)).map_err(Broken::Host)?;
                    // What the connection holds itself goes on while the client sends nothing.
                    ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(Broken::Host)?;
                    return Poll::Pending;
                };
                let put = frame
                    .map_err(Broken::Client)
                    .and_then(|frame| self.put(frame).map_err(Broken::Host));
                // Nobody else can be sent what is not there.
                put.inspect_err(|_| self.untouched = false)?;
            }
            ready!(self.poll_write(to, cx)).map_err(Broken::Host)?;
            if self.ended {
                return Pin::new(to).poll_flush(cx).map_err(Broken::Host);
            }
        }
    }

    fn takes_more(&self) -> bool {
        let is_written = self.piece.is_empty() && self.behind.is_empty();
        !self.ended && is_written && self.ahead.len() - self.written < GATHERED_BYTES_MAX
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, UploadError>> {
        if self.body.is_end_stream() {
            return Poll::Ready(Ok(None));
        }
        Pin::new(&mut self.body).poll_frame(cx).map(Option::transpose)
    }

    /// What is to be written next; nothing more comes after `None`.
    fn put(&mut self, frame: Option<Frame<Bytes>>) -> io::Result<()> {
        let untold = || {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "the request has another length than it says",
            )
        };
        self.ahead.drain(..std::mem::take(&mut self.written));
        let Some(frame) = frame else {
            self.ended = true;
            match self.left {
                Some(0) => {}
                Some(_) => return Err(untold()),
                None => self.ahead.extend_from_slice(b"0\r\n\r\n"),
            }
            return Ok(());
        };
        match frame.into_data() {
            Ok(piece) if piece.is_empty() => {}
            Ok(piece) => {
                match &mut self.left {
                    Some(left) => *left = left.checked_sub(piece.len() as u64).ok_or_else(untold)?,
                    None => {
                        use std::io::Write;
                        // Writing to memory cannot fail.
                        let _ = write!(self.ahead, "{:x}\r\n", piece.len());
                        self.behind = b"\r\n";
                    }
                }
                let ahead = self.ahead.len() - self.written;
                if ahead > 0 && ahead + piece.len() <= GATHERED_BYTES_MAX {
                    self.ahead.extend_from_slice(&piece);
                    self.ahead.extend_from_slice(std::mem::take(&mut self.behind));
                } else {
                    self.piece = piece;
                }
            }
            Err(frame) => {
                self.ended = true;
                match self.left {
                    Some(0) => {}
                    Some(_) => return Err(untold()),
                    None => self.end_with(frame.into_trailers().ok().as_ref()),
                }
            }
        }
        Ok(())
    }

    fn end_with(&mut self, trailers: Option<&HeaderMap>) {
        self.ahead.extend_from_slice(b"0\r\n");
        for (name, value) in trailers.into_iter().flatten() {
            if may_trail(name.as_str().as_bytes()) {
                encode::push(&mut self.ahead, name.as_str(), &[value.as_bytes()]);
            }
        }
        self.ahead.extend_from_slice(b"\r\n");
    }

    fn poll_write<W: AsyncWrite + Unpin>(
        &mut self,
        to: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let ahead = &self.ahead[self.written..];
            let to = Pin::new(&mut *to);
            let written = match (ahead, &self.piece[..], self.behind) {
                ([], [], []) => return Poll::Ready(Ok(())),
                (only, [], []) | ([], only, []) | ([], [], only) => to.poll_write(cx, only),
                parts => to.poll_write_vectored(cx, &<[&[u8]; 3]>::from(parts).map(IoSlice::new)),
            };
            let written = ready!(written)?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(written);
        }
    }

    fn advance(&mut self, written: usize) {
        self.untouched = false;
        let ahead = written.min(self.ahead.len() - self.written);
        self.written += ahead;
        let of_piece = (written - ahead).min(self.piece.len());
        self.piece.advance(of_piece);
        self.behind = &self.behind[written - ahead - of_piece..];
    }
}

/// Sends a request and reads the head of the answer, which may come before all of the request was sent.
pub(crate) async fn ask(
    mut io: BreakableIo,
    mut outgoing: Outgoing,
    buffers: &Rc<Buffers>,
) -> Result<Answered, Unanswered> {
    let asked = Asked {
        is_head: outgoing.is_head,
        may_switch: outgoing.may_switch,
    };
    let mut input = Buffer::new(buffers);
    let mut reading = Reading::default();
    let mut sent = None;
    let heard = poll_fn(|cx| {
        if sent.is_none() {
            match outgoing.poll(&mut io, cx) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => sent = Some(Ok(())),
                Poll::Ready(Err(Broken::Host(error))) if outgoing.untouched => {
                    return Poll::Ready(Err(error.to_string()));
                }
                // The host may have answered all the same.
                Poll::Ready(Err(Broken::Host(error))) => sent = Some(Err(error.to_string())),
                Poll::Ready(Err(Broken::Client(error))) => return Poll::Ready(Err(error.to_string())),
            }
        }
        loop {
            let Poll::Ready(read) = input.poll_fill(&mut io, cx) else {
                input.rest();
                return Poll::Pending;
            };
            let ended = match read {
                Ok(0) => "the host closed the connection".to_owned(),
                Ok(_) => match reading.read(&mut input, &mut buffers.fields(), asked) {
                    Ok(None) => continue,
                    Ok(Some(heard)) => return Poll::Ready(Ok(heard)),
                    Err(detail) => return Poll::Ready(Err(detail)),
                },
                Err(error) => error.to_string(),
            };
            let broken = sent.take().and_then(Result::err);
            return Poll::Ready(Err(broken.unwrap_or(ended)));
        }
    })
    .await;
    let (line, framing) = match heard {
        Ok(heard) => heard,
        Err(detail) if outgoing.untouched => return Err(Unanswered::Unsent(Box::new(outgoing), detail)),
        Err(detail) if reading.is_silent(&input) && !io.is_broken() => {
            return Err(Unanswered::Unheard(Box::new(outgoing), detail));
        }
        Err(detail) => return Err(Unanswered::Failed(detail)),
    };
    let mut head = Response::new(()).into_parts().0;
    head.status = StatusCode::from_u16(line.status).map_err(|error| Unanswered::Failed(error.to_string()))?;
    if line.version == Version::Http10 {
        head.version = http::Version::HTTP_10;
    }
    let keeps = {
        let fields = buffers.fields();
        let said = fields.of(&input.filled()[..line.bytes]);
        head.headers = lines(said);
        line.version == Version::Http11 && framing != Framing::UntilClose && !said.has_option("close")
    };
    input.consume(line.bytes);
    let length = match framing {
        Framing::Empty => Some(0),
        Framing::Length(length) => Some(length),
        Framing::Chunked | Framing::UntilClose => None,
    };
    Ok(Answered {
        head,
        body: Incoming {
            keeps: keeps && !matches!(sent, Some(Err(_))),
            line: match sent {
                None => Line::sending(io, outgoing),
                Some(_) => Line::Idle(io),
            },
            input,
            decoder: Decoder::new(framing),
            ended: length == Some(0),
            length,
            trailers: None,
        },
    })
}

/// The lines of a head as a map. They share one copy of its bytes.
fn lines(head: Head<'_>) -> HeaderMap {
    let bytes = Bytes::copy_from_slice(head.bytes);
    let mut headers = HeaderMap::with_capacity(head.fields().len());
    for field in head.fields() {
        let name = HeaderName::from_bytes(head.name(field));
        let value = HeaderValue::from_maybe_shared(bytes.slice(head.value_range(field)));
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    headers
}

impl Line {
    /// The host has answered before it was sent everything: the rest is sent beside the answer, however slowly that is read.
    fn sending(io: BreakableIo, outgoing: Outgoing) -> Self {
        let sending = Rc::new(RefCell::new(Sending {
            io,
            outgoing: Some(outgoing),
            is_cut: false,
            sender: Waker::noop().clone(),
        }));
        let rest = Rc::clone(&sending);
        let task = tokio::task::spawn_local(async move {
            poll_fn(|cx| rest.borrow_mut().poll(cx)).await;
        });
        Self::Sending {
            sending,
            _task: Task(task.abort_handle()),
        }
    }

    fn poll_fill(&mut self, input: &mut Buffer, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match self {
            Self::Idle(io) => input.poll_fill(io, cx),
            Self::Sending { sending, .. } => {
                let mut sending = sending.borrow_mut();
                let filled = input.poll_fill(&mut sending.io, cx);
                // To read from TLS may be to write, and then whoever reads is woken for both.
                sending.sender.wake_by_ref();
                filled
            }
            Self::Gone => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

impl Sending {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(outgoing) = &mut self.outgoing else {
            return Poll::Ready(());
        };
        self.sender.clone_from(cx.waker());
        let sent = ready!(outgoing.poll(&mut self.io, cx));
        self.is_cut = sent.is_err();
        if let Err(Broken::Client(_)) = sent {
            // The host would wait for the rest; one that takes no more may go on with its answer.
            self.io.breaker().break_now();
        }
        self.outgoing = None;
        Poll::Ready(())
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Incoming {
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Malformed>>> {
        loop {
            if self.ended {
                return Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
            }
            if self.input.is_empty() {
                let Poll::Ready(read) = self.line.poll_fill(&mut self.input, cx) else {
                    self.input.rest();
                    return Poll::Pending;
                };
                match read {
                    Ok(read) if read > 0 => {}
                    Ok(_) if self.decoder.ends_by_close() => self.ended = true,
                    Ok(_) | Err(_) => return Poll::Ready(Some(Err(Malformed::Truncated))),
                }
                continue;
            }
            let run = self.decoder.data(self.input.filled())?;
            let data = run.skipped..run.skipped + run.data;
            let piece = Bytes::copy_from_slice(&self.input.filled()[data.clone()]);
            self.input.consume(data.end);
            if run.ended {
                self.ended = true;
                self.trailers = trailers(&self.decoder.take_trailers());
            }
            if !piece.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended && self.trailers.is_none()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }

    /// The connection and what the host has sent on it, if nothing is still to be sent there.
    pub(crate) fn into_connection(self) -> Option<(BreakableIo, Buffer)> {
        match self.line {
            Line::Idle(io) => Some((io, self.input)),
            Line::Sending { .. } | Line::Gone => None,
        }
    }

    /// The connection, if both messages have ended and the host takes another request behind them.
    pub(crate) fn take_kept(&mut self) -> Option<BreakableIo> {
        if !self.ended || !self.keeps || !self.input.is_empty() {
            return None;
        }
        match std::mem::replace(&mut self.line, Line::Gone) {
            Line::Idle(io) => Some(io),
            // What is still being sent has another owner.
            Line::Sending { sending, .. } => Rc::into_inner(sending)
                .map(RefCell::into_inner)
                .filter(|sending| sending.outgoing.is_none() && !sending.is_cut)
                .map(|sending| sending.io),
            Line::Gone => None,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::h1::relay::tests::Sink;

    /// What a host gets that takes so many bytes at a time.
    async fn sent(length: Option<u64>, body: RequestBody, step: usize) -> Result<Vec<u8>, String> {
        let (mut host, mut got) = tokio::io::duplex(step);
        let mut outgoing = Outgoing::new(&Method::PUT, b"HEAD ".to_vec(), length, body);
        let sending = async {
            let sent = poll_fn(|cx| outgoing.poll(&mut host, cx)).await;
            drop(host);
            sent.map_err(|broken| match broken {
                Broken::Host(error) => error.to_string(),
                Broken::Client(error) => error.to_string(),
            })
        };
        let mut bytes = Vec::new();
        let (sent, read) = tokio::join!(sending, got.read_to_end(&mut bytes));
        read.unwrap();
        sent.map(|()| bytes)
    }

    fn body(pieces: &[&'static str], trailers: &[(&'static str, &'static str)]) -> RequestBody {
        let lines = trailers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        RequestBody::Kept {
            chunks: pieces
                .iter()
                .map(|piece| Bytes::from_static(piece.as_bytes()))
                .collect(),
            trailers: (!trailers.is_empty()).then(|| lines.collect()),
        }
    }

    #[tokio::test]
    async fn a_body_is_framed_as_the_head_says() {
        let checksum = &[("x-sum", "1"), ("content-length", "7")][..];
        let untold = Err("the request has another length than it says".to_owned());
        for (length, pieces, trailers, expected) in [
            (None, &[][..], &[][..], Ok("HEAD ")),
            (Some(0), &[], &[], Ok("HEAD ")),
            (Some(5), &["123", "45"], &[], Ok("HEAD 12345")),
            (Some(5), &["123", "", "45"], checksum, Ok("HEAD 12345")),
            (
                None,
                &["123", "45"],
                &[],
                Ok("HEAD 3\r\n123\r\n2\r\n45\r\n0\r\n\r\n"),
            ),
            (
                None,
                &["1234567890abcdefg"],
                &[],
                Ok("HEAD 11\r\n1234567890abcdefg\r\n0\r\n\r\n"),
            ),
            (None, &["1"], checksum, Ok("HEAD 1\r\n1\r\n0\r\nx-sum: 1\r\n\r\n")),
            (None, &[], checksum, Ok("HEAD 0\r\nx-sum: 1\r\n\r\n")),
            (Some(4), &["12345"], &[], untold.clone()),
            (Some(6), &["12345"], &[], untold.clone()),
            (Some(6), &["12345"], checksum, untold.clone()),
        ] {
            for step in [1, 2, 3, 64] {
                let got = sent(length, body(pieces, trailers), step).await;
                let got = got.map(|bytes| String::from_utf8(bytes).unwrap());
                let expected = expected.clone().map(str::to_owned);
                assert_eq!(got, expected, "{length:?} {pieces:?} {trailers:?} by {step}");
            }
        }
    }

    #[tokio::test]
    async fn a_long_chunk_ends_before_the_next_one_begins() {
        const LONG: &str = match str::from_utf8(&[b'b'; 4097]) {
            Ok(long) => long,
            Err(_) => "",
        };
        let expected = format!("HEAD 1001\r\n{LONG}\r\n1001\r\n{LONG}\r\n0\r\n\r\n");
        for step in [1, 2, 3, 4105, 4106, 4107] {
            let got = sent(None, body(&[LONG, LONG], &[]), step).await;
            assert!(got == Ok(expected.clone().into_bytes()), "by {step}");
        }
    }

    #[tokio::test]
    async fn a_short_body_is_written_with_its_head() {
        const LONG: &str = match str::from_utf8(&[b'b'; GATHERED_BYTES_MAX]) {
            Ok(long) => long,
            Err(_) => "",
        };
        for (length, pieces, expected) in [
            (Some(5), &["123", "45"][..], vec![1]),
            (None, &["123", "45"], vec![1]),
            (Some(4096), &[LONG], vec![2]),
            (None, &["1", LONG], vec![3, 1]),
        ] {
            let mut outgoing = Outgoing::new(&Method::PUT, b"HEAD ".to_vec(), length, body(pieces, &[]));
            let mut to = Sink::default();
            let sent = poll_fn(|cx| outgoing.poll(&mut to, cx)).await;
            assert!(sent.is_ok(), "{length:?}");
            assert_eq!(to.0, expected, "{length:?}");
        }
    }

    #[test]
    fn only_what_may_be_repeated_is() {
        for (method, body, expected) in [
            (Method::GET, RequestBody::Empty, true),
            (Method::DELETE, RequestBody::Empty, true),
            (Method::POST, RequestBody::Empty, false),
            (Method::PUT, body(&["1"], &[]), false),
        ] {
            let outgoing = Outgoing::new(&method, Vec::new(), None, body);
            assert_eq!(outgoing.is_repeatable(), expected, "{method}");
        }
    }
}
