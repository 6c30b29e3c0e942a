//! The frames of the feed, and their conversion from and to the wire. What is not well-formed does not get
//! past here.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::generated::feed as pb;
use crate::generated::feed::frame::Kind;
use crate::held::{Stamp, Version};
use crate::resource::{BadResource, ContentHash, Digest, Resource, check_name};

/// gRPC's message limit on both sides. The session makes chunks well below it.
pub const FRAME_BYTES_MAX: usize = 4 * 1024 * 1024;
/// A question is a request with its viewpoint, an answer what one proxy makes of it.
pub const QUESTION_BYTES_MAX: usize = 64 * 1024;
pub const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// A rejection's reason is for people to read; what is longer is cut.
pub const REASON_BYTES_MAX: usize = 1024;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    Hello(Hello),
    Update(Update),
    Complete(Complete),
    Ack(Ack),
    Heartbeat(Heartbeat),
    Question(Question),
    Answer(Answer),
}

/// Something that only the plane below knows, asked once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Of the asking side, and new in each question of a connection.
    pub id: u64,
    /// The cluster whose edge is asked.
    pub cluster: String,
    pub body: Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub id: u64,
    /// What is answered, or why nothing is.
    pub answer: Result<Bytes, String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    pub node: String,
    pub plane: String,
    pub round: u64,
    pub stamp: Option<Stamp>,
    pub names: BTreeMap<String, ContentHash>,
    pub more: bool,
    /// Whether it takes questions.
    pub answers: bool,
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
    #[error("the field {field} is missing in the {frame} frame")]
    Missing {
        frame: &'static str,
        field: &'static str,
    },
    #[error("the field {field} of the {frame} frame has {given} bytes instead of 16")]
    Hash {
        frame: &'static str,
        field: &'static str,
        given: usize,
    },
    #[error("the {frame} frame holds a bad resource")]
    Resource {
        frame: &'static str,
        #[source]
        source: BadResource,
    },
    #[error("the {frame} frame carries {given} bytes and may carry {max}")]
    TooLarge {
        frame: &'static str,
        given: usize,
        max: usize,
    },
    #[error("the {frame} frame names {name} twice")]
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
            Kind::Question(question) => Self::Question(question.try_into()?),
            Kind::Answer(answer) => Self::Answer(answer.try_into()?),
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
            answers: hello.answers,
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

impl TryFrom<pb::Question> for Question {
    type Error = FrameError;

    fn try_from(question: pb::Question) -> Result<Self, FrameError> {
        const FRAME: &str = "question";
        name_of(FRAME, &question.cluster)?;
        at_most(FRAME, &question.body, QUESTION_BYTES_MAX)?;
        Ok(Self {
            id: question.id,
            cluster: question.cluster,
            body: question.body,
        })
    }
}

impl TryFrom<pb::Answer> for Answer {
    type Error = FrameError;

