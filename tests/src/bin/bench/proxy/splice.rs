//! What passing bytes on costs at least: a process that splices them from one socket to the other and does nothing else.

use std::net::SocketAddr;
use std::os::fd::AsFd;

use anyhow::{Context, Result};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime;
use tokio::task::LocalSet;

/// How the bench calls itself to be one: `proxy splice LISTENER UPSTREAM`.
pub(super) const NAME: &str = "splice";
/// As much as a pipe holds by default.
const PIPE_BYTES: usize = 64 * 1024;

/// Runs until it is killed.
pub(super) async fn run(between: &str) -> Result<()> {
    let mut addresses = between.split_whitespace().map(str::parse::<SocketAddr>);
    let mut address = || {
        addresses
            .next()
            .context("splice takes two addresses")?
            .context("no address")
    };
    let (listener, upstream) = (address()?, address()?);
    let running = tokio::task::spawn_blocking(move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        LocalSet::new().block_on(&runtime, accept(listener, upstream))
    });
    running.await.context("it panicked")?
}

async fn accept(listener: SocketAddr, upstream: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(listener).await?;
    loop {
        let (client, _) = listener.accept().await?;
        tokio::task::spawn_local(async move {
            let host = TcpStream::connect(upstream).await?;
            client.set_nodelay(true)?;
            host.set_nodelay(true)?;
            tokio::try_join!(pass(&client, &host), pass(&host, &client))?;
            anyhow::Ok(())
        });
    }
}

async fn pass(from: &TcpStream, to: &TcpStream) -> Result<()> {
    let flags = PipeFlags::NONBLOCK | PipeFlags::CLOEXEC;
    let (reader, writer) = pipe_with(flags)?;
    loop {
        let mut held = moved(from, Interest::READABLE, || splice_all(from, &writer, PIPE_BYTES)).await?;
        if held == 0 {
            return Ok(());
        }
        while held > 0 {
            held -= moved(to, Interest::WRITABLE, || splice_all(&reader, to, held)).await?;
        }
    }
}

async fn moved(
    socket: &TcpStream,
    interest: Interest,
    mut once: impl FnMut() -> Result<usize, Errno>,
) -> Result<usize> {
    Ok(socket.async_io(interest, || once().map_err(Into::into)).await?)
}

fn splice_all(from: &impl AsFd, to: &impl AsFd, bytes: usize) -> Result<usize, Errno> {
    splice(
        from,
        None,
        to,
        None,
        bytes,
        SpliceFlags::MOVE | SpliceFlags::NONBLOCK,
    )
}
