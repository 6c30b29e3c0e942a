//! The way back: receipts and findings, made into what the author of a resource is told.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::finding::{Code, Finding};
use crate::name::{ClusterName, Fqn};
use crate::observe::Agent;
use crate::report::Receipt;

/// Enough to know where to look; `proxies` and `proxies_with` count them all.
const LATE_NAMED_MAX: usize = 20;

/// What is known of a resource at its latest revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub outcome: Outcome,
    /// Every cluster that the resource concerns.
    pub clusters: BTreeMap<ClusterName, ClusterStatus>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Finding>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterStatus {
    pub outcome: Outcome,
    pub agent: Agent,
    /// Proxies that are connected or went silent, and those among them that have it.
    pub proxies: u32,
    pub proxies_with: u32,
    /// Proxies that run something older, or may do so, by name: the first of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub late: Vec<String>,
    /// PROXY: its own words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejections: Vec<String>,
}

/// Worst last, so that the outcome of many is the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Proven by every proxy that it concerns, after activation.
    Running,
    /// Acknowledged by all, but some acknowledge before they activate, or a part of it is not enforced yet, as its
    /// findings say.
    Accepted,
    /// On its way.
    Pending,
    /// Not to be known: the cluster has not been heard of, or is not heard now, or one of its proxies is not.
    Unknown,
    Rejected,
}

/// What one cluster's edge last said, and whether it can be heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    pub agent: Agent,
    pub receipt: Option<Receipt>,
}

/// `concerned` are the clusters that the resource matters to; a resource that matters to none, and has no part that
/// is not enforced, is running at once.
pub fn roll_up(
    resource: &Fqn,
    version: (u64, u64),
    concerned: &BTreeMap<ClusterName, Heard>,
    findings: Vec<Finding>,
) -> Status {
    let clusters: BTreeMap<ClusterName, ClusterStatus> = concerned
        .iter()
        .map(|(cluster, heard)| (cluster.clone(), cluster_status(resource, version, heard)))
        .collect();
    let best = match findings.iter().any(|finding| finding.code == Code::NotEnforced) {
        true => Outcome::Accepted,
        false => Outcome::Running,
    };
    let outcome = clusters
        .values()
        .map(|status| status.outcome)
        .fold(best, Outcome::max);
    Status {
        outcome,
        clusters,
        findings,
    }
}

