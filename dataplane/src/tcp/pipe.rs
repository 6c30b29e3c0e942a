//! One direction of a connection that is passed on. Where both ends are sockets the kernel moves the bytes through a pipe
//! (splice(2)), which is held only while there is something in it; else, or where no pipe is to be had, they are copied.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};
use tokio::io::{AsyncWrite, Interest};
use tokio::net::TcpStream;

use crate::h1::Buffer;
use crate::overload::{Held, Pressure};
use crate::stream::{Reader, Writer};

/// What is asked of the kernel at once. A pipe has sixteen places of a page by default, and a page of a socket may be 32 KiB.
const SPLICE_BYTES_MAX: usize = 512 * 1024;
/// Pipes that are kept for the next connections of a worker: a quarter of what a user may have before the kernel makes
/// smaller ones, with four workers...
const SPARE_MAX: usize = 64;
/// ...and one in so many of the descriptors that clients may have, since those of spare pipes are theirs as well.
const SPARE_SHARE: usize = 8;
/// Both ends of a pipe.
const PIPE_DESCRIPTORS: usize = 2;

/// A worker's spare pipes, all empty.
pub(crate) struct Pipes {
    spare: RefCell<Vec<Pipe>>,
    spare_max: usize,
    pressure: Rc<Pressure>,
}

/// Which side has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    Source,
    Sink,
}

pub(crate) struct Way<'a> {
    from: Reader<'a>,
    to: Writer<'a>,
    /// What was read before, or is copied.
    buffer: Buffer,
    pipes: Rc<Pipes>,
    /// With how much is in it, which is never nothing.
    full: Option<(Pipe, usize)>,
    copies: bool,
    state: State,
    moved: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// The source has ended, and the sink is to hear of it.
    Ending,
    Ended,
}

struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    _held: Held,
}

impl Pipes {
    pub(crate) fn new(pressure: &Rc<Pressure>) -> Self {
        Self {
            spare: RefCell::default(),
            spare_max: SPARE_MAX.min(pressure.part() / SPARE_SHARE / PIPE_DESCRIPTORS),
            pressure: Rc::clone(pressure),
        }
    }

    /// None where descriptors are short: who is there can do without, and who comes cannot.
    fn take(&self) -> io::Result<Pipe> {
        if let Some(pipe) = self.spare.borrow_mut().pop() {
            return Ok(pipe);
        }
        if !self.pressure.fits(PIPE_DESCRIPTORS) {
            return Err(Errno::MFILE.into());
        }
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(Pipe {
            reader,
            writer,
            _held: self.pressure.hold(PIPE_DESCRIPTORS),
        })
    }

    fn give(&self, pipe: Pipe) {
        let mut spare = self.spare.borrow_mut();
        if spare.len() < self.spare_max {
            spare.push(pipe);
        }
    }
}

impl<'a> Way<'a> {
    /// `first` goes before what is still to come.
    pub(crate) fn new(from: Reader<'a>, to: Writer<'a>, first: Buffer, pipes: &Rc<Pipes>) -> Self {
        Self {
            from,
            to,
            buffer: first,
            pipes: Rc::clone(pipes),
            full: None,
            copies: false,
            state: State::Open,
            moved: 0,
        }
    }

    /// Bytes that were written.
    pub(super) fn moved(&self) -> u64 {
        self.moved
    }

