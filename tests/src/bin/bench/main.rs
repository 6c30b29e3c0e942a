//! The figures of Tombolo, measured: `cargo xtask bench NAME`. Each prints a table for people and ends with one line
//! for scripts, `bench NAME: key=value …`.
//!
//! What a bench starts ends with it: on success, on failure, on Ctrl-C, and when the bench itself is killed.

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};

mod api;
mod audit;
mod control;
mod intent;
mod load;
mod probe;
mod propagation;
mod proxy;
mod report;
mod statistics;

const HELP: &str = "\
Measures Tombolo. Run it through `cargo xtask bench NAME`, which builds what it measures.

Benches:
  api          writes beside the same SQL by pgbench, reads beside a bare handler, writes in a flood of denials
  audit        pages of ten million audit records by every filter, what appending costs, and verifying
  proxy        all modes of it, our proxy beside Envoy, and HAProxy and nginx where they are installed, written to
               docs/benchmarks.md:
    proxy h1       CPU per request, memory and latency over HTTP/1.1, without and with a JSON access log
    proxy post     the same with a body of 1 KiB, which comes back: of POST, which is not repeated once a host may have seen
                   it, and of PUT, which is
    proxy h2       the same over HTTP/2, to hosts of HTTP/1.1 and of HTTP/2, and unary gRPC
    proxy tls      the same in TLS 1.3, over kept connections and with a full handshake for each request
    proxy tcp      CPU per request of connections that are passed on byte by byte, beside one that only splices
    proxy routes   CPU per request where the table has 10,000 hosts with 100,000 routes, beside one of ten hosts
    proxy latency  50 % and 99 % of the latencies at 30 % of Envoy's highest rate
    proxy memory   memory of 10,000 idle connections, and memory and CPU time of 5,000 clusters with their routes
    proxy reload   99 % of the latencies while the configuration changes 100 times a second, and what is lost
    proxy soak     ten minutes of mixed traffic while services, upstreams and connections come and go: memory, descriptors and
                   what is lost; not among those that `bench proxy` alone runs
    proxy instructions  user-space instructions (valgrind) and system calls (strace) per request of our proxy
  propagation  from the API's answer to the new route answering in every proxy of the demo's topology
  intent       many resources: resolving all, and one change until the clusters' routes are planned

Options:
  --rounds N   proxy, api: how many rounds, each with both sides; intent: how many times all is resolved (default 7)
  --requests N proxy: requests in a round, for each proxy (default 30000)
  --minutes N  proxy soak: how long (default 10)
  --samples N  propagation, intent: how many changes; audit: how many writes (default 500)
  --records N  audit: how many records (default 10000000)
  --resources N intent: how many resources (default 100000)
";

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    if args.iter().any(|arg| arg == "--help" || arg == "-h") {
        print!("{HELP}");
        return ExitCode::SUCCESS;
    }
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result<()> {
    let named = args.iter().take_while(|arg| !arg.starts_with("--")).count();
    let (name, options) = args.split_at(named);
    let name = name.join(" ");
    let options = Options::parse(options)?;
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot build a runtime")?;
    runtime.block_on(async {
        let bench = async {
            if let Some(mode) = name.strip_prefix("proxy") {
                return Box::pin(proxy::run(&options, mode.trim_start())).await;
            }
            match name.as_str() {
                "api" => api::run(&options).await,
                "audit" => audit::run(&options).await,
                "propagation" => propagation::run(&options).await,
                "intent" => Box::pin(intent::run(&options)).await,
                "" => bail!("which bench? see --help"),
                other => bail!("no bench is named {other:?}; see --help"),
            }
        };
        // Leaving this block drops the bench, and with it every process that it has started.
        tokio::select! {
            done = bench => done,
            stopped = interrupted() => stopped,
        }
    })
}

/// Returns when somebody wants the bench to end.
async fn interrupted() -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    bail!("stopped")
}

/// What a person may change of a bench.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Options {
    rounds: usize,
    requests: usize,
    samples: usize,
    records: usize,
    resources: usize,
    minutes: usize,
}

impl Options {
    fn parse(args: &[String]) -> Result<Options> {
        let mut options = Options {
            rounds: 7,
            requests: 30_000,
            samples: 500,
            records: 10_000_000,
            resources: 100_000,
            minutes: 10,
        };
        for pair in args.chunks(2) {
            let [flag, value] = pair else {
                bail!("{} needs a value; see --help", pair[0]);
            };
            let value: usize = value
                .parse()
                .with_context(|| format!("{flag} {value}: not a number"))?;
            ensure!(value > 0, "{flag} must be more than 0");
            match flag.as_str() {
                "--rounds" => options.rounds = value,
                "--requests" => options.requests = value,
                "--samples" => options.samples = value,
                "--records" => options.records = value,
                "--resources" => options.resources = value,
                "--minutes" => options.minutes = value,
                _ => bail!("unknown option {flag}; see --help"),
            }
        }
        Ok(options)
    }
}

/// The release binary, which `cargo xtask bench` has built beside this one.
fn tombolo() -> Result<PathBuf> {
    let own = env::current_exe().context("cannot tell the path of this program")?;
    let found = own.with_file_name("tombolo");
    ensure!(
        found.is_file(),
        "{} is missing; run `cargo xtask bench`",
        found.display()
    );
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_checked() {
        let parse =
            |text: &str| Options::parse(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(parse("--rounds 5").unwrap().rounds, 5);
        for (text, message) in [
            ("--rounds", "needs a value"),
            ("--rounds x", "not a number"),
            ("--rounds 0", "more than 0"),
            ("--loud 1", "unknown option"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(message), "{text}: {error}");
        }
    }
}