fn cluster_status(resource: &Fqn, version: (u64, u64), heard: &Heard) -> ClusterStatus {
    let Some(receipt) = &heard.receipt else {
        return ClusterStatus {
            outcome: Outcome::Unknown,
            agent: heard.agent,
            proxies: 0,
            proxies_with: 0,
            late: vec![],
            rejections: vec![],
        };
    };
    let late = receipt.behind.values().filter(|runs| **runs < version).count() as u32;
    let connected_with = if receipt.version >= version {
        receipt.proxies.saturating_sub(late)
    } else {
        0
    };
    let unknown = receipt.unknown.len() as u32;
    let unknown_late = receipt.unknown.values().filter(|ran| **ran < version).count() as u32;
    let is_behind = |proxy: &str| receipt.behind.get(proxy).is_some_and(|runs| *runs < version);
    let rejections: Vec<String> = receipt
        .rejected
        .iter()
        .filter(|rejection| match &rejection.origin {
            Some(origin) => origin.resource.is_within(resource),
            // What no user wrote concerns whoever waits for this proxy.
            None => receipt.version >= version && is_behind(&rejection.proxy),
        })
        .map(|rejection| format!("{}: {}", rejection.proxy, rejection.reason))
        .collect();
    let outcome = if !rejections.is_empty() {
        Outcome::Rejected
    } else if unknown_late > 0 {
        Outcome::Unknown
    } else if receipt.version >= version && late == 0 {
        if receipt.accepted_only > 0 {
            Outcome::Accepted
        } else {
            Outcome::Running
        }
    } else if heard.agent == Agent::Live {
        Outcome::Pending
    } else {
        Outcome::Unknown
    };
    ClusterStatus {
        outcome,
        agent: heard.agent,
        proxies: receipt.proxies.saturating_add(unknown),
        proxies_with: connected_with.saturating_add(unknown - unknown_late),
        late: receipt
            .late(version)
            .take(LATE_NAMED_MAX)
            .map(str::to_owned)
            .collect(),
        rejections,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Origin;
    use crate::report::Rejection;

    fn receipt(version: (u64, u64), proxies: u32) -> Receipt {
        Receipt {
            version,
            proxies,
            ..Receipt::default()
        }
    }

    #[test]
    fn invariant_9_a_proxy_that_went_silent_counts_as_one_without_it() {
        let receipt = Receipt {
            unknown: [("gw-2".into(), (1, 6))].into(),
            ..receipt((1, 7), 1)
        };
        let heard = Heard {
            agent: Agent::Live,
            receipt: Some(receipt),
        };
        let resource = "organizations/acme".parse().expect("a name");
        let heard = [("us".parse().expect("a name"), heard)].into();
        let status = roll_up(&resource, (1, 7), &heard, vec![]);
        let cluster = status.clusters.values().next().expect("one cluster");
        assert_eq!((cluster.proxies_with, cluster.proxies), (1, 2));
        assert_eq!(status.outcome, Outcome::Unknown);
    }

    #[test]
    fn live_needs_proof_from_every_proxy_of_every_cluster_concerned() {
        let route: Fqn = "organizations/acme/tenants/a/workspaces/w".parse().unwrap();
        let rejection = |resource: &str| Rejection {
            proxy: "gw-1".into(),
            origin: Some(Origin::new(resource.parse().unwrap(), "")),
            reason: "no such cluster".into(),
        };
        let nobodys = Rejection {
            origin: None,
            ..rejection("organizations/acme")
        };
        for (name, agent, receipt, outcome) in [
            (
                "all have it",
                Agent::Live,
                Some(receipt((1, 7), 3)),
                Outcome::Running,
            ),
            (
                "the edge has not got it",
                Agent::Live,
                Some(receipt((1, 6), 3)),
                Outcome::Pending,
            ),
            (
                "the edge is gone before it had it",
                Agent::Lost,
                Some(receipt((1, 6), 3)),
                Outcome::Unknown,
            ),
            (
                "the edge had it and is gone",
                Agent::Lost,
                Some(receipt((1, 7), 3)),
                Outcome::Running,
            ),
            ("never heard", Agent::Unknown, None, Outcome::Unknown),
            (
                "one proxy is late",
                Agent::Live,
                Some(Receipt {
                    behind: [("gw-1".into(), (1, 6))].into(),
                    ..receipt((1, 8), 3)
                }),
                Outcome::Pending,
            ),
            (
                "late for something newer only",
                Agent::Live,
                Some(Receipt {
                    behind: [("gw-1".into(), (1, 7))].into(),
                    ..receipt((1, 8), 3)
                }),
                Outcome::Running,
            ),
            (
                "the only proxy went silent before it had it",
                Agent::Live,
                Some(Receipt {
                    unknown: [("gw-1".into(), (1, 6))].into(),
                    ..receipt((1, 7), 0)
                }),
                Outcome::Unknown,
            ),
            (
                "a proxy had it when it went silent",
                Agent::Live,
                Some(Receipt {
                    unknown: [("gw-1".into(), (1, 7))].into(),
                    ..receipt((1, 8), 1)
                }),
                Outcome::Running,
            ),
            (
                "an envoy acknowledges early",
                Agent::Live,
                Some(Receipt {
                    accepted_only: 1,
                    ..receipt((1, 7), 3)
                }),
                Outcome::Accepted,
            ),
            (
                "refused by a proxy",
                Agent::Live,
                Some(Receipt {
                    rejected: vec![rejection(route.as_str())],
                    ..receipt((1, 7), 3)
                }),
                Outcome::Rejected,
            ),
            (
                "what nobody wrote is refused, and holds the proxy back",
                Agent::Live,
                Some(Receipt {
                    behind: [("gw-1".into(), (1, 6))].into(),
                    rejected: vec![nobodys.clone()],
                    ..receipt((1, 7), 3)
                }),
                Outcome::Rejected,
            ),
            (
                "what nobody wrote is refused by a proxy that has it",
                Agent::Live,
                Some(Receipt {
                    behind: [("gw-1".into(), (1, 7))].into(),
                    rejected: vec![nobodys.clone()],
                    ..receipt((1, 8), 3)
                }),
                Outcome::Running,
            ),
            (
                "what nobody wrote was refused before the edge had it",
                Agent::Live,
                Some(Receipt {
                    behind: [("gw-1".into(), (1, 5))].into(),
                    rejected: vec![nobodys.clone()],
                    ..receipt((1, 6), 3)
                }),
                Outcome::Pending,
            ),
            (
                "another's refusal",
                Agent::Live,
                Some(Receipt {
                    rejected: vec![rejection("organizations/acme/tenants/b")],
                    ..receipt((1, 7), 3)
                }),
                Outcome::Running,
            ),
        ] {
            let heard = [("us".parse().unwrap(), Heard { agent, receipt })].into();
            assert_eq!(roll_up(&route, (1, 7), &heard, vec![]).outcome, outcome, "{name}");
        }
        assert_eq!(
            roll_up(&route, (1, 7), &BTreeMap::new(), vec![]).outcome,
            Outcome::Running,
            "concerns no cluster"
        );
    }
}
