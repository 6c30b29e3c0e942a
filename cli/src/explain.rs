//! `tombolo explain`: where a request goes from somewhere in the mesh, and why.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use clap::Args;
use hyper::Method;
use serde_json::{Value, json};
use tombolo_compiler::explain::Viewpoint;

use crate::client::{Client, Extras, ServerArgs, query};
use crate::output::{OutputArgs, items, print, table, text};

/// Says where a request goes from somewhere in the mesh, which rule decided each step, and what would have to change
/// when nothing takes it.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  tombolo explain --from us-east/shop/frontend 'GET http://reviews.shop/books/1' -H 'x-variant: two'
  tombolo explain --from us-east/gateway/web 'https://shop.example.com/' -o json
  tombolo explain --from us-east/gateway/web 'https://shop.example.com/' --at 17")]
pub(crate) struct ExplainArgs {
    /// CLUSTER/NAMESPACE/SERVICE for an application beside its sidecar, or CLUSTER/gateway/NAME for outside the mesh.
    #[arg(long, env = "TOMBOLO_FROM")]
    from: Viewpoint,
    /// `METHOD URL`, or a URL for GET.
    request: String,
    /// `NAME: VALUE`; can be given many times.
    #[arg(short = 'H', long = "header", env = "TOMBOLO_HEADER", value_name = "HEADER")]
    headers: Vec<String>,
    /// At this revision, with what clusters reported then.
    #[arg(long, env = "TOMBOLO_AT", value_name = "REVISION")]
    at: Option<u64>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn run(args: ExplainArgs) -> anyhow::Result<()> {
    let client = Client::new(args.server)?;
    let question = question(&args.from, &args.request, &args.headers)?;
    let answer = ask(&client, question, args.at).await?;
    print(args.output.output, &answer, describe)
}

/// What happens with a request, now or at a revision.
///
/// # Errors
/// As [`Client::send`].
pub(crate) async fn ask(client: &Client, question: Value, revision: Option<u64>) -> anyhow::Result<Value> {
    let extras = Extras {
        body: Some(question),
        ..Extras::default()
    };
    let path = query(
        "explain",
        &[("revision", revision.map(|revision| revision.to_string()))],
    );
    Ok(client.send(Method::POST, &path, extras).await?.body)
}

pub(crate) fn question(from: &Viewpoint, request: &str, headers: &[String]) -> anyhow::Result<Value> {
    let (method, url) = match request.trim().split_once(char::is_whitespace) {
        Some((method, url)) => (method, url.trim()),
        None => ("GET", request.trim()),
    };
    let mut fields = BTreeMap::new();
    for header in headers {
        let (name, value) = header
            .split_once(':')
            .with_context(|| format!("{header:?} is not a header; write 'NAME: VALUE'"))?;
        if fields
            .insert(name.trim().to_ascii_lowercase(), value.trim())
            .is_some()
        {
            bail!("header {name} is given twice; write its values as one, with commas between them");
        }
    }
    Ok(json!({"from": from, "request": {"method": method, "url": url, "headers": fields}}))
}

pub(crate) fn describe(answer: &Value) -> String {
    let mut parts = vec![steps(answer), outcome(&answer["outcome"], "")];
    parts.extend(edge(&answer["edge"]));
    let advice: String = items(&answer["advice"])
        .iter()
        .map(|advice| format!("  {}\n", text(&advice["told"])))
        .collect();
    if !advice.is_empty() {
        parts.push(format!("what would have to change:\n{advice}"));
    }
    let hidden = answer["stepsHidden"].as_u64().unwrap_or(0) + answer["adviceHidden"].as_u64().unwrap_or(0);
    if hidden > 0 {
        parts.push(format!("steps over resources that you may not read: {hidden}\n"));
    }
    parts.retain(|part| !part.is_empty());
    parts.join("\n")
}

fn steps(answer: &Value) -> String {
    let rows = items(&answer["steps"]).iter().flat_map(|step| {
        let decided = row(&text(&step["stage"]), step, &text(&step["told"]));
        let tried = items(&step["tried"]).iter().map(|tried| {
            let why: Vec<String> = items(&tried["why"]).iter().map(text).collect();
            row("", tried, &format!("not this: {}", why.join("; ")))
        });
        tried.chain([decided]).collect::<Vec<_>>()
    });
    table(["STEP", "WHAT", "DECIDED BY"], rows)
}

fn row(stage: &str, step: &Value, told: &str) -> [String; 3] {
    let told = if step["hidden"] == true { "hidden" } else { told };
    [stage.to_owned(), told.to_owned(), origin(&step["origin"])]
}

fn origin(origin: &Value) -> String {
    let (resource, field) = (text(&origin["resource"]), text(&origin["field"]));
    let mut decided = if field.is_empty() {
        resource
    } else {
        format!("{resource} {field}")
    };
    let lost: Vec<String> = items(&origin["lost"]).iter().map(text).collect();
    if !lost.is_empty() {
        decided = format!("{decided} (over {})", lost.join(", "));
    }
    decided
}

pub(crate) fn outcome(outcome: &Value, who: &str) -> String {
    if outcome["hidden"] == true {
        return format!("{who}the outcome is decided by resources that you may not read\n");
    }
    if let Some(refused) = outcome.get("refuse") {
        return format!(
            "{who}refused with {}: {}\n",
            refused["status"],
            text(&refused["reason"])
        );
    }
    if let Some(redirected) = outcome.get("redirect") {
        return format!(
            "{who}redirected with {} to {}\n",
            redirected["status"],
            text(&redirected["location"])
        );
    }
    if let Some(not_taken) = outcome.get("notTaken") {
        return format!("{who}nothing takes it: {}\n", text(&not_taken["reason"]));
    }
    let targets = items(&outcome["forward"]["targets"]);
    let sum: u64 = targets
        .iter()
        .filter_map(|target| target["weight"].as_u64())
        .sum();
    let rows = targets.iter().flat_map(|target| {
        let share = target["weight"].as_u64().unwrap_or(0) as f64 * 100.0 / sum.max(1) as f64;
        let upstream = text(&target["upstream"]);
        let places = items(&target["places"]);
        let rows = places.iter().map(|place| {
            [
                upstream.clone(),
                format!("{share} %"),
                text(&place["priority"]),
                text(&place["cluster"]),
                hosts(&place["hosts"]),
            ]
        });
        let nowhere = places.is_empty().then(|| {
            let nothing = "nowhere: 503".to_owned();
            [
                upstream.clone(),
                format!("{share} %"),
                String::new(),
                String::new(),
                nothing,
            ]
        });
        rows.chain(nowhere).collect::<Vec<_>>()
    });
    format!(
        "{who}{}",
        table(["UPSTREAM", "SHARE", "PRIORITY", "CLUSTER", "ENDPOINTS"], rows)
    )
}

fn hosts(hosts: &Value) -> String {
    if let Some(state) = hosts.get("reported") {
        return format!("its instances, reported {}", text(state));
    }
    let (kind, listed) = match hosts.get("gateways") {
        Some(gateways) => ("gateway ", items(gateways)),
        None => ("", items(&hosts["instances"])),
    };
    let listed = listed.iter().map(|host| {
        let state = if host["usable"] == true { "" } else { " (down)" };
        format!("{kind}{}{state}", text(&host["address"]))
    });
    listed.collect::<Vec<_>>().join(", ")
}

/// What the edge of the cluster says itself.
fn edge(edge: &Value) -> Option<String> {
    if let Some(reason) = edge.get("away") {
        return Some(format!(
            "the edge could not be asked, so instances are as reported: {}\n",
            text(reason)
        ));
    }
    let answer = edge.get("answer")?;
    let revision = &answer["version"][1];
    Some(outcome(
        &answer["outcome"],
        &format!("its edge, at revision {revision}:\n"),
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_written_as_in_curl() {
        let from: Viewpoint = "us-east/shop/web".parse().unwrap();
        let headers = ["X-A: 1".to_owned(), "x-b:2".to_owned()];
        assert_eq!(
            question(&from, "POST http://reviews/", &headers).unwrap(),
            json!({"from": "us-east/shop/web", "request":
                {"method": "POST", "url": "http://reviews/", "headers": {"x-a": "1", "x-b": "2"}}})
        );
        assert_eq!(
            question(&from, "http://reviews/", &[]).unwrap()["request"]["method"],
            "GET"
        );
        for bad in [
            vec!["x-a".to_owned()],
            vec!["x-a: 1".to_owned(), "X-A: 2".to_owned()],
        ] {
            assert!(question(&from, "http://reviews/", &bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_explanation_reads_from_top_to_bottom() {
        let answer = json!({
            "steps": [
                {"stage": "entry", "hidden": true},
                {"stage": "serviceRule", "told": "90 % to subset v1 and 10 % to subset v2",
                 "origin": {"resource": "organizations/acme/r", "field": "spec.rules[0]", "lost": ["organizations/acme/s"]},
                 "tried": [{"origin": {"resource": "organizations/acme/r", "field": "spec.rules[1]"}, "why": ["path / is not /a"]}]},
            ],
            "outcome": {"forward": {"targets": [
                {"upstream": "pay/shop/shop/reviews:80/v1{version=v1}", "weight": 90, "places": [
                    {"priority": 0, "cluster": "us-east", "hosts": {"reported": "up"}},
                    {"priority": 1, "cluster": "us-west", "hosts": {"gateways": [{"address": "10.0.0.1:15443", "usable": false}]}}]},
                {"upstream": "pay/shop/shop/reviews:80/v2{version=v2}", "weight": 10, "places": []},
            ]}},
            "edge": {"away": "no central hears it"},
            "advice": [{"told": "deploy some", "resources": []}],
            "stepsHidden": 1, "adviceHidden": 0,
        });
        assert_eq!(
            describe(&answer),
            "STEP         WHAT                                     DECIDED BY\n\
             entry        hidden\n             not this: path / is not /a               organizations/acme/r spec.rules[1]\n\
             serviceRule  90 % to subset v1 and 10 % to subset v2  organizations/acme/r spec.rules[0] (over organizations/acme/s)\n\n\
             UPSTREAM                                 SHARE  PRIORITY  CLUSTER  ENDPOINTS\n\
             pay/shop/shop/reviews:80/v1{version=v1}  90 %   0         us-east  its instances, reported up\n\
             pay/shop/shop/reviews:80/v1{version=v1}  90 %   1         us-west  gateway 10.0.0.1:15443 (down)\n\
             pay/shop/shop/reviews:80/v2{version=v2}  10 %                      nowhere: 503\n\n\
             the edge could not be asked, so instances are as reported: no central hears it\n\n\
             what would have to change:\n  deploy some\n\n\
             steps over resources that you may not read: 1\n"
        );
        let refused = json!({"outcome": {"refuse": {"status": 404, "reason": "no rule matches"}}});
        assert_eq!(describe(&refused), "refused with 404: no rule matches\n");
        let redirected = json!({"outcome": {"redirect": {"status": 302, "location": "https://a/"}}});
        assert_eq!(describe(&redirected), "redirected with 302 to https://a/\n");
        let hidden = json!({"outcome": {"hidden": true}});
        assert!(describe(&hidden).contains("may not read"));
    }
}
