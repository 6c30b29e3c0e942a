//! Waits until the proxies that a change concerns have proven that they run it, and shows how far they are.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::Deserialize;
use tombolo_compiler::name::Fqn;
use tombolo_compiler::roll_up::{Outcome, Status};

use crate::client::{Client, Extras, query};

/// How long the server holds one question before it answers with what it has.
const PATIENCE: Duration = Duration::from_secs(2);
/// Should the server not hold it, questions are at least this far apart.
const ASK_INTERVAL: Duration = Duration::from_millis(50);

/// What became of a change in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waited {
    Live,
    Rejected,
    TimedOut,
}

/// The part of an answer that says how far a change is.
#[derive(Debug, Deserialize)]
struct Receipt {
    status: Status,
}

/// A line on standard error that is drawn over on terminals, and written once per change elsewhere.
#[derive(Debug)]
struct Progress {
    is_terminal: bool,
    last: String,
}

/// Waits for all of `names`, which changed together in `revision`, until `deadline`.
pub(crate) async fn wait(
    client: &Client,
    names: &[Fqn],
    revision: u64,
    deadline: Instant,
) -> anyhow::Result<Waited> {
    let mut progress = Progress {
        is_terminal: std::io::stderr().is_terminal(),
        last: String::new(),
    };
    let mut waited = Waited::Live;
    for name in names {
        let one = wait_one(client, name, revision, deadline, &mut progress).await?;
        if one != Waited::Live {
            waited = one;
            break;
        }
    }
    progress.end();
    Ok(waited)
}

async fn wait_one(
    client: &Client,
    name: &Fqn,
    revision: u64,
    deadline: Instant,
    progress: &mut Progress,
) -> anyhow::Result<Waited> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let patience = left.min(PATIENCE);
        let parameters = [
            ("revision", Some(revision.to_string())),
            ("wait", Some(format!("{}ms", patience.as_millis()))),
        ];
        let path = query(&format!("{name}:receipt"), &parameters);
        let extras = Extras {
            patience,
            ..Extras::default()
        };
        let asked = Instant::now();
        let answer = client.send(hyper::Method::GET, &path, extras).await?;
        let receipt: Receipt = serde_json::from_value(answer.body)
            .with_context(|| format!("read the receipt of {name}: is the server of the same version?"))?;
        progress.show(&line(name, &receipt.status));
        match receipt.status.outcome {
            Outcome::Running | Outcome::Accepted => return Ok(Waited::Live),
            Outcome::Rejected => {
                progress.end();
                eprint!("{}", rejections(name, &receipt.status));
                return Ok(Waited::Rejected);
            }
            Outcome::Pending | Outcome::Unknown if Instant::now() >= deadline => {
                progress.end();
                eprint!("{}", late(&receipt.status).concat());
                return Ok(Waited::TimedOut);
            }
            Outcome::Pending | Outcome::Unknown => {
                tokio::time::sleep(ASK_INTERVAL.saturating_sub(asked.elapsed())).await;
            }
        }
    }
}

impl Progress {
    fn show(&mut self, line: &str) {
        if line == self.last {
            return;
        }
        self.last = line.to_owned();
        let mut out = std::io::stderr().lock();
        // Progress that cannot be shown is no reason to stop.
        let _ = if self.is_terminal {
            write!(out, "\r\x1b[K{line}").and_then(|()| out.flush())
        } else {
            writeln!(out, "{line}")
        };
    }

    fn end(&mut self) {
        if self.is_terminal && !std::mem::take(&mut self.last).is_empty() {
            eprintln!();
        }
    }
}

/// `payments/web: us-east 3/3, us-west 1/3`
fn line(name: &Fqn, status: &Status) -> String {
    let mut line = format!("{}: ", name.leaf());
    if status.clusters.is_empty() {
        line.push_str("concerns no cluster");
    }
    for (index, (cluster, status)) in status.clusters.iter().enumerate() {
        let comma = if index > 0 { ", " } else { "" };
        // Writing to a string cannot fail.
        let _ = write!(
            line,
            "{comma}{cluster} {}/{}",
            status.proxies_with, status.proxies
        );
        if !matches!(status.outcome, Outcome::Running | Outcome::Pending) {
            let _ = write!(line, " ({})", outcome_text(status.outcome));
        }
    }
    line
}

