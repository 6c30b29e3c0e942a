//! A bounded load over kept connections, on a thread of its own so that it is not counted as the proxy's.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Method, Request, StatusCode, Version, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime;
use tokio::sync::oneshot;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tombolo_tests::ads::contract::{Identity, Retries};

mod upstream;

pub(crate) use upstream::Upstream;

/// What is asked of whom.
pub(crate) const PATH: &str = "/products/42?view=short";
pub(crate) const HOST: &str = "shop.example.com";
/// What each answer carries, and each request that carries something; a size between a status and a page.
const BODY: &[u8] = &[b'x'; 1024];
/// [`BODY`] as a message of gRPC: not compressed, and its length.
const MESSAGE_HEAD: [u8; 5] = [0, 0, 0, 4, 0];
/// Longer than any answer over loopback takes, also on a busy machine.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);
/// A timer of the runtime may be so late; what is later was kept waiting by the request before.
const TIMER_STEP: Duration = Duration::from_millis(2);

/// What is sent, and how much of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) asks: Asks,
    pub(crate) wire: Wire,
    pub(crate) lanes: Lanes,
    pub(crate) requests: usize,
    /// So many a second, whether they are answered or not; without it, as many as are answered.
    pub(crate) per_second: Option<f64>,
}

/// How the client speaks.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wire {
    Http1,
    Http2,
    /// HTTP/1.1 in TLS 1.3, to whoever can show this; each connection is one that the server has not seen before.
    Tls(&'static Trusted),
}

/// Whom clients believe.
#[derive(Debug)]
pub(crate) struct Trusted {
    pub(crate) identity: Identity,
    config: Arc<ClientConfig>,
}

/// Who sends one request after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lanes {
    pub(crate) connections: usize,
    /// Requests at once on each connection; more than one takes HTTP/2.
    pub(crate) streams: usize,
    /// Whether a connection is left after each request.
    pub(crate) fresh: bool,
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
    /// A unary call, whose message comes back.
    Grpc,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) elapsed: Duration,
    /// Of each request that was answered as it should be.
    pub(crate) latencies: Vec<Duration>,
    /// Why the others were not.
    pub(crate) lost: Vec<String>,
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Asks {
    pub(crate) fn method(self) -> Method {
        match self {
            Asks::Get => Method::GET,
            Asks::Post | Asks::Grpc => Method::POST,
            Asks::Put => Method::PUT,
        }
    }

    fn body(self) -> Bytes {
        match self {
            Asks::Get => Bytes::new(),
            Asks::Post | Asks::Put => Bytes::from_static(BODY),
            Asks::Grpc => [&MESSAGE_HEAD, BODY].concat().into(),
        }
    }

    fn answer(self) -> Bytes {
        match self {
            Asks::Get => Bytes::from_static(BODY),
            Asks::Post | Asks::Put | Asks::Grpc => self.body(),
        }
    }

    /// How the edge retries it.
    pub(crate) fn retries(self) -> Retries {
        match self {
            Asks::Get | Asks::Put => Retries::Idempotent,
            Asks::Post | Asks::Grpc => Retries::Other,
        }
    }

    /// As a program's request is; a browser sends more headers.
    fn request(self, version: Version) -> Result<Request<Full<Bytes>>> {
        let mut request = Request::builder().method(self.method());
        request = if version == Version::HTTP_2 {
            request.version(version).uri(format!("http://{HOST}{PATH}"))
        } else {
            request.uri(PATH).header(header::HOST, HOST)
        };
        if self == Asks::Grpc {
            request = request
                .header(header::CONTENT_TYPE, "application/grpc")
                .header(header::TE, "trailers");
        }
        request
            .header(header::USER_AGENT, "bench/1.0")
            .header(header::ACCEPT, "application/json")
            .header(header::ACCEPT_ENCODING, "identity")
            .header(header::AUTHORIZATION, "Bearer 0123456789abcdef0123456789abcdef")
            .header(
                "traceparent",
                "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            )
            .body(Full::new(self.body()))
            .context("a request of the bench is not one")
    }
}

impl Lanes {
    /// So many connections with one request at a time.
    pub(crate) fn single(connections: usize) -> Lanes {
        Lanes {
            connections,
            streams: 1,
            fresh: false,
        }
    }
}

impl Outcome {
    /// # Errors
    /// Any request was lost.
    pub(crate) fn whole(self) -> Result<Outcome> {
        ensure!(
            self.lost.is_empty(),
            "{} requests were lost, the first one: {}",
            self.lost.len(),
            self.lost[0]
        );
        Ok(self)
    }
}

impl Load {
    /// One request of it.
    pub(crate) fn single(self) -> Load {
        Load {
            lanes: Lanes::single(1),
            requests: 1,
            per_second: None,
            ..self
        }
    }

    /// Sends it all to `target`; runs on a thread of its own.
    ///
    /// # Errors
    /// Nobody takes connections there.
    pub(crate) async fn run(self, target: SocketAddr) -> Result<Outcome> {
        let (done, outcome) = oneshot::channel();
        thread::spawn(move || drop(done.send(local(self.send_all(target)))));
        outcome.await.context("the load's thread has ended")?
    }

    async fn send_all(self, target: SocketAddr) -> Result<Outcome> {
        let left = Rc::new(Cell::new(self.requests));
        let lanes = self.lanes.connections * self.lanes.streams;
        let mut senders = Vec::with_capacity(lanes);
        for _ in 0..self.lanes.connections {
            let first = self.wire.connect(target).await?;
            for _ in 1..self.lanes.streams {
                senders.push(first.another()?);
            }
            senders.push(first);
        }
        let start = Instant::now();
        let mut running = JoinSet::new();
        for (lane, sender) in senders.into_iter().enumerate() {
            let turns = self.per_second.map(|rate| Turns {
                next: start + Duration::from_secs_f64(lane as f64 / rate),
                every: Duration::from_secs_f64(lanes as f64 / rate),
            });
            running.spawn_local(send_until(self, target, sender, turns, Rc::clone(&left)));
        }
        let mut outcome = Outcome::default();
        while let Some(ended) = running.join_next().await {
            let lane = ended.context("a connection's task panicked")??;
            outcome.latencies.extend(lane.latencies);
            outcome.lost.extend(lane.lost);
        }
        outcome.elapsed = start.elapsed();
        Ok(outcome)
    }
}

/// When a lane of a load at a fixed rate sends.
struct Turns {
    next: Instant,
    every: Duration,
}

impl Turns {
    /// Waits for the next turn; since when it counts. A lane that its last request has kept past its turn counts from the turn.
    async fn next(&mut self) -> Instant {
        let turn = self.next;
        self.next += self.every;
        tokio::time::sleep_until(turn.into()).await;
        let now = Instant::now();
        if now - turn > TIMER_STEP { turn } else { now }
    }
}

/// Sends one request after the other until none is `left`.
async fn send_until(
    load: Load,
    target: SocketAddr,
    mut sender: Sender,
    mut turns: Option<Turns>,
    left: Rc<Cell<usize>>,
) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut used = false;
    while let Some(rest) = left.get().checked_sub(1) {
        left.set(rest);
        let start = match &mut turns {
            Some(turns) => turns.next().await,
            None => Instant::now(),
        };
        if load.lanes.fresh && used {
            sender = load.wire.connect(target).await?;
        }
        used = true;
        let sent = timeout(REPLY_TIMEOUT, sender.send(load.asks)).await;
        match sent.context("no answer in time").flatten() {
            Ok(()) => outcome.latencies.push(start.elapsed()),
            Err(error) => {
                outcome.lost.push(format!("{error:#}"));
                sender = load.wire.connect(target).await?;
            }
        }
    }
    Ok(outcome)
}

