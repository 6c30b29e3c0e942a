//! `ROUND_ROBIN`: hosts take turns, and one of half the weight has every second turn only. Which turn it is, each worker counts for
//! itself; nothing else is remembered.

use std::cell::Cell;

/// What the heaviest host's weight is scaled to.
const HEAVIEST: u64 = u16::MAX as u64;

#[derive(Clone, Debug)]
pub(super) struct Robin {
    /// Hosts and their weights.
    hosts: Box<[(usize, u64)]>,
}

impl Robin {
    pub(super) fn new(hosts: &[(usize, u32)]) -> Self {
        let most = hosts
            .iter()
            .map(|(_, weight)| u64::from(*weight))
            .max()
            .unwrap_or(1);
        let scaled = |weight: u32| (u64::from(weight) * HEAVIEST / most).max(1);
        Self {
            hosts: hosts
                .iter()
                .map(|(host, weight)| (*host, scaled(*weight)))
                .collect(),
        }
    }

    /// The next that has a turn; the heaviest has one in each round, so that this ends within two.
    pub(super) fn choose(&self, turn: &Cell<u64>) -> Option<usize> {
        let count = self.hosts.len() as u64;
        if count == 0 {
            return None;
        }
        loop {
            let nth = turn.replace(turn.get().wrapping_add(1));
            let (place, round) = (nth % count, nth / count);
            let (host, weight) = self.hosts[place as usize];
            // Hosts of the same weight do not leave out the same rounds.
            let phase = place * (HEAVIEST / 2);
            let of_round = weight.wrapping_mul(round).wrapping_add(phase) % HEAVIEST;
            if of_round + weight >= HEAVIEST {
                return Some(host);
            }
        }
    }
}
