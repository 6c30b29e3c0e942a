//! `GET /v1/audit`: newest first; `:verify`: whether both chains add up; `:key`: who signs; and below, as streams, `:tail`
//! and `:export`.

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Value, json};
use tombolo_compiler::name::{Fqn, Kind};

use super::paging::{PAGE_SIZE_MAX, page_size};
use super::{App, Params};
use crate::audit::{
    Broken, Chain, Mark, Outcome, PublicKeys, Statement, StatementKind, Verb, Verifier, hex, words_of_text,
};
use crate::caller::Caller;
use crate::iam::{Action, Principal};
use crate::problem::Problem;
use crate::store::Tx;
use crate::store::audit::{Filter, Listed, Numbered, Place};

mod csv;
mod export;
mod reader;
mod tail;

pub(crate) use export::export;
use reader::Reader;
pub(crate) use tail::tail;

/// Records that are looked at for one page, of which the caller may read only some: then it ends before it is full.
const LOOKED_AT_MAX: usize = 10_000;
/// Records read at a time while verifying.
const VERIFY_BATCH: u64 = 1000;

/// Which records; all must hold.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Wanted {
    since: Option<DateTime<Utc>>,
    until: Option<DateTime<Utc>>,
    actor: Option<String>,
    name: Option<String>,
    kind: Option<String>,
    verb: Option<String>,
    outcome: Option<String>,
    /// Words that a record must hold, all of them.
    text: Option<String>,
    page_size: Option<usize>,
    page_token: Option<String>,
    /// Of an export.
    format: Option<export::Format>,
    /// Of an export: where an earlier one ended.
    after: Option<String>,
}

pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
    Params(wanted): Params<Wanted>,
) -> Result<Json<Value>, Problem> {
    wanted.has_none_of(&[
        ("format", wanted.format.is_some()),
        ("after", wanted.after.is_some()),
    ])?;
    let page_size = page_size(wanted.page_size)?;
    let reader = Reader::of(&app, &caller);
    let mut filter = wanted.filter(&reader)?;
    let mut tx = app.store.read_months_as(&caller.principal).await?;
    // One more tells whether there is another page.
    let limit = match reader.may_read_all() {
        true => page_size + 1,
        false => PAGE_SIZE_MAX + 1,
    };
    let (mut listed, mut looked_at) = (Vec::new(), 0);
    let reached = loop {
        let found = app.store.list_audit(&mut tx, &filter, limit).await?;
        let reached = found.last().map(|last| last.place);
        let is_last = found.len() < limit;
        looked_at += found.len();
        listed.extend(found.into_iter().filter(|record| reader.may_read(record)));
        if is_last || looked_at >= LOOKED_AT_MAX || listed.len() > page_size {
            break reached.filter(|_| !is_last);
        }
        filter.after = reached;
    };
    let next = match listed.len() > page_size {
        true => {
            listed.truncate(page_size);
            listed.last().map(|last: &Listed| last.place)
        }
        false => reached,
    };
    let items: Vec<Value> = listed.iter().map(item).collect();
    let mut page = json!({ "items": items });
    if let Some(next) = next {
        page["nextPageToken"] = page_token(&next).into();
    }
    Ok(Json(page))
}

pub(crate) async fn verify(State(app): State<App>, caller: Caller) -> Result<Json<Value>, Problem> {
    let snapshot = app.writes.snapshot();
    app.allow(
        &snapshot,
        &caller,
        Action::ReadAudit,
        &app.organization,
        Verb::Get,
    )?;
    // One moment for heads and records: writes go on meanwhile.
    let mut tx = app.store.read_as(&Principal::System).await?;
    let writes = app.store.head(&mut tx).await?.audit.mark();
    let denials = app.store.denial_head(&mut tx).await?.mark();
    let boundary = boundary(&app, &mut tx).await?.map(|(_, statement)| statement);
    let mut chains = Vec::new();
    for (chain, head) in [(Chain::Writes, writes), (Chain::Denials, denials)] {
        let start = boundary.as_ref().map(|boundary| boundary.mark(chain));
        let verifier = Verifier::behind(start.unwrap_or_default());
        let (records, broken) = verify_chain(&app, &mut tx, chain, verifier, head).await?;
        chains.push(json!({
            "chain": chain,
            "records": records,
            "hash": hex(&head.hash),
            "broken": broken,
        }));
    }
    let ok = chains.iter().all(|chain| chain["broken"].is_null());
    Ok(Json(json!({"ok": ok, "chains": chains})))
}

/// The public keys, for whoever may call at all: they are for comparing with what was noted elsewhere.
pub(crate) async fn key(State(app): State<App>, _caller: Caller) -> Result<Json<Value>, Problem> {
    let mut tx = app.store.read_as(&Principal::System).await?;
    let keys = app.store.audit_keys(&mut tx).await?;
    let keys: Vec<Value> = keys
        .iter()
        .map(|(key, since)| json!({"id": key.id(), "algorithm": "Ed25519", "pem": key.pem(), "since": since}))
        .collect();
    Ok(Json(json!({ "keys": keys })))
}

