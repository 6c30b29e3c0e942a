//! Names of the world that resources claim, indexed so that whoever claims something that intersects is found without
//! looking at the others.

use crate::name::Fqn;
use crate::persistent::{Map, Set};

mod host;
mod selector;

pub(crate) use host::HostIndex;
pub(crate) use selector::SelectorIndex;

/// Resources by something that each of them names, and that only equals of it intersect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Index<K>(Map<K, Set<Fqn>>);

impl<K: Ord + Clone> Index<K> {
    pub(crate) fn insert(&mut self, key: &K, by: &Fqn) {
        self.0.entry_mut(key).insert(by.clone(), ());
    }

    pub(crate) fn remove(&mut self, key: &K, by: &Fqn) {
        let Some(resources) = self.0.get_mut(key) else {
            return;
        };
        resources.remove(by);
        if resources.is_empty() {
            self.0.remove(key);
        }
    }

    /// In the order of their names.
    pub(crate) fn of(&self, key: &K) -> impl Iterator<Item = &Fqn> + use<'_, K> {
        self.0.get(key).into_iter().flat_map(Set::keys)
    }

    /// Everything under keys that begin with that text.
    pub(crate) fn starting_with(&self, prefix: &str) -> impl Iterator<Item = (&K, &Fqn)> + use<'_, K>
    where
        K: std::borrow::Borrow<str>,
    {
        let keys = self.0.starting_with(prefix);
        keys.flat_map(|(key, resources)| resources.keys().map(move |resource| (key, resource)))
    }
}

impl<K> Default for Index<K> {
    fn default() -> Self {
        Index(Map::new())
    }
}
