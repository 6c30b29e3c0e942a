//! HTTP/2 towards clients. The codec is h2's; here is what one connection may hold, and how long it may last: what h2 bounds by
//! itself is set, what it does not is watched from outside (`guard`). Each request is a task of its own.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::RecvStream;
use h2::server::{Builder, Handshake, SendResponse};
use http::header::{self, HeaderName};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::Body;

use crate::body::{ClientBody, ResponseBody};
use crate::forward;
use crate::h1::{self, BODY_TIMEOUT, Buffer, FIELDS_MAX, HEAD_BYTES_MAX, Timer};
use crate::headers;
use crate::io::RewoundIo;
use crate::limits::ClientLimits;
use crate::listener::Connection;
use crate::stream::Stream;
pub(crate) use duplex::Duplex;
use guard::{Abuse, Guard, GuardedIo};
pub(crate) use stream::{Received, Sending};

mod duplex;
mod frames;
mod guard;
mod stream;

/// Requests of one connection at once: what Envoy advises where clients are strangers. All else that a connection may hold is
/// so many times what a request may.
pub(crate) const STREAMS_MAX: u32 = 100;
/// What may come of all bodies before their hosts have taken it: the bound of a connection's memory for them.
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// What may come of one body: so little that fifteen which nobody takes leave room for the others, and enough for 5 MB/s
/// over 50 ms.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// What is kept of one answer while its client takes none of it.
const SEND_BUFFER_BYTES: usize = 64 * 1024;
/// What HTTP/1.1 takes of a head, as HTTP/2 counts it: 32 bytes more for each line (RFC 9113, section 6.5.2).
pub(crate) const HEAD_LIST_BYTES_MAX: u32 = (HEAD_BYTES_MAX + FIELDS_MAX * 32) as u32;
/// Requests that were taken back before anybody looked at them; h2 keeps them until then.
const UNSEEN_RESETS_MAX: usize = 20;
/// Mistakes with single streams in the life of a connection, such as a request too many or data after the end: a client makes
/// some before it has heard of our limits and our answers.
const MISTAKES_MAX: usize = 1024;
/// How long a client that is told to go has to answer, and how often one that has requests left is looked at again; Envoy's
/// `drain_timeout`.
pub(crate) const SHUT_DOWN_MAX: Duration = Duration::from_secs(5);

/// A connection that goes on with requests is not looked at more often, however short its time to go.
const LOOK_INTERVAL_MIN: Duration = Duration::from_secs(1);

/// What is of one connection of HTTP/1.1 (RFC 9113, section 8.2.2).
static UNKNOWN: [HeaderName; 5] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// A client's connection.
struct Server {
    state: State,
    /// Whether the client is to begin nothing more.
    leaves: bool,
}

enum State {
    Greeting(Handshake<GuardedIo, Bytes>),
    Serving(h2::server::Connection<GuardedIo, Bytes>),
}

/// How a connection stands.
#[derive(Clone, Copy, Debug)]
struct Standing {
    /// Since when a head has been coming.
    head: Option<Instant>,
    /// Since when there has been no request; `None` while there is one.
    idle: Option<Instant>,
    idle_timeout: Option<Duration>,
    /// Of a head, from its begin on.
    head_timeout: Duration,
    /// When the connection has lasted as long as it may.
    ends: Option<Instant>,
    /// What the client has, once it was told, to go.
    drain_timeout: Duration,
    drains: bool,
    /// When the client was told to go.
    told: Option<Instant>,
    /// When the last request began.
    begun: Instant,
    /// When the client last took something of an answer.
    took: Instant,
}

/// What is to be done with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Wait(Option<Instant>),
    /// Tell the client to go.
    Tell,
    /// The client has not gone.
    Close,
    /// The client has begun a head and not ended it.
    TooSlow,
}

