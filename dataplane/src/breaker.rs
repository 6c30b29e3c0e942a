//! How much may be under way on a cluster at once, over all of its hosts and all workers: what is beyond is refused at once,
//! before it makes a slow cluster slower. Pure but for the counts, of which each worker writes its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A worker that uses less than this part of its share of a limit does not ask what the others use: a limit may be exceeded by
/// one part in so many, if it is that large, and a request touches no memory that another worker writes.
const UNASKED_PART: u64 = 8;

/// What a cluster allows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Limits {
    pub(crate) connections_max: u32,
    /// Requests that have no connection yet.
    pub(crate) pending_max: u32,
    pub(crate) requests_max: u32,
    pub(crate) retries: RetryLimit,
}

/// How many of the requests under way may be attempts after a failed one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum RetryLimit {
    Max(u32),
    /// A share of the requests that are under way, but never less than so many.
    Budget {
        percent: f64,
        retries_min: u32,
    },
}

/// What is under way on a cluster, by worker.
#[derive(Debug)]
pub(crate) struct Load {
    workers: Box<[Counts]>,
}

/// What one worker has under way; on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Counts {
    connections: Count,
    pending: Count,
    requests: Count,
    retries: Count,
}

/// Written by one thread, read by all.
#[derive(Debug, Default)]
struct Count(AtomicU64);

/// A cluster's load, as one worker adds to it.
#[derive(Clone, Debug)]
pub(crate) struct Share {
    load: Arc<Load>,
    worker: usize,
}

/// A retry, from the decision to what comes of it.
#[derive(Debug)]
pub(crate) struct Retrying(Share);

/// A request without a connection, until it has one.
#[derive(Debug)]
pub(crate) struct Pending(Share);

impl Limits {
    /// Envoy's, for a cluster that says nothing else.
    pub(crate) const DEFAULT: Self = Self {
        connections_max: 1024,
        pending_max: 1024,
        requests_max: 1024,
        retries: RetryLimit::Max(3),
    };
}

impl RetryLimit {
    /// Whether one more may begin beside so many `retries`, which are of so many `requests`.
    fn allows(self, retries: u64, requests: u64) -> bool {
        match self {
            Self::Max(max) => retries < u64::from(max),
            Self::Budget { percent, retries_min } => {
                // As in Envoy, what is not a whole one is none.
                let share = (percent / 100.0 * requests as f64) as u64;
                retries < share.max(u64::from(retries_min))
            }
        }
    }
}

impl Load {
    pub(crate) fn new(workers: usize) -> Arc<Self> {
        Arc::new(Self {
            workers: (0..workers).map(|_| Counts::default()).collect(),
        })
    }

    fn sum(&self, count: impl Fn(&Counts) -> &Count) -> u64 {
        self.workers.iter().map(|counts| count(counts).get()).sum()
    }
}

impl Count {
    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn up(&self) {
        self.0.store(self.get() + 1, Ordering::Relaxed);
    }

    fn down(&self) {
        self.0.store(self.get() - 1, Ordering::Relaxed);
    }
}

impl Share {
    pub(crate) fn new(load: &Arc<Load>, worker: usize) -> Self {
        Self {
            load: Arc::clone(load),
            worker,
        }
    }

    /// Whose share it is.
    pub(crate) fn worker(&self) -> usize {
        self.worker
    }

    fn own(&self) -> &Counts {
        &self.load.workers[self.worker]
    }

    /// Counts a request until [`Self::end`].
    pub(crate) fn begin(&self) {
        self.own().requests.up();
    }

    pub(crate) fn end(&self) {
        self.own().requests.down();
    }

    /// Whether one more request may begin.
    pub(crate) fn allows_request(&self, limits: &Limits) -> bool {
        let max = u64::from(limits.requests_max);
        let own = self.own().requests.get();
        own < max / self.load.workers.len() as u64 / UNASKED_PART
            || self.load.sum(|counts| &counts.requests) < max
    }

    /// Whether one more connection may be opened.
    pub(crate) fn allows_connection(&self, limits: &Limits) -> bool {
        self.load.sum(|counts| &counts.connections) < u64::from(limits.connections_max)
    }

    /// Counts a connection until [`Self::disconnected`].
    pub(crate) fn connected(&self) {
        self.own().connections.up();
    }

    pub(crate) fn disconnected(&self) {
        self.own().connections.down();
    }

    /// A request more without a connection, if there may be.
    pub(crate) fn pend(&self, limits: &Limits) -> Option<Pending> {
        let pending = self.load.sum(|counts| &counts.pending);
        (pending < u64::from(limits.pending_max)).then(|| {
            self.own().pending.up();
            Pending(self.clone())
        })
    }

    /// A retry more, if there may be.
    pub(crate) fn retry(&self, limits: &Limits) -> Option<Retrying> {
        let retries = self.load.sum(|counts| &counts.retries);
        let requests = self.load.sum(|counts| &counts.requests);
        limits.retries.allows(retries, requests).then(|| {
            self.own().retries.up();
            Retrying(self.clone())
        })
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.own().pending.down();
    }
}

