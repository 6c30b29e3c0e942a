//! Clusters: the failure domains of the mesh.

use serde::{Deserialize, Serialize};

use crate::name::Label;

/// A failure domain with an edge of its own. It appears here before it joins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    pub region: Label,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<Label>,
}
