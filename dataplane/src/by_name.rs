//! A map by name that costs little to copy: copies share what none of them has changed since, and what differs between two of
//! them is found without a look at what they share. So an update of one resource among thousands costs what one costs. It knows
//! names only, and is two levels deep; the compiler's map (`compiler/src/persistent.rs`) stays behind that crate's wall.

use std::cmp::Ordering;
use std::sync::Arc;

/// So many entries are copied when one of them changes and another map shares them.
const CHUNK_MAX: usize = 64;

/// Sorted by name.
#[derive(Clone, Debug)]
pub(crate) struct ByName<V> {
    /// None is empty, and all names of one are before all of the next.
    chunks: Vec<Arc<Chunk<V>>>,
}

type Chunk<V> = Vec<(Arc<str>, V)>;

/// A name of which two maps say different things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Change<'a, V> {
    pub(crate) name: &'a Arc<str>,
    pub(crate) before: Option<&'a V>,
    pub(crate) now: Option<&'a V>,
}

/// A place in a map.
struct Cursor<'a, V> {
    chunks: &'a [Arc<Chunk<V>>],
    /// In the first of `chunks`, if there is one.
    at: usize,
}

impl<V> ByName<V> {
    pub(crate) fn get(&self, name: &str) -> Option<&V> {
        let chunk = self.chunks.get(self.chunk_of(name))?;
        let place = place(chunk, name).ok()?;
        Some(&chunk[place].1)
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &V)> {
        let entries = self.chunks.iter().flat_map(|chunk| chunk.iter());
        entries.map(|(name, value)| (name, value))
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.iter().map(|(name, _)| name)
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// What is not the `same` here as in `before`, in the order of names.
    pub(crate) fn changes<'a>(
        &'a self,
        before: &'a Self,
        same: impl Fn(&V, &V) -> bool,
    ) -> Vec<Change<'a, V>> {
        let (mut old, mut new) = (Cursor::new(before), Cursor::new(self));
        let mut changes = Vec::new();
        loop {
            if let (Some(shared), Some(other)) = (old.whole_chunk(), new.whole_chunk())
                && Arc::ptr_eq(shared, other)
            {
                old.skip_chunk();
                new.skip_chunk();
                continue;
            }
            let order = match (old.entry(), new.entry()) {
                (Some((old, _)), Some((new, _))) => old.cmp(new),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => return changes,
            };
            let before = if order.is_le() { old.next() } else { None };
            let now = if order.is_ge() { new.next() } else { None };
            let is_same = before
                .zip(now)
                .is_some_and(|((_, before), (_, now))| same(before, now));
            changes.extend(now.or(before).filter(|_| !is_same).map(|(name, _)| Change {
                name,
                before: before.map(|(_, value)| value),
                now: now.map(|(_, value)| value),
            }));
        }
    }

    /// The place of the chunk in which `name` is, if it is anywhere.
    fn chunk_of(&self, name: &str) -> usize {
        let after = self.chunks.partition_point(|chunk| *chunk[0].0 <= *name);
        after.saturating_sub(1)
    }
}

impl<V: Clone> ByName<V> {
    /// The name that is there already stays the one that is used.
    pub(crate) fn insert(&mut self, name: Arc<str>, value: V) {
        let at = self.chunk_of(&name);
        let Some(chunk) = self.chunks.get_mut(at) else {
            self.chunks.push(Arc::new(vec![(name, value)]));
            return;
        };
        let chunk = Arc::make_mut(chunk);
        match place(chunk, &name) {
            Ok(place) => chunk[place].1 = value,
            Err(place) => chunk.insert(place, (name, value)),
        }
        if chunk.len() > CHUNK_MAX {
            let rest = chunk.split_off(CHUNK_MAX / 2);
            self.chunks.insert(at + 1, Arc::new(rest));
        }
    }

    pub(crate) fn remove(&mut self, name: &str) {
        let at = self.chunk_of(name);
        let Some(chunk) = self.chunks.get_mut(at) else {
            return;
        };
        // Nothing is copied in vain.
        let Ok(place) = place(chunk, name) else {
            return;
        };
        let chunk = Arc::make_mut(chunk);
        chunk.remove(place);
        let left = chunk.len();
        if left == 0 {
            self.chunks.remove(at);
        } else if self
            .chunks
            .get(at + 1)
            .is_some_and(|next| left + next.len() <= CHUNK_MAX / 2)
        {
            let next = self.chunks.remove(at + 1);
            Arc::make_mut(&mut self.chunks[at]).extend(next.iter().cloned());
        }
    }
}

impl<V> Default for ByName<V> {
    fn default() -> Self {
        Self { chunks: Vec::new() }
    }
}

