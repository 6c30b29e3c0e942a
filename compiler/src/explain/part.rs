//! The part of the mesh that one request touches: planned by key as everything is, so that a question costs what it is
//! about, and not what the mesh is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use super::request::Request;
use super::{Entry, Outcome, Place, Stage, Step, Trace, trace};
use crate::finding::Origin;
use crate::lower::{named_service, upstream_prefix};
use crate::name::{ClusterName, Fqn, Hostname, Kind, Label, ServiceId, WorkloadId};
use crate::plan::{Inputs, PlanKey, part};
use crate::report::{ClusterReport, GatewayReport, ServiceReport};
use crate::routes::{RoutedGateway, RoutedGatewayMode, RoutedService, Slice, SliceItem};
use crate::view::{HealthCheck, Instance, LocalGateway, LocalPort, LocalService, View};

/// What is asked, and of what.
pub(super) struct Asked<'a> {
    pub(super) inputs: &'a Inputs<'a>,
    pub(super) cluster: &'a ClusterName,
    pub(super) request: &'a Request,
    pub(super) may_name: &'a dyn Fn(&Fqn) -> bool,
}

impl<'a> Asked<'a> {
    /// The proxy at a viewpoint, or why there is none.
    pub(super) fn entry(&self, place: &Place) -> Result<Entry, String> {
        let cluster = self.cluster;
        if !self.inputs.resolved.clusters.contains_key(cluster) {
            return Err(format!("cluster {cluster} does not exist"));
        }
        let name = match place {
            Place::Application(service) => return Ok(Entry::Sidecar(service.namespace.clone())),
            Place::Gateway(name) => name,
        };
        let named = self.inputs.gateways_named(name);
        let named = named
            .filter(|(name, _)| (self.may_name)(name))
            .map(|(name, gateway)| (name, &gateway.value));
        let here: BTreeSet<&WorkloadId> = named
            .filter(|(_, gateway)| gateway.mode != RoutedGatewayMode::EastWest)
            .filter(|(name, gateway)| self.inputs.runs(name, gateway, cluster))
            .map(|(_, gateway)| &gateway.workload)
            .collect();
        let mut here = here.into_iter();
        match (here.next(), here.next()) {
            (Some(only), None) => Ok(Entry::Ingress(only.clone())),
            (None, _) => Err(format!(
                "no ingress gateway named {name} runs in cluster {cluster}"
            )),
            (Some(_), Some(_)) => Err(format!(
                "ingress gateways named {name} run on several workloads of cluster {cluster}, so it is not clear which is meant; give them different names"
            )),
        }
    }

    /// What the proxy makes of that part of what its edge would hold.
    pub(super) fn trace(&self, entry: &Entry) -> Trace {
        let traced = |(slice, view): (Slice, View)| {
            let trace = trace(self.cluster, &slice, &view, entry, self.request);
            self.with_failover(trace, &slice)
        };
        match entry {
            Entry::Sidecar(namespace) => {
                let meant = named_service(self.request.host(), namespace);
                let near = traced(self.of_sidecar(namespace, &meant.into_iter().collect()));
                if near.steps.iter().any(|step| step.stage == Stage::Host) {
                    return near;
                }
                // The refusal tells what could be reached instead.
                traced(self.of_sidecar(namespace, &self.reachable(namespace)))
            }
            Entry::Ingress(workload) | Entry::EastWest(workload) => {
                self.with_grants(traced(self.of_gateway(workload)))
            }
        }
    }

    /// What allows a gateway to be where it is, told after the gateway: routes say nothing of grants.
    fn with_grants(&self, mut trace: Trace) -> Trace {
        let Some(at) = trace.steps.iter().position(|step| step.stage == Stage::Host) else {
            return trace;
        };
        let gateway = trace.steps[at].origin.as_ref().map(|origin| &origin.resource);
        let granted: Vec<Step> = gateway
            .into_iter()
            .flat_map(|gateway| self.granted(gateway))
            .collect();
        trace.steps.splice(at + 1..at + 1, granted);
        trace
    }

