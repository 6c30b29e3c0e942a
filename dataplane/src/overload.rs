//! What becomes of a proxy that nears its limits, as an Envoy's overload manager has it: of memory, requests are refused and idle
//! connections closed before the kernel ends the process; of descriptors, connections are turned away so that those that are there
//! have their hosts. Each limit says when it begins and when it is over. What is counted here costs a connection a store, and a
//! request nothing that is shared.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures::FutureExt;
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::orders::{Command, Remote};

mod memory;
mod watch;

pub(crate) use watch::watch;

/// How often memory is looked at, and who was turned away.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Of the descriptors that a process may have, one in so many is for connections to hosts, which `circuit_breakers` bound, and files...
const SPARED_SHARE: u64 = 4;
/// ...and so many at least: those that every process has, and some hosts.
const SPARED_MIN: u64 = 128;

/// How near memory is to its limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    #[default]
    Calm,
    /// Requests are refused, and connections end behind what they have under way.
    Shedding,
    /// No connection is accepted either.
    Closed,
}

/// Percent of the limit at which each begins, and below which it is over: so far apart that what ends with the requests that
/// are refused does not bring all of them back at once.
const SHEDDING: (u64, u64) = (90, 85);
const CLOSED: (u64, u64) = (95, 90);

impl Level {
    /// With so much of it used.
    pub(crate) fn next(self, used: u64, limit: u64) -> Self {
        let percent = u128::from(used) * 100 / u128::from(limit.max(1));
        let is_at =
            |(begin, end): (u64, u64), was: bool| percent >= u128::from(if was { end } else { begin });
        if is_at(CLOSED, self == Self::Closed) {
            Self::Closed
        } else if is_at(SHEDDING, self >= Self::Shedding) {
            Self::Shedding
        } else {
            Self::Calm
        }
    }
}

/// What all workers know: how many descriptors each has for its clients, and how many there may be, which is as many connections.
#[derive(Debug)]
pub(crate) struct Shared {
    connections_max: usize,
    open: Box<[Open]>,
    gauges: Gauges,
}

/// Of one worker, which alone writes it; on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Open {
    descriptors: AtomicUsize,
    turned_away: AtomicU64,
}

/// For metrics.
#[derive(Debug, Default)]
struct Gauges {
    memory_bytes: AtomicU64,
    /// 0 where there is none.
    memory_limit_bytes: AtomicU64,
    /// Of all that is in this process's group, and as much as it may become; 0 where no group has a limit.
    group_memory_bytes: AtomicU64,
    group_memory_limit_bytes: AtomicU64,
    level: AtomicU64,
}

/// What is told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Figures {
    pub(crate) connections_max: u64,
    pub(crate) memory_bytes: u64,
    pub(crate) memory_limit_bytes: u64,
    pub(crate) group_memory_bytes: u64,
    pub(crate) group_memory_limit_bytes: u64,
    pub(crate) sheds_requests: bool,
    pub(crate) accepts_nobody: bool,
}

/// A worker's side of it.
pub(crate) struct Pressure {
    shared: Arc<Shared>,
    worker: usize,
    level: Cell<Level>,
    /// Clients' connections, and what is held for them besides.
    descriptors: Cell<usize>,
    changed: Notify,
    /// Stands for a descriptor when there is no other one left.
    spare: RefCell<Option<File>>,
}

/// Descriptors that count as clients' for as long as it lives.
pub(crate) struct Held {
    pressure: Rc<Pressure>,
    descriptors: usize,
}

/// Raises the number of descriptors that this process may have as far as it may, and returns it.
pub(crate) fn raise_descriptors() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let (Some(current), maximum) = (limit.current, limit.maximum) else {
        return u64::MAX;
    };
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    if limit.current == maximum || setrlimit(Resource::Nofile, raised).is_err() {
        return current;
    }
    maximum.unwrap_or(u64::MAX)
}

/// Of clients, where a process may have so many descriptors.
fn connections_max(descriptors: u64) -> usize {
    let spared = (descriptors / SPARED_SHARE).max(SPARED_MIN);
    // Whoever allows for less than that serves somebody all the same.
    let left = descriptors.saturating_sub(spared).max(1);
    usize::try_from(left).unwrap_or(usize::MAX)
}

impl Shared {
    pub(crate) fn new(workers: usize, descriptors: u64) -> Arc<Self> {
        Arc::new(Self {
            connections_max: connections_max(descriptors),
            open: (0..workers).map(|_| Open::default()).collect(),
            gauges: Gauges::default(),
        })
    }

