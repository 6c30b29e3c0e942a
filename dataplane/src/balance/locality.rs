//! Hosts of a priority by where they are: a locality gets its weight's share of the requests, and less where too few of its hosts are
//! healthy.

use std::cell::Cell;
use std::collections::BTreeMap;

use super::robin::Robin;
use super::{Balancer, Candidate, Draw, Key, Numbered, Pool};

/// Hosts of one priority that are in one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Locality {
    /// Its own among those of its cluster.
    pub(crate) nth: usize,
    /// With 0 it gets nothing.
    pub(crate) weight: u32,
}

/// Those that get something, which take turns.
#[derive(Clone, Debug)]
pub(super) struct Localities {
    order: Robin,
    /// Each with the place of its own hosts' turns.
    pools: Box<[(usize, Pool)]>,
}

impl Localities {
    /// Of all hosts of a priority, healthy or not; `None` where no locality gets anything. Their hosts' turns come after so many.
    pub(super) fn new(
        hosts: &[Numbered<'_>],
        overprovisioning_percent: u32,
        balancer: Balancer,
        turns: usize,
    ) -> Option<Self> {
        let mut weights = Vec::new();
        let mut pools = Vec::new();
        for (locality, hosts) in by_locality(hosts) {
            let healthy: Vec<_> = hosts.iter().filter(|(_, host)| host.healthy).copied().collect();
            let weight = effective_weight(
                locality.weight,
                healthy.len(),
                hosts.len(),
                overprovisioning_percent,
            );
            if weight > 0.0 {
                weights.push(weight);
                pools.push((turns + locality.nth, Pool::flat(&healthy, balancer)));
            }
        }
        let most = weights.iter().copied().fold(0.0, f64::max);
        let scaled = weights
            .iter()
            .map(|weight| (weight / most * f64::from(u32::MAX)) as u32);
        let order = Robin::new(&scaled.enumerate().collect::<Vec<_>>());
        (!pools.is_empty()).then(|| Self {
            order,
            pools: pools.into(),
        })
    }

    /// `turn` is whose it is among them.
    pub(super) fn choose(
        &self,
        draw: &impl Draw,
        active: &impl Fn(usize) -> u32,
        turns: &[Cell<u64>],
        turn: usize,
        key: Key,
    ) -> Option<usize> {
        let nth = self.order.choose(turns.get(turn)?)?;
        let (turn, pool) = &self.pools[nth];
        pool.choose(draw, active, turns, *turn, key)
    }
}

/// Envoy's `effectiveLocalityWeight`.
pub(super) fn effective_weight(
    weight: u32,
    healthy: usize,
    hosts: usize,
    overprovisioning_percent: u32,
) -> f64 {
    if hosts == 0 {
        return 0.0;
    }
    let available = healthy as f64 / hosts as f64;
    f64::from(weight) * (f64::from(overprovisioning_percent) / 100.0 * available).min(1.0)
}

/// What part of all keys each of the hosts that are used is given, where keys choose. Localities count by their weights, whatever is
/// left of them, as in Envoy.
pub(super) fn shares<'a>(hosts: &[Numbered<'a>], is_used: impl Fn(&Candidate) -> bool) -> Vec<Share<'a>> {
    let localities = by_locality(hosts);
    let total: u64 = localities.keys().map(|locality| u64::from(locality.weight)).sum();
    let mut shares = Vec::with_capacity(hosts.len());
    if localities.is_empty() {
        shares_of(hosts, &is_used, 1.0, &mut shares);
    }
    for (locality, hosts) in &localities {
        if locality.weight > 0 {
            let part = f64::from(locality.weight) / total as f64;
            shares_of(hosts, &is_used, part, &mut shares);
        }
    }
    shares
}

/// A host with its part of all.
pub(super) type Share<'a> = (usize, &'a Candidate, f64);

fn shares_of<'a>(
    hosts: &[Numbered<'a>],
    is_used: &impl Fn(&Candidate) -> bool,
    part: f64,
    shares: &mut Vec<Share<'a>>,
) {
    let used = || hosts.iter().filter(|(_, host)| is_used(host));
    let total: u64 = used().map(|(_, host)| u64::from(host.weight)).sum();
    shares.extend(used().map(|(nth, host)| (*nth, *host, f64::from(host.weight) * part / total as f64)));
}

fn by_locality<'a>(hosts: &[Numbered<'a>]) -> BTreeMap<Locality, Vec<Numbered<'a>>> {
    let mut localities: BTreeMap<Locality, Vec<Numbered<'a>>> = BTreeMap::new();
    for (nth, host) in hosts {
        if let Some(locality) = host.locality {
            localities.entry(locality).or_default().push((*nth, host));
        }
    }
    localities
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locality_gets_less_where_too_few_are_healthy() {
        // Its weight, its healthy hosts of all, and the factor in percent. The rows of Envoy's documentation are among them.
        for (weight, healthy, hosts, percent, expected) in [
            (1, 4, 4, 140, 1.0),
            (1, 3, 4, 140, 1.0),
            (2, 100, 100, 140, 2.0),
            (1, 69, 100, 140, 0.966),
            (1, 50, 100, 140, 0.7),
            (1, 25, 100, 140, 0.35),
            (1, 0, 100, 140, 0.0),
            (1, 0, 0, 140, 0.0),
            (0, 4, 4, 140, 0.0),
            (10, 1, 2, 100, 5.0),
            (10, 1, 2, 200, 10.0),
            (u32::MAX, 1, 1, u32::MAX, f64::from(u32::MAX)),
        ] {
            let got = effective_weight(weight, healthy, hosts, percent);
            assert!(
                (got - expected).abs() < 1e-9,
                "{weight} × {healthy}/{hosts} at {percent}: {got}"
            );
        }
    }
}
