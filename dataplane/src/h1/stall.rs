//! How long a body may stand still, in either direction and whoever is to blame.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::AsyncWrite;
use tokio::time::Sleep;

/// Without a byte of a body moved the exchange is given up; Envoy's idle timeout of a stream, where none is given.
pub(crate) const BODY_TIMEOUT: Duration = Duration::from_secs(300);

/// How much has moved, and when the last of it did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    bytes: u64,
    at: Instant,
}

/// Fails once nothing of what is written has been taken for a while.
pub(crate) struct TimeoutWriter<W> {
    inner: W,
    timeout: Duration,
    /// While nothing is taken; a timer that nearly no write needs.
    blocked: Option<Pin<Box<Sleep>>>,
}

impl Progress {
    pub(crate) fn new(bytes: u64, at: Instant) -> Self {
        Self { bytes, at }
    }

    /// To be told how much has moved whenever no more of it does.
    pub(crate) fn note(&mut self, bytes: u64) {
        if bytes != self.bytes {
            *self = Self::new(bytes, Instant::now());
        }
    }

    /// When the last of it moved.
    pub(crate) fn at(&self) -> Instant {
        self.at
    }
}

impl<W> TimeoutWriter<W> {
    pub(crate) fn new(inner: W, timeout: Duration) -> Self {
        Self {
            inner,
            timeout,
            blocked: None,
        }
    }

    fn bounded<T>(&mut self, polled: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.blocked = None;
            return polled;
        }
        let timeout = self.timeout;
        let blocked = self
            .blocked
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        ready!(blocked.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for TimeoutWriter<W> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.bounded(polled, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.bounded(polled, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_flush(cx);
        self.bounded(polled, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.bounded(polled, cx)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_write_may_be_slow_but_not_stand_still() {
        let (to, mut from) = tokio::io::duplex(1);
        let mut writer = TimeoutWriter::new(to, BODY_TIMEOUT);
        let mut taken = [0; 5];
        let (written, read) = tokio::join!(writer.write_all(b"slowly"), from.read_exact(&mut taken));
        written.unwrap();
        read.unwrap();
        assert!(writer.blocked.is_none(), "the time begins anew with each byte");
        writer.timeout = Duration::ZERO;
        let error = writer.write_all(b"!").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn what_moves_gains_time() {
        let long_ago = Instant::now();
        let mut progress = Progress::new(5, long_ago);
        progress.note(5);
        assert_eq!(progress.at(), long_ago);
        while Instant::now() == long_ago {}
        progress.note(6);
        assert!(progress.at() > long_ago);
    }
}
