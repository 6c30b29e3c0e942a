//! One bucket: what its requests are held to, and how many there were. To judge a request is one step on a number of the bucket's
//! and one on a counter beside it; nobody waits.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use super::life::Life;
use super::{Action, Strategy, Terms};

/// By which the service knows it: names and values, in the order of the names.
pub(crate) type BucketId = Box<[(Box<str>, Box<str>)]>;

#[derive(Debug)]
pub(crate) struct Bucket {
    pub(super) id: BucketId,
    made: Instant,
    gate: ArcSwap<Gate>,
    allowed: AtomicU64,
    denied: AtomicU64,
    /// Whether the service is told of it.
    is_wanted: AtomicBool,
    /// Of the task that tells it.
    told: Mutex<Told>,
}

/// What holds now. Another one takes its place when something else does.
#[derive(Debug)]
struct Gate {
    strategy: Strategy,
    /// Of a rate: when it has all of its tokens again, in nanoseconds since the bucket was made.
    full: AtomicU64,
}

/// What the service knows of it.
#[derive(Debug)]
struct Told {
    life: Life,
    /// Last told; never of a bucket that the service does not know.
    at: Option<Instant>,
    used: Used,
    /// As it was looked at last, and how often it was the same then.
    seen: u64,
    idle_intervals: u32,
}

/// Requests so far, or since then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Used {
    pub(super) allowed: u64,
    pub(super) denied: u64,
}

/// What the service is told of a bucket.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) used: Used,
    pub(super) elapsed: Duration,
}

impl Bucket {
    pub(super) fn new(id: BucketId, terms: &Terms) -> Self {
        Self {
            id,
            made: Instant::now(),
            gate: ArcSwap::from_pointee(Gate::full(terms.unassigned)),
            allowed: AtomicU64::new(0),
            denied: AtomicU64::new(0),
            is_wanted: AtomicBool::new(false),
            told: Mutex::new(Told {
                life: Life::Unassigned,
                at: None,
                used: Used::default(),
                seen: 0,
                idle_intervals: 0,
            }),
        }
    }

    /// Whether one more request may pass.
    pub(super) fn take(&self, now: Instant) -> bool {
        let gate = self.gate.load();
        let is_allowed = match gate.strategy {
            Strategy::AllowAll => true,
            Strategy::DenyAll => false,
            Strategy::Rate(rate) => {
                let now = self.nanos(now);
                let take = |full| rate.take(full, now);
                let taken = gate.full.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
                taken.is_ok()
            }
        };
        let counter = if is_allowed { &self.allowed } else { &self.denied };
        counter.fetch_add(1, Ordering::Relaxed);
        is_allowed
    }

    /// Whether it is the first time that somebody wants it, since the service had nothing to do with it.
    pub(super) fn want(&self) -> bool {
        !self.is_wanted.load(Ordering::Relaxed) && !self.is_wanted.swap(true, Ordering::Relaxed)
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.is_wanted.load(Ordering::Relaxed)
    }

    /// Whether the service does not know of it yet, and should.
    pub(super) fn is_new(&self) -> bool {
        self.is_wanted() && self.told().at.is_none()
    }

    /// What the service is to be told on a stream that is open since then, who then knows it.
    pub(super) fn tell(&self, now: Instant, interval: Duration, open: Instant) -> Option<Usage> {
        if !self.is_wanted() {
            return None;
        }
        let mut told = self.told();
        let used = self.used();
        // Of a bucket that is new it is what it would be at this pace, and a time is more than none.
        // The first of a stream is taken for an interval, by whose length an assignment lives.
        let elapsed = told.at.map_or(interval, |at| {
            let min = if at < open { interval } else { Duration::ZERO };
            now.saturating_duration_since(at).max(min)
        });
        let usage = Usage {
            used: Used {
                allowed: used.allowed - told.used.allowed,
                denied: used.denied - told.used.denied,
            },
            elapsed: elapsed.max(Duration::from_millis(1)),
        };
        told.at = Some(now);
        told.used = used;
        Some(usage)
    }

