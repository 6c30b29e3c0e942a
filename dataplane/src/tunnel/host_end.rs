//! The host's end of a tunnel: a connection, or a stream of HTTP/2 on one.

use std::cell::RefCell;
use std::rc::Rc;

use crate::http2::Duplex;
use crate::io::{BreakableIo, Breaker};
use crate::stream::{Reader, Writer};

pub(super) enum HostEnd {
    Connection(BreakableIo),
    /// With the connection that is there for it alone.
    Stream(RefCell<Duplex>, Rc<Breaker>),
}

impl HostEnd {
    /// Of a host that is declared dead. A stream is told of that by its connection, which alone may wait for its breaker.
    pub(super) fn breaker(&self) -> Rc<Breaker> {
        match self {
            Self::Connection(io) => Rc::clone(io.breaker()),
            Self::Stream(..) => Rc::default(),
        }
    }

    pub(super) fn split(&mut self) -> (Reader<'_>, Writer<'_>) {
        match self {
            Self::Connection(io) => io.split(),
            Self::Stream(stream, _) => (Reader::Stream(stream), Writer::Stream(stream)),
        }
    }

    /// Makes its end a reset. There may be nothing any more that could end so.
    pub(super) fn break_off(&mut self) {
        match self {
            Self::Connection(io) => {
                let _ = io.set_zero_linger();
            }
            Self::Stream(stream, breaker) => {
                stream.get_mut().reset();
                // A host that reads nothing would not hear of it, and hold the connection.
                breaker.break_now();
            }
        }
    }
}
