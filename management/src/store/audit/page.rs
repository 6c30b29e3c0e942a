//! Pages of the record, newest first, both chains merged; and stretches of one chain, oldest first.
//!
//! A chain is walked backwards: first the records that are in no segment yet, then the small segments, the large and the huge
//! ones. Of a segment only the buckets of the terms that are sought are read, and of its records only those that hold
//! them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::mem;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, QueryBuilder};

use super::super::{Store, StoreError, bounded};
use super::column;
use super::filter::Filter;
use super::month::{month_begin, month_end, month_of};
use super::segment::{
    DIRECTORY, Damaged, HUGE_MAX, LARGE_MAX, Members, Outline, Sought, Tier, places_between,
};
use crate::audit::Chain;

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

/// A stretch of one chain: the records behind `after`, up to `until`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) chain: Chain,
    pub(crate) after: u64,
    pub(crate) until: u64,
}

/// Segments that are read at first, of each tier; then twice as many each time, since what was not found in those is rare.
const SEGMENTS_FIRST: u64 = 4;
const SEGMENTS_MAX: u64 = 128;
/// Records that are read beyond those that are wanted, because terms and the directory find a few too many.
const SPARE: usize = 8;
/// Records in no segment whose words are looked at, at a time.
const UNINDEXED_BATCH: usize = 256;
/// Records in no segment that one statement looks at, well within the time that it has, and how many such statements a
/// page may cost: after an upgrade there may be millions that are not indexed yet.
const UNINDEXED_STEP: u64 = 16_384;
const UNINDEXED_STEPS: usize = 8;

impl Store {
    /// At most so many. The connection reads one moment ([`Store::read_months_as`]): what is in no segment then is in none of those
    /// that are read.
    pub(crate) async fn list_audit(
        &self,
        connection: &mut PgConnection,
        filter: &Filter,
        limit: usize,
    ) -> Result<Vec<Listed>, StoreError> {
        let Some(sought) = filter.sought() else {
            return Ok(Vec::new());
        };
        let mut filter = filter.clone();
        let mut listed: Vec<Listed> = Vec::new();
        // Writes first, of which there are many more: of the denials no more are wanted than are newer. Among many that are
        // not indexed, that would be a search for a few.
        let chains = self.ends(connection).await?;
        let are_indexed = chains.iter().all(Ends::are_indexed);
        for ends in chains {
            let chain = ends.chain;
            let walk = Walk {
                store: self,
                connection: &mut *connection,
                filter: &filter,
                sought: &sought,
                ends,
                limit,
                below: match filter.after {
                    Some(after) if after.chain == chain => after.sequence,
                    _ => i64::MAX.cast_unsigned(),
                },
                has_read_any: false,
                found: Vec::new(),
            };
            let found = Box::pin(walk.run()).await?;
            if let Some(oldest) = found.last().filter(|_| found.len() == limit && are_indexed) {
                filter.since = filter.since.max(Some(oldest.place.time));
            }
            listed.extend(found);
        }
        listed.sort_unstable_by_key(|listed| Reverse(listed.place.order()));
        listed.truncate(limit);
        Ok(listed)
    }

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
        let mut statement = self.select_of(stretch.chain);
        statement
            .push(" AND sequence > ")
            .push_bind(stretch.after.cast_signed());
        statement
            .push(" AND sequence <= ")
            .push_bind(stretch.until.cast_signed());
        filter.push(&mut statement);
        statement.push(" ORDER BY sequence");
        let mut listed = list(connection, statement).await?;
        listed.retain(|listed| filter.finds_words_in(&listed.bytes));
        Ok(listed)
    }

    /// Of both chains.
    ///
    /// It locks the record first, as retention does, which takes the postings afterwards: `ONLY` of a partitioned table has no
    /// rows.
    async fn ends(&self, connection: &mut PgConnection) -> Result<Vec<Ends>, StoreError> {
        const ENDS: &str = "
            SELECT ends.chain, ends.sequence, coalesce(indexed.sequence, 0) AS indexed,
                coalesce(indexed.time, to_timestamp(0)) AS indexed_time
            FROM audit_ends() AS ends
            LEFT JOIN audit_indexed AS indexed ON indexed.organization = $1 AND indexed.chain = ends.chain
            WHERE NOT EXISTS (SELECT FROM ONLY audit)
            ORDER BY chain DESC";
        let reading = sqlx::query(ENDS)
            .bind(self.organization.as_str())
            .fetch_all(connection);
        let rows = bounded("find out which audit records are indexed", reading).await?;
        let read = |row| {
            let (last, indexed): (i64, i64) = (column(row, "sequence")?, column(row, "indexed")?);
            Ok(Ends {
                chain: chain(row, last)?,
                last: last.cast_unsigned(),
                indexed: indexed.cast_unsigned(),
                indexed_time: column(row, "indexed_time")?,
            })
        };
        rows.iter().map(read).collect()
    }

    fn select_of(&self, chain: Chain) -> QueryBuilder<sqlx::Postgres> {
        let mut statement =
            QueryBuilder::new("SELECT chain, sequence, time, record, hash FROM audit WHERE organization = ");
        statement.push_bind(self.organization.to_string());
        statement.push(" AND chain = ").push_bind(chain.to_string());
        statement
    }
}

