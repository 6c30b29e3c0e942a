//! The audit records of both chains, and the head of the chain of denials.

use chrono::{DateTime, Utc};
use sea_query::{Expr, ExprTrait, LockType, OnConflict, Query, SelectStatement};
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query as Prepared;
use sqlx::{PgConnection, Postgres, Row};

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
pub(crate) use segment::Tier;
pub(crate) use statement::{Month, Numbered};

/// The records of one write and the head behind them. One statement, since a write waits for each, of a fixed text, so that
/// Postgres plans it once. Public, so that what is measured is what management sends.
pub const APPEND: &str = concat!(
    "WITH appended AS (",
    include_str!("audit/insert.sql"),
    ") UPDATE organizations SET audit_sequence = $13, audit_hash = $14, audit_time = $15, epoch = $16, revision = $17 \
     WHERE name = $1"
);
const APPEND_DENIALS: &str = concat!(
    "WITH appended AS (",
    include_str!("audit/insert.sql"),
    ") UPDATE denial_heads SET sequence = $13, hash = $14, time = $15 WHERE organization = $1"
);

/// By the primary key, which has the order of the chain.
const CHAIN: &str = "
SELECT sequence, record, previous, hash, time, actor, verb, kind, name, outcome
FROM audit
WHERE organization = $1 AND chain = $2 AND sequence > $3
ORDER BY sequence
LIMIT $4";

/// How long management may be unable to add any before a write finds none.
const PARTITIONS_AHEAD: &str = "3 months";

/// The columns of many rows, as arrays.
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

type Appending = Prepared<'static, Postgres, PgArguments>;

impl Store {
    /// One record of something that changes no resource, behind the head that the transaction holds.
    pub(crate) async fn append_write(
        &self,
        tx: &mut Tx,
        head: Head,
        record: Record,
    ) -> Result<(), StoreError> {
        let (sealed, audit) = seal(Chain::Writes, head.audit, record);
        self.append(tx, &[sealed], &Head { audit, ..head }).await
    }

    /// Puts a record of something that changes no resource behind the others, in a transaction that holds nothing yet.
    pub(crate) async fn append_record(&self, tx: &mut Tx, record: Record) -> Result<(), StoreError> {
        let head = self.lock_head(tx).await?;
        self.append_write(tx, head, record).await
    }

    /// What a write has done, and the head that it leaves.
    pub(crate) async fn append(&self, tx: &mut Tx, sealed: &[Sealed], head: &Head) -> Result<(), StoreError> {
        let appending = self
            .appending(APPEND, sealed, &head.audit)
            .bind(head.version.epoch.cast_signed())
            .bind(head.version.revision.cast_signed())
            .execute(&mut **tx);
        let done = bounded("write the audit records", appending).await?;
        match done.rows_affected() {
            1 => Ok(()),
            _ => Err(StoreError::Corrupt {
                table: "organizations",
                name: self.organization.to_string(),
                reason: "it is missing".to_owned(),
            }),
        }
    }

    /// Denials, and the head of their chain.
    pub(crate) async fn append_denials(
        &self,
        tx: &mut Tx,
        sealed: &[Sealed],
        head: &ChainHead,
    ) -> Result<(), StoreError> {
        let appending = self.appending(APPEND_DENIALS, sealed, head).execute(&mut **tx);
        bounded("record denials", appending).await?;
        Ok(())
    }

    fn appending(&self, statement: &'static str, sealed: &[Sealed], head: &ChainHead) -> Appending {
        let mut columns = Columns::default();
        for one in sealed {
            columns.push(one);
        }
        sqlx::query(statement)
            .bind(self.organization.to_string())
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
            .bind(head.sequence.cast_signed())
            .bind(head.hash.to_vec())
            .bind(head.time)
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
    T: sqlx::Decode<'r, Postgres> + sqlx::Type<Postgres>,
{
    row.try_get(name).map_err(|source| StoreError::Query {
        doing: "read an audit row",
        source,
    })
}
