//! `tombolo audit`: who did what, and whether the record of it is whole.

use clap::{Args, Subcommand};
use serde_json::Value;

use crate::Verdict;
use crate::client::{Client, ServerArgs, query};
use crate::output::{OutputArgs, items, print, table, text};

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    List(ListArgs),
    Verify(VerifyArgs),
}

/// Lists the record, newest first.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  tombolo audit list --outcome denied -n 20
  tombolo audit list --name organizations/acme/tenants/payments --since 2026-11-20T00:00:00Z")]
pub(crate) struct ListArgs {
    /// Not older than this, RFC 3339.
    #[arg(long, env = "TOMBOLO_AUDIT_SINCE")]
    since: Option<String>,
    /// Of this user.
    #[arg(long, env = "TOMBOLO_AUDIT_ACTOR")]
    actor: Option<String>,
    /// About this resource and those below it.
    #[arg(long, env = "TOMBOLO_AUDIT_NAME")]
    name: Option<String>,
    /// `done`, `denied` or `unauthenticated`.
    #[arg(long, env = "TOMBOLO_AUDIT_OUTCOME")]
    outcome: Option<String>,
    /// At most this many.
    #[arg(short = 'n', long, env = "TOMBOLO_AUDIT_LIMIT", default_value_t = 50)]
    limit: u32,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// Checks both chains of the record from their first entry. Exits with 1 if one is broken.
#[derive(Args, Debug)]
#[command(after_help = "Example:
  tombolo audit verify")]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn run(command: AuditCommand) -> anyhow::Result<Verdict> {
    match command {
        AuditCommand::List(args) => list(args).await,
        AuditCommand::Verify(args) => verify(args).await,
    }
}

async fn list(args: ListArgs) -> anyhow::Result<Verdict> {
    let client = Client::new(args.server)?;
    let path = |written: Option<String>| written.map(|name| client.path(&name)).transpose();
    let parameters = [
        ("since", args.since),
        ("actor", path(args.actor)?),
        ("name", path(args.name)?),
        ("outcome", args.outcome),
        ("limit", Some(args.limit.to_string())),
    ];
    let answer = client.get(&query("audit", &parameters)).await?;
    print(args.output.output, &answer.body, records)?;
    Ok(Verdict::Good)
}

async fn verify(args: VerifyArgs) -> anyhow::Result<Verdict> {
    let client = Client::new(args.server)?;
    let answer = client.get("audit:verify").await?;
    print(args.output.output, &answer.body, chains)?;
    Ok(if is_whole(&answer.body) {
        Verdict::Good
    } else {
        Verdict::Bad
    })
}

fn records(answer: &Value) -> String {
    let rows = items(answer).iter().map(|record| {
        let who = text(&record["actor"]);
        let mut what = text(&record["name"]);
        let reason = text(&record["reason"]);
        if !reason.is_empty() {
            what = format!("{what} ({reason})");
        }
        [
            text(&record["time"]),
            text(&record["outcome"]),
            who.rsplit('/').next().unwrap_or(&who).to_owned(),
            text(&record["verb"]),
            text(&record["revision"]),
            what,
        ]
    });
    let table = table(["TIME", "OUTCOME", "ACTOR", "VERB", "REVISION", "RESOURCE"], rows);
    if table.is_empty() {
        "no records\n".to_owned()
    } else {
        table
    }
}

/// One line per chain, and whether all are whole at the end.
fn chains(answer: &Value) -> String {
    let mut shown = String::new();
    for chain in items(&answer["chains"]) {
        let name = text(&chain["chain"]);
        let records = text(&chain["records"]);
        shown.push_str(&match broken(chain) {
            Some(broken) => format!(
                "{name}: BROKEN at record {}: {}\n",
                text(&broken["sequence"]),
                text(&broken["reason"])
            ),
            None => format!("{name}: {records} records, whole\n"),
        });
    }
    shown.push_str(if is_whole(answer) {
        "the audit log is whole\n"
    } else {
        "the audit log was changed: compare it with a backup\n"
    });
    shown
}

fn is_whole(answer: &Value) -> bool {
    items(&answer["chains"])
        .iter()
        .all(|chain| broken(chain).is_none())
}

fn broken(chain: &Value) -> Option<&Value> {
    chain.get("broken").filter(|broken| !broken.is_null())
}
