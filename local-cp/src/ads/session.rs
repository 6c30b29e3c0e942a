//! One proxy's ADS stream in deltas, sans I/O: what to tell it next, so that what it holds becomes what it should hold,
//! in an order that breaks nothing.
//!
//! There is at most one unanswered response per type, and each is made from the latest target: a slow proxy costs
//! neither memory nor anybody else's time. Clusters and endpoints go first; a listener or a route table waits until the
//! proxy has acknowledged the clusters that it needs; what is no longer needed is removed after the routes are
//! acknowledged. What a proxy refuses is not sent again until it changes.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::Arc;

use prost::Message;
use tombolo_compiler::finding::Origin;

use super::blame::blame;
use super::wire::{Answer, Put, Request, Response};
use crate::encode::{Kind, Resources};

/// How much one response carries, so that it stays far below gRPC's usual limit of 4 MiB; the rest follows when it is
/// acknowledged.
const RESPONSE_BYTES_MAX: usize = 1024 * 1024;

/// (epoch, revision) of the intent that something was derived from.
pub(crate) type Version = (u64, u64);

#[derive(Clone, Debug)]
pub(crate) enum AdsEvent {
    Request(Request),
    /// The latest of what the proxy should hold; earlier ones may be left out.
    Target(Target),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum AdsAction {
    Send(Response),
    /// The proxy breaks the protocol: end the stream with this reason.
    Refuse(Nonsense),
}

/// What the proxy should hold, and the intent that it comes from.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) version: Version,
    pub(crate) resources: Arc<Resources>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Nonsense {
    #[error("response_nonce {given:?} is not that of the unanswered response for {type_url}")]
    Nonce { given: String, type_url: &'static str },
}

/// How far the proxy is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// The latest intent all of whose resources the proxy has acknowledged on this stream.
    pub(crate) running: Option<Version>,
    pub(crate) refusals: Vec<Refusal>,
}

/// A resource that the proxy does not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) name: String,
    pub(crate) reason: String,
    /// The user's resources that it came from.
    pub(crate) origins: Vec<Origin>,
}

#[derive(Debug, Default)]
pub(crate) struct Session {
    target: Option<Target>,
    cluster: Subscription,
    endpoints: Subscription,
    listener: Subscription,
    routes: Subscription,
    running: Option<Version>,
    nonces: u64,
    /// The proxy takes what a response about clusters or listeners leaves out for gone.
    is_whole: bool,
}

/// One type on this stream.
#[derive(Debug, Default)]
struct Subscription {
    opened: bool,
    /// Something was said of it.
    begun: bool,
    wildcard: bool,
    names: BTreeSet<String>,
    known: BTreeMap<String, Known>,
    /// To be sent although known: the proxy asked again, or needs it to finish an update of the cluster.
    again: BTreeSet<String>,
    /// The first answer to a wildcard is due even when it is empty: Envoy waits for it.
    answer_due: bool,
    flight: Option<Flight>,
    refused: BTreeMap<String, Refused>,
}

/// What the proxy holds under a name, as far as it said.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Known {
    At(String),
    Absent,
}

/// The version of something that a proxy may or may not hold: none of ours.
const UNKNOWN: &str = "";

/// A response that was not answered yet.
#[derive(Debug)]
struct Flight {
    nonce: String,
    /// Version by name; `None` is a removal.
    content: BTreeMap<String, Option<String>>,
    resources: Arc<Resources>,
}

#[derive(Debug)]
struct Refused {
    content: Option<String>,
    refusal: Refusal,
}

/// What a name needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Nothing,
    Put,
    /// The proxy has it and should not.
    Remove,
    /// The proxy asks for what does not exist.
    Missing,
    /// It would be a put or a removal, but the proxy refused exactly that.
    Refused,
}

impl Session {
    /// For a proxy that is told the state of the world.
    pub(crate) fn whole() -> Session {
        Session {
            is_whole: true,
            ..Session::default()
        }
    }

    pub(crate) fn on(&mut self, event: AdsEvent) -> Vec<AdsAction> {
        match event {
            AdsEvent::Target(target) => self.target = Some(target),
            AdsEvent::Request(request) => {
                if let Err(nonsense) = self.request(request) {
                    return vec![AdsAction::Refuse(nonsense)];
                }
            }
        }
        self.forget_settled_refusals();
        let responses = Kind::ALL
            .into_iter()
            .filter_map(|kind| self.respond(kind))
            .collect::<Vec<_>>();
        if let Some(target) = &self.target
            && Kind::ALL.into_iter().all(|kind| self.is_running(kind))
        {
            self.running = Some(target.version);
        }
        responses.into_iter().map(AdsAction::Send).collect()
    }

