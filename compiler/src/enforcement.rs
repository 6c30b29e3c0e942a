//! What is enforced today, and by which plane: one table over kinds and fields. What is accepted and does nothing yet
//! is said on the resource, and what would only look like protection is refused unless its author insists.

use serde_json::Value;

use crate::name::Kind;

/// Who makes it so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Plane {
    Management,
    Central,
    Edge,
    Proxy,
}

/// What goes wrong when it is taken for enforced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Concern {
    /// Somebody gets through who was meant to be kept out.
    Security,
    /// Something does not happen.
    Function,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Enforcement {
    By(Plane),
    /// By none, with the reason.
    Nowhere(Concern, &'static str),
}

/// One row: a field of a kind, with all below it that has no row of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    pub kind: Kind,
    /// Below the spec, by `/`; `*` stands for every item of a list or map, `field=value` for one value of a field, and
    /// `field!=value` before others for where that is not its value. Empty for the whole kind.
    pub field: &'static str,
    pub enforcement: Enforcement,
}

/// A field that a resource has and no plane enforces.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gap {
    /// A path such as `spec.jwt`.
    pub field: String,
    pub concern: Concern,
    pub reason: &'static str,
}

/// The table.
pub const TABLE: &[Row] = &[
    by(Kind::Organization, "failover", Plane::Proxy),
    by(Kind::Organization, "confirmWithdrawalPercent", Plane::Management),
    by(Kind::Cluster, "region", Plane::Proxy),
    by(Kind::Cluster, "zone", Plane::Proxy),
    nowhere(Kind::Cluster, "network", Concern::Function, NETWORKS),
    nowhere(
        Kind::Cluster,
        "trustDomain",
        Concern::Function,
        "workloads have no identities of their own yet",
    ),
    by(Kind::User, "displayName", Plane::Management),
    by(Kind::User, "groups", Plane::Management),
    by(Kind::Team, "displayName", Plane::Management),
    by(Kind::Team, "members", Plane::Management),
    by(Kind::Team, "groups", Plane::Management),
    by(Kind::ServiceAccount, "displayName", Plane::Management),
    by(Kind::Role, "rules", Plane::Management),
    by(Kind::Workspace, "namespaces", Plane::Central),
    by(Kind::Workspace, "failover", Plane::Proxy),
    by(Kind::TrafficGroup, "namespaces", Plane::Central),
    by(Kind::GatewayGroup, "namespaces", Plane::Central),
    by(Kind::SecurityGroup, "namespaces", Plane::Central),
    by(Kind::Gateway, "workload", Plane::Edge),
    by(Kind::Gateway, "hostsFrom", Plane::Central),
    by(Kind::Gateway, "type=ingress", Plane::Proxy),
    by(Kind::Gateway, "type=eastwest", Plane::Proxy),
    nowhere(
        Kind::Gateway,
        "type=egress",
        Concern::Function,
        "no gateway lets requests out of the mesh yet",
    ),
    nowhere(Kind::Gateway, "type=transit", Concern::Function, NETWORKS),
    by(Kind::Gateway, "protocol=http", Plane::Proxy),
    nowhere(Kind::Gateway, "protocol=tls", Concern::Function, UNOPENED),
    nowhere(Kind::Gateway, "protocol=tcp", Concern::Function, UNOPENED),
    nowhere(Kind::Gateway, "backendRefs", Concern::Function, UNOPENED),
    by(Kind::Gateway, "port", Plane::Proxy),
    by(Kind::Gateway, "hosts", Plane::Proxy),
    nowhere(
        Kind::Gateway,
        "rules/*/sessionPersistence/idleTimeout",
        Concern::Function,
        IDLE_SESSIONS,
    ),
    by(Kind::Gateway, "rules", Plane::Proxy),
    by(Kind::Gateway, "jwt", Plane::Proxy),
    by(Kind::Gateway, "authorization", Plane::Proxy),
    by(Kind::Gateway, "cors", Plane::Proxy),
    // Whoever guesses passwords or floods a service is who a limit keeps out.
    nowhere(Kind::Gateway, "rateLimit/by=client", Concern::Security, BY_CLIENT),
    nowhere(
        Kind::Gateway,
        "rateLimit/over!=Gateway/by/header",
        Concern::Security,
        BY_HEADER,
    ),
    by(Kind::Gateway, "rateLimit", Plane::Proxy),
    by(Kind::Gateway, "redirect", Plane::Proxy),
    by(Kind::ServiceRoute, "service", Plane::Proxy),
    by(Kind::ServiceRoute, "subsets", Plane::Proxy),
    nowhere(
        Kind::ServiceRoute,
        "rules/*/sessionPersistence/idleTimeout",
        Concern::Function,
        IDLE_SESSIONS,
    ),
    by(Kind::ServiceRoute, "rules", Plane::Proxy),
    by(Kind::Binding, "role", Plane::Management),
    by(Kind::Binding, "subjects", Plane::Management),
    by(Kind::Binding, "condition", Plane::Management),
    by(Kind::Application, "workspace", Plane::Central),
    by(Kind::Api, "workload", Plane::Edge),
    by(Kind::Api, "hostsFrom", Plane::Central),
    by(Kind::Api, "port", Plane::Proxy),
    by(Kind::Api, "backendRefs", Plane::Proxy),
    by(Kind::Api, "openapi", Plane::Proxy),
    nowhere(
        Kind::Api,
        "validateRequests",
        Concern::Security,
        "no gateway compares requests with the document yet, so others would pass",
    ),
    nowhere(
        Kind::WasmExtension,
        "",
        Concern::Function,
        "no proxy runs modules yet",
    ),
    nowhere(
        Kind::ExternalService,
        "",
        Concern::Function,
        "no proxy knows hosts outside of the mesh yet",
    ),
    nowhere(Kind::NetworkReachability, "", Concern::Function, NETWORKS),
    nowhere(
        Kind::TrafficSetting,
        "defaults/reachability",
        Concern::Security,
        REACH,
    ),
    nowhere(
        Kind::TrafficSetting,
        "mandates/reachability",
        Concern::Security,
        REACH,
    ),
    nowhere(Kind::TrafficSetting, "defaults/egress", Concern::Security, EGRESS),
    nowhere(Kind::TrafficSetting, "mandates/egress", Concern::Security, EGRESS),
    by(Kind::TrafficSetting, "defaults/failover", Plane::Proxy),
    by(Kind::TrafficSetting, "mandates/failover", Plane::Proxy),
    by(Kind::TrafficSetting, "defaults/loadBalancing", Plane::Proxy),
    nowhere(
        Kind::TrafficSetting,
        "mandates/loadBalancing",
        Concern::Function,
        OF_SESSIONS,
    ),
    nowhere(
        Kind::TrafficSetting,
        "defaults/resilience/timeout",
        Concern::Function,
        OF_ROUTES,
    ),
    nowhere(
        Kind::TrafficSetting,
        "defaults/resilience/retry",
        Concern::Function,
        OF_ROUTES,
    ),
    by(Kind::TrafficSetting, "defaults/resilience", Plane::Proxy),
    nowhere(
        Kind::TrafficSetting,
        "mandates/resilience/timeout",
        Concern::Function,
        OF_ROUTES,
    ),
    nowhere(
        Kind::TrafficSetting,
        "mandates/resilience/retry",
        Concern::Function,
        OF_ROUTES,
    ),
    by(Kind::TrafficSetting, "mandates/resilience", Plane::Proxy),
    nowhere(Kind::SecuritySetting, "defaults", Concern::Security, UNGUARDED),
    nowhere(Kind::SecuritySetting, "mandates", Concern::Security, UNGUARDED),
    by(Kind::ServiceSecuritySetting, "service", Plane::Central),
    nowhere(
        Kind::ServiceSecuritySetting,
        "settings",
        Concern::Security,
        UNGUARDED,
    ),
    by(Kind::Quota, "node", Plane::Management),
    by(Kind::Quota, "limits", Plane::Management),
    by(Kind::ApprovalPolicy, "kinds", Plane::Management),
    by(Kind::ApprovalPolicy, "approver", Plane::Management),
    by(Kind::ApprovalPolicy, "expiresAfterHours", Plane::Management),
    by(Kind::ReferenceGrant, "from", Plane::Central),
    by(Kind::ReferenceGrant, "to", Plane::Central),
    by(Kind::ClaimOffer, "to", Plane::Management),
    by(Kind::ClaimOffer, "namespaces", Plane::Management),
    by(Kind::ClaimOffer, "hosts", Plane::Management),
    by(Kind::ClaimOffer, "ports", Plane::Management),
    by(Kind::ClaimOffer, "lifetimeDays", Plane::Management),
    by(Kind::Invariant, "neverFromOutside", Plane::Management),
    by(Kind::Invariant, "onlyServedBy", Plane::Management),
    by(Kind::Invariant, "noFailover", Plane::Management),
    nowhere(
        Kind::Invariant,
        "noPlaintextBetweenTenants",
        Concern::Security,
        "it is held against what settings ask for, and no proxy encrypts what it sends to another yet",
    ),
];

