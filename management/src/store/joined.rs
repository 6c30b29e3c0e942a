//! Clusters that have been heard of at some time, by uid.

use chrono::{DateTime, Utc};
use sea_query::{Expr, ExprTrait, Query};
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::{JoinedClusters, Store, StoreError, Tx, execute, fetch};

impl Store {
    pub(crate) async fn insert_joined(
        &self,
        tx: &mut Tx,
        uid: Uuid,
        revision: u64,
        joined_at: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let statement = Query::insert()
            .into_table(JoinedClusters::Table)
            .columns([
                JoinedClusters::Uid,
                JoinedClusters::Organization,
                JoinedClusters::Revision,
                JoinedClusters::JoinedAt,
            ])
            .values_panic([
                uid.into(),
                self.organization.as_str().into(),
                revision.cast_signed().into(),
                joined_at.into(),
            ])
            .to_owned();
        execute(tx, "remember a joined cluster", &statement).await?;
        Ok(())
    }

    pub(crate) async fn joined_since(
        &self,
        connection: &mut PgConnection,
        revision: u64,
    ) -> Result<Vec<Uuid>, StoreError> {
        let statement = Query::select()
            .column(JoinedClusters::Uid)
            .from(JoinedClusters::Table)
            .and_where(Expr::col(JoinedClusters::Organization).eq(self.organization.as_str()))
            .and_where(Expr::col(JoinedClusters::Revision).gt(revision.cast_signed()))
            .to_owned();
        let rows = fetch(connection, "read the joined clusters", &statement).await?;
        rows.iter()
            .map(|row| {
                row.try_get("uid").map_err(|source| StoreError::Query {
                    doing: "read the joined clusters",
                    source,
                })
            })
            .collect()
    }
}