/// The last that retention has left, if its signature holds: without one, a chain begins with its first record.
async fn boundary(app: &App, tx: &mut Tx) -> Result<Option<(Numbered, Statement)>, Problem> {
    let keys = app.store.audit_keys(tx).await?;
    let keys: PublicKeys = keys.into_iter().map(|(key, _)| key).collect();
    let last = app.store.last_statement(tx, StatementKind::Boundary).await?;
    Ok(last.and_then(|last| {
        let statement = keys.verify(&last.signed).ok()?;
        Some((last, statement))
    }))
}

async fn verify_chain(
    app: &App,
    tx: &mut Tx,
    chain: Chain,
    mut verifier: Verifier,
    head: Mark,
) -> Result<(u64, Option<Broken>), Problem> {
    loop {
        let after = verifier.end().sequence;
        let rows = app.store.audit_chain(tx, chain, after, VERIFY_BATCH).await?;
        let last = rows.len() < VERIFY_BATCH as usize;
        let walked = rows.iter().try_for_each(|row| verifier.next(row));
        let walked = match last {
            true => walked.and_then(|()| verifier.finish(head)),
            false => walked,
        };
        if last || walked.is_err() {
            return Ok((verifier.records(), walked.err()));
        }
    }
}

impl Wanted {
    fn filter(&self, reader: &Reader) -> Result<Filter, Problem> {
        if self.actor.as_ref().is_some_and(|actor| actor.contains('\0')) {
            return Err(Problem::bad_request("actor: it holds a NUL character"));
        }
        let name: Option<Fqn> = self.name.as_deref().map(str::parse).transpose()?;
        let kind = self.kind.as_deref().map(known_kind).transpose()?;
        let verb: Option<Verb> = word("verb", self.verb.as_deref())?;
        let outcome: Option<Outcome> = word("outcome", self.outcome.as_deref())?;
        let after = self.page_token.as_deref().map(place).transpose()?;
        Ok(Filter {
            since: self.since,
            until: self.until,
            actor: self.actor.clone(),
            name: name.map(|name| name.to_string()),
            kind,
            verb: verb.map(|verb| verb.to_string()),
            outcome: outcome.map(|outcome| outcome.to_string()),
            words: self.text.as_deref().map(words_of_text).unwrap_or_default(),
            nodes: reader.nodes.clone(),
            after,
        })
    }

    /// Refuses parameters that this request has no use for.
    fn has_none_of(&self, given: &[(&str, bool)]) -> Result<(), Problem> {
        match given.iter().find(|(_, is_given)| *is_given) {
            Some((name, _)) => Err(Problem::bad_request(format!(
                "{name}: this request knows no such parameter"
            ))),
            None => Ok(()),
        }
    }
}

fn word<T>(name: &str, given: Option<&str>) -> Result<Option<T>, Problem>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    let read = given.map(str::parse).transpose();
    read.map_err(|error| Problem::bad_request(format!("{name}: {error}")))
}

/// As people write it: `tenant` is `Tenant`.
fn known_kind(given: &str) -> Result<String, Problem> {
    let kinds = Kind::ALL.map(|kind| kind.to_string());
    let known = kinds.iter().find(|kind| kind.eq_ignore_ascii_case(given));
    known.cloned().ok_or_else(|| {
        let detail = format!("kind: {given:?} is not one of {}", kinds.join(", "));
        Problem::bad_request(detail)
    })
}

/// A record as JSON, with its place in the chain.
fn item(listed: &Listed) -> Value {
    let mut item: Value = serde_json::from_slice(&listed.bytes).unwrap_or_else(|_| {
        // Meddled with: what can still be said of it is where it stands.
        json!({"unreadable": true})
    });
    item["chain"] = json!(listed.place.chain);
    item["sequence"] = listed.place.sequence.into();
    item["hash"] = hex(&listed.hash).into();
    item
}

fn page_token(place: &Place) -> String {
    format!(
        "{}.{}.{}",
        place.time.timestamp_micros(),
        place.chain,
        place.sequence
    )
}

fn place(token: &str) -> Result<Place, Problem> {
    let read = || {
        let mut parts = token.split('.');
        let time = DateTime::from_timestamp_micros(parts.next()?.parse().ok()?)?;
        let chain = parts.next()?.parse().ok()?;
        let sequence = parts.next()?.parse().ok()?;
        parts.next().is_none().then_some(Place {
            time,
            chain,
            sequence,
        })
    };
    read().ok_or_else(|| Problem::bad_request(format!("pageToken {token:?} is not from this list")))
}
