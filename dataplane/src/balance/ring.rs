//! `RING_HASH`: every host has many places on a ring, and a request goes to the next one after its key. When a host goes, its
//! own keys move, and some of the others', because each of those gets more places.

use super::xxh64;

/// Envoy's bounds of a ring, where none are given.
pub(crate) const RING_MIN_DEFAULT: u64 = 1024;
pub(crate) const RING_MAX: u64 = 8 * 1024 * 1024;

/// How many places there are on it, if there are so many hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RingSize {
    pub(crate) min: u64,
    pub(crate) max: u64,
}

impl RingSize {
    /// One place, whatever there is.
    pub(super) const ONE: Self = Self { min: 1, max: 1 };
}

/// Places, each with its host, in order.
#[derive(Clone, Debug)]
pub(super) struct Ring(Box<[(u64, usize)]>);

impl Ring {
    /// Of hosts with their keys and their parts of all. The ring is scaled so that the host with the least weight has a whole number of
    /// places, unless they would be too many; then the others, and maybe all of them, round.
    pub(super) fn new(hosts: &[(usize, String, f64)], size: RingSize) -> Self {
        let least = hosts.iter().map(|(_, _, share)| *share).fold(1.0, f64::min);
        let scale = ((least * size.min as f64).ceil() / least).min(size.max as f64);
        let mut places = Vec::with_capacity(scale.ceil() as usize);
        let mut wanted = 0.0;
        for (host, key, share) in hosts {
            wanted += scale * share;
            let mut nth = 0u64;
            while (places.len() as f64) < wanted {
                places.push((xxh64(format!("{key}_{nth}").as_bytes(), 0), *host));
                nth += 1;
            }
        }
        places.sort_by_key(|(place, _)| *place);
        Self(places.into())
    }

    /// Later attempts go on to the next places.
    pub(super) fn choose(&self, key: u64, attempt: usize) -> Option<usize> {
        let at = self.0.partition_point(|(place, _)| *place < key);
        let at = (at % self.0.len().max(1) + attempt) % self.0.len().max(1);
        self.0.get(at).map(|(_, host)| *host)
    }
}
