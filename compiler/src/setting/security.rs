//! Who may talk to the workloads of a node, and what a request must show.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{CallRule, Issuers, Setting};
use crate::name::{Label, ServiceId};

/// Attaches to an organization, a tenant, a workspace or a security group.
pub type SecuritySetting = Setting<Security>;

/// Below a security group, for one service in its namespaces. Nothing stands below it, so it has no mandates.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceSecuritySetting {
    pub service: ServiceId,
    #[serde(default)]
    pub settings: Security,
}

/// What is left out says nothing, and leaves it to the nodes above.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Security {
    pub mtls: Option<Mtls>,
    #[serde(default)]
    pub authentication: Authentication,
    #[serde(default)]
    pub authorization: Authorization,
    #[serde(default)]
    pub waf: Waf,
    /// Extensions of the organization through which every request passes.
    pub extensions: Option<BTreeSet<Label>>,
}

/// Of connections between workloads. Later is stricter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Mtls {
    Disabled,
    /// Both are taken.
    Permissive,
    Strict,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Authentication {
    pub tokens: Option<Tokens>,
    /// Whose tokens count. None at all when the list is empty.
    pub issuers: Option<Issuers>,
}

/// Whether a request needs a token (JWT). One that is there is always checked. Later is stricter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Tokens {
    Optional,
    Required,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "WorkloadAuthorization")]
pub struct Authorization {
    pub callers: Option<Callers>,
    /// A request must match one of these. None is let in when the list is empty; `[{}]` lets in all.
    pub allow: Option<BTreeSet<CallRule>>,
    /// A request that matches one of these is refused, whatever allows it.
    pub deny: Option<BTreeSet<CallRule>>,
}

/// How far away a caller may be, the called service being at the centre. Later is stricter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Callers {
    /// Also from outside of the mesh, and without an identity.
    Anyone,
    Organization,
    Tenant,
    Workspace,
    Group,
    Namespace,
    Nobody,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Waf {
    pub mode: Option<WafMode>,
    /// Names of rule sets, such as `owasp-crs`.
    pub rule_sets: Option<BTreeSet<Label>>,
    /// Numbers of rules that are left out of the sets.
    pub exclusions: Option<BTreeSet<u32>>,
}

/// Later is stricter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum WafMode {
    Off,
    /// What it would refuse is reported.
    Detect,
    Block,
}
