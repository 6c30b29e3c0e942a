//! Who claims which namespaces.

use crate::name::{ClusterName, Fqn, Label};
use crate::persistent::{Map, Set};
use crate::selector::Selector;

/// Selectors by the text of their namespace, and below that of their cluster: of the two sides the namespace tells more
/// apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SelectorIndex(Map<String, Map<String, Set<Fqn>>>);

impl SelectorIndex {
    pub(crate) fn insert(&mut self, selector: &Selector, by: &Fqn) {
        let (cluster, namespace) = selector.sides();
        let clusters = self.0.entry_mut(&namespace);
        clusters.entry_mut(&cluster).insert(by.clone(), ());
    }

    pub(crate) fn remove(&mut self, selector: &Selector, by: &Fqn) {
        let (cluster, namespace) = selector.sides();
        let Some(clusters) = self.0.get_mut(&namespace) else {
            return;
        };
        if let Some(owners) = clusters.get_mut(&cluster) {
            owners.remove(by);
            if owners.is_empty() {
                clusters.remove(&cluster);
            }
        }
        if clusters.is_empty() {
            self.0.remove(&namespace);
        }
    }

    /// Everybody with a selector that some namespace could match as well as this one.
    pub(crate) fn intersecting(&self, selector: &Selector) -> impl Iterator<Item = &Fqn> + use<'_> {
        let (cluster, namespace) = selector.sides();
        self.of(cluster, &namespace)
    }

    /// Everybody with a selector that matches the namespace in that cluster.
    pub(crate) fn matching(
        &self,
        cluster: &ClusterName,
        namespace: &Label,
    ) -> impl Iterator<Item = &Fqn> + use<'_> {
        self.of(cluster.to_string(), namespace.as_str())
    }

    /// Everybody with a selector that matches the namespace in some cluster.
    pub(crate) fn matching_somewhere(&self, namespace: &Label) -> impl Iterator<Item = &Fqn> + use<'_> {
        intersecting(&self.0, namespace.as_str())
            .into_iter()
            .flat_map(Map::values)
            .flat_map(Set::keys)
    }

    fn of(&self, cluster: String, namespace: &str) -> impl Iterator<Item = &Fqn> + use<'_> {
        intersecting(&self.0, namespace)
            .into_iter()
            .flat_map(move |clusters| intersecting(clusters, &cluster))
            .flat_map(Set::keys)
    }
}

/// What stands at the patterns that intersect another, each a name or a prefix with its `*`: the same name, prefixes of
/// it, and all that a prefix covers.
fn intersecting<'a, V>(patterns: &'a Map<String, V>, with: &str) -> Vec<&'a V> {
    let (text, is_prefix) = match with.strip_suffix('*') {
        Some(text) => (text, true),
        None => (with, false),
    };
    let shorter = (0..text.len()).filter_map(|length| patterns.get(&format!("{}*", &text[..length])));
    let mut found: Vec<&V> = shorter.collect();
    if is_prefix {
        found.extend(patterns.starting_with(text).map(|(_, value)| value));
    } else {
        found.extend(patterns.get(text));
        found.extend(patterns.get(&format!("{text}*")));
    }
    found
}
