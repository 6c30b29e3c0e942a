//! How a host is asked to become the other end: a connection of its own, the request's head, and an answer that says so, or is
//! passed on like any other.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Response, StatusCode};
use hyper::body::{Frame, SizeHint};
use tokio::io::AsyncWriteExt;

use super::Becoming;
use crate::attempt::{Attempts, Failure, Refusal, until_answered};
use crate::body::HostBody;
use crate::config::Forward;
use crate::deadline::Deadline;
use crate::exchange::Exchange;
use crate::filter::Session;
use crate::forward::Head;
use crate::h1::{
    self, BODY_TIMEOUT, Buffer, Buffers, Decoder, Framing, HEAD_BYTES_MAX, INTERIM_MAX, Known, Lines,
    Malformed, Version,
};
use crate::io::BreakableIo;
use crate::pool::{Freshness, HostPool, Lease};
use crate::retry::RetryPolicy;
use crate::trace::Traced;
use crate::worker::WorkerCluster;

/// What a host is to be asked.
pub(crate) struct Opening {
    pub(crate) asked: Becoming,
    pub(crate) head: Head,
    /// What it has in common with those that are to go to the same host.
    pub(crate) key: Option<u64>,
    pub(crate) session: Option<Box<Session>>,
    /// Ends with the answer.
    pub(crate) deadline: Deadline,
}

/// A connection to a host that has switched, or was not asked.
pub(crate) struct Switched {
    pub(crate) io: BreakableIo,
    /// What the host has sent already.
    pub(crate) input: Buffer,
    /// In the host's letters.
    pub(crate) protocol: Option<HeaderValue>,
}

/// The body of an answer that does not switch, on a connection that serves nothing else.
pub(crate) struct Early {
    io: BreakableIo,
    input: Buffer,
    decoder: Decoder,
    ended: bool,
    length: Option<u64>,
}

struct Sending<'a> {
    opening: &'a Opening,
    cluster: &'a WorkerCluster,
    traced: Option<Rc<Traced>>,
    per_try: Option<Duration>,
    buffers: Rc<Buffers>,
}

/// Tries hosts until one has answered.
pub(crate) async fn open(
    exchange: &mut Exchange,
    cluster: &WorkerCluster,
    forward: &Forward,
    opening: &Opening,
) -> Result<(Response<HostBody>, Lease), Refusal> {
    let policy = forward.retry.as_ref().filter(|policy| policy.retries_max > 0);
    let mut sending = Sending {
        opening,
        cluster,
        traced: exchange.traced(),
        per_try: policy.and_then(|policy| policy.per_try_timeout),
        buffers: Rc::clone(&exchange.connection().worker.buffers),
    };
    until_answered(exchange, cluster, policy, &mut sending)
        .await
        .map_err(|refusal| refusal.unwrap_or_else(Refusal::broken_off))
}

impl Attempts for Sending<'_> {
    type Answer = (Response<HostBody>, Lease);

    async fn attempt(&mut self, pool: &Rc<HostPool>, _: bool) -> Result<Self::Answer, Failure> {
        let lease = pool.lease();
        let connected = Cell::new(false);
        let asking = async {
            let config = &self.cluster.live.config;
            // A new one: whatever becomes of it, it serves nothing else.
            let (io, _) = pool
                .connect_h1(config, Freshness::New)
                .await
                .map_err(|error| Failure::unconnected(&error))?;
            connected.set(true);
            let answer = match &self.opening.asked {
                Becoming::Upgrade(protocol) => {
                    ask(
                        io,
                        &self.written(protocol),
                        protocol,
                        &self.buffers,
                        self.opening.head.method == Method::HEAD,
                    )
                    .await
                }
                Becoming::Connect => Ok(switched(
                    StatusCode::OK,
                    HeaderMap::new(),
                    io,
                    Buffer::new(&self.buffers),
                    None,
                )),
            };
            answer.map_err(|detail| Failure::reset(&detail))
        };
        let try_over = async {
            poll_fn(|_| {
                if connected.get() {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            })
            .await;
            let times = [self.per_try, self.opening.deadline.idle];
            let time = times.into_iter().flatten().min();
            tokio::time::sleep(time.unwrap_or(BODY_TIMEOUT)).await;
        };
        tokio::select! {
            biased;
            answered = asking => answered.map(|answer| (answer, lease)),
            () = self.opening.deadline.expired() => Err(Failure::Late { connected: connected.get() }),
            () = try_over => Err(Failure::too_long()),
        }
    }

    fn status((answer, _): &Self::Answer) -> u16 {
        answer.status().as_u16()
    }

    fn repeats(&self, (answer, _): &Self::Answer, policy: &RetryPolicy) -> bool {
        let is_switched = matches!(answer.body(), HostBody::Switched(_));
        !is_switched && policy.repeats_answer(answer.status().as_u16(), answer.headers())
    }

    fn reset_after(&self, (answer, _): &Self::Answer, policy: &RetryPolicy) -> Option<Duration> {
        policy.reset_after(answer.headers())
    }

    fn key(&self) -> Option<u64> {
        self.opening.key
    }

    fn session(&self) -> Option<&Session> {
        self.opening.session.as_deref()
    }

    fn can_repeat(&self) -> bool {
        true
    }

    async fn expired(&self) {
        self.opening.deadline.expired().await;
    }
}

