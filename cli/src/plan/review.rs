//! `tombolo plan submit`, `list`, `show`, `approve`, `reject` and `apply`: plans that wait for another person.

use std::path::PathBuf;
use std::time::Instant;

use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Value, json};

use super::{changed_names, describe};
use crate::Verdict;
use crate::apply::{WaitArgs, forced, judge, post, revision};
use crate::client::{Client, Extras, ServerArgs, query};
use crate::output::{OutputArgs, items, print, table, text};
use crate::pages::whole;
use crate::wait::wait;

#[derive(Debug, Subcommand)]
pub(crate) enum PlanCommand {
    Submit(SubmitArgs),
    List(ListArgs),
    Show(ShowArgs),
    Approve(VoteArgs),
    Reject(RejectArgs),
    Apply(ApplyArgs),
}

/// Keeps a plan, for others to approve.
#[derive(Args, Debug)]
#[command(after_help = "Example:
  tombolo plan submit -f mesh/ --description 'move the shop to the west'

Of a deletion, a rollback or a folder: `tombolo delete`, `rollback` and `sync` take --submit.")]
pub(crate) struct SubmitArgs {
    /// A file, a folder, or `-` for standard input; can be given many times.
    #[arg(
        short = 'f',
        long = "file",
        env = "TOMBOLO_FILE",
        required = true,
        value_name = "FILE|DIR|-"
    )]
    files: Vec<PathBuf>,
    /// What those who approve it should know.
    #[arg(long, env = "TOMBOLO_DESCRIPTION")]
    description: Option<String>,
    /// As for `tombolo apply`: keep security that no plane enforces yet.
    #[arg(long, env = "TOMBOLO_ALLOW_UNENFORCED")]
    allow_unenforced: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// Lists the plans that wait for approval, or to be applied.
#[derive(Args, Debug)]
#[command(after_help = "Example:
  tombolo plan list")]
