//! What each role allows: kinds × verbs, on the node that it is bound on and below.

use tombolo_compiler::intent::{Action, BuiltinRole, Role, Scope};
use tombolo_compiler::name::Kind;

const KINDS: usize = Kind::ALL.len();

/// A set of verbs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Actions(u16);

/// What somebody may do, seen from one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rights {
    /// To the node itself, if it is of that kind.
    pub(crate) node: [Actions; KINDS],
    /// To what stands below it.
    pub(crate) below: [Actions; KINDS],
}

/// Which team a kind belongs to. A new kind must say it here, and with that which roles may change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Concern {
    /// The organization's outline: what platform teams keep.
    Outline,
    Workspace,
    Traffic,
    Gateway,
    Security,
    /// Who there is.
    Identity,
    /// Who may do what, and what nobody may. Written with set-policy on the node above, and with nothing else.
    Policy,
}

const READ: &[Action] = &[Action::Read];
const AUDIT: &[Action] = &[Action::Read, Action::ReadAudit];
const WRITE: &[Action] = &[Action::Read, Action::Create, Action::Update, Action::Delete];
const SECURE: &[Action] = &[
    Action::Read,
    Action::Create,
    Action::Update,
    Action::Delete,
    Action::ReadAudit,
];

impl Actions {
    pub(crate) const NONE: Actions = Actions(0);

    pub(crate) fn of(actions: &[Action]) -> Actions {
        let bits = actions.iter().map(|action| Actions::bit(*action));
        Actions(bits.fold(0, |all, bit| all | bit))
    }

    pub(crate) fn holds(self, action: Action) -> bool {
        self.0 & Actions::bit(action) != 0
    }

    pub(crate) fn with(self, other: Actions) -> Actions {
        Actions(self.0 | other.0)
    }

    pub(crate) fn without(self, other: Actions) -> Actions {
        Actions(self.0 & !other.0)
    }

    pub(crate) fn is_empty(self) -> bool {
        self == Actions::NONE
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = Action> {
        Action::ALL.into_iter().filter(move |action| self.holds(*action))
    }

    fn bit(action: Action) -> u16 {
        1 << action as u16
    }
}

impl Rights {
    pub(crate) const NONE: Rights = Rights {
        node: [Actions::NONE; KINDS],
        below: [Actions::NONE; KINDS],
    };

    pub(crate) fn builtin(role: BuiltinRole) -> Rights {
        let each = Kind::ALL.map(|kind| Actions::of(actions(role, concern(kind))));
        Rights {
            node: each,
            below: each,
        }
    }

    pub(crate) fn own(role: &Role) -> Rights {
        let mut rights = Rights::NONE;
        for rule in &role.rules {
            let verbs = rule
                .verbs
                .iter()
                .fold(Actions::NONE, |all, verb| all.with(Actions::of(&[*verb])));
            let concerned = |kind: &Kind| rule.kinds.is_empty() || rule.kinds.contains(kind);
            for kind in Kind::ALL.into_iter().filter(concerned) {
                let at = kind as usize;
                if rule.scope != Scope::Below {
                    rights.node[at] = rights.node[at].with(verbs);
                }
                if rule.scope != Scope::Node {
                    rights.below[at] = rights.below[at].with(verbs);
                }
            }
        }
        rights
    }

    /// Of an owner: to see, to change and to give away what it has made, and to say who may do what there.
    pub(crate) fn owner() -> Rights {
        let node = Actions::of(&[Action::Read, Action::Update, Action::Delete, Action::SetPolicy]);
        let below = Actions::of(&[Action::Read, Action::SetPolicy]);
        Rights {
            node: [node; KINDS],
            below: [below; KINDS],
        }
    }

    /// Whether any of it is more than to look.
    pub(crate) fn change(&self) -> bool {
        let look = Actions::of(AUDIT);
        let mut all = self.node.iter().chain(&self.below);
        all.any(|actions| !actions.without(look).is_empty())
    }

    pub(crate) fn allow(&self, relation: Relation, kind: Kind, action: Action) -> bool {
        let table = match relation {
            Relation::Node => &self.node,
            Relation::Below => &self.below,
        };
        table[kind as usize].holds(action)
    }
}

/// Where what is asked about stands, seen from the node that a role is bound on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Relation {
    Node,
    Below,
}

/// The least role that comes with Tombolo and allows it.
pub(crate) fn least(action: Action, kind: Kind) -> BuiltinRole {
    let mut roles = BuiltinRole::ALL.into_iter();
    roles
        .find(|role| actions(*role, concern(kind)).contains(&action))
        .unwrap_or(BuiltinRole::Admin)
}

