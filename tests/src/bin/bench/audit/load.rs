//! Ten million records of a year, in chains that verify: made here, sent by COPY.

use std::time::{Duration, Instant};

use anyhow::Result;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection};
use tokio::time::sleep;
use tombolo_management::audit::{Chain, ChainHead, Outcome, Record, Sealed, Verb, seal};

use super::{ACME, database};

const TENANTS: u64 = 100;
const WORKSPACES: u64 = 10;
const GROUPS: u64 = 3;
const ROUTES: u64 = 10;
const USERS: u64 = 500;
const SPAN_DAYS: i64 = 365;
/// How often the progress of what takes minutes is printed.
const TOLD_EACH: Duration = Duration::from_secs(10);
/// Sent to Postgres at a time.
const CHUNK_BYTES: usize = 4 << 20;
/// One record in about this many is kept for the pages to draw filters from, and to find places far behind by.
pub(super) const SAMPLED: u64 = 97;
const COLUMNS: &str =
    "organization, chain, sequence, record, previous, hash, time, actor, verb, kind, name, outcome";

/// Records that stand for all, oldest first, and the time that all lie in.
pub(super) struct Loaded {
    pub(super) samples: Vec<Sample>,
    pub(super) begins: DateTime<Utc>,
    pub(super) ends: DateTime<Utc>,
}

pub(super) struct Sample {
    pub(super) chain: Chain,
    pub(super) sequence: u64,
    pub(super) time: DateTime<Utc>,
    pub(super) actor: String,
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) verb: String,
    pub(super) outcome: String,
    pub(super) request_id: String,
}

/// SplitMix64: the same records in every run.
struct Random(u64);

pub(super) async fn run(url: &str, records: usize) -> Result<Loaded> {
    let mut connection = database(url).await?;
    let ends = tombolo_management::audit::now();
    let begins = ends - TimeDelta::days(SPAN_DAYS);
    prepare(&mut connection, begins).await?;
    let began = Instant::now();
    let samples = copy(url, records, begins, ends).await?;
    println!(
        "loaded {records} records in {:.0} s",
        began.elapsed().as_secs_f64()
    );
    connection.execute("VACUUM (ANALYZE) audit").await?;
    connection.execute("CHECKPOINT").await?;
    connection.close().await?;
    Ok(Loaded {
        samples,
        begins,
        ends,
    })
}

pub(super) fn tenant(number: u64) -> String {
    format!("{ACME}/tenants/t{number:03}")
}

/// How long management takes to index what was loaded.
pub(super) async fn indexed(url: &str, records: usize, began: Instant) -> Result<Duration> {
    const UNINDEXED: &str = "SELECT (SELECT audit_sequence FROM organizations) + (SELECT sequence FROM denial_heads) \
                             - coalesce((SELECT sum(sequence) FROM audit_indexed), 0)::bigint";
    /// Of both chains, which are in no whole segment.
    const REST: i64 = 2 * 1024;
    let mut connection = database(url).await?;
    let mut told = Instant::now();
    loop {
        let unindexed: i64 = sqlx::query_scalar(UNINDEXED).fetch_one(&mut connection).await?;
        if unindexed < REST {
            break;
        }
        if told.elapsed() > TOLD_EACH {
            println!("{unindexed} of {records} records are not indexed yet");
            told = Instant::now();
        }
        sleep(Duration::from_millis(100)).await;
    }
    let took = began.elapsed();
    println!("management has indexed them in {:.0} s", took.as_secs_f64());
    connection.execute("VACUUM (ANALYZE) audit_postings").await?;
    connection.execute("CHECKPOINT").await?;
    let sizes: Vec<(String, String)> = sqlx::query_as(
        "SELECT parent, pg_size_pretty(sum(pg_total_relation_size(inhrelid))) FROM pg_inherits, \
         LATERAL (SELECT inhparent::regclass::text AS parent) AS named \
         WHERE parent IN ('audit', 'audit_postings') GROUP BY parent ORDER BY parent",
    )
    .fetch_all(&mut connection)
    .await?;
    for (table, size) in sizes {
        println!("{table}: {size}");
    }
    connection.close().await?;
    Ok(took)
}