fn rejections(name: &Fqn, status: &Status) -> String {
    let mut text = format!("{name} is rejected:\n");
    for (cluster, status) in &status.clusters {
        for rejection in &status.rejections {
            let _ = writeln!(text, "  {cluster} {rejection}");
        }
    }
    text
}

/// Which proxies are without it, a line per cluster.
pub(crate) fn late(status: &Status) -> Vec<String> {
    let clusters = status.clusters.iter();
    clusters
        .filter(|(_, status)| !status.late.is_empty())
        .map(|(cluster, status)| format!("  {cluster} {}\n", status.late.join(", ")))
        .collect()
}

pub(crate) fn outcome_text(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Running => "running",
        Outcome::Accepted => "accepted",
        Outcome::Pending => "pending",
        Outcome::Unknown => "unknown",
        Outcome::Rejected => "rejected",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    use http_body_util::Full;
    use hyper::body::{Bytes, Incoming};
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper::{Request, Response};
    use hyper_util::rt::TokioIo;
    use serde_json::json;
    use tombolo_compiler::observe::Agent;
    use tombolo_compiler::roll_up::ClusterStatus;

    use super::*;

    fn cluster(outcome: Outcome, with: u32, rejections: &[&str]) -> ClusterStatus {
        ClusterStatus {
            outcome,
            agent: Agent::Live,
            proxies: 3,
            proxies_with: with,
            late: vec![],
            rejections: rejections.iter().map(|text| (*text).to_owned()).collect(),
        }
    }

    #[test]
    fn progress_names_each_cluster() {
        let name: Fqn = "organizations/acme/tenants/pay".parse().unwrap();
        let mut status = Status {
            outcome: Outcome::Rejected,
            clusters: BTreeMap::new(),
            findings: vec![],
        };
        assert_eq!(line(&name, &status), "pay: concerns no cluster");
        let rejected = cluster(Outcome::Rejected, 2, &["gw-1: no such cluster"]);
        status.clusters = [
            ("us-east".parse().unwrap(), cluster(Outcome::Running, 3, &[])),
            ("us-west".parse().unwrap(), rejected),
        ]
        .into();
        assert_eq!(line(&name, &status), "pay: us-east 3/3, us-west 2/3 (rejected)");
        assert_eq!(
            rejections(&name, &status),
            "organizations/acme/tenants/pay is rejected:\n  us-west gw-1: no such cluster\n"
        );
    }

    /// An API that answers each question with the next of `outcomes`, and the last one from then on. Returns the client
    /// and what was asked.
    async fn api(outcomes: &'static [&'static str]) -> (Client, Arc<Mutex<Vec<String>>>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let answers = asked.clone();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let answer = service_fn(move |request: Request<Incoming>| {
                let mut asked = answers.lock().unwrap();
                let outcome = outcomes[asked.len().min(outcomes.len() - 1)];
                asked.push(request.uri().to_string());
                let body = json!({"status": {"outcome": outcome, "clusters": {}}}).to_string();
                async move { Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::from(body))) }
            });
            http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer)
                .await
                .unwrap();
        });
        (
            Client::new(crate::client::tests::args(&server, None)).unwrap(),
            asked,
        )
    }

    #[tokio::test]
    async fn waiting_ends_with_proof_a_refusal_or_the_deadline() {
        let name: Fqn = "organizations/acme/tenants/pay".parse().unwrap();
        for (outcomes, seconds, expected) in [
            (&["pending", "unknown", "running"][..], 30, Waited::Live),
            (&["accepted"], 30, Waited::Live),
            (&["pending", "rejected"], 30, Waited::Rejected),
            (&["pending"], 0, Waited::TimedOut),
        ] {
            let (client, asked) = api(outcomes).await;
            let deadline = Instant::now() + Duration::from_secs(seconds);
            let waited = wait(&client, std::slice::from_ref(&name), 7, deadline)
                .await
                .unwrap();
            assert_eq!(waited, expected, "{outcomes:?}");
            let asked = asked.lock().unwrap();
            assert_eq!(asked.len(), outcomes.len());
            let first = format!("/v1/{name}:receipt?revision=7&wait=");
            assert!(asked[0].starts_with(&first), "{asked:?}");
        }
    }
}
