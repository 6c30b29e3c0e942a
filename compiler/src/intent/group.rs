//! Groups: one concern on some namespaces, for a team of its own.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::selector::Selector;

/// One concern (traffic, gateways or security) of some of a workspace's namespaces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// All of the workspace's namespaces when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<Selector>,
}
