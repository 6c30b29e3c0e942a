//! Free text: records that hold all of some words, newest first.
//!
//! Words that many records hold are found by walking the newest records that the filter has; words that few hold by
//! their index, month by month. Each way is slow at what the other is good at, so the first is tried for a while.

use std::collections::BTreeSet;

use chrono::{DateTime, Datelike, NaiveDate, Utc};
use sqlx::{PgConnection, QueryBuilder, Row};

use super::super::{Store, StoreError, bounded};
use super::page::{Filter, Listed, Place, listed, place, push_filter};
use crate::audit::{Record, key};

/// Records that are walked before the index of words is asked: a page of a hundred is found when more than every
/// twentieth record holds the words.
const WALKED_MAX: u64 = 2000;
/// Places that the index of words gives at a time.
const PLACES_MAX: i32 = 2000;

/// The places that the index of words gives are few, so that each record is looked up; but bitmaps, which the walk does
/// without, are the only way into that index.
const BY_WORD: &str = "SELECT set_config('enable_bitmapscan', 'on', true), set_config('enable_seqscan', 'off', true), \
                       set_config('enable_sort', 'on', true), set_config('enable_hashjoin', 'off', true), \
                       set_config('enable_mergejoin', 'off', true)";

impl Store {
    /// Like [`Store::list_audit`], of the records that hold all `words`.
    pub(crate) async fn search_audit(
        &self,
        connection: &mut PgConnection,
        filter: &Filter,
        words: &BTreeSet<String>,
        limit: usize,
    ) -> Result<Vec<Listed>, StoreError> {
        let walked = self.list_audit(connection, filter, WALKED_MAX).await?;
        let is_all = (walked.len() as u64) < WALKED_MAX;
        let reached = walked.last().map(|last| last.place);
        let mut found: Vec<Listed> = walked
            .into_iter()
            .filter(|listed| holds(listed, words))
            .take(limit)
            .collect();
        if is_all || found.len() == limit {
            return Ok(found);
        }
        let oldest = match filter.since {
            Some(since) => Some(since),
            None => self.oldest_audit(connection).await?,
        };
        let (Some(reached), Some(oldest)) = (reached, oldest) else {
            return Ok(found);
        };
        let preparing = sqlx::query(BY_WORD).execute(&mut *connection);
        bounded("prepare to search audit records", preparing).await?;
        let keys: Vec<i32> = words.iter().map(|word| key(word)).collect();
        let mut reached = reached;
        let mut month = month_of(reached.time);
        while month_end(month) > oldest && found.len() < limit {
            let places = self.places_of_words(connection, &keys, month, reached).await?;
            let filter = Filter {
                after: Some(reached),
                ..filter.clone()
            };
            let rest = limit - found.len();
            let listed = self.audit_at(connection, &filter, &places).await?;
            let listed = listed.into_iter().filter(|listed| holds(listed, words));
            found.extend(listed.take(rest));
            match places.last() {
                Some(last) if places.len() == PLACES_MAX as usize => reached = *last,
                _ => month = month_before(month),
            }
        }
        Ok(found)
    }

    async fn oldest_audit(&self, connection: &mut PgConnection) -> Result<Option<DateTime<Utc>>, StoreError> {
        let reading = sqlx::query("SELECT min(time) FROM audit WHERE organization = $1")
            .bind(self.organization.as_str())
            .fetch_one(connection);
        let row = bounded("find the oldest audit record", reading).await?;
        row.try_get(0).map_err(|source| StoreError::Query {
            doing: "find the oldest audit record",
            source,
        })
    }

    /// Within one month, behind `reached`, newest first. They may be of records that the caller may not read.
    async fn places_of_words(
        &self,
        connection: &mut PgConnection,
        keys: &[i32],
        month: NaiveDate,
        reached: Place,
    ) -> Result<Vec<Place>, StoreError> {
        let searching = sqlx::query("SELECT * FROM audit_places($1, $2, $3, $4, $5, $6, $7)")
            .bind(keys)
            .bind(midnight(month))
            .bind(month_end(month))
            .bind(reached.time)
            .bind(reached.chain.to_string())
            .bind(reached.sequence.cast_signed())
            .bind(PLACES_MAX)
            .fetch_all(connection);
        let rows = bounded("search the words of audit records", searching).await?;
        rows.iter().map(place).collect()
    }

    /// The records at these places that the filter lets through, newest first.
    async fn audit_at(
        &self,
        connection: &mut PgConnection,
        filter: &Filter,
        places: &[Place],
    ) -> Result<Vec<Listed>, StoreError> {
        if places.is_empty() {
            return Ok(Vec::new());
        }
        let times: Vec<DateTime<Utc>> = places.iter().map(|place| place.time).collect();
        let chains: Vec<String> = places.iter().map(|place| place.chain.to_string()).collect();
        let sequences: Vec<i64> = places.iter().map(|place| place.sequence.cast_signed()).collect();
        let mut statement = QueryBuilder::new(
            "SELECT record.chain, record.sequence, record.time, record.record, record.hash FROM unnest(",
        );
        statement.push_bind(times).push("::timestamptz[], ");
        statement.push_bind(chains).push("::text[], ");
        statement.push_bind(sequences).push(
            "::bigint[]) AS place (time, chain, sequence) CROSS JOIN LATERAL (SELECT * FROM audit WHERE \
             chain = place.chain AND sequence = place.sequence AND time = place.time AND organization = ",
        );
        statement.push_bind(self.organization.as_str().to_owned());
        push_filter(&mut statement, filter);
        statement.push(") AS record ORDER BY time DESC, chain DESC, sequence DESC");
        let reading = statement.build().fetch_all(connection);
        let rows = bounded("read the audit records found", reading).await?;
        rows.iter().map(listed).collect()
    }
}

/// The keys of words only narrow the search; the record itself says what it holds.
pub(crate) fn holds(listed: &Listed, words: &BTreeSet<String>) -> bool {
    serde_json::from_slice(&listed.bytes).is_ok_and(|record: Record| words.is_subset(&record.words()))
}

/// Its first day.
fn month_of(time: DateTime<Utc>) -> NaiveDate {
    first_day(time.year(), time.month())
}

fn month_before(month: NaiveDate) -> NaiveDate {
    match month.month() {
        1 => first_day(month.year() - 1, 12),
        later => first_day(month.year(), later - 1),
    }
}

/// The beginning of the next.
fn month_end(month: NaiveDate) -> DateTime<Utc> {
    midnight(match month.month() {
        12 => first_day(month.year() + 1, 1),
        earlier => first_day(month.year(), earlier + 1),
    })
}

fn first_day(year: i32, month: u32) -> NaiveDate {
    NaiveDate::from_ymd_opt(year, month, 1).unwrap_or(NaiveDate::MIN)
}

fn midnight(day: NaiveDate) -> DateTime<Utc> {
    day.and_time(chrono::NaiveTime::MIN).and_utc()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn months_follow_each_other_over_the_new_year() {
        let december = month_of("2025-12-31T23:59:59Z".parse().unwrap());
        assert_eq!(december.to_string(), "2025-12-01");
        assert_eq!(month_end(december).to_rfc3339(), "2026-01-01T00:00:00+00:00");
        let january = month_of(month_end(december));
        assert_eq!(month_before(january), december);
        assert_eq!(month_before(december).to_string(), "2025-11-01");
        assert_eq!(month_end(month_before(december)), midnight(december));
    }
}
