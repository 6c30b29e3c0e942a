//! All that one central knows, and what it makes of it: intent from above and reports from below become one
//! publication per cluster downwards and one upwards. Pure: no clock, no I/O; the loop around it moves values.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tombolo_compiler::finding::{Code, Finding};
use tombolo_compiler::name::ClusterName;
use tombolo_compiler::observe::Agent;
use tombolo_compiler::plan::{Changed, Planner};
use tombolo_compiler::report::{ClusterReport, Reports};
use tombolo_compiler::resolve::{Edit, Resolver};
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
    resolver: Resolver,
    /// Something of the intent cannot be read: as long as that is so, nothing is known to be gone.
    intent_unread: bool,
    joined: BTreeSet<ClusterName>,
    reports: Reports,
    agents: BTreeMap<ClusterName, Agent>,
    /// What clusters of which not everything is known yet have said so far.
    partial: BTreeMap<ClusterName, Arc<ClusterReport>>,
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
    /// Of what resolution says, or of the brake.
    findings: bool,
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
            resolver: Resolver::default(),
            intent_unread: false,
            joined: BTreeSet::new(),
            reports: Reports::default(),
            agents: BTreeMap::new(),
            partial: BTreeMap::new(),
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
        self.dirty.findings |= self.version.is_none() || self.braked != news.braked;
        self.dirty.intent |= self.version.is_none() || !news.changes.is_empty() || self.braked != news.braked;
        self.version = news.version;
        self.intent_unread = news.has_unread;
        self.braked = news.braked;
        let mut edits = Vec::new();
        for (name, change) in news.changes {
            match change {
                Change::Put(Wanted::Resource(resource), _) => edits.push(Edit::Put(resource)),
                Change::Put(Wanted::Joined(cluster), _) => {
                    self.joined.insert(cluster);
                }
                Change::Removed => match WantedName::parse(&name) {
                    Ok(WantedName::Resource(name)) => edits.push(Edit::Remove(name)),
                    Ok(WantedName::Joined(cluster)) => drop(self.joined.remove(&cluster)),
                    // It was refused when it came.
                    Err(_) => {}
                },
            }
        }
        self.dirty.findings |= self.resolver.update(edits).findings;
    }

    pub(crate) fn report(&mut self, cluster: &ClusterName, news: News<Reported>) {
        if news.known && !self.reports.clusters.contains_key(cluster) {
            let report = self.partial.remove(cluster).unwrap_or_default();
            self.reports.clusters.insert(cluster.clone(), report);
            self.dirty.reports = true;
        }
        if news.has_unread != self.reports.unread.contains(cluster) {
            if news.has_unread {
                self.reports.unread.insert(cluster.clone());
            } else {
                self.reports.unread.remove(cluster);
            }
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
            // A cluster that is not wanted any more must not withhold anything for ever.
            let wanted = self.joined.iter().filter(|cluster| self.is_wanted(cluster));
            self.reports.joined = wanted.cloned().collect();
        }
        let changed = self.planner.update(self.resolver.resolved(), &self.reports);
        let recomputed = changed.recomputed;
        self.publish(&changed);
        if dirty.findings || changed.findings {
            self.publish_findings();
        }
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
            complete: published.complete && !self.intent_unread,
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
            && !self.reports.unread.iter().any(|cluster| self.is_wanted(cluster))
            && self
                .reports
                .joined
                .iter()
                .all(|cluster| self.reports.clusters.contains_key(cluster))
    }

    fn is_wanted(&self, cluster: &ClusterName) -> bool {
        self.resolver.resolved().clusters.contains_key(cluster)
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
        // Both are sorted, so that no finding after these can be among the first of all.
        let planned = self.planner.findings().take(FINDINGS_MAX + 1);
        let resolved = self.resolver.findings().take(FINDINGS_MAX + 1);
        let mut findings: Vec<Finding> = planned.chain(resolved).cloned().collect();
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
        let organization = self.resolver.intent().keys().next()?.organization();
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

/// Takes one change into a cluster's report, which the planner shares until something differs; returns whether routes
/// could depend on it.
fn fold(report: &mut Arc<ClusterReport>, name: &str, change: &Change<Reported>) -> bool {
    let (service, gateway) = match change {
        Change::Put(Reported::Service(id, service), _) => (Some((id.clone(), Some(service))), None),
        Change::Put(Reported::Gateway(id, gateway), _) => (None, Some((id.clone(), Some(gateway)))),
        Change::Put(Reported::Receipt, _) => (None, None),
        Change::Removed => match ReportName::parse(name) {
            Ok(ReportName::Service(id)) => (Some((id, None)), None),
            Ok(ReportName::Gateway(id)) => (None, Some((id, None))),
            Ok(ReportName::Receipt) | Err(_) => (None, None),
        },
    };
    let services = service.filter(|(id, service)| report.services.get(id) != *service);
    let gateways = gateway.filter(|(id, gateway)| report.gateways.get(id) != *gateway);
    if let Some((id, service)) = &services {
        set(&mut Arc::make_mut(report).services, id, *service);
    }
    if let Some((id, gateway)) = &gateways {
        set(&mut Arc::make_mut(report).gateways, id, *gateway);
    }
    services.is_some() || gateways.is_some()
}

fn set<K: Ord + Clone, V: Clone>(map: &mut BTreeMap<K, V>, key: &K, value: Option<&V>) {
    match value {
        Some(value) => drop(map.insert(key.clone(), value.clone())),
        None => drop(map.remove(key)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::mirror::{Item, Mirror};

    const WORKSPACE: &str = "organizations/acme/tenants/a/workspaces/w";

    /// As a last-good file of another version of this software may be: one entry of a kind that is not known here.
    fn stored<T: Item>(entries: &[(&str, serde_json::Value)], unknown: Option<&str>) -> Mirror<T> {
        let mut stored = serde_json::Map::new();
        for (name, body) in entries {
            stored.insert((*name).to_owned(), json!({"good": body.to_string()}));
        }
        if let Some(name) = unknown {
            stored.insert(name.to_owned(), json!({"good": r#"{"of": "a later version"}"#}));
        }
        let stamp = json!({"epoch": 1, "revision": 7, "source": "x", "sequence": 0});
        let file = json!({"stamp": stamp, "complete": true, "known": true, "entries": stored, "braked": []});
        Mirror::from_bytes(file.to_string().as_bytes()).unwrap()
    }

    fn intent(unknown: Option<&str>) -> Mirror<Wanted> {
        let documents = [
            json!({"name": "organizations/acme", "spec": {}}),
            json!({"name": "organizations/acme/clusters/alone", "spec": {"region": "us"}}),
            json!({"name": "organizations/acme/clusters/east", "spec": {"region": "us"}}),
            json!({"name": "organizations/acme/clusters/west", "spec": {"region": "us"}}),
            json!({"name": "organizations/acme/tenants/a", "spec": {}}),
            json!({"name": WORKSPACE, "spec": {"namespaces": ["east/shop", "west/shop"]}}),
        ];
        let entries = documents.map(|document| (document["name"].as_str().unwrap().to_owned(), document));
        let entries: Vec<(&str, serde_json::Value)> = entries
            .iter()
            .map(|(name, document)| (name.as_str(), document.clone()))
            .collect();
        stored(&entries, unknown)
    }

    fn report(unknown: Option<&str>) -> Mirror<Reported> {
        let service = json!({"service": {"ports": [{"name": "http", "port": 80}], "state": "up"}});
        stored(&[("services/shop/web", service)], unknown)
    }

    /// Holds invariant 5: what cannot be read is not gone, so no slice that it may concern says that it is all there is.
    #[test]
    fn invariant_5_what_cannot_be_read_makes_the_slices_that_it_concerns_incomplete() {
        for (unread_intent, unread_report, incomplete) in [
            (None, None, vec![]),
            (
                Some(format!("{WORKSPACE}/newkinds/x")),
                None,
                vec!["alone", "east", "west"],
            ),
            (
                Some(format!("{WORKSPACE}/trafficgroups/g")),
                None,
                vec!["alone", "east", "west"],
            ),
            // Of the same workspace are east and west, and nobody else needs to know what east offers.
            (None, Some("services/shop/reviews"), vec!["east", "west"]),
            (None, Some("newthings/shop/reviews"), vec!["east", "west"]),
        ] {
            let mut mesh = Mesh::new(Source {
                name: "a".to_owned(),
                incarnation: 1,
            });
            mesh.intent(intent(unread_intent.as_deref()).news().unwrap());
            for name in ["alone", "east", "west"] {
                let unread = unread_report.filter(|_| name == "east");
                mesh.report(&name.parse().unwrap(), report(unread).news().unwrap());
            }
            mesh.settle();
            let found: Vec<&str> = ["alone", "east", "west"]
                .into_iter()
                .filter(|name| !mesh.publication(&name.parse().unwrap()).unwrap().complete)
                .collect();
            assert_eq!(found, incomplete, "{unread_intent:?} {unread_report:?}");
            let everything_is_told = unread_report.is_none();
            assert_eq!(mesh.upward().complete, everything_is_told, "{unread_report:?}");
        }
    }
}
