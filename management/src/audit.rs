//! The record of who did what, and the chain that shows when a record was changed, removed or moved.
//!
//! The hash covers the stored bytes. Whoever may write to the database could still make a chain anew, or cut its tail
//! and set its head back, until a checkpoint has left the system.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, TimeDelta, Utc};
use serde::de::value::{Error as BadVariant, StrDeserializer};
use serde::de::{Error, IntoDeserializer};
use serde::ser::SerializeStruct;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tombolo_compiler::name::Fqn;

mod export;
mod index;
mod statement;
mod verifier;

pub use crate::store::audit::APPEND;
pub use export::{ChainReport, Export, Fault, Line, Report, record_line};
pub use index::{Index, Term, words_of_text};
pub use statement::{
    BadStatement, KeyError, KeyId, PublicKey, PublicKeys, Signed, SigningKey, Statement, StatementKind,
};
pub(crate) use statement::{hex, unhex};
pub use verifier::{Broken, Found, Verifier};

/// Writes have a chain without gaps; denials have their own, so that a flood of them stalls no write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Chain {
    Writes,
    Denials,
}

/// The last record of a chain: its sequence, hash and time. Zero before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChainHead {
    pub sequence: u64,
    pub hash: [u8; 32],
    pub time: DateTime<Utc>,
}

/// A place in a chain: how many records there are up to it, and the hash of the last one. Zero before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    pub sequence: u64,
    pub hash: [u8; 32],
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Record {
    pub time: DateTime<Utc>,
    /// The full name of a user, `system`, `plane/…`, or `unknown` when it could not be told.
    pub actor: String,
    /// Of the actor, at that time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub teams: Vec<String>,
    pub verb: Verb,
    pub name: String,
    /// What stands or stood under the name; empty when that is no name of ours.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    pub outcome: Outcome,
    /// Where the request came from.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub request_id: String,
    /// That the write drew; `None` for what changes no resource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// Why it was denied, or what else is to be known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
    /// How many more of a flood differ from this denial in nothing but their moment and their request id.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub repeated: u64,
    /// Denials before this one that were too many to be recorded.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dropped: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    Get,
    List,
    Create,
    Update,
    Delete,
    Change,
    Join,
    IssueToken,
    RevokeToken,
    IssueKey,
    RevokeKey,
    Adopt,
    /// A key that signs statements about the record was used for the first time.
    AddKey,
    /// Retention has dropped a month of the record.
    Prune,
    SubmitPlan,
    ApprovePlan,
    RejectPlan,
    Transfer,
    /// The break-glass credential was made.
    SealBreakGlass,
    /// A request was made with the break-glass credential, whatever became of it.
    BreakGlass,
    Login,
    Logout,
    RevokeSession,
    SetPassword,
    /// Letting a command line in.
    GrantDevice,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Done,
    Denied,
    /// The caller could not be told at all.
    Unauthenticated,
}

/// A record as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    pub chain: Chain,
    pub sequence: u64,
    pub bytes: Vec<u8>,
    pub previous: [u8; 32],
    pub hash: [u8; 32],
    pub record: Record,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not {expected}")]
pub struct BadWord {
    given: String,
    expected: &'static str,
}

/// Puts `record` behind `head`, and gives the new head.
///
/// Within a chain every record is later than the one before it, whatever the clocks of replicas say: so sequence and time
/// tell the same order, and a month that is dropped is the beginning of the chain.
pub fn seal(chain: Chain, head: ChainHead, mut record: Record) -> (Sealed, ChainHead) {
    record.time = record.time.max(head.time + TimeDelta::microseconds(1));
    let bytes = serde_json::to_vec(&record).expect("invariant: a record has string keys and finite numbers");
    let next = ChainHead {
        sequence: head.sequence + 1,
        hash: link(&head.hash, &bytes),
        time: record.time,
    };
    let sealed = Sealed {
        chain,
        sequence: next.sequence,
        bytes,
        previous: head.hash,
        hash: next.hash,
        record,
    };
    (sealed, next)
}

/// With its hash in hexadecimal.
impl Serialize for Mark {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Mark", 2)?;
        fields.serialize_field("sequence", &self.sequence)?;
        fields.serialize_field("hash", &hex(&self.hash))?;
        fields.end()
    }
}

impl<'de> Deserialize<'de> for Mark {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Mark, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Written {
            sequence: u64,
            hash: String,
        }
        let Written { sequence, hash } = Written::deserialize(deserializer)?;
        let hash = unhex(&hash).ok_or_else(|| D::Error::custom("the hash is not 64 hexadecimal digits"))?;
        Ok(Mark { sequence, hash })
    }
}

impl ChainHead {
    pub fn mark(&self) -> Mark {
        Mark {
            sequence: self.sequence,
            hash: self.hash,
        }
    }
}