impl Drop for Retrying {
    fn drop(&mut self) {
        self.0.own().retries.down();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::balance::Draw;
    use crate::worker::Random;

    fn requests(requests_max: u32) -> Limits {
        Limits {
            requests_max,
            ..Limits::DEFAULT
        }
    }

    #[test]
    fn retries_are_bounded_by_number_or_by_share() {
        let max = RetryLimit::Max;
        let budget = |percent, retries_min| RetryLimit::Budget { percent, retries_min };
        for (limit, retries, requests, expected) in [
            (max(0), 0, 100, false),
            (max(3), 2, 100, true),
            (max(3), 3, 100, false),
            (max(3), 2, 0, true),
            (budget(20.0, 3), 2, 0, true),
            (budget(20.0, 3), 3, 0, false),
            (budget(20.0, 3), 3, 19, false),
            (budget(20.0, 3), 3, 20, true),
            (budget(20.0, 3), 4, 20, false),
            (budget(20.0, 3), 4, 24, false),
            (budget(20.0, 3), 4, 25, true),
            (budget(0.0, 0), 0, 1000, false),
            (budget(100.0, 0), 9, 10, true),
            (budget(100.0, 0), 10, 10, false),
        ] {
            assert_eq!(
                limit.allows(retries, requests),
                expected,
                "{limit:?}: {retries} of {requests}"
            );
        }
    }

    #[test]
    fn workers_are_added_up() {
        let load = Load::new(2);
        let (one, other) = (Share::new(&load, 0), Share::new(&load, 1));
        one.begin();
        assert!(other.allows_request(&requests(2)));
        other.begin();
        assert!(!one.allows_request(&requests(2)));
        assert!(!other.allows_request(&requests(2)));
        one.end();
        assert!(other.allows_request(&requests(2)));
        assert!(!one.allows_request(&requests(0)));
        let limits = Limits {
            retries: RetryLimit::Max(1),
            ..Limits::DEFAULT
        };
        let retrying = one.retry(&limits).unwrap();
        assert!(other.retry(&limits).is_none());
        drop(retrying);
        assert!(other.retry(&limits).is_some());
    }

    /// Random requests, retries and ends on several workers, beside a list of what is under way.
    #[test]
    fn decisions_are_those_of_a_plain_list() {
        enum UnderWay {
            Connection(usize),
            Pending(#[allow(dead_code, reason = "what counts is when it is dropped")] Pending),
            Request(usize),
            Retry(#[allow(dead_code, reason = "what counts is when it is dropped")] Retrying),
        }
        let mut seed = 0;
        for requests_max in [0, 1, 2, 7, 64, 1024] {
            // A share in percent and the least number, where it is not a number.
            for (percent, number) in [(0u32, 0u32), (0, 2), (20, 3), (50, 0), (100, 1)] {
                let retries = match percent {
                    0 => RetryLimit::Max(number),
                    percent => RetryLimit::Budget {
                        percent: f64::from(percent),
                        retries_min: number,
                    },
                };
                seed += 1;
                let random = Random::seeded(seed);
                let limits = Limits {
                    connections_max: requests_max / 2,
                    pending_max: requests_max / 3,
                    requests_max,
                    retries,
                };
                let load = Load::new(3);
                let shares: Vec<Share> = (0..3).map(|worker| Share::new(&load, worker)).collect();
                let mut list: Vec<UnderWay> = Vec::new();
                // So much may begin that was not asked about.
                let slack = u64::from(requests_max) / UNASKED_PART;
                for step in 0..4_000 {
                    let of = |kind: fn(&UnderWay) -> bool| list.iter().filter(|one| kind(one)).count() as u64;
                    let requests = of(|one| matches!(one, UnderWay::Request(_)));
                    let retried = of(|one| matches!(one, UnderWay::Retry(_)));
                    let connections = of(|one| matches!(one, UnderWay::Connection(_)));
                    let pending = of(|one| matches!(one, UnderWay::Pending(_)));
                    let worker = random.below(3) as usize;
                    let share = &shares[worker];
                    match random.below(8) {
                        0 => {
                            let allowed = share.allows_connection(&limits);
                            let expected = connections < u64::from(limits.connections_max);
                            assert_eq!(
                                allowed, expected,
                                "seed {seed}, {limits:?}: {connections}, step {step}"
                            );
                            if allowed {
                                share.connected();
                                list.push(UnderWay::Connection(worker));
                            }
                        }
                        1 => {
                            let began = share.pend(&limits);
                            let expected = pending < u64::from(limits.pending_max);
                            assert_eq!(
                                began.is_some(),
                                expected,
                                "seed {seed}, {limits:?}: {pending}, step {step}"
                            );
                            list.extend(began.map(UnderWay::Pending));
                        }
                        2..=3 => {
                            let allowed = share.allows_request(&limits);
                            if requests < u64::from(requests_max) {
                                assert!(
                                    allowed,
                                    "seed {seed}, {limits:?} refuses at {requests}, step {step}"
                                );
                            }
                            if requests >= u64::from(requests_max) + slack {
                                assert!(
                                    !allowed,
                                    "seed {seed}, {limits:?} allows at {requests}, step {step}"
                                );
                            }
                            if allowed {
                                share.begin();
                                list.push(UnderWay::Request(worker));
                            }
                        }
                        4 => {
                            let retrying = share.retry(&limits);
                            assert_eq!(
                                retrying.is_some(),
                                retried < (requests * u64::from(percent) / 100).max(u64::from(number)),
                                "seed {seed}, {limits:?}: {retried} of {requests}, step {step}"
                            );
                            list.extend(retrying.map(UnderWay::Retry));
                        }
                        _ if list.is_empty() => {}
                        // Ends come in bursts, so that all of the range is seen.
                        _ if step / 1_000 % 2 == 1 || random.below(3) == 0 => {
                            let at = random.below(u32::try_from(list.len()).unwrap()) as usize;
                            match list.swap_remove(at) {
                                UnderWay::Request(worker) => shares[worker].end(),
                                UnderWay::Connection(worker) => shares[worker].disconnected(),
                                UnderWay::Pending(_) | UnderWay::Retry(_) => {}
                            }
                        }
                        _ => {}
                    }
                }
                drop(list);
                assert_eq!(load.sum(|counts| &counts.retries), 0);
                assert_eq!(load.sum(|counts| &counts.pending), 0);
            }
        }
    }
}
