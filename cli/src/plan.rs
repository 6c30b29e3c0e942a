//! `tombolo plan`: what `apply` would do, down to the routes of each cluster and to who serves and reaches whom.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, ValueEnum};
use hyper::Method;
use serde_json::{Value, json};
use tombolo_compiler::name::Fqn;

use crate::Verdict;
use crate::apply::{forced, post};
use crate::client::{Client, Extras, ServerArgs, query};
use crate::difference;
use crate::output::{Output, items, print, print_text, table, text};

mod behaviour;
mod markdown;
pub(crate) mod review;

/// Says what `tombolo apply --overwrite`, or with --delete `tombolo delete`, would do, and does nothing.
///
/// Exits with 0 when there is nothing to do, with 2 when there is, and with 1 when it cannot be done. What it shows last
/// is the name of the plan, to which `tombolo apply --plan` holds the write.
#[derive(Args, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Examples:
  tombolo plan -f mesh/
  tombolo plan --delete tenants/payments --delete tenants/payments/workspaces/checkout    together
  tombolo plan -f mesh/ -o markdown >> \"$GITHUB_STEP_SUMMARY\"   in CI: a summary for people
  tombolo plan -f mesh/ -o json | jq -r .plan                    in CI: the plan for `tombolo apply --plan`"
)]
pub(crate) struct PlanArgs {
    #[command(subcommand)]
    review: Option<review::PlanCommand>,
    /// A file, a folder, or `-` for standard input; can be given many times.
    #[arg(
        short = 'f',
        long = "file",
        env = "TOMBOLO_FILE",
        required_unless_present = "delete",
        value_name = "FILE|DIR|-"
    )]
    files: Vec<PathBuf>,
    /// Plan that this resource is deleted, in the place of files; can be given many times.
    #[arg(long, env = "TOMBOLO_DELETE", value_name = "NAME")]
    delete: Vec<String>,
    /// As for `tombolo apply`: also what `tombolo sync` or another manager keeps.
    #[arg(long, env = "TOMBOLO_FORCE")]
    force: bool,
    /// As for `tombolo apply`: keep security that no plane enforces yet.
    #[arg(long, env = "TOMBOLO_ALLOW_UNENFORCED")]
    allow_unenforced: bool,
    /// How to print.
    #[arg(short = 'o', long, env = "TOMBOLO_PLAN_OUTPUT", default_value = "table")]
    output: PlanOutput,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PlanOutput {
    Table,
    Json,
    Yaml,
    Markdown,
}

pub(crate) async fn run(args: PlanArgs) -> anyhow::Result<Verdict> {
    if let Some(command) = args.review {
        return review::run(command).await;
    }
    let client = Client::new(args.server)?;
    let parameters = [
        ("overwrite", Some("true".to_owned())),
        (
            "allowUnenforced",
            args.allow_unenforced.then(|| "true".to_owned()),
        ),
    ];
    let path = query("plans", &parameters);
    let answer = match args.delete.is_empty() {
        true => post(&client, &args.files, &path, args.force).await?,
        false => {
            let extras = Extras {
                body: Some(deletions(&client, &args.delete)?),
                headers: forced(args.force),
                ..Extras::default()
            };
            client.send(Method::POST, &path, extras).await?.body
        }
    };
    match args.output {
        PlanOutput::Table => print(Output::Table, &answer, describe)?,
        PlanOutput::Json => print(Output::Json, &answer, describe)?,
        PlanOutput::Yaml => print(Output::Yaml, &answer, describe)?,
        PlanOutput::Markdown => print_text(&markdown::summary(&answer))?,
    }
    Ok(match changed_names(&answer)?.is_empty() {
        true => Verdict::Good,
        false => Verdict::Changes,
    })
}

fn deletions(client: &Client, names: &[String]) -> anyhow::Result<Value> {
    let delete = |name: &String| Ok(json!({"op": "delete", "name": client.name(name)?}));
    let changes: Vec<Value> = names.iter().map(delete).collect::<anyhow::Result<_>>()?;
    Ok(json!({ "changes": changes }))
}

/// The resources that a transaction has changed, or would change.
pub(crate) fn changed_names(answer: &Value) -> anyhow::Result<Vec<Fqn>> {
    let changes = items(&answer["changes"]).iter().filter(|change| !is_kept(change));
    changes
        .map(|change| text(&change["name"]).parse().context("read the server's answer"))
        .collect()
}

