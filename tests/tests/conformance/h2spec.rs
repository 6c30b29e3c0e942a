//! What h2spec makes of Envoy and of our proxy as servers of HTTP/2, in plain text and with prior knowledge: every case that fails is
//! known, with its reason.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use http::Version;
use tokio::process::Command;
use tokio::time::timeout;
use tombolo_tests::ads::{Ads, contract};
use tombolo_tests::client::Connection;
use tombolo_tests::proxy::{Node, Proxy, Role, Software};
use tombolo_tests::upstream::Applications;
use tombolo_tests::{eventually, tombolo_binary};

use crate::DEADLINE;
use crate::case::{GET, Via};
use known::KNOWN;

mod known;
mod report;

use report::{Outcome, Outcomes};

const PROGRAM: &str = "TOMBOLO_H2SPEC";
const APPLICATION: &str = "127.0.29.72:8080";
const PORT: u16 = 8091;
/// What h2spec waits for what does not come, in seconds: it is waited in full by every case that fails.
const PATIENCE: &str = "2";
/// Parts of about the same length, which are run at once: an Envoy takes a second for each connection that it closes, a minute
/// for all of them.
const PARTS: [&[&str]; 4] = [
    &["generic", "hpack", "http2/3", "http2/4"],
    &["http2/5"],
    &["http2/6", "http2/7"],
    &["http2/8"],
];
/// For one part.
const RUN_TIMEOUT: Duration = Duration::from_secs(60);
/// Of the h2spec that is pinned, those of `--strict` included: none is left out unseen.
const CASES: usize = 146;

/// A case that somebody fails.
pub(crate) struct Known {
    /// As h2spec numbers it; `h2spec --strict CASE` runs it alone.
    case: &'static str,
    by: &'static [Software],
    reason: &'static str,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h2spec_finds_what_is_known() {
    let program = match program() {
        Ok(program) => program,
        Err(missing) if env::var_os("CI").is_some_and(|value| value == "true") => panic!("{missing:#}"),
        Err(missing) => {
            eprintln!("NOT RUN: {missing:#}");
            return;
        }
    };
    let application = Applications::default()
        .start("application", APPLICATION.parse().unwrap())
        .await
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let run = async |software: Software| {
        let outcomes = examine(software, &program, application.address(), dir.path()).await;
        outcomes.with_context(|| software.name()).unwrap()
    };
    let (envoy, ours) = tokio::join!(run(Software::Envoy), run(Software::Tombolo));
    let mut surprises = Vec::new();
    for (software, outcomes) in [(Software::Envoy, envoy), (Software::Tombolo, ours)] {
        println!("{}: {}", software.name(), report::summary(&outcomes));
        surprises.extend(surprises_of(software, &outcomes, KNOWN));
    }
    assert!(surprises.is_empty(), "{}", surprises.join("\n"));
}

/// The binary; the error says how to get it.
fn program() -> Result<PathBuf> {
    let path = env::var_os(PROGRAM).map(PathBuf::from).with_context(|| {
        format!(
            "{PROGRAM} is not set, or h2spec could not be built: run through `cargo xtask test`, and see what \
             `cargo xtask assets` says"
        )
    })?;
    ensure!(path.is_file(), "{PROGRAM}={} is not a file", path.display());
    Ok(path)
}

/// What h2spec says of a proxy in front of `upstream`.
async fn examine(software: Software, program: &Path, upstream: SocketAddr, dir: &Path) -> Result<Outcomes> {
    let listener = SocketAddr::new(Via::Gateway.address(software).ip(), PORT);
    let plane = Ads::start(contract::one_service(
        listener,
        &[upstream],
        contract::Retries::Other,
    ))
    .await;
    let node = Node {
        id: format!("h2spec-{}", software.name()),
        cluster: "here".to_owned(),
        namespace: "mesh".to_owned(),
        role: Role::Gateway {
            workload: software.name().to_owned(),
        },
    };
    let proxy = Proxy::start(software, &node, plane.address(), &tombolo_binary(), dir).await?;
    eventually(DEADLINE, || async {
        let mut connection = Connection::open(listener, Version::HTTP_2).await?;
        let request = GET.request("shop.test", &[], bytes::Bytes::new())?;
        connection.send(request).await?.expect(http::StatusCode::OK)
    })
    .await;
    let parts = PARTS.iter().enumerate().map(|(number, sections)| {
        let report = dir.join(format!("{}-{number}.xml", software.name()));
        examine_in(program, listener, sections, report)
    });
    let parts = try_join_all(parts).await;
    let parts = parts.with_context(|| format!("the proxy's log ends with:\n{}", proxy.log_tail()))?;
    let mut outcomes: Outcomes = parts.into_iter().flatten().collect();
    for (number, case) in unexpected(software, &outcomes, KNOWN).into_iter().enumerate() {
        // A machine that stalls is late with everything; who fails fails alone, too.
        let report = dir.join(format!("{}-again-{number}.xml", software.name()));
        let again = examine_in(program, listener, &[&case], report).await?;
        if let Some(outcome) = passed(again) {
            outcomes.insert(case, outcome);
        }
    }
    ensure!(
        outcomes.len() == CASES,
        "h2spec has run {} cases, not {CASES}",
        outcomes.len()
    );
    Ok(outcomes)
}

