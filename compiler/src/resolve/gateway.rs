//! Gateways: who may use which workload, who holds which host, and rules that stay within their workspace.

use std::collections::{BTreeMap, BTreeSet};

use super::{ResolvedWorkspace, Tree, listed, rules};
use crate::finding::{Claim, Code, Finding, Origin, Traced};
use crate::http::{HttpRule, ServiceBackend};
use crate::intent::{Gateway, GatewayMode, Ingress, Spec};
use crate::name::{Fqn, Hostname, Kind, ServiceId, WorkloadId};
use crate::routes::{GatewayAction, GatewayRule, RoutedGateway, RoutedGatewayMode};

type Workspaces = BTreeMap<Fqn, Traced<ResolvedWorkspace>>;

/// A host that is held, and where.
struct Held {
    host: Hostname,
    gateway: Fqn,
    workspace: Fqn,
    workload: WorkloadId,
    port: u16,
}

pub(super) fn gateways(
    tree: &Tree<'_>,
    workspaces: &Workspaces,
    findings: &mut Vec<Finding>,
) -> BTreeMap<Fqn, Traced<RoutedGateway>> {
    let mut claims: Vec<Held> = Vec::new();
    let mut gateways: BTreeMap<Fqn, Traced<RoutedGateway>> = BTreeMap::new();
    for (name, resource) in tree {
        let Spec::Gateway(gateway) = &resource.spec else {
            continue;
        };
        let workspace = name.ancestor(Kind::Workspace);
        let Some((workspace, resolved)) =
            workspace.and_then(|workspace| workspaces.get_key_value(&workspace))
        else {
            continue;
        };
        if !may_use(name, gateway, workspace, workspaces, findings) {
            continue;
        }
        let mode = match &gateway.mode {
            GatewayMode::EastWest => RoutedGatewayMode::EastWest,
            GatewayMode::Ingress(ingress) => {
                let wanted = Wanted {
                    gateway: name,
                    workspace,
                    workload: &gateway.workload,
                    ingress,
                };
                let (hosts, owners) = wanted.claim(&mut claims, findings);
                for owner in owners {
                    if let Some(winner) = gateways.get_mut(&owner) {
                        winner.won_over(name);
                    }
                }
                RoutedGatewayMode::Ingress {
                    port: ingress.port,
                    hosts,
                    rules: gateway_rules(name, &ingress.rules, workspace, &resolved.value, findings),
                }
            }
        };
        let routed = RoutedGateway {
            workload: gateway.workload.clone(),
            workspace: workspace.clone(),
            mode,
        };
        let origin = Origin::new((*name).clone(), "spec");
        gateways.insert((*name).clone(), Traced::new(routed, origin));
    }
    gateways
}

/// A workload in a namespace of its own workspace, or in one that nobody owns: shared infrastructure.
fn may_use(
    name: &Fqn,
    gateway: &Gateway,
    workspace: &Fqn,
    workspaces: &Workspaces,
    findings: &mut Vec<Finding>,
) -> bool {
    let namespace = &gateway.workload.namespace;
    let mut owners = workspaces
        .iter()
        .filter(|(_, resolved)| resolved.value.owns_somewhere(namespace))
        .map(|(owner, _)| owner)
        .peekable();
    let Some(first) = owners.peek().copied() else {
        return true;
    };
    if owners.any(|owner| owner == workspace) {
        return true;
    }
    let message = format!(
        "workload {} is in a namespace that {first} owns; use a workload in a namespace of {workspace}, or in one that no workspace owns",
        gateway.workload
    );
    findings.push(Finding::error(
        name,
        "spec.workload",
        Code::NamespaceNotOwned,
        message,
    ));
    false
}

/// An ingress that wants its hosts.
struct Wanted<'a> {
    gateway: &'a Fqn,
    workspace: &'a Fqn,
    workload: &'a WorkloadId,
    ingress: &'a Ingress,
}

