//! The root of the tree, and what holds for all of it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::name::Label;

/// The root; one mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Organization {
    /// For every workspace that has no failover of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failover: Vec<Failover>,
    /// A write that would withdraw at least this share of a tenant's routes, and at least ten of them, is only done when
    /// its caller confirms it.
    #[serde(default)]
    pub confirm_withdrawal_percent: Percent,
}

/// From 1 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "u8", into = "u8")]
pub struct Percent(#[schemars(range(min = 1, max = 100))] u8);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a percentage from 1 to 100")]
pub struct BadPercent(u8);

impl Percent {
    pub fn get(self) -> u8 {
        self.0
    }
}

impl Default for Percent {
    fn default() -> Percent {
        Percent(50)
    }
}

impl TryFrom<u8> for Percent {
    type Error = BadPercent;

    fn try_from(given: u8) -> Result<Percent, BadPercent> {
        match given {
            1..=100 => Ok(Percent(given)),
            _ => Err(BadPercent(given)),
        }
    }
}

impl From<Percent> for u8 {
    fn from(percent: Percent) -> u8 {
        percent.0
    }
}

/// Where traffic of a region goes when neither its cluster nor its region can serve it. Without an entry it goes
/// to whatever can.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Failover {
    pub from: Label,
    /// In order of preference.
    pub to: Vec<Label>,
}
