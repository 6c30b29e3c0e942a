//! What the centrals say of the clusters, merged: each cluster as the best informed of them tells it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tombolo_compiler::finding::{Code, Finding};
use tombolo_compiler::name::ClusterName;
use tombolo_compiler::observe::Agent;
use tombolo_compiler::report::{ClusterReport, ReportItem};
use tombolo_compiler::roll_up::Heard;
use tombolo_proto::codec;
use tombolo_proto::frame::Rejection;
use tombolo_proto::held::{Held, Stamp, Version};
use tombolo_proto::resource::Resource;
use tombolo_proto::session::Applied;

/// Everything that is known of the clusters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mesh {
    pub(crate) clusters: BTreeMap<ClusterName, Arc<ClusterReport>>,
    pub(crate) heard: BTreeMap<ClusterName, Heard>,
    /// What the centrals found when they planned.
    pub(crate) findings: BTreeSet<Finding>,
}

/// What one central has reported, as it holds it and as it is stored.
#[derive(Clone, Debug, Default)]
pub(crate) struct CentralReport {
    /// The connection that speaks for it; `None` while it is not connected.
    pub(crate) connection: Option<u64>,
    /// What it cannot use of the intent that it was given.
    pub(crate) rejected: Vec<Rejection>,
    stamp: Option<Stamp>,
    complete: bool,
    items: BTreeMap<String, Item>,
}

#[derive(Clone, Debug)]
struct Item {
    resource: Resource,
    meaning: Meaning,
    /// Counts what was received from all centrals, so that the latest can be told.
    received: u64,
}

#[derive(Clone, Debug)]
enum Meaning {
    Report(ClusterName, String, Box<ReportItem>),
    Agent(ClusterName, Agent),
    Findings(Vec<Finding>),
}

#[derive(Clone, Debug, thiserror::Error)]
#[error("{name}: {reason}")]
pub(crate) struct BadReport {
    pub(crate) name: String,
    pub(crate) reason: String,
}

/// The stored form.
#[derive(Serialize, Deserialize)]
struct Stored {
    epoch: u64,
    revision: u64,
    source: String,
    sequence: u64,
    complete: bool,
    items: BTreeMap<String, Value>,
}

impl CentralReport {
    /// What a new session may continue from.
    pub(crate) fn held(&self) -> Held {
        let names = self.items.iter();
        Held {
            stamp: self.stamp.clone(),
            names: names
                .map(|(name, item)| (name.clone(), item.resource.hash()))
                .collect(),
            complete: self.complete,
        }
    }

    /// Takes a step of the feed. What cannot be read is left out and told.
    pub(crate) fn apply(&mut self, applied: Applied, received: u64) -> Vec<BadReport> {
        let mut bad = Vec::new();
        for name in applied.removed {
            self.items.remove(&name);
        }
        for resource in applied.put {
            match Meaning::of(&resource) {
                Ok(meaning) => {
                    let item = Item {
                        resource,
                        meaning,
                        received,
                    };
                    self.items.insert(item.resource.name().to_owned(), item);
                }
                Err(reason) => bad.push(BadReport {
                    name: resource.name().to_owned(),
                    reason,
                }),
            }
        }
        self.stamp = Some(applied.stamp);
        self.complete = applied.complete;
        bad
    }

    /// The clusters that this central hears or has heard.
    pub(crate) fn heard_clusters(&self) -> BTreeSet<ClusterName> {
        self.items
            .values()
            .filter_map(|item| match &item.meaning {
                Meaning::Report(cluster, ..) => Some(cluster.clone()),
                Meaning::Agent(cluster, agent) => (*agent != Agent::Unknown).then(|| cluster.clone()),
                Meaning::Findings(_) => None,
            })
            .collect()
    }

    pub(crate) fn to_json(&self) -> Option<Value> {
        let stamp = self.stamp.clone()?;
        let items = self.items.iter().filter_map(|(name, item)| {
            let body = serde_json::from_slice(item.resource.body()).ok()?;
            Some((name.clone(), body))
        });
        let stored = Stored {
            epoch: stamp.version.epoch,
            revision: stamp.version.revision,
            source: stamp.source,
            sequence: stamp.sequence,
            complete: self.complete,
            items: items.collect(),
        };
        serde_json::to_value(stored).ok()
    }

