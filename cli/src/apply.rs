//! `tombolo apply`: creates and updates resources in one transaction.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use clap::Args;
use hyper::Method;
use serde_json::Value;

use crate::Verdict;
use crate::client::{Client, Extras, ServerArgs, query};
use crate::documents;
use crate::output::{OutputArgs, parse_duration, print};
use crate::plan::{changed_names, describe};
use crate::problem::Problem;
use crate::wait::{Waited, wait};

/// Creates and updates resources: all of them, or none.
///
/// What exists is only updated if the document carries the `etag` that `tombolo get` shows, or with --overwrite.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  tombolo apply -f mesh/                          every .yaml, .yml and .json file of a folder
  tombolo apply -f route.yaml --dry-run           what would change, down to the routes of each cluster
  tombolo apply -f route.yaml --overwrite --wait  returns when every proxy concerned runs it
  tombolo apply -f mesh/ --plan 17-5f2c…          what `tombolo plan` has shown, or nothing
  tombolo get tenants/pay -o yaml | sed s/old/new/ | tombolo apply -f -")]
pub(crate) struct ApplyArgs {
    /// A file, a folder, or `-` for standard input; can be given many times.
    #[arg(
        short = 'f',
        long = "file",
        env = "TOMBOLO_FILE",
        required = true,
        value_name = "FILE|DIR|-"
    )]
    files: Vec<PathBuf>,
    /// Say what would change, and change nothing.
    #[arg(long, env = "TOMBOLO_DRY_RUN")]
    dry_run: bool,
    /// Update what exists whatever it is now.
    #[arg(long, env = "TOMBOLO_OVERWRITE")]
    overwrite: bool,
    /// Also update what `tombolo sync` or another manager keeps; it will find the change.
    #[arg(long, env = "TOMBOLO_FORCE")]
    force: bool,
    /// Keep security that no plane enforces yet; it protects nothing until one does.
    #[arg(long, env = "TOMBOLO_ALLOW_UNENFORCED")]
    allow_unenforced: bool,
    /// Do what this plan says, or nothing: refused if the same files would do something else by now.
    #[arg(long, env = "TOMBOLO_PLAN", value_name = "PLAN", conflicts_with = "dry_run")]
    plan: Option<String>,
    #[command(flatten)]
    leave: BreakGlassArgs,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct WaitArgs {
    /// Return when every proxy that it concerns has proven that it runs it; Envoy can only say that it has accepted it.
    #[arg(long, env = "TOMBOLO_WAIT")]
    pub(crate) wait: bool,
    /// How long to wait for that.
    #[arg(long, env = "TOMBOLO_TIMEOUT", default_value = "60s", value_parser = parse_duration)]
    pub(crate) timeout: Duration,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct ConfirmArgs {
    /// The plan that the server has asked about, because it withdraws many routes at once.
    #[arg(long, env = "TOMBOLO_CONFIRM", value_name = "PLAN")]
    pub(crate) confirm: Option<String>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct BreakGlassArgs {
    /// Go past approval policies, for this reason. For administrators of the organization, and on record.
    #[arg(
        long,
        env = "TOMBOLO_BREAK_GLASS_REASON",
        value_name = "REASON",
        conflicts_with = "dry_run"
    )]
    pub(crate) break_glass: Option<String>,
}

/// In place of a write.
#[derive(Args, Clone, Debug)]
pub(crate) struct SubmissionArgs {
    /// Change nothing, and keep a plan of it, for others to approve (`tombolo plan approve`).
    #[arg(
        long,
        env = "TOMBOLO_SUBMIT",
        conflicts_with_all = ["dry_run", "confirm", "break_glass", "wait"]
    )]
    pub(crate) submit: bool,
    /// With --submit: what those who approve the plan should know.
    #[arg(long, env = "TOMBOLO_DESCRIPTION")]
    pub(crate) description: Option<String>,
}

pub(crate) async fn run(args: ApplyArgs) -> anyhow::Result<Verdict> {
    let client = Client::new(args.server)?;
    let flag = |set: bool| set.then(|| "true".to_owned());
    let parameters = [
        ("dry_run", flag(args.dry_run)),
        ("overwrite", flag(args.overwrite)),
        ("allowUnenforced", flag(args.allow_unenforced)),
        ("plan", args.plan),
        ("breakGlass", args.leave.break_glass),
    ];
    let answer = post(&client, &args.files, &query("changes", &parameters), args.force).await?;
    print(args.output.output, &answer, describe)?;
    if args.dry_run || !args.wait.wait {
        return Ok(Verdict::Good);
    }
    let deadline = Instant::now() + args.wait.timeout;
    let waited = wait(&client, &changed_names(&answer)?, revision(&answer)?, deadline).await?;
    Ok(judge(waited, args.wait.timeout))
}

/// Sends the documents of `files` together.
pub(crate) async fn post(
    client: &Client,
    files: &[PathBuf],
    path: &str,
    force: bool,
) -> anyhow::Result<Value> {
    let (body, sources) = documents::read(files)?.into_body();
    let extras = Extras {
        body: Some(body),
        headers: forced(force),
        ..Extras::default()
    };
    let sent = client.send(Method::POST, path, extras).await;
    let answer = sent.map_err(|error| match error.downcast::<Problem>() {
        Ok(problem) => anyhow!(problem.locate(&sources)),
        Err(error) => error,
    })?;
    Ok(answer.body)
}

/// The header with which a write also takes what others manage.
pub(crate) fn forced(force: bool) -> Vec<(&'static str, &'static str)> {
    Vec::from_iter(force.then_some(("tombolo-force", "true")))
}

/// That a write has drawn.
pub(crate) fn revision(answer: &Value) -> anyhow::Result<u64> {
    let revision = answer["revision"].as_u64();
    revision.context("the server's answer holds no revision: is it of the same version?")
}

pub(crate) fn judge(waited: Waited, timeout: Duration) -> Verdict {
    match waited {
        Waited::Live => Verdict::Good,
        Waited::Rejected => Verdict::Bad,
        Waited::TimedOut => {
            eprintln!(
                "not proven everywhere within {timeout:?}; the change is stored and stays on its way: see `tombolo status`"
            );
            Verdict::Bad
        }
    }
}
