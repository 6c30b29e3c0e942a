//! One gateway resource: in which clusters it runs, and which of its backends there are.

use super::inputs::Inputs;
use super::{Planned, port, service, share};
use crate::finding::{Code, Finding, Origin, Traced};
use crate::name::{Fqn, ServiceId};
use crate::resolve::ResolvedWorkspace;
use crate::routes::{GatewayAction, GatewayRule, RoutedGateway, RoutedGatewayMode, SliceItem};

pub(super) fn plan(name: &Fqn, inputs: &Inputs<'_>) -> Planned {
    let mut planned = Planned::default();
    let Some(gateway) = inputs.resolved.gateways.get(name) else {
        return planned;
    };
    let Some(workspace) = inputs.resolved.workspaces.get(&gateway.value.workspace) else {
        return planned;
    };
    if inputs.is_withheld(&workspace.value) {
        return planned;
    }
    let routed = match &gateway.value.mode {
        RoutedGatewayMode::EastWest => Traced::clone(gateway),
        RoutedGatewayMode::Ingress { port, hosts, rules } => {
            let rules = rules
                .iter()
                .map(|rule| {
                    let backends = Backends {
                        gateway: name,
                        workspace: (&gateway.value.workspace, &workspace.value),
                        inputs,
                    };
                    backends.found(rule, &mut planned.findings)
                })
                .collect();
            let mode = RoutedGatewayMode::Ingress {
                port: *port,
                hosts: hosts.clone(),
                rules,
            };
            let value = RoutedGateway {
                mode,
                ..gateway.value.clone()
            };
            Traced {
                value,
                origin: gateway.origin.clone(),
            }
        }
    };
    for cluster in inputs.resolved.clusters_of(&routed.value.workspace) {
        if inputs.runs(name, &routed.value, cluster) {
            let item = SliceItem::Gateway(routed.clone());
            planned.items.insert(cluster.clone(), item);
        }
    }
    if planned.items.is_empty() {
        let message = format!(
            "no cluster of this workspace has a gateway workload {} that it may use; check the name, or deploy it",
            routed.value.workload
        );
        let finding = Finding::warning(name, "spec.workload", Code::GatewayNotFound, message);
        planned.findings.push(finding);
    }
    planned
}

/// Where the backends of one gateway's rules are looked up.
struct Backends<'a> {
    gateway: &'a Fqn,
    workspace: (&'a Fqn, &'a ResolvedWorkspace),
    inputs: &'a Inputs<'a>,
}

impl Backends<'_> {
    /// The rule with those of its backends that there are, each with its port. The share of one that is missing goes to
    /// the others; a rule without any refuses.
    fn found(&self, rule: &Traced<GatewayRule>, findings: &mut Vec<Finding>) -> Traced<GatewayRule> {
        let GatewayAction::Split(targets) = &rule.value.action else {
            return rule.clone();
        };
        let field = rule.origin.as_ref().map_or("spec.rules", |origin| &origin.field);
        let mut left = Vec::new();
        let mut first_reason = None;
        for (at, (id, port, share)) in targets.iter().enumerate() {
            match self.port(id, *port) {
                Ok(port) => left.push(((id.clone(), Some(port)), *share)),
                Err((code, reason)) => {
                    let field = format!("{field}.backendRefs[{at}]");
                    findings.push(Finding::warning(self.gateway, field, code, reason.clone()));
                    first_reason.get_or_insert(reason);
                }
            }
        }
        if targets.len() > 1 {
            self.check_ignored(targets, field, findings);
        }
        let missing = first_reason.unwrap_or_else(|| "this route has no backend".to_owned());
        let action = share::rescaled(left).map_or(GatewayAction::Refuse(missing), |left| {
            let targets = left.into_iter().map(|((id, port), share)| (id, port, share));
            GatewayAction::Split(targets.collect())
        });
        let value = GatewayRule {
            action,
            ..rule.value.clone()
        };
        Traced {
            value,
            origin: rule.origin.clone(),
        }
    }

    fn port(&self, id: &ServiceId, wanted: Option<u16>) -> Result<u16, (Code, String)> {
        let offers = self.inputs.offers(self.workspace.1, id);
        if offers.is_empty() {
            let reason = format!("no cluster offers service {id}; check the name, or deploy the service");
            return Err((Code::ServiceNotFound, reason));
        }
        port::pick(id, &service::ports(&offers), wanted).map_err(|bad| (bad.code(), bad.to_string()))
    }

    /// A request can be matched by one list of rules; where a gateway splits over several services, only the last rule
    /// of each applies.
    fn check_ignored(
        &self,
        targets: &[(ServiceId, Option<u16>, u32)],
        field: &str,
        findings: &mut Vec<Finding>,
    ) {
        for (at, (id, ..)) in targets.iter().enumerate() {
            let key = (self.workspace.0.clone(), id.clone());
            let route = self.inputs.resolved.routes.get(&key);
            let matching = route.is_some_and(|route| {
                route
                    .value
                    .rules
                    .iter()
                    .any(|rule| !rule.value.matches.is_empty())
            });
            let origin: Option<&Origin> = route.and_then(|route| route.origin.as_ref());
            if let Some(origin) = origin.filter(|_| matching) {
                let message = format!(
                    "the rules of {} that match paths or headers do not apply to this rule, because it splits over several services; give each service a rule of its own to have them",
                    origin.resource
                );
                let field = format!("{field}.backendRefs[{at}]");
                findings.push(Finding::warning(self.gateway, field, Code::RuleIgnored, message));
            }
        }
    }
}
