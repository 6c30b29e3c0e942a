//! All that one central knows, and what it makes of it: intent from above and reports from below become one
//! publication per cluster downwards and one upwards. Pure: no clock, no I/O; the loop around it moves values.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tombolo_compiler::finding::{Code, Finding};
use tombolo_compiler::intent::Intent;
use tombolo_compiler::name::ClusterName;
use tombolo_compiler::observe::Agent;
use tombolo_compiler::plan::{Changed, Planner};
use tombolo_compiler::report::{ClusterReport, Reports};
use tombolo_compiler::resolve::{Resolved, resolve};
use tombolo_compiler::routes::{Slice, SliceKey};
use tombolo_proto::codec::encode;
use tombolo_proto::held::{Stamp, Version};
use tombolo_proto::resource::{Resource, Set};
use tombolo_proto::session::Publication;
use tombolo_runtime::telemetry::chain;

use crate::item::{ReportName, Reported, Wanted, WantedName};
use crate::mirror::{Change, News};
use crate::peers::MANAGEMENT;

/// Findings beyond this do not help anybody, and all of them must fit one resource of the feed.
const FINDINGS_MAX: usize = 2000;

/// A finding names so many of the resources that it is about.
const NAMES_TOLD_MAX: usize = 5;

/// Who this central is, in this life of it.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) name: String,
    /// Unix milliseconds, larger in each life.
    pub(crate) incarnation: u64,
}

#[derive(Debug)]
pub(crate) struct Mesh {
    source: Source,
    /// Of the intent that is planned; `None` while no whole intent was ever seen.
    version: Option<Version>,
    /// Removals of intent that wait for an operator. What they would end still serves, so until then slices carry the
    /// version before them, and nobody takes the removals for done.
    braked: BTreeSet<String>,
    intent: Intent,
    joined: BTreeSet<ClusterName>,
    reports: Reports,
    agents: BTreeMap<ClusterName, Agent>,
    /// What clusters of which not everything is known yet have said so far.
    partial: BTreeMap<ClusterName, ClusterReport>,
    resolved: Arc<Resolved>,
    /// Of `resolved`.
    findings: Vec<Finding>,
    planner: Planner,
    slices: BTreeMap<ClusterName, Published>,
    upward: Upward,
    dirty: Dirty,
}

/// What has changed since the last plan.
#[derive(Debug, Default)]
struct Dirty {
    intent: bool,
    reports: bool,
}

/// One cluster's slice as it goes out.
#[derive(Debug, Default)]
struct Published {
    set: Arc<Set>,
    /// What has no form on the wire. While there is any, nothing is removed.
    unpublished: BTreeSet<SliceKey>,
    complete: bool,
    sequence: u64,
}

#[derive(Debug, Default)]
struct Upward {
    set: Set,
    sequence: u64,
    complete: bool,
    is_dirty: bool,
}

impl Mesh {
    pub(crate) fn new(source: Source) -> Self {
        Self {
            source,
            version: None,
            braked: BTreeSet::new(),
            intent: Intent::new(),
            joined: BTreeSet::new(),
            reports: Reports::default(),
            agents: BTreeMap::new(),
            partial: BTreeMap::new(),
            resolved: Arc::default(),
            findings: Vec::new(),
            planner: Planner::new(),
            slices: BTreeMap::new(),
            upward: Upward::default(),
            dirty: Dirty::default(),
        }
    }

    pub(crate) fn version(&self) -> Option<Version> {
        self.version
    }

