//! A worker's connections to one host. HTTP/1.1 connections are used by one request at a time and wait here in
//! between, the most recently used on top; an HTTP/2 connection carries as many as its host takes, and there is another one when
//! there are more. Nothing is shared between workers.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{LocalBoxFuture, Shared};
use h2::client::{Builder, SendRequest};
use http::{Request, Response};
use hyper::body::Body;
use tokio::net::TcpStream;

use crate::body::HostBody;
use crate::breaker::{Limits, Pending, Share};
use crate::config::Cluster;
use crate::http2::{HEAD_LIST_BYTES_MAX, Received, Sending};
use crate::io::{BreakableIo, Breaker};
use crate::outlier::Report;
use crate::overload;
use crate::proxy_protocol;
use crate::snapshot::Host;
use crate::stream::Stream;
use crate::upload::RequestBody;

mod captured;
mod multiplexed;
mod own;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
mod turns;

use captured::Captured;
pub(crate) use multiplexed::Place;
use multiplexed::{Carrier, Load, Multiplexed, carry};
pub(crate) use own::OwnPools;
use own::{Clients, Owner};
pub(crate) use turns::Connected;
use turns::Turns;

/// A connection that was not used for so long is closed; less than the keep-alive of common servers (60 s and more), so
/// that it is we who close, and rarely race with them.
const IDLE_MAX: Duration = Duration::from_secs(50);

/// What a host of HTTP/2 may send of one answer before its client has taken it.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// And of all answers: so much that those whose clients take nothing leave room for the others.
const CONNECTION_WINDOW_BYTES: u32 = 32 * 1024 * 1024;
/// What is kept of one request's body while its host takes none of it.
const SEND_BUFFER_BYTES: usize = 64 * 1024;

/// One host as one worker sees it.
pub(crate) struct HostPool {
    pub(crate) host: Arc<Host>,
    turns: Rc<Turns>,
    active: Cell<u32>,
    idle_h1: RefCell<Vec<(BreakableIo, Instant)>>,
    multiplexed: RefCell<Multiplexed>,
    breakers: RefCell<Vec<Weak<Breaker>>>,
    /// None for the pool that all share.
    owner: Option<Box<Owner>>,
    clients: Clients,
    captured: Captured,
}

/// A right to one request on a host; it counts as active, on the host and on its cluster, until dropped.
pub(crate) struct Lease {
    pool: Rc<HostPool>,
    /// Where it counts as well.
    shared: Option<Rc<HostPool>>,
    place: Option<Place>,
}

/// What a request of HTTP/2 is sent on.
pub(crate) struct Sender {
    connection: SendRequest<Bytes>,
    place: Place,
}

/// Where a sender came from: only a reused one may turn out to be closed already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freshness {
    New,
    Reused,
}

/// Why there is no connection; the cause is shared by all who waited for it.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("as many requests wait for a connection as may")]
    Overflow,
    #[error("connection failure: {0}")]
    Connect(Arc<std::io::Error>),
    #[error("connection timeout")]
    Timeout,
    #[error("handshake failure: {0}")]
    Handshake(Arc<h2::Error>),
}

impl ConnectError {
    /// Whether the host has no part in it.
    pub(crate) fn is_own(&self) -> bool {
        match self {
            Self::Overflow => true,
            Self::Connect(error) => overload::is_own_want(error),
            Self::Timeout | Self::Handshake(_) => false,
        }
    }
}

type Connecting = Shared<LocalBoxFuture<'static, Result<Carrier, ConnectError>>>;

/// Why a request got no response.
pub(crate) struct SendFailure {
    pub(crate) error: h2::Error,
    /// The request, when nothing of it has left this process.
    pub(crate) unsent: Option<Request<RequestBody>>,
}

impl HostPool {
    pub(crate) fn new(host: Arc<Host>, share: Share) -> Rc<Self> {
        Rc::new(Self::with(host, share, None))
    }

    fn with(host: Arc<Host>, share: Share, owner: Option<Box<Owner>>) -> Self {
        Self {
            host,
            turns: Turns::new(share),
            active: Cell::new(0),
            idle_h1: RefCell::default(),
            multiplexed: RefCell::default(),
            breakers: RefCell::default(),
            owner,
            clients: Clients::default(),
            captured: Captured::default(),
        }
    }

    /// Requests in flight, of this worker.
    pub(crate) fn active(&self) -> u32 {
        self.active.get()
    }

    /// Remembers what an attempt brought, where that may make the host an outlier.
    pub(crate) fn report(&self, report: Report) {
        if let Some(record) = &self.host.record {
            record.report(self.turns.share.worker(), report);
        }
    }

    pub(crate) fn lease(self: &Rc<Self>) -> Lease {
        self.active.set(self.active.get() + 1);
        let shared = self.shared();
        if let Some(shared) = &shared {
            shared.active.set(shared.active.get() + 1);
        }
        self.turns.share.begin();
        Lease {
            shared,
            pool: Rc::clone(self),
            place: None,
        }
    }

