//! Users: people, who hold tokens.

use serde::{Deserialize, Serialize};

/// A person.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct User {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub display_name: String,
}
