//! Counters by what they count for. Whoever needs some takes them, and is the only one who writes to them until it drops them;
//! then the next one goes on where it ended, so that no total goes backward. What nobody has taken for a while is forgotten: it
//! counts for what is configured no more.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Longer than the usual intervals between scrapes, so that the last value of what is gone is seen, and than what comes and goes
/// with a release takes to come back.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

#[derive(Debug)]
pub(super) struct Registry<K, C> {
    all: Mutex<BTreeMap<K, Kept<C>>>,
}

#[derive(Debug)]
struct Kept<C> {
    /// Of each writer that there was at once.
    counters: Vec<Arc<C>>,
    unused_since: Option<Instant>,
}

impl<K: Ord + Clone, C: Default> Registry<K, C> {
    /// Counters that nobody else writes to.
    pub(super) fn take(&self, key: K) -> Arc<C> {
        let mut all = self.lock();
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
mod tests {
    use super::*;
    use crate::metrics::Counter;

    fn total(registry: &Registry<&str, Counter>) -> Option<u64> {
        let all = registry.all();
        let counters = all.get("a")?;
        Some(counters.iter().map(|counter| counter.get()).sum())
    }

    #[test]
    fn totals_grow_for_as_long_as_they_are_told() {
        let registry = Registry::<&str, Counter>::default();
        let (one, other) = (registry.take("a"), registry.take("a"));
        one.add(1);
        other.add(2);
        drop(one);
        for turn in 0..100 {
            let next = registry.take("a");
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
        let used = registry.take("a");
        used.add(1);
        registry.forget_unused(at(0));
        registry.forget_unused(at(60));
        assert_eq!(total(&registry), Some(1), "it is in use");
        drop(used);
        registry.forget_unused(at(61));
        registry.forget_unused(at(70));
        // Back in time, and gone again: the time begins anew.
        registry.take("a").add(1);
        registry.forget_unused(at(71));
        registry.forget_unused(at(80));
        assert_eq!(total(&registry), Some(2));
        registry.forget_unused(at(81));
        assert_eq!(total(&registry), None);
    }
}
