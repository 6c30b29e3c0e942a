//! `envoy.filters.http.local_ratelimit`: so many requests, and no more, of all workers together. A bucket of tokens is one
//! number, the moment at which it will be full again (the generic cell rate algorithm), so that taking a token is one step
//! that needs no lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;
use http::header::{HeaderName, HeaderValue};

use super::quota::add;
use super::{Answer, Verdict};
use crate::balance::Draw;
use crate::config::{HeaderEdits, MILLION, Route};
use crate::exchange::Flag;
use crate::grpc::Code;
use crate::matcher::{RequestView, Subject};

mod descriptors;

use descriptors::Buckets;
pub(crate) use descriptors::{DescribedLimit, Descriptors};

/// What a client is told of the bucket that counts for it, in this order.
const TOLD: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit"),
    HeaderName::from_static("x-ratelimit-remaining"),
    HeaderName::from_static("x-ratelimit-reset"),
];

/// What Envoy says as well.
const BODY: &[u8] = b"local_rate_limited";

/// A limit and what is left of it. Two are equal when their limits are.
#[derive(Clone, Debug)]
pub(crate) struct LocalRateLimit {
    limit: Limit,
    bucket: Arc<Bucket>,
    /// Of its descriptors.
    described: Arc<Buckets>,
}

#[derive(Clone, Debug, PartialEq)]
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
    /// Of requests that count apart, if there are some.
    pub(crate) descriptors: Option<Arc<Descriptors>>,
    /// Whether clients are told what they have left.
    pub(crate) tells: bool,
    /// What one too many is told besides.
    pub(crate) told: HeaderEdits,
    /// What is said of one too many that goes on.
    pub(crate) unenforced: HeaderEdits,
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

/// What became of a wish for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Taken {
    is_taken: bool,
    rate: Rate,
    /// When the bucket will be full, now that this is done.
    full: u64,
    now: u64,
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

    fn take(&self, rate: Rate, now: Instant) -> Taken {
        let now = nanoseconds(self.made, now);
        let take = |full| rate.take(full, now);
        let taken = self.full.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        match taken {
            Ok(before) => Taken::of(rate, take(before), before, now),
            Err(before) => Taken::of(rate, None, before, now),
        }
    }
}

impl Taken {
    /// Of a bucket that would have been full at `before`, and will be at `after` if a token was taken from it.
    fn of(rate: Rate, after: Option<u64>, before: u64, now: u64) -> Self {
        Self {
            is_taken: after.is_some(),
            rate,
            full: after.unwrap_or(before),
            now,
        }
    }

    /// How many tokens there may be, how many there are, and in how many seconds, begun ones too, there will be one.
    fn told(self) -> [u64; 3] {
        const SECOND_NS: u64 = 1_000_000_000;
        let Rate { each, all } = self.rate;
        let held = all.saturating_sub(self.full.saturating_sub(self.now));
        let missing = each.saturating_sub(held);
        [all / each, held / each, missing.div_ceil(SECOND_NS)]
    }
}

fn nanoseconds(since: Instant, now: Instant) -> u64 {
    let passed = now.saturating_duration_since(since).as_nanos();
    u64::try_from(passed).unwrap_or(u64::MAX)
}

impl LocalRateLimit {
    /// With full buckets.
    pub(crate) fn new(limit: Limit) -> Self {
        let described = limit.descriptors.as_deref().map(Buckets::new);
        Self {
            limit,
            bucket: Arc::new(Bucket::new()),
            described: Arc::new(described.unwrap_or_default()),
        }
    }

    pub(super) fn place(&self) -> &str {
        &self.limit.place
    }

    pub(super) fn judge(
        &self,
        route: Option<&Route>,
        subject: &Subject<'_, impl RequestView>,
        now: Instant,
        draw: &impl Draw,
        verdict: &mut Verdict,
    ) {
        let happens = |millionths: u32| millionths == MILLION || draw.below(MILLION) < millionths;
        let limit = &self.limit;
        if !happens(limit.asked) {
            return;
        }
        let taken = self.take(route, subject, now);
        if limit.tells {
            let told = TOLD.into_iter().zip(taken.told().map(HeaderValue::from));
            verdict.response.add.extend(told);
        }
        if taken.is_taken {
            return;
        }
        if !happens(limit.enforced) {
            add(&mut verdict.request.edits, &limit.unenforced);
            return;
        }
        add(&mut verdict.response, &limit.told);
        verdict.answer = Some(Answer {
            status: limit.status,
            code: limit.code,
            flag: Flag::RateLimited,
            body: Bytes::from_static(BODY),
        });
    }

    fn take(&self, route: Option<&Route>, subject: &Subject<'_, impl RequestView>, now: Instant) -> Taken {
        let of_all = || self.bucket.take(self.limit.rate, now);
        let Some(descriptors) = self.limit.descriptors.as_deref() else {
            return of_all();
        };
        match self.described.take(descriptors, route, subject, now) {
            None => of_all(),
            Some(taken) if !taken.is_taken || !descriptors.counts_to_all => taken,
            // What is told is what has been said of such requests, unless it is the other that has ended.
            Some(taken) => Some(of_all()).filter(|of_all| !of_all.is_taken).unwrap_or(taken),
        }
    }