impl Sending<'_> {
    /// The head, as it is sent to the host of the present attempt.
    fn written(&self, protocol: &HeaderValue) -> Vec<u8> {
        let head = &self.opening.head;
        match &self.traced {
            None => written(head, &head.headers, protocol),
            Some(traced) => {
                let mut headers = head.headers.clone();
                traced.told().apply(&mut headers);
                written(head, &headers, protocol)
            }
        }
    }
}

/// The request's head with these lines, which asks for `protocol`.
fn written(head: &Head, headers: &HeaderMap, protocol: &HeaderValue) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    for part in [head.method.as_str(), " ", head.target.as_str(), " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    h1::push(&mut out, "host", &[head.authority.as_bytes()]);
    for (name, value) in headers {
        let ours = [
            header::HOST,
            header::CONNECTION,
            header::CONTENT_LENGTH,
            header::TE,
            header::TRANSFER_ENCODING,
            header::TRAILER,
            header::UPGRADE,
        ];
        if !ours.contains(name) {
            h1::push(&mut out, name.as_str(), &[value.as_bytes()]);
        }
    }
    h1::push(&mut out, "connection", &[b"upgrade"]);
    h1::push(&mut out, "upgrade", &[protocol.as_bytes()]);
    out.extend_from_slice(b"\r\n");
    out
}

/// Sends the head and reads the answer's.
async fn ask(
    mut io: BreakableIo,
    head: &[u8],
    protocol: &HeaderValue,
    buffers: &Rc<Buffers>,
    is_head: bool,
) -> Result<Response<HostBody>, String> {
    // A host that has answered already may take nothing more.
    let sent = async {
        io.write_all(head).await?;
        io.flush().await
    };
    let sent = sent.await.map_err(|error| error.to_string());
    let mut input = Buffer::new(buffers);
    let mut fields = h1::Fields::default();
    let (mut looked, mut interim) = (0, 0);
    loop {
        if input.is_full() {
            if input.filled().len() >= HEAD_BYTES_MAX {
                return Err("the host's head is too large".to_owned());
            }
            input.grow();
        }
        match poll_fn(|cx| input.poll_fill(&mut io, cx)).await {
            Ok(0) => {
                return Err(sent
                    .err()
                    .unwrap_or_else(|| "the host closed the connection".to_owned()));
            }
            Ok(_) => {}
            Err(error) => return Err(error.to_string()),
        }
        while h1::is_worth_a_look(input.filled(), looked) {
            let read = h1::read_response(input.filled(), &mut fields);
            let Some(line) = read.map_err(|malformed| malformed.to_string())? else {
                looked = input.filled().len();
                break;
            };
            looked = 0;
            if (102..200).contains(&line.status) || line.status == 100 {
                interim += 1;
                if interim > INTERIM_MAX {
                    return Err("the host's interim responses lead nowhere".to_owned());
                }
                input.consume(line.bytes);
                continue;
            }
            let head = fields.of(&input.filled()[..line.bytes]);
            head.check_options().map_err(|malformed| malformed.to_string())?;
            let status = StatusCode::from_u16(line.status).map_err(|error| error.to_string())?;
            let headers = lines(head);
            if status == StatusCode::SWITCHING_PROTOCOLS {
                if !switches(line.version, head, protocol) {
                    return Err("the host switches to what nobody has asked for".to_owned());
                }
                let protocol = headers.get(header::UPGRADE).cloned();
                input.consume(line.bytes);
                return Ok(switched(status, headers, io, input, protocol));
            }
            let framing = h1::of_response(is_head, line.status, head.said(line.version))
                .map_err(|malformed| malformed.to_string())?;
            input.consume(line.bytes);
            let early = Early::new(io, input, framing);
            return Ok(answer(status, headers, HostBody::Early(Box::new(early))));
        }
    }
}

