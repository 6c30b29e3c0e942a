//! How a proxy ends, and another one takes its place, between processes: each proxy here is a process of its own, so that it can crash, and everything else the test's.

mod hosts;
mod last_words;
mod load;
mod successors;
mod tunnels;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use http::StatusCode;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit, setrlimit};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tombolo_dataplane::{AccessLog, ProxyConfig, Source};
use tombolo_runtime::shutdown::{Shutdown, run_to_end};
use tombolo_runtime::telemetry::{self, LogFormat};

use crate::overload;
use crate::support::ads::AdsServer;
use crate::support::mesh;
use crate::support::proxy::{Answer, DEADLINE, client, edge, eventually, free_address, get};
use crate::support::upstream::{Mood, Upstream};
pub(crate) use load::Load;

/// Says to this program what it runs as a proxy.
const TOLD: &str = "TOMBOLO_TEST_PROXY";

/// What the other tests start as a process of its own.
#[test]
#[ignore = "is no test"]
fn proxy() {
    let told = std::env::var(TOLD).expect("the tests say what to run");
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    let text = |key: &str| told[key].as_str().unwrap().to_owned();
    let config = ProxyConfig {
        source: match told["file"].as_str() {
            Some(file) => Source::File(file.into()),
            None => Source::Edge(edge(&text("xds"))),
        },
        admin: text("admin").parse().unwrap(),
        data_dir: text("data").into(),
        workers: usize::try_from(told["workers"].as_u64().unwrap()).unwrap(),
        access_log: match told["access_log"].as_str() {
            Some(log) => AccessLog::File(log.into()),
            None => AccessLog::Off,
        },
        statsd: None,
        drain_grace: Duration::from_millis(told["grace_ms"].as_u64().unwrap()),
        drain_timeout: Duration::from_secs(5),
        memory_limit: told["memory_limit"].as_u64(),
        take_over: told["take_over"].as_bool().unwrap(),
    };
    if let Some(files) = told["files"].as_u64() {
        let limit = Rlimit {
            current: Some(files),
            maximum: Some(files),
        };
        setrlimit(Resource::Nofile, limit).unwrap();
    }
    let filled = config.memory_limit.zip(told["share"].as_str().map(PathBuf::from));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let ran = run_to_end(runtime, async {
        telemetry::init(LogFormat::Text, "info").unwrap();
        let mut shutdown = Shutdown::from_signals().unwrap();
        if let Some((limit, share)) = filled {
            tokio::spawn(overload::fill(limit, share));
        }
        tombolo_dataplane::run(config, async move { shutdown.wait().await }).await
    });
    if let Err(error) = ran {
        panic!("{}", telemetry::chain(&error));
    }
}

/// An edge, a host and the place of a proxy.
struct Mesh {
    edge: AdsServer,
    host: Upstream,
    data: tempfile::TempDir,
    listener: SocketAddr,
    admin: SocketAddr,
    grace_ms: u64,
    access_log: Option<PathBuf>,
}