    /// What was stored, as something to show until the central speaks. JSONB keeps values and not bytes, so that no
    /// hash holds: the central sends everything again.
    pub(crate) fn from_json(document: Value) -> Result<CentralReport, serde_json::Error> {
        let stored: Stored = serde_json::from_value(document)?;
        let stamp = Stamp {
            version: Version {
                epoch: stored.epoch,
                revision: stored.revision,
            },
            source: stored.source,
            sequence: stored.sequence,
        };
        let mut report = CentralReport::default();
        let put = stored
            .items
            .iter()
            .filter_map(|(name, value)| codec::encode(name.clone(), value).ok())
            .collect();
        let applied = Applied {
            stamp,
            put,
            removed: Vec::new(),
            complete: stored.complete,
        };
        for bad in report.apply(applied, 0) {
            tracing::warn!(error = %bad, "left out a stored report");
        }
        report.stamp = None;
        report.complete = false;
        Ok(report)
    }

    /// Each on the resource that was rejected.
    fn rejections<'a>(&'a self, central: &'a str) -> impl Iterator<Item = Finding> + 'a {
        self.rejected.iter().filter_map(move |rejection| {
            let message = format!("central {central} cannot use it: {}", rejection.reason);
            Some(Finding::error(
                &rejection.name.parse().ok()?,
                "",
                Code::ProxyRejected,
                message,
            ))
        })
    }

    fn is_live(&self) -> bool {
        self.connection.is_some()
    }

    fn agent(&self, cluster: &ClusterName) -> Agent {
        match self
            .items
            .get(&format!("clusters/{cluster}/agent"))
            .map(|item| &item.meaning)
        {
            Some(Meaning::Agent(_, agent)) => *agent,
            _ => Agent::Unknown,
        }
    }
}

impl Meaning {
    fn of(resource: &Resource) -> Result<Meaning, String> {
        let unreadable = |error: codec::DecodeError| error.source.to_string();
        if resource.name() == "findings" {
            return Ok(Meaning::Findings(codec::decode(resource).map_err(unreadable)?));
        }
        let (cluster, rest) = resource
            .name()
            .strip_prefix("clusters/")
            .and_then(|name| name.split_once('/'))
            .ok_or("it is not the name of a report")?;
        let cluster: ClusterName = cluster.parse().map_err(|error| format!("{error}"))?;
        if rest == "agent" {
            return Ok(Meaning::Agent(
                cluster,
                codec::decode(resource).map_err(unreadable)?,
            ));
        }
        let item: ReportItem = codec::decode(resource).map_err(unreadable)?;
        Ok(Meaning::Report(cluster, rest.to_owned(), Box::new(item)))
    }
}

/// For each cluster, one central is believed: a connected one that hears the cluster's agent before any other, and
/// of several such the one that has said something last.
pub(crate) fn merge(centrals: &BTreeMap<String, Arc<CentralReport>>) -> Mesh {
    let mut mesh = Mesh::default();
    let mut believed: BTreeMap<ClusterName, (Rank, &CentralReport)> = BTreeMap::new();
    for (central, report) in centrals {
        if report.is_live() {
            mesh.findings.extend(report.rejections(central));
        }
        let mut latest: BTreeMap<&ClusterName, u64> = BTreeMap::new();
        for item in report.items.values() {
            match &item.meaning {
                Meaning::Report(cluster, ..) | Meaning::Agent(cluster, _) => {
                    let at = latest.entry(cluster).or_default();
                    *at = item.received.max(*at);
                }
                Meaning::Findings(findings) if report.is_live() => {
                    mesh.findings.extend(findings.iter().cloned());
                }
                Meaning::Findings(_) => {}
            }
        }
        for (cluster, received) in latest {
            let rank = Rank {
                hears: report.is_live() && report.agent(cluster) == Agent::Live,
                live: report.is_live(),
                received,
            };
            match believed.get(cluster) {
                Some((best, _)) if *best >= rank => {}
                _ => {
                    believed.insert(cluster.clone(), (rank, report));
                }
            }
        }
    }
    for (cluster, (rank, report)) in believed {
        let (told, heard) = tell(report, &cluster, rank.live);
        mesh.clusters.insert(cluster.clone(), Arc::new(told));
        mesh.heard.insert(cluster, heard);
    }
    mesh
}

/// In the order of what counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    hears: bool,
    live: bool,
    received: u64,
}

