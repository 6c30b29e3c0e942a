//! Makes the segments that pages are found by, behind the writes: what is in none yet is read record by record.

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
        let segment = computed(move || Segment::of(&found)).await;
        self.insert_segment(&mut tx, chain, Tier::Small, segment).await?;
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

    /// The oldest small segments of the chain into a large one. Whether there are as many.
    pub(crate) async fn merge_audit(&self, chain: Chain) -> Result<bool, StoreError> {
        let mut tx = self.begin_as(&Principal::System).await?;
        if self.lock_indexed(&mut tx, chain).await?.is_none() {
            return commit(tx).await.map(|()| false);
        }
        let small = self.small_segments(&mut tx, chain).await?;
        let Some(count) = next_segment(Tier::Large, &small) else {
            return commit(tx).await.map(|()| false);
        };
        let mut parts = Vec::new();
        for (outline, _) in small.into_iter().take(count) {
            parts.push((outline, self.take_segment(&mut tx, chain, outline).await?));
        }
        let merged = computed(move || {
            let read = |(outline, buckets): &(Outline, Vec<Bucket>)| {
                Segment::read(Tier::Small, outline.first, outline.length, buckets).map_err(|damaged| {
                    StoreError::Corrupt {
                        table: "audit_postings",
                        name: format!("{chain} {}", outline.first),
                        reason: damaged.to_string(),
                    }
                })
            };
            let parts: Result<Vec<Segment>, StoreError> = parts.iter().map(read).collect();
            parts.map(|parts| Segment::merge(&parts))
        })
        .await?;
        self.insert_segment(&mut tx, chain, Tier::Large, merged).await?;
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

    /// The oldest, with the sizes of their entries, and one more than are merged.
    async fn small_segments(&self, tx: &mut Tx, chain: Chain) -> Result<Vec<(Outline, u64)>, StoreError> {
        const OLDEST: &str = "
            SELECT d.first, d.length, d.time, (
                SELECT sum(octet_length(p.entries)) FROM audit_postings p
                WHERE p.organization = $1 AND p.chain = $2 AND p.tier = $3 AND p.time = d.time AND p.first = d.first
            ) AS bytes
            FROM audit_postings d WHERE d.organization = $1 AND d.chain = $2 AND d.tier = $3 AND d.bucket = $4
            ORDER BY d.time LIMIT $5";
        let reading = sqlx::query(OLDEST)
            .bind(self.organization.as_str())
            .bind(chain.to_string())
            .bind(Tier::Small.number())
            .bind(DIRECTORY)
            .bind(MERGED_MAX as i64 + 1)
            .fetch_all(&mut **tx);
        let rows = bounded("list the segments of the audit record", reading).await?;
        rows.iter().map(sized).collect()
    }

    async fn take_segment(
        &self,
        tx: &mut Tx,
        chain: Chain,
        outline: Outline,
    ) -> Result<Vec<Bucket>, StoreError> {
        const TAKE: &str = "DELETE FROM audit_postings WHERE organization = $1 AND chain = $2 AND tier = $3 \
                            AND time = $4 AND first = $5 RETURNING bucket, entries";
        let taking = sqlx::query(TAKE)
            .bind(self.organization.as_str())
            .bind(chain.to_string())
            .bind(Tier::Small.number())
            .bind(outline.time)
            .bind(outline.first.cast_signed())
            .fetch_all(&mut **tx);
        let rows = bounded("take a segment of the audit record", taking).await?;
        let bucket = |row| {
            Ok(Bucket {
                number: column(row, "bucket")?,
                entries: column(row, "entries")?,
            })
        };
        rows.iter().map(bucket).collect()
    }

    async fn insert_segment(
        &self,
        tx: &mut Tx,
        chain: Chain,
        tier: Tier,
        segment: Segment,
    ) -> Result<(), StoreError> {
        const INSERT: &str = "INSERT INTO audit_postings (organization, chain, tier, time, first, length, bucket, entries) \
                              SELECT $1, $2, $3, $4, $5, $6, bucket.* FROM unnest($7::int[], $8::bytea[]) AS bucket";
        let (begins, first, length) = (segment.begins(), segment.first, segment.length);
        let buckets = computed(move || segment.buckets(tier)).await;
        let (numbers, entries): (Vec<i32>, Vec<Vec<u8>>) = buckets
            .into_iter()
            .map(|bucket| (bucket.number, bucket.entries))
            .unzip();
        let inserting = sqlx::query(INSERT)
            .bind(self.organization.as_str())
            .bind(chain.to_string())
            .bind(tier.number())
            .bind(begins)
            .bind(first.cast_signed())
            .bind(length as i32)
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
