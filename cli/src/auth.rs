//! `tombolo auth can-i`: whether somebody may do something, and because of what.

use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Value, json};
use tombolo_compiler::intent::Action;

use crate::Verdict;
use crate::client::{Client, Extras, ServerArgs};
use crate::output::{OutputArgs, print, text};

#[derive(Debug, Subcommand)]
pub(crate) enum AuthCommand {
    CanI(CanIArgs),
}

/// Whether you, or somebody else, may do something to a resource.
///
/// Prints the binding that decides, or what is missing and whom to ask. Exits with 1 when the answer is no.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  tombolo auth can-i update organizations/acme/tenants/payments
  tombolo auth can-i set-policy tenants/payments --as users/ann --organization acme")]
pub(crate) struct CanIArgs {
    /// read, create, update, delete, set-policy, read-audit, tokens, approve or adopt.
    verb: Action,
    /// The resource's name. It need not exist.
    name: String,
    /// Somebody else; that takes set-policy or read-audit on the resource.
    #[arg(long, env = "TOMBOLO_AS", value_name = "USER")]
    r#as: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn run(command: AuthCommand) -> anyhow::Result<Verdict> {
    let AuthCommand::CanI(args) = command;
    let client = Client::new(args.server)?;
    let mut question = json!({"action": args.verb, "names": [client.name(&args.name)?]});
    if let Some(who) = &args.r#as {
        question["who"] = json!(client.name(who)?);
    }
    let extras = Extras {
        body: Some(question),
        ..Extras::default()
    };
    let answer = client.send(Method::POST, "iam:test", extras).await?;
    let decision = &answer.body["decisions"][0];
    print(args.output.output, &answer.body, |_| told(decision))?;
    Ok(match decision["allowed"].as_bool() {
        Some(true) => Verdict::Good,
        _ => Verdict::Bad,
    })
}

fn told(decision: &Value) -> String {
    let word = match decision["allowed"].as_bool() {
        Some(true) => "yes",
        _ => "no",
    };
    format!("{word}: {}\n", text(&decision["because"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_word_and_its_reason() {
        for (decision, expected) in [
            (
                json!({"allowed": true, "because": "it owns x"}),
                "yes: it owns x\n",
            ),
            (json!({"allowed": false, "because": "ask ann"}), "no: ask ann\n"),
        ] {
            assert_eq!(told(&decision), expected);
        }
    }
}
