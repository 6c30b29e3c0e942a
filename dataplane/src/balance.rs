//! Which host gets the next attempt: the load of priorities and the panic rule as Envoy computes them, then one of the balancers.
//! Pure functions over plain numbers.

use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;

use twox_hash::XxHash64;

use locality::{Localities, shares};
use maglev::Maglev;
use ring::Ring;
use robin::Robin;
use spread::Spread;
use subset::Subsets;

pub(crate) use locality::Locality;
pub(crate) use maglev::{TABLE_DEFAULT, TABLE_MAX};
pub(crate) use ring::{RING_MAX, RING_MIN_DEFAULT, RingSize};
pub(crate) use subset::{Fallback, Labelled, Labels, Layout, Otherwise, Selector, SubsetRules};

use crate::retry::{RetryHosts, RetryPriorities};
use crate::slow_start::WARM;

mod locality;
mod maglev;
mod ring;
mod robin;
mod spread;
mod subset;
#[cfg(test)]
mod tests;

/// Envoy's, where none is given.
pub(crate) const OVERPROVISIONING_DEFAULT_PERCENT: u32 = 140;

/// How a cluster's requests are spread over the hosts of a priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Balancer {
    /// The less busy one of two.
    LeastRequest,
    RoundRobin,
    /// Whatever their weights, as in Envoy.
    Random,
    RingHash(RingSize),
    /// With so many places in its table.
    Maglev(u64),
}

/// When a priority is not enough by itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rules {
    /// With a smaller share of healthy hosts, all of its hosts are used.
    pub(crate) panic_threshold_percent: f64,
    /// It gets its healthy share times this before the next priority gets anything.
    pub(crate) overprovisioning_percent: u32,
}

impl Balancer {
    /// Whether it goes by keys.
    fn hashes(self) -> bool {
        matches!(self, Self::RingHash(_) | Self::Maglev(_))
    }

    /// How many turns are remembered for hosts of so many priorities and localities, if these matter.
    pub(crate) fn turns(self, priorities: usize, localities: Option<usize>) -> usize {
        match (self, localities) {
            (_, Some(localities)) => priorities + localities,
            (Self::RoundRobin, None) => priorities,
            (_, None) => 0,
        }
    }
}

/// Counts of one priority.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Census {
    pub(crate) hosts: u32,
    pub(crate) healthy: u32,
}

/// How load is spread over priorities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Loads {
    /// Percent per priority; adds up to 100, or to 0 when there is nowhere to send.
    pub(crate) load: Vec<u32>,
    /// Priorities whose hosts are all used, healthy or not.
    pub(crate) panic: Vec<bool>,
    /// `min(100, healthy % × 1.4)` per priority.
    pub(crate) availability: Vec<u32>,
}

/// What can be chosen from, recomputed when a host's health changes and read on every attempt.
#[derive(Clone, Debug)]
pub(crate) struct Selection {
    given: Box<[Candidate]>,
    choice: Choice,
}

/// What all choose from, or those of the same labels do.
#[derive(Clone, Debug)]
enum Choice {
    All(Spread),
    Subsets(Subsets),
}

/// One host as the balancer sees it; its place in the input is its index in the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) address: SocketAddr,
    pub(crate) priority: usize,
    /// Where it is, if requests are spread by that first.
    pub(crate) locality: Option<Locality>,
    pub(crate) weight: u32,
    /// What part of its weight it has, of [`WARM`].
    pub(crate) warmth: u32,
    pub(crate) healthy: bool,
}

/// What earlier attempts of the same request used.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tried {
    hosts: Vec<usize>,
    priorities: Vec<usize>,
}

/// What a request asks of the choice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) hosts: RetryHosts,
    pub(crate) priorities: RetryPriorities,
    /// What requests that belong together have in common.
    pub(crate) key: Option<u64>,
    /// What is to be said of the host, where hosts are told apart by that.
    pub(crate) labels: Option<&'a Labels>,
}

/// A source of random numbers.
pub(crate) trait Draw {
    /// A number below `bound`, which is not 0.
    fn below(&self, bound: u32) -> u32;

