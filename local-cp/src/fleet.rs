//! The proxies of this cluster: those that are connected, each with how far it is, and those that went silent; and the
//! receipt that follows from it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;
use tombolo_compiler::finding::{Finding, Origin};
use tombolo_compiler::proxy::ProxyNode;
use tombolo_compiler::report::{Receipt, Rejection};

use crate::ads::node::{Acknowledges, Dialect, Introduction};
use crate::ads::session::Standing;

/// How long a proxy that went silent is remembered. It may run on with what it has, so that nothing newer is known to be
/// running everywhere; but one that was removed says no goodbye either when it is killed, and no platform tells of it yet.
/// A proxy that lives finds its edge again within seconds; this is far above that, and a person need not wait for it.
pub(crate) const FORGET_AFTER: Duration = Duration::from_secs(600);

/// Written by each stream about its own proxy, read by whoever reports.
#[derive(Clone, Debug)]
pub(crate) struct Fleet {
    streams: Arc<Mutex<Streams>>,
    changed: watch::Sender<()>,
    rosters: watch::Sender<Option<Arc<Roster>>>,
}

/// One stream's place in the fleet. When this is dropped without [`Seat::leave`] its proxy becomes unknown: it may run
/// on.
#[derive(Debug)]
pub(crate) struct Seat {
    fleet: Fleet,
    number: u64,
}

/// All that are known at one moment; none is in both.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proxies {
    pub(crate) connected: BTreeMap<String, Member>,
    pub(crate) unknown: BTreeMap<String, Known>,
}

/// Every proxy that is known, by name, as it outlives a restart of the edge.
pub(crate) type Roster = BTreeMap<String, Known>;

/// The last that was proven of a proxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Known {
    /// (0, 0) when nothing was.
    pub(crate) running: (u64, u64),
    pub(crate) acknowledges: Acknowledges,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forget {
    Forgotten,
    /// It is there, and would be back at once.
    Connected,
    NotKnown,
}

/// One connected proxy.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Member {
    pub(crate) node: ProxyNode,
    pub(crate) acknowledges: Acknowledges,
    pub(crate) dialect: Dialect,
    pub(crate) standing: Standing,
    /// What lowering had to say: in the user's resources, and not in what the proxy was sent.
    pub(crate) findings: Arc<[Finding]>,
}

#[derive(Debug, Default)]
struct Streams {
    /// In the order of their connection, so that of two with one name the later counts.
    members: BTreeMap<u64, Member>,
    /// Never the name of a member.
    unknown: BTreeMap<String, (Known, Instant)>,
    last: u64,
}

impl Fleet {
    /// Those of an earlier life are unknown until they are back.
    pub(crate) fn new(roster: Roster) -> Fleet {
        let now = Instant::now();
        let unknown = roster.into_iter().map(|(id, known)| (id, (known, now)));
        let streams = Streams {
            unknown: unknown.collect(),
            ..Streams::default()
        };
        Fleet {
            streams: Arc::new(Mutex::new(streams)),
            changed: watch::Sender::new(()),
            rosters: watch::Sender::new(None),
        }
    }