    pub(crate) fn standing(&self) -> Standing {
        let refused = Kind::ALL
            .into_iter()
            .flat_map(|kind| self.of(kind).refused.values());
        Standing {
            running: self.running,
            refusals: refused.map(|refused| refused.refusal.clone()).collect(),
        }
    }

    fn of(&self, kind: Kind) -> &Subscription {
        match kind {
            Kind::Cluster => &self.cluster,
            Kind::Endpoints => &self.endpoints,
            Kind::Listener => &self.listener,
            Kind::Routes => &self.routes,
        }
    }

    fn of_mut(&mut self, kind: Kind) -> &mut Subscription {
        match kind {
            Kind::Cluster => &mut self.cluster,
            Kind::Endpoints => &mut self.endpoints,
            Kind::Listener => &mut self.listener,
            Kind::Routes => &mut self.routes,
        }
    }

    fn request(&mut self, request: Request) -> Result<(), Nonsense> {
        let kind = request.kind;
        let subscription = self.of_mut(kind);
        if let Some(answer) = request.answer {
            subscription.answered(kind, answer)?;
        }
        let first = !mem::replace(&mut subscription.opened, true);
        let by_default = matches!(kind, Kind::Cluster | Kind::Listener);
        if first && by_default && request.subscribe.is_empty() {
            subscription.wildcard = true;
        }
        for name in request.unsubscribe {
            subscription.unsubscribe(&name);
        }
        for name in request.subscribe {
            subscription.subscribe(name);
        }
        if first {
            subscription.answer_due = subscription.wildcard;
            for (name, version) in request.initial_versions {
                if subscription.covers(&name) {
                    subscription.known.insert(name, Known::At(version));
                }
            }
        }
        Ok(())
    }

    /// The next response for a type, if one is due and none is unanswered.
    fn respond(&mut self, kind: Kind) -> Option<Response> {
        let target = self.target.clone()?;
        let resources = &target.resources;
        let subscription = self.of(kind);
        if !subscription.opened || subscription.flight.is_some() {
            return None;
        }
        let may_remove = kind == Kind::Listener || self.routes_are_running();
        let is_whole = self.is_whole && matches!(kind, Kind::Cluster | Kind::Listener);
        let (mut put, mut removed, mut bytes, mut withheld) = (Vec::new(), Vec::new(), 0, false);
        let mut awaited = false;
        for name in subscription.candidates(resources, kind) {
            match subscription.due(resources, kind, name) {
                Due::Nothing | Due::Refused => {}
                Due::Missing => removed.push(name.clone()),
                Due::Remove if may_remove => removed.push(name.clone()),
                Due::Remove => {}
                Due::Put => {
                    let encoded = resources
                        .get(kind, name)
                        .expect("invariant: only what the target has is put");
                    let size = encoded.body.encoded_len();
                    let ready = encoded
                        .needs
                        .iter()
                        .all(|cluster| self.is_ready(resources, cluster));
                    let fits = is_whole || put.is_empty() || bytes + size <= RESPONSE_BYTES_MAX;
                    if ready && fits {
                        bytes += size;
                        put.push(Put {
                            name: name.clone(),
                            encoded: encoded.clone(),
                        });
                    } else {
                        withheld = true;
                        awaited |= encoded
                            .needs
                            .iter()
                            .any(|cluster| !self.is_settled(resources, cluster));
                    }
                }
            }
        }
        if is_whole && awaited && !subscription.begun {
            // What it holds from before would be gone until the rest comes.
            return None;
        }
        if kind == Kind::Listener && (withheld || !put.is_empty()) {
            // What replaces it is answered first.
            removed.clear();
        }
        let first_answer = subscription.answer_due && !withheld;
        if put.is_empty() && removed.is_empty() && !first_answer {
            return None;
        }
        Some(self.send(kind, &target, put, removed))
    }

