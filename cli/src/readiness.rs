//! `tombolo readiness`: whether services would survive the loss of a cluster or a region.

use clap::Args;
use serde_json::Value;

use crate::Verdict;
use crate::client::{Client, ServerArgs};
use crate::output::{OutputArgs, items, print, table, text};
use crate::pages::whole;

/// Says of each service of a workspace whether it would survive the loss of its cluster or its region today, where its
/// requests would go, and what is missing. Exits with 1 if one would not.
#[derive(Args, Debug)]
#[command(after_help = "Example:
  tombolo readiness organizations/acme/tenants/payments/workspaces/checkout")]
pub(crate) struct ReadinessArgs {
    /// The name of a workspace.
    name: String,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn run(args: ReadinessArgs) -> anyhow::Result<Verdict> {
    let client = Client::new(args.server)?;
    let path = format!("{}:readiness", client.name(&args.name)?);
    let answer = whole(&client, &path, &[]).await?;
    print(args.output.output, &answer, people)?;
    Ok(if survives(&answer) {
        Verdict::Good
    } else {
        Verdict::Bad
    })
}

fn survives(answer: &Value) -> bool {
    let mut losses = items(answer).iter().flat_map(|service| items(&service["losses"]));
    losses.all(|loss| loss["verdict"] == "survives")
}

fn people(answer: &Value) -> String {
    let rows = items(answer).iter().flat_map(|service| {
        let losses = items(&service["losses"]).iter();
        let row = |loss: &Value| {
            [
                text(&service["service"]),
                lost(&loss["lost"]),
                text(&loss["verdict"]),
                destinations(&loss["goesTo"]),
                items(&loss["missing"])
                    .iter()
                    .map(text)
                    .collect::<Vec<_>>()
                    .join("; "),
            ]
        };
        losses.map(row).collect::<Vec<_>>()
    });
    let table = table(["SERVICE", "WITHOUT", "VERDICT", "GOES TO", "MISSING"], rows);
    if table.is_empty() {
        "no cluster offers a service of this workspace\n".to_owned()
    } else {
        table
    }
}

fn lost(lost: &Value) -> String {
    match lost.get("region") {
        Some(region) => format!("region {}", text(region)),
        None => text(&lost["cluster"]),
    }
}

/// All clusters to which requests of any other would go first.
fn destinations(goes_to: &Value) -> String {
    let all = goes_to
        .as_object()
        .into_iter()
        .flat_map(|goes_to| goes_to.values());
    let names: std::collections::BTreeSet<String> = all.flat_map(items).map(text).collect();
    names.into_iter().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_loss_is_a_row_and_trouble_is_a_bad_verdict() {
        let survives_east = json!({"lost": {"cluster": "us-east"}, "verdict": "survives",
            "goesTo": {"us-west": ["us-west"], "eu": ["us-west"]}, "missing": []});
        let lost_us = json!({"lost": {"region": "us"}, "verdict": "lost", "goesTo": {"eu": []},
            "missing": ["every cluster that offers it is in region us", "deploy it"]});
        let answer = json!({"items": [{"service": "shop/web", "losses": [survives_east, lost_us]}]});
        assert_eq!(
            people(&answer),
            "SERVICE   WITHOUT    VERDICT   GOES TO  MISSING\n\
             shop/web  us-east    survives  us-west\n\
             shop/web  region us  lost               every cluster that offers it is in region us; deploy it\n"
        );
        assert!(!survives(&answer));
        assert!(survives(&json!({"items": []})));
    }
}