impl Wanted<'_> {
    /// The hosts that it gets, and the owners of those that it does not. Gateways come in the order of their names, so
    /// the first name wins.
    fn claim(
        &self,
        claims: &mut Vec<Held>,
        findings: &mut Vec<Finding>,
    ) -> (BTreeSet<Hostname>, BTreeSet<Fqn>) {
        let mut hosts = BTreeSet::new();
        let mut owners = BTreeSet::new();
        for host in &self.ingress.hosts {
            if let Some(held) = claims.iter().find(|held| self.collides(host, held)) {
                let owner = &held.gateway;
                let claim = Claim {
                    what: format!("host {host}"),
                    holder: owner.clone(),
                };
                findings.push(Finding::taken(self.gateway, "spec.hosts", Code::HostTaken, claim));
                owners.insert(owner.clone());
            } else {
                hosts.insert(host.clone());
            }
        }
        claims.extend(hosts.iter().map(|host| Held {
            host: host.clone(),
            gateway: self.gateway.clone(),
            workspace: self.workspace.clone(),
            workload: self.workload.clone(),
            port: self.ingress.port,
        }));
        (hosts, owners)
    }

    /// One workspace may serve a host on several listeners; across workspaces a host has one owner, wherever it is
    /// served.
    fn collides(&self, host: &Hostname, held: &Held) -> bool {
        let same_listener = *self.workload == held.workload && self.ingress.port == held.port;
        let elsewhere_in_own = *self.workspace == held.workspace && !same_listener;
        host.intersects(&held.host) && !elsewhere_in_own
    }
}

fn gateway_rules(
    name: &Fqn,
    rules: &[HttpRule<ServiceBackend>],
    workspace: &Fqn,
    resolved: &ResolvedWorkspace,
    findings: &mut Vec<Finding>,
) -> Vec<Traced<GatewayRule>> {
    let actions: Vec<GatewayAction> = rules
        .iter()
        .enumerate()
        .map(|(at, rule)| action(name, at, rule, workspace, resolved, findings))
        .collect();
    rules::ordered(name, rules, findings)
        .into_iter()
        .map(|ordered| {
            let rule = GatewayRule {
                matches: ordered.matches.into_iter().collect(),
                action: actions[ordered.at].clone(),
                timeout: ordered.rule.timeouts.map(|timeouts| timeouts.request),
                retry: ordered.rule.retry.clone(),
            };
            let field = format!("spec.rules[{}]", ordered.at);
            Traced::new(rule, Origin::new(name.clone(), field))
        })
        .collect()
}

fn action(
    name: &Fqn,
    at: usize,
    rule: &HttpRule<ServiceBackend>,
    workspace: &Fqn,
    resolved: &ResolvedWorkspace,
    findings: &mut Vec<Finding>,
) -> GatewayAction {
    let field = format!("spec.rules[{at}].backendRefs");
    let shares = match rule.shares() {
        Ok(shares) => shares,
        Err(bad) => {
            findings.push(Finding::error(name, field, Code::BadWeights, bad.to_string()));
            return GatewayAction::Refuse(format!("this route is not valid: {bad}"));
        }
    };
    let foreign: Vec<(usize, &ServiceBackend)> = rule
        .backend_refs
        .iter()
        .enumerate()
        .filter(|(_, backend)| !resolved.owns_somewhere(&backend.namespace))
        .collect();
    findings.extend(foreign.iter().map(|(at, backend)| {
        let message = format!(
            "namespace {} is not one of {workspace}: {}; a gateway sends to services of its own workspace",
            backend.namespace,
            listed(&resolved.namespaces)
        );
        Finding::error(name, format!("{field}[{at}]"), Code::NamespaceNotOwned, message)
    }));
    if let Some((_, backend)) = foreign.first() {
        let (namespace, service) = (&backend.namespace, &backend.name);
        return GatewayAction::Refuse(format!(
            "this route is not valid: its workspace does not own service {namespace}/{service}"
        ));
    }
    let targets = rule.backend_refs.iter().zip(shares).map(|(backend, share)| {
        let id = ServiceId {
            namespace: backend.namespace.clone(),
            name: backend.name.clone(),
        };
        (id, backend.port, share)
    });
    GatewayAction::Split(targets.collect())
}
