//! What appending to the record costs a write: the same transaction with and without the statement that inserts the
//! records, in turns; and what indexing a record later took, as if the write had waited for it. What else a write of
//! management does - the request, its authorization, the tree - is left out, so that the share is the greatest that it
//! can be.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use sqlx::{Connection, PgConnection};
use tombolo_management::audit::{Chain, ChainHead, Outcome, Record, Sealed, Verb, seal};

use super::database;
use super::load::tenant;
use crate::statistics::Sorted;

/// The statement of management, of the same file.
const INSERT: &str = include_str!("../../../../../management/src/store/audit/insert.sql");
/// Caches and plans are warm after so many.
const WARM_UP: usize = 50;

pub(super) struct Append {
    /// Of a write that is audited.
    pub(super) share: f64,
}

pub(super) async fn run(url: &str, samples: usize, indexing: Duration) -> Result<Append> {
    let mut connection = database(url).await?;
    let row: (i64, Vec<u8>, chrono::DateTime<chrono::Utc>) = sqlx::query_as(
        "SELECT audit_sequence, audit_hash, audit_time FROM organizations WHERE name = 'acme'",
    )
    .fetch_one(&mut connection)
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
        write(&mut connection, &name, None).await?;
        let bare = began.elapsed();
        let record = Record {
            source: "10.0.0.1".to_owned(),
            request_id: format!("bench-{number}"),
            after: Some(
                serde_json::json!({"name": name, "spec": {"namespaces": ["*/shop"], "description": "a workspace"}}),
            ),
            ..Record::new(
                "organizations/acme/users/u001",
                Verb::Create,
                format!("{name}a"),
                Outcome::Done,
            )
        };
        let began = Instant::now();
        let (sealed, next) = seal(Chain::Writes, head, record);
        head = next;
        write(&mut connection, &format!("{name}a"), Some((&sealed, &head))).await?;
        let audited = began.elapsed();
        if number >= WARM_UP {
            without.push(bare.as_secs_f64() * 1e6);
            with.push(audited.as_secs_f64() * 1e6);
        }
    }
    sqlx::query("DELETE FROM resources WHERE name LIKE '%/workspaces/bench%'")
        .execute(&mut connection)
        .await?;
    connection.close().await?;
    let (with, without) = (
        Sorted::new(with).context("no writes")?,
        Sorted::new(without).context("no writes")?,
    );
    println!();
    let indexing = indexing.as_secs_f64() * 1e6;
    println!(
        "a write: {:.0} µs without the audit insert, {:.0} µs with it (medians of {samples}, in turns); indexing took \
         {indexing:.0} µs a record",
        without.median(),
        with.median()
    );
    Ok(Append {
        share: (1.0 - without.median() / (with.median() + indexing)).max(0.0),
    })
}

/// A write of one resource as management does it; the head moves either way.
async fn write(
    connection: &mut PgConnection,
    name: &str,
    sealed: Option<(&Sealed, &ChainHead)>,
) -> Result<()> {
    let mut tx = connection.begin().await?;
    sqlx::query("SELECT epoch, revision, audit_sequence, audit_hash, audit_time FROM organizations WHERE name = 'acme' FOR UPDATE")
        .fetch_one(&mut *tx)
        .await?;
    sqlx::query(
        "INSERT INTO resources (name, organization, uid, kind, document, etag, revision, created_at, updated_at) \
         VALUES ($1, 'acme', gen_random_uuid(), 'Workspace', '{\"spec\": {\"namespaces\": [\"*/shop\"]}}', 'etag', 1, now(), now())",
    )
    .bind(name)
    .execute(&mut *tx)
    .await?;
    match sealed {
        None => {
            sqlx::query("UPDATE organizations SET revision = revision + 1 WHERE name = 'acme'")
                .execute(&mut *tx)
                .await?;
        }
        Some((sealed, head)) => {
            append(&mut tx, sealed).await?;
            sqlx::query(
                "UPDATE organizations SET revision = revision + 1, audit_sequence = $1, audit_hash = $2, audit_time = $3 \
                 WHERE name = 'acme'",
            )
            .bind(head.sequence.cast_signed())
            .bind(head.hash.to_vec())
            .bind(head.time)
            .execute(&mut *tx)
            .await?;
        }
    }
    tx.commit().await?;
    Ok(())
}

async fn append(connection: &mut PgConnection, sealed: &Sealed) -> Result<()> {
    let index = sealed.record.index();
    sqlx::query(INSERT)
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
        .execute(connection)
        .await?;
    Ok(())
}
