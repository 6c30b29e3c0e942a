//! `tombolo status`: whether a resource is live, and what is in its way.

use anyhow::Context;
use clap::Args;
use serde_json::Value;
use tombolo_compiler::finding::Finding;
use tombolo_compiler::observe::Agent;
use tombolo_compiler::roll_up::{ClusterStatus, Outcome, Status};

use crate::Verdict;
use crate::client::{Client, ServerArgs};
use crate::output::{OutputArgs, print, table};
use crate::wait::{late, outcome_text};

/// Shows where a resource runs, which proxies refuse it, and what was found wrong with it.
///
/// Exits with 1 if a proxy refuses it.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  tombolo status                                     the whole organization
  tombolo status organizations/acme/tenants/payments")]
pub(crate) struct StatusArgs {
    /// A name; the organization by default.
    name: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn run(args: StatusArgs) -> anyhow::Result<Verdict> {
    let client = Client::new(args.server)?;
    let name = match &args.name {
        Some(name) => client.name(name)?,
        None => format!("organizations/{}", client.organization()?).parse()?,
    };
    let answer = client.get(&format!("{name}:status")).await?;
    let status = read(&answer.body["status"])?;
    print(args.output.output, &answer.body, |_| {
        people(name.as_str(), &status)
    })?;
    Ok(if status.outcome == Outcome::Rejected {
        Verdict::Bad
    } else {
        Verdict::Good
    })
}

fn read(answer: &Value) -> anyhow::Result<Status> {
    serde_json::from_value(answer.clone()).context("read the status: is the server of the same version?")
}

fn people(name: &str, status: &Status) -> String {
    let mut shown = format!("{name} is {}\n", outcome_text(status.outcome));
    let rows = status.clusters.iter().map(|(cluster, status)| {
        [
            cluster.to_string(),
            outcome_text(status.outcome).to_owned(),
            format!("{}/{}", status.proxies_with, status.proxies),
            agent_text(status.agent).to_owned(),
        ]
    });
    let clusters = table(["CLUSTER", "OUTCOME", "PROXIES", "AGENT"], rows);
    if !clusters.is_empty() {
        shown = format!("{shown}\n{clusters}");
    }
    let rejections: Vec<String> = status.clusters.iter().flat_map(rejections).collect();
    let findings: Vec<String> = status.findings.iter().map(finding).collect();
    for (title, lines) in [
        ("refused:", rejections),
        ("proxies without it:", late(status)),
        ("findings:", findings),
    ] {
        if !lines.is_empty() {
            shown = format!("{shown}\n{title}\n{}", lines.concat());
        }
    }
    shown
}

fn rejections((cluster, status): (&tombolo_compiler::name::ClusterName, &ClusterStatus)) -> Vec<String> {
    let lines = status.rejections.iter();
    lines
        .map(|rejection| format!("  {cluster} {rejection}\n"))
        .collect()
}

fn finding(finding: &Finding) -> String {
    let place = if finding.field.is_empty() {
        String::new()
    } else {
        format!(" {}", finding.field)
    };
    let cluster = finding.cluster.as_ref().map(|cluster| format!(" in {cluster}"));
    format!(
        "  {:?} {}{place}{}: {}\n",
        finding.code,
        finding.resource,
        cluster.unwrap_or_default(),
        finding.message
    )
}

fn agent_text(agent: Agent) -> &'static str {
    match agent {
        Agent::Unknown => "unknown",
        Agent::Live => "live",
        Agent::Lost => "lost",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_status_tells_where_and_what_is_in_the_way() {
        let status = read(&json!({
            "outcome": "rejected",
            "clusters": {
                "us-east": {"outcome": "running", "agent": "live", "proxies": 2, "proxiesWith": 2},
                "us-west": {"outcome": "rejected", "agent": "lost", "proxies": 2, "proxiesWith": 1,
                    "late": ["gw-1"], "rejections": ["gw-1: no such cluster"]},
            },
            "findings": [{"resource": "organizations/acme/tenants/a", "field": "spec", "severity": "Warning",
                "code": "ServiceNotFound", "message": "no cluster has it", "cluster": "us-east"}],
        }))
        .unwrap();
        assert_eq!(
            people("organizations/acme/tenants/a", &status),
            "organizations/acme/tenants/a is rejected\n\n\
             CLUSTER  OUTCOME   PROXIES  AGENT\n\
             us-east  running   2/2      live\n\
             us-west  rejected  1/2      lost\n\n\
             refused:\n  us-west gw-1: no such cluster\n\n\
             proxies without it:\n  us-west gw-1\n\n\
             findings:\n  ServiceNotFound organizations/acme/tenants/a spec in us-east: no cluster has it\n"
        );
    }
}
