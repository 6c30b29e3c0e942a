//! The subscribing half: what is held of the peer's set, and the rules by which it changes.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    ASSEMBLED_BYTES_MAX, Action, Alarm, Applied, Brake, Party, ProtocolError, chunks, exchange, name_bytes,
    resource_bytes, sends,
};
use crate::frame::{Ack, Complete, Frame, Heartbeat, Hello, Rejection, Update, cut};
use crate::held::{Held, Offer, Stamp, judge};
use crate::resource::{ContentHash, Digest, Resource};

/// More do not help anybody, and an Ack must fit a frame.
const REJECTIONS_MAX: usize = 1000;

/// The braked names count as removed in all that the peer sees (digest, Hello), so that both sides agree; the
/// plane still holds them.
#[derive(Debug)]
pub(super) struct Subscriber {
    brake: Brake,
    round: u64,
    stamp: Option<Stamp>,
    complete: bool,
    names: BTreeMap<String, ContentHash>,
    digest: Digest,
    braked: BTreeMap<String, ContentHash>,
    rejected: BTreeMap<String, String>,
    begun: Begun,
    /// The last stamp that raised an alarm on this connection: once is enough.
    refused: Option<Stamp>,
    /// What was last announced as in sync on this connection.
    announced: Option<(Stamp, bool)>,
    ack_due: bool,
    resync: Resync,
}

/// What is being assembled from chunks, and its bytes so far.
#[derive(Debug)]
enum Begun {
    Nothing,
    Update(Update, usize),
    Complete(Complete, usize),
}

/// At most one resynchronisation per tick, so that two sides that disagree for good do not fill the link.
#[derive(Debug, PartialEq, Eq)]
enum Resync {
    Ready,
    Used,
    Due(Stamp),
}

impl Subscriber {
    pub(super) fn new(held: Held, brake: Brake) -> Self {
        Self {
            brake,
            round: 0,
            digest: held.digest(),
            stamp: held.stamp,
            complete: held.complete,
            names: held.names,
            braked: BTreeMap::new(),
            rejected: BTreeMap::new(),
            begun: Begun::Nothing,
            refused: None,
            announced: None,
            ack_due: false,
            resync: Resync::Ready,
        }
    }

    pub(super) fn held(&self) -> Held {
        let mut names = self.names.clone();
        names.extend(self.braked.iter().map(|(name, hash)| (name.clone(), *hash)));
        Held {
            stamp: self.stamp.clone(),
            names,
            complete: self.is_complete(),
        }
    }

    pub(super) fn connected(&mut self) {
        self.refused = None;
        self.announced = None;
        self.ack_due = true;
        self.resync = Resync::Ready;
    }

    pub(super) fn hello(&mut self, local: &Party) -> Vec<Frame> {
        self.round += 1;
        self.begun = Begun::Nothing;
        let parts = chunks(self.names.clone(), |(name, _)| name_bytes(name));
        let last = parts.len() - 1;
        let frame = |(index, names): (usize, Vec<_>)| {
            Frame::Hello(Hello {
                answers: false,
                node: local.node.clone(),
                plane: local.plane.clone(),
                round: self.round,
                stamp: self.stamp.clone(),
                names: names.into_iter().collect(),
                more: index < last,
            })
        };
        parts.into_iter().enumerate().map(frame).collect()
    }

    pub(super) fn tick(&mut self, local: &Party) -> Vec<Action> {
        match std::mem::replace(&mut self.resync, Resync::Ready) {
            Resync::Ready | Resync::Used => Vec::new(),
            Resync::Due(stamp) => self.resync(stamp, local),
        }
    }

    pub(super) fn reject(&mut self, rejection: Rejection) {
        if self.names.contains_key(&rejection.name) {
            self.rejected.insert(rejection.name, cut(rejection.reason));
            self.ack_due = true;
        }
    }

    pub(super) fn ack(&mut self) -> Option<Frame> {
        let stamp = self.stamp.clone()?;
        if !std::mem::take(&mut self.ack_due) {
            return None;
        }
        let rejected = self.rejected.iter().take(REJECTIONS_MAX);
        Some(Frame::Ack(Ack {
            stamp,
            digest: self.digest,
            rejected: rejected
                .map(|(name, reason)| Rejection {
                    name: name.clone(),
                    reason: reason.clone(),
                })
                .collect(),
            braked: u32::try_from(self.braked.len()).unwrap_or(u32::MAX),
        }))
    }

