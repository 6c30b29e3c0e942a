//! An ordered map that costs nothing to copy: a copy shares with the original all that neither has changed since. So a
//! write can be tried on a copy and dropped, and two states are compared by what they do not share.
//!
//! It is a B-tree of reference-counted nodes. Of the crates that have one, imbl's licence is not among those that we
//! ship, and rpds spends two allocations on each entry and cannot compare without looking at all of them.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::ops::{Bound, Index, RangeBounds};
use std::slice;
use std::sync::Arc;

/// Entries of a node. A first write to a copy duplicates one node per level, so that smaller ones make writes cheaper and
/// reads deeper; 100,000 entries are four levels.
const FILL_MAX: usize = 32;
/// A node with less is joined with a neighbour when there is room.
const FILL_MIN: usize = FILL_MAX / 4;

/// See the module. Values are cloned with their node, so keep those of any size behind an `Arc`.
#[derive(Clone)]
pub struct Map<K, V> {
    root: Arc<Node<K, V>>,
    len: usize,
}

/// An ordered set that costs nothing to copy.
pub type Set<K> = Map<K, ()>;

/// One key whose value is not the same on both sides.
#[derive(Debug, PartialEq, Eq)]
pub struct Difference<'a, K, V> {
    pub key: &'a K,
    pub before: Option<&'a V>,
    pub after: Option<&'a V>,
}

/// In the order of the keys.
#[derive(Debug)]
pub struct Iter<'a, K, V> {
    above: Vec<slice::Iter<'a, Child<K, V>>>,
    leaf: slice::Iter<'a, (K, V)>,
    /// The first key that does not belong to it any more.
    end: Option<&'a K>,
}

#[derive(Clone, Debug)]
enum Node<K, V> {
    Leaf(Vec<(K, V)>),
    /// All at one height. What is below the first child's key belongs to it, too.
    Inner(Vec<Child<K, V>>),
}

/// With a key that none of its keys is below, and all keys of the child before are.
type Child<K, V> = (K, Arc<Node<K, V>>);

impl<K, V> Map<K, V> {
    pub fn new() -> Map<K, V> {
        Map {
            root: Arc::new(Node::Leaf(Vec::new())),
            len: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn iter(&self) -> Iter<'_, K, V> {
        Iter::below(&self.root)
    }

    pub fn keys(&self) -> impl Iterator<Item = &K> + Clone {
        self.iter().map(|(key, _)| key)
    }

    pub fn values(&self) -> impl Iterator<Item = &V> + Clone {
        self.iter().map(|(_, value)| value)
    }

    /// Whether it is a copy of the other that neither has changed since; then they are equal.
    pub fn ptr_eq(&self, other: &Map<K, V>) -> bool {
        Arc::ptr_eq(&self.root, &other.root)
    }
}

impl<K: Ord, V> Map<K, V> {
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.get_key_value(key).map(|(_, value)| value)
    }

    pub fn get_key_value<Q: Ord + ?Sized>(&self, key: &Q) -> Option<(&K, &V)>
    where
        K: Borrow<Q>,
    {
        let mut node = &self.root;
        loop {
            match &**node {
                Node::Inner(children) => node = &children[child_of(children, key)].1,
                Node::Leaf(entries) => {
                    let at = position(entries, key).ok()?;
                    return entries.get(at).map(|(key, value)| (key, value));
                }
            }
        }
    }

    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    pub fn range<Q: Ord + ?Sized, R: RangeBounds<Q>>(&self, range: R) -> Iter<'_, K, V>
    where
        K: Borrow<Q>,
    {
        let mut from = match range.start_bound() {
            Bound::Unbounded => self.iter(),
            Bound::Included(start) => self.from_first(|key| key < start),
            Bound::Excluded(start) => self.from_first(|key| key <= start),
        };
        let mut behind = match range.end_bound() {
            Bound::Unbounded => return from,
            Bound::Included(end) => self.from_first(|key| key <= end),
            Bound::Excluded(end) => self.from_first(|key| key < end),
        };
        from.end = behind.next().map(|(key, _)| key);
        let first = from.clone().next().map(|(key, _)| key);
        // One that ends before it starts would never meet its end.
        if from.end.is_some() && first > from.end {
            return Iter::default();
        }
        from
    }

