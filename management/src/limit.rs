//! How fast one principal may ask: a bucket of tokens for each, filled at a steady rate. It keeps a program in a loop
//! from taking the plane away from everybody else.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName};
use tokio::time::Instant;
use uuid::Uuid;

const LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
/// In whole seconds.
const RESET: HeaderName = HeaderName::from_static("ratelimit-reset");

/// Principals that are remembered; when there are more, those whose bucket is full again are forgotten.
const BUCKETS_MAX: usize = 10_000;

/// The buckets of all principals. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// Requests per second, and how many may come at once.
    rate: NonZeroU32,
    buckets: Arc<Mutex<HashMap<Uuid, Bucket>>>,
}

/// What is left to a principal, for the `RateLimit-*` headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Allowance {
    pub(crate) limit: u32,
    pub(crate) remaining: u32,
    /// Until the limit is whole again.
    pub(crate) reset: Duration,
    pub(crate) allowed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Limits {
    pub(crate) fn new(rate: NonZeroU32) -> Limits {
        Limits {
            rate,
            buckets: Arc::default(),
        }
    }

    /// Takes one request of the principal, if there is one left.
    pub(crate) fn take(&self, principal: Uuid, now: Instant) -> Allowance {
        let limit = f64::from(self.rate.get());
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= BUCKETS_MAX && !buckets.contains_key(&principal) {
            buckets.retain(|_, bucket| bucket.filled(limit, now) < limit);
        }
        let bucket = buckets.entry(principal).or_insert(Bucket {
            tokens: limit,
            at: now,
        });
        let tokens = bucket.filled(limit, now);
        let allowed = tokens >= 1.0;
        let left = if allowed { tokens - 1.0 } else { tokens };
        *bucket = Bucket {
            tokens: left,
            at: now,
        };
        Allowance {
            limit: self.rate.get(),
            remaining: left.floor() as u32,
            reset: Duration::from_secs_f64((limit - left) / limit),
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
    fn filled(self, rate: f64, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        (self.tokens + passed * rate).min(rate)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_taken_and_then_the_rate() {
        let limits = Limits::new(NonZeroU32::new(10).unwrap());
        let (ann, bob) = (Uuid::from_u128(1), Uuid::from_u128(2));
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
        let limits = Limits::new(NonZeroU32::new(10).unwrap());
        let start = Instant::now();
        for principal in 0..BUCKETS_MAX {
            limits.take(Uuid::from_u128(principal as u128), start);
        }
        limits.take(Uuid::from_u128(u128::MAX), start + Duration::from_secs(1));
        assert_eq!(limits.buckets.lock().unwrap().len(), 1);
    }
}