    /// Ready when the source has ended and the sink knows.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        loop {
            ready!(self.poll_write(cx)).map_err(|_| Broken::Sink)?;
            match self.state {
                State::Open => {}
                State::Ending => {
                    ready!(poll_end(&mut self.to, cx)).map_err(|_| Broken::Sink)?;
                    self.state = State::Ended;
                }
                State::Ended => return Poll::Ready(Ok(())),
            }
            if self.state == State::Open {
                let Poll::Ready(read) = self.poll_read(cx) else {
                    self.buffer.rest();
                    // What the sink has taken and holds itself goes on meanwhile.
                    return match Pin::new(&mut self.to).poll_flush(cx) {
                        Poll::Ready(Err(_)) => Poll::Ready(Err(Broken::Sink)),
                        Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
                    };
                };
                if read.map_err(|_| Broken::Source)? == 0 {
                    self.state = State::Ending;
                }
            }
        }
    }

    /// Writes what was read.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.buffer.is_empty() {
            let written = ready!(Pin::new(&mut self.to).poll_write(cx, self.buffer.filled()))?;
            self.wrote(written)?;
            self.buffer.consume(written);
        }
        while let Some((pipe, left)) = &mut self.full
            && let Writer::Plain(to) = &self.to
        {
            let socket = to.as_ref();
            ready!(socket.poll_write_ready(cx))?;
            let spliced = spliced(socket, Interest::WRITABLE, || {
                splice(
                    &pipe.reader,
                    None,
                    socket,
                    None,
                    *left,
                    SpliceFlags::NONBLOCK | SpliceFlags::MOVE,
                )
            });
            let Some(written) = spliced? else { continue };
            *left -= written;
            if *left == 0
                && let Some((pipe, _)) = self.full.take()
            {
                self.pipes.give(pipe);
            }
            self.wrote(written)?;
        }
        Poll::Ready(Ok(()))
    }

    fn wrote(&mut self, bytes: usize) -> io::Result<()> {
        self.moved += bytes as u64;
        if bytes == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        Ok(())
    }

    /// Reads once; 0 is the end.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let (Reader::Plain(from), Writer::Plain(_), false) = (&mut self.from, &self.to, self.copies) else {
            return self.buffer.poll_fill(&mut self.from, cx);
        };
        let socket: &TcpStream = from.as_ref();
        loop {
            ready!(socket.poll_read_ready(cx))?;
            let Ok(pipe) = self.pipes.take() else {
                self.copies = true;
                return self.buffer.poll_fill(&mut self.from, cx);
            };
            let spliced = spliced(socket, Interest::READABLE, || {
                let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
                splice(socket, None, &pipe.writer, None, SPLICE_BYTES_MAX, flags)
            });
            match spliced? {
                None => self.pipes.give(pipe),
                Some(0) => {
                    self.pipes.give(pipe);
                    return Poll::Ready(Ok(0));
                }
                Some(read) => {
                    self.full = Some((pipe, read));
                    return Poll::Ready(Ok(read));
                }
            }
        }
    }
}

/// `None` where the socket is not ready after all, which the runtime is told.
fn spliced(
    socket: &TcpStream,
    interest: Interest,
    splice: impl FnOnce() -> rustix::io::Result<usize>,
) -> io::Result<Option<usize>> {
    match socket.try_io(interest, || splice().map_err(io::Error::from)) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// Says that nothing follows. Who has left already has heard enough.
fn poll_end(to: &mut Writer<'_>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    let ended = ready!(Pin::new(to).poll_shutdown(cx));
    Poll::Ready(ended.or_else(|error| match error.kind() {
        io::ErrorKind::NotConnected => Ok(()),
        _ => Err(error),
    }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::overload::Shared;

    #[test]
    fn pipes_are_had_while_there_is_room_and_some_are_kept() {
        // A quarter is spared.
        let shared = Shared::new(2, 1024);
        let [one, other] = [0, 1].map(|worker| Rc::new(Pressure::new(Arc::clone(&shared), worker)));
        let pipes = Pipes::new(&one);
        let taken: Vec<Pipe> = std::iter::from_fn(|| pipes.take().ok()).collect();
        assert_eq!(taken.len(), 768 / PIPE_DESCRIPTORS);
        assert!(!other.has_room() && Pipes::new(&other).take().is_err());
        taken.into_iter().for_each(|pipe| pipes.give(pipe));
        // An eighth of this worker's half.
        assert_eq!(pipes.spare.borrow().len(), 768 / 2 / 8 / PIPE_DESCRIPTORS);
        assert!(other.fits(768 - 768 / 2 / 8) && !other.fits(768 - 768 / 2 / 8 + 1));
        assert!(pipes.take().is_ok());
        drop(pipes);
        assert!(other.fits(768));
    }

    #[test]
    fn where_there_are_many_descriptors_a_quarter_of_what_the_kernel_gives_is_kept() {
        let pressure = Rc::new(Pressure::new(Shared::new(4, 1 << 20), 0));
        assert_eq!(Pipes::new(&pressure).spare_max, SPARE_MAX);
    }
}
