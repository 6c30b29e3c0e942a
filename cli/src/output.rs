//! What commands print: tables for people, JSON and YAML for programs.

use std::io::{self, Write};
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};
use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde_json::Value;
use tombolo_compiler::http::Span;

#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct OutputArgs {
    /// How to print.
    #[arg(short = 'o', long, env = "TOMBOLO_OUTPUT", default_value = "table")]
    pub(crate) output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Table,
    Json,
    Yaml,
}

/// Prints `value` as it is for programs, or what `people` makes of it.
pub(crate) fn print(
    output: Output,
    value: &Value,
    people: impl FnOnce(&Value) -> String,
) -> anyhow::Result<()> {
    let text = match output {
        Output::Table => people(value),
        Output::Json => serde_json::to_string_pretty(value).context("write JSON")? + "\n",
        Output::Yaml => yaml(value)?,
    };
    print_text(&text)
}

pub(crate) fn print_text(text: &str) -> anyhow::Result<()> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        // Whoever reads, `head` for example, has enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed.context("write to standard output"),
    }
}

pub(crate) fn yaml(value: &Value) -> anyhow::Result<String> {
    serde_saphyr::to_string(value).context("write YAML")
}

/// Columns without lines, as in other command lines of this trade; empty when there are no rows.
pub(crate) fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table
        .load_style(NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header);
    let mut is_empty = true;
    for row in rows {
        is_empty = false;
        table.add_row(row);
    }
    if is_empty {
        return String::new();
    }
    let lines = table.to_string();
    // A cell is padded by one space; an empty first one must stay.
    let unpadded = |line: &str| format!("{}\n", line.strip_prefix(' ').unwrap_or(line).trim_end());
    lines.lines().map(unpadded).collect()
}

/// The items of a list, whichever way it is wrapped.
pub(crate) fn items(value: &Value) -> &[Value] {
    let list = value.as_array().or_else(|| value["items"].as_array());
    list.map_or(&[], Vec::as_slice)
}

/// A field as people read it: no quotes, nothing for what is missing.
pub(crate) fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let span = Span::try_from(text.to_owned()).map_err(|error| error.to_string())?;
    Ok(Duration::from_millis(span.as_ms()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tables_line_up_and_are_empty_without_rows() {
        let rows = [["tenants/payments", "Tenant"], ["x", "Workspace"]];
        let rows = rows.map(|row| row.map(str::to_owned));
        assert_eq!(
            table(["NAME", "KIND"], rows),
            "NAME              KIND\ntenants/payments  Tenant\nx                 Workspace\n"
        );
        assert_eq!(table(["NAME"], []), "");
    }

    #[test]
    fn lists_are_found_in_their_wrapping() {
        assert_eq!(items(&json!([1, 2])).len(), 2);
        assert_eq!(items(&json!({"items": [1]})).len(), 1);
        assert!(items(&json!({"kind": "Tenant"})).is_empty());
    }

    #[test]
    fn durations_are_those_of_the_api() {
        assert_eq!(parse_duration("60s").unwrap(), Duration::from_secs(60));
        assert!(parse_duration("60").unwrap_err().contains("is not a duration"));
    }
}
