//! `tombolo search`: which resources touch a host, a service or a namespace.

use clap::Args;
use serde_json::Value;

use crate::client::{Client, ServerArgs};
use crate::output::{OutputArgs, items, print, table, text};
use crate::pages::whole;

/// Finds every resource that touches a host, a service or a namespace: by name, by a wildcard that covers it, or by
/// another name of the same service.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  tombolo search shop.example.com
  tombolo search reviews.shop.svc.clusterset.local
  tombolo search --service shop/reviews
  tombolo search --namespace shop -o json")]
pub(crate) struct SearchArgs {
    /// A host, as in a URL.
    #[arg(required_unless_present_any = ["service", "namespace"])]
    host: Option<String>,
    /// NAMESPACE/NAME, or a name in whichever namespace.
    #[arg(long, env = "TOMBOLO_SEARCH_SERVICE", conflicts_with_all = ["host", "namespace"])]
    service: Option<String>,
    #[arg(long, env = "TOMBOLO_SEARCH_NAMESPACE", conflicts_with = "host")]
    namespace: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn run(args: SearchArgs) -> anyhow::Result<()> {
    let client = Client::new(args.server)?;
    let parameters = [
        ("host", args.host),
        ("service", args.service),
        ("namespace", args.namespace),
    ];
    let answer = whole(&client, "search", &parameters).await?;
    print(args.output.output, &answer, people)
}

fn people(answer: &Value) -> String {
    let rows = items(answer)
        .iter()
        .map(|touch| ["kind", "resource", "field", "value", "how"].map(|field| text(&touch[field])));
    let mut found = table(["KIND", "RESOURCE", "FIELD", "VALUE", "HOW"], rows);
    if found.is_empty() {
        found = "nothing that you may read touches it\n".to_owned();
    }
    if let Some(hidden @ 1..) = answer["hidden"].as_u64() {
        found = format!("{found}\nfields of resources that you may not read: {hidden}\n");
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_touches_it_is_a_table_and_what_is_hidden_is_counted() {
        let touch = json!({"kind": "Gateway", "resource": "organizations/acme/g", "field": "spec.hosts[0]",
            "value": "*.example.com", "how": "wildcard"});
        assert_eq!(
            people(&json!({"items": [touch], "hidden": 2})),
            "KIND     RESOURCE              FIELD          VALUE          HOW\n\
             Gateway  organizations/acme/g  spec.hosts[0]  *.example.com  wildcard\n\n\
             fields of resources that you may not read: 2\n"
        );
        assert_eq!(
            people(&json!({"items": [], "hidden": 0})),
            "nothing that you may read touches it\n"
        );
    }
}
