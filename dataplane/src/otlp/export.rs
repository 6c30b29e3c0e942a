//! How it is sent: from a bounded queue for each stream, in batches, by calls of gRPC over one connection. Who has something to
//! send never waits; what a queue has no room for, and what a collector does not take in the end, is dropped and counted.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, TE, USER_AGENT};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::retry::{self, Refused};
use super::{ExportResponse, Stream, Target};
use crate::grpc;
use crate::health;
use crate::metrics::Metrics;
use crate::snapshot::{Health, Host, Snapshot};
use crate::worker::Random;

/// Spans or records in one call, and about how many bytes: collectors take 4 MiB.
const BATCH_ITEMS: usize = 512;
const BATCH_BYTES: usize = 1024 * 1024;
/// How long the first of a batch waits for others.
const BATCH_INTERVAL: Duration = Duration::from_secs(1);
/// What may wait for a collector, of each stream.
const QUEUE_ITEMS: usize = 2048;
const QUEUE_BYTES: usize = 8 * 1024 * 1024;
/// A collector has little to say.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// All streams of a process.
pub(crate) struct Exporter {
    runtime: Handle,
    snapshot: Arc<ArcSwap<Snapshot>>,
    metrics: Arc<Metrics>,
    lanes: Mutex<Vec<Known>>,
    /// Whether nobody waits any more for a collector to come back.
    is_ending: watch::Sender<bool>,
}

/// A way that there is as long as anybody else has it.
struct Known {
    stream: Stream,
    orders: mpsc::WeakSender<Order>,
    bytes: Arc<AtomicUsize>,
}

/// The way of one stream, for as long as anybody has it.
#[derive(Clone, Debug)]
pub(super) struct Lane {
    orders: mpsc::Sender<Order>,
    /// That wait.
    bytes: Arc<AtomicUsize>,
}

#[derive(Debug)]
enum Order {
    Send(Vec<u8>),
    /// Answer when all before this is sent, or dropped.
    Finish(oneshot::Sender<()>),
}

/// What sends a stream's batches.
struct Sender {
    stream: Stream,
    snapshot: Arc<ArcSwap<Snapshot>>,
    metrics: Arc<Metrics>,
    bytes: Arc<AtomicUsize>,
    session: Option<Session>,
    /// Whose turn it is.
    turn: usize,
    is_failing: bool,
    is_ending: watch::Receiver<bool>,
}

struct Session {
    sender: http2::SendRequest<Full<Bytes>>,
    /// None where there is no cluster.
    host: Option<Arc<Host>>,
}

#[derive(Debug, thiserror::Error)]
enum ExportError {
    #[error("there is no cluster of that name, or no host in it")]
    NoHost,
    #[error("cannot connect")]
    Connect(#[source] std::io::Error),
    #[error("the connection broke")]
    Http(#[source] hyper::Error),
    #[error("the answer is too long, or broke off")]
    Answer,
    #[error("the collector refused")]
    Refused(#[source] Refused),
    #[error("no answer in time")]
    Timeout,
}

impl Exporter {
    /// To be called on the runtime that is to send.
    pub(crate) fn new(snapshot: Arc<ArcSwap<Snapshot>>, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            runtime: Handle::current(),
            snapshot,
            metrics,
            lanes: Mutex::default(),
            is_ending: watch::Sender::new(false),
        })
    }

    /// Takes what is to be sent, if there is room for it.
    pub(crate) fn send(&self, stream: &Stream, item: &impl Message) {
        let lane = stream.lane.get_or_init(|| self.lane(stream));
        let item = item.encode_to_vec();
        let bytes = item.len();
        let waiting = lane.bytes.fetch_add(bytes, Ordering::Relaxed);
        if waiting + bytes > QUEUE_BYTES || lane.orders.try_send(Order::Send(item)).is_err() {
            lane.bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.metrics.export_dropped(stream.signal, 1);
        }
    }

    /// Waits until what was taken is sent, or `timeout` is over.
    pub(crate) async fn finish(&self, timeout: Duration) {
        self.is_ending.send_replace(true);
        let lanes: Vec<_> = {
            let lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
            lanes.iter().filter_map(|lane| lane.orders.upgrade()).collect()
        };
        let finished = lanes.into_iter().map(|orders| async move {
            let (done, finished) = oneshot::channel();
            if orders.send(Order::Finish(done)).await.is_ok() {
                // One that is gone has nothing left.
                let _ = finished.await;
            }
        });
        if tokio::time::timeout(timeout, futures::future::join_all(finished))
            .await
            .is_err()
        {
            tracing::warn!("spans or log records were not sent: their collector did not take them in time");
        }
    }

    /// That of an equal stream, if there is one: it goes on when a configuration says the same again.
    fn lane(&self, stream: &Stream) -> Lane {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.retain(|lane| lane.orders.strong_count() > 0);
        let held = lanes.iter().filter(|lane| lane.stream == *stream);
        let mut held = held.filter_map(|lane| Some((lane.orders.upgrade()?, &lane.bytes)));
        if let Some((orders, bytes)) = held.next() {
            return Lane {
                orders,
                bytes: Arc::clone(bytes),
            };
        }
        let (orders, queue) = mpsc::channel(QUEUE_ITEMS);
        let bytes = Arc::<AtomicUsize>::default();
        lanes.push(Known {
            stream: stream.same(),
            orders: orders.downgrade(),
            bytes: Arc::clone(&bytes),
        });
        let sender = Sender {
            stream: stream.same(),
            snapshot: Arc::clone(&self.snapshot),
            metrics: Arc::clone(&self.metrics),
            bytes: Arc::clone(&bytes),
            session: None,
            turn: 0,
            is_failing: false,
            is_ending: self.is_ending.subscribe(),
        };
        // It ends with its queue.
        self.runtime.spawn(sender.run(queue));
        Lane { orders, bytes }
    }
}

impl Stream {
    /// Another one that leads to the same place.
    fn same(&self) -> Self {
        Self::new(self.signal, self.collector.clone(), self.resource.clone())
    }
}

impl Sender {
    async fn run(mut self, mut queue: mpsc::Receiver<Order>) {
        while let Some(first) = queue.recv().await {
            let (items, finish) = gather(first, &mut queue).await;
            if !items.is_empty() {
                self.send(items).await;
            }
            if let Some(finish) = finish {
                // Who asked may have gone.
                let _ = finish.send(());
            }
        }
    }