fn tell(report: &CentralReport, cluster: &ClusterName, live: bool) -> (ClusterReport, Heard) {
    let mut told = ClusterReport::default();
    let mut receipt = None;
    let prefix = format!("clusters/{cluster}/");
    let items = report.items.range(prefix.clone()..);
    for (_, item) in items.take_while(|(name, _)| name.starts_with(&prefix)) {
        let Meaning::Report(_, name, item) = &item.meaning else {
            continue;
        };
        let id = name.split_once('/').and_then(|(_, id)| id.parse().ok());
        match (&**item, id) {
            (ReportItem::Service(service), Some(id)) => {
                told.services.insert(id, service.clone());
            }
            (ReportItem::Gateway(gateway), Some(id)) => {
                told.gateways.insert(id, gateway.clone());
            }
            (ReportItem::Receipt(one), _) => receipt = Some(one.clone()),
            (_, None) => {}
        }
    }
    // A central that is gone cannot say that an agent lives.
    let agent = match report.agent(cluster) {
        Agent::Live if !live => Agent::Lost,
        agent => agent,
    };
    (told, Heard { agent, receipt })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tombolo_compiler::report::Receipt;

    use super::*;

    fn report(live: bool, agent: Agent, revision: u64, received: u64) -> Arc<CentralReport> {
        let receipt = ReportItem::Receipt(Receipt {
            version: (1, revision),
            proxies: 1,
            ..Receipt::default()
        });
        let mut report = CentralReport {
            connection: live.then_some(1),
            ..CentralReport::default()
        };
        let applied = Applied {
            stamp: Stamp {
                version: Version::default(),
                source: "c".into(),
                sequence: 1,
            },
            put: vec![
                codec::encode("clusters/us/receipt", &receipt).unwrap(),
                codec::encode("clusters/us/agent", &agent).unwrap(),
            ],
            removed: vec![],
            complete: true,
        };
        assert!(report.apply(applied, received).is_empty());
        Arc::new(report)
    }

    #[test]
    fn the_best_informed_central_is_believed() {
        let us: ClusterName = "us".parse().unwrap();
        for (name, a, b, revision, agent) in [
            (
                "latest",
                (true, Agent::Live, 1, 5),
                (true, Agent::Live, 2, 6),
                2,
                Agent::Live,
            ),
            (
                "who hears",
                (true, Agent::Live, 1, 5),
                (true, Agent::Lost, 2, 6),
                1,
                Agent::Live,
            ),
            (
                "connected",
                (true, Agent::Lost, 1, 5),
                (false, Agent::Live, 2, 6),
                1,
                Agent::Lost,
            ),
            (
                "none",
                (false, Agent::Live, 1, 5),
                (false, Agent::Live, 2, 6),
                2,
                Agent::Lost,
            ),
        ] {
            let centrals = [("a", a), ("b", b)]
                .map(|(name, (live, agent, revision, received))| {
                    (name.to_owned(), report(live, agent, revision, received))
                })
                .into();
            let heard = merge(&centrals).heard.remove(&us).unwrap();
            assert_eq!(heard.receipt.unwrap().version.1, revision, "{name}");
            assert_eq!(heard.agent, agent, "{name}");
        }
    }

    #[test]
    fn what_was_stored_shows_until_the_central_speaks() {
        let stored = report(true, Agent::Live, 3, 1).to_json().unwrap();
        let back = CentralReport::from_json(stored).unwrap();
        assert_eq!(back.held().stamp, None);
        let mesh = merge(&[("a".to_owned(), Arc::new(back))].into());
        assert_eq!(mesh.heard.values().next().unwrap().agent, Agent::Lost);
    }

    #[test]
    fn nonsense_is_told_and_left_out() {
        let put = [
            ("clusters/us", "1"),
            ("clusters/US/agent", "1"),
            ("clusters/us/agent", "1"),
            ("findings", "{}"),
        ]
        .map(|(name, body)| Resource::new(name, body).unwrap())
        .to_vec();
        let applied = Applied {
            stamp: Stamp {
                version: Version::default(),
                source: "c".into(),
                sequence: 1,
            },
            put,
            removed: vec![],
            complete: true,
        };
        let mut report = CentralReport::default();
        assert_eq!(report.apply(applied, 1).len(), 4);
        assert!(report.heard_clusters().is_empty());
    }
}
