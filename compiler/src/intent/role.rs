//! Roles of one's own: kinds × verbs × scope.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::name::Kind;

/// Rights with a name. Usable on the node that it stands below, and on all below that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Role {
    pub rules: Vec<RoleRule>,
}

/// Each of the verbs, on each of the kinds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RoleRule {
    /// Every kind when empty.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub kinds: BTreeSet<Kind>,
    pub verbs: BTreeSet<Action>,
    #[serde(default, skip_serializing_if = "Scope::is_all")]
    pub scope: Scope,
}

/// Where a rule holds, seen from the node that the role is bound on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    #[default]
    All,
    /// On that node alone.
    Node,
    /// On what stands below it alone.
    Below,
}

/// What somebody does to a node; the verbs of roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    Read,
    Create,
    Update,
    Delete,
    /// To change who may do what on the node: its bindings, its roles, its owner.
    SetPolicy,
    /// To see the audit records of the node and of what stands below it.
    ReadAudit,
    /// To issue, list and revoke what a user or a service account identifies itself with.
    Tokens,
    /// To declare a restored database the truth.
    Adopt,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not a verb: use one of {}", Action::ALL.map(Action::as_str).join(", "))]
pub struct BadAction {
    given: String,
}

impl Scope {
    fn is_all(&self) -> bool {
        *self == Scope::All
    }
}

impl Action {
    pub const ALL: [Action; 8] = [
        Action::Read,
        Action::Create,
        Action::Update,
        Action::Delete,
        Action::SetPolicy,
        Action::ReadAudit,
        Action::Tokens,
        Action::Adopt,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Action::Read => "read",
            Action::Create => "create",
            Action::Update => "update",
            Action::Delete => "delete",
            Action::SetPolicy => "set-policy",
            Action::ReadAudit => "read-audit",
            Action::Tokens => "tokens",
            Action::Adopt => "adopt",
        }
    }
}

impl FromStr for Action {
    type Err = BadAction;

    fn from_str(text: &str) -> Result<Self, BadAction> {
        let mut all = Action::ALL.into_iter();
        all.find(|action| action.as_str() == text)
            .ok_or_else(|| BadAction {
                given: text.to_owned(),
            })
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
