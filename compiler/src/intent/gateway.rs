//! Gateways: what a gateway workload lets through.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::http::{HttpRule, ServiceBackend};
use crate::name::{Hostname, WorkloadId};

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
