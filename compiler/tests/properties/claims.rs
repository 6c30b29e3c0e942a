//! Claims as they are defined: each is compared with all before it. The index must find the same without looking at all.

use std::collections::{BTreeMap, BTreeSet};

use tombolo_compiler::finding::{Claim, Code, Finding};
use tombolo_compiler::intent::{Connections, GatewayMode, Intent, ReferenceGrant, Spec};
use tombolo_compiler::name::{Fqn, Hostname, Kind, WorkloadId};
use tombolo_compiler::resolve::{Resolved, resolve};
use tombolo_compiler::routes::RoutedGatewayMode;
use tombolo_compiler::selector::Selector;

type Claims = BTreeMap<(Fqn, String), Fqn>;

pub(crate) fn agree_with_the_definition(intent: &Intent) {
    let (resolved, findings) = resolve(intent);
    namespaces(intent, &resolved, &findings);
    hosts(intent, &resolved, &findings);
}

/// What is claimed in vain, with its holder.
fn lost(findings: &[Finding], code: Code) -> Claims {
    let lost = findings.iter().filter(|finding| finding.code == code);
    lost.filter_map(|finding| {
        let Claim { what, holder } = finding.claim.clone()?;
        Some(((finding.resource.clone(), what), holder))
    })
    .collect()
}

fn namespaces(intent: &Intent, resolved: &Resolved, findings: &[Finding]) {
    let mut held: Vec<(Fqn, Selector)> = Vec::new();
    let mut expected = Claims::new();
    for name in resolved.workspaces.keys() {
        let Spec::Workspace(workspace) = &intent[name].spec else {
            panic!("{name}");
        };
        let is_known = |cluster: &str| resolved.clusters.contains_key(cluster);
        for selector in &workspace.namespaces {
            let holder = held
                .iter()
                .find(|(owner, other)| owner != name && other.intersects(selector));
            match holder {
                _ if !selector.exact_cluster().is_none_or(is_known) => {}
                Some((owner, _)) => {
                    let what = format!("namespace selector {selector}");
                    expected.insert((name.clone(), what), owner.clone());
                }
                None => held.push((name.clone(), selector.clone())),
            }
        }
    }
    let found: Vec<(Fqn, Selector)> = resolved
        .workspaces
        .iter()
        .flat_map(|(name, workspace)| {
            let selectors = workspace.value.namespaces.iter();
            selectors.map(|selector| (name.clone(), selector.clone()))
        })
        .collect();
    assert_eq!(found, held);
    assert_eq!(lost(findings, Code::NamespaceTaken), expected);
}

fn hosts(intent: &Intent, resolved: &Resolved, findings: &[Finding]) {
    let mut ports: Vec<(&Fqn, Wanted)> = Vec::new();
    let mut held: Vec<(&Fqn, Wanted, Hostname)> = Vec::new();
    let (mut expected_ports, mut expected_hosts) = (Claims::new(), Claims::new());
    for (name, resource) in intent {
        let Some(wanted) = Wanted::of(name, &resource.spec, intent) else {
            continue;
        };
        if !wanted.is_allowed(name, intent, resolved) {
            continue;
        }
        let wanted = wanted.granted(name, intent);
        let same_port = |other: &Wanted| (&other.workload, other.port) == (&wanted.workload, wanted.port);
        let holder = ports.iter().find(|(_, other)| {
            same_port(other) && (other.protocol != wanted.protocol || wanted.protocol == "TCP")
        });
        if let Some((holder, _)) = holder {
            let what = format!(
                "port {} of workload {}, for {},",
                wanted.port, wanted.workload, wanted.protocol
            );
            expected_ports.insert((name.clone(), what), (*holder).clone());
            continue;
        }
        for host in &wanted.hosts {
            let holder = held.iter().find(|(owner, other, claimed)| {
                let excluded = other.owner != wanted.owner || same_port(other);
                *owner != name && claimed.intersects(host) && excluded
            });
            match holder {
                Some((owner, ..)) => {
                    expected_hosts.insert((name.clone(), format!("host {host}")), (*owner).clone());
                }
                None => held.push((name, wanted.clone(), host.clone())),
            }
        }
        ports.push((name, wanted));
    }
    assert_eq!(lost(findings, Code::PortTaken), expected_ports);
    assert_eq!(lost(findings, Code::HostTaken), expected_hosts);
    for (name, gateway) in &resolved.gateways {
        if let RoutedGatewayMode::Ingress { hosts, .. } = &gateway.value.mode {
            let held = held.iter().filter(|(owner, ..)| *owner == name);
            assert!(hosts.iter().eq(held.map(|(.., host)| host)), "{name}");
        }
    }
}

