//! A worker's side of a listener: its socket, its connections, and how both end. HTTP/1.1 and HTTP/2 with prior knowledge
//! are told apart by the connection's first bytes.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdTcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use http::HeaderValue;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::h1::{self, Buffer, HEAD_TIMEOUT};
use crate::http2;
use crate::metrics::{ListenerCounters, RouteCounters};
use crate::snapshot::LiveListener;
use crate::worker::Worker;

/// The label of requests that reach no cluster.
const NO_CLUSTER: &str = "-";
/// How a connection that speaks HTTP/2 with prior knowledge starts (RFC 9113, section 3.4); no HTTP/1.1 method does.
const PREFACE_START: &[u8] = b"PRI ";
/// How long an idle HTTP/1.1 connection of a draining listener is kept, so that a request that is already under way is
/// answered, with `connection: close`, instead of cut off.
pub(crate) const DRAIN_LINGER: Duration = Duration::from_millis(500);
/// Wait after a failed accept: it is nearly always a limit on file descriptors.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(50);
/// Listen backlog; the kernel lowers it to its own limit.
const BACKLOG: i32 = 4096;

pub(crate) struct WorkerListener {
    pub(crate) name: Arc<str>,
    /// Counters of requests that reach no cluster.
    pub(crate) unrouted: Arc<RouteCounters>,
    live: RefCell<Rc<LiveListener>>,
    counters: Arc<ListenerCounters>,
    drain: Drain,
}

/// A client's connection, as its requests see it.
pub(crate) struct Connection {
    pub(crate) worker: Rc<Worker>,
    pub(crate) listener: Rc<WorkerListener>,
    pub(crate) client: IpAddr,
    port: u16,
    peer: HeaderValue,
    protocol: Codec,
    active: Cell<u32>,
    idle_since: Cell<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Codec {
    Http1,
    Http2,
}

/// A one-way switch that tasks of one thread can wait for.
#[derive(Default)]
struct Drain {
    begun: Cell<bool>,
    notify: Notify,
}

/// Binds one socket per worker, or says why it cannot. The sockets share their port. That nobody else has it, unless it is
/// `ours` already, is found out by a first socket that does not share: sharing would succeed against another process of
/// the same user.
pub(crate) fn bind(address: SocketAddr, workers: usize, ours: bool) -> io::Result<Vec<StdTcpListener>> {
    if !ours {
        drop(socket(address, Sharing::Exclusive)?);
    }
    (0..workers).map(|_| socket(address, Sharing::Shared)).collect()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    Exclusive,
    Shared,
}

fn socket(address: SocketAddr, sharing: Sharing) -> io::Result<StdTcpListener> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::STREAM,
        Some(socket2::Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(sharing == Sharing::Shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    if sharing == Sharing::Shared {
        socket.listen(BACKLOG)?;
    }
    Ok(socket.into())
}

/// Starts accepting on `socket`.
pub(crate) fn start(
    worker: &Rc<Worker>,
    name: &Arc<str>,
    live: &Arc<LiveListener>,
    socket: StdTcpListener,
) -> io::Result<Rc<WorkerListener>> {
    let socket = TcpListener::from_std(socket)?;
    let listener = Rc::new(WorkerListener {
        name: Arc::clone(name),
        unrouted: worker.counters(name, &NO_CLUSTER.into()),
        live: RefCell::new(Rc::new(LiveListener::clone(live))),
        counters: worker.listener_counters(name),
        drain: Drain::default(),
    });
    tokio::task::spawn_local(accept(Rc::clone(worker), Rc::clone(&listener), socket));
    Ok(listener)
}

impl WorkerListener {
    /// What this listener runs; the reference count is this thread's own, unlike the snapshot's.
    pub(crate) fn live(&self) -> Rc<LiveListener> {
        Rc::clone(&self.live.borrow())
    }

    pub(crate) fn update(&self, live: &Arc<LiveListener>) {
        *self.live.borrow_mut() = Rc::new(LiveListener::clone(live));
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.drain.begun.get()
    }

    /// Ready once draining has begun.
    pub(crate) async fn drained(&self) {
        self.drain.begun().await;
    }

    /// Stops accepting; connections end after what they have in flight.
    pub(crate) fn drain(&self) {
        self.drain.begin();
    }
}

impl Drain {
    fn begin(&self) {
        self.begun.set(true);
        self.notify.notify_waiters();
    }

    async fn begun(&self) {
        loop {
            let notified = self.notify.notified();
            if self.begun.get() {
                return;
            }
            notified.await;
        }
    }
}

async fn accept(worker: Rc<Worker>, listener: Rc<WorkerListener>, socket: TcpListener) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = listener.drain.begun() => break,
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => spawn(&worker, &listener, stream, peer),
            Err(error) => {
                tracing::warn!(listener = %listener.name, error = &error as &dyn std::error::Error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_BACK_OFF).await;
            }
        }
    }
    // What the kernel has accepted for us already would be reset by closing the socket.
    while let Some(Ok((stream, peer))) = socket.accept().now_or_never() {
        spawn(&worker, &listener, stream, peer);
    }
}

