//! That an exchange allocates nothing once its connection has had one: counted in a process in which there is only a proxy.

use std::alloc::System;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tombolo_dataplane::{AccessLog, ProxyConfig, Source};

use crate::files::Stage;
use crate::support::proxy::{DEADLINE, client, eventually, free_address, get};

#[global_allocator]
static COUNTED: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Says to this program what it runs as a proxy: the file, and where its admin port is.
const FILE: &str = "TOMBOLO_TEST_COUNTED_FILE";
const ADMIN: &str = "TOMBOLO_TEST_COUNTED_ADMIN";
/// Before each count, which stands among what the program says itself.
const COUNT: &str = "allocations so far: ";

const CONNECTIONS: usize = 4;
/// So many without an allocation among them are looked for, a few at a time: what the process does besides, such as a look at its
/// file each second, is in some of them.
const REQUESTS: usize = 1_000;
const BATCH: usize = 40;
const BATCHES_MAX: usize = 250;

/// What the test starts as a process of its own.
#[test]
#[ignore = "is no test"]
fn counted() {
    let told = |name: &str| std::env::var(name).expect("the test says what to run");
    let file = std::path::PathBuf::from(told(FILE));
    let config = ProxyConfig {
        admin: told(ADMIN).parse().unwrap(),
        data_dir: file.parent().unwrap().to_owned(),
        source: Source::File(file),
        workers: 1,
        access_log: AccessLog::Off,
        statsd: None,
        drain_grace: Duration::ZERO,
        drain_timeout: Duration::from_secs(5),
        memory_limit: None,
        take_over: false,
    };
    std::thread::spawn(tell);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime
        .block_on(tombolo_dataplane::run(config, std::future::pending()))
        .unwrap();
}

/// How many there were, for each byte that is read. Neither reading nor writing allocates but for the first time.
fn tell() {
    let (mut asked, mut told) = (std::io::stdin(), std::io::stdout());
    while asked.read_exact(&mut [0]).is_ok() {
        let so_far = COUNTED.stats();
        let count = so_far.allocations + so_far.reallocations;
        writeln!(told, "\n{COUNT}{count}").unwrap();
    }
    std::process::exit(0);
}

/// Killed on drop.
struct Counted {
    child: Child,
    asked: ChildStdin,
    told: BufReader<ChildStdout>,
}

impl Counted {
    fn start(stage: &Stage, admin: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["allocations::counted", "--exact", "--ignored", "--nocapture"])
            .env(FILE, stage.file())
            .env(ADMIN, admin)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (asked, told) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self {
            child,
            asked,
            told: BufReader::new(told),
        }
    }

    fn allocations(&mut self) -> u64 {
        self.asked.write_all(b"?").unwrap();
        loop {
            let mut line = String::new();
            assert!(self.told.read_line(&mut line).unwrap() > 0, "the proxy has ended");
            if let Some(count) = line.trim_end().strip_prefix(COUNT) {
                return count.parse().unwrap();
            }
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One request and its answer.
async fn exchange(stream: &mut TcpStream, request: &[u8], answer: &mut Vec<u8>) {
    stream.write_all(request).await.unwrap();
    answer.clear();
    while !answer.ends_with(b"host /asked body") {
        let read = tokio::time::timeout(DEADLINE, stream.read_buf(answer)).await;
        assert!(
            read.expect("an answer comes").unwrap() > 0,
            "the connection is kept"
        );
    }
    assert!(answer.starts_with(b"HTTP/1.1 200 "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_connection_has_its_requests_served_without_an_allocation() {
    let stage = Stage::new().await;
    stage.replace(&stage.saying("word").to_string());
    let admin = free_address().to_string();
    let mut proxy = Counted::start(&stage, &admin);
    let ready = format!("http://{admin}/ready");
    eventually("the proxy is ready", || async {
        get(&client(), &ready)
            .await
            .is_some_and(|answer| answer.status == 200)
    })
    .await;
    let mut streams = Vec::new();
    for _ in 0..CONNECTIONS {
        streams.push(TcpStream::connect(stage.listener).await.unwrap());
    }
    let request = b"POST /asked HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nbody";
    let mut answer = Vec::new();
    let mut counts = Vec::new();
    let clean = |counts: &[u64]| BATCH * counts.iter().filter(|count| **count == 0).count();
    while counts.len() < BATCHES_MAX && clean(&counts) < REQUESTS {
        let before = proxy.allocations();
        for _ in 0..BATCH / CONNECTIONS {
            for stream in &mut streams {
                exchange(stream, request, &mut answer).await;
            }
        }
        counts.push(proxy.allocations() - before);
    }
    // The first one is what the connections begin with.
    assert!(counts[0] > 0, "nothing is counted");
    assert!(clean(&counts) >= REQUESTS, "of {BATCH} requests each: {counts:?}");
}