    fn try_from(answer: pb::Answer) -> Result<Self, FrameError> {
        const FRAME: &str = "answer";
        if let Some(body) = &answer.body {
            at_most(FRAME, body, ANSWER_BYTES_MAX)?;
        }
        Ok(Self {
            id: answer.id,
            answer: answer.body.ok_or_else(|| cut(answer.reason)),
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
                answers: hello.answers,
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
            Frame::Question(question) => Kind::Question(pb::Question {
                id: question.id,
                cluster: question.cluster,
                body: question.body,
            }),
            Frame::Answer(answer) => {
                let (body, reason) = match answer.answer {
                    Ok(body) => (Some(body), String::new()),
                    Err(reason) => (None, reason),
                };
                let id = answer.id;
                Kind::Answer(pb::Answer { id, body, reason })
            }
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

fn at_most(frame: &'static str, body: &Bytes, max: usize) -> Result<(), FrameError> {
    let given = body.len();
    if given > max {
        return Err(FrameError::TooLarge { frame, given, max });
    }
    Ok(())
}

fn sixteen(frame: &'static str, field: &'static str, bytes: &[u8]) -> Result<[u8; 16], FrameError> {
    bytes.try_into().map_err(|_| FrameError::Hash {
        frame,
        field,
        given: bytes.len(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::error::Error;

    use prost::Message;

    use super::{Frame, FrameError, REASON_BYTES_MAX, cut};
    use crate::generated::feed as pb;
    use crate::generated::feed::frame::Kind;

    fn stamp() -> Option<pb::Stamp> {
        let version = Some(pb::Version {
            epoch: 1,
            revision: 7,
        });
        Some(pb::Stamp {
            version,
            source: "c".to_owned(),
            sequence: 0,
        })
    }

    fn update() -> pb::Update {
        pb::Update {
            stamp: stamp(),
            digest: vec![0; 16],
            ..pb::Update::default()
        }
    }

    fn held(name: &str) -> pb::HeldName {
        pb::HeldName {
            name: name.to_owned(),
            hash: vec![0; 16],
        }
    }

    #[test]
    fn malformed_frames_are_refused_by_name() {
        let resource = |name: &str, hash: &[u8]| pb::Resource {
            name: name.to_owned(),
            hash: hash.to_vec(),
            body: "{}".into(),
        };
        let hello = |names| pb::Hello {
            node: "us-east".to_owned(),
            plane: "edge".to_owned(),
            names,
            ..pb::Hello::default()
        };
        let cases = [
            (
                None,
                "the frame is empty or of an unknown kind: check that both planes run versions that know each other",
            ),
            (
                Some(Kind::Hello(pb::Hello::default())),
                "the hello frame holds a bad resource: a resource name of 0 bytes: use 1 to 512",
            ),
            (
                Some(Kind::Hello(hello(vec![held("a"), held("a")]))),
                "the hello frame names a twice",
            ),
            (
                Some(Kind::Hello(hello(vec![pb::HeldName {
                    name: "a".to_owned(),
                    hash: vec![0; 32],
                }]))),
                "the field hash of the hello frame has 32 bytes instead of 16",
            ),
            (
                Some(Kind::Update(pb::Update {
                    stamp: None,
                    ..update()
                })),
                "the field stamp is missing in the update frame",
            ),
            (
                Some(Kind::Update(pb::Update {
                    stamp: Some(pb::Stamp {
                        version: None,
                        ..stamp().unwrap()
                    }),
                    ..update()
                })),
                "the field stamp.version is missing in the update frame",
            ),
            (
                Some(Kind::Update(pb::Update {
                    digest: Vec::new(),
                    ..update()
                })),
                "the field digest of the update frame has 0 bytes instead of 16",
            ),
            (
                Some(Kind::Update(pb::Update {
                    put: vec![resource("a", &[0; 16])],
                    ..update()
                })),
                "the update frame holds a bad resource: the body of a does not have the hash 00000000000000000000000000000000",
            ),
            (
                Some(Kind::Update(pb::Update {
                    removed: vec!["a\n".to_owned()],
                    ..update()
                })),
                "the update frame holds a bad resource: the resource name \"a\\n\" holds a control character",
            ),
            (
                Some(Kind::Complete(pb::Complete {
                    names: vec!["x".repeat(513)],
                    digest: vec![0; 16],
                    stamp: stamp(),
                    ..pb::Complete::default()
                })),
                "the complete frame holds a bad resource: a resource name of 513 bytes: use 1 to 512",
            ),
            (
                Some(Kind::Ack(pb::Ack::default())),
                "the field stamp is missing in the ack frame",
            ),
            (
                Some(Kind::Heartbeat(pb::Heartbeat::default())),
                "the field digest of the heartbeat frame has 0 bytes instead of 16",
            ),
        ];
        for (kind, expected) in cases {
            let error = Frame::try_from(pb::Frame { kind }).unwrap_err();
            let mut text = error.to_string();
            if let Some(source) = error.source() {
                text = format!("{text}: {source}");
            }
            assert_eq!(text, expected);
        }
    }

    #[test]
    fn unknown_kinds_of_a_newer_version_are_refused() {
        // Field 15, empty.
        let frame = pb::Frame::decode([0x7a, 0].as_slice()).unwrap();
        assert_eq!(Frame::try_from(frame), Err(FrameError::Unknown));
    }

    #[test]
    fn long_reasons_are_cut_between_characters() {
        assert_eq!(cut("no".to_owned()), "no");
        assert_eq!(cut("é".repeat(REASON_BYTES_MAX)).len(), REASON_BYTES_MAX);
        assert_eq!(
            cut(format!("x{}", "é".repeat(REASON_BYTES_MAX))).len(),
            REASON_BYTES_MAX - 1
        );
    }
}
