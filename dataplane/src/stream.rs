//! A connection to a client or a host, with or without TLS: one set of code serves both, and what is plain pays a branch for it.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio_rustls::{LazyConfigAcceptor, TlsStream};

use crate::h1::Buffer;
use crate::http2::Duplex;
use crate::io::RewoundIo;
use crate::tls::{Cipher, HostTls, LiveTls, Peer};

pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<RefCell<Tls>>),
}

/// What speaks TLS, on either side.
pub(crate) struct Tls(TlsStream<RewoundIo<TcpStream>>);

/// What is read of a connection while something else writes to it, both of one task.
pub(crate) enum Reader<'a> {
    Plain(ReadHalf<'a>),
    Tls(&'a RefCell<Tls>),
    /// Of HTTP/2.
    Stream(&'a RefCell<Duplex>),
}

pub(crate) enum Writer<'a> {
    Plain(WriteHalf<'a>),
    Tls(&'a RefCell<Tls>),
    /// Of HTTP/2.
    Stream(&'a RefCell<Duplex>),
}

impl Stream {
    /// Answers a client whose first bytes were read.
    pub(crate) async fn answer_tls(tls: &LiveTls, first: Buffer, stream: TcpStream) -> io::Result<Self> {
        let io = RewoundIo::new(first, stream);
        let asked = LazyConfigAcceptor::new(Acceptor::default(), io).await?;
        let config = tls.config(&asked.client_hello());
        Ok(Self::tls(asked.into_stream(config).await?.into()))
    }

    /// Asks a host for TLS.
    pub(crate) async fn ask_tls(tls: &HostTls, stream: TcpStream) -> io::Result<Self> {
        let host = stream.peer_addr()?.ip();
        let nothing = Buffer::new(&Rc::default());
        let asked = tls.connect(host, RewoundIo::new(nothing, stream)).await?;
        Ok(Self::tls(asked.into()))
    }

    fn tls(stream: TlsStream<RewoundIo<TcpStream>>) -> Self {
        Self::Tls(Box::new(RefCell::new(Tls(stream))))
    }

    /// Whether nothing has come that was not read, as far as the runtime has heard. What comes meanwhile is lost.
    pub(crate) fn is_quiet(&self) -> bool {
        let is_quiet = |stream: &TcpStream| {
            let seen = stream.try_read(&mut [0]);
            matches!(seen, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
        };
        match self {
            Self::Plain(stream) => is_quiet(stream),
            Self::Tls(tls) => {
                let tls = tls.borrow();
                let (io, session) = tls.0.get_ref();
                session.wants_read() && is_quiet(io.inner())
            }
        }
    }

    /// What both sides have agreed to speak, if they have.
    pub(crate) fn protocol(&mut self) -> Option<&[u8]> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(tls) => tls.get_mut().0.get_ref().1.alpn_protocol(),
        }
    }

    /// The name that a client has asked for.
    pub(crate) fn server_name(&mut self) -> Option<&str> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(tls) => match &tls.get_mut().0 {
                TlsStream::Server(stream) => stream.get_ref().1.server_name(),
                TlsStream::Client(_) => None,
            },
        }
    }

    /// Who a client is in TLS, by what it has shown and was believed.
    pub(crate) fn peer(&mut self) -> Option<Peer> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(tls) => match &tls.get_mut().0 {
                TlsStream::Server(stream) => {
                    let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
                    Some(shown.map(|shown| Peer::of(shown)).unwrap_or_default())
                }
                TlsStream::Client(_) => None,
            },
        }
    }

    /// How what a client sends is encrypted.
    pub(crate) fn cipher(&mut self) -> Option<Cipher> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(tls) => match &tls.get_mut().0 {
                TlsStream::Server(stream) => stream.get_ref().1.negotiated_cipher_suite().map(Cipher),
                TlsStream::Client(_) => None,
            },
        }
    }

    pub(crate) fn scheme(&self) -> &'static str {
        match self {
            Self::Plain(_) => "http",
            Self::Tls(_) => "https",
        }
    }

    /// Ready when there may be something to read, which takes no memory to find out.
    pub(crate) fn poll_read_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => stream.poll_read_ready(cx),
            Self::Tls(tls) => tls.get_mut().poll_read_ready(cx),
        }
    }

    /// Writes what there is room for.
    pub(crate) fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.try_write(bytes),
            Self::Tls(tls) => tls.get_mut().try_write(bytes),
        }
    }

    pub(crate) fn split(&mut self) -> (Reader<'_>, Writer<'_>) {
        match self {
            Self::Plain(stream) => {
                let (reader, writer) = stream.split();
                (Reader::Plain(reader), Writer::Plain(writer))
            }
            Self::Tls(tls) => (Reader::Tls(tls), Writer::Tls(tls)),
        }
    }

    /// Says, where that can be said and there is room, that nothing follows; not for what breaks off.
    pub(crate) fn say_end(&mut self) {
        if let Self::Tls(tls) = self {
            let shut = Pin::new(&mut tls.get_mut().0).poll_shutdown(&mut Context::from_waker(Waker::noop()));
            if let Poll::Ready(Err(error)) = shut {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "the client did not wait for the end"
                );
            }
        }
    }

    /// Makes its end a reset.
    pub(crate) fn set_zero_linger(&self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.set_zero_linger(),
            Self::Tls(tls) => tls.borrow().0.get_ref().0.inner().set_zero_linger(),
        }
    }
}

