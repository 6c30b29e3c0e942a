//! Invariants: what must hold of the whole tree, whoever writes what.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::name::{Fqn, Hostname, Label};
use crate::selector::Selector;

/// A write after which it would not hold is refused, with an example of how it is broken.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub enum Invariant {
    /// No gateway lets requests from outside of the mesh come to a service there.
    NeverFromOutside(Place),
    /// Only that gateway has the host, or one that a wildcard of it stands for.
    OnlyServedBy(OnlyServedBy),
    /// Requests for the workspace's services never fail over into that region.
    NoFailover(NoFailover),
    /// Settings ask for strict mTLS wherever requests of another tenant come to. It is about what is asked for: no proxy
    /// encrypts yet.
    NoPlaintextBetweenTenants {},
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Place {
    Workspace(Fqn),
    /// `cluster/namespace`, either of them `*`.
    Namespace(Selector),
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OnlyServedBy {
    pub host: Hostname,
    pub gateway: Fqn,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoFailover {
    pub workspace: Fqn,
    pub region: Label,
}