    fn send(&mut self, kind: Kind, target: &Target, put: Vec<Put>, removed: Vec<String>) -> Response {
        if kind == Kind::Cluster {
            // An updated cluster of Envoy's warms up until endpoints come again, changed or not.
            let updated = put
                .iter()
                .filter(|put| self.endpoints.known.contains_key(&put.name));
            let names: Vec<String> = updated.map(|put| put.name.clone()).collect();
            self.endpoints.again.extend(names);
        }
        self.nonces += 1;
        let nonce = self.nonces.to_string();
        let puts = put
            .iter()
            .map(|put| (put.name.clone(), Some(put.encoded.version.clone())));
        let content: BTreeMap<_, _> = puts
            .chain(removed.iter().map(|name| (name.clone(), None)))
            .collect();
        let subscription = self.of_mut(kind);
        subscription.answer_due = false;
        subscription.begun = true;
        subscription.again.retain(|name| !content.contains_key(name));
        subscription.flight = Some(Flight {
            nonce: nonce.clone(),
            content,
            resources: target.resources.clone(),
        });
        Response {
            kind,
            nonce,
            put,
            removed,
        }
    }

    /// Whether requests for this cluster would work in the proxy, as far as the edge can make them.
    fn is_ready(&self, resources: &Resources, cluster: &str) -> bool {
        if resources.get(Kind::Cluster, cluster).is_none() || !self.cluster.covers(cluster) {
            return true;
        }
        [Kind::Cluster, Kind::Endpoints].into_iter().all(|kind| {
            let subscription = self.of(kind);
            subscription.is_answered(resources, kind, cluster)
                && matches!(subscription.known.get(cluster), Some(Known::At(_)))
        })
    }

    /// Whether the proxy has said what it thinks of this cluster, so that nothing more is to be waited for.
    fn is_settled(&self, resources: &Resources, cluster: &str) -> bool {
        let is_refused = self.cluster.refused.contains_key(cluster);
        is_refused
            || [Kind::Cluster, Kind::Endpoints].into_iter().all(|kind| {
                let subscription = self.of(kind);
                subscription.is_answered(resources, kind, cluster)
            })
    }

    fn routes_are_running(&self) -> bool {
        self.is_running(Kind::Listener) && self.is_running(Kind::Routes)
    }

    /// Whether the proxy has acknowledged exactly what it should hold of a type, which is what it asks for where it asks for
    /// listeners by name, with the routes of those; what it need no longer hold does not count, save a listener, which is open
    /// until it is removed.
    fn is_running(&self, kind: Kind) -> bool {
        let Some(target) = &self.target else { return false };
        let subscription = self.of(kind);
        let closed = kind != Kind::Listener
            || subscription
                .known
                .iter()
                .all(|(name, known)| *known == Known::Absent || target.resources.get(kind, name).is_some());
        let asks_by_name = self.listener.opened && !self.listener.wildcard;
        let used: BTreeSet<&str> = match kind == Kind::Routes && asks_by_name {
            true => self.tables(target).collect(),
            false => BTreeSet::new(),
        };
        let mut wanted = target.resources.of(kind);
        closed
            && wanted.all(|(name, encoded)| {
                let is_left_out = asks_by_name && !subscription.covers(name) && !used.contains(name.as_str());
                is_left_out
                    || subscription
                        .known
                        .get(name)
                        .is_some_and(|known| known.is_at(&encoded.version))
                        && !subscription.again.contains(name)
            })
    }

    /// The routes of the listeners that the proxy asks for.
    fn tables<'a>(&self, target: &'a Target) -> impl Iterator<Item = &'a str> {
        let listeners = target.resources.of(Kind::Listener);
        listeners
            .filter(|(name, _)| self.listener.covers(name))
            .filter_map(|(_, encoded)| encoded.table.as_deref())
    }

    fn forget_settled_refusals(&mut self) {
        let Some(target) = self.target.clone() else { return };
        for kind in Kind::ALL {
            let subscription = self.of_mut(kind);
            let known = &subscription.known;
            subscription.refused.retain(|name, refused| {
                match (
                    target.resources.get(kind, name),
                    &refused.content,
                    known.get(name),
                ) {
                    (Some(wanted), _, known) => !known.is_some_and(|known| known.is_at(&wanted.version)),
                    // What was refused is not wanted any more; it only matters while its removal is due.
                    (None, Some(_), known) => matches!(known, Some(Known::At(_))),
                    (None, None, known) => known != Some(&Known::Absent),
                }
            });
        }
    }
}