    pub(super) fn confirm_removals(&mut self) -> Vec<Action> {
        let Some(stamp) = self.stamp.clone() else {
            return Vec::new();
        };
        let removed: Vec<_> = std::mem::take(&mut self.braked).into_keys().collect();
        if removed.is_empty() {
            return Vec::new();
        }
        self.ack_due = true;
        vec![Action::Apply(Applied {
            stamp,
            put: Vec::new(),
            removed,
            complete: self.is_complete(),
        })]
    }

    pub(super) fn update(&mut self, update: Update, local: &Party) -> Result<Vec<Action>, ProtocolError> {
        if update.round != self.round {
            return Ok(Vec::new());
        }
        let Some(update) = self.assemble_update(update)? else {
            return Ok(Vec::new());
        };
        let digest = self.digest_after(&update.put, &update.removed)?;
        match judge(self.stamp.as_ref(), &update.stamp) {
            Offer::Older => Ok(self.refuse_older(update.stamp)),
            Offer::Same if digest == self.digest => {
                self.ack_due = true;
                Ok(Vec::new())
            }
            Offer::Same => Ok(self.refuse(update.stamp.clone(), Alarm::Diverged { stamp: update.stamp })),
            Offer::Newer if digest != update.digest => Ok(self.resync(update.stamp, local)),
            Offer::Newer => {
                let mut actions = self.step(update.stamp, update.put, update.removed, update.complete);
                actions.extend(self.announce());
                Ok(actions)
            }
        }
    }

    pub(super) fn complete(
        &mut self,
        complete: Complete,
        local: &Party,
    ) -> Result<Vec<Action>, ProtocolError> {
        if complete.round != self.round {
            return Ok(Vec::new());
        }
        let Some(Complete {
            stamp,
            names,
            digest: expected,
            ..
        }) = self.assemble_complete(complete)?
        else {
            return Ok(Vec::new());
        };
        if self.refused.as_ref() == Some(&stamp) {
            return Ok(Vec::new());
        }
        let listed: BTreeSet<_> = names.into_iter().collect();
        let removed: Vec<_> = self
            .names
            .keys()
            .filter(|name| !listed.contains(*name))
            .cloned()
            .collect();
        let digest = self.digest_after(&[], &removed)?;
        let offer = judge(self.stamp.as_ref(), &stamp);
        if offer == Offer::Older {
            return Ok(self.refuse_older(stamp));
        }
        if offer == Offer::Same && self.complete && digest != self.digest {
            return Ok(self.refuse(stamp.clone(), Alarm::Diverged { stamp }));
        }
        if digest != expected {
            return Ok(self.resync(stamp, local));
        }
        let mut actions = Vec::new();
        if offer == Offer::Newer || !self.complete || !removed.is_empty() {
            actions = self.step(stamp, Vec::new(), removed, true);
        }
        actions.extend(self.announce());
        Ok(actions)
    }

    pub(super) fn heartbeat(&mut self, heartbeat: Heartbeat, local: &Party) -> Vec<Action> {
        let Some(stamp) = heartbeat.stamp else {
            return Vec::new();
        };
        if heartbeat.round != self.round || self.refused.as_ref() == Some(&stamp) {
            return Vec::new();
        }
        match judge(self.stamp.as_ref(), &stamp) {
            Offer::Older => self.refuse_older(stamp),
            _ if heartbeat.digest != self.digest => self.resync(stamp, local),
            Offer::Same if heartbeat.complete == self.complete => self.announce().into_iter().collect(),
            Offer::Same | Offer::Newer => {
                let mut actions = self.step(stamp, Vec::new(), Vec::new(), heartbeat.complete);
                actions.extend(self.announce());
                actions
            }
        }
    }

    /// The one place where what is held changes: all of a step or, of its removals, none.
    fn step(
        &mut self,
        stamp: Stamp,
        put: Vec<Resource>,
        removed: Vec<String>,
        complete: bool,
    ) -> Vec<Action> {
        let held = self.names.len();
        let gone: Vec<_> = removed
            .into_iter()
            .filter_map(|name| {
                let hash = self.names.remove(&name)?;
                self.digest.remove(&name, hash);
                self.rejected.remove(&name);
                Some((name, hash))
            })
            .collect();
        for resource in &put {
            let before = self.names.insert(resource.name().to_owned(), resource.hash());
            exchange(&mut self.digest, resource.name(), before, Some(resource.hash()));
            self.rejected.remove(resource.name());
            self.braked.remove(resource.name());
        }
        self.stamp = Some(stamp.clone());
        self.complete = complete;
        self.ack_due = true;

        let braked = self.brake.stops(gone.len(), held);
        let names: Vec<_> = gone.iter().map(|(name, _)| name.clone()).collect();
        if braked {
            self.braked.extend(gone);
        }
        let complete = self.is_complete();
        if braked {
            let applied = Applied {
                stamp: stamp.clone(),
                put,
                removed: Vec::new(),
                complete,
            };
            return vec![Action::Apply(applied), Action::Braked { stamp, names }];
        }
        vec![Action::Apply(Applied {
            stamp,
            put,
            removed: names,
            complete,
        })]
    }

