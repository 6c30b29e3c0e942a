//! The clusters that there are.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::resolver::Update;
use crate::finding::{Origin, Traced};
use crate::intent::Spec;
use crate::name::{ClusterName, Kind, Label};

/// What others want to know of them.
#[derive(Debug, Default)]
pub(super) struct ClusterChange {
    /// Clusters that came or went.
    pub(super) flipped: BTreeSet<ClusterName>,
    /// Of all clusters, now.
    pub(super) regions: BTreeSet<Label>,
    pub(super) regions_changed: bool,
}

pub(super) fn update(update: &mut Update<'_>) -> ClusterChange {
    let mut change = ClusterChange::default();
    let regions = regions(update);
    for touch in update.touched.of(Kind::Cluster) {
        update.recomputed += 1;
        let Ok(leaf) = touch.name.leaf().parse::<ClusterName>() else {
            continue;
        };
        if touch.flipped() {
            change.flipped.insert(leaf.clone());
        }
        match touch.is() {
            Some(Spec::Cluster(cluster)) => {
                let origin = Origin::new(touch.name.clone(), "spec");
                let cluster = Arc::new(Traced::new(cluster.clone(), origin));
                update.to.resolved.clusters.insert(leaf, cluster);
            }
            _ => drop(update.to.resolved.clusters.remove(&leaf)),
        }
    }
    change.regions = self::regions(update);
    change.regions_changed = change.regions != regions;
    change
}

fn regions(update: &Update<'_>) -> BTreeSet<Label> {
    let clusters = update.to.resolved.clusters.values();
    clusters.map(|cluster| cluster.value.region.clone()).collect()
}
