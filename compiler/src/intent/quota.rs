//! Quotas: how many resources of a kind may stand below a node.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::name::{Fqn, Kind};

/// A write that would make more of a kind than its limit is refused. A limit below what exists removes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Quota {
    /// The node that is limited: at or below the one that the quota stands below, which it is when left out. So an
    /// organization limits a tenant, and the tenant's administrators cannot lift it.
    pub node: Option<Fqn>,
    /// For each kind, how many may stand below the node, at any depth.
    pub limits: BTreeMap<Kind, u32>,
}
