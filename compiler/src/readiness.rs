//! Whether a service would survive the loss of a cluster or a region, before it is lost: the world without it is
//! planned, and looked at.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::name::{ClusterName, Fqn, Label, ServiceId};
use crate::plan::{Inputs, PlanKey, planned};
use crate::report::{Reports, State};
use crate::resolve::{Resolved, ResolvedWorkspace, listed};
use crate::routes::{RoutedGatewayMode, SliceItem};

/// One service of a workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Readiness {
    pub service: ServiceId,
    /// Where it is offered today.
    pub clusters: BTreeSet<ClusterName>,
    /// One for each of those clusters, and for each of their regions.
    pub losses: Vec<Loss>,
}

/// What becomes of a service without a cluster or a region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Loss {
    pub lost: Lost,
    pub verdict: Verdict,
    /// By cluster that is left, where its requests would go first. Empty: nowhere.
    pub goes_to: BTreeMap<ClusterName, BTreeSet<ClusterName>>,
    /// What would have to be different for it to survive, or for the promise to hold: sentences.
    pub missing: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Lost {
    Cluster(ClusterName),
    Region(Label),
}

/// In the order of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// Every cluster that is left can reach it.
    Survives,
    /// Some can.
    Partly,
    /// Nobody can.
    Lost,
}

/// Every service that a workspace offers. `silent` are the clusters whose edge is not heard now: what they reported may
/// not be so any more.
pub fn readiness(
    resolved: &Resolved,
    reports: &Reports,
    silent: &BTreeSet<ClusterName>,
    workspace: &Fqn,
) -> Vec<Readiness> {
    let Some(owned) = resolved.workspaces.get(workspace) else {
        return Vec::new();
    };
    let today = Inputs::new(resolved, reports);
    let mut services: BTreeMap<ServiceId, BTreeSet<ClusterName>> = BTreeMap::new();
    for id in today.services_of(workspace) {
        let offers = today.offers(&owned.value, &id).into_iter();
        let clusters: BTreeSet<ClusterName> = offers.map(|(cluster, _)| cluster.clone()).collect();
        if !clusters.is_empty() {
            services.insert(id, clusters);
        }
    }
    let mut losses: BTreeMap<ServiceId, Vec<Loss>> = BTreeMap::new();
    // One world for each loss, whatever the number of services.
    for lost in all_losses(resolved, services.values().flatten()) {
        let left = without(resolved, reports, &lost);
        let world = World {
            workspace: (workspace, &owned.value),
            left: &Inputs::new(resolved, &left),
            silent,
        };
        for (id, clusters) in &services {
            if concerns(resolved, &lost, clusters) {
                losses.entry(id.clone()).or_default().push(world.loss(id, &lost));
            }
        }
    }
    let readiness = services.into_iter().map(|(service, clusters)| Readiness {
        losses: losses.remove(&service).unwrap_or_default(),
        service,
        clusters,
    });
    readiness.collect()
}

/// What clusters would report without those that are lost: as if they had never joined.
pub fn without(resolved: &Resolved, reports: &Reports, lost: &Lost) -> Reports {
    let is_left = |cluster: &ClusterName| !is_lost(resolved, lost, cluster);
    let left = |clusters: &BTreeSet<ClusterName>| -> BTreeSet<ClusterName> {
        clusters
            .iter()
            .filter(|cluster| is_left(cluster))
            .cloned()
            .collect()
    };
    let clusters = reports.clusters.iter().filter(|(cluster, _)| is_left(cluster));
    Reports {
        joined: left(&reports.joined),
        unread: left(&reports.unread),
        clusters: clusters
            .map(|(cluster, report)| (cluster.clone(), report.clone()))
            .collect(),
    }
}

fn is_lost(resolved: &Resolved, lost: &Lost, cluster: &ClusterName) -> bool {
    match lost {
        Lost::Cluster(name) => name == cluster,
        Lost::Region(region) => region_of(resolved, cluster) == Some(region),
    }
}

fn region_of<'a>(resolved: &'a Resolved, cluster: &ClusterName) -> Option<&'a Label> {
    resolved
        .clusters
        .get(cluster)
        .map(|cluster| &cluster.value.region)
}

/// Each cluster, and each region.
fn all_losses<'a>(resolved: &Resolved, clusters: impl Iterator<Item = &'a ClusterName>) -> BTreeSet<Lost> {
    let clusters: BTreeSet<&ClusterName> = clusters.collect();
    let regions = clusters.iter().filter_map(|cluster| region_of(resolved, cluster));
    let regions: BTreeSet<Lost> = regions.cloned().map(Lost::Region).collect();
    let clusters = clusters.into_iter().cloned().map(Lost::Cluster);
    clusters.chain(regions).collect()
}

/// Whether a service that is offered in these clusters would notice.
fn concerns(resolved: &Resolved, lost: &Lost, clusters: &BTreeSet<ClusterName>) -> bool {
    clusters.iter().any(|cluster| is_lost(resolved, lost, cluster))
}

/// The mesh that is left.
struct World<'a> {
    workspace: (&'a Fqn, &'a ResolvedWorkspace),
    left: &'a Inputs<'a>,
    silent: &'a BTreeSet<ClusterName>,
}

