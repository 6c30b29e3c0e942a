//! Where a connection was to go before the kernel redirected it here (iptables' or nftables' REDIRECT and DNAT).

use std::net::SocketAddr;

use socket2::{SockAddr, SockRef};
use tokio::net::TcpStream;

/// What becomes of a connection that was redirected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Redirected {
    /// Nobody asks.
    Unknown,
    /// Its listener knows where it was to go.
    Known,
    /// It is that listener's which has the address that it was to go to, if there is one.
    HandedOver,
}

/// Where `stream`, which came in at `local`, was to go; `None` where the kernel knows of nothing else. That may be `local` too.
pub(crate) fn of(stream: &TcpStream, local: SocketAddr) -> Option<SocketAddr> {
    let socket = SockRef::from(stream);
    let known = if local.is_ipv4() {
        socket.original_dst_v4()
    } else {
        socket.original_dst_v6()
    };
    // Without a redirection, or where the kernel follows no connections, there is nothing to be had.
    known.ok().as_ref().and_then(SockAddr::as_socket)
}
