//! The settings that count for a node or a service: of defaults the nearest, never weaker than any mandate above it.
//!
//! A pure function by key: what counts for a node depends on the settings in its lineage, for a service also on the
//! groups of its workspace, and on nothing else.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::Value;

use crate::enforcement;
use crate::finding::{Origin, Traced};
use crate::http::{Retry, Span};
use crate::intent::{Failover, Intent, Spec};
use crate::name::{Fqn, Kind, Label, ServiceId};
use crate::routes::Delivery;
use crate::setting::{
    CallRule, Callers, Egress, Issuers, LoadBalancing, Mtls, Outliers, Reachability, Security, Tokens,
    Traffic, WafMode,
};

mod check;
mod decide;
mod order;
mod paths;

pub(crate) use check::check;
pub use decide::Decided;

use decide::{Field, Layer, Path, Relaxation};
use order::{Order, common_hosts, common_issuers, common_rules, intersection, later, lower, union};

/// All that settings decide for one node or service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    pub traffic: EffectiveTraffic,
    pub security: EffectiveSecurity,
}

/// How requests come to the services of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct DecidedDelivery {
    pub(crate) delivery: Delivery,
    #[serde(skip)]
    pub(crate) balancing_is_mandated: bool,
    #[serde(skip)]
    pub(crate) outliers_are_mandated: bool,
}

/// One field as people and programs read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// Such as `security.waf.mode`.
    pub field: String,
    /// `null` where nobody says anything and nothing is built in.
    pub value: Value,
    /// Left out for what is built in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// Further settings without which the value would be weaker.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub with: Vec<Origin>,
    /// Why no plane acts on it yet, although somebody set it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_enforced: Option<&'static str>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoSettings {
    #[error("{0} does not exist")]
    NotFound(Fqn),
    #[error(
        "settings count for organizations, tenants, workspaces and groups, and for gateways, routes, applications and \
         APIs; ask one of these, not {0}"
    )]
    NotANode(Fqn),
    #[error("the workspace of {0} does not exist; name one of its tenant")]
    NoWorkspace(Fqn),
    #[error("{0} has no services; ask its workspaces, or a group")]
    NoServices(Fqn),
    #[error("namespace {} of service {service} is not one of {node}", .service.namespace)]
    NotInNode { node: Fqn, service: ServiceId },
}

