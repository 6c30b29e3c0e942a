//! `tombolo audit verify`: asks the server to check its record, or checks an export without any server.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};
use tombolo_management::audit::{Export, PublicKeys, Report, Signed};

use crate::Verdict;
use crate::client::{Client, ServerArgs};
use crate::output::{OutputArgs, items, print, text};

/// Longer than the line of the largest record.
const BUFFER_BYTES: usize = 1 << 20;

/// Checks both chains of the record from their first entry. Exits with 1 if one is broken.
///
/// With a file it needs no server: the export, the public key and, to see that nothing was made anew and no tail is
/// missing, the checkpoints that have left the system.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  tombolo audit verify
  tombolo audit verify --file audit.jsonl --key audit.pub --checkpoint checkpoints.jsonl")]
pub(crate) struct VerifyArgs {
    /// An export in the format jsonl.
    #[arg(long, env = "TOMBOLO_AUDIT_EXPORT", requires = "key", value_name = "EXPORT")]
    file: Option<PathBuf>,
    /// The public keys that are believed, as `tombolo audit key` prints them.
    #[arg(long, env = "TOMBOLO_AUDIT_PUBLIC_KEY", requires = "file", value_name = "KEY")]
    key: Option<PathBuf>,
    /// Checkpoints as they were sent out, one per line; may be given several times.
    #[arg(
        long,
        env = "TOMBOLO_AUDIT_CHECKPOINT",
        requires = "file",
        value_name = "FILE"
    )]
    checkpoint: Vec<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

pub(super) async fn run(args: VerifyArgs) -> anyhow::Result<Verdict> {
    let (answer, shown): (Value, fn(&Value) -> String) = match (&args.file, &args.key) {
        (Some(file), Some(key)) => {
            let report = offline(file, key, &args.checkpoint)?;
            let answer = json!({
                "ok": report.is_whole(),
                "organization": report.organization,
                "chains": report.chains,
            });
            (answer, |answer| chains(answer) + &vouched(answer))
        }
        _ => (Client::new(args.server)?.get("audit:verify").await?.body, chains),
    };
    print(args.output.output, &answer, shown)?;
    Ok(match is_whole(&answer) {
        true => Verdict::Good,
        false => Verdict::Bad,
    })
}

fn offline(file: &Path, key: &Path, checkpoints: &[PathBuf]) -> anyhow::Result<Report> {
    let pem = fs::read_to_string(key).with_context(|| format!("read the keys in {}", key.display()))?;
    let keys = PublicKeys::from_pem(&pem).with_context(|| format!("read the keys in {}", key.display()))?;
    let mut believed = Vec::new();
    for path in checkpoints {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        for line in text.lines().filter(|line| !line.is_empty()) {
            let signed: Signed = serde_json::from_str(line)
                .with_context(|| format!("{} holds a line that is no checkpoint", path.display()))?;
            believed.push(signed);
        }
    }
    let mut export = Export::new(keys, &believed)?;
    let opened = File::open(file).with_context(|| format!("open {}", file.display()))?;
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, opened);
    let mut line = Vec::new();
    while reader
        .read_until(b'\n', &mut line)
        .with_context(|| format!("read {}", file.display()))?
        > 0
    {
        export.line(&line)?;
        line.clear();
    }
    Ok(export.finish()?)
}

/// One line per chain, and whether all are whole at the end.
fn chains(answer: &Value) -> String {
    let mut shown = String::new();
    for chain in items(&answer["chains"]) {
        let name = text(&chain["chain"]);
        let records = text(&chain["records"]);
        shown.push_str(&match broken(chain) {
            Some(broken) => format!(
                "{name}: BROKEN at record {}: {}\n",
                text(&broken["sequence"]),
                text(&broken["reason"])
            ),
            None => format!("{name}: {records} records, whole\n"),
        });
    }
    shown.push_str(if is_whole(answer) {
        "the audit log is whole\n"
    } else {
        "the audit log was changed: compare it with a backup\n"
    });
    shown
}

/// How far signatures reach: what lies behind could still have been made anew.
fn vouched(answer: &Value) -> String {
    let chains = items(&answer["chains"]).iter();
    let told = chains.map(|chain| format!("{} up to {}", text(&chain["chain"]), text(&chain["vouched"])));
    let told: Vec<String> = told.collect();
    format!("checkpoints vouch for {}\n", told.join(", "))
}

fn is_whole(answer: &Value) -> bool {
    answer["ok"] == true
}

fn broken(chain: &Value) -> Option<&Value> {
    chain.get("broken").filter(|broken| !broken.is_null())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_chain_is_told_with_its_place() {
        let whole =
            json!({"ok": true, "chains": [{"chain": "writes", "records": 3, "vouched": 2, "broken": null}]});
        assert_eq!(
            chains(&whole),
            "writes: 3 records, whole\nthe audit log is whole\n"
        );
        assert_eq!(vouched(&whole), "checkpoints vouch for writes up to 2\n");
        let broken = json!({"ok": false, "chains": [
            {"chain": "denials", "records": 3, "broken": {"sequence": 2, "reason": "its hash does not match"}}]});
        assert_eq!(
            chains(&broken),
            "denials: BROKEN at record 2: its hash does not match\n\
             the audit log was changed: compare it with a backup\n"
        );
    }
}
