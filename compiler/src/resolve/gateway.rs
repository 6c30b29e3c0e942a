//! Gateways and APIs: who may use which workload, who holds which port and host of it, and rules that stay within their
//! workspace.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use super::resolver::{Part, Resolver, Update, Wanted};
use super::rules::Mirrored;
use super::{Loans, ResolvedWorkspace, application, grant, listed, rules, same_gateway, token};
use crate::finding::{Claim, Code, Finding, Origin, Traced};
use crate::http::{Edits, Effect, ServiceBackend, shares};
use crate::intent::{
    self, Authorization, Connections, GatewayMode, HostPolicy, Ingress, RateLimitKey, RateLimitScope, Spec,
    hosts_field,
};
use crate::name::{Fqn, Hostname, Kind, Label, ServiceId, WorkloadId};
use crate::routes::{
    Access, AccessRule, Conduct, GatewayAction, GatewayRule, HostConduct, Over, RateLimit, RoutedGateway,
    RoutedGatewayMode,
};
use crate::setting::Issuers;

/// What a gateway or an API has of a workload: a port for some hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listener {
    /// Whose the hosts are: its own workspace, or the one that lends them.
    owner: Fqn,
    port: Port,
    hosts: BTreeSet<Hostname>,
}

/// A port of a workload, for one thing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Port {
    workload: WorkloadId,
    number: u16,
    protocol: Protocol,
}

/// What a port is for; one that is for one thing is for no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Protocol {
    Http,
    Tls,
    /// Every connection, so that nobody else has the port.
    Tcp,
    Egress,
}

/// What a resource asks for.
struct Wants<'a> {
    workload: &'a WorkloadId,
    port: Option<Port>,
    hosts: BTreeSet<Hostname>,
    hosts_from: Option<&'a Fqn>,
}

/// Of two that want one port for different things, or one host, the one whose name sorts first holds it. So what one of
/// them holds depends on those before it only, and a change moves on towards the last name.
pub(super) fn update(update: &mut Update<'_>) {
    let mut dirty = dirty(update);
    while let Some(name) = dirty.pop_first() {
        update.recomputed += 1;
        let mut findings = Vec::new();
        let mut loans = Loans::default();
        let workspace = workspace(update.to, &name, &mut loans, &mut findings);
        let listener = workspace
            .as_ref()
            .and_then(|workspace| listener(update.to, &name, workspace, &mut loans, &mut findings));
        let routed = workspace
            .and_then(|workspace| routed(update.to, &name, workspace, listener.as_ref(), &mut findings));
        dirty.extend(hold(update.to, &name, listener));
        update.tell(Part::Claims, &name, findings);
        lend(update.to, &name, loans);
        store(update, &name, routed);
    }
    for winner in update.take_contested(&[Kind::Gateway, Kind::Api]) {
        if let Some(held) = update.to.resolved.gateways.get(&winner) {
            let held = held.value.clone();
            store(update, &winner, Some(held));
        }
    }
}

