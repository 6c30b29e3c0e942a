//! What must hold of the source before it lands.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::{assets, cargo};

/// Makes the command whose exit code is the outcome.
type Check = fn() -> Result<Command>;

/// Runs every check, also after a failure, so that one run shows all there is to mend.
pub(crate) fn run() -> Result<()> {
    let checks: [(&str, Check); 4] = [
        ("fmt", || Ok(cargo_with(&["fmt", "--all", "--check"]))),
        ("deny", deny),
        ("clippy", || {
            Ok(cargo_with(&[
                "clippy",
                "--workspace",
                "--all-targets",
                "--",
                "-D",
                "warnings",
            ]))
        }),
        // With the whole workspace's features, so that `test` finds the same artefacts.
        ("walls", || {
            Ok(cargo_with(&["test", "--workspace", "--test", "walls"]))
        }),
    ];
    let mut failed = Vec::new();
    for (name, command) in checks {
        eprintln!("check {name}: running");
        let start = Instant::now();
        let ok = command()?
            .status()
            .with_context(|| format!("cannot run the check {name}"))?
            .success();
        let outcome = if ok { "ok" } else { "FAILED" };
        eprintln!(
            "check {name}: {outcome} in {:.1} s",
            start.elapsed().as_secs_f32()
        );
        if !ok {
            failed.push(name);
        }
    }
    if failed.is_empty() {
        eprintln!("check: all {} passed", checks.len());
        return Ok(());
    }
    bail!("check failed: {}", failed.join(", "))
}

fn cargo_with(args: &[&str]) -> Command {
    let mut command = cargo::command();
    command.args(args);
    command
}

/// Advisories are left out: their database is not in a package registry.
fn deny() -> Result<Command> {
    let mut command = Command::new(assets::cargo_deny()?);
    command
        .args(["check", "--hide-inclusion-graph", "bans", "licenses", "sources"])
        .current_dir(cargo::root());
    Ok(command)
}
