//! User-space instructions and system calls per request of our proxy: counted by callgrind and by strace, so that nothing
//! else on the machine matters. Each is the difference of two runs that differ in the number of requests only, so that
//! neither the start nor the end counts.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use http::StatusCode;
use tombolo_tests::ads::{Ads, contract};
use tombolo_tests::process::Process;
use tombolo_tests::proxy::tombolo_command;
use tombolo_tests::{client, free_port, within};

use super::{CONNECTIONS, listener, node};
use crate::load::{Asks, Load, Upstream};

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

pub(crate) async fn run(asks: Asks) -> Result<()> {
    let upstream = Upstream::start()?;
    let instructions = per_request(Counter::Instructions, asks, upstream.address()).await?;
    let syscalls = per_request(Counter::SystemCalls, asks, upstream.address()).await?;
    println!();
    println!("{:44}{instructions:>12.0}", "user-space instructions per request");
    println!("{:44}{syscalls:>12.2}", "system calls per request");
    println!();
    let asked = asks.key();
    println!(
        "bench proxy instructions: {asked}_instructions={instructions:.0} {asked}_syscalls={syscalls:.2}"
    );
    Ok(())
}

async fn per_request(counter: Counter, asks: Asks, upstream: SocketAddr) -> Result<f64> {
    let few = counter.count(REQUESTS_FEW, asks, upstream).await?;
    let many = counter.count(REQUESTS_MANY, asks, upstream).await?;
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
    async fn count(self, requests: usize, asks: Asks, upstream: SocketAddr) -> Result<f64> {
        println!("{requests} requests under {}", self.program());
        let dir = tempfile::tempdir().context("cannot create a temporary directory")?;
        let counted = dir.path().join("counted");
        let listener = listener();
        let ads = Ads::start(contract::one_service(listener, &[upstream], asks.retries())).await;
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
            client::get(listener, "/").await?.expect(StatusCode::OK)
        })
        .await
        .with_context(|| format!("the proxy's log ends with:\n{}", proxy.log_tail()))?;
        let load = Load {
            asks,
            connections: CONNECTIONS,
            requests,
        };
        load.run(listener).await?;
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
