//! Limits of a local rate limit that count some requests apart, by their descriptors. Where a descriptor leaves a value open, each that
//! requests have of it has a bucket of its own, of which those that were used last are kept.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::{Bucket, Rate, Taken};
use crate::config::{Action, Forward, Route};
use crate::filter::{Described, Entry, Outer};
use crate::matcher::{RequestView, Subject};

/// What requests count as, and how many of each there may be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Descriptors {
    /// In place of all that routes and hosts say, unless there are none.
    pub(crate) own: Vec<Described>,
    /// Of what routes and hosts say.
    pub(crate) stage: u32,
    pub(crate) outer: Outer,
    /// No two of the same entries.
    pub(crate) limits: Vec<DescribedLimit>,
    /// How many values have buckets, where a limit leaves one open.
    pub(crate) values_max: usize,
    /// Whether what has a limit of its own counts to that of all as well.
    pub(crate) counts_to_all: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DescribedLimit {
    /// An empty value is open.
    pub(crate) entries: Vec<Entry>,
    pub(crate) rate: Rate,
}

/// What is left of each.
#[derive(Debug, Default)]
pub(super) struct Buckets {
    settled: HashMap<Vec<Entry>, (Rate, Bucket)>,
    open: Vec<Open>,
}

/// A limit that leaves values open.
#[derive(Debug)]
struct Open {
    limit: DescribedLimit,
    values_max: usize,
    made: Instant,
    /// By a key of its own, so that nobody can choose values that are one to it; of a value nothing else is kept.
    hasher: RandomState,
    used: Mutex<Used>,
}

/// When the bucket of each value will be full, in nanoseconds, and in which turn it was used last.
#[derive(Debug, Default)]
struct Used {
    buckets: HashMap<u64, (u64, u64)>,
    values: BTreeMap<u64, u64>,
    turn: u64,
}

/// The limit that a request's descriptor has.
enum Found<'a> {
    Settled(Rate, &'a Bucket),
    Open(&'a Open, u64),
}

impl DescribedLimit {
    fn is_open(&self) -> bool {
        self.entries.iter().any(|entry| entry.value.is_empty())
    }

    fn is_of(&self, entries: &[Entry]) -> bool {
        let is_of = |(own, entry): (&Entry, &Entry)| {
            own.key == entry.key && (own.value.is_empty() || own.value == entry.value)
        };
        self.entries.len() == entries.len() && self.entries.iter().zip(entries).all(is_of)
    }
}

impl Descriptors {
    /// What a request counts as.
    fn of<'a>(
        &'a self,
        route: Option<&'a Route>,
        subject: &'a Subject<'_, impl RequestView>,
    ) -> impl Iterator<Item = Vec<Entry>> + 'a {
        let forward = route.and_then(forward);
        let limits = forward.and_then(|forward| forward.limits.as_deref());
        let limits = limits.filter(|_| self.own.is_empty()).into_iter();
        let said = limits.flat_map(|limits| limits.of(self.stage, self.outer));
        let described = self.own.iter().chain(said);
        described.filter_map(move |described| described.entries(subject, forward))
    }
}

fn forward(route: &Route) -> Option<&Forward> {
    match &route.action {
        Action::Forward(forward) => Some(forward),
        Action::Redirect(_) | Action::Respond { .. } => None,
    }
}

impl Buckets {
    /// All full.
    pub(super) fn new(descriptors: &Descriptors) -> Self {
        let limits = descriptors.limits.iter().cloned();
        let (open, settled): (Vec<_>, Vec<_>) = limits.partition(DescribedLimit::is_open);
        let of_values = |limit| Open {
            limit,
            values_max: descriptors.values_max,
            made: Instant::now(),
            hasher: RandomState::new(),
            used: Mutex::default(),
        };
        let full = |limit: DescribedLimit| (limit.entries, (limit.rate, Bucket::new()));
        Self {
            settled: settled.into_iter().map(full).collect(),
            open: open.into_iter().map(of_values).collect(),
        }
    }

    /// Takes a token of each limit that a request has, the slowest first, until there is none; what is left of that one, or of
    /// the first. Nothing where it has no limit.
    pub(super) fn take(
        &self,
        descriptors: &Descriptors,
        route: Option<&Route>,
        subject: &Subject<'_, impl RequestView>,
        now: Instant,
    ) -> Option<Taken> {
        let entries = descriptors.of(route, subject);
        let mut found: Vec<Found<'_>> = entries.filter_map(|entries| self.find(&entries)).collect();
        found.sort_by_key(|found| std::cmp::Reverse(found.rate().each));
        let mut first = None;
        for found in found {
            let taken = found.take(now);
            if !taken.is_taken {
                return Some(taken);
            }
            first = first.or(Some(taken));
        }
        first
    }

    fn find(&self, entries: &[Entry]) -> Option<Found<'_>> {
        if let Some((rate, bucket)) = self.settled.get(entries) {
            return Some(Found::Settled(*rate, bucket));
        }
        let open = self.open.iter().find(|open| open.limit.is_of(entries))?;
        Some(Found::Open(open, open.hasher.hash_one(entries)))
    }
}

impl Found<'_> {
    fn rate(&self) -> Rate {
        match self {
            Self::Settled(rate, _) => *rate,
            Self::Open(open, _) => open.limit.rate,
        }
    }

    fn take(&self, now: Instant) -> Taken {
        match self {
            Self::Settled(rate, bucket) => bucket.take(*rate, now),
            Self::Open(open, value) => open.take(*value, now),
        }
    }
}

