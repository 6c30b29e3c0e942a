//! What readiness promises is what the plan gives when the cluster is taken out.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::{ProptestConfig, proptest};
use tombolo_compiler::name::{ClusterName, Fqn, ServiceId};
use tombolo_compiler::plan::plan;
use tombolo_compiler::readiness::{Loss, Lost, Verdict, readiness};
use tombolo_compiler::report::{Reports, State};
use tombolo_compiler::resolve::{Resolved, resolve};
use tombolo_compiler::routes::{SliceItem, SliceKey};

use super::world::worlds;

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_promised_is_what_is_planned_without_it(world in worlds()) {
        let (resolved, _) = resolve(&world.intent);
        let reports = world.reports();
        for (name, _) in resolved.workspaces.iter() {
            for service in readiness(&resolved, &reports, &BTreeSet::new(), name) {
                assert!(!service.clusters.is_empty() && !service.losses.is_empty());
                for loss in service.losses {
                    let planned = planned(&resolved, &reports, &loss.lost, name, &service.service);
                    assert_eq!(loss.goes_to, planned, "{} of {name} without {:?}", service.service, loss.lost);
                    agrees(&loss);
                }
            }
        }
    }
}

/// Where requests for a service go from each cluster that is left, by a plan of the whole world without the lost.
fn planned(
    resolved: &Resolved,
    reports: &Reports,
    lost: &Lost,
    workspace: &Fqn,
    id: &ServiceId,
) -> BTreeMap<ClusterName, BTreeSet<ClusterName>> {
    let mut left = reports.clone();
    let is_left = |cluster: &ClusterName| match lost {
        Lost::Cluster(gone) => cluster != gone,
        Lost::Region(region) => resolved
            .clusters
            .get(cluster)
            .is_none_or(|cluster| cluster.value.region != *region),
    };
    left.joined.retain(is_left);
    left.clusters.retain(|cluster, _| is_left(cluster));
    let (plans, _) = plan(resolved, &left);
    let reaches = |cluster: &ClusterName| resolved.workspaces[workspace].value.reaches(cluster);
    let clusters = left
        .clusters
        .iter()
        .filter(|(cluster, _)| plans.contains_key(*cluster) && reaches(cluster));
    clusters
        .map(|(cluster, report)| {
            let owned = resolved.owner(cluster, &id.namespace) == Some(workspace);
            let own = report
                .services
                .get(id)
                .filter(|service| owned && service.state == State::Up);
            if own.is_some() {
                return (cluster.clone(), [cluster.clone()].into());
            }
            let key = SliceKey::Service(id.clone(), workspace.clone());
            let Some(SliceItem::Service(service)) = plans[cluster].items.get(&key) else {
                return (cluster.clone(), BTreeSet::new());
            };
            // The remotes are sorted by tier.
            let mut up = service
                .value
                .remotes
                .iter()
                .filter(|remote| remote.state == State::Up)
                .peekable();
            let first = up.peek().map(|remote| remote.tier);
            let to = up.take_while(|remote| Some(remote.tier) == first);
            (cluster.clone(), to.map(|remote| remote.cluster.clone()).collect())
        })
        .collect()
}

/// The verdict is what the destinations say, and trouble has a reason.
fn agrees(loss: &Loss) {
    let reached = loss.goes_to.values().filter(|to| !to.is_empty()).count();
    let verdict = match reached {
        0 => Verdict::Lost,
        some if some < loss.goes_to.len() => Verdict::Partly,
        _ => Verdict::Survives,
    };
    assert_eq!(loss.verdict, verdict);
    assert!(
        loss.verdict == Verdict::Survives || !loss.missing.is_empty(),
        "{loss:?}"
    );
}