    fn key(&self) -> u64 {
        u64::from(self.below(u32::MAX)) << 32 | u64::from(self.below(u32::MAX))
    }
}

/// Draws the same number again and again.
#[cfg(test)]
pub(crate) struct Always(pub(crate) u32);

#[cfg(test)]
impl Draw for Always {
    fn below(&self, _: u32) -> u32 {
        self.0
    }
}

#[derive(Clone, Debug)]
enum Pool {
    Least(Least),
    RoundRobin(Robin),
    Random(Box<[usize]>),
    Localities(Localities),
    Ring(Ring),
    Maglev(Maglev),
}

/// A host with its place among the candidates.
type Numbered<'a> = (usize, &'a Candidate);

/// What a host is chosen by where keys choose, and the how manieth choice for a request it is.
type Key = (Option<u64>, usize);

#[derive(Clone, Debug)]
struct Least {
    hosts: Vec<(usize, u32)>,
    total_weight: u32,
    equal: bool,
}

impl Selection {
    pub(crate) fn new(candidates: &[Candidate], rules: Rules, balancer: Balancer) -> Self {
        let numbered: Vec<_> = candidates.iter().enumerate().collect();
        Self {
            given: candidates.into(),
            choice: Choice::All(Spread::new(&numbered, rules, balancer)),
        }
    }

    /// Of hosts that are told apart as `layout` has it; `before` it was another one, of which is kept what is the same.
    pub(crate) fn of_subsets(
        candidates: &[Candidate],
        rules: Rules,
        layout: &Arc<Layout>,
        before: Option<&Self>,
    ) -> Self {
        let before = before.and_then(|before| match &before.choice {
            Choice::Subsets(subsets) => Some((subsets, &*before.given)),
            Choice::All(_) => None,
        });
        Self {
            given: candidates.into(),
            choice: Choice::Subsets(Subsets::new(layout, candidates, rules, before)),
        }
    }

    /// Whether it was made of these.
    pub(crate) fn is_of(&self, candidates: &[Candidate]) -> bool {
        *self.given == *candidates
    }

    /// Whether it may be sent what is meant for it and no other.
    pub(crate) fn is_healthy(&self, host: usize) -> bool {
        self.given.get(host).is_some_and(|candidate| candidate.healthy)
    }

    /// The host for the next attempt: its index among the candidates and its priority. `None` when there is none. `turns` are
    /// the caller's: those of priorities, and after them those of localities; or those of all sets.
    pub(crate) fn choose(
        &self,
        draw: &impl Draw,
        active: impl Fn(usize) -> u32,
        turns: &[Cell<u64>],
        tried: &mut Tried,
        asked: Asked<'_>,
    ) -> Option<(usize, usize)> {
        match &self.choice {
            Choice::All(spread) => spread.choose(draw, &active, turns, tried, asked, |host| host),
            Choice::Subsets(subsets) => subsets.choose(draw, &active, turns, tried, asked),
        }
    }

    /// Those of the sets, in their order.
    #[cfg(test)]
    fn spreads(&self) -> Vec<*const Spread> {
        match &self.choice {
            Choice::All(_) => unreachable!("there are no sets"),
            Choice::Subsets(subsets) => subsets.spreads().collect(),
        }
    }

    #[cfg(test)]
    pub(crate) fn loads(&self) -> &Loads {
        match &self.choice {
            Choice::All(spread) => spread.loads(),
            Choice::Subsets(_) => unreachable!("each set has its own"),
        }
    }
}

impl Tried {
    /// `host` and its priority, as they were chosen.
    pub(crate) fn add(&mut self, (host, priority): (usize, usize)) {
        self.hosts.push(host);
        if !self.priorities.contains(&priority) {
            self.priorities.push(priority);
        }
    }
}