impl Place {
    /// Of the list, oldest first.
    fn order(&self) -> (DateTime<Utc>, String, u64) {
        (self.time, self.chain.to_string(), self.sequence)
    }
}

/// The last record of a chain, and the last that is in a segment.
#[derive(Clone, Copy, Debug)]
struct Ends {
    chain: Chain,
    last: u64,
    indexed: u64,
    indexed_time: DateTime<Utc>,
}

impl Ends {
    /// All but what one statement looks at.
    fn are_indexed(&self) -> bool {
        self.last.saturating_sub(self.indexed) < UNINDEXED_STEP
    }
}

/// One chain backwards, until a page is found or the chain ends.
struct Walk<'a> {
    store: &'a Store,
    connection: &'a mut PgConnection,
    filter: &'a Filter,
    sought: &'a Sought,
    ends: Ends,
    limit: usize,
    /// Only records before this one are wanted.
    below: u64,
    has_read_any: bool,
    found: Vec<Listed>,
}

/// A segment, with the buckets that were asked for.
struct Read {
    outline: Outline,
    buckets: HashMap<i32, Vec<u8>>,
}

impl Walk<'_> {
    async fn run(mut self) -> Result<Vec<Listed>, StoreError> {
        let indexed = self.ends.indexed_time;
        let newest = self.filter.newest().map_or(indexed, |newest| newest.min(indexed));
        if self.filter.newest().is_none_or(|newest| newest > indexed) {
            self.unindexed().await?;
        }
        let mut begins = Some(newest);
        for tier in Tier::NEWEST_FIRST {
            if let Some(at) = begins.filter(|_| !self.is_full()) {
                begins = self.segments(tier, at).await?;
            }
        }
        Ok(self.found)
    }

    fn is_full(&self) -> bool {
        self.found.len() >= self.limit
    }

    /// Record by record, of those behind the last segment.
    async fn unindexed(&mut self) -> Result<(), StoreError> {
        let first = self.ends.indexed + 1;
        let mut end = self.below;
        for _ in 0..UNINDEXED_STEPS {
            let begin = end
                .min(self.ends.last + 1)
                .saturating_sub(UNINDEXED_STEP)
                .max(first);
            while !self.is_full() && begin < end {
                let most = match self.filter.words.is_empty() {
                    true => self.limit,
                    false => UNINDEXED_BATCH,
                };
                let mut statement = self.store.select_of(self.ends.chain);
                statement.push(" AND sequence >= ").push_bind(begin.cast_signed());
                statement.push(" AND sequence < ").push_bind(end.cast_signed());
                statement
                    .push(" AND time >= ")
                    .push_bind(month_begin(month_of(self.ends.indexed_time)));
                self.filter.push(&mut statement);
                // Part of the text: Postgres plans a statement that it has seen often without its values, and for a limit
                // that it does not know it expects a tenth of the table.
                statement.push(format!(" ORDER BY sequence DESC LIMIT {most}"));
                let listed = list(self.connection, statement).await?;
                end = match listed.last() {
                    Some(last) if listed.len() == most => last.place.sequence,
                    _ => begin,
                };
                self.keep(listed);
            }
            if self.is_full() || begin == first {
                return Ok(());
            }
        }
        Err(StoreError::Unindexed { records: end - first })
    }

    /// The segments of a tier that begin at a time or before. Gives the same of the next tier; `None` when nothing older is
    /// wanted.
    async fn segments(
        &mut self,
        tier: Tier,
        mut begins: DateTime<Utc>,
    ) -> Result<Option<DateTime<Utc>>, StoreError> {
        let buckets = self.sought.buckets(tier);
        let segments_max = (tier.rows_max() / buckets.len() as u64).clamp(1, SEGMENTS_MAX);
        let mut most = SEGMENTS_FIRST.min(segments_max);
        let mut candidates = Vec::new();
        loop {
            let read = self.read(tier, &buckets, begins, most).await?;
            let is_last = (read.len() as u64) < most;
            for segment in &read {
                let outline = segment.outline;
                begins = outline.time - TimeDelta::microseconds(1);
                let directory = self.directory_at_an_end(tier, outline).await?;
                let members = self.members(tier, segment, directory.as_deref());
                let members = members.or_else(|damaged| self.unnarrowed(outline, damaged))?;
                let mut sequences = members.backwards().map(|place| outline.first + place);
                loop {
                    let wanted = self.limit - self.found.len() + SPARE;
                    let more = sequences.by_ref().take(wanted - candidates.len());
                    candidates.extend(more.map(|sequence| (sequence, outline.time)));
                    if candidates.len() < wanted {
                        break;
                    }
                    self.fetch(&mut candidates).await?;
                    if self.is_full() {
                        return Ok(None);
                    }
                }
            }
            let is_over = |since: DateTime<Utc>| read.last().is_some_and(|last| last.outline.time <= since);
            let is_over = self.filter.since.is_some_and(is_over);
            if is_last || is_over {
                while !candidates.is_empty() && !self.is_full() {
                    self.fetch(&mut candidates).await?;
                }
                return Ok((!is_over).then_some(begins));
            }
            most = (most * 2).min(segments_max);
        }
    }

    /// The newest first.
    async fn read(
        &mut self,
        tier: Tier,
        buckets: &[i32],
        begins: DateTime<Utc>,
        most: u64,
    ) -> Result<Vec<Read>, StoreError> {
        let reading = sqlx::query("SELECT * FROM audit_buckets($1, $2, $3, $4, $5)")
            .bind(self.ends.chain.to_string())
            .bind(tier.number())
            .bind(buckets)
            .bind(begins)
            .bind(most as i32)
            .fetch_all(&mut *self.connection);
        let rows = bounded("read the index of audit records", reading).await?;
        let mut segments: BTreeMap<Reverse<u64>, Read> = BTreeMap::new();
        for row in &rows {
            let outline = outline(row)?;
            let segment = segments.entry(Reverse(outline.first)).or_insert_with(|| Read {
                outline,
                buckets: HashMap::new(),
            });
            segment
                .buckets
                .insert(column(row, "bucket")?, column(row, "entries")?);
        }
        Ok(segments.into_values().collect())
    }

    /// Of the segments in which the time that is asked for ends and begins, which are the first and the last that are read:
    /// what is between them is within it.
    async fn directory_at_an_end(
        &mut self,
        tier: Tier,
        outline: Outline,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let is_first = !mem::replace(&mut self.has_read_any, true);
        let has_end = is_first && self.filter.newest().is_some();
        let has_begin = self.filter.since.is_some_and(|since| since >= outline.time);
        if !has_end && !has_begin {
            return Ok(None);
        }
        let read = self.read(tier, &[DIRECTORY], outline.time, 1).await?;
        let buckets = read.into_iter().next().map(|read| read.buckets);
        // Where it is missing, it is damaged.
        Ok(Some(
            buckets
                .and_then(|mut buckets| buckets.remove(&DIRECTORY))
                .unwrap_or_default(),
        ))
    }

    fn members(&self, tier: Tier, segment: &Read, directory: Option<&[u8]>) -> Result<Members, Damaged> {
        let Outline { first, length, .. } = segment.outline;
        let mut within = match directory {
            Some(directory) => places_between(directory, length, self.filter.since, self.filter.newest())?,
            None => 0..length,
        };
        within.end = within.end.min(self.below.saturating_sub(first));
        self.sought.members(tier, length, within, &segment.buckets)
    }

    /// Postings only narrow: without them, each record of the segment is looked at, unless it is a million of them.
    fn unnarrowed(&self, outline: Outline, damaged: Damaged) -> Result<Members, StoreError> {
        let (chain, first) = (self.ends.chain, outline.first);
        tracing::warn!(%chain, first, reason = %damaged, "the index of the audit record is damaged");
        if outline.length > LARGE_MAX {
            return Err(StoreError::Corrupt {
                table: "audit_postings",
                name: format!("{chain} {first}"),
                reason: damaged.to_string(),
            });
        }
        Ok(Members::range(0..outline.length, outline.length))
    }

    /// The first of the candidates, which it takes.
    async fn fetch(&mut self, candidates: &mut Vec<(u64, DateTime<Utc>)>) -> Result<(), StoreError> {
        let wanted = self.limit - self.found.len();
        let taken: Vec<(u64, DateTime<Utc>)> =
            candidates.drain(..candidates.len().min(wanted + SPARE)).collect();
        let (Some((_, newest)), Some((_, oldest))) = (taken.first(), taken.last()) else {
            return Ok(());
        };
        let sequences: Vec<i64> = taken.iter().map(|(sequence, _)| sequence.cast_signed()).collect();
        let mut statement = self.store.select_of(self.ends.chain);
        statement
            .push(" AND sequence = ANY(")
            .push_bind(sequences)
            .push("::bigint[])");
        // Only the months of those segments.
        statement
            .push(" AND time >= ")
            .push_bind(month_begin(month_of(*oldest)));
        statement
            .push(" AND time < ")
            .push_bind(month_end(month_of(*newest)));
        self.filter.push(&mut statement);
        statement.push(" ORDER BY sequence DESC");
        let listed = list(self.connection, statement).await?;
        self.keep(listed);
        Ok(())
    }

    fn keep(&mut self, listed: Vec<Listed>) {
        let listed = listed
            .into_iter()
            .filter(|listed| self.filter.finds_words_in(&listed.bytes));
        let wanted = self.limit - self.found.len();
        self.found.extend(listed.take(wanted));
    }
}