    /// Breaks every connection: the host is dead.
    pub(crate) fn break_connections(&self) {
        self.clients.each(Self::break_connections);
        self.close_idle();
        let breakers = self.breakers.take();
        for breaker in breakers.iter().filter_map(Weak::upgrade) {
            breaker.break_now();
        }
    }

    /// Closes what nobody uses, and lets nobody begin anything on what is used.
    fn close_idle(&self) {
        self.idle_h1.borrow_mut().clear();
        self.multiplexed.borrow_mut().leave();
    }

    /// Closes what was idle for long, or was closed by the host.
    pub(crate) fn sweep(&self, now: Instant) {
        self.clients.each(|own| own.sweep(now));
        self.captured.sweep(self.host.original, now);
        self.idle_h1
            .borrow_mut()
            .retain(|(io, since)| now.saturating_duration_since(*since) <= IDLE_MAX && io.is_quiet());
        self.multiplexed.borrow_mut().sweep();
        self.breakers
            .borrow_mut()
            .retain(|breaker| breaker.strong_count() > 0);
        // Other hosts may have left room that nobody here has heard of.
        self.turns.wake();
    }

    /// A waiting connection of HTTP/1.1, unless somebody waits for it.
    pub(crate) fn idle_h1(&self) -> Option<BreakableIo> {
        if self.turns.is_queue() {
            return None;
        }
        self.take_h1()
    }

    fn take_h1(&self) -> Option<BreakableIo> {
        loop {
            let (io, _) = self.idle_h1.borrow_mut().pop()?;
            if io.is_quiet() {
                return Some(io);
            }
        }
    }

    /// A connection of HTTP/1.1, as soon as there is one; a new one, if that is what is `wanted`.
    pub(crate) async fn connect_h1(
        &self,
        config: &Cluster,
        wanted: Freshness,
    ) -> Result<(BreakableIo, Freshness), ConnectError> {
        let mut pending = None;
        let connected = loop {
            if pending.is_some()
                && wanted == Freshness::Reused
                && let Some(io) = self.take_h1()
            {
                return Ok((io, Freshness::Reused));
            }
            if let Some(connected) = self.turn(&config.limits, &mut pending).await? {
                break connected;
            }
        };
        let stream = bounded(config.connect_timeout, self.connect()).await?;
        Ok((self.breakable(stream, connected), Freshness::New))
    }

    /// The right to open a connection, in place of one of the other kind if there may be no more; or nothing, once one may have
    /// become free. Who asks is `pending` from now on.
    async fn turn(
        &self,
        limits: &Limits,
        pending: &mut Option<Pending>,
    ) -> Result<Option<Connected>, ConnectError> {
        if pending.is_none() {
            *pending = Some(self.turns.pend(limits).ok_or(ConnectError::Overflow)?);
            if self.turns.is_queue() {
                self.turns.queue(limits).await;
                return Ok(None);
            }
        }
        if let Some(connected) = self.turns.open(limits) {
            return Ok(Some(connected));
        }
        let is_closed = self.take_h1().is_some() || self.multiplexed.borrow_mut().close_idle();
        if is_closed {
            return Ok(Some(self.turns.replace()));
        }
        // Those that their host had closed are gone by now.
        let connected = self.turns.open(limits);
        if connected.is_none() {
            self.turns.wait().await;
        }
        Ok(connected)
    }

    /// Keeps a connection whose last exchange is over in both directions.
    pub(crate) fn keep_h1(&self, io: BreakableIo, now: Instant) {
        if self.is_orphan() {
            return;
        }
        self.idle_h1.borrow_mut().push((io, now));
        self.turns.wake();
    }

    /// A place for a request on a connection of HTTP/2: one that is there, or a new one.
    pub(crate) async fn sender(
        self: &Rc<Self>,
        config: &Cluster,
    ) -> Result<(Sender, Freshness), ConnectError> {
        let mut freshness = Freshness::Reused;
        let mut pending = None;
        loop {
            if pending.is_some() || !self.turns.is_queue() {
                let place = self.multiplexed.borrow_mut().sender();
                if let Some(sender) = place {
                    // Who was woken goes first, and may leave room for the next.
                    if pending.is_some() && self.multiplexed.borrow_mut().has_room() {
                        self.turns.wake();
                    }
                    return Ok((sender, freshness));
                }
            }
            let opening = match self.opening(&mut pending, config)? {
                Some(opening) => opening,
                None => match self.turn(&config.limits, &mut pending).await? {
                    Some(connected) => self.open_shared(connected, config.connect_timeout),
                    None => continue,
                },
            };
            let opened = opening.clone().await;
            freshness = Freshness::New;
            self.opened(&opening, &opened);
            if let Some(place) = self.multiplexed.borrow().first_place(&opened?) {
                return Ok((place, freshness));
            }
        }
    }

    /// The first who learns of it puts a new connection where all find it.
    fn opened(&self, opening: &Connecting, opened: &Result<Carrier, ConnectError>) {
        let mut multiplexed = self.multiplexed.borrow_mut();
        let ended = multiplexed.opening.take_if(|held| held.ptr_eq(opening));
        if let (Some(_), Ok(carrier)) = (ended, opened) {
            multiplexed.open.push(carrier.clone());
            self.turns.wake_all();
        }
    }

