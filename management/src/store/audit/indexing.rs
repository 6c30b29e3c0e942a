//! Makes the segments that pages are found by, behind the writes: what is in none yet is read record by record.

use std::collections::HashMap;
use std::ops::Range;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use sqlx::postgres::PgRow;
use tokio::task::spawn_blocking;

use super::super::{Store, StoreError, Tx, bounded, commit};
use super::column;
use super::page::outline;
use super::segment::{Bucket, DIRECTORY, MERGED_MAX, Outline, SMALL_MAX, Segment, Tier, next_segment};
use crate::audit::Chain;
use crate::iam::Principal;

impl Store {
    /// The next small segment of the chain. Whether there is one: not before it is whole, nor while another replica makes
    /// it.
    pub(crate) async fn index_audit(&self, chain: Chain) -> Result<bool, StoreError> {
        let mut tx = self.begin_as(&Principal::System).await?;
        let Some(indexed) = self.lock_indexed(&mut tx, chain).await? else {
            return commit(tx).await.map(|()| false);
        };
        let records = self.outlines_behind(&mut tx, chain, indexed).await?;
        let Some(count) = next_segment(Tier::Small, &records) else {
            return commit(tx).await.map(|()| false);
        };
        let found = self.audit_chain(&mut tx, chain, indexed, count as u64).await?;
        let (end, _) = records[count - 1];
        let (outline, buckets) = computed(move || {
            let segment = Segment::of(&found);
            (
                segment.outline(),
                segment.buckets(Tier::Small, Tier::Small.all_buckets()),
            )
        })
        .await;
        self.insert_buckets(&mut tx, chain, Tier::Small, outline, buckets)
            .await?;
        const ADVANCE: &str =
            "UPDATE audit_indexed SET sequence = $3, time = $4 WHERE organization = $1 AND chain = $2";
        let advancing = sqlx::query(ADVANCE)
            .bind(self.organization.as_str())
            .bind(chain.to_string())
            .bind(end.first.cast_signed())
            .bind(end.time)
            .execute(&mut *tx);
        bounded("remember which audit records are indexed", advancing).await?;
        commit(tx).await?;
        Ok(true)
    }

    /// The oldest segments of a tier into one of the next. Whether there are as many.
    pub(crate) async fn merge_audit(
        &self,
        chain: Chain,
        (from, into): (Tier, Tier),
    ) -> Result<bool, StoreError> {
        let mut tx = self.begin_as(&Principal::System).await?;
        if self.lock_indexed(&mut tx, chain).await?.is_none() {
            return commit(tx).await.map(|()| false);
        }
        let oldest = self.oldest_segments(&mut tx, chain, from).await?;
        let oldest = match (next_segment(into, &oldest), into) {
            (Some(_), Tier::Large) => self.with_sizes(&mut tx, chain, from, oldest).await?,
            _ => oldest,
        };
        let Some(count) = next_segment(into, &oldest) else {
            return commit(tx).await.map(|()| false);
        };
        let parts: Vec<Outline> = oldest.into_iter().take(count).map(|(part, _)| part).collect();
        let merged = Outline {
            length: parts[count - 1].first + parts[count - 1].length - parts[0].first,
            ..parts[0]
        };
        for (numbers, target) in from.pieces(into) {
            let taken = self.take_buckets(&mut tx, chain, from, &parts, &numbers).await?;
            let parts = parts.clone();
            let buckets = computed(move || {
                let read = |part: &Outline| {
                    let buckets = taken.get(&part.first).map_or(&[][..], Vec::as_slice);
                    Segment::read(from, *part, &numbers, buckets).map_err(|damaged| StoreError::Corrupt {
                        table: "audit_postings",
                        name: format!("{chain} {}", part.first),
                        reason: damaged.to_string(),
                    })
                };
                let parts: Result<Vec<Segment>, StoreError> = parts.iter().map(read).collect();
                parts.map(|parts| Segment::merge(&parts).buckets(into, target))
            })
            .await?;
            self.insert_buckets(&mut tx, chain, into, merged, buckets).await?;
        }
        commit(tx).await?;
        Ok(true)
    }

