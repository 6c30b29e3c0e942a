//! The server's side: a stream of connections whose TLS handshake is done and whose peer is known.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::Stream;
use tonic::transport::server::Connected;

use super::verify::same_organization;
use super::{HANDSHAKE_TIMEOUT, Identity, PeerIdentity, id_of};
use crate::telemetry::chain;

/// Handshakes under way at one time. Beyond it, connections wait in the kernel's queue.
const HANDSHAKES_MAX: usize = 256;
/// After a failed `accept`, most often for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Verified connections, for `serve_with_incoming`. It never ends.
#[derive(Debug)]
pub struct Incoming {
    listener: TcpListener,
    identity: Arc<Identity>,
    handshakes: JoinSet<Option<TlsConn>>,
    pause: Option<Pin<Box<Sleep>>>,
}

/// A connection from a process of our organization.
#[derive(Debug)]
pub struct TlsConn {
    stream: TlsStream<TcpStream>,
    peer: PeerIdentity,
}

/// Accepts from `listener`. Handshakes run side by side, each within five seconds, so that a bad peer stalls
/// nobody; a failed one is logged and does not appear in the stream.
pub fn incoming(listener: TcpListener, identity: Arc<Identity>) -> Incoming {
    Incoming {
        listener,
        identity,
        handshakes: JoinSet::new(),
        pause: None,
    }
}

impl Stream for Incoming {
    type Item = io::Result<TlsConn>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        this.poll_accepts(cx);
        while let Some(done) = ready!(this.poll_handshakes(cx)) {
            if let Some(connection) = done {
                return Poll::Ready(Some(Ok(connection)));
            }
            this.poll_accepts(cx);
        }
        // No handshake is under way; the listener or the pause wakes us.
        Poll::Pending
    }
}

impl Incoming {
    fn poll_accepts(&mut self, cx: &mut Context<'_>) {
        if let Some(pause) = &mut self.pause {
            if pause.as_mut().poll(cx).is_pending() {
                return;
            }
            self.pause = None;
        }
        while self.handshakes.len() < HANDSHAKES_MAX {
            match self.listener.poll_accept(cx) {
                Poll::Pending => return,
                Poll::Ready(Ok((stream, _))) => {
                    self.handshakes.spawn(handshake(stream, self.identity.clone()));
                }
                Poll::Ready(Err(error)) => {
                    tracing::warn!(error = chain(&error), "cannot accept a connection");
                    let mut pause = Box::pin(sleep(ACCEPT_PAUSE));
                    if pause.as_mut().poll(cx).is_pending() {
                        self.pause = Some(pause);
                        return;
                    }
                }
            }
        }
    }

    /// `None` when no handshake is under way, `Some(None)` when one failed.
    fn poll_handshakes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Option<TlsConn>>> {
        self.handshakes.poll_join_next(cx).map(|ended| {
            // A handshake that panicked has been reported by the panic hook.
            ended.map(Result::unwrap_or_default)
        })
    }
}

async fn handshake(stream: TcpStream, identity: Arc<Identity>) -> Option<TlsConn> {
    let address = stream.peer_addr().ok();
    match timeout(HANDSHAKE_TIMEOUT, accept(stream, &identity)).await {
        Ok(Ok(connection)) => Some(connection),
        Ok(Err(error)) => {
            tracing::warn!(peer = ?address, error = chain(&error), "refused a connection");
            None
        }
        Err(_) => {
            tracing::warn!(peer = ?address, "refused a connection: no handshake in time");
            None
        }
    }
}

async fn accept(stream: TcpStream, identity: &Identity) -> io::Result<TlsConn> {
    stream.set_nodelay(true)?;
    let stream = TlsAcceptor::from(identity.server_config()).accept(stream).await?;
    let (_, session) = stream.get_ref();
    let leaf = session.peer_certificates().and_then(<[_]>::first);
    let leaf = leaf.ok_or_else(|| io::Error::other("the peer sent no certificate"))?;
    let peer = id_of(leaf).map_err(io::Error::other)?;
    same_organization(&peer, &identity.id().organization).map_err(io::Error::other)?;
    Ok(TlsConn {
        stream,
        peer: PeerIdentity(peer),
    })
}

impl TlsConn {
    pub fn peer(&self) -> &PeerIdentity {
        &self.peer
    }
}

impl Connected for TlsConn {
    type ConnectInfo = PeerIdentity;

    fn connect_info(&self) -> PeerIdentity {
        self.peer.clone()
    }
}

impl AsyncRead for TlsConn {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for TlsConn {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
