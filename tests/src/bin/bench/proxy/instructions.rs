//! User-space instructions and system calls per request of our proxy: counted by callgrind and by strace, so that nothing
//! else on the machine matters. Each is the difference of two runs that differ in the number of requests only, so that
//! neither the start nor the end counts.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use tombolo_tests::ads::Ads;
use tombolo_tests::process::Process;
use tombolo_tests::proxy::tombolo_command;
use tombolo_tests::{free_port, within};

use super::http::{self, Work};
use super::{listener, node};
use crate::load::Upstream;
use crate::report::{Report, Table};

/// By then each connection has been used often, and nothing grows any more.
const REQUESTS_FEW: usize = 4_000;
const REQUESTS_MANY: usize = 14_000;
/// Callgrind makes a program some fifty times slower.
const START_TIMEOUT: Duration = Duration::from_secs(120);
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// What counts, as Debian's packages and their programs are called.
#[derive(Clone, Copy)]
enum Counter {
    Instructions,
    SystemCalls,
}

pub(super) async fn run() -> Result<Report> {
    let mut report = Report::default();
    let mut rows = Vec::new();
    let [get, _] = http::H1;
    for work in [get].iter().chain(&http::BODIES).chain(&http::H2) {
        let upstream = Upstream::start(work.upstream)?;
        let instructions = per_request(Counter::Instructions, work, upstream.address()).await?;
        let syscalls = per_request(Counter::SystemCalls, work, upstream.address()).await?;
        rows.push(vec![
            work.title.to_owned(),
            format!("{instructions:.0}"),
            format!("{syscalls:.2}"),
        ]);
        report.key(format!("{}_instructions", work.key), instructions);
        report.key(format!("{}_syscalls", work.key), syscalls);
    }
    report.tables.push(Table {
        title: "A request".to_owned(),
        heads: vec!["user-space instructions".to_owned(), "system calls".to_owned()],
        rows,
    });
    Ok(report)
}

async fn per_request(counter: Counter, work: &Work, upstream: SocketAddr) -> Result<f64> {
    let few = counter.count(REQUESTS_FEW, work, upstream).await?;
    let many = counter.count(REQUESTS_MANY, work, upstream).await?;
    Ok((many - few) / (REQUESTS_MANY - REQUESTS_FEW) as f64)
}

impl Counter {
    fn program(self) -> &'static str {
        match self {
            Counter::Instructions => "valgrind",
            Counter::SystemCalls => "strace",
        }
    }

    /// What one life of a proxy with so many requests takes.
    async fn count(self, requests: usize, work: &Work, upstream: SocketAddr) -> Result<f64> {
        println!("{requests} requests under {}", self.program());
        let dir = tempfile::tempdir().context("cannot create a temporary directory")?;
        let counted = dir.path().join("counted");
        let listener = listener();
        let ads = Ads::start(work.resources(listener, upstream, None)).await;
        let admin = SocketAddr::new(listener.ip(), free_port());
        let plain = tombolo_command(
            &node("counted"),
            ads.address(),
            admin,
            &crate::tombolo()?,
            dir.path(),
        );
        let proxy = Process::start(self.program(), &mut self.around(&plain, &counted), dir.path())
            .with_context(|| format!("is it installed? apt-get install {}", self.program()))?;
        within(START_TIMEOUT, async || {
            work.load(1).single().run(listener).await?.whole()
        })
        .await
        .with_context(|| format!("the proxy's log ends with:\n{}", proxy.log_tail()))?;
        work.load(requests).run(listener).await?.whole()?;
        proxy.terminate(STOP_TIMEOUT)?;
        // Strace ends after what it counts.
        within(STOP_TIMEOUT, async || {
            let text = fs::read_to_string(&counted).context("nothing was counted")?;
            self.parse(&text).context("what was counted cannot be read")
        })
        .await
    }

    fn around(self, plain: &Command, counted: &Path) -> Command {
        let mut command = Command::new(self.program());
        match self {
            Counter::Instructions => {
                let mut file = std::ffi::OsString::from("--callgrind-out-file=");
                file.push(counted);
                command.arg("--tool=callgrind").arg(file)
            }
            // As a grandchild, so that the child is the proxy and takes our signals.
            Counter::SystemCalls => command.args(["-D", "-f", "-c", "-o"]).arg(counted),
        };
        command.arg(plain.get_program()).args(plain.get_args());
        command
    }

    fn parse(self, text: &str) -> Option<f64> {
        match self {
            Counter::Instructions => {
                let total = text.lines().find_map(|line| line.strip_prefix("totals: "))?;
                total.trim().parse().ok()
            }
            // % of the time, seconds, microseconds per call, calls, errors if there were any, "total".
            Counter::SystemCalls => {
                let total = text.lines().find(|line| line.ends_with(" total"))?;
                total.split_whitespace().nth(3)?.parse().ok()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read() {
        let callgrind = "events: Ir\nsummary: 12\nfn=(1) main\n1 2\ntotals: 345\n";
        assert_eq!(Counter::Instructions.parse(callgrind), Some(345.0));
        let strace = "% time     seconds  usecs/call     calls    errors syscall\n\
                      ------ ----------- ----------- --------- --------- ----------------\n\
                      \x20 1.00    0.000010           1        10           read\n\
                      100.00    0.001000           2       500        12 total\n";
        assert_eq!(Counter::SystemCalls.parse(strace), Some(500.0));
        for counter in [Counter::Instructions, Counter::SystemCalls] {
            assert_eq!(counter.parse("events: Ir\n"), None);
        }
    }
}
