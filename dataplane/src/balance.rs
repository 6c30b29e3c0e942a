//! Which host gets the next attempt: the load of priorities and the panic rule as Envoy computes them, then the power of
//! two choices over active requests. Pure functions over plain numbers.

use crate::retry::{RetryHosts, RetryPriorities};

/// A priority gets its healthy share times this (percent) before the next priority gets anything; Envoy's default and
/// the only factor of the contract.
const OVERPROVISIONING_PERCENT: u32 = 140;

/// Counts of one priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    levels: Vec<Level>,
    loads: Loads,
}

/// One host as the balancer sees it; its place in the input is its index in the answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    pub(crate) priority: usize,
    pub(crate) weight: u32,
    pub(crate) healthy: bool,
}

/// What earlier attempts of the same request used.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tried {
    hosts: Vec<usize>,
    priorities: Vec<usize>,
}

/// A source of random numbers.
pub(crate) trait Draw {
    /// A number below `bound`, which is not 0.
    fn below(&self, bound: u32) -> u32;
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
struct Level {
    all: Pool,
    healthy: Pool,
}

#[derive(Clone, Debug, Default)]
struct Pool {
    hosts: Vec<(usize, u32)>,
    total_weight: u32,
    equal: bool,
}

impl Selection {
    pub(crate) fn new(candidates: &[Candidate], panic_threshold_percent: f64) -> Self {
        let priorities = candidates
            .iter()
            .map(|candidate| candidate.priority + 1)
            .max()
            .unwrap_or(0);
        let pool = |priority: usize, healthy_only: bool| {
            Pool::new(
                candidates
                    .iter()
                    .enumerate()
                    .filter(|(_, host)| host.priority == priority && (host.healthy || !healthy_only))
                    .map(|(index, host)| (index, host.weight))
                    .collect(),
            )
        };
        let levels: Vec<Level> = (0..priorities)
            .map(|p| Level {
                all: pool(p, false),
                healthy: pool(p, true),
            })
            .collect();
        let census: Vec<Census> = levels.iter().map(Level::census).collect();
        Self {
            levels,
            loads: loads(&census, panic_threshold_percent),
        }
    }

    /// The host for the next attempt: its index among the candidates and its priority. `None` when there is none.
    pub(crate) fn choose(
        &self,
        draw: &impl Draw,
        active: impl Fn(usize) -> u32,
        tried: &mut Tried,
        hosts: RetryHosts,
        priorities: RetryPriorities,
    ) -> Option<(usize, usize)> {
        let adjusted = match priorities {
            RetryPriorities::Other if !tried.priorities.is_empty() => self.loads_without(tried),
            _ => None,
        };
        let draws_max = match hosts {
            RetryHosts::Other { draws_max } if !tried.hosts.is_empty() => draws_max,
            _ => 0,
        };
        let load = adjusted.as_deref().unwrap_or(&self.loads.load);
        let mut chosen = None;
        for _ in 0..=draws_max {
            let priority = pick_priority(load, draw.below(100))?;
            let level = &self.levels[priority];
            let pool = if self.loads.panic[priority] {
                &level.all
            } else {
                &level.healthy
            };
            let host = pool.choose(draw, &active)?;
            chosen = Some((host, priority));
            if !tried.hosts.contains(&host) {
                break;
            }
        }
        chosen
    }

    #[cfg(test)]
    pub(crate) fn loads(&self) -> &Loads {
        &self.loads
    }

