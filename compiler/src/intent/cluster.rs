//! Clusters: the failure domains of the mesh.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::name::{Label, TrustDomain};

/// A failure domain with an edge of its own. It appears here before it joins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Cluster {
    pub region: Label,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<Label>,
    /// The network in which its gateways have their addresses; `NetworkReachability` tells which reach each other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Label>,
    /// Of the identities of its workloads: `spiffe://<trust domain>/ns/…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust_domain: Option<TrustDomain>,
}
