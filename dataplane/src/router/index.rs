//! Which routes of a virtual host may match a path, without a look at all the others: what one request costs does not grow with
//! the routes beside its own, but for those by expressions.

use std::collections::BTreeMap;

use foldhash::HashMap;

use crate::matcher::PathMatcher;

/// Places of routes, ascending in each list.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Index {
    exact: HashMap<Box<[u8]>, Vec<usize>>,
    /// In the order of their texts.
    prefixes: Vec<Prefix>,
    /// Those whose paths begin with no text of which all letters are known: they are looked at one by one.
    others: Vec<usize>,
}

#[derive(Clone, Debug, PartialEq)]
struct Prefix {
    text: Box<[u8]>,
    places: Vec<usize>,
    /// The longest other one that this one begins with.
    parent: Option<usize>,
}

impl Index {
    pub(super) fn new<'a>(paths: impl Iterator<Item = &'a PathMatcher>) -> Self {
        let mut index = Self::default();
        let mut prefixes = BTreeMap::<Box<[u8]>, Vec<usize>>::new();
        for (place, path) in paths.enumerate() {
            let (exact, prefix) = match path {
                PathMatcher::Exact(text) => (text.literal(), None),
                PathMatcher::Prefix(text) | PathMatcher::Segments(text) => (None, text.literal()),
                PathMatcher::Regex(_) | PathMatcher::Connect => (None, None),
            };
            let places = match (exact, prefix) {
                (Some(text), _) => index.exact.entry(text.into()).or_default(),
                (_, Some(text)) => prefixes.entry(text.into()).or_default(),
                (None, None) => &mut index.others,
            };
            places.push(place);
        }
        index.prefixes = with_parents(prefixes);
        index
    }

    /// The first place whose route `matches`. It is asked of places only whose paths may match, and of none behind one that did.
    pub(super) fn first(&self, path: &[u8], matches: impl Fn(usize) -> bool) -> Option<usize> {
        let mut first = usize::MAX;
        let mut look = |places: &[usize]| {
            let before = places.iter().take_while(|place| **place < first);
            if let Some(place) = before.copied().find(|place| matches(*place)) {
                first = place;
            }
        };
        if let Some(places) = self.exact.get(path) {
            look(places);
        }
        // What `path` begins with is its neighbour in the order or one of that one's parents.
        let mut at = self
            .prefixes
            .partition_point(|prefix| *prefix.text <= *path)
            .checked_sub(1);
        while let Some(prefix) = at.map(|at| &self.prefixes[at]) {
            if path.starts_with(&prefix.text) {
                look(&prefix.places);
            }
            at = prefix.parent;
        }
        look(&self.others);
        (first != usize::MAX).then_some(first)
    }
}

fn with_parents(sorted: BTreeMap<Box<[u8]>, Vec<usize>>) -> Vec<Prefix> {
    let mut prefixes: Vec<Prefix> = Vec::with_capacity(sorted.len());
    for (text, places) in sorted {
        let mut parent = prefixes.len().checked_sub(1);
        while let Some(at) = parent.filter(|at| !text.starts_with(&prefixes[*at].text)) {
            parent = prefixes[at].parent;
        }
        prefixes.push(Prefix { text, places, parent });
    }
    prefixes
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::balance::Draw;
    use crate::matcher::{Case, Text};
    use crate::pattern::Pattern;
    use crate::worker::Random;

    /// Against a look at all of them: short texts of two letters meet in every way there is.
    #[test]
    fn it_finds_what_a_scan_finds() {
        for seed in 0..400 {
            let random = Random::seeded(seed);
            let text = || -> String {
                let length = random.below(5);
                let letters = (0..length).map(|_| ['a', 'b', '/', 'B'][random.below(4) as usize]);
                format!("/{}", letters.collect::<String>())
            };
            let case = || match random.below(6) {
                0 => Case::Ignored,
                _ => Case::Matters,
            };
            let path = || match random.below(7) {
                0 => PathMatcher::Regex(Pattern::new(&text()).unwrap()),
                1..3 => PathMatcher::Exact(Text::new(text(), case())),
                3..5 => PathMatcher::Segments(Text::new(text(), case())),
                _ => PathMatcher::Prefix(Text::new(text(), case())),
            };
            let paths: Vec<PathMatcher> = (0..random.below(40)).map(|_| path()).collect();
            // Others than paths decide too.
            let open: Vec<bool> = paths.iter().map(|_| random.below(3) > 0).collect();
            let index = Index::new(paths.iter());
            for _ in 0..40 {
                let asked = text();
                let matches = |place: usize| open[place] && paths[place].matches(&asked);
                let scanned = (0..paths.len()).find(|place| matches(*place));
                let found = index.first(asked.as_bytes(), matches);
                assert_eq!(found, scanned, "seed {seed}: {asked} in {paths:?}");
            }
        }
    }

    #[test]
    fn few_routes_are_looked_at_among_many() {
        let path = |at: usize| match at % 3 {
            0 => PathMatcher::Exact(Text::new(format!("/{at}/exact"), Case::Matters)),
            1 => PathMatcher::Prefix(Text::new(format!("/{at}/prefix"), Case::Matters)),
            _ => PathMatcher::Segments(Text::new(format!("/{at}"), Case::Matters)),
        };
        let mut paths: Vec<PathMatcher> = (0..100_000).map(path).collect();
        paths.push(PathMatcher::Prefix(Text::new("/", Case::Matters)));
        let index = Index::new(paths.iter());
        for (asked, expected) in [
            ("/60000/exact", 60_000),
            ("/70000/prefix/more", 70_000),
            ("/80000/more", 80_000),
            ("/80000more", 100_000),
        ] {
            let asks = std::cell::Cell::new(0);
            let matches = |place: usize| {
                asks.set(asks.get() + 1);
                paths[place].matches(asked)
            };
            assert_eq!(index.first(asked.as_bytes(), matches), Some(expected), "{asked}");
            // Such as /8, /80 and /800 beside /8000.
            assert!(asks.get() <= 6, "{asked}: {} were looked at", asks.get());
        }
    }
}
