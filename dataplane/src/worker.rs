//! One worker: a thread with its own runtime, listening sockets, upstream connections and counters. It shares nothing that is
//! written on the request path; the main runtime speaks to it through commands.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::TcpListener as StdTcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;
use tokio::runtime::LocalOptions;
use tokio::sync::Notify;

use crate::access_log::{Logs, Process};
use crate::arrival::Ends;
use crate::attempt::Refusal;
use crate::balance::{Asked, Draw, Labels, Tried};
use crate::breaker::{Retrying, Share};
use crate::config::MILLION;
use crate::exchange::Flag;
use crate::filter::{Session, Wanted};
use crate::h1::Buffers;
use crate::listener::{self, Leaving, WorkerListener};
use crate::metrics::{LeftOut, ListenerCounters, Metrics, RouteCounters, TcpCounters};
use crate::orders::{Command, Order, Orders};
use crate::otlp::Exporter;
use crate::overload::Pressure;
use crate::pool::HostPool;
use crate::retry::{RetryHosts, RetryPolicy, RetryPriorities};
use crate::snapshot::{Difference, LiveCluster, Snapshot};
use crate::tap::Taps;
use crate::tcp::Pipes;

mod handover;
mod view;

pub(crate) use view::View;

/// How often connections that nobody uses are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);

pub(crate) struct Worker {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) logs: Logs,
    pub(crate) exporter: Arc<Exporter>,
    pub(crate) taps: Arc<Taps>,
    pub(crate) random: Random,
    pub(crate) buffers: Rc<Buffers>,
    pub(crate) pipes: Rc<Pipes>,
    view: View,
    listeners: RefCell<HashMap<Arc<str>, Rc<WorkerListener>>>,
    /// By cluster.
    counters: RefCell<HashMap<Arc<str>, ByListener>>,
    tcp_counters: RefCell<HashMap<ListenerAndCluster, Arc<TcpCounters>>>,
    listener_counters: RefCell<HashMap<Arc<str>, Arc<ListenerCounters>>>,
    left_out: OnceCell<LeftOut>,
    connections: Cell<usize>,
    pub(crate) pressure: Rc<Pressure>,
    copies: Cell<usize>,
    disconnected: Notify,
    drains: Cell<Option<Leaving>>,
}

type ListenerAndCluster = (Arc<str>, Arc<str>);

/// There are few.
type ByListener = Vec<(Arc<str>, Arc<RouteCounters>)>;

pub(crate) struct WorkerCluster {
    pub(crate) live: Arc<LiveCluster>,
    /// In the order of the cluster's hosts.
    pools: Vec<Rc<HostPool>>,
    /// Whose turn it is, by priority and then by locality; none where nobody takes turns.
    turns: Box<[Cell<u64>]>,
    share: Share,
    counters: RefCell<ByListener>,
}

/// A host with its index and its priority.
pub(crate) type Chosen = (Rc<HostPool>, (usize, usize));

/// A small, fast generator (xorshift64*); nothing here needs secrecy.
pub(crate) struct Random(Cell<u64>);

/// Counts a connection for as long as it lives.
pub(crate) struct ConnectionCount(Rc<Worker>);

/// Counts a copy of a request until it is done.
pub(crate) struct CopyCount(Rc<Worker>);

/// Runs a worker until its commands end; call it on a thread of its own.
pub(crate) fn run(
    index: usize,
    metrics: Arc<Metrics>,
    logs: Arc<Process>,
    exporter: Arc<Exporter>,
    taps: Arc<Taps>,
    pressure: Pressure,
    orders: Orders,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default());
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "cannot start a worker: check the limits on file descriptors"
            );
            return;
        }
    };
    let pressure = Rc::new(pressure);
    let worker = Rc::new(Worker {
        metrics,
        logs: Logs::new(logs),
        exporter,
        taps,
        random: Random::new(),
        buffers: Rc::default(),
        pipes: Rc::new(Pipes::new(&pressure)),
        view: View::new(index),
        listeners: RefCell::default(),
        counters: RefCell::default(),
        tcp_counters: RefCell::default(),
        listener_counters: RefCell::default(),
        left_out: OnceCell::new(),
        connections: Cell::new(0),
        pressure,
        copies: Cell::new(0),
        disconnected: Notify::new(),
        drains: Cell::new(None),
    });
    runtime.block_on(worker.run(orders));
}

