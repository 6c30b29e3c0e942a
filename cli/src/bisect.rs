//! `tombolo bisect`: the revision since which a request comes to what it comes to.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use clap::Args;
use serde_json::{Value, json};
use tombolo_compiler::explain::Viewpoint;

use crate::client::{Client, ServerArgs};
use crate::difference;
use crate::explain::{ask, outcome, question};
use crate::output::{OutputArgs, items, print, text};
use crate::problem::Problem;

/// Finds the revision at which the outcome of a request changed, and says who wrote it, when, and what.
///
/// Explains the request at revision after revision, each with what clusters reported then. Without --good, it goes back from
/// the bad revision in steps that double until the outcome is another one.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  tombolo bisect --from us-east/shop/frontend 'GET http://reviews.shop/books/1'
  tombolo bisect --from us-east/gateway/web 'https://shop.example.com/' --good 12 --bad 40 -o json")]
pub(crate) struct BisectArgs {
    /// CLUSTER/NAMESPACE/SERVICE for an application beside its sidecar, or CLUSTER/gateway/NAME for outside the mesh.
    #[arg(long, env = "TOMBOLO_FROM")]
    from: Viewpoint,
    /// `METHOD URL`, or a URL for GET.
    request: String,
    /// `NAME: VALUE`; can be given many times.
    #[arg(short = 'H', long = "header", env = "TOMBOLO_HEADER", value_name = "HEADER")]
    headers: Vec<String>,
    /// A revision before the change.
    #[arg(long, env = "TOMBOLO_GOOD", value_name = "REVISION")]
    good: Option<u64>,
    /// A revision after the change; the latest when not given.
    #[arg(long, env = "TOMBOLO_BAD", value_name = "REVISION")]
    bad: Option<u64>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn run(args: BisectArgs) -> anyhow::Result<()> {
    let client = Client::new(args.server)?;
    let mut past = Past {
        client,
        question: question(&args.from, &args.request, &args.headers)?,
        answers: BTreeMap::new(),
    };
    let bad = match args.bad {
        Some(bad) => bad,
        None => past.latest().await?,
    };
    let good = match args.good {
        Some(good) if good >= bad => bail!("--good {good} is not before --bad {bad}"),
        Some(good) => good,
        None => past.another_before(bad).await?,
    };
    if past.same(good, bad).await? {
        bail!(
            "at revision {good} the outcome is that of revision {bad}, {}give another --good or --bad",
            outcome(&past.at(bad).await?["outcome"], "")
        );
    }
    let (mut before, mut after) = (good, bad);
    while let Some(between) = middle(before, after) {
        match past.same(between, bad).await? {
            true => after = between,
            false => before = between,
        }
    }
    let found = found(&past.at(before).await?, &past.at(after).await?);
    print(args.output.output, &found, describe)
}

/// What the request has come to, at the revisions that were asked about.
struct Past {
    client: Client,
    question: Value,
    answers: BTreeMap<u64, Value>,
}

impl Past {
    async fn latest(&self) -> anyhow::Result<u64> {
        let answer = ask(&self.client, self.question.clone(), None).await?;
        let revision = answer["revision"].as_u64();
        revision.context("the server's answer holds no revision: is it of the same version?")
    }

    async fn at(&mut self, revision: u64) -> anyhow::Result<Value> {
        if let Some(answer) = self.answers.get(&revision) {
            return Ok(answer.clone());
        }
        let answer = ask(&self.client, self.question.clone(), Some(revision)).await?;
        eprintln!(
            "revision {revision}: {}",
            outcome(&answer["outcome"], "").trim_end()
        );
        self.answers.insert(revision, answer.clone());
        Ok(answer)
    }

    async fn same(&mut self, one: u64, other: u64) -> anyhow::Result<bool> {
        Ok(essence(&self.at(one).await?) == essence(&self.at(other).await?))
    }

