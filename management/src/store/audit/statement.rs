//! Signed statements about the chains, the keys that signed them, and how far they have left the system.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};

use super::super::{Store, StoreError, Tx, bounded};
use super::{column, mark};
use crate::audit::{Chain, KeyId, Mark, PublicKey, Signed, Statement, StatementKind};

/// A statement as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Numbered {
    pub(crate) number: u64,
    pub(crate) signed: Signed,
}

/// A month of the record, which is a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Month {
    /// Its first moment.
    pub(crate) begins: DateTime<Utc>,
    pub(crate) ends: DateTime<Utc>,
}

impl Store {
    pub(crate) async fn last_statement(
        &self,
        connection: &mut PgConnection,
        kind: StatementKind,
    ) -> Result<Option<Numbered>, StoreError> {
        const LAST: &str = "SELECT number, statement, key, signature FROM audit_statements \
                            WHERE organization = $1 AND kind = $2 ORDER BY number DESC LIMIT 1";
        let reading = sqlx::query(LAST)
            .bind(self.organization.as_str())
            .bind(kind.to_string())
            .fetch_optional(connection);
        let row = bounded("read the last audit statement", reading).await?;
        row.as_ref().map(numbered).transpose()
    }

    /// The last that speaks of nothing behind these records.
    pub(crate) async fn last_statement_within(
        &self,
        connection: &mut PgConnection,
        kind: StatementKind,
        writes: u64,
        denials: u64,
    ) -> Result<Option<Numbered>, StoreError> {
        const LAST: &str = "SELECT number, statement, key, signature FROM audit_statements \
                            WHERE organization = $1 AND kind = $2 AND writes <= $3 AND denials <= $4 \
                            ORDER BY number DESC LIMIT 1";
        let reading = sqlx::query(LAST)
            .bind(self.organization.as_str())
            .bind(kind.to_string())
            .bind(writes.cast_signed())
            .bind(denials.cast_signed())
            .fetch_optional(connection);
        let row = bounded("read the last audit statement", reading).await?;
        row.as_ref().map(numbered).transpose()
    }

    /// Those that follow `number`, in order.
    pub(crate) async fn statements_after(
        &self,
        connection: &mut PgConnection,
        number: u64,
        limit: u64,
    ) -> Result<Vec<Numbered>, StoreError> {
        const AFTER: &str = "SELECT number, statement, key, signature FROM audit_statements \
                             WHERE organization = $1 AND number > $2 ORDER BY number LIMIT $3";
        let reading = sqlx::query(AFTER)
            .bind(self.organization.as_str())
            .bind(number.cast_signed())
            .bind(limit.cast_signed())
            .fetch_all(connection);
        let rows = bounded("read audit statements", reading).await?;
        rows.iter().map(numbered).collect()
    }

    /// The number that the next statement has.
    pub(crate) async fn next_statement(&self, connection: &mut PgConnection) -> Result<u64, StoreError> {
        const NEXT: &str =
            "SELECT coalesce(max(number), 0) + 1 AS number FROM audit_statements WHERE organization = $1";
        let reading = sqlx::query(NEXT)
            .bind(self.organization.as_str())
            .fetch_one(connection);
        let row = bounded("number an audit statement", reading).await?;
        column(&row, "number").map(i64::cast_unsigned)
    }

    /// Whether it is new: another replica may have signed that number.
    pub(crate) async fn insert_statement(
        &self,
        tx: &mut Tx,
        statement: &Statement,
        signed: &Signed,
    ) -> Result<bool, StoreError> {
        const INSERT: &str = "INSERT INTO audit_statements (organization, number, kind, writes, denials, statement, key, signature) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, decode($8, 'base64')) ON CONFLICT DO NOTHING";
        let inserting = sqlx::query(INSERT)
            .bind(self.organization.as_str())
            .bind(statement.number.cast_signed())
            .bind(statement.kind.to_string())
            .bind(statement.writes.sequence.cast_signed())
            .bind(statement.denials.sequence.cast_signed())
            .bind(signed.statement.as_str())
            .bind(signed.key.to_string())
            .bind(signed.signature.as_str())
            .execute(&mut **tx);
        let done = bounded("store an audit statement", inserting).await?;
        Ok(done.rows_affected() == 1)
    }

    /// Whether the key is new.
    pub(crate) async fn insert_audit_key(
        &self,
        tx: &mut Tx,
        key: PublicKey,
        since: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        const INSERT: &str = "INSERT INTO audit_keys (organization, id, public_key, since) \
                              VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING";
        let inserting = sqlx::query(INSERT)
            .bind(self.organization.as_str())
            .bind(key.id().to_string())
            .bind(key.bytes().to_vec())
            .bind(since)
            .execute(&mut **tx);
        let done = bounded("store the audit key", inserting).await?;
        Ok(done.rows_affected() == 1)
    }

