//! The guides of `docs/` do what they say. Each `console` block of every page is run, page by page, on a management plane
//! of its own, which keeps its checkpoints and its break-glass credential in the folder that commands run in, and to which
//! [`reports`] were made:
//!
//! - `$ ` begins a command, `> ` continues it; all commands of a page share one shell.
//! - The lines after it must be in what it says, in their order; more may be around them. Runs of spaces count as one, and
//!   `…` stands for anything, also between two parts of a line.
//! - A command succeeds, unless the first line after it begins with `error:`.
//! - In a block `console open` a command goes on beside those of the blocks after it. What it shows is waited for; without a
//!   command, such a block shows what the one before says next. Who is asked to open a link and confirm a code does so.
//!
//! A command that is shown in another way is run all the same, or listed in [`ELSEWHERE`].
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use serde_json::json;
use tombolo_compiler::name::ClusterName;
use tombolo_compiler::report::ClusterReport;
use tombolo_management::delivery::Target;
use tombolo_tests::browser::Browser;
use tombolo_tests::console::{Console, Open, Said, Shell};
use tombolo_tests::within;

/// Servers, which no block starts: commands that pages show, by how they begin, and who runs them instead.
const ELSEWHERE: [(&str, &str); 5] = [
    (
        "tombolo management",
        "`Console` starts it here, `tests/src/mesh.rs` as a process",
    ),
    ("tombolo central", "`tests/src/mesh.rs`"),
    ("tombolo edge", "`tests/src/mesh.rs`"),
    ("tombolo proxy", "`tests/src/mesh.rs`"),
    ("tombolo <plane>", "it is any of these"),
];
/// Until what stays open says what it is to say: a login asks once in five seconds, and a checkpoint is signed after ten.
const OPEN_TIME_MAX: Duration = Duration::from_secs(60);

/// A command of a page, and what the page says that it says.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    /// Of the page, from 1.
    line: usize,
    typed: Typed,
    shown: Vec<String>,
}

#[derive(Debug, PartialEq, Eq)]
enum Typed {
    Run(String),
    Open(String),
    /// Nothing: it is what the open command says next.
    More,
}

/// An open command, and how far into what it says the page has come.
struct Followed {
    open: Open,
    read: usize,
    let_in: bool,
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
        let console = Console::start_with(|config, folder| {
            config.audit.targets = vec![Target::File(folder.join("checkpoints.jsonl"))];
            config.break_glass = Some(folder.join("break-glass"));
        })
        .await;
        let central = console.reporting(&reports()).await.unwrap();
        let mut shell = console.shell().unwrap();
        let mut followed = None;
        for step in &steps {
            if let Err(error) = take(step, &console, &mut shell, &mut followed).await {
                panic!("{}:{}: {error:#}", page.display(), step.line);
            }
        }
        drop((followed, central));
        console.stop().await;
    }
    assert!(
        pages >= 3,
        "only {pages} pages have console blocks: are they still found?"
    );
}

/// A dozen services in a namespace of one cluster, which counts where a page adds that cluster.
fn reports() -> BTreeMap<ClusterName, ClusterReport> {
    let service = json!({"ports": [{"name": "http", "port": 80}], "state": "up"});
    let services: BTreeMap<String, _> = (1..=12)
        .map(|number| (format!("stock/s{number}"), &service))
        .collect();
    serde_json::from_value(json!({"us-west": {"services": services}})).unwrap()
}

async fn take(
    step: &Step,
    console: &Console,
    shell: &mut Shell,
    followed: &mut Option<Followed>,
) -> Result<()> {
    match &step.typed {
        Typed::Run(command) => {
            let said = shell.run(command).await?;
            return compare(step, &said).map_err(|reason| {
                anyhow!("{reason}\n$ {command}\nexit code {:?}\n{}", said.code, said.text)
            });
        }
        Typed::Open(command) => {
            *followed = Some(Followed {
                open: shell.open(command).await?,
                read: 0,
                let_in: false,
            });
        }
        Typed::More => {}
    }
    let followed = followed.as_mut().context("no command is open")?;
    followed.wait(step, console).await
}

