//! Service accounts: programs, which hold keys.

use serde::{Deserialize, Serialize};

/// A program. Its keys are issued beside the resource; only their public halves are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ServiceAccount {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub display_name: String,
}