    /// Does what the service says.
    pub(super) fn on(&self, action: Action, now: Instant, terms: &Terms) {
        let mut told = self.told();
        self.live(
            &mut told,
            Life::on(action, now).by(now, terms.expired),
            now,
            terms,
        );
        if action == Action::Abandon {
            self.forget(&mut told);
        }
    }

    /// Lets what is over be over; returns when something is next.
    pub(super) fn age(&self, now: Instant, terms: &Terms) -> Option<Instant> {
        let mut told = self.told();
        let life = told.life.by(now, terms.expired);
        self.live(&mut told, life, now, terms);
        life.due()
    }

    /// Whether one that begins anew would let through more.
    pub(super) fn is_spent(&self, now: Instant) -> bool {
        let gate = self.gate.load();
        match gate.strategy {
            Strategy::AllowAll => false,
            Strategy::DenyAll => true,
            Strategy::Rate(_) => gate.full.load(Ordering::Relaxed) > self.nanos(now),
        }
    }

    /// For how many intervals nobody has wanted it.
    pub(super) fn idle_intervals(&self) -> u32 {
        self.told().idle_intervals
    }

    /// Has a look each interval at whether somebody wants it.
    pub(super) fn look(&self) {
        let used = self.used();
        let seen = used.allowed + used.denied;
        let mut told = self.told();
        told.idle_intervals = if told.seen == seen {
            told.idle_intervals.saturating_add(1)
        } else {
            0
        };
        told.seen = seen;
    }

    /// What is assigned no more is as it was before anybody wanted it.
    fn live(&self, told: &mut Told, life: Life, now: Instant, terms: &Terms) {
        let was = std::mem::replace(&mut told.life, life);
        let strategy = life.strategy(terms);
        let gate = self.gate.load();
        if gate.strategy != strategy {
            self.gate.store(gate.changed(strategy, self.nanos(now)).into());
        }
        if life == Life::Unassigned && was != Life::Unassigned {
            self.forget(told);
        }
    }

    fn forget(&self, told: &mut Told) {
        told.at = None;
        self.is_wanted.store(false, Ordering::Relaxed);
    }

    fn used(&self) -> Used {
        Used {
            allowed: self.allowed.load(Ordering::Relaxed),
            denied: self.denied.load(Ordering::Relaxed),
        }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn nanos(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.made).as_nanos();
        u64::try_from(since).unwrap_or(u64::MAX)
    }
}

impl Gate {
    fn full(strategy: Strategy) -> Self {
        Self {
            strategy,
            full: AtomicU64::new(0),
        }
    }

