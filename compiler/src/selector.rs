//! Namespace selectors: `cluster/namespace`, where each side is a name, a prefix such as `shop*`, or `*`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::name::{ClusterName, Label, ServiceId};

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a namespace selector; use cluster/namespace, where each side is a name, prefix* or *")]
pub struct BadSelector(String);

/// Names one namespace in one cluster, or many by wildcards.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Selector {
    cluster: Pattern,
    namespace: Pattern,
}

/// One side of a selector.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Pattern {
    Exact(Label),
    /// Without its `*`; empty for the bare `*`.
    Prefix(String),
}

impl Selector {
    pub fn matches(&self, cluster: &ClusterName, namespace: &Label) -> bool {
        self.matches_cluster(cluster) && self.matches_namespace(namespace)
    }

    pub fn matches_cluster(&self, cluster: &ClusterName) -> bool {
        self.cluster.matches(cluster.as_str())
    }

    pub fn matches_namespace(&self, namespace: &Label) -> bool {
        self.namespace.matches(namespace.as_str())
    }

    /// Whether some namespace could match both.
    pub fn intersects(&self, other: &Selector) -> bool {
        self.cluster.intersects(&other.cluster) && self.namespace.intersects(&other.namespace)
    }

    /// Whether everything that matches `other` matches this one as well.
    pub fn covers(&self, other: &Selector) -> bool {
        self.cluster.covers(&other.cluster) && self.namespace.covers(&other.namespace)
    }

    /// Cluster and namespace as they are written, with their wildcards.
    pub(crate) fn sides(&self) -> (String, String) {
        (self.cluster.to_string(), self.namespace.to_string())
    }

    /// No service in a namespace that it matches comes before this one.
    pub(crate) fn first_service(&self) -> ServiceId {
        let namespace = match &self.namespace {
            Pattern::Exact(name) => Ok(name.clone()),
            // A prefix may be empty or end in '-', which no name does; no character of a name is less than '0'.
            Pattern::Prefix(prefix) => prefix.parse().or_else(|_| format!("{prefix}0").parse()),
        };
        ServiceId::first_in(namespace.expect("invariant: a prefix was checked when it was parsed"))
    }

    /// What all namespaces that it matches begin with.
    pub(crate) fn namespace_prefix(&self) -> &str {
        match &self.namespace {
            Pattern::Exact(name) => name.as_str(),
            Pattern::Prefix(prefix) => prefix,
        }
    }

    /// The namespace that it names, unless by a wildcard.
    pub fn exact_namespace(&self) -> Option<&Label> {
        match &self.namespace {
            Pattern::Exact(name) => Some(name),
            Pattern::Prefix(_) => None,
        }
    }

    /// The cluster that it names, unless by a wildcard.
    pub fn exact_cluster(&self) -> Option<&str> {
        match &self.cluster {
            Pattern::Exact(name) => Some(name.as_str()),
            Pattern::Prefix(_) => None,
        }
    }
}

impl Pattern {
    pub(crate) fn parse(text: &str) -> Option<Pattern> {
        let Some(prefix) = text.strip_suffix('*') else {
            return text.parse().ok().map(Pattern::Exact);
        };
        // A prefix may end in '-', which a whole name may not.
        let valid = prefix.is_empty() || format!("{prefix}x").parse::<Label>().is_ok();
        valid.then(|| Pattern::Prefix(prefix.to_owned()))
    }

    fn matches(&self, text: &str) -> bool {
        match self {
            Pattern::Exact(name) => name.as_str() == text,
            Pattern::Prefix(prefix) => text.starts_with(prefix),
        }
    }

    fn intersects(&self, other: &Pattern) -> bool {
        match (self, other) {
            (Pattern::Exact(name), pattern) | (pattern, Pattern::Exact(name)) => {
                pattern.matches(name.as_str())
            }
            (Pattern::Prefix(a), Pattern::Prefix(b)) => a.starts_with(b) || b.starts_with(a),
        }
    }

    /// Exactly what both match; of two that share anything one covers the other.
    pub(crate) fn meet(&self, other: &Pattern) -> Option<Pattern> {
        if self.covers(other) {
            Some(other.clone())
        } else {
            other.covers(self).then(|| self.clone())
        }
    }

    fn covers(&self, other: &Pattern) -> bool {
        match (self, other) {
            (pattern, Pattern::Exact(name)) => pattern.matches(name.as_str()),
            (Pattern::Prefix(wide), Pattern::Prefix(narrow)) => narrow.starts_with(wide),
            (Pattern::Exact(_), Pattern::Prefix(_)) => false,
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pattern::Exact(name) => write!(f, "{name}"),
            Pattern::Prefix(prefix) => write!(f, "{prefix}*"),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.cluster, self.namespace)
    }
}

impl FromStr for Selector {
    type Err = BadSelector;

    fn from_str(text: &str) -> Result<Self, BadSelector> {
        let parse = || {
            let (cluster, namespace) = text.split_once('/')?;
            Some(Selector {
                cluster: Pattern::parse(cluster)?,
                namespace: Pattern::parse(namespace)?,
            })
        };
        parse().ok_or_else(|| BadSelector(text.to_owned()))
    }
}

impl TryFrom<String> for Selector {
    type Error = BadSelector;

    fn try_from(text: String) -> Result<Self, BadSelector> {
        text.parse()
    }
}

impl From<Selector> for String {
    fn from(selector: Selector) -> String {
        selector.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(text: &str) -> Selector {
        text.parse().unwrap()
    }

    #[test]
    fn intersections_and_covers() {
        for (a, b, intersects, covers) in [
            ("*/*", "us/shop", true, true),
            ("us/shop", "us/shop", true, true),
            ("us/shop", "eu/shop", false, false),
            ("*/shop", "us/*", true, false),
            ("*/sho*", "us/shop", true, true),
            ("us*/shop", "us-e*/shop", true, true),
            ("us-e*/shop", "us*/shop", true, false),
            ("us-*/a", "eu-*/a", false, false),
            ("us/shop", "us/sho*", true, false),
        ] {
            assert_eq!(selector(a).intersects(&selector(b)), intersects, "{a} ∩ {b}");
            assert_eq!(selector(b).intersects(&selector(a)), intersects, "{b} ∩ {a}");
            assert_eq!(selector(a).covers(&selector(b)), covers, "{a} ⊇ {b}");
        }
    }

    #[test]
    fn malformed_selectors_are_refused() {
        for bad in [
            "",
            "shop",
            "us/",
            "/shop",
            "us/sh*p",
            "us/shop/x",
            "US/shop",
            "**/a",
        ] {
            assert!(bad.parse::<Selector>().is_err(), "{bad}");
        }
    }
}
