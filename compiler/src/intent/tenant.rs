//! Tenants: the business units of an organization.

use serde::{Deserialize, Serialize};

/// A business unit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tenant {}
