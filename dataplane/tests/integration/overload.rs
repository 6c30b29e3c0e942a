//! A proxy that nears the limits of its process: of descriptors and of memory. Each is a process of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use envoy_types::pb::envoy::config::listener::v3::Listener;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::restart::Process;
use crate::support::ads::AdsServer;
use crate::support::mesh;
use crate::support::proxy::{DEADLINE, client, eventually, free_address, get, http2_client};
use crate::support::upstream::Upstream;
use crate::tcp::{chain, passing, to};

/// Long enough for an answer that comes, on a machine that does other things as well.
const A_WHILE: Duration = Duration::from_millis(1500);

/// In which an idle connection is closed, and no timer of its last request ends.
const SOON: Duration = Duration::from_secs(5);

struct Stage {
    process: Process,
    listener: SocketAddr,
    admin: SocketAddr,
    data: tempfile::TempDir,
    edge: AdsServer,
    _host: Upstream,
}

impl Stage {
    async fn start(more: impl FnOnce(&Path) -> Value) -> Self {
        let edge = AdsServer::start_at(free_address()).await;
        let host = Upstream::start("host").await;
        let (listener, admin) = (free_address(), free_address());
        edge.put("a", &mesh::cluster("a"));
        edge.put("a", &mesh::endpoints("a", &[(host.address, 0)]));
        edge.put("in", &mesh::listener("in", listener, "in"));
        edge.put("in", &mesh::routes("in", vec![mesh::to_cluster("/", "a")]));
        let data = tempfile::tempdir().unwrap();
        let mut told = json!({
            "xds": edge.url(),
            "admin": admin.to_string(),
            "data": data.path(),
            "workers": 2,
            "take_over": false,
            "grace_ms": 0,
        });
        let Value::Object(more) = more(data.path()) else {
            unreachable!("the tests say objects");
        };
        told.as_object_mut().unwrap().extend(more);
        let stage = Self {
            process: Process::start(&told, data.path()),
            listener,
            admin,
            data,
            edge,
            _host: host,
        };
        eventually("the proxy is ready", || stage.is_ready()).await;
        stage
    }

    async fn is_ready(&self) -> bool {
        let answer = get(&client(), &format!("http://{}/ready", self.admin)).await;
        answer.is_some_and(|answer| answer.status == 200)
    }

    async fn metric(&self, line: &str) -> u64 {
        let answer = get(&client(), &format!("http://{}/metrics", self.admin)).await;
        let metrics = answer.unwrap().body;
        let value = metrics.lines().find_map(|found| found.strip_prefix(line));
        value
            .unwrap_or_else(|| panic!("{line} is missing in\n{metrics}"))
            .trim()
            .parse()
            .unwrap()
    }

    async fn connect(&self) -> TcpStream {
        timeout(DEADLINE, TcpStream::connect(self.listener))
            .await
            .unwrap()
            .unwrap()
    }

    /// One request on a connection of its own.
    async fn ask(&self) -> String {
        ask(&mut self.connect().await).await
    }

    async fn ends(mut self) {
        self.process.signal(Signal::TERM);
        self.process.ended_well().await;
    }
}

/// What is answered, or why nothing is.
async fn ask(stream: &mut TcpStream) -> String {
    let asking = async {
        stream.write_all(b"GET /x HTTP/1.1\r\nhost: a\r\n\r\n").await?;
        let mut answer = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&answer).into_owned();
            let is_whole = text.ends_with("host /x ") || text.ends_with("overloaded");
            if is_whole || stream.read_buf(&mut answer).await? == 0 {
                return std::io::Result::Ok(text);
            }
        }
    };
    match timeout(A_WHILE, asking).await {
        Ok(Ok(text)) => text,
        Ok(Err(error)) => error.to_string(),
        Err(_) => "nothing".to_owned(),
    }
}

/// Whether it is closed, and nothing more came of it.
async fn is_closed(stream: &mut TcpStream) -> bool {
    let mut byte = [0];
    matches!(
        timeout(DEADLINE, stream.read(&mut byte)).await,
        Ok(Ok(0) | Err(_))
    )
}

fn is_good(answer: &str) -> bool {
    answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("host /x ")
}

