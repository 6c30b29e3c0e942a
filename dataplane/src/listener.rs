//! A worker's side of a listener: its socket, its connections, and how both end. A connection finds its filter chain, is answered
//! in TLS if that says so, and then speaks what was agreed on, or what its first bytes say.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use http::HeaderValue;
use tokio::net::{TcpListener, TcpStream};

use crate::arrival::{Arrival, Ends};
use crate::channel::Channel;
use crate::config::Choosing;
use crate::h1::{self, Buffer};
use crate::http2;
use crate::limits::ClientLimits;
use crate::matcher::Client;
use crate::metrics::{ListenerCounters, RouteCounters};
use crate::original_dst::Redirected;
use crate::snapshot::{LiveChain, LiveHttp, LiveListener, LiveNetwork};
use crate::sni::{self, Hello, Seen};
use crate::stream::Stream;
use crate::tcp;
use crate::tls::{HTTP1, HTTP2, LiveTls};
use crate::worker::Worker;

pub(crate) use bind::{bind, join};
use drain::lingered;
pub(crate) use drain::{DRAIN_LINGER, Drain, Leaving};
use sniff::{Codec, sniff};

mod bind;
mod drain;
mod sniff;

/// The label of requests that reach no cluster.
const NO_CLUSTER: &str = "-";
/// From a connection, or its first byte, to what both sides agree on; Envoy's time for a look at it.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);
/// Wait after a failed accept: it is nearly always a limit on file descriptors.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(50);

pub(crate) struct WorkerListener {
    name: Arc<str>,
    /// Counters of requests that reach no cluster.
    unrouted: Arc<RouteCounters>,
    running: RefCell<Rc<Running>>,
    counters: Arc<ListenerCounters>,
    drain: Drain,
    /// Open for as long as they are accepted on.
    sockets: RefCell<Vec<Weak<TcpListener>>>,
}

/// What new connections find.
struct Running {
    live: Arc<LiveListener>,
    /// In the order of the snapshot's.
    chains: Vec<Option<Rc<WorkerChain>>>,
}

struct WorkerChain {
    live: Arc<LiveChain>,
    serving: Serving,
}

/// What its connections see of it, for as long as there is a chain that serves the same.
#[derive(Clone)]
enum Serving {
    Http(Rc<HttpListener>),
    Tcp(Rc<tcp::TcpListener>),
}

/// A listener as the connections of one of its filter chains see it.
pub(crate) struct HttpListener {
    pub(crate) name: Arc<str>,
    /// Counters of requests that reach no cluster.
    pub(crate) unrouted: Arc<RouteCounters>,
    live: RefCell<Rc<LiveHttp>>,
    drain: Drain,
}

/// A client's connection, as its requests see it.
pub(crate) struct Connection {
    pub(crate) worker: Rc<Worker>,
    pub(crate) listener: Rc<HttpListener>,
    pub(crate) ends: Ends,
    peer: HeaderValue,
    channel: Channel,
    protocol: Codec,
    active: Cell<u32>,
    /// Requests so far.
    begun: Cell<u32>,
    opened: Instant,
    idle_since: Cell<Instant>,
}

/// Counts a connection of a listener for as long as it lives.
struct Counted(Arc<ListenerCounters>);

/// Starts accepting on `sockets`.
pub(crate) fn start(
    worker: &Rc<Worker>,
    name: &Arc<str>,
    live: &Arc<LiveListener>,
    sockets: Vec<StdTcpListener>,
) -> io::Result<Rc<WorkerListener>> {
    let sockets = sockets.into_iter().map(TcpListener::from_std);
    let sockets: Vec<Rc<TcpListener>> = sockets
        .map(|socket| socket.map(Rc::new))
        .collect::<io::Result<_>>()?;
    let listener = WorkerListener::new(worker, name, live);
    *listener.sockets.borrow_mut() = sockets.iter().map(Rc::downgrade).collect();
    for socket in sockets {
        tokio::task::spawn_local(accept(Rc::clone(worker), Rc::clone(&listener), socket));
    }
    Ok(listener)
}

impl WorkerListener {
    pub(crate) fn new(worker: &Rc<Worker>, name: &Arc<str>, live: &Arc<LiveListener>) -> Rc<Self> {
        let listener = Rc::new(Self {
            name: Arc::clone(name),
            unrouted: worker.counters(name, &NO_CLUSTER.into()),
            running: RefCell::new(Rc::new(Running {
                live: Arc::clone(live),
                chains: Vec::new(),
            })),
            counters: worker.listener_counters(name),
            drain: Drain::default(),
            sockets: RefCell::default(),
        });
        listener.run(live);
        listener
    }

