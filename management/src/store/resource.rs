//! Resources and the tombstones of their names. A caller's reads are one statement: it finds whose token that is, becomes that
//! user, and reads what row-level security shows to it. What lists does it here; what reads one, with others, in `lookup`.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use sea_query::{Expr, ExprTrait, OnConflict, Query};
use serde::Deserialize;
use serde_json::{Value, json};
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{AssertSqlSafe, PgConnection, Row};
use tombolo_compiler::fields::{Fields, Kept};
use tombolo_compiler::intent::Resource;
use tombolo_compiler::name::Fqn;
use uuid::Uuid;

use super::token::{HOLDER, Holder, holder};
use super::{Resources, Store, StoreError, Tombstones, Tx, bounded, execute, fetch};
use crate::computations::aside;
use crate::managed::{Managed, Manager};
use crate::snapshot::Stored;

/// Where a list goes on, and how far.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    /// `organizations/acme/tenants`
    pub(crate) collection: String,
    /// Only names behind this one.
    pub(crate) after: String,
    pub(crate) limit: usize,
}

/// A part of a collection, in the order of the names, at one revision of the organization.
#[derive(Clone, Debug, Default)]
pub(crate) struct Part {
    pub(crate) revision: u64,
    pub(crate) resources: Vec<Stored>,
}

/// What a read shows of a resource.
const COLUMNS: &str = "name, uid, document, etag, revision, created_at, updated_at, managed_by, managed_revision, managed_fields, owner";

const MANAGED_FIELDS: &str = "managed_fields";

impl Store {
    /// `None` for a token that nobody holds. `OFFSET 0` and the mention of the user keep Postgres from looking before the token has made the transaction somebody's;
    /// if it did, there would be no row.
    pub(crate) async fn list_by_token(
        &self,
        sha256: [u8; 32],
        window: &Window,
    ) -> Result<Option<(Holder, Part)>, StoreError> {
        let sql = format!(
            "SELECT {HOLDER}, o.revision AS head_revision, r.* FROM look_up(ARRAY[$1], ARRAY[NULL], ARRAY[NULL]) t \
             JOIN LATERAL (SELECT revision FROM organizations WHERE name = $2 AND t.user_uid IS NOT NULL OFFSET 0) o \
             ON true LEFT JOIN LATERAL (SELECT {COLUMNS} FROM resources WHERE collection = $3 \
             AND name COLLATE \"C\" > $4 AND t.user_uid IS NOT NULL ORDER BY name COLLATE \"C\" LIMIT $5) r ON true \
             ORDER BY r.name COLLATE \"C\""
        );
        let query = sqlx::query(AssertSqlSafe(sql))
            .bind(sha256.to_vec())
            .bind(self.organization.as_str())
            .bind(&window.collection)
            .bind(&window.after)
            .bind(i64::try_from(window.limit).unwrap_or(i64::MAX));
        let mut connection = self.connection().await?;
        let rows = bounded("list resources", query.fetch_all(&mut *connection)).await?;
        let Some(row) = rows.first() else {
            return Ok(None);
        };
        let revision: i64 = column(row, "head_revision")?;
        let resources = rows.iter().filter_map(|row| shown(row, None).transpose());
        let part = Part {
            revision: revision.cast_unsigned(),
            resources: resources.collect::<Result<_, _>>()?,
        };
        Ok(Some((holder(row)?, part)))
    }

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
                Resources::ManagedBy,
                Resources::ManagedRevision,
                Resources::ManagedFields,
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
                manager(stored).into(),
                managed_revision(stored).into(),
                managed_fields(stored).into(),
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
            .value(Resources::ManagedBy, manager(stored))
            .value(Resources::ManagedRevision, managed_revision(stored))
            .value(Resources::ManagedFields, managed_fields(stored))
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
                Resources::ManagedBy,
                Resources::ManagedRevision,
                Resources::ManagedFields,
                Resources::Owner,
            ])
            .from(Resources::Table)
            .and_where(Expr::col(Resources::Organization).eq(self.organization.as_str()))
            .and_where(Expr::col(Resources::Revision).gt(revision.cast_signed()))
            .to_owned();
        let rows = fetch(connection, "read resources", &statement).await?;
        aside(|| rows.iter().map(stored).collect())
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

