//! Users: people, who hold tokens and passwords.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::team::GroupName;

/// A person.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct User {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub display_name: String,
    /// As the identity provider told at the last login. Only the server writes them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub groups: BTreeSet<GroupName>,
    /// For emergencies: whatever is done as this user raises an alarm. It gives no right by itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub break_glass: bool,
}