async fn prepare(connection: &mut PgConnection, begins: DateTime<Utc>) -> Result<()> {
    connection
        .execute(
            "TRUNCATE audit, audit_postings, audit_indexed, audit_statements; UPDATE organizations SET \
             audit_sequence = 0, audit_hash = decode(repeat('00', 32), 'hex'), audit_time = to_timestamp(0); \
             DELETE FROM denial_heads",
        )
        .await?;
    sqlx::query("SELECT audit_add_partitions($1, now())")
        .bind(begins)
        .execute(&mut *connection)
        .await?;
    Ok(())
}

async fn copy(url: &str, records: usize, begins: DateTime<Utc>, ends: DateTime<Utc>) -> Result<Vec<Sample>> {
    let mut rows = database(url).await?;
    let into = format!("COPY audit ({COLUMNS}) FROM STDIN (FORMAT binary)");
    let mut rows_in = rows.copy_in_raw(&into).await?;
    let mut random = Random(1);
    let mut heads = [ChainHead::default(); 2];
    let mut row_bytes = copy_header();
    let mut samples = Vec::new();
    let step = (ends - begins) / i32::try_from(records)?;
    for number in 0..records {
        let time = begins + step * i32::try_from(number)?;
        let (chain, record) = record(&mut random, time);
        let head = &mut heads[usize::from(chain == Chain::Denials)];
        let (sealed, next) = seal(chain, *head, record);
        *head = next;
        push_row(&mut row_bytes, &sealed);
        if random.below(SAMPLED) == 0 {
            samples.push(sample(sealed));
        }
        if row_bytes.len() > CHUNK_BYTES {
            rows_in.send(std::mem::take(&mut row_bytes)).await?;
        }
        if number > 0 && number.is_multiple_of(1_000_000) {
            println!("sent {number} of {records} records");
        }
    }
    rows_in
        .send([row_bytes, (-1_i16).to_be_bytes().to_vec()].concat())
        .await?;
    rows_in.finish().await?;
    let [writes, denials] = heads;
    sqlx::query("UPDATE organizations SET audit_sequence = $1, audit_hash = $2, audit_time = $3")
        .bind(writes.sequence.cast_signed())
        .bind(writes.hash.to_vec())
        .bind(writes.time)
        .execute(&mut rows)
        .await?;
    sqlx::query("INSERT INTO denial_heads (organization, sequence, hash, time) VALUES ('acme', $1, $2, $3)")
        .bind(denials.sequence.cast_signed())
        .bind(denials.hash.to_vec())
        .bind(denials.time)
        .execute(&mut rows)
        .await?;
    rows.close().await?;
    Ok(samples)
}

fn sample(sealed: Sealed) -> Sample {
    let index = sealed.record.index();
    Sample {
        chain: sealed.chain,
        sequence: sealed.sequence,
        time: index.time,
        actor: index.actor,
        name: index.name,
        kind: index.kind,
        verb: index.verb,
        outcome: index.outcome,
        request_id: sealed.record.request_id,
    }
}

