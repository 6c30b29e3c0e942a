//! What each revision did to each resource. Rows are only added.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use sea_query::{Cond, Expr, ExprTrait, Order, Query, SelectStatement};
use serde_json::Value;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use tombolo_compiler::intent::Resource;
use tombolo_compiler::name::Fqn;
use uuid::Uuid;

use super::{History, JoinedClusters, Organizations, Store, StoreError, Tx, execute, fetch};
use crate::history::{Entry, Event, Place};
use crate::snapshot::{Stored, Tree};

/// Rows of one statement, below what Postgres can bind at once.
const ROWS_MAX: usize = 1000;

/// A part of a tree.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part<'a> {
    All,
    /// The node, what is above it and what is below it.
    Around(&'a Fqn),
    Names(&'a [Fqn]),
}

/// Which entries of a list are wanted.
#[derive(Clone, Debug)]
pub(crate) struct HistoryFilter {
    pub(crate) node: Fqn,
    /// With what is below the node.
    pub(crate) below: bool,
    /// Not what was before this revision.
    pub(crate) since: u64,
    /// Nor what came after this one.
    pub(crate) until: Option<u64>,
    /// Only what stands behind this place.
    pub(crate) after: Option<Place>,
}

impl Store {
    pub(crate) async fn insert_history(&self, tx: &mut Tx, entries: &[Entry]) -> Result<(), StoreError> {
        for chunk in entries.chunks(ROWS_MAX) {
            let mut statement = Query::insert();
            let columns = COLUMNS.into_iter().chain([History::Organization]);
            statement.into_table(History::Table).columns(columns);
            for entry in chunk {
                let stored = entry.event.stored();
                statement.values_panic([
                    entry.name.as_str().into(),
                    entry.revision.cast_signed().into(),
                    entry.uid.into(),
                    entry.event.action().into(),
                    entry.actor.as_str().into(),
                    entry.time.into(),
                    stored.map(|stored| stored.resource.to_json()).into(),
                    stored.map(|stored| stored.etag.clone()).into(),
                    stored.map(|stored| stored.created_at).into(),
                    self.organization.as_str().into(),
                ]);
            }
            execute(tx, "write the history", &statement).await?;
        }
        Ok(())
    }

    /// The tree, or a part of it, as `revision` left it.
    pub(crate) async fn tree_at(
        &self,
        connection: &mut PgConnection,
        part: Part<'_>,
        revision: u64,
    ) -> Result<Tree, StoreError> {
        let mut statement = self.select_history();
        statement
            .distinct_on([History::Name])
            .and_where(Expr::col(History::Revision).lte(revision.cast_signed()))
            .order_by(History::Name, Order::Asc)
            .order_by(History::Revision, Order::Desc);
        let wanted = match part {
            Part::All => Cond::all(),
            Part::Names(names) => Cond::all().add(one_of(names)),
            Part::Around(node) => {
                let lineage: Vec<Fqn> = node.lineage().collect();
                Cond::any().add(one_of(&lineage)).add(below(node))
            }
        };
        statement.cond_where(wanted);
        let rows = fetch(connection, "read the tree of a revision", &statement).await?;
        let entries = rows.iter().map(entry);
        let mut tree = Tree::new();
        for entry in entries {
            if let Some(stored) = entry?.event.stored() {
                tree.insert(stored.name().clone(), stored.clone());
            }
        }
        Ok(tree)
    }

    /// Newest first; of one revision in the order of the names.
    pub(crate) async fn list_history(
        &self,
        connection: &mut PgConnection,
        filter: &HistoryFilter,
        limit: u64,
    ) -> Result<Vec<Entry>, StoreError> {
        let mut statement = self.select_history();
        statement
            .and_where(Expr::col(History::Revision).gte(filter.since.cast_signed()))
            .order_by(History::Revision, Order::Desc)
            .order_by(History::Name, Order::Asc)
            .limit(limit);
        if let Some(until) = filter.until {
            statement.and_where(Expr::col(History::Revision).lte(until.cast_signed()));
        }
        let itself = Expr::col(History::Name).eq(filter.node.as_str());
        match filter.below {
            true => statement.cond_where(Cond::any().add(itself).add(below(&filter.node))),
            false => statement.and_where(itself),
        };
        if let Some(place) = &filter.after {
            let revision = place.revision.cast_signed();
            let same = Cond::all()
                .add(Expr::col(History::Revision).eq(revision))
                .add(Expr::col(History::Name).gt(place.name.as_str()));
            let older = Expr::col(History::Revision).lt(revision);
            statement.cond_where(Cond::any().add(older).add(same));
        }
        let rows = fetch(connection, "list the history", &statement).await?;
        rows.iter().map(entry).collect()
    }

    /// The first revision that the resource was in; `None` when it is in no revision.
    pub(crate) async fn first_revision(
        &self,
        connection: &mut PgConnection,
        name: &Fqn,
        uid: Uuid,
    ) -> Result<Option<u64>, StoreError> {
        let mut statement = Query::select();
        statement
            .expr(Expr::col(History::Revision).min())
            .from(History::Table)
            .and_where(Expr::col(History::Organization).eq(self.organization.as_str()))
            .and_where(Expr::col(History::Name).eq(name.as_str()))
            .and_where(Expr::col(History::Uid).eq(uid));
        let rows = fetch(connection, "look for the first revision", &statement).await?;
        let first: Option<i64> = rows
            .first()
            .map_or(Ok(None), |row| row.try_get(0))
            .map_err(read)?;
        Ok(first.map(i64::cast_unsigned))
    }

    /// When the next change of a resource was committed: the revision's end. `None` while it is the latest.
    pub(crate) async fn ended_at(
        &self,
        connection: &mut PgConnection,
        revision: u64,
    ) -> Result<Option<DateTime<Utc>>, StoreError> {
        let statement = Query::select()
            .column(History::Time)
            .from(History::Table)
            .and_where(Expr::col(History::Organization).eq(self.organization.as_str()))
            .and_where(Expr::col(History::Revision).gt(revision.cast_signed()))
            .order_by(History::Revision, Order::Asc)
            .limit(1)
            .to_owned();
        let rows = fetch(connection, "look for the next revision", &statement).await?;
        rows.first().map(|row| column(row, "time")).transpose()
    }

    /// The first revision that can be read.
    pub(crate) async fn history_since(&self, connection: &mut PgConnection) -> Result<u64, StoreError> {
        let statement = Query::select()
            .column(Organizations::HistorySince)
            .from(Organizations::Table)
            .and_where(Expr::col(Organizations::Name).eq(self.organization.as_str()))
            .to_owned();
        let rows = fetch(connection, "look for the begin of the history", &statement).await?;
        let since: Option<i64> = rows.first().map(|row| column(row, "history_since")).transpose()?;
        Ok(since.unwrap_or_default().cast_unsigned())
    }

    /// The clusters that had been heard of by then, by uid.
    pub(crate) async fn joined_at(
        &self,
        connection: &mut PgConnection,
        revision: u64,
    ) -> Result<Vec<Uuid>, StoreError> {
        let statement = Query::select()
            .column(JoinedClusters::Uid)
            .from(JoinedClusters::Table)
            .and_where(Expr::col(JoinedClusters::Organization).eq(self.organization.as_str()))
            .and_where(Expr::col(JoinedClusters::Revision).lte(revision.cast_signed()))
            .to_owned();
        let rows = fetch(connection, "read the joined clusters of a revision", &statement).await?;
        rows.iter().map(|row| column(row, "uid")).collect()
    }

    fn select_history(&self) -> SelectStatement {
        Query::select()
            .columns(COLUMNS)
            .from(History::Table)
            .and_where(Expr::col(History::Organization).eq(self.organization.as_str()))
            .to_owned()
    }
}

const COLUMNS: [History; 9] = [
    History::Name,
    History::Revision,
    History::Uid,
    History::Action,
    History::Actor,
    History::Time,
    History::Document,
    History::Etag,
    History::CreatedAt,
];

fn one_of(names: &[Fqn]) -> Expr {
    Expr::col(History::Name).is_in(names.iter().map(Fqn::as_str))
}

/// A range of the key; `0` is the character behind `/`.
fn below(node: &Fqn) -> Cond {
    Cond::all()
        .add(Expr::col(History::Name).gt(format!("{node}/")))
        .add(Expr::col(History::Name).lt(format!("{node}0")))
}

fn entry(row: &PgRow) -> Result<Entry, StoreError> {
    let name: String = column(row, "name")?;
    let corrupt = |reason: String| StoreError::Corrupt {
        table: "history",
        name: name.clone(),
        reason,
    };
    let revision = column::<i64>(row, "revision")?.cast_unsigned();
    let uid = column(row, "uid")?;
    let time = column(row, "time")?;
    let document: Option<Value> = column(row, "document")?;
    let stored = || -> Result<Arc<Stored>, StoreError> {
        let document = document.ok_or_else(|| corrupt("it holds no document".to_owned()))?;
        let resource = Resource::from_json(document).map_err(|error| corrupt(error.to_string()))?;
        Ok(Arc::new(Stored {
            resource: Arc::new(resource),
            uid,
            etag: column(row, "etag")?,
            revision,
            created_at: column(row, "created_at")?,
            updated_at: time,
            managed: None,
            // Whose it is, is told of the present only.
            owner: None,
        }))
    };
    let action: String = column(row, "action")?;
    let event = match action.as_str() {
        "create" => Event::Created(stored()?),
        "update" => Event::Updated(stored()?),
        _ => Event::Deleted,
    };
    Ok(Entry {
        name: name.parse().map_err(|error| corrupt(format!("{error}")))?,
        revision,
        uid,
        event,
        actor: column(row, "actor")?,
        time,
    })
}

fn column<'r, T>(row: &'r PgRow, name: &'static str) -> Result<T, StoreError>
where
    T: sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    row.try_get(name).map_err(read)
}

fn read(source: sqlx::Error) -> StoreError {
    StoreError::Query {
        doing: "read a row of the history",
        source,
    }
}
