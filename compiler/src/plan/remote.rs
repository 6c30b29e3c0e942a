//! Other clusters as places to go to: through which gateways, and in what order.

use std::collections::{BTreeMap, BTreeSet};

use super::inputs::Inputs;
use crate::intent::{Failover, Subset};
use crate::name::{ClusterName, Fqn, HostPort, Label};
use crate::report::{GatewayReport, ServiceReport, State};
use crate::routes::{Remote, RoutedGatewayMode};

/// The first tier is the service's own cluster, which needs no number.
const TIER_SAME_REGION: u8 = 1;

/// The order in which traffic of one region leaves it.
pub(super) fn tier(failover: &[Failover], from: &Label, to: &Label) -> u8 {
    if from == to {
        return TIER_SAME_REGION;
    }
    let configured = failover
        .iter()
        .filter(|entry| entry.from == *from)
        .flat_map(|entry| &entry.to);
    // A region that is not configured comes after all that are.
    let mut place: u8 = TIER_SAME_REGION;
    for region in configured {
        place = place.saturating_add(1);
        if region == to {
            return place;
        }
    }
    place.saturating_add(1)
}

/// The east-west listeners through which a workspace's services in a cluster are reached. With a gateway resource for
/// it only those workloads; else all. Those that are down are left out while another is up.
pub(super) fn doors(
    inputs: &Inputs<'_>,
    workspace: &Fqn,
    cluster: &ClusterName,
) -> (BTreeSet<HostPort>, State) {
    let Some(report) = inputs.report(cluster) else {
        return (BTreeSet::new(), State::Down);
    };
    let dedicated: BTreeSet<_> = inputs
        .resolved
        .gateways_of(workspace)
        .map(|(name, gateway)| (name, &gateway.value))
        .filter(|(_, gateway)| gateway.mode == RoutedGatewayMode::EastWest)
        .filter(|(name, gateway)| inputs.runs(name, gateway, cluster))
        .map(|(_, gateway)| &gateway.workload)
        .collect();
    let candidates: Vec<&GatewayReport> = report
        .gateways
        .iter()
        .filter(|(workload, _)| dedicated.is_empty() || dedicated.contains(workload))
        .map(|(_, gateway)| gateway)
        .filter(|gateway| !gateway.east_west.is_empty())
        .collect();
    let any_up = candidates.iter().any(|gateway| gateway.state == State::Up);
    let state = if any_up { State::Up } else { State::Down };
    let addresses = candidates
        .iter()
        .filter(|gateway| gateway.state == state)
        .flat_map(|gateway| gateway.east_west.iter().copied())
        .collect();
    (addresses, state)
}

/// A cluster that offers a service, as the others see it; its tier depends on who looks and is filled in then. `None`
/// when no gateway leads there.
pub(super) fn remote(
    inputs: &Inputs<'_>,
    workspace: &Fqn,
    cluster: &ClusterName,
    report: &ServiceReport,
    subsets: &[Subset],
) -> Option<Remote> {
    let (gateways, doors) = doors(inputs, workspace, cluster);
    let region = inputs.resolved.clusters.get(cluster)?.value.region.clone();
    let state = match (report.state, doors) {
        (State::Up, State::Up) => State::Up,
        _ => State::Down,
    };
    (!gateways.is_empty()).then(|| Remote {
        cluster: cluster.clone(),
        region,
        tier: 0,
        gateways,
        state,
        ports: report.ports.iter().map(|port| port.port).collect(),
        subsets: subsets
            .iter()
            .filter(|subset| has(report, subset))
            .map(|subset| subset.name.clone())
            .collect(),
    })
}

/// Whether a cluster has instances of a subset.
pub(super) fn has(report: &ServiceReport, subset: &Subset) -> bool {
    report
        .label_sets
        .iter()
        .any(|labels| bears(labels, &subset.labels))
}

fn bears(labels: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    wanted.iter().all(|(name, value)| labels.get(name) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiers_follow_region_then_configuration_then_the_rest() {
        let label = |text: &str| text.parse::<Label>().unwrap();
        let failover = [Failover {
            from: label("us"),
            to: vec![label("eu"), label("asia")],
        }];
        for (failover, from, to, expected) in [
            (&failover[..], "us", "us", 1),
            (&failover[..], "us", "eu", 2),
            (&failover[..], "us", "asia", 3),
            (&failover[..], "us", "africa", 4),
            (&failover[..], "eu", "us", 2),
            (&[], "us", "eu", 2),
        ] {
            assert_eq!(
                tier(failover, &label(from), &label(to)),
                expected,
                "{from} to {to}"
            );
        }
    }
}