    /// Whether connections come to it by themselves.
    pub(crate) fn is_bound(&self) -> bool {
        self.running.borrow().live.config.binds
    }

    pub(crate) fn update(&self, live: &Arc<LiveListener>) {
        if !Arc::ptr_eq(&self.running.borrow().live, live) {
            self.run(live);
        }
    }

    /// Connections of a chain that is still there see what has changed with their next request; the others end.
    fn run(&self, live: &Arc<LiveListener>) {
        let before = Rc::clone(&self.running.borrow());
        let mut held: Vec<&Rc<WorkerChain>> = before.chains.iter().flatten().collect();
        let mut chain = |live: &Arc<LiveChain>| {
            let same = |held: &&Rc<WorkerChain>| {
                held.live.config.serves == live.config.serves && held.serving.goes_on_with(&live.network)
            };
            let serving = match held.iter().position(same) {
                Some(at) => held.swap_remove(at).serving.clone(),
                None => Serving::new(self, &live.network),
            };
            Rc::new(WorkerChain {
                live: Arc::clone(live),
                serving,
            })
        };
        let chains = live.chains.iter().map(|live| live.as_ref().map(&mut chain));
        let chains = chains.collect();
        for gone in held {
            gone.serving.drain().begin(Leaving::Closing);
        }
        *self.running.borrow_mut() = Rc::new(Running {
            live: Arc::clone(live),
            chains,
        });
    }

    /// Stops accepting; connections end after what they have in flight.
    pub(crate) fn drain(&self, leaving: Leaving) {
        self.drain.begin(leaving);
        for chain in self.running.borrow().chains.iter().flatten() {
            chain.serving.drain().begin(leaving);
        }
    }

    /// Has its connections see that memory runs short.
    pub(crate) fn rouse(&self) {
        for chain in self.running.borrow().chains.iter().flatten() {
            chain.serving.drain().rouse();
        }
    }

    /// Its sockets once more.
    pub(crate) fn share(&self) -> Vec<io::Result<OwnedFd>> {
        let sockets = self.sockets.borrow();
        let open = sockets.iter().filter_map(Weak::upgrade);
        open.map(|socket| socket.as_fd().try_clone_to_owned()).collect()
    }
}

impl Running {
    fn arrival(&self) -> (SocketAddr, Option<Arrival>) {
        (self.live.config.address, self.live.config.arrival)
    }

    /// How long a connection has, if at all, for what its chain depends on, or what TLS begins with.
    fn first_look(&self, port: u16) -> Option<Option<Duration>> {
        match &self.live.config.choosing {
            Choosing::Settled(_) | Choosing::ByPort(_) => self
                .chosen(port, None)
                .filter(|chain| chain.live.tls.is_some())
                .map(|_| Some(HANDSHAKE_TIMEOUT)),
            Choosing::Looking { timeout, .. } => Some(*timeout),
        }
    }

    /// The chain for a connection that was to go to `port`.
    fn chosen(&self, port: u16, hello: Option<&Hello>) -> Option<&Rc<WorkerChain>> {
        let chosen = match &self.live.config.choosing {
            Choosing::Settled(chosen) => *chosen,
            Choosing::ByPort(choices) | Choosing::Looking { choices, .. } => choices.choose(port, hello),
        };
        chosen.and_then(|chosen| self.chains[chosen].as_ref())
    }
}

impl Serving {
    fn new(listener: &WorkerListener, live: &LiveNetwork) -> Self {
        let name = Arc::clone(&listener.name);
        match live {
            LiveNetwork::Http(http) => Self::Http(Rc::new(HttpListener {
                name,
                unrouted: Arc::clone(&listener.unrouted),
                live: RefCell::new(Rc::new(http.clone())),
                drain: Drain::default(),
            })),
            LiveNetwork::Tcp(proxy) => Self::Tcp(Rc::new(tcp::TcpListener {
                name,
                live: RefCell::new(Arc::clone(proxy)),
                drain: Drain::default(),
            })),
        }
    }

    /// Goes on with `live`, if that is of the same kind.
    fn goes_on_with(&self, live: &LiveNetwork) -> bool {
        match (self, live) {
            (Self::Http(held), LiveNetwork::Http(http)) => *held.live.borrow_mut() = Rc::new(http.clone()),
            (Self::Tcp(held), LiveNetwork::Tcp(proxy)) => *held.live.borrow_mut() = Arc::clone(proxy),
            (Self::Http(_), LiveNetwork::Tcp(_)) | (Self::Tcp(_), LiveNetwork::Http(_)) => return false,
        }
        true
    }

