//! `MAGLEV`: a table of a prime size, which hosts fill by turns, each in an order of its own. Keys are spread more evenly than on a
//! ring, and found at once; when a host goes, a few of the others' keys move too.

use super::xxh64;

/// Envoy's, and the largest that it takes.
pub(crate) const TABLE_DEFAULT: u64 = 65_537;
pub(crate) const TABLE_MAX: u64 = 5_000_011;

#[derive(Clone, Debug)]
pub(super) struct Maglev(Box<[u32]>);

struct Turn {
    host: u32,
    offset: u64,
    skip: u64,
    weight: f64,
    target: f64,
    next: u64,
}

impl Maglev {
    /// Of hosts with their keys and their parts of all.
    pub(super) fn new(hosts: &[(usize, String, f64)], size: u64) -> Self {
        const FREE: u32 = u32::MAX;
        let mut turns: Vec<Turn> = hosts
            .iter()
            .map(|(host, key, share)| Turn {
                host: u32::try_from(*host).unwrap_or(FREE),
                offset: xxh64(key.as_bytes(), 0) % size,
                skip: xxh64(key.as_bytes(), 1) % (size - 1) + 1,
                weight: *share,
                target: 0.0,
                next: 0,
            })
            .collect();
        if turns.is_empty() {
            return Self(Box::default());
        }
        let most = turns.iter().map(|turn| turn.weight).fold(0.0, f64::max);
        let mut table = vec![FREE; size as usize];
        let mut left = table.len();
        for iteration in 1u32.. {
            for turn in &mut turns {
                if left == 0 {
                    return Self(table.into());
                }
                // The heaviest has each turn, one of a third of its weight each third.
                if f64::from(iteration) * turn.weight < turn.target {
                    continue;
                }
                turn.target += most;
                let at = loop {
                    let at = ((turn.offset + turn.skip * turn.next) % size) as usize;
                    turn.next += 1;
                    if table[at] == FREE {
                        break at;
                    }
                };
                table[at] = turn.host;
                left -= 1;
            }
        }
        Self(table.into())
    }

    pub(super) fn choose(&self, key: u64, attempt: usize) -> Option<usize> {
        let key = match attempt as u64 {
            0 => key,
            attempt => key ^ (u64::MAX - attempt + 1),
        };
        let at = (key % self.0.len().max(1) as u64) as usize;
        self.0.get(at).map(|host| *host as usize)
    }
}
