//! `tombolo delete`: removes one resource.

use std::time::Instant;

use clap::Args;
use hyper::Method;

use crate::Verdict;
use crate::apply::{ConfirmArgs, WaitArgs, forced, judge, revision};
use crate::client::{Client, Extras, ServerArgs, query};
use crate::output::{OutputArgs, print};
use crate::wait::wait;

/// Deletes a resource, as it is when the command looks at it.
#[derive(Args, Debug)]
#[command(after_help = "Example:
  tombolo delete organizations/acme/tenants/payments --wait")]
pub(crate) struct DeleteArgs {
    /// Its name.
    name: String,
    /// Also what `tombolo sync` or another manager keeps; it will find it missing.
    #[arg(long, env = "TOMBOLO_FORCE")]
    force: bool,
    #[command(flatten)]
    confirm: ConfirmArgs,
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
    let extras = Extras {
        if_match: etag.as_deref(),
        headers: forced(args.force),
        ..Extras::default()
    };
    let path = query(name.as_str(), &[("confirm", args.confirm.confirm)]);
    let answer = client.send(Method::DELETE, &path, extras).await?;
    print(args.output.output, &answer.body, |_| format!("deleted {name}\n"))?;
    if !args.wait.wait {
        return Ok(Verdict::Good);
    }
    let deadline = Instant::now() + args.wait.timeout;
    let waited = wait(&client, &[name], revision(&answer.body)?, deadline).await?;
    Ok(judge(waited, args.wait.timeout))
}
