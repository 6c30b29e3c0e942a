//! Workspaces: who owns which namespaces.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Failover;
use crate::selector::Selector;

/// Owns namespaces, exclusively; a service is one service over all the namespaces of its workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Workspace {
    pub namespaces: Vec<Selector>,
    /// Replaces the organization's, whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failover: Vec<Failover>,
}
