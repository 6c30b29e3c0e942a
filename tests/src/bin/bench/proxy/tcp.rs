//! Connections that are passed on byte by byte: the requests of HTTP/1.1 through TCP proxies, and through a process that only
//! splices.

use std::env;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use tombolo_tests::ads::contract;
use tombolo_tests::process::Process;
use tombolo_tests::proxy::Software;

use super::contender::Contender;
use super::http::H1;
use super::peers::Peer;
use super::rounds::{CPU, cpu_us, in_turns};
use super::{listener, splice};
use crate::Options;
use crate::load::Upstream;
use crate::report::{Report, Table};

pub(super) async fn run(options: &Options) -> Result<Report> {
    let dir = tempfile::tempdir().context("cannot create a temporary directory")?;
    let [work, ..] = &H1;
    let upstream = Upstream::start(work.upstream)?;
    let mut contenders = Vec::new();
    for software in [Software::Tombolo, Software::Envoy] {
        let listener = listener();
        let resources = contract::connections(listener, upstream.address());
        let name = software.name();
        let contender = Contender::over_xds(software, name, listener, resources, dir.path()).await?;
        contenders.push((name, contender));
    }
    contenders.push(("splice", splicing(upstream.address(), dir.path())?));
    if let Some(binary) = Peer::HaProxy.find() {
        let listener = listener();
        let process = Peer::passes_on(&binary, listener, upstream.address(), dir.path())?;
        contenders.push((Peer::HaProxy.name(), Contender::of_file(listener, process)));
    }
    for (name, contender) in &contenders {
        let served = contender.serves(work.load(1)).await;
        served.with_context(|| format!("through {name}"))?;
        contender
            .under(work.load(options.requests / 10))
            .await?
            .0
            .whole()?;
    }
    let load = work.load(options.requests);
    let measure = async |contender: &Contender| cpu_us(contender, load).await;
    let measured = in_turns(options, &contenders, measure).await?;
    let mut report = Report::default();
    let title = "HTTP/1.1 over connections that are passed on";
    report.tables.push(Table::compare(title, &[CPU], &measured)?);
    for (other, ratio) in CPU.ratios(&measured)? {
        report.key(format!("tcp_vs_{other}"), ratio);
    }
    Ok(report)
}

fn splicing(upstream: SocketAddr, dir: &Path) -> Result<Contender> {
    let own = env::current_exe().context("cannot tell the path of this program")?;
    let listener = listener();
    let mut command = Command::new(own);
    command.args([
        "proxy",
        splice::NAME,
        &listener.to_string(),
        &upstream.to_string(),
    ]);
    let process = Process::start(splice::NAME, &mut command, dir)?;
    Ok(Contender::of_file(listener, process))
}