async fn list(
    connection: &mut PgConnection,
    mut statement: QueryBuilder<sqlx::Postgres>,
) -> Result<Vec<Listed>, StoreError> {
    let listing = statement.build().fetch_all(connection);
    let rows = bounded("list audit records", listing).await?;
    rows.iter().map(listed).collect()
}

fn listed(row: &PgRow) -> Result<Listed, StoreError> {
    let sequence: i64 = column(row, "sequence")?;
    Ok(Listed {
        place: Place {
            time: column(row, "time")?,
            chain: chain(row, sequence)?,
            sequence: sequence.cast_unsigned(),
        },
        bytes: column(row, "record")?,
        hash: column(row, "hash")?,
    })
}

fn chain(row: &PgRow, sequence: i64) -> Result<Chain, StoreError> {
    let chain: String = column(row, "chain")?;
    chain.parse().map_err(|error| StoreError::Corrupt {
        table: "audit",
        name: sequence.to_string(),
        reason: format!("{error}"),
    })
}

/// A row of `audit_postings` without its entries.
pub(super) fn outline(row: &PgRow) -> Result<Outline, StoreError> {
    let (first, length): (i64, i32) = (column(row, "first")?, column(row, "length")?);
    let outline = Outline {
        first: first.cast_unsigned(),
        length: length.cast_unsigned().into(),
        time: column(row, "time")?,
    };
    match first > 0 && (1..=HUGE_MAX).contains(&outline.length) {
        true => Ok(outline),
        false => Err(StoreError::Corrupt {
            table: "audit_postings",
            name: first.to_string(),
            reason: format!("{length} is no length of a segment"),
        }),
    }
}
