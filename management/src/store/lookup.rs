//! Who calls, and the resource that it reads: one statement for the requests of many.

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
        let asking = sqlx::query("SELECT * FROM look_up($1, $2)")
            .bind(given)
            .bind(names);
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
        found.map(FoundRow::read).transpose()
    }
}

impl FoundRow {
    pub(crate) fn read(&self) -> Result<Found, StoreError> {
        Ok(Found {
            holder: holder(&self.0)?,
            resource: shown(&self.0)?,
        })
    }
}

fn read(source: sqlx::Error) -> StoreError {
    StoreError::Query { doing: DOING, source }
}
