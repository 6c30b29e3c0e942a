//! `lb_subset_config`: requests whose route wants hosts of which something is said go to those and no others. Which hosts a set has is
//! settled when its cluster or its endpoints change; a request brings the hash of what it wants along from its route.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use foldhash::HashMap;

use super::{Asked, Balancer, Candidate, Draw, Locality, RING_MAX, RingSize, Rules, Spread, Tried, xxh64};

const RING_PLACE_BYTES: u64 = size_of::<(u64, usize)>() as u64;
const MAGLEV_PLACE_BYTES: u64 = size_of::<u32>() as u64;

/// What the rings and tables of the selectors' sets take together at most: as much as the largest ring of all, or some 500 of
/// Envoy's tables. In the sets beyond, any host is chosen.
const TABLES_BYTES_MAX: u64 = RING_MAX * RING_PLACE_BYTES;

/// Weights that are far apart make a ring longer than its cluster wants it: up to so many places in a set, which take what a table
/// of Envoy's does.
const RING_OF_SET_MAX: u64 = 16 * 1024;

/// What is said of a host, or wanted of one: values by their keys, in the keys' order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Labels {
    labels: Box<[Label]>,
    hash: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Label {
    key: Box<str>,
    /// As JSON, which is written in one way.
    value: Box<str>,
    hash: u64,
}

/// How hosts of a cluster are told apart.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SubsetRules {
    /// No two of the same keys.
    pub(crate) selectors: Box<[Selector]>,
    pub(crate) fallback: Fallback,
    /// Any host in place of none, where those of the fallback are none.
    pub(crate) is_any_in_panic: bool,
    /// What is said of the hosts of [`Fallback::Default`].
    pub(crate) default: Labels,
    /// Whether localities have their weights within sets.
    pub(crate) is_by_locality: bool,
}

/// Hosts of which the same is said by these keys are a set.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Selector {
    /// In their order.
    pub(crate) keys: Box<[Box<str>]>,
    /// For requests that want these keys and find no set, in place of the cluster's.
    pub(crate) otherwise: Option<Otherwise>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fallback {
    Nobody,
    Any,
    Default,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Otherwise {
    Of(Fallback),
    /// What is wanted by these keys, which are some of the selector's.
    Keys(Box<[Box<str>]>),
}

/// What a host's set depends on.
pub(crate) struct Labelled<'a> {
    pub(crate) priority: usize,
    pub(crate) locality: usize,
    pub(crate) labels: &'a Labels,
}

/// Which hosts of a cluster are in which set, healthy or not.
#[derive(Debug)]
pub(crate) struct Layout {
    rules: SubsetRules,
    sets: Box<[Set]>,
    /// Places of the selectors' sets, by what is said of their hosts.
    by_hash: HashMap<u64, Vec<usize>>,
    any: Option<usize>,
    default: Option<usize>,
    /// Of all sets together.
    pub(crate) turns: usize,
}

/// At least one host.
#[derive(Debug)]
struct Set {
    labels: Labels,
    /// Places among the hosts, each with that of its locality in this set.
    members: Box<[(usize, usize)]>,
    balancer: Balancer,
    /// Where its turns begin.
    turns_at: usize,
}

/// What sets come to while hosts are as healthy as they are.
#[derive(Clone, Debug)]
pub(super) struct Subsets {
    layout: Arc<Layout>,
    rules: Rules,
    /// In the order of the layout's sets, of hosts by their places in the set.
    spreads: Box<[Arc<Spread>]>,
}

/// What a request wants: all of it, or what it wants by some keys.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    labels: &'a Labels,
    keys: Option<&'a [Box<str>]>,
}

impl Labels {
    /// Values by keys.
    pub(crate) fn new(given: BTreeMap<Box<str>, Box<str>>) -> Self {
        let label = |(key, value): (Box<str>, Box<str>)| {
            let hash = xxh64(value.as_bytes(), xxh64(key.as_bytes(), 0));
            Label { key, value, hash }
        };
        Self::of(given.into_iter().map(label).collect())
    }