impl Worker {
    async fn run(self: Rc<Self>, mut orders: Orders) {
        let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
        loop {
            tokio::select! {
                order = orders.next() => match order {
                    Some(Order::Run(command)) => self.on(command),
                    Some(Order::Break(hosts)) => {
                        let pools = hosts.into_iter().filter_map(|host| self.view.pool(host));
                        pools.for_each(|pool| pool.break_connections());
                    }
                    None => return,
                },
                _ = sweep.tick() => {
                    let now = Instant::now();
                    self.view.pools().for_each(|pool| pool.sweep(now));
                    self.forget_strays();
                }
            }
        }
    }

    fn on(self: &Rc<Self>, command: Command) {
        match command {
            Command::Apply {
                snapshot,
                difference,
                sockets,
                done,
            } => {
                self.apply(&snapshot, &difference, sockets);
                // The main runtime may have given up waiting; the snapshot is applied all the same.
                let _ = done.send(());
            }
            Command::Drain { leaving, done } => {
                self.drains.set(Some(leaving));
                self.listeners
                    .borrow_mut()
                    .drain()
                    .for_each(|(_, listener)| listener.drain(leaving));
                let worker = Rc::clone(self);
                tokio::task::spawn_local(async move {
                    worker.drained().await;
                    let _ = done.send(());
                });
            }
            Command::Share { give } => {
                let listeners = self.listeners.borrow();
                let sockets = listeners.values().flat_map(|listener| listener.share());
                // Whoever asked may have given up.
                let _ = give.send(sockets.collect());
            }
            Command::Level(level) => {
                if self.pressure.set(level) && self.pressure.sheds() {
                    let listeners = self.listeners.borrow();
                    listeners.values().for_each(|listener| listener.rouse());
                }
            }
            Command::Flush { done } => {
                self.logs.flush();
                let _ = done.send(());
            }
        }
    }

    /// Clusters first, then the listeners whose routes use them; all within one step of this thread.
    fn apply(
        self: &Rc<Self>,
        snapshot: &Arc<Snapshot>,
        difference: &Difference,
        sockets: Vec<(Arc<str>, Vec<StdTcpListener>)>,
    ) {
        self.view.apply(snapshot, difference).let_go();
        if self.apply_listeners(snapshot, difference, sockets) {
            self.forget_strays();
        }
        // Who counted for it may still do so; whoever comes after begins with what the metrics give out.
        let mut counters = self.counters.borrow_mut();
        for cluster in &difference.removed {
            counters.remove(cluster);
        }
        let is_there = |cluster: &Arc<str>| !difference.removed.contains(cluster);
        self.tcp_counters
            .borrow_mut()
            .retain(|(_, cluster), _| is_there(cluster));
    }

    /// Whether a listener went.
    fn apply_listeners(
        self: &Rc<Self>,
        snapshot: &Arc<Snapshot>,
        difference: &Difference,
        sockets: Vec<(Arc<str>, Vec<StdTcpListener>)>,
    ) -> bool {
        let mut listeners = self.listeners.borrow_mut();
        for (name, sockets) in sockets {
            let Some(live) = snapshot.listeners.get(&name) else {
                continue;
            };
            match listener::start(self, &name, live, sockets) {
                Ok(started) => {
                    if let Some(replaced) = listeners.insert(Arc::clone(&name), started) {
                        replaced.drain(Leaving::Closing);
                    }
                }
                Err(error) => {
                    tracing::error!(listener = %name, error = &error as &dyn std::error::Error, "cannot accept on this worker");
                }
            }
        }
        let mut one_went = false;
        for name in &difference.listeners {
            match snapshot.listeners.get(name) {
                Some(live)
                    if live.config.binds || !listeners.get(name).is_some_and(|held| held.is_bound()) =>
                {
                    if let Some(listener) = listeners.get(name) {
                        listener.update(live);
                    }
                }
                Some(_) | None => {
                    if let Some(removed) = listeners.remove(name) {
                        removed.drain(Leaving::Closing);
                        one_went = true;
                    }
                }
            }
        }
        one_went
    }

