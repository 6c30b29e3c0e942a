//! The proxies that are connected now, each with how far it is; and the receipt that follows from it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tombolo_compiler::finding::Finding;
use tombolo_compiler::proxy::ProxyNode;
use tombolo_compiler::report::{Receipt, Rejection};

use crate::ads::node::{Acknowledges, Introduction};
use crate::ads::session::Standing;

/// Written by each stream about its own proxy, read by whoever reports.
#[derive(Clone, Debug)]
pub(crate) struct Fleet {
    streams: Arc<Mutex<Streams>>,
    changed: watch::Sender<()>,
}

/// One stream's place in the fleet; it leaves when this is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    fleet: Fleet,
    number: u64,
}

/// One connected proxy.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Member {
    pub(crate) node: ProxyNode,
    pub(crate) acknowledges: Acknowledges,
    pub(crate) standing: Standing,
    /// What lowering had to say; shown by the admin port.
    pub(crate) findings: Arc<[Finding]>,
}

#[derive(Debug, Default)]
struct Streams {
    /// In the order of their connection, so that of two with one name the later counts.
    members: BTreeMap<u64, Member>,
    last: u64,
}

impl Fleet {
    pub(crate) fn new() -> Fleet {
        Fleet {
            streams: Arc::default(),
            changed: watch::Sender::new(()),
        }
    }

    pub(crate) fn join(&self, introduction: &Introduction) -> Seat {
        let mut streams = self.lock();
        streams.last += 1;
        let number = streams.last;
        streams.members.insert(
            number,
            Member {
                node: introduction.node.clone(),
                acknowledges: introduction.acknowledges,
                standing: Standing::default(),
                findings: Arc::default(),
            },
        );
        drop(streams);
        self.changed.send_replace(());
        Seat {
            fleet: self.clone(),
            number,
        }
    }

    /// The connected proxies by name. A proxy that has reconnected before its old stream was seen to end counts once.
    pub(crate) fn members(&self) -> BTreeMap<String, Member> {
        let streams = self.lock();
        let by_name = streams.members.values();
        by_name
            .map(|member| (member.node.id.clone(), member.clone()))
            .collect()
    }

    /// Wakes after every change.
    pub(crate) fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, Streams> {
        // Each write is one insert or removal, so a panic elsewhere leaves nothing half-written.
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    pub(crate) fn update(&self, standing: &Standing, findings: &Arc<[Finding]>) {
        let mut streams = self.fleet.lock();
        let Some(member) = streams.members.get_mut(&self.number) else {
            return;
        };
        if member.standing == *standing && member.findings == *findings {
            return;
        }
        member.standing = standing.clone();
        member.findings = findings.clone();
        drop(streams);
        self.fleet.changed.send_replace(());
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.fleet.lock().members.remove(&self.number);
        self.fleet.changed.send_replace(());
    }
}

/// What the edge attests when it has lowered the slice of `version`: every proxy runs it, except those named. A proxy
/// of which nothing is proven yet is behind at (0, 0).
pub(crate) fn receipt(version: (u64, u64), members: &BTreeMap<String, Member>) -> Receipt {
    let behind = members.iter().filter_map(|(name, member)| {
        let running = member.standing.running.unwrap_or_default();
        (running < version).then(|| (name.clone(), running))
    });
    let rejected = members.iter().flat_map(|(name, member)| {
        member.standing.refusals.iter().flat_map(move |refusal| {
            let reason = format!("{}: {}", refusal.name, refusal.reason);
            let rejection = move |origin| Rejection {
                proxy: name.clone(),
                origin,
                reason: reason.clone(),
            };
            let origins: Vec<_> = if refusal.origins.is_empty() {
                vec![None]
            } else {
                refusal.origins.iter().cloned().map(Some).collect()
            };
            origins.into_iter().map(rejection)
        })
    });
    let accepted_only = members
        .values()
        .filter(|member| member.acknowledges == Acknowledges::Accepted)
        .count();
    Receipt {
        version,
        proxies: count(members.len()),
        accepted_only: count(accepted_only),
        behind: behind.collect(),
        rejected: rejected.collect(),
    }
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tombolo_compiler::finding::Origin;
    use tombolo_compiler::proxy::ProxyRole;

    use super::*;
    use crate::ads::session::Refusal;

    fn introduction(id: &str, acknowledges: Acknowledges) -> Introduction {
        Introduction {
            node: ProxyNode {
                id: id.to_owned(),
                role: ProxyRole::Gateway {
                    workload: "mesh/gateway".parse().unwrap(),
                },
            },
            acknowledges,
        }
    }

    fn running(version: (u64, u64)) -> Standing {
        Standing {
            running: Some(version),
            refusals: vec![],
        }
    }

    #[test]
    fn a_receipt_names_the_exceptions() {
        let fleet = Fleet::new();
        let none = Arc::default();
        let there = fleet.join(&introduction("a", Acknowledges::Activated));
        let late = fleet.join(&introduction("b", Acknowledges::Accepted));
        let _silent = fleet.join(&introduction("c", Acknowledges::Activated));
        there.update(&running((1, 7)), &none);
        let origin = Origin::new("organizations/acme/tenants/a".parse().unwrap(), "");
        let refused = Refusal {
            name: "outbound".into(),
            reason: "no".into(),
            origins: vec![origin.clone()],
        };
        late.update(
            &Standing {
                refusals: vec![refused],
                ..running((1, 6))
            },
            &none,
        );
        let receipt = receipt((1, 7), &fleet.members());
        assert_eq!((receipt.proxies, receipt.accepted_only), (3, 1));
        assert_eq!(
            receipt.behind,
            [("b".into(), (1, 6)), ("c".into(), (0, 0))].into()
        );
        assert_eq!(
            receipt.rejected,
            [Rejection {
                proxy: "b".into(),
                origin: Some(origin),
                reason: "outbound: no".into()
            }]
        );
    }

    #[test]
    fn a_proxy_that_reconnects_counts_once_and_a_closed_stream_not_at_all() {
        let fleet = Fleet::new();
        let old = fleet.join(&introduction("a", Acknowledges::Activated));
        old.update(&running((1, 7)), &Arc::default());
        let new = fleet.join(&introduction("a", Acknowledges::Activated));
        assert_eq!(fleet.members().len(), 1);
        assert_eq!(
            fleet.members()["a"].standing.running,
            None,
            "nothing is proven on the new stream"
        );
        drop(old);
        drop(new);
        assert!(fleet.members().is_empty());
    }
}
