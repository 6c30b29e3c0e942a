//! Steady traffic from every cluster's clients, and what became of each request.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::Context;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::sample::Answer;

/// Each path is walked by that many clients, so that one frozen request does not stop its path.
const CLIENTS_PER_PATH: usize = 4;
/// With six paths of four clients each: about 300 requests a second, a tenth of what the machine could do.
const REQUEST_INTERVAL: Duration = Duration::from_millis(80);
/// How often to look whether the last requests have ended.
const SETTLE_INTERVAL: Duration = Duration::from_millis(10);
/// What a patient user would wait.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// One request in that many comes from a tester.
const TESTERS_ONE_IN: usize = 4;

/// One way in: a client's proxy, or a gateway.
#[derive(Clone, Debug)]
pub(super) struct Path {
    pub(super) cluster: &'static str,
    pub(super) via: &'static str,
    pub(super) proxy: SocketAddr,
    pub(super) host: &'static str,
}

/// One request and what became of it.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) sent: Instant,
    pub(super) done: Instant,
    pub(super) cluster: &'static str,
    pub(super) via: &'static str,
    pub(super) tester: bool,
    /// On a new connection, because the kept one was closed before any answer.
    pub(super) resent: bool,
    pub(super) outcome: Result<Answer, String>,
}

/// What the clients saw so far; shared by all of them.
#[derive(Clone, Default)]
pub(super) struct Ledger {
    entries: Arc<Mutex<Entries>>,
}

#[derive(Default)]
struct Entries {
    samples: Vec<Sample>,
    /// When the requests that are on their way were sent.
    open: BTreeMap<Ticket, Instant>,
    next: Ticket,
}

type Ticket = u64;

/// The clients. Dropping it stops them.
pub(super) struct Traffic {
    pub(super) ledger: Ledger,
    paused: BTreeMap<(&'static str, &'static str), Arc<AtomicBool>>,
    _clients: JoinSet<()>,
}

impl Traffic {
    pub(super) fn start(paths: &[Path]) -> Traffic {
        let ledger = Ledger::default();
        let mut paused: BTreeMap<_, Arc<AtomicBool>> = BTreeMap::new();
        let mut clients = JoinSet::new();
        for path in paths {
            let pause = paused.entry((path.cluster, path.via)).or_default();
            for _ in 0..CLIENTS_PER_PATH {
                clients.spawn(client(path.clone(), ledger.clone(), Arc::clone(pause)));
            }
        }
        Traffic {
            ledger,
            paused,
            _clients: clients,
        }
    }

    /// The requests that were sent in between, once all of them have ended.
    pub(super) async fn settled(&self, from: Instant, until: Instant) -> Vec<Sample> {
        while self.ledger.is_open(from, until) {
            sleep(SETTLE_INTERVAL).await;
        }
        let mut samples = self.ledger.since(from);
        samples.retain(|sample| sample.sent <= until);
        samples
    }

    /// A dead cluster's clients died with it.
    pub(super) fn pause(&self, cluster: &str) {
        self.set_paused(true, |path| path.0 == cluster);
    }

    pub(super) fn resume(&self, cluster: &str) {
        self.set_paused(false, |path| path.0 == cluster);
    }

    /// A client that restarts together with its proxy sends nothing meanwhile.
    pub(super) fn pause_path(&self, path: &Path) {
        self.set_paused(true, |(cluster, via)| cluster == path.cluster && via == path.via);
    }

    pub(super) fn resume_path(&self, path: &Path) {
        self.set_paused(false, |(cluster, via)| cluster == path.cluster && via == path.via);
    }

    fn set_paused(&self, value: bool, which: impl Fn((&str, &str)) -> bool) {
        for (_, pause) in self.paused.iter().filter(|(path, _)| which(**path)) {
            pause.store(value, Ordering::Relaxed);
        }
    }
}

