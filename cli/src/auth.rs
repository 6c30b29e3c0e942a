//! `tombolo auth`: who may do what, and because of what.

use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Value, json};
use tombolo_compiler::intent::Action;

use crate::Verdict;
use crate::client::{Client, Extras, ServerArgs};
use crate::output::{OutputArgs, items, print, table, text};
use crate::pages::whole;

#[derive(Debug, Subcommand)]
pub(crate) enum AuthCommand {
    CanI(CanIArgs),
    WhoCan(WhoCanArgs),
    Transfer(TransferArgs),
}

/// Whether you, or somebody else, may do something to a resource.
///
/// Prints the binding that decides, or what is missing and whom to ask. Exits with 1 when the answer is no.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  tombolo auth can-i update organizations/acme/tenants/payments
  tombolo auth can-i set-policy tenants/payments --as users/ann --organization acme")]
pub(crate) struct CanIArgs {
    /// read, create, update, delete, set-policy, read-audit, tokens or adopt.
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

/// Everybody who may do something to a resource, and through what.
#[derive(Args, Debug)]
#[command(after_help = "Example:
  tombolo auth who-can tenants/payments --organization acme")]
pub(crate) struct WhoCanArgs {
    name: String,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// Gives a resource another owner.
#[derive(Args, Debug)]
#[command(after_help = "Example:
  tombolo auth transfer tenants/payments/workspaces/checkout users/ann --organization acme")]
pub(crate) struct TransferArgs {
    name: String,
    /// A user or a service account.
    owner: String,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn run(command: AuthCommand) -> anyhow::Result<Verdict> {
    match command {
        AuthCommand::CanI(args) => can_i(args).await,
        AuthCommand::WhoCan(args) => who_can(args).await.map(|()| Verdict::Good),
        AuthCommand::Transfer(args) => transfer(args).await.map(|()| Verdict::Good),
    }
}

async fn can_i(args: CanIArgs) -> anyhow::Result<Verdict> {
    let client = Client::new(args.server)?;
    let mut question = json!({"action": args.verb, "names": [client.name(&args.name)?]});
    if let Some(who) = &args.r#as {
        question["who"] = json!(client.name(who)?);
    }
    let answer = post(&client, "iam:test", question).await?;
    let decision = &answer["decisions"][0];
    print(args.output.output, &answer, |_| told(decision))?;
    Ok(match decision["allowed"].as_bool() {
        Some(true) => Verdict::Good,
        _ => Verdict::Bad,
    })
}

async fn who_can(args: WhoCanArgs) -> anyhow::Result<()> {
    let client = Client::new(args.server)?;
    let path = format!("{}:access", client.name(&args.name)?);
    let answer = whole(&client, &path, &[]).await?;
    print(args.output.output, &answer, listed)
}

async fn transfer(args: TransferArgs) -> anyhow::Result<()> {
    let client = Client::new(args.server)?;
    let path = format!("{}:transfer", client.name(&args.name)?);
    let wish = json!({"owner": client.name(&args.owner)?});
    let answer = post(&client, &path, wish).await?;
    print(args.output.output, &answer, |resource| {
        format!(
            "{} belongs to {}\n",
            text(&resource["name"]),
            text(&resource["owner"])
        )
    })
}

async fn post(client: &Client, path: &str, body: Value) -> anyhow::Result<Value> {
    let extras = Extras {
        body: Some(body),
        ..Extras::default()
    };
    Ok(client.send(Method::POST, path, extras).await?.body)
}

fn told(decision: &Value) -> String {
    let word = match decision["allowed"].as_bool() {
        Some(true) => "yes",
        _ => "no",
    };
    format!("{word}: {}\n", text(&decision["because"]))
}

fn listed(answer: &Value) -> String {
    let words = |list: &Value| items(list).iter().map(text).collect::<Vec<_>>().join(" ");
    let rows = items(answer).iter().map(|access| {
        [
            text(&access["subject"]),
            text(&access["role"]),
            words(&access["verbs"]),
            text(&access["binding"]),
            text(&access["condition"]),
        ]
    });
    table(["SUBJECT", "ROLE", "MAY", "THROUGH", "IF"], rows)
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

    #[test]
    fn who_can_is_a_table() {
        let answer = json!({"items": [
            {"subject": "users/ann", "role": "owner", "verbs": ["read", "update"]},
            {"subject": "teams/web", "role": "reader", "verbs": ["read"], "binding": "bindings/b", "condition": "false"},
        ]});
        assert_eq!(
            listed(&answer),
            "SUBJECT    ROLE    MAY          THROUGH     IF\n\
             users/ann  owner   read update\n\
             teams/web  reader  read         bindings/b  false\n"
        );
    }
}