    pub(crate) fn intent(&mut self, news: News<Wanted>) {
        if !news.known {
            return;
        }
        self.dirty.intent |= self.version.is_none() || !news.changes.is_empty() || self.braked != news.braked;
        self.version = news.version;
        self.braked = news.braked;
        for (name, change) in news.changes {
            match change {
                Change::Put(Wanted::Resource(resource), _) => {
                    self.intent.insert(resource.name.clone(), resource);
                }
                Change::Put(Wanted::Joined(cluster), _) => {
                    self.joined.insert(cluster);
                }
                Change::Removed => match WantedName::parse(&name) {
                    Ok(WantedName::Resource(name)) => drop(self.intent.remove(&name)),
                    Ok(WantedName::Joined(cluster)) => drop(self.joined.remove(&cluster)),
                    // It was refused when it came.
                    Err(_) => {}
                },
            }
        }
    }

    pub(crate) fn report(&mut self, cluster: &ClusterName, news: News<Reported>) {
        if news.known && !self.reports.clusters.contains_key(cluster) {
            let report = self.partial.remove(cluster).unwrap_or_default();
            self.reports.clusters.insert(cluster.clone(), report);
            self.dirty.reports = true;
        }
        let report = match self.reports.clusters.get_mut(cluster) {
            Some(report) => report,
            None => self.partial.entry(cluster.clone()).or_default(),
        };
        for (name, change) in news.changes {
            self.dirty.reports |= fold(report, &name, &change);
            let upward = format!("clusters/{cluster}/{name}");
            match change {
                Change::Put(_, resource) => self.upward.put(Resource::new(upward, resource.body().clone())),
                Change::Removed => self.upward.remove(&upward),
            }
        }
    }

    pub(crate) fn agent(&mut self, cluster: &ClusterName, agent: Agent) {
        if self.agents.insert(cluster.clone(), agent) != Some(agent) {
            self.upward
                .put(encode(format!("clusters/{cluster}/agent"), &agent));
        }
    }

    /// Plans again if something has changed, and returns how many keys were computed for it.
    pub(crate) fn settle(&mut self) -> Option<usize> {
        self.version?;
        let dirty = std::mem::take(&mut self.dirty);
        if !dirty.intent && !dirty.reports {
            return None;
        }
        if dirty.intent {
            let (resolved, findings) = resolve(&self.intent);
            self.resolved = Arc::new(resolved);
            self.findings = findings;
            // A cluster that is not wanted any more must not withhold anything for ever.
            let wanted = |cluster: &&ClusterName| self.resolved.clusters.contains_key(*cluster);
            self.reports.joined = self.joined.iter().filter(wanted).cloned().collect();
        }
        let changed = self.planner.update(self.resolved.clone(), &self.reports);
        let recomputed = changed.recomputed;
        self.publish(&changed);
        self.publish_findings();
        Some(recomputed)
    }

    /// What the edge of `cluster` should hold; `None` while that is not known.
    pub(crate) fn publication(&self, cluster: &ClusterName) -> Option<Publication> {
        let published = self.slices.get(cluster)?;
        Some(Publication {
            stamp: Stamp {
                version: self.version?,
                source: format!("{}-{}", self.source.name, self.source.incarnation),
                sequence: published.sequence,
            },
            set: published.set.clone(),
            complete: published.complete,
        })
    }

    pub(crate) fn has_news_for_management(&self) -> bool {
        self.upward.is_dirty || self.upward.complete != self.knows_all()
    }

    /// What management should hold of this central. Each call is a new version of it.
    pub(crate) fn upward(&mut self) -> Publication {
        self.upward.complete = self.knows_all();
        self.upward.is_dirty = false;
        self.upward.sequence += 1;
        Publication {
            stamp: Stamp {
                version: Version {
                    epoch: self.source.incarnation,
                    revision: self.upward.sequence,
                },
                source: self.source.name.clone(),
                sequence: 0,
            },
            set: Arc::new(self.upward.set.clone()),
            complete: self.upward.complete,
        }
    }

    /// Nothing that this central does not mention exists.
    fn knows_all(&self) -> bool {
        self.version.is_some()
            && self
                .reports
                .joined
                .iter()
                .all(|cluster| self.reports.clusters.contains_key(cluster))
    }

