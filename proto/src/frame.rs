//! The frames of the feed, and their conversion from and to the wire. What is not well-formed does not get
//! past here.

use std::collections::BTreeMap;

use crate::generated::feed as pb;
use crate::generated::feed::frame::Kind;
use crate::held::{Stamp, Version};
use crate::resource::{BadResource, ContentHash, Digest, Resource, check_name};

/// gRPC's message limit on both sides. The session makes chunks well below it.
pub const FRAME_BYTES_MAX: usize = 4 * 1024 * 1024;
/// A rejection's reason is for people to read; what is longer is cut.
pub const REASON_BYTES_MAX: usize = 1024;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    Hello(Hello),
    Update(Update),
    Complete(Complete),
    Ack(Ack),
    Heartbeat(Heartbeat),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    pub node: String,
    pub plane: String,
    pub round: u64,
    pub stamp: Option<Stamp>,
    pub names: BTreeMap<String, ContentHash>,
    pub more: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    pub round: u64,
    pub stamp: Stamp,
    pub put: Vec<Resource>,
    pub removed: Vec<String>,
    pub digest: Digest,
    pub complete: bool,
    pub more: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complete {
    pub round: u64,
    pub stamp: Stamp,
    pub digest: Digest,
    pub names: Vec<String>,
    pub more: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    pub stamp: Stamp,
    pub digest: Digest,
    pub rejected: Vec<Rejection>,
    /// Removals that wait for an operator.
    pub braked: u32,
}

/// A resource that the subscriber's plane cannot use, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub name: String,
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    pub round: u64,
    /// `None` when nothing is published yet.
    pub stamp: Option<Stamp>,
    pub digest: Digest,
    pub complete: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error(
        "the frame is empty or of an unknown kind: check that both planes run versions that know each other"
    )]
    Unknown,
    #[error("the field {field} is missing from a {frame} frame")]
    Missing {
        frame: &'static str,
        field: &'static str,
    },
    #[error("the field {field} of a {frame} frame has {given} bytes instead of 16")]
    Hash {
        frame: &'static str,
        field: &'static str,
        given: usize,
    },
    #[error("a {frame} frame holds a bad resource")]
    Resource {
        frame: &'static str,
        #[source]
        source: BadResource,
    },
    #[error("a {frame} frame names {name} twice")]
    Twice { frame: &'static str, name: String },
}

impl TryFrom<pb::Frame> for Frame {
    type Error = FrameError;

    fn try_from(frame: pb::Frame) -> Result<Self, FrameError> {
        Ok(match frame.kind.ok_or(FrameError::Unknown)? {
            Kind::Hello(hello) => Self::Hello(hello.try_into()?),
            Kind::Update(update) => Self::Update(update.try_into()?),
            Kind::Complete(complete) => Self::Complete(complete.try_into()?),
            Kind::Ack(ack) => Self::Ack(ack.try_into()?),
            Kind::Heartbeat(heartbeat) => Self::Heartbeat(heartbeat.try_into()?),
        })
    }
}

impl TryFrom<pb::Hello> for Hello {
    type Error = FrameError;

    fn try_from(hello: pb::Hello) -> Result<Self, FrameError> {
        const FRAME: &str = "hello";
        name_of(FRAME, &hello.node)?;
        name_of(FRAME, &hello.plane)?;
        let mut names = BTreeMap::new();
        for held in hello.names {
            name_of(FRAME, &held.name)?;
            let hash = ContentHash::from_bytes(sixteen(FRAME, "hash", &held.hash)?);
            if names.contains_key(&held.name) {
                return Err(FrameError::Twice {
                    frame: FRAME,
                    name: held.name,
                });
            }
            names.insert(held.name, hash);
        }
        Ok(Self {
            node: hello.node,
            plane: hello.plane,
            round: hello.round,
            stamp: hello.stamp.map(|stamp| stamp_of(FRAME, stamp)).transpose()?,
            names,
            more: hello.more,
        })
    }
}

impl TryFrom<pb::Update> for Update {
    type Error = FrameError;

    fn try_from(update: pb::Update) -> Result<Self, FrameError> {
        const FRAME: &str = "update";
        let put = update
            .put
            .into_iter()
            .map(|resource| {
                let hash = ContentHash::from_bytes(sixteen(FRAME, "hash", &resource.hash)?);
                Resource::verified(resource.name, resource.body, hash)
                    .map_err(|source| FrameError::Resource { frame: FRAME, source })
            })
            .collect::<Result<_, _>>()?;
        update.removed.iter().try_for_each(|name| name_of(FRAME, name))?;
        Ok(Self {
            round: update.round,
            stamp: required_stamp(FRAME, update.stamp)?,
            put,
            removed: update.removed,
            digest: Digest::from_bytes(sixteen(FRAME, "digest", &update.digest)?),
            complete: update.complete,
            more: update.more,
        })
    }
}

impl TryFrom<pb::Complete> for Complete {
    type Error = FrameError;

    fn try_from(complete: pb::Complete) -> Result<Self, FrameError> {
        const FRAME: &str = "complete";
        complete.names.iter().try_for_each(|name| name_of(FRAME, name))?;
        Ok(Self {
            round: complete.round,
            stamp: required_stamp(FRAME, complete.stamp)?,
            digest: Digest::from_bytes(sixteen(FRAME, "digest", &complete.digest)?),
            names: complete.names,
            more: complete.more,
        })
    }
}