    /// What it is by `strategy` from now on.
    fn changed(&self, strategy: Strategy, now: u64) -> Self {
        let full = match (self.strategy, strategy) {
            (Strategy::Rate(before), Strategy::Rate(after)) => {
                after.after(before, self.full.load(Ordering::Relaxed), now)
            }
            // Who was let through without end, or not at all, begins with all of them.
            (Strategy::AllowAll | Strategy::DenyAll, _) | (_, Strategy::AllowAll | Strategy::DenyAll) => 0,
        };
        Self {
            strategy,
            full: AtomicU64::new(full),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::filter::Rate;
    use crate::quota::buckets::samples;

    const SECOND: Duration = Duration::from_secs(1);

    fn passed(bucket: &Bucket, now: Instant, requests: u32) -> usize {
        (0..requests).filter(|_| bucket.take(now)).count()
    }

    fn rate(tokens: u32, each: Duration) -> Action {
        Action::Assign {
            strategy: Strategy::Rate(Rate::new(tokens, 1, each)),
            lasts: Some(9 * SECOND),
        }
    }

    #[test]
    fn another_rate_goes_on_with_what_is_left() {
        for (before, used, after, passes) in [
            // Nobody gets more by being assigned something else...
            (rate(10, SECOND), 10, rate(20, SECOND), 0),
            (rate(10, SECOND), 4, rate(20, SECOND), 6),
            // ...or waits longer than what is assigned says.
            (rate(1, 3600 * SECOND), 1, rate(10, SECOND / 10), 0),
            (rate(100, SECOND), 0, rate(5, SECOND), 5),
            (rate(10, SECOND), 10, rate(10, SECOND), 0),
        ] {
            let terms = samples::terms();
            let bucket = Bucket::new(BucketId::default(), &terms);
            let now = Instant::now();
            bucket.on(before, now, &terms);
            assert_eq!(passed(&bucket, now, used), used as usize, "{before:?}");
            bucket.on(after, now, &terms);
            assert_eq!(passed(&bucket, now, 200), passes, "{before:?} {after:?}");
            assert_eq!(
                passed(&bucket, now + SECOND / 10, 1),
                usize::from(before == rate(1, 3600 * SECOND)),
                "{before:?} {after:?}"
            );
        }
    }

    /// A part changes with nearly every report of others.
    #[test]
    fn a_rate_that_wobbles_is_no_slower() {
        let terms = samples::terms();
        let bucket = Bucket::new(BucketId::default(), &terms);
        let begin = Instant::now();
        bucket.on(rate(1, 10 * SECOND), begin, &terms);
        assert_eq!(passed(&bucket, begin, 1), 1);
        let mut allowed = 0;
        for second in 1..=100 {
            let now = begin + second * SECOND;
            bucket.on(rate(1, 10 * SECOND + (second % 2) * SECOND / 1000), now, &terms);
            allowed += passed(&bucket, now, 1);
        }
        assert!((9..=10).contains(&allowed), "{allowed}");
    }

    #[test]
    fn a_stream_is_told_of_an_interval_first() {
        let terms = samples::terms();
        let bucket = Bucket::new(BucketId::default(), &terms);
        let begin = Instant::now();
        bucket.want();
        let elapsed = |at: Duration, open: Duration| {
            let usage = bucket.tell(begin + at, 10 * SECOND, begin + open);
            usage.map(|usage| usage.elapsed)
        };
        for (at, open, expected) in [
            (SECOND, Duration::ZERO, 10 * SECOND),
            (2 * SECOND, Duration::ZERO, SECOND),
            // Another one.
            (4 * SECOND, 3 * SECOND, 10 * SECOND),
            (5 * SECOND, 3 * SECOND, SECOND),
            // And one after a while.
            (50 * SECOND, 49 * SECOND, 45 * SECOND),
        ] {
            assert_eq!(elapsed(at, open), Some(expected), "{at:?} {open:?}");
        }
    }

    #[test]
    fn a_service_is_told_once_of_each_request() {
        let terms = samples::terms();
        let bucket = Bucket::new(BucketId::default(), &terms);
        let begin = Instant::now();
        assert_eq!(bucket.tell(begin, SECOND, begin), None, "nobody wants it");
        assert!(bucket.want() && !bucket.want() && bucket.is_new());
        passed(&bucket, begin, 3);
        let usage = |allowed, denied, elapsed| {
            Some(Usage {
                used: Used { allowed, denied },
                elapsed,
            })
        };
        assert_eq!(bucket.tell(begin, SECOND, begin), usage(3, 0, SECOND));
        assert!(!bucket.is_new());
        let denies = Action::Assign {
            strategy: Strategy::DenyAll,
            lasts: Some(SECOND),
        };
        bucket.on(denies, begin, &terms);
        passed(&bucket, begin, 2);
        assert_eq!(
            bucket.tell(begin + 2 * SECOND, SECOND, begin),
            usage(0, 2, 2 * SECOND)
        );
        // It is assigned no more, and is nobody's until it is wanted again.
        assert_eq!(bucket.age(begin + 3 * SECOND, &terms), None);
        assert_eq!(bucket.tell(begin + 3 * SECOND, SECOND, begin), None);
        assert_eq!(passed(&bucket, begin, 1), 1);
        assert!(bucket.want() && bucket.is_new());
        assert_eq!(
            bucket.tell(begin + 4 * SECOND, SECOND, begin),
            usage(1, 0, SECOND)
        );
        bucket.on(Action::Abandon, begin, &terms);
        assert!(bucket.want(), "the service has nothing more to do with it");
    }
}