    fn of(labels: Box<[Label]>) -> Self {
        let hash = hash(labels.iter());
        Self { labels, hash }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Those of `over`, and what it does not say.
    pub(crate) fn overlaid(&self, over: &Self) -> Self {
        let all = self.labels.iter().chain(&over.labels);
        let last: BTreeMap<&str, &Label> = all.map(|label| (&*label.key, label)).collect();
        Self::of(last.into_values().cloned().collect())
    }

    #[cfg(test)]
    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    fn get(&self, key: &str) -> Option<&Label> {
        let found = self.labels.binary_search_by(|label| (*label.key).cmp(key));
        found.ok().map(|at| &self.labels[at])
    }

    /// Whether all of `others` are among them.
    fn include(&self, others: &Self) -> bool {
        let mut others = others.labels.iter();
        others.all(|other| self.get(&other.key) == Some(other))
    }
}

impl<'a> Wanted<'a> {
    fn labels(self) -> impl Iterator<Item = &'a Label> {
        let is_kept = move |label: &&Label| self.keys.is_none_or(|keys| keys.contains(&label.key));
        self.labels.labels.iter().filter(is_kept)
    }

    fn hash(self) -> u64 {
        match self.keys {
            None => self.labels.hash,
            Some(_) => hash(self.labels()),
        }
    }
}

impl Layout {
    /// Of the hosts in their order.
    pub(crate) fn new(
        rules: &SubsetRules,
        balancer: Balancer,
        is_by_locality: bool,
        hosts: &[Labelled<'_>],
    ) -> Self {
        let mut building = Building {
            hosts,
            balancer,
            is_by_locality: is_by_locality && rules.is_by_locality,
            sets: Vec::new(),
            bytes_left: TABLES_BYTES_MAX,
            turns: 0,
        };
        for selector in &rules.selectors {
            let mut members: BTreeMap<Box<[Label]>, Vec<usize>> = BTreeMap::new();
            for (place, host) in hosts.iter().enumerate() {
                let labels = selector.keys.iter().map(|key| host.labels.get(key).cloned());
                if let Some(labels) = labels.collect() {
                    members.entry(labels).or_default().push(place);
                }
            }
            for (labels, members) in members {
                let balancer = building.afforded(&members);
                building.add(Labels::of(labels), &members, balancer);
            }
        }
        let mut by_hash: HashMap<u64, Vec<usize>> = HashMap::default();
        for (nth, set) in building.sets.iter().enumerate() {
            by_hash.entry(set.labels.hash).or_default().push(nth);
        }
        let all: Vec<usize> = (0..hosts.len()).collect();
        // These two have what a cluster without sets has.
        let any = rules.falls_back_to(Fallback::Any) || rules.panics();
        let any = any.then(|| building.add(Labels::default(), &all, balancer));
        let is_default = |place: &usize| hosts[*place].labels.include(&rules.default);
        let default = rules.falls_back_to(Fallback::Default).then(|| {
            let members: Vec<usize> = all.iter().copied().filter(is_default).collect();
            building.add(Labels::default(), &members, balancer)
        });
        Self {
            rules: rules.clone(),
            by_hash,
            any: any.flatten(),
            default: default.flatten(),
            turns: building.turns,
            sets: building.sets.into(),
        }
    }

    /// Of the sets, those of the fallbacks last.
    #[cfg(test)]
    pub(super) fn balancers(&self) -> impl Iterator<Item = Balancer> {
        self.sets.iter().map(|set| set.balancer)
    }

    /// The set that stands for the same as the `nth` of another layout.
    fn counterpart(&self, other: &Self, nth: usize) -> Option<usize> {
        if other.any == Some(nth) {
            return self.any;
        }
        if other.default == Some(nth) {
            return self.default;
        }
        self.find(Wanted {
            labels: &other.sets[nth].labels,
            keys: None,
        })
    }

    fn find(&self, wanted: Wanted<'_>) -> Option<usize> {
        let mut found = self.by_hash.get(&wanted.hash())?.iter().copied();
        found.find(|nth| self.sets[*nth].labels.labels.iter().eq(wanted.labels()))
    }

    /// What is said of requests that find nothing, if that is said for what they want.
    fn otherwise(&self, wanted: Wanted<'_>) -> Option<&Otherwise> {
        let is_of_it = |selector: &&Selector| {
            let keys = selector.keys.iter();
            keys.eq(wanted.labels().map(|label| &label.key))
        };
        self.rules.selectors.iter().find(is_of_it)?.otherwise.as_ref()
    }

    fn fallback(&self, fallback: Fallback) -> Option<usize> {
        match fallback {
            Fallback::Nobody => None,
            Fallback::Any => self.any,
            Fallback::Default => self.default,
        }
    }
}

impl SubsetRules {
    fn falls_back_to(&self, fallback: Fallback) -> bool {
        let mut otherwise = self.selectors.iter().flat_map(|selector| &selector.otherwise);
        self.fallback == fallback || otherwise.any(|otherwise| *otherwise == Otherwise::Of(fallback))
    }

