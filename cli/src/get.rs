//! `tombolo get`: one resource, or the resources of a collection.

use clap::Args;
use serde_json::Value;

use crate::client::{Client, ServerArgs};
use crate::output::{OutputArgs, items, print, table, text, yaml};
use crate::pages::whole;

/// Shows a resource, or those of a collection that you may read.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  tombolo get organizations/acme/tenants
  tombolo get organizations/acme/tenants/payments -o yaml
  tombolo get clusters --organization acme")]
pub(crate) struct GetArgs {
    /// A name, or a name and a collection below it.
    name: String,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn run(args: GetArgs) -> anyhow::Result<()> {
    let client = Client::new(args.server)?;
    let path = client.path(&args.name)?;
    let answer = whole(&client, &path, &[]).await?;
    print(args.output.output, &answer, people)
}

fn people(value: &Value) -> String {
    if value.get("name").is_some() {
        // A resource is a document; YAML is how people write it.
        return yaml(value).unwrap_or_else(|_| value.to_string());
    }
    let rows = items(value).iter().map(|resource| {
        ["name", "kind", "revision", "updateTime", "description"].map(|field| text(&resource[field]))
    });
    let table = table(["NAME", "KIND", "REVISION", "UPDATED", "DESCRIPTION"], rows);
    if table.is_empty() {
        "nothing here that you may read\n".to_owned()
    } else {
        table
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lists_are_tables_and_resources_are_documents() {
        let tenant = json!({"kind": "Tenant", "name": "organizations/acme/tenants/pay", "revision": 3});
        assert_eq!(
            people(&json!({"items": [tenant]})),
            "NAME                            KIND    REVISION  UPDATED  DESCRIPTION\n\
             organizations/acme/tenants/pay  Tenant  3\n"
        );
        let shown = people(&tenant);
        assert!(
            shown.contains("name: organizations/acme/tenants/pay\n"),
            "{shown}"
        );
        assert_eq!(people(&json!({"items": []})), "nothing here that you may read\n");
    }
}
