//! What the main runtime tells a worker: commands, in their order, and the hosts that were declared dead, which are kept until the
//! worker has looked at them, however busy it is.

use std::collections::BTreeSet;
use std::io;
use std::mem;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, mpsc, oneshot};

use crate::listener::Leaving;
use crate::overload::Level;
use crate::snapshot::{Difference, Snapshot};

/// Commands that may wait for a worker, which takes them between two requests.
const COMMANDS_QUEUED_MAX: usize = 1024;

pub(crate) enum Command {
    /// Run this snapshot, which differs from the one before in this; `sockets` are the listeners that are new in it.
    Apply {
        snapshot: Arc<Snapshot>,
        difference: Arc<Difference>,
        sockets: Vec<(Arc<str>, Vec<TcpListener>)>,
        done: oneshot::Sender<()>,
    },
    /// Stop accepting, finish what is in flight, then say so.
    Drain {
        leaving: Leaving,
        done: oneshot::Sender<()>,
    },
    /// Give the sockets that are listened on, to another process that will as well.
    Share {
        give: oneshot::Sender<io::Result<Vec<OwnedFd>>>,
    },
    /// Memory is so near to its limit.
    Level(Level),
    /// Hand on the lines of what has ended.
    Flush { done: oneshot::Sender<()> },
}

pub(crate) enum Order {
    Run(Command),
    /// Health checks declared these dead, and their clusters want their connections closed.
    Break(BTreeSet<u64>),
}

/// The main runtime's end.
#[derive(Clone)]
pub(crate) struct Remote {
    commands: mpsc::Sender<Command>,
    dead: Arc<DeadHosts>,
}

/// A worker's end.
pub(crate) struct Orders {
    commands: mpsc::Receiver<Command>,
    dead: Arc<DeadHosts>,
}

/// By their ids; there can be no more than there are hosts.
#[derive(Default)]
struct DeadHosts {
    hosts: Mutex<BTreeSet<u64>>,
    told: Notify,
}

pub(crate) fn orders() -> (Remote, Orders) {
    let (sender, commands) = mpsc::channel(COMMANDS_QUEUED_MAX);
    let dead = Arc::<DeadHosts>::default();
    let remote = Remote {
        commands: sender,
        dead: Arc::clone(&dead),
    };
    (remote, Orders { commands, dead })
}

impl Remote {
    /// Whether the worker is there to take it.
    pub(crate) async fn send(&self, command: Command) -> bool {
        self.commands.send(command).await.is_ok()
    }

    /// The worker resets what is in flight on it, as soon as it looks.
    pub(crate) fn declare_dead(&self, host: u64) {
        self.dead.set().insert(host);
        self.dead.told.notify_one();
    }
}

impl Orders {
    /// None when there is nobody left to give any.
    pub(crate) async fn next(&mut self) -> Option<Order> {
        tokio::select! {
            command = self.commands.recv() => command.map(Order::Run),
            () = self.dead.told.notified() => Some(Order::Break(mem::take(&mut *self.dead.set()))),
        }
    }
}

impl DeadHosts {
    fn set(&self) -> std::sync::MutexGuard<'_, BTreeSet<u64>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_dead_host_is_forgotten_however_late_the_worker_looks() {
        let (remote, mut orders) = orders();
        let hosts = COMMANDS_QUEUED_MAX as u64 * 2;
        for host in (0..hosts).chain(0..hosts) {
            remote.declare_dead(host);
        }
        let Some(Order::Break(dead)) = orders.next().await else {
            unreachable!("nothing else was said");
        };
        assert_eq!(dead, (0..hosts).collect());
        remote.declare_dead(7);
        assert!(matches!(orders.next().await, Some(Order::Break(dead)) if dead == [7].into()));
        drop(remote);
        assert!(orders.next().await.is_none());
    }
}