    pub(crate) fn figures(&self) -> Figures {
        let level = self.gauges.level.load(Ordering::Relaxed);
        Figures {
            connections_max: self.connections_max as u64,
            memory_bytes: self.gauges.memory_bytes.load(Ordering::Relaxed),
            memory_limit_bytes: self.gauges.memory_limit_bytes.load(Ordering::Relaxed),
            group_memory_bytes: self.gauges.group_memory_bytes.load(Ordering::Relaxed),
            group_memory_limit_bytes: self.gauges.group_memory_limit_bytes.load(Ordering::Relaxed),
            sheds_requests: level >= Level::Shedding as u64,
            accepts_nobody: level >= Level::Closed as u64,
        }
    }

    fn descriptors(&self) -> usize {
        let open = self.open.iter();
        open.map(|open| open.descriptors.load(Ordering::Relaxed)).sum()
    }

    fn turned_away(&self) -> u64 {
        let open = self.open.iter();
        open.map(|open| open.turned_away.load(Ordering::Relaxed)).sum()
    }
}

impl Pressure {
    pub(crate) fn new(shared: Arc<Shared>, worker: usize) -> Self {
        Self {
            shared,
            worker,
            level: Cell::default(),
            descriptors: Cell::default(),
            changed: Notify::new(),
            spare: RefCell::new(spare()),
        }
    }

    /// Whether it is another one than before.
    pub(crate) fn set(&self, level: Level) -> bool {
        if self.level.replace(level) == level {
            return false;
        }
        self.changed.notify_waiters();
        true
    }

    /// Whether requests are refused, and idle connections closed.
    pub(crate) fn sheds(&self) -> bool {
        self.level.get() >= Level::Shedding
    }

    /// Ready while connections may be accepted.
    pub(crate) async fn accepts(&self) {
        self.until(|level| level < Level::Closed).await;
    }

    /// Ready while none may.
    pub(crate) async fn closes(&self) {
        self.until(|level| level == Level::Closed).await;
    }

    async fn until(&self, is_so: impl Fn(Level) -> bool) {
        loop {
            let changed = self.changed.notified();
            if is_so(self.level.get()) {
                return;
            }
            changed.await;
        }
    }

    /// A connection of a client has begun.
    pub(crate) fn has_begun(&self) {
        self.has(self.descriptors.get() + 1);
    }

    /// What a client's connection costs besides its own descriptor: that of a host's, where each has one of its own, or a pipe's.
    pub(crate) fn hold(self: &Rc<Self>, descriptors: usize) -> Held {
        self.has(self.descriptors.get() + descriptors);
        Held {
            pressure: Rc::clone(self),
            descriptors,
        }
    }

    fn has(&self, descriptors: usize) {
        self.descriptors.set(descriptors);
        let open = &self.shared.open[self.worker].descriptors;
        open.store(descriptors, Ordering::Relaxed);
    }

    /// Whether so many more may be held.
    pub(crate) fn fits(&self, descriptors: usize) -> bool {
        self.shared.descriptors() + descriptors <= self.shared.connections_max
    }

    /// Of what there may be, this worker's part.
    pub(crate) fn part(&self) -> usize {
        self.shared.connections_max / self.shared.open.len()
    }

    /// A connection has ended, and may have left a descriptor for the next who is to be turned away.
    pub(crate) fn has_ended(&self) {
        self.has(self.descriptors.get() - 1);
        let mut held = self.spare.borrow_mut();
        if held.is_none() {
            *held = spare();
        }
    }

    /// Whether there may be one more.
    pub(crate) fn has_room(&self) -> bool {
        let has_room = self.fits(1);
        if !has_room {
            self.turned_away();
        }
        has_room
    }

    /// Whether that was for want of descriptors, and whoever waited longest is turned away: else it would wait, and `accept` fail at
    /// once, for as long as there is none.
    pub(crate) fn turns_away(&self, error: &std::io::Error, socket: &TcpListener) -> bool {
        let is_want =
            Errno::from_io_error(error).is_some_and(|error| matches!(error, Errno::MFILE | Errno::NFILE));
        if !is_want {
            return false;
        }
        drop(self.spare.borrow_mut().take());
        let accepted = socket.accept().now_or_never();
        let was_turned_away = matches!(accepted, Some(Ok(_)));
        drop(accepted);
        *self.spare.borrow_mut() = spare();
        if was_turned_away {
            self.turned_away();
        }
        was_turned_away
    }

