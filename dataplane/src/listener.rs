//! A worker's side of a listener: its socket, its connections, and how both end. A connection finds its filter chain, is answered
//! in TLS if that says so, and then speaks what was agreed on, or what its first bytes say.

use std::cell::RefCell;
use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::net::{TcpListener, TcpStream};

use crate::arrival::Arrival;
use crate::config::Choosing;
use crate::h1;
use crate::http2;
use crate::limits::ClientLimits;
use crate::metrics::{ListenerCounters, RouteCounters};
use crate::snapshot::{LiveChain, LiveHttp, LiveListener, LiveNetwork};
use crate::sni::Hello;
use crate::tcp;
use crate::worker::Worker;

use begin::{Begun, begin};
pub(crate) use bind::{bind, join};
pub(crate) use connection::Connection;
use connection::greet;
pub(crate) use drain::{DRAIN_LINGER, Drain, Leaving};
use sniff::Codec;

mod begin;
mod bind;
mod connection;
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
            server_name,
            counted,
        }) = begin(&worker, listener, stream, peer).await
        else {
            return;
        };
        match serving {
            Serving::Tcp(tcp) => Box::pin(tcp::serve(worker, tcp, stream, input, ends, server_name)).await,
            Serving::Http(http) => {
                drop(server_name);
                match greet(worker, http, stream, input, ends).await {
                    Some((connection, stream, input)) if connection.protocol == Codec::Http1 => {
                        h1::serve(connection, stream, input).await;
                    }
                    Some((connection, stream, input)) => {
                        Box::pin(http2::serve(connection, stream, input)).await;
                    }
                    None => {}
                }
            }
        }
        drop((counted, count));
    });
}
