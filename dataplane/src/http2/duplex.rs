//! A stream of HTTP/2 that has become a connection.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub(crate) struct Duplex {
    received: RecvStream,
    /// Came, and was not read yet.
    piece: Bytes,
    sending: SendStream<Bytes>,
    is_host: bool,
}

impl Duplex {
    pub(crate) fn with_client(received: RecvStream, sending: SendStream<Bytes>) -> Self {
        Self {
            received,
            piece: Bytes::new(),
            sending,
            is_host: false,
        }
    }

    pub(crate) fn with_host(received: RecvStream, sending: SendStream<Bytes>) -> Self {
        Self {
            is_host: true,
            ..Self::with_client(received, sending)
        }
    }

    /// Breaks it off, so that nobody takes its end for one.
    pub(crate) fn reset(&mut self) {
        self.sending.send_reset(Reason::CANCEL);
    }

    /// Whether anybody takes what is sent. A host that has said all may read no more, without an error (RFC 9113, section 8.1): what
    /// it sends decides how that ends. A client that does so would be sent for nothing.
    fn is_read(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        match self.sending.poll_reset(cx) {
            Poll::Pending => Ok(true),
            Poll::Ready(Ok(Reason::NO_ERROR)) if self.is_host => Ok(false),
            Poll::Ready(reset) => Err(broken_off(reset)),
        }
    }
}

impl AsyncRead for Duplex {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.piece.is_empty() {
            match ready!(self.received.poll_data(cx)) {
                Some(piece) => self.piece = piece.map_err(io::Error::other)?,
                None => return Poll::Ready(Ok(())),
            }
        }
        let bytes = self.piece.len().min(buf.remaining());
        buf.put_slice(&self.piece[..bytes]);
        self.piece.advance(bytes);
        let room = self.received.flow_control().release_capacity(bytes);
        Poll::Ready(room.map_err(io::Error::other))
    }
}

impl AsyncWrite for Duplex {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if !self.is_read(cx)? {
            return Poll::Ready(Ok(buf.len()));
        }
        self.sending.reserve_capacity(buf.len());
        while self.sending.capacity() == 0 {
            match ready!(self.sending.poll_capacity(cx)) {
                Some(room) => room.map_err(io::Error::other)?,
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            };
        }
        let bytes = self.sending.capacity().min(buf.len());
        let piece = Bytes::copy_from_slice(&buf[..bytes]);
        let sent = self.sending.send_data(piece, false);
        Poll::Ready(sent.map(|()| bytes).map_err(io::Error::other))
    }

    /// What was sent is on its way; a client that takes the stream back is seen here too, where there is nothing to send.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.is_read(cx).map(|_| ()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_read(cx)? {
            return Poll::Ready(Ok(()));
        }
        let sent = self.sending.send_data(Bytes::new(), true);
        Poll::Ready(sent.map_err(io::Error::other))
    }
}

fn broken_off(reset: Result<Reason, h2::Error>) -> io::Error {
    io::Error::other(reset.map_or_else(|error| error, h2::Error::from))
}
