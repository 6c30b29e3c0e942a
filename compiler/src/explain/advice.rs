//! What would have to change so that something takes a request that nothing takes.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::Serialize;

use super::part::Asked;
use super::{Entry, Outcome, Place, Stage, Trace};
use crate::finding::{Code, Finding, Traced};
use crate::lower::named_service;
use crate::name::{ClusterName, Fqn, Hostname, Kind, Label, ServiceId, WorkloadId};
use crate::resolve::{ResolvedWorkspace, listed};
use crate::routes::{RoutedGateway, RoutedGatewayMode};

/// More of these help nobody.
const GATEWAYS_MAX: usize = 5;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Advice {
    /// A sentence without a full stop.
    pub told: String,
    /// Those that it names.
    pub resources: Vec<Fqn>,
}

impl Advice {
    fn new(told: String) -> Advice {
        Advice {
            told,
            resources: Vec::new(),
        }
    }

    fn about<'a>(told: String, resources: impl IntoIterator<Item = &'a Fqn>) -> Advice {
        Advice {
            told,
            resources: resources.into_iter().cloned().collect(),
        }
    }
}

impl Asked<'_> {
    /// Where nothing of that name stands.
    pub(super) fn advice_without_entry(&self, place: &Place) -> Vec<Advice> {
        let Place::Gateway(name) = place else {
            let clusters = listed(self.inputs.resolved.clusters.keys());
            return vec![Advice::new(format!("the clusters are: {clusters}"))];
        };
        let named = self.inputs.gateways_named(name);
        named
            .filter(|(name, _)| (self.may_name)(name))
            .take(GATEWAYS_MAX)
            .map(|(fqn, gateway)| self.runs_elsewhere(fqn, &gateway.value))
            .collect()
    }

    pub(super) fn advice<'f>(
        &self,
        entry: &Entry,
        trace: &Trace,
        findings: impl IntoIterator<Item = &'f Finding>,
    ) -> Vec<Advice> {
        if let Some(withheld) = self.withheld(entry) {
            return vec![withheld];
        }
        if let Outcome::Forward { targets, .. } = &trace.outcome {
            let nowhere = targets.iter().filter(|target| target.places.is_empty());
            let told = nowhere.map(|target| {
                Advice::new(format!(
                    "no cluster that can be reached has instances for {}: deploy some, or give a cluster that has them an east-west gateway",
                    target.upstream
                ))
            });
            return told.collect();
        }
        if is_decided_by_a_rule(trace) {
            return Vec::new();
        }
        match entry {
            Entry::Sidecar(namespace) => self.for_sidecar(namespace),
            Entry::Ingress(workload) => self.for_ingress(workload, findings),
            Entry::EastWest(_) => Vec::new(),
        }
    }

    fn for_sidecar(&self, namespace: &Label) -> Vec<Advice> {
        let owner = self.inputs.owner(self.cluster, namespace);
        let host = self.request.host();
        let owner = owner.map(|(name, _)| name);
        let Some(id) = named_service(host, namespace) else {
            let holders = self.gateways_with_host();
            if holders.is_empty() {
                return vec![Advice::new(format!(
                    "{host} is no name of a service; call it SERVICE.NAMESPACE.svc.clusterset.local, SERVICE.NAMESPACE or, in its own namespace, SERVICE"
                ))];
            }
            return holders
                .into_iter()
                .map(|(name, _)| {
                    let told = format!(
                        "gateway {name} has host {host} for requests from outside the mesh; inside, call the service by its own name"
                    );
                    Advice::about(told, [name])
                })
                .collect();
        };
        self.for_service(&id, owner)
    }

    /// For a service that the viewpoint does not reach.
    fn for_service(&self, id: &ServiceId, owner: Option<&Fqn>) -> Vec<Advice> {
        let offering: Vec<&ClusterName> = self
            .inputs
            .reports()
            .filter(|(_, report)| report.services.contains_key(id))
            .map(|(cluster, _)| cluster)
            .collect();
        if offering.is_empty() {
            return vec![Advice::new(format!(
                "no cluster reports a service {id}; check the name, or deploy it"
            ))];
        }
        let mut advice = Vec::new();
        let mut strangers = BTreeSet::new();
        for cluster in offering {
            match (self.inputs.owner(cluster, &id.namespace).map(|(name, _)| name), owner) {
                (Some(theirs), Some(ours)) if theirs == ours => advice.push(self.at_other_port(id, cluster, ours)),
                (Some(theirs), _) => drop(strangers.insert(theirs)),
                (None, Some(ours)) => advice.push(Advice::about(
                    format!(
                        "{cluster} has service {id} in a namespace that no workspace owns; add {cluster}/{} to the namespaces of {ours} to reach it",
                        id.namespace
                    ),
                    [ours],
                )),
                (None, None) => advice.push(Advice::new(format!(
                    "{cluster} has service {id}, and a namespace that no workspace owns reaches its own services only; have a workspace own both"
                ))),
            }
        }
        for theirs in strangers {
            let told = format!(
                "service {id} belongs to {theirs}; a sidecar reaches services of its own workspace only, so call it through a gateway of that one"
            );
            advice.push(Advice::about(told, [theirs]));
        }
        advice.dedup();
        advice
    }

    fn at_other_port(&self, id: &ServiceId, cluster: &ClusterName, owner: &Fqn) -> Advice {
        let report = self
            .inputs
            .report(cluster)
            .and_then(|report| report.services.get(id));
        let ports = report.map_or(&[][..], |report| &report.ports);
        let ports = listed(
            ports
                .iter()
                .map(|port| format!("{} ({:?})", port.port, port.protocol)),
        );
        let told = format!("in {cluster} service {id} has ports {ports}; name one of them that is not Tcp");
        Advice::about(told, [owner])
    }

    fn for_ingress<'f>(
        &self,
        workload: &WorkloadId,
        findings: impl IntoIterator<Item = &'f Finding>,
    ) -> Vec<Advice> {
        let host = self.request.host();
        let holders = self.gateways_with_host();
        let mut advice: Vec<Advice> = holders
            .iter()
            .take(GATEWAYS_MAX)
            .map(|(name, gateway)| self.serves(name, gateway, workload))
            .collect();
        let losers = findings.into_iter().filter(|finding| {
            let what = finding
                .claim
                .as_ref()
                .and_then(|claim| claim.what.strip_prefix("host "));
            finding.code == Code::HostTaken && what.is_some_and(|what| covers(what, host))
        });
        advice.extend(losers.map(|finding| {
            let holder = finding.claim.as_ref().map(|claim| &claim.holder);
            Advice::about(finding.to_string(), holder.into_iter().chain([&finding.resource]))
        }));
        if advice.is_empty() {
            advice.push(Advice::new(format!(
                "no gateway has host {host}; add it to the hosts of a gateway on workload {workload}"
            )));
        }
        advice
    }

    /// What a gateway that has the host lacks to take the request at a workload of this cluster.
    fn serves(&self, name: &Fqn, gateway: &RoutedGateway, workload: &WorkloadId) -> Advice {
        let (cluster, host) = (self.cluster, self.request.host());
        if !self.inputs.runs(name, gateway, cluster) {
            return self.runs_elsewhere(name, gateway);
        }
        let RoutedGatewayMode::Ingress { port, .. } = &gateway.mode else {
            return self.runs_elsewhere(name, gateway);
        };
        let told = if gateway.workload != *workload {
            format!(
                "gateway {name} serves host {host} in {cluster} on another workload, {}",
                gateway.workload
            )
        } else if self.request.port().is_some_and(|asked| asked != *port) {
            format!("gateway {name} serves host {host} on port {port} of this workload")
        } else {
            match name.kind() {
                Kind::Api => format!(
                    "API {name} has host {host}; its document describes no such operation, so add it, or correct the request"
                ),
                _ => format!("gateway {name} has host {host}; give it a rule that matches the request"),
            }
        };
        Advice::about(told, [name])
    }

    fn runs_elsewhere(&self, name: &Fqn, gateway: &RoutedGateway) -> Advice {
        let clusters = self.inputs.resolved.clusters.keys();
        let runs: Vec<&ClusterName> = clusters
            .filter(|cluster| self.inputs.runs(name, gateway, cluster))
            .collect();
        let (cluster, host) = (self.cluster, self.request.host());
        let told = if runs.is_empty() {
            format!(
                "gateway {name} runs nowhere: no cluster of its workspace has a workload {} that it may use",
                gateway.workload
            )
        } else {
            format!(
                "no gateway in {cluster} serves the host {host}; gateway {name} does in {}",
                listed(runs)
            )
        };
        Advice::about(told, [name])
    }

    /// While a cluster that a workspace reaches is unknown, nothing of it is planned.
    fn withheld(&self, entry: &Entry) -> Option<Advice> {
        if self.inputs.unknown.is_empty() {
            return None;
        }
        let workspaces = match entry {
            Entry::Sidecar(namespace) => Vec::from_iter(self.inputs.owner(self.cluster, namespace)),
            Entry::Ingress(_) | Entry::EastWest(_) => {
                let holders = self.gateways_with_host().into_iter();
                let owners = holders.filter_map(|(_, gateway)| {
                    let workspaces = &self.inputs.resolved.workspaces;
                    let (name, workspace) = workspaces.get_key_value(&gateway.workspace)?;
                    Some((name, &**workspace))
                });
                owners.collect()
            }
        };
        let withheld =
            |workspace: &&(&Fqn, &Traced<ResolvedWorkspace>)| self.inputs.is_withheld(&workspace.1.value);
        let (workspace, _) = workspaces.iter().find(withheld)?;
        let told = format!(
            "{} joined and was not heard of since, so what concerns {workspace} is withheld: the edges keep what they have",
            listed(&self.inputs.unknown)
        );
        Some(Advice::about(told, [*workspace]))
    }

    fn gateways_with_host(&self) -> Vec<(&Fqn, &RoutedGateway)> {
        let Ok(host) = self.request.host().parse::<Hostname>() else {
            return Vec::new();
        };
        let gateways = self.inputs.resolved.gateways.iter();
        gateways
            .map(|(name, gateway)| (name, &gateway.value))
            .filter(|(_, gateway)| match &gateway.mode {
                RoutedGatewayMode::Ingress { hosts, .. } => hosts.iter().any(|held| held.intersects(&host)),
                RoutedGatewayMode::EastWest => false,
            })
            .collect()
    }
}

/// A rule took the request and refuses it: its reason says what to do.
fn is_decided_by_a_rule(trace: &Trace) -> bool {
    trace.steps.last().is_some_and(|step| match step.stage {
        Stage::Entry | Stage::Host | Stage::Grant | Stage::Failover => false,
        Stage::GatewayRule => step.origin.is_some(),
        Stage::ServiceRule => true,
    })
}

fn covers(pattern: &str, host: &str) -> bool {
    match (pattern.parse::<Hostname>(), host.parse::<Hostname>()) {
        (Ok(pattern), Ok(host)) => pattern.intersects(&host),
        _ => false,
    }
}
