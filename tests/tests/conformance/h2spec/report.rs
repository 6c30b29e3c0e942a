//! What h2spec reports, in the XML of JUnit as it writes it: each case on a line of its own, with what went wrong inside of it.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

/// Title and outcome of each case, by its number.
pub(super) type Outcomes = BTreeMap<String, (String, Outcome)>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Passed,
    /// What was expected, and what came.
    Failed(String),
    /// Whoever is examined has no limit that could be exceeded, or the like.
    Skipped,
}

/// A case is numbered within its section.
pub(super) fn outcomes(report: &str) -> Result<Outcomes> {
    let mut outcomes = Outcomes::new();
    let mut counts = BTreeMap::<String, usize>::new();
    for element in report.split("<testcase ").skip(1) {
        let (attributes, content) = element.split_once('>').context("a case does not begin")?;
        let (content, _) = content.split_once("</testcase>").context("a case does not end")?;
        let section = attribute(attributes, "package")?;
        let title = attribute(attributes, "classname")?;
        let count = counts.entry(section.clone()).or_default();
        *count += 1;
        let found = outcomes.insert(format!("{section}/{count}"), (title, outcome(content)?));
        ensure!(found.is_none(), "{section} is reported twice");
    }
    Ok(outcomes)
}

pub(super) fn summary(outcomes: &Outcomes) -> String {
    let count =
        |wanted: fn(&Outcome) -> bool| outcomes.values().filter(|(_, outcome)| wanted(outcome)).count();
    format!(
        "{} cases, {} passed, {} failed, {} skipped",
        outcomes.len(),
        count(|outcome| *outcome == Outcome::Passed),
        count(|outcome| matches!(outcome, Outcome::Failed(_))),
        count(|outcome| *outcome == Outcome::Skipped)
    )
}

fn outcome(content: &str) -> Result<Outcome> {
    let within = |name: &str| {
        let (_, rest) = content.split_once(&format!("<{name}>"))?;
        rest.split_once(&format!("</{name}>")).map(|(text, _)| text)
    };
    if content.trim().is_empty() {
        return Ok(Outcome::Passed);
    }
    if within("skipped").is_some() {
        return Ok(Outcome::Skipped);
    }
    let why = within("failure").or_else(|| within("error"));
    let why = why.with_context(|| format!("a case ends with {content:?}"))?;
    Ok(Outcome::Failed(
        why.trim().split('\n').collect::<Vec<_>>().join("; "),
    ))
}

fn attribute(attributes: &str, name: &str) -> Result<String> {
    let (_, rest) = attributes
        .split_once(&format!("{name}=\""))
        .with_context(|| format!("a case has no {name}"))?;
    let (value, _) = rest
        .split_once('"')
        .with_context(|| format!("the {name} of a case does not end"))?;
    Ok(["&#34;\"", "&#39;'", "&lt;<", "&gt;>", "&amp;&"]
        .iter()
        .filter_map(|pair| pair.split_once(';'))
        .fold(value.to_owned(), |text, (escape, plain)| {
            text.replace(&format!("{escape};"), plain)
        }))
}

#[test]
fn reports_are_read() {
    const REPORT: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<testsuites>
  <testsuite name="6.9. WINDOW_UPDATE" package="http2/6.9" id="6.9" tests="3" skipped="1" failures="0" errors="1">
    <testcase package="http2/6.9" classname="Sends &#34;one&#34; &amp; more" time="0.0001"></testcase>
    <testcase package="http2/6.9" classname="two" time="2.0">
      <error>GOAWAY Frame (Error Code: PROTOCOL_ERROR)
Connection closed
Timeout</error>
    </testcase>
    <testcase package="http2/6.9" classname="three" time="0.0">
      <skipped></skipped>
    </testcase>
  </testsuite>
  <testsuite name="6.9.1." package="http2/6.9.1" id="6.9.1" tests="1" skipped="0" failures="0" errors="0">
    <testcase package="http2/6.9.1" classname="one" time="0.0001"></testcase>
  </testsuite>
</testsuites>"#;
    let read = outcomes(REPORT).unwrap();
    let failed = "GOAWAY Frame (Error Code: PROTOCOL_ERROR); Connection closed; Timeout";
    let expected = [
        ("http2/6.9/1", "Sends \"one\" & more", Outcome::Passed),
        ("http2/6.9/2", "two", Outcome::Failed(failed.to_owned())),
        ("http2/6.9/3", "three", Outcome::Skipped),
        ("http2/6.9.1/1", "one", Outcome::Passed),
    ];
    assert_eq!(
        read,
        expected
            .map(|(case, title, outcome)| (case.to_owned(), (title.to_owned(), outcome)))
            .into()
    );
    assert_eq!(summary(&read), "4 cases, 2 passed, 1 failed, 1 skipped");
    assert!(outcomes("<testcase package=\"a\"").is_err());
    assert!(outcomes("<testcase package=\"a\" classname=\"b\"><lost/></testcase>").is_err());
}
