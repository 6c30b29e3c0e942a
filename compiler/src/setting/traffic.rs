//! How requests travel from the workloads of a node, and to its services.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Setting;
use crate::http::{BadRule, CookieName, HeaderName, Retry, Span};
use crate::intent::Failover;
use crate::name::Hostname;

/// Attaches to an organization, a tenant, a workspace or a traffic group.
pub type TrafficSetting = Setting<Traffic>;

/// What is left out says nothing, and leaves it to the nodes above.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Traffic {
    pub reachability: Option<Reachability>,
    pub egress: Option<Egress>,
    /// An empty list is a word as well: no region is preferred.
    pub failover: Option<Vec<Failover>>,
    pub load_balancing: Option<LoadBalancing>,
    #[serde(default)]
    pub resilience: Resilience,
}

/// How far a workload reaches, itself being at the centre; the nearer, the stricter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Reachability {
    Organization,
    Tenant,
    Workspace,
    Group,
    Namespace,
}

/// Which hosts outside of the mesh a workload may send to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Egress {
    Any,
    /// None of them when empty.
    Hosts(BTreeSet<Hostname>),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum LoadBalancing {
    RoundRobin,
    LeastRequest,
    Random,
    /// Requests with the same value go to the same instance.
    Header(HeaderName),
    /// As with a header; the name is case-sensitive.
    // Not every name that is stored is one: what is written is checked by `bad_cookies`.
    Cookie(#[schemars(with = "CookieName")] String),
    /// By the address of the client.
    Source,
}

impl TrafficSetting {
    /// The fields that name a cookie as none can be named, each with the reason.
    pub fn bad_cookies(&self) -> impl Iterator<Item = (&'static str, BadRule)> {
        let halves = [
            ("spec.defaults.loadBalancing.cookie", &self.defaults),
            ("spec.mandates.loadBalancing.cookie", &self.mandates),
        ];
        halves
            .into_iter()
            .filter_map(|(field, traffic)| match &traffic.load_balancing {
                Some(LoadBalancing::Cookie(name)) => {
                    let bad = CookieName::try_from(name.clone()).err()?;
                    Some((field, bad))
                }
                _ => None,
            })
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Resilience {
    /// Of a whole request with its retries, where its route names none. A mandate is the longest.
    pub timeout: Option<Span>,
    /// Where the route of a request names none.
    pub retry: Option<Retry>,
    /// To one service from one proxy.
    pub connections_max: Option<u32>,
    /// In flight to one service from one proxy.
    pub requests_max: Option<u32>,
    pub outliers: Option<Outliers>,
}

/// When an instance is left out for a while because of what it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Outliers {
    /// Answers of 500 and above, or none at all, in a row.
    pub errors: u32,
    /// How long it is left out, the first time.
    pub ejection: Span,
}