    /// Every key that has signed, the oldest first.
    pub(crate) async fn audit_keys(
        &self,
        connection: &mut PgConnection,
    ) -> Result<Vec<(PublicKey, DateTime<Utc>)>, StoreError> {
        const KEYS: &str =
            "SELECT id, public_key, since FROM audit_keys WHERE organization = $1 ORDER BY since, id";
        let reading = sqlx::query(KEYS)
            .bind(self.organization.as_str())
            .fetch_all(connection);
        let rows = bounded("read the audit keys", reading).await?;
        let read = |row: &PgRow| {
            let id: String = column(row, "id")?;
            let bytes: Vec<u8> = column(row, "public_key")?;
            let key = PublicKey::from_bytes(&bytes).ok_or(StoreError::Corrupt {
                table: "audit_keys",
                name: id,
                reason: "the key is not 32 bytes".to_owned(),
            })?;
            Ok((key, column(row, "since")?))
        };
        rows.iter().map(read).collect()
    }

    /// The number of the last statement that reached the target; zero for none.
    pub(crate) async fn delivered(
        &self,
        connection: &mut PgConnection,
        target: &str,
    ) -> Result<u64, StoreError> {
        const DELIVERED: &str = "SELECT number FROM audit_deliveries WHERE organization = $1 AND target = $2";
        let reading = sqlx::query(DELIVERED)
            .bind(self.organization.as_str())
            .bind(target)
            .fetch_optional(connection);
        let row = bounded("read what was delivered", reading).await?;
        row.map_or(Ok(0), |row| column(&row, "number").map(i64::cast_unsigned))
    }

    pub(crate) async fn set_delivered(
        &self,
        tx: &mut Tx,
        target: &str,
        number: u64,
    ) -> Result<(), StoreError> {
        const SET: &str = "INSERT INTO audit_deliveries AS held (organization, target, number) \
                           VALUES ($1, $2, $3) ON CONFLICT (organization, target) \
                           DO UPDATE SET number = greatest(held.number, excluded.number)";
        let setting = sqlx::query(SET)
            .bind(self.organization.as_str())
            .bind(target)
            .bind(number.cast_signed())
            .execute(&mut **tx);
        bounded("remember what was delivered", setting).await?;
        Ok(())
    }

    /// The months that have ended before `end`, the oldest first.
    pub(crate) async fn months_before(
        &self,
        connection: &mut PgConnection,
        end: DateTime<Utc>,
    ) -> Result<Vec<Month>, StoreError> {
        const MONTHS: &str = "
            SELECT begins, ends FROM (
                SELECT make_timestamptz(
                    left(right(child.relname, 7), 4)::int, right(child.relname, 2)::int, 1, 0, 0, 0, 'UTC') AS begins
                FROM pg_inherits JOIN pg_class child ON child.oid = inhrelid
                WHERE inhparent = 'audit'::regclass
            ) AS months, LATERAL (
                SELECT (begins AT TIME ZONE 'UTC' + interval '1 month') AT TIME ZONE 'UTC' AS ends
            ) AS ended
            WHERE ends <= $1 ORDER BY begins";
        let reading = sqlx::query(MONTHS).bind(end).fetch_all(connection);
        let rows = bounded("list the months of the audit record", reading).await?;
        let read = |row: &PgRow| {
            Ok(Month {
                begins: column(row, "begins")?,
                ends: column(row, "ends")?,
            })
        };
        rows.iter().map(read).collect()
    }

    /// The last record of the chain that is older than `end`; zero for none. `None` when a younger one stands before it:
    /// its clock was wrong, and it goes with its own month.
    pub(crate) async fn last_before(
        &self,
        connection: &mut PgConnection,
        chain: Chain,
        end: DateTime<Utc>,
    ) -> Result<Option<Mark>, StoreError> {
        const LAST: &str = "
            SELECT last.sequence, last.hash, EXISTS (
                SELECT FROM audit WHERE organization = $1 AND chain = $2 AND time >= $3 AND sequence < last.sequence
            ) AS follows_younger
            FROM audit AS last WHERE organization = $1 AND chain = $2 AND time < $3
            ORDER BY sequence DESC LIMIT 1";
        let reading = sqlx::query(LAST)
            .bind(self.organization.as_str())
            .bind(chain.to_string())
            .bind(end)
            .fetch_optional(connection);
        let Some(row) = bounded("find the end of a month", reading).await? else {
            return Ok(Some(Mark::default()));
        };
        match column(&row, "follows_younger")? {
            true => Ok(None),
            false => mark("audit", column(&row, "sequence")?, column(&row, "hash")?).map(Some),
        }
    }

    /// Whether the month was dropped: another organization of this database may have records in it.
    pub(crate) async fn drop_month(&self, tx: &mut Tx, month: &Month) -> Result<bool, StoreError> {
        let dropping = sqlx::query("SELECT audit_drop_partition($1)")
            .bind(month.begins)
            .fetch_one(&mut **tx);
        let row = bounded("drop a month of the audit record", dropping).await?;
        row.try_get(0).map_err(|source| StoreError::Query {
            doing: "drop a month of the audit record",
            source,
        })
    }
}

fn numbered(row: &PgRow) -> Result<Numbered, StoreError> {
    let number: i64 = column(row, "number")?;
    let key: String = column(row, "key")?;
    let signature: Vec<u8> = column(row, "signature")?;
    Ok(Numbered {
        number: number.cast_unsigned(),
        signed: Signed {
            statement: column(row, "statement")?,
            key: KeyId::from(key),
            signature: STANDARD.encode(signature),
        },
    })
}