/// Declares what of a setting is decided field by field: its type, where it is found, its order of strictness and what
/// is built in.
macro_rules! fields {
    ($(#[$doc:meta])* $name:ident of $noun:ident in $kind:ident below $prefix:literal {
        $($field:ident: $type:ty = $at:literal, $get:expr, $order:expr, $built_in:expr;)*
    }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name {
            $(pub $field: Decided<$type>,)*
        }

        impl $name {
            $(fn $field() -> Field<$noun, $type> {
                Field { name: $at, get: $get, order: $order, built_in: $built_in }
            })*

            fn of(paths: &[Path<'_, $noun>]) -> $name {
                $name { $($field: $name::$field().decide(paths),)* }
            }

            /// Of the last setting of a path, what asks for less than is mandated above it.
            fn relaxations(path: &[Layer<'_, $noun>]) -> Vec<Relaxation> {
                let mut relaxations = Vec::new();
                $(relaxations.extend($name::$field().relaxations(path));)*
                relaxations
            }

            fn rows(&self) -> Vec<Row> {
                vec![$(Row::of(Kind::$kind, $prefix, $at, &self.$field)),*]
            }
        }
    };
}

fields! {
    EffectiveTraffic of Traffic in TrafficSetting below "traffic" {
        reachability: Reachability = "reachability", |traffic| traffic.reachability.as_ref(),
            Order::Narrows(later), Some(Reachability::Workspace);
        egress: Egress = "egress", |traffic| traffic.egress.as_ref(),
            Order::Narrows(common_hosts), Some(Egress::Any);
        failover: Vec<Failover> = "failover", |traffic| traffic.failover.as_ref(),
            Order::Fixed, None;
        load_balancing: LoadBalancing = "loadBalancing", |traffic| traffic.load_balancing.as_ref(),
            Order::Fixed, None;
        timeout: Span = "resilience.timeout", |traffic| traffic.resilience.timeout.as_ref(),
            Order::Narrows(lower), None;
        retry: Retry = "resilience.retry", |traffic| traffic.resilience.retry.as_ref(),
            Order::Fixed, None;
        connections_max: u32 = "resilience.connectionsMax", |traffic| traffic.resilience.connections_max.as_ref(),
            Order::Narrows(lower), None;
        requests_max: u32 = "resilience.requestsMax", |traffic| traffic.resilience.requests_max.as_ref(),
            Order::Narrows(lower), None;
        outliers: Outliers = "resilience.outliers", |traffic| traffic.resilience.outliers.as_ref(),
            Order::Fixed, None;
    }
}

fields! {
    EffectiveSecurity of Security in SecuritySetting below "security" {
        mtls: Mtls = "mtls", |security| security.mtls.as_ref(),
            Order::Narrows(later), Some(Mtls::Permissive);
        tokens: Tokens = "authentication.tokens", |security| security.authentication.tokens.as_ref(),
            Order::Narrows(later), Some(Tokens::Optional);
        issuers: Issuers = "authentication.issuers", |security| security.authentication.issuers.as_ref(),
            Order::Narrows(common_issuers), None;
        callers: Callers = "authorization.callers", |security| security.authorization.callers.as_ref(),
            Order::Narrows(later), Some(Callers::Anyone);
        allow: BTreeSet<CallRule> = "authorization.allow", |security| security.authorization.allow.as_ref(),
            Order::Narrows(common_rules), None;
        deny: BTreeSet<CallRule> = "authorization.deny", |security| security.authorization.deny.as_ref(),
            Order::Grows(union), None;
        waf: WafMode = "waf.mode", |security| security.waf.mode.as_ref(),
            Order::Narrows(later), Some(WafMode::Off);
        waf_rule_sets: BTreeSet<Label> = "waf.ruleSets", |security| security.waf.rule_sets.as_ref(),
            Order::Grows(union), None;
        waf_exclusions: BTreeSet<u32> = "waf.exclusions", |security| security.waf.exclusions.as_ref(),
            Order::Narrows(intersection), Some(BTreeSet::new());
        extensions: BTreeSet<Label> = "extensions", |security| security.extensions.as_ref(),
            Order::Grows(union), None;
    }
}

impl Effective {
    /// Every field, in the order in which the settings have them.
    pub fn rows(&self) -> Vec<Row> {
        let mut rows = self.traffic.rows();
        rows.extend(self.security.rows());
        rows
    }
}

impl DecidedDelivery {
    pub(crate) fn is_empty(&self) -> bool {
        self.delivery.is_empty()
    }

    /// As [`of_service`] has it for a service of several groups.
    pub(crate) fn strictest(all: &[&DecidedDelivery]) -> Delivery {
        let least = |limit: fn(&Delivery) -> Option<u32>| {
            let said = all.iter().filter_map(|decided| limit(&decided.delivery));
            said.min()
        };
        // Without an order the first mandate counts, and without a mandate the first word.
        let first = |is_mandated: fn(&DecidedDelivery) -> bool| {
            let mut mandates_first: Vec<&Delivery> = Vec::new();
            for wanted in [true, false] {
                let some = all.iter().filter(|decided| is_mandated(decided) == wanted);
                mandates_first.extend(some.map(|decided| &decided.delivery));
            }
            mandates_first.into_iter()
        };
        Delivery {
            balancing: first(|decided| decided.balancing_is_mandated)
                .find_map(|delivery| delivery.balancing.clone()),
            connections_max: least(|delivery| delivery.connections_max),
            requests_max: least(|delivery| delivery.requests_max),
            outliers: first(|decided| decided.outliers_are_mandated).find_map(|delivery| delivery.outliers),
        }
    }
}

impl Row {
    fn of<T: Serialize>(kind: Kind, concern: &str, field: &str, decided: &Decided<T>) -> Row {
        let in_table = format!("defaults/{}", field.replace('.', "/"));
        Row {
            field: format!("{concern}.{field}"),
            value: serde_json::to_value(&decided.value.value)
                .expect("invariant: settings have string keys and finite numbers"),
            origin: decided.value.origin.clone(),
            with: decided.with.clone(),
            not_enforced: enforcement::reason(kind, &in_table).filter(|_| decided.value.origin.is_some()),
        }
    }
}

/// The node whose settings count for a resource: itself, the group that it stands in, or the workspace that serves it.
///
/// # Errors
/// When the resource does not exist, or nothing counts for it.
pub fn node_of(intent: &Intent, resource: &Fqn) -> Result<Fqn, NoSettings> {
    if !intent.contains_key(resource) {
        return Err(NoSettings::NotFound(resource.clone()));
    }
    let not_a_node = || NoSettings::NotANode(resource.clone());
    match resource.kind() {
        _ if paths::is_settable(resource) => Ok(resource.clone()),
        Kind::Gateway | Kind::ServiceRoute => resource.parent().ok_or_else(not_a_node),
        Kind::Application | Kind::Api => {
            let application = resource.ancestor(Kind::Application).ok_or_else(not_a_node)?;
            let workspace = match intent.get(&application).map(|resource| &resource.spec) {
                Some(Spec::Application(found)) => Some(&found.workspace),
                _ => None,
            };
            let is_its_own = |workspace: &&Fqn| {
                workspace.kind() == Kind::Workspace
                    && workspace.parent() == application.parent()
                    && intent.contains_key(*workspace)
            };
            let workspace = workspace.filter(is_its_own).cloned();
            workspace.ok_or(NoSettings::NoWorkspace(application))
        }
        _ => Err(not_a_node()),
    }
}

/// # Errors
/// When the node does not exist, or nothing can be set for it.
pub fn of_node(intent: &Intent, node: &Fqn) -> Result<Effective, NoSettings> {
    if !intent.contains_key(node) {
        return Err(NoSettings::NotFound(node.clone()));
    }
    if !paths::is_settable(node) {
        return Err(NoSettings::NotANode(node.clone()));
    }
    Ok(Effective {
        traffic: EffectiveTraffic::of(&[paths::of_node(intent, node)]),
        security: EffectiveSecurity::of(&[paths::of_node(intent, node)]),
    })
}

/// `node` is a workspace or one of its groups. A service that several groups take, perhaps each in other clusters, gets
/// what is as strict as each of them alone would make it.
///
/// # Errors
/// When the node does not exist, or the service is in none of its namespaces.
pub fn of_service(intent: &Intent, node: &Fqn, service: &ServiceId) -> Result<Effective, NoSettings> {
    if !intent.contains_key(node) {
        return Err(NoSettings::NotFound(node.clone()));
    }
    if !paths::has_services(node) {
        return Err(NoSettings::NoServices(node.clone()));
    }
    if !paths::takes(intent, node, &service.namespace) {
        return Err(NoSettings::NotInNode {
            node: node.clone(),
            service: service.clone(),
        });
    }
    Ok(Effective {
        traffic: EffectiveTraffic::of(&paths::of_service(intent, node, service)),
        security: EffectiveSecurity::of(&paths::of_service(intent, node, service)),
    })
}

/// What connections to workloads of a node must be.
pub(crate) fn mtls_of_node(intent: &Intent, node: &Fqn) -> Decided<Mtls> {
    EffectiveSecurity::mtls().decide(&[paths::of_node(intent, node)])
}

/// What connections to one workload of a workspace must be.
pub(crate) fn mtls_of_service(intent: &Intent, workspace: &Fqn, service: &ServiceId) -> Decided<Mtls> {
    EffectiveSecurity::mtls().decide(&paths::of_service(intent, workspace, service))
}

/// The nodes and settings at which the mTLS of some services of a workspace is decided: the workspace, its security
/// groups, and what is set for one service of these. Every service gets what is at least as strict as one of them.
pub(crate) fn mtls_within(intent: &Intent, workspace: &Fqn) -> Vec<(Fqn, Decided<Mtls>)> {
    let mut within = vec![(workspace.clone(), mtls_of_node(intent, workspace))];
    for group in paths::children(intent, workspace, Kind::SecurityGroup) {
        within.push((group.clone(), mtls_of_node(intent, group)));
        for setting in paths::children(intent, group, Kind::ServiceSecuritySetting) {
            if let Some(Spec::ServiceSecuritySetting(set)) = intent.get(setting).map(|set| &set.spec) {
                let decided = mtls_of_service(intent, workspace, &set.service);
                within.push((setting.clone(), decided));
            }
        }
    }
    within
}

/// Where traffic of a workspace, or of a traffic group, goes when neither its cluster nor its region can serve it.
pub(crate) fn failover(intent: &Intent, node: &Fqn) -> Traced<Vec<Failover>> {
    let decided = EffectiveTraffic::failover().decide(&[paths::of_node(intent, node)]);
    Traced {
        value: decided.value.value.unwrap_or_default(),
        origin: decided.value.origin,
    }
}

/// How requests come to the services of a workspace, or of a traffic group: all that is said, and what mandates say of it.
pub(crate) fn delivery(intent: &Intent, node: &Fqn) -> DecidedDelivery {
    let decided = EffectiveTraffic::of(&[paths::of_node(intent, node)]);
    fn mandated<T>(decided: &Decided<T>) -> bool {
        let origin = decided.value.origin.as_ref();
        origin.is_some_and(|origin| origin.field.starts_with("spec.mandates"))
    }
    DecidedDelivery {
        balancing_is_mandated: mandated(&decided.load_balancing),
        outliers_are_mandated: mandated(&decided.outliers),
        delivery: Delivery {
            balancing: decided.load_balancing.value.value,
            connections_max: decided.connections_max.value.value,
            requests_max: decided.requests_max.value.value,
            outliers: decided.outliers.value.value,
        },
    }
}

/// Whether the node has a setting of its own about traffic.
pub(crate) fn sets_traffic(intent: &Intent, node: &Fqn) -> bool {
    paths::setting::<Traffic>(intent, node).is_some()
}

/// Whether the node's own setting says where traffic goes.
pub(crate) fn sets_failover(intent: &Intent, node: &Fqn) -> bool {
    paths::setting::<Traffic>(intent, node).is_some_and(|layer| {
        let mandated = layer.mandates.is_some_and(|mandates| mandates.failover.is_some());
        mandated || layer.defaults.failover.is_some()
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
