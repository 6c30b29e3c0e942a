//! Names: the path of every resource, and the short names of things in the world.
//!
//! Each is a newtype with a private field, parsed at the border and never checked again inside.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The longest name of a resource, in bytes; six levels of 63-byte labels with their collections fit.
pub(crate) const FQN_BYTES_MAX: usize = 512;
/// RFC 1035: the longest label of a domain name. Names of ours become labels, so they obey it too.
pub(crate) const LABEL_BYTES_MAX: usize = 63;
/// RFC 1035: the longest domain name in its text form.
pub(crate) const HOSTNAME_BYTES_MAX: usize = 253;

/// The leaf of a resource that its node has at most once.
pub const ATTACHED: &str = "default";

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    #[error("name {0:?} is empty or longer than {FQN_BYTES_MAX} bytes")]
    Length(String),
    #[error(
        "{0:?} is not a valid name: use 1 to {LABEL_BYTES_MAX} of a-z, 0-9 and '-', starting and ending with a letter or digit"
    )]
    Label(String),
    #[error("{collection:?} is not a collection below {parent:?}; expected {expected}")]
    Collection {
        collection: String,
        parent: String,
        expected: String,
    },
    #[error("a node has at most one of its {collection}, and that is named {ATTACHED:?}, not {leaf:?}")]
    Attached { collection: &'static str, leaf: String },
    #[error("name {0:?} ends in a collection; add the resource's own name")]
    NoLeaf(String),
    #[error("{0:?} is not a valid host name: use labels of a-z, 0-9 and '-', optionally starting with '*.'")]
    Hostname(String),
    #[error("{0:?} is not a service; use namespace/name")]
    Service(String),
    #[error("{0:?} is not host:port")]
    HostPort(String),
    #[error("{0:?} is not a trust domain; use a domain name such as prod.example.com")]
    TrustDomain(String),
}

/// What a resource is; the collection in its path decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Kind {
    Organization,
    Cluster,
    User,
    Team,
    ServiceAccount,
    Role,
    Tenant,
    Workspace,
    TrafficGroup,
    GatewayGroup,
    SecurityGroup,
    Gateway,
    ServiceRoute,
    Binding,
    Application,
    #[serde(rename = "API")]
    Api,
    WasmExtension,
    ExternalService,
    NetworkReachability,
    Quota,
    TrafficSetting,
    SecuritySetting,
    ServiceSecuritySetting,
    Invariant,
    ApprovalPolicy,
    ReferenceGrant,
    ClaimOffer,
}

impl Kind {
    pub const ALL: [Kind; 27] = [
        Kind::Organization,
        Kind::Cluster,
        Kind::User,
        Kind::Team,
        Kind::ServiceAccount,
        Kind::Role,
        Kind::Tenant,
        Kind::Workspace,
        Kind::TrafficGroup,
        Kind::GatewayGroup,
        Kind::SecurityGroup,
        Kind::Gateway,
        Kind::ServiceRoute,
        Kind::Binding,
        Kind::Application,
        Kind::Api,
        Kind::WasmExtension,
        Kind::ExternalService,
        Kind::NetworkReachability,
        Kind::Quota,
        Kind::TrafficSetting,
        Kind::SecuritySetting,
        Kind::ServiceSecuritySetting,
        Kind::Invariant,
        Kind::ApprovalPolicy,
        Kind::ReferenceGrant,
        Kind::ClaimOffer,
    ];

