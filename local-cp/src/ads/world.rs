//! State-of-the-world ADS over the same [`Session`], sans I/O. A request says all names that a proxy wants of a type, and a
//! response about clusters or listeners all of them that it should hold: one that is left out is gone. A response about
//! endpoints or routes says what is new.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::mem;
use std::sync::Arc;

use tombolo_proto::resource::ContentHash;

use super::session::{AdsAction, AdsEvent, Nonsense, Session, Standing, Target};
use super::wire::{Answer, Put, Request, Response, WorldRequest, WorldResponse};
use crate::encode::{Encoded, Kind, Resources};

#[derive(Debug, Default)]
pub(crate) struct World {
    session: Session,
    resources: Option<Arc<Resources>>,
    sides: BTreeMap<Kind, Side>,
}

/// One type on this stream.
#[derive(Debug, Default)]
struct Side {
    /// The latest request from before there was anything to say: each says all that is wanted.
    waiting: Option<WorldRequest>,
    asked: Asked,
    /// Of the last response; empty before the first.
    nonce: String,
    /// What the proxy has acknowledged, where a response says all.
    held: Held,
    /// What it holds once it acknowledges the response that is unanswered.
    sent: Option<Held>,
}

type Held = BTreeMap<String, Arc<Encoded>>;

#[derive(Debug, Default)]
enum Asked {
    #[default]
    Nothing,
    Everything,
    Names(BTreeSet<String>),
}

/// Names everything, where it is said among others.
const WILDCARD: &str = "*";

impl World {
    pub(crate) fn new() -> World {
        World {
            session: Session::whole(),
            ..World::default()
        }
    }

    pub(crate) fn standing(&self) -> Standing {
        self.session.standing()
    }

    pub(crate) fn on_target(&mut self, target: Target) -> Result<Vec<WorldResponse>, Nonsense> {
        self.resources = Some(target.resources.clone());
        let mut responses = self.drive(AdsEvent::Target(target))?;
        for kind in Kind::ALL {
            let waiting = self.sides.get_mut(&kind).and_then(|side| side.waiting.take());
            if let Some(request) = waiting {
                responses.extend(self.on_request(request)?);
            }
        }
        Ok(responses)
    }

    pub(crate) fn on_request(&mut self, request: WorldRequest) -> Result<Vec<WorldResponse>, Nonsense> {
        let side = self.sides.entry(request.kind).or_default();
        let Some(resources) = &self.resources else {
            side.waiting = Some(request);
            return Ok(Vec::new());
        };
        // Said before the last response came: the answer to that one says the names again.
        if request.nonce != side.nonce {
            return Ok(Vec::new());
        }
        let request = side.translate(request, resources);
        self.drive(AdsEvent::Request(request))
    }

    /// What the session says, with what need not be said here acknowledged in the proxy's stead.
    fn drive(&mut self, event: AdsEvent) -> Result<Vec<WorldResponse>, Nonsense> {
        let mut responses = Vec::new();
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for action in self.session.on(event) {
                let response = match action {
                    AdsAction::Send(response) => response,
                    AdsAction::Refuse(nonsense) => return Err(nonsense),
                };
                let side = self.sides.entry(response.kind).or_default();
                let (kind, nonce) = (response.kind, response.nonce.clone());
                match side.say(response) {
                    Some(said) => responses.push(said),
                    None => events.push_back(AdsEvent::Request(Request {
                        answer: Some(Answer { nonce, refused: None }),
                        ..Request::nothing(kind)
                    })),
                }
            }
        }
        Ok(responses)
    }
}

impl Side {
    /// What is new in a request.
    fn translate(&mut self, request: WorldRequest, resources: &Resources) -> Request {
        let mut said = Request::nothing(request.kind);
        if let Some(world) = self.sent.take() {
            if request.refused.is_none() {
                self.held = world;
            }
            said.answer = Some(Answer {
                nonce: request.nonce,
                refused: request.refused,
            });
        }
        let is_first = matches!(self.asked, Asked::Nothing);
        let names: BTreeSet<String> = request.names.into_iter().collect();
        match mem::take(&mut self.asked) {
            // As the type has it: everything, or nothing yet.
            Asked::Nothing | Asked::Everything if names.is_empty() => self.asked = Asked::Everything,
            Asked::Nothing => {
                said.subscribe = names.iter().cloned().collect();
                self.asked = Asked::Names(names);
            }
            Asked::Everything => {
                said.unsubscribe.push(WILDCARD.to_owned());
                said.subscribe = names.iter().cloned().collect();
                self.asked = Asked::Names(names);
            }
            Asked::Names(before) => {
                said.subscribe = names.difference(&before).cloned().collect();
                said.unsubscribe = before.difference(&names).cloned().collect();
                self.asked = Asked::Names(names);
            }
        }
        // Who asks by name may have dropped what it had, or have had more.
        if is_first && says_all(request.kind) && matches!(self.asked, Asked::Everything) {
            let all = resources.shared(request.kind);
            let world: Held = all
                .map(|(name, encoded)| (name.clone(), encoded.clone()))
                .collect();
            if !request.version.is_empty() && version(&world) == request.version {
                let versions = world
                    .iter()
                    .map(|(name, encoded)| (name.clone(), encoded.version.clone()));
                said.initial_versions = versions.collect();
                self.held = world;
            }
        }
        self.held.retain(|name, _| self.asked.covers(name));
        said
    }

    /// `None` where there is nothing that the proxy does not know.
    fn say(&mut self, response: Response) -> Option<WorldResponse> {
        let Response {
            kind,
            nonce,
            put,
            removed,
        } = response;
        let is_silent = put.is_empty() && (!says_all(kind) || (removed.is_empty() && !self.held.is_empty()));
        if is_silent {
            return None;
        }
        let put = put.into_iter().map(|Put { name, encoded }| (name, encoded));
        let world: Held = if says_all(kind) {
            let mut world = self.held.clone();
            world.retain(|name, _| !removed.contains(name));
            world.extend(put);
            world
        } else {
            put.collect()
        };
        let response = WorldResponse {
            kind,
            version: version(&world),
            nonce: nonce.clone(),
            resources: world.values().map(|encoded| encoded.body.clone()).collect(),
        };
        self.nonce = nonce;
        self.sent = Some(world);
        Some(response)
    }
}

impl Asked {
    fn covers(&self, name: &str) -> bool {
        match self {
            Asked::Nothing => false,
            Asked::Everything => true,
            Asked::Names(names) => names.contains(name) || names.contains(WILDCARD),
        }
    }
}

/// Whether what a response leaves out is gone.
fn says_all(kind: Kind) -> bool {
    matches!(kind, Kind::Cluster | Kind::Listener)
}

/// Of what one response holds: equal for two edges that say the same.
fn version(world: &Held) -> String {
    let lines: String = world
        .iter()
        .map(|(name, encoded)| format!("{name}\n{}\n", encoded.version))
        .collect();
    ContentHash::of(lines.as_bytes()).to_string()
}

#[cfg(test)]
mod tests;