    fn is_complete(&self) -> bool {
        self.complete && self.braked.is_empty()
    }

    fn announce(&mut self) -> Option<Action> {
        let now = (self.stamp.clone()?, self.is_complete());
        if self.announced.as_ref() == Some(&now) {
            return None;
        }
        self.announced = Some(now.clone());
        Some(Action::InSync {
            stamp: now.0,
            complete: now.1,
        })
    }

    fn refuse_older(&mut self, offered: Stamp) -> Vec<Action> {
        let held = self
            .stamp
            .clone()
            .expect("invariant: only what is held makes an offer older");
        self.refuse(offered.clone(), Alarm::Backwards { held, offered })
    }

    fn refuse(&mut self, stamp: Stamp, alarm: Alarm) -> Vec<Action> {
        // The publisher learns what is held instead.
        self.ack_due = true;
        if self.refused.replace(stamp.clone()) == Some(stamp) {
            return Vec::new();
        }
        vec![Action::Alarm(alarm)]
    }

    fn resync(&mut self, stamp: Stamp, local: &Party) -> Vec<Action> {
        if self.resync != Resync::Ready {
            self.resync = Resync::Due(stamp);
            return Vec::new();
        }
        self.resync = Resync::Used;
        let mut actions = vec![Action::Alarm(Alarm::Mismatch { stamp })];
        actions.extend(sends(self.hello(local)));
        actions
    }

    /// The digest of what would be held, without changing anything.
    fn digest_after(&self, put: &[Resource], removed: &[String]) -> Result<Digest, ProtocolError> {
        let mut digest = self.digest;
        let mut seen = BTreeSet::new();
        let changes = put
            .iter()
            .map(|resource| (resource.name(), Some(resource.hash())))
            .chain(removed.iter().map(|name| (name.as_str(), None)));
        for (name, after) in changes {
            if !seen.insert(name) {
                return Err(ProtocolError::NamedTwice {
                    name: name.to_owned(),
                });
            }
            exchange(&mut digest, name, self.names.get(name).copied(), after);
        }
        Ok(digest)
    }

    fn assemble_update(&mut self, update: Update) -> Result<Option<Update>, ProtocolError> {
        let bytes = update.put.iter().map(resource_bytes).sum::<usize>()
            + update.removed.iter().map(|name| name_bytes(name)).sum::<usize>();
        let (whole, bytes) = match std::mem::replace(&mut self.begun, Begun::Nothing) {
            Begun::Nothing => (update, bytes),
            Begun::Update(mut begun, before) if begun.stamp == update.stamp => {
                begun.put.extend(update.put);
                begun.removed.extend(update.removed);
                // The digest and the flags of the last chunk count.
                (
                    Update {
                        put: begun.put,
                        removed: begun.removed,
                        ..update
                    },
                    before + bytes,
                )
            }
            Begun::Update(..) | Begun::Complete(..) => return Err(ProtocolError::ChunkOrder),
        };
        if bytes > ASSEMBLED_BYTES_MAX {
            return Err(ProtocolError::TooLarge);
        }
        if whole.more {
            self.begun = Begun::Update(whole, bytes);
            return Ok(None);
        }
        Ok(Some(whole))
    }

    fn assemble_complete(&mut self, complete: Complete) -> Result<Option<Complete>, ProtocolError> {
        let bytes = complete.names.iter().map(|name| name_bytes(name)).sum::<usize>();
        let (whole, bytes) = match std::mem::replace(&mut self.begun, Begun::Nothing) {
            Begun::Nothing => (complete, bytes),
            Begun::Complete(mut begun, before) if begun.stamp == complete.stamp => {
                begun.names.extend(complete.names);
                (
                    Complete {
                        names: begun.names,
                        ..complete
                    },
                    before + bytes,
                )
            }
            Begun::Update(..) | Begun::Complete(..) => return Err(ProtocolError::ChunkOrder),
        };
        if bytes > ASSEMBLED_BYTES_MAX {
            return Err(ProtocolError::TooLarge);
        }
        if whole.more {
            self.begun = Begun::Complete(whole, bytes);
            return Ok(None);
        }
        Ok(Some(whole))
    }
}