    /// From the first key that is not `before`, which holds for the first keys and for no others.
    pub fn from_first<Q: Ord + ?Sized>(&self, before: impl Fn(&Q) -> bool) -> Iter<'_, K, V>
    where
        K: Borrow<Q>,
    {
        let mut iter = Iter::default();
        let mut node = &self.root;
        loop {
            match &**node {
                Node::Inner(children) => {
                    let behind = children.partition_point(|(key, _)| before(key.borrow()));
                    // The key of a child is at most its first, so the child before may reach beyond the bound.
                    let at = behind.saturating_sub(1);
                    iter.above.push(children[at + 1..].iter());
                    node = &children[at].1;
                }
                Node::Leaf(entries) => {
                    let at = entries.partition_point(|(key, _)| before(key.borrow()));
                    iter.leaf = entries[at..].iter();
                    return iter;
                }
            }
        }
    }

    /// All whose keys begin with that text.
    pub fn starting_with(&self, prefix: &str) -> impl Iterator<Item = (&K, &V)> + use<'_, K, V>
    where
        K: Borrow<str>,
    {
        let prefix = prefix.to_owned();
        self.range::<str, _>((Bound::Included(prefix.as_str()), Bound::Unbounded))
            .take_while(move |(key, _)| (*key).borrow().starts_with(&prefix))
    }

    /// What differs, in the order of the keys. Costs what the two do not share, whatever they share.
    pub fn diff<'a>(
        &'a self,
        after: &'a Map<K, V>,
        same: impl Fn(&V, &V) -> bool,
    ) -> Vec<Difference<'a, K, V>> {
        let mut differences = Vec::new();
        let (mut left, mut right) = (Walk::new(self), Walk::new(after));
        loop {
            let order = match (left.head(), right.head()) {
                (None, None) => return differences,
                (Some(Head::Node(a)), Some(Head::Node(b))) if Arc::ptr_eq(a, b) => {
                    left.skip();
                    right.skip();
                    continue;
                }
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(Head::Entry(key, was)), Some(Head::Entry(other, is))) if key == other => {
                    if !same(was, is) {
                        differences.push(Difference::new(key, Some(was), Some(is)));
                    }
                    left.skip();
                    right.skip();
                    continue;
                }
                (Some(a), Some(b)) => a
                    .first()
                    .cmp(&b.first())
                    .then(a.height().cmp(&b.height()).reverse()),
            };
            // The one that starts first cannot be shared; of two that start together, the higher one may hold the other.
            match order {
                Ordering::Less => {
                    let gone = left.step();
                    differences.extend(gone.map(|(key, was)| Difference::new(key, Some(was), None)));
                }
                Ordering::Greater => {
                    let new = right.step();
                    differences.extend(new.map(|(key, is)| Difference::new(key, None, Some(is))));
                }
                Ordering::Equal => {
                    left.step();
                    right.step();
                }
            }
        }
    }
}

impl<K: Ord + Clone, V: Clone> Map<K, V> {
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let (before, right) = Arc::make_mut(&mut self.root).insert(key, value);
        if let Some(right) = right {
            let left = std::mem::take(&mut self.root);
            // What the first child's key is does not matter.
            self.root = Arc::new(Node::Inner(vec![(right.0.clone(), left), right]));
        }
        self.len += usize::from(before.is_none());
        before
    }

    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        // Nothing is copied for a key that is not there.
        if !self.contains_key(key) {
            return None;
        }
        let removed = Arc::make_mut(&mut self.root).remove(key);
        while let Node::Inner(children) = &*self.root
            && let [(_, only)] = children.as_slice()
        {
            self.root = only.clone();
        }
        self.len -= usize::from(removed.is_some());
        removed
    }

    /// The value of the key, to change; one that is not there yet is the default.
    pub fn entry_mut(&mut self, key: &K) -> &mut V
    where
        V: Default,
    {
        if !self.contains_key(key) {
            self.insert(key.clone(), V::default());
        }
        self.descend_mut(key)
            .expect("invariant: it was inserted, if it was not there")
    }

    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        // Nothing is copied for a key that is not there.
        match self.contains_key(key) {
            true => self.descend_mut(key),
            false => None,
        }
    }

    fn descend_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let mut node = &mut self.root;
        loop {
            match Arc::make_mut(node) {
                Node::Inner(children) => {
                    let at = child_of(children, key);
                    node = &mut children[at].1;
                }
                Node::Leaf(entries) => {
                    let at = position(entries, key).ok()?;
                    return entries.get_mut(at).map(|(_, value)| value);
                }
            }
        }
    }
}