impl Followed {
    async fn wait(&mut self, step: &Step, console: &Console) -> Result<()> {
        within(OPEN_TIME_MAX, async || {
            let said = self.open.said()?;
            if let (Some((link, code)), false) = (asked(&said.text), self.let_in) {
                let password = fs::read_to_string(console.folder().join("new.txt"));
                let password = password.context("the page sets no password in new.txt")?;
                let mut browser = Browser::new();
                browser.let_in(link, code, "admin", password.trim()).await?;
                self.let_in = true;
            }
            let text = single_spaced(&said.text);
            let rest = text.get(self.read..).unwrap_or_default();
            let read = find(&step.shown, rest).map_err(|reason| anyhow!("{reason}\n{}", said.text))?;
            self.read += read;
            Ok(())
        })
        .await
    }
}

/// The link and the code of a login.
fn asked(text: &str) -> Option<(&str, &str)> {
    let (_, rest) = text.split_once("Open ")?;
    let (link, rest) = rest.split_once('\n')?;
    let (code, _) = rest.strip_prefix("and confirm the code ")?.split_once('\n')?;
    Some((link, code))
}

/// Also what is shown within a sentence, or in a block that is no console's, is run: by a step of some page whose words
/// include its own, without what stands for something.
#[test]
fn every_command_that_a_guide_shows_is_run() {
    let pages: Vec<(PathBuf, String)> = pages_below(&docs())
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            (path, text)
        })
        .collect();
    let steps = pages.iter().flat_map(|(_, text)| steps(text));
    let run: Vec<Vec<String>> = steps.flat_map(|step| commands(&step)).collect();
    let mut missing = Vec::new();
    for (path, text) in &pages {
        for shown in shown(text) {
            let is_elsewhere = ELSEWHERE.iter().any(|(begin, _)| shown.starts_with(begin));
            if !is_elsewhere && !run.iter().any(|run| includes(run, &shown)) {
                missing.push(format!("{}: {shown}", path.display()));
            }
        }
    }
    assert!(
        missing.is_empty(),
        "no console block runs these; add one, or say in ELSEWHERE who does: {missing:#?}"
    );
}

/// The commands outside of console blocks: lines that begin with one, and spans of code that do.
fn shown(page: &str) -> Vec<String> {
    let (mut found, mut prose) = (Vec::new(), String::new());
    let mut block = None;
    for line in page.lines() {
        if let Some(info) = line.trim_start().strip_prefix("```") {
            block = match block {
                None => Some(info),
                Some(_) => None,
            };
        } else if let Some("console" | "console open") = block {
        } else if block.is_some() || line.starts_with("    ") {
            let line = line.trim_start().trim_start_matches("$ ");
            found.extend(line.starts_with("tombolo ").then(|| line.to_owned()));
        } else {
            prose.push_str(line);
            prose.push('\n');
        }
    }
    let spans = prose.split('`').skip(1).step_by(2).map(single_spaced);
    found.extend(spans.filter(|span| span.starts_with("tombolo ")));
    found
}

/// The words of each call of `tombolo` in a step.
fn commands(step: &Step) -> Vec<Vec<String>> {
    let (Typed::Run(command) | Typed::Open(command)) = &step.typed else {
        return Vec::new();
    };
    let calls = command.lines().flat_map(|line| line.split("tombolo ").skip(1));
    calls
        .map(|call| call.split_whitespace().map(str::to_owned).collect())
        .collect()
}