    fn drain(&self) -> &Drain {
        match self {
            Self::Http(listener) => &listener.drain,
            Self::Tcp(listener) => &listener.drain,
        }
    }
}

impl HttpListener {
    /// What it runs; the reference count is this thread's own, unlike the snapshot's.
    pub(crate) fn live(&self) -> Rc<LiveHttp> {
        Rc::clone(&self.live.borrow())
    }

    pub(crate) fn limits(&self) -> ClientLimits {
        self.live.borrow().config.limits
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.drain.leaving().is_some()
    }

    /// How long an idle connection is kept once draining has begun.
    pub(crate) fn linger(&self) -> Duration {
        self.drain.linger()
    }

    /// Ready once draining has begun.
    pub(crate) async fn drained(&self) {
        self.drain.begun().await;
    }
}

impl Counted {
    fn new(counters: &Arc<ListenerCounters>) -> Self {
        counters.opened.add(1);
        Self(Arc::clone(counters))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.closed.add(1);
    }
}

async fn accept(worker: Rc<Worker>, listener: Rc<WorkerListener>, socket: Rc<TcpListener>) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = listener.drain.begun() => break,
            accepted = accepted(&worker, &socket) => accepted,
        };
        match accepted {
            Ok((stream, peer)) if worker.pressure.has_room() => spawn(&worker, &listener, stream, peer),
            Ok(_) => listener.counters.overloaded.add(1),
            Err(error) if worker.pressure.turns_away(&error, &socket) => {
                listener.counters.overloaded.add(1);
            }
            Err(error) => {
                tracing::warn!(listener = %listener.name, error = &error as &dyn std::error::Error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_BACK_OFF).await;
            }
        }
    }
    // What the kernel has accepted for us already would be reset by closing the socket, unless somebody else has it too.
    if listener.drain.leaving() == Some(Leaving::Relieved) {
        return;
    }
    while let Some(Ok((stream, peer))) = socket.accept().now_or_never() {
        spawn(&worker, &listener, stream, peer);
    }
}

/// The next connection, where one may be accepted.
async fn accepted(worker: &Worker, socket: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    loop {
        worker.pressure.accepts().await;
        tokio::select! {
            biased;
            () = worker.pressure.closes() => {}
            accepted = socket.accept() => return accepted,
        }
    }
}

fn spawn(worker: &Rc<Worker>, listener: &Rc<WorkerListener>, stream: TcpStream, peer: SocketAddr) {
    let (worker, listener) = (Rc::clone(worker), Rc::clone(listener));
    let count = worker.connected();
    tokio::task::spawn_local(async move {
        // One after the other, so that what a connection needs to begin takes no room while it is served.
        let Some(Begun {
            serving,
            stream,
            input,
            ends,
            counted,
        }) = begin(&worker, listener, stream, peer).await
        else {
            return;
        };
        match serving {
            Serving::Tcp(tcp) => Box::pin(tcp::serve(worker, tcp, stream, input, ends)).await,
            Serving::Http(http) => match greet(worker, http, stream, input, ends).await {
                Some((connection, stream, input)) if connection.protocol == Codec::Http1 => {
                    h1::serve(connection, stream, input).await;
                }
                Some((connection, stream, input)) => {
                    Box::pin(http2::serve(connection, stream, input)).await;
                }
                None => {}
            },
        }
        drop((counted, count));
    });
}

/// A connection that has found its filter chain, and speaks TLS by now if it is to.
struct Begun {
    serving: Serving,
    stream: Stream,
    input: Buffer,
    ends: Ends,
    counted: Counted,
}

