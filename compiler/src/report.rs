//! What clusters say they have: services and gateways, never endpoints; and what their proxies run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::finding::Origin;
use crate::name::{ClusterName, HostPort, Label, ServiceId, WorkloadId};

/// The latest that is known of every cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reports {
    /// Clusters that have joined at some time. One of these without a report is unknown, which is never empty: what
    /// concerns it is withheld.
    pub joined: BTreeSet<ClusterName>,
    /// Clusters that have said something which cannot be read: they may offer more than their report tells, so that
    /// nothing may be taken for gone.
    pub unread: BTreeSet<ClusterName>,
    /// Shared, so that one that has not changed is told from one that has at a glance.
    pub clusters: BTreeMap<ClusterName, Arc<ClusterReport>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterReport {
    #[serde(default)]
    pub services: BTreeMap<ServiceId, ServiceReport>,
    #[serde(default)]
    pub gateways: BTreeMap<WorkloadId, GatewayReport>,
}

/// One service that a cluster offers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ServiceReport {
    pub ports: Vec<ServicePort>,
    /// The distinct label sets of its instances: enough to know which subsets it can serve.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub label_sets: BTreeSet<BTreeMap<String, String>>,
    pub state: State,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServicePort {
    pub name: Label,
    pub port: u16,
    #[serde(default)]
    pub protocol: Protocol,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    #[default]
    Http,
    /// HTTP/2 with prior knowledge.
    Http2,
    Grpc,
    /// Discovered and reported; not routed yet.
    Tcp,
}

/// A value, not a removal: a service that is down stays known and is not used while anything else can serve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum State {
    #[default]
    Up,
    Down,
}

/// One gateway workload of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct GatewayReport {
    /// Where other clusters reach its east-west listener; empty when it has none.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub east_west: BTreeSet<HostPort>,
    #[serde(default)]
    pub state: State,
}

/// What the edge attests of its proxies, as exceptions from a rule: every connected proxy runs `version`, except
/// those that are named, and those that went silent are named with what they ran. Its size is that of the trouble, not that of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Receipt {
    /// (epoch, revision) of the slice that the edge has lowered.
    pub version: (u64, u64),
    /// How many proxies are connected.
    pub proxies: u32,
    /// Of those and the unknown ones, how many acknowledge before they activate, as Envoy does: "accepted", not "running".
    #[serde(default)]
    pub accepted_only: u32,
    /// Connected, but not there yet: proxy → version it runs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub behind: BTreeMap<String, (u64, u64)>,
    /// Went silent without a goodbye, and may run on: proxy → the last version that was proven. Until it is back, or
    /// forgotten.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unknown: BTreeMap<String, (u64, u64)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejected: Vec<Rejection>,
}

impl Receipt {
    /// Every proxy that is known runs `version` or a later one.
    pub fn proves(&self, version: (u64, u64)) -> bool {
        self.version >= version && self.late(version).next().is_none()
    }

    /// The proxies that are known to run, or may run, something older.
    pub fn late(&self, version: (u64, u64)) -> impl Iterator<Item = &str> {
        let known = self.behind.iter().chain(&self.unknown);
        known
            .filter(move |(_, runs)| **runs < version)
            .map(|(proxy, _)| proxy.as_str())
    }
}

/// A proxy refused a piece, or its edge left it out; `origin` is the resource that it came from, `None` for what no user
/// wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rejection {
    pub proxy: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// In the own words of whoever refused.
    pub reason: String,
}

/// One named resource of the feed that goes up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ReportItem {
    Service(ServiceReport),
    Gateway(GatewayReport),
    Receipt(Receipt),
}

impl ClusterReport {
    /// The resources of the feed, by name: `services/NAMESPACE/NAME` and `gateways/NAMESPACE/NAME`.
    pub fn items(&self) -> BTreeMap<String, ReportItem> {
        let services = self
            .services
            .iter()
            .map(|(id, service)| (format!("services/{id}"), ReportItem::Service(service.clone())));
        let gateways = self
            .gateways
            .iter()
            .map(|(id, gateway)| (format!("gateways/{id}"), ReportItem::Gateway(gateway.clone())));
        services.chain(gateways).collect()
    }
}