    /// How many records of the chain are in no segment, of those up to `head`.
    pub(crate) async fn unindexed(
        &self,
        connection: &mut PgConnection,
        chain: Chain,
        head: u64,
    ) -> Result<u64, StoreError> {
        const INDEXED: &str = "SELECT coalesce(max(sequence), 0) AS sequence FROM audit_indexed WHERE organization = $1 AND chain = $2";
        let reading = sqlx::query(INDEXED)
            .bind(self.organization.as_str())
            .bind(chain.to_string())
            .fetch_one(connection);
        let row = bounded("find out which audit records are indexed", reading).await?;
        let indexed: i64 = column(&row, "sequence")?;
        Ok(head.saturating_sub(indexed.cast_unsigned()))
    }

    /// Waits for the segment that is being made, and keeps others from being made until the transaction ends.
    pub(crate) async fn lock_indexing(&self, tx: &mut Tx) -> Result<(), StoreError> {
        const LOCK: &str = "SELECT FROM audit_indexed WHERE organization = $1 ORDER BY chain FOR UPDATE";
        let locking = sqlx::query(LOCK)
            .bind(self.organization.as_str())
            .execute(&mut **tx);
        bounded("wait for the index of audit records", locking).await?;
        Ok(())
    }

    /// The last record that is in a segment, for whoever makes the next one; `None` while somebody else does, and the first
    /// time, when the row that is locked is made: whoever makes it also holds the organization, so that is committed at once.
    async fn lock_indexed(&self, tx: &mut Tx, chain: Chain) -> Result<Option<u64>, StoreError> {
        const LOCK: &str = "SELECT sequence FROM audit_indexed WHERE organization = $1 AND chain = $2 \
                            FOR UPDATE SKIP LOCKED";
        const CREATE: &str = "INSERT INTO audit_indexed (organization, chain, sequence, time) \
                              VALUES ($1, $2, 0, to_timestamp(0)) ON CONFLICT DO NOTHING";
        let locking = sqlx::query(LOCK)
            .bind(self.organization.as_str())
            .bind(chain.to_string())
            .fetch_optional(&mut **tx);
        if let Some(row) = bounded("index audit records", locking).await? {
            let sequence: i64 = column(&row, "sequence")?;
            return Ok(Some(sequence.cast_unsigned()));
        }
        let creating = sqlx::query(CREATE)
            .bind(self.organization.as_str())
            .bind(chain.to_string())
            .execute(&mut **tx);
        bounded("begin to index audit records", creating).await?;
        Ok(None)
    }

    /// The next records behind that one, with their sizes; one more than a segment takes, which tells whether its month has
    /// ended.
    async fn outlines_behind(
        &self,
        tx: &mut Tx,
        chain: Chain,
        sequence: u64,
    ) -> Result<Vec<(Outline, u64)>, StoreError> {
        const NEXT: &str = "SELECT sequence AS first, 1 AS length, time, octet_length(record)::bigint AS bytes FROM audit \
                            WHERE organization = $1 AND chain = $2 AND sequence > $3 ORDER BY sequence LIMIT $4";
        let reading = sqlx::query(NEXT)
            .bind(self.organization.as_str())
            .bind(chain.to_string())
            .bind(sequence.cast_signed())
            .bind(SMALL_MAX.cast_signed() + 1)
            .fetch_all(&mut **tx);
        let rows = bounded("find audit records that are not indexed", reading).await?;
        rows.iter().map(sized).collect()
    }

    /// Of the tier, and one more than are merged. What they are of bytes is left open.
    async fn oldest_segments(
        &self,
        tx: &mut Tx,
        chain: Chain,
        tier: Tier,
    ) -> Result<Vec<(Outline, u64)>, StoreError> {
        const OLDEST: &str = "SELECT first, length, time, 0::bigint AS bytes FROM audit_postings \
                              WHERE organization = $1 AND chain = $2 AND tier = $3 AND bucket = $4 ORDER BY time LIMIT $5";
        let reading = sqlx::query(OLDEST)
            .bind(self.organization.as_str())
            .bind(chain.to_string())
            .bind(tier.number())
            .bind(DIRECTORY)
            .bind(MERGED_MAX as i64 + 1)
            .fetch_all(&mut **tx);
        let rows = bounded("list the segments of the audit record", reading).await?;
        rows.iter().map(sized).collect()
    }

