//! Who may open a connection to a host, and who waits until one is free. The limits are of the whole cluster; who waits does so
//! for connections of one host and one worker, of which there is always one, and first come is first served.

use std::cell::Cell;
use std::rc::Rc;

use tokio::sync::Notify;

use crate::breaker::{Limits, Pending, Share};

/// A worker's connections to one host.
pub(crate) struct Turns {
    pub(super) share: Share,
    open: Cell<u32>,
    waiting: Cell<u32>,
    free: Notify,
}

/// A connection, or the attempt to open it; counts until dropped.
pub(crate) struct Connected(Rc<Turns>);

/// Counts one who waits.
struct Waiting<'a>(&'a Turns);

impl Turns {
    pub(super) fn new(share: Share) -> Rc<Self> {
        Rc::new(Self {
            share,
            open: Cell::new(0),
            waiting: Cell::new(0),
            free: Notify::new(),
        })
    }

    /// A place among those without a connection, if there is one.
    pub(super) fn pend(&self, limits: &Limits) -> Option<Pending> {
        self.share.pend(limits)
    }

    /// Whether somebody came before, and has no connection yet.
    pub(super) fn is_queue(&self) -> bool {
        self.waiting.get() > 0
    }

    /// The right to open a connection, if there may be one more. A host without any may have one whatever the others have.
    pub(super) fn open(self: &Rc<Self>, limits: &Limits) -> Option<Connected> {
        self.may_open(limits).then(|| self.replace())
    }

    /// The right to open a connection in place of one that is closed for it.
    pub(super) fn replace(self: &Rc<Self>) -> Connected {
        self.share.connected();
        self.open.set(self.open.get() + 1);
        Connected(Rc::clone(self))
    }

    /// Behind those who wait, if any do.
    pub(super) async fn queue(&self, limits: &Limits) {
        if self.is_queue() {
            // Other hosts may have left room that nobody here has heard of.
            if self.may_open(limits) {
                self.free.notify_one();
            }
            self.wait().await;
        }
    }

    /// Until a connection may be free.
    pub(super) async fn wait(&self) {
        let waiting = Waiting::new(self);
        self.free.notified().await;
        drop(waiting);
    }

    /// A connection may be free, or there may be another one.
    pub(super) fn wake(&self) {
        if self.is_queue() {
            self.free.notify_one();
        }
    }

    /// There is room for many.
    pub(super) fn wake_all(&self) {
        self.free.notify_waiters();
    }

    fn may_open(&self, limits: &Limits) -> bool {
        self.open.get() == 0 || self.share.allows_connection(limits)
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        let Self(turns) = self;
        turns.share.disconnected();
        turns.open.set(turns.open.get() - 1);
        turns.wake();
    }
}

impl<'a> Waiting<'a> {
    fn new(turns: &'a Turns) -> Self {
        turns.waiting.set(turns.waiting.get() + 1);
        Self(turns)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get() - 1);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::breaker::Load;

    fn limits(connections_max: u32) -> Limits {
        Limits {
            connections_max,
            ..Limits::DEFAULT
        }
    }

    #[test]
    fn a_host_without_a_connection_may_have_one() {
        let load = Load::new(1);
        let hosts = [(); 2].map(|()| Turns::new(Share::new(&load, 0)));
        let first = hosts[0].open(&limits(1)).unwrap();
        assert!(hosts[0].open(&limits(1)).is_none());
        let other = hosts[1].open(&limits(1)).unwrap();
        assert!(hosts[1].open(&limits(2)).is_none(), "those of both count");
        drop(first);
        assert!(hosts[1].open(&limits(2)).is_some());
        assert!(hosts[0].open(&limits(0)).is_some());
        drop(other);
    }

    #[test]
    fn who_came_first_is_woken_first() {
        let turns = Turns::new(Share::new(&Load::new(1), 0));
        let held = turns.open(&limits(1)).unwrap();
        let mut first = Box::pin(turns.wait());
        let limits = limits(1);
        let mut second = Box::pin(turns.queue(&limits));
        assert!((&mut first).now_or_never().is_none());
        assert!((&mut second).now_or_never().is_none());
        assert_eq!(turns.waiting.get(), 2);
        drop(held);
        assert!((&mut second).now_or_never().is_none());
        // One who is woken and leaves wakes the next.
        drop(first);
        assert!((&mut second).now_or_never().is_some());
        assert!(!turns.is_queue());
        assert!(turns.queue(&limits).now_or_never().is_some(), "nobody waits");
    }

    #[test]
    fn who_comes_when_others_have_left_room_wakes_who_waits() {
        let load = Load::new(1);
        let (turns, other) = (Turns::new(Share::new(&load, 0)), Turns::new(Share::new(&load, 0)));
        let (_held, others) = (turns.open(&limits(1)).unwrap(), other.open(&limits(1)).unwrap());
        let mut first = Box::pin(turns.wait());
        assert!((&mut first).now_or_never().is_none());
        drop(others);
        assert!(turns.queue(&limits(2)).now_or_never().is_none(), "it came later");
        assert!((&mut first).now_or_never().is_some());
    }
}