    fn granted(&self, name: &Fqn) -> Vec<Step> {
        let resolved = self.inputs.resolved;
        let (Some(loans), Some(gateway)) = (resolved.loans.get(name), resolved.gateways.get(name)) else {
            return Vec::new();
        };
        let workload = &gateway.value.workload;
        let owner = resolved.owner(self.cluster, &workload.namespace);
        let lent = owner.and_then(|owner| Some((owner, loans.value.workload.get(owner)?)));
        let lent = lent.map(|(owner, grant)| {
            let told = format!("{} lends it workload {workload}", owner.leaf());
            (told, "spec.to.workloads", grant)
        });
        let host = self.request.host().parse::<Hostname>().ok();
        let hosts = loans.value.hosts.iter();
        let hosts = hosts.filter(|(lent, _)| host.as_ref().is_some_and(|host| lent.intersects(host)));
        let hosts = hosts.map(|(host, grant)| {
            let lender = grant.ancestor(Kind::Workspace);
            let lender = lender.as_ref().map_or("its owner", |lender| lender.leaf());
            (format!("{lender} lends it host {host}"), "spec.to.hosts", grant)
        });
        lent.into_iter()
            .chain(hosts)
            .map(|(told, field, grant)| Step {
                stage: Stage::Grant,
                told,
                origin: Some(Origin::new(grant.clone(), field)),
                tried: Vec::new(),
            })
            .collect()
    }

    /// In what order the clusters of each service are tried, told at the end: routes say the order and not who decided it.
    fn with_failover(&self, mut trace: Trace, slice: &Slice) -> Trace {
        let Outcome::Forward { targets, .. } = &trace.outcome else {
            return trace;
        };
        let services = slice.items.values().filter_map(|item| match item {
            SliceItem::Service(service) => Some(&service.value),
            _ => None,
        });
        let met = services.filter(|service| {
            let prefix = upstream_prefix(Some(&service.workspace), &service.id);
            let is_met = targets.iter().any(|target| target.upstream.starts_with(&prefix));
            is_met && !service.remotes.is_empty()
        });
        let steps: Vec<Step> = met.filter_map(|service| self.failover(service)).collect();
        trace.steps.extend(steps);
        trace
    }

    fn failover(&self, service: &RoutedService) -> Option<Step> {
        let workspace = self.inputs.resolved.workspaces.get(&service.workspace)?;
        let region = &self.inputs.resolved.clusters.get(self.cluster)?.value.region;
        let failover = workspace.value.failover_in(self.cluster, &service.id.namespace);
        let own = failover.value.iter().filter(|entry| entry.from == *region);
        let order: Vec<String> = own
            .flat_map(|entry| &entry.to)
            .map(|region| format!("region {region}"))
            .chain(["any other".to_owned()])
            .collect();
        let told = format!(
            "service {} is served by {} itself, then by the other clusters of region {region}, then by {}",
            service.id,
            self.cluster,
            order.join(", then by ")
        );
        Some(Step {
            stage: Stage::Failover,
            told,
            origin: failover.origin.clone(),
            tried: Vec::new(),
        })
    }

    fn of_sidecar(&self, namespace: &Label, services: &BTreeSet<ServiceId>) -> (Slice, View) {
        let from = PlanKey::Namespace(self.cluster.clone(), namespace.clone());
        let owner = self.inputs.owner(self.cluster, namespace);
        self.with_services([from], owner.map(|(name, _)| name), services)
    }

    fn reachable(&self, namespace: &Label) -> BTreeSet<ServiceId> {
        match self.inputs.owner(self.cluster, namespace) {
            Some((owner, _)) => self.inputs.services_of(owner),
            None => self.services_in(namespace),
        }
    }

