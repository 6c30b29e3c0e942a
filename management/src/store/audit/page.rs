//! Pages of the record, newest first, both chains merged.

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Postgres, QueryBuilder};

use super::super::{Store, StoreError, bounded};
use super::column;
use super::path::{FIRST_KEY_DEPTH, Lead, Path, depth, paths, scope};
use crate::audit::Chain;

/// Which records to list. All conditions must hold.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    pub(crate) since: Option<DateTime<Utc>>,
    pub(crate) until: Option<DateTime<Utc>>,
    pub(crate) actor: Option<String>,
    /// This name, and all below it.
    pub(crate) name: Option<String>,
    pub(crate) kind: Option<String>,
    pub(crate) verb: Option<String>,
    pub(crate) outcome: Option<String>,
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

/// Every walk of a page has an index in the order of the page, and ends with the page. What Postgres would guess of how many rows
/// have two keys at once is the product of independent guesses, and where that is too few it would fetch all of them
/// and sort.
const WALK: &str = "SELECT set_config('enable_bitmapscan', 'off', true), set_config('enable_seqscan', 'off', true), \
                    set_config('enable_sort', 'off', true)";
const NEWEST_FIRST: &str = " ORDER BY time DESC, chain DESC, sequence DESC LIMIT ";

impl Store {
    pub(crate) async fn list_audit(
        &self,
        connection: &mut PgConnection,
        filter: &Filter,
        limit: u64,
    ) -> Result<Vec<Listed>, StoreError> {
        let organization = self.organization.as_str();
        let paths = paths(organization, filter);
        if paths.is_empty() {
            return Ok(Vec::new());
        }
        let walking = sqlx::query(WALK).execute(&mut *connection);
        bounded("prepare to list audit records", walking).await?;
        let mut statement = QueryBuilder::new("SELECT chain, sequence, time, record, hash FROM (");
        for (number, path) in paths.iter().enumerate() {
            if number > 0 {
                statement.push(" UNION ALL ");
            }
            push_walk(&mut statement, organization, filter, path, limit);
        }
        statement.push(") AS walked").push(NEWEST_FIRST).push(limit);
        let listing = statement.build().fetch_all(connection);
        let rows = bounded("list audit records", listing).await?;
        rows.iter().map(listed).collect()
    }
}

/// A stretch of one chain: the records behind `after`, up to `until`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) chain: Chain,
    pub(crate) after: u64,
    pub(crate) until: u64,
}

impl Store {
    /// Those of the stretch that the filter lets through, oldest first.
    pub(crate) async fn audit_stretch(
        &self,
        connection: &mut PgConnection,
        filter: &Filter,
        stretch: Stretch,
    ) -> Result<Vec<Listed>, StoreError> {
        if filter.nodes.is_empty() {
            return Ok(Vec::new());
        }
        let mut statement =
            QueryBuilder::new("SELECT chain, sequence, time, record, hash FROM audit WHERE organization = ");
        statement.push_bind(self.organization.to_string());
        statement
            .push(" AND chain = ")
            .push_bind(stretch.chain.to_string());
        statement
            .push(" AND sequence > ")
            .push_bind(stretch.after.cast_signed());
        statement
            .push(" AND sequence <= ")
            .push_bind(stretch.until.cast_signed());
        push_filter(&mut statement, filter);
        statement.push(" ORDER BY sequence");
        let reading = statement.build().fetch_all(connection);
        let rows = bounded("read audit records", reading).await?;
        rows.iter().map(listed).collect()
    }
}

impl Filter {
    /// Apart from what may be read.
    pub(crate) fn lets_all_through(&self) -> bool {
        let Filter {
            since,
            until,
            actor,
            name,
            kind,
            verb,
            outcome,
            nodes: _,
            after,
        } = self;
        let words = [actor, name, kind, verb, outcome];
        since.is_none() && until.is_none() && after.is_none() && words.iter().all(|word| word.is_none())
    }

    /// Whether it asks for kind, verb or outcome.
    pub(super) fn has_class(&self) -> bool {
        self.kind.is_some() || self.verb.is_some() || self.outcome.is_some()
    }
}