impl TryFrom<pb::Ack> for Ack {
    type Error = FrameError;

    fn try_from(ack: pb::Ack) -> Result<Self, FrameError> {
        const FRAME: &str = "ack";
        let rejected = ack
            .rejected
            .into_iter()
            .map(|rejection| {
                name_of(FRAME, &rejection.name)?;
                Ok(Rejection {
                    name: rejection.name,
                    reason: cut(rejection.reason),
                })
            })
            .collect::<Result<_, FrameError>>()?;
        Ok(Self {
            stamp: required_stamp(FRAME, ack.stamp)?,
            digest: Digest::from_bytes(sixteen(FRAME, "digest", &ack.digest)?),
            rejected,
            braked: ack.braked,
        })
    }
}

impl TryFrom<pb::Heartbeat> for Heartbeat {
    type Error = FrameError;

    fn try_from(heartbeat: pb::Heartbeat) -> Result<Self, FrameError> {
        const FRAME: &str = "heartbeat";
        Ok(Self {
            round: heartbeat.round,
            stamp: heartbeat.stamp.map(|stamp| stamp_of(FRAME, stamp)).transpose()?,
            digest: Digest::from_bytes(sixteen(FRAME, "digest", &heartbeat.digest)?),
            complete: heartbeat.complete,
        })
    }
}

impl From<Frame> for pb::Frame {
    fn from(frame: Frame) -> Self {
        let kind = match frame {
            Frame::Hello(hello) => Kind::Hello(pb::Hello {
                node: hello.node,
                plane: hello.plane,
                round: hello.round,
                stamp: hello.stamp.map(Into::into),
                names: hello
                    .names
                    .into_iter()
                    .map(|(name, hash)| pb::HeldName {
                        name,
                        hash: hash.as_bytes().to_vec(),
                    })
                    .collect(),
                more: hello.more,
            }),
            Frame::Update(update) => Kind::Update(pb::Update {
                round: update.round,
                stamp: Some(update.stamp.into()),
                put: update.put.into_iter().map(Into::into).collect(),
                removed: update.removed,
                digest: update.digest.to_bytes().to_vec(),
                complete: update.complete,
                more: update.more,
            }),
            Frame::Complete(complete) => Kind::Complete(pb::Complete {
                round: complete.round,
                stamp: Some(complete.stamp.into()),
                digest: complete.digest.to_bytes().to_vec(),
                names: complete.names,
                more: complete.more,
            }),
            Frame::Ack(ack) => Kind::Ack(pb::Ack {
                stamp: Some(ack.stamp.into()),
                digest: ack.digest.to_bytes().to_vec(),
                rejected: ack
                    .rejected
                    .into_iter()
                    .map(|rejection| pb::Rejection {
                        name: rejection.name,
                        reason: rejection.reason,
                    })
                    .collect(),
                braked: ack.braked,
            }),
            Frame::Heartbeat(heartbeat) => Kind::Heartbeat(pb::Heartbeat {
                round: heartbeat.round,
                stamp: heartbeat.stamp.map(Into::into),
                digest: heartbeat.digest.to_bytes().to_vec(),
                complete: heartbeat.complete,
            }),
        };
        Self { kind: Some(kind) }
    }
}

impl From<Stamp> for pb::Stamp {
    fn from(stamp: Stamp) -> Self {
        let Version { epoch, revision } = stamp.version;
        Self {
            version: Some(pb::Version { epoch, revision }),
            source: stamp.source,
            sequence: stamp.sequence,
        }
    }
}

impl From<Resource> for pb::Resource {
    fn from(resource: Resource) -> Self {
        Self {
            name: resource.name().to_owned(),
            hash: resource.hash().as_bytes().to_vec(),
            body: resource.body().clone(),
        }
    }
}

/// The start of `reason` that fits a rejection.
pub(crate) fn cut(mut reason: String) -> String {
    reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
    reason
}

fn required_stamp(frame: &'static str, stamp: Option<pb::Stamp>) -> Result<Stamp, FrameError> {
    stamp_of(
        frame,
        stamp.ok_or(FrameError::Missing {
            frame,
            field: "stamp",
        })?,
    )
}

fn stamp_of(frame: &'static str, stamp: pb::Stamp) -> Result<Stamp, FrameError> {
    let pb::Version { epoch, revision } = stamp.version.ok_or(FrameError::Missing {
        frame,
        field: "stamp.version",
    })?;
    name_of(frame, &stamp.source)?;
    Ok(Stamp {
        version: Version { epoch, revision },
        source: stamp.source,
        sequence: stamp.sequence,
    })
}

fn name_of(frame: &'static str, name: &str) -> Result<(), FrameError> {
    check_name(name).map_err(|source| FrameError::Resource { frame, source })
}

fn sixteen(frame: &'static str, field: &'static str, bytes: &[u8]) -> Result<[u8; 16], FrameError> {
    bytes.try_into().map_err(|_| FrameError::Hash {
        frame,
        field,
        given: bytes.len(),
    })
}
