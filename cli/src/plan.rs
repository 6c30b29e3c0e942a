//! `tombolo plan`: what `apply` would change, down to the routes of each cluster.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use serde_json::Value;
use tombolo_compiler::name::Fqn;

use crate::Verdict;
use crate::apply::{Flags, post};
use crate::client::{Client, ServerArgs};
use crate::output::{OutputArgs, items, print, table, text};

/// Says what `tombolo apply --overwrite` would change, and changes nothing.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  tombolo plan -f mesh/
  tombolo plan -f mesh/ --detailed-exitcode   0: nothing, 1: error, 2: changes")]
pub(crate) struct PlanArgs {
    /// A file, a folder, or `-` for standard input; can be given many times.
    #[arg(
        short = 'f',
        long = "file",
        env = "TOMBOLO_FILE",
        required = true,
        value_name = "FILE|DIR|-"
    )]
    files: Vec<PathBuf>,
    /// As for `tombolo apply`: keep security that no plane enforces yet.
    #[arg(long, env = "TOMBOLO_ALLOW_UNENFORCED")]
    allow_unenforced: bool,
    /// Exit with 2 if anything would change.
    #[arg(long, env = "TOMBOLO_DETAILED_EXITCODE")]
    detailed_exitcode: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn run(args: PlanArgs) -> anyhow::Result<Verdict> {
    let client = Client::new(args.server)?;
    let flags = Flags {
        dry_run: true,
        overwrite: true,
        force: false,
        allow_unenforced: args.allow_unenforced,
    };
    let answer = post(&client, &args.files, flags).await?;
    print(args.output.output, &answer, describe)?;
    let changes = !changed_names(&answer)?.is_empty();
    Ok(if args.detailed_exitcode && changes {
        Verdict::Changes
    } else {
        Verdict::Good
    })
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
    let changes = items(&answer["changes"]).iter().filter(|change| !is_kept(change));
    let rows = changes.map(|change| ["action", "name"].map(|field| text(&change[field])));
    let mut described = table(["ACTION", "RESOURCE"], rows);
    if described.is_empty() {
        described = "nothing changes\n".to_owned();
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
    described
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_plan_shows_resources_and_the_routes_of_each_cluster() {
        let answer = json!({
            "changes": [
                {"name": "organizations/acme/tenants/a", "action": "create"},
                {"name": "organizations/acme/tenants/b", "action": "unchanged"},
            ],
            "routes": {
                "us-east": [{"route": "namespaces/shop", "action": "create"}],
                "us-west": [{"route": "namespaces/shop", "action": "delete"}, {"route": "cluster", "action": "update"}],
            },
            "routesHidden": 2,
            "findings": [{"resource": "organizations/acme/tenants/a", "message": "no cluster has it"}],
        });
        assert_eq!(
            describe(&answer),
            "ACTION  RESOURCE\n\
             create  organizations/acme/tenants/a\n\n\
             CLUSTER  ACTION  ROUTE\n\
             us-east  create  namespaces/shop\n\
             us-west  delete  namespaces/shop\n\
             us-west  update  cluster\n\n\
             routes that you may not read and that would change too: 2\n\n\
             findings:\n  organizations/acme/tenants/a: no cluster has it\n"
        );
        let names = changed_names(&answer).unwrap();
        assert_eq!(names.len(), 1);
        assert_eq!(
            describe(&json!({"changes": [], "routes": {}})),
            "nothing changes\n"
        );
    }
}
