//! Who uses what of which bucket, and what each may use. No I/O; whoever asks brings the time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::divide::divide;
use super::limit::{self, Limit};

/// Of what clients make up, of all streams; proxies have some thousands each, and mostly the same.
const BUCKETS_MAX: usize = 65_536;
/// Of them: what clients make up in one domain leaves room for others.
const DOMAIN_BUCKETS_MAX: usize = 16_384;
/// Of what intent says, which clients are not to keep out: more gateways than a cluster has.
const NAMED_MAX: usize = 65_536;
/// Who may share one bucket: more than a cluster has proxies.
const CLAIMS_MAX: usize = 4096;
/// Of streams that are closed, whose parts are not given to others yet: some tens of megabytes.
const GONE_CLAIMS_MAX: usize = 131_072;
/// Of one stream: twice what a proxy keeps of what clients make up.
const STREAM_BUCKETS_MAX: usize = 8192;
/// Names and values of an id.
const ID_BYTES_MAX: usize = 1024;
/// An assignment lives so many reporting intervals: one report may be lost, and one late.
const INTERVALS: u32 = 3;
/// What is reported first, or between two intervals, says nothing of the interval.
const LASTS_MIN: Duration = Duration::from_secs(15);
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
    /// How many buckets each has that clients have made up.
    domains: HashMap<Arc<str>, usize>,
    named: usize,
    streams: BTreeMap<StreamId, Proxy>,
    /// Closed, with claims that may not be over.
    gone: BTreeMap<StreamId, Gone>,
    gone_claims: usize,
    next: u64,
}

#[derive(Debug)]
struct Bucket {
    limit: Limit,
    claims: BTreeMap<StreamId, Claim>,
    /// Whether each claim has the part that is its.
    is_divided: bool,
}

/// What was reported of a bucket, until it is as if nobody had.
#[derive(Debug)]
struct Claim {
    used: u64,
    lasts: Duration,
    until: Instant,
    part: u64,
    /// Nothing until it is told something.
    told: u64,
}

#[derive(Debug)]
struct Proxy {
    name: Option<Box<str>>,
    /// Its stream before this one, if it has said its name: what it had there is what it has here.
    before: Option<StreamId>,
    buckets: BTreeSet<Key>,
    /// Of which it is to be told anew, since there are others.
    outdated: BTreeSet<Key>,
    wake: Arc<Notify>,
}

#[derive(Debug)]
struct Gone {
    name: Option<Box<str>>,
    buckets: BTreeSet<Key>,
}

impl Key {
    /// None of what is longer than anybody needs, or says no limit.
    fn limit(&self) -> Option<Limit> {
        let bytes = self.id.iter().map(|(name, value)| name.len() + value.len());
        let is_short = bytes.sum::<usize>() + self.domain.len() <= ID_BYTES_MAX;
        let said = self.id.get(limit::NAME).filter(|_| is_short)?;
        Limit::parse(said)
    }

    /// Whether it is of a value that requests have. Of all that are more than a proxy tells apart there is one.
    fn is_made_up(&self) -> bool {
        let of_intent = |(name, value): (&String, &String)| {
            [limit::NAME, limit::GATEWAY].contains(&name.as_str()) || value == limit::OTHERS
        };
        !self.id.iter().all(of_intent)
    }
}

impl Ledger {
    /// A stream, of a proxy that may have said its name, and what it is woken by when there is something to tell it.
    pub(super) fn open(&mut self, name: Option<Box<str>>) -> (StreamId, Arc<Notify>) {
        let id = StreamId(self.next);
        self.next += 1;
        let wake = Arc::new(Notify::new());
        let before = name.as_deref().and_then(|name| self.last_of(name));
        self.streams.insert(
            id,
            Proxy {
                name,
                before,
                buckets: BTreeSet::new(),
                outdated: BTreeSet::new(),
                wake: Arc::clone(&wake),
            },
        );
        (id, wake)
    }

    fn last_of(&self, name: &str) -> Option<StreamId> {
        let open = self.streams.iter().map(|(id, proxy)| (id, &proxy.name));
        let gone = self.gone.iter().map(|(id, gone)| (id, &gone.name));
        let named = open.chain(gone).filter(|(_, of)| of.as_deref() == Some(name));
        named.map(|(id, _)| *id).max()
    }

