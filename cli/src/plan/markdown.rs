//! A plan as Markdown, for the summary of a pull request: the figures first, what is long folded away.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

use super::{behaviour, is_kept};
use crate::difference;
use crate::output::{items, text};

/// Of each part: a comment of a pull request holds 65,536 bytes, and there are four parts.
const PART_BYTES_MAX: usize = 15_000;

pub(crate) fn summary(plan: &Value) -> String {
    let changes: Vec<&Value> = items(&plan["changes"])
        .iter()
        .filter(|change| !is_kept(change))
        .collect();
    if changes.is_empty() {
        return "### Mesh: nothing to do\n".to_owned();
    }
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for change in &changes {
        *counts.entry(text(&change["action"])).or_default() += 1;
    }
    let counts: Vec<String> = counts
        .iter()
        .map(|(action, count)| format!("{count} to {action}"))
        .collect();
    let mut summary = format!("### Mesh: {}\n\n", counts.join(", "));
    let differences: String = changes.into_iter().map(difference::describe).collect();
    // Writing to a string cannot fail.
    let _ = write!(summary, "```diff\n{}```\n", cut(differences));
    summary.push_str(&handed_over(plan));
    let sentences = behaviour::sentences(&plan["behaviour"]);
    if !sentences.is_empty() {
        let lines = sentences
            .iter()
            .map(|sentence| format!("- {}\n", escaped(sentence)));
        let _ = write!(
            summary,
            "\n**Behaviour**, by what clusters report now:\n\n{}",
            cut(lines.collect())
        );
    }
    let findings = items(&plan["findings"]);
    if !findings.is_empty() {
        let lines = findings.iter().map(|finding| {
            let message = escaped(&text(&finding["message"]));
            format!("- `{}`: {message}\n", text(&finding["resource"]))
        });
        let _ = write!(summary, "\n**Findings**\n\n{}", cut(lines.collect()));
    }
    summary.push_str(&routes(plan));
    let _ = write!(summary, "\nPlan `{}`\n", text(&plan["plan"]));
    summary
}

/// Whole lines, as many as there is room for.
fn cut(mut lines: String) -> String {
    if lines.len() > PART_BYTES_MAX {
        let room = lines.floor_char_boundary(PART_BYTES_MAX);
        let end = lines[..room].rfind('\n').map_or(0, |newline| newline + 1);
        lines.truncate(end);
        lines.push_str("… cut here: `tombolo plan` shows all of it\n");
    }
    lines
}

fn handed_over(plan: &Value) -> String {
    let lines = items(&plan["handedOver"])
        .iter()
        .map(|change| format!("- {} `{}`\n", text(&change["action"]), text(&change["name"])));
    let lines: String = lines.collect();
    let hidden = match plan["handedOverHidden"].as_u64().unwrap_or_default() {
        0 => String::new(),
        count => format!("- {count} of others, who alone may read them\n"),
    };
    match lines.is_empty() && hidden.is_empty() {
        true => String::new(),
        false => format!(
            "\n**Handed over** by the offers that it accepts\n\n{}{hidden}",
            cut(lines)
        ),
    }
}

fn routes(plan: &Value) -> String {
    let clusters = plan["routes"].as_object().into_iter().flatten();
    let mut rows = String::new();
    for (cluster, routes) in clusters {
        for route in items(routes) {
            let _ = writeln!(
                rows,
                "| {cluster} | {} | `{}` |",
                text(&route["action"]),
                text(&route["route"])
            );
        }
    }
    let hidden = plan["routesHidden"].as_u64().unwrap_or_default();
    if rows.is_empty() && hidden == 0 {
        return String::new();
    }
    let hidden = match hidden {
        0 => String::new(),
        count => format!("\nand {count} of others, who alone may read them\n"),
    };
    let rows = cut(rows);
    format!(
        "\n<details><summary>Routes by cluster</summary>\n\n| cluster | action | route |\n|---|---|---|\n{rows}{hidden}\n</details>\n"
    )
}

/// What somebody wrote must not become a link, a heading or HTML in the summary.
fn escaped(text: &str) -> String {
    text.chars()
        .flat_map(|character| {
            let special = "\\`*_[]<>#|".contains(character);
            special.then_some('\\').into_iter().chain([character])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_summary_begins_with_the_figures_and_ends_with_the_plan() {
        let plan = json!({
            "plan": "17-5f2c",
            "changes": [
                {"name": "a/b", "action": "update", "before": {"spec": {"x": 1}}, "after": {"spec": {"x": 2}}},
                {"name": "a/c", "action": "unchanged"},
                {"name": "a/d", "action": "delete", "before": {}},
            ],
            "handedOver": [{"name": "a/e", "action": "update"}],
            "handedOverHidden": 1,
            "routes": {"us-east": [{"route": "namespaces/shop", "action": "delete"}]},
            "routesHidden": 1,
            "behaviour": {"newlyReachable": [{"from": {"namespace": ["us-east", "cart"]}, "to": "shop/web"}]},
            "findings": [{"resource": "a/b", "message": "<b>bold</b>"}],
        });
        assert_eq!(
            summary(&plan),
            "### Mesh: 1 to delete, 1 to update\n\n```diff\n~ a/b\n    spec.x: 1 → 2\n- a/d\n```\n\n\
             **Handed over** by the offers that it accepts\n\n- update `a/e`\n- 1 of others, who alone may read them\n\n\
             **Behaviour**, by what clusters report now:\n\n- us-east/cart can newly reach shop/web\n\n\
             **Findings**\n\n- `a/b`: \\<b\\>bold\\</b\\>\n\n\
             <details><summary>Routes by cluster</summary>\n\n| cluster | action | route |\n|---|---|---|\n\
             | us-east | delete | `namespaces/shop` |\n\nand 1 of others, who alone may read them\n\n</details>\n\n\
             Plan `17-5f2c`\n"
        );
        assert_eq!(summary(&json!({"changes": []})), "### Mesh: nothing to do\n");
    }

    #[test]
    fn a_long_summary_is_cut_and_keeps_its_plan() {
        let change = |number: usize| json!({"name": format!("organizations/acme/tenants/ü{number}"), "action": "create"});
        let changes: Vec<Value> = (0..5000).map(change).collect();
        let summary = summary(&json!({"plan": "17-5f2c", "changes": changes}));
        assert!(summary.len() < PART_BYTES_MAX + 200, "{}", summary.len());
        assert!(summary.ends_with("… cut here: `tombolo plan` shows all of it\n```\n\nPlan `17-5f2c`\n"));
    }
}
