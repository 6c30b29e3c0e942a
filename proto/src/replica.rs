//! A copy of what the peer publishes, as a plane keeps it: the resources behind a session's [`Held`], with a form for a file.
//! Planes have their own, with meaning; this one is for tests of the session.

use prost::Message;

use crate::frame::{FrameError, Update};
use crate::generated::feed::Update as PbUpdate;
use crate::held::{Held, Stamp};
use crate::resource::Set;
use crate::session::Applied;

/// Apply every [`Applied`] of a session that was made with [`Replica::held`], and the two stay the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Replica {
    stamp: Option<Stamp>,
    complete: bool,
    set: Set,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplicaError {
    #[error("cannot read a stored replica: its bytes are of another format")]
    Format(#[source] prost::DecodeError),
    #[error("cannot read a stored replica")]
    Content(#[source] FrameError),
    #[error("a stored replica does not add up to its digest")]
    Digest,
}

impl Replica {
    pub(crate) fn apply(&mut self, applied: Applied) {
        for name in &applied.removed {
            self.set.remove(name);
        }
        for resource in applied.put {
            self.set.insert(resource.name().to_owned(), resource);
        }
        self.stamp = Some(applied.stamp);
        self.complete = applied.complete;
    }

    /// `None` when nothing was ever received.
    pub(crate) fn stamp(&self) -> Option<&Stamp> {
        self.stamp.as_ref()
    }

    /// The set is all that the publisher had at the stamp.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete
    }

    pub(crate) fn set(&self) -> &Set {
        &self.set
    }

    /// What to make the session with.
    pub(crate) fn held(&self) -> Held {
        let names = self
            .set
            .values()
            .map(|resource| (resource.name().to_owned(), resource.hash()));
        Held {
            stamp: self.stamp.clone(),
            names: names.collect(),
            complete: self.complete,
        }
    }

    /// The bytes for a last-good file.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        PbUpdate {
            round: 0,
            stamp: self.stamp.clone().map(Into::into),
            put: self.set.values().cloned().map(Into::into).collect(),
            removed: Vec::new(),
            digest: self.held().digest().to_bytes().to_vec(),
            complete: self.complete,
            more: false,
        }
        .encode_to_vec()
    }

    /// # Errors
    /// When `bytes` are not what [`Replica::to_bytes`] gave.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, ReplicaError> {
        let stored = PbUpdate::decode(bytes).map_err(ReplicaError::Format)?;
        if stored.stamp.is_none() && stored.put.is_empty() {
            return Ok(Self::default());
        }
        let stored = Update::try_from(stored).map_err(ReplicaError::Content)?;
        let set: Set = stored
            .put
            .into_iter()
            .map(|resource| (resource.name().to_owned(), resource))
            .collect();
        let replica = Self {
            stamp: Some(stored.stamp),
            complete: stored.complete,
            set,
        };
        if replica.held().digest() == stored.digest {
            Ok(replica)
        } else {
            Err(ReplicaError::Digest)
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use prost::Message;

    use super::{Replica, ReplicaError};
    use crate::generated::feed::Update as PbUpdate;
    use crate::held::{Stamp, Version};
    use crate::resource::Resource;
    use crate::session::Applied;

    fn replica() -> Replica {
        let mut replica = Replica::default();
        replica.apply(Applied {
            stamp: Stamp {
                version: Version {
                    epoch: 1,
                    revision: 7,
                },
                source: "management".to_owned(),
                sequence: 0,
            },
            put: vec![
                Resource::new("web", "1").unwrap(),
                Resource::new("api", "2").unwrap(),
            ],
            removed: Vec::new(),
            complete: true,
        });
        replica
    }

    #[test]
    fn a_replica_is_stored_and_read_back() {
        for stored in [Replica::default(), replica()] {
            assert_eq!(Replica::from_bytes(&stored.to_bytes()).unwrap(), stored);
        }
        assert_eq!(replica().held().names.len(), 2);
    }

    #[test]
    fn bytes_that_are_no_replica_are_refused() {
        let error = Replica::from_bytes(b"\xff\xff").unwrap_err();
        assert!(matches!(error, ReplicaError::Format(_)), "{error}");
        let mut stored = PbUpdate::decode(replica().to_bytes().as_slice()).unwrap();
        stored.put.pop();
        let error = Replica::from_bytes(&stored.encode_to_vec()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "a stored replica does not add up to its digest"
        );
        stored.put[0].body = "3".into();
        let error = Replica::from_bytes(&stored.encode_to_vec()).unwrap_err();
        assert!(matches!(error, ReplicaError::Content(_)), "{error}");
    }
}