    /// Whether anybody is better than nobody. Who falls back to nobody is not asked.
    fn panics(&self) -> bool {
        self.is_any_in_panic && self.fallback != Fallback::Nobody
    }
}

struct Building<'a> {
    hosts: &'a [Labelled<'a>],
    balancer: Balancer,
    is_by_locality: bool,
    sets: Vec<Set>,
    /// For the tables of sets to come.
    bytes_left: u64,
    turns: usize,
}

impl Building<'_> {
    /// What chooses in a selector's set of these hosts: the cluster's balancer, as long as there is room for its tables.
    fn afforded(&mut self, places: &[usize]) -> Balancer {
        if !self.balancer.hashes() {
            return self.balancer;
        }
        let (balancer, table_bytes) = of_a_set(self.balancer);
        let mut hosts: BTreeMap<usize, u64> = BTreeMap::new();
        for place in places {
            *hosts.entry(self.hosts[*place].priority).or_default() += 1;
        }
        // Each priority has its own, but one host needs none.
        let tables = hosts.values().filter(|hosts| **hosts > 1).count() as u64;
        match self.bytes_left.checked_sub(table_bytes * tables) {
            None => Balancer::Random,
            Some(left) => {
                self.bytes_left = left;
                balancer
            }
        }
    }

    /// The place of the set of these hosts, if they are any.
    fn add(&mut self, labels: Labels, places: &[usize], balancer: Balancer) -> Option<usize> {
        let hosts = || places.iter().map(|place| &self.hosts[*place]);
        let priorities = hosts().map(|host| host.priority + 1).max()?;
        // Named anew, so that a set has as many turns as it can use.
        let localities: BTreeSet<usize> = hosts().map(|host| host.locality).collect();
        let localities: BTreeMap<usize, usize> = localities.into_iter().zip(0..).collect();
        let members = places
            .iter()
            .map(|place| (*place, localities[&self.hosts[*place].locality]));
        let members = members.collect();
        self.sets.push(Set {
            labels,
            members,
            balancer,
            turns_at: self.turns,
        });
        let localities = self.is_by_locality.then_some(localities.len());
        self.turns += balancer.turns(priorities, localities);
        Some(self.sets.len() - 1)
    }
}

impl Set {
    fn spread(&self, candidates: &[Candidate], rules: Rules, is_by_locality: bool) -> Spread {
        let own: Vec<_> = self.candidates(candidates, is_by_locality).collect();
        Spread::new(&own.iter().enumerate().collect::<Vec<_>>(), rules, self.balancer)
    }

    /// Its own of `all`.
    fn candidates(&self, all: &[Candidate], is_by_locality: bool) -> impl Iterator<Item = Candidate> {
        self.members.iter().map(move |(place, nth)| {
            let candidate = all[*place];
            let locality = candidate.locality.filter(|_| is_by_locality);
            let locality = locality.map(|locality| Locality {
                nth: *nth,
                ..locality
            });
            Candidate {
                locality,
                ..candidate
            }
        })
    }
}