impl Subscription {
    fn covers(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    fn subscribe(&mut self, name: String) {
        if name == "*" {
            self.wildcard = true;
            return;
        }
        let in_flight = self
            .flight
            .as_ref()
            .is_some_and(|flight| flight.content.contains_key(&name));
        if in_flight || self.known.contains_key(&name) {
            self.again.insert(name.clone());
        }
        self.known.remove(&name);
        self.names.insert(name);
    }

    fn unsubscribe(&mut self, name: &str) {
        if name == "*" {
            self.wildcard = false;
            let names = &self.names;
            self.known.retain(|name, _| names.contains(name));
            self.refused.retain(|name, _| names.contains(name));
            self.again.retain(|name| names.contains(name));
            return;
        }
        self.names.remove(name);
        if !self.wildcard {
            self.known.remove(name);
            self.refused.remove(name);
            self.again.remove(name);
        }
    }

    fn answered(&mut self, kind: Kind, answer: Answer) -> Result<(), Nonsense> {
        let Some(flight) = self.flight.take_if(|flight| flight.nonce == answer.nonce) else {
            return Err(Nonsense::Nonce {
                given: answer.nonce.chars().take(64).collect(),
                type_url: kind.type_url(),
            });
        };
        match answer.refused {
            None => self.acknowledged(kind, flight),
            Some(message) => self.refused(kind, &flight, &message),
        }
        Ok(())
    }

    fn acknowledged(&mut self, kind: Kind, flight: Flight) {
        if kind == Kind::Listener && flight.content.values().any(Option::is_none) {
            // Its address may have been what another was refused for: once more.
            self.refused.clear();
        }
        for (name, version) in flight.content {
            if self.covers(&name) {
                let known = version.map_or(Known::Absent, Known::At);
                self.known.insert(name, known);
            }
        }
    }

    /// What is blamed is held back until it changes. Of the rest nobody knows whether the proxy has applied it, so it is sent
    /// again, or taken back if it is wanted no more; each refusal leaves less to send, so this ends.
    fn refused(&mut self, kind: Kind, flight: &Flight, message: &str) {
        let blamed = blame(message, flight.content.keys());
        for (name, put) in &flight.content {
            if blamed.iter().any(|(blamed, _)| blamed == name) {
                continue;
            }
            match put {
                Some(_) => self.known.insert(name.clone(), Known::At(UNKNOWN.to_owned())),
                None => self.known.remove(name),
            };
        }
        for (name, reason) in blamed {
            let origins = flight
                .resources
                .get(kind, &name)
                .map(|encoded| encoded.origins.blamed(&reason))
                .unwrap_or_default();
            self.refused.insert(
                name.clone(),
                Refused {
                    content: flight.content.get(&name).cloned().flatten(),
                    refusal: Refusal {
                        name,
                        reason,
                        origins,
                    },
                },
            );
        }
    }

    fn candidates<'a>(&'a self, resources: &'a Resources, kind: Kind) -> BTreeSet<&'a String> {
        let wanted = resources.of(kind).map(|(name, _)| name).filter(|_| self.wildcard);
        wanted.chain(&self.names).chain(self.known.keys()).collect()
    }

    fn due(&self, resources: &Resources, kind: Kind, name: &str) -> Due {
        let wanted = resources.get(kind, name).map(|encoded| &encoded.version);
        let due = match (wanted, self.known.get(name)) {
            (Some(wanted), Some(known)) if known.is_at(wanted) && !self.again.contains(name) => Due::Nothing,
            (Some(_), _) => Due::Put,
            (None, Some(Known::At(_))) => Due::Remove,
            (None, Some(Known::Absent)) => Due::Nothing,
            (None, None) => Due::Missing,
        };
        let refused = self
            .refused
            .get(name)
            .is_some_and(|refused| refused.content.as_ref() == wanted);
        if refused && due != Due::Nothing {
            Due::Refused
        } else {
            due
        }
    }

    /// Whether the proxy has taken or refused the latest of this name.
    fn is_answered(&self, resources: &Resources, kind: Kind, name: &str) -> bool {
        let flying = self
            .flight
            .as_ref()
            .is_some_and(|flight| flight.content.contains_key(name));
        !flying && matches!(self.due(resources, kind, name), Due::Nothing | Due::Refused)
    }
}

impl Known {
    fn is_at(&self, version: &str) -> bool {
        matches!(self, Known::At(held) if held == version)
    }
}

#[cfg(test)]
mod tests;
