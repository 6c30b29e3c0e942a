//! What travels on central's two hops: intent from above, reports from below.

use std::sync::Arc;

use tombolo_compiler::intent;
use tombolo_compiler::name::{ClusterName, Fqn, ServiceId, WorkloadId};
use tombolo_compiler::report::{GatewayReport, ReportItem, ServiceReport};
use tombolo_proto::codec::decode;
use tombolo_proto::resource::Resource;
use tombolo_runtime::telemetry::chain;

use crate::mirror::Item;

/// One resource of management's feed.
#[derive(Debug)]
pub(crate) enum Wanted {
    Resource(Arc<intent::Resource>),
    /// This cluster has been heard at some time.
    Joined(ClusterName),
}

/// One resource of an edge's feed.
#[derive(Debug)]
pub(crate) enum Reported {
    Service(ServiceId, ServiceReport),
    Gateway(WorkloadId, GatewayReport),
    /// Central only passes it on, but does not pass on nonsense.
    Receipt,
}

/// Which resource of an edge's feed a name means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ReportName {
    Service(ServiceId),
    Gateway(WorkloadId),
    Receipt,
}

/// Which resource of management's feed a name means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum WantedName {
    Resource(Fqn),
    Joined(ClusterName),
}

impl WantedName {
    /// # Errors
    /// The reason, when it is no name of intent.
    pub(crate) fn parse(name: &str) -> Result<Self, String> {
        match name.strip_prefix("joined/") {
            Some(cluster) => cluster.parse().map(Self::Joined),
            None => name.parse().map(Self::Resource),
        }
        .map_err(|error| error.to_string())
    }
}

impl ReportName {
    /// # Errors
    /// The reason, when it is no name of a report.
    pub(crate) fn parse(name: &str) -> Result<Self, String> {
        let unknown =
            || format!("{name:?} is none of services/NAMESPACE/NAME, gateways/NAMESPACE/NAME, receipt");
        if name == "receipt" {
            return Ok(Self::Receipt);
        }
        let (collection, id) = name.split_once('/').ok_or_else(unknown)?;
        let id: Result<ServiceId, _> = id.parse();
        match collection {
            "services" => id.map(Self::Service).map_err(|error| error.to_string()),
            "gateways" => id.map(Self::Gateway).map_err(|error| error.to_string()),
            _ => Err(unknown()),
        }
    }
}

impl Item for Wanted {
    const WHOLE: bool = true;

    fn read(resource: &Resource) -> Result<Self, String> {
        match WantedName::parse(resource.name())? {
            WantedName::Joined(cluster) => Ok(Self::Joined(cluster)),
            WantedName::Resource(name) => {
                let wanted: intent::Resource = decode(resource).map_err(|error| chain(&error))?;
                if wanted.name != name {
                    return Err(format!("{name} holds the resource {}", wanted.name));
                }
                Ok(Self::Resource(Arc::new(wanted)))
            }
        }
    }
}

impl Item for Reported {
    const WHOLE: bool = false;

    fn read(resource: &Resource) -> Result<Self, String> {
        let name = ReportName::parse(resource.name())?;
        let item: ReportItem = decode(resource).map_err(|error| chain(&error))?;
        match (name, item) {
            (ReportName::Service(id), ReportItem::Service(service)) => Ok(Self::Service(id, service)),
            (ReportName::Gateway(id), ReportItem::Gateway(gateway)) => Ok(Self::Gateway(id, gateway)),
            (ReportName::Receipt, ReportItem::Receipt(_)) => Ok(Self::Receipt),
            _ => Err(format!("{} holds a report of another kind", resource.name())),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn resource(name: &str, body: &str) -> Resource {
        Resource::new(name, body.to_owned()).unwrap()
    }

    #[test]
    fn reports_are_read_by_name_and_kind() {
        for (name, body, expected) in [
            (
                "services/shop/web",
                r#"{"service":{"ports":[],"state":"up"}}"#,
                "Ok",
            ),
            (
                "gateways/mesh/gw",
                r#"{"gateway":{"eastWest":["127.0.1.1:15443"]}}"#,
                "Ok",
            ),
            ("receipt", r#"{"receipt":{"version":[1,2],"proxies":3}}"#, "Ok"),
            (
                "receipt",
                r#"{"service":{"ports":[],"state":"up"}}"#,
                "another kind",
            ),
            ("services/shop/web", "{", "cannot read the body"),
            (
                "services/shop/web",
                r#"{"service":{"ports":[],"state":"up","pods":1}}"#,
                "unknown field",
            ),
            ("services/shop", "{}", "use namespace/name"),
            ("services/SHOP/web", "{}", "not a valid name"),
            ("pods/shop/web", "{}", "none of services/"),
            ("nonsense", "{}", "none of services/"),
        ] {
            let found = format!("{:?}", Reported::read(&resource(name, body)));
            assert!(found.contains(expected), "{name} {body}: {found}");
        }
    }

    #[test]
    fn intent_is_read_by_name() {
        for (name, body, expected) in [
            ("joined/us-east", "true", "Joined"),
            ("joined/US", "true", "not a valid name"),
            (
                "organizations/acme/tenants/a",
                r#"{"kind":"Tenant","name":"organizations/acme/tenants/a","spec":{}}"#,
                "Resource",
            ),
            (
                "organizations/acme/tenants/a",
                r#"{"kind":"Tenant","name":"organizations/acme/tenants/b","spec":{}}"#,
                "holds the resource",
            ),
            ("organizations/acme/tenants/a", "[]", "cannot read the body"),
            ("tenants/a", "{}", "not a collection"),
        ] {
            let found = format!("{:?}", Wanted::read(&resource(name, body)));
            assert!(found.contains(expected), "{name} {body}: {found}");
        }
    }
}
