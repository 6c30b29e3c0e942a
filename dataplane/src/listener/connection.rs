//! A client's connection as its requests see it: whose it is, what it speaks, and how long it goes on.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::HeaderValue;

use super::HttpListener;
use super::drain::lingered;
use super::sniff::{Codec, sniff};
use crate::arrival::Ends;
use crate::channel::Channel;
use crate::h1::Buffer;
use crate::matcher::Client;
use crate::stream::Stream;
use crate::tls::{HTTP1, HTTP2};
use crate::worker::Worker;

/// A client's connection, as its requests see it.
pub(crate) struct Connection {
    pub(crate) worker: Rc<Worker>,
    pub(crate) listener: Rc<HttpListener>,
    pub(crate) ends: Ends,
    peer: HeaderValue,
    channel: Channel,
    pub(super) protocol: Codec,
    active: Cell<u32>,
    /// Requests so far.
    begun: Cell<u32>,
    opened: Instant,
    idle_since: Cell<Instant>,
}

impl Connection {
    pub(crate) fn begin(&self) {
        self.active.set(self.active.get() + 1);
        self.begun.set(self.begun.get().saturating_add(1));
    }

    pub(crate) fn end(&self, now: Instant) {
        self.active.set(self.active.get() - 1);
        self.idle_since.set(now);
    }

    /// The client's address, as it goes into `x-forwarded-for`.
    pub(crate) fn peer(&self) -> &HeaderValue {
        &self.peer
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.ends.client
    }

    /// Of what the client asks for.
    pub(crate) fn scheme(&self) -> &'static str {
        self.channel.scheme
    }

    /// Whose it is, as filters ask for it.
    pub(crate) fn client(&self) -> Client<'_> {
        Client {
            address: self.ends.client.ip(),
            channel: &self.channel,
        }
    }

    /// Whether a response should ask the client to use another connection, also if nobody else says so.
    pub(crate) fn wants_close(&self, is_last: bool) -> bool {
        self.protocol == Codec::Http1
            && (is_last || self.listener.is_draining() || self.is_used_up() || self.sheds())
    }

    /// Whether it has had as many requests as it may, or has lasted as long.
    pub(crate) fn is_used_up(&self) -> bool {
        let requests = self.listener.limits().requests;
        requests.is_some_and(|max| self.begun.get() >= max)
            || self.ends_at().is_some_and(|at| at <= Instant::now())
    }

    /// Whether memory runs short: it begins nothing more.
    pub(crate) fn sheds(&self) -> bool {
        self.worker.pressure.sheds()
    }

    /// When it has lasted as long as it may.
    pub(crate) fn ends_at(&self) -> Option<Instant> {
        let duration = self.listener.limits().duration;
        duration.map(|duration| self.opened + duration)
    }

    /// Since when there has been no request; `None` while there is one.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        (self.active.get() == 0).then(|| self.idle_since.get())
    }

    /// How long it may be idle.
    pub(crate) fn idle_timeout(&self) -> Option<Duration> {
        self.listener.live.borrow().config.idle_timeout
    }
}

/// What a connection speaks, as its requests see it; nothing if it never says.
pub(super) async fn greet(
    worker: Rc<Worker>,
    listener: Rc<HttpListener>,
    mut stream: Stream,
    mut input: Buffer,
    ends: Ends,
) -> Option<(Rc<Connection>, Stream, Buffer)> {
    let protocol = match stream.protocol() {
        Some(HTTP2) => Codec::Http2,
        Some(HTTP1) => Codec::Http1,
        _ => {
            let idle_timeout = listener.live().config.idle_timeout.unwrap_or(Duration::MAX);
            let head_timeout = listener.limits().head_timeout;
            let sniffed = tokio::select! {
                // What has come counts, however late it is looked at.
                biased;
                sniffed = sniff(&mut stream, &mut input, head_timeout) => sniffed,
                () = tokio::time::sleep(idle_timeout) => return None,
                () = lingered(&listener.drain) => return None,
            };
            sniffed.ok()?
        }
    };
    let opened = Instant::now();
    let connection = Rc::new(Connection {
        worker,
        listener,
        peer: HeaderValue::from_str(&ends.client.ip().to_string())
            .expect("invariant: an address is a header value"),
        channel: Channel::new(&mut stream, ends.to),
        ends,
        protocol,
        active: Cell::new(0),
        begun: Cell::new(0),
        opened,
        idle_since: Cell::new(opened),
    });
    Some((connection, stream, input))
}
