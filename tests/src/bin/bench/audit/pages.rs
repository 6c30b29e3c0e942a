//! How long pages take: the first, and one a thousand pages further, for every filter and pair of filters, drawn from
//! records that are there, for an administrator and for the reader of one tenant.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, SecondsFormat, Utc};
use http::header;
use serde_json::Value;
use tombolo_tests::client::Connection;

use super::load::{Loaded, SAMPLED, Sample};
use super::{World, get};
use crate::statistics::Sorted;

/// Of each pair of filters: with fewer than a hundred, the 99th percentile would be the slowest.
const DRAWS: usize = 120;
/// Of free text.
const TEXT_DRAWS: usize = 60;
const PAGE_SIZE: usize = 100;
/// Records before the thousandth page.
const FAR: usize = 1000 * PAGE_SIZE;
const FILTERS: [&str; 6] = ["time", "actor", "name", "kind", "verb", "outcome"];

pub(super) struct Pages {
    pub(super) page_p99_ms: f64,
    pub(super) text_p99_ms: f64,
}

/// One filter with its value.
#[derive(Clone, Debug)]
enum Wanted {
    Time {
        since: DateTime<Utc>,
        until: DateTime<Utc>,
    },
    Actor(String),
    /// And all below it.
    Name(String),
    Kind(String),
    Verb(String),
    Outcome(String),
}

pub(super) async fn run(world: &World, loaded: &Loaded) -> Result<Pages> {
    let mut api = world.connect().await?;
    let mut taken: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let pairs = FILTERS
        .iter()
        .enumerate()
        .flat_map(|(number, one)| FILTERS[number..].iter().map(move |other| (*one, *other)));
    for (one, other) in pairs {
        let name = if one == other {
            one.to_owned()
        } else {
            format!("{one}+{other}")
        };
        for draw in 0..DRAWS {
            let sample = &loaded.samples[(draw * 7919 + name.len() * 104_729) % loaded.samples.len()];
            let mut wanted = vec![filter(one, sample, loaded, draw)?];
            if one != other {
                wanted.push(filter(other, sample, loaded, draw)?);
            }
            let (token, scope) = match draw % 2 {
                0 => (&world.admin, None),
                _ => (&world.reader, Some(Wanted::Name(super::load::tenant(0)))),
            };
            let query: String = wanted.iter().map(Wanted::parameter).collect();
            let first = page(&mut api, token, &query).await?;
            taken.entry(format!("{name}, first")).or_default().push(first);
            wanted.extend(scope);
            if let Some(far) = far(loaded, &wanted) {
                let far = page(&mut api, token, &format!("{query}&pageToken={far}")).await?;
                taken.entry(format!("{name}, far")).or_default().push(far);
            }
        }
        println!("measured {name}");
    }
    let page_p99_ms = report("pages", &taken)?;
    let text_p99_ms = report("free text", &texts(world, &mut api, loaded).await?)?;
    Ok(Pages {
        page_p99_ms,
        text_p99_ms,
    })
}

/// Rare words, common ones, and pairs of both.
async fn texts(world: &World, api: &mut Connection, loaded: &Loaded) -> Result<BTreeMap<String, Vec<f64>>> {
    let mut taken: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for draw in 0..TEXT_DRAWS {
        let sample = &loaded.samples[(draw * 7919) % loaded.samples.len()];
        let user = sample.actor.rsplit('/').next().unwrap_or_default();
        let leaf = sample.name.rsplit('/').next().unwrap_or_default();
        let token = if draw % 2 == 0 {
            &world.admin
        } else {
            &world.reader
        };
        for (name, words) in [
            ("text: a request id", sample.request_id.clone()),
            ("text: a user", user.to_owned()),
            ("text: a user and a leaf", format!("{user}%20{leaf}")),
            ("text: a word of most", "update%20weight".to_owned()),
            ("text: a word of none", format!("nowhere{draw}")),
        ] {
            let elapsed = page(api, token, &format!("&text={words}")).await?;
            taken.entry(name.to_owned()).or_default().push(elapsed);
        }
    }
    Ok(taken)
}