/// Those that were written, those whose workspace, or the owner of whose workload, holds other namespaces, and those to
/// which others lend something else.
fn dirty(update: &mut Update<'_>) -> BTreeSet<Fqn> {
    let mut dirty = BTreeSet::new();
    let wanted = &mut update.to.wanted;
    for touch in [Kind::Gateway, Kind::Api]
        .into_iter()
        .flat_map(|kind| update.touched.of(kind))
    {
        if let Some(was) = wants(touch.was()) {
            wanted.workloads.remove(&was.workload.namespace, &touch.name);
            if let Some(port) = &was.port {
                wanted.ports.remove(port, &touch.name);
            }
            for host in &was.hosts {
                wanted.hosts.remove(host, &touch.name);
            }
            if let Some(lender) = was.hosts_from {
                wanted.lenders.remove(lender, &touch.name);
            }
        }
        if let Some(is) = wants(touch.is()) {
            wanted.workloads.insert(&is.workload.namespace, &touch.name);
            if let Some(port) = &is.port {
                wanted.ports.insert(port, &touch.name);
            }
            for host in &is.hosts {
                wanted.hosts.insert(host, &touch.name);
            }
            if let Some(lender) = is.hosts_from {
                wanted.lenders.insert(lender, &touch.name);
            }
        }
        dirty.insert(touch.name.clone());
    }
    for touch in update.touched.of(Kind::ReferenceGrant) {
        let lender = touch.name.parent();
        dirty.extend(
            lender
                .iter()
                .flat_map(|lender| wanted.lenders.of(lender))
                .cloned(),
        );
        for spec in [touch.was(), touch.is()].into_iter().flatten() {
            let Spec::ReferenceGrant(grant) = spec else {
                continue;
            };
            let namespaces: BTreeSet<&Label> =
                grant.to.workloads.iter().map(|lent| &lent.namespace).collect();
            dirty.extend(
                namespaces
                    .into_iter()
                    .flat_map(|namespace| wanted.workloads.of(namespace))
                    .cloned(),
            );
        }
    }
    let tree = &update.to.tree;
    for (workspace, selectors) in &update.moved {
        let groups = tree.children(workspace, Kind::GatewayGroup);
        dirty.extend(
            groups
                .flat_map(|group| tree.children(group, Kind::Gateway))
                .cloned(),
        );
        for selector in selectors {
            let workloads = wanted.workloads.starting_with(selector.namespace_prefix());
            let matching = workloads.filter(|(namespace, _)| selector.matches_namespace(namespace));
            dirty.extend(matching.map(|(_, gateway)| gateway.clone()));
        }
    }
    let flipped = update.touched.of(Kind::Workspace).filter(|touch| touch.flipped());
    let workspaces = update.moved.keys().chain(flipped.map(|touch| &touch.name));
    let served = workspaces.flat_map(|workspace| wanted.named_by.of(workspace));
    let applications = update.touched.of(Kind::Application).map(|touch| &touch.name);
    for application in applications
        .chain(served)
        .filter(|name| name.kind() == Kind::Application)
    {
        dirty.extend(tree.children(application, Kind::Api).cloned());
    }
    dirty
}

fn wants(spec: Option<&Spec>) -> Option<Wants<'_>> {
    let port = |workload: &WorkloadId, number, protocol| {
        Some(Port {
            workload: workload.clone(),
            number,
            protocol,
        })
    };
    Some(match spec? {
        Spec::Api(api) => Wants {
            workload: &api.workload,
            port: port(&api.workload, api.port.get(), Protocol::Http),
            hosts: api.openapi.hosts.clone(),
            hosts_from: api.hosts_from.as_ref(),
        },
        Spec::Gateway(gateway) => {
            let port = |number, protocol| port(&gateway.workload, number, protocol);
            let (port, hosts) = match &gateway.mode {
                GatewayMode::Ingress(ingress) => (port(ingress.port, Protocol::Http), ingress.hosts.clone()),
                GatewayMode::Passthrough(passthrough) => match &passthrough.connections {
                    Connections::Tls(hosts) => (port(passthrough.port, Protocol::Tls), hosts.clone()),
                    Connections::Tcp => (port(passthrough.port, Protocol::Tcp), BTreeSet::new()),
                },
                // Its hosts are those of others, outside of the mesh.
                GatewayMode::Egress(egress) => (port(egress.port, Protocol::Egress), BTreeSet::new()),
                GatewayMode::EastWest | GatewayMode::Transit => (None, BTreeSet::new()),
            };
            Wants {
                workload: &gateway.workload,
                port,
                hosts,
                hosts_from: gateway.hosts_from.as_ref(),
            }
        }
        _ => return None,
    })
}

/// The hosts that a gateway or an API asks for.
pub(super) fn served_hosts(spec: &Spec) -> BTreeSet<Hostname> {
    wants(Some(spec)).map(|wants| wants.hosts).unwrap_or_default()
}

