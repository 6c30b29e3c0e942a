//! A worker's connections of HTTP/2 to one host, and what each of them carries.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::client::{Connection, SendRequest};
use tokio::sync::Notify;

use super::turns::Turns;
use super::{Connecting, Sender};
use crate::io::BreakableIo;

/// Requests at once on a connection of HTTP/2 before its host has said how many it takes; what RFC 9113, section 6.5.2, asks hosts to take at least.
pub(super) const STREAMS_UNTOLD: usize = 100;

/// One of the requests that a connection of HTTP/2 carries, until dropped.
pub(crate) struct Place(Rc<Load>);

/// A host's connections of HTTP/2.
pub(super) struct Multiplexed {
    pub(super) opening: Option<Connecting>,
    pub(super) open: Vec<Carrier>,
    /// How many requests at once the host took of a connection when it last said so.
    pub(super) streams_max: Rc<Cell<usize>>,
}

/// A connection that carries many requests.
#[derive(Clone)]
pub(super) struct Carrier {
    sender: SendRequest<Bytes>,
    load: Rc<Load>,
}

/// What a connection carries, and may.
pub(super) struct Load {
    turns: Rc<Turns>,
    carried: Cell<usize>,
    /// Shared with the other connections to the host.
    max: Rc<Cell<usize>>,
    has_answered: Cell<bool>,
    /// The first answer has come, and before it what the host says of `max`.
    answered: Notify,
}

impl Default for Multiplexed {
    fn default() -> Self {
        Self {
            opening: None,
            open: Vec::new(),
            streams_max: Rc::new(Cell::new(STREAMS_UNTOLD)),
        }
    }
}

impl Multiplexed {
    pub(super) fn leave(&mut self) {
        self.opening = None;
        self.open.clear();
    }

    /// A place on a connection that has one.
    pub(super) fn sender(&mut self) -> Option<Sender> {
        while let Some(at) = self.open.iter().position(Carrier::has_room) {
            if !self.open[at].is_closed() {
                return Some(self.open[at].place());
            }
            self.open.swap_remove(at);
        }
        None
    }

    pub(super) fn has_room(&mut self) -> bool {
        self.open
            .iter_mut()
            .any(|carrier| carrier.has_room() && !carrier.is_closed())
    }

    /// A place on a new connection, if it still is one; there is one even if its host wants none.
    pub(super) fn first_place(&self, new: &Carrier) -> Option<Sender> {
        self.open
            .iter()
            .find(|carrier| Rc::ptr_eq(&carrier.load, &new.load))
            .filter(|carrier| carrier.is_idle() || carrier.has_room())
            .map(Carrier::place)
    }

    /// Closes a connection that nobody uses, if there is one.
    pub(super) fn close_idle(&mut self) -> bool {
        let idle = self.open.iter().position(Carrier::is_idle);
        idle.map(|idle| self.open.swap_remove(idle)).is_some()
    }

    /// Closes connections that nobody uses, but for one.
    pub(super) fn sweep(&mut self) {
        let mut idle = 0;
        self.open.retain(|carrier| {
            let is_idle = carrier.is_idle();
            idle += u32::from(is_idle);
            !is_idle || idle == 1
        });
    }
}

impl Carrier {
    pub(super) fn new(sender: SendRequest<Bytes>, load: Rc<Load>) -> Self {
        Self { sender, load }
    }

    /// Whether it has ended, or its host has said that it will.
    fn is_closed(&mut self) -> bool {
        let ready = self.sender.poll_ready(&mut Context::from_waker(Waker::noop()));
        matches!(ready, Poll::Ready(Err(_)))
    }

    fn is_idle(&self) -> bool {
        self.load.carried.get() == 0
    }

    fn has_room(&self) -> bool {
        self.load.carried.get() < self.load.max.get()
    }

    fn place(&self) -> Sender {
        self.load.carried.set(self.load.carried.get() + 1);
        Sender {
            connection: self.sender.clone(),
            place: Place(Rc::clone(&self.load)),
        }
    }
}

impl Load {
    pub(super) fn new(turns: &Rc<Turns>, max: Rc<Cell<usize>>) -> Rc<Self> {
        Rc::new(Self {
            turns: Rc::clone(turns),
            carried: Cell::new(0),
            max,
            has_answered: Cell::new(false),
            answered: Notify::new(),
        })
    }
}

impl Place {
    /// The host has answered, and before it said what it takes.
    pub(super) fn answered(&self) {
        if !self.0.has_answered.replace(true) {
            self.0.answered.notify_one();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.carried.set(self.0.carried.get() - 1);
        self.0.turns.wake();
    }
}

/// Runs a connection, and notes how many requests its host takes at once, as of its first answer and of each request.
pub(super) async fn carry(mut connection: Connection<BreakableIo, Bytes>, load: Rc<Load>) {
    let mut answered = pin!(load.answered.notified());
    let running = poll_fn(|cx| {
        let _asked_again = answered.as_mut().poll(cx);
        let ended = Pin::new(&mut connection).poll(cx);
        let max = connection.max_concurrent_send_streams();
        if max > load.max.replace(max) {
            load.turns.wake_all();
        }
        ended
    });
    if let Err(error) = running.await {
        tracing::debug!(
            error = &error as &dyn std::error::Error,
            "upstream connection ended"
        );
    }
}