    /// Whether nothing would come of it for anybody.
    pub(super) fn is_idle(&self) -> bool {
        let Limit {
            asked,
            enforced,
            tells,
            unenforced,
            ..
        } = &self.limit;
        *asked == 0 || (*enforced == 0 && !tells && *unenforced == HeaderEdits::default())
    }
}

impl PartialEq for LocalRateLimit {
    fn eq(&self, other: &Self) -> bool {
        self.limit == other.limit
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::filter::{Described, DescribingAction, Entry, Outer};
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

    fn limit(rate: Rate) -> Limit {
        Limit {
            place: "here".into(),
            rate,
            asked: MILLION,
            enforced: MILLION,
            status: StatusCode::TOO_MANY_REQUESTS,
            code: None,
            descriptors: None,
            tells: false,
            told: HeaderEdits::default(),
            unenforced: HeaderEdits::default(),
        }
    }

    fn judged(limit: &LocalRateLimit, now: Instant) -> Verdict {
        let subject = Subject {
            authority: "a",
            path: "/",
            client: "10.0.0.1".parse().unwrap(),
            direct: "10.0.0.9".parse().unwrap(),
            request: &http::Request::new(()).into_parts().0,
        };
        let mut verdict = Verdict::default();
        limit.judge(None, &subject, now, &Random::new(), &mut verdict);
        verdict
    }

    #[test]
    fn a_limit_says_what_it_is_to_a_call() {
        for code in [None, Some(Code::RESOURCE_EXHAUSTED)] {
            let limit = LocalRateLimit::new(Limit {
                code,
                ..limit(Rate::new(1, 1, SECOND))
            });
            let now = Instant::now();
            assert!(judged(&limit, now).is_silent());
            assert_eq!(judged(&limit, now).answer.map(|answer| answer.code), Some(code));
        }
    }

    fn edits(name: &'static str) -> HeaderEdits {
        HeaderEdits {
            set: vec![(HeaderName::from_static(name), HeaderValue::from_static("1"))],
            ..HeaderEdits::default()
        }
    }

    #[test]
    fn one_too_many_is_told_so_or_its_host_is() {
        let told = |enforced| {
            let limit = LocalRateLimit::new(Limit {
                enforced,
                told: edits("x-told"),
                unenforced: edits("x-over"),
                ..limit(Rate::new(1, 1, SECOND))
            });
            assert!(!limit.is_idle());
            let now = Instant::now();
            assert!(judged(&limit, now).is_silent());
            let verdict = judged(&limit, now);
            (verdict.answer.is_some(), verdict.response, verdict.request.edits)
        };
        assert_eq!(told(MILLION), (true, edits("x-told"), HeaderEdits::default()));
        assert_eq!(told(0), (false, HeaderEdits::default(), edits("x-over")));
    }

    #[test]
    fn a_client_is_told_what_it_has_left() {
        for (rate, taken, passed_ms, expected) in [
            (Rate::new(3, 1, 10 * SECOND), 1, 0, "3 2 0"),
            (Rate::new(3, 1, 10 * SECOND), 3, 0, "3 0 10"),
            (Rate::new(3, 1, 10 * SECOND), 4, 0, "3 0 10"),
            (Rate::new(3, 1, 10 * SECOND), 4, 3500, "3 0 7"),
            (Rate::new(5, 5, SECOND), 5, 0, "5 0 1"),
        ] {
            let limit = LocalRateLimit::new(Limit {
                tells: true,
                ..limit(rate)
            });
            let now = Instant::now();
            for _ in 1..taken {
                judged(&limit, now);
            }
            let verdict = judged(&limit, now + Duration::from_millis(passed_ms));
            let lines = verdict.response.add.iter();
            let told: Vec<_> = lines.map(|(_, value)| value.to_str().unwrap()).collect();
            assert_eq!(told.join(" "), expected, "{rate:?} {taken} {passed_ms}");
        }
    }

    /// What is told of is the one that has ended, and else that of the descriptor.
    #[test]
    fn what_counts_apart_may_count_to_all() {
        let descriptors = |counts_to_all| Descriptors {
            own: vec![Described {
                stage: 0,
                actions: vec![DescribingAction::Key(Entry::new("k", "v"))],
            }],
            stage: 0,
            outer: Outer::Default,
            limits: vec![DescribedLimit {
                entries: vec![Entry::new("k", "v")],
                rate: Rate::new(3, 1, 3600 * SECOND),
            }],
            values_max: 1,
            counts_to_all,
        };
        for (counts_to_all, expected) in [(true, "3 3 2"), (false, "3 3 3 3")] {
            let limit = LocalRateLimit::new(Limit {
                tells: true,
                descriptors: Some(Arc::new(descriptors(counts_to_all))),
                ..limit(Rate::new(2, 1, 3600 * SECOND))
            });
            let now = Instant::now();
            let mut told = Vec::new();
            loop {
                let verdict = judged(&limit, now);
                told.push(verdict.response.add[0].1.to_str().unwrap().to_owned());
                if verdict.answer.is_some() {
                    break;
                }
            }
            assert_eq!(told.join(" "), expected, "{counts_to_all}");
        }
    }

    #[test]
    fn workers_share_a_bucket() {
        let limit = LocalRateLimit::new(limit(Rate::new(1000, 1, 1000 * SECOND)));
        let now = Instant::now();
        let passed = move |limit: &LocalRateLimit| {
            let judged = (0..1000).map(|_| judged(limit, now));
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
