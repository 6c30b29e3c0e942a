//! The view: what one edge sees in its own cluster. It never leaves it; `report` is what does.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::http::{Path, Span};
use crate::name::{HostPort, Label, ServiceId, WorkloadId};
use crate::report::{ClusterReport, GatewayReport, Protocol, ServicePort, ServiceReport, State};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct View {
    #[serde(default)]
    pub services: BTreeMap<ServiceId, LocalService>,
    #[serde(default)]
    pub gateways: BTreeMap<WorkloadId, LocalGateway>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalService {
    pub ports: Vec<LocalPort>,
    #[serde(default)]
    pub instances: Vec<Instance>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalPort {
    pub name: Label,
    pub port: u16,
    #[serde(default)]
    pub protocol: Protocol,
    #[serde(default)]
    pub health: HealthCheck,
}

/// How proxies find out whether an instance works.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthCheck {
    /// `GET /`: any answer below 500 counts, so that an application needs no endpoint of its own for it. A TCP port is
    /// only connected to.
    #[default]
    Auto,
    /// `GET path` must answer below 500.
    Http { path: Path },
    /// A connection is enough.
    Tcp,
}

/// One process, pod or VM that serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Instance {
    pub address: IpAddr,
    /// Port name → port, where it differs from the service's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ports: BTreeMap<Label, u16>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// What the platform says of it; proxies check for themselves.
    #[serde(default)]
    pub state: State,
}

/// A gateway workload: its proxies name it in their node metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct LocalGateway {
    /// The address on which its proxies listen.
    pub bind: IpAddr,
    /// Where its proxies listen for other clusters; without it the gateway is no east-west gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub east_west_port: Option<u16>,
    /// Where other clusters reach that, when it is not the address on which the proxies listen.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub east_west_addresses: Vec<HostPort>,
    #[serde(default)]
    pub state: State,
}

/// How far apart two checks of the same host are. Two checks that time out and the wait before the first make at
/// most 1.2 s until a frozen host is left, within the two seconds that an act of the demo grants.
pub const HEALTH_INTERVAL: Span = Span::from_ms(400);
pub const HEALTH_TIMEOUT: Span = Span::from_ms(400);
pub const HEALTH_UNHEALTHY_THRESHOLD: u32 = 2;
/// Across an ocean and back takes 300 ms; a host that has not answered after three such trips is not there.
pub const CONNECT_TIMEOUT: Span = Span::from_ms(1000);

impl View {
    /// What this cluster tells the others.
    pub fn report(&self) -> ClusterReport {
        ClusterReport {
            services: self
                .services
                .iter()
                .map(|(id, service)| (id.clone(), service.report()))
                .collect(),
            gateways: self
                .gateways
                .iter()
                .map(|(id, gateway)| (id.clone(), gateway.report()))
                .collect(),
        }
    }
}

impl LocalService {
    pub(crate) fn service_ports(&self) -> Vec<ServicePort> {
        let ports = self.ports.iter().map(|port| ServicePort {
            name: port.name.clone(),
            port: port.port,
            protocol: port.protocol,
        });
        ports.collect()
    }

    fn report(&self) -> ServiceReport {
        let up = self.instances.iter().any(|instance| instance.state == State::Up);
        ServiceReport {
            ports: self.service_ports(),
            label_sets: self
                .instances
                .iter()
                .map(|instance| instance.labels.clone())
                .collect(),
            state: if up { State::Up } else { State::Down },
        }
    }
}

impl LocalGateway {
    fn report(&self) -> GatewayReport {
        let bound = self.east_west_port.map(|port| HostPort::new(self.bind, port));
        let east_west = match bound {
            Some(bound) if self.east_west_addresses.is_empty() => [bound].into(),
            Some(_) => self.east_west_addresses.iter().copied().collect(),
            None => Default::default(),
        };
        GatewayReport {
            east_west,
            state: self.state,
        }
    }
}
