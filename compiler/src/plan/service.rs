//! One service of one workspace, over all clusters in which the workspace offers it.

use std::collections::{BTreeMap, BTreeSet};

use super::inputs::Inputs;
use super::port::is_routed;
use super::{Planned, remote, share};
use crate::finding::{Code, Finding, Origin, Traced};
use crate::http::Edits;
use crate::intent::{Failover, Subset};
use crate::name::{ClusterName, Fqn, Label, ServiceId};
use crate::report::{ServicePort, ServiceReport};
use crate::resolve::{ResolvedRoute, ResolvedWorkspace, listed};
use crate::routes::{Conduct, Remote, RoutedService, ServiceAction, ServiceRule, SliceItem};

type Offers<'a> = [(&'a ClusterName, &'a ServiceReport)];

pub(super) fn plan(name: &Fqn, id: &ServiceId, inputs: &Inputs<'_>) -> Planned {
    let mut planned = Planned::default();
    let Some(workspace) = inputs.resolved.workspaces.get(name) else {
        return planned;
    };
    if inputs.is_withheld(&workspace.value) {
        return planned;
    }
    let route = inputs.resolved.routes.get(&(name.clone(), id.clone()));
    let offers = inputs.offers(&workspace.value, id);
    if offers.is_empty() {
        let origin = route.and_then(|route| route.origin.as_ref());
        planned
            .findings
            .extend(origin.map(|origin| not_found(origin, id)));
        return planned;
    }
    let findings = &mut planned.findings;
    let ports = ports(&offers);
    let unrouted = ports.iter().filter(|port| !is_routed(port.protocol));
    let unrouted: Vec<u16> = unrouted.map(|port| port.port).collect();
    if !unrouted.is_empty() {
        let message = format!(
            "service {id} speaks TCP on port {}, which is not routed yet; clients reach it without the mesh",
            listed(unrouted)
        );
        findings.push(Finding::warning(name, "", Code::ProtocolNotRouted, message));
    }
    findings.extend(namesakes(name, &workspace.value, id, inputs));

    let (subsets, rules) = match route {
        Some(route) => rules(id, route, &offers, findings),
        None => (Vec::new(), Vec::new()),
    };
    let remotes = remotes(name, &offers, &subsets, inputs, findings);
    let routed = RoutedService {
        id: id.clone(),
        workspace: name.clone(),
        ports,
        subsets,
        rules: closed(rules, workspace.origin.as_ref()),
        remotes: Vec::new(),
        delivery: workspace.value.delivery_in(&id.namespace),
    };
    let origin = route.map_or(&workspace.origin, |route| &route.origin);
    for cluster in inputs.resolved.clusters_of(name) {
        let value = RoutedService {
            remotes: seen_from(
                cluster,
                &remotes,
                &workspace.value.failover_in(cluster, &id.namespace).value,
                inputs,
            ),
            ..routed.clone()
        };
        let origin = origin.clone();
        let item = SliceItem::Service(Traced { value, origin });
        planned.items.insert(cluster.clone(), item);
    }
    planned
}

fn not_found(origin: &Origin, id: &ServiceId) -> Finding {
    Finding::warning(
        &origin.resource,
        "spec.service",
        Code::ServiceNotFound,
        format!(
            "no cluster offers service {id} in a namespace of this workspace; check the name, or deploy the service"
        ),
    )
}

/// The union over the clusters, by number; where they disagree about one, the first cluster's word counts.
pub(super) fn ports(offers: &Offers<'_>) -> Vec<ServicePort> {
    let mut ports: BTreeMap<u16, &ServicePort> = BTreeMap::new();
    for port in offers.iter().flat_map(|(_, report)| &report.ports) {
        ports.entry(port.port).or_insert(port);
    }
    ports.into_values().cloned().collect()
}

/// Services of the same name that this one is never joined with. Of another owner's nothing is told but that it is
/// there.
fn namesakes(name: &Fqn, workspace: &ResolvedWorkspace, id: &ServiceId, inputs: &Inputs<'_>) -> Vec<Finding> {
    let strangers = inputs
        .reports()
        .filter(|(cluster, report)| {
            report.services.contains_key(id) && !workspace.owns(cluster, &id.namespace)
        })
        .map(|(cluster, _)| cluster);
    let (owned, unowned): (Vec<&ClusterName>, Vec<&ClusterName>) =
        strangers.partition(|cluster| inputs.owner(cluster, &id.namespace).is_some());
    let mut findings = Vec::new();
    if !owned.is_empty() {
        let message = format!(
            "another workspace has a service {id} as well; the two are different services and are never joined"
        );
        findings.push(Finding::warning(name, "", Code::NotJoined, message));
    }
    if let Some(first) = unowned.first() {
        let message = format!(
            "service {id} in {} is not joined with this one, because no workspace owns namespace {namespace} there; to make them one service, add a selector such as {first}/{namespace} to this workspace",
            listed(&unowned),
            namespace = id.namespace,
        );
        findings.push(Finding::warning(
            name,
            "spec.namespaces",
            Code::NotJoined,
            message,
        ));
    }
    findings
}

