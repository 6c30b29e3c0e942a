//! A bounded load over HTTP/1.1 keep-alive connections, and the upstream that answers it, each on a thread of its own
//! so that neither is counted as the proxy's.

use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime;
use tokio::sync::oneshot;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::timeout;
use tombolo_tests::ads::contract::Retries;

/// What is asked of whom.
pub(crate) const PATH: &str = "/products/42?view=short";
pub(crate) const HOST: &str = "shop.example.com";
/// What each answer carries, and each request that carries something; a size between a status and a page.
const BODY: &[u8] = &[b'x'; 1024];
/// Longer than any answer over loopback takes, also on a busy machine.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// What is sent, and how much of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) asks: Asks,
    pub(crate) connections: usize,
    pub(crate) requests: usize,
}

/// What each request asks with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asks {
    /// GET, without a body.
    Get,
    /// POST, with as large a body as its answer has.
    Post,
    /// PUT, with such a body too; it may be repeated.
    Put,
}

/// What came of it. Every request was answered as it should.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) elapsed: Duration,
    /// Of each request.
    pub(crate) latencies: Vec<Duration>,
}

/// Answers every request with what it carries, or with a kilobyte if that is nothing; gone on drop.
#[derive(Debug)]
pub(crate) struct Upstream {
    address: SocketAddr,
    _stop: oneshot::Sender<()>,
}

impl Upstream {
    pub(crate) fn start() -> Result<Upstream> {
        let (bound, address) = mpsc::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        thread::spawn(move || {
            local(async {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
                // Nobody waits for the address any more when the bench has ended already.
                let _ = bound.send(listener.local_addr()?);
                tokio::select! {
                    served = serve(&listener) => served,
                    _ = stopped => Ok(()),
                }
            })
        });
        Ok(Upstream {
            address: address.recv().context("the upstream cannot listen")?,
            _stop: stop,
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn serve(listener: &TcpListener) -> Result<()> {
    let answer = service_fn(async |request: Request<Incoming>| {
        let carried = request.into_body().collect().await?.to_bytes();
        let body = if carried.is_empty() {
            Bytes::from_static(BODY)
        } else {
            carried
        };
        Ok::<_, hyper::Error>(Response::new(Full::new(body)))
    });
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        // A connection that breaks shows up at the client.
        tokio::task::spawn_local(server::Builder::new().serve_connection(TokioIo::new(stream), answer));
    }
}

impl Asks {
    pub(crate) fn method(self) -> Method {
        match self {
            Asks::Get => Method::GET,
            Asks::Post => Method::POST,
            Asks::Put => Method::PUT,
        }
    }

    fn body(self) -> &'static [u8] {
        match self {
            Asks::Get => &[],
            Asks::Post | Asks::Put => BODY,
        }
    }

    /// How the edge retries it.
    pub(crate) fn retries(self) -> Retries {
        match self {
            Asks::Get | Asks::Put => Retries::Idempotent,
            Asks::Post => Retries::Other,
        }
    }

    /// Of the figures in the line for scripts.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Asks::Get => "h1",
            Asks::Post => "post",
            Asks::Put => "put",
        }
    }
}

impl Load {
    /// Sends it all to `target`; runs on a thread of its own.
    ///
    /// # Errors
    /// Any request fails or is answered with anything but 200 and the upstream's body.
    pub(crate) async fn run(self, target: SocketAddr) -> Result<Outcome> {
        let (done, outcome) = oneshot::channel();
        thread::spawn(move || drop(done.send(local(self.send_all(target)))));
        outcome.await.context("the load's thread has ended")?
    }

    async fn send_all(self, target: SocketAddr) -> Result<Outcome> {
        let left = Rc::new(Cell::new(self.requests));
        let mut senders = Vec::new();
        for _ in 0..self.connections {
            senders.push(connect(target).await?);
        }
        let start = Instant::now();
        let mut connections = JoinSet::new();
        for sender in senders {
            connections.spawn_local(send_until(sender, self.asks, Rc::clone(&left)));
        }
        let mut latencies = Vec::with_capacity(self.requests);
        while let Some(ended) = connections.join_next().await {
            latencies.extend(ended.context("a connection's task panicked")??);
        }
        ensure!(
            latencies.len() == self.requests,
            "{} of {} requests were answered",
            latencies.len(),
            self.requests
        );
        Ok(Outcome {
            elapsed: start.elapsed(),
            latencies,
        })
    }
}

async fn connect(target: SocketAddr) -> Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(target)
        .await
        .with_context(|| format!("cannot connect to {target}"))?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::task::spawn_local(connection);
    Ok(sender)
}

/// Sends one request after the other until none is `left`.
async fn send_until(
    mut sender: SendRequest<Full<Bytes>>,
    asks: Asks,
    left: Rc<Cell<usize>>,
) -> Result<Vec<Duration>> {
    let mut latencies = Vec::new();
    while let Some(rest) = left.get().checked_sub(1) {
        left.set(rest);
        let start = Instant::now();
        timeout(REPLY_TIMEOUT, send(&mut sender, asks))
            .await
            .context("no answer in time")??;
        latencies.push(start.elapsed());
    }
    Ok(latencies)
}

async fn send(sender: &mut SendRequest<Full<Bytes>>, asks: Asks) -> Result<()> {
    // As many headers as a program's request has; a browser sends more.
    let request = Request::builder()
        .method(asks.method())
        .uri(PATH)
        .header(header::HOST, HOST)
        .header(header::USER_AGENT, "bench/1.0")
        .header(header::ACCEPT, "application/json")
        .header(header::ACCEPT_ENCODING, "identity")
        .header(header::AUTHORIZATION, "Bearer 0123456789abcdef0123456789abcdef")
        .header(
            "traceparent",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        )
        .body(Full::new(Bytes::from_static(asks.body())))?;
    sender.ready().await?;
    let response = sender.send_request(request).await?;
    ensure!(
        response.status() == StatusCode::OK,
        "answered {}",
        response.status()
    );
    let body = response.into_body().collect().await?.to_bytes();
    ensure!(
        body == BODY,
        "answered a body of {} bytes that is not the upstream's",
        body.len()
    );
    Ok(())
}

/// Runs a future that may spawn local tasks on this thread.
fn local<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, future)
}
