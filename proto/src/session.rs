//! The feed's session, sans I/O: one side of one link, across its reconnections. Each side publishes one set
//! of named resources and subscribes to the other's; `on` takes what happened and returns what to do. It has
//! no clock, no queue and no I/O: [`crate::link`] moves the bytes.
//!
//! The publisher mirrors what its peer holds, starting from the peer's Hello, and sends only what differs.
//! The subscriber never goes backwards, removes only what the owner removed, and compares a digest of all it
//! holds with the publisher's each second.

use std::mem;
use std::sync::Arc;

use crate::frame::{Answer, Frame, Hello, Question, Rejection};
use crate::held::{Held, Stamp};
use crate::resource::{ContentHash, Digest, Resource, Set};

mod publisher;
mod subscriber;

use publisher::Publisher;
use subscriber::Subscriber;

/// Ticks (seconds) without any frame after which the peer counts as gone. Each side sends one per second.
pub const SILENT_TICKS_MAX: u8 = 5;
/// What one frame carries at most, so that with its own fields it stays below the wire's limit.
const CHUNK_BYTES: usize = 3 * 1024 * 1024 + 64 * 1024;
/// What is assembled from chunks at most: far above any set we know of, below what would exhaust a process.
const ASSEMBLED_BYTES_MAX: usize = 256 * 1024 * 1024;

/// One side of one link.
#[derive(Debug)]
pub struct Session {
    local: Party,
    expect: Expect,
    link: Link,
    /// Whether this side takes questions.
    answers: bool,
    publisher: Publisher,
    subscriber: Subscriber,
}

/// Who a side of a link says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Party {
    /// The process: an edge's cluster, a central's or a management's replica.
    pub node: String,
    /// `management`, `central` or `edge`.
    pub plane: String,
}

/// Whom the other side must be. A server takes both from the peer's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expect {
    pub plane: String,
    /// `None` when any process of the plane will do.
    pub node: Option<String>,
}

/// All that a publisher has now. Cheap to clone. Whenever the set changes, so does the stamp.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    pub stamp: Stamp,
    pub set: Arc<Set>,
    /// The publisher knows that the set is whole: what is not in it does not exist. With `false`, nothing is
    /// ever removed from the peer.
    pub complete: bool,
}

/// When a step counts as a mistake and waits for an operator: it would remove more than this share of what
/// is held, and at least this many names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Brake {
    pub share_percent: u8,
    pub names_min: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Connected,
    Frame(Frame),
    /// The latest publication; earlier ones may be left out.
    Publish(Publication),
    /// Once per second.
    Tick,
    /// The plane cannot use a resource that it was given.
    Rejected(Rejection),
    /// The plane has taken all actions so far and said what it rejects of them: now they may be acknowledged.
    Settled,
    /// An operator wants the removals that the brake holds.
    ConfirmRemovals,
    /// The plane asks the peer something. [`Action::Answered`] follows, or nothing when the link ends first.
    Ask(Question),
    /// To what was [`Action::Asked`].
    Answer(Answer),
    Disconnected,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Send(Frame),
    /// The peer has said who it is and what it holds of ours.
    PeerJoined {
        node: String,
        plane: String,
        held: Option<Stamp>,
    },
    Apply(Applied),
    /// Removals are held back until [`Event::ConfirmRemovals`]. No timeout applies them.
    Braked {
        stamp: Stamp,
        names: Vec<String>,
    },
    /// All that the publisher has at `stamp` is held; with `complete`, it has nothing else.
    InSync {
        stamp: Stamp,
        complete: bool,
    },
    PeerAcked(PeerAck),
    Asked(Question),
    Answered(Answer),
    Alarm(Alarm),
    /// No frame for [`SILENT_TICKS_MAX`] ticks: drop the connection.
    PeerSilent,
    /// The peer breaks the protocol: drop the connection. Nothing of the offending frame was applied.
    Close(ProtocolError),
}

/// One atomic step of what is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    pub stamp: Stamp,
    pub put: Vec<Resource>,
    pub removed: Vec<String>,
    /// What is now held is all that the publisher has.
    pub complete: bool,
}

/// What the peer holds of ours, and what it says about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAck {
    pub stamp: Stamp,
    pub rejected: Vec<Rejection>,
    /// Removals that wait for an operator on the peer's side.
    pub braked: u32,
}

