//! Which networks reach each other: a directed graph at the organization.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use schemars::JsonSchema;
use serde::Deserialize;

use crate::name::Label;

/// From each network, those that it reaches directly. Without this resource every network reaches every other; a
/// network always reaches itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkReachability {
    #[serde(default)]
    pub reaches: BTreeMap<Label, BTreeSet<Label>>,
}

impl NetworkReachability {
    /// The networks on the shortest way, both ends included; of equals, the first by name. `None` when there is none.
    pub fn way<'a>(&'a self, from: &'a Label, to: &'a Label) -> Option<Vec<&'a Label>> {
        let mut came_from: BTreeMap<&Label, Option<&Label>> = BTreeMap::from([(from, None)]);
        let mut waiting = VecDeque::from([from]);
        while let Some(network) = waiting.pop_front() {
            if network == to {
                let mut way: Vec<&Label> =
                    std::iter::successors(Some(network), |at| came_from.get(at).copied().flatten()).collect();
                way.reverse();
                return Some(way);
            }
            for next in self.reaches.get(network).into_iter().flatten() {
                if !came_from.contains_key(next) {
                    came_from.insert(next, Some(network));
                    waiting.push_back(next);
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_way_follows_the_direction_of_the_edges() {
        let graph: NetworkReachability = serde_json::from_value(json!({
            "reaches": {"a": ["b", "c"], "b": ["d"], "c": ["d"], "d": ["a"]}
        }))
        .unwrap();
        for (from, to, expected) in [
            ("a", "a", Some("a")),
            ("a", "b", Some("a b")),
            ("a", "d", Some("a b d")),
            ("b", "a", Some("b d a")),
            ("d", "c", Some("d a c")),
            ("a", "e", None),
            ("e", "a", None),
            ("e", "e", Some("e")),
        ] {
            let (from, to): (Label, Label) = (from.parse().unwrap(), to.parse().unwrap());
            let way = graph.way(&from, &to).map(|way| {
                let names: Vec<&str> = way.into_iter().map(Label::as_str).collect();
                names.join(" ")
            });
            assert_eq!(way.as_deref(), expected, "{from} to {to}");
        }
    }
}