impl Wire {
    /// What a server must show.
    pub(crate) fn identity(self) -> Option<&'static Identity> {
        match self {
            Wire::Http1 | Wire::Http2 => None,
            Wire::Tls(trusted) => Some(&trusted.identity),
        }
    }

    async fn connect(self, target: SocketAddr) -> Result<Sender> {
        let stream = TcpStream::connect(target)
            .await
            .with_context(|| format!("cannot connect to {target}"))?;
        stream.set_nodelay(true)?;
        match self {
            Wire::Http1 => http1(stream).await,
            Wire::Http2 => {
                let (sender, connection) =
                    http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
                tokio::task::spawn_local(connection);
                Ok(Sender::Http2(sender))
            }
            Wire::Tls(trusted) => {
                let name = ServerName::try_from(HOST).context("the bench's host is no name")?;
                let connector = TlsConnector::from(Arc::clone(&trusted.config));
                http1(connector.connect(name, stream).await?).await
            }
        }
    }
}

async fn http1(io: impl AsyncRead + AsyncWrite + Unpin + 'static) -> Result<Sender> {
    let (sender, connection) = http1::handshake(TokioIo::new(io)).await?;
    tokio::task::spawn_local(connection);
    Ok(Sender::Http1(sender))
}

impl Trusted {
    /// Made for the bench, and kept until it ends.
    pub(crate) fn made() -> Result<&'static Trusted> {
        let made = rcgen::generate_simple_self_signed([HOST.to_owned()])?;
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone())?;
        let provider = CryptoProvider {
            // All servers know it; not all of them the one that outlasts quantum computers, which costs more.
            kx_groups: vec![aws_lc_rs::kx_group::X25519],
            ..aws_lc_rs::default_provider()
        };
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Box::leak(Box::new(Trusted {
            identity: Identity {
                chain: made.cert.pem(),
                key: made.signing_key.serialize_pem(),
            },
            config: Arc::new(config),
        })))
    }
}

impl Sender {
    /// Another one on the same connection.
    fn another(&self) -> Result<Sender> {
        match self {
            Sender::Http2(sender) => Ok(Sender::Http2(sender.clone())),
            Sender::Http1(_) => anyhow::bail!("HTTP/1.1 has one request at a time"),
        }
    }

    async fn send(&mut self, asks: Asks) -> Result<()> {
        let response = match self {
            Sender::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(asks.request(Version::HTTP_11)?).await?
            }
            Sender::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(asks.request(Version::HTTP_2)?).await?
            }
        };
        ensure!(
            response.status() == StatusCode::OK,
            "answered {}",
            response.status()
        );
        let answer = response.into_body().collect().await?;
        if asks == Asks::Grpc {
            let status = answer.trailers().and_then(|trailers| trailers.get("grpc-status"));
            ensure!(
                status.is_some_and(|status| status == "0"),
                "answered with grpc-status {status:?}"
            );
        }
        let body = answer.to_bytes();
        ensure!(
            body == asks.answer(),
            "answered a body of {} bytes that is not the upstream's",
            body.len()
        );
        Ok(())
    }
}

/// Runs a future that may spawn local tasks on this thread.
fn local<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, future)
}