impl<K, V> Node<K, V> {
    fn len(&self) -> usize {
        match self {
            Node::Leaf(entries) => entries.len(),
            Node::Inner(children) => children.len(),
        }
    }
}

impl<K: Ord + Clone, V: Clone> Node<K, V> {
    /// The value that was there, and what there is no room for, with the first key of it.
    fn insert(&mut self, key: K, value: V) -> (Option<V>, Option<Child<K, V>>) {
        match self {
            Node::Leaf(entries) => match position(entries, &key) {
                Ok(at) => (Some(std::mem::replace(&mut entries[at].1, value)), None),
                Err(at) => {
                    let right = place(entries, at, (key, value));
                    (
                        None,
                        right.map(|right| (right[0].0.clone(), Arc::new(Node::Leaf(right)))),
                    )
                }
            },
            Node::Inner(children) => {
                let at = child_of(children, &key);
                let (before, right) = Arc::make_mut(&mut children[at].1).insert(key, value);
                let right = right.and_then(|right| place(children, at + 1, right));
                (
                    before,
                    right.map(|right| (right[0].0.clone(), Arc::new(Node::Inner(right)))),
                )
            }
        }
    }

    fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        match self {
            Node::Leaf(entries) => position(entries, key).ok().map(|at| entries.remove(at).1),
            Node::Inner(children) => {
                let at = child_of(children, key);
                let removed = Arc::make_mut(&mut children[at].1).remove(key);
                if children[at].1.len() < FILL_MIN && children.len() > 1 {
                    join(children, at.min(children.len() - 2));
                }
                removed
            }
        }
    }
}

/// Puts an entry into its place; gives the right part when there is no room for all. What comes in order fills its nodes.
fn place<T>(entries: &mut Vec<T>, at: usize, entry: T) -> Option<Vec<T>> {
    if entries.len() < FILL_MAX {
        entries.insert(at, entry);
        return None;
    }
    if at == entries.len() {
        return Some(vec![entry]);
    }
    let mut right = entries.split_off(entries.len() / 2);
    match at.checked_sub(entries.len()) {
        Some(at) => right.insert(at, entry),
        None => entries.insert(at, entry),
    }
    Some(right)
}

/// Makes one of a child and the next when both fit.
fn join<K: Clone, V: Clone>(children: &mut Vec<Child<K, V>>, left: usize) {
    if children[left].1.len() + children[left + 1].1.len() > FILL_MAX {
        return;
    }
    let (key, right) = children.remove(left + 1);
    match (Arc::make_mut(&mut children[left].1), Arc::unwrap_or_clone(right)) {
        (Node::Leaf(left), Node::Leaf(right)) => left.extend(right),
        (Node::Inner(left), Node::Inner(mut right)) => {
            // It is no first child any more, so its key must hold.
            if let Some(first) = right.first_mut() {
                first.0 = key;
            }
            left.extend(right);
        }
        (Node::Leaf(_), Node::Inner(_)) | (Node::Inner(_), Node::Leaf(_)) => {
            unreachable!("invariant: all children of a node are at one height")
        }
    }
}

fn position<K: Borrow<Q>, V, Q: Ord + ?Sized>(entries: &[(K, V)], key: &Q) -> Result<usize, usize> {
    entries.binary_search_by(|(held, _)| held.borrow().cmp(key))
}

fn child_of<K: Borrow<Q>, V, Q: Ord + ?Sized>(children: &[Child<K, V>], key: &Q) -> usize {
    let behind = children.partition_point(|(first, _)| first.borrow() <= key);
    behind.saturating_sub(1)
}

/// A place in one of two maps that are compared.
struct Walk<'a, K, V> {
    /// What is still to come, the next one last.
    ahead: Vec<Head<'a, K, V>>,
}

enum Head<'a, K, V> {
    Node(&'a Arc<Node<K, V>>),
    Entry(&'a K, &'a V),
}

