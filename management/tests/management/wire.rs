//! The wire between management and Postgres, as a proxy that can fail at a message that the test chooses. It reads the
//! frames of the frontend's protocol, and only their texts.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::unix::{OwnedReadHalf as ServerRead, OwnedWriteHalf as ServerWrite};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// Of a message that management sends; the largest is a write with its audit record.
const FRAME_BYTES_MAX: usize = 4 << 20;

/// The type of a simple query, as of what begins, ends and rolls back a transaction.
const QUERY: u8 = b'Q';
/// Of what executes a statement that was prepared, and of what asks for the answers of all before it.
const EXECUTE: u8 = b'E';
const SYNC: u8 = b'S';

/// What happens to messages from management.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// Each that asks for a statement's answer waits for so long, however often it was asked about while it was prepared.
    Slow(Duration),
    /// The one that holds this text never arrives: the connection breaks before it.
    CutBefore(&'static str),
    /// The one that holds this text arrives, and the connection breaks before its answer.
    CutAfter(&'static str),
}

/// Stops when it is dropped.
#[derive(Debug)]
pub(crate) struct Wire {
    addr: SocketAddr,
    fault: Arc<watch::Sender<Fault>>,
    task: JoinHandle<()>,
}

impl Wire {
    /// In front of the server whose URL names its socket's directory, as that of `EmbeddedPostgres` does.
    pub(crate) async fn start(url: &str) -> Wire {
        let options: sqlx::postgres::PgConnectOptions = url.parse().unwrap();
        let socket = options
            .get_socket()
            .expect("a private postgres has a socket")
            .clone();
        let socket = socket.join(format!(".s.PGSQL.{}", options.get_port()));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (fault, faults) = watch::channel(Fault::None);
        let task = tokio::spawn(accept(listener, socket, faults));
        Wire {
            addr,
            fault: Arc::new(fault),
            task,
        }
    }

    /// The same database, through the wire.
    pub(crate) fn url(&self, url: &str) -> String {
        let (user, rest) = url.split_once('@').unwrap();
        let (_, database) = rest.split_once('/').unwrap();
        format!("{user}@{}/{database}", self.addr)
    }

    pub(crate) fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, socket: PathBuf, faults: watch::Receiver<Fault>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let (socket, faults) = (socket.clone(), faults.clone());
        // A broken connection is what its two ends make of it.
        connections.spawn(async move {
            let server = UnixStream::connect(socket).await?;
            carry(client, server, faults).await
        });
    }
}

/// Until either end hangs up, or the fault breaks the connection.
async fn carry(client: TcpStream, server: UnixStream, faults: watch::Receiver<Fault>) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let (answers, answering) = watch::channel(true);
    tokio::select! {
        carried = forwards(from_client, to_server, faults, answers) => carried,
        carried = backwards(from_server, to_client, answering) => carried,
    }
}

async fn forwards(
    mut client: OwnedReadHalf,
    mut server: ServerWrite,
    faults: watch::Receiver<Fault>,
    answers: watch::Sender<bool>,
) -> std::io::Result<()> {
    // The first message has no type.
    let mut frame = read_frame(&mut client, 0).await?;
    let mut executes = false;
    loop {
        let fault = *faults.borrow();
        let is_answered = match frame.first() {
            Some(&QUERY) => true,
            Some(&SYNC) => std::mem::take(&mut executes),
            Some(&EXECUTE) => {
                executes = true;
                false
            }
            _ => false,
        };
        let holds = |text: &str| frame.windows(text.len()).any(|window| window == text.as_bytes());
        match fault {
            Fault::Slow(wait) if is_answered => sleep(wait).await,
            Fault::CutBefore(text) if holds(text) => return Ok(()),
            Fault::CutAfter(text) if holds(text) => {
                answers.send_replace(false);
                server.write_all(&frame).await?;
                // Nothing more comes of it; `backwards` ends when the answer is there.
                return std::future::pending().await;
            }
            _ => {}
        }
        server.write_all(&frame).await?;
        frame = read_frame(&mut client, 1).await?;
    }
}

async fn backwards(
    mut server: ServerRead,
    mut client: OwnedWriteHalf,
    answering: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let mut bytes = vec![0; 64 << 10];
    loop {
        let length = server.read(&mut bytes).await?;
        if length == 0 || !*answering.borrow() {
            return Ok(());
        }
        client.write_all(&bytes[..length]).await?;
    }
}

/// Its type, if it has one, and its length, which counts itself.
async fn read_frame(client: &mut OwnedReadHalf, type_bytes: usize) -> std::io::Result<Vec<u8>> {
    let mut frame = vec![0; type_bytes + 4];
    client.read_exact(&mut frame).await?;
    let length: [u8; 4] = frame[type_bytes..].try_into().expect("four bytes");
    let length = type_bytes + u32::from_be_bytes(length) as usize;
    assert!(
        (frame.len()..FRAME_BYTES_MAX).contains(&length),
        "not a frame: {length} bytes"
    );
    let head = frame.len();
    frame.resize(length, 0);
    client.read_exact(&mut frame[head..]).await?;
    Ok(frame)
}
