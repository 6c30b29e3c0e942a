//! Intent: the resources as users write them, one struct per kind. Their serde form is the REST form.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::http::{HttpRule, ServiceBackend, SubsetBackend};
use crate::name::{BadName, Fqn, Hostname, Kind, Label, ServiceId, WorkloadId};
use crate::selector::Selector;

/// All resources of one organization, by name.
pub type Intent = BTreeMap<Fqn, Arc<Resource>>;

/// What a user wrote: the envelope, and the part that its kind decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    pub name: Fqn,
    pub description: String,
    pub labels: BTreeMap<String, String>,
    pub spec: Spec,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Spec {
    Organization(Organization),
    Cluster(Cluster),
    User(User),
    Tenant(Tenant),
    Workspace(Workspace),
    TrafficGroup(Group),
    GatewayGroup(Group),
    SecurityGroup(Group),
    Gateway(Gateway),
    ServiceRoute(ServiceRoute),
    Binding(Binding),
}

/// The root; one mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Organization {
    /// For every workspace that has no failover of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failover: Vec<Failover>,
}

/// Where traffic of a region goes when neither its cluster nor its region can serve it. Without an entry it goes
/// to whatever can.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failover {
    pub from: Label,
    /// In order of preference.
    pub to: Vec<Label>,
}

/// A failure domain with an edge of its own. It appears here before it joins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    pub region: Label,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<Label>,
}

/// A person or a program that holds tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct User {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub display_name: String,
}

/// A business unit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tenant {}

/// Owns namespaces, exclusively; a service is one service over all the namespaces of its workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workspace {
    pub namespaces: Vec<Selector>,
    /// Replaces the organization's, whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failover: Vec<Failover>,
}

/// One concern (traffic, gateways or security) of some of a workspace's namespaces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// All of the workspace's namespaces when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<Selector>,
}

/// What a gateway workload does, in every cluster that has a workload of that name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "GatewayDocument", into = "GatewayDocument")]
pub struct Gateway {
    /// The platform's gateway (`namespace/name`): in a namespace of this workspace, or in one that nobody owns.
    pub workload: WorkloadId,
    pub mode: GatewayMode,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GatewayMode {
    /// Lets requests from outside the mesh in.
    Ingress(Ingress),
    /// Makes it the one door through which other clusters reach this workspace's services in its cluster. Without
    /// such a resource any east-west gateway of the cluster serves.
    EastWest,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ingress {
    pub port: u16,
    pub hosts: BTreeSet<Hostname>,
    pub rules: Vec<HttpRule<ServiceBackend>>,
}

/// The written form of a gateway, flat so that errors point at the field.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GatewayDocument {
    workload: WorkloadId,
    r#type: GatewayType,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hosts: Option<BTreeSet<Hostname>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rules: Option<Vec<HttpRule<ServiceBackend>>>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum GatewayType {
    Ingress,
    EastWest,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadGateway {
    #[error("an ingress gateway needs {0}")]
    Missing(&'static str),
    #[error("an eastwest gateway takes no port, hosts or rules: it carries every service of its workspace")]
    NotForEastWest,
}

impl TryFrom<GatewayDocument> for Gateway {
    type Error = BadGateway;

    fn try_from(document: GatewayDocument) -> Result<Self, BadGateway> {
        let mode = match (document.r#type, document.port, document.hosts, document.rules) {
            (GatewayType::EastWest, None, None, None) => GatewayMode::EastWest,
            (GatewayType::EastWest, ..) => return Err(BadGateway::NotForEastWest),
            (GatewayType::Ingress, port, hosts, rules) => GatewayMode::Ingress(Ingress {
                port: port
                    .filter(|port| *port != 0)
                    .ok_or(BadGateway::Missing("a port between 1 and 65535"))?,
                hosts: hosts
                    .filter(|hosts| !hosts.is_empty())
                    .ok_or(BadGateway::Missing("at least one host"))?,
                rules: rules
                    .filter(|rules| !rules.is_empty())
                    .ok_or(BadGateway::Missing("at least one rule"))?,
            }),
        };
        Ok(Gateway {
            workload: document.workload,
            mode,
        })
    }
}

impl From<Gateway> for GatewayDocument {
    fn from(gateway: Gateway) -> GatewayDocument {
        let (r#type, ingress) = match gateway.mode {
            GatewayMode::Ingress(ingress) => (GatewayType::Ingress, Some(ingress)),
            GatewayMode::EastWest => (GatewayType::EastWest, None),
        };
        let (port, hosts, rules) = match ingress {
            Some(ingress) => (Some(ingress.port), Some(ingress.hosts), Some(ingress.rules)),
            None => (None, None, None),
        };
        GatewayDocument {
            workload: gateway.workload,
            r#type,
            port,
            hosts,
            rules,
        }
    }
}

/// How requests for one service are spread over its subsets, for every client in the workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceRoute {
    pub service: ServiceId,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subsets: Vec<Subset>,
    pub rules: Vec<HttpRule<SubsetBackend>>,
}

/// The instances of a service that bear all of these labels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subset {
    pub name: Label,
    pub labels: BTreeMap<String, String>,
}

/// Gives users a role on the node that it stands below, and on all below that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Binding {
    pub role: Role,
    /// Users, by their full name.
    pub subjects: BTreeSet<Fqn>,
}

/// Each role can do what the ones before it can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Reader,
    Writer,
    /// May also change users, clusters and bindings.
    Admin,
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
    #[serde(default)]
    description: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default = "empty_object")]
    spec: Value,
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
        let spec = Spec::from_json(kind, envelope.spec)?;
        Ok(Resource {
            name,
            description: envelope.description,
            labels: envelope.labels,
            spec,
        })
    }

    /// The canonical form: the same resource gives the same text.
    pub fn to_json(&self) -> Value {
        let mut document = serde_json::json!({
            "kind": self.kind().to_string(),
            "name": self.name,
            "spec": serde_json::to_value(&self.spec).expect("invariant: specs have string keys and finite numbers"),
        });
        if !self.description.is_empty() {
            document["description"] = self.description.clone().into();
        }
        if !self.labels.is_empty() {
            document["labels"] = serde_json::json!(self.labels);
        }
        document
    }
}

impl Spec {
    fn from_json(kind: Kind, spec: Value) -> Result<Spec, BadResource> {
        Ok(match kind {
            Kind::Organization => Spec::Organization(parse(spec, "/spec")?),
            Kind::Cluster => Spec::Cluster(parse(spec, "/spec")?),
            Kind::User => Spec::User(parse(spec, "/spec")?),
            Kind::Tenant => Spec::Tenant(parse(spec, "/spec")?),
            Kind::Workspace => Spec::Workspace(parse(spec, "/spec")?),
            Kind::TrafficGroup => Spec::TrafficGroup(parse(spec, "/spec")?),
            Kind::GatewayGroup => Spec::GatewayGroup(parse(spec, "/spec")?),
            Kind::SecurityGroup => Spec::SecurityGroup(parse(spec, "/spec")?),
            Kind::Gateway => Spec::Gateway(parse(spec, "/spec")?),
            Kind::ServiceRoute => Spec::ServiceRoute(parse(spec, "/spec")?),
            Kind::Binding => Spec::Binding(parse(spec, "/spec")?),
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
