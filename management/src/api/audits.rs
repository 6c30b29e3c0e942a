//! `GET /v1/audit`: newest first; `GET /v1/audit:verify`: whether both chains add up.

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Value, json};
use tombolo_compiler::name::Fqn;

use super::{App, Params};
use crate::audit::{Broken, Chain, ChainHead, Outcome, Verb, Verifier};
use crate::iam::Action;
use crate::problem::Problem;
use crate::store::Tx;
use crate::store::audit::{Filter, Listed, Place};
use crate::writer::Caller;

const PAGE_SIZE_DEFAULT: u64 = 100;
const PAGE_SIZE_MAX: u64 = 500;
/// Records read at a time while verifying.
const VERIFY_BATCH: u64 = 1000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct ListParams {
    since: Option<DateTime<Utc>>,
    until: Option<DateTime<Utc>>,
    actor: Option<String>,
    name: Option<String>,
    outcome: Option<String>,
    page_size: Option<u64>,
    page_token: Option<String>,
}

pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
    Params(params): Params<ListParams>,
) -> Result<Json<Value>, Problem> {
    let page_size = params.page_size.unwrap_or(PAGE_SIZE_DEFAULT);
    if !(1..=PAGE_SIZE_MAX).contains(&page_size) {
        let detail = format!("pageSize {page_size} is not between 1 and {PAGE_SIZE_MAX}");
        return Err(Problem::bad_request(detail));
    }
    let filter = filter(&app, &caller, params)?;
    let mut tx = app.store.begin_snapshot().await?;
    // One more tells whether there is another page.
    let mut listed = app.store.list_audit(&mut tx, &filter, page_size + 1).await?;
    let more = listed.len() as u64 > page_size;
    if more {
        listed.pop();
    }
    let items: Vec<Value> = listed.iter().map(item).collect();
    let mut page = json!({ "items": items });
    if let Some(last) = listed.last().filter(|_| more) {
        page["nextPageToken"] = page_token(&last.place).into();
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
    let mut tx = app.store.begin_snapshot().await?;
    let writes = app.store.head(&mut tx).await?.audit;
    let denials = app.store.denial_head(&mut tx).await?;
    let mut chains = Vec::new();
    for (chain, head) in [(Chain::Writes, writes), (Chain::Denials, denials)] {
        let (records, broken) = verify_chain(&app, &mut tx, chain, &head).await?;
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

async fn verify_chain(
    app: &App,
    tx: &mut Tx,
    chain: Chain,
    head: &ChainHead,
) -> Result<(u64, Option<Broken>), Problem> {
    let mut verifier = Verifier::default();
    loop {
        let after = verifier.records();
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

fn filter(app: &App, caller: &Caller, params: ListParams) -> Result<Filter, Problem> {
    let snapshot = app.writes.snapshot();
    let nodes = snapshot.bindings.nodes_for(&caller.asker(), Action::ReadAudit);
    let nodes = nodes.iter().map(Fqn::to_string).collect();
    if params.actor.as_ref().is_some_and(|actor| actor.contains('\0')) {
        return Err(Problem::bad_request("actor: it holds a NUL character"));
    }
    let name: Option<Fqn> = params.name.map(|name| name.parse()).transpose()?;
    let outcome: Option<Outcome> = params
        .outcome
        .map(|outcome| outcome.parse())
        .transpose()
        .map_err(|error| Problem::bad_request(format!("outcome: {error}")))?;
    let after = params.page_token.map(|token| place(&token)).transpose()?;
    Ok(Filter {
        since: params.since,
        until: params.until,
        actor: params.actor,
        name: name.map(|name| name.to_string()),
        outcome,
        nodes,
        after,
    })
}

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

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