impl World<'_> {
    fn loss(&self, id: &ServiceId, lost: &Lost) -> Loss {
        let goes_to = self.goes_to(id);
        let reached = goes_to.values().filter(|to| !to.is_empty()).count();
        let verdict = match reached {
            0 => Verdict::Lost,
            some if some < goes_to.len() => Verdict::Partly,
            _ => Verdict::Survives,
        };
        Loss {
            lost: lost.clone(),
            verdict,
            missing: self.missing(id, lost, verdict, &goes_to),
            goes_to,
        }
    }

    /// From every cluster of the workspace that is left: itself when it has the service and it is up, else the first
    /// tier of other clusters in which any is.
    fn goes_to(&self, id: &ServiceId) -> BTreeMap<ClusterName, BTreeSet<ClusterName>> {
        let (name, workspace) = self.workspace;
        let routes = planned(&PlanKey::Service(name.clone(), id.clone()), self.left);
        let clusters = self
            .left
            .reports()
            .filter(|(cluster, _)| workspace.reaches(cluster));
        clusters
            .map(|(cluster, report)| {
                let own = report
                    .services
                    .get(id)
                    .filter(|_| workspace.owns(cluster, &id.namespace));
                if own.is_some_and(|own| own.state == State::Up) {
                    return (cluster.clone(), [cluster.clone()].into());
                }
                let remotes = match routes.get(cluster) {
                    Some(SliceItem::Service(service)) => service.value.remotes.as_slice(),
                    _ => &[],
                };
                let up = remotes.iter().filter(|remote| remote.state == State::Up);
                let first = up.clone().map(|remote| remote.tier).min();
                let to = up.filter(|remote| Some(remote.tier) == first);
                (cluster.clone(), to.map(|remote| remote.cluster.clone()).collect())
            })
            .collect()
    }

    fn missing(
        &self,
        id: &ServiceId,
        lost: &Lost,
        verdict: Verdict,
        goes_to: &BTreeMap<ClusterName, BTreeSet<ClusterName>>,
    ) -> Vec<String> {
        let mut missing = Vec::new();
        let workspace = self.workspace.1;
        if self.left.is_withheld(workspace) {
            missing.push(format!(
                "{} joined and was not heard of since, so nothing of this workspace is planned; have its edge report",
                listed(&self.left.unknown)
            ));
        }
        let offers = self.left.offers(workspace, id);
        if offers.is_empty() {
            missing.push(match lost {
                Lost::Cluster(cluster) => format!("only {cluster} offers it; deploy it in a second cluster"),
                Lost::Region(region) => {
                    format!("every cluster that offers it is in region {region}; deploy it in another region")
                }
            });
        }
        for (cluster, report) in &offers {
            if report.state == State::Down {
                missing.push(format!(
                    "{cluster} offers it, and none of its instances is up there"
                ));
            }
            missing.extend(self.door_missing(cluster, goes_to));
        }
        if verdict != Verdict::Survives {
            missing.extend(self.strangers(id));
        }
        let promised: BTreeSet<&ClusterName> = goes_to.values().flatten().collect();
        let stale: Vec<&ClusterName> = promised
            .into_iter()
            .filter(|cluster| self.silent.contains(*cluster))
            .collect();
        if !stale.is_empty() {
            missing.push(format!(
                "the edge of {} is not heard now, so what it reported may not be so any more",
                listed(stale)
            ));
        }
        missing
    }

    /// Why others cannot reach a cluster that offers the service.
    fn door_missing(
        &self,
        cluster: &ClusterName,
        goes_to: &BTreeMap<ClusterName, BTreeSet<ClusterName>>,
    ) -> Option<String> {
        let alone = goes_to.keys().all(|other| other == cluster);
        if alone {
            return None;
        }
        let (doors, state) = self.left.doors(self.workspace.0, cluster);
        if !doors.is_empty() {
            return (state == State::Down)
                .then(|| format!("the east-west gateway of {cluster} is reported down"));
        }
        let wanted = self.left.resolved.gateways_of(self.workspace.0);
        let wanted = wanted.filter(|(_, gateway)| gateway.value.mode == RoutedGatewayMode::EastWest);
        let unreported: Vec<String> = wanted
            .filter(|(name, gateway)| !self.left.runs(name, &gateway.value, cluster))
            .map(|(name, gateway)| format!("{} of {name}", gateway.value.workload))
            .collect();
        Some(if unreported.is_empty() {
            format!(
                "{cluster} has no east-west gateway, so no other cluster can use it; give a gateway there an east-west port"
            )
        } else {
            format!(
                "{cluster} has no east-west gateway, so no other cluster can use it; it does not report workload {}",
                listed(unreported)
            )
        })
    }

    /// Services of the same name that would help if they were the same.
    fn strangers(&self, id: &ServiceId) -> Option<String> {
        let workspace = self.workspace.1;
        let strangers = self.left.reports().filter(|(cluster, report)| {
            report.services.contains_key(id) && !workspace.owns(cluster, &id.namespace)
        });
        let strangers: Vec<&ClusterName> = strangers.map(|(cluster, _)| cluster).collect();
        (!strangers.is_empty()).then(|| {
            format!(
                "{} has a service {id} that this workspace does not own, so the two are different services",
                listed(strangers)
            )
        })
    }
}
