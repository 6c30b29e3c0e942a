//! Reference grants: what a workspace lets others refer to, though it is its own.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::name::{Fqn, Hostname, Kind, WorkloadId};

/// Lets others use what the workspace that it stands below owns. Nothing is used before they name it: a workload in their
/// `workload`, a host in their `hosts` together with this workspace in their `hostsFrom`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReferenceGrant {
    /// Who may; any of these.
    pub from: Vec<Borrower>,
    pub to: Lent,
}

/// Resources of a kind, at and below a node. That there is such a node is not checked, as this would tell what others have.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Borrower {
    pub kind: BorrowerKind,
    /// Such as a tenant.
    pub node: Fqn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum BorrowerKind {
    Gateway,
    #[serde(rename = "API")]
    Api,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Lent {
    /// Gateway workloads in namespaces of this workspace.
    #[serde(default)]
    pub workloads: BTreeSet<WorkloadId>,
    /// A wildcard lends all that it covers.
    #[serde(default)]
    pub hosts: BTreeSet<Hostname>,
}

impl ReferenceGrant {
    pub fn lends_workload(&self, workload: &WorkloadId, to: &Fqn) -> bool {
        self.is_for(to) && self.to.workloads.contains(workload)
    }

    pub fn lends_host(&self, host: &Hostname, to: &Fqn) -> bool {
        self.is_for(to) && self.to.hosts.iter().any(|lent| lent.covers(host))
    }

    fn is_for(&self, borrower: &Fqn) -> bool {
        let mut from = self.from.iter();
        from.any(|from| from.kind.kind() == borrower.kind() && borrower.is_within(&from.node))
    }
}

impl BorrowerKind {
    fn kind(self) -> Kind {
        match self {
            BorrowerKind::Gateway => Kind::Gateway,
            BorrowerKind::Api => Kind::Api,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_grant_is_for_one_kind_below_one_node_and_covers_no_more_than_it_says() {
        let grant: ReferenceGrant = serde_json::from_value(json!({
            "from": [
                {"kind": "Gateway", "node": "organizations/acme/tenants/books"},
                {"kind": "API", "node": "organizations/acme/tenants/press/applications/x"},
            ],
            "to": {"workloads": ["shop/door"], "hosts": ["a.example.com", "*.b.example.com"]},
        }))
        .unwrap();
        let gateway = |tenant: &str| -> Fqn {
            format!("organizations/acme/tenants/{tenant}/workspaces/w/gatewaygroups/g/gateways/in")
                .parse()
                .unwrap()
        };
        let api = |tenant: &str, application: &str| -> Fqn {
            format!("organizations/acme/tenants/{tenant}/applications/{application}/apis/v1")
                .parse()
                .unwrap()
        };
        for (borrower, expected) in [
            (gateway("books"), true),
            (gateway("bookshops"), false),
            (gateway("press"), false),
            (api("press", "x"), true),
            (api("press", "y"), false),
            (api("books", "x"), false),
        ] {
            let workload = "shop/door".parse().unwrap();
            assert_eq!(grant.lends_workload(&workload, &borrower), expected, "{borrower}");
        }
        for (host, expected) in [
            ("a.example.com", true),
            ("*.a.example.com", false),
            ("x.a.example.com", false),
            ("x.b.example.com", true),
            ("*.b.example.com", true),
            ("*.x.b.example.com", true),
            ("b.example.com", false),
            ("*.example.com", false),
        ] {
            let host = host.parse().unwrap();
            assert_eq!(grant.lends_host(&host, &gateway("books")), expected, "{host}");
        }
        assert!(!grant.lends_workload(&"shop/other".parse().unwrap(), &gateway("books")));
    }
}