    /// A revision before `bad` with another outcome.
    async fn another_before(&mut self, bad: u64) -> anyhow::Result<u64> {
        let mut step = 1;
        loop {
            let earlier = bad.saturating_sub(step).max(1);
            let same = match self.same(earlier, bad).await {
                Err(error) if is_gone(&error) => bail!(
                    "revision {earlier} is from before there was a history, and since {} the outcome is the same; give --good",
                    bad.saturating_sub(step / 2)
                ),
                same => same?,
            };
            if !same {
                return Ok(earlier);
            }
            if earlier == 1 {
                bail!(
                    "the outcome has been the same since revision 1, as far as it was looked at; give --good"
                );
            }
            step *= 2;
        }
    }
}

/// Half way, while something lies between the two.
fn middle(before: u64, after: u64) -> Option<u64> {
    let middle = before + (after - before) / 2;
    (middle > before).then_some(middle)
}

fn is_gone(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<Problem>()
        .is_some_and(|problem| problem.status == 410)
}

/// Of an answer, what is compared: where the request goes, and not which line of which resource says so.
fn essence(answer: &Value) -> Value {
    let mut outcome = answer["outcome"].clone();
    for decided in outcome
        .as_object_mut()
        .into_iter()
        .flat_map(|outcome| outcome.values_mut())
    {
        if let Some(decided) = decided.as_object_mut() {
            decided.remove("origin");
        }
    }
    outcome
}

/// Told of the first revision with the new outcome, from the explanations at it and at the one before.
fn found(before: &Value, after: &Value) -> Value {
    let side = |answer: &Value| json!({"revision": answer["revision"], "outcome": answer["outcome"]});
    let written = &after["written"];
    let reported = after["reports"].as_object().into_iter().flatten();
    let reported: Vec<&String> = reported
        .filter(|(cluster, report)| {
            let then = &before["reports"][cluster.as_str()]["hash"];
            !then.is_null() && *then != report["hash"]
        })
        .map(|(cluster, _)| cluster)
        .collect();
    json!({
        "revision": after["revision"],
        "actor": written["actor"],
        "time": written["time"],
        "changes": items(&written["changes"]),
        "changesHidden": written["changesHidden"],
        "reported": reported,
        "before": side(before),
        "after": side(after),
    })
}

fn describe(found: &Value) -> String {
    let revision = &found["revision"];
    let mut described = match found["actor"].as_str() {
        Some(actor) => format!("revision {revision}, by {actor} at {}\n", text(&found["time"])),
        None => format!("revision {revision}, which wrote nothing that you may read\n"),
    };
    described.extend(items(&found["changes"]).iter().map(difference::describe));
    if let Some(hidden @ 1..) = found["changesHidden"].as_u64() {
        described.push_str(&format!("and {hidden} more\n"));
    }
    let reported: Vec<String> = items(&found["reported"]).iter().map(text).collect();
    if !reported.is_empty() {
        described.push_str(&format!(
            "what these clusters reported changed as well, which may be the reason: {}\n",
            reported.join(", ")
        ));
    }
    for side in ["before", "after"] {
        let told = &found[side];
        described.push_str(&format!("\nat revision {}:\n", told["revision"]));
        described.push_str(&outcome(&told["outcome"], ""));
    }
    described
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_ends_where_nothing_lies_between() {
        let search = |changed: u64| {
            let (mut before, mut after) = (1, 100);
            while let Some(between) = middle(before, after) {
                match between >= changed {
                    true => after = between,
                    false => before = between,
                }
            }
            (before, after)
        };
        for changed in 2..=100 {
            assert_eq!(search(changed), (changed - 1, changed));
        }
    }

    #[test]
    fn the_line_that_decides_is_no_part_of_an_outcome() {
        let refused = |status: u16, field: &str| json!({"outcome": {"refuse": {"status": status, "reason": "x", "origin": {"field": field}}}});
        assert_eq!(essence(&refused(404, "a")), essence(&refused(404, "b")));
        assert_ne!(essence(&refused(404, "a")), essence(&refused(503, "a")));
    }

    #[test]
    fn what_was_found_is_told_with_who_did_it_and_what_it_came_to() {
        let refused = |status: u16| json!({"refuse": {"status": status, "reason": "x"}});
        let before = json!({"revision": 6, "outcome": refused(404), "reports": {"us-east": {"hash": "1"}, "b": {"hash": "2"}}});
        let after = json!({"revision": 7, "outcome": refused(503),
            "reports": {"us-east": {"hash": "3"}, "b": {"hash": "2"}, "new": {"hash": "4"}},
            "written": {"actor": "organizations/acme/users/ann", "time": "2026-11-21T10:00:00Z", "changesHidden": 2,
                "changes": [{"action": "create", "name": "organizations/acme/tenants/pay", "after": {}}]}});
        let found = found(&before, &after);
        assert_eq!(
            describe(&found),
            "revision 7, by organizations/acme/users/ann at 2026-11-21T10:00:00Z\n\
             + organizations/acme/tenants/pay\n\
             and 2 more\n\
             what these clusters reported changed as well, which may be the reason: us-east\n\n\
             at revision 6:\nrefused with 404: x\n\n\
             at revision 7:\nrefused with 503: x\n"
        );
    }
}