    fn turned_away(&self) {
        let count = &self.shared.open[self.worker].turned_away;
        count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let pressure = &self.pressure;
        pressure.has(pressure.descriptors.get() - self.descriptors);
    }
}

/// Whether there was no socket, or no memory for one, to be had here: it says nothing of who was to be reached.
pub(crate) fn is_own_want(error: &std::io::Error) -> bool {
    Errno::from_io_error(error)
        .is_some_and(|error| matches!(error, Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM))
}

fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}

async fn tell(workers: &[Remote], level: Level) {
    for worker in workers {
        // One that is gone has nothing to shed.
        worker.send(Command::Level(level)).await;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_level_begins_higher_than_it_ends() {
        use Level::{Calm, Closed, Shedding};
        let cases = [
            // From below, and back.
            (Calm, 0, Calm),
            (Calm, 89, Calm),
            (Calm, 90, Shedding),
            (Calm, 94, Shedding),
            (Calm, 95, Closed),
            (Calm, 200, Closed),
            (Shedding, 94, Shedding),
            (Shedding, 95, Closed),
            (Shedding, 85, Shedding),
            (Shedding, 84, Calm),
            (Closed, 95, Closed),
            (Closed, 90, Closed),
            (Closed, 89, Shedding),
            (Closed, 85, Shedding),
            (Closed, 84, Calm),
        ];
        for (before, percent, expected) in cases {
            assert_eq!(before.next(percent, 100), expected, "{before:?} at {percent} %");
            // Of large limits as well, to the byte.
            let limit = 64 << 30;
            let used = (limit * percent).div_ceil(100);
            assert_eq!(before.next(used, limit), expected, "{before:?} at {percent} %");
        }
        assert_eq!(Calm.next(u64::MAX, u64::MAX), Closed);
        assert_eq!(Calm.next(0, 0), Calm);
    }

    #[test]
    fn descriptors_are_left_for_hosts() {
        for (descriptors, expected) in [
            (0, 1),
            (100, 1),
            (256, 128),
            (512, 384),
            (1024, 768),
            (20_000, 15_000),
            (1 << 20, 786_432),
        ] {
            assert_eq!(connections_max(descriptors), expected, "{descriptors}");
        }
        assert!(connections_max(u64::MAX) > 1 << 60);
    }

    #[test]
    fn workers_share_what_there_may_be() {
        let shared = Shared::new(2, 131);
        let [one, other] = [0, 1].map(|worker| Rc::new(Pressure::new(Arc::clone(&shared), worker)));
        one.has_begun();
        let host = one.hold(1);
        assert!(other.has_room() && other.fits(1) && !other.fits(2));
        other.has_begun();
        assert!(!one.has_room() && !other.has_room());
        assert_eq!(shared.turned_away(), 2);
        drop(host);
        assert!(one.has_room() && other.has_room());
        one.has_ended();
        assert!(one.fits(2) && !one.fits(3));
    }

    #[test]
    fn a_spare_descriptor_that_was_lost_is_had_again_once_a_connection_ends() {
        let pressure = Pressure::new(Shared::new(1, 1024), 0);
        drop(pressure.spare.take());
        pressure.has_begun();
        pressure.has_ended();
        assert!(pressure.spare.borrow().is_some());
    }

    #[test]
    fn what_is_wanting_here_says_nothing_of_a_host() {
        for (error, expected) in [
            (Errno::MFILE, true),
            (Errno::NFILE, true),
            (Errno::NOBUFS, true),
            (Errno::NOMEM, true),
            (Errno::CONNREFUSED, false),
            (Errno::HOSTUNREACH, false),
        ] {
            assert_eq!(is_own_want(&error.into()), expected, "{error}");
        }
    }

    #[tokio::test]
    async fn nobody_is_accepted_before_there_is_memory_again() {
        let pressure = Pressure::new(Shared::new(1, 1024), 0);
        assert!(pressure.accepts().now_or_never().is_some());
        assert!(pressure.set(Level::Closed) && !pressure.set(Level::Closed));
        assert!(pressure.closes().now_or_never().is_some());
        let mut accepts = std::pin::pin!(pressure.accepts());
        assert!(accepts.as_mut().now_or_never().is_none());
        assert!(pressure.set(Level::Shedding) && pressure.sheds());
        assert!(accepts.now_or_never().is_some());
        assert!(pressure.set(Level::Calm) && !pressure.sheds());
    }
}
