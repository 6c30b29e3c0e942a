//! `tombolo effective`: the settings that count for a node or a service.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use serde_json::Value;

use crate::client::{Client, ServerArgs, query};
use crate::output::{OutputArgs, items, print, table, text};

/// Shows the settings that count for a node, where each comes from, and which others it beat.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  tombolo effective organizations/acme/tenants/payments/workspaces/checkout
  tombolo effective organizations/acme/tenants/payments/workspaces/checkout --service shop/reviews
  tombolo effective organizations/acme/tenants/payments/applications/shop
  tombolo effective organizations/acme -o json")]
pub(crate) struct EffectiveArgs {
    /// An organization, a tenant, a workspace or a group; a gateway or a route has the settings of its group, an
    /// application or an API those of the workspace that serves it.
    name: String,
    /// One service of a workspace or group, as NAMESPACE/NAME.
    #[arg(long, env = "TOMBOLO_SERVICE")]
    service: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn run(args: EffectiveArgs) -> anyhow::Result<()> {
    let client = Client::new(args.server)?;
    let name = client.name(&args.name)?;
    let path = query(&format!("{name}:effective"), &[("service", args.service)]);
    let answer = client.get(&path).await?.body;
    print(args.output.output, &answer, people)
}

fn people(answer: &Value) -> String {
    let rows = items(&answer["fields"]);
    let mut shown = table(["FIELD", "VALUE", "FROM", "BEAT"], rows.iter().map(row));
    for (reason, fields) in unenforced(rows) {
        let fields: Vec<&str> = fields.into_iter().collect();
        shown.push_str(&format!("\nnot enforced yet: {}: {reason}\n", fields.join(", ")));
    }
    shown
}

fn row(row: &Value) -> [String; 4] {
    let origins = [&row["origin"]].into_iter().chain(items(&row["with"]));
    let from: Vec<String> = origins.filter(|origin| !origin.is_null()).map(origin).collect();
    let beat: Vec<String> = items(&row["origin"]["lost"]).iter().map(text).collect();
    [
        text(&row["field"]),
        if row["value"].is_null() {
            "-".to_owned()
        } else {
            text(&row["value"])
        },
        if from.is_empty() {
            "built in".to_owned()
        } else {
            from.join(", ")
        },
        beat.join(", "),
    ]
}

/// `NAME mandates.mtls`: of the field only the half, because the row names the rest.
fn origin(origin: &Value) -> String {
    let field = text(&origin["field"]);
    let half = field.strip_prefix("spec.").unwrap_or(&field);
    format!("{} {half}", text(&origin["resource"]))
}

/// The fields that somebody set in vain, by the reason.
fn unenforced(rows: &[Value]) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut unenforced: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for row in rows {
        if let (Some(reason), Some(field)) = (row["notEnforced"].as_str(), row["field"].as_str()) {
            unenforced.entry(reason).or_default().insert(field);
        }
    }
    unenforced
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_field_shows_who_decided_who_lost_and_what_is_not_enforced() {
        let setting = |node: &str| format!("{node}/securitysettings/default");
        let answer = json!({"fields": [
            {
                "field": "security.mtls",
                "value": "strict",
                "origin": {"resource": setting("organizations/a"), "field": "spec.mandates.mtls",
                    "lost": [setting("organizations/a/tenants/b")]},
                "notEnforced": "nobody asks",
            },
            {"field": "security.waf.mode", "value": "off"},
            {"field": "traffic.failover", "value": null},
        ]});
        assert_eq!(
            people(&answer),
            "FIELD              VALUE   FROM                                                    BEAT\n\
             security.mtls      strict  organizations/a/securitysettings/default mandates.mtls  \
             organizations/a/tenants/b/securitysettings/default\n\
             security.waf.mode  off     built in\n\
             traffic.failover   -       built in\n\
             \nnot enforced yet: security.mtls: nobody asks\n"
        );
    }
}
