//! How two documents differ, field by field, as people read it.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::output::text;

/// One resource that changes: what becomes of it, and the fields that differ.
pub(crate) fn describe(change: &Value) -> String {
    let mark = match change["action"].as_str() {
        Some("create") => '+',
        Some("delete") => '-',
        _ => '~',
    };
    let recreated = match change["recreated"].as_bool() {
        Some(true) => "  (deleted and created again in between)",
        _ => "",
    };
    let mut described = format!("{mark} {}{recreated}\n", text(&change["name"]));
    for field in fields(&change["before"], &change["after"]) {
        described.push_str(&format!("    {field}\n"));
    }
    described
}

/// `path: before → after`, for each field that both or one of the two have.
fn fields(before: &Value, after: &Value) -> Vec<String> {
    if before.is_null() || after.is_null() {
        return Vec::new();
    }
    let mut found = Vec::new();
    walk("", before, after, &mut found);
    found
}

fn walk(path: &str, before: &Value, after: &Value, found: &mut Vec<String>) {
    match (before, after) {
        (Value::Object(was), Value::Object(is)) => {
            for key in was.keys().chain(is.keys()).collect::<BTreeSet<_>>() {
                let dot = if path.is_empty() { "" } else { "." };
                walk(&format!("{path}{dot}{key}"), &before[key], &after[key], found);
            }
        }
        (Value::Array(was), Value::Array(is)) => {
            for index in 0..was.len().max(is.len()) {
                walk(&format!("{path}[{index}]"), &before[index], &after[index], found);
            }
        }
        _ if before == after => {}
        _ => found.push(format!("{path}: {} → {}", shown(before), shown(after))),
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_change_shows_the_fields_that_differ_and_no_others() {
        let before = json!({"spec": {"rules": [{"weight": 95}, {"weight": 5}], "same": 1}});
        let after = json!({"spec": {"rules": [{"weight": 50}, {"weight": 5}, {"weight": 0}], "same": 1}, "description": "x"});
        assert_eq!(
            describe(
                &json!({"action": "update", "name": "a/b", "before": before, "after": after, "recreated": true})
            ),
            "~ a/b  (deleted and created again in between)\n    description: nothing → \"x\"\n    \
             spec.rules[0].weight: 95 → 50\n    spec.rules[2]: nothing → {\"weight\":0}\n"
        );
        assert_eq!(
            describe(&json!({"action": "delete", "name": "a/b", "before": before})),
            "- a/b\n"
        );
    }
}
