//! Approval policies: which changes somebody else has to approve.

use std::collections::BTreeSet;
use std::num::NonZeroU16;

use schemars::JsonSchema;
use serde::Deserialize;

use super::BuiltinRole;
use crate::name::Kind;

/// Of plans that come under no policy that says otherwise: long enough for a colleague in another time zone, short enough
/// that whoever approves knows what it was.
pub const PLAN_EXPIRY_HOURS: u16 = 24;

/// Changes at and below the node that it stands below need the approval of another person. So does every change of the
/// policy itself.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ApprovalPolicy {
    /// The kinds of resources that it is about; all when empty.
    #[serde(default)]
    pub kinds: BTreeSet<Kind>,
    /// What the one who approves must hold on the node, or more than that.
    pub approver: BuiltinRole,
    /// How long a plan can be approved and applied, from when it was made.
    pub expires_after_hours: Option<NonZeroU16>,
}

impl ApprovalPolicy {
    pub fn concerns(&self, kind: Kind) -> bool {
        self.kinds.is_empty() || kind == Kind::ApprovalPolicy || self.kinds.contains(&kind)
    }

    pub fn expires_after_hours(&self) -> u16 {
        self.expires_after_hours
            .map_or(PLAN_EXPIRY_HOURS, NonZeroU16::get)
    }
}