const NETWORKS: &str = "every cluster sends to every gateway that is reported, whatever its network";
const REACH: &str = "a sidecar reaches the services of its own workspace, whatever a setting says";
const BY_CLIENT: &str = "no gateway counts clients by their addresses yet, so with this nothing is limited";
const BY_HEADER: &str = "a proxy by itself counts all requests together, so with this nothing is limited; with over: Gateway those of \
     each value of a header count apart";
const EGRESS: &str = "no proxy knows hosts outside of the mesh yet, so none is kept from them";
const OF_ROUTES: &str = "a proxy knows the timeouts and retries of routes only";
const OF_SESSIONS: &str =
    "it holds for services without sessions only: the sessionPersistence of a route comes before any setting";
const UNGUARDED: &str = "no proxy asks who calls yet, so everybody would pass";
const IDLE_SESSIONS: &str = "a session lasts as long as its cookie, however long nothing is heard of it";
const UNOPENED: &str = "no gateway forwards connections unopened yet; nothing listens for them";

/// What no plane enforces of a spec of that kind. A field that is empty or `false` asks for nothing.
pub fn gaps(kind: Kind, spec: &Value) -> Vec<Gap> {
    TABLE
        .iter()
        .filter(|row| row.kind == kind)
        .filter_map(|row| match row.enforcement {
            Enforcement::Nowhere(concern, reason) if asks(spec, row.field) => Some(Gap {
                field: written(row.field),
                concern,
                reason,
            }),
            Enforcement::By(_) | Enforcement::Nowhere(..) => None,
        })
        .collect()
}