/// The subsets that somebody has, and the rules over them.
fn rules(
    id: &ServiceId,
    route: &Traced<ResolvedRoute>,
    offers: &Offers<'_>,
    findings: &mut Vec<Finding>,
) -> (Vec<Subset>, Vec<Traced<ServiceRule>>) {
    let (found, missing): (Vec<&Subset>, Vec<&Subset>) = route
        .value
        .subsets
        .iter()
        .partition(|subset| offers.iter().any(|(_, report)| remote::has(report, subset)));
    let missing: BTreeMap<&Label, String> = missing
        .into_iter()
        .map(|subset| (&subset.name, nobody_has(id, subset)))
        .collect();
    if let Some(origin) = &route.origin {
        findings.extend(missing.values().map(|reason| {
            let message = format!("{reason}; deploy one, or correct the labels");
            Finding::warning(&origin.resource, "spec.subsets", Code::SubsetNotFound, message)
        }));
    }
    let rules = route
        .value
        .rules
        .iter()
        .map(|rule| {
            let value = ServiceRule {
                action: without(&rule.value.action, &missing),
                ..rule.value.clone()
            };
            Traced {
                value,
                origin: rule.origin.clone(),
            }
        })
        .collect();
    (found.into_iter().cloned().collect(), rules)
}

fn nobody_has(id: &ServiceId, subset: &Subset) -> String {
    let labels = subset
        .labels
        .iter()
        .map(|(name, value)| format!("{name}={value}"));
    format!(
        "no instance of service {id} has the labels of subset {}: {}",
        subset.name,
        listed(labels)
    )
}

/// What is left of a split without the subsets that nobody has: their share goes to the others, or is refused when
/// there are none.
fn without(action: &ServiceAction, missing: &BTreeMap<&Label, String>) -> ServiceAction {
    let ServiceAction::Split(targets) = action else {
        return action.clone();
    };
    let reason = |target: &Option<Label>| target.as_ref().and_then(|subset| missing.get(subset));
    let Some(why) = targets.iter().find_map(|(target, _)| reason(target)) else {
        return action.clone();
    };
    let left = targets
        .iter()
        .filter(|(target, _)| reason(target).is_none())
        .cloned();
    share::rescaled(left.collect()).map_or_else(|| ServiceAction::Refuse(why.clone()), ServiceAction::Split)
}

/// Rules that end in one which matches everything: the whole service, if the user wrote none.
fn closed(mut rules: Vec<Traced<ServiceRule>>, workspace: Option<&Origin>) -> Vec<Traced<ServiceRule>> {
    let open = rules.last().is_none_or(|rule| !rule.value.matches.is_empty());
    if open {
        let rule = ServiceRule {
            matches: Vec::new(),
            action: ServiceAction::Split(vec![(None, 100)]),
            edits: Edits::default(),
            timeout: None,
            retry: None,
            conduct: Conduct::default(),
        };
        rules.push(Traced {
            value: rule,
            origin: workspace.cloned(),
        });
    }
    rules
}

/// The clusters that offer it and can be reached from others.
fn remotes(
    name: &Fqn,
    offers: &Offers<'_>,
    subsets: &[Subset],
    inputs: &Inputs<'_>,
    findings: &mut Vec<Finding>,
) -> Vec<Remote> {
    let interested: BTreeSet<&ClusterName> = inputs.resolved.clusters_of(name).collect();
    let mut remotes = Vec::new();
    for (cluster, report) in offers {
        match remote::remote(inputs, name, cluster, report, subsets) {
            Some(remote) => remotes.push(remote),
            // The same words for every service, so that they are one finding.
            None if interested.len() > 1 => {
                let message = format!(
                    "cluster {cluster} offers services of this workspace but has no east-west gateway for it, so no other cluster can use them; give a gateway there an east-west port"
                );
                let finding = Finding::warning(name, "spec.namespaces", Code::NoEastWestGateway, message);
                findings.push(finding.in_cluster(cluster));
            }
            None => {}
        }
    }
    remotes
}

fn seen_from(
    cluster: &ClusterName,
    remotes: &[Remote],
    failover: &[Failover],
    inputs: &Inputs<'_>,
) -> Vec<Remote> {
    let Some(here) = inputs.resolved.clusters.get(cluster) else {
        return Vec::new();
    };
    let mut seen: Vec<Remote> = remotes
        .iter()
        .filter(|remote| remote.cluster != *cluster)
        .map(|remote| Remote {
            tier: remote::tier(failover, &here.value.region, &remote.region),
            ..remote.clone()
        })
        .collect();
    seen.sort_by(|a, b| (a.tier, &a.cluster).cmp(&(b.tier, &b.cluster)));
    seen
}