    /// Forgets what was counted for listeners that are gone; what drains may go on counting for one, and be forgotten again.
    fn forget_strays(&self) {
        let listeners = self.listeners.borrow();
        let stays = |listener: &Arc<str>| listeners.contains_key(listener);
        self.listener_counters.borrow_mut().retain(|name, _| stays(name));
        self.tcp_counters.borrow_mut().retain(|(name, _), _| stays(name));
        self.counters.borrow_mut().retain(|_, counters| {
            counters.retain(|(name, _)| stays(name));
            !counters.is_empty()
        });
        for cluster in self.view.joined() {
            cluster.counters.borrow_mut().retain(|(name, _)| stays(name));
        }
    }

    pub(crate) fn view(&self) -> &View {
        &self.view
    }

    pub(crate) fn connected(self: &Rc<Self>) -> ConnectionCount {
        self.connections.set(self.connections.get() + 1);
        self.pressure.has_begun();
        ConnectionCount(Rc::clone(self))
    }

    /// A place for one more copy of a request, unless there are so many.
    pub(crate) fn copying(self: &Rc<Self>, copies_max: usize) -> Option<CopyCount> {
        let copies = self.copies.get();
        (copies < copies_max).then(|| {
            self.copies.set(copies + 1);
            CopyCount(Rc::clone(self))
        })
    }

    /// This worker's counters for a listener and a cluster; they outlive configurations that have both.
    pub(crate) fn counters(&self, listener: &Arc<str>, cluster: &Arc<str>) -> Arc<RouteCounters> {
        let mut all = self.counters.borrow_mut();
        let counters = all.entry(Arc::clone(cluster)).or_default();
        if let Some((_, held)) = counters.iter().find(|(name, _)| name == listener) {
            return Arc::clone(held);
        }
        let added = self.metrics.route(listener, cluster);
        let added = added.unwrap_or_else(|| Arc::clone(&self.left_out().routes));
        counters.push((Arc::clone(listener), Arc::clone(&added)));
        added
    }

    /// The same for connections that are passed on.
    pub(crate) fn tcp_counters(&self, listener: &Arc<str>, cluster: &Arc<str>) -> Arc<TcpCounters> {
        let key = (Arc::clone(listener), Arc::clone(cluster));
        let mut counters = self.tcp_counters.borrow_mut();
        let new = || {
            let added = self.metrics.tcp(listener, cluster);
            added.unwrap_or_else(|| Arc::clone(&self.left_out().tcp))
        };
        Arc::clone(counters.entry(key).or_insert_with(new))
    }

    /// This worker's counters for a listener, for as long as there is one of that name.
    pub(crate) fn listener_counters(&self, listener: &Arc<str>) -> Arc<ListenerCounters> {
        let mut counters = self.listener_counters.borrow_mut();
        let new = || {
            let added = self.metrics.listener(listener);
            added.unwrap_or_else(|| Arc::clone(&self.left_out().listeners))
        };
        Arc::clone(counters.entry(Arc::clone(listener)).or_insert_with(new))
    }

    /// For those that are too many.
    fn left_out(&self) -> &LeftOut {
        self.left_out.get_or_init(|| self.metrics.left_out())
    }

    async fn drained(&self) {
        loop {
            let disconnected = self.disconnected.notified();
            if self.connections.get() == 0 {
                return;
            }
            disconnected.await;
        }
    }
}

impl Drop for ConnectionCount {
    fn drop(&mut self) {
        self.0.connections.set(self.0.connections.get() - 1);
        self.0.pressure.has_ended();
        self.0.disconnected.notify_waiters();
    }
}

impl Drop for CopyCount {
    fn drop(&mut self) {
        self.0.copies.set(self.0.copies.get() - 1);
    }
}

impl WorkerCluster {
    /// `pools` are in the order of the cluster's hosts.
    fn new(live: Arc<LiveCluster>, pools: Vec<Rc<HostPool>>, worker: usize) -> Self {
        let share = Share::new(&live.load, worker);
        let turns = turns(&live);
        Self {
            live,
            pools,
            turns,
            share,
            counters: RefCell::default(),
        }
    }

