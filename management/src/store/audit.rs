//! The audit records of both chains, and the head of the chain of denials.

use chrono::{DateTime, Utc};
use sea_query::{Expr, ExprTrait, LockType, OnConflict, Query, SelectStatement};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};

use super::organization::Head;
use super::{DenialHeads, Store, StoreError, Tx, bounded, commit, execute, fetch};
use crate::audit::{Chain, ChainHead, Found, Index, Mark, Record, Sealed, seal};
use crate::iam::Principal;

mod filter;
mod indexing;
mod month;
mod page;
mod segment;
mod statement;

pub(crate) use filter::Filter;
pub(crate) use page::{Listed, Place, Stretch};
pub(crate) use statement::{Month, Numbered};

/// All rows of a write in one statement of a fixed text, so that Postgres plans it once.
const INSERT: &str = include_str!("audit/insert.sql");

/// By the primary key, which has the order of the chain.
const CHAIN: &str = "
SELECT sequence, record, previous, hash, time, actor, verb, kind, name, outcome
FROM audit
WHERE organization = $1 AND chain = $2 AND sequence > $3
ORDER BY sequence
LIMIT $4";

/// How long management may be unable to add any before a write finds none.
const PARTITIONS_AHEAD: &str = "3 months";

/// The columns of many rows, as the arrays of [`INSERT`].
#[derive(Debug, Default)]
struct Columns {
    chain: Vec<String>,
    sequence: Vec<i64>,
    record: Vec<Vec<u8>>,
    previous: Vec<Vec<u8>>,
    hash: Vec<Vec<u8>>,
    time: Vec<DateTime<Utc>>,
    actor: Vec<String>,
    verb: Vec<String>,
    kind: Vec<String>,
    name: Vec<String>,
    outcome: Vec<String>,
}

impl Store {
    /// One record of something that changes no resource, behind the head that the transaction holds.
    pub(crate) async fn append_write(
        &self,
        tx: &mut Tx,
        head: Head,
        record: Record,
    ) -> Result<(), StoreError> {
        let (sealed, audit) = seal(Chain::Writes, head.audit, record);
        self.insert_audit(tx, &[sealed]).await?;
        self.set_head(tx, &Head { audit, ..head }).await
    }

    /// Puts a record of something that changes no resource behind the others, in a transaction that holds nothing yet.
    pub(crate) async fn append_record(&self, tx: &mut Tx, record: Record) -> Result<(), StoreError> {
        let head = self.lock_head(tx).await?;
        self.append_write(tx, head, record).await
    }

    pub(crate) async fn insert_audit(&self, tx: &mut Tx, sealed: &[Sealed]) -> Result<(), StoreError> {
        if sealed.is_empty() {
            return Ok(());
        }
        let mut columns = Columns::default();
        for one in sealed {
            columns.push(one);
        }
        let inserting = sqlx::query(INSERT)
            .bind(self.organization.as_str())
            .bind(columns.chain)
            .bind(columns.sequence)
            .bind(columns.record)
            .bind(columns.previous)
            .bind(columns.hash)
            .bind(columns.time)
            .bind(columns.actor)
            .bind(columns.verb)
            .bind(columns.kind)
            .bind(columns.name)
            .bind(columns.outcome)
            .execute(&mut **tx);
        bounded("write the audit records", inserting).await?;
        Ok(())
    }

    /// The partitions of this month and of those to come.
    pub(crate) async fn add_partitions(&self) -> Result<(), StoreError> {
        let mut tx = self.begin_as(&Principal::System).await?;
        let adding = sqlx::query("SELECT audit_add_partitions(now(), now() + $1::interval)")
            .bind(PARTITIONS_AHEAD)
            .execute(&mut *tx);
        bounded("add partitions for audit records", adding).await?;
        commit(tx).await
    }

    /// The records of one chain behind `sequence`, oldest first.
    pub(crate) async fn audit_chain(
        &self,
        connection: &mut PgConnection,
        chain: Chain,
        sequence: u64,
        limit: u64,
    ) -> Result<Vec<Found>, StoreError> {
        let reading = sqlx::query(CHAIN)
            .bind(self.organization.as_str())
            .bind(chain.to_string())
            .bind(sequence.cast_signed())
            .bind(limit.cast_signed())
            .fetch_all(connection);
        let rows = bounded("read audit records", reading).await?;
        rows.iter().map(found).collect()
    }

