//! Intent: the resources as users write them, one struct per kind. Their serde form is the REST form. Each noun has a
//! module of its own; here is what they share, the envelope and the spec as one type.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::enforcement::{self, Gap};
use crate::name::{BadName, Fqn, Kind};
use crate::persistent::Map;
use crate::setting::{SecuritySetting, ServiceSecuritySetting, TrafficSetting};

mod application;
mod approval_policy;
mod binding;
mod claim_offer;
mod cluster;
mod external_service;
mod gateway;
mod group;
mod host_policy;
mod invariant;
mod network_reachability;
mod openapi;
mod organization;
mod provider_group;
mod quota;
mod reference_grant;
mod role;
mod service_account;
mod service_route;
mod team;
mod tenant;
mod user;
mod wasm_extension;
mod workspace;

pub use self::application::{Api, Application};
pub use self::approval_policy::{ApprovalPolicy, PLAN_EXPIRY_HOURS};
pub(crate) use self::binding::CONDITION_BYTES_MAX;
pub use self::binding::{BadBinding, Binding, BuiltinRole, Condition, RoleName};
pub use self::claim_offer::{ClaimOffer, PortClaim};
pub use self::cluster::Cluster;
pub use self::external_service::{BadExternalService, ExternalProtocol, ExternalService};
pub(crate) use self::gateway::hosts_field;
pub use self::gateway::{BadGateway, Connections, Egress, Gateway, GatewayMode, Ingress, Passthrough};
pub use self::group::Group;
pub use self::host_policy::{
    AccessRule, AddressBlock, Authorization, BadAddressBlock, Cors, HostPolicy, HostRedirect, Jwt, JwtIssuer,
    RateLimit, RateLimitKey, RateLimitScope,
};
pub use self::invariant::{Invariant, NoFailover, OnlyServedBy, Place};
pub use self::network_reachability::NetworkReachability;
pub use self::openapi::{BadOpenApi, OpenApi, PathTemplate};
pub use self::organization::{BadPercent, Failover, Organization, Percent};
pub(crate) use self::provider_group::PROVIDER_GROUP_BYTES_MAX;
pub use self::provider_group::{BadProviderGroup, ProviderGroup};
pub use self::quota::Quota;
pub use self::reference_grant::{Borrower, BorrowerKind, Lent, ReferenceGrant};
pub use self::role::{Action, BadAction, Role, RoleRule, Scope};
pub use self::service_account::ServiceAccount;
pub use self::service_route::{ServiceRoute, Subset};
pub use self::team::Team;
pub use self::tenant::Tenant;
pub use self::user::User;
pub use self::wasm_extension::{Phase, WasmExtension};
pub use self::workspace::Workspace;

/// All resources of one organization, by name.
pub type Intent = Map<Fqn, Arc<Resource>>;

/// What a user wrote: the envelope, and the part that its kind decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    pub name: Fqn,
    pub description: String,
    pub labels: BTreeMap<String, String>,
    /// It cannot be deleted before this is taken back.
    pub deletion_protection: bool,
    pub spec: Spec,
    /// What of it no plane enforces.
    pub gaps: Vec<Gap>,
    /// The document as it was sent, as text, which is small. It is what is given back: programs that compare what they
    /// sent with what they get must not find a default or another spelling of `60s` there.
    written: Box<str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spec {
    Organization(Organization),
    Cluster(Cluster),
    User(User),
    Team(Team),
    ServiceAccount(ServiceAccount),
    Role(Role),
    Tenant(Tenant),
    Workspace(Workspace),
    TrafficGroup(Group),
    GatewayGroup(Group),
    SecurityGroup(Group),
    Gateway(Gateway),
    ServiceRoute(ServiceRoute),
    Binding(Binding),
    Application(Application),
    Api(Api),
    WasmExtension(WasmExtension),
    ExternalService(ExternalService),
    NetworkReachability(NetworkReachability),
    Quota(Quota),
    TrafficSetting(TrafficSetting),
    SecuritySetting(SecuritySetting),
    ServiceSecuritySetting(ServiceSecuritySetting),
    Invariant(Invariant),
    ApprovalPolicy(ApprovalPolicy),
    ReferenceGrant(ReferenceGrant),
    ClaimOffer(ClaimOffer),
}

/// Why a document is not a resource.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadResource {
    #[error("the document is not an object with kind, name and spec")]
    NotAnObject,
    #[error("{message}")]
    Field {
        /// RFC 6901, e.g. `/spec/rules/0/matches`.
        pointer: String,
        message: String,
    },
    #[error(transparent)]
    Name(#[from] BadName),
    #[error("kind is {written} but {name} is a {named}")]
    WrongKind { name: Fqn, written: String, named: Kind },
}