    /// What it had comes back when its time is over: a proxy that is cut off goes on with it.
    pub(super) fn close(&mut self, stream: StreamId) {
        let Some(Proxy { name, buckets, .. }) = self.streams.remove(&stream) else {
            return;
        };
        self.gone_claims += buckets.len();
        self.gone.insert(stream, Gone { name, buckets });
        while self.gone_claims > GONE_CLAIMS_MAX
            && let Some((oldest, gone)) = self.gone.pop_first()
        {
            self.gone_claims -= gone.buckets.len();
            for key in gone.buckets {
                if let Some(bucket) = self.buckets.get_mut(&key) {
                    bucket.take(oldest);
                }
            }
        }
    }

    /// Takes a report; what is to be told of it says [`Self::assignment`]. The others are told too when there is one more.
    pub(super) fn report(&mut self, stream: StreamId, key: &Key, usage: Usage, now: Instant) {
        let Some(limit) = key.limit() else { return };
        let Some(proxy) = self.streams.get_mut(&stream) else {
            return;
        };
        let is_made_up = key.is_made_up();
        if is_made_up && !proxy.buckets.contains(key) && proxy.buckets.len() >= STREAM_BUCKETS_MAX {
            return;
        }
        if !self.buckets.contains_key(key) {
            let made_up = self.buckets.len() - self.named;
            let of_domain = self.domains.get(&key.domain).copied().unwrap_or(0);
            let is_full = if is_made_up {
                made_up >= BUCKETS_MAX || of_domain >= DOMAIN_BUCKETS_MAX
            } else {
                self.named >= NAMED_MAX
            };
            if is_full {
                return;
            }
            if is_made_up {
                self.domains.insert(Arc::clone(&key.domain), of_domain + 1);
            } else {
                self.named += 1;
            }
        }
        let bucket = self.buckets.entry(key.clone()).or_insert_with(|| Bucket {
            limit,
            claims: BTreeMap::new(),
            is_divided: false,
        });
        bucket.expire(now);
        let held = bucket.take(stream).or_else(|| bucket.take(proxy.before?));
        if held.is_none() && bucket.claims.len() >= CLAIMS_MAX {
            return;
        }
        proxy.buckets.insert(key.clone());
        let held_for = held.as_ref().map_or(LASTS_MIN, |held| held.lasts);
        let lasts = lasts(usage.elapsed).max(held_for);
        let claim = Claim {
            used: limit.used(usage.requests, usage.elapsed),
            lasts,
            until: now + lasts,
            part: 0,
            told: held.as_ref().map_or(0, |held| held.told),
        };
        bucket.claims.insert(stream, claim);
        bucket.is_divided = false;
        if held.is_none() {
            for other in bucket.claims.keys().filter(|other| **other != stream) {
                if let Some(proxy) = self.streams.get_mut(other) {
                    proxy.outdated.insert(key.clone());
                    proxy.wake.notify_one();
                }
            }
        }
    }