    async fn with_sizes(
        &self,
        tx: &mut Tx,
        chain: Chain,
        tier: Tier,
        segments: Vec<(Outline, u64)>,
    ) -> Result<Vec<(Outline, u64)>, StoreError> {
        const SIZES: &str = "SELECT first, min(length) AS length, min(time) AS time, sum(octet_length(entries)) AS bytes \
                             FROM audit_postings WHERE organization = $1 AND chain = $2 AND tier = $3 AND time = ANY($4) \
                             GROUP BY first ORDER BY first";
        let times: Vec<DateTime<Utc>> = segments.iter().map(|(segment, _)| segment.time).collect();
        let reading = sqlx::query(SIZES)
            .bind(self.organization.as_str())
            .bind(chain.to_string())
            .bind(tier.number())
            .bind(times)
            .fetch_all(&mut **tx);
        let rows = bounded("weigh the segments of the audit record", reading).await?;
        rows.iter().map(sized).collect()
    }

    /// Those of the numbers, of segments that follow each other, which are told apart by their first record.
    async fn take_buckets(
        &self,
        tx: &mut Tx,
        chain: Chain,
        tier: Tier,
        segments: &[Outline],
        numbers: &Range<i32>,
    ) -> Result<HashMap<u64, Vec<Bucket>>, StoreError> {
        const TAKE: &str = "DELETE FROM audit_postings WHERE organization = $1 AND chain = $2 AND tier = $3 \
                            AND bucket >= $4 AND bucket < $5 AND time >= $6 AND time <= $7 \
                            RETURNING first, bucket, entries";
        let (Some(oldest), Some(newest)) = (segments.first(), segments.last()) else {
            return Ok(HashMap::new());
        };
        let taking = sqlx::query(TAKE)
            .bind(self.organization.as_str())
            .bind(chain.to_string())
            .bind(tier.number())
            .bind(numbers.start)
            .bind(numbers.end)
            .bind(oldest.time)
            .bind(newest.time)
            .fetch_all(&mut **tx);
        let rows = bounded("take segments of the audit record", taking).await?;
        let mut taken: HashMap<u64, Vec<Bucket>> = HashMap::new();
        for row in &rows {
            let first: i64 = column(row, "first")?;
            taken.entry(first.cast_unsigned()).or_default().push(Bucket {
                number: column(row, "bucket")?,
                entries: column(row, "entries")?,
            });
        }
        Ok(taken)
    }

    async fn insert_buckets(
        &self,
        tx: &mut Tx,
        chain: Chain,
        tier: Tier,
        outline: Outline,
        buckets: Vec<Bucket>,
    ) -> Result<(), StoreError> {
        const INSERT: &str = "INSERT INTO audit_postings (organization, chain, tier, time, first, length, bucket, entries) \
                              SELECT $1, $2, $3, $4, $5, $6, bucket.* FROM unnest($7::int[], $8::bytea[]) AS bucket";
        let (numbers, entries): (Vec<i32>, Vec<Vec<u8>>) = buckets
            .into_iter()
            .map(|bucket| (bucket.number, bucket.entries))
            .unzip();
        let inserting = sqlx::query(INSERT)
            .bind(self.organization.as_str())
            .bind(chain.to_string())
            .bind(tier.number())
            .bind(outline.time)
            .bind(outline.first.cast_signed())
            .bind(outline.length as i32)
            .bind(numbers)
            .bind(entries)
            .execute(&mut **tx);
        bounded("store a segment of the audit record", inserting).await?;
        Ok(())
    }
}

fn sized(row: &PgRow) -> Result<(Outline, u64), StoreError> {
    let bytes: i64 = column(row, "bytes")?;
    Ok((outline(row)?, bytes.cast_unsigned()))
}

/// Beside the requests: a segment takes longer than one of them.
async fn computed<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match spawn_blocking(work).await {
        Ok(computed) => computed,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}