/// Has this process take memory until it has a share of its limit, as the file says it, for ever.
pub(crate) async fn fill(limit: u64, share: PathBuf) {
    let pages = || std::fs::read_to_string("/proc/self/statm").unwrap();
    let used = || pages().split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096;
    let (mut filled, mut held) = (Vec::new(), String::new());
    loop {
        let wanted = std::fs::read_to_string(&share).unwrap_or_default();
        if wanted != held {
            let percent: u64 = wanted.trim().parse().unwrap_or(0);
            let others = used().saturating_sub(filled.len() as u64);
            let more = (limit * percent / 100).saturating_sub(others);
            // One piece, which is the kernel's own again once it is dropped; and not before there is the next, for somebody may look.
            filled = vec![1u8; usize::try_from(more).unwrap()];
            held = wanted;
        }
        std::hint::black_box(&filled);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_connections_is_turned_away_and_who_is_there_is_served() {
    // 172 of clients, so that the other 128 are hosts' and the process's own.
    let stage = Stage::start(|_| json!({ "files": 300 })).await;
    assert_eq!(stage.metric("tombolo_connections_max ").await, 172);
    let mut kept = Vec::new();
    for _ in 0..20 {
        let mut stream = stage.connect().await;
        assert!(is_good(&ask(&mut stream).await));
        kept.push(stream);
    }
    let mut flood = Vec::new();
    for _ in 0..400 {
        flood.push(stage.connect().await);
    }
    let refused = "tombolo_connections_refused_total{listener=\"in\",why=\"overload\"} ";
    eventually("the rest is turned away", || async {
        stage.metric(refused).await >= 400 + 20 - 172
    })
    .await;
    stage.process.says("connections are turned away").await;
    for stream in &mut kept {
        let answer = ask(stream).await;
        assert!(is_good(&answer), "{answer}\n{}", stage.process.log());
    }
    assert!(stage.is_ready().await);
    // Each of two workers may have looked before the other accepted.
    let mut late = stage.connect().await;
    assert!(is_closed(&mut late).await);
    assert!(stage.metric("tombolo_connections_active{listener=\"in\"} ").await <= 173);
    drop(flood);
    eventually("others are served again", || async {
        is_good(&stage.ask().await)
    })
    .await;
    stage.process.says("connections are accepted again").await;
    assert_eq!(stage.process.said("connections are turned away"), 1);
    assert!(
        !stage.process.log().contains("cannot accept"),
        "{}",
        stage.process.log()
    );
    for stream in &mut kept {
        assert!(is_good(&ask(stream).await));
    }
    stage.ends().await;
}

/// A host's connection for each of the clients', and pipes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_passed_on_counts_all_that_it_costs() {
    let stage = Stage::start(|_| json!({ "files": 300 })).await;
    let tcp = free_address();
    let listener = Listener {
        name: "tcp".to_owned(),
        ..passing(tcp, vec![chain(&to("a"))])
    };
    stage.edge.put("tcp", &listener);
    let connect = async || {
        let connected = timeout(DEADLINE, TcpStream::connect(tcp)).await;
        connected.unwrap()
    };
    eventually("it listens", || async { connect().await.is_ok() }).await;
    let active = "tombolo_connections_active{listener=\"tcp\"} ";
    eventually("the first is gone", || async { stage.metric(active).await == 0 }).await;
    let mut flood = Vec::new();
    for nth in 0..172 {
        let mut stream = connect().await.unwrap();
        // Each has its host before the next comes.
        if nth < 80 {
            assert!(is_good(&ask(&mut stream).await), "{nth}");
        }
        flood.push(stream);
    }
    let refused = "tombolo_connections_refused_total{listener=\"tcp\",why=\"overload\"} ";
    // Half of them, less what spare pipes have; of those that came at once, some were let in before they had their hosts.
    eventually("the rest is turned away", || async {
        stage.metric(refused).await >= 60
    })
    .await;
    assert!(stage.metric(active).await <= 100);
    // There is something left for hosts and files, so that who is there is served.
    assert!(stage.process.files() < 300 - 40, "{}", stage.process.files());
    for stream in &mut flood[..80] {
        assert!(is_good(&ask(stream).await), "{}", stage.process.log());
    }
    drop(flood);
    eventually("others are served again", || async {
        is_good(&stage.ask().await)
    })
    .await;
    stage.ends().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_descriptor_left_who_waits_is_turned_away_at_once() {
    let stage = Stage::start(|_| json!({ "files": 300 })).await;
    let turned_away = async || {
        // As many as it has now: none for a client, whatever there was to be. It may close one of its own meanwhile.
        stage.process.limit_files(stage.process.files());
        let mut refused = stage.connect().await;
        let closed = timeout(A_WHILE / 5, is_closed(&mut refused)).await;
        stage.process.limit_files(300);
        closed.is_ok()
    };
    eventually("who waits is turned away", turned_away).await;
    let refused = "tombolo_connections_refused_total{listener=\"in\",why=\"overload\"} ";
    eventually("others are served again", || async {
        is_good(&stage.ask().await)
    })
    .await;
    assert!(stage.metric(refused).await >= 1);
    stage.process.says("connections are turned away").await;
    stage.ends().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_of_memory_a_proxy_sheds_and_says_so_and_recovers() {
    let limit: u64 = 200 << 20;
    let stage = Stage::start(|data| json!({ "memory_limit": limit, "share": data.join("share") })).await;
    let share = stage.data.path().join("share");
    let fill = |percent: u64| {
        // Whole at once, as it is read at any time.
        let next = stage.data.path().join("next");
        std::fs::write(&next, percent.to_string()).unwrap();
        std::fs::rename(next, &share).unwrap();
    };
    let active = async |action: &str| {
        stage
            .metric(&format!("tombolo_overload_active{{action=\"{action}\"}} "))
            .await
    };
    assert_eq!(stage.metric("tombolo_memory_limit_bytes ").await, limit);
    let http2 = http2_client();
    let url = format!("http://{}/x", stage.listener);
    let mut idle = stage.connect().await;
    assert!(is_good(&ask(&mut idle).await));
    assert_eq!(get(&http2, &url).await.unwrap().status, 200);
    // More than where it begins and less than where nobody is accepted.
    fill(92);
    stage
        .process
        .says("memory runs short: requests are refused")
        .await;
    let left = timeout(SOON, is_closed(&mut idle)).await;
    assert!(left.is_ok_and(|left| left), "who asks nothing goes first");
    let answer = stage.ask().await;
    for part in [
        "HTTP/1.1 503 ",
        "x-envoy-local-overloaded: true\r\n",
        "connection: close\r\n",
    ] {
        assert!(answer.contains(part), "{answer}");
    }
    // On the connection that it was told to leave, or the next.
    let refused = async || {
        let answer = get(&http2, &url).await;
        answer.is_some_and(|answer| answer.status == 503)
    };
    eventually("HTTP/2 is refused too", refused).await;
    assert_eq!(active("stop_accepting_requests").await, 1);
    assert_eq!(active("stop_accepting_connections").await, 0);
    let flagged = "tombolo_requests_flagged_total{listener=\"in\",cluster=\"-\",flag=\"OM\"} ";
    assert!(stage.metric(flagged).await >= 2);
    assert!(stage.is_ready().await);
    fill(98);
    stage
        .process
        .says("memory runs short: no connection is accepted")
        .await;
    let mut waiting = stage.connect().await;
    assert_eq!(ask(&mut waiting).await, "nothing");
    assert_eq!(active("stop_accepting_connections").await, 1);
    // Between where it begins and where it is over, nothing changes.
    fill(92);
    eventually("less is used", || async {
        stage.metric("tombolo_memory_bytes ").await < limit / 100 * 95
    })
    .await;
    assert_eq!(active("stop_accepting_connections").await, 1);
    fill(0);
    stage.process.says("there is memory again").await;
    let mut answer = Vec::new();
    let waited = timeout(DEADLINE, waiting.read_buf(&mut answer)).await;
    assert!(waited.unwrap().unwrap() > 0, "who waited is served");
    assert!(is_good(&stage.ask().await));
    eventually("HTTP/2 is served again", || async {
        let answer = get(&http2, &url).await;
        answer.is_some_and(|answer| answer.status == 200)
    })
    .await;
    for text in [
        "requests are refused",
        "no connection is accepted",
        "there is memory again",
    ] {
        assert_eq!(stage.process.said(text), 1, "{text}\n{}", stage.process.log());
    }
    stage.ends().await;
}