    fn services_in(&self, namespace: &Label) -> BTreeSet<ServiceId> {
        let services = self.report().map(|report| report.services.keys());
        let services = services.into_iter().flatten();
        services
            .filter(|id| id.namespace == *namespace)
            .cloned()
            .collect()
    }

    /// All gateways on the workload that have the host; of the others one for each port, so that it is listened to.
    fn of_gateway(&self, workload: &WorkloadId) -> (Slice, View) {
        let host = self.request.host().parse::<Hostname>().ok();
        let mut serving: Vec<(&Fqn, &RoutedGateway)> = Vec::new();
        let mut others: BTreeMap<u16, &Fqn> = BTreeMap::new();
        for (name, gateway) in self.inputs.resolved.gateways_on(workload) {
            let gateway = &gateway.value;
            let RoutedGatewayMode::Ingress { port, hosts, .. } = &gateway.mode else {
                continue;
            };
            let planned = self.inputs.runs(name, gateway, self.cluster) && !self.inputs.withholds(gateway);
            if hosts.is_empty() || !planned {
                continue;
            }
            let has = host
                .as_ref()
                .is_some_and(|host| hosts.iter().any(|held| held.intersects(host)));
            if has {
                serving.push((name, gateway));
            } else {
                others.entry(*port).or_insert(name);
            }
        }
        let names = serving.iter().map(|(name, _)| *name).chain(others.into_values());
        let mut keys: BTreeSet<PlanKey> = names.cloned().map(PlanKey::Gateway).collect();
        let mut ids = BTreeSet::new();
        for (_, gateway) in serving {
            for id in gateway.backends() {
                keys.insert(PlanKey::Service(gateway.workspace.clone(), id.clone()));
                ids.insert(id.clone());
            }
        }
        let (slice, mut view) = self.with_services(keys, None, &ids);
        if let Some(gateway) = self.report().and_then(|report| report.gateways.get(workload)) {
            view.gateways.insert(workload.clone(), stand_in_gateway(gateway));
        }
        (slice, view)
    }

    /// The slice of these keys and services, and a view of those services that the cluster reports.
    fn with_services(
        &self,
        keys: impl IntoIterator<Item = PlanKey>,
        owner: Option<&Fqn>,
        ids: &BTreeSet<ServiceId>,
    ) -> (Slice, View) {
        let mut keys: BTreeSet<PlanKey> = keys.into_iter().collect();
        keys.insert(PlanKey::Cluster(self.cluster.clone()));
        keys.extend(
            ids.iter()
                .map(|id| PlanKey::Namespace(self.cluster.clone(), id.namespace.clone())),
        );
        if let Some(owner) = owner {
            keys.extend(ids.iter().map(|id| PlanKey::Service(owner.clone(), id.clone())));
        }
        let reported = |id: &ServiceId| Some((id.clone(), stand_in(self.report()?.services.get(id)?)));
        let view = View {
            services: ids.iter().filter_map(reported).collect(),
            ..View::default()
        };
        (part(self.cluster, &keys, self.inputs), view)
    }

    fn report(&self) -> Option<&'a ClusterReport> {
        self.inputs.report(self.cluster)
    }
}

/// A service that reports the same: an instance for each set of labels, at no address.
fn stand_in(report: &ServiceReport) -> LocalService {
    let ports = report.ports.iter().map(|port| LocalPort {
        name: port.name.clone(),
        port: port.port,
        protocol: port.protocol,
        health: HealthCheck::Auto,
    });
    let instances = report.label_sets.iter().map(|labels| Instance {
        address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        ports: BTreeMap::new(),
        labels: labels.clone(),
        state: report.state,
    });
    LocalService {
        ports: ports.collect(),
        instances: instances.collect(),
    }
}

fn stand_in_gateway(report: &GatewayReport) -> LocalGateway {
    LocalGateway {
        bind: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        // Other clusters may reach it at another port; its edge knows.
        east_west_port: report.east_west.first().map(|address| address.port()),
        east_west_addresses: Vec::new(),
        state: report.state,
    }
}
