//! Records as CSV (RFC 4180), for people with a spreadsheet. Only the JSON lines can be verified.

use serde_json::Value;

use super::item;
use crate::store::audit::Listed;

const COLUMNS: [&str; 18] = [
    "chain",
    "sequence",
    "time",
    "outcome",
    "actor",
    "teams",
    "verb",
    "kind",
    "name",
    "revision",
    "source",
    "requestId",
    "reason",
    "hash",
    "before",
    "after",
    "repeated",
    "dropped",
];

pub(super) fn header() -> Vec<u8> {
    format!("{}\r\n", COLUMNS.join(",")).into_bytes()
}

pub(super) fn row(listed: &Listed) -> Vec<u8> {
    line(&item(listed))
}

fn line(item: &Value) -> Vec<u8> {
    let cells: Vec<String> = COLUMNS.iter().map(|column| cell(&item[*column])).collect();
    format!("{}\r\n", cells.join(",")).into_bytes()
}

/// A spreadsheet takes what begins like this for a formula; a caller chooses the request id and may be denied with any.
const FORMULA: [char; 6] = ['=', '+', '-', '@', '\t', '\r'];

fn cell(value: &Value) -> String {
    let mut text = match value {
        Value::Null => return String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.iter().all(Value::is_string) => {
            let items: Vec<&str> = items.iter().filter_map(Value::as_str).collect();
            items.join(" ")
        }
        other => other.to_string(),
    };
    if text.starts_with(FORMULA) {
        text.insert(0, '\'');
    }
    // One line per record, so that an export that was cut off can go on.
    text = text.replace(['\n', '\r'], " ");
    if text.contains([',', '"']) {
        text = format!("\"{}\"", text.replace('"', "\"\""));
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn cells_are_quoted_and_are_no_formulas() {
        for (value, expected) in [
            (json!(null), ""),
            (json!(7), "7"),
            (json!("plain"), "plain"),
            (json!(["teams/a", "teams/b"]), "teams/a teams/b"),
            (json!("a, \"b\""), "\"a, \"\"b\"\"\""),
            (json!({"a": 1}), "\"{\"\"a\"\":1}\""),
            (json!("two\nlines"), "two lines"),
            (json!("=1+1"), "'=1+1"),
            (json!("-x,y"), "\"'-x,y\""),
        ] {
            assert_eq!(cell(&value), expected, "{value}");
        }
        let line = line(&json!({"chain": "writes", "sequence": 3, "verb": "create"}));
        assert_eq!(
            String::from_utf8(line).unwrap(),
            "writes,3,,,,,create,,,,,,,,,,,\r\n"
        );
    }
}
