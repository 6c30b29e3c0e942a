//! `tombolo audit`: who did what, and whether the record of it is whole.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

mod export;
mod tail;
mod verify;

use crate::Verdict;
use crate::client::{Client, ServerArgs, query};
use crate::output::{OutputArgs, items, print, print_text, table, text};

/// Of one request; the server's own limit.
const PAGE_SIZE_MAX: usize = 500;

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    List(ListArgs),
    Tail(tail::TailArgs),
    Export(export::ExportArgs),
    Verify(verify::VerifyArgs),
    Key(KeyArgs),
}

/// Lists the record, newest first.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  tombolo audit list --outcome denied -n 20
  tombolo audit list --name tenants/payments --kind serviceroute --since 2026-11-20T00:00:00Z
  tombolo audit list --text 'shop.example.com timeout'")]
pub(crate) struct ListArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// At most this many.
    #[arg(short = 'n', long, env = "TOMBOLO_AUDIT_LIMIT", default_value_t = 50)]
    limit: usize,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// Shows the public keys that sign checkpoints of the record. Keep them apart from the database.
#[derive(Args, Debug)]
#[command(after_help = "Example:
  tombolo audit key > audit.pub")]
pub(crate) struct KeyArgs {
    #[command(flatten)]
    server: ServerArgs,
}

/// Which records; all that is given must hold.
#[derive(Args, Clone, Debug)]
pub(crate) struct FilterArgs {
    /// Not older than this, RFC 3339.
    #[arg(long, env = "TOMBOLO_AUDIT_SINCE")]
    since: Option<String>,
    /// Older than this, RFC 3339.
    #[arg(long, env = "TOMBOLO_AUDIT_UNTIL")]
    until: Option<String>,
    /// By this user, or by `system` or `unknown`.
    #[arg(long, env = "TOMBOLO_AUDIT_ACTOR")]
    actor: Option<String>,
    /// About this resource and those below it.
    #[arg(long, env = "TOMBOLO_AUDIT_NAME")]
    name: Option<String>,
    /// About resources of this kind.
    #[arg(long, env = "TOMBOLO_AUDIT_KIND")]
    kind: Option<String>,
    /// What was done or tried: `create`, `update`, `delete`, `get` …
    #[arg(long, env = "TOMBOLO_AUDIT_VERB")]
    verb: Option<String>,
    /// `done`, `denied` or `unauthenticated`.
    #[arg(long, env = "TOMBOLO_AUDIT_OUTCOME")]
    outcome: Option<String>,
    /// Holding all of these words, wherever in the record.
    #[arg(long, env = "TOMBOLO_AUDIT_TEXT")]
    text: Option<String>,
}

impl FilterArgs {
    /// As parameters of a query.
    fn parameters(&self, client: &Client) -> anyhow::Result<Vec<(&'static str, Option<String>)>> {
        let name = self.name.as_ref().map(|name| client.path(name)).transpose()?;
        let actor = self.actor.clone();
        let actor = actor.map(|actor| actor_path(client, actor)).transpose()?;
        Ok(vec![
            ("since", self.since.clone()),
            ("until", self.until.clone()),
            ("actor", actor),
            ("name", name),
            ("kind", self.kind.clone()),
            ("verb", self.verb.clone()),
            ("outcome", self.outcome.clone()),
            ("text", self.text.clone()),
        ])
    }
}

pub(crate) async fn run(command: AuditCommand) -> anyhow::Result<Verdict> {
    match command {
        AuditCommand::List(args) => list(args).await,
        AuditCommand::Tail(args) => tail::run(args).await,
        AuditCommand::Export(args) => export::run(args).await,
        AuditCommand::Verify(args) => verify::run(args).await,
        AuditCommand::Key(args) => key(args).await,
    }
}

async fn key(args: KeyArgs) -> anyhow::Result<Verdict> {
    let client = Client::new(args.server)?;
    let answer = client.get("audit:key").await?;
    let pem: String = items(&answer.body["keys"])
        .iter()
        .map(|key| text(&key["pem"]))
        .collect();
    print_text(&pem)?;
    Ok(Verdict::Good)
}

async fn list(args: ListArgs) -> anyhow::Result<Verdict> {
    let client = Client::new(args.server)?;
    let found = newest(&client, &args.filter, args.limit).await?;
    print(args.output.output, &json!({ "items": found }), records)?;
    Ok(Verdict::Good)
}

/// The newest `limit` records, newest first.
async fn newest(client: &Client, filter: &FilterArgs, limit: usize) -> anyhow::Result<Vec<Value>> {
    let mut found = Vec::new();
    let mut page_token = None;
    loop {
        let left = limit.saturating_sub(found.len());
        let mut parameters = filter.parameters(client)?;
        parameters.push(("pageSize", Some(left.clamp(1, PAGE_SIZE_MAX).to_string())));
        parameters.push(("pageToken", page_token));
        let page = client.get(&query("audit", &parameters)).await?.body;
        found.extend(items(&page).iter().take(left).cloned());
        page_token = page["nextPageToken"].as_str().map(str::to_owned);
        if page_token.is_none() || found.len() >= limit {
            return Ok(found);
        }
    }
}

/// `users/ann` is completed; `system` and `unknown` are nobody's names.
fn actor_path(client: &Client, actor: String) -> anyhow::Result<String> {
    if actor.contains('/') {
        client.path(&actor)
    } else {
        Ok(actor)
    }
}

const COLUMNS: [&str; 6] = ["TIME", "OUTCOME", "ACTOR", "VERB", "REVISION", "RESOURCE"];

fn cells(record: &Value) -> [String; 6] {
    let who = text(&record["actor"]);
    let mut what = text(&record["name"]);
    let repeated = record["repeated"].as_u64().unwrap_or(0);
    if repeated > 0 {
        what = format!("{what}, {} times", repeated + 1);
    }
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
}

fn records(answer: &Value) -> String {
    let table = table(COLUMNS, items(answer).iter().map(cells));
    if table.is_empty() {
        "no records\n".to_owned()
    } else {
        table
    }
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
                "outcome": "unauthenticated", "reason": "no token", "repeated": 11},
        ]});
        assert_eq!(
            records(&answer),
            "TIME                  OUTCOME          ACTOR    VERB    REVISION  RESOURCE\n\
             2026-11-21T10:00:00Z  done             ann      change  7         organizations/acme\n\
             2026-11-21T09:00:00Z  unauthenticated  unknown  get               organizations/acme, 12 times (no token)\n"
        );
        assert_eq!(records(&json!({"items": []})), "no records\n");
    }
}
