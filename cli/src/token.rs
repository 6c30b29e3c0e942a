//! `tombolo token create`: a token for a user or a service account.

use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Value, json};

use crate::client::{Client, Extras, ServerArgs};
use crate::output::{OutputArgs, print, text};

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    Create(CreateArgs),
}

/// Makes a token for a user or a service account. It is shown this once.
#[derive(Args, Debug)]
#[command(after_help = "Example:
  tombolo token create organizations/acme/users/ann")]
pub(crate) struct CreateArgs {
    /// The name of the user or the service account.
    user: String,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn run(command: TokenCommand) -> anyhow::Result<()> {
    let TokenCommand::Create(args) = command;
    let client = Client::new(args.server)?;
    let path = format!("{}/tokens", client.name(&args.user)?);
    let extras = Extras {
        body: Some(json!({})),
        is_secret: true,
        ..Extras::default()
    };
    let answer = client.send(Method::POST, &path, extras).await?;
    // Alone on its line, so that it can be piped into a file.
    let people = |value: &Value| format!("{}\n", text(&value["token"]));
    print(args.output.output, &answer.body, people)
}
