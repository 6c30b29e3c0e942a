//! What each central last reported.

use chrono::{DateTime, Utc};
use sea_query::{Expr, ExprTrait, OnConflict, Query};
use serde_json::Value;
use sqlx::{PgConnection, Row};

use super::{Reports, Store, StoreError, Tx, execute, fetch};

impl Store {
    pub(crate) async fn upsert_report(
        &self,
        tx: &mut Tx,
        central: &str,
        document: Value,
        received_at: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let statement = Query::insert()
            .into_table(Reports::Table)
            .columns([
                Reports::Organization,
                Reports::Central,
                Reports::Document,
                Reports::ReceivedAt,
            ])
            .values_panic([
                self.organization.as_str().into(),
                central.into(),
                document.into(),
                received_at.into(),
            ])
            .on_conflict(
                OnConflict::columns([Reports::Organization, Reports::Central])
                    .update_columns([Reports::Document, Reports::ReceivedAt])
                    .to_owned(),
            )
            .to_owned();
        execute(tx, "store a report", &statement).await?;
        Ok(())
    }

    pub(crate) async fn reports(
        &self,
        connection: &mut PgConnection,
    ) -> Result<Vec<(String, Value)>, StoreError> {
        let statement = Query::select()
            .columns([Reports::Central, Reports::Document])
            .from(Reports::Table)
            .and_where(Expr::col(Reports::Organization).eq(self.organization.as_str()))
            .to_owned();
        let rows = fetch(connection, "read the reports", &statement).await?;
        rows.iter()
            .map(|row| Ok((row.try_get("central")?, row.try_get("document")?)))
            .collect::<Result<_, sqlx::Error>>()
            .map_err(|source| StoreError::Query {
                doing: "read the reports",
                source,
            })
    }
}
