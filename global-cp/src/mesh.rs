//! All that one central knows, and what it makes of it: intent from above and reports from below become one
//! publication per cluster downwards and one upwards. Pure: no clock, no I/O; the loop around it moves values.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tombolo_compiler::finding::Finding;
use tombolo_compiler::intent::{Intent, Spec};
use tombolo_compiler::name::ClusterName;
use tombolo_compiler::observe::Agent;
use tombolo_compiler::plan::{Plans, plan};
use tombolo_compiler::report::{ClusterReport, Reports};
use tombolo_compiler::resolve::resolve;
use tombolo_compiler::routes::{Slice, SliceItem};
use tombolo_proto::codec::{EncodeError, encode};
use tombolo_proto::held::{Stamp, Version};
use tombolo_proto::resource::{Resource, Set};
use tombolo_proto::session::Publication;
use tombolo_runtime::telemetry::chain;

use crate::item::{ReportName, Reported, Wanted, WantedName};
use crate::mirror::{Change, News};

/// Findings beyond this do not help anybody, and all of them must fit one resource of the feed.
const FINDINGS_MAX: usize = 2000;

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
    intent: Intent,
    joined: BTreeSet<ClusterName>,
    reports: Reports,
    /// What clusters of which not everything is known yet have said so far.
    partial: BTreeMap<ClusterName, ClusterReport>,
    slices: BTreeMap<ClusterName, Published>,
    upward: Upward,
    is_dirty: bool,
}

/// One cluster's slice as it goes out.
#[derive(Debug, Default)]
struct Published {
    items: BTreeMap<String, SliceItem>,
    set: Arc<Set>,
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
            intent: Intent::new(),
            joined: BTreeSet::new(),
            reports: Reports::default(),
            partial: BTreeMap::new(),
            slices: BTreeMap::new(),
            upward: Upward::default(),
            is_dirty: false,
        }
    }

    pub(crate) fn version(&self) -> Option<Version> {
        self.version
    }

    pub(crate) fn intent(&mut self, news: News<Wanted>) {
        if !news.known {
            return;
        }
        self.is_dirty |= self.version.is_none() || !news.changes.is_empty();
        self.version = news.version;
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
            self.is_dirty = true;
        }
        let report = match self.reports.clusters.get_mut(cluster) {
            Some(report) => report,
            None => self.partial.entry(cluster.clone()).or_default(),
        };
        for (name, change) in news.changes {
            self.is_dirty |= fold(report, &name, &change);
            let upward = format!("clusters/{cluster}/{name}");
            match change {
                Change::Put(_, resource) => self.upward.put(Resource::new(upward, resource.body().clone())),
                Change::Removed => self.upward.remove(&upward),
            }
        }
    }

    pub(crate) fn agent(&mut self, cluster: &ClusterName, agent: Agent) {
        self.upward
            .put(encode(format!("clusters/{cluster}/agent"), &agent));
    }

    /// Plans again if something has changed, and returns whether it had.
    pub(crate) fn settle(&mut self) -> bool {
        if self.version.is_none() || !std::mem::take(&mut self.is_dirty) {
            return false;
        }
        let clusters = self.clusters();
        // A cluster that is not wanted any more must not withhold anything for ever.
        self.reports.joined = self.joined.intersection(&clusters).cloned().collect();
        let (resolved, mut findings) = resolve(&self.intent);
        let (plans, found) = plan(&resolved, &self.reports);
        findings.extend(found);
        self.publish(plans);
        findings.sort();
        findings.dedup();
        self.publish_findings(&findings);
        true
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

    fn clusters(&self) -> BTreeSet<ClusterName> {
        let clusters = self
            .intent
            .values()
            .filter(|resource| matches!(resource.spec, Spec::Cluster(_)));
        clusters
            .filter_map(|resource| resource.name.leaf().parse().ok())
            .collect()
    }

    fn publish(&mut self, plans: Plans) {
        self.slices.retain(|cluster, _| plans.contains_key(cluster));
        for (cluster, slice) in plans {
            let published = self.slices.entry(cluster.clone()).or_default();
            if let Err(error) = published.update(slice) {
                tracing::error!(%cluster, error = chain(&error), "cannot publish a route: keeping the last one");
            }
        }
    }

    fn publish_findings(&mut self, findings: &[Finding]) {
        if findings.len() > FINDINGS_MAX {
            tracing::warn!(
                findings = findings.len(),
                "reporting the first {FINDINGS_MAX} findings only"
            );
        }
        let reported = &findings[..findings.len().min(FINDINGS_MAX)];
        self.upward.put(encode("findings", &reported));
    }
}

impl Published {
    /// Takes the new slice; what has an equal value keeps its bytes, so that a new origin moves no proxy.
    ///
    /// # Errors
    /// The first item that has no form on the wire. It keeps its last one, and nothing is removed meanwhile.
    fn update(&mut self, slice: Slice) -> Result<(), EncodeError> {
        let mut items: BTreeMap<String, SliceItem> = slice
            .items
            .into_iter()
            .map(|(key, item)| (key.to_string(), item))
            .collect();
        if self.sequence > 0 && self.items == items && self.complete == slice.complete {
            return Ok(());
        }
        let mut first_error = None;
        let mut set = Set::new();
        items.retain(|name, item| {
            let before = self.set.get(name);
            let (resource, is_current) = match before.filter(|_| self.items.get(name) == Some(item)) {
                Some(same) => (Some(same.clone()), true),
                None => match encode(name.clone(), item) {
                    Ok(resource) => (Some(resource), true),
                    Err(error) => {
                        first_error.get_or_insert(error);
                        (before.cloned(), false)
                    }
                },
            };
            set.extend(resource.map(|resource| (name.clone(), resource)));
            // An item that is not what its bytes say must not count as published.
            is_current
        });
        self.complete = slice.complete && first_error.is_none();
        self.items = items;
        self.set = Arc::new(set);
        self.sequence += 1;
        first_error.map_or(Ok(()), Err)
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
