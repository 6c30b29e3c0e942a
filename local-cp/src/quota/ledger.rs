//! Who uses what of which bucket, and what each may use. No I/O; whoever asks brings the time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::divide::divide;
use super::limit::{self, Limit};

/// Of all streams; proxies have some thousands each, and mostly the same.
const BUCKETS_MAX: usize = 65_536;
/// Of one stream: twice what a proxy keeps of what clients make up.
const STREAM_BUCKETS_MAX: usize = 8192;
/// Names and values of an id.
const ID_BYTES_MAX: usize = 1024;
/// An assignment lives so many reporting intervals: one report may be lost, and one late.
const INTERVALS: u32 = 3;
/// What is reported in no time says nothing of the interval.
const LASTS_MIN: Duration = Duration::from_secs(1);
/// The same of what is reported first.
const FIRST_LASTS_MIN: Duration = Duration::from_secs(15);
const LASTS_MAX: Duration = Duration::from_secs(3600);

/// A bucket's name among all domains.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    pub(super) domain: Arc<str>,
    pub(super) id: Arc<BTreeMap<String, String>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct StreamId(u64);

#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    pub(super) requests: u64,
    pub(super) elapsed: Duration,
}

/// What one proxy may use, for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Assignment {
    pub(super) limit: Limit,
    pub(super) parts: u64,
    pub(super) lasts: Duration,
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    buckets: HashMap<Key, Bucket>,
    streams: BTreeMap<StreamId, Proxy>,
    next: u64,
}

#[derive(Debug)]
struct Bucket {
    limit: Limit,
    claims: BTreeMap<StreamId, Claim>,
}

/// What was reported of a bucket, until it is as if nobody had.
#[derive(Debug)]
struct Claim {
    used: u64,
    lasts: Duration,
    until: Instant,
}

#[derive(Debug)]
struct Proxy {
    buckets: BTreeSet<Key>,
    /// Of which it is to be told anew, since there are others.
    outdated: BTreeSet<Key>,
    wake: Arc<Notify>,
}

impl Key {
    /// None of what is longer than anybody needs, or says no limit.
    fn limit(&self) -> Option<Limit> {
        let bytes = self.id.iter().map(|(name, value)| name.len() + value.len());
        let is_short = bytes.sum::<usize>() + self.domain.len() <= ID_BYTES_MAX;
        let said = self.id.get(limit::NAME).filter(|_| is_short)?;
        Limit::parse(said)
    }
}

impl Ledger {
    /// A stream, and what it is woken by when there is something to tell it.
    pub(super) fn open(&mut self) -> (StreamId, Arc<Notify>) {
        let id = StreamId(self.next);
        self.next += 1;
        let wake = Arc::new(Notify::new());
        self.streams.insert(
            id,
            Proxy {
                buckets: BTreeSet::new(),
                outdated: BTreeSet::new(),
                wake: Arc::clone(&wake),
            },
        );
        (id, wake)
    }

    /// What it had comes back when its time is over: a proxy that is cut off goes on with it.
    pub(super) fn close(&mut self, stream: StreamId) {
        self.streams.remove(&stream);
    }

    /// Takes a report; what is to be told of it says [`Self::assignment`]. The others are told too when there is one more.
    pub(super) fn report(&mut self, stream: StreamId, key: &Key, usage: Usage, now: Instant) {
        let Some(limit) = key.limit() else { return };
        let Some(proxy) = self.streams.get_mut(&stream) else {
            return;
        };
        let has_room = self.buckets.len() < BUCKETS_MAX || self.buckets.contains_key(key);
        let is_known = proxy.buckets.contains(key);
        if !has_room || (!is_known && proxy.buckets.len() >= STREAM_BUCKETS_MAX) {
            return;
        }
        proxy.buckets.insert(key.clone());
        let bucket = self.buckets.entry(key.clone()).or_insert_with(|| Bucket {
            limit,
            claims: BTreeMap::new(),
        });
        bucket.expire(now);
        let is_new = !bucket.claims.contains_key(&stream);
        let min = if is_new { FIRST_LASTS_MIN } else { LASTS_MIN };
        let lasts = usage.elapsed.saturating_mul(INTERVALS).clamp(min, LASTS_MAX);
        let claim = Claim {
            used: limit.used(usage.requests, usage.elapsed),
            lasts,
            until: now + lasts,
        };
        bucket.claims.insert(stream, claim);
        if is_new {
            for other in bucket.claims.keys().filter(|other| **other != stream) {
                if let Some(proxy) = self.streams.get_mut(other) {
                    proxy.outdated.insert(key.clone());
                    proxy.wake.notify_one();
                }
            }
        }
    }

    /// What a stream may use of a bucket that it has reported.
    pub(super) fn assignment(&self, stream: StreamId, key: &Key) -> Option<Assignment> {
        let bucket = self.buckets.get(key)?;
        let claim = bucket.claims.get(&stream)?;
        let wants: Vec<u64> = bucket.claims.values().map(|claim| claim.used).collect();
        let place = bucket.claims.range(..stream).count();
        Some(Assignment {
            limit: bucket.limit,
            parts: *divide(bucket.limit.parts(), &wants).get(place)?,
            lasts: claim.lasts,
        })
    }

    /// Those of which a stream is to be told anew.
    pub(super) fn outdated(&mut self, stream: StreamId) -> BTreeSet<Key> {
        let proxy = self.streams.get_mut(&stream);
        proxy.map_or_else(BTreeSet::new, |proxy| std::mem::take(&mut proxy.outdated))
    }

    /// Forgets what nobody has reported for as long as it was assigned.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.buckets.retain(|_, bucket| {
            bucket.expire(now);
            !bucket.claims.is_empty()
        });
        for proxy in self.streams.values_mut() {
            proxy.buckets.retain(|key| self.buckets.contains_key(key));
        }
    }
}

