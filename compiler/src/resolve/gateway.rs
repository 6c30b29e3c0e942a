//! Gateways: who may use which workload, who holds which host, and rules that stay within their workspace.

use std::collections::{BTreeMap, BTreeSet};

use super::{ResolvedWorkspace, Tree, application, listed, rules};
use crate::finding::{Claim, Code, Finding, Origin, Traced};
use crate::http::{Edits, Effect, HttpRule, ServiceBackend};
use crate::intent::{Connections, GatewayMode, Ingress, Spec};
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
        let (workspace, workload) = match &resource.spec {
            Spec::Gateway(gateway) => (name.ancestor(Kind::Workspace), &gateway.workload),
            Spec::Api(api) => (application::workspace_of(tree, name), &api.workload),
            _ => continue,
        };
        let Some((workspace, resolved)) =
            workspace.and_then(|workspace| workspaces.get_key_value(&workspace))
        else {
            continue;
        };
        if !may_use(name, workload, workspace, workspaces, findings) {
            continue;
        }
        let wanted = Wanted {
            gateway: name,
            workspace,
            workload,
        };
        let mut claim = |port, hosts, field, findings: &mut Vec<Finding>| {
            let (hosts, owners) = wanted.claim(port, hosts, field, &mut claims, findings);
            for owner in owners {
                if let Some(winner) = gateways.get_mut(&owner) {
                    winner.won_over(name);
                }
            }
            hosts
        };
        let mode = match &resource.spec {
            Spec::Api(api) => {
                let hosts = api.openapi.servers.iter().map(|server| server.host.clone());
                Some(RoutedGatewayMode::Ingress {
                    port: api.port.get(),
                    hosts: claim(api.port.get(), &hosts.collect(), "spec.openapi.servers", findings),
                    rules: application::rules(name, api, workspace, &resolved.value, findings),
                })
            }
            Spec::Gateway(gateway) => match &gateway.mode {
                GatewayMode::EastWest => Some(RoutedGatewayMode::EastWest),
                GatewayMode::Ingress(ingress) => Some(RoutedGatewayMode::Ingress {
                    port: ingress.port,
                    hosts: claim(ingress.port, &ingress.hosts, "spec.hosts", findings),
                    rules: ingress_rules(name, ingress, workspace, &resolved.value, findings),
                }),
                GatewayMode::Passthrough(passthrough) => {
                    if let Connections::Tls(hosts) = &passthrough.connections {
                        claim(passthrough.port, hosts, "spec.hosts", findings);
                    }
                    let backends = &passthrough.backend_refs;
                    own_backends(
                        name,
                        "spec.backendRefs",
                        backends,
                        workspace,
                        &resolved.value,
                        findings,
                    );
                    None
                }
                GatewayMode::Egress(_) | GatewayMode::Transit => None,
            },
            _ => None,
        };
        // What no plane enforces is checked and has no route; `enforcement` tells it.
        let Some(mode) = mode else { continue };
        let routed = RoutedGateway {
            workload: workload.clone(),
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
    workload: &WorkloadId,
    workspace: &Fqn,
    workspaces: &Workspaces,
    findings: &mut Vec<Finding>,
) -> bool {
    let namespace = &workload.namespace;
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
        "workload {workload} is in a namespace that {first} owns; use a workload in a namespace of {workspace}, or in one that no workspace owns"
    );
    findings.push(Finding::error(
        name,
        "spec.workload",
        Code::NamespaceNotOwned,
        message,
    ));
    false
}

/// A listener that wants its hosts.
struct Wanted<'a> {
    gateway: &'a Fqn,
    workspace: &'a Fqn,
    workload: &'a WorkloadId,
}

impl Wanted<'_> {
    /// The hosts that it gets, and the owners of those that it does not. Gateways come in the order of their names, so
    /// the first name wins.
    fn claim(
        &self,
        port: u16,
        wanted: &BTreeSet<Hostname>,
        field: &str,
        claims: &mut Vec<Held>,
        findings: &mut Vec<Finding>,
    ) -> (BTreeSet<Hostname>, BTreeSet<Fqn>) {
        let mut hosts = BTreeSet::new();
        let mut owners = BTreeSet::new();
        for host in wanted {
            if let Some(held) = claims.iter().find(|held| self.collides(port, host, held)) {
                let owner = &held.gateway;
                let claim = Claim {
                    what: format!("host {host}"),
                    holder: owner.clone(),
                };
                findings.push(Finding::taken(self.gateway, field, Code::HostTaken, claim));
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
            port,
        }));
        (hosts, owners)
    }

    /// One workspace may serve a host on several listeners; across workspaces a host has one owner, wherever it is
    /// served.
    fn collides(&self, port: u16, host: &Hostname, held: &Held) -> bool {
        let same_listener = *self.workload == held.workload && port == held.port;
        let elsewhere_in_own = *self.workspace == held.workspace && !same_listener;
        host.intersects(&held.host) && !elsewhere_in_own
    }
}

fn ingress_rules(
    name: &Fqn,
    ingress: &Ingress,
    workspace: &Fqn,
    resolved: &ResolvedWorkspace,
    findings: &mut Vec<Finding>,
) -> Vec<Traced<GatewayRule>> {
    if ingress.policy.redirect.is_some() {
        return vec![refuse_all(
            name,
            "spec.redirect",
            "redirects are not enforced yet",
        )];
    }
    let rules = &ingress.rules;
    let outcomes: Vec<(GatewayAction, Edits)> = rules
        .iter()
        .enumerate()
        .map(|(at, rule)| match rules::effect(name, at, rule, findings) {
            Ok(Effect::Pass(edits)) => (action(name, at, rule, workspace, resolved, findings), *edits),
            Ok(Effect::Redirect(to)) => (GatewayAction::Redirect(*to), Edits::default()),
            Err(reason) => (GatewayAction::Refuse(reason), Edits::default()),
        })
        .collect();
    rules::ordered(name, rules, findings)
        .into_iter()
        .map(|ordered| {
            let (action, edits) = outcomes[ordered.at].clone();
            let rule = GatewayRule {
                matches: ordered.matches.into_iter().collect(),
                action,
                edits,
                timeout: ordered.rule.timeouts.map(|timeouts| timeouts.request),
                retry: ordered.rule.retry.clone(),
            };
            let field = format!("spec.rules[{}]", ordered.at);
            Traced::new(rule, Origin::new(name.clone(), field))
        })
        .collect()
}

/// Answers every request with 503.
pub(super) fn refuse_all(name: &Fqn, field: &str, reason: &str) -> Traced<GatewayRule> {
    let rule = GatewayRule {
        matches: Vec::new(),
        action: GatewayAction::Refuse(reason.to_owned()),
        edits: Edits::default(),
        timeout: None,
        retry: None,
    };
    Traced::new(rule, Origin::new(name.clone(), field))
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
    if let Some(foreign) = own_backends(name, &field, &rule.backend_refs, workspace, resolved, findings) {
        let (namespace, service) = (&foreign.namespace, &foreign.name);
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

/// A gateway sends to services of its own workspace: the first backend that is none of them.
pub(super) fn own_backends<'a>(
    name: &Fqn,
    field: &str,
    backends: &'a [ServiceBackend],
    workspace: &Fqn,
    resolved: &ResolvedWorkspace,
    findings: &mut Vec<Finding>,
) -> Option<&'a ServiceBackend> {
    let foreign: Vec<(usize, &ServiceBackend)> = backends
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
    foreign.first().map(|(_, backend)| *backend)
}