impl<'a, K, V> Walk<'a, K, V> {
    fn new(map: &'a Map<K, V>) -> Walk<'a, K, V> {
        let root = (!map.is_empty()).then_some(Head::Node(&map.root));
        Walk {
            ahead: root.into_iter().collect(),
        }
    }

    fn head(&self) -> Option<Head<'a, K, V>> {
        self.ahead.last().copied()
    }

    fn skip(&mut self) {
        self.ahead.pop();
    }

    /// Past an entry, which it gives, or into a node.
    fn step(&mut self) -> Option<(&'a K, &'a V)> {
        match self.ahead.pop()? {
            Head::Entry(key, value) => return Some((key, value)),
            Head::Node(node) => match &**node {
                Node::Leaf(entries) => {
                    self.ahead
                        .extend(entries.iter().rev().map(|(key, value)| Head::Entry(key, value)));
                }
                Node::Inner(children) => self
                    .ahead
                    .extend(children.iter().rev().map(|(_, child)| Head::Node(child))),
            },
        }
        None
    }
}

impl<K, V> Clone for Head<'_, K, V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K, V> Copy for Head<'_, K, V> {}

impl<'a, K, V> Head<'a, K, V> {
    fn first(self) -> Option<&'a K> {
        match self {
            Head::Entry(key, _) => Some(key),
            Head::Node(node) => match &**node {
                Node::Leaf(entries) => entries.first().map(|(key, _)| key),
                Node::Inner(children) => children.first().and_then(|(_, child)| Head::Node(child).first()),
            },
        }
    }

    fn height(self) -> usize {
        match self {
            Head::Entry(..) => 0,
            Head::Node(node) => match &**node {
                Node::Leaf(_) => 1,
                Node::Inner(children) => children
                    .first()
                    .map_or(1, |(_, child)| Head::Node(child).height() + 1),
            },
        }
    }
}

impl<'a, K, V> Difference<'a, K, V> {
    fn new(key: &'a K, before: Option<&'a V>, after: Option<&'a V>) -> Difference<'a, K, V> {
        Difference { key, before, after }
    }
}

impl<'a, K, V> Iter<'a, K, V> {
    fn below(node: &'a Node<K, V>) -> Iter<'a, K, V> {
        let mut iter = Iter::default();
        iter.enter(node);
        iter
    }

    fn enter(&mut self, node: &'a Node<K, V>) {
        match node {
            Node::Leaf(entries) => self.leaf = entries.iter(),
            Node::Inner(children) => self.above.push(children.iter()),
        }
    }
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((key, value)) = self.leaf.next() {
                if self.end.is_some_and(|end| std::ptr::eq(end, key)) {
                    *self = Iter::default();
                    return None;
                }
                return Some((key, value));
            }
            match self.above.last_mut()?.next() {
                Some((_, child)) => self.enter(child),
                None => drop(self.above.pop()),
            }
        }
    }
}

impl<K, V> Clone for Iter<'_, K, V> {
    fn clone(&self) -> Self {
        Iter {
            above: self.above.clone(),
            leaf: self.leaf.clone(),
            end: self.end,
        }
    }
}

impl<K, V> Default for Iter<'_, K, V> {
    fn default() -> Self {
        Iter {
            above: Vec::new(),
            leaf: [].iter(),
            end: None,
        }
    }
}

impl<K, V> Default for Node<K, V> {
    fn default() -> Self {
        Node::Leaf(Vec::new())
    }
}

impl<K, V> Default for Map<K, V> {
    fn default() -> Self {
        Map::new()
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for Map<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: PartialEq, V: PartialEq> PartialEq for Map<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.ptr_eq(other) || (self.len == other.len && self.iter().eq(other.iter()))
    }
}

impl<K: Eq, V: Eq> Eq for Map<K, V> {}

impl<K: Ord + Borrow<Q>, V, Q: Ord + ?Sized> Index<&Q> for Map<K, V> {
    type Output = V;

    fn index(&self, key: &Q) -> &V {
        self.get(key).expect("no entry found for key")
    }
}

impl<K: Ord + Clone, V: Clone> Extend<(K, V)> for Map<K, V> {
    fn extend<T: IntoIterator<Item = (K, V)>>(&mut self, entries: T) {
        for (key, value) in entries {
            self.insert(key, value);
        }
    }
}

