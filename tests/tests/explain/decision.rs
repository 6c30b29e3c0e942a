//! What proxies of ours say that they have decided, beside what was explained.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tombolo_compiler::explain::{Destination, Hosts, Outcome};

/// Tells one request from the others.
pub(crate) const NUMBER: &str = "x-question";
/// A request is shown as it ends.
const SHOWN_MAX: Duration = Duration::from_secs(5);

type ByNumber = BTreeMap<String, Value>;

/// A tap of a proxy for as long as it lives.
pub(crate) struct Decisions {
    shown: watch::Receiver<ByNumber>,
    task: JoinHandle<()>,
}

impl Decisions {
    pub(crate) async fn of(admin: SocketAddr) -> Result<Decisions> {
        let mut stream = TcpStream::connect(admin).await?;
        // In this version the body is what comes until the end.
        let asked =
            format!("GET /tap?requests=10000&seconds=3600&header={NUMBER} HTTP/1.0\r\nhost: {admin}\r\n\r\n");
        stream.write_all(asked.as_bytes()).await?;
        let mut lines = BufReader::new(stream).lines();
        let status = lines.next_line().await?.unwrap_or_default();
        ensure!(status.contains(" 200 "), "no tap of {admin}: {status}");
        while lines.next_line().await?.is_some_and(|line| !line.is_empty()) {}
        let (show, shown) = watch::channel(ByNumber::new());
        let task = tokio::spawn(read(lines, show));
        Ok(Decisions { shown, task })
    }

    /// Of a request that has been answered.
    pub(crate) async fn of_request(&self, number: &str) -> Result<Value> {
        let mut shown = self.shown.clone();
        let known = timeout(SHOWN_MAX, shown.wait_for(|shown| shown.contains_key(number))).await;
        let known = known.context("the proxy's tap does not show it")?;
        Ok(known.context("the tap has ended")?[number].clone())
    }
}

impl Drop for Decisions {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn read(mut lines: Lines<BufReader<TcpStream>>, show: watch::Sender<ByNumber>) {
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok(mut request) = serde_json::from_str::<Value>(&line) else {
            continue;
        };
        let headers = request["request_headers"].as_array().into_iter().flatten();
        let number = headers
            .filter(|header| header[0] == NUMBER)
            .find_map(|header| header[1].as_str().map(str::to_owned));
        if let Some(number) = number {
            show.send_modify(|shown| {
                shown.insert(number, request["decision"].take());
            });
        }
    }
}

/// Whether the one says what the other does.
pub(crate) fn check(outcome: &Outcome, decision: &Value) -> Result<()> {
    let decided = decision["outcome"].as_str().unwrap_or_default();
    let upstream = decision["upstream"].as_str();
    match outcome {
        Outcome::Forward { targets, .. } => {
            ensure!(decided == "forward", "{decision} instead of forwarding it");
            let target = targets
                .iter()
                .find(|target| Some(target.upstream.as_str()) == upstream)
                .with_context(|| format!("{decision} is to nobody of {targets:?}"))?;
            let hosts = addresses(target);
            let attempts = decision["attempts"].as_array();
            let attempts = attempts.context("no attempts are told")?;
            ensure!(
                hosts.is_empty() == attempts.is_empty(),
                "{decision} asks nobody of {hosts:?}"
            );
            ensure!(
                attempts
                    .iter()
                    .all(|attempt| attempt["address"].as_str().is_some_and(|at| hosts.contains(at))),
                "{decision} asks somebody else than {hosts:?}"
            );
        }
        Outcome::Redirect { .. } => ensure!(decided == "redirect", "{decision} instead of a redirect"),
        Outcome::Refuse { .. } | Outcome::NotTaken { .. } => ensure!(
            decided == "refuse" && upstream.is_none(),
            "{decision} instead of a refusal"
        ),
    }
    Ok(())
}

fn addresses(target: &Destination) -> BTreeSet<String> {
    let hosts = target.places.iter().filter_map(|place| match &place.hosts {
        Hosts::Instances(hosts) | Hosts::Gateways(hosts) => Some(hosts),
        Hosts::Reported(_) => None,
    });
    hosts.flatten().map(|host| host.address.to_string()).collect()
}
