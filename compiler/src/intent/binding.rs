//! Bindings: who has which role where, and under which condition.

use std::collections::BTreeSet;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::name::{BadName, Fqn, Kind};

/// A condition is evaluated on every decision that its binding could settle.
pub(crate) const CONDITION_BYTES_MAX: usize = 512;

/// Gives subjects a role on the node that it stands below, and on all below that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Binding {
    pub role: RoleName,
    /// Users, teams and service accounts, by their full names.
    pub subjects: BTreeSet<Fqn>,
    /// Without one the binding always gives the role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub condition: Option<Condition>,
}

/// A role that comes with Tombolo, by its word, or one of the organization's own, by its full name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum RoleName {
    Builtin(BuiltinRole),
    Own(Fqn),
}

/// What each of them may do is a table of the management plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BuiltinRole {
    Reader,
    Auditor,
    TrafficAdmin,
    GatewayAdmin,
    SecurityAdmin,
    Writer,
    Editor,
    Admin,
}

/// A CEL expression that must be true for its binding to give anything. The management plane compiles it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Condition(String);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadBinding {
    #[error("{given:?} is not a role: use {}, or the full name of a role", BuiltinRole::ALL.map(BuiltinRole::as_str).join(", "))]
    Role {
        given: String,
        #[source]
        source: BadName,
    },
    #[error("{0} is not the name of a role")]
    NotARole(Fqn),
    #[error("the condition is empty or longer than {CONDITION_BYTES_MAX} bytes")]
    Condition,
}

impl BuiltinRole {
    /// From the least to the greatest, as far as they compare.
    pub const ALL: [BuiltinRole; 8] = [
        BuiltinRole::Reader,
        BuiltinRole::Auditor,
        BuiltinRole::TrafficAdmin,
        BuiltinRole::GatewayAdmin,
        BuiltinRole::SecurityAdmin,
        BuiltinRole::Writer,
        BuiltinRole::Editor,
        BuiltinRole::Admin,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            BuiltinRole::Reader => "reader",
            BuiltinRole::Auditor => "auditor",
            BuiltinRole::TrafficAdmin => "traffic-admin",
            BuiltinRole::GatewayAdmin => "gateway-admin",
            BuiltinRole::SecurityAdmin => "security-admin",
            BuiltinRole::Writer => "writer",
            BuiltinRole::Editor => "editor",
            BuiltinRole::Admin => "admin",
        }
    }
}

impl TryFrom<String> for RoleName {
    type Error = BadBinding;

    fn try_from(text: String) -> Result<Self, BadBinding> {
        let mut builtin = BuiltinRole::ALL.into_iter();
        if let Some(role) = builtin.find(|role| role.as_str() == text) {
            return Ok(RoleName::Builtin(role));
        }
        match text.parse::<Fqn>() {
            Ok(name) if name.kind() == Kind::Role => Ok(RoleName::Own(name)),
            Ok(name) => Err(BadBinding::NotARole(name)),
            Err(source) => Err(BadBinding::Role { given: text, source }),
        }
    }
}

impl From<RoleName> for String {
    fn from(role: RoleName) -> String {
        role.to_string()
    }
}

impl Condition {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Condition {
    type Error = BadBinding;

    fn try_from(text: String) -> Result<Self, BadBinding> {
        if text.trim().is_empty() || text.len() > CONDITION_BYTES_MAX {
            return Err(BadBinding::Condition);
        }
        Ok(Condition(text))
    }
}

impl From<Condition> for String {
    fn from(condition: Condition) -> String {
        condition.0
    }
}

impl fmt::Display for BuiltinRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RoleName::Builtin(role) => role.fmt(f),
            RoleName::Own(name) => name.fmt(f),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::intent::Resource;

    #[test]
    fn words_that_mean_no_role_verb_or_condition_are_refused() {
        let binding = |role: &str, condition: &str| json!({"name": "organizations/acme/bindings/b", "spec": {"role": role, "subjects": [], "condition": condition}});
        for (document, words) in [
            (binding("owner", "true"), "use reader, auditor,"),
            (
                binding("organizations/acme/tenants/pay", "true"),
                "organizations/acme/tenants/pay is not the name of a role",
            ),
            (binding("admin", " "), "the condition is empty or longer"),
            (
                binding("admin", &"x".repeat(CONDITION_BYTES_MAX + 1)),
                "the condition is empty or longer",
            ),
            (
                json!({"name": "organizations/acme/roles/r", "spec": {"rules": [{"verbs": ["fly"]}]}}),
                "unknown variant `fly`",
            ),
        ] {
            let error = Resource::from_json(document).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