/// A proxy; killed on drop.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Mesh {
    async fn start() -> Self {
        let mesh = Self {
            edge: AdsServer::start_at(free_address()).await,
            host: Upstream::start("host").await,
            data: tempfile::tempdir().unwrap(),
            listener: free_address(),
            admin: free_address(),
            grace_ms: 0,
            access_log: None,
        };
        // A check that a frozen host neither passes nor fails for the length of a test.
        let cluster = mesh::with_checks(mesh::cluster("a"), 100, 60_000);
        mesh.edge.put("a", &cluster);
        mesh.edge
            .put("a", &mesh::endpoints("a", &[(mesh.host.address, 0)]));
        mesh.edge.put("in", &mesh::listener("in", mesh.listener, "in"));
        mesh.edge
            .put("in", &mesh::routes("in", vec![mesh::to_cluster("/", "a")]));
        mesh
    }

    fn proxy(&self, workers: usize) -> Process {
        self.run(workers, false, self.admin)
    }

    fn successor(&self, workers: usize) -> Process {
        self.run(workers, true, self.admin)
    }

    fn run(&self, workers: usize, take_over: bool, admin: SocketAddr) -> Process {
        let told = json!({
            "xds": self.edge.url(),
            "admin": admin.to_string(),
            "data": self.data.path(),
            "workers": workers,
            "take_over": take_over,
            "grace_ms": self.grace_ms,
            "access_log": self.access_log,
        });
        Process::start(&told, self.data.path())
    }

    async fn is_ready(&self) -> bool {
        let url = format!("http://{}/ready", self.admin);
        let answer = get(&client(), &url).await;
        answer.is_some_and(|answer| answer.status == StatusCode::OK)
    }

    async fn ready(&self) {
        eventually("the proxy is ready", || self.is_ready()).await;
    }

    /// A proxy that is ready.
    async fn ready_proxy(&self, workers: usize) -> Process {
        let proxy = self.proxy(workers);
        self.ready().await;
        // It can be taken over from a moment later.
        let door = self.data.path().join("restart.sock");
        eventually("it can be taken over from", || async { door.exists() }).await;
        proxy
    }

    async fn get(&self, path: &str) -> Option<Answer> {
        get(&client(), &format!("http://{}{path}", self.listener)).await
    }

    /// Whether what the edge says now reaches requests.
    async fn follows_the_edge(&self, word: &str) {
        self.follows_the_edge_in("in", word).await;
    }

    /// The same in another table.
    async fn follows_the_edge_in(&self, table: &str, word: &str) {
        let routes = vec![mesh::answer("/word", 200, word), mesh::to_cluster("/", "a")];
        self.edge.put(table, &mesh::routes(table, routes));
        eventually("the edge's word is followed", || async {
            self.get("/word").await.is_some_and(|answer| answer.body == word)
        })
        .await;
    }
}

impl Process {
    /// One that is told so; its log is in `folder`.
    pub(crate) fn start(told: &serde_json::Value, folder: &Path) -> Self {
        let log = tempfile::NamedTempFile::new_in(folder).unwrap();
        let (stderr, log) = log.keep().unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["restart::proxy", "--exact", "--ignored", "--nocapture"])
            .env(TOLD, told.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .unwrap();
        Self { child, log }
    }

    /// The least number that none of its descriptors has.
    pub(crate) fn files(&self) -> u64 {
        let files = std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap();
        let names = files.filter_map(|file| file.ok()?.file_name().into_string().ok());
        let taken: BTreeSet<u64> = names.filter_map(|name| name.parse().ok()).collect();
        (0..).find(|number| !taken.contains(number)).unwrap()
    }