    pub(crate) fn join(&self, introduction: &Introduction) -> Seat {
        let mut streams = self.lock();
        streams.last += 1;
        streams.unknown.remove(&introduction.node.id);
        let number = streams.last;
        streams.members.insert(
            number,
            Member {
                node: introduction.node.clone(),
                acknowledges: introduction.acknowledges,
                dialect: introduction.dialect,
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

    /// By name. A proxy that has reconnected before its old stream was seen to end counts once; so does a client without one,
    /// which has a stream for each thing that it follows, and is as far as the last of them.
    pub(crate) fn proxies(&self) -> Proxies {
        let streams = self.lock();
        let mut connected: BTreeMap<String, Member> = BTreeMap::new();
        for member in streams.members.values() {
            let merged = match connected.remove(&member.node.id) {
                Some(other) => member.beside(&other),
                None => member.clone(),
            };
            connected.insert(member.node.id.clone(), merged);
        }
        let unknown = streams.unknown.iter();
        Proxies {
            connected,
            unknown: unknown
                .map(|(id, (known, _))| (id.clone(), known.clone()))
                .collect(),
        }
    }

    /// What is to be kept on disk: the latest that [`Fleet::share`] was given.
    pub(crate) fn rosters(&self) -> watch::Receiver<Option<Arc<Roster>>> {
        self.rosters.subscribe()
    }

    pub(crate) fn share(&self, proxies: &Proxies) {
        let roster = Arc::new(proxies.roster());
        self.rosters.send_if_modified(|before| {
            let differs = before.as_ref() != Some(&roster);
            *before = Some(roster);
            differs
        });
    }

    /// Forgets a proxy that will not come back.
    pub(crate) fn forget(&self, id: &str) -> Forget {
        let mut streams = self.lock();
        if streams.unknown.remove(id).is_some() {
            drop(streams);
            self.changed.send_replace(());
            return Forget::Forgotten;
        }
        match streams.is_connected(id) {
            true => Forget::Connected,
            false => Forget::NotKnown,
        }
    }

    /// Forgets whoever has been silent for [`FORGET_AFTER`]; when the next one's time is.
    pub(crate) fn forget_silent(&self, now: Instant) -> Option<Instant> {
        let mut streams = self.lock();
        streams.unknown.retain(|id, (_, since)| {
            let keep = now < *since + FORGET_AFTER;
            if !keep {
                tracing::warn!(node = id, "forgot a proxy that has been silent for long");
            }
            keep
        });
        let next = streams.unknown.values().map(|(_, since)| *since).min();
        next.map(|since| since + FORGET_AFTER)
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

    /// The proxy has closed its stream in order, as ours does when it ends: it runs no more.
    pub(crate) fn leave(self) {
        self.fleet.lock().members.remove(&self.number);
        // The drop tells of it.
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.fleet.lock().end(self.number);
        self.fleet.changed.send_replace(());
    }
}

impl Streams {
    fn is_connected(&self, id: &str) -> bool {
        self.members.values().any(|member| member.node.id == id)
    }

    fn end(&mut self, number: u64) {
        let Some(member) = self.members.remove(&number) else {
            return;
        };
        if !self.is_connected(&member.node.id) {
            let known = member.known();
            self.unknown.insert(member.node.id, (known, Instant::now()));
        }
    }
}

impl Member {
    /// This one, where an earlier stream says that it is of the same name.
    fn beside(&self, earlier: &Member) -> Member {
        let mut merged = self.clone();
        if [self.dialect, earlier.dialect] == [Dialect::Proxyless; 2] {
            let standing = &mut merged.standing;
            standing.running = standing.running.min(earlier.standing.running);
            for refusal in &earlier.standing.refusals {
                if !standing.refusals.contains(refusal) {
                    standing.refusals.push(refusal.clone());
                }
            }
        }
        merged
    }

    fn known(&self) -> Known {
        Known {
            running: self.standing.running.unwrap_or_default(),
            acknowledges: self.acknowledges,
        }
    }
}

impl Proxies {
    fn roster(&self) -> Roster {
        let connected = self.connected.iter();
        let connected = connected.map(|(id, member)| (id.clone(), member.known()));
        connected.chain(self.unknown.clone()).collect()
    }
}

/// What the edge attests when it has lowered the slice of `version`: every proxy runs it, except those named. A proxy
/// of which nothing is proven yet is behind at (0, 0).
pub(crate) fn receipt(version: (u64, u64), proxies: &Proxies) -> Receipt {
    let members = &proxies.connected;
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
    let skipped = members.iter().flat_map(|(name, member)| {
        member.findings.iter().map(|finding| Rejection {
            proxy: name.clone(),
            origin: Some(Origin::new(finding.resource.clone(), finding.field.clone())),
            reason: finding.message.clone(),
        })
    });
    let unknown = proxies.unknown.iter();
    let acknowledge = members.values().map(|member| member.acknowledges);
    let accepted_only = acknowledge
        .chain(proxies.unknown.values().map(|known| known.acknowledges))
        .filter(|acknowledges| *acknowledges == Acknowledges::Accepted)
        .count();
    Receipt {
        version,
        proxies: count(members.len()),
        accepted_only: count(accepted_only),
        behind: behind.collect(),
        unknown: unknown
            .map(|(name, known)| (name.clone(), known.running))
            .collect(),
        rejected: rejected.chain(skipped).collect(),
    }
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tombolo_compiler::finding::Code;
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
            dialect: Dialect::Proxy,
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
        let fleet = Fleet::new(Roster::new());
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
        let receipt = receipt((1, 7), &fleet.proxies());
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
    fn invariant_8_what_lowering_skipped_is_rejected_on_its_resource() {
        let fleet = Fleet::new(Roster::new());
        let seat = fleet.join(&introduction("gw-1", Acknowledges::Activated));
        let gateway = "organizations/acme/tenants/a".parse().unwrap();
        let finding = Finding::warning(&gateway, "spec.port", Code::PortTaken, "port 15443 is taken");
        seat.update(&running((1, 7)), &vec![finding].into());
        assert_eq!(
            receipt((1, 7), &fleet.proxies()).rejected,
            [Rejection {
                proxy: "gw-1".into(),
                origin: Some(Origin::new(gateway, "spec.port")),
                reason: "port 15443 is taken".into()
            }]
        );
    }

    #[test]
    fn a_proxy_that_reconnects_counts_once() {
        let fleet = Fleet::new(Roster::new());
        let old = fleet.join(&introduction("a", Acknowledges::Activated));
        old.update(&running((1, 7)), &Arc::default());
        let new = fleet.join(&introduction("a", Acknowledges::Activated));
        drop(old);
        let proxies = fleet.proxies();
        assert_eq!((proxies.connected.len(), proxies.unknown.len()), (1, 0));
        assert_eq!(
            proxies.connected["a"].standing.running, None,
            "nothing is proven on the new stream"
        );
        drop(new);
        assert_eq!(fleet.proxies().unknown["a"].running, (0, 0));
    }

    #[test]
    fn a_client_of_several_streams_is_as_far_as_the_last_of_them() {
        let fleet = Fleet::new(Roster::new());
        let proxyless = Introduction {
            dialect: Dialect::Proxyless,
            ..introduction("a", Acknowledges::Accepted)
        };
        let refusing = |name: &str, version| Standing {
            refusals: vec![Refusal {
                name: name.to_owned(),
                reason: "no".to_owned(),
                origins: vec![],
            }],
            ..running(version)
        };
        let none = Arc::default();
        let [late, there] = [(); 2].map(|()| fleet.join(&proxyless));
        late.update(&refusing("web", (1, 6)), &none);
        there.update(&refusing("cart", (1, 7)), &none);
        let seen = receipt((1, 7), &fleet.proxies());
        assert_eq!((seen.proxies, seen.rejected.len()), (1, 2));
        assert_eq!(seen.behind, [("a".into(), (1, 6))].into());
        late.update(&refusing("cart", (1, 7)), &none);
        let seen = receipt((1, 7), &fleet.proxies());
        assert_eq!((seen.behind.len(), seen.rejected.len()), (0, 1));
    }

    #[test]
    fn invariant_9_a_proxy_that_goes_silent_is_unknown_also_to_the_next_edge() {
        let fleet = Fleet::new(Roster::new());
        let silent = fleet.join(&introduction("a", Acknowledges::Accepted));
        silent.update(&running((1, 7)), &Arc::default());
        drop(silent);
        fleet.share(&fleet.proxies());
        let roster = fleet.rosters().borrow().clone().unwrap();
        for fleet in [fleet, Fleet::new(Roster::clone(&roster))] {
            let seen = receipt((1, 8), &fleet.proxies());
            assert_eq!(seen.unknown, [("a".into(), (1, 7))].into());
            assert_eq!((seen.proxies, seen.accepted_only), (0, 1));
            let back = fleet.join(&introduction("a", Acknowledges::Accepted));
            let seen = receipt((1, 8), &fleet.proxies());
            assert_eq!((seen.unknown.len(), seen.behind["a"]), (0, (0, 0)));
            drop(back);
        }
    }

    #[test]
    fn a_proxy_is_forgotten_by_a_person_or_with_time_and_not_while_it_is_there() {
        let fleet = Fleet::new(Roster::new());
        let there = fleet.join(&introduction("a", Acknowledges::Activated));
        assert_eq!(fleet.forget("a"), Forget::Connected);
        assert_eq!(fleet.forget("b"), Forget::NotKnown);
        drop(there);
        assert_eq!(fleet.forget("a"), Forget::Forgotten);
        assert_eq!(fleet.forget_silent(Instant::now()), None);

        drop(fleet.join(&introduction("a", Acknowledges::Activated)));
        let now = Instant::now();
        let at = fleet.forget_silent(now).unwrap();
        assert!(at > now && at <= now + FORGET_AFTER);
        assert_eq!(fleet.proxies().unknown.len(), 1);
        assert_eq!(fleet.forget_silent(at), None);
        assert!(fleet.proxies().unknown.is_empty());
    }

    #[test]
    fn a_proxy_that_says_goodbye_is_gone_unless_it_is_back_already() {
        let fleet = Fleet::new(Roster::new());
        fleet.join(&introduction("a", Acknowledges::Activated)).leave();
        let proxies = fleet.proxies();
        assert!(proxies.connected.is_empty() && proxies.unknown.is_empty());
        let old = fleet.join(&introduction("a", Acknowledges::Activated));
        let _new = fleet.join(&introduction("a", Acknowledges::Activated));
        old.leave();
        assert!(fleet.proxies().connected.contains_key("a"));
    }
}
