//! Attempts beside each other, and hosts that say when to ask again, over real sockets: a host does what a script says, request by
//! request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use envoy_types::pb::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use envoy_types::pb::envoy::config::route::v3::retry_policy::{
    RateLimitedRetryBackOff, ResetHeader, RetryBackOff,
};
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::{HedgePolicy, RetryPolicy, Route};
use envoy_types::pb::google::protobuf::{Duration as PbDuration, UInt32Value};
use http::Request;
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::mesh;
use crate::support::proxy::{client, eventually, http2_client, send};
use crate::support::site::{Site, at};

/// How long one try may take.
const TRY: Duration = Duration::from_millis(150);
/// A host that takes this long is not waited for in a test.
const NEVER: u64 = 60_000;

/// After how many milliseconds a request is answered, with what status and lines.
type Answered = (u64, &'static str);

const WELL: &str = "200 OK";
const ILL: &str = "503 Service Unavailable";

struct Host {
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
    /// Connections that the proxy closed while a request was under way on them.
    broken: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Host {
    async fn start(script: &'static [Answered]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, broken) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let counts = (Arc::clone(&requests), Arc::clone(&broken));
        let task = tokio::spawn(async move {
            // Aborting this task aborts its connections.
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    continue;
                };
                let (requests, broken) = counts.clone();
                connections.spawn(async move {
                    let _ = play(stream, script, &requests, &broken).await;
                });
            }
        });
        Self {
            address,
            requests,
            broken,
            task,
        }
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Says which request it was, and how long its body was.
async fn play(
    mut stream: TcpStream,
    script: &[Answered],
    requests: &AtomicUsize,
    broken: &AtomicUsize,
) -> std::io::Result<()> {
    loop {
        let length = read_request(&mut stream).await?;
        let nth = requests.fetch_add(1, Ordering::Relaxed);
        let (after_ms, status) = script[nth.min(script.len() - 1)];
        let mut byte = [0];
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(after_ms)) => {}
            _ = stream.read(&mut byte) => {
                broken.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
        }
        let body = format!("{nth} {length}");
        let answer = format!(
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(answer.as_bytes()).await?;
    }
}

async fn read_request(stream: &mut TcpStream) -> std::io::Result<usize> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let length = length.map_or(0, |length| length.trim().parse().unwrap());
    stream.read_exact(&mut vec![0; length]).await?;
    Ok(length)
}

fn millis(millis: u64) -> Option<PbDuration> {
    Some(PbDuration {
        seconds: i64::try_from(millis / 1000).unwrap(),
        nanos: i32::try_from(millis % 1000).unwrap() * 1_000_000,
    })
}

fn hedged(prefix: &str, change: impl FnOnce(&mut RetryPolicy)) -> Route {
    let mut route = mesh::to_cluster(prefix, "x");
    if let Some(Action::Route(action)) = &mut route.action {
        let mut policy = RetryPolicy {
            retry_on: "5xx,retriable-status-codes".to_owned(),
            retriable_status_codes: vec![429],
            num_retries: Some(UInt32Value { value: 2 }),
            per_try_timeout: millis(u64::try_from(TRY.as_millis()).unwrap()),
            retry_back_off: Some(RetryBackOff {
                base_interval: millis(1),
                max_interval: millis(2),
            }),
            ..Default::default()
        };
        change(&mut policy);
        action.retry_policy = Some(policy);
        action.hedge_policy = Some(HedgePolicy {
            hedge_on_per_try_timeout: true,
            ..Default::default()
        });
    }
    route
}

/// As who limits says in `retry-after`.
fn hears_when(policy: &mut RetryPolicy) {
    policy.rate_limited_retry_back_off = Some(RateLimitedRetryBackOff {
        reset_headers: vec![ResetHeader {
            name: "retry-after".to_owned(),
            ..Default::default()
        }],
        ..Default::default()
    });
}

struct Stage {
    site: Site,
    host: Host,
}

impl Stage {
    async fn start(script: &'static [Answered], limits: Thresholds, route: Route) -> Self {
        let host = Host::start(script).await;
        let cluster = mesh::with_limits(mesh::cluster("x"), limits);
        Self {
            site: Site::start(vec![at(cluster, host.address)], vec![route]).await,
            host,
        }
    }

    /// Status and body of a request with a body of so many bytes, and how long it took.
    async fn post(&self, http2: bool, body: usize) -> (u16, String, Duration) {
        let client = if http2 { http2_client() } else { client() };
        let request = Request::post(self.site.url("/"));
        let body = Full::new(Bytes::from(vec![b'x'; body]));
        let began = Instant::now();
        let answer = send(&client, request.body(body).unwrap()).await.unwrap();
        (answer.status.as_u16(), answer.body, began.elapsed())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_good_answer_is_passed_on() {
    // What a host does, the answer, how many attempts there were, and how many were given up.
    let cases: [(&[Answered], u16, &str, usize, usize); 7] = [
        (&[(0, WELL)], 200, "0 9", 1, 0),
        // It goes on while others begin, and wins all the same.
        (&[(600, WELL), (NEVER, WELL)], 200, "0 9", 3, 2),
        (&[(NEVER, WELL), (0, WELL)], 200, "1 9", 2, 1),
        (&[(NEVER, WELL), (NEVER, WELL), (0, WELL)], 200, "2 9", 3, 2),
        // What comes from the others is no good.
        (&[(600, WELL), (0, ILL)], 200, "0 9", 3, 0),
        (&[(0, ILL), (NEVER, WELL), (0, WELL)], 200, "2 9", 3, 1),
        (&[(0, ILL)], 503, "2 9", 3, 0),
    ];
    for (script, status, body, attempts, broken) in cases {
        for http2 in [false, true] {
            let route = hedged("/", |_| {});
            let stage = Stage::start(script, Thresholds::default(), route).await;
            let (got, answer, took) = stage.post(http2, 9).await;
            assert_eq!((got, answer.as_str()), (status, body), "{script:?} {http2}");
            assert!(took < Duration::from_secs(8), "{script:?}: {took:?}");
            assert_eq!(stage.host.requests(), attempts, "{script:?} {http2}");
            eventually("the others are given up", || async {
                stage.host.broken.load(Ordering::Relaxed) == broken
            })
            .await;
            stage.site.proxy.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_not_be_repeated_is_waited_for() {
    let no_retries = Thresholds {
        max_retries: Some(UInt32Value { value: 0 }),
        ..Default::default()
    };
    // Limits, and bytes of a body, of which no more than 64 KiB are kept.
    for (limits, body) in [(no_retries, 0), (Thresholds::default(), 100_000)] {
        for http2 in [false, true] {
            let stage = Stage::start(&[(600, WELL)], limits, hedged("/", |_| {})).await;
            let (status, answer, _) = stage.post(http2, body).await;
            assert_eq!((status, answer), (200, format!("0 {body}")), "{limits:?}");
            assert_eq!(stage.host.requests(), 1);
            stage.site.proxy.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_says_when_to_ask_again() {
    const LIMITED: &str = "429 Too Many Requests\r\nretry-after: 1";
    for hedges in [false, true] {
        for http2 in [false, true] {
            let mut route = hedged("/", hears_when);
            if let (Some(Action::Route(action)), false) = (&mut route.action, hedges) {
                action.hedge_policy = None;
            }
            let stage = Stage::start(&[(0, LIMITED), (0, WELL)], Thresholds::default(), route).await;
            let (status, answer, took) = stage.post(http2, 5).await;
            assert_eq!((status, answer.as_str()), (200, "1 5"));
            assert!(took >= Duration::from_secs(1), "{hedges} {http2}: {took:?}");
            stage.site.proxy.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_silent_is_not_waited_for() {
    for hedges in [false, true] {
        for http2 in [false, true] {
            let mut route = hedged("/", |policy| {
                policy.per_try_timeout = hedges.then(|| millis(100)).flatten();
                policy.per_try_idle_timeout = millis(300);
                policy.num_retries = Some(UInt32Value { value: 1 });
            });
            if let (Some(Action::Route(action)), false) = (&mut route.action, hedges) {
                action.hedge_policy = None;
            }
            let script = &[(NEVER, WELL), (NEVER, WELL)];
            let stage = Stage::start(script, Thresholds::default(), route).await;
            let (status, answer, took) = stage.post(http2, 5).await;
            assert_eq!((status, answer.as_str()), (504, "upstream request timeout"));
            assert!(took < Duration::from_secs(8), "{hedges} {http2}: {took:?}");
            assert_eq!(stage.host.requests(), 2);
            stage.site.proxy.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_who_has_left() {
    // Longer than anything is waited for here.
    const LIMITED: &str = "429 Too Many Requests\r\nretry-after: 100";
    for hedges in [false, true] {
        let mut route = hedged("/", hears_when);
        if let Some(Action::Route(action)) = &mut route.action {
            action.timeout = millis(0);
            action.hedge_policy = action.hedge_policy.take().filter(|_| hedges);
        }
        let stage = Stage::start(&[(0, LIMITED)], Thresholds::default(), route).await;
        let mut stream = TcpStream::connect(stage.site.listener).await.unwrap();
        let request = b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\nab";
        stream.write_all(request).await.unwrap();
        eventually("the host is asked", || async { stage.host.requests() == 1 }).await;
        // What it has said is there by then.
        tokio::time::sleep(Duration::from_millis(200)).await;
        drop(stream);
        eventually("its request is over", || async {
            let metrics = stage.site.proxy.metrics().await;
            let left = "tombolo_requests_flagged_total{listener=\"in\",cluster=\"x\",flag=\"DC\"} 1";
            metrics.lines().any(|line| line == left)
        })
        .await;
        assert_eq!(stage.host.requests(), 1, "{hedges}");
        stage.site.proxy.stop().await;
    }
}

/// A try has its time where it is the only one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_try_that_is_not_repeated_is_not_waited_for_either() {
    for (is_idle, retry_on, flags) in [
        (false, "5xx", &["UT", "URX"][..]),
        (false, "", &["UT"]),
        (true, "5xx", &["UT", "URX"]),
    ] {
        for http2 in [false, true] {
            let mut route = hedged("/", |policy| {
                policy.num_retries = Some(UInt32Value { value: 0 });
                policy.retry_on = retry_on.to_owned();
                if is_idle {
                    policy.per_try_idle_timeout = policy.per_try_timeout.take();
                }
            });
            if let Some(Action::Route(action)) = &mut route.action {
                action.hedge_policy = None;
            }
            let stage = Stage::start(&[(NEVER, WELL)], Thresholds::default(), route).await;
            for body in [0, 5] {
                let (status, answer, took) = stage.post(http2, body).await;
                assert_eq!((status, answer.as_str()), (504, "upstream request timeout"));
                assert!(took < Duration::from_secs(8), "{is_idle} {http2}: {took:?}");
            }
            assert_eq!(stage.host.requests(), 2);
            let metrics = stage.site.proxy.metrics().await;
            let flagged = |flag| {
                format!("tombolo_requests_flagged_total{{listener=\"in\",cluster=\"x\",flag=\"{flag}\"}} ")
            };
            for flag in ["UT", "URX"] {
                let is_there = metrics.lines().any(|line| line.starts_with(&flagged(flag)));
                assert_eq!(
                    is_there,
                    flags.contains(&flag),
                    "{is_idle} {retry_on} {http2} {flag}"
                );
            }
            stage.site.proxy.stop().await;
        }
    }
}