    async fn send(&mut self, items: Vec<Vec<u8>>) {
        let count = items.len() as u64;
        let bytes = items.iter().map(Vec::len).sum();
        let signal = self.stream.signal;
        let message = grpc::framed(&self.stream.request(items));
        let rejected = self.call_until_taken(message).await;
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        match rejected {
            Some(rejected) => {
                self.is_failing = false;
                self.metrics.export_sent(signal, count.saturating_sub(rejected));
                self.metrics.export_dropped(signal, rejected.min(count));
            }
            None => self.metrics.export_dropped(signal, count),
        }
    }

    /// How many of them the collector does not want, if it takes the others in the end.
    async fn call_until_taken(&mut self, message: Bytes) -> Option<u64> {
        let mut retries = 0;
        loop {
            let timeout = self.stream.collector.timeout;
            let called = tokio::time::timeout(timeout, self.call(message.clone())).await;
            let error = match called.unwrap_or(Err(ExportError::Timeout)) {
                Ok(rejected) => return Some(rejected),
                Err(error) => error,
            };
            self.session = None;
            if !std::mem::replace(&mut self.is_failing, true) {
                tracing::warn!(
                    target = ?self.stream.collector.target,
                    error = &error as &dyn std::error::Error,
                    "cannot send spans or log records: check that the collector runs and takes OTLP over gRPC"
                );
            }
            if *self.is_ending.borrow() {
                return None;
            }
            let wait = error.wait(retries, Random::new().share())?;
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                // It is tried once more. Who says so lives as long as the process.
                _ = self.is_ending.wait_for(|is_ending| *is_ending) => {}
            }
            retries += 1;
        }
    }

    /// How many of them the collector does not want.
    async fn call(&mut self, message: Bytes) -> Result<u64, ExportError> {
        let kept = self
            .session
            .take()
            .filter(|session| session.is_fit(&self.snapshot.load()));
        if let Some(mut session) = kept {
            match self.ask(&mut session, message.clone()).await {
                // It may have been closed meanwhile, which says nothing of the collector.
                Err(ExportError::Http(_)) => {}
                Err(error) => return Err(error),
                Ok(rejected) => {
                    self.session = Some(session);
                    return Ok(rejected);
                }
            }
        }
        let mut session = self.open().await?;
        let rejected = self.ask(&mut session, message).await?;
        self.session = Some(session);
        Ok(rejected)
    }

    async fn open(&mut self) -> Result<Session, ExportError> {
        match &self.stream.collector.target {
            Target::Address(address) => {
                let stream = TcpStream::connect(address.as_str()).await;
                Session::open(stream.map_err(ExportError::Connect)?, None).await
            }
            Target::Cluster { name, .. } => {
                self.turn = self.turn.wrapping_add(1);
                let host = host(&self.snapshot.load(), name, self.turn).ok_or(ExportError::NoHost)?;
                let stream = health::connect(&host).await.map_err(ExportError::Connect)?;
                Session::open(stream, Some(host)).await
            }
        }
    }

