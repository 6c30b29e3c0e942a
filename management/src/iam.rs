//! Who may do what: one pure decision over bindings. A binding gives a role on the node that it stands below and on
//! all below that; each role can do what the ones before it can.

use std::collections::BTreeMap;
use std::fmt;

use tombolo_compiler::intent::{Intent, Role, Spec};
use tombolo_compiler::name::{Fqn, Kind};
use uuid::Uuid;

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principal {
    /// Management itself: it creates the organization and records what clusters do.
    System,
    User {
        name: Fqn,
        uid: Uuid,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    Read,
    Create,
    Update,
    Delete,
    /// Creating, listing and revoking the tokens of a user.
    Tokens,
    /// Checking the whole audit log.
    Verify,
    /// Declaring a restored database the truth.
    Adopt,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Allow {
        /// The binding that gives the role, or the principal where it may by itself.
        because: String,
    },
    Deny {
        /// A sentence that names who, what, where and which role is missing.
        because: String,
    },
}

/// The bindings of a tree, ready to be asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bindings {
    /// By subject and node: the greatest role, and the binding that gives it.
    grants: BTreeMap<Fqn, BTreeMap<Fqn, (Role, Fqn)>>,
}

impl Bindings {
    pub fn of(intent: &Intent) -> Bindings {
        let mut bindings = Bindings::default();
        for resource in intent.values() {
            if let Spec::Binding(binding) = &resource.spec
                && let Some(node) = resource.name.parent()
            {
                for subject in &binding.subjects {
                    bindings.grant(subject, &node, binding.role, &resource.name);
                }
            }
        }
        bindings
    }

    /// The nodes on which the user was given a role, itself or through an ancestor: all that it may read stands
    /// at or below one of these.
    pub fn nodes_of(&self, user: &Fqn) -> impl Iterator<Item = &Fqn> {
        self.grants.get(user).into_iter().flat_map(BTreeMap::keys)
    }

    /// Whether anybody has that role on the node itself.
    pub fn has_holder(&self, role: Role, node: &Fqn) -> bool {
        let holds =
            |nodes: &BTreeMap<Fqn, (Role, Fqn)>| nodes.get(node).is_some_and(|(given, _)| *given >= role);
        self.grants.values().any(holds)
    }

    fn grant(&mut self, subject: &Fqn, node: &Fqn, role: Role, binding: &Fqn) {
        let nodes = self.grants.entry(subject.clone()).or_default();
        let given = nodes
            .entry(node.clone())
            .or_insert_with(|| (role, binding.clone()));
        if given.0 < role {
            *given = (role, binding.clone());
        }
    }

    fn role_on(&self, user: &Fqn, node: &Fqn, wanted: Role) -> Option<&Fqn> {
        let nodes = self.grants.get(user)?;
        node.lineage().find_map(|node| {
            let (role, binding) = nodes.get(&node)?;
            (*role >= wanted).then_some(binding)
        })
    }
}

/// May `principal` do that to `node`? A node that does not exist is decided like one that does, so that a denial
/// tells nothing.
pub fn decide(principal: &Principal, action: Action, node: &Fqn, bindings: &Bindings) -> Decision {
    let user = match principal {
        Principal::System => {
            return Decision::Allow {
                because: "it is management itself".to_owned(),
            };
        }
        Principal::User { name, .. } => name,
    };
    if action == Action::Tokens && user == node {
        return Decision::Allow {
            because: format!("{user} keeps its own tokens"),
        };
    }
    let role = required_role(action, node.kind());
    match bindings.role_on(user, node, role) {
        Some(binding) => Decision::Allow {
            because: binding.to_string(),
        },
        None => Decision::Deny {
            because: format!(
                "{user} needs the role {} to {action} {node}; ask an administrator for a binding on it or on a node above it",
                role_name(role)
            ),
        },
    }
}

/// Whether the principal holds that role, or a greater one, on the node.
pub(crate) fn holds(principal: &Principal, role: Role, node: &Fqn, bindings: &Bindings) -> bool {
    match principal {
        Principal::System => true,
        Principal::User { name, .. } => bindings.role_on(name, node, role).is_some(),
    }
}

/// The one table of rights.
pub fn required_role(action: Action, kind: Kind) -> Role {
    match (action, kind) {
        (Action::Read, _) => Role::Reader,
        (Action::Tokens | Action::Verify | Action::Adopt, _) => Role::Admin,
        (
            Action::Create | Action::Update | Action::Delete,
            Kind::Workspace
            | Kind::TrafficGroup
            | Kind::GatewayGroup
            | Kind::SecurityGroup
            | Kind::Gateway
            | Kind::ServiceRoute
            | Kind::Application
            | Kind::Api
            | Kind::ExternalService
            | Kind::TrafficSetting
            | Kind::SecuritySetting
            | Kind::ServiceSecuritySetting,
        ) => Role::Writer,
        (
            Action::Create | Action::Update | Action::Delete,
            Kind::Organization
            | Kind::Cluster
            | Kind::User
            | Kind::Tenant
            | Kind::Binding
            | Kind::WasmExtension
            | Kind::NetworkReachability
            | Kind::Quota
            | Kind::Invariant
            | Kind::ApprovalPolicy,
        ) => Role::Admin,
    }
}

impl Decision {
    pub fn is_allowed(&self) -> bool {
        matches!(self, Decision::Allow { .. })
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Principal::System => f.write_str("system"),
            Principal::User { name, .. } => fmt::Display::fmt(name, f),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Action::Read => "read",
            Action::Create => "create",
            Action::Update => "update",
            Action::Delete => "delete",
            Action::Tokens => "manage the tokens of",
            Action::Verify => "verify the audit log of",
            Action::Adopt => "adopt the database of",
        })
    }
}