    fn publish(&mut self, changed: &Changed) {
        let slices = self.planner.slices();
        self.slices.retain(|cluster, _| slices.contains_key(cluster));
        for (cluster, keys) in &changed.slices {
            if let Some(slice) = slices.get(cluster) {
                let published = self.slices.entry(cluster.clone()).or_default();
                published.update(slice, keys);
            }
        }
    }

    fn publish_findings(&mut self) {
        let mut findings = self.planner.findings();
        findings.extend_from_slice(&self.findings);
        findings.extend(self.removals_held());
        findings.sort();
        findings.dedup();
        if findings.len() > FINDINGS_MAX {
            tracing::warn!(
                findings = findings.len(),
                "reporting the first {FINDINGS_MAX} findings only"
            );
            findings.truncate(FINDINGS_MAX);
        }
        self.upward.put(encode("findings", &findings));
    }
}

impl Mesh {
    /// The brake is the operator's to release, so it shows where operators look.
    fn removals_held(&self) -> Option<Finding> {
        let organization = self.intent.keys().next()?.organization();
        let first: Vec<&str> = self
            .braked
            .iter()
            .take(NAMES_TOLD_MAX)
            .map(String::as_str)
            .collect();
        let more = self.braked.len().saturating_sub(NAMES_TOLD_MAX);
        let more = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        let message = format!(
            "central {} holds back the removal of {} resources, which still serve: {}{more}; if they are meant, confirm \
             with POST /brake/confirm?link={MANAGEMENT} on the admin port of each central",
            self.source.name,
            self.braked.len(),
            first.join(", "),
        );
        (!first.is_empty()).then(|| Finding::error(&organization, "", Code::RemovalsHeld, message))
    }
}

impl Published {
    /// Takes what has changed in a slice: `keys`, and whether it is complete.
    fn update(&mut self, slice: &Slice, keys: &BTreeSet<SliceKey>) {
        let set = Arc::make_mut(&mut self.set);
        for key in keys {
            self.unpublished.remove(key);
            let name = key.to_string();
            let Some(item) = slice.items.get(key) else {
                set.remove(&name);
                continue;
            };
            match encode(name.clone(), item) {
                Ok(resource) => drop(set.insert(name, resource)),
                Err(error) => {
                    tracing::error!(
                        error = chain(&error),
                        "cannot publish a route: keeping the last one"
                    );
                    self.unpublished.insert(key.clone());
                }
            }
        }
        self.complete = slice.complete && self.unpublished.is_empty();
        self.sequence += 1;
    }
}

impl Upward {
    fn put<E: std::error::Error + 'static>(&mut self, resource: Result<Resource, E>) {
        match resource {
            Ok(resource) => {
                let hash = resource.hash();
                let before = self.set.insert(resource.name().to_owned(), resource);
                self.is_dirty |= before.is_none_or(|before| before.hash() != hash);
            }
            Err(error) => tracing::error!(error = chain(&error), "cannot report to management"),
        }
    }

    fn remove(&mut self, name: &str) {
        self.is_dirty |= self.set.remove(name).is_some();
    }
}

/// Takes one change into a cluster's report; returns whether routes could depend on it.
fn fold(report: &mut ClusterReport, name: &str, change: &Change<Reported>) -> bool {
    match change {
        Change::Put(Reported::Service(id, service), _) => {
            report.services.insert(id.clone(), service.clone()).as_ref() != Some(service)
        }
        Change::Put(Reported::Gateway(id, gateway), _) => {
            report.gateways.insert(id.clone(), gateway.clone()).as_ref() != Some(gateway)
        }
        Change::Put(Reported::Receipt, _) => false,
        Change::Removed => match ReportName::parse(name) {
            Ok(ReportName::Service(id)) => report.services.remove(&id).is_some(),
            Ok(ReportName::Gateway(id)) => report.gateways.remove(&id).is_some(),
            Ok(ReportName::Receipt) | Err(_) => false,
        },
    }
}
