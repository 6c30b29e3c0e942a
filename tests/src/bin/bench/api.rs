//! What authorization, audit and HTTP cost management: writes beside the same SQL sent by pgbench, reads beside a bare
//! handler that answers the same row, and writes while a flood of requests is denied. Interleaved rounds on one
//! Postgres, so that whatever else the machine does hits all of them.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::Options;
use crate::statistics::Sorted;

mod bare;
mod clients;
mod pgbench;
mod rig;

use bare::Bare;
use clients::{Clients, Errand};
use rig::Rig;

/// On each side of each comparison.
const CLIENTS: usize = 8;
/// How long one side works in one round.
const ROUND: Duration = Duration::from_secs(4);
/// Before the first round: statements are prepared, connections made.
const WARM_UP: Duration = Duration::from_secs(2);
/// Of the flood: far more than people and programs cause who have lost a right, and twice what the chain of denials
/// takes before it counts instead of recording.
const DENIED_PER_SECOND: u32 = 1000;

/// Per second, of each round.
#[derive(Debug, Default)]
struct Rates {
    write: Vec<f64>,
    pgbench: Vec<f64>,
    write_in_flood: Vec<f64>,
    denied: Vec<f64>,
    read: Vec<f64>,
    bare: Vec<f64>,
}

pub(crate) async fn run(options: &Options) -> Result<()> {
    let rig = Rig::start(CLIENTS).await?;
    let bare = Bare::start(rig.url()).await?;
    let mut rates = Rates::default();
    println!(
        "{} rounds of {} s for each side, {CLIENTS} clients",
        options.rounds,
        ROUND.as_secs()
    );
    warm_up(&rig, &bare).await?;
    for round in 0..options.rounds {
        rates.pgbench.push(rig.pgbench(ROUND).await?);
        rates.write.push(writers(&rig).run(rig.api(), ROUND).await?);
        let (written, denied) = in_flood(&rig).await?;
        rates.write_in_flood.push(written);
        rates.denied.push(denied);
        rates.bare.push(readers(&rig).run(bare.addr(), ROUND).await?);
        rates.read.push(readers(&rig).run(rig.api(), ROUND).await?);
        println!("round {} of {}", round + 1, options.rounds);
    }
    report(rates)
}

async fn warm_up(rig: &Rig, bare: &Bare) -> Result<()> {
    rig.begin_counting().await?;
    rig.pgbench(WARM_UP).await?;
    writers(rig).run(rig.api(), WARM_UP).await?;
    rig.check_same_work().await?;
    for addr in [bare.addr(), rig.api()] {
        readers(rig).run(addr, WARM_UP).await?;
    }
    Ok(())
}

fn writers(rig: &Rig) -> Clients {
    let write = |client| Errand::write(rig.writer(), rig.resource(client));
    Clients::each((0..CLIENTS).map(write))
}

fn readers(rig: &Rig) -> Clients {
    let read = |client| Errand::read(rig.writer(), rig.resource(client));
    Clients::each((0..CLIENTS).map(read))
}

/// Writes, and denials, per second.
async fn in_flood(rig: &Rig) -> Result<(f64, f64)> {
    let deny = |client| Errand::denied(rig.stranger(), rig.resource(client));
    let flood = Clients::each((0..CLIENTS).map(deny)).paced(DENIED_PER_SECOND);
    let addr: SocketAddr = rig.api();
    let (written, denied) = tokio::join!(writers(rig).run(addr, ROUND), flood.run(addr, ROUND));
    Ok((written?, denied?))
}

fn report(rates: Rates) -> Result<()> {
    let sorted = |rates: Vec<f64>| Sorted::new(rates).context("there were no rounds");
    // A share is taken within a round: its sides met the same machine.
    let shares = |ours: &[f64], others: &[f64]| {
        let pairs = ours.iter().zip(others);
        sorted(pairs.map(|(ours, other)| ours / other).collect())
    };
    let write_vs_pgbench = shares(&rates.write, &rates.pgbench)?;
    let read_vs_bare = shares(&rates.read, &rates.bare)?;
    let kept = shares(&rates.write_in_flood, &rates.write)?;
    println!(
        "{:<38}{:>10}{:>10}{:>10}",
        "per second", "median", "least", "most"
    );
    for (name, rates) in [
        ("writes", rates.write),
        ("the same SQL by pgbench", rates.pgbench),
        ("writes in a flood of denials", rates.write_in_flood),
        ("the denials of that flood", rates.denied),
        ("reads", rates.read),
        ("reads by a bare handler", rates.bare),
    ] {
        let rates = sorted(rates)?;
        println!(
            "{name:<38}{:>10.0}{:>10.0}{:>10.0}",
            rates.median(),
            rates.min(),
            rates.max()
        );
    }
    println!(
        "{:<38}{:>10}{:>10}{:>10}",
        "share within a round", "median", "least", "most"
    );
    for (name, share) in [
        ("writes / pgbench", &write_vs_pgbench),
        ("reads / bare handler", &read_vs_bare),
        ("writes in the flood / without", &kept),
    ] {
        println!(
            "{name:<38}{:>10.2}{:>10.2}{:>10.2}",
            share.median(),
            share.min(),
            share.max()
        );
    }
    println!(
        "bench api: write_vs_pgbench={:.2} read_vs_bare={:.2} flood_slowdown={:.2}",
        write_vs_pgbench.median(),
        read_vs_bare.median(),
        1.0 - kept.median()
    );
    Ok(())
}