impl Tls {
    fn poll_read_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let rest = self.poll_rest(cx);
        let (io, session) = self.0.get_ref();
        if !session.wants_read() {
            return Poll::Ready(Ok(()));
        }
        or_rest(io.poll_read_ready(cx), rest)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let rest = self.poll_rest(cx);
        or_rest(Pin::new(&mut self.0).poll_read(cx, buf), rest)
    }

    /// Sends what was taken before and not sent: whoever waits for more of a client keeps it going.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if !self.0.get_ref().1.wants_write() {
            return Ok(());
        }
        match Pin::new(&mut self.0).poll_flush(cx) {
            Poll::Ready(Err(error)) => Err(error),
            Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
        }
    }

    fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match Pin::new(&mut self.0).poll_write(&mut Context::from_waker(Waker::noop()), bytes) {
            Poll::Ready(written) => written,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

/// What was read. Whoever takes no more may have said why before, so that it is told only where nothing has come.
fn or_rest(read: Poll<io::Result<()>>, rest: io::Result<()>) -> Poll<io::Result<()>> {
    match (read, rest) {
        (Poll::Pending, Err(error)) => Poll::Ready(Err(error)),
        (read, _) => read,
    }
}

impl Writer<'_> {
    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(writer) => writer.try_write(bytes),
            Self::Tls(tls) => tls.borrow_mut().try_write(bytes),
            Self::Stream(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

/// One slice costs the kernel less by itself than as a list.
pub(crate) fn poll_write_slices(
    to: Pin<&mut impl AsyncWrite>,
    cx: &mut Context<'_>,
    bufs: &[io::IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    let mut filled = bufs.iter().filter(|buf| !buf.is_empty());
    match (filled.next(), filled.next()) {
        (Some(only), None) => to.poll_write(cx, only),
        _ => to.poll_write_vectored(cx, bufs),
    }
}

/// Each call goes on to what carries it, for all kinds of connections in the same way.
macro_rules! writes_by {
    ($($carried:pat => $carrier:expr),+ $(,)?) => {
        fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            match self.get_mut() {
                $($carried => Pin::new($carrier).poll_write(cx, buf),)+
            }
        }

        // rustls makes one record of them, without joining them before.
        fn poll_write_vectored(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bufs: &[io::IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            match self.get_mut() {
                $($carried => $crate::stream::poll_write_slices(Pin::new($carrier), cx, bufs),)+
            }
        }

        fn is_write_vectored(&self) -> bool {
            true
        }

        fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            match self.get_mut() {
                $($carried => Pin::new($carrier).poll_flush(cx),)+
            }
        }

        fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            match self.get_mut() {
                $($carried => Pin::new($carrier).poll_shutdown(cx),)+
            }
        }
    };
}

pub(crate) use writes_by;

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(tls) => tls.get_mut().poll_read(cx, buf),
        }
    }
}

impl AsyncRead for Reader<'_> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(reader) => Pin::new(reader).poll_read(cx, buf),
            Self::Tls(tls) => tls.borrow_mut().poll_read(cx, buf),
            Self::Stream(stream) => Pin::new(&mut *stream.borrow_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    writes_by! {
        Self::Plain(stream) => stream,
        Self::Tls(tls) => &mut tls.get_mut().0,
    }
}

impl AsyncWrite for Writer<'_> {
    writes_by! {
        Self::Plain(writer) => writer,
        Self::Tls(tls) => &mut tls.borrow_mut().0,
        Self::Stream(stream) => &mut *stream.borrow_mut(),
    }
}
