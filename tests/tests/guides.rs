//! The guides of `docs/` do what they say. Each `console` block of every page is run, page by page, on a management plane
//! of its own:
//!
//! - `$ ` begins a command, `> ` continues it; all commands of a page share one shell.
//! - The lines after it must be in what it says, in their order; more may be around them. Runs of spaces count as one, and
//!   `…` stands for anything, also between two parts of a line.
//! - A command succeeds, unless the first line after it begins with `error:`.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use tombolo_tests::console::{Console, Said};

/// A command of a page, and what the page says that it says.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    /// Of the page, from 1.
    line: usize,
    command: String,
    shown: Vec<String>,
}

#[tokio::test]
async fn every_command_of_every_guide_does_what_the_page_shows() {
    let mut pages = 0;
    for page in pages_below(&docs()) {
        let steps = steps(&fs::read_to_string(&page).unwrap());
        if steps.is_empty() {
            continue;
        }
        pages += 1;
        let console = Console::start().await;
        let commands: Vec<&str> = steps.iter().map(|step| step.command.as_str()).collect();
        let said = console.run(&commands).await.unwrap();
        for (step, said) in steps.iter().zip(&said) {
            if let Err(reason) = compare(step, said) {
                let place = format!("{}:{}", page.display(), step.line);
                panic!(
                    "{place}: {reason}\n$ {}\nexit code {:?}\n{}",
                    step.command, said.code, said.text
                );
            }
        }
        console.stop().await;
    }
    assert!(
        pages >= 3,
        "only {pages} pages have console blocks: are they still found?"
    );
}

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

fn pages_below(folder: &Path) -> Vec<PathBuf> {
    let mut pages = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            pages.extend(pages_below(&path));
        } else if path.extension().is_some_and(|extension| extension == "md") {
            pages.push(path);
        }
    }
    pages.sort();
    pages
}

fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut inside = false;
    for (number, line) in page.lines().enumerate() {
        if line.starts_with("```") {
            inside = !inside && line == "```console";
        } else if !inside {
        } else if let Some(command) = line.strip_prefix("$ ") {
            steps.push(Step {
                line: number + 1,
                command: command.to_owned(),
                shown: Vec::new(),
            });
        } else if let Some(step) = steps.last_mut() {
            let continued = line.strip_prefix("> ").or((line == ">").then_some(""));
            match continued.filter(|_| step.shown.is_empty()) {
                Some(more) => step.command = format!("{}\n{more}", step.command),
                None => step.shown.push(line.to_owned()),
            }
        }
    }
    steps
}

fn compare(step: &Step, said: &Said) -> Result<(), String> {
    let fails = step.shown.first().is_some_and(|line| line.starts_with("error:"));
    if (said.code == Some(0)) == fails || said.code.is_none() {
        return Err(format!("it should {}", if fails { "fail" } else { "succeed" }));
    }
    let text = single_spaced(&said.text);
    let mut rest = text.as_str();
    for line in &step.shown {
        for part in line.split('…').map(single_spaced).filter(|part| !part.is_empty()) {
            let Some(at) = rest.find(&part) else {
                return Err(format!("it does not say {part:?}, or not in this place"));
            };
            rest = &rest[at + part.len()..];
        }
    }
    Ok(())
}

fn single_spaced(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn a_page_is_read_as_its_header_says() {
    let page = "text\n```console\n$ one <<EOF\n> a\n>\n> EOF\nshown\n$ two\n```\n$ not this\n```sh\n$ nor this\n```\n\
                ```console\n$ three\nerror: …\n```\n";
    let step = |line, command: &str, shown: &[&str]| Step {
        line,
        command: command.to_owned(),
        shown: shown.iter().map(|line| (*line).to_owned()).collect(),
    };
    assert_eq!(
        steps(page),
        [
            step(3, "one <<EOF\na\n\nEOF", &["shown"]),
            step(8, "two", &[]),
            step(15, "three", &["error: …"]),
        ]
    );
}

#[test]
fn what_a_page_shows_must_be_said_in_its_order() {
    for (shown, code, text, reason) in [
        (&["a b", "c"][..], 0, "x a   b\nc", None),
        (&["a … c"][..], 0, "a b c", None),
        (&["c", "a"][..], 0, "a c", Some("it does not say \"a\"")),
        (&["a"][..], 1, "a", Some("it should succeed")),
        (&["error: …", "why"][..], 1, "error: 409\n why", None),
        (&["error: …"][..], 0, "error: no", Some("it should fail")),
    ] {
        let step = Step {
            line: 1,
            command: String::new(),
            shown: shown.iter().map(|line| (*line).to_owned()).collect(),
        };
        let said = Said {
            text: text.to_owned(),
            code: Some(code),
        };
        match (compare(&step, &said), reason) {
            (Ok(()), None) => {}
            (Err(found), Some(reason)) => assert!(found.starts_with(reason), "{found}"),
            (found, reason) => panic!("{shown:?}: {found:?} and not {reason:?}"),
        }
    }
}