impl Bucket {
    fn expire(&mut self, now: Instant) {
        self.claims.retain(|_, claim| claim.until > now);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(pairs: &[(&str, &str)]) -> Key {
        let pairs = pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Key {
            domain: "shop".into(),
            id: Arc::new(pairs.collect()),
        }
    }

    fn limited() -> Key {
        key(&[("limit", "100/1s"), ("name", "n")])
    }

    const SECOND: Duration = Duration::from_secs(1);

    fn used(requests: u64) -> Usage {
        Usage {
            requests,
            elapsed: SECOND,
        }
    }

    /// What a stream may use, in requests.
    fn assigned(ledger: &Ledger, stream: StreamId) -> Option<u64> {
        let assignment = ledger.assignment(stream, &limited())?;
        Some(assignment.parts * 100 / assignment.limit.parts())
    }

    #[test]
    fn those_who_are_there_share_a_limit() {
        let mut ledger = Ledger::default();
        let mut now = Instant::now();
        let (one, wake) = ledger.open();
        assert_eq!(assigned(&ledger, one), None);
        ledger.report(one, &limited(), used(500), now);
        assert_eq!(assigned(&ledger, one), Some(100));
        let (other, _) = ledger.open();
        ledger.report(other, &limited(), used(20), now);
        assert_eq!(
            (assigned(&ledger, one), assigned(&ledger, other)),
            (Some(78), Some(22))
        );
        // Who was alone is told, once.
        assert!(is_woken(&wake));
        assert_eq!(ledger.outdated(one), [limited()].into());
        assert!(ledger.outdated(one).is_empty());
        ledger.report(other, &limited(), used(20), now);
        assert!(ledger.outdated(one).is_empty());
        // What one had that is gone comes back when its time is over.
        ledger.close(other);
        now += 2 * SECOND;
        ledger.report(one, &limited(), used(500), now);
        assert_eq!(assigned(&ledger, one), Some(78));
        now += 14 * SECOND;
        ledger.report(one, &limited(), used(500), now);
        assert_eq!(assigned(&ledger, one), Some(100));
        assert_eq!(assigned(&ledger, other), None);
        ledger.sweep(now + 16 * SECOND);
        assert_eq!(assigned(&ledger, one), None);
        assert!(ledger.buckets.is_empty() && ledger.streams[&one].buckets.is_empty());
    }

    fn is_woken(wake: &Notify) -> bool {
        let notified = std::pin::pin!(wake.notified());
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        Future::poll(notified, &mut cx).is_ready()
    }

    #[test]
    fn an_assignment_lives_three_intervals() {
        let mut ledger = Ledger::default();
        let (stream, _) = ledger.open();
        let ms = Duration::from_millis;
        for (elapsed, expected) in [
            // What was reported first says little of the interval.
            (ms(1), 15 * SECOND),
            (ms(1), SECOND),
            (ms(500), ms(1500)),
            (10 * SECOND, 30 * SECOND),
            (Duration::MAX, 3600 * SECOND),
        ] {
            let usage = Usage { requests: 1, elapsed };
            ledger.report(stream, &limited(), usage, Instant::now());
            let assignment = ledger.assignment(stream, &limited()).unwrap();
            assert_eq!(assignment.lasts, expected, "{elapsed:?}");
        }
    }

    #[test]
    fn what_says_no_limit_is_nobodys() {
        let long = "a".repeat(ID_BYTES_MAX);
        for (id, expected) in [
            (&[("limit", "1/1s")][..], 1),
            (&[("name", "n")], 0),
            (&[("limit", "all")], 0),
            (&[("limit", "1/1s"), ("user", &long)], 0),
        ] {
            let mut ledger = Ledger::default();
            let (stream, _) = ledger.open();
            ledger.report(stream, &key(id), used(1), Instant::now());
            assert_eq!(ledger.buckets.len(), expected, "{id:?}");
        }
    }

    #[test]
    fn a_proxy_makes_up_no_more_than_so_many() {
        let mut ledger = Ledger::default();
        let (stream, _) = ledger.open();
        let now = Instant::now();
        for user in 0..=STREAM_BUCKETS_MAX {
            let key = key(&[("limit", "1/1s"), ("user", &user.to_string())]);
            ledger.report(stream, &key, used(1), now);
            let is_taken = user < STREAM_BUCKETS_MAX;
            assert_eq!(ledger.assignment(stream, &key).is_some(), is_taken, "{user}");
        }
    }

    proptest! {
        /// However they come, report and go: what those may use who are there is no more than the limit.
        #[test]
        fn nobody_is_assigned_what_another_has(
            steps in prop::collection::vec((0..6u64, 0..400u64, 0..4000u64, 0..8u8), 1..60),
        ) {
            let mut ledger = Ledger::default();
            let mut now = Instant::now();
            let mut open: Vec<StreamId> = Vec::new();
            for (which, requests, passed_ms, what) in steps {
                now += Duration::from_millis(passed_ms);
                match what {
                    0 if !open.is_empty() => ledger.close(open.swap_remove(which as usize % open.len())),
                    1 => ledger.sweep(now),
                    _ => {
                        let at = which as usize;
                        if at >= open.len() {
                            open.push(ledger.open().0);
                        }
                        let stream = open[at.min(open.len() - 1)];
                        ledger.report(stream, &limited(), used(requests), now);
                        prop_assert!(ledger.assignment(stream, &limited()).is_some());
                    }
                }
                let assigned = open.iter().filter_map(|stream| ledger.assignment(*stream, &limited()));
                let sum: u64 = assigned.map(|assigned| assigned.parts).sum();
                prop_assert!(sum <= Limit::parse("100/1s").unwrap().parts());
            }
        }
    }
}
