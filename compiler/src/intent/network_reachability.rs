//! Which networks reach each other: a directed graph at the organization.

use std::collections::{BTreeMap, BTreeSet};

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
