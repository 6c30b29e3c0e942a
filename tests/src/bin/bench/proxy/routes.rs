//! What a large route table costs each request: the same request through a table of ten hosts and one of ten thousand, with ten
//! routes each, through our proxy and Envoy in turns.

use anyhow::{Context, Result};
use tombolo_tests::ads::contract;
use tombolo_tests::proxy::Software;

use super::contender::Contender;
use super::http::H1;
use super::listener;
use super::rounds::{CPU, cpu_us, in_turns};
use crate::Options;
use crate::load::Upstream;
use crate::report::{Report, Table};

const FEW: usize = 10;
const MANY: usize = 10_000;

pub(super) async fn run(options: &Options) -> Result<Report> {
    let dir = tempfile::tempdir().context("cannot create a temporary directory")?;
    let [work, ..] = &H1;
    let upstream = Upstream::start(work.upstream)?;
    let mut contenders = Vec::new();
    for (name, software, hosts) in [
        ("tombolo, 100,000 routes", Software::Tombolo, MANY),
        ("tombolo, 100 routes", Software::Tombolo, FEW),
        ("envoy, 100,000 routes", Software::Envoy, MANY),
        ("envoy, 100 routes", Software::Envoy, FEW),
    ] {
        let listener = listener();
        let resources = contract::many_routes(listener, upstream.address(), hosts);
        let id = format!("{}-{hosts}", software.name());
        let contender = Contender::over_xds(software, &id, listener, resources, dir.path()).await?;
        contender.serves(work.load(1)).await?;
        contender
            .under(work.load(options.requests / 10))
            .await?
            .0
            .whole()?;
        contenders.push((name, contender));
        println!("{name} runs");
    }
    let load = work.load(options.requests);
    let measure = async |contender: &Contender| cpu_us(contender, load).await;
    let measured = in_turns(options, &contenders, measure).await?;
    let mut report = Report::default();
    report.tables.push(Table::compare("HTTP/1.1", &[CPU], &measured)?);
    let ratios = CPU.ratios(&measured)?;
    let keys = ["routes_cpu_vs_few", "routes_cpu_vs_envoy"];
    for (key, (_, ratio)) in keys.into_iter().zip(ratios) {
        report.key(key, ratio);
    }
    Ok(report)
}