/// The workspace that it stands for, if that may use the workload.
fn workspace(resolver: &Resolver, name: &Fqn, loans: &mut Loans, findings: &mut Vec<Finding>) -> Option<Fqn> {
    let wants = wants(resolver.tree.spec(name))?;
    let workspace = match name.kind() {
        Kind::Api => application::workspace_of(&resolver.tree, name)?,
        _ => name.ancestor(Kind::Workspace)?,
    };
    let usable = may_use(resolver, name, wants.workload, &workspace, loans, findings);
    usable.then_some(workspace)
}

/// What the resource gets of what it wants, given what those before it hold; the rest becomes findings.
fn listener(
    resolver: &Resolver,
    name: &Fqn,
    workspace: &Fqn,
    loans: &mut Loans,
    findings: &mut Vec<Finding>,
) -> Option<Listener> {
    let wants = wants(resolver.tree.spec(name))?;
    let port = wants.port?;
    let lender = wants.hosts_from.filter(|lender| *lender != workspace);
    let mut listener = Listener {
        owner: lender.unwrap_or(workspace).clone(),
        port,
        hosts: BTreeSet::new(),
    };
    if let Some(holder) = listener.port.holder(resolver, name) {
        let claim = Claim {
            what: listener.port.to_string(),
            holder: holder.clone(),
        };
        findings.push(Finding::taken(name, "spec.port", Code::PortTaken, claim));
        return None;
    }
    let mut hosts = wants.hosts;
    if let Some(lender) = lender {
        hosts.retain(|host| match grant::of_host(&resolver.tree, lender, host, name) {
            Some(grant) => {
                loans.hosts.insert(host.clone(), grant.clone());
                true
            }
            None => {
                findings.push(Finding::error(
                    name,
                    "spec.hostsFrom",
                    Code::NotGranted,
                    not_lent(lender, host),
                ));
                false
            }
        });
    }
    for host in hosts {
        match listener.host_holder(resolver, name, &host) {
            None => drop(listener.hosts.insert(host)),
            Some(holder) => {
                let claim = Claim {
                    what: format!("host {host}"),
                    holder: holder.clone(),
                };
                findings.push(Finding::taken(
                    name,
                    hosts_field(name.kind()),
                    Code::HostTaken,
                    claim,
                ));
            }
        }
    }
    Some(listener)
}

impl Port {
    /// What the port cannot be for as well: anything else, and of whole connections also another's.
    fn rivals(&self) -> impl Iterator<Item = Port> {
        let rivals = Protocol::ALL
            .into_iter()
            .filter(|other| *other != self.protocol || self.protocol == Protocol::Tcp);
        rivals.map(|protocol| Port {
            protocol,
            ..self.clone()
        })
    }

    /// The first before `name` that has it for something else.
    fn holder<'a>(&self, resolver: &'a Resolver, name: &Fqn) -> Option<&'a Fqn> {
        let rivals = self.rivals();
        let firsts = rivals.filter_map(|rival| resolver.wanted.held_ports.of(&rival).next());
        firsts.filter(|first| *first < name).min()
    }

    fn is_same_listener(&self, other: &Port) -> bool {
        self.workload == other.workload && self.number == other.number
    }
}

impl Listener {
    fn host_holder<'a>(&self, resolver: &'a Resolver, name: &Fqn, host: &Hostname) -> Option<&'a Fqn> {
        let held = resolver.wanted.held_hosts.intersecting(host);
        let before = held.map(|(_, other)| other).filter(|other| *other < name);
        let holds = |other: &Fqn| {
            resolver
                .listeners
                .get(other)
                .is_some_and(|held| self.excludes(held))
        };
        before.filter(|other| holds(other)).min()
    }

    /// Whether the two may not have one host. One workspace, with those to which it lends, may serve a host on several
    /// listeners; across workspaces a host has one owner, wherever it is served.
    fn excludes(&self, other: &Listener) -> bool {
        self.owner != other.owner || self.port.is_same_listener(&other.port)
    }
}

