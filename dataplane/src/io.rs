//! Sockets with something to them. One can be broken from outside: how a request in flight on a host that has been declared
//! dead is reset, without any bookkeeping per request. The other begins with what was read of it before.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::h1::Buffer;
use crate::pool::Connected;
use crate::stream::{Reader, Stream, Writer, writes_by};

/// An upstream connection's bytes.
pub(crate) struct BreakableIo {
    inner: Stream,
    breaker: Rc<Breaker>,
    _connected: Connected,
}

/// A client's connection whose first bytes were read to tell what it speaks.
pub(crate) struct RewoundIo<T> {
    first: Buffer,
    inner: T,
}

/// Breaks its connection once: reads and writes fail from then on.
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    broken: Cell<bool>,
    reader: RefCell<Option<Waker>>,
}

impl BreakableIo {
    pub(crate) fn new(stream: Stream, connected: Connected) -> (Self, Rc<Breaker>) {
        let breaker = Rc::new(Breaker::default());
        (
            Self {
                inner: stream,
                breaker: Rc::clone(&breaker),
                _connected: connected,
            },
            breaker,
        )
    }
}

impl Breaker {
    pub(crate) fn break_now(&self) {
        self.broken.set(true);
        let reader = self.reader.borrow_mut().take();
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// Ready once it is broken.
    pub(crate) fn poll_broken(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.remember(cx.waker());
        if self.broken.get() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    fn check(&self) -> io::Result<()> {
        if self.broken.get() {
            Err(io::ErrorKind::ConnectionReset.into())
        } else {
            Ok(())
        }
    }

    fn remember(&self, waker: &Waker) {
        let mut reader = self.reader.borrow_mut();
        if !reader.as_ref().is_some_and(|held| held.will_wake(waker)) {
            *reader = Some(waker.clone());
        }
    }
}

impl BreakableIo {
    /// Whether nothing has come since the last message, not even the connection's end, as far as the runtime has heard: the
    /// socket itself is not asked, which would be a system call per request and decide no race.
    pub(crate) fn is_quiet(&self) -> bool {
        self.breaker.check().is_ok() && self.inner.is_quiet()
    }

    pub(crate) fn breaker(&self) -> &Rc<Breaker> {
        &self.breaker
    }

    /// Makes its end a reset.
    pub(crate) fn set_zero_linger(&self) -> io::Result<()> {
        self.inner.set_zero_linger()
    }

    /// For those who look at the breaker themselves.
    pub(crate) fn split(&mut self) -> (Reader<'_>, Writer<'_>) {
        self.inner.split()
    }

    /// Whether it was broken from outside.
    pub(crate) fn is_broken(&self) -> bool {
        self.breaker.broken.get()
    }
}

impl AsyncRead for BreakableIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.breaker.check()?;
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        if read.is_pending() {
            self.breaker.remember(cx.waker());
        }
        read
    }
}

impl AsyncWrite for BreakableIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.breaker.check()?;
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.breaker.check()?;
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }
}

impl<T> RewoundIo<T> {
    pub(crate) fn new(first: Buffer, inner: T) -> Self {
        Self { first, inner }
    }

    pub(crate) fn inner(&self) -> &T {
        &self.inner
    }
}

impl RewoundIo<TcpStream> {
    pub(crate) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            self.inner.poll_read_ready(cx)
        } else {
            Poll::Ready(Ok(()))
        }
    }
}

impl RewoundIo<Stream> {
    pub(crate) fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.inner.try_write(bytes)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for RewoundIo<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, buf);
        }
        let read = self.first.filled().len().min(buf.remaining());
        buf.put_slice(&self.first.filled()[..read]);
        self.first.consume(read);
        self.first.rest();
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for RewoundIo<T> {
    writes_by! {
        Self { inner, .. } => inner,
    }
}