/// The envelope before the kind is known.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    #[serde(default)]
    kind: Option<String>,
    name: String,
    description: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    #[serde(rename = "deletionProtection")]
    deletion_protection: Option<bool>,
    #[serde(default = "empty_object")]
    spec: Value,
}

/// The document as it is kept: the envelope with its kind, and nothing that was left out.
#[derive(Serialize)]
struct Written<'a> {
    #[serde(rename = "deletionProtection", skip_serializing_if = "Option::is_none")]
    deletion_protection: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<&'a BTreeMap<String, String>>,
    name: &'a Fqn,
    spec: &'a Value,
}

impl Resource {
    pub fn kind(&self) -> Kind {
        self.name.kind()
    }

    pub fn from_json(document: Value) -> Result<Resource, BadResource> {
        if !document.is_object() {
            return Err(BadResource::NotAnObject);
        }
        let envelope: Envelope = parse(document, "")?;
        let name: Fqn = envelope.name.parse()?;
        let kind = name.kind();
        if let Some(written) = envelope.kind
            && written != kind.to_string()
        {
            return Err(BadResource::WrongKind {
                name,
                written,
                named: kind,
            });
        }
        let written = Written {
            deletion_protection: envelope.deletion_protection,
            description: envelope.description.as_deref(),
            kind: kind.to_string(),
            labels: envelope.labels.as_ref(),
            name: &name,
            spec: &envelope.spec,
        };
        let written =
            serde_json::to_string(&written).expect("invariant: what was read as JSON can be written");
        let gaps = enforcement::gaps(kind, &envelope.spec);
        let spec = Spec::from_json(kind, envelope.spec)?;
        Ok(Resource {
            name,
            description: envelope.description.unwrap_or_default(),
            labels: envelope.labels.unwrap_or_default(),
            deletion_protection: envelope.deletion_protection.unwrap_or_default(),
            spec,
            gaps,
            written: written.into(),
        })
    }

    /// What was sent, with kind and spec when they were left out.
    pub fn to_json(&self) -> Value {
        serde_json::from_str(&self.written).expect("invariant: it was written as JSON")
    }

    /// As [`Resource::to_json`], the text of an object.
    pub fn written(&self) -> &str {
        &self.written
    }
}

impl Spec {
    fn from_json(kind: Kind, spec: Value) -> Result<Spec, BadResource> {
        Ok(match kind {
            Kind::Organization => Spec::Organization(parse(spec, "/spec")?),
            Kind::Cluster => Spec::Cluster(parse(spec, "/spec")?),
            Kind::User => Spec::User(parse(spec, "/spec")?),
            Kind::Team => Spec::Team(parse(spec, "/spec")?),
            Kind::ServiceAccount => Spec::ServiceAccount(parse(spec, "/spec")?),
            Kind::Role => Spec::Role(parse(spec, "/spec")?),
            Kind::Tenant => Spec::Tenant(parse(spec, "/spec")?),
            Kind::Workspace => Spec::Workspace(parse(spec, "/spec")?),
            Kind::TrafficGroup => Spec::TrafficGroup(parse(spec, "/spec")?),
            Kind::GatewayGroup => Spec::GatewayGroup(parse(spec, "/spec")?),
            Kind::SecurityGroup => Spec::SecurityGroup(parse(spec, "/spec")?),
            Kind::Gateway => Spec::Gateway(parse(spec, "/spec")?),
            Kind::ServiceRoute => Spec::ServiceRoute(parse(spec, "/spec")?),
            Kind::Binding => Spec::Binding(parse(spec, "/spec")?),
            Kind::Application => Spec::Application(parse(spec, "/spec")?),
            Kind::Api => Spec::Api(parse(spec, "/spec")?),
            Kind::WasmExtension => Spec::WasmExtension(parse(spec, "/spec")?),
            Kind::ExternalService => Spec::ExternalService(parse(spec, "/spec")?),
            Kind::NetworkReachability => Spec::NetworkReachability(parse(spec, "/spec")?),
            Kind::Quota => Spec::Quota(parse(spec, "/spec")?),
            Kind::TrafficSetting => Spec::TrafficSetting(parse(spec, "/spec")?),
            Kind::SecuritySetting => Spec::SecuritySetting(parse(spec, "/spec")?),
            Kind::ServiceSecuritySetting => Spec::ServiceSecuritySetting(parse(spec, "/spec")?),
            Kind::Invariant => Spec::Invariant(parse(spec, "/spec")?),
            Kind::ApprovalPolicy => Spec::ApprovalPolicy(parse(spec, "/spec")?),
            Kind::ReferenceGrant => Spec::ReferenceGrant(parse(spec, "/spec")?),
            Kind::ClaimOffer => Spec::ClaimOffer(parse(spec, "/spec")?),
        })
    }
}

