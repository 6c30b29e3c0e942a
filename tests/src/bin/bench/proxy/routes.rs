//! What a large route table costs each request: the same request through a table of ten hosts and one of ten thousand, with ten
//! routes each, through our proxy and Envoy in turns.

use anyhow::{Context, Result};
use tombolo_tests::ads::contract;
use tombolo_tests::proxy::Software;

use super::{Bench, FIGURES, cell, listener, over_xds};
use crate::Options;
use crate::load::{Asks, Upstream};

const FEW: usize = 10;
const MANY: usize = 10_000;

pub(crate) async fn run(options: &Options) -> Result<()> {
    let dir = tempfile::tempdir().context("cannot create a temporary directory")?;
    let upstream = Upstream::start()?;
    let mut benches = Vec::new();
    for (name, software, hosts) in [
        ("tombolo-few", Software::Tombolo, FEW),
        ("tombolo-many", Software::Tombolo, MANY),
        ("envoy-few", Software::Envoy, FEW),
        ("envoy-many", Software::Envoy, MANY),
    ] {
        let listener = listener();
        let resources = contract::many_routes(listener, upstream.address(), hosts);
        let running = over_xds(software, name, resources, dir.path()).await?;
        benches.push(Bench::ready(name, Asks::Get, listener, running).await?);
        println!("{name} runs");
    }
    for round in 0..options.rounds {
        for bench in &mut benches {
            bench.round(options.requests).await?;
        }
        benches.reverse();
        println!("round {} of {}", round + 1, options.rounds);
    }
    benches.sort_by_key(|bench| bench.name);
    println!();
    println!(
        "CPU per request, µs: median (least-most) of {} rounds",
        options.rounds
    );
    let [cpu, ..] = &FIGURES;
    let mut medians = Vec::new();
    for bench in &benches {
        let sorted = cpu.sorted(bench)?;
        println!("{:16}{:>24}", bench.name, cell(&sorted));
        medians.push(sorted.median());
    }
    let [envoy_few, envoy_many, few, many] = medians[..] else {
        unreachable!("invariant: four were measured");
    };
    println!();
    println!(
        "bench proxy routes: routes_cpu_vs_few={:.2} routes_cpu_vs_envoy={:.2} envoy_cpu_vs_few={:.2} rounds={}",
        many / few,
        many / envoy_many,
        envoy_many / envoy_few,
        options.rounds
    );
    Ok(())
}
