//! Service routes: how the requests for a service are spread.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::http::{HttpRule, SubsetBackend};
use crate::name::{Label, ServiceId};

/// How requests for one service are spread over its subsets, for every client in the workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceRoute {
    pub service: ServiceId,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subsets: Vec<Subset>,
    pub rules: Vec<HttpRule<SubsetBackend>>,
}

/// The instances of a service that bear all of these labels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Subset {
    pub name: Label,
    pub labels: BTreeMap<String, String>,
}