impl Open {
    fn take(&self, value: u64, now: Instant) -> Taken {
        let now = super::nanoseconds(self.made, now);
        // Whoever panicked meanwhile has left nothing half done that matters.
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let rate = self.limit.rate;
        let full = used.touch(value, self.values_max);
        let taken = Taken::of(rate, rate.take(*full, now), *full, now);
        *full = taken.full;
        taken
    }
}

impl Used {
    /// When that value's bucket will be full. One that was not used for longest makes room for it.
    fn touch(&mut self, value: u64, values_max: usize) -> &mut u64 {
        self.turn += 1;
        let turn = self.turn;
        if let Some((_, before)) = self.buckets.get(&value) {
            self.values.remove(before);
        } else if self.buckets.len() >= values_max
            && let Some((_, oldest)) = self.values.pop_first()
        {
            self.buckets.remove(&oldest);
        }
        self.values.insert(turn, value);
        let (full, used) = self.buckets.entry(value).or_insert((0, turn));
        *used = turn;
        full
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use http::Request;

    use super::*;
    use crate::filter::{DescribingAction, of_name};

    const HOUR: Duration = Duration::from_secs(3600);

    fn limit(entries: &[(&str, &str)], tokens: u32, interval: Duration) -> DescribedLimit {
        DescribedLimit {
            entries: entries
                .iter()
                .map(|(key, value)| Entry::new(key, value))
                .collect(),
            rate: Rate::new(tokens, 1, interval),
        }
    }

    /// By each of the headers, and by both.
    fn descriptors(limits: Vec<DescribedLimit>, values_max: usize) -> Descriptors {
        let header = |name: &str| DescribingAction::Header {
            of: of_name(name).unwrap(),
            key: name.into(),
            skips: false,
        };
        let described = |names: &[&str]| Described {
            stage: 0,
            actions: names.iter().map(|name| header(name)).collect(),
        };
        Descriptors {
            own: vec![described(&["a"]), described(&["b"]), described(&["a", "b"])],
            stage: 0,
            outer: Outer::Default,
            limits,
            values_max,
            counts_to_all: true,
        }
    }

    /// Whether requests of these values find tokens, where they have a limit.
    fn taken(descriptors: &Descriptors, values: &[(&str, &str)]) -> Vec<Option<bool>> {
        let buckets = Buckets::new(descriptors);
        let now = Instant::now();
        let taken = values.iter().map(|(a, b)| {
            let request = Request::get("/").header("a", *a).header("b", *b);
            let subject = Subject {
                authority: "a",
                path: "/",
                client: "10.0.0.1".parse().unwrap(),
                direct: "10.0.0.9".parse().unwrap(),
                request: &request.body(()).unwrap().into_parts().0,
            };
            let taken = buckets.take(descriptors, None, &subject, now);
            taken.map(|taken| taken.is_taken)
        });
        taken.collect()
    }

    #[test]
    fn requests_count_as_what_they_are() {
        let (yes, no, none) = (Some(true), Some(false), None);
        for (limits, values, expected) in [
            (
                vec![limit(&[("a", "1")], 1, HOUR)],
                &[("1", "x"), ("2", "x"), ("1", "y")][..],
                &[yes, none, no][..],
            ),
            // All of its entries, in their order.
            (
                vec![limit(&[("a", "1"), ("b", "2")], 1, HOUR)],
                &[("1", "1"), ("1", "2"), ("1", "2")],
                &[none, yes, no],
            ),
            (
                vec![limit(&[("b", "2"), ("a", "1")], 1, HOUR)],
                &[("1", "2")],
                &[none],
            ),
            // The slowest ends it before the other is asked.
            (
                vec![limit(&[("a", "1")], 2, HOUR), limit(&[("b", "2")], 1, 2 * HOUR)],
                &[("1", "2"), ("1", "2"), ("1", "3"), ("1", "3")],
                &[yes, no, yes, no],
            ),
            // Each value has its own, but for one that has another limit.
            (
                vec![limit(&[("a", "")], 1, HOUR), limit(&[("a", "1")], 2, HOUR)],
                &[("1", ""), ("1", ""), ("2", ""), ("2", ""), ("3", "")],
                &[yes, yes, yes, no, yes],
            ),
            (
                vec![limit(&[("a", ""), ("b", "2")], 1, HOUR)],
                &[("1", "2"), ("1", "3"), ("2", "2"), ("1", "2")],
                &[yes, none, yes, no],
            ),
        ] {
            let got = taken(&descriptors(limits.clone(), 20), values);
            assert_eq!(got, expected, "{limits:?} {values:?}");
        }
    }

    #[test]
    fn values_that_were_used_last_are_kept() {
        let descriptors = descriptors(vec![limit(&[("a", "")], 1, HOUR)], 2);
        for (values, expected) in [
            (&["1", "2", "1", "2"][..], &[1, 1, 0, 0][..]),
            (&["1", "2", "1", "3", "1", "2"], &[1, 1, 0, 1, 0, 1]),
        ] {
            let requests: Vec<(&str, &str)> = values.iter().map(|value| (*value, "")).collect();
            let expected: Vec<_> = expected.iter().map(|taken| Some(*taken == 1)).collect();
            assert_eq!(taken(&descriptors, &requests), expected, "{values:?}");
        }
        let mut used = Used::default();
        for value in 0..1000 {
            used.touch(value % 7, 3);
            assert!(used.buckets.len() <= 3 && used.values.len() == used.buckets.len());
        }
    }
}
