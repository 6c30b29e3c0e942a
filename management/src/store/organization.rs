//! The head row of the organization: its version, and the end of its chain of audit records.

use sea_query::{Expr, ExprTrait, LockType, OnConflict, Query};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use tombolo_proto::held::Version;
use uuid::Uuid;

use super::{Organizations, Store, StoreError, Tx, bounded, execute, fetch};
use crate::audit::ChainHead;

/// The first epoch; a restored database is adopted as the next.
const FIRST_EPOCH: u64 = 1;
const DOING: &str = "read the organization's head";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) version: Version,
    pub(crate) audit: ChainHead,
}

impl Store {
    /// Whether the row is new. A replica that creates it at the same time waits for this transaction.
    pub(crate) async fn create_head(&self, tx: &mut Tx) -> Result<bool, StoreError> {
        let start = ChainHead::default();
        let statement = Query::insert()
            .into_table(Organizations::Table)
            .columns([
                Organizations::Name,
                Organizations::Epoch,
                Organizations::Revision,
                Organizations::AuditSequence,
                Organizations::AuditHash,
            ])
            .values_panic([
                self.organization.as_str().into(),
                FIRST_EPOCH.cast_signed().into(),
                0_i64.into(),
                start.sequence.cast_signed().into(),
                start.hash.to_vec().into(),
            ])
            .on_conflict(OnConflict::new().do_nothing().to_owned())
            .to_owned();
        Ok(execute(tx, "create the organization's head", &statement).await? == 1)
    }

    /// Waits for every write that is under way, and keeps the next ones out until the transaction ends.
    pub(crate) async fn lock_head(&self, tx: &mut Tx) -> Result<Head, StoreError> {
        self.select_head(tx, Some(LockType::Update)).await
    }

    /// As [`Store::lock_head`], for who came with that token, key or session; `None` when it does not hold any more once the
    /// lock is held. The lock is taken below, so that this is looked at behind it.
    pub(crate) async fn lock_head_with(
        &self,
        tx: &mut Tx,
        credential: Uuid,
    ) -> Result<Option<Head>, StoreError> {
        let sql = "SELECT head.*, is_unrevoked($2) AS holds FROM (SELECT epoch, revision, audit_sequence, audit_hash, \
                   audit_time FROM organizations WHERE name = $1 FOR UPDATE) head";
        let locking = sqlx::query(sql)
            .bind(self.organization.as_str())
            .bind(credential)
            .fetch_all(&mut **tx);
        let rows = bounded(DOING, locking).await?;
        let head = self.read_head(&rows)?;
        let holds = rows.first().map(|row| row.try_get("holds")).transpose();
        let holds = holds.map_err(unread)?.unwrap_or(false);
        Ok(Some(head).filter(|_| holds))
    }

    pub(crate) async fn head(&self, connection: &mut PgConnection) -> Result<Head, StoreError> {
        self.select_head(connection, None).await
    }

    /// The version alone, outside of any transaction: what a replica polls.
    pub(crate) async fn version(&self) -> Result<Version, StoreError> {
        let mut connection = self.connection().await?;
        Ok(self.head(&mut connection).await?.version)
    }

    async fn select_head(
        &self,
        connection: &mut PgConnection,
        lock: Option<LockType>,
    ) -> Result<Head, StoreError> {
        let mut statement = Query::select();
        statement
            .columns([
                Organizations::Epoch,
                Organizations::Revision,
                Organizations::AuditSequence,
                Organizations::AuditHash,
                Organizations::AuditTime,
            ])
            .from(Organizations::Table)
            .and_where(Expr::col(Organizations::Name).eq(self.organization.as_str()));
        if let Some(lock) = lock {
            statement.lock(lock);
        }
        let rows = fetch(connection, DOING, &statement).await?;
        self.read_head(&rows)
    }

    fn read_head(&self, rows: &[PgRow]) -> Result<Head, StoreError> {
        let corrupt = |reason: &str| StoreError::Corrupt {
            table: "organizations",
            name: self.organization.to_string(),
            reason: reason.to_owned(),
        };
        let row = rows.first().ok_or_else(|| corrupt("it is missing"))?;
        let number = |column| row.try_get::<i64, _>(column).map(i64::cast_unsigned);
        let hash: Vec<u8> = row.try_get("audit_hash").map_err(unread)?;
        Ok(Head {
            version: Version {
                epoch: number("epoch").map_err(unread)?,
                revision: number("revision").map_err(unread)?,
            },
            audit: ChainHead {
                sequence: number("audit_sequence").map_err(unread)?,
                hash: hash.try_into().map_err(|_| corrupt("its hash is not 32 bytes"))?,
                time: row.try_get("audit_time").map_err(unread)?,
            },
        })
    }
}

fn unread(source: sqlx::Error) -> StoreError {
    StoreError::Query { doing: DOING, source }
}
