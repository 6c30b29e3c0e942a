//! The publishing half: a mirror of what the peer holds, and what to send so that it becomes what we have.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{ASSEMBLED_BYTES_MAX, ProtocolError, Publication, chunks, exchange, name_bytes, resource_bytes};
use crate::frame::{Complete, Frame, Heartbeat, Hello, Update};
use crate::resource::{ContentHash, Digest, Resource, Set};

#[derive(Debug, Default)]
pub(super) struct Publisher {
    publication: Option<Publication>,
    peer: Option<Mirror>,
    /// A Hello of which chunks are still to come, and the bytes so far.
    begun: Option<(Hello, usize)>,
}

/// What the peer will hold when it has taken all that was sent.
#[derive(Debug)]
struct Mirror {
    round: u64,
    names: BTreeMap<String, ContentHash>,
    digest: Digest,
    /// A Complete was sent in this round: from then on, the peer holds nothing that we do not know of.
    completed: bool,
    /// What was sent last: with all that is in it the peer agrees, so that only what differs from it need be looked at.
    sent: Option<Arc<Set>>,
    /// The peer holds what is in `sent` and nothing else.
    exact: bool,
}

enum Change {
    Put(Resource),
    Remove(String),
}

impl Publisher {
    /// What differs, or, when only the stamp or the claim moved, a heartbeat that says so: whoever waits for a change that
    /// does not concern this peer learns at once that the peer has it, for one small frame.
    pub(super) fn publish(&mut self, publication: Publication) -> Vec<Frame> {
        let same_set = self.publication.as_ref().is_some_and(|before| {
            Arc::ptr_eq(&before.set, &publication.set) && before.complete == publication.complete
        });
        let same_stamp = self
            .publication
            .as_ref()
            .is_some_and(|before| before.stamp == publication.stamp);
        self.publication = Some(publication);
        let mut frames = if same_set { Vec::new() } else { self.sync() };
        if frames.is_empty() && !(same_set && same_stamp) && self.peer.is_some() {
            frames.push(Frame::Heartbeat(self.heartbeat()));
        }
        frames
    }

    pub(super) fn disconnected(&mut self) {
        self.peer = None;
        self.begun = None;
    }

    /// The peer says what it holds: from here on, the mirror is that.
    pub(super) fn hello(&mut self, hello: Hello) -> Result<Vec<Frame>, ProtocolError> {
        let Some(hello) = self.assemble(hello)? else {
            return Ok(Vec::new());
        };
        self.peer = Some(Mirror {
            round: hello.round,
            digest: Digest::of(&hello.names),
            names: hello.names,
            completed: false,
            sent: None,
            exact: false,
        });
        let mut frames = self.sync();
        if frames.is_empty() {
            // Says at once, instead of within a second, that nothing differs.
            frames.push(Frame::Heartbeat(self.heartbeat()));
        }
        Ok(frames)
    }

    pub(super) fn heartbeat(&self) -> Heartbeat {
        let Some(peer) = &self.peer else {
            return Heartbeat {
                round: 0,
                stamp: None,
                digest: Digest::default(),
                complete: false,
            };
        };
        Heartbeat {
            round: peer.round,
            stamp: self
                .publication
                .as_ref()
                .map(|publication| publication.stamp.clone()),
            digest: peer.digest,
            complete: peer.completed && self.publication.as_ref().is_some_and(|now| now.complete),
        }
    }

    fn assemble(&mut self, hello: Hello) -> Result<Option<Hello>, ProtocolError> {
        let bytes: usize = hello.names.keys().map(|name| name_bytes(name)).sum();
        let (whole, bytes) = match self.begun.take() {
            Some((mut begun, before)) => {
                if begun.round != hello.round || begun.stamp != hello.stamp {
                    return Err(ProtocolError::ChunkOrder);
                }
                begun.names.extend(hello.names);
                begun.more = hello.more;
                (begun, before + bytes)
            }
            None => (hello, bytes),
        };
        if bytes > ASSEMBLED_BYTES_MAX {
            return Err(ProtocolError::TooLarge);
        }
        if whole.more {
            self.begun = Some((whole, bytes));
            return Ok(None);
        }
        Ok(Some(whole))
    }