/// Why no plane enforces a field, given as in the table; `None` when one does.
pub fn reason(kind: Kind, field: &str) -> Option<&'static str> {
    let mut rows = TABLE.iter().filter(|row| {
        let rest = field.strip_prefix(row.field);
        row.kind == kind && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    });
    match rows.next()?.enforcement {
        Enforcement::By(_) => None,
        Enforcement::Nowhere(_, reason) => Some(reason),
    }
}

const fn by(kind: Kind, field: &'static str, plane: Plane) -> Row {
    Row {
        kind,
        field,
        enforcement: Enforcement::By(plane),
    }
}

const fn nowhere(kind: Kind, field: &'static str, concern: Concern, reason: &'static str) -> Row {
    Row {
        kind,
        field,
        enforcement: Enforcement::Nowhere(concern, reason),
    }
}

/// Whether the value holds that field with something in it.
fn asks(value: &Value, field: &str) -> bool {
    if field.is_empty() {
        return true;
    }
    let (first, rest) = field.split_once('/').unwrap_or((field, ""));
    if let Some((name, other)) = first.split_once("!=") {
        return value.get(name).and_then(Value::as_str) != Some(other) && asks(value, rest);
    }
    if first == "*" {
        return match value {
            Value::Array(items) => items.iter().any(|item| asks_here(item, rest)),
            Value::Object(fields) => fields.values().any(|item| asks_here(item, rest)),
            _ => false,
        };
    }
    match first.split_once('=') {
        Some((name, wanted)) => value.get(name).and_then(Value::as_str) == Some(wanted),
        None => value.get(first).is_some_and(|value| asks_here(value, rest)),
    }
}