    /// The most that it has held in memory at once.
    pub(crate) fn peak_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = peak.unwrap().trim().trim_end_matches(" kB");
        kilobytes.parse::<u64>().unwrap() * 1024
    }

    /// It may have so many from now on.
    pub(crate) fn limit_files(&self, files: u64) {
        let limit = Rlimit {
            current: Some(files),
            maximum: Some(300),
        };
        prlimit(Some(Pid::from_child(&self.child)), Resource::Nofile, limit).unwrap();
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    pub(crate) async fn says(&self, text: &str) {
        self.says_again(text, 0).await;
    }

    pub(crate) fn said(&self, text: &str) -> usize {
        self.log().matches(text).count()
    }

    /// Once more than it had.
    pub(crate) async fn says_again(&self, text: &str, had: usize) {
        eventually(&format!("it says {text:?}"), || async { self.said(text) > had }).await;
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    async fn ended(&mut self) -> ExitStatus {
        let mut ended = None;
        for _ in 0..DEADLINE.as_millis() / 10 {
            ended = self.child.try_wait().unwrap();
            if ended.is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        ended.unwrap_or_else(|| panic!("it does not end:\n{}", self.log()))
    }

    pub(crate) async fn ended_well(&mut self) {
        let status = self.ended().await;
        assert!(status.success(), "{status}:\n{}", self.log());
    }

    async fn failed(&mut self, why: &str) {
        let status = self.ended().await;
        let log = self.log();
        assert!(!status.success() && log.contains(why), "{status}:\n{log}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_restarts_lose_neither_a_request_nor_a_connection() {
    let mesh = Mesh::start().await;
    let mut running = mesh.ready_proxy(2).await;
    let load = Load::start(mesh.listener);
    // Fewer workers, more, and as many as before.
    for workers in [1, 3, 3] {
        load.answers(500).await;
        let mut idle = TcpStream::connect(mesh.listener).await.unwrap();
        assert!(talk(&mut idle, "/idle").await.contains("host /idle"));
        let mut successor = mesh.successor(workers);
        successor.says("took over").await;
        // What is open goes on with the process that it is open to, and takes leave of it once that has heard the last word.
        let left = async {
            loop {
                let answer = talk(&mut idle, "/idle").await;
                assert!(answer.contains("host /idle"), "{answer}");
                if answer.contains("connection: close") {
                    break;
                }
            }
        };
        tokio::time::timeout(DEADLINE, left)
            .await
            .expect("it takes leave");
        running.ended_well().await;
        load.answers(500).await;
        assert!(
            successor.child.try_wait().unwrap().is_none(),
            "{}",
            successor.log()
        );
        running = successor;
    }
    assert_eq!(load.stop().await, Vec::<String>::new(), "{}", running.log());
    mesh.ready().await;
    mesh.follows_the_edge("after three restarts").await;
    running.signal(Signal::TERM);
    running.ended_well().await;
    assert!(!mesh.data.path().join("restart.sock").exists());
    // What the last one was told last is on disk, and written by nobody else.
    drop(mesh.edge);
    let again = tombolo_runtime::last_good::load(&mesh.data.path().join("last-good.xds"));
    let stored = String::from_utf8_lossy(&again.unwrap().unwrap()).into_owned();
    assert!(stored.contains("after three restarts"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_that_does_not_get_ready_changes_nothing() {
    let mesh = Mesh::start().await;
    let running = mesh.ready_proxy(2).await;
    let load = Load::start(mesh.listener);
    mesh.run(1, false, free_address())
        .failed("a proxy runs with the data folder")
        .await;
    let taken = std::net::TcpListener::bind(free_address()).unwrap();
    mesh.run(1, true, taken.local_addr().unwrap())
        .failed("cannot listen on the admin address")
        .await;
    // Its hosts are not known to be well: it would answer 503.
    mesh.host.mood.send_replace(Mood::Frozen);
    running.says("nobody has taken over").await;
    let had = running.said("handing the ports over");
    let mut stuck = mesh.successor(1);
    running.says_again("handing the ports over", had).await;
    mesh.successor(1).failed("another process is taking over").await;
    stuck.signal(Signal::KILL);
    stuck.ended().await;
    let had = running.said("handing the ports over");
    let mut stopped = mesh.successor(1);
    running.says_again("handing the ports over", had).await;
    stopped.signal(Signal::TERM);
    stopped.ended().await;
    assert!(
        mesh.data.path().join("restart.sock").exists(),
        "who has not taken over leaves what is the other's"
    );
    mesh.host.mood.send_replace(Mood::Well);
    mesh.follows_the_edge("nothing has happened").await;
    load.answers(100).await;
    assert_eq!(load.stop().await, Vec::<String>::new(), "{}", running.log());
    let mut running = running;
    assert!(running.child.try_wait().unwrap().is_none(), "{}", running.log());
    mesh.ready().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_successor_stands_in_for_one_that_crashes_meanwhile() {
    let mesh = Mesh::start().await;
    let mut running = mesh.ready_proxy(2).await;
    mesh.host.mood.send_replace(Mood::Frozen);
    let successor = mesh.successor(2);
    running.says("handing the ports over").await;
    // It has them then, on a machine that does other things as well.
    tokio::time::sleep(Duration::from_secs(2)).await;
    running.signal(Signal::KILL);
    running.ended().await;
    // Connections are taken all the time.
    let mut early = TcpStream::connect(mesh.listener).await.unwrap();
    mesh.host.mood.send_replace(Mood::Well);
    assert!(talk(&mut early, "/early").await.contains("host /early"));
    successor.says("has ended meanwhile").await;
    mesh.ready().await;
    mesh.follows_the_edge("by the successor").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_stopped_serves_on_until_balancers_have_seen_it() {
    tokio::join!(serves_on(Stopped::BySignal), serves_on(Stopped::ByAdmin));
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stopped {
    BySignal,
    ByAdmin,
}

async fn serves_on(way: Stopped) {
    let mut mesh = Mesh::start().await;
    mesh.grace_ms = 8_000;
    let mut running = mesh.ready_proxy(1).await;
    let mut kept = TcpStream::connect(mesh.listener).await.unwrap();
    assert!(talk(&mut kept, "/kept").await.contains("host /kept"));
    let staying = Load::start_until_left(mesh.listener);
    staying.answers(10).await;
    let stopped = std::time::Instant::now();
    match way {
        Stopped::BySignal => running.signal(Signal::TERM),
        Stopped::ByAdmin => {
            let mut admin = TcpStream::connect(mesh.admin).await.unwrap();
            let request = b"POST /drain HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
            admin.write_all(request).await.unwrap();
            let mut answer = String::new();
            admin.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
        }
    }
    eventually("it is not ready any more", || async { !mesh.is_ready().await }).await;
    mesh.follows_the_edge("still").await;
    let answer = talk(&mut kept, "/kept").await;
    assert!(
        answer.contains("host /kept") && !answer.contains("connection: close"),
        "{answer}"
    );
    mesh.successor(1).failed("it is not ready, or stops").await;
    let load = Load::start(mesh.listener);
    while stopped.elapsed() < Duration::from_secs(7) {
        load.answers(1).await;
    }
    assert_eq!(load.stop().await, Vec::<String>::new(), "{}", running.log());
    // Nobody comes any more; who is there is answered to the end.
    assert_eq!(staying.left().await, Vec::<String>::new(), "{}", running.log());
    assert!(
        stopped.elapsed() >= Duration::from_secs(8),
        "it left before its time"
    );
    running.ended_well().await;
    assert!(TcpStream::connect(mesh.listener).await.is_err());
}

/// A pipe that nobody reads, as a disk that takes no writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_takes_nothing_holds_no_end_and_what_is_lost_is_said() {
    let mut mesh = Mesh::start().await;
    let log = mesh.data.path().join("access.log");
    let fifo = Command::new("mkfifo").arg(&log).status().unwrap();
    assert!(fifo.success());
    let pipe = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&log)
        .unwrap();
    mesh.access_log = Some(log);
    let mut running = mesh.ready_proxy(1).await;
    let load = Load::start(mesh.listener);
    // More lines than a pipe has room for.
    load.answers(1000).await;
    assert_eq!(load.stop().await, Vec::<String>::new(), "{}", running.log());
    let stopped = std::time::Instant::now();
    running.signal(Signal::TERM);
    running.ended_well().await;
    assert!(stopped.elapsed() < Duration::from_secs(10), "{}", running.log());
    assert_eq!(
        running.said("lines of the access log are lost"),
        1,
        "{}",
        running.log()
    );
    drop(pipe);
}

/// One request on a connection that may have had others, and its answer.
async fn talk(stream: &mut TcpStream, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let end = format!("host {path} ");
    while !String::from_utf8_lossy(&answer).ends_with(&end) {
        let read = tokio::time::timeout(DEADLINE, stream.read_buf(&mut answer)).await;
        if read.expect("an answer comes").unwrap_or(0) == 0 {
            break;
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}
