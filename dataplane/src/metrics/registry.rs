//! Counters by what they count for. Whoever needs some takes them, and is the only one who writes to them until it drops them;
//! then the next one goes on where it ended, so that no total goes backward. What nobody has taken for a while is forgotten: it
//! counts for what is configured no more.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Longer than the usual intervals between scrapes, so that the last value of what is gone is seen, and than what comes and goes
/// with a release takes to come back.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

/// So many are told apart: more than most meshes have, and about as many as whoever scrapes them can bear, since each is thirty
/// series.
const KEYS_MAX: usize = 10_000;

#[derive(Debug)]
pub(super) struct Registry<K, C> {
    all: Mutex<BTreeMap<K, Kept<C>>>,
    /// How often there was no room.
    left_out: AtomicU64,
}

pub(super) trait Keyed {
    /// Of all for which there is no room.
    fn left_out() -> Self;
}

#[derive(Debug)]
struct Kept<C> {
    /// Of each writer that there was at once.
    counters: Vec<Arc<C>>,
    unused_since: Option<Instant>,
}

impl<K: Keyed + Ord + Clone, C: Default> Registry<K, C> {
    /// Counters that nobody else writes to, if there is room for them.
    pub(super) fn take(&self, key: K) -> Option<Arc<C>> {
        let mut all = self.lock();
        if all.len() >= KEYS_MAX && !all.contains_key(&key) {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(Self::of(&mut all, key))
    }

    /// Those of all for which there is no room.
    pub(super) fn take_left_out(&self) -> Arc<C> {
        Self::of(&mut self.lock(), K::left_out())
    }

    pub(super) fn left_out(&self) -> u64 {
        self.left_out.load(Ordering::Relaxed)
    }

    fn of(all: &mut BTreeMap<K, Kept<C>>, key: K) -> Arc<C> {
        let kept = all.entry(key).or_default();
        kept.unused_since = None;
        let free = kept.counters.iter_mut().find_map(|counters| free(counters));
        free.unwrap_or_else(|| {
            let added = Arc::<C>::default();
            kept.counters.push(Arc::clone(&added));
            added
        })
    }

    /// What there is to add up.
    pub(super) fn all(&self) -> BTreeMap<K, Vec<Arc<C>>> {
        let all = self.lock();
        let shown = all.iter().map(|(key, kept)| (key.clone(), kept.counters.clone()));
        shown.collect()
    }

    /// Forgets what nobody has taken for so long; to be asked from time to time.
    pub(super) fn forget_unused(&self, now: Instant) {
        self.lock().retain(|_, kept| {
            if kept.counters.iter_mut().any(|counters| free(counters).is_none()) {
                kept.unused_since = None;
                return true;
            }
            let since = *kept.unused_since.get_or_insert(now);
            now.saturating_duration_since(since) < FORGOTTEN_AFTER
        });
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<K, Kept<C>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K, C> Default for Registry<K, C> {
    fn default() -> Self {
        Self {
            all: Mutex::default(),
            left_out: AtomicU64::new(0),
        }
    }
}

impl<C> Default for Kept<C> {
    fn default() -> Self {
        Self {
            counters: Vec::new(),
            unused_since: None,
        }
    }
}

/// These counters, if nobody has them: then all that was written to them is seen here.
fn free<C>(counters: &mut Arc<C>) -> Option<Arc<C>> {
    Arc::get_mut(counters)?;
    Some(Arc::clone(counters))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::metrics::Counter;

    fn total(registry: &Registry<&str, Counter>) -> Option<u64> {
        let all = registry.all();
        let counters = all.get("a")?;
        Some(counters.iter().map(|counter| counter.get()).sum())
    }

    impl Keyed for &str {
        fn left_out() -> Self {
            "left_out"
        }
    }

    impl Keyed for usize {
        fn left_out() -> Self {
            usize::MAX
        }
    }

    fn taken(registry: &Registry<&str, Counter>) -> Arc<Counter> {
        registry.take("a").unwrap()
    }

    #[test]
    fn what_there_is_no_room_for_is_counted_together() {
        let registry = Registry::<usize, Counter>::default();
        assert!((0..KEYS_MAX).all(|key| registry.take(key).is_some()));
        assert_eq!(registry.left_out(), 0);
        assert!(registry.take(0).is_some(), "it is there already");
        assert!((0..3).all(|more| registry.take(KEYS_MAX + more).is_none()));
        registry.take_left_out().add(5);
        assert_eq!(
            (registry.left_out(), registry.all()[&usize::MAX][0].get()),
            (3, 5)
        );
        assert_eq!(registry.all().len(), KEYS_MAX + 1);
    }

    #[test]
    fn totals_grow_for_as_long_as_they_are_told() {
        let registry = Registry::<&str, Counter>::default();
        let (one, other) = (taken(&registry), taken(&registry));
        one.add(1);
        other.add(2);
        drop(one);
        for turn in 0..100 {
            let next = taken(&registry);
            assert!(!Arc::ptr_eq(&next, &other), "two writers of one counter");
            next.add(1);
            assert_eq!(total(&registry), Some(4 + turn));
        }
        assert_eq!(registry.all()["a"].len(), 2, "no more than were in use at once");
    }

    #[test]
    fn what_nobody_uses_is_forgotten_after_a_while() {
        let registry = Registry::<&str, Counter>::default();
        let begin = Instant::now();
        let at = |minutes: u64| begin + Duration::from_secs(60 * minutes);
        let used = taken(&registry);
        used.add(1);
        registry.forget_unused(at(0));
        registry.forget_unused(at(60));
        assert_eq!(total(&registry), Some(1), "it is in use");
        drop(used);
        registry.forget_unused(at(61));
        registry.forget_unused(at(70));
        // Back in time, and gone again: the time begins anew.
        taken(&registry).add(1);
        registry.forget_unused(at(71));
        registry.forget_unused(at(80));
        assert_eq!(total(&registry), Some(2));
        registry.forget_unused(at(81));
        assert_eq!(total(&registry), None);
    }
}
