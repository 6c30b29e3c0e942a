//! Resources and the tombstones of their names.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use sea_query::{Expr, ExprTrait, OnConflict, Query};
use serde_json::Value;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use tombolo_compiler::intent::Resource;
use tombolo_compiler::name::Fqn;
use uuid::Uuid;

use super::{Resources, Store, StoreError, Tombstones, Tx, execute, fetch};
use crate::snapshot::Stored;

impl Store {
    pub(crate) async fn insert_resource(&self, tx: &mut Tx, stored: &Stored) -> Result<(), StoreError> {
        let statement = Query::insert()
            .into_table(Resources::Table)
            .columns([
                Resources::Name,
                Resources::Organization,
                Resources::Uid,
                Resources::Kind,
                Resources::Document,
                Resources::Etag,
                Resources::Revision,
                Resources::CreatedAt,
                Resources::UpdatedAt,
                Resources::Owner,
            ])
            .values_panic([
                stored.name().as_str().into(),
                self.organization.as_str().into(),
                stored.uid.into(),
                stored.resource.kind().to_string().into(),
                stored.resource.to_json().into(),
                stored.etag.as_str().into(),
                stored.revision.cast_signed().into(),
                stored.created_at.into(),
                stored.updated_at.into(),
                stored.owner.into(),
            ])
            .on_conflict(OnConflict::column(Resources::Name).do_nothing().to_owned())
            .to_owned();
        let rows = execute(tx, "insert a resource", &statement).await?;
        one_row(rows, stored.name())
    }

    /// `held` is the ETag that the row must have.
    pub(crate) async fn update_resource(
        &self,
        tx: &mut Tx,
        stored: &Stored,
        held: &str,
    ) -> Result<(), StoreError> {
        let statement = Query::update()
            .table(Resources::Table)
            .value(Resources::Document, stored.resource.to_json())
            .value(Resources::Etag, stored.etag.as_str())
            .value(Resources::Revision, stored.revision.cast_signed())
            .value(Resources::UpdatedAt, stored.updated_at)
            .value(Resources::Owner, stored.owner)
            .and_where(Expr::col(Resources::Name).eq(stored.name().as_str()))
            .and_where(Expr::col(Resources::Etag).eq(held))
            .to_owned();
        let rows = execute(tx, "update a resource", &statement).await?;
        one_row(rows, stored.name())
    }

    /// Removes the row, which must be as `held` says, and leaves a tombstone.
    pub(crate) async fn delete_resource(
        &self,
        tx: &mut Tx,
        held: &Stored,
        revision: u64,
    ) -> Result<(), StoreError> {
        let statement = Query::delete()
            .from_table(Resources::Table)
            .and_where(Expr::col(Resources::Name).eq(held.name().as_str()))
            .and_where(Expr::col(Resources::Etag).eq(held.etag.as_str()))
            .to_owned();
        let rows = execute(tx, "delete a resource", &statement).await?;
        one_row(rows, held.name())?;
        let tombstone = Query::insert()
            .into_table(Tombstones::Table)
            .columns([
                Tombstones::Name,
                Tombstones::Organization,
                Tombstones::Uid,
                Tombstones::Revision,
            ])
            .values_panic([
                held.name().as_str().into(),
                self.organization.as_str().into(),
                held.uid.into(),
                revision.cast_signed().into(),
            ])
            .on_conflict(
                OnConflict::column(Tombstones::Name)
                    .update_columns([Tombstones::Uid, Tombstones::Revision])
                    .to_owned(),
            )
            .to_owned();
        execute(tx, "leave a tombstone", &tombstone).await?;
        Ok(())
    }

    pub(crate) async fn resources_since(
        &self,
        connection: &mut PgConnection,
        revision: u64,
    ) -> Result<Vec<Stored>, StoreError> {
        let statement = Query::select()
            .columns([
                Resources::Name,
                Resources::Uid,
                Resources::Document,
                Resources::Etag,
                Resources::Revision,
                Resources::CreatedAt,
                Resources::UpdatedAt,
                Resources::Owner,
            ])
            .from(Resources::Table)
            .and_where(Expr::col(Resources::Organization).eq(self.organization.as_str()))
            .and_where(Expr::col(Resources::Revision).gt(revision.cast_signed()))
            .to_owned();
        let rows = fetch(connection, "read resources", &statement).await?;
        rows.iter().map(stored).collect()
    }

    /// Names that were deleted since. One of them may exist again.
    pub(crate) async fn tombstones_since(
        &self,
        connection: &mut PgConnection,
        revision: u64,
    ) -> Result<Vec<Fqn>, StoreError> {
        let statement = Query::select()
            .column(Tombstones::Name)
            .from(Tombstones::Table)
            .and_where(Expr::col(Tombstones::Organization).eq(self.organization.as_str()))
            .and_where(Expr::col(Tombstones::Revision).gt(revision.cast_signed()))
            .to_owned();
        let rows = fetch(connection, "read tombstones", &statement).await?;
        rows.iter().map(name).collect()
    }
}

fn one_row(rows: u64, name: &Fqn) -> Result<(), StoreError> {
    match rows {
        1 => Ok(()),
        _ => Err(StoreError::Meddled {
            name: name.to_string(),
        }),
    }
}

fn name(row: &PgRow) -> Result<Fqn, StoreError> {
    let text: String = column(row, "name")?;
    text.parse().map_err(|error| corrupt(&text, &error))
}

fn stored(row: &PgRow) -> Result<Stored, StoreError> {
    let name = name(row)?;
    let document: Value = column(row, "document")?;
    let resource = Resource::from_json(document).map_err(|error| corrupt(name.as_str(), &error))?;
    if resource.name != name {
        return Err(corrupt(name.as_str(), &"its document has another name"));
    }
    let uid: Uuid = column(row, "uid")?;
    let revision: i64 = column(row, "revision")?;
    let created_at: DateTime<Utc> = column(row, "created_at")?;
    let updated_at: DateTime<Utc> = column(row, "updated_at")?;
    Ok(Stored {
        resource: Arc::new(resource),
        uid,
        etag: column(row, "etag")?,
        revision: revision.cast_unsigned(),
        created_at,
        updated_at,
        owner: column(row, "owner")?,
    })
}

fn column<'r, T>(row: &'r PgRow, name: &'static str) -> Result<T, StoreError>
where
    T: sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    row.try_get(name).map_err(|source| StoreError::Query {
        doing: "read a resource's row",
        source,
    })
}

fn corrupt(name: &str, reason: &dyn std::fmt::Display) -> StoreError {
    StoreError::Corrupt {
        table: "resources",
        name: name.to_owned(),
        reason: reason.to_string(),
    }
}