/// Takes the port that a resource holds now; gives those to which that matters. A port that several have for one thing is
/// kept from others by the first of them alone, so that only who becomes or ceases to be the first matters to anybody.
fn hold_port(wanted: &mut Wanted, name: &Fqn, had: Option<&Port>, has: Option<&Port>) -> BTreeSet<Fqn> {
    let mut concerned = BTreeSet::new();
    if had == has {
        return concerned;
    }
    let mut concern = |wanted: &Wanted, port: &Port| {
        if wanted.held_ports.of(port).next() == Some(name) {
            for rival in port.rivals() {
                concerned.extend(wanted.ports.of(&rival).cloned());
            }
        }
    };
    if let Some(port) = had {
        concern(wanted, port);
        wanted.held_ports.remove(port, name);
    }
    if let Some(port) = has {
        wanted.held_ports.insert(port, name);
        concern(wanted, port);
    }
    concerned
}

/// Takes what a resource holds now; gives those after it to which that matters.
fn hold(resolver: &mut Resolver, name: &Fqn, listener: Option<Listener>) -> BTreeSet<Fqn> {
    let was = resolver.listeners.get(name).cloned();
    let (before, after) = (was.as_deref(), listener.as_ref());
    if before == after {
        return BTreeSet::new();
    }
    let (had, has) = (before.map(|held| &held.port), after.map(|held| &held.port));
    let mut concerned = hold_port(&mut resolver.wanted, name, had, has);
    let moved = match (had, has) {
        (Some(had), Some(has)) => !had.is_same_listener(has),
        _ => true,
    };
    let hosts = |listener: Option<&Listener>| listener.map_or_else(BTreeSet::new, |held| held.hosts.clone());
    let (had, has) = (hosts(before), hosts(after));
    let elsewhere = moved || before.map(|held| &held.owner) != after.map(|held| &held.owner);
    let differs = |host: &&Hostname| elsewhere || had.contains(*host) != has.contains(*host);
    for host in had.union(&has).filter(differs) {
        let others = resolver.wanted.hosts.intersecting(host);
        concerned.extend(others.map(|(_, other)| other.clone()));
    }
    for host in had.difference(&has) {
        resolver.wanted.held_hosts.remove(host, name);
    }
    for host in has.difference(&had) {
        resolver.wanted.held_hosts.insert(host, name);
    }
    match listener {
        Some(listener) => drop(resolver.listeners.insert(name.clone(), Arc::new(listener))),
        None => drop(resolver.listeners.remove(name)),
    }
    concerned.retain(|other| other > name);
    concerned
}

fn lend(resolver: &mut Resolver, name: &Fqn, loans: Loans) {
    let held = &mut resolver.resolved.loans;
    if loans.is_empty() {
        held.remove(name);
    } else if held.get(name).is_none_or(|held| held.value != loans) {
        let origin = Origin::new(name.clone(), "spec");
        held.insert(name.clone(), Arc::new(Traced::new(loans, origin)));
    }
}

fn store(update: &mut Update<'_>, name: &Fqn, gateway: Option<RoutedGateway>) {
    let Some(gateway) = gateway else {
        update.to.resolved.remove_gateway(name);
        return;
    };
    let gateway = Traced::new(gateway, update.origin(name, "spec"));
    let was = update.to.resolved.gateways.get(name);
    if !was.is_some_and(|was| same_gateway(was, &gateway)) {
        update.to.resolved.insert_gateway(name, gateway);
    }
}

/// What planes are to do for it; of what none of them enforces there is nothing, and `enforcement` tells it.
fn routed(
    resolver: &Resolver,
    name: &Fqn,
    workspace: Fqn,
    listener: Option<&Listener>,
    findings: &mut Vec<Finding>,
) -> Option<RoutedGateway> {
    let spec = resolver.tree.spec(name)?;
    let owned = &resolver.resolved.workspaces.get(&workspace)?.value;
    let ingress = |listener: &Listener, rules| RoutedGatewayMode::Ingress {
        port: listener.port.number,
        hosts: listener.hosts.clone(),
        rules,
    };
    let mut conduct = HostConduct::default();
    let (workload, mode) = match spec {
        Spec::Api(api) => {
            let rules = application::rules(name, api, &workspace, owned, findings);
            (&api.workload, ingress(listener?, rules))
        }
        Spec::Gateway(gateway) => match &gateway.mode {
            GatewayMode::EastWest => (&gateway.workload, RoutedGatewayMode::EastWest),
            GatewayMode::Ingress(wanted) => {
                let rules = ingress_rules(name, wanted, &workspace, owned, findings);
                findings.extend(token::check(name, &wanted.policy));
                conduct = self::conduct(&wanted.policy);
                (&gateway.workload, ingress(listener?, rules))
            }
            GatewayMode::Passthrough(passthrough) => {
                let backends = &passthrough.backend_refs;
                own_backends(name, "spec.backendRefs", backends, &workspace, owned, findings);
                return None;
            }
            GatewayMode::Egress(_) | GatewayMode::Transit => return None,
        },
        _ => return None,
    };
    Some(RoutedGateway {
        workload: workload.clone(),
        workspace,
        mode,
        conduct,
    })
}

