//! Where a listener's sockets come from: one for each worker, which share their port.

use std::io;
use std::net::{SocketAddr, TcpListener};

/// Listen backlog; the kernel lowers it to its own limit.
const BACKLOG: i32 = 4096;

/// Binds one socket per worker, or says why it cannot. The sockets share their port. That nobody else has it, unless it is
/// `ours` already, is found out by a first socket that does not share: sharing would succeed against another process of
/// the same user.
pub(crate) fn bind(address: SocketAddr, workers: usize, ours: bool) -> io::Result<Vec<TcpListener>> {
    if !ours {
        drop(socket(address, Sharing::Exclusive)?);
    }
    (0..workers).map(|_| socket(address, Sharing::Shared)).collect()
}

/// `sockets` are another process's as well; there are more if there are more workers.
pub(crate) fn join(
    address: SocketAddr,
    mut sockets: Vec<TcpListener>,
    workers: usize,
) -> io::Result<Vec<TcpListener>> {
    while sockets.len() < workers {
        sockets.push(socket(address, Sharing::Shared)?);
    }
    Ok(sockets)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    Exclusive,
    Shared,
}

fn socket(address: SocketAddr, sharing: Sharing) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::STREAM,
        Some(socket2::Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(sharing == Sharing::Shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    if sharing == Sharing::Shared {
        socket.listen(BACKLOG)?;
    }
    Ok(socket.into())
}