/// Of a row that may hold no resource. Where it comes without its document, `held` has that, under the same ETag.
pub(super) fn shown(row: &PgRow, held: Option<&Stored>) -> Result<Option<Stored>, StoreError> {
    let found: Option<&str> = column(row, "name")?;
    if found.is_none() {
        return Ok(None);
    }
    let document: Option<Value> = column(row, "document")?;
    let etag: &str = column(row, "etag")?;
    match (document, held.filter(|held| held.etag == etag)) {
        (None, Some(held)) => stored_as(row, held.resource.clone()).map(Some),
        (document, _) => stored_of(row, document.unwrap_or_default()).map(Some),
    }
}

fn name(row: &PgRow) -> Result<Fqn, StoreError> {
    let text: String = column(row, "name")?;
    text.parse().map_err(|error| corrupt(&text, &error))
}

fn stored(row: &PgRow) -> Result<Stored, StoreError> {
    stored_of(row, column(row, "document")?)
}

fn stored_of(row: &PgRow, document: Value) -> Result<Stored, StoreError> {
    let name = name(row)?;
    let resource = Resource::from_json(document).map_err(|error| corrupt(name.as_str(), &error))?;
    stored_as(row, Arc::new(resource))
}

fn stored_as(row: &PgRow, resource: Arc<Resource>) -> Result<Stored, StoreError> {
    let name = &resource.name;
    if column::<&str>(row, "name")? != name.as_str() {
        return Err(corrupt(name.as_str(), &"its document has another name"));
    }
    let uid: Uuid = column(row, "uid")?;
    let revision: i64 = column(row, "revision")?;
    let created_at: DateTime<Utc> = column(row, "created_at")?;
    let updated_at: DateTime<Utc> = column(row, "updated_at")?;
    let managed_by: Option<String> = column(row, "managed_by")?;
    let managed_revision: Option<i64> = column(row, "managed_revision")?;
    let managed = managed_by.zip(managed_revision).map(|(by, revision)| {
        let by = Manager::parse(&by).map_err(|error| corrupt(name.as_str(), &error))?;
        Ok(Managed {
            by,
            revision: revision.cast_unsigned(),
            kept: kept(row, revision)?,
        })
    });
    Ok(Stored {
        uid,
        etag: column(row, "etag")?,
        revision: revision.cast_unsigned(),
        created_at,
        updated_at,
        managed: managed.transpose()?,
        owner: column(row, "owner")?,
        resource,
    })
}

fn manager(stored: &Stored) -> Option<&str> {
    stored.managed.as_ref().map(|managed| managed.by.as_str())
}

fn managed_revision(stored: &Stored) -> Option<i64> {
    stored
        .managed
        .as_ref()
        .map(|managed| managed.revision.cast_signed())
}

fn managed_fields(stored: &Stored) -> Option<Value> {
    let managed = stored.managed.as_ref()?;
    match &managed.kept {
        Kept::Whole => None,
        Kept::Fields(fields) => Some(json!({"revision": managed.revision, "fields": fields})),
    }
}

/// What a manager keeps whose last write was at that revision. A look-up does not read it: the tree in memory knows.
fn kept(row: &PgRow, revision: i64) -> Result<Kept, StoreError> {
    #[derive(Deserialize)]
    struct Recorded {
        revision: i64,
        fields: Fields,
    }
    if row.try_column(MANAGED_FIELDS).is_err() {
        return Ok(Kept::Whole);
    }
    let recorded: Option<Json<Recorded>> = column(row, MANAGED_FIELDS)?;
    let current = recorded.filter(|recorded| recorded.revision == revision);
    Ok(current.map_or(Kept::Whole, |recorded| Kept::Fields(recorded.0.fields)))
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
