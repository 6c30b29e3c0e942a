//! The audit records of both chains, and the head of the chain of denials.

use chrono::{DateTime, Utc};
use sea_query::{Cond, Expr, ExprTrait, LockType, OnConflict, Order, Query, SelectStatement};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};

use super::{Audit, DenialHeads, Store, StoreError, Tx, execute, fetch};
use crate::audit::{Chain, ChainHead, Found, Index, Outcome, Sealed};

/// Which records to list. All conditions must hold.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    pub(crate) since: Option<DateTime<Utc>>,
    pub(crate) until: Option<DateTime<Utc>>,
    pub(crate) actor: Option<String>,
    /// This name, and all below it.
    pub(crate) name: Option<String>,
    pub(crate) outcome: Option<Outcome>,
    /// The nodes that the caller may read, with all below them.
    pub(crate) nodes: Vec<String>,
    /// Only what stands behind this place in the list.
    pub(crate) after: Option<Place>,
}

/// Where a record stands in the list, newest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) time: DateTime<Utc>,
    pub(crate) chain: Chain,
    pub(crate) sequence: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Listed {
    pub(crate) place: Place,
    pub(crate) bytes: Vec<u8>,
    pub(crate) hash: Vec<u8>,
}

impl Store {
    pub(crate) async fn insert_audit(&self, tx: &mut Tx, sealed: &[Sealed]) -> Result<(), StoreError> {
        if sealed.is_empty() {
            return Ok(());
        }
        let mut statement = Query::insert();
        statement.into_table(Audit::Table).columns([
            Audit::Organization,
            Audit::Chain,
            Audit::Sequence,
            Audit::Record,
            Audit::Previous,
            Audit::Hash,
            Audit::Time,
            Audit::Actor,
            Audit::Verb,
            Audit::Name,
            Audit::Outcome,
        ]);
        for one in sealed {
            let index = one.record.index();
            statement.values_panic([
                self.organization.as_str().into(),
                one.chain.to_string().into(),
                one.sequence.cast_signed().into(),
                one.bytes.clone().into(),
                one.previous.to_vec().into(),
                one.hash.to_vec().into(),
                index.time.into(),
                index.actor.into(),
                index.verb.into(),
                index.name.into(),
                index.outcome.into(),
            ]);
        }
        execute(tx, "write the audit records", &statement).await?;
        Ok(())
    }

    /// Newest first, both chains merged.
    pub(crate) async fn list_audit(
        &self,
        connection: &mut PgConnection,
        filter: &Filter,
        limit: u64,
    ) -> Result<Vec<Listed>, StoreError> {
        if filter.nodes.is_empty() {
            // No condition at all would stand for every record.
            return Ok(Vec::new());
        }
        let mut statement = Query::select();
        statement
            .columns([
                Audit::Chain,
                Audit::Sequence,
                Audit::Time,
                Audit::Record,
                Audit::Hash,
            ])
            .from(Audit::Table)
            .and_where(Expr::col(Audit::Organization).eq(self.organization.as_str()))
            .order_by(Audit::Time, Order::Desc)
            .order_by(Audit::Chain, Order::Desc)
            .order_by(Audit::Sequence, Order::Desc)
            .limit(limit);
        narrow(&mut statement, filter);
        let rows = fetch(connection, "list audit records", &statement).await?;
        rows.iter().map(listed).collect()
    }

    /// The records of one chain behind `sequence`, oldest first.
    pub(crate) async fn audit_chain(
        &self,
        connection: &mut PgConnection,
        chain: Chain,
        sequence: u64,
        limit: u64,
    ) -> Result<Vec<Found>, StoreError> {
        let statement = Query::select()
            .columns([
                Audit::Sequence,
                Audit::Record,
                Audit::Previous,
                Audit::Hash,
                Audit::Time,
                Audit::Actor,
                Audit::Verb,
                Audit::Name,
                Audit::Outcome,
            ])
            .from(Audit::Table)
            .and_where(Expr::col(Audit::Organization).eq(self.organization.as_str()))
            .and_where(Expr::col(Audit::Chain).eq(chain.to_string()))
            .and_where(Expr::col(Audit::Sequence).gt(sequence.cast_signed()))
            .order_by(Audit::Sequence, Order::Asc)
            .limit(limit)
            .to_owned();
        let rows = fetch(connection, "read audit records", &statement).await?;
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
            .and_where(Expr::col(DenialHeads::Organization).eq(self.organization.as_str()))
            .to_owned();
        execute(tx, "advance the head of the denials", &statement).await?;
        Ok(())
    }

    fn select_denial_head(&self) -> SelectStatement {
        Query::select()
            .columns([DenialHeads::Sequence, DenialHeads::Hash])
            .from(DenialHeads::Table)
            .and_where(Expr::col(DenialHeads::Organization).eq(self.organization.as_str()))
            .to_owned()
    }
}

fn narrow(statement: &mut SelectStatement, filter: &Filter) {
    let mut readable = Cond::any();
    for node in &filter.nodes {
        readable = readable.add(within(node));
    }
    statement.cond_where(readable);
    if let Some(since) = filter.since {
        statement.and_where(Expr::col(Audit::Time).gte(since));
    }
    if let Some(until) = filter.until {
        statement.and_where(Expr::col(Audit::Time).lt(until));
    }
    if let Some(actor) = &filter.actor {
        statement.and_where(Expr::col(Audit::Actor).eq(actor.as_str()));
    }
    if let Some(name) = &filter.name {
        statement.cond_where(within(name));
    }
    if let Some(outcome) = filter.outcome {
        statement.and_where(Expr::col(Audit::Outcome).eq(outcome.to_string()));
    }
    if let Some(place) = &filter.after {
        statement.and_where(
            Expr::tuple([
                Expr::col(Audit::Time),
                Expr::col(Audit::Chain),
                Expr::col(Audit::Sequence),
            ])
            .lt(Expr::tuple([
                Expr::val(place.time),
                Expr::val(place.chain.to_string()),
                Expr::val(place.sequence.cast_signed()),
            ])),
        );
    }
}

/// Names hold no character that LIKE reads in its own way; what a caller sends as a filter may, and then finds
/// other names among those that it may read.
fn within(node: &str) -> Cond {
    Cond::any()
        .add(Expr::col(Audit::Name).eq(node))
        .add(Expr::col(Audit::Name).like(format!("{node}/%")))
}

fn chain_head(row: &PgRow) -> Result<ChainHead, StoreError> {
    let sequence: i64 = column(row, "sequence")?;
    let hash: Vec<u8> = column(row, "hash")?;
    Ok(ChainHead {
        sequence: sequence.cast_unsigned(),
        hash: hash.try_into().map_err(|_| StoreError::Corrupt {
            table: "denial_heads",
            name: sequence.to_string(),
            reason: "its hash is not 32 bytes".to_owned(),
        })?,
    })
}

fn listed(row: &PgRow) -> Result<Listed, StoreError> {
    let chain: String = column(row, "chain")?;
    let sequence: i64 = column(row, "sequence")?;
    Ok(Listed {
        place: Place {
            time: column(row, "time")?,
            chain: chain.parse().map_err(|error| StoreError::Corrupt {
                table: "audit",
                name: sequence.to_string(),
                reason: format!("{error}"),
            })?,
            sequence: sequence.cast_unsigned(),
        },
        bytes: column(row, "record")?,
        hash: column(row, "hash")?,
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