impl<V: Clone> FromIterator<(Arc<str>, V)> for ByName<V> {
    fn from_iter<I: IntoIterator<Item = (Arc<str>, V)>>(entries: I) -> Self {
        let mut map = Self::default();
        for (name, value) in entries {
            map.insert(name, value);
        }
        map
    }
}

impl<'a, V> Cursor<'a, V> {
    fn new(map: &'a ByName<V>) -> Self {
        Self {
            chunks: &map.chunks,
            at: 0,
        }
    }

    fn entry(&self) -> Option<(&'a Arc<str>, &'a V)> {
        let (name, value) = &self.chunks.first()?[self.at];
        Some((name, value))
    }

    /// The chunk of which nothing has been looked at.
    fn whole_chunk(&self) -> Option<&'a Arc<Chunk<V>>> {
        self.chunks.first().filter(|_| self.at == 0)
    }

    fn next(&mut self) -> Option<(&'a Arc<str>, &'a V)> {
        let entry = self.entry()?;
        self.at += 1;
        if self.at == self.chunks[0].len() {
            self.skip_chunk();
        }
        Some(entry)
    }

    fn skip_chunk(&mut self) {
        self.chunks = &self.chunks[1..];
        self.at = 0;
    }
}

/// Where `name` is, or would be.
fn place<V>(chunk: &Chunk<V>, name: &str) -> Result<usize, usize> {
    chunk.binary_search_by(|(other, _)| (**other).cmp(name))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::BTreeMap;

    use super::*;
    use crate::balance::Draw;
    use crate::worker::Random;

    type Model = BTreeMap<Arc<str>, u32>;

    fn differences(before: &Model, now: &Model) -> Vec<(Arc<str>, Option<u32>, Option<u32>)> {
        let names: std::collections::BTreeSet<_> = before.keys().chain(now.keys()).collect();
        let said = names.into_iter().map(|name| {
            (
                Arc::clone(name),
                before.get(name).copied(),
                now.get(name).copied(),
            )
        });
        said.filter(|(_, before, now)| before != now).collect()
    }

    /// Against a map of the standard library: what is in it, and what differs from any of its copies.
    #[test]
    fn it_holds_and_tells_apart_what_a_plain_map_does() {
        for seed in 0..60 {
            let random = Random::seeded(seed);
            let names = 1 + random.below(600);
            let (mut map, mut model) = (ByName::default(), Model::new());
            let mut copies = vec![(map.clone(), model.clone())];
            for step in 0..1500 {
                // Now it grows, now it shrinks.
                let removes = if step / 400 % 2 == 0 { 1 } else { 4 };
                let name: Arc<str> = format!("n{}", random.below(names)).into();
                if random.below(5) < removes {
                    map.remove(&name);
                    model.remove(&name);
                } else {
                    let value = random.below(3);
                    map.insert(Arc::clone(&name), value);
                    model.insert(name, value);
                }
                if random.below(100) == 0 {
                    copies.push((map.clone(), model.clone()));
                }
            }
            let held: Vec<_> = map
                .iter()
                .map(|(name, value)| (Arc::clone(name), *value))
                .collect();
            assert_eq!(held, model.clone().into_iter().collect::<Vec<_>>(), "seed {seed}");
            for number in 0..names + 1 {
                let name = format!("n{number}");
                assert_eq!(map.get(&name), model.get(&*name), "seed {seed}: {name}");
            }
            for (copy, of) in &copies {
                let told = map.changes(copy, |one, other| one == other);
                let told: Vec<_> = told
                    .iter()
                    .map(|change| {
                        (
                            Arc::clone(change.name),
                            change.before.copied(),
                            change.now.copied(),
                        )
                    })
                    .collect();
                assert_eq!(told, differences(of, &model), "seed {seed}");
            }
            assert!(
                map.chunks
                    .iter()
                    .all(|chunk| !chunk.is_empty() && chunk.len() <= CHUNK_MAX)
            );
        }
    }

    #[test]
    fn few_are_looked_at_where_one_has_changed() {
        let before: ByName<u32> = (0..5000).map(|number| (format!("n{number}").into(), 0)).collect();
        let mut now = before.clone();
        now.insert("n2500".into(), 1);
        now.insert("another".into(), 1);
        now.remove("n7");
        let looked = Cell::new(0);
        let changes = now.changes(&before, |one, other| {
            looked.set(looked.get() + 1);
            one == other
        });
        let names: Vec<&str> = changes.iter().map(|change| &**change.name).collect();
        assert_eq!(names, ["another", "n2500", "n7"]);
        assert!(looked.get() <= 3 * CHUNK_MAX, "{} were looked at", looked.get());
    }
}