    async fn ask(&self, session: &mut Session, message: Bytes) -> Result<u64, ExportError> {
        let request = self.request(session, message);
        let answered = session
            .sender
            .send_request(request)
            .await
            .map_err(ExportError::Http)?;
        let (head, body) = answered.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|_| ExportError::Answer)?;
        let refused = Refused::of(head.status, &head.headers, body.trailers());
        if let Some(refused) = refused {
            return Err(ExportError::Refused(refused));
        }
        let answer = body.to_bytes();
        let answer = grpc::unframed(&answer).and_then(|message| ExportResponse::decode(message).ok());
        let rejected = answer.and_then(|answer| answer.partial_success);
        Ok(rejected.map_or(0, |partial| u64::try_from(partial.rejected).unwrap_or(0)))
    }

    fn request(&self, session: &Session, message: Bytes) -> Request<Full<Bytes>> {
        let collector = &self.stream.collector;
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(session.host.as_ref().map_or(Scheme::HTTP, |host| host.scheme()));
        uri.authority = Some(match &collector.target {
            Target::Address(address) => address.clone(),
            Target::Cluster { name, authority } => authority
                .clone()
                .or_else(|| Authority::try_from(&**name).ok())
                .unwrap_or_else(|| Authority::from_static("collector")),
        });
        uri.path_and_query = Some(PathAndQuery::from_static(self.stream.signal.path()));
        let mut request = Request::new(Full::new(message));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from_parts(uri).expect("invariant: scheme, authority and path are a URI");
        let headers = request.headers_mut();
        headers.extend(collector.headers.iter().cloned());
        headers.insert(USER_AGENT, HeaderValue::from_static("tombolo"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONTENT_TYPE, grpc::CONTENT_TYPE);
        request
    }
}

impl ExportError {
    /// How long to wait before it is sent again, if it is.
    fn wait(&self, retries: u32, draw: f64) -> Option<Duration> {
        match self {
            Self::NoHost | Self::Connect(_) | Self::Http(_) | Self::Timeout => retry::wait(retries, draw),
            Self::Refused(refused) => refused.wait(retries, draw),
            // It has been taken, for all that is known.
            Self::Answer => None,
        }
    }
}

impl Session {
    async fn open(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        host: Option<Arc<Host>>,
    ) -> Result<Self, ExportError> {
        let opened = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (sender, connection) = opened.map_err(ExportError::Http)?;
        // Its task ends with its sender.
        tokio::spawn(connection);
        Ok(Self { sender, host })
    }

    /// Whether it is open, and to a host that there still is.
    fn is_fit(&self, snapshot: &Snapshot) -> bool {
        let is_there = |host: &Arc<Host>| {
            let cluster = snapshot.clusters.get(&host.cluster);
            cluster.is_some_and(|cluster| cluster.hosts.iter().any(|live| live.host.id == host.id))
        };
        self.sender.is_ready() && self.host.as_ref().is_none_or(is_there)
    }
}

/// The first, and what comes until there are many, or it has waited.
async fn gather(
    first: Order,
    queue: &mut mpsc::Receiver<Order>,
) -> (Vec<Vec<u8>>, Option<oneshot::Sender<()>>) {
    let until = Instant::now() + BATCH_INTERVAL;
    let (mut items, mut bytes) = (Vec::new(), 0);
    let mut next = Some(first);
    loop {
        match next {
            Some(Order::Send(item)) => {
                bytes += item.len();
                items.push(item);
            }
            Some(Order::Finish(finish)) => return (items, Some(finish)),
            None => return (items, None),
        }
        if items.len() >= BATCH_ITEMS || bytes >= BATCH_BYTES {
            return (items, None);
        }
        next = tokio::time::timeout_at(until, queue.recv()).await.unwrap_or(None);
    }
}

/// One that is well, in their turns, or else any.
fn host(snapshot: &Snapshot, cluster: &str, turn: usize) -> Option<Arc<Host>> {
    let cluster = snapshot.clusters.get(cluster)?;
    let well: Vec<_> = cluster
        .hosts
        .iter()
        .filter(|live| live.endpoint.eligible && live.host.health() == Health::Healthy)
        .collect();
    let hosts = if well.is_empty() {
        cluster.hosts.iter().collect()
    } else {
        well
    };
    let place = turn.checked_rem(hosts.len())?;
    Some(Arc::clone(&hosts[place].host))
}
