//! What attempts brought, host by host: counted by the workers, read by who looks for outliers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};

use tokio::sync::Notify;

use super::{Detection, Origin, Trip};
use crate::metrics::Counter;

/// What an attempt brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    Status(u16),
    NoConnection,
    /// The connection broke, or the host refused to look at the request.
    Broken,
    TimedOut,
}

/// What is known of one host; workers write it.
#[derive(Debug)]
pub(crate) struct Record {
    limits: [u32; 3],
    splits: bool,
    returns_checked: bool,
    rows: [AtomicU32; 3],
    /// A bit for each [`Trip`] that nobody has looked at yet, and [`CHECKED`].
    signals: AtomicU8,
    ejected: AtomicBool,
    tallies: Box<[Tally]>,
    wake: Arc<Notify>,
}

/// A check has passed.
pub(super) const CHECKED: u8 = 1 << 3;

/// What one worker counts for one host; on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Tally {
    /// By [`Origin`].
    requests: [Counter; 2],
    successes: [Counter; 2],
}

/// Requests and successes so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Volume {
    pub(crate) requests: u64,
    pub(crate) successes: u64,
}

impl Record {
    pub(crate) fn new(detection: &Detection, workers: usize, wake: &Arc<Notify>) -> Self {
        Self {
            limits: detection.consecutive.map(|(limit, _)| limit),
            splits: detection.splits,
            returns_checked: detection.returns_checked,
            rows: Default::default(),
            signals: AtomicU8::new(0),
            ejected: AtomicBool::new(false),
            tallies: (0..workers).map(|_| Tally::default()).collect(),
            wake: Arc::clone(wake),
        }
    }

    pub(crate) fn is_ejected(&self) -> bool {
        self.ejected.load(Ordering::Relaxed)
    }

    /// Counts what an attempt of `worker` brought. In Envoy's terms, what left no answer is a 503 or a 504, unless failures to
    /// reach the host count apart.
    pub(crate) fn report(&self, worker: usize, report: Report) {
        let tally = &self.tallies[worker];
        let status = match report {
            Report::Status(status) => Some(status),
            _ if self.splits => None,
            Report::NoConnection | Report::Broken => Some(503),
            Report::TimedOut => Some(504),
        };
        if self.splits {
            if report != Report::NoConnection {
                tally.count(Origin::Local, true);
                self.clear(Trip::LocalOrigin);
            }
            if !matches!(report, Report::Status(_)) {
                tally.count(Origin::Local, false);
                self.lengthen(Trip::LocalOrigin);
            }
        }
        let Some(status) = status else { return };
        tally.count(Origin::External, status < 500);
        if matches!(status, 502..=504) {
            self.lengthen(Trip::Gateway);
        } else {
            self.clear(Trip::Gateway);
        }
        if status < 500 {
            self.clear(Trip::FiveXx);
        } else {
            self.lengthen(Trip::FiveXx);
        }
    }

    /// A check of the host has passed.
    pub(crate) fn check_passed(&self) {
        if self.returns_checked && self.is_ejected() {
            self.signal(CHECKED);
        }
    }

    /// Whoever succeeds where nothing failed writes nothing.
    fn clear(&self, trip: Trip) {
        let row = &self.rows[trip as usize];
        if row.load(Ordering::Relaxed) != 0 {
            row.store(0, Ordering::Relaxed);
        }
    }

    fn lengthen(&self, trip: Trip) {
        let row = &self.rows[trip as usize];
        // A limit of 0 is never met.
        if row.fetch_add(1, Ordering::Relaxed).wrapping_add(1) == self.limits[trip as usize] {
            row.store(0, Ordering::Relaxed);
            self.signal(trip.bit());
        }
    }

    fn signal(&self, bit: u8) {
        self.signals.fetch_or(bit, Ordering::Relaxed);
        self.wake.notify_one();
    }

    pub(super) fn take_signals(&self) -> u8 {
        self.signals.swap(0, Ordering::Relaxed)
    }

    pub(super) fn volumes(&self) -> [Volume; 2] {
        let sum = |counters: fn(&Tally) -> &[Counter; 2], origin: usize| {
            self.tallies
                .iter()
                .map(|tally| counters(tally)[origin].get())
                .sum()
        };
        [Origin::External, Origin::Local].map(|origin| Volume {
            // Read first, so that there are never more successes than requests.
            successes: sum(|tally| &tally.successes, origin as usize),
            requests: sum(|tally| &tally.requests, origin as usize),
        })
    }

    pub(super) fn eject(&self) {
        self.ejected.store(true, Ordering::Relaxed);
    }

    /// It starts over.
    pub(super) fn readmit(&self) {
        self.ejected.store(false, Ordering::Relaxed);
        Trip::ALL.into_iter().for_each(|trip| self.clear(trip));
        self.take_signals();
    }
}

impl Tally {
    fn count(&self, origin: Origin, succeeded: bool) {
        self.requests[origin as usize].add(1);
        if succeeded {
            self.successes[origin as usize].add(1);
        }
    }
}

impl Volume {
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(before.requests),
            successes: self.successes.saturating_sub(before.successes),
        }
    }

    /// Percent of what there was that succeeded, if there was so much.
    pub(super) fn rate(self, requests_min: u32) -> Option<f64> {
        let enough = self.requests > 0 && self.requests >= u64::from(requests_min);
        enough.then(|| self.successes as f64 * 100.0 / self.requests as f64)
    }
}
