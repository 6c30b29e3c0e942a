//! `tombolo audit`: who did what, and whether the record of it is whole.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::Verdict;
use crate::client::{Client, ServerArgs, query};
use crate::output::{OutputArgs, items, print, table, text};

/// Of one request; the server's own limit.
const PAGE_SIZE_MAX: usize = 500;

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
    /// By this user, or by `system` or `unknown`.
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
    limit: usize,
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
    let name = args.name.map(|name| client.path(&name)).transpose()?;
    let actor = args.actor.map(|actor| actor_path(&client, actor)).transpose()?;
    let mut found = Vec::new();
    let mut page_token = None;
    loop {
        let left = args.limit.saturating_sub(found.len());
        let parameters = [
            ("since", args.since.clone()),
            ("actor", actor.clone()),
            ("name", name.clone()),
            ("outcome", args.outcome.clone()),
            ("pageSize", Some(left.clamp(1, PAGE_SIZE_MAX).to_string())),
            ("pageToken", page_token),
        ];
        let page = client.get(&query("audit", &parameters)).await?.body;
        found.extend(items(&page).iter().take(left).cloned());
        page_token = page["nextPageToken"].as_str().map(str::to_owned);
        if page_token.is_none() || found.len() >= args.limit {
            break;
        }
    }
    print(args.output.output, &json!({ "items": found }), records)?;
    Ok(Verdict::Good)
}

/// `users/ann` is completed; `system` and `unknown` are nobody's names.
fn actor_path(client: &Client, actor: String) -> anyhow::Result<String> {
    if actor.contains('/') {
        client.path(&actor)
    } else {
        Ok(actor)
    }
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
    answer["ok"] == true
}

fn broken(chain: &Value) -> Option<&Value> {
    chain.get("broken").filter(|broken| !broken.is_null())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn records_are_a_table() {
        let answer = json!({"items": [
            {"time": "2026-11-21T10:00:00Z", "actor": "organizations/acme/users/ann", "verb": "change",
                "name": "organizations/acme", "outcome": "done", "revision": 7},
            {"time": "2026-11-21T09:00:00Z", "actor": "unknown", "verb": "get", "name": "organizations/acme",
                "outcome": "unauthenticated", "reason": "no token"},
        ]});
        assert_eq!(
            records(&answer),
            "TIME                  OUTCOME          ACTOR    VERB    REVISION  RESOURCE\n\
             2026-11-21T10:00:00Z  done             ann      change  7         organizations/acme\n\
             2026-11-21T09:00:00Z  unauthenticated  unknown  get               organizations/acme (no token)\n"
        );
        assert_eq!(records(&json!({"items": []})), "no records\n");
    }

    #[test]
    fn a_broken_chain_is_told_with_its_place() {
        let whole = json!({"ok": true, "chains": [{"chain": "writes", "records": 3, "broken": null}]});
        assert_eq!(
            chains(&whole),
            "writes: 3 records, whole\nthe audit log is whole\n"
        );
        let broken = json!({"ok": false, "chains": [
            {"chain": "denials", "records": 3, "broken": {"sequence": 2, "reason": "its hash does not match"}}]});
        assert_eq!(
            chains(&broken),
            "denials: BROKEN at record 2: its hash does not match\n\
             the audit log was changed: compare it with a backup\n"
        );
    }
}