/// Whether a 101 switches to what was asked for, in one way: nothing of it may be taken for a body.
fn switches(version: Version, head: h1::Head<'_>, protocol: &HeaderValue) -> bool {
    let is_it = |line: &[u8]| line.eq_ignore_ascii_case(protocol.as_bytes());
    version == Version::Http11
        && head.has_option("upgrade")
        && matches!(head.lines(Known::Upgrade), Lines::One(line) if is_it(line))
        && !head.has(Known::ContentLength)
        && !head.has(Known::TransferEncoding)
}

fn lines(head: h1::Head<'_>) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(head.fields().len());
    for field in head.fields() {
        let name = HeaderName::from_bytes(head.name(field));
        let value = HeaderValue::from_bytes(head.value(field));
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    headers
}

fn answer(status: StatusCode, headers: HeaderMap, body: HostBody) -> Response<HostBody> {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    *answer.headers_mut() = headers;
    answer
}

fn switched(
    status: StatusCode,
    headers: HeaderMap,
    io: BreakableIo,
    input: Buffer,
    protocol: Option<HeaderValue>,
) -> Response<HostBody> {
    answer(
        status,
        headers,
        HostBody::Switched(Box::new(Switched { io, input, protocol })),
    )
}

impl Early {
    fn new(io: BreakableIo, input: Buffer, framing: Framing) -> Self {
        let length = match framing {
            Framing::Empty => Some(0),
            Framing::Length(length) => Some(length),
            Framing::Chunked | Framing::UntilClose => None,
        };
        Self {
            io,
            input,
            decoder: Decoder::new(framing),
            ended: length == Some(0),
            length,
        }
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Malformed>>> {
        loop {
            if self.ended {
                return Poll::Ready(None);
            }
            if !self.input.is_empty() {
                let run = self.decoder.data(self.input.filled())?;
                let data = run.skipped..run.skipped + run.data;
                let piece = Bytes::copy_from_slice(&self.input.filled()[data.clone()]);
                self.input.consume(data.end);
                self.ended = run.ended;
                if !piece.is_empty() {
                    return Poll::Ready(Some(Ok(Frame::data(piece))));
                }
                continue;
            }
            match ready!(self.input.poll_fill(&mut self.io, cx)) {
                Ok(read) if read > 0 => {}
                Ok(_) if self.decoder.ends_by_close() => self.ended = true,
                Ok(_) | Err(_) => return Poll::Ready(Some(Err(Malformed::Truncated))),
            }
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_switches_to_what_it_was_asked_for() {
        let protocol = HeaderValue::from_static("websocket");
        for (lines, expected) in [
            ("connection: upgrade\r\nupgrade: websocket\r\n", true),
            ("Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n", true),
            ("", false),
            ("upgrade: websocket\r\n", false),
            ("connection: upgrade\r\n", false),
            ("connection: upgrade\r\nupgrade: h2c\r\n", false),
            ("connection: upgrade\r\nupgrade: websocket, h2c\r\n", false),
            (
                "connection: upgrade\r\nupgrade: websocket\r\nupgrade: websocket\r\n",
                false,
            ),
            (
                "connection: upgrade\r\nupgrade: websocket\r\ncontent-length: 0\r\n",
                false,
            ),
            (
                "connection: upgrade\r\nupgrade: websocket\r\ntransfer-encoding: chunked\r\n",
                false,
            ),
        ] {
            let text = format!("HTTP/1.1 101 Switching Protocols\r\n{lines}\r\n");
            let mut fields = h1::Fields::default();
            let read = h1::read_response(text.as_bytes(), &mut fields);
            assert!(matches!(read, Ok(Some(_))), "{lines:?}");
            let head = fields.of(text.as_bytes());
            assert_eq!(switches(Version::Http11, head, &protocol), expected, "{lines:?}");
            assert!(!switches(Version::Http10, head, &protocol), "{lines:?}");
        }
    }
}
