//! `envoy.filters.http.local_ratelimit`: so many requests, and no more, of all workers together. A bucket of tokens is one
//! number, the moment at which it will be full again (the generic cell rate algorithm), so that taking a token is one step
//! that needs no lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;

use super::{Answer, Verdict};
use crate::balance::Draw;
use crate::config::MILLION;
use crate::exchange::Flag;
use crate::grpc::Code;

/// What Envoy says as well.
const BODY: &[u8] = b"local_rate_limited";

/// A limit and what is left of it. Two are equal when their limits are.
#[derive(Clone, Debug)]
pub(crate) struct LocalRateLimit {
    limit: Limit,
    bucket: Arc<Bucket>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    /// Where it was said: the same limit in the same place goes on with the same bucket.
    pub(crate) place: Box<str>,
    pub(crate) rate: Rate,
    /// So many of a million requests take a token.
    pub(crate) asked: u32,
    /// So many of a million that have found none are answered for it.
    pub(crate) enforced: u32,
    pub(crate) status: StatusCode,
    /// For calls of gRPC, where it is not what the status means.
    pub(crate) code: Option<Code>,
}

/// How a bucket fills. Tokens come one by one, as in Envoy, not all of an interval at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    /// Until the next token, in nanoseconds; at least one.
    each: u64,
    /// Until an empty bucket is full.
    all: u64,
}

#[derive(Debug)]
struct Bucket {
    made: Instant,
    /// When it will be full, in nanoseconds since it was made.
    full: AtomicU64,
}

impl Rate {
    pub(crate) fn new(tokens_max: u32, tokens_per_fill: u32, fill_interval: Duration) -> Self {
        let each = fill_interval.as_nanos() / u128::from(tokens_per_fill.max(1));
        let each = u64::try_from(each).unwrap_or(u64::MAX).max(1);
        Self {
            each,
            all: each.saturating_mul(tokens_max.into()),
        }
    }

    /// When a bucket will be full by this rate from `now` on that would be full at `full` by the rate before: it has the tokens that it
    /// had, and as much of the next one, or a rate that changes often would never come to any.
    pub(crate) fn after(self, before: Self, full: u64, now: u64) -> u64 {
        let held = before.all.saturating_sub(full.saturating_sub(now));
        let held = u128::from(held) * u128::from(self.each) / u128::from(before.each);
        let missing = u128::from(self.all).saturating_sub(held);
        now.saturating_add(u64::try_from(missing).unwrap_or(u64::MAX))
    }

    /// When a bucket that is full at `full` will be full if a token is taken from it at `now`; none if it holds none.
    pub(crate) fn take(self, full: u64, now: u64) -> Option<u64> {
        let full = full.max(now).checked_add(self.each)?;
        (full - now <= self.all).then_some(full)
    }
}

impl Bucket {
    fn new() -> Self {
        Self {
            made: Instant::now(),
            full: AtomicU64::new(0),
        }
    }

    fn take(&self, rate: Rate, now: Instant) -> bool {
        let now = now.saturating_duration_since(self.made).as_nanos();
        let now = u64::try_from(now).unwrap_or(u64::MAX);
        let take = |full| rate.take(full, now);
        self.full
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_ok()
    }
}

impl LocalRateLimit {
    /// With a full bucket.
    pub(crate) fn new(limit: Limit) -> Self {
        Self {
            limit,
            bucket: Arc::new(Bucket::new()),
        }
    }

    pub(super) fn place(&self) -> &str {
        &self.limit.place
    }

    pub(super) fn judge(&self, now: Instant, draw: &impl Draw, verdict: &mut Verdict) {
        let happens = |millionths: u32| millionths == MILLION || draw.below(MILLION) < millionths;
        let Limit {
            rate,
            asked,
            enforced,
            status,
            code,
            ..
        } = self.limit;
        if happens(asked) && !self.bucket.take(rate, now) && happens(enforced) {
            verdict.answer = Some(Answer {
                status,
                code,
                flag: Flag::RateLimited,
                body: Bytes::from_static(BODY),
            });
        }
    }

    /// Whether nobody would be answered for it.
    pub(super) fn is_idle(&self) -> bool {
        self.limit.asked == 0 || self.limit.enforced == 0
    }
}