impl Serialize for Resource {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_json().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Resource {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Resource::from_json(Value::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

fn empty_object() -> Value {
    Value::Object(serde_json::Map::new())
}

fn parse<T: serde::de::DeserializeOwned>(value: Value, base: &str) -> Result<T, BadResource> {
    serde_path_to_error::deserialize(value).map_err(|error| BadResource::Field {
        pointer: format!("{base}{}", pointer(error.path())),
        message: error.into_inner().to_string(),
    })
}

fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    path.iter()
        .map(|segment| match segment {
            Segment::Seq { index } => format!("/{index}"),
            Segment::Map { key } => format!("/{}", key.replace('~', "~0").replace('/', "~1")),
            Segment::Enum { variant } => format!("/{variant}"),
            Segment::Unknown => String::new(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_resource_survives_its_own_json() {
        for document in [
            json!({"kind": "Tenant", "name": "organizations/acme/tenants/pay", "spec": {}}),
            json!({"kind": "Gateway", "name": "organizations/acme/tenants/pay/workspaces/w/gatewaygroups/g/gateways/in",
                "spec": {"workload": "mesh/gateway", "type": "ingress", "port": 8080, "hosts": ["shop.example.com"],
                    "rules": [{"matches": [{"path": {"type": "PathPrefix", "value": "/"}, "headers": [{"name": "x-a", "value": "b"}]}],
                        "backendRefs": [{"namespace": "shop", "name": "web"}]}]}}),
            json!({"kind": "Team", "name": "organizations/acme/teams/web", "spec": {
                "members": ["organizations/acme/teams/on-call", "organizations/acme/users/ann"]}}),
            json!({"kind": "ServiceAccount", "name": "organizations/acme/tenants/pay/serviceaccounts/ci", "spec": {}}),
            json!({"kind": "Role", "name": "organizations/acme/roles/router", "spec": {"rules": [
                {"kinds": ["ServiceRoute"], "verbs": ["read", "update"]}, {"verbs": ["read-audit"], "scope": "below"}]}}),
            json!({"kind": "Binding", "name": "organizations/acme/bindings/b", "spec": {
                "role": "organizations/acme/roles/router", "subjects": [], "condition": "source == '10.0.0.1'"}}),
            json!({"kind": "Gateway", "name": "organizations/acme/tenants/pay/workspaces/w/gatewaygroups/g/gateways/ew",
                "spec": {"workload": "mesh/gateway", "type": "eastwest"}}),
        ] {
            let resource = Resource::from_json(document.clone()).unwrap();
            assert_eq!(resource.to_json(), document);
        }
    }

    #[test]
    fn bad_documents_say_where_and_what() {
        let tenant = "organizations/acme/tenants/pay";
        let route = format!("{tenant}/workspaces/w/trafficgroups/g/serviceroutes/r");
        for (document, pointer, message) in [
            (json!([]), "", "not an object"),
            (json!({"spec": {}}), "", "missing field `name`"),
            (
                json!({"name": tenant, "spec": {"color": 1}}),
                "/spec",
                "unknown field `color`",
            ),
            (json!({"name": tenant, "colour": 1}), "", "unknown field `colour`"),
            (
                json!({"kind": "Workspace", "name": tenant}),
                "",
                "kind is Workspace but",
            ),
            (
                json!({"name": route, "spec": {"service": "shop/reviews", "rules": [{"backendRefs": [], "timeouts": {"request": "5"}}]}}),
                "/spec/rules/0/timeouts/request",
                "is not a duration",
            ),
            (
                json!({"name": route, "spec": {"service": "reviews", "rules": []}}),
                "/spec/service",
                "use namespace/name",
            ),
            (
                json!({"name": format!("{tenant}/workspaces/w/gatewaygroups/g/gateways/x"),
                    "spec": {"workload": "a/b", "type": "ingress", "port": 80, "hosts": [], "rules": [], "hots": []}}),
                "/spec/hots",
                "unknown field `hots`",
            ),
        ] {
            let error = Resource::from_json(document.clone()).unwrap_err();
            assert!(error.to_string().contains(message), "{document}: {error}");
            if let BadResource::Field { pointer: found, .. } = &error {
                assert!(found.starts_with(pointer), "{document}: {found}");
            }
        }
    }
}
