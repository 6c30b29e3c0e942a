//! What the machine itself needs for the least that a change could cost: one commit that is on disk, and one round trip
//! over loopback for each hop from management to a proxy.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use sqlx::{Connection, PgConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime;
use tokio::sync::oneshot;

/// management → central → edge → proxy.
const HOPS: usize = 3;
/// A change of one route is about as long.
const MESSAGE_BYTES: usize = 512;

pub(crate) struct Control {
    database: PgConnection,
    hop: TcpStream,
    _stop: oneshot::Sender<()>,
}

impl Control {
    /// `url` is that of the Postgres under management; the control has a table of its own there.
    pub(crate) async fn start(url: &str) -> Result<Control> {
        let mut database = PgConnection::connect(url)
            .await
            .context("cannot connect to postgres")?;
        for statement in [
            "CREATE SCHEMA bench",
            "CREATE TABLE bench.control (n bigint NOT NULL)",
            "INSERT INTO bench.control VALUES (0)",
        ] {
            sqlx::query(statement)
                .execute(&mut database)
                .await
                .with_context(|| format!("cannot execute {statement}"))?;
        }
        let (stop, stopped) = oneshot::channel();
        let hop = TcpStream::connect(echo(stopped)?)
            .await
            .context("cannot reach the echo")?;
        hop.set_nodelay(true)?;
        Ok(Control {
            database,
            hop,
            _stop: stop,
        })
    }

    pub(crate) async fn measure(&mut self) -> Result<Duration> {
        let start = Instant::now();
        sqlx::query("UPDATE bench.control SET n = n + 1")
            .execute(&mut self.database)
            .await
            .context("cannot commit")?;
        let mut message = [0; MESSAGE_BYTES];
        for _ in 0..HOPS {
            self.hop.write_all(&message).await?;
            self.hop.read_exact(&mut message).await?;
        }
        Ok(start.elapsed())
    }
}

/// Sends back what it receives, on a thread of its own as the other end of a hop is in a process of its own.
fn echo(stopped: oneshot::Receiver<()>) -> Result<SocketAddr> {
    let (bound, address) = mpsc::channel();
    thread::spawn(move || -> Result<()> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            let _ = bound.send(listener.local_addr()?);
            let (mut stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let (mut from, mut to) = stream.split();
            tokio::select! {
                copied = tokio::io::copy(&mut from, &mut to) => drop(copied?),
                _ = stopped => {}
            }
            Ok(())
        })
    });
    address.recv().context("the echo cannot listen")
}