async fn examine_in(
    program: &Path,
    listener: SocketAddr,
    sections: &[&str],
    report: PathBuf,
) -> Result<Outcomes> {
    let mut command = Command::new(program);
    command
        .args(["--strict", "--timeout", PATIENCE])
        .args(["--host", &listener.ip().to_string()])
        .args(["--port", &listener.port().to_string()])
        .arg("--junit-report")
        .arg(&report)
        .args(sections)
        .kill_on_drop(true);
    let output = timeout(RUN_TIMEOUT, command.output())
        .await
        .with_context(|| format!("h2spec does not end within {RUN_TIMEOUT:?}"))?
        .context("cannot run h2spec")?;
    // Whether all cases have passed is what its status says; without a report it has not come to its end.
    let text = fs::read_to_string(&report).with_context(|| {
        let said = String::from_utf8_lossy(&output.stdout);
        format!(
            "h2spec has written no report, but ends with {:?}",
            said.lines().last()
        )
    })?;
    report::outcomes(&text)
}

/// The cases that fail and are not known to.
fn unexpected(software: Software, outcomes: &Outcomes, known: &[Known]) -> Vec<String> {
    let is_known = |case: &str| {
        known
            .iter()
            .any(|known| known.case == case && known.by.contains(&software))
    };
    let failed = outcomes
        .iter()
        .filter(|(_, (_, outcome))| matches!(outcome, Outcome::Failed(_)));
    failed
        .map(|(case, _)| case.clone())
        .filter(|case| !is_known(case))
        .collect()
}

/// The one case of a run that has passed, if that is what it holds.
fn passed(outcomes: Outcomes) -> Option<(String, Outcome)> {
    let ran: Vec<_> = outcomes
        .into_values()
        .filter(|(_, outcome)| *outcome != Outcome::Skipped)
        .collect();
    <[_; 1]>::try_from(ran)
        .ok()
        .map(|[one]| one)
        .filter(|(_, outcome)| *outcome == Outcome::Passed)
}

/// What fails and is not known to, and what is known to fail and does not.
fn surprises_of(software: Software, outcomes: &Outcomes, known: &[Known]) -> Vec<String> {
    let known: BTreeMap<&str, &Known> = known
        .iter()
        .filter(|known| known.by.contains(&software))
        .map(|known| (known.case, known))
        .collect();
    let name = software.name();
    let mut surprises = Vec::new();
    for (case, (title, outcome)) in outcomes {
        match (outcome, known.get(case.as_str())) {
            (Outcome::Failed(why), None) => surprises.push(format!("{name} fails {case}, {title}: {why}")),
            (Outcome::Passed | Outcome::Skipped, Some(known)) => surprises.push(format!(
                "{name} does not fail {case}, {title}, although {}: take it off the list",
                known.reason
            )),
            _ => {}
        }
    }
    let all: BTreeSet<&str> = outcomes.keys().map(String::as_str).collect();
    let unknown = known.keys().filter(|case| !all.contains(*case));
    surprises.extend(unknown.map(|case| format!("h2spec has no case {case}")));
    surprises
}

#[test]
fn a_list_that_is_not_true_is_told() {
    let known = |case, by| Known {
        case,
        by,
        reason: "it is so",
    };
    let outcomes: Outcomes = [
        ("http2/1/1", Outcome::Passed),
        ("http2/1/2", Outcome::Failed("late".to_owned())),
        ("http2/1/3", Outcome::Skipped),
    ]
    .map(|(case, outcome)| (case.to_owned(), ("a title".to_owned(), outcome)))
    .into();
    let ours = |list: &[Known]| surprises_of(Software::Tombolo, &outcomes, list);
    let late = "tombolo fails http2/1/2, a title: late";
    assert_eq!(ours(&[]), [late]);
    assert_eq!(ours(&[known("http2/1/2", &[Software::Envoy])]), [late]);
    assert!(ours(&[known("http2/1/2", &Software::BOTH)]).is_empty());
    for passed in ["http2/1/1", "http2/1/3"] {
        let told = ours(&[
            known("http2/1/2", &Software::BOTH),
            known(passed, &Software::BOTH),
        ]);
        assert!(
            told.len() == 1 && told[0].contains(passed) && told[0].contains("it is so"),
            "{told:?}"
        );
    }
    let told = ours(&[
        known("http2/1/2", &Software::BOTH),
        known("http2/9/9", &Software::BOTH),
    ]);
    assert_eq!(told, ["h2spec has no case http2/9/9"]);

    let again = |list: &[Known]| unexpected(Software::Tombolo, &outcomes, list);
    assert_eq!(again(&[known("http2/1/2", &[Software::Envoy])]), ["http2/1/2"]);
    assert!(again(&[known("http2/1/2", &Software::BOTH)]).is_empty());
}

#[test]
fn a_case_that_is_run_again_has_passed_only_if_it_ran() {
    let run = |cases: &[Outcome]| {
        let titled = cases
            .iter()
            .map(|outcome| ("a title".to_owned(), outcome.clone()));
        let numbered = titled.enumerate();
        passed(
            numbered
                .map(|(number, case)| (number.to_string(), case))
                .collect(),
        )
        .is_some()
    };
    let late = || Outcome::Failed("late".to_owned());
    assert!(run(&[Outcome::Passed]));
    assert!(run(&[Outcome::Skipped, Outcome::Passed]));
    assert!(!run(&[late()]));
    assert!(!run(&[Outcome::Passed, late()]));
    assert!(!run(&[Outcome::Skipped]));
    assert!(!run(&[]));
}
