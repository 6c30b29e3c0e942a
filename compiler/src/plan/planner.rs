//! The pass with a memory of its last result, so that a change costs what it touches.

use std::collections::{BTreeMap, BTreeSet};

use super::inputs::Inputs;
use super::{PlanKey, Planned, Plans, key, plan_key};
use crate::finding::Finding;
use crate::name::ClusterName;
use crate::report::Reports;
use crate::resolve::Resolved;
use crate::routes::SliceKey;

/// Always holds what `plan` would say of the inputs it was last given.
#[derive(Clone, Debug, Default)]
pub struct Planner {
    resolved: Resolved,
    reports: Reports,
    planned: BTreeMap<PlanKey, Planned>,
    /// With how many keys have found each.
    findings: BTreeMap<Finding, usize>,
    slices: Plans,
}

/// What an update did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// By cluster, the items that are new, gone or different. A cluster with an empty set has become complete or
    /// incomplete. A cluster that is gone is not here.
    pub slices: BTreeMap<ClusterName, BTreeSet<SliceKey>>,
    /// How many keys were computed.
    pub recomputed: usize,
    /// Whether other findings are there than before.
    pub findings: bool,
}

impl Planner {
    pub fn new() -> Planner {
        Planner::default()
    }

    pub fn update(&mut self, resolved: &Resolved, reports: &Reports) -> Changed {
        let before = Inputs::new(&self.resolved, &self.reports);
        let after = Inputs::new(resolved, reports);
        let dirty = key::dirty(&before, &after);
        let mut changed = Changed {
            slices: BTreeMap::new(),
            recomputed: dirty.len(),
            findings: false,
        };
        for cluster in resolved.clusters.keys() {
            let complete = after.is_complete(cluster);
            let known = self.slices.contains_key(cluster);
            let slice = self.slices.entry(cluster.clone()).or_default();
            if !known || slice.complete != complete {
                slice.complete = complete;
                changed.slices.entry(cluster.clone()).or_default();
            }
        }
        let results: Vec<(PlanKey, Planned)> = dirty
            .into_iter()
            .map(|key| {
                let planned = plan_key(&key, &after);
                (key, planned)
            })
            .collect();
        for (key, planned) in results {
            self.replace(key, planned, &mut changed);
        }
        self.slices
            .retain(|cluster, _| resolved.clusters.contains_key(cluster));
        changed
            .slices
            .retain(|cluster, _| resolved.clusters.contains_key(cluster));
        self.resolved = resolved.clone();
        self.adopt(reports);
        changed
    }

    pub fn slices(&self) -> &Plans {
        &self.slices
    }

    /// Sorted, each once.
    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.findings.keys()
    }

    fn replace(&mut self, key: PlanKey, planned: Planned, changed: &mut Changed) {
        let slice_key = key.slice_key();
        let old = self.planned.remove(&key).unwrap_or_default();
        for cluster in old.items.keys().chain(planned.items.keys()) {
            let (was, is) = (old.items.get(cluster), planned.items.get(cluster));
            // An origin is on the wire too, so a new one is sent although it moves no proxy.
            let same = match (was, is) {
                (Some(was), Some(is)) => was.is_identical(is),
                _ => false,
            };
            if same {
                continue;
            }
            let slice = self.slices.entry(cluster.clone()).or_default();
            match is {
                Some(item) => slice.items.insert(slice_key.clone(), item.clone()),
                None => slice.items.remove(&slice_key),
            };
            let keys = changed.slices.entry(cluster.clone()).or_default();
            keys.insert(slice_key.clone());
        }
        changed.findings |= self.find(&old.findings, &planned.findings);
        if planned != Planned::default() {
            self.planned.insert(key, planned);
        }
    }

    /// Takes what one key has found instead of something else; returns whether that is not the same.
    fn find(&mut self, was: &[Finding], is: &[Finding]) -> bool {
        if was == is {
            return false;
        }
        for finding in is {
            *self.findings.entry(finding.clone()).or_default() += 1;
        }
        for finding in was {
            if let Some(keys) = self.findings.get_mut(finding) {
                *keys -= 1;
                if *keys == 0 {
                    self.findings.remove(finding);
                }
            }
        }
        true
    }

    /// Copies what differs, cluster by cluster.
    fn adopt(&mut self, reports: &Reports) {
        if self.reports.joined != reports.joined {
            self.reports.joined = reports.joined.clone();
        }
        if self.reports.unread != reports.unread {
            self.reports.unread = reports.unread.clone();
        }
        self.reports
            .clusters
            .retain(|cluster, _| reports.clusters.contains_key(cluster));
        for (cluster, report) in &reports.clusters {
            if self.reports.clusters.get(cluster) != Some(report) {
                self.reports.clusters.insert(cluster.clone(), report.clone());
            }
        }
    }
}