fn is_kept(change: &Value) -> bool {
    change["action"] == "unchanged"
}

/// The answer of a transaction, real or dry.
pub(crate) fn describe(answer: &Value) -> String {
    let changes = || items(&answer["changes"]).iter().filter(|change| !is_kept(change));
    let rows = changes().map(|change| ["action", "name"].map(|field| text(&change[field])));
    let mut described = table(["ACTION", "RESOURCE"], rows);
    if described.is_empty() {
        described = "nothing changes\n".to_owned();
    }
    let updates = changes().filter(|change| !change["before"].is_null() && !change["after"].is_null());
    let fields: String = updates.map(difference::describe).collect();
    if !fields.is_empty() {
        described = format!("{described}\n{fields}");
    }
    let handed = items(&answer["handedOver"]).iter();
    let handed = table(
        ["ACTION", "HANDED OVER"],
        handed.map(|change| ["action", "name"].map(|field| text(&change[field]))),
    );
    if !handed.is_empty() {
        described = format!("{described}\n{handed}");
    }
    if let Some(hidden @ 1..) = answer["handedOverHidden"].as_u64() {
        described =
            format!("{described}\nresources that hand something over and that you may not read: {hidden}\n");
    }
    let clusters = answer["routes"].as_object().into_iter().flatten();
    let rows = clusters.flat_map(|(cluster, routes)| {
        let row = |route: &Value| [cluster.clone(), text(&route["action"]), text(&route["route"])];
        items(routes).iter().map(row).collect::<Vec<_>>()
    });
    let routes = table(["CLUSTER", "ACTION", "ROUTE"], rows);
    if !routes.is_empty() {
        described = format!("{described}\n{routes}");
    }
    if let Some(hidden @ 1..) = answer["routesHidden"].as_u64() {
        described =
            format!("{described}\nroutes that you may not read and that would change too: {hidden}\n");
    }
    let behaviour = behaviour::describe(&answer["behaviour"]);
    if !behaviour.is_empty() {
        described = format!("{described}\n{behaviour}");
    }
    let findings = items(&answer["findings"]).iter();
    let findings: String = findings
        .map(|finding| {
            format!(
                "  {}: {}\n",
                text(&finding["resource"]),
                text(&finding["message"])
            )
        })
        .collect();
    if !findings.is_empty() {
        described = format!("{described}\nfindings:\n{findings}");
    }
    if let Some(plan) = answer["plan"].as_str() {
        described = format!("{described}\nplan: {plan}\n");
    }
    described
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_shows_resources_and_the_routes_of_each_cluster() {
        let answer = json!({
            "changes": [
                {"name": "organizations/acme/tenants/a", "action": "create"},
                {"name": "organizations/acme/tenants/b", "action": "unchanged"},
                {"name": "organizations/acme/tenants/c", "action": "update",
                    "before": {"description": "x"}, "after": {"description": "y"}},
            ],
            "routes": {
                "us-east": [{"route": "namespaces/shop", "action": "create"}],
                "us-west": [{"route": "namespaces/shop", "action": "delete"}, {"route": "cluster", "action": "update"}],
            },
            "handedOver": [{"name": "organizations/acme/tenants/d/workspaces/w", "action": "update"}],
            "handedOverHidden": 1,
            "routesHidden": 2,
            "plan": "17-5f2c",
            "findings": [{"resource": "organizations/acme/tenants/a", "message": "no cluster has it"}],
        });
        assert_eq!(
            describe(&answer),
            "ACTION  RESOURCE\n\
             create  organizations/acme/tenants/a\n\
             update  organizations/acme/tenants/c\n\n\
             ~ organizations/acme/tenants/c\n    description: \"x\" → \"y\"\n\n\
             ACTION  HANDED OVER\n\
             update  organizations/acme/tenants/d/workspaces/w\n\n\
             resources that hand something over and that you may not read: 1\n\n\
             CLUSTER  ACTION  ROUTE\n\
             us-east  create  namespaces/shop\n\
             us-west  delete  namespaces/shop\n\
             us-west  update  cluster\n\n\
             routes that you may not read and that would change too: 2\n\n\
             findings:\n  organizations/acme/tenants/a: no cluster has it\n\n\
             plan: 17-5f2c\n"
        );
        let names = changed_names(&answer).unwrap();
        assert_eq!(names.len(), 2);
        assert_eq!(
            describe(&json!({"changes": [], "routes": {}})),
            "nothing changes\n"
        );
    }
}
