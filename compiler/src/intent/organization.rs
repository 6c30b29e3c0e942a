//! The root of the tree, and what holds for all of it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::name::Label;

/// The root; one mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Organization {
    /// For every workspace that has no failover of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failover: Vec<Failover>,
}

/// Where traffic of a region goes when neither its cluster nor its region can serve it. Without an entry it goes
/// to whatever can.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Failover {
    pub from: Label,
    /// In order of preference.
    pub to: Vec<Label>,
}