fn spawn(worker: &Rc<Worker>, listener: &Rc<WorkerListener>, stream: TcpStream, peer: SocketAddr) {
    let (worker, listener) = (Rc::clone(worker), Rc::clone(listener));
    let count = worker.connected();
    listener.counters.opened.add(1);
    tokio::task::spawn_local(async move {
        let counters = Arc::clone(&listener.counters);
        serve(
            worker,
            listener,
            stream,
            SocketAddr::new(peer.ip().to_canonical(), peer.port()),
        )
        .await;
        counters.closed.add(1);
        drop(count);
    });
}

async fn serve(worker: Rc<Worker>, listener: Rc<WorkerListener>, mut stream: TcpStream, peer: SocketAddr) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(
            error = &error as &dyn std::error::Error,
            "connection ended before it began"
        );
        return;
    }
    let idle_timeout = listener.live().config.idle_timeout.unwrap_or(Duration::MAX);
    let mut input = Buffer::new(&worker.buffers);
    let sniffed = tokio::select! {
        sniffed = sniff(&mut stream, &mut input) => sniffed,
        () = tokio::time::sleep(idle_timeout) => return,
        () = lingered(&listener.drain) => return,
    };
    let Ok(protocol) = sniffed else { return };
    let connection = Rc::new(Connection {
        worker,
        listener,
        client: peer.ip(),
        port: peer.port(),
        peer: HeaderValue::from_str(&peer.ip().to_string()).expect("invariant: an address is a header value"),
        protocol,
        active: Cell::new(0),
        idle_since: Cell::new(Instant::now()),
    });
    if protocol == Codec::Http1 {
        return h1::serve(connection, stream, input).await;
    }
    http2::serve(connection, stream, input).await;
}

/// Ready a while after draining has begun: a connection that has sent nothing until then will not.
async fn lingered(drain: &Drain) {
    drain.begun().await;
    tokio::time::sleep(DRAIN_LINGER).await;
}

/// Reads until the first bytes say which protocol they begin. Memory is for those who have sent something.
async fn sniff(stream: &mut TcpStream, input: &mut Buffer) -> io::Result<Codec> {
    stream.readable().await?;
    let decided = async {
        loop {
            let read = poll_fn(|cx| input.poll_fill(stream, cx)).await?;
            if let Some(codec) = spoken(input.filled()) {
                return Ok(codec);
            }
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    };
    tokio::time::timeout(HEAD_TIMEOUT, decided).await?
}

/// What a connection that begins like this speaks, if that can be said yet.
fn spoken(first: &[u8]) -> Option<Codec> {
    let seen = first.len().min(PREFACE_START.len());
    if first[..seen] != PREFACE_START[..seen] {
        Some(Codec::Http1)
    } else if seen == PREFACE_START.len() {
        Some(Codec::Http2)
    } else {
        None
    }
}

impl Connection {
    pub(crate) fn begin(&self) {
        self.active.set(self.active.get() + 1);
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
        SocketAddr::new(self.client, self.port)
    }

    /// Whether a response should ask the client to use another connection.
    pub(crate) fn wants_close(&self) -> bool {
        self.protocol == Codec::Http1 && self.listener.is_draining()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_that_differs_decides() {
        for (first, expected) in [
            ("", None),
            ("P", None),
            ("PRI", None),
            ("PRI ", Some(Codec::Http2)),
            ("PRI * HTTP/2.0\r\n", Some(Codec::Http2)),
            ("PO", Some(Codec::Http1)),
            ("PU", Some(Codec::Http1)),
            ("PRIX", Some(Codec::Http1)),
            ("G", Some(Codec::Http1)),
            ("\r\n", Some(Codec::Http1)),
        ] {
            assert_eq!(spoken(first.as_bytes()), expected, "{first:?}");
        }
    }
}
