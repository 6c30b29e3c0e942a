//! Hops in plain text stay on loopback, unless whoever runs the edge says that its network is to be trusted (ADR 0002).

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use tombolo_compiler::name::WorkloadId;
use tombolo_compiler::view::View;

/// Where hops in plain text may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plaintext {
    LoopbackOnly,
    Anywhere,
}

impl Plaintext {
    pub(crate) fn allows(self, addr: &SocketAddr) -> bool {
        self == Plaintext::Anywhere || addr.ip().is_loopback()
    }

    /// The view without the east-west listeners that are not allowed, and their gateways.
    pub(crate) fn hold(self, view: Arc<View>) -> (Arc<View>, BTreeSet<WorkloadId>) {
        let held: BTreeSet<WorkloadId> = view
            .gateways
            .iter()
            .filter(|(_, gateway)| {
                let listens = gateway
                    .east_west_port
                    .map(|port| SocketAddr::new(gateway.bind, port));
                listens.is_some_and(|addr| !self.allows(&addr))
            })
            .map(|(workload, _)| workload.clone())
            .collect();
        if held.is_empty() {
            return (view, held);
        }
        let mut view = Arc::unwrap_or_clone(view);
        for (_, gateway) in view
            .gateways
            .iter_mut()
            .filter(|(workload, _)| held.contains(*workload))
        {
            gateway.east_west_port = None;
        }
        (Arc::new(view), held)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_others_could_reach_is_held_back_unless_it_is_allowed() {
        let view: View = serde_json::from_value(json!({
            "services": {},
            "gateways": {
                "mesh/inside": {"bind": "127.0.0.1", "eastWestPort": 15443},
                "mesh/outside": {"bind": "192.0.2.1", "eastWestPort": 15443},
                "mesh/any": {"bind": "0.0.0.0", "eastWestPort": 15443},
                "mesh/ingress": {"bind": "192.0.2.1"},
            },
        }))
        .unwrap();
        let view = Arc::new(view);
        let (all, held) = Plaintext::Anywhere.hold(view.clone());
        assert_eq!((all, held), (view.clone(), BTreeSet::new()));

        let (some, held) = Plaintext::LoopbackOnly.hold(view);
        let names: Vec<String> = held.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["mesh/any", "mesh/outside"]);
        let ports: Vec<bool> = some
            .gateways
            .values()
            .map(|gateway| gateway.east_west_port.is_some())
            .collect();
        assert_eq!(ports, [false, false, true, false], "{:?}", some.gateways);
        assert_eq!(some.gateways.len(), 4, "they still let requests from outside in");
    }
}
