//! `tombolo history`, `diff`, `show` and `rollback`: the past of a resource and of all below it.

use std::time::Instant;

use clap::Args;
use hyper::Method;
use serde_json::{Value, json};

use crate::Verdict;
use crate::apply::{BreakGlassArgs, ConfirmArgs, SubmissionArgs, WaitArgs, judge, revision};
use crate::client::{Client, Extras, ServerArgs, query};
use crate::difference;
use crate::output::{Output, OutputArgs, items, print, table, text, yaml};
use crate::pages::whole;
use crate::plan::review::{keep, submitted};
use crate::plan::{changed_names, describe};
use crate::wait::wait;

/// Of one request; the server's own limit.
const PAGE_SIZE_MAX: usize = 500;

/// Lists the revisions that changed a resource, newest first.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  tombolo history organizations/acme/tenants/payments
  tombolo history tenants/payments --below -n 20 --organization acme")]
pub(crate) struct HistoryArgs {
    /// Its name, also if it does not exist any more.
    name: String,
    /// With all that stands below it.
    #[arg(long, env = "TOMBOLO_BELOW")]
    below: bool,
    /// At most this many.
    #[arg(short = 'n', long, env = "TOMBOLO_HISTORY_LIMIT", default_value_t = 50)]
    limit: usize,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// Compares two revisions of a resource and of all below it.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  tombolo diff tenants/payments --from 12 --to 17
  tombolo diff organizations/acme --from 12             up to the latest")]
pub(crate) struct DiffArgs {
    /// Its name.
    name: String,
    /// The revision to begin with.
    #[arg(long, env = "TOMBOLO_FROM", value_name = "REVISION")]
    from: u64,
    /// The revision to compare it with; the latest when not given.
    #[arg(long, env = "TOMBOLO_TO", value_name = "REVISION")]
    to: Option<u64>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// Shows a resource as it is, or as it was.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  tombolo show tenants/payments --at 12
  tombolo show organizations/acme/tenants/payments -o json")]
pub(crate) struct ShowArgs {
    /// Its name.
    name: String,
    /// The revision; the latest when not given.
    #[arg(long, env = "TOMBOLO_AT", value_name = "REVISION")]
    at: Option<u64>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// Makes a resource and all below it as they were at a revision, as a new change.
///
/// What was deleted since comes back as a new resource, and what is new is deleted: all of it, or nothing.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  tombolo rollback tenants/payments --to 12 --dry-run
  tombolo rollback tenants/payments --to 12 --wait
  tombolo rollback tenants/payments --to 12 --submit    a plan of it, for others to approve")]
pub(crate) struct RollbackArgs {
    /// Its name.
    name: String,
    /// The revision.
    #[arg(long, env = "TOMBOLO_TO", value_name = "REVISION")]
    to: u64,
    /// Say what would change, and change nothing.
    #[arg(long, env = "TOMBOLO_DRY_RUN")]
    dry_run: bool,
    #[command(flatten)]
    confirm: ConfirmArgs,
    #[command(flatten)]
    submission: SubmissionArgs,
    #[command(flatten)]
    leave: BreakGlassArgs,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn history(args: HistoryArgs) -> anyhow::Result<()> {
    let client = Client::new(args.server)?;
    let path = format!("{}:history", client.name(&args.name)?);
    let mut found: Vec<Value> = Vec::new();
    let mut page_token = None;
    while found.len() < args.limit {
        let left = args.limit - found.len();
        let parameters = [
            ("below", args.below.then(|| "true".to_owned())),
            ("pageSize", Some(left.min(PAGE_SIZE_MAX).to_string())),
            ("pageToken", page_token),
        ];
        let page = client.get(&query(&path, &parameters)).await?.body;
        found.extend(items(&page).iter().cloned());
        page_token = page["nextPageToken"].as_str().map(str::to_owned);
        if page_token.is_none() {
            break;
        }
    }
    print(args.output.output, &json!({ "items": found }), listed)
}

pub(crate) async fn diff(args: DiffArgs) -> anyhow::Result<()> {
    let client = Client::new(args.server)?;
    let path = format!("{}:diff", client.name(&args.name)?);
    let parameters = [
        ("from", Some(args.from.to_string())),
        ("to", args.to.map(|to| to.to_string())),
    ];
    let answer = whole(&client, &path, &parameters).await?;
    print(args.output.output, &answer, compared)
}

pub(crate) async fn show(args: ShowArgs) -> anyhow::Result<()> {
    let client = Client::new(args.server)?;
    let name = client.name(&args.name)?;
    let parameters = [("revision", args.at.map(|at| at.to_string()))];
    let answer = client.get(&query(name.as_str(), &parameters)).await?.body;
    let output = match args.output.output {
        // A resource is a document; YAML is how people write it.
        Output::Table => Output::Yaml,
        other => other,
    };
    print(output, &answer, |value| {
        yaml(value).unwrap_or_else(|_| value.to_string())
    })
}

pub(crate) async fn rollback(args: RollbackArgs) -> anyhow::Result<Verdict> {
    let client = Client::new(args.server)?;
    let name = client.name(&args.name)?;
    if args.submission.submit {
        let body = json!({"rollback": {"name": name, "revision": args.to}});
        let answer = keep(&client, body, args.submission.description, false).await?;
        print(args.output.output, &answer, submitted)?;
        return Ok(Verdict::Good);
    }
    let dry_run = args.dry_run.then(|| "true".to_owned());
    let path = query(
        &format!("{name}:rollback"),
        &[
            ("dry_run", dry_run),
            ("confirm", args.confirm.confirm),
            ("breakGlass", args.leave.break_glass),
        ],
    );
    let extras = Extras {
        body: Some(json!({ "revision": args.to })),
        ..Extras::default()
    };
    let answer = client.send(Method::POST, &path, extras).await?.body;
    print(args.output.output, &answer, describe)?;
    if args.dry_run || !args.wait.wait {
        return Ok(Verdict::Good);
    }
    let deadline = Instant::now() + args.wait.timeout;
    let waited = wait(&client, &changed_names(&answer)?, revision(&answer)?, deadline).await?;
    Ok(judge(waited, args.wait.timeout))
}

fn listed(answer: &Value) -> String {
    let rows = items(answer)
        .iter()
        .map(|entry| ["revision", "time", "actor", "action", "name"].map(|field| text(&entry[field])));
    table(["REVISION", "TIME", "ACTOR", "ACTION", "RESOURCE"], rows)
}

fn compared(answer: &Value) -> String {
    let changes = items(&answer["changes"]);
    if changes.is_empty() {
        return "nothing differs\n".to_owned();
    }
    changes.iter().map(difference::describe).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_past_is_shown_as_lists_and_fields() {
        let entry = json!({"revision": 7, "time": "2026-11-21T10:00:00Z", "actor": "organizations/acme/users/ann",
            "action": "delete", "name": "organizations/acme/tenants/pay"});
        assert_eq!(
            listed(&json!({ "items": [entry] })),
            "REVISION  TIME                  ACTOR                         ACTION  RESOURCE\n\
             7         2026-11-21T10:00:00Z  organizations/acme/users/ann  delete  organizations/acme/tenants/pay\n"
        );
        let change = json!({"action": "create", "name": "organizations/acme/tenants/pay", "after": {}});
        assert_eq!(
            compared(&json!({ "changes": [change] })),
            "+ organizations/acme/tenants/pay\n"
        );
        assert_eq!(compared(&json!({"changes": []})), "nothing differs\n");
    }
}