/// Serves a client whose first bytes were those of HTTP/2.
pub(crate) async fn serve(connection: Rc<Connection>, stream: Stream, input: Buffer) {
    let guard = Rc::new(RefCell::new(Guard::new(Instant::now())));
    let io = GuardedIo::new(RewoundIo::new(input, stream), Rc::clone(&guard));
    let connects = connection.listener.live().config.connects;
    let server = Server {
        state: State::Greeting(builder(connection.listener.limits(), connects).handshake(io)),
        leaves: false,
    };
    if let Err(error) = drive(&connection, &guard, server).await {
        tracing::debug!(error = &error as &dyn std::error::Error, "connection ended");
    }
}

fn builder(limits: ClientLimits, connects: bool) -> Builder {
    let mut builder = Builder::new();
    if connects {
        builder.enable_connect_protocol();
    }
    builder
        .max_concurrent_streams(limits.streams)
        .initial_connection_window_size(limits.connection_window)
        .initial_window_size(limits.stream_window)
        .max_send_buffer_size(SEND_BUFFER_BYTES)
        .max_header_list_size(limits.head_list_bytes())
        .max_pending_accept_reset_streams(UNSEEN_RESETS_MAX)
        .max_local_error_reset_streams(Some(MISTAKES_MAX));
    builder
}

/// Answers a request on its stream, unless the client takes it back or the time of the answer is over.
async fn answer(connection: Rc<Connection>, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let (parts, stream) = request.into_parts();
    let (body, connect) = if parts.method == Method::CONNECT {
        (ClientBody::Nothing, Some(stream))
    } else {
        let received = Received::new(stream, &parts.headers);
        (ClientBody::Http2(received), None)
    };
    let response = {
        // Boxed, since a task is moved some times before it runs.
        let mut serving = Box::pin(forward::serve(connection, Request::from_parts(parts, body), None));
        poll_fn(|cx| match serving.as_mut().poll(cx) {
            Poll::Ready(response) => Poll::Ready(Some(response)),
            Poll::Pending => respond.poll_reset(cx).map(|_| None),
        })
        .await
    };
    let Some(response) = response else { return };
    let (mut parts, body) = response.into_parts();
    let body = match (body, connect) {
        (ResponseBody::Tunnel(tunnel), Some(received)) => {
            // What a 101 says, with what only HTTP/1.1 asks for.
            parts.status = StatusCode::OK;
            parts.headers.remove(header::SEC_WEBSOCKET_ACCEPT);
            fit(&mut parts.headers, None);
            if let Ok(stream) = respond.send_response(Response::from_parts(parts, ()), false) {
                tunnel.over_http2(Duplex::with_client(received, stream)).await;
            }
            return;
        }
        (body, _) => body,
    };
    fit(&mut parts.headers, body.size_hint().exact());
    let ends = body.is_end_stream();
    let Ok(stream) = respond.send_response(Response::from_parts(parts, ()), ends) else {
        return;
    };
    if ends {
        return;
    }
    let watch = body.watch();
    let mut timer = None;
    let mut sending = Sending::new(stream, body);
    poll_fn(|cx| match (sending.poll(cx), &watch) {
        (Poll::Pending, Some(watch)) => watch.poll_over(timer.get_or_insert_with(Timer::new), cx),
        (Poll::Pending, None) => Poll::Pending,
        (Poll::Ready(sent), _) => {
            if let Err(error) = sent {
                tracing::debug!(error = &error as &dyn std::error::Error, "an answer broke off");
            }
            Poll::Ready(())
        }
    })
    .await;
}

/// Takes out what HTTP/2 does not know, and adds what a head is to say.
fn fit(headers: &mut HeaderMap, length: Option<u64>) {
    headers::remove(headers, &UNKNOWN);
    let length = length.filter(|length| *length > 0 && !headers::has(headers, &header::CONTENT_LENGTH));
    if let Some(length) = length {
        headers.insert(header::CONTENT_LENGTH, length.into());
    }
    if !headers::has(headers, &header::DATE) {
        headers.insert(header::DATE, h1::date_value());
    }
}

