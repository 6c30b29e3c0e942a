//! How often one of many may do something: a bucket of tokens for each, filled at a steady rate. It keeps a program in
//! a loop from taking the plane away from everybody else, and whoever guesses from guessing fast.

use std::collections::HashMap;
use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName};
use tokio::time::Instant;

const LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
/// In whole seconds.
const RESET: HeaderName = HeaderName::from_static("ratelimit-reset");

/// Buckets that are remembered; when there are more, those that are full again are forgotten.
const BUCKETS_MAX: usize = 10_000;
/// When none of so many is full, nobody new is let in: whoever makes names up must not fill the memory with them.
const BUCKETS_FULL: usize = 100_000;

/// The buckets of all of a sort, such as principals. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Limits<K> {
    /// How often within `time`, and how many may come at once.
    limit: NonZeroU32,
    time: Duration,
    buckets: Arc<Mutex<HashMap<K, Bucket>>>,
}

/// What is left to one, for the `RateLimit-*` headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Allowance {
    pub(crate) limit: u32,
    pub(crate) remaining: u32,
    /// Until the limit is whole again.
    pub(crate) reset: Duration,
    /// Until there is one again.
    pub(crate) wait: Duration,
    pub(crate) allowed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl<K: Eq + Hash> Limits<K> {
    pub(crate) fn new(limit: NonZeroU32, time: Duration) -> Limits<K> {
        Limits {
            limit,
            time,
            buckets: Arc::default(),
        }
    }

    /// Takes one of that one's, if there is one left.
    pub(crate) fn take(&self, key: K, now: Instant) -> Allowance {
        let limit = f64::from(self.limit.get());
        let per_second = limit / self.time.as_secs_f64();
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = !buckets.contains_key(&key);
        if buckets.len() >= BUCKETS_MAX && is_new {
            buckets.retain(|_, bucket| bucket.filled(limit, per_second, now) < limit);
        }
        let full = buckets.len() >= BUCKETS_FULL && is_new;
        let tokens = match buckets.get(&key) {
            _ if full => 0.0,
            Some(bucket) => bucket.filled(limit, per_second, now),
            None => limit,
        };
        let allowed = tokens >= 1.0;
        let left = if allowed { tokens - 1.0 } else { tokens };
        if !full {
            buckets.insert(
                key,
                Bucket {
                    tokens: left,
                    at: now,
                },
            );
        }
        Allowance {
            limit: self.limit.get(),
            remaining: left.floor() as u32,
            reset: Duration::from_secs_f64((limit - left) / per_second),
            wait: Duration::from_secs_f64((1.0 - left).max(0.0) / per_second),
            allowed,
        }
    }
}

impl Allowance {
    /// Sets the `RateLimit-*` headers.
    pub(crate) fn tell(&self, headers: &mut HeaderMap) {
        let reset_s = self.reset.as_secs_f64().ceil() as u64;
        headers.insert(LIMIT, self.limit.into());
        headers.insert(REMAINING, self.remaining.into());
        headers.insert(RESET, reset_s.into());
    }
}

impl Bucket {
    fn filled(self, limit: f64, per_second: f64, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        (self.tokens + passed * per_second).min(limit)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_taken_and_then_the_rate() {
        let limits = Limits::new(NonZeroU32::new(10).unwrap(), Duration::from_secs(1));
        let (ann, bob) = (1, 2);
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        for left in (0..10).rev() {
            let allowance = limits.take(ann, start);
            assert!(allowance.allowed);
            assert_eq!((allowance.limit, allowance.remaining), (10, left));
        }
        let refused = limits.take(ann, start);
        assert!(!refused.allowed);
        assert_eq!(refused.reset, Duration::from_secs(1));
        assert!(
            limits.take(bob, start).allowed,
            "another one has a bucket of its own"
        );
        assert!(!limits.take(ann, after(99)).allowed);
        assert!(limits.take(ann, after(100)).allowed);
        assert!(!limits.take(ann, after(101)).allowed);
        assert_eq!(
            limits.take(ann, after(9000)).remaining,
            9,
            "no more is saved up than the limit"
        );
    }

    #[test]
    fn those_who_have_not_asked_for_long_are_forgotten() {
        let limits = Limits::new(NonZeroU32::new(10).unwrap(), Duration::from_secs(1));
        let start = Instant::now();
        for one in 0..BUCKETS_MAX {
            limits.take(one, start);
        }
        limits.take(usize::MAX, start + Duration::from_secs(1));
        assert_eq!(limits.buckets.lock().unwrap().len(), 1);
    }

    #[test]
    fn when_there_are_too_many_nobody_new_is_let_in() {
        let limits = Limits::new(NonZeroU32::new(2).unwrap(), Duration::from_secs(60));
        let start = Instant::now();
        let far = Instant::now() + Duration::from_secs(1);
        {
            let mut buckets = limits.buckets.lock().unwrap();
            buckets.extend((0..BUCKETS_FULL).map(|one| (one, Bucket { tokens: 1.0, at: far })));
        }
        assert!(!limits.take(usize::MAX, start).allowed);
        assert!(limits.take(7, start).allowed, "whoever is known goes on");
        assert_eq!(limits.buckets.lock().unwrap().len(), BUCKETS_FULL);
    }
}
