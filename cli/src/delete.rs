//! `tombolo delete`: removes one resource, or asks others to agree that it goes.

use std::time::Instant;

use clap::Args;
use hyper::Method;
use serde_json::json;

use crate::Verdict;
use crate::apply::{BreakGlassArgs, ConfirmArgs, SubmissionArgs, WaitArgs, forced, judge, revision};
use crate::client::{Client, Extras, ServerArgs, query};
use crate::output::{OutputArgs, print};
use crate::plan::describe;
use crate::plan::review::{keep, submitted};
use crate::wait::wait;

/// Deletes a resource, as it is when the command looks at it.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  tombolo delete organizations/acme/tenants/payments --dry-run
  tombolo delete organizations/acme/tenants/payments --wait
  tombolo delete organizations/acme/tenants/payments --submit    a plan of it, for others to approve")]
pub(crate) struct DeleteArgs {
    /// Its name.
    name: String,
    /// Say what would change, down to the routes of each cluster, and change nothing.
    #[arg(long, env = "TOMBOLO_DRY_RUN")]
    dry_run: bool,
    /// Also what `tombolo sync` or another manager keeps; it will find it missing.
    #[arg(long, env = "TOMBOLO_FORCE")]
    force: bool,
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

pub(crate) async fn run(args: DeleteArgs) -> anyhow::Result<Verdict> {
    let client = Client::new(args.server)?;
    let name = client.name(&args.name)?;
    let etag = client.get(name.as_str()).await?.etag;
    if args.submission.submit {
        let body = json!({"changes": [{"op": "delete", "name": name, "etag": etag}]});
        let answer = keep(&client, body, args.submission.description, args.force).await?;
        print(args.output.output, &answer, submitted)?;
        return Ok(Verdict::Good);
    }
    let extras = Extras {
        if_match: etag.as_deref(),
        headers: forced(args.force),
        ..Extras::default()
    };
    let parameters = [
        ("dry_run", args.dry_run.then(|| "true".to_owned())),
        ("confirm", args.confirm.confirm),
        ("breakGlass", args.leave.break_glass),
    ];
    let answer = client
        .send(Method::DELETE, &query(name.as_str(), &parameters), extras)
        .await?;
    print(args.output.output, &answer.body, |answer| match args.dry_run {
        true => describe(answer),
        false => format!("deleted {name}\n"),
    })?;
    if args.dry_run || !args.wait.wait {
        return Ok(Verdict::Good);
    }
    let deadline = Instant::now() + args.wait.timeout;
    let waited = wait(&client, &[name], revision(&answer.body)?, deadline).await?;
    Ok(judge(waited, args.wait.timeout))
}
