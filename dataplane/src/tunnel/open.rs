//! How a host is asked to become the other end: a connection of its own, the request's head, and an answer that says so, or is
//! passed on like any other.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use http::header::{self, HeaderValue};
use http::response::Parts;
use http::{HeaderMap, Response, StatusCode, Version};

use super::{Becoming, HostEnd, extended};
use crate::attempt::{Attempts, Failure, Refusal, until_answered};
use crate::balance::Labels;
use crate::body::HostBody;
use crate::config::{Forward, Protocol, Target};
use crate::deadline::Deadline;
use crate::exchange::Exchange;
use crate::filter::Session;
use crate::forward::{Head, options};
use crate::h1::{self, Answered, Buffer, Buffers, Outgoing, Unanswered};
use crate::io::BreakableIo;
use crate::pool::{Freshness, HostPool, Lease};
use crate::retry::RetryPolicy;
use crate::trace::Traced;
use crate::upload::RequestBody;
use crate::upstream::once_connected;
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
    pub(super) end: HostEnd,
    /// What the host has sent already.
    pub(crate) input: Buffer,
    /// In the host's letters.
    pub(crate) protocol: Option<HeaderValue>,
}

struct Sending<'a> {
    opening: &'a Opening,
    cluster: &'a WorkerCluster,
    target: &'a Target,
    traced: Option<Rc<Traced>>,
    per_try: Option<Duration>,
    buffers: Rc<Buffers>,
}

/// Tries hosts until one has answered.
pub(crate) async fn open(
    exchange: &mut Exchange,
    cluster: &WorkerCluster,
    (forward, target): (&Forward, &Target),
    opening: &Opening,
) -> Result<(Response<HostBody>, Lease), Refusal> {
    if !exchange.connection().worker.pressure.fits(1) {
        return Err(Refusal::overloaded());
    }
    let policy = forward.retry.as_ref();
    let mut sending = Sending {
        opening,
        cluster,
        target,
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
            // A new one: it serves others only if it does not switch.
            let (io, _) = pool
                .connect_h1(config, Freshness::New)
                .await
                .map_err(|error| Failure::unconnected(&error))?;
            connected.set(true);
            match &self.opening.asked {
                Becoming::Upgrade(protocol) if config.protocol == Protocol::Http2 => {
                    let request = extended::request(&self.opening.head, self.headers(), protocol);
                    extended::ask(io, request, protocol, &self.buffers).await
                }
                Becoming::Upgrade(protocol) => {
                    let head = self.written(protocol);
                    let method = &self.opening.head.method;
                    let outgoing = Outgoing::new(method, head, Some(0), RequestBody::Empty).switching();
                    let answer = ask(io, outgoing, protocol, &self.buffers).await;
                    answer.map_err(|detail| Failure::reset(&detail))
                }
                Becoming::Connect => {
                    let host = Switched {
                        end: HostEnd::Connection(io),
                        input: Buffer::new(&self.buffers),
                        protocol: None,
                    };
                    Ok(Response::new(HostBody::Switched(Box::new(host))))
                }
            }
        };
        let try_over = async {
            let Some(time) = try_time(self.per_try, self.opening.deadline.idle) else {
                return std::future::pending().await;
            };
            once_connected(&connected).await;
            tokio::time::sleep(time).await;
        };
        tokio::select! {
            biased;
            answered = asking => answered.map(|answer| (answer, lease)),
            over = self.opening.deadline.expired() => Err(over.failure(connected.get())),
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

    fn labels(&self) -> Option<&Labels> {
        self.target.labels.as_deref()
    }

    fn session(&self) -> Option<&Session> {
        self.opening.session.as_deref()
    }

    fn can_repeat(&self) -> bool {
        true
    }

    /// Who waits here is dropped when the client leaves.
    async fn given_up(&mut self) -> Failure {
        self.opening.deadline.expired().await.failure(false)
    }
}

impl Sending<'_> {
    /// Of the head, as it is sent to the host of the present attempt.
    fn headers(&self) -> HeaderMap {
        let mut headers = self.opening.head.headers.clone();
        if let Some(traced) = &self.traced {
            traced.told().apply(&mut headers);
        }
        headers
    }

    /// The head, as it is sent to the host of the present attempt.
    fn written(&self, protocol: &HeaderValue) -> Vec<u8> {
        written(&self.opening.head, &self.headers(), protocol)
    }
}

/// How long a host may take to answer. Where its route says nothing, it has the time of the stream, which is not its own.
fn try_time(per_try: Option<Duration>, idle: Option<Duration>) -> Option<Duration> {
    [per_try, idle].into_iter().flatten().min()
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
    io: BreakableIo,
    outgoing: Outgoing,
    protocol: &HeaderValue,
    buffers: &Rc<Buffers>,
) -> Result<Response<HostBody>, String> {
    let Answered { head, body } = h1::ask(io, outgoing, buffers).await.map_err(Unanswered::detail)?;
    if head.status != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Response::from_parts(head, HostBody::Http1(Box::new(body))));
    }
    let connection = body.into_connection().filter(|_| switches(&head, protocol));
    let Some((io, input)) = connection else {
        return Err("the host switches to what nobody has asked for".to_owned());
    };
    let host = Switched {
        end: HostEnd::Connection(io),
        input,
        protocol: head.headers.get(header::UPGRADE).cloned(),
    };
    Ok(Response::from_parts(head, HostBody::Switched(Box::new(host))))
}

/// Whether a 101 switches to what was asked for, in one way: nothing of it may be taken for a body.
fn switches(head: &Parts, protocol: &HeaderValue) -> bool {
    let is_it = |line: &HeaderValue| line.as_bytes().eq_ignore_ascii_case(protocol.as_bytes());
    let mut lines = head.headers.get_all(header::UPGRADE).iter();
    let mut options = options(&head.headers, &header::CONNECTION);
    head.version == Version::HTTP_11
        && options.any(|option| option.eq_ignore_ascii_case(b"upgrade"))
        && lines.next().is_some_and(is_it)
        && lines.next().is_none()
        && !head.headers.contains_key(header::CONTENT_LENGTH)
        && !head.headers.contains_key(header::TRANSFER_ENCODING)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http::HeaderName;

    use super::*;

    #[test]
    fn a_host_has_the_time_that_its_route_gives_it_and_no_other() {
        let seconds = |seconds: Option<u64>| seconds.map(Duration::from_secs);
        for (per_try, idle, expected) in [
            (None, None, None),
            (Some(400), None, Some(400)),
            (None, Some(400), Some(400)),
            (Some(2), Some(1), Some(1)),
            (Some(1), Some(2), Some(1)),
        ] {
            let got = try_time(seconds(per_try), seconds(idle));
            assert_eq!(got, seconds(expected), "{per_try:?} {idle:?}");
        }
    }

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
            let mut head = Response::new(()).into_parts().0;
            for (name, value) in lines.split("\r\n").filter_map(|line| line.split_once(": ")) {
                let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
                head.headers.append(name, HeaderValue::from_static(value));
            }
            assert_eq!(switches(&head, &protocol), expected, "{lines:?}");
            head.version = Version::HTTP_10;
            assert!(!switches(&head, &protocol), "{lines:?}");
        }
    }
}
