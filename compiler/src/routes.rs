//! Routes: what central publishes, one slice per cluster. Services and the gateways at which other clusters offer
//! them; no endpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::finding::Traced;
use crate::http::{
    Affinity, CookieName, Edits, Fault, HeaderName, HttpMatch, Method, PlainPath, RedirectTo, Retry, Share,
    Span,
};
use crate::intent::{AddressBlock, Cors, Subset};
use crate::name::{BadName, ClusterName, Fqn, HostPort, Hostname, Label, ServiceId, WorkloadId};
use crate::report::{ServicePort, State};
use crate::setting::{Issuers, LoadBalancing, Outliers};

/// All that one cluster's edge is told, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slice {
    pub items: BTreeMap<SliceKey, SliceItem>,
    /// False while something that concerns this cluster is withheld; what is missing is then not removed.
    pub complete: bool,
}

/// The name of a slice's resource on the feed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SliceKey {
    /// `namespaces/NAMESPACE`
    Namespace(Label),
    /// `services/NAMESPACE/NAME/WORKSPACE`: two workspaces may have a service of the same name.
    Service(ServiceId, Fqn),
    /// `gateways/FQN`
    Gateway(Fqn),
    /// `cluster`
    Cluster,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SliceItem {
    Namespace(Traced<NamespaceOwner>),
    Service(Traced<RoutedService>),
    Gateway(Traced<RoutedGateway>),
    Cluster(Traced<Locality>),
}

/// Which workspace owns a namespace of this cluster: whose services its sidecars may reach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamespaceOwner {
    pub workspace: Fqn,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Locality {
    pub region: Label,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<Label>,
}

/// One logical service as this cluster should see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoutedService {
    pub id: ServiceId,
    pub workspace: Fqn,
    /// The union over the clusters that offer it, by port.
    pub ports: Vec<ServicePort>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subsets: Vec<Subset>,
    /// Most specific first; the last one matches everything.
    pub rules: Vec<Traced<ServiceRule>>,
    /// The other clusters that offer it, best first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remotes: Vec<Remote>,
    #[serde(default, skip_serializing_if = "Delivery::is_empty")]
    pub delivery: Delivery,
}

/// How requests come to the instances of a service, as far as settings say anything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delivery {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balancing: Option<LoadBalancing>,
    /// From one proxy, as is the next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections_max: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_max: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outliers: Option<Outliers>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceRule {
    /// Any of these; none means every request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<HttpMatch>,
    pub action: ServiceAction,
    #[serde(default, skip_serializing_if = "Edits::is_empty")]
    pub edits: Edits,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    #[serde(default, skip_serializing_if = "Conduct::is_empty")]
    pub conduct: Conduct,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ServiceAction {
    /// Percentages; `None` is the whole service, without regard to subsets.
    Split(Vec<(Option<Label>, u32)>),
    Redirect(RedirectTo),
    /// 503 with this reason: what stands for a rule that cannot be had.
    Refuse(String),
}

/// What a rule does beside sending a request to its backend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conduct {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<Mirror>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    /// By which a session stays with its instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<Affinity>,
}

/// Where copies of requests go, in the cluster where they are made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// Of the same workspace.
    pub service: ServiceId,
    pub target: MirrorTarget,
    pub share: Share,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum MirrorTarget {
    /// `None`: its only one.
    Port(Option<u16>),
    /// Of the rule's own service, at the port that was asked for.
    Subset(Label),
}

/// Another cluster that offers the service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remote {
    pub cluster: ClusterName,
    pub region: Label,
    /// The order of failover, from 1: same region, the configured regions in order, anything. Equal tiers share.
    pub tier: u8,
    /// The east-west listeners of that cluster.
    pub gateways: BTreeSet<HostPort>,
    /// Down when it, or all of its gateways, are reported down.
    pub state: State,
    pub ports: BTreeSet<u16>,
    /// Those of the subsets that it has instances of.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub subsets: BTreeSet<Label>,
}