impl Server {
    /// Ready when the connection has ended; `accept` is given what comes over it.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut accept: impl FnMut(Request<RecvStream>, SendResponse<Bytes>),
    ) -> Poll<Result<(), h2::Error>> {
        loop {
            match &mut self.state {
                State::Greeting(handshake) => {
                    let mut connection = ready!(Pin::new(handshake).poll(cx))?;
                    if self.leaves {
                        connection.graceful_shutdown();
                    }
                    self.state = State::Serving(connection);
                }
                State::Serving(connection) => match ready!(connection.poll_accept(cx)?) {
                    Some((request, respond)) => accept(request, respond),
                    None => return Poll::Ready(Ok(())),
                },
            }
        }
    }

    /// Tells the client to begin nothing more.
    fn shut_down(&mut self) {
        self.leaves = true;
        if let State::Serving(connection) = &mut self.state {
            connection.graceful_shutdown();
        }
    }
}

/// Runs a connection to its end: by the client, by idleness, because the listener drains, or because the client asks for too
/// much. A client that does not go when it is told to is left.
async fn drive(
    connection: &Rc<Connection>,
    guard: &RefCell<Guard>,
    mut server: Server,
) -> Result<(), h2::Error> {
    let mut begun = Instant::now();
    let mut timer = Timer::new();
    let mut draining = pin!(connection.listener.drained());
    let mut told = None;
    poll_fn(|cx| {
        loop {
            let served = server.poll(cx, |request, respond| {
                begun = Instant::now();
                tokio::task::spawn_local(answer(Rc::clone(connection), request, respond));
            });
            if let Poll::Ready(ended) = served {
                return Poll::Ready(ended);
            }
            let now = Instant::now();
            let limits = connection.listener.limits();
            let standing = Standing {
                head_timeout: limits.head_timeout,
                ends: connection.ends_at(),
                drain_timeout: limits.drain_timeout,
                head: guard.borrow().head_since(),
                idle: connection.idle_since(),
                idle_timeout: connection.idle_timeout(),
                // A future that is over must not be asked again.
                drains: told.is_none()
                    && (connection.is_used_up()
                        || connection.sheds()
                        || draining.as_mut().poll(cx).is_ready()),
                told,
                begun,
                took: guard.borrow().took(),
            };
            match standing.step(now) {
                Step::Wait(until) => {
                    if timer.poll(until, cx).is_pending() {
                        return Poll::Pending;
                    }
                }
                Step::Tell => {
                    told = Some(now);
                    server.shut_down();
                }
                Step::Close => return Poll::Ready(Ok(())),
                Step::TooSlow => {
                    guard.borrow_mut().condemn(Abuse::SlowHead);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    })
    .await
}

impl Standing {
    fn step(&self, now: Instant) -> Step {
        let slow = self.head.map(|since| since + self.head_timeout);
        if slow.is_some_and(|slow| slow <= now) {
            return Step::TooSlow;
        }
        let wait = |until: Option<Instant>| Step::Wait([until, slow].into_iter().flatten().min());
        let Some(told) = self.told else {
            // While there are requests nothing tells when the last one ends, so it is looked for from time to time.
            let idle = self
                .idle_timeout
                .and_then(|allowed| self.idle.unwrap_or(now).checked_add(allowed));
            return if self.drains || idle.is_some_and(|idle| idle <= now) {
                Step::Tell
            } else {
                wait([idle, self.ends].into_iter().flatten().min())
            };
        };
        // What has been said already may still be on its way to a client that is slow.
        let ended = self.idle.unwrap_or(now);
        let over = (told.max(self.took) + self.drain_timeout).min(told.max(ended) + BODY_TIMEOUT);
        if now < over {
            wait(Some(over))
        } else if self.idle.is_none() && self.begun < told + self.drain_timeout {
            wait(Some(now + self.drain_timeout.max(LOOK_INTERVAL_MIN)))
        } else {
            // A client that answers begins nothing any more.
            Step::Close
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::h1::HEAD_TIMEOUT;

    #[test]
    fn a_connection_ends_however_its_client_behaves() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let standing = Standing {
            head: None,
            idle: Some(start),
            idle_timeout: Some(Duration::from_secs(300)),
            head_timeout: HEAD_TIMEOUT,
            ends: None,
            drain_timeout: SHUT_DOWN_MAX,
            drains: false,
            told: None,
            begun: start,
            took: start,
        };
        let busy = Standing {
            idle: None,
            ..standing
        };
        let forever = Standing {
            idle_timeout: None,
            ..standing
        };
        let ended = Standing {
            idle: Some(at(400)),
            ..standing
        };
        let half = |standing: Standing, since: u64| Standing {
            head: Some(at(since)),
            ..standing
        };
        let drains = |standing: Standing| Standing {
            drains: true,
            ..standing
        };
        let told = |standing: Standing| Standing {
            told: Some(at(10)),
            ..standing
        };
        let begun = |standing: Standing, seconds: u64| Standing {
            begun: at(seconds),
            ..standing
        };
        let took = |standing: Standing, seconds: u64| Standing {
            took: at(seconds),
            ..standing
        };
        let lasting = |standing: Standing, seconds: u64| Standing {
            ends: Some(at(seconds)),
            ..standing
        };
        let drained_in = |standing: Standing, seconds: u64| Standing {
            drain_timeout: Duration::from_secs(seconds),
            ..standing
        };
        let head_in = |standing: Standing, seconds: u64| Standing {
            head_timeout: Duration::from_secs(seconds),
            ..standing
        };
        let wait = |seconds: u64| Step::Wait(Some(at(seconds)));
        for (standing, now, expected) in [
            (standing, 0, wait(300)),
            (standing, 299, wait(300)),
            (standing, 300, Step::Tell),
            (busy, 299, wait(599)),
            (busy, 900, wait(1200)),
            (forever, 900, Step::Wait(None)),
            (lasting(standing, 200), 199, wait(200)),
            (lasting(forever, 200), 199, wait(200)),
            (lasting(standing, 400), 299, wait(300)),
            (drained_in(told(standing), 2), 11, wait(12)),
            (drained_in(told(standing), 2), 12, Step::Close),
            (head_in(half(standing, 0), 7), 6, wait(7)),
            (head_in(half(standing, 0), 7), 7, Step::TooSlow),
            (half(standing, 0), 59, wait(60)),
            (half(standing, 0), 60, Step::TooSlow),
            (half(standing, 280), 290, wait(300)),
            (half(forever, 100), 159, wait(160)),
            (half(busy, 100), 160, Step::TooSlow),
            (half(told(busy), 0), 60, Step::TooSlow),
            (drains(standing), 1, Step::Tell),
            (drains(busy), 1, Step::Tell),
            (drains(forever), 1, Step::Tell),
            (told(standing), 10, wait(15)),
            (told(standing), 14, wait(15)),
            (told(standing), 15, Step::Close),
            (told(forever), 15, Step::Close),
            // What was begun in time is finished, however long it takes.
            (told(busy), 15, wait(20)),
            (begun(told(busy), 14), 900, wait(905)),
            (begun(told(busy), 15), 20, Step::Close),
            // What has been said already goes on its way as long as it is taken, but not for ever.
            (took(told(standing), 14), 15, wait(19)),
            (took(told(standing), 14), 19, Step::Close),
            (begun(took(told(busy), 18), 16), 20, wait(23)),
            (took(told(standing), 309), 309, wait(310)),
            (took(told(standing), 309), 310, Step::Close),
            (took(told(ended), 409), 410, wait(414)),
        ] {
            assert_eq!(standing.step(at(now)), expected, "{standing:?} after {now} s");
        }
    }
}