#[derive(Clone)]
struct Wanted {
    workspace: Fqn,
    /// Whose the hosts are.
    owner: Fqn,
    workload: WorkloadId,
    port: u16,
    protocol: &'static str,
    hosts: BTreeSet<Hostname>,
}

impl Wanted {
    fn of(name: &Fqn, spec: &Spec, intent: &Intent) -> Option<Wanted> {
        let (workspace, workload) = match spec {
            Spec::Gateway(gateway) => (name.ancestor(Kind::Workspace)?, &gateway.workload),
            Spec::Api(api) => (serving(name, intent)?, &api.workload),
            _ => return None,
        };
        let (port, protocol, hosts) = match spec {
            Spec::Api(api) => {
                let hosts = api.openapi.hosts.iter().cloned();
                (api.port.get(), "HTTP", hosts.collect())
            }
            Spec::Gateway(gateway) => match &gateway.mode {
                GatewayMode::Ingress(ingress) => (ingress.port, "HTTP", ingress.hosts.clone()),
                GatewayMode::Passthrough(passthrough) => match &passthrough.connections {
                    Connections::Tls(hosts) => (passthrough.port, "TLS", hosts.clone()),
                    Connections::Tcp => (passthrough.port, "TCP", BTreeSet::new()),
                },
                _ => return None,
            },
            _ => return None,
        };
        let hosts_from = match spec {
            Spec::Gateway(gateway) => gateway.hosts_from.clone(),
            Spec::Api(api) => api.hosts_from.clone(),
            _ => None,
        };
        Some(Wanted {
            owner: hosts_from.unwrap_or_else(|| workspace.clone()),
            workspace,
            workload: workload.clone(),
            port,
            protocol,
            hosts,
        })
    }

    /// Without what the owner of the hosts does not lend.
    fn granted(mut self, name: &Fqn, intent: &Intent) -> Wanted {
        if self.owner != self.workspace {
            let grants: Vec<&ReferenceGrant> = grants(&self.owner, intent).collect();
            self.hosts
                .retain(|host| grants.iter().any(|grant| grant.lends_host(host, name)));
        }
        self
    }

    /// It has an effect, and its workload is its workspace's or nobody's, or lent by an owner.
    fn is_allowed(&self, name: &Fqn, intent: &Intent, resolved: &Resolved) -> bool {
        let namespace = &self.workload.namespace;
        let workspaces = resolved.workspaces.iter();
        let mut owners = workspaces
            .filter(|(_, workspace)| workspace.value.owns_somewhere(namespace))
            .peekable();
        let lends =
            |owner: &Fqn| grants(owner, intent).any(|grant| grant.lends_workload(&self.workload, name));
        let usable =
            owners.peek().is_none() || owners.any(|(owner, _)| *owner == self.workspace || lends(owner));
        usable && name.above().all(|above| intent.contains_key(above))
    }
}

/// The grants of a workspace that have an effect.
pub(crate) fn grants<'a>(lender: &'a Fqn, intent: &'a Intent) -> impl Iterator<Item = &'a ReferenceGrant> {
    let grants = intent
        .values()
        .filter(move |resource| resource.name.parent().as_ref() == Some(lender));
    let stands = |name: &Fqn| name.above().all(|above| intent.contains_key(above));
    grants
        .filter(move |resource| stands(&resource.name))
        .filter_map(|resource| match &resource.spec {
            Spec::ReferenceGrant(grant) => Some(grant),
            _ => None,
        })
}

/// The workspace that answers for an API.
fn serving(api: &Fqn, intent: &Intent) -> Option<Fqn> {
    let application = api.parent()?;
    let Spec::Application(served) = &intent.get(&application)?.spec else {
        return None;
    };
    let workspace = &served.workspace;
    let stands = intent.contains_key(workspace) && workspace.above().all(|above| intent.contains_key(above));
    (stands && workspace.parent() == application.parent()).then(|| workspace.clone())
}
