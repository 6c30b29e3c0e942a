//! Tenants: the business units of an organization.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A business unit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tenant {}