    /// The path segment before the resource's own name.
    pub fn collection(self) -> &'static str {
        match self {
            Kind::Organization => "organizations",
            Kind::Cluster => "clusters",
            Kind::User => "users",
            Kind::Team => "teams",
            Kind::ServiceAccount => "serviceaccounts",
            Kind::Role => "roles",
            Kind::Tenant => "tenants",
            Kind::Workspace => "workspaces",
            Kind::TrafficGroup => "trafficgroups",
            Kind::GatewayGroup => "gatewaygroups",
            Kind::SecurityGroup => "securitygroups",
            Kind::Gateway => "gateways",
            Kind::ServiceRoute => "serviceroutes",
            Kind::Binding => "bindings",
            Kind::Application => "applications",
            Kind::Api => "apis",
            Kind::WasmExtension => "extensions",
            Kind::ExternalService => "externalservices",
            Kind::NetworkReachability => "networkreachabilities",
            Kind::Quota => "quotas",
            Kind::TrafficSetting => "trafficsettings",
            Kind::SecuritySetting => "securitysettings",
            Kind::ServiceSecuritySetting => "servicesecuritysettings",
            Kind::Invariant => "invariants",
            Kind::ApprovalPolicy => "approvalpolicies",
            Kind::ReferenceGrant => "referencegrants",
            Kind::ClaimOffer => "claimoffers",
        }
    }

    /// The kinds that may stand directly below this one.
    pub fn children(self) -> &'static [Kind] {
        match self {
            Kind::Organization => &[
                Kind::Cluster,
                Kind::User,
                Kind::Team,
                Kind::ServiceAccount,
                Kind::Role,
                Kind::Tenant,
                Kind::Binding,
                Kind::WasmExtension,
                Kind::ExternalService,
                Kind::NetworkReachability,
                Kind::Quota,
                Kind::TrafficSetting,
                Kind::SecuritySetting,
                Kind::Invariant,
                Kind::ApprovalPolicy,
            ],
            Kind::Tenant => &[
                Kind::Workspace,
                Kind::ServiceAccount,
                Kind::Role,
                Kind::Binding,
                Kind::Application,
                Kind::Quota,
                Kind::TrafficSetting,
                Kind::SecuritySetting,
                Kind::ApprovalPolicy,
            ],
            Kind::Workspace => &[
                Kind::TrafficGroup,
                Kind::GatewayGroup,
                Kind::SecurityGroup,
                Kind::Binding,
                Kind::ExternalService,
                Kind::Quota,
                Kind::TrafficSetting,
                Kind::SecuritySetting,
                Kind::ApprovalPolicy,
                Kind::ReferenceGrant,
                Kind::ClaimOffer,
            ],
            Kind::TrafficGroup => &[
                Kind::ServiceRoute,
                Kind::Binding,
                Kind::TrafficSetting,
                Kind::ApprovalPolicy,
            ],
            Kind::GatewayGroup => &[Kind::Gateway, Kind::Binding, Kind::ApprovalPolicy],
            Kind::Application => &[Kind::Api, Kind::Binding],
            Kind::SecurityGroup => &[
                Kind::Binding,
                Kind::SecuritySetting,
                Kind::ServiceSecuritySetting,
                Kind::ApprovalPolicy,
            ],
            Kind::Cluster => &[Kind::Binding],
            Kind::User
            | Kind::Team
            | Kind::ServiceAccount
            | Kind::Role
            | Kind::Gateway
            | Kind::ServiceRoute
            | Kind::Binding
            | Kind::Api
            | Kind::WasmExtension
            | Kind::ExternalService
            | Kind::NetworkReachability
            | Kind::Quota
            | Kind::TrafficSetting
            | Kind::SecuritySetting
            | Kind::ServiceSecuritySetting
            | Kind::Invariant
            | Kind::ApprovalPolicy
            | Kind::ReferenceGrant
            | Kind::ClaimOffer => &[],
        }
    }

    /// Whether a node has it at most once, with the leaf [`ATTACHED`].
    pub fn is_attached(self) -> bool {
        matches!(self, Kind::TrafficSetting | Kind::SecuritySetting)
    }

    /// Whether central needs it: what is about writing, and not about traffic, never leaves the management plane.
    pub fn is_published(self) -> bool {
        let about_writing = matches!(
            self,
            Kind::Quota | Kind::Invariant | Kind::ApprovalPolicy | Kind::ClaimOffer
        );
        !(self.is_identity() || about_writing)
    }

    /// Who there is, and who may do what.
    pub fn is_identity(self) -> bool {
        matches!(
            self,
            Kind::User | Kind::Team | Kind::ServiceAccount | Kind::Role | Kind::Binding
        )
    }

    /// Whether it can act: hold tokens or keys, and own what it creates.
    pub fn is_principal(self) -> bool {
        matches!(self, Kind::User | Kind::ServiceAccount)
    }

    /// Whether a binding can name it, and a team hold it.
    pub fn is_subject(self) -> bool {
        matches!(self, Kind::User | Kind::Team | Kind::ServiceAccount)
    }

    fn from_collection(parent: Option<Kind>, collection: &str) -> Option<Kind> {
        let candidates = parent.map_or(&[Kind::Organization][..], Kind::children);
        candidates
            .iter()
            .copied()
            .find(|kind| kind.collection() == collection)
    }
}

