//! Connections that are passed on as they are: bytes are moved in both directions until both have ended, by the kernel alone
//! (`pipe`) where nothing has to be decrypted.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::access_log::Passed;
use crate::arrival::Ends;
use crate::balance::{Draw, Tried};
use crate::channel::Channel;
use crate::config::TcpProxy;
use crate::exchange::Flags;
use crate::h1::{Buffer, Timer};
use crate::io::{BreakableIo, Breaker};
use crate::listener::Drain;
use crate::metrics::TcpCounters;
use crate::outlier::Report;
use crate::pool::{ConnectError, Freshness, Lease};
use crate::stream::Stream;
use crate::worker::{Worker, WorkerCluster};
use pipe::Broken;

pub(crate) use pipe::{Pipes, Way};

mod pipe;

/// How long a connection of a listener that is gone goes on; Envoy's `--drain-time-s`.
const DRAIN_MAX: Duration = Duration::from_secs(600);
/// The label of connections that reach no cluster.
const NO_CLUSTER: &str = "-";

/// A listener as the connections of one of its filter chains see it.
pub(crate) struct TcpListener {
    pub(crate) name: Arc<str>,
    pub(crate) live: RefCell<Arc<TcpProxy>>,
    pub(crate) drain: Drain,
}

/// Why a connection ended, in the words of Envoy's access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Both sides have ended it.
    Whole,
    NoCluster,
    NoHealthyUpstream,
    ConnectFailure,
    Overflow,
    /// The host broke it off, or was declared dead.
    Host,
    /// The client broke it off.
    Client,
    Idle,
    /// Its listener is gone.
    Drained,
}

/// What ends a connection that is passed on, besides its two sides.
pub(crate) struct Limits<'a> {
    /// Without a byte in either direction; `None` waits for ever.
    pub(crate) idle: Option<Duration>,
    /// The host's.
    pub(crate) breaker: &'a Breaker,
}

/// A connection to a host.
struct Connected {
    io: BreakableIo,
    /// Counts as active for as long as it is there.
    _lease: Lease,
}

impl End {
    pub(crate) const ALL: [Self; 9] = [
        Self::Whole,
        Self::NoCluster,
        Self::NoHealthyUpstream,
        Self::ConnectFailure,
        Self::Overflow,
        Self::Host,
        Self::Client,
        Self::Idle,
        Self::Drained,
    ];

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Whole => "",
            Self::NoCluster => "NC",
            Self::NoHealthyUpstream => "UH",
            Self::ConnectFailure => "UF",
            Self::Overflow => "UO",
            Self::Host => "UC",
            Self::Client => "DC",
            Self::Idle => "SI",
            Self::Drained => "LR",
        }
    }

    /// The words of its record: as in Envoy, there were as many attempts as there may be.
    pub(crate) fn flags(self) -> Flags {
        let limit = if self == Self::ConnectFailure { "URX" } else { "" };
        Flags::said([self.word(), limit])
    }
}

/// Passes a client's connection on, of which `first` was read already.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    listener: Rc<TcpListener>,
    mut client: Stream,
    first: Buffer,
    ends: Ends,
    server_name: Option<Box<str>>,
) {
    let proxy = Arc::clone(&listener.live.borrow());
    let target = match &*proxy.targets {
        [only] => only,
        _ => proxy.target(worker.random.below(proxy.total_weight)),
    };
    let cluster = worker.view().cluster(&target.cluster);
    let name = cluster
        .as_ref()
        .map_or_else(|| NO_CLUSTER.into(), |cluster| Arc::clone(&cluster.live.name));
    let counters = worker.tcp_counters(&listener.name, &name);
    // It has a host's connection to itself.
    let _host = worker.pressure.hold(1);
    let mut passed = Passed::begin(&worker, &proxy, &ends, || {
        let channel = Channel::new(&mut client, ends.to);
        Channel {
            // Of TLS that is passed on it was looked at only.
            server_name: channel.server_name.or(server_name),
            ..channel
        }
    });
    if let (Some(passed), Some(cluster)) = (&mut passed, &cluster) {
        passed.cluster(&cluster.live.name);
    }
    let connected = match cluster {
        None => Err(End::NoCluster),
        Some(cluster) => connect(&worker, &cluster, &proxy, &ends, &counters, &mut passed).await,
    };
    let end = match connected {
        Err(end) => end,
        Ok(mut host) => {
            let breaker = Rc::clone(host.io.breaker());
            let (host_reader, host_writer) = host.io.split();
            let (client_reader, client_writer) = client.split();
            let nothing = Buffer::new(&worker.buffers);
            let up = Way::new(client_reader, host_writer, first, &worker.pipes);
            let down = Way::new(host_reader, client_writer, nothing, &worker.pipes);
            let limits = Limits {
                idle: proxy.idle_timeout,
                breaker: &breaker,
            };
            let counted = |sent, received| {
                counters.sent.add(sent);
                counters.received.add(received);
                if let Some(passed) = &mut passed {
                    passed.moved(sent, received);
                }
            };
            let end = pass(up, down, limits, pin!(listener.drain.begun()), counted).await;
            if end != End::Whole {
                // Nobody must take what broke off for an end. One of both may have no connection any more.
                let _ = client.set_zero_linger();
                let _ = host.io.set_zero_linger();
            }
            end
        }
    };
    if let Some(passed) = passed {
        passed.end(end);
    }
    counters.ended(end);
}

