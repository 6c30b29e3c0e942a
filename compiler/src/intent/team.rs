//! Teams: who is given rights together.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::name::Fqn;

/// As identity providers name groups.
const GROUP_BYTES_MAX: usize = 256;

/// People and programs that are given rights together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Team {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub display_name: String,
    /// Users, service accounts and other teams, by their full names.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub members: BTreeSet<Fqn>,
    /// Whoever the identity provider counts among one of these is a member too.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub groups: BTreeSet<GroupName>,
}

/// The name of a group at the identity provider.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GroupName(String);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the name of a group is empty or longer than {GROUP_BYTES_MAX} bytes")]
pub struct BadGroup;

impl GroupName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for GroupName {
    type Error = BadGroup;

    fn try_from(text: String) -> Result<Self, BadGroup> {
        match text.is_empty() || text.len() > GROUP_BYTES_MAX {
            true => Err(BadGroup),
            false => Ok(GroupName(text)),
        }
    }
}

impl From<GroupName> for String {
    fn from(group: GroupName) -> String {
        group.0
    }
}