/// What a person should know. In each case what is held stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Alarm {
    #[error(
        "offered {offered}, which is older than {held}: keeping what is held; was the publisher restored from a backup?"
    )]
    Backwards { held: Stamp, offered: Stamp },
    #[error("offered other content under {stamp}, which is held already: keeping what is held")]
    Diverged { stamp: Stamp },
    #[error("what is held does not add up to {stamp}: resynchronising")]
    Mismatch { stamp: Stamp },
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    #[error("the peer must introduce itself with a hello before anything else")]
    NoHello,
    #[error("the peer says that it is {node} of {plane}, which is not who was expected on this connection")]
    WrongPeer { node: String, plane: String },
    #[error("a chunk does not continue what was begun")]
    ChunkOrder,
    #[error("chunks of more than {ASSEMBLED_BYTES_MAX} bytes")]
    TooLarge,
    #[error("one update names {name} twice")]
    NamedTwice { name: String },
}

#[derive(Debug)]
enum Link {
    Down,
    Up {
        greeted: bool,
        silent_ticks: u8,
        /// The peer takes questions.
        answers: bool,
    },
}

impl Default for Brake {
    fn default() -> Self {
        Self {
            share_percent: 50,
            names_min: 20,
        }
    }
}

impl Brake {
    fn stops(self, removed: usize, held: usize) -> bool {
        removed >= self.names_min && removed * 100 > held * usize::from(self.share_percent)
    }
}

impl Session {
    /// A side that holds `held` of its peer's set: from last good, or nothing.
    pub fn new(local: Party, expect: Expect, held: Held) -> Self {
        Self::with_brake(local, expect, held, Brake::default())
    }

    pub fn with_brake(local: Party, expect: Expect, held: Held, brake: Brake) -> Self {
        Self {
            local,
            expect,
            link: Link::Down,
            answers: false,
            publisher: Publisher::default(),
            subscriber: Subscriber::new(held, brake),
        }
    }

    /// A side that takes questions.
    #[must_use]
    pub fn answering(self) -> Self {
        Self {
            answers: true,
            ..self
        }
    }

    /// What is held of the peer's set, with what the brake still keeps.
    pub fn held(&self) -> Held {
        self.subscriber.held()
    }

    pub fn on(&mut self, event: Event) -> Vec<Action> {
        match event {
            Event::Connected => self.connected(),
            Event::Frame(frame) => self.frame(frame),
            Event::Publish(publication) => sends(self.publisher.publish(publication)),
            Event::Tick => self.tick(),
            Event::Rejected(rejection) => {
                self.subscriber.reject(rejection);
                Vec::new()
            }
            Event::Settled => self.settled(),
            Event::ConfirmRemovals => self.subscriber.confirm_removals(),
            Event::Ask(question) => vec![self.ask(question)],
            Event::Answer(answer) => self.answer(answer),
            Event::Disconnected => {
                self.disconnect();
                Vec::new()
            }
        }
    }

    fn connected(&mut self) -> Vec<Action> {
        self.disconnect();
        self.link = Link::Up {
            greeted: false,
            silent_ticks: 0,
            answers: false,
        };
        self.subscriber.connected();
        let answers = self.answers;
        let hello = self.subscriber.hello(&self.local).into_iter();
        sends(hello.map(|frame| match frame {
            Frame::Hello(hello) => Frame::Hello(Hello { answers, ..hello }),
            other => other,
        }))
    }

    /// To a peer that takes no questions none is sent: an older one would drop the connection.
    fn ask(&self, question: Question) -> Action {
        let reason = match self.link {
            Link::Up { answers: true, .. } => return Action::Send(Frame::Question(question)),
            Link::Up { greeted: true, .. } => "the plane below takes no questions: it is of an older version",
            Link::Up { greeted: false, .. } | Link::Down => "the plane below is not connected",
        };
        Action::Answered(Answer {
            id: question.id,
            answer: Err(reason.to_owned()),
        })
    }

    fn answer(&self, answer: Answer) -> Vec<Action> {
        match self.link {
            Link::Up { greeted: true, .. } => vec![Action::Send(Frame::Answer(answer))],
            Link::Up { greeted: false, .. } | Link::Down => Vec::new(),
        }
    }