    /// What others who are pending wait for.
    fn opening(
        &self,
        pending: &mut Option<Pending>,
        config: &Cluster,
    ) -> Result<Option<Connecting>, ConnectError> {
        let opening = self.multiplexed.borrow().opening.clone();
        if opening.is_some() && pending.is_none() {
            *pending = Some(self.turns.pend(&config.limits).ok_or(ConnectError::Overflow)?);
        }
        Ok(opening)
    }

    fn open_shared(self: &Rc<Self>, connected: Connected, connect_timeout: Duration) -> Connecting {
        let open = bounded(connect_timeout, Rc::clone(self).open_http2(connected));
        let opening = open.boxed_local().shared();
        self.multiplexed.borrow_mut().opening = Some(opening.clone());
        // It ends in its time even if all who wait for it leave.
        let (pool, to_end) = (Rc::clone(self), opening.clone());
        tokio::task::spawn_local(async move {
            let opened = to_end.clone().await;
            pool.opened(&to_end, &opened);
        });
        opening
    }

    async fn open_http2(self: Rc<Self>, connected: Connected) -> Result<Carrier, ConnectError> {
        let io = self.breakable(self.connect().await?, connected);
        let max = Rc::clone(&self.multiplexed.borrow().streams_max);
        let (sender, connection) = Builder::new()
            .initial_max_send_streams(max.get())
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_send_buffer_size(SEND_BUFFER_BYTES)
            .max_header_list_size(HEAD_LIST_BYTES_MAX)
            .enable_push(false)
            .handshake(io)
            .await
            .map_err(|error| ConnectError::Handshake(Arc::new(error)))?;
        let load = Load::new(&self.turns, max);
        tokio::task::spawn_local(carry(connection, Rc::clone(&load)));
        Ok(Carrier::new(sender, load))
    }

    /// With whose it is, if the host is told, and the handshake of TLS, if its cluster has one.
    async fn connect(&self) -> Result<Stream, ConnectError> {
        let connect = |error| ConnectError::Connect(Arc::new(error));
        let mut stream = TcpStream::connect(self.host.address).await.map_err(connect)?;
        stream.set_nodelay(true).map_err(connect)?;
        if let Some(version) = self.host.greeting {
            let owner = self.owner.as_ref().map(|owner| owner.addresses);
            proxy_protocol::tell(&mut stream, version, owner)
                .await
                .map_err(connect)?;
        }
        match &self.host.tls {
            None => Ok(Stream::Plain(stream)),
            Some(tls) => Box::pin(Stream::ask_tls(tls, stream)).await.map_err(connect),
        }
    }

    fn breakable(&self, stream: Stream, connected: Connected) -> BreakableIo {
        let (io, breaker) = BreakableIo::new(stream, connected);
        self.breakers.borrow_mut().push(Rc::downgrade(&breaker));
        io
    }
}

impl Drop for HostPool {
    fn drop(&mut self) {
        self.clients.each(Self::close_idle);
    }
}

impl Lease {
    pub(crate) fn pool(&self) -> &Rc<HostPool> {
        &self.pool
    }

    /// Keeps its place on the connection for as long as the response comes over it.
    pub(crate) fn hold(&mut self, sender: Sender) {
        sender.place.answered();
        self.place = Some(sender.place);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.pool.active.set(self.pool.active.get() - 1);
        if let Some(shared) = &self.shared {
            shared.active.set(shared.active.get() - 1);
        }
        self.pool.turns.share.end();
    }
}

impl Sender {
    /// What is left to be sent when the answer comes is sent beside it.
    pub(crate) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<HostBody>, SendFailure> {
        if let Err(error) = poll_fn(|cx| self.connection.poll_ready(cx)).await {
            let unsent = Some(request);
            return Err(SendFailure { error, unsent });
        }
        let failed = |error| SendFailure { error, unsent: None };
        let (parts, body) = request.into_parts();
        let ends = body.is_end_stream();
        let sent = self.connection.send_request(Request::from_parts(parts, ()), ends);
        let (mut answer, stream) = sent.map_err(failed)?;
        let mut sending = (!ends).then(|| Sending::new(stream, body));
        let answer = poll_fn(|cx| {
            // If it breaks off, the answer says so as well.
            sending.take_if(|sending| sending.poll(cx).is_ready());
            Pin::new(&mut answer).poll(cx)
        });
        let (parts, received) = answer.await.map_err(failed)?.into_parts();
        let received = Received::new(received, &parts.headers).with(sending.map(Sending::beside));
        Ok(Response::from_parts(parts, HostBody::Http2(received)))
    }
}

async fn bounded<T>(
    timeout: Duration,
    connecting: impl Future<Output = Result<T, ConnectError>>,
) -> Result<T, ConnectError> {
    tokio::time::timeout(timeout, connecting)
        .await
        .unwrap_or(Err(ConnectError::Timeout))
}