/// What is enforced of a policy.
fn conduct(policy: &HostPolicy) -> HostConduct {
    let jwt = policy.jwt.as_ref().map(token::issuers);
    // Without anybody whose tokens count, or where nobody can tell who is to be kept out, nobody gets in.
    let shuts = jwt.as_ref().is_some_and(Issuers::is_empty)
        || policy.authorization.iter().any(|authorization| {
            let mut denies = authorization.deny.iter();
            denies.any(|rule| token::is_blind(rule, jwt.as_ref()))
        });
    let access = if shuts {
        Some(Access::nobody())
    } else {
        policy.authorization.as_ref().map(access)
    };
    let jwt = jwt.filter(|issuers| !issuers.is_empty());
    HostConduct {
        cors: policy.cors.clone(),
        jwt,
        access,
        rate_limit: policy.rate_limit.as_ref().and_then(rate_limit),
    }
}

/// A limit that counts some requests apart is not the same as one for all of them together, which would keep out those who stay
/// within it: where nobody can count them apart there is none instead.
fn rate_limit(wanted: &intent::RateLimit) -> Option<RateLimit> {
    let over = match (wanted.over, &wanted.by) {
        (RateLimitScope::Proxy, None) => Over::Proxy,
        (RateLimitScope::Gateway, None) => Over::Gateway { by: None },
        (RateLimitScope::Gateway, Some(RateLimitKey::Header(name))) => Over::Gateway {
            by: Some(name.clone()),
        },
        (RateLimitScope::Gateway, Some(RateLimitKey::Client)) | (RateLimitScope::Proxy, Some(_)) => {
            return None;
        }
    };
    Some(RateLimit {
        requests: wanted.requests,
        per: wanted.per,
        over,
    })
}

fn access(wanted: &Authorization) -> Access {
    let made = |rule: &intent::AccessRule| AccessRule {
        sources: rule.sources.clone(),
        claims: rule.claims.clone(),
        methods: rule.methods.clone(),
        paths: rule.paths.clone(),
    };
    let rules = |rules: &[intent::AccessRule]| {
        let rules = rules.iter().filter(|rule| token::can_match(rule));
        rules.map(made).collect()
    };
    Access {
        allow: rules(&wanted.allow),
        deny: rules(&wanted.deny),
    }
}

/// A workload in a namespace of its own workspace, in one that nobody owns - shared infrastructure -, or in one whose
/// owner lends it.
fn may_use(
    resolver: &Resolver,
    name: &Fqn,
    workload: &WorkloadId,
    workspace: &Fqn,
    loans: &mut Loans,
    findings: &mut Vec<Finding>,
) -> bool {
    let owners = resolver.resolved.owners_somewhere(&workload.namespace);
    let Some(first) = owners.first() else {
        return true;
    };
    let others = owners.iter().filter(|owner| **owner != workspace);
    let lent = others.filter_map(|owner| {
        let grant = grant::of_workload(&resolver.tree, owner, workload, name)?;
        Some(((*owner).clone(), grant.clone()))
    });
    loans.workload = lent.collect();
    if owners.contains(workspace) || !loans.workload.is_empty() {
        return true;
    }
    let message = format!(
        "workload {workload} is in a namespace that {first} owns; ask its owner for a reference grant, or use a workload in a namespace of {workspace}, or in one that no workspace owns"
    );
    findings.push(Finding::error(name, "spec.workload", Code::NotGranted, message));
    false
}