impl Ledger {
    /// The requests sent since then, in the order of their end.
    pub(super) fn since(&self, start: Instant) -> Vec<Sample> {
        let entries = self.entries();
        entries
            .samples
            .iter()
            .filter(|sample| sample.sent >= start)
            .cloned()
            .collect()
    }

    fn is_open(&self, from: Instant, until: Instant) -> bool {
        let entries = self.entries();
        entries.open.values().any(|sent| (from..=until).contains(sent))
    }

    fn begin(&self, sent: Instant) -> Ticket {
        let mut entries = self.entries();
        let ticket = entries.next;
        entries.next += 1;
        entries.open.insert(ticket, sent);
        ticket
    }

    fn end(&self, ticket: Ticket, sample: Option<Sample>) {
        let mut entries = self.entries();
        entries.open.remove(&ticket);
        entries.samples.extend(sample);
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries
            .lock()
            .expect("invariant: nobody panics while holding the ledger")
    }
}

async fn client(path: Path, ledger: Ledger, paused: Arc<AtomicBool>) {
    let mut ticks = interval(REQUEST_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut connection = None;
    for number in 0_usize.. {
        ticks.tick().await;
        if paused.load(Ordering::Relaxed) {
            connection = None;
            continue;
        }
        let tester = number.is_multiple_of(TESTERS_ONE_IN);
        let sent = Instant::now();
        let ticket = ledger.begin(sent);
        let mut resent = false;
        let asking = request(&path, tester, &mut connection, &mut resent);
        let outcome = match timeout(REQUEST_TIMEOUT, asking).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(format!("{error:#}")),
            Err(_) => Err(format!("no answer within {} s", REQUEST_TIMEOUT.as_secs())),
        };
        if outcome.is_err() {
            connection = None;
        }
        // Its cluster may have died while the request was on its way; then so did the client.
        let died = outcome.is_err() && paused.load(Ordering::Relaxed);
        let sample = (!died).then(|| Sample {
            sent,
            done: Instant::now(),
            cluster: path.cluster,
            via: path.via,
            tester,
            resent,
            outcome,
        });
        ledger.end(ticket, sample);
    }
}

/// A request on a kept connection that turns out to be closed is sent again on a new one, as every HTTP client does
/// with idempotent requests (RFC 9110, section 9.2.2). An answer that was cut off is a failure.
async fn request(
    path: &Path,
    tester: bool,
    connection: &mut Option<SendRequest<Empty<Bytes>>>,
    resent: &mut bool,
) -> anyhow::Result<Answer> {
    if let Some(mut kept) = connection.take().filter(|kept| !kept.is_closed()) {
        if let Ok(answer) = exchange(path, tester, &mut kept).await {
            *connection = Some(kept);
            return answer;
        }
        *resent = true;
    }
    let stream = TcpStream::connect(path.proxy).await.context("connect")?;
    let (mut sender, driver) = handshake(TokioIo::new(stream)).await.context("handshake")?;
    // Ends with the connection, whose end `sender` reports.
    tokio::spawn(driver);
    let answer = exchange(path, tester, &mut sender).await.context("send")?;
    *connection = Some(sender);
    answer
}

/// The outer error is the connection's, the inner one the answer's.
async fn exchange(
    path: &Path,
    tester: bool,
    sender: &mut SendRequest<Empty<Bytes>>,
) -> hyper::Result<anyhow::Result<Answer>> {
    let mut request = Request::get("/reviews/1").header("host", path.host);
    if tester {
        request = request.header("x-group", "testers");
    }
    let request = request
        .body(Empty::new())
        .expect("invariant: the request's parts are constants");
    sender.ready().await?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = match response.into_body().collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return Ok(Err(anyhow::Error::new(error).context("the answer was cut off"))),
    };
    if !status.is_success() {
        let text = String::from_utf8_lossy(&body);
        return Ok(Err(anyhow::anyhow!(
            "{status} through {}'s {}: {}",
            path.cluster,
            path.via,
            text.trim()
        )));
    }
    Ok(serde_json::from_slice(&body).context("read the answer"))
}
