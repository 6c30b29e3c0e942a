//! External services: what lies outside of the mesh and is used from within.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::Deserialize;

use crate::name::{HostPort, Hostname};

/// Hosts outside of the mesh: for everybody when it stands at the organization, else for its workspace.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(try_from = "ExternalServiceDocument")]
pub struct ExternalService {
    pub hosts: BTreeSet<Hostname>,
    pub ports: BTreeMap<u16, ExternalProtocol>,
    /// Where it is; its hosts are resolved when empty.
    pub addresses: BTreeSet<HostPort>,
}

/// What is spoken on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ExternalProtocol {
    Http,
    Tls,
    Tcp,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ExternalServiceDocument {
    hosts: BTreeSet<Hostname>,
    ports: Vec<ExternalPort>,
    #[serde(default)]
    addresses: BTreeSet<HostPort>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ExternalPort {
    port: std::num::NonZeroU16,
    protocol: ExternalProtocol,
}

/// Why a document is not an external service.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadExternalService {
    #[error("an external service needs at least one {0}")]
    Missing(&'static str),
    #[error("port {0} is listed twice")]
    PortTwice(u16),
    #[error("a wildcard host cannot be resolved: give the addresses of {0}")]
    Unresolvable(Hostname),
}

impl TryFrom<ExternalServiceDocument> for ExternalService {
    type Error = BadExternalService;

    fn try_from(document: ExternalServiceDocument) -> Result<Self, BadExternalService> {
        if document.hosts.is_empty() {
            return Err(BadExternalService::Missing("host"));
        }
        if document.ports.is_empty() {
            return Err(BadExternalService::Missing("port"));
        }
        let mut ports = BTreeMap::new();
        for ExternalPort { port, protocol } in document.ports {
            if ports.insert(port.get(), protocol).is_some() {
                return Err(BadExternalService::PortTwice(port.get()));
            }
        }
        let wildcard = document.hosts.iter().find(|host| host.is_wildcard());
        if let Some(host) = wildcard.filter(|_| document.addresses.is_empty()) {
            return Err(BadExternalService::Unresolvable(host.clone()));
        }
        Ok(ExternalService {
            hosts: document.hosts,
            ports,
            addresses: document.addresses,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_cannot_be_reached_is_no_service() {
        let http = json!([{"port": 80, "protocol": "http"}]);
        for (document, expected) in [
            (json!({"hosts": ["api.example.com"], "ports": http}), Ok(())),
            (
                json!({"hosts": ["*.example.com"], "ports": http, "addresses": ["192.0.2.1:80"]}),
                Ok(()),
            ),
            (json!({"hosts": [], "ports": http}), Err("at least one host")),
            (
                json!({"hosts": ["api.example.com"], "ports": []}),
                Err("at least one port"),
            ),
            (
                json!({"hosts": ["a.example.com"], "ports": [{"port": 80, "protocol": "http"}, {"port": 80, "protocol": "tcp"}]}),
                Err("port 80 is listed twice"),
            ),
            (
                json!({"hosts": ["*.example.com"], "ports": http}),
                Err("give the addresses of *.example.com"),
            ),
        ] {
            match (
                serde_json::from_value::<ExternalService>(document.clone()),
                expected,
            ) {
                (Ok(_), Ok(())) => {}
                (Err(found), Err(expected)) => {
                    assert!(found.to_string().contains(expected), "{document}: {found}");
                }
                (found, expected) => panic!("{document}: {found:?}, expected {expected:?}"),
            }
        }
    }
}
