//! What appending to the record costs a write: the transaction of a write with and without its record, in turns; what
//! indexing a record later took, as if the write had waited for it; and, as the whole that both are a share of, a write over
//! the API from its request to its answer.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tombolo_management::audit::{APPEND, Chain, ChainHead, Outcome, Record, Sealed, Verb, seal};

use super::load::tenant;
use super::{World, database, post};
use crate::statistics::Sorted;

const ACTOR: &str = "organizations/acme/users/u001";
/// Caches and plans are warm after so many.
const WARM_UP: usize = 50;

pub(super) struct Append {
    /// Of a write over the API.
    pub(super) share: f64,
}

/// An administrator.
struct Caller {
    principal: String,
    token: String,
}

pub(super) async fn run(world: &mut World, samples: usize, indexing: Duration) -> Result<Append> {
    let whole = over_api(world, samples).await?;
    // It would read what is written beside it.
    world.stop().await?;
    let url = world.postgres.url();
    let mut connection = database(url).await?;
    let row: (i64, Vec<u8>, chrono::DateTime<chrono::Utc>) = sqlx::query_as(
        "SELECT audit_sequence, audit_hash, audit_time FROM organizations WHERE name = 'acme'",
    )
    .fetch_one(&mut connection)
    .await?;
    let (principal, token) = sqlx::query_as(
        "SELECT principal::text, (SELECT id::text FROM tokens LIMIT 1) FROM realms WHERE realm = '*' AND writes LIMIT 1",
    )
    .fetch_one(&mut connection)
    .await?;
    let caller = Caller { principal, token };
    connection
        .execute("SET ROLE tombolo_app; SET tombolo.organization = 'acme'")
        .await?;
    let mut head = ChainHead {
        sequence: row.0.cast_unsigned(),
        hash: row.1.try_into().ok().context("the head's hash is not 32 bytes")?,
        time: row.2,
    };
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for number in 0..samples + WARM_UP {
        let name = format!("{}/workspaces/bench{number}", tenant(number as u64 % 100));
        let began = Instant::now();
        write(&mut connection, &caller, &name, None).await?;
        let bare = began.elapsed();
        let record = Record {
            source: "10.0.0.1".to_owned(),
            request_id: format!("bench-{number}"),
            after: Some(document(&name)),
            ..Record::new(ACTOR, Verb::Create, format!("{name}a"), Outcome::Done)
        };
        let began = Instant::now();
        let (sealed, next) = seal(Chain::Writes, head, record);
        head = next;
        write(
            &mut connection,
            &caller,
            &format!("{name}a"),
            Some((&sealed, &head)),
        )
        .await?;
        let audited = began.elapsed();
        if number >= WARM_UP {
            without.push(bare.as_secs_f64() * 1e6);
            with.push(audited.as_secs_f64() * 1e6);
        }
    }
    connection
        .execute("RESET ROLE; DELETE FROM resources WHERE name LIKE '%/workspaces/bench%'")
        .await?;
    connection.close().await?;
    let (with, without) = (
        Sorted::new(with).context("no writes")?,
        Sorted::new(without).context("no writes")?,
    );
    world.resume().await?;
    let indexing = indexing.as_secs_f64() * 1e6;
    let cost = (with.median() - without.median()).max(0.0) + indexing;
    let share = cost / (whole.median() + indexing);
    println!();
    println!(
        "a transaction: {:.0} µs without its record, {:.0} µs with it (medians of {samples}, in turns); indexing took \
         {indexing:.0} µs a record: {:.3} of the transaction. A write over the API: {:.0} µs, of which that is {share:.3}",
        without.median(),
        with.median(),
        cost / (with.median() + indexing),
        whole.median(),
    );
    Ok(Append { share })
}

/// Microseconds from the request to the answer, one after the other.
async fn over_api(world: &World, samples: usize) -> Result<Sorted> {
    let mut api = world.connect().await?;
    let mut taken = Vec::new();
    for number in 0..samples + WARM_UP {
        let name = format!("{}/workspaces/api{number}", tenant(0));
        let document = document(&name);
        let began = Instant::now();
        post(&mut api, &world.admin, "changes", &document).await?;
        if number >= WARM_UP {
            taken.push(began.elapsed().as_secs_f64() * 1e6);
        }
    }
    Sorted::new(taken).context("no writes")
}

/// The statements of a write of one resource, as `Writer::write` sends them; the head moves either way.
async fn write(
    connection: &mut PgConnection,
    caller: &Caller,
    name: &str,
    sealed: Option<(&Sealed, &ChainHead)>,
) -> Result<()> {
    let begin = format!("BEGIN; SET LOCAL tombolo.principal = '{}'", caller.principal);
    let mut tx = connection.begin_with(AssertSqlSafe(begin)).await?;
    let (epoch, revision): (i64, i64) = sqlx::query_as(
        "SELECT head.*, is_unrevoked($1::uuid) FROM (SELECT epoch, revision, audit_sequence, audit_hash, audit_time \
         FROM organizations WHERE name = 'acme' FOR UPDATE) head",
    )
    .bind(&caller.token)
    .fetch_one(&mut *tx)
    .await?;
    sqlx::query(
        "INSERT INTO resources (name, organization, uid, kind, document, etag, revision, created_at, updated_at) \
         VALUES ($1, 'acme', gen_random_uuid(), 'Workspace', $2, 'etag', $3, now(), now())",
    )
    .bind(name)
    .bind(document(name))
    .bind(revision + 1)
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "INSERT INTO history (organization, name, revision, uid, action, actor, time, document, etag, created_at) \
         VALUES ('acme', $1, $2, gen_random_uuid(), 'create', $3, now(), $4, 'etag', now())",
    )
    .bind(name)
    .bind(revision + 1)
    .bind(ACTOR)
    .bind(document(name))
    .execute(&mut *tx)
    .await?;
    match sealed {
        None => {
            sqlx::query("UPDATE organizations SET epoch = $1, revision = $2 WHERE name = 'acme'")
                .bind(epoch)
                .bind(revision + 1)
                .execute(&mut *tx)
                .await?;
        }
        Some((sealed, head)) => {
            let index = sealed.record.index();
            sqlx::query(APPEND)
                .bind("acme")
                .bind(vec![sealed.chain.to_string()])
                .bind(vec![sealed.sequence.cast_signed()])
                .bind(vec![sealed.bytes.clone()])
                .bind(vec![sealed.previous.to_vec()])
                .bind(vec![sealed.hash.to_vec()])
                .bind(vec![index.time])
                .bind(vec![index.actor])
                .bind(vec![index.verb])
                .bind(vec![index.kind])
                .bind(vec![index.name])
                .bind(vec![index.outcome])
                .bind(head.sequence.cast_signed())
                .bind(head.hash.to_vec())
                .bind(head.time)
                .bind(epoch)
                .bind(revision + 1)
                .execute(&mut *tx)
                .await?;
        }
    }
    tx.commit().await?;
    Ok(())
}

fn document(name: &str) -> Value {
    let namespace = format!("*/{}", name.replace('/', "-"));
    json!({"name": name, "spec": {"namespaces": [namespace]}})
}