impl PartialEq for LocalRateLimit {
    fn eq(&self, other: &Self) -> bool {
        self.limit == other.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::Random;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(rate: Rate, times_ms: &[u64]) -> Vec<bool> {
        let mut full = 0;
        let taken = times_ms
            .iter()
            .map(|time_ms| match rate.take(full, time_ms * 1_000_000) {
                Some(next) => {
                    full = next;
                    true
                }
                None => false,
            });
        taken.collect()
    }

    #[test]
    fn tokens_come_one_by_one() {
        for (rate, times_ms, expected) in [
            (
                Rate::new(2, 2, 4 * SECOND),
                &[0, 0, 0, 1999, 2000, 2000][..],
                &[1, 1, 0, 0, 1, 0][..],
            ),
            // However long nobody comes, there are no more than fit.
            (
                Rate::new(2, 1, SECOND),
                &[90_000, 90_000, 90_000, 91_000],
                &[1, 1, 0, 1],
            ),
            (Rate::new(1, 1000, SECOND), &[0, 0, 1, 1, 2], &[1, 0, 1, 0, 1]),
            (Rate::new(0, 1, SECOND), &[0, 5000], &[0, 0]),
            (
                Rate::new(1, 1, Duration::from_secs(10 * 365 * 24 * 3600)),
                &[0, 1],
                &[1, 0],
            ),
            // More than a clock can count: few of them are had.
            (
                Rate::new(u32::MAX, 1, Duration::from_secs(1 << 33)),
                &[0, 0, 0],
                &[1, 1, 0],
            ),
        ] {
            let expected: Vec<bool> = expected.iter().map(|taken| *taken == 1).collect();
            assert_eq!(at(rate, times_ms), expected, "{rate:?} {times_ms:?}");
        }
    }

    /// Against tokens that are counted: whole nanoseconds make a token, and no more than fit are kept.
    #[test]
    fn it_is_a_bucket_of_tokens() {
        for seed in 0..200 {
            let random = Random::seeded(seed);
            let rate = Rate::new(
                random.below(5),
                1 + random.below(7),
                Duration::from_nanos(1 + u64::from(random.below(50))),
            );
            let (mut now, mut full) = (0, 0);
            let mut held = rate.all;
            for step in 0..2000 {
                let passed = if random.below(3) == 0 {
                    0
                } else {
                    u64::from(random.below(40))
                };
                now += passed;
                held = rate.all.min(held + passed);
                let taken = rate.take(full, now);
                assert_eq!(
                    taken.is_some(),
                    held >= rate.each,
                    "seed {seed}, step {step}: {rate:?}"
                );
                if let Some(taken) = taken {
                    held -= rate.each;
                    full = taken;
                }
            }
        }
    }

    #[test]
    fn another_rate_goes_on_with_what_a_bucket_holds() {
        let slow = Rate::new(1, 1, 3600 * SECOND);
        for (before, full_ms, after, expected_ms) in [
            // Half of a token is half of one.
            (
                Rate::new(1, 1, 4 * SECOND),
                2000,
                Rate::new(1, 1, 2 * SECOND),
                1000,
            ),
            (Rate::new(2, 1, SECOND), 1500, Rate::new(4, 1, SECOND), 3500),
            // No more than it has room for.
            (Rate::new(4, 1, SECOND), 500, Rate::new(2, 1, SECOND), 0),
            (Rate::new(4, 1, SECOND), 0, Rate::new(8, 1, SECOND), 4000),
            // Nothing, and less than that.
            (Rate::new(2, 1, SECOND), 2000, Rate::new(3, 1, SECOND), 3000),
            (Rate::new(2, 1, SECOND), 9000, Rate::new(3, 1, SECOND), 3000),
            (slow, 1_800_000, Rate::new(1, 1000, SECOND / 10), 0),
        ] {
            let now = 7_000_000_000;
            let full = after.after(before, now + full_ms * 1_000_000, now);
            assert_eq!(
                (full - now) / 1_000_000,
                expected_ms,
                "{before:?} {full_ms} {after:?}"
            );
        }
        let max = Rate::new(u32::MAX, 1, Duration::from_secs(1 << 33));
        assert!(
            max.after(max, u64::MAX, 1) >= u64::MAX - 1,
            "it ends with the clock"
        );
    }

    #[test]
    fn a_limit_says_what_it_is_to_a_call() {
        for code in [None, Some(Code::RESOURCE_EXHAUSTED)] {
            let limit = LocalRateLimit::new(Limit {
                place: "here".into(),
                rate: Rate::new(1, 1, SECOND),
                asked: MILLION,
                enforced: MILLION,
                code,
                status: StatusCode::TOO_MANY_REQUESTS,
            });
            let mut verdict = Verdict::default();
            for _ in 0..2 {
                limit.judge(Instant::now(), &Random::new(), &mut verdict);
            }
            assert_eq!(verdict.answer.map(|answer| answer.code), Some(code));
        }
    }

    #[test]
    fn workers_share_a_bucket() {
        let limit = LocalRateLimit::new(Limit {
            place: "here".into(),
            rate: Rate::new(1000, 1, 1000 * SECOND),
            asked: MILLION,
            enforced: MILLION,
            code: None,
            status: StatusCode::TOO_MANY_REQUESTS,
        });
        let now = Instant::now();
        let passed = move |limit: &LocalRateLimit| {
            let random = Random::new();
            let judged = (0..1000).map(|_| {
                let mut verdict = Verdict::default();
                limit.judge(now, &random, &mut verdict);
                verdict
            });
            judged.filter(Verdict::is_silent).count()
        };
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let limit = limit.clone();
                std::thread::spawn(move || passed(&limit))
            })
            .collect();
        let passed: usize = workers.into_iter().filter_map(|worker| worker.join().ok()).sum();
        assert_eq!(passed, 1000);
    }
}