    fn disconnect(&mut self) {
        self.link = Link::Down;
        self.publisher.disconnected();
    }

    fn frame(&mut self, frame: Frame) -> Vec<Action> {
        match self.checked_frame(frame) {
            Ok(actions) => actions,
            Err(error) => {
                self.disconnect();
                vec![Action::Close(error)]
            }
        }
    }

    fn checked_frame(&mut self, frame: Frame) -> Result<Vec<Action>, ProtocolError> {
        let Link::Up {
            greeted,
            silent_ticks,
            answers,
        } = &mut self.link
        else {
            return Ok(Vec::new());
        };
        *silent_ticks = 0;
        if !matches!(frame, Frame::Hello(_)) && !*greeted {
            return Err(ProtocolError::NoHello);
        }
        match frame {
            Frame::Hello(hello) => {
                let known = hello.plane == self.expect.plane
                    && self.expect.node.as_ref().is_none_or(|node| *node == hello.node);
                if !known {
                    return Err(ProtocolError::WrongPeer {
                        node: hello.node,
                        plane: hello.plane,
                    });
                }
                let joined = Action::PeerJoined {
                    node: hello.node.clone(),
                    plane: hello.plane.clone(),
                    held: hello.stamp.clone(),
                };
                let first = !mem::replace(greeted, true);
                *answers |= hello.answers;
                let frames = sends(self.publisher.hello(hello)?);
                Ok(first.then_some(joined).into_iter().chain(frames).collect())
            }
            Frame::Update(update) => self.subscriber.update(update, &self.local),
            Frame::Complete(complete) => self.subscriber.complete(complete, &self.local),
            Frame::Heartbeat(heartbeat) => Ok(self.subscriber.heartbeat(heartbeat, &self.local)),
            Frame::Ack(ack) => Ok(vec![Action::PeerAcked(PeerAck {
                stamp: ack.stamp,
                rejected: ack.rejected,
                braked: ack.braked,
            })]),
            Frame::Question(question) => Ok(vec![Action::Asked(question)]),
            Frame::Answer(answer) => Ok(vec![Action::Answered(answer)]),
        }
    }

    fn tick(&mut self) -> Vec<Action> {
        let Link::Up { silent_ticks, .. } = &mut self.link else {
            return Vec::new();
        };
        *silent_ticks = silent_ticks.saturating_add(1);
        if *silent_ticks == SILENT_TICKS_MAX {
            return vec![Action::PeerSilent];
        }
        let mut actions = self.subscriber.tick(&self.local);
        actions.push(Action::Send(Frame::Heartbeat(self.publisher.heartbeat())));
        actions
    }

    fn settled(&mut self) -> Vec<Action> {
        match self.link {
            Link::Down => Vec::new(),
            Link::Up { .. } => sends(self.subscriber.ack()),
        }
    }
}

fn sends(frames: impl IntoIterator<Item = Frame>) -> Vec<Action> {
    frames.into_iter().map(Action::Send).collect()
}

/// Splits `items` so that no part is above [`CHUNK_BYTES`]; there is always at least one part.
fn chunks<T>(items: impl IntoIterator<Item = T>, bytes_of: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    let mut parts = vec![Vec::new()];
    let mut bytes = 0;
    for item in items {
        let size = bytes_of(&item);
        if bytes > 0 && bytes + size > CHUNK_BYTES {
            parts.push(Vec::new());
            bytes = 0;
        }
        bytes += size;
        parts
            .last_mut()
            .expect("invariant: parts starts with one and only grows")
            .push(item);
    }
    parts
}

/// What a name costs on the wire, with room for its field's own bytes and a hash.
fn name_bytes(name: &str) -> usize {
    name.len() + 32
}

fn resource_bytes(resource: &Resource) -> usize {
    name_bytes(resource.name()) + resource.body().len() + 32
}

/// `digest` of a set in which `name` went from one hash, or none, to another, or none.
fn exchange(digest: &mut Digest, name: &str, before: Option<ContentHash>, after: Option<ContentHash>) {
    if let Some(hash) = before {
        digest.remove(name, hash);
    }
    if let Some(hash) = after {
        digest.add(name, hash);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod convergence;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
