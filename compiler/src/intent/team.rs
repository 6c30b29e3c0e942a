//! Teams: who is given rights together.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ProviderGroup;
use crate::name::Fqn;

/// People and programs that are given rights together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Team {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub display_name: String,
    /// Users, service accounts and other teams, by their full names.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub members: BTreeSet<Fqn>,
    /// Groups of the provider that people log in at: whoever is in one of them is a member too.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub groups: BTreeSet<ProviderGroup>,
}
