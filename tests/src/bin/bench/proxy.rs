//! Our proxy beside Envoy, HAProxy and nginx: the same upstream and the same route, one worker each, in alternating rounds so
//! that whatever else the machine does hits all. Envoy and ours are configured over the same xDS, the other two by a file.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Result, bail, ensure};
use tombolo_tests::free_port;
use tombolo_tests::proxy::{Node, Role};

use crate::Options;
use crate::report::{DOCUMENT, ROUNDS_MIN, Report};

mod bars;
mod contender;
mod http;
mod instructions;
mod latency;
mod memory;
mod peers;
mod reload;
mod rounds;
mod routes;
mod soak;
mod splice;
mod tcp;

/// What `bench proxy` without a mode runs, in this order.
const MODES: [&str; 10] = [
    "h1",
    "post",
    "h2",
    "tls",
    "tcp",
    "routes",
    "latency",
    "memory",
    "reload",
    "instructions",
];

pub(crate) async fn run(options: &Options, mode: &str) -> Result<()> {
    if let Some(between) = mode.strip_prefix(splice::NAME) {
        return splice::run(between).await;
    }
    if !mode.is_empty() {
        return one(options, mode).await.map(drop);
    }
    let mut all = Report::new("proxy");
    for mode in MODES {
        println!("proxy {mode}");
        all.keys.extend(one(options, mode).await?.keys);
    }
    println!("{}", all.line());
    Ok(())
}

/// Runs one mode, prints what it found, and writes it down.
async fn one(options: &Options, mode: &str) -> Result<Report> {
    let mut report = match mode {
        "h1" => http::run(options, &http::H1).await,
        "post" => http::run(options, &http::BODIES).await,
        "h2" => http::run(options, &http::H2).await,
        "tls" => http::run(options, &http::tls()?).await,
        "tcp" => tcp::run(options).await,
        "routes" => routes::run(options).await,
        "latency" => latency::run(options).await,
        "memory" => memory::run(options).await,
        "reload" => reload::run(options).await,
        "soak" => soak::run(options).await,
        "instructions" => instructions::run().await,
        other => bail!("`bench proxy` has no mode {other:?}; see --help"),
    }?;
    report.name = format!("proxy {mode}");
    report.tables.extend(bars::table(&report.keys));
    report.print();
    if options.rounds >= ROUNDS_MIN || mode == "soak" {
        report.write()?;
        println!("written to {DOCUMENT}");
    } else {
        println!("not written to {DOCUMENT}: that takes {ROUNDS_MIN} rounds");
    }
    let lost = report.keys.iter().find(|(key, _)| key.ends_with("lost"));
    let lost = lost.map_or(0.0, |(_, lost)| *lost);
    ensure!(lost == 0.0, "{lost} requests were lost");
    Ok(report)
}

fn listener() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()))
}

fn node(id: &str) -> Node {
    Node {
        id: format!("bench-{id}"),
        cluster: "bench".to_owned(),
        namespace: "bench".to_owned(),
        role: Role::Gateway {
            workload: "bench".to_owned(),
        },
    }
}