/// One walk for each key of the lead, and for each class when it goes by class.
///
/// The limit is part of the text: Postgres plans a statement that it has seen often without its values, and for a limit
/// that it does not know it expects a tenth of the table.
fn push_walk(
    statement: &mut QueryBuilder<Postgres>,
    organization: &str,
    filter: &Filter,
    path: &Path,
    limit: u64,
) {
    statement.push("SELECT page.* FROM (SELECT 1) AS one");
    match &path.lead {
        Lead::Any | Lead::Actor(_) => {}
        Lead::Nodes { keys, .. } => {
            statement.push(" CROSS JOIN unnest(");
            statement.push_bind(keys.clone()).push("::int[]) AS node (key)");
        }
    }
    if path.by_class {
        statement.push(" CROSS JOIN (SELECT class_key AS key FROM audit_classes WHERE organization = ");
        statement.push_bind(organization.to_owned());
        push_class(statement, filter);
        statement.push(") AS class");
    }
    statement.push(
        " CROSS JOIN LATERAL (SELECT chain, sequence, time, record, hash FROM audit WHERE organization = ",
    );
    statement.push_bind(organization.to_owned());
    match &path.lead {
        Lead::Any => {}
        Lead::Actor(actor) => {
            statement.push(" AND actor_key = ").push_bind(*actor);
        }
        Lead::Nodes { depth, actor, .. } => {
            statement.push(format!(" AND node{depth}_key = node.key"));
            if let Some(actor) = actor {
                statement.push(" AND actor_key = ").push_bind(*actor);
            }
        }
    }
    if path.by_class {
        statement.push(" AND class_key = class.key");
    }
    push_filter(statement, filter);
    statement.push(NEWEST_FIRST).push(limit).push(") AS page");
}

/// All that a record must be, in the words of its columns: what a key has found is compared with the text.
pub(super) fn push_filter(statement: &mut QueryBuilder<Postgres>, filter: &Filter) {
    if let Some(since) = filter.since {
        statement.push(" AND time >= ").push_bind(since);
    }
    if let Some(until) = filter.until {
        statement.push(" AND time < ").push_bind(until);
    }
    if let Some(actor) = &filter.actor {
        statement.push(" AND actor = ").push_bind(actor.clone());
    }
    push_class(statement, filter);
    let scope = scope(filter);
    if !scope.iter().any(|node| depth(node) < FIRST_KEY_DEPTH) {
        // Names hold no character that LIKE reads in its own way.
        let below: Vec<String> = scope.iter().map(|node| format!("{node}/%")).collect();
        let nodes: Vec<String> = scope.into_iter().map(str::to_owned).collect();
        statement.push(" AND (name = ANY(").push_bind(nodes);
        statement.push("::text[]) OR name LIKE ANY(").push_bind(below);
        statement.push("::text[]))");
    }
    if let Some(place) = &filter.after {
        statement.push(" AND time <= ").push_bind(place.time);
        statement.push(" AND (time, chain, sequence) < (");
        statement.push_bind(place.time).push(", ");
        statement.push_bind(place.chain.to_string()).push(", ");
        statement.push_bind(place.sequence.cast_signed()).push(")");
    }
}

fn push_class(statement: &mut QueryBuilder<Postgres>, filter: &Filter) {
    for (column, wanted) in [
        ("kind", &filter.kind),
        ("verb", &filter.verb),
        ("outcome", &filter.outcome),
    ] {
        if let Some(wanted) = wanted {
            statement.push(format!(" AND {column} = "));
            statement.push_bind(wanted.clone());
        }
    }
}

pub(super) fn listed(row: &PgRow) -> Result<Listed, StoreError> {
    Ok(Listed {
        place: place(row)?,
        bytes: column(row, "record")?,
        hash: column(row, "hash")?,
    })
}

pub(super) fn place(row: &PgRow) -> Result<Place, StoreError> {
    let chain: String = column(row, "chain")?;
    let sequence: i64 = column(row, "sequence")?;
    Ok(Place {
        time: column(row, "time")?,
        chain: chain.parse().map_err(|error| StoreError::Corrupt {
            table: "audit",
            name: sequence.to_string(),
            reason: format!("{error}"),
        })?,
        sequence: sequence.cast_unsigned(),
    })
}