fn asks_here(value: &Value, rest: &str) -> bool {
    let empty = match value {
        Value::Null => true,
        Value::Bool(given) => !given,
        Value::Array(items) => items.is_empty(),
        Value::String(_) | Value::Number(_) | Value::Object(_) => false,
    };
    !empty && asks(value, rest)
}

/// `type=egress` → `spec.type`, `rules/*/filters` → `spec.rules[*].filters`.
fn written(field: &str) -> String {
    let mut path = "spec".to_owned();
    for segment in field.split('/').filter(|segment| !segment.is_empty()) {
        match segment {
            "*" => path.push_str("[*]"),
            condition if condition.contains("!=") => {}
            segment => {
                path.push('.');
                path.push_str(segment.split('=').next().unwrap_or(segment));
            }
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_is_asked_for_is_a_gap() {
        let fields = |kind, spec: Value| -> Vec<String> {
            gaps(kind, &spec).into_iter().map(|gap| gap.field).collect()
        };
        for (kind, spec, expected) in [
            (Kind::Gateway, json!({"type": "ingress", "port": 80}), vec![]),
            (
                Kind::Gateway,
                json!({"type": "ingress", "protocol": "http"}),
                vec![],
            ),
            (Kind::Gateway, json!({"type": "egress"}), vec!["spec.type"]),
            (Kind::Gateway, json!({"jwt": null, "cors": []}), vec![]),
            (
                Kind::Gateway,
                json!({"type": "ingress", "jwt": {}, "rateLimit": {"requests": 1}}),
                vec![],
            ),
            (
                Kind::Gateway,
                json!({"rateLimit": {"requests": 1, "by": "client"}}),
                vec!["spec.rateLimit.by"],
            ),
            (
                Kind::Gateway,
                json!({"rateLimit": {"over": "Gateway", "by": "client"}}),
                vec!["spec.rateLimit.by"],
            ),
            (
                Kind::Gateway,
                json!({"rateLimit": {"by": {"header": "x-user"}}}),
                vec!["spec.rateLimit.by.header"],
            ),
            (
                Kind::Gateway,
                json!({"rateLimit": {"over": "Proxy", "by": {"header": "x-user"}}}),
                vec!["spec.rateLimit.by.header"],
            ),
            (
                Kind::Gateway,
                json!({"rateLimit": {"over": "Gateway", "by": {"header": "x-user"}}}),
                vec![],
            ),
            (Kind::Gateway, json!({"rateLimit": {"over": "Gateway"}}), vec![]),
            (Kind::Gateway, json!({"authorization": {"allow": []}}), vec![]),
            (
                Kind::Gateway,
                json!({"authorization": {"allow": [{}, {"claims": {"role": ["a"]}}]}}),
                vec![],
            ),
            (Kind::Api, json!({"validateRequests": false}), vec![]),
            (
                Kind::Api,
                json!({"validateRequests": true}),
                vec!["spec.validateRequests"],
            ),
            (
                Kind::ServiceRoute,
                json!({"rules": [{}, {"sessionPersistence": {"type": "Cookie", "idleTimeout": "5m"}}]}),
                vec!["spec.rules[*].sessionPersistence.idleTimeout"],
            ),
            (Kind::ExternalService, json!({}), vec!["spec"]),
            (Kind::Quota, json!({"limits": {"Gateway": 1}}), vec![]),
        ] {
            assert_eq!(fields(kind, spec.clone()), expected, "{kind} {spec}");
        }
    }

    #[test]
    fn paths_go_through_lists_and_maps() {
        let spec =
            json!({"rules": [{"backends": []}, {"filters": [{"type": "x"}]}], "ports": {"a": {"tls": true}}});
        for (field, expected) in [
            ("rules/*/filters", true),
            ("rules/*/filters/*/type=x", true),
            ("rules/*/filters/*/type=y", false),
            ("rules/*/backends", false),
            ("ports/*/tls", true),
            ("ports/*/plain", false),
            ("rules/filters", false),
        ] {
            assert_eq!(asks(&spec, field), expected, "{field}");
        }
        assert_eq!(
            written("rules/*/filters/*/type=x"),
            "spec.rules[*].filters[*].type"
        );
    }
}