/// Nothing where a connection ends before it is known what serves it.
async fn begin(
    worker: &Rc<Worker>,
    mut listener: Rc<WorkerListener>,
    mut stream: TcpStream,
    peer: SocketAddr,
) -> Option<Begun> {
    let mut counted = Counted::new(&listener.counters);
    let (address, mut arrival) = listener.running.borrow().arrival();
    let ends = stream
        .set_nodelay(true)
        .and_then(|()| Ends::new(&stream, peer, address));
    let mut ends = match ends {
        Ok(ends) => ends,
        Err(error) => {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "connection ended before it began"
            );
            return None;
        }
    };
    let mut input = Buffer::new(&worker.buffers);
    let mut arrived = None;
    while let Some(arrives) = arrival.take() {
        let learning = learn(&listener.drain, &arrives, &mut ends, &mut stream, &mut input);
        arrived = Some(Instant::now());
        if Box::pin(learning).await.is_none() {
            listener.counters.unfit.add(1);
            return None;
        }
        if arrives.redirected == Redirected::HandedOver
            && ends.is_redirected
            && let Some(other) = worker
                .listener_at(ends.to)
                .filter(|other| !Rc::ptr_eq(other, &listener))
        {
            counted = Counted::new(&other.counters);
            listener = other;
            // What it was redirected from is known, and it is handed over once.
            let others = listener.running.borrow().arrival().1;
            arrival = others
                .filter(|others| others.proxy.is_some())
                .map(|others| Arrival {
                    redirected: Redirected::Unknown,
                    ..others
                });
        }
    }
    let first = listener.running.borrow().first_look(ends.to.port());
    let mut hello = None;
    if let Some(timeout) = first {
        let spent = arrived.map_or(Duration::ZERO, |since| since.elapsed());
        let timeout = timeout.map(|timeout| timeout.saturating_sub(spent));
        let looked = look(&listener.drain, timeout, &mut stream, &mut input);
        let Some(seen) = Box::pin(looked).await else {
            listener.counters.unfit.add(1);
            return None;
        };
        hello = seen;
    }
    // What has changed since it came is so for whoever begins only now.
    let chain = listener
        .running
        .borrow()
        .chosen(ends.to.port(), hello.as_ref())
        .cloned();
    let Some(chain) = chain else {
        listener.counters.unserved.add(1);
        return None;
    };
    let stream = match &chain.live.tls {
        None => Stream::Plain(stream),
        Some(tls) => {
            let first = std::mem::replace(&mut input, Buffer::new(&worker.buffers));
            match Box::pin(answer_tls(chain.serving.drain(), tls, first, stream)).await {
                Ok(stream) => stream,
                Err(error) => {
                    listener.counters.unfit.add(1);
                    tracing::debug!(listener = %listener.name, error = &error as &dyn std::error::Error, "no TLS with a client");
                    return None;
                }
            }
        }
    };
    Some(Begun {
        serving: chain.serving.clone(),
        stream,
        input,
        ends,
        counted,
    })
}

/// What a connection speaks, as its requests see it; nothing if it never says.
async fn greet(
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
        channel: Channel {
            scheme: stream.scheme(),
            to: ends.to,
            server_name: stream.server_name().map(Box::from),
            peer: stream.peer().map(Box::new),
        },
        ends,
        protocol,
        active: Cell::new(0),
        begun: Cell::new(0),
        opened,
        idle_since: Cell::new(opened),
    });
    Some((connection, stream, input))
}

/// Whose a connection is, and where it was to go.
async fn learn(
    drain: &Drain,
    arrival: &Arrival,
    ends: &mut Ends,
    stream: &mut TcpStream,
    input: &mut Buffer,
) -> Option<()> {
    tokio::select! {
        learnt = arrival.learn(ends, stream, input) => learnt,
        () = tokio::time::sleep(arrival.timeout.unwrap_or(Duration::MAX)) => None,
        () = lingered(drain) => None,
    }
}

/// What a connection begins with, left in `input`; `None` if it ends before that can be said, or takes too long.
async fn look(
    drain: &Drain,
    timeout: Option<Duration>,
    stream: &mut TcpStream,
    input: &mut Buffer,
) -> Option<Option<Hello>> {
    let looking = async {
        // Some of it may have come behind what it arrived with.
        if input.is_empty() {
            stream.readable().await.ok()?;
        }
        loop {
            match sni::look(input.filled()) {
                Seen::Part => {}
                Seen::Malformed => return None,
                Seen::Plain => return Some(None),
                Seen::Hello(hello) => return Some(Some(hello)),
            }
            if poll_fn(|cx| input.poll_fill(stream, cx)).await.ok()? == 0 {
                return None;
            }
        }
    };
    tokio::select! {
        looked = looking => looked,
        () = tokio::time::sleep(timeout.unwrap_or(Duration::MAX)) => None,
        () = lingered(drain) => None,
    }
}

async fn answer_tls(drain: &Drain, tls: &LiveTls, first: Buffer, stream: TcpStream) -> io::Result<Stream> {
    tokio::select! {
        answered = Stream::answer_tls(tls, first, stream) => answered,
        () = tokio::time::sleep(HANDSHAKE_TIMEOUT) => Err(io::ErrorKind::TimedOut.into()),
        () = lingered(drain) => Err(io::ErrorKind::ConnectionAborted.into()),
    }
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