    /// Creates it when it is missing, and locks it until the transaction ends.
    pub(crate) async fn lock_denial_head(&self, tx: &mut Tx) -> Result<ChainHead, StoreError> {
        let start = ChainHead::default();
        let create = Query::insert()
            .into_table(DenialHeads::Table)
            .columns([
                DenialHeads::Organization,
                DenialHeads::Sequence,
                DenialHeads::Hash,
            ])
            .values_panic([
                self.organization.as_str().into(),
                start.sequence.cast_signed().into(),
                start.hash.to_vec().into(),
            ])
            .on_conflict(OnConflict::new().do_nothing().to_owned())
            .to_owned();
        execute(tx, "create the head of the denials", &create).await?;
        let mut statement = self.select_denial_head();
        statement.lock(LockType::Update);
        let rows = fetch(tx, "lock the head of the denials", &statement).await?;
        rows.first().map_or(Ok(start), chain_head)
    }

    pub(crate) async fn denial_head(&self, connection: &mut PgConnection) -> Result<ChainHead, StoreError> {
        let rows = fetch(
            connection,
            "read the head of the denials",
            &self.select_denial_head(),
        )
        .await?;
        rows.first().map_or(Ok(ChainHead::default()), chain_head)
    }

    pub(crate) async fn set_denial_head(&self, tx: &mut Tx, head: &ChainHead) -> Result<(), StoreError> {
        let statement = Query::update()
            .table(DenialHeads::Table)
            .value(DenialHeads::Sequence, head.sequence.cast_signed())
            .value(DenialHeads::Hash, head.hash.to_vec())
            .value(DenialHeads::Time, head.time)
            .and_where(Expr::col(DenialHeads::Organization).eq(self.organization.as_str()))
            .to_owned();
        execute(tx, "advance the head of the denials", &statement).await?;
        Ok(())
    }

    fn select_denial_head(&self) -> SelectStatement {
        Query::select()
            .columns([DenialHeads::Sequence, DenialHeads::Hash, DenialHeads::Time])
            .from(DenialHeads::Table)
            .and_where(Expr::col(DenialHeads::Organization).eq(self.organization.as_str()))
            .to_owned()
    }
}

impl Columns {
    fn push(&mut self, sealed: &Sealed) {
        let index = sealed.record.index();
        self.chain.push(sealed.chain.to_string());
        self.sequence.push(sealed.sequence.cast_signed());
        self.record.push(sealed.bytes.clone());
        self.previous.push(sealed.previous.to_vec());
        self.hash.push(sealed.hash.to_vec());
        self.time.push(index.time);
        self.actor.push(index.actor);
        self.verb.push(index.verb);
        self.kind.push(index.kind);
        self.name.push(index.name);
        self.outcome.push(index.outcome);
    }
}

fn chain_head(row: &PgRow) -> Result<ChainHead, StoreError> {
    let sequence: i64 = column(row, "sequence")?;
    let hash: Vec<u8> = column(row, "hash")?;
    let mark = mark("denial_heads", sequence, hash)?;
    Ok(ChainHead {
        sequence: mark.sequence,
        hash: mark.hash,
        time: column(row, "time")?,
    })
}

fn mark(table: &'static str, sequence: i64, hash: Vec<u8>) -> Result<Mark, StoreError> {
    Ok(Mark {
        sequence: sequence.cast_unsigned(),
        hash: hash.try_into().map_err(|_| StoreError::Corrupt {
            table,
            name: sequence.to_string(),
            reason: "its hash is not 32 bytes".to_owned(),
        })?,
    })
}

fn found(row: &PgRow) -> Result<Found, StoreError> {
    let sequence: i64 = column(row, "sequence")?;
    Ok(Found {
        sequence: sequence.cast_unsigned(),
        bytes: column(row, "record")?,
        previous: column(row, "previous")?,
        hash: column(row, "hash")?,
        index: Index {
            time: column(row, "time")?,
            actor: column(row, "actor")?,
            verb: column(row, "verb")?,
            kind: column(row, "kind")?,
            name: column(row, "name")?,
            outcome: column(row, "outcome")?,
        },
    })
}

fn column<'r, T>(row: &'r PgRow, name: &'static str) -> Result<T, StoreError>
where
    T: sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    row.try_get(name).map_err(|source| StoreError::Query {
        doing: "read an audit row",
        source,
    })
}