pub(crate) fn role_name(role: Role) -> &'static str {
    match role {
        Role::Reader => "reader",
        Role::Writer => "writer",
        Role::Admin => "admin",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;
    use tombolo_compiler::intent::Resource;

    use super::*;

    const ACME: &str = "organizations/acme";

    fn user(leaf: &str) -> Principal {
        Principal::User {
            name: format!("{ACME}/users/{leaf}").parse().unwrap(),
            uid: Uuid::nil(),
        }
    }

    fn bindings(all: &[(&str, &str, &str)]) -> Bindings {
        let mut intent = Intent::new();
        for (number, (node, role, subject)) in all.iter().enumerate() {
            let resource = Resource::from_json(json!({
                "name": format!("{node}/bindings/b{number}"),
                "spec": {"role": role, "subjects": [format!("{ACME}/users/{subject}")]},
            }))
            .unwrap();
            intent.insert(resource.name.clone(), Arc::new(resource));
        }
        Bindings::of(&intent)
    }

    #[test]
    fn roles_are_inherited_downwards_and_nowhere_else() {
        let pay = "organizations/acme/tenants/pay";
        let shop = "organizations/acme/tenants/pay/workspaces/shop";
        let route = "organizations/acme/tenants/pay/workspaces/shop/trafficgroups/g/serviceroutes/r";
        let given = bindings(&[
            (ACME, "admin", "root"),
            (pay, "writer", "ann"),
            (shop, "reader", "bob"),
            (shop, "admin", "eve"),
        ]);
        use Action::{Create, Delete, Read, Tokens, Update, Verify};
        for (who, action, node, allowed) in [
            ("root", Update, ACME, true),
            ("root", Create, "organizations/acme/clusters/us", true),
            ("root", Delete, route, true),
            ("root", Verify, ACME, true),
            ("root", Tokens, "organizations/acme/users/ann", true),
            ("root", Read, "organizations/other", false),
            ("root", Create, "organizations/other/tenants/x", false),
            ("ann", Read, route, true),
            ("ann", Create, route, true),
            ("ann", Create, shop, true),
            ("ann", Update, pay, false),
            ("ann", Read, ACME, false),
            ("ann", Read, "organizations/acme/tenants/payments", false),
            ("ann", Create, "organizations/acme/tenants/pay/bindings/me", false),
            (
                "ann",
                Create,
                "organizations/acme/tenants/pay/workspaces/shop/bindings/me",
                false,
            ),
            ("ann", Tokens, "organizations/acme/users/ann", true),
            ("ann", Tokens, "organizations/acme/users/bob", false),
            ("ann", Read, "organizations/acme/users/ann", false),
            ("ann", Verify, ACME, false),
            ("bob", Read, route, true),
            ("bob", Update, route, false),
            ("bob", Read, pay, false),
            (
                "eve",
                Create,
                "organizations/acme/tenants/pay/workspaces/shop/bindings/me",
                true,
            ),
            ("eve", Create, "organizations/acme/tenants/pay/bindings/me", false),
            ("nobody", Read, ACME, false),
        ] {
            let decision = decide(&user(who), action, &node.parse().unwrap(), &given);
            assert_eq!(
                decision.is_allowed(),
                allowed,
                "{who} {action} {node}: {decision:?}"
            );
        }
    }

    #[test]
    fn the_greatest_role_on_a_node_counts() {
        let given = bindings(&[
            (ACME, "reader", "ann"),
            (ACME, "admin", "ann"),
            (ACME, "writer", "ann"),
        ]);
        let decision = decide(&user("ann"), Action::Update, &ACME.parse().unwrap(), &given);
        assert_eq!(
            decision,
            Decision::Allow {
                because: format!("{ACME}/bindings/b1")
            }
        );
        assert!(given.has_holder(Role::Admin, &ACME.parse().unwrap()));
    }

    #[test]
    fn a_denial_names_who_what_where_and_the_role() {
        let node = "organizations/acme/tenants/pay/workspaces/shop".parse().unwrap();
        assert_eq!(
            decide(&user("ann"), Action::Delete, &node, &Bindings::default()),
            Decision::Deny {
                because: "organizations/acme/users/ann needs the role writer to delete \
                          organizations/acme/tenants/pay/workspaces/shop; ask an administrator for a binding on it or on a node above it"
                    .to_owned()
            }
        );
    }

    #[test]
    fn the_table_of_rights() {
        use Action::{Create, Delete, Read, Tokens, Update, Verify};
        for kind in Kind::ALL {
            assert_eq!(required_role(Read, kind), Role::Reader, "{kind}");
            assert_eq!(required_role(Tokens, kind), Role::Admin, "{kind}");
            assert_eq!(required_role(Verify, kind), Role::Admin, "{kind}");
            let writes = [Create, Update, Delete].map(|action| required_role(action, kind));
            let admin = matches!(
                kind,
                Kind::Organization
                    | Kind::Cluster
                    | Kind::User
                    | Kind::Tenant
                    | Kind::Binding
                    | Kind::WasmExtension
                    | Kind::NetworkReachability
                    | Kind::Quota
                    | Kind::Invariant
                    | Kind::ApprovalPolicy
            );
            let expected = if admin { Role::Admin } else { Role::Writer };
            assert_eq!(writes, [expected; 3], "{kind}");
        }
    }
}