/// The word in a document's `kind`.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Api => f.write_str("API"),
            kind => fmt::Debug::fmt(kind, f),
        }
    }
}

/// Declares a newtype over `Arc<str>` whose only way in is a checked parse.
macro_rules! text_newtype {
    ($(#[$doc:meta])* $name:ident, $check:path, $error:ty) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = $error;

            fn from_str(text: &str) -> Result<Self, $error> {
                $check(text)?;
                Ok($name(text.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = $error;

            fn try_from(text: String) -> Result<Self, $error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Debug::fmt(&self.0, f)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}
pub(crate) use text_newtype;

text_newtype!(
    /// The full path of a resource, such as `organizations/acme/tenants/payments`; also its REST path below `/v1/`.
    Fqn,
    check_fqn,
    BadName
);
text_newtype!(
    /// One label: the last segment of a path, a namespace, a service, a subset, a region.
    Label,
    check_label,
    BadName
);
text_newtype!(
    /// The name of a cluster within its organization, such as `us-east`.
    ClusterName,
    check_label,
    BadName
);
text_newtype!(
    /// A lower-case DNS name, or one below a wildcard: `shop.example.com`, `*.example.com`.
    Hostname,
    check_hostname,
    BadName
);
text_newtype!(
    /// Whose word counts for the identities of workloads, as SPIFFE has it: `prod.example.com`.
    TrustDomain,
    check_trust_domain,
    BadName
);

impl Fqn {
    pub fn kind(&self) -> Kind {
        let collection = self.0.rsplit('/').nth(1);
        let mut kinds = Kind::ALL.into_iter();
        // A collection means one kind, wherever it stands.
        kinds
            .find(|kind| Some(kind.collection()) == collection)
            .expect("invariant: an Fqn was checked when it was parsed")
    }

    /// The last segment.
    pub fn leaf(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    pub fn parent(&self) -> Option<Fqn> {
        let mut cut = self.0.rmatch_indices('/').map(|(at, _)| at);
        cut.nth(1).map(|at| Fqn(self.0[..at].into()))
    }

    /// This node and all above it, nearest first.
    pub fn lineage(&self) -> impl Iterator<Item = Fqn> {
        std::iter::successors(Some(self.clone()), Fqn::parent)
    }

    /// The names of all nodes above this one, nearest first.
    pub fn above(&self) -> impl Iterator<Item = &str> {
        let mut cuts = self.0.rmatch_indices('/').map(|(at, _)| at);
        std::iter::from_fn(move || {
            cuts.next()?;
            Some(&self.0[..cuts.next()?])
        })
    }

    /// The nearest node of that kind in the lineage, itself included.
    pub fn ancestor(&self, kind: Kind) -> Option<Fqn> {
        if self.kind() == kind {
            return Some(self.clone());
        }
        let collection = |node: &str| node.rsplit('/').nth(1) == Some(kind.collection());
        self.above()
            .find(|node| collection(node))
            .map(|node| Fqn(node.into()))
    }

    pub fn organization(&self) -> Fqn {
        self.lineage()
            .last()
            .expect("invariant: a lineage holds at least the node itself")
    }

    /// Whether it is that node or stands below it.
    pub fn is_within(&self, node: &Fqn) -> bool {
        self.0
            .strip_prefix(&*node.0)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// `organizations/acme` + (Tenant, `payments`) → `organizations/acme/tenants/payments`.
    pub fn child(&self, kind: Kind, leaf: &Label) -> Result<Fqn, BadName> {
        format!("{self}/{}/{leaf}", kind.collection()).parse()
    }
}

impl Hostname {
    /// Whether some host could match both; a wildcard stands for one label or more.
    pub fn intersects(&self, other: &Hostname) -> bool {
        match (self.wildcard_suffix(), other.wildcard_suffix()) {
            (None, None) => self == other,
            (Some(suffix), None) => other.as_str().ends_with(suffix),
            (None, Some(suffix)) => self.as_str().ends_with(suffix),
            (Some(a), Some(b)) => a.ends_with(b) || b.ends_with(a),
        }
    }

    /// Whether every host that matches the other one matches this one.
    pub fn covers(&self, other: &Hostname) -> bool {
        match self.wildcard_suffix() {
            None => self == other,
            Some(suffix) => other.as_str().ends_with(suffix),
        }
    }

    pub fn is_wildcard(&self) -> bool {
        self.wildcard_suffix().is_some()
    }

    /// `.example.com` of `*.example.com`.
    fn wildcard_suffix(&self) -> Option<&str> {
        self.0.strip_prefix('*')
    }
}

/// `namespace/name`: a service as one cluster knows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServiceId {
    pub namespace: Label,
    pub name: Label,
}

/// `namespace/name`: a gateway workload as one cluster knows it.
pub type WorkloadId = ServiceId;

impl ServiceId {
    /// No name in that namespace, or in one that comes after it, is before this one.
    pub(crate) fn first_in(namespace: Label) -> ServiceId {
        // No character that a name may begin with is less than '0'.
        let least: Result<Label, _> = "0".parse();
        ServiceId {
            namespace,
            name: least.expect("invariant: a digit is a name"),
        }
    }

    /// The name under which the whole mesh knows it (Multi-Cluster Services API).
    pub fn clusterset_host(&self) -> String {
        format!("{}.{}.svc.clusterset.local", self.name, self.namespace)
    }
}

impl FromStr for ServiceId {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let (namespace, name) = text
            .split_once('/')
            .ok_or_else(|| BadName::Service(text.to_owned()))?;
        Ok(ServiceId {
            namespace: namespace.parse()?,
            name: name.parse()?,
        })
    }
}

impl TryFrom<String> for ServiceId {
    type Error = BadName;

    fn try_from(text: String) -> Result<Self, BadName> {
        text.parse()
    }
}

impl From<ServiceId> for String {
    fn from(id: ServiceId) -> String {
        id.to_string()
    }
}

impl fmt::Display for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// An IP address and a port. Names are resolved by whoever discovers them, so that a proxy never waits for DNS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostPort(std::net::SocketAddr);

impl HostPort {
    pub fn new(ip: std::net::IpAddr, port: u16) -> HostPort {
        HostPort(std::net::SocketAddr::new(ip, port))
    }

    pub fn ip(&self) -> std::net::IpAddr {
        self.0.ip()
    }

    pub fn port(&self) -> u16 {
        self.0.port()
    }
}

impl FromStr for HostPort {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        text.parse()
            .map(HostPort)
            .map_err(|_| BadName::HostPort(text.to_owned()))
    }
}

impl TryFrom<String> for HostPort {
    type Error = BadName;

    fn try_from(text: String) -> Result<Self, BadName> {
        text.parse()
    }
}

impl From<HostPort> for String {
    fn from(address: HostPort) -> String {
        address.0.to_string()
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

fn check_fqn(text: &str) -> Result<(), BadName> {
    parse_kinds(text).map(|_| ())
}

fn parse_kinds(text: &str) -> Result<Vec<Kind>, BadName> {
    if text.is_empty() || text.len() > FQN_BYTES_MAX {
        return Err(BadName::Length(text.to_owned()));
    }
    let mut kinds: Vec<Kind> = Vec::new();
    let mut segments = text.split('/');
    while let Some(collection) = segments.next() {
        let parent = kinds.last().copied();
        let kind = Kind::from_collection(parent, collection)
            .ok_or_else(|| unknown_collection(parent, collection))?;
        let leaf = segments.next().ok_or_else(|| BadName::NoLeaf(text.to_owned()))?;
        check_label(leaf)?;
        if kind.is_attached() && leaf != ATTACHED {
            return Err(BadName::Attached {
                collection: kind.collection(),
                leaf: leaf.to_owned(),
            });
        }
        kinds.push(kind);
    }
    Ok(kinds)
}

fn unknown_collection(parent: Option<Kind>, collection: &str) -> BadName {
    let candidates = parent.map_or(&[Kind::Organization][..], Kind::children);
    let names: Vec<&str> = candidates.iter().map(|kind| kind.collection()).collect();
    BadName::Collection {
        collection: collection.to_owned(),
        parent: parent.map_or_else(|| "/v1".to_owned(), |kind| kind.to_string()),
        expected: if names.is_empty() {
            "nothing below it".to_owned()
        } else {
            names.join(", ")
        },
    }
}

fn check_label(text: &str) -> Result<(), BadName> {
    let bytes = text.as_bytes();
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let valid = !bytes.is_empty()
        && bytes.len() <= LABEL_BYTES_MAX
        && bytes.iter().all(|byte| alphanumeric(byte) || *byte == b'-')
        && bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric);
    if valid {
        Ok(())
    } else {
        Err(BadName::Label(text.to_owned()))
    }
}

fn check_hostname(text: &str) -> Result<(), BadName> {
    let labels = text.strip_prefix("*.").unwrap_or(text);
    let valid = text.len() <= HOSTNAME_BYTES_MAX && labels.split('.').all(|label| check_label(label).is_ok());
    if valid {
        Ok(())
    } else {
        Err(BadName::Hostname(text.to_owned()))
    }
}

fn check_trust_domain(text: &str) -> Result<(), BadName> {
    match check_hostname(text) {
        Ok(()) if !text.starts_with('*') => Ok(()),
        _ => Err(BadName::TrustDomain(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_knows_its_kind_parent_and_lineage() {
        let route: Fqn =
            "organizations/acme/tenants/pay/workspaces/shop/trafficgroups/web/serviceroutes/reviews"
                .parse()
                .unwrap();
        assert_eq!(route.kind(), Kind::ServiceRoute);
        assert_eq!(route.leaf(), "reviews");
        assert_eq!(
            route.parent().unwrap().as_str(),
            "organizations/acme/tenants/pay/workspaces/shop/trafficgroups/web"
        );
        assert_eq!(route.organization().as_str(), "organizations/acme");
        assert_eq!(route.lineage().count(), 5);
        let above: Vec<String> = route.lineage().skip(1).map(|node| node.to_string()).collect();
        assert_eq!(route.above().collect::<Vec<_>>(), above);
        assert_eq!(route.ancestor(Kind::Tenant).unwrap().leaf(), "pay");
        let tenant: Fqn = "organizations/acme/tenants/pay".parse().unwrap();
        let sibling: Fqn = "organizations/acme/tenants/payments".parse().unwrap();
        assert!(route.is_within(&tenant));
        assert!(!sibling.is_within(&tenant), "a longer leaf is not a child");
    }

    #[test]
    fn bad_paths_say_what_to_write_instead() {
        for (text, error) in [
            ("", "is empty"),
            ("tenants/a", "expected organizations"),
            ("organizations/acme/tenants", "ends in a collection"),
            ("organizations/Acme", "is not a valid name"),
            (
                "organizations/acme/workspaces/x",
                "expected clusters, users, teams, serviceaccounts, roles, tenants, bindings",
            ),
            (
                "organizations/acme/trafficsettings/mine",
                "at most one of its trafficsettings, and that is named \"default\", not \"mine\"",
            ),
            ("organizations/acme/users/ann/tenants/x", "nothing below it"),
            ("organizations/acme/", "not a collection below"),
            ("organizations/acme/tenants/-x", "is not a valid name"),
        ] {
            let found = text.parse::<Fqn>().unwrap_err().to_string();
            assert!(found.contains(error), "{text:?}: {found}");
        }
    }

    #[test]
    fn hosts_intersect_by_their_wildcards() {
        for (a, b, intersects) in [
            ("shop.example.com", "shop.example.com", true),
            ("shop.example.com", "shop.example.org", false),
            ("*.example.com", "shop.example.com", true),
            ("*.example.com", "a.shop.example.com", true),
            ("*.example.com", "example.com", false),
            ("*.example.com", "badexample.com", false),
            ("*.example.com", "*.shop.example.com", true),
            ("*.example.com", "*.example.org", false),
        ] {
            let (a, b): (Hostname, Hostname) = (a.parse().unwrap(), b.parse().unwrap());
            assert_eq!(a.intersects(&b), intersects, "{a} ∩ {b}");
            assert_eq!(b.intersects(&a), intersects, "{b} ∩ {a}");
        }
    }

    #[test]
    fn hostnames_take_one_leading_wildcard() {
        for good in ["a", "shop.example.com", "*.example.com"] {
            assert!(good.parse::<Hostname>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "*",
            "a..b",
            "a.*.b",
            "Shop.example.com",
            "a:80",
            "a/b",
            "a.b.",
        ] {
            assert!(bad.parse::<Hostname>().is_err(), "{bad}");
        }
    }
}