    /// Loads without the priorities tried, as Envoy's `previous_priorities`: when no other has a healthy host, they are
    /// forgotten and everything starts over.
    fn loads_without(&self, tried: &mut Tried) -> Option<Vec<u32>> {
        let mut availability = self.loads.availability.clone();
        for priority in &tried.priorities {
            if let Some(availability) = availability.get_mut(*priority) {
                *availability = 0;
            }
        }
        if availability.iter().all(|availability| *availability == 0) {
            tried.priorities.clear();
            return None;
        }
        Some(spread(&availability))
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

impl Level {
    fn census(&self) -> Census {
        let count = |pool: &Pool| u32::try_from(pool.hosts.len()).unwrap_or(u32::MAX);
        Census {
            hosts: count(&self.all),
            healthy: count(&self.healthy),
        }
    }
}

impl Pool {
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

/// Envoy's `recalculatePerPriorityState` and `recalculatePerPriorityPanic`, in integers as there.
pub(crate) fn loads(priorities: &[Census], panic_threshold_percent: f64) -> Loads {
    let availability: Vec<u32> = priorities
        .iter()
        .map(|level| match level.hosts {
            0 => 0,
            hosts => (OVERPROVISIONING_PERCENT * level.healthy / hosts).min(100),
        })
        .collect();
    let total: u32 = availability.iter().sum::<u32>().min(100);
    let in_panic = |level: &Census| {
        let healthy_percent = match level.hosts {
            0 => 0.0,
            hosts => 100.0 * f64::from(level.healthy) / f64::from(hosts),
        };
        total < 100 && healthy_percent < panic_threshold_percent
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    /// Draws what it is told, in turn, then 0.
    struct Script(RefCell<Vec<u32>>);

    impl Draw for Script {
        fn below(&self, bound: u32) -> u32 {
            let mut script = self.0.borrow_mut();
            let value = if script.is_empty() { 0 } else { script.remove(0) };
            assert!(value < bound, "scripted draw {value} of {bound}");
            value
        }
    }

    struct Counter(Cell<u32>);

    impl Draw for Counter {
        fn below(&self, bound: u32) -> u32 {
            self.0
                .set(self.0.get().wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
            (self.0.get() >> 8) % bound
        }
    }

    fn census(levels: &[(u32, u32)]) -> Vec<Census> {
        levels
            .iter()
            .map(|(healthy, hosts)| Census {
                hosts: *hosts,
                healthy: *healthy,
            })
            .collect()
    }

    #[test]
    fn loads_are_envoys() {
        // (healthy, hosts) per priority, threshold → load, panic. Most rows are from the tables of Envoy's documentation.
        type Case<'a> = (&'a [(u32, u32)], f64, &'a [u32], &'a [bool]);
        let cases: &[Case<'_>] = &[
            (&[(100, 100), (100, 100)], 50.0, &[100, 0], &[false, false]),
            (&[(72, 100), (100, 100)], 50.0, &[100, 0], &[false, false]),
            (&[(71, 100), (100, 100)], 50.0, &[99, 1], &[false, false]),
            (&[(50, 100), (100, 100)], 50.0, &[70, 30], &[false, false]),
            (&[(25, 100), (100, 100)], 50.0, &[35, 65], &[false, false]),
            (&[(0, 100), (100, 100)], 50.0, &[0, 100], &[false, false]),
            (&[(25, 100), (25, 100)], 50.0, &[50, 50], &[true, true]),
            (&[(5, 100), (65, 100)], 50.0, &[8, 92], &[true, false]),
            (
                &[(100, 100), (100, 100), (100, 100)],
                50.0,
                &[100, 0, 0],
                &[false, false, false],
            ),
            (
                &[(50, 100), (50, 100), (100, 100)],
                50.0,
                &[70, 30, 0],
                &[false, false, false],
            ),
            (
                &[(25, 100), (25, 100), (100, 100)],
                50.0,
                &[35, 35, 30],
                &[false, false, false],
            ),
            (
                &[(25, 100), (0, 100), (100, 100)],
                50.0,
                &[35, 0, 65],
                &[false, false, false],
            ),
            (&[(0, 3), (0, 1)], 50.0, &[75, 25], &[true, true]),
            (&[(0, 2)], 50.0, &[100], &[true]),
            (&[(0, 2)], 0.0, &[0], &[false]),
            (&[(0, 0)], 50.0, &[0], &[true]),
            (&[], 50.0, &[], &[]),
            (&[(1, 3)], 50.0, &[100], &[true]),
            (&[(2, 3)], 50.0, &[100], &[false]),
        ];
        for (levels, threshold, load, panic) in cases {
            let got = loads(&census(levels), *threshold);
            assert_eq!(
                (got.load.as_slice(), got.panic.as_slice()),
                (*load, *panic),
                "{levels:?} at {threshold}"
            );
        }
    }

    fn hosts(given: &[(usize, bool)]) -> Vec<Candidate> {
        given
            .iter()
            .map(|(priority, healthy)| Candidate {
                priority: *priority,
                weight: 1,
                healthy: *healthy,
            })
            .collect()
    }

    #[test]
    fn the_less_busy_of_two_draws_wins() {
        let selection = Selection::new(&hosts(&[(0, true), (0, true), (0, true)]), 50.0);
        let busy = [5, 2, 9];
        let cases = [([0, 0, 1], 1), ([0, 1, 0], 1), ([0, 0, 2], 0), ([0, 2, 2], 2)];
        for (script, expected) in cases {
            let draw = Script(RefCell::new(script.to_vec()));
            let chosen = selection.choose(
                &draw,
                |i| busy[i],
                &mut Tried::default(),
                RetryHosts::Any,
                RetryPriorities::Any,
            );
            assert_eq!(chosen, Some((expected, 0)), "{script:?}");
        }
    }

    #[test]
    fn unhealthy_hosts_are_chosen_in_panic_only() {
        type Case<'a> = (&'a [(usize, bool)], &'a [usize]);
        let cases: &[Case<'_>] = &[
            (&[(0, true), (0, true), (0, false)], &[0, 1]),
            (&[(0, false), (0, false), (1, true)], &[2]),
            (&[(0, false), (0, false)], &[0, 1]),
        ];
        for (given, expected) in cases {
            let selection = Selection::new(&hosts(given), 50.0);
            let draw = Counter(Cell::new(7));
            let mut seen: Vec<usize> = (0..200)
                .map(|_| {
                    let tried = &mut Tried::default();
                    selection
                        .choose(&draw, |_| 0, tried, RetryHosts::Any, RetryPriorities::Any)
                        .unwrap()
                        .0
                })
                .collect();
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen, *expected, "{given:?} {:?}", selection.loads());
        }
    }

    #[test]
    fn a_retry_goes_elsewhere() {
        let selection = Selection::new(&hosts(&[(0, true), (0, true), (1, true)]), 50.0);
        let draw = Counter(Cell::new(3));
        let other = RetryHosts::Other { draws_max: 20 };
        for _ in 0..50 {
            let mut tried = Tried::default();
            tried.add((0, 0));
            let host = selection
                .choose(&draw, |_| 0, &mut tried, other, RetryPriorities::Any)
                .unwrap();
            assert_eq!(host, (1, 0), "another host of the same priority");
            let host = selection
                .choose(&draw, |_| 0, &mut tried, other, RetryPriorities::Other)
                .unwrap();
            assert_eq!(host, (2, 1), "another priority");
            tried.add((2, 1));
            let host = selection
                .choose(&draw, |_| 0, &mut tried, other, RetryPriorities::Other)
                .unwrap();
            assert_eq!(
                host,
                (1, 0),
                "all priorities were tried: start over, on a host not tried"
            );
        }
    }

    #[test]
    fn weights_are_shares() {
        let candidates = [1, 3].map(|weight| Candidate {
            priority: 0,
            weight,
            healthy: true,
        });
        let selection = Selection::new(&candidates, 50.0);
        let draw = Counter(Cell::new(11));
        // The first draw counts, because both are equally busy.
        let second = (0..4000)
            .filter(|_| {
                let tried = &mut Tried::default();
                selection
                    .choose(&draw, |_| 0, tried, RetryHosts::Any, RetryPriorities::Any)
                    .unwrap()
                    .0
                    == 1
            })
            .count();
        assert!(
            (2800..3200).contains(&second),
            "{second} of 4000 to the host with weight 3 of 4"
        );
    }
}
