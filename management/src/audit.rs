//! The record of who did what, and the chain that shows when a record was changed, removed or moved.
//!
//! The hash covers the stored bytes. Whoever may write to the database could still cut the tail of a chain and set
//! its head back, until checkpoints leave the system.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Writes have a chain without gaps; denials have their own, so that a flood of them stalls no write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Chain {
    Writes,
    Denials,
}

/// The last record of a chain: its sequence and hash. Zero before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChainHead {
    pub sequence: u64,
    pub hash: [u8; 32],
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Record {
    pub time: DateTime<Utc>,
    /// The full name of a user, `system`, `plane/…`, or `unknown` when it could not be told.
    pub actor: String,
    pub verb: Verb,
    pub name: String,
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
    /// Denials before this one that were too many to be recorded.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dropped: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    Adopt,
    SubmitPlan,
    ApprovePlan,
    RejectPlan,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

/// A row as it was found: the bytes and hashes, and the columns that repeat parts of the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub sequence: u64,
    pub bytes: Vec<u8>,
    pub previous: Vec<u8>,
    pub hash: Vec<u8>,
    pub index: Index,
}

/// What the columns of a record say; they only serve the search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    pub time: DateTime<Utc>,
    pub actor: String,
    pub verb: String,
    pub name: String,
    pub outcome: String,
}

/// The first record that does not add up, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Broken {
    pub sequence: u64,
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not {expected}")]
pub struct BadWord {
    given: String,
    expected: &'static str,
}

/// Walks one chain from its first record; stops at the first that is broken.
#[derive(Debug, Default)]
pub struct Verifier {
    head: ChainHead,
}

/// Puts `record` behind `head`, and gives the new head.
pub fn seal(chain: Chain, head: ChainHead, record: Record) -> (Sealed, ChainHead) {
    let bytes = serde_json::to_vec(&record).expect("invariant: a record has string keys and finite numbers");
    let next = ChainHead {
        sequence: head.sequence + 1,
        hash: link(&head.hash, &bytes),
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

impl Verifier {
    /// How many records were found good.
    pub fn records(&self) -> u64 {
        self.head.sequence
    }

    pub fn next(&mut self, found: &Found) -> Result<(), Broken> {
        let expected = self.head.sequence + 1;
        if found.sequence != expected {
            return Err(broken(
                expected,
                format!("it is missing: the next one is {}", found.sequence),
            ));
        }
        if found.previous != self.head.hash {
            return Err(broken(expected, "it does not continue the record before it"));
        }
        let hash = link(&self.head.hash, &found.bytes);
        if found.hash != hash {
            return Err(broken(expected, "its bytes do not have its hash"));
        }
        let record: Record = serde_json::from_slice(&found.bytes)
            .map_err(|error| broken(expected, format!("its bytes are no record: {error}")))?;
        if record.index() != found.index {
            return Err(broken(expected, "its columns say something else than its bytes"));
        }
        self.head = ChainHead {
            sequence: expected,
            hash,
        };
        Ok(())
    }

    /// Compares the end of the chain with the head that the writers keep.
    pub fn finish(&self, head: &ChainHead) -> Result<(), Broken> {
        if self.head.sequence < head.sequence {
            let reason = format!("it is missing: the head says that there are {}", head.sequence);
            return Err(broken(self.head.sequence + 1, reason));
        }
        if self.head != *head {
            return Err(broken(
                self.head.sequence,
                "the head row has another sequence or hash",
            ));
        }
        Ok(())
    }
}

impl Record {
    pub fn index(&self) -> Index {
        Index {
            time: self.time,
            actor: self.actor.clone(),
            verb: self.verb.to_string(),
            name: self.name.clone(),
            outcome: self.outcome.to_string(),
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
            Verb::Adopt => "adopt",
            Verb::SubmitPlan => "submit-plan",
            Verb::ApprovePlan => "approve-plan",
            Verb::RejectPlan => "reject-plan",
        })
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

fn broken(sequence: u64, reason: impl Into<String>) -> Broken {
    Broken {
        sequence,
        reason: reason.into(),
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn chain(length: u64) -> (Vec<Found>, ChainHead) {
        let mut head = ChainHead::default();
        let mut rows = Vec::new();
        for number in 0..length {
            let record = Record {
                time: now(),
                actor: "organizations/acme/users/ann".into(),
                verb: Verb::Create,
                name: format!("organizations/acme/tenants/t{number}"),
                outcome: Outcome::Done,
                source: String::new(),
                request_id: String::new(),
                revision: Some(number),
                reason: String::new(),
                before: None,
                after: None,
                dropped: 0,
            };
            let (sealed, next) = seal(Chain::Writes, head, record);
            head = next;
            rows.push(Found {
                sequence: sealed.sequence,
                bytes: sealed.bytes,
                previous: sealed.previous.to_vec(),
                hash: sealed.hash.to_vec(),
                index: sealed.record.index(),
            });
        }
        (rows, head)
    }

    fn verify(rows: &[Found], head: &ChainHead) -> Result<u64, Broken> {
        let mut verifier = Verifier::default();
        rows.iter().try_for_each(|row| verifier.next(row))?;
        verifier.finish(head)?;
        Ok(verifier.records())
    }

    #[test]
    fn a_chain_shows_every_kind_of_meddling() {
        let (rows, head) = chain(4);
        assert_eq!(verify(&rows, &head), Ok(4));
        type Meddle = fn(&mut Vec<Found>);
        let cases: [(&str, Meddle, u64, &str); 7] = [
            ("edited", |rows| rows[1].bytes[0] ^= 1, 2, "do not have its hash"),
            ("deleted", |rows| drop(rows.remove(1)), 2, "missing"),
            ("cut", |rows| rows.truncate(3), 4, "the head says"),
            ("reordered", |rows| rows.swap(1, 2), 2, "missing"),
            (
                "renumbered",
                |rows| {
                    rows.swap(1, 2);
                    rows[1].sequence = 2;
                    rows[2].sequence = 3;
                },
                2,
                "does not continue",
            ),
            (
                "column",
                |rows| rows[2].index.actor = "somebody".into(),
                3,
                "columns",
            ),
            ("emptied", Vec::clear, 1, "missing"),
        ];
        for (name, meddle, sequence, reason) in cases {
            let mut rows = rows.clone();
            meddle(&mut rows);
            let broken = verify(&rows, &head).unwrap_err();
            assert_eq!(broken.sequence, sequence, "{name}: {}", broken.reason);
            assert!(broken.reason.contains(reason), "{name}: {}", broken.reason);
        }
    }

    #[test]
    fn words_read_back() {
        for outcome in [Outcome::Done, Outcome::Denied, Outcome::Unauthenticated] {
            assert_eq!(outcome.to_string().parse(), Ok(outcome));
        }
        let error = "x".parse::<Outcome>().unwrap_err();
        assert_eq!(error.to_string(), "\"x\" is not done, denied or unauthenticated");
    }
}
