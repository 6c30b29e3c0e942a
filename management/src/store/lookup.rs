//! Who calls, and the resource that it reads: one statement for the requests of many.

use std::sync::Arc;

use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use tombolo_compiler::name::Fqn;

use super::resource::shown;
use super::token::{Holder, holder};
use super::{Store, StoreError, bounded};
use crate::snapshot::Stored;

/// A token, key or session that somebody has in hand, and what is to be read with it.
#[derive(Clone, Debug)]
pub(crate) struct Lookup {
    pub(crate) sha256: [u8; 32],
    pub(crate) name: Option<Fqn>,
    pub(crate) held: Option<Held>,
}

/// A resource as memory has it: where the database has the same, it need not send the document.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) epoch: u64,
    pub(crate) stored: Arc<Stored>,
}

/// Whose it is, and the resource as row-level security shows it to that user.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) holder: Holder,
    pub(crate) resource: Option<Stored>,
}

/// Not taken apart yet: that is for each to do who asked.
#[derive(Debug)]
pub(crate) struct FoundRow(PgRow);

const DOING: &str = "look up who calls";

impl Store {
    /// Asked for each request: what is revoked anywhere is refused everywhere at once. A row for each that somebody
    /// holds, in its place.
    pub(crate) async fn look_up(
        &self,
        connection: &mut PgConnection,
        lookups: &[&Lookup],
    ) -> Result<Vec<Option<FoundRow>>, StoreError> {
        let given: Vec<&[u8]> = lookups.iter().map(|lookup| &lookup.sha256[..]).collect();
        let names = lookups.iter().map(|lookup| lookup.name.as_ref().map(Fqn::as_str));
        let names: Vec<Option<&str>> = names.collect();
        let held = lookups.iter().map(|lookup| lookup.held.as_ref().map(Held::tag));
        let held: Vec<Option<String>> = held.collect();
        let asking = sqlx::query("SELECT * FROM look_up($1, $2, $3)")
            .bind(given)
            .bind(names)
            .bind(held);
        let rows = bounded(DOING, asking.fetch_all(connection)).await?;
        let mut found: Vec<Option<FoundRow>> = lookups.iter().map(|_| None).collect();
        for row in rows {
            let nth: i32 = row.try_get("nth").map_err(read)?;
            let place = usize::try_from(nth - 1)
                .ok()
                .and_then(|place| found.get_mut(place));
            *place.expect("invariant: look_up numbers what it was given, from one on") = Some(FoundRow(row));
        }
        Ok(found)
    }

    /// One alone.
    pub(crate) async fn find(&self, lookup: &Lookup) -> Result<Option<Found>, StoreError> {
        let mut connection = self.connection().await?;
        let found = self.look_up(&mut connection, &[lookup]).await?;
        let found = found.iter().flatten().next();
        found.map(|row| row.read(lookup.held.as_ref())).transpose()
    }
}

impl Held {
    /// What `look_up` compares. An ETag is unique within an epoch.
    fn tag(&self) -> String {
        format!("{}/{}", self.epoch, self.stored.etag)
    }
}

impl FoundRow {
    /// With what was held when it was asked for.
    pub(crate) fn read(&self, held: Option<&Held>) -> Result<Found, StoreError> {
        Ok(Found {
            holder: holder(&self.0)?,
            resource: shown(&self.0, held.map(|held| held.stored.as_ref()))?,
        })
    }
}

fn read(source: sqlx::Error) -> StoreError {
    StoreError::Query { doing: DOING, source }
}