fn filter(name: &str, sample: &Sample, loaded: &Loaded, draw: usize) -> Result<Wanted> {
    Ok(match name {
        "time" => {
            // A month, somewhere.
            let span = loaded.ends - loaded.begins;
            let since = loaded.begins + span * i32::try_from(draw % 11)? / 12;
            let until = since + span / 12;
            Wanted::Time { since, until }
        }
        "name" => {
            // A tenant, a workspace, a group or a leaf.
            let segments: Vec<&str> = sample.name.split('/').collect();
            let depth = (2 + draw / 2 % 4) * 2;
            Wanted::Name(segments[..depth.min(segments.len())].join("/"))
        }
        "actor" => Wanted::Actor(sample.actor.clone()),
        "kind" => Wanted::Kind(sample.kind.clone()),
        "verb" => Wanted::Verb(sample.verb.clone()),
        "outcome" => Wanted::Outcome(sample.outcome.clone()),
        other => anyhow::bail!("no filter is named {other}"),
    })
}

impl Wanted {
    /// Of the API.
    fn parameter(&self) -> String {
        match self {
            Wanted::Time { since, until } => format!("&since={}&until={}", text(*since), text(*until)),
            Wanted::Actor(actor) => format!("&actor={actor}"),
            Wanted::Name(node) => format!("&name={node}"),
            Wanted::Kind(kind) => format!("&kind={kind}"),
            Wanted::Verb(verb) => format!("&verb={verb}"),
            Wanted::Outcome(outcome) => format!("&outcome={outcome}"),
        }
    }

    fn takes(&self, sample: &Sample) -> bool {
        match self {
            Wanted::Time { since, until } => (*since..*until).contains(&sample.time),
            Wanted::Actor(actor) => sample.actor == *actor,
            Wanted::Name(node) => {
                let below = sample.name.strip_prefix(node.as_str());
                below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            Wanted::Kind(kind) => sample.kind == *kind,
            Wanted::Verb(verb) => sample.verb == *verb,
            Wanted::Outcome(outcome) => sample.outcome == *outcome,
        }
    }
}

fn text(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// Milliseconds.
async fn page(api: &mut Connection, token: &str, query: &str) -> Result<f64> {
    let began = Instant::now();
    let reply = get(api, token, &format!("audit?pageSize={PAGE_SIZE}{query}")).await?;
    let elapsed = began.elapsed().as_secs_f64() * 1e3;
    ensure!(
        reply.headers.contains_key(header::CONTENT_TYPE),
        "no page for {query}"
    );
    let page: Value = serde_json::from_slice(&reply.body).context("a page is no JSON")?;
    ensure!(page["items"].is_array(), "{query} is answered by {page}");
    Ok(elapsed)
}

/// The token of the page behind about a thousand others, as the samples tell; `None` when there are not as many records.
fn far(loaded: &Loaded, wanted: &[Wanted]) -> Option<String> {
    let mut found = loaded
        .samples
        .iter()
        .rev()
        .filter(|sample| wanted.iter().all(|wanted| wanted.takes(sample)));
    let sample = found.nth(FAR / SAMPLED as usize)?;
    let time = sample.time.timestamp_micros();
    Some(format!("{time}.{}.{}", sample.chain, sample.sequence))
}

/// Prints a line for each, and gives the worst 99th percentile.
fn report(title: &str, taken: &BTreeMap<String, Vec<f64>>) -> Result<f64> {
    println!();
    println!(
        "{title:32}{:>8}{:>12}{:>12}{:>12}",
        "pages", "median, ms", "99 %, ms", "most, ms"
    );
    let mut worst: f64 = 0.0;
    for (name, samples) in taken {
        let sorted = Sorted::new(samples.iter().copied()).context("nothing was measured")?;
        let p99 = sorted.quantile(0.99);
        worst = worst.max(p99);
        println!(
            "{name:32}{:>8}{:>12.2}{p99:>12.2}{:>12.2}",
            sorted.len(),
            sorted.median(),
            sorted.max()
        );
    }
    Ok(worst)
}