async fn connect(
    worker: &Worker,
    cluster: &WorkerCluster,
    proxy: &TcpProxy,
    ends: &Ends,
    counters: &TcpCounters,
    passed: &mut Option<Passed>,
) -> Result<Connected, End> {
    let mut tried = Tried::default();
    for _ in 0..proxy.connect_attempts_max {
        let (pool, host) = cluster
            .choose(&worker.random, &mut tried, None, None, None, Some(ends))
            .ok_or(End::NoHealthyUpstream)?;
        if !cluster.allows_request() {
            return Err(End::Overflow);
        }
        let lease = pool.lease();
        if let Some(passed) = passed {
            passed.host(pool.host.address);
        }
        match pool.connect_h1(&cluster.live.config, Freshness::New).await {
            Ok((io, _)) => {
                // As Envoy counts it: a host that takes connections answers well.
                pool.report(Report::Status(http::StatusCode::OK.as_u16()));
                return Ok(Connected { io, _lease: lease });
            }
            Err(ConnectError::Overflow) => return Err(End::Overflow),
            Err(error @ (ConnectError::Connect(_) | ConnectError::Timeout | ConnectError::Handshake(_))) => {
                if !error.is_own() {
                    pool.report(Report::NoConnection);
                }
                counters.connect_failures.add(1);
                tracing::debug!(host = %pool.host.address, error = &error as &dyn std::error::Error, "cannot pass a connection on");
            }
        }
        tried.add(host);
    }
    Err(End::ConnectFailure)
}

/// Moves bytes until both directions have ended, or one has broken; `counted` is told how many have come through, up and down.
pub(crate) async fn pass(
    mut up: Way<'_>,
    mut down: Way<'_>,
    limits: Limits<'_>,
    mut draining: Pin<&mut impl Future<Output = ()>>,
    mut counted: impl FnMut(u64, u64),
) -> End {
    let (mut timer, mut drained) = (Timer::new(), None);
    let mut moved_at = Instant::now();
    poll_fn(|cx| {
        let (sent, received) = (up.moved(), down.moved());
        let ended = poll_ways(&mut up, &mut down, cx);
        let (sent, received) = (up.moved() - sent, down.moved() - received);
        counted(sent, received);
        if ended.is_ready() {
            return ended;
        }
        if limits.breaker.poll_broken(cx).is_ready() {
            return Poll::Ready(End::Host);
        }
        if sent + received > 0 {
            moved_at = Instant::now();
        }
        // A future that is over must not be asked again.
        if drained.is_none() && draining.as_mut().poll(cx).is_ready() {
            drained = Some(Instant::now());
        }
        let idle = limits.idle.map(|idle| (moved_at + idle, End::Idle));
        let gone = drained.map(|drained| (drained + DRAIN_MAX, End::Drained));
        let Some((deadline, end)) = [idle, gone].into_iter().flatten().min_by_key(|(at, _)| *at) else {
            return Poll::Pending;
        };
        timer.poll(Some(deadline), cx).map(|()| end)
    })
    .await
}

/// Each direction ends by itself.
fn poll_ways(up: &mut Way<'_>, down: &mut Way<'_>, cx: &mut Context<'_>) -> Poll<End> {
    let (up, down) = (up.poll(cx), down.poll(cx));
    match (up, down) {
        (Poll::Ready(Err(Broken::Source)), _) | (_, Poll::Ready(Err(Broken::Sink))) => {
            Poll::Ready(End::Client)
        }
        (Poll::Ready(Err(Broken::Sink)), _) | (_, Poll::Ready(Err(Broken::Source))) => Poll::Ready(End::Host),
        (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(End::Whole),
        (Poll::Pending, _) | (_, Poll::Pending) => Poll::Pending,
    }
}