pub(crate) struct ListArgs {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// Shows a plan that was submitted, with its documents and the votes on it.
#[derive(Args, Debug)]
#[command(after_help = "Example:
  tombolo plan show 019aa6b2-7c1e-7f0a-b1c9-7a6f3d2e1b00")]
pub(crate) struct ShowArgs {
    /// Its id.
    id: String,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// Approves somebody else's plan, as it is.
#[derive(Args, Debug)]
#[command(after_help = "Example:
  tombolo plan approve 019aa6b2-7c1e-7f0a-b1c9-7a6f3d2e1b00 --comment 'seen with the team'")]
pub(crate) struct VoteArgs {
    #[command(flatten)]
    opinion: OpinionArgs,
}

/// Rejects a plan, or takes one's own back.
#[derive(Args, Debug)]
#[command(after_help = "Example:
  tombolo plan reject 019aa6b2-7c1e-7f0a-b1c9-7a6f3d2e1b00 --comment 'not before Monday'")]
pub(crate) struct RejectArgs {
    #[command(flatten)]
    opinion: OpinionArgs,
}

#[derive(Args, Debug)]
struct OpinionArgs {
    /// Its id.
    id: String,
    /// Why.
    #[arg(long, env = "TOMBOLO_COMMENT", default_value = "")]
    comment: String,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// Applies a plan that was approved, if it still comes to what was approved.
#[derive(Args, Debug)]
#[command(after_help = "Example:
  tombolo plan apply 019aa6b2-7c1e-7f0a-b1c9-7a6f3d2e1b00 --wait")]
pub(crate) struct ApplyArgs {
    /// Its id.
    id: String,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn run(command: PlanCommand) -> anyhow::Result<Verdict> {
    match command {
        PlanCommand::Submit(args) => submit(args).await,
        PlanCommand::List(args) => list(args).await,
        PlanCommand::Show(args) => show(args).await,
        PlanCommand::Approve(args) => vote(args.opinion, "approve").await,
        PlanCommand::Reject(args) => vote(args.opinion, "reject").await,
        PlanCommand::Apply(args) => apply(args).await,
    }
}

async fn submit(args: SubmitArgs) -> anyhow::Result<Verdict> {
    let client = Client::new(args.server)?;
    let parameters = [
        ("submit", Some("true".to_owned())),
        ("description", args.description),
        (
            "allowUnenforced",
            args.allow_unenforced.then(|| "true".to_owned()),
        ),
    ];
    let answer = post(&client, &args.files, &query("plans", &parameters), false).await?;
    print(args.output.output, &answer, submitted)?;
    Ok(Verdict::Good)
}

/// Keeps a plan of what `body` says, for others to approve.
pub(crate) async fn keep(
    client: &Client,
    body: Value,
    description: Option<String>,
    force: bool,
) -> anyhow::Result<Value> {
    let parameters = [("submit", Some("true".to_owned())), ("description", description)];
    let extras = Extras {
        body: Some(body),
        headers: forced(force),
        ..Extras::default()
    };
    let answer = client
        .send(Method::POST, &query("plans", &parameters), extras)
        .await?;
    Ok(answer.body)
}

async fn list(args: ListArgs) -> anyhow::Result<Verdict> {
    let client = Client::new(args.server)?;
    let found = whole(&client, "plans", &[]).await?;
    print(args.output.output, &found, listed)?;
    Ok(Verdict::Good)
}

async fn show(args: ShowArgs) -> anyhow::Result<Verdict> {
    let client = Client::new(args.server)?;
    let answer = client.get(&format!("plans/{}", args.id)).await?.body;
    print(args.output.output, &answer, shown)?;
    Ok(Verdict::Good)
}

async fn vote(args: OpinionArgs, verb: &str) -> anyhow::Result<Verdict> {
    let client = Client::new(args.server)?;
    let body = json!({ "comment": args.comment });
    let answer = act(&client, &args.id, verb, body).await?;
    print(args.output.output, &answer, shown)?;
    Ok(Verdict::Good)
}

async fn apply(args: ApplyArgs) -> anyhow::Result<Verdict> {
    let client = Client::new(args.server)?;
    let answer = act(&client, &args.id, "apply", json!({})).await?;
    print(args.output.output, &answer, describe)?;
    if !args.wait.wait {
        return Ok(Verdict::Good);
    }
    let deadline = Instant::now() + args.wait.timeout;
    let waited = wait(&client, &changed_names(&answer)?, revision(&answer)?, deadline).await?;
    Ok(judge(waited, args.wait.timeout))
}

async fn act(client: &Client, id: &str, verb: &str, body: Value) -> anyhow::Result<Value> {
    let extras = Extras {
        body: Some(body),
        ..Extras::default()
    };
    let answer = client
        .send(Method::POST, &format!("plans/{id}:{verb}"), extras)
        .await?;
    Ok(answer.body)
}

pub(crate) fn submitted(answer: &Value) -> String {
    let approvals = items(&answer["approvals"]).iter().map(|approval| {
        format!(
            "needs somebody else who is {} on {} ({})\n",
            text(&approval["approver"]),
            text(&approval["node"]),
            text(&approval["policy"])
        )
    });
    let approvals: String = approvals.collect();
    format!("{}\n{approvals}id: {}\n", describe(answer), text(&answer["id"]))
}

fn listed(answer: &Value) -> String {
    let rows = items(answer).iter().map(|plan| {
        [
            text(&plan["id"]),
            text(&plan["author"]),
            text(&plan["node"]),
            votes(plan).len().to_string(),
            text(&plan["expireTime"]),
            text(&plan["description"]),
        ]
    });
    let header = ["ID", "AUTHOR", "NODE", "APPROVALS", "EXPIRES", "DESCRIPTION"];
    let table = table(header, rows);
    match table.is_empty() {
        true => "no plan waits that you may read\n".to_owned(),
        false => table,
    }
}

fn shown(plan: &Value) -> String {
    let votes = items(&plan["votes"]).iter().map(|vote| {
        let verdict = if vote["approves"] == true {
            "approved"
        } else {
            "rejected"
        };
        let comment = text(&vote["comment"]);
        let colon = if comment.is_empty() { "" } else { ": " };
        format!("  {verdict} by {}{colon}{comment}\n", text(&vote["voter"]))
    });
    let votes: String = votes.collect();
    let documents = items(&plan["documents"]).iter();
    let documents: String = documents
        .map(|document| format!("---\n{}", crate::output::yaml(document).unwrap_or_default()))
        .collect();
    let hidden = match plan["documentsHidden"].as_u64() {
        None | Some(0) => String::new(),
        Some(hidden) => format!("and {hidden} more that you may not read\n"),
    };
    format!(
        "plan {} by {}: {}\n{votes}{documents}{hidden}",
        text(&plan["plan"]),
        text(&plan["author"]),
        text(&plan["state"])
    )
}

fn votes(plan: &Value) -> Vec<&Value> {
    let votes = items(&plan["votes"]).iter();
    votes.filter(|vote| vote["approves"] == true).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_show_who_waits_for_whom() {
        let plan = json!({
            "id": "019a", "plan": "17-5f2c", "author": "organizations/acme/users/ann", "node": "organizations/acme/tenants/pay",
            "state": "open", "expireTime": "2026-11-22T10:00:00Z", "description": "move",
            "votes": [{"voter": "organizations/acme/users/ben", "approves": true, "comment": "fine"}],
        });
        assert_eq!(
            shown(&plan),
            "plan 17-5f2c by organizations/acme/users/ann: open\n  approved by organizations/acme/users/ben: fine\n"
        );
        let lines = listed(&json!({ "items": [plan] }));
        assert!(
            lines.contains("019a  organizations/acme/users/ann  organizations/acme/tenants/pay  1 "),
            "{lines}"
        );
        assert_eq!(listed(&json!({"items": []})), "no plan waits that you may read\n");
        let answer = json!({"changes": [], "id": "019a", "approvals": [
            {"policy": "p", "node": "organizations/acme", "approver": "admin"}]});
        assert_eq!(
            submitted(&answer),
            "nothing changes\n\nneeds somebody else who is admin on organizations/acme (p)\nid: 019a\n"
        );
    }
}