    fn sync(&mut self) -> Vec<Frame> {
        let (Some(publication), Some(peer)) = (&self.publication, &mut self.peer) else {
            return Vec::new();
        };
        let mut frames = peer.update(publication);
        if publication.complete && !peer.completed {
            frames.extend(peer.complete(publication));
        }
        frames
    }
}

impl Mirror {
    /// What differs. Removals are sent as tombstones once the peer is known to hold nothing foreign; before,
    /// the listing of a Complete does it.
    fn update(&mut self, publication: &Publication) -> Vec<Frame> {
        let whole = publication.complete && self.completed;
        let (candidates, gone) = self.since_last(&publication.set);
        let put: Vec<Resource> = candidates
            .into_iter()
            .filter(|resource| self.names.get(resource.name()) != Some(&resource.hash()))
            .cloned()
            .collect();
        let removed = match (whole, self.exact) {
            (true, true) => gone,
            (true, false) => self.foreign(publication),
            (false, _) => {
                self.exact &= gone.is_empty();
                Vec::new()
            }
        };
        self.exact |= whole;
        self.sent = Some(publication.set.clone());
        if put.is_empty() && removed.is_empty() {
            return Vec::new();
        }
        for resource in &put {
            let before = self.names.insert(resource.name().to_owned(), resource.hash());
            exchange(&mut self.digest, resource.name(), before, Some(resource.hash()));
        }
        self.forget(&removed);

        let changes = put
            .into_iter()
            .map(Change::Put)
            .chain(removed.into_iter().map(Change::Remove));
        let parts = chunks(changes, Change::bytes);
        let last = parts.len() - 1;
        let frame = |(index, part)| {
            let (put, removed) = split(part);
            Frame::Update(Update {
                round: self.round,
                stamp: publication.stamp.clone(),
                put,
                removed,
                digest: self.digest,
                complete: whole,
                more: index < last,
            })
        };
        parts.into_iter().enumerate().map(frame).collect()
    }

    /// What the peer may not have of a set, and what it has of the last one that is not in this one.
    fn since_last<'a>(&self, set: &'a Set) -> (Vec<&'a Resource>, Vec<String>) {
        let Some(sent) = &self.sent else {
            return (set.values().collect(), Vec::new());
        };
        let (mut put, mut gone) = (Vec::new(), Vec::new());
        for differs in sent.diff(set, |was, is| was.hash() == is.hash()) {
            match differs.after {
                Some(_) => put.extend(set.get(differs.key)),
                None => gone.push(differs.key.clone()),
            }
        }
        (put, gone)
    }

    fn complete(&mut self, publication: &Publication) -> Vec<Frame> {
        let removed = self.foreign(publication);
        self.forget(&removed);
        self.completed = true;
        self.exact = true;
        let parts = chunks(publication.set.keys().cloned(), |name| name_bytes(name));
        let last = parts.len() - 1;
        let frame = |(index, names)| {
            Frame::Complete(Complete {
                round: self.round,
                stamp: publication.stamp.clone(),
                digest: self.digest,
                names,
                more: index < last,
            })
        };
        parts.into_iter().enumerate().map(frame).collect()
    }

    fn foreign(&self, publication: &Publication) -> Vec<String> {
        self.names
            .keys()
            .filter(|name| !publication.set.contains_key(*name))
            .cloned()
            .collect()
    }

    fn forget(&mut self, removed: &[String]) {
        for name in removed {
            let before = self.names.remove(name);
            exchange(&mut self.digest, name, before, None);
        }
    }
}

impl Change {
    fn bytes(&self) -> usize {
        match self {
            Self::Put(resource) => resource_bytes(resource),
            Self::Remove(name) => name_bytes(name),
        }
    }
}

fn split(changes: Vec<Change>) -> (Vec<Resource>, Vec<String>) {
    let (mut put, mut removed) = (Vec::new(), Vec::new());
    for change in changes {
        match change {
            Change::Put(resource) => put.push(resource),
            Change::Remove(name) => removed.push(name),
        }
    }
    (put, removed)
}
