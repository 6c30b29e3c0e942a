//! Hosts that stand for each other: priorities by their loads, and of each its hosts by the balancer.

use std::cell::Cell;

use super::{
    Asked, Balancer, Census, Draw, Loads, Numbered, Pool, Rules, Tried, loads, pick_priority, spread,
};
use crate::retry::{RetryHosts, RetryPriorities};

#[derive(Clone, Debug)]
pub(super) struct Spread {
    /// By priority, of the hosts that are used.
    pools: Vec<Pool>,
    loads: Loads,
}

impl Spread {
    pub(super) fn new(candidates: &[Numbered<'_>], rules: Rules, balancer: Balancer) -> Self {
        let priorities = candidates
            .iter()
            .map(|(_, candidate)| candidate.priority + 1)
            .max()
            .unwrap_or(0);
        let mut census = vec![Census::default(); priorities];
        for (_, candidate) in candidates {
            let census = &mut census[candidate.priority];
            census.hosts += 1;
            census.healthy += u32::from(candidate.healthy);
        }
        let loads = loads(&census, rules);
        let pool = |priority: usize| {
            let of_it = candidates.iter().filter(|(_, host)| host.priority == priority);
            let hosts: Vec<_> = of_it.copied().collect();
            Pool::new(&hosts, loads.panic[priority], rules, balancer, priorities)
        };
        Self {
            pools: (0..priorities).map(pool).collect(),
            loads,
        }
    }

    /// [`Selection::choose`](super::Selection::choose) among these, of which each has its `place` among all candidates.
    pub(super) fn choose(
        &self,
        draw: &impl Draw,
        active: &impl Fn(usize) -> u32,
        turns: &[Cell<u64>],
        tried: &mut Tried,
        asked: Asked<'_>,
        place: impl Fn(usize) -> usize,
    ) -> Option<(usize, usize)> {
        let adjusted = match asked.priorities {
            RetryPriorities::Other if !tried.priorities.is_empty() => self.loads_without(tried),
            _ => None,
        };
        let draws_max = match asked.hosts {
            RetryHosts::Other { draws_max } if !tried.hosts.is_empty() => draws_max,
            _ => 0,
        };
        let load = adjusted.as_deref().unwrap_or(&self.loads.load);
        let hashes = self.pools.first().is_some_and(Pool::hashes);
        let key = hashes.then(|| asked.key.unwrap_or_else(|| draw.key()));
        let active = |host: usize| active(place(host));
        let mut chosen = None;
        for attempt in 0..=draws_max as usize {
            let point = key.map_or_else(|| draw.below(100), |key| (key % 100) as u32);
            let priority = pick_priority(load, point)?;
            let host = place(self.pools[priority].choose(draw, &active, turns, priority, (key, attempt))?);
            chosen = Some((host, priority));
            if !tried.hosts.contains(&host) {
                break;
            }
        }
        chosen
    }

    #[cfg(test)]
    pub(super) fn loads(&self) -> &Loads {
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