/// Whether the call has the subcommands and the flags of what is shown; everything else of that stands for something.
fn includes(call: &[String], shown: &str) -> bool {
    let is_word = |word: &&str| {
        let mut letters = word.chars();
        letters.next().is_some_and(|first| first.is_ascii_lowercase())
            && letters.all(|letter| letter.is_ascii_lowercase() || letter == '-')
    };
    let words = || shown.split_whitespace().skip(1);
    let subcommands: Vec<&str> = words().take_while(is_word).collect();
    let mut flags = words().filter(|word| word.starts_with('-'));
    call.len() >= subcommands.len()
        && subcommands.iter().zip(call).all(|(shown, run)| shown == run)
        && flags.all(|flag| call.iter().any(|run| run.trim_end_matches(')') == flag))
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
    let mut block = None;
    for (number, line) in (1..).zip(page.lines()) {
        let step = |line: usize, typed: Typed| Step {
            line,
            typed,
            shown: Vec::new(),
        };
        if let Some(info) = line.strip_prefix("```") {
            block = match block {
                None => Some(info),
                Some(_) => None,
            };
            if block == Some("console open") {
                steps.push(step(number, Typed::More));
            }
            continue;
        }
        let typed: fn(String) -> Typed = match block {
            Some("console") => Typed::Run,
            Some("console open") => Typed::Open,
            _ => continue,
        };
        if let Some(command) = line.strip_prefix("$ ") {
            steps.pop_if(|last| last.typed == Typed::More && last.shown.is_empty());
            steps.push(step(number, typed(command.to_owned())));
        } else if let Some(step) = steps.last_mut() {
            let continued = line.strip_prefix("> ").or((line == ">").then_some(""));
            match (continued.filter(|_| step.shown.is_empty()), &mut step.typed) {
                (Some(more), Typed::Run(command) | Typed::Open(command)) => {
                    *command = format!("{command}\n{more}");
                }
                _ => step.shown.push(line.to_owned()),
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
    find(&step.shown, &single_spaced(&said.text)).map(drop)
}

/// Where what is shown ends in the text.
fn find(shown: &[String], text: &str) -> Result<usize, String> {
    let mut end = 0;
    for line in shown {
        for part in line.split('…').map(single_spaced).filter(|part| !part.is_empty()) {
            let Some(at) = text[end..].find(&part) else {
                return Err(format!("it does not say {part:?}, or not in this place"));
            };
            end += at + part.len();
        }
    }
    Ok(end)
}

fn single_spaced(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn a_page_is_read_as_its_header_says() {
    let page = "text\n```console\n$ one <<EOF\n> a\n>\n> EOF\nshown\n$ two\n```\n$ not this\n```sh\n$ nor this\n```\n\
                ```console\n$ three\nerror: …\n```\n```console open\n$ four\nsaid\n```\n\
                ```console open\nsaid later\n```\n";
    let step = |line, typed, shown: &[&str]| Step {
        line,
        typed,
        shown: shown.iter().map(|line| (*line).to_owned()).collect(),
    };
    let run = |command: &str| Typed::Run(command.to_owned());
    assert_eq!(
        steps(page),
        [
            step(3, run("one <<EOF\na\n\nEOF"), &["shown"]),
            step(8, run("two"), &[]),
            step(15, run("three"), &["error: …"]),
            step(19, Typed::Open("four".to_owned()), &["said"]),
            step(22, Typed::More, &["said later"]),
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
            typed: Typed::Run(String::new()),
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

#[test]
fn what_a_page_shows_is_found_wherever_it_stands() {
    let page = "Say `tombolo apply\n-f FILE` or `tombolo`.\n\n    tombolo login --server URL\n\n```sh\ncd web\n\
                tombolo get NAME\n```\n```console\n$ tombolo status\n```\n";
    assert_eq!(
        shown(page),
        [
            "tombolo login --server URL",
            "tombolo get NAME",
            "tombolo apply -f FILE"
        ]
    );
    let run = |command: &str| Step {
        line: 1,
        typed: Typed::Run(command.to_owned()),
        shown: Vec::new(),
    };
    let run = commands(&run(
        "ID=$(tombolo plan submit -f x.yaml -o json)\nTOMBOLO_TOKEN=x tombolo plan list",
    ));
    for (shown, is_run) in [
        ("tombolo plan submit -f FILE", true),
        ("tombolo plan list", true),
        ("tombolo plan approve \"$ID\"", false),
        ("tombolo plan list --all", false),
        ("tombolo plan submit -o json", true),
        ("tombolo sync DIR", false),
    ] {
        let found = run.iter().any(|run| includes(run, shown));
        assert_eq!(found, is_run, "{shown}");
    }
}