    /// What a stream may use of a bucket that it has reported.
    pub(super) fn assignment(&mut self, stream: StreamId, key: &Key) -> Option<Assignment> {
        let bucket = self.buckets.get_mut(key)?;
        bucket.divide();
        let claim = bucket.claims.get_mut(&stream)?;
        claim.told = told(claim.told, claim.part);
        Some(Assignment {
            limit: bucket.limit,
            parts: claim.told,
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
        self.domains.clear();
        for key in self.buckets.keys().filter(|key| key.is_made_up()) {
            *self.domains.entry(Arc::clone(&key.domain)).or_default() += 1;
        }
        self.named = self.buckets.len() - self.domains.values().sum::<usize>();
        let has_claim = |stream: StreamId, key: &Key| {
            let bucket = self.buckets.get(key);
            bucket.is_some_and(|bucket| bucket.claims.contains_key(&stream))
        };
        for (stream, proxy) in &mut self.streams {
            proxy.buckets.retain(|key| has_claim(*stream, key));
        }
        self.gone.retain(|stream, gone| {
            gone.buckets.retain(|key| has_claim(*stream, key));
            !gone.buckets.is_empty()
        });
        self.gone_claims = self.gone.values().map(|gone| gone.buckets.len()).sum();
    }
}

impl Bucket {
    fn expire(&mut self, now: Instant) {
        let before = self.claims.len();
        self.claims.retain(|_, claim| claim.until > now);
        self.is_divided &= self.claims.len() == before;
    }

    fn take(&mut self, stream: StreamId) -> Option<Claim> {
        let claim = self.claims.remove(&stream)?;
        self.is_divided = false;
        Some(claim)
    }

    /// Once for all until a claim is another one.
    fn divide(&mut self) {
        if std::mem::replace(&mut self.is_divided, true) {
            return;
        }
        let wants: Vec<u64> = self.claims.values().map(|claim| claim.used).collect();
        let parts = divide(self.limit.parts(), &wants);
        for (claim, part) in self.claims.values_mut().zip(parts) {
            claim.part = part;
        }
    }
}

/// For how long it is assigned what was used in a time, in whole seconds, since an Envoy reads no others.
fn lasts(elapsed: Duration) -> Duration {
    let lasts = elapsed.saturating_mul(INTERVALS).min(LASTS_MAX);
    Duration::from_secs(lasts.as_secs() + u64::from(lasts.subsec_nanos() > 0))
}

/// The same again where it is up to a tenth less than there is: each change costs a proxy something (an Envoy fills the bucket anew),
/// and what is used is never twice the same. Never more than there is.
fn told(before: u64, part: u64) -> u64 {
    if before <= part && part - before <= before / 10 {
        before
    } else {
        part
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
    fn assigned(ledger: &mut Ledger, stream: StreamId) -> Option<u64> {
        let assignment = ledger.assignment(stream, &limited())?;
        Some(assignment.parts * 100 / assignment.limit.parts())
    }

    #[test]
    fn those_who_are_there_share_a_limit() {
        let mut ledger = Ledger::default();
        let mut now = Instant::now();
        let (one, wake) = ledger.open(None);
        assert_eq!(assigned(&mut ledger, one), None);
        ledger.report(one, &limited(), used(500), now);
        assert_eq!(assigned(&mut ledger, one), Some(100));
        let (other, _) = ledger.open(None);
        ledger.report(other, &limited(), used(20), now);
        assert_eq!(
            (assigned(&mut ledger, one), assigned(&mut ledger, other)),
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
        assert_eq!(assigned(&mut ledger, one), Some(78));
        now += 14 * SECOND;
        ledger.report(one, &limited(), used(500), now);
        assert_eq!(assigned(&mut ledger, one), Some(100));
        assert_eq!(assigned(&mut ledger, other), None);
        ledger.sweep(now + 16 * SECOND);
        assert_eq!(assigned(&mut ledger, one), None);
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
        let (stream, _) = ledger.open(None);
        let ms = Duration::from_millis;
        for (elapsed, expected) in [
            // What was reported first says little of the interval, and so does what came between two.
            (ms(1), 15 * SECOND),
            (ms(500), 15 * SECOND),
            (ms(10_100), 31 * SECOND),
            (ms(1), 31 * SECOND),
            (10 * SECOND, 31 * SECOND),
            (Duration::MAX, 3600 * SECOND),
        ] {
            let usage = Usage { requests: 1, elapsed };
            ledger.report(stream, &limited(), usage, Instant::now());
            let assignment = ledger.assignment(stream, &limited()).unwrap();
            assert_eq!(assignment.lasts, expected, "{elapsed:?}");
        }
    }

    #[test]
    fn what_is_told_moves_by_more_than_a_little() {
        for (before, part, expected) in [
            (0, 100, 100),
            (100, 100, 100),
            (100, 110, 100),
            (100, 111, 111),
            // Who has more than is his gives it back.
            (100, 99, 99),
            (100, 0, 0),
            (0, 0, 0),
        ] {
            assert_eq!(told(before, part), expected, "{before} {part}");
        }
        let mut ledger = Ledger::default();
        let now = Instant::now();
        let (one, _) = ledger.open(None);
        let (other, _) = ledger.open(None);
        let mut changes = BTreeSet::new();
        for early_ms in [10, 3, 1, 2, 9, 4] {
            for (stream, requests) in [(one, 50), (other, 20)] {
                let usage = Usage {
                    requests,
                    elapsed: SECOND + Duration::from_millis(10 - early_ms),
                };
                ledger.report(stream, &limited(), usage, now);
            }
            changes.insert(ledger.assignment(other, &limited()).unwrap().parts);
        }
        assert_eq!(changes.len(), 1, "{changes:?}");
    }

    #[test]
    fn a_proxy_that_comes_back_does_not_share_with_itself() {
        let mut ledger = Ledger::default();
        let now = Instant::now();
        let named = |ledger: &mut Ledger, name: &str| {
            let (stream, _) = ledger.open(Some(name.into()));
            ledger.report(stream, &limited(), used(500), now);
            stream
        };
        let (one, other) = (named(&mut ledger, "one"), named(&mut ledger, "other"));
        assert_eq!(assigned(&mut ledger, other), Some(50));
        // Whether the edge has noticed or not.
        let again = named(&mut ledger, "one");
        assert_eq!(ledger.outdated(other), BTreeSet::new(), "nothing is new to it");
        assert_eq!(assigned(&mut ledger, again), Some(50));
        ledger.close(one);
        ledger.close(again);
        let again = named(&mut ledger, "one");
        assert_eq!(assigned(&mut ledger, again), Some(50));
        // Two that say the same name are two.
        let twin = named(&mut ledger, "other");
        for stream in [other, twin, again] {
            ledger.report(stream, &limited(), used(500), now);
        }
        assert_eq!(
            [other, twin, again].map(|stream| assigned(&mut ledger, stream)),
            [Some(33); 3]
        );
    }

    #[test]
    fn what_closed_streams_had_is_bounded() {
        let mut ledger = Ledger::default();
        let now = Instant::now();
        let keys: Vec<Key> = (0..STREAM_BUCKETS_MAX)
            .map(|user| key(&[("limit", "1/1s"), ("user", &user.to_string())]))
            .collect();
        for _ in 0..=GONE_CLAIMS_MAX / STREAM_BUCKETS_MAX {
            let (stream, _) = ledger.open(None);
            for key in &keys {
                ledger.report(stream, key, used(1), now);
            }
            ledger.close(stream);
        }
        let claims = |ledger: &Ledger| {
            let claims = ledger.buckets.values().map(|bucket| bucket.claims.len());
            claims.sum::<usize>()
        };
        assert_eq!(
            (claims(&ledger), ledger.gone_claims),
            (GONE_CLAIMS_MAX, GONE_CLAIMS_MAX)
        );
        ledger.sweep(now + 16 * SECOND);
        assert_eq!((claims(&ledger), ledger.gone_claims), (0, 0));
        assert!(ledger.gone.is_empty());
    }

    #[test]
    fn a_bucket_is_shared_by_no_more_than_so_many() {
        let mut ledger = Ledger::default();
        let now = Instant::now();
        for nth in 0..=CLAIMS_MAX {
            let (stream, _) = ledger.open(None);
            ledger.report(stream, &limited(), used(1), now);
            let has_claim = ledger.buckets[&limited()].claims.contains_key(&stream);
            assert_eq!(has_claim, nth < CLAIMS_MAX, "{nth}");
            ledger.close(stream);
        }
    }

    #[test]
    fn a_domain_leaves_room_for_others() {
        let mut ledger = Ledger::default();
        let now = Instant::now();
        for nth in 0..3 * STREAM_BUCKETS_MAX {
            let (stream, _) = ledger.open(None);
            let key = key(&[("limit", "1/1s"), ("user", &nth.to_string())]);
            ledger.report(stream, &key, used(1), now);
        }
        assert_eq!(ledger.buckets.len(), DOMAIN_BUCKETS_MAX);
        let said = [("limit", "1/1s"), ("user", "new")];
        let elsewhere = Key {
            domain: "other".into(),
            ..key(&said)
        };
        let gateway = ("gateway", "edge/shop");
        for (key, expected) in [
            (key(&said), false),
            (elsewhere, true),
            // What clients make up keeps no limit out that intent says.
            (key(&[("limit", "1/1s"), gateway]), true),
            (key(&[("limit", "1/1s"), gateway, ("header.x-user", "*")]), true),
        ] {
            let (stream, _) = ledger.open(None);
            ledger.report(stream, &key, used(1), now);
            let is_taken = ledger.assignment(stream, &key).is_some();
            assert_eq!(is_taken, expected, "{key:?}");
        }
        // What is over leaves room too.
        ledger.sweep(now + 16 * SECOND);
        let (stream, _) = ledger.open(None);
        ledger.report(stream, &key(&said), used(1), now);
        assert!(ledger.assignment(stream, &key(&said)).is_some());
    }

    #[test]
    fn a_stream_is_rid_of_what_it_does_not_report_though_others_do() {
        let mut ledger = Ledger::default();
        let now = Instant::now();
        let (one, _) = ledger.open(None);
        let (other, _) = ledger.open(None);
        ledger.report(one, &limited(), used(1), now);
        ledger.report(other, &limited(), used(1), now + 10 * SECOND);
        ledger.sweep(now + 16 * SECOND);
        let held = [one, other].map(|stream| ledger.streams[&stream].buckets.len());
        assert_eq!(held, [0, 1]);
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
            let (stream, _) = ledger.open(None);
            ledger.report(stream, &key(id), used(1), Instant::now());
            assert_eq!(ledger.buckets.len(), expected, "{id:?}");
        }
    }

    #[test]
    fn a_proxy_makes_up_no_more_than_so_many() {
        let mut ledger = Ledger::default();
        let (stream, _) = ledger.open(None);
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
                            open.push(ledger.open(None).0);
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