impl<K: Ord + Clone, V: Clone> FromIterator<(K, V)> for Map<K, V> {
    fn from_iter<T: IntoIterator<Item = (K, V)>>(entries: T) -> Self {
        let mut map = Map::new();
        map.extend(entries);
        map
    }
}

impl<'a, K, V> IntoIterator for &'a Map<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = Iter<'a, K, V>;

    fn into_iter(self) -> Iter<'a, K, V> {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::{ProptestConfig, Strategy, any, prop_oneof, proptest};

    use super::*;

    #[derive(Clone, Debug)]
    enum Edit {
        Insert(u16, u8),
        Remove(u16),
        /// Enough to join and to collapse nodes.
        RemoveFrom(u16),
    }

    fn edits() -> impl Strategy<Value = Vec<Edit>> {
        let key = 0..3000_u16;
        let edit = prop_oneof![
            30 => (key.clone(), any::<u8>()).prop_map(|(key, value)| Edit::Insert(key, value)),
            10 => key.clone().prop_map(Edit::Remove),
            1 => key.prop_map(Edit::RemoveFrom),
        ];
        vec(edit, 0..300)
    }

    fn apply(edits: &[Edit], map: &mut Map<u16, u8>, model: &mut BTreeMap<u16, u8>) {
        for edit in edits {
            match *edit {
                Edit::Insert(key, value) => assert_eq!(map.insert(key, value), model.insert(key, value)),
                Edit::Remove(key) => assert_eq!(map.remove(&key), model.remove(&key)),
                Edit::RemoveFrom(key) => {
                    let gone: Vec<u16> = model.range(key..).map(|(key, _)| *key).take(500).collect();
                    for key in gone {
                        assert_eq!(map.remove(&key), model.remove(&key));
                    }
                }
            }
            assert_eq!(map.len(), model.len());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn it_holds_what_a_tree_holds_and_a_copy_keeps_it(
            bulk in 0..3000_u16, first in edits(), second in edits(), (from, to) in (0..3000_u16, 0..3000_u16),
        ) {
            let mut model: BTreeMap<u16, u8> = (0..bulk).map(|key| (key, 0)).collect();
            let mut map: Map<u16, u8> = model.clone().into_iter().collect();
            apply(&first, &mut map, &mut model);
            let (before, model_before) = (map.clone(), model.clone());
            apply(&second, &mut map, &mut model);
            for (map, model) in [(&before, &model_before), (&map, &model)] {
                assert!(map.iter().eq(model.iter()));
                assert_eq!(map.get(&from), model.get(&from));
                let (low, high) = (from.min(to), from.max(to));
                assert!(map.range(low..high).eq(model.range(low..high)));
                assert!(map.range(low..=high).eq(model.range(low..=high)));
                let open = (Bound::Excluded(low), Bound::Unbounded);
                assert!(map.range::<u16, _>(open).eq(model.range::<u16, _>(open)));
            }
            let found: Vec<(u16, Option<u8>, Option<u8>)> = before
                .diff(&map, u8::eq)
                .into_iter()
                .map(|found| (*found.key, found.before.copied(), found.after.copied()))
                .collect();
            let keys: std::collections::BTreeSet<&u16> = model_before.keys().chain(model.keys()).collect();
            let expected: Vec<(u16, Option<u8>, Option<u8>)> = keys
                .into_iter()
                .map(|key| (*key, model_before.get(key).copied(), model.get(key).copied()))
                .filter(|(_, before, after)| before != after)
                .collect();
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn comparing_looks_at_what_is_not_shared_only() {
        let before: Map<u32, u32> = (0..100_000).map(|key| (key, key)).collect();
        let mut after = before.clone();
        after.insert(50_000, 0);
        after.remove(&70_000);
        after.insert(200_000, 0);
        let looked = std::cell::Cell::new(0);
        let found = before.diff(&after, |a, b| {
            looked.set(looked.get() + 1);
            a == b
        });
        let keys: Vec<u32> = found.iter().map(|found| *found.key).collect();
        assert_eq!(keys, [50_000, 70_000, 200_000]);
        assert!(looked.get() < 4 * FILL_MAX, "looked at {} values", looked.get());
    }
}