impl Subsets {
    /// `before` is what they were made of before, of whatever hosts: sets that have the same as they had stay as they are, for a table
    /// takes its time, and a cluster may have some hundreds.
    pub(super) fn new(
        layout: &Arc<Layout>,
        candidates: &[Candidate],
        rules: Rules,
        before: Option<(&Self, &[Candidate])>,
    ) -> Self {
        let before = before.filter(|(held, _)| held.rules == rules);
        let is_by_locality = layout.rules.is_by_locality;
        let spread = |(nth, set): (usize, &Set)| {
            let held = before.and_then(|(held, given)| {
                let own = set.candidates(candidates, is_by_locality);
                held.same(given, layout, nth, own)
            });
            held.unwrap_or_else(|| Arc::new(set.spread(candidates, rules, is_by_locality)))
        };
        Self {
            layout: Arc::clone(layout),
            rules,
            spreads: layout.sets.iter().enumerate().map(spread).collect(),
        }
    }

    /// What the `nth` set of `layout` comes to, if it came to that before, when these were made of `given`.
    fn same(
        &self,
        given: &[Candidate],
        layout: &Layout,
        nth: usize,
        own: impl Iterator<Item = Candidate>,
    ) -> Option<Arc<Spread>> {
        let place = self.layout.counterpart(layout, nth)?;
        let set = &self.layout.sets[place];
        let before = set.candidates(given, self.layout.rules.is_by_locality);
        let is_same = set.balancer == layout.sets[nth].balancer && before.eq(own);
        is_same.then(|| Arc::clone(&self.spreads[place]))
    }

    #[cfg(test)]
    pub(super) fn spreads(&self) -> impl Iterator<Item = *const Spread> {
        self.spreads.iter().map(Arc::as_ptr)
    }

    /// As Envoy's `SubsetLoadBalancer`: those that the request wants, if there are some, healthy or not; else those of the fallback.
    pub(super) fn choose(
        &self,
        draw: &impl Draw,
        active: &impl Fn(usize) -> u32,
        turns: &[Cell<u64>],
        tried: &mut Tried,
        asked: Asked<'_>,
    ) -> Option<(usize, usize)> {
        let mut of = |set: Option<usize>| {
            let (of_layout, spread) = set.map(|set| (&self.layout.sets[set], &self.spreads[set]))?;
            let turns = turns.get(of_layout.turns_at..)?;
            let place = |member: usize| of_layout.members[member].0;
            spread.choose(draw, active, turns, tried, asked, place)
        };
        let mut wanted = asked.labels.map(|labels| Wanted { labels, keys: None });
        while let Some(now) = wanted {
            let found = self.layout.find(now);
            if found.is_some() {
                return of(found);
            }
            match self.layout.otherwise(now) {
                None => break,
                Some(Otherwise::Of(fallback)) => return of(self.layout.fallback(*fallback)),
                // Fewer than before, so that this ends.
                Some(Otherwise::Keys(keys)) => {
                    wanted = Some(Wanted {
                        keys: Some(keys),
                        ..now
                    });
                }
            }
        }
        let rules = &self.layout.rules;
        let chosen = of(self.layout.fallback(rules.fallback));
        chosen.or_else(|| of(self.layout.any.filter(|_| rules.panics())))
    }
}

/// A cluster's balancer as its sets have it, and what a table of it takes at most.
fn of_a_set(balancer: Balancer) -> (Balancer, u64) {
    match balancer {
        Balancer::RingHash(RingSize { min, max }) => {
            let max = max.min(min.max(RING_OF_SET_MAX));
            (Balancer::RingHash(RingSize { min, max }), max * RING_PLACE_BYTES)
        }
        Balancer::Maglev(size) => (balancer, size * MAGLEV_PLACE_BYTES),
        Balancer::LeastRequest | Balancer::RoundRobin | Balancer::Random => (balancer, 0),
    }
}

/// The same in any order.
fn hash<'a>(labels: impl Iterator<Item = &'a Label>) -> u64 {
    labels.fold(0, |sum, label| sum.wrapping_add(label.hash))
}
