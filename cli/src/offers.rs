//! `tombolo offers`: the claims that others offer to a workspace.

use clap::Args;
use serde_json::Value;

use crate::client::{Client, ServerArgs};
use crate::output::{OutputArgs, items, print, table, text};
use crate::pages::whole;

/// Shows the claims that others offer to a workspace. To accept an offer, claim all of it: apply the workspace with the
/// namespaces, and gateways with the hosts and ports. To make one, apply a ClaimOffer.
#[derive(Args, Debug)]
#[command(after_help = "Example:
  tombolo offers organizations/acme/tenants/payments/workspaces/checkout")]
pub(crate) struct OffersArgs {
    /// The name of a workspace.
    name: String,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn run(args: OffersArgs) -> anyhow::Result<()> {
    let client = Client::new(args.server)?;
    let path = format!("{}:offers", client.name(&args.name)?);
    let answer = whole(&client, &path, &[]).await?;
    print(args.output.output, &answer, people)
}

fn people(answer: &Value) -> String {
    let rows = items(answer)
        .iter()
        .map(|offer| [text(&offer["name"]), claims(offer), text(&offer["expireTime"])]);
    let table = table(["OFFER", "CLAIMS", "EXPIRES"], rows);
    if table.is_empty() {
        "nobody offers this workspace anything\n".to_owned()
    } else {
        table
    }
}

fn claims(offer: &Value) -> String {
    let namespaces = items(&offer["namespaces"]).iter().map(text);
    let hosts = items(&offer["hosts"]).iter().map(text);
    let ports = items(&offer["ports"]).iter();
    let ports = ports.map(|claim| format!("port {} of {}", text(&claim["port"]), text(&claim["workload"])));
    let all: Vec<String> = namespaces.chain(hosts).chain(ports).collect();
    all.join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_offer_is_a_row_with_all_that_must_be_claimed() {
        let offer = json!({"name": "a/claimoffers/x", "namespaces": ["*/shop"], "hosts": ["a.example.com"],
            "ports": [{"workload": "mesh/gw", "port": 80}], "expireTime": "2026-11-29T04:00:00Z"});
        assert_eq!(
            people(&json!({"items": [offer]})),
            "OFFER            CLAIMS                                     EXPIRES\n\
             a/claimoffers/x  */shop, a.example.com, port 80 of mesh/gw  2026-11-29T04:00:00Z\n"
        );
        assert_eq!(
            people(&json!({"items": []})),
            "nobody offers this workspace anything\n"
        );
    }
}