fn not_lent(lender: &Fqn, host: &Hostname) -> String {
    format!(
        "{lender} does not lend host {host}; ask its owner for a reference grant, or leave hostsFrom out to claim the host"
    )
}

impl Protocol {
    const ALL: [Protocol; 4] = [Protocol::Http, Protocol::Tls, Protocol::Tcp, Protocol::Egress];
}

/// As a claim names it.
impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Port {
            workload,
            number,
            protocol,
        } = self;
        write!(f, "port {number} of workload {workload}, for {protocol},")
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Http => "HTTP",
            Protocol::Tls => "TLS",
            Protocol::Tcp => "TCP",
            Protocol::Egress => "requests that leave the mesh",
        })
    }
}

fn ingress_rules(
    name: &Fqn,
    ingress: &Ingress,
    workspace: &Fqn,
    resolved: &ResolvedWorkspace,
    findings: &mut Vec<Finding>,
) -> Vec<Traced<GatewayRule>> {
    if let Some(redirect) = &ingress.policy.redirect {
        let rule = GatewayRule::new(Vec::new(), GatewayAction::Redirect(redirect.to()));
        return vec![Traced::new(rule, Origin::new(name.clone(), "spec.redirect"))];
    }
    let rules = &ingress.rules;
    let outcomes: Vec<(GatewayAction, Edits, Conduct)> = rules
        .iter()
        .enumerate()
        .map(|(at, rule)| match rules::effect(name, at, rule, findings) {
            Ok(Effect::Pass(edits, mirrors)) => {
                let field = format!("spec.rules[{at}].backendRefs");
                let action = split(name, &field, &rule.backend_refs, workspace, resolved, findings);
                let owned = Mirrored::ByGateway {
                    workspace,
                    owned: resolved,
                };
                let conduct = rules::conduct(name, at, rule, &mirrors, &owned, findings);
                (action, *edits, conduct)
            }
            Ok(Effect::Redirect(to)) => (GatewayAction::Redirect(*to), Edits::default(), Conduct::default()),
            Err(reason) => (
                GatewayAction::Refuse(reason),
                Edits::default(),
                Conduct::default(),
            ),
        })
        .collect();
    rules::ordered(name, rules, findings)
        .into_iter()
        .map(|ordered| {
            let (action, edits, conduct) = outcomes[ordered.at].clone();
            let rule = GatewayRule {
                matches: ordered.matches.into_iter().collect(),
                action,
                edits,
                timeout: ordered.rule.timeouts.map(|timeouts| timeouts.request),
                retry: ordered.rule.retry.clone(),
                conduct,
            };
            let field = format!("spec.rules[{}]", ordered.at);
            Traced::new(rule, Origin::new(name.clone(), field))
        })
        .collect()
}

/// Sends to services of the workspace, or refuses.
pub(super) fn split(
    name: &Fqn,
    field: &str,
    backends: &[ServiceBackend],
    workspace: &Fqn,
    resolved: &ResolvedWorkspace,
    findings: &mut Vec<Finding>,
) -> GatewayAction {
    let shares = match shares(backends) {
        Ok(shares) => shares,
        Err(bad) => {
            findings.push(Finding::error(name, field, Code::BadWeights, bad.to_string()));
            return GatewayAction::Refuse(format!("this route is not valid: {bad}"));
        }
    };
    if let Some(foreign) = own_backends(name, field, backends, workspace, resolved, findings) {
        let (namespace, service) = (&foreign.namespace, &foreign.name);
        return GatewayAction::Refuse(format!(
            "this route is not valid: its workspace does not own service {namespace}/{service}"
        ));
    }
    let targets = backends.iter().zip(shares).map(|(backend, share)| {
        let id = ServiceId {
            namespace: backend.namespace.clone(),
            name: backend.name.clone(),
        };
        (id, backend.port, share)
    });
    GatewayAction::Split(targets.collect())
}