/// What one gateway workload should do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoutedGateway {
    pub workload: WorkloadId,
    pub workspace: Fqn,
    pub mode: RoutedGatewayMode,
    #[serde(default, skip_serializing_if = "HostConduct::is_empty")]
    pub conduct: HostConduct,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum RoutedGatewayMode {
    Ingress {
        port: u16,
        hosts: BTreeSet<Hostname>,
        rules: Vec<Traced<GatewayRule>>,
    },
    EastWest,
}

/// What a gateway does with every request for its hosts, whichever rule it matches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostConduct {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cors: Option<Cors>,
    /// One of them has signed who asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwt: Option<Issuers>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
}

/// Whom it lets through: none of those that `deny` matches, and of the others those that one of `allow` matches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Access {
    pub allow: Vec<AccessRule>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<AccessRule>,
}

/// Empty segments, parameters of segments, and escapes of what parts paths: some hosts take them for a path without. In small
/// letters.
pub const SPELLINGS: [&str; 5] = ["//", ";", "%2f", "%5c", "%3b"];

/// All parts that are given must hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessRule {
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub sources: BTreeSet<AddressBlock>,
    /// Of the token, each with the values of which it has one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub claims: BTreeMap<String, BTreeSet<String>>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub methods: BTreeSet<Method>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<PlainPath>,
}

/// So many requests in a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    pub requests: NonZeroU32,
    pub per: Span,
    /// An edge that does not know of others than proxies by themselves refuses what says one, and holds what it has.
    #[serde(default, skip_serializing_if = "Over::is_proxy")]
    pub over: Over,
}

/// Whose requests count together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Over {
    /// Those of each by itself.
    #[default]
    Proxy,
    /// Those of all proxies of the workload in the cluster; in whole seconds.
    Gateway {
        /// Apart by the value of that header; those without it are not counted.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<HeaderName>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayRule {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<HttpMatch>,
    pub action: GatewayAction,
    #[serde(default, skip_serializing_if = "Edits::is_empty")]
    pub edits: Edits,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    #[serde(default, skip_serializing_if = "Conduct::is_empty")]
    pub conduct: Conduct,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum GatewayAction {
    /// Service and port (`None`: its only one), with a percentage; each service's own rules apply below this one.
    Split(Vec<(ServiceId, Option<u16>, u32)>),
    Redirect(RedirectTo),
    Refuse(String),
}

impl GatewayRule {
    pub(crate) fn new(matches: Vec<HttpMatch>, action: GatewayAction) -> GatewayRule {
        GatewayRule {
            matches,
            action,
            edits: Edits::default(),
            timeout: None,
            retry: None,
            conduct: Conduct::default(),
        }
    }
}

impl SliceItem {
    /// Equal with all origins, which are on the wire as well.
    pub fn is_identical(&self, other: &SliceItem) -> bool {
        match (self, other) {
            (SliceItem::Namespace(a), SliceItem::Namespace(b)) => a.is_identical(b),
            (SliceItem::Cluster(a), SliceItem::Cluster(b)) => a.is_identical(b),
            (SliceItem::Service(a), SliceItem::Service(b)) => {
                a.is_identical(b) && identical(&a.value.rules, &b.value.rules)
            }
            (SliceItem::Gateway(a), SliceItem::Gateway(b)) => {
                a.is_identical(b) && identical(a.value.rules(), b.value.rules())
            }
            _ => false,
        }
    }
}

impl Access {
    pub(crate) fn nobody() -> Access {
        Access {
            allow: Vec::new(),
            deny: Vec::new(),
        }
    }

    /// Whether its rules name paths: then those that hosts read in different ways are refused, as one of them is what a rule means,
    /// and would pass it by.
    pub fn names_paths(&self) -> bool {
        let mut rules = self.allow.iter().chain(&self.deny);
        rules.any(|rule| !rule.paths.is_empty())
    }
}

impl Over {
    pub fn is_proxy(&self) -> bool {
        *self == Over::Proxy
    }
}

impl HostConduct {
    pub fn is_empty(&self) -> bool {
        *self == HostConduct::default()
    }
}

impl Conduct {
    pub fn is_empty(&self) -> bool {
        *self == Conduct::default()
    }
}

impl Delivery {
    pub fn is_empty(&self) -> bool {
        *self == Delivery::default()
    }

    /// What decides the instance of a request, where its rule says nothing.
    pub fn affinity(&self) -> Option<Affinity> {
        match self.balancing.as_ref()? {
            LoadBalancing::RoundRobin | LoadBalancing::LeastRequest | LoadBalancing::Random => None,
            LoadBalancing::Header(name) => Some(Affinity::Header(name.clone())),
            LoadBalancing::Cookie(name) => Some(Affinity::Cookie {
                // One that is none was stored before names were checked, and is told of its setting.
                name: CookieName::try_from(name.clone()).ok()?,
                made_for: None,
            }),
            LoadBalancing::Source => Some(Affinity::Source),
        }
    }
}

impl GatewayRule {
    /// The services that get its requests, or copies of them.
    pub fn services(&self) -> impl Iterator<Item = &ServiceId> {
        let targets = self.action.targets().iter().filter(|(.., share)| *share > 0);
        let mirrors = self.conduct.mirrors.iter().map(|mirror| &mirror.service);
        targets.map(|(id, ..)| id).chain(mirrors)
    }
}

impl GatewayAction {
    /// What requests are sent to; nothing unless they are split.
    pub fn targets(&self) -> &[(ServiceId, Option<u16>, u32)] {
        match self {
            GatewayAction::Split(targets) => targets,
            GatewayAction::Redirect(_) | GatewayAction::Refuse(_) => &[],
        }
    }
}

impl RoutedGateway {
    /// Of an east-west gateway: none.
    pub fn rules(&self) -> &[Traced<GatewayRule>] {
        match &self.mode {
            RoutedGatewayMode::Ingress { rules, .. } => rules,
            RoutedGatewayMode::EastWest => &[],
        }
    }

    /// The services that its rules send to, also those that get no share and those that get copies.
    pub(crate) fn backends(&self) -> impl Iterator<Item = &ServiceId> {
        self.rules().iter().flat_map(|rule| {
            let targets = rule.value.action.targets().iter().map(|(id, ..)| id);
            let mirrors = rule.value.conduct.mirrors.iter().map(|mirror| &mirror.service);
            targets.chain(mirrors)
        })
    }
}

/// Whether two lists are equal with all their origins.
pub(crate) fn identical<T: PartialEq>(a: &[Traced<T>], b: &[Traced<T>]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.is_identical(b))
}