impl Record {
    /// Of now; the rest is empty.
    pub fn new(actor: impl Into<String>, verb: Verb, name: impl Into<String>, outcome: Outcome) -> Record {
        let name = name.into();
        Record {
            time: now(),
            actor: actor.into(),
            teams: Vec::new(),
            verb,
            kind: kind_of(&name),
            name,
            outcome,
            source: String::new(),
            request_id: String::new(),
            revision: None,
            reason: String::new(),
            before: None,
            after: None,
            repeated: 0,
            dropped: 0,
        }
    }
}
/// Now, with the precision that Postgres keeps, so that a stored time compares equal.
pub fn now() -> DateTime<Utc> {
    DateTime::from_timestamp_micros(Utc::now().timestamp_micros())
        .expect("invariant: the present lies within chrono's range")
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Chain::Writes => "writes",
            Chain::Denials => "denials",
        })
    }
}

impl FromStr for Chain {
    type Err = BadWord;

    fn from_str(text: &str) -> Result<Self, BadWord> {
        [Chain::Writes, Chain::Denials]
            .into_iter()
            .find(|chain| chain.to_string() == text)
            .ok_or_else(|| BadWord {
                given: text.to_owned(),
                expected: "writes or denials",
            })
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Create => "create",
            Verb::Update => "update",
            Verb::Delete => "delete",
            Verb::Change => "change",
            Verb::Join => "join",
            Verb::IssueToken => "issue-token",
            Verb::RevokeToken => "revoke-token",
            Verb::IssueKey => "issue-key",
            Verb::RevokeKey => "revoke-key",
            Verb::Adopt => "adopt",
            Verb::AddKey => "add-key",
            Verb::Prune => "prune",
            Verb::SubmitPlan => "submit-plan",
            Verb::ApprovePlan => "approve-plan",
            Verb::RejectPlan => "reject-plan",
            Verb::Transfer => "transfer",
            Verb::SealBreakGlass => "seal-break-glass",
            Verb::BreakGlass => "break-glass",
            Verb::Login => "login",
            Verb::Logout => "logout",
            Verb::RevokeSession => "revoke-session",
            Verb::SetPassword => "set-password",
            Verb::GrantDevice => "grant-device",
        })
    }
}

impl FromStr for Verb {
    type Err = BadVariant;

    fn from_str(text: &str) -> Result<Self, BadVariant> {
        let text: StrDeserializer<'_, BadVariant> = text.into_deserializer();
        Verb::deserialize(text)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Outcome::Done => "done",
            Outcome::Denied => "denied",
            Outcome::Unauthenticated => "unauthenticated",
        })
    }
}

impl FromStr for Outcome {
    type Err = BadWord;

    fn from_str(text: &str) -> Result<Self, BadWord> {
        [Outcome::Done, Outcome::Denied, Outcome::Unauthenticated]
            .into_iter()
            .find(|outcome| outcome.to_string() == text)
            .ok_or_else(|| BadWord {
                given: text.to_owned(),
                expected: "done, denied or unauthenticated",
            })
    }
}

fn link(previous: &[u8; 32], bytes: &[u8]) -> [u8; 32] {
    Sha256::new()
        .chain_update(previous)
        .chain_update(bytes)
        .finalize()
        .into()
}

fn kind_of(name: &str) -> String {
    name.parse()
        .map_or_else(|_| String::new(), |name: Fqn| name.kind().to_string())
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn within_a_chain_time_goes_on_when_a_clock_goes_back() {
        let record = || Record::new("system", Verb::Create, "organizations/acme", Outcome::Done);
        let (first, head) = seal(Chain::Writes, ChainHead::default(), record());
        let earlier = Record {
            time: first.record.time - TimeDelta::hours(1),
            ..record()
        };
        let (second, head) = seal(Chain::Writes, head, earlier);
        assert_eq!(second.record.time - first.record.time, TimeDelta::microseconds(1));
        assert_eq!((head.sequence, head.time), (2, second.record.time));
    }

    #[test]
    fn words_read_back() {
        for outcome in [Outcome::Done, Outcome::Denied, Outcome::Unauthenticated] {
            assert_eq!(outcome.to_string().parse(), Ok(outcome));
        }
        let error = "x".parse::<Outcome>().unwrap_err();
        assert_eq!(error.to_string(), "\"x\" is not done, denied or unauthenticated");
        for verb in [Verb::Get, Verb::IssueToken, Verb::Adopt] {
            assert_eq!(verb.to_string().parse(), Ok(verb));
        }
        let error = "x".parse::<Verb>().unwrap_err().to_string();
        assert!(error.contains("expected one of `get`, `list`"), "{error}");
    }

    #[test]
    fn a_kind_is_that_of_the_name() {
        for (name, kind) in [
            ("organizations/acme", "Organization"),
            ("organizations/acme/tenants/pay", "Tenant"),
            ("nothing of ours", ""),
        ] {
            assert_eq!(
                Record::new("system", Verb::Get, name, Outcome::Done).kind,
                kind,
                "{name}"
            );
        }
    }
}