impl Pool {
    /// Of all hosts of a priority. As in Envoy, localities count for nothing in panic, except where keys choose.
    fn new(
        hosts: &[Numbered<'_>],
        in_panic: bool,
        rules: Rules,
        balancer: Balancer,
        priorities: usize,
    ) -> Self {
        let is_used = |host: &Candidate| in_panic || host.healthy;
        let named = || {
            let shares = shares(hosts, is_used).into_iter();
            let named = shares.map(|(nth, host, share)| (nth, host.address.to_string(), share));
            named.collect::<Vec<_>>()
        };
        match balancer {
            Balancer::RingHash(_) | Balancer::Maglev(_) if hosts.len() == 1 => {
                // Every key is its own: it needs no table, of which there may be as many as there are hosts.
                return Self::Ring(Ring::new(&named(), RingSize::ONE));
            }
            Balancer::RingHash(size) => return Self::Ring(Ring::new(&named(), size)),
            Balancer::Maglev(size) => return Self::Maglev(Maglev::new(&named(), size)),
            Balancer::LeastRequest | Balancer::RoundRobin | Balancer::Random => {}
        }
        let localities = || Localities::new(hosts, rules.overprovisioning_percent, balancer, priorities);
        match (!in_panic).then(localities).flatten() {
            Some(localities) => Self::Localities(localities),
            None => {
                let used = hosts.iter().filter(|(_, host)| is_used(host));
                Self::flat(&used.copied().collect::<Vec<_>>(), balancer)
            }
        }
    }

    /// Of hosts that are used, wherever they are.
    fn flat(hosts: &[Numbered<'_>], balancer: Balancer) -> Self {
        match balancer {
            Balancer::LeastRequest => Self::Least(Least::new(weights(hosts))),
            Balancer::RoundRobin => Self::RoundRobin(Robin::new(&weights(hosts))),
            Balancer::Random | Balancer::RingHash(_) | Balancer::Maglev(_) => {
                Self::Random(hosts.iter().map(|(nth, _)| *nth).collect())
            }
        }
    }

    /// `turn` is where the one of its hosts is among `turns`.
    fn choose(
        &self,
        draw: &impl Draw,
        active: &impl Fn(usize) -> u32,
        turns: &[Cell<u64>],
        turn: usize,
        (key, attempt): Key,
    ) -> Option<usize> {
        match self {
            Self::Least(least) => least.choose(draw, active),
            Self::RoundRobin(robin) => robin.choose(turns.get(turn)?),
            Self::Random(hosts) => one_of(hosts, draw),
            Self::Localities(localities) => localities.choose(draw, active, turns, turn, (key, attempt)),
            Self::Ring(ring) => ring.choose(key?, attempt),
            Self::Maglev(maglev) => maglev.choose(key?, attempt),
        }
    }

    fn hashes(&self) -> bool {
        matches!(self, Self::Ring(_) | Self::Maglev(_))
    }
}

impl Least {
    fn new(hosts: Vec<(usize, u32)>) -> Self {
        let total_weight = hosts
            .iter()
            .fold(0u32, |sum, (_, weight)| sum.saturating_add(*weight));
        let equal = hosts.windows(2).all(|pair| pair[0].1 == pair[1].1);
        Self {
            hosts,
            total_weight,
            equal,
        }
    }

    /// Two draws (by weight, where weights differ), of which the less busy one wins.
    fn choose(&self, draw: &impl Draw, active: &impl Fn(usize) -> u32) -> Option<usize> {
        match self.hosts.as_slice() {
            [] => None,
            [(only, _)] => Some(*only),
            _ => {
                let (first, second) = (self.draw(draw), self.draw(draw));
                Some(if active(second) < active(first) {
                    second
                } else {
                    first
                })
            }
        }
    }

    fn draw(&self, draw: &impl Draw) -> usize {
        if self.equal {
            let bound = u32::try_from(self.hosts.len()).unwrap_or(u32::MAX);
            return self.hosts[draw.below(bound) as usize].0;
        }
        let mut point = draw.below(self.total_weight);
        for (host, weight) in &self.hosts {
            if point < *weight {
                return *host;
            }
            point -= weight;
        }
        self.hosts[self.hosts.len() - 1].0
    }
}

/// What each counts for, slow ones for less; no more than what fits 32 bits together.
fn weights(hosts: &[Numbered<'_>]) -> Vec<(usize, u32)> {
    if hosts.iter().all(|(_, host)| host.warmth == WARM) {
        return hosts.iter().map(|(nth, host)| (*nth, host.weight)).collect();
    }
    let warmed = |host: &Candidate| u64::from(host.weight) * u64::from(host.warmth);
    let total: u64 = hosts.iter().map(|(_, host)| warmed(host)).sum();
    // What is too little to count counts a little all the same.
    let scale = total / u64::from(u32::MAX / 2) + 1;
    let scaled = |host| u32::try_from(warmed(host) / scale).unwrap_or(u32::MAX).max(1);
    hosts.iter().map(|(nth, host)| (*nth, scaled(host))).collect()
}

fn one_of(hosts: &[usize], draw: &impl Draw) -> Option<usize> {
    let count = u32::try_from(hosts.len()).ok().filter(|count| *count > 0)?;
    hosts.get(draw.below(count) as usize).copied()
}

/// Envoy's hash of texts.
pub(crate) fn xxh64(bytes: &[u8], seed: u64) -> u64 {
    XxHash64::oneshot(seed, bytes)
}

/// Envoy's `recalculatePerPriorityState` and `recalculatePerPriorityPanic`, in integers as there.
pub(crate) fn loads(priorities: &[Census], rules: Rules) -> Loads {
    let availability: Vec<u32> = priorities
        .iter()
        .map(|level| match level.hosts {
            0 => 0,
            hosts => share_percent(level.healthy, hosts, rules.overprovisioning_percent),
        })
        .collect();
    let total: u32 = availability.iter().sum::<u32>().min(100);
    let in_panic = |level: &Census| {
        let healthy_percent = match level.hosts {
            0 => 0.0,
            hosts => 100.0 * f64::from(level.healthy) / f64::from(hosts),
        };
        total < 100 && healthy_percent < rules.panic_threshold_percent
    };
    let panic: Vec<bool> = priorities.iter().map(in_panic).collect();
    let load = if !panic.is_empty() && panic.iter().all(|panic| *panic) {
        spread_by_hosts(priorities)
    } else {
        spread(&availability)
    };
    Loads {
        load,
        panic,
        availability,
    }
}

/// At most all of it.
fn share_percent(healthy: u32, hosts: u32, overprovisioning_percent: u32) -> u32 {
    let share = u64::from(overprovisioning_percent) * u64::from(healthy) / u64::from(hosts);
    u32::try_from(share.min(100)).unwrap_or(100)
}

/// Each priority takes its availability of what is left; what integers lose goes to the first that has any.
fn spread(availability: &[u32]) -> Vec<u32> {
    let total = availability.iter().sum::<u32>().min(100);
    if total == 0 {
        return vec![0; availability.len()];
    }
    let mut left = 100;
    let mut load: Vec<u32> = availability
        .iter()
        .map(|availability| {
            let share = (availability * 100 / total).min(left);
            left -= share;
            share
        })
        .collect();
    if let Some(first) = availability.iter().position(|availability| *availability > 0) {
        load[first] += left;
    }
    load
}

/// Every priority is in panic: load follows the number of hosts.
fn spread_by_hosts(priorities: &[Census]) -> Vec<u32> {
    let total: u32 = priorities.iter().map(|level| level.hosts).sum();
    if total == 0 {
        return vec![0; priorities.len()];
    }
    let mut load: Vec<u32> = priorities.iter().map(|level| 100 * level.hosts / total).collect();
    let left = 100 - load.iter().sum::<u32>();
    if let Some(first) = priorities.iter().position(|level| level.hosts > 0) {
        load[first] += left;
    }
    load
}

fn pick_priority(load: &[u32], mut point: u32) -> Option<usize> {
    for (priority, share) in load.iter().enumerate() {
        if point < *share {
            return Some(priority);
        }
        point -= share;
    }
    None
}