/// The one table of rights.
fn actions(role: BuiltinRole, concern: Concern) -> &'static [Action] {
    use Concern::{Gateway, Identity, Outline, Policy, Security, Traffic, Workspace};
    match (role, concern) {
        (BuiltinRole::Admin, _) => &Action::ALL,
        (BuiltinRole::Editor, Outline | Workspace | Traffic | Gateway | Security) => WRITE,
        (BuiltinRole::Writer, Workspace | Traffic | Gateway | Security) => WRITE,
        (BuiltinRole::TrafficAdmin, Traffic) => WRITE,
        (BuiltinRole::GatewayAdmin, Gateway) => WRITE,
        (BuiltinRole::SecurityAdmin, Security) => SECURE,
        (BuiltinRole::SecurityAdmin | BuiltinRole::Auditor, _) => AUDIT,
        (BuiltinRole::Editor, Identity | Policy)
        | (BuiltinRole::Writer, Outline | Identity | Policy)
        | (BuiltinRole::TrafficAdmin | BuiltinRole::GatewayAdmin | BuiltinRole::Reader, _) => READ,
    }
}

fn concern(kind: Kind) -> Concern {
    match kind {
        Kind::Organization
        | Kind::Cluster
        | Kind::Tenant
        | Kind::WasmExtension
        | Kind::NetworkReachability
        | Kind::Quota => Concern::Outline,
        Kind::Workspace | Kind::ClaimOffer => Concern::Workspace,
        Kind::TrafficGroup | Kind::ServiceRoute | Kind::ExternalService | Kind::TrafficSetting => {
            Concern::Traffic
        }
        Kind::GatewayGroup | Kind::Gateway | Kind::Application | Kind::Api | Kind::ReferenceGrant => {
            Concern::Gateway
        }
        Kind::SecurityGroup | Kind::SecuritySetting | Kind::ServiceSecuritySetting => Concern::Security,
        Kind::User | Kind::Team | Kind::ServiceAccount => Concern::Identity,
        Kind::Binding | Kind::Role | Kind::ApprovalPolicy | Kind::Invariant => Concern::Policy,
    }
}

/// Whether it is written with set-policy on the node above.
pub(crate) fn is_policy(kind: Kind) -> bool {
    concern(kind) == Concern::Policy
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_role_of_ones_own_is_kinds_by_verbs_by_scope() {
        let role: Role = serde_json::from_value(json!({"rules": [
            {"kinds": ["ServiceRoute"], "verbs": ["update"], "scope": "below"},
            {"kinds": ["TrafficGroup"], "verbs": ["set-policy"], "scope": "node"},
            {"verbs": ["read"]},
        ]}))
        .unwrap();
        let rights = Rights::own(&role);
        for (relation, kind, action, allowed) in [
            (Relation::Below, Kind::ServiceRoute, Action::Update, true),
            (Relation::Node, Kind::ServiceRoute, Action::Update, false),
            (Relation::Below, Kind::ServiceRoute, Action::Delete, false),
            (Relation::Node, Kind::TrafficGroup, Action::SetPolicy, true),
            (Relation::Below, Kind::TrafficGroup, Action::SetPolicy, false),
            (Relation::Node, Kind::Tenant, Action::Read, true),
            (Relation::Below, Kind::User, Action::Read, true),
        ] {
            assert_eq!(
                rights.allow(relation, kind, action),
                allowed,
                "{relation:?} {kind} {action}"
            );
        }
    }

    #[test]
    fn each_concern_has_an_administrator_who_cannot_touch_the_others() {
        for (kind, role) in [
            (Kind::ServiceRoute, BuiltinRole::TrafficAdmin),
            (Kind::Gateway, BuiltinRole::GatewayAdmin),
            (Kind::SecurityGroup, BuiltinRole::SecurityAdmin),
            (Kind::Workspace, BuiltinRole::Writer),
            (Kind::Tenant, BuiltinRole::Editor),
            (Kind::User, BuiltinRole::Admin),
            (Kind::Binding, BuiltinRole::Admin),
        ] {
            assert_eq!(least(Action::Update, kind), role, "{kind}");
        }
        assert_eq!(least(Action::ReadAudit, Kind::Tenant), BuiltinRole::Auditor);
        assert_eq!(least(Action::SetPolicy, Kind::Workspace), BuiltinRole::Admin);
    }
}
