//! Which port of a service is meant.

use crate::finding::Code;
use crate::name::ServiceId;
use crate::report::{Protocol, ServicePort};
use crate::resolve::listed;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadPort {
    #[error("service {service} has no port {port}; its ports are: {known}")]
    NotFound {
        service: ServiceId,
        port: u16,
        known: String,
    },
    #[error("service {service} has several ports: {known}; say which one is meant")]
    Ambiguous { service: ServiceId, known: String },
    #[error("service {0} speaks TCP there, which is not routed yet; give it an HTTP port")]
    NotRouted(ServiceId),
}

impl BadPort {
    pub(crate) fn code(&self) -> Code {
        match self {
            BadPort::NotFound { .. } => Code::PortNotFound,
            BadPort::Ambiguous { .. } => Code::PortAmbiguous,
            BadPort::NotRouted(_) => Code::ProtocolNotRouted,
        }
    }
}

/// The port that is asked for, or the only one that is routed.
pub(crate) fn pick(service: &ServiceId, ports: &[ServicePort], wanted: Option<u16>) -> Result<u16, BadPort> {
    let known = |ports: &[&ServicePort]| listed(ports.iter().map(|port| port.port));
    let candidates: Vec<&ServicePort> = ports
        .iter()
        .filter(|port| wanted.is_none_or(|wanted| wanted == port.port))
        .collect();
    if let Some(port) = wanted
        && candidates.is_empty()
    {
        return Err(BadPort::NotFound {
            service: service.clone(),
            port,
            known: known(&ports.iter().collect::<Vec<_>>()),
        });
    }
    let routed: Vec<&ServicePort> = candidates
        .into_iter()
        .filter(|port| is_routed(port.protocol))
        .collect();
    match routed.as_slice() {
        [] => Err(BadPort::NotRouted(service.clone())),
        [only] => Ok(only.port),
        many => Err(BadPort::Ambiguous {
            service: service.clone(),
            known: known(many),
        }),
    }
}

pub(crate) fn is_routed(protocol: Protocol) -> bool {
    protocol != Protocol::Tcp
}