impl fmt::Display for SliceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SliceKey::Namespace(namespace) => write!(f, "namespaces/{namespace}"),
            SliceKey::Service(id, workspace) => write!(f, "services/{id}/{workspace}"),
            SliceKey::Gateway(gateway) => write!(f, "gateways/{gateway}"),
            SliceKey::Cluster => f.write_str("cluster"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSliceKey {
    #[error("{0:?} is not the name of a slice's resource")]
    Unknown(String),
    #[error(transparent)]
    Name(#[from] BadName),
}

impl FromStr for SliceKey {
    type Err = BadSliceKey;

    fn from_str(text: &str) -> Result<Self, BadSliceKey> {
        let unknown = || BadSliceKey::Unknown(text.to_owned());
        if text == "cluster" {
            return Ok(SliceKey::Cluster);
        }
        let (collection, rest) = text.split_once('/').ok_or_else(unknown)?;
        match collection {
            "namespaces" => Ok(SliceKey::Namespace(rest.parse()?)),
            "gateways" => Ok(SliceKey::Gateway(rest.parse()?)),
            "services" => {
                let cut = rest.match_indices('/').nth(1).ok_or_else(unknown)?.0;
                Ok(SliceKey::Service(rest[..cut].parse()?, rest[cut + 1..].parse()?))
            }
            _ => Err(unknown()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slice_keys_survive_the_wire() {
        for text in [
            "cluster",
            "namespaces/shop",
            "services/shop/reviews/organizations/acme/tenants/pay/workspaces/shop",
            "gateways/organizations/acme/tenants/pay/workspaces/w/gatewaygroups/g/gateways/in",
        ] {
            assert_eq!(text.parse::<SliceKey>().unwrap().to_string(), text);
        }
        for bad in [
            "",
            "services/shop",
            "services/shop/reviews",
            "pods/x",
            "namespaces/A",
        ] {
            assert!(bad.parse::<SliceKey>().is_err(), "{bad}");
        }
    }
}
