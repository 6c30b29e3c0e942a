//! A proxy under test with its edge, and a client of it.

use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdTcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tombolo_dataplane::{AccessLog, Edge, ProxyConfig, ProxyError, Role, Source};

/// The longest a test waits for anything: checks and drains take a second or two, a busy machine the rest.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) struct Proxy {
    pub(crate) admin: SocketAddr,
    shutdown: Option<oneshot::Sender<()>>,
    pub(crate) task: tokio::task::JoinHandle<Result<(), ProxyError>>,
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: String,
}

pub(crate) type HttpClient = Client<HttpConnector, Full<Bytes>>;

impl Proxy {
    pub(crate) fn start(edge: &str, data_dir: &Path) -> Self {
        Self::start_with(edge, data_dir, AccessLog::Off)
    }

    pub(crate) fn start_with(edge: &str, data_dir: &Path, access_log: AccessLog) -> Self {
        Self::start_draining(edge, data_dir, access_log, Duration::from_secs(5))
    }

    /// One whose requests are written to [its log](Self::log).
    pub(crate) fn start_logging(edge: &str, data_dir: &Path) -> Self {
        Self::start_with(edge, data_dir, AccessLog::File(Self::log(data_dir)))
    }

    pub(crate) fn log(data_dir: &Path) -> PathBuf {
        data_dir.join("access.log")
    }

    pub(crate) fn start_draining(
        edge: &str,
        data_dir: &Path,
        access_log: AccessLog,
        drain_timeout: Duration,
    ) -> Self {
        Self::run(config(edge, data_dir, access_log, drain_timeout))
    }

    /// One that sends metrics to an agent of statsd.
    pub(crate) fn start_told(edge: &str, data_dir: &Path, statsd: Option<String>) -> Self {
        Self::run(ProxyConfig {
            statsd,
            ..config(edge, data_dir, AccessLog::Off, Duration::from_secs(5))
        })
    }

    /// One that runs what a file says.
    pub(crate) fn start_of_file(file: &Path, data_dir: &Path) -> Self {
        Self::run(ProxyConfig {
            source: Source::File(file.to_owned()),
            ..config("", data_dir, AccessLog::Off, Duration::from_secs(5))
        })
    }

    fn run(config: ProxyConfig) -> Self {
        let admin = config.admin;
        let (shutdown, asked) = oneshot::channel::<()>();
        let task = tokio::spawn(tombolo_dataplane::run(config, async {
            let _ = asked.await;
        }));
        Self {
            admin,
            shutdown: Some(shutdown),
            task,
        }
    }

    pub(crate) async fn is_ready(&self) -> bool {
        self.admin("/ready")
            .await
            .is_some_and(|answer| answer.status == StatusCode::OK)
    }

    pub(crate) async fn admin(&self, path: &str) -> Option<Answer> {
        get(&client(), &format!("http://{}{path}", self.admin)).await
    }

    pub(crate) async fn metrics(&self) -> String {
        self.admin("/metrics").await.unwrap().body
    }

    /// What a series, with its labels, counts, if it is there at all.
    pub(crate) async fn metric(&self, series: &str) -> Option<u64> {
        let metrics = self.metrics().await;
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map(|count| count.parse().unwrap())
    }

    pub(crate) fn begin_stop(&mut self) {
        if let Some(shutdown) = self.shutdown.take() {
            let _ = shutdown.send(());
        }
    }

    pub(crate) async fn stop(mut self) {
        self.begin_stop();
        tokio::time::timeout(DEADLINE, self.task)
            .await
            .expect("the proxy does not stop")
            .unwrap()
            .unwrap();
    }
}

fn config(edge: &str, data_dir: &Path, access_log: AccessLog, drain_timeout: Duration) -> ProxyConfig {
    ProxyConfig {
        source: Source::Edge(self::edge(edge)),
        admin: free_address(),
        data_dir: data_dir.to_owned(),
        workers: 2,
        access_log,
        statsd: None,
        drain_grace: Duration::ZERO,
        drain_timeout,
        memory_limit: None,
        take_over: false,
    }
}

/// Who a proxy of the tests is to its edge.
pub(crate) fn edge(xds: &str) -> Edge {
    Edge {
        xds: xds.to_owned(),
        node_id: "proxy-1".to_owned(),
        cluster: "us-east".to_owned(),
        role: Role::Gateway {
            workload: "edge".to_owned(),
        },
        namespace: "shop".to_owned(),
    }
}

pub(crate) fn client() -> HttpClient {
    Client::builder(TokioExecutor::new()).build_http()
}

pub(crate) fn http2_client() -> HttpClient {
    Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build_http()
}

/// `None` when there is no answer at all.
pub(crate) async fn get(client: &HttpClient, url: &str) -> Option<Answer> {
    send(client, Request::get(url).body(Full::default()).unwrap()).await
}

pub(crate) async fn send(client: &HttpClient, request: Request<Full<Bytes>>) -> Option<Answer> {
    let response = tokio::time::timeout(DEADLINE, client.request(request))
        .await
        .ok()?
        .ok()?;
    let (parts, body) = response.into_parts();
    let body = tokio::time::timeout(DEADLINE, body.collect())
        .await
        .ok()?
        .ok()?
        .to_bytes();
    Some(Answer {
        status: parts.status,
        headers: parts.headers,
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}

/// Says `head` to a proxy, is told to go on, and sends `hello`; all that follows.
pub(crate) async fn ask_first(proxy: SocketAddr, head: &str) -> String {
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut told = [0; 25];
    tokio::time::timeout(DEADLINE, stream.read_exact(&mut told))
        .await
        .expect("it is told")
        .unwrap();
    assert_eq!(&told, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hello").await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(DEADLINE, stream.read_to_string(&mut answer))
        .await
        .expect("it is answered")
        .unwrap();
    answer
}

/// A loopback address that nobody listens on, nor will: its IP is this call's alone, because a port of 127.0.0.1 may at any
/// time become the client's end of another test's connection.
pub(crate) fn free_address() -> SocketAddr {
    static CALLS: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let ip = Ipv4Addr::new(127, high.max(1), low, CALLS.fetch_add(1, Ordering::Relaxed));
    StdTcpListener::bind((ip, 0)).unwrap().local_addr().unwrap()
}

/// Waits until `condition` holds.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let deadline = Instant::now() + DEADLINE;
    while !condition().await {
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