/// A gateway sends to services of its own workspace: the first backend that is none of them.
fn own_backends<'a>(
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Else each of the thousands that share a port of one workload would look at all others.
    #[test]
    fn the_first_that_has_a_port_keeps_it_from_others_and_those_behind_it_do_not_matter() {
        use Protocol::{Http, Tcp, Tls};
        let name = |leaf: &str| -> Fqn {
            let name = format!("organizations/acme/tenants/a/workspaces/w/gatewaygroups/g/gateways/{leaf}");
            name.parse().unwrap()
        };
        let port = |protocol| Port {
            workload: "mesh/gateway".parse().unwrap(),
            number: 8080,
            protocol,
        };
        let mut wanted = Wanted::default();
        for (leaf, protocol) in [("a", Http), ("b", Http), ("c", Tls), ("d", Tcp), ("e", Tcp)] {
            wanted.ports.insert(&port(protocol), &name(leaf));
        }
        for (leaf, had, has, expected) in [
            ("b", None, Some(Http), "c d e"),
            ("a", None, Some(Http), "c d e"),
            ("b", Some(Http), None, ""),
            ("b", None, Some(Http), ""),
            ("a", Some(Http), None, "c d e"),
            ("b", Some(Http), Some(Tls), "a b c d e"),
            ("d", None, Some(Tcp), "a b c d e"),
            ("e", None, Some(Tcp), ""),
        ] {
            let (had, has) = (had.map(port), has.map(port));
            let concerned = hold_port(&mut wanted, &name(leaf), had.as_ref(), has.as_ref());
            let concerned: Vec<&str> = concerned.iter().map(Fqn::leaf).collect();
            assert_eq!(
                concerned.join(" "),
                expected,
                "{leaf} has {has:?} instead of {had:?}"
            );
        }
    }

    #[test]
    fn who_is_to_be_kept_out_and_cannot_be_told_shuts_the_gateway() {
        let jwt = json!({"issuers": [{"issuer": "a", "jwksUri": "https://a.example.com/"}]});
        let bad = json!({"claims": {"role": ["bad"]}});
        let near = json!({"sources": ["10.0.0.0/8"]});
        for (jwt, deny, shut) in [
            (None, json!([bad]), true),
            (None, json!([near, bad]), true),
            (None, json!([near]), false),
            (Some(&jwt), json!([bad]), false),
            (Some(&jwt), json!([bad, {"claims": {"role": []}}]), true),
            (Some(&jwt), json!([{"claims": {"scope": ["read write"]}}]), true),
        ] {
            let policy = HostPolicy {
                jwt: jwt.map(|jwt| serde_json::from_value(jwt.clone()).unwrap()),
                authorization: serde_json::from_value(json!({"allow": [{}], "deny": deny})).unwrap(),
                ..HostPolicy::default()
            };
            let access = conduct(&policy).access;
            assert_eq!(access == Some(Access::nobody()), shut, "{jwt:?} {deny}");
        }
    }

    #[test]
    fn a_limit_is_counted_as_it_says_or_not_at_all() {
        let by_user = json!({"header": "X-User"});
        let over = |by: Option<&str>| Over::Gateway {
            by: by.map(|by| by.to_owned().try_into().unwrap()),
        };
        for (scope, by, expected) in [
            (None, None, Some(Over::Proxy)),
            (Some("Proxy"), None, Some(Over::Proxy)),
            (None, Some(&by_user), None),
            (Some("Proxy"), Some(&json!("client")), None),
            (Some("Gateway"), None, Some(over(None))),
            (Some("Gateway"), Some(&by_user), Some(over(Some("x-user")))),
            (Some("Gateway"), Some(&json!("client")), None),
        ] {
            let mut wanted = json!({"requests": 1, "per": "1s"});
            if let Some(scope) = scope {
                wanted["over"] = scope.into();
            }
            if let Some(by) = by {
                wanted["by"] = by.clone();
            }
            let limit = rate_limit(&serde_json::from_value(wanted.clone()).unwrap());
            assert_eq!(limit.map(|limit| limit.over), expected, "{wanted}");
        }
    }
}
