//! Settings: what a node of the tree decides for all that stands below it. Their serde form is the REST form.
//!
//! A setting has two halves of one shape. Of `defaults` the nearest counts. `mandates` bind everything below:
//! nearer settings can be stricter, never weaker (`docs/adr/0005-mandates-beside-defaults.md`).

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::Deserialize;

mod call_rule;
mod issuers;
mod security;
mod traffic;

pub use call_rule::{BadPrincipal, CallRule, PrincipalPattern};
pub use issuers::{BadIssuers, Issuers};
pub use security::{
    Authentication, Authorization, Callers, Mtls, Security, SecuritySetting, ServiceSecuritySetting, Tokens,
    Waf, WafMode,
};
pub use traffic::{Egress, LoadBalancing, Outliers, Reachability, Resilience, Traffic, TrafficSetting};

/// A setting as it attaches to a node: `S` is what it decides about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, bound = "S: Default + serde::de::DeserializeOwned")]
#[schemars(bound = "S: Default + JsonSchema")]
pub struct Setting<S> {
    /// Counts below this node where nothing nearer says otherwise.
    #[serde(default)]
    pub defaults: S,
    /// Holds for everything below this node, whatever is said there.
    #[serde(default)]
    pub mandates: S,
}

/// What two sets share, an empty one standing for everything; `None` when they share nothing.
fn common<T: Ord + Clone>(a: &BTreeSet<T>, b: &BTreeSet<T>) -> Option<BTreeSet<T>> {
    if a.is_empty() {
        return Some(b.clone());
    }
    if b.is_empty() {
        return Some(a.clone());
    }
    let both: BTreeSet<T> = a.intersection(b).cloned().collect();
    (!both.is_empty()).then_some(both)
}