    /// The pool of the host for the next attempt of a client, if it is one's, with the host's index and priority.
    pub(crate) fn choose(
        &self,
        random: &Random,
        tried: &mut Tried,
        policy: Option<&RetryPolicy>,
        key: Option<u64>,
        labels: Option<&Labels>,
        client: Option<&Ends>,
    ) -> Option<Chosen> {
        if !self.live.traffic.load(std::sync::atomic::Ordering::Relaxed) {
            self.live
                .traffic
                .store(true, std::sync::atomic::Ordering::Relaxed);
        }
        let (hosts, priorities) = policy.map_or((RetryHosts::Any, RetryPriorities::Any), |policy| {
            (policy.hosts, policy.priorities)
        });
        let active = |host: usize| self.pools[host].active();
        let selection = self.live.selection.load();
        let asked = Asked {
            hosts,
            priorities,
            key,
            labels,
        };
        let chosen = selection.choose(random, active, &self.turns, tried, asked)?;
        Some((self.pools[chosen.0].of(client)?, chosen))
    }

    /// The pool of the host of a session, as [`Self::choose`] has it; nothing where another one may do.
    pub(crate) fn keep(&self, session: &Session, client: Option<&Ends>) -> Result<Option<Chosen>, Refusal> {
        let host = match session.wanted {
            Wanted::Anywhere => return Ok(None),
            Wanted::Nowhere => None,
            Wanted::Host(address) => self.live.host_at(address),
        };
        match (host, session.strict()) {
            (Some(host), _) if self.live.selection.load().is_healthy(host) => {
                let priority = self.live.hosts[host].endpoint.priority;
                Ok(self.pools[host].of(client).map(|pool| (pool, (host, priority))))
            }
            (_, None) => Ok(None),
            (None, Some(status)) => Err(Refusal::nobody(status)),
            (Some(_), Some(_)) => Err(Refusal::nobody(StatusCode::SERVICE_UNAVAILABLE)),
        }
    }

    /// Whether a request is one of those that are refused so that the others are served.
    pub(crate) fn drops(&self, draw: &impl Draw) -> Option<Flag> {
        match self.live.dropped_millionths {
            0 => None,
            MILLION => Some(Flag::AllDropped),
            dropped => (draw.below(MILLION) < dropped).then_some(Flag::Dropped),
        }
    }

    /// Whether one more request may begin.
    pub(crate) fn allows_request(&self) -> bool {
        self.share.allows_request(&self.live.config.limits)
    }

    /// A retry more, if there may be.
    pub(crate) fn retry(&self) -> Option<Retrying> {
        self.share.retry(&self.live.config.limits)
    }

    pub(crate) fn counters(&self, worker: &Worker, listener: &Arc<str>) -> Arc<RouteCounters> {
        let mut counters = self.counters.borrow_mut();
        if let Some((_, held)) = counters.iter().find(|(name, _)| Arc::ptr_eq(name, listener)) {
            return Arc::clone(held);
        }
        let added = worker.counters(listener, &self.live.name);
        counters.push((Arc::clone(listener), Arc::clone(&added)));
        added
    }
}

/// Where hosts or localities take turns, each worker begins with another.
pub(crate) fn turns(live: &LiveCluster) -> Box<[Cell<u64>]> {
    let turns = match &live.subsets {
        Some(subsets) => subsets.turns,
        None => {
            let endpoints = || live.hosts.iter().map(|live| &live.endpoint);
            let priorities = endpoints().map(|endpoint| endpoint.priority + 1).max();
            let localities = || endpoints().map(|endpoint| endpoint.locality.nth + 1).max();
            let localities = live.config.is_by_locality.then(|| localities().unwrap_or(0));
            live.config.balancer.turns(priorities.unwrap_or(0), localities)
        }
    };
    if turns == 0 {
        return Box::default();
    }
    let random = Random::new();
    let first = || Cell::new(random.below(u32::MAX).into());
    (0..turns).map(|_| first()).collect()
}

impl Random {
    /// The same draws for the same seed.
    #[cfg(test)]
    pub(crate) fn seeded(seed: u64) -> Self {
        Self(Cell::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1))
    }

    pub(crate) fn new() -> Self {
        // A zero state would stay zero.
        Self(Cell::new(RandomState::new().hash_one(0u8) | 1))
    }

    pub(crate) fn next(&self) -> u64 {
        let mut x = self.0.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.0.set(x);
        x.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// In `0.0..1.0`.
    pub(crate) fn share(&self) -> f64 {
        // 53 bits fill a double's mantissa.
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

impl Draw for Random {
    fn below(&self, bound: u32) -> u32 {
        // The high 32 bits scaled down; the bias is below 2⁻³² × bound.
        u32::try_from(((self.next() >> 32) * u64::from(bound)) >> 32).unwrap_or(0)
    }
}
