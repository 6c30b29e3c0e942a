//! Claim offers: the half of a transfer that is its holder's.

use std::collections::BTreeSet;
use std::num::{NonZeroU8, NonZeroU16};

use schemars::JsonSchema;
use serde::Deserialize;

use super::{GatewayMode, Spec};
use crate::name::{Fqn, Hostname, WorkloadId};
use crate::selector::Selector;

/// Offers claims of the workspace that it stands below to another one. That one takes them, all at once, by claiming all of
/// them in a write of its own, which takes them from this workspace and ends the offer. Deleting it withdraws the offer, and
/// so does time.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClaimOffer {
    /// The workspace that may take them. That there is such a workspace is not checked, as this would tell what others have.
    pub to: Fqn,
    /// Selectors as they stand in this workspace.
    #[serde(default)]
    pub namespaces: BTreeSet<Selector>,
    /// As they stand in gateways of this workspace. A gateway that is left without a host is deleted.
    #[serde(default)]
    pub hosts: BTreeSet<Hostname>,
    /// Of gateways of this workspace, which are deleted.
    #[serde(default)]
    pub ports: BTreeSet<PortClaim>,
    /// For how long it may be taken, in days since it was written last.
    #[serde(default = "lifetime_days", rename = "lifetimeDays")]
    pub lifetime_days: NonZeroU8,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PortClaim {
    pub workload: WorkloadId,
    pub port: NonZeroU16,
}

/// A week: long enough for the other side to find the time, and not so long that nobody remembers the offer.
fn lifetime_days() -> NonZeroU8 {
    const { NonZeroU8::new(7).expect("invariant: it is not zero") }
}

impl ClaimOffer {
    /// What of the offer these resources do not claim: those of one workspace, itself and its gateways. A gateway claims no
    /// hosts that another workspace lends it.
    pub fn unclaimed<'a>(&self, by: impl IntoIterator<Item = &'a Spec>) -> ClaimOffer {
        let mut left = self.clone();
        for spec in by {
            match spec {
                Spec::Workspace(workspace) => {
                    left.namespaces
                        .retain(|offered| !workspace.namespaces.contains(offered));
                }
                Spec::Gateway(gateway) => {
                    let Some((port, hosts)) = gateway.mode.listener() else {
                        continue;
                    };
                    let is_listened_to = |offered: &PortClaim| {
                        offered.workload == gateway.workload && offered.port.get() == port
                    };
                    left.ports.retain(|offered| !is_listened_to(offered));
                    // The hosts of an egress are those of others.
                    if gateway.hosts_from.is_none() && !matches!(gateway.mode, GatewayMode::Egress(_)) {
                        left.hosts
                            .retain(|offered| hosts.is_none_or(|hosts| !hosts.contains(offered)));
                    }
                }
                _ => {}
            }
        }
        left
    }

    pub fn is_empty(&self) -> bool {
        self.namespaces.is_empty() && self.hosts.is_empty() && self.ports.is_empty()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::intent::Resource;

    const W: &str = "organizations/acme/tenants/a/workspaces/w";

    fn spec(name: &str, spec: &Value) -> Spec {
        let document = json!({"name": format!("{W}{name}"), "spec": spec});
        Resource::from_json(document).unwrap().spec
    }

    #[test]
    fn what_is_claimed_is_claimed_as_it_is_offered() {
        let offer: ClaimOffer = serde_json::from_value(json!({
            "to": W, "namespaces": ["east/shop"], "hosts": ["a.example.com"], "ports": [{"workload": "mesh/gw", "port": 80}],
        }))
        .unwrap();
        let workspace = |selector: &str| spec("", &json!({"namespaces": [selector]}));
        let gateway = |host: &str, more: &Value| {
            let mut ingress = json!({"workload": "mesh/gw", "type": "ingress", "port": 80, "hosts": [host],
                "rules": [{"backendRefs": [{"namespace": "shop", "name": "web"}]}]});
            let fields = more.as_object().unwrap().clone();
            ingress.as_object_mut().unwrap().extend(fields);
            spec("/gatewaygroups/g/gateways/in", &ingress)
        };
        for (claims, left) in [
            (vec![], 3),
            (vec![workspace("east/shop")], 2),
            (vec![workspace("*/shop")], 3),
            (vec![gateway("a.example.com", &json!({}))], 1),
            (vec![gateway("*.example.com", &json!({}))], 2),
            (vec![gateway("a.example.com", &json!({"hostsFrom": W}))], 2),
            (vec![gateway("a.example.com", &json!({"port": 81}))], 2),
            (
                vec![gateway("a.example.com", &json!({"workload": "mesh/other"}))],
                2,
            ),
            (
                vec![workspace("east/shop"), gateway("a.example.com", &json!({}))],
                0,
            ),
        ] {
            let found = offer.unclaimed(&claims);
            let count = found.namespaces.len() + found.hosts.len() + found.ports.len();
            assert_eq!(count, left, "{claims:?}");
            assert_eq!(found.is_empty(), left == 0);
        }
    }
}