/// What an organization does in a year: few of its people and places account for most of it, and most of it are
/// updates of routes.
fn record(random: &mut Random, time: DateTime<Utc>) -> (Chain, Record) {
    let actor = format!("{ACME}/users/u{:03}", random.skewed(USERS));
    let (name, depth) = name(random);
    let is_denied = random.below(20) == 0;
    let verb = match (is_denied, random.below(100)) {
        (true, 0..50) => Verb::Get,
        (_, 0..25) => Verb::Create,
        (_, 25..40) => Verb::Delete,
        _ => Verb::Update,
    };
    let outcome = match (is_denied, random.below(10)) {
        (false, _) => Outcome::Done,
        (true, 0..3) => Outcome::Unauthenticated,
        (true, _) => Outcome::Denied,
    };
    let actor = match outcome {
        Outcome::Unauthenticated => "unknown".to_owned(),
        Outcome::Done | Outcome::Denied => actor,
    };
    let chain = if is_denied { Chain::Denials } else { Chain::Writes };
    let (weight, other) = (random.below(100), random.below(100));
    let document = |weight: u64| document(&name, depth, weight);
    let record = Record {
        time,
        source: format!("10.0.{}.{}", random.below(4), random.below(250)),
        request_id: random.uuid(),
        revision: (!is_denied).then(|| random.below(10_000_000)),
        reason: if is_denied {
            format!("{actor} needs the role writer")
        } else {
            String::new()
        },
        before: matches!((verb, is_denied), (Verb::Update | Verb::Delete, false)).then(|| document(other)),
        after: matches!((verb, is_denied), (Verb::Create | Verb::Update, false)).then(|| document(weight)),
        ..Record::new(actor, verb, name.clone(), outcome)
    };
    (chain, record)
}

/// With its depth.
fn name(random: &mut Random) -> (String, u32) {
    let mut name = tenant(random.skewed(TENANTS));
    let kind = random.below(100);
    if kind < 3 {
        return (name, 2);
    }
    name = format!("{name}/workspaces/w{}", random.skewed(WORKSPACES));
    if kind < 10 {
        return (name, 3);
    }
    let (groups, leaves) = match kind {
        10..25 => ("gatewaygroups", "gateways"),
        _ => ("trafficgroups", "serviceroutes"),
    };
    name = format!("{name}/{groups}/g{}", random.below(GROUPS));
    if kind.is_multiple_of(8) {
        return (name, 4);
    }
    (format!("{name}/{leaves}/r{}", random.below(ROUTES)), 5)
}

fn document(name: &str, depth: u32, weight: u64) -> Value {
    match depth {
        5 => json!({"name": name, "spec": {"service": "shop/web", "timeout": "3s", "rules": [{
            "matches": [{"path": {"prefix": "/api"}}],
            "backendRefs": [{"subset": "v1", "weight": weight}, {"subset": "v2", "weight": 100 - weight}],
        }]}}),
        _ => {
            json!({"name": name, "spec": {"displayName": "a node", "description": format!("edition {weight}")}})
        }
    }
}

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Small numbers much more often than large ones.
    fn skewed(&mut self, end: u64) -> u64 {
        let unit = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        (end as f64 * unit * unit * unit) as u64
    }

    fn uuid(&mut self) -> String {
        let (high, low) = (self.next(), self.next());
        let text = format!("{high:016x}{low:016x}");
        format!(
            "{}-{}-{}-{}-{}",
            &text[..8],
            &text[8..12],
            &text[12..16],
            &text[16..20],
            &text[20..]
        )
    }
}

fn copy_header() -> Vec<u8> {
    [&b"PGCOPY\n\xff\r\n\0"[..], &[0; 8]].concat()
}

/// In the order of [`COLUMNS`].
fn push_row(bytes: &mut Vec<u8>, sealed: &Sealed) {
    let index = sealed.record.index();
    bytes.extend(12_i16.to_be_bytes());
    push(bytes, b"acme");
    push(bytes, sealed.chain.to_string().as_bytes());
    push(bytes, &sealed.sequence.to_be_bytes());
    push(bytes, &sealed.bytes);
    push(bytes, &sealed.previous);
    push(bytes, &sealed.hash);
    push(bytes, &since_2000(index.time).to_be_bytes());
    for text in [
        &index.actor,
        &index.verb,
        &index.kind,
        &index.name,
        &index.outcome,
    ] {
        push(bytes, text.as_bytes());
    }
}

fn push(bytes: &mut Vec<u8>, field: &[u8]) {
    bytes.extend((field.len() as i32).to_be_bytes());
    bytes.extend_from_slice(field);
}

/// Microseconds, as Postgres counts them.
fn since_2000(time: DateTime<Utc>) -> i64 {
    const SECONDS: i64 = 946_684_800;
    time.timestamp_micros() - SECONDS * 1_000_000
}
