//! Bindings: who has which role where.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::name::Fqn;

/// Gives users a role on the node that it stands below, and on all below that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Binding {
    pub role: Role,
    /// Users, by their full name.
    pub subjects: BTreeSet<Fqn>,
}

/// Each role can do what the ones before it can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Reader,
    Writer,
    /// May also change users, clusters and bindings.
    Admin,
}
