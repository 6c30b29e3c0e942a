//! Runs the tests and closes with one line that says how many passed.

use std::io::{BufRead, BufReader, Write, stdout};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::assets::Assets;
use crate::{cargo, web};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
    skipped: u64,
}

/// Runs `cargo test` over the workspace, or with the arguments given, and sums up its suites.
pub(crate) fn run(assets: &Assets, args: &[String]) -> Result<()> {
    let own: Vec<&str> = args
        .iter()
        .map(String::as_str)
        .take_while(|arg| *arg != "--")
        .collect();
    let selects = ["-p", "--package", "--workspace"]
        .iter()
        .any(|flag| own.contains(flag));
    let mut command = cargo::command();
    let mut tally = Tally::default();
    if !selects || own.contains(&"tombolo-tests") {
        // The tests of the whole start this binary as a user would, and serve the web admin.
        cargo::run(&["build", "--workspace", "--bin", "tombolo"])?;
        match web::require_node() {
            Ok(()) => {
                command.env(web::DIR_ENV, web::build()?);
                if let Err(error) = web::test() {
                    eprintln!("{error:#}");
                    tally.failed += 1;
                }
            }
            Err(missing) if web::in_ci() => return Err(missing.context("the web admin cannot be tested")),
            Err(missing) => eprintln!("the web admin is not tested: {missing:#}"),
        }
    }
    command.args(["test", "--no-fail-fast"]);
    if !selects {
        command.arg("--workspace");
    }
    let mut child = assets
        .apply(&mut command)
        .args(args)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run cargo test")?;

    let output = child.stdout.take().context("cargo test has no output")?;
    for line in BufReader::new(output).split(b'\n') {
        let line = line.context("cannot read the output of cargo test")?;
        let text = String::from_utf8_lossy(&line);
        writeln!(stdout(), "{text}").context("cannot write to standard output")?;
        tally.add(&text);
    }
    let status = child.wait().context("cannot wait for cargo test")?;
    if !status.success() {
        // A suite that aborts or does not compile prints no result.
        tally.failed = tally.failed.max(1);
    }
    println!("{}", tally.closing_line());
    if tally.failed > 0 {
        bail!("tests failed");
    }
    Ok(())
}

impl Tally {
    /// Adds a suite's `test result: ok. 3 passed; 0 failed; 1 ignored; ...`; other lines count nothing.
    fn add(&mut self, line: &str) {
        let Some((_, counts)) = line
            .strip_prefix("test result: ")
            .and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for count in counts.split("; ") {
            let Some((number, what)) = count.split_once(' ') else {
                continue;
            };
            let Ok(number) = number.parse::<u64>() else {
                continue;
            };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.skipped += number,
                _ => {}
            }
        }
    }

    fn closing_line(self) -> String {
        let Tally {
            passed,
            failed,
            skipped,
        } = self;
        match skipped {
            0 => format!("{passed} passed, {failed} failed"),
            _ => format!("{passed} passed, {failed} failed, {skipped} skipped"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_add_up() {
        let lines = [
            "running 4 tests",
            "test tests::a ... ok",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 5 filtered out; finished in 0.01s",
            "  test result: ok. 9 passed; quoted by a test",
        ];
        let mut tally = Tally::default();
        lines.iter().for_each(|line| tally.add(line));
        assert_eq!(
            tally,
            Tally {
                passed: 4,
                failed: 2,
                skipped: 1
            }
        );
        assert_eq!(tally.closing_line(), "4 passed, 2 failed, 1 skipped");
        assert_eq!(Tally::default().closing_line(), "0 passed, 0 failed");
    }
}
