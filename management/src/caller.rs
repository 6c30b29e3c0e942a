//! Who asks: decided about by both walls, and told of in the audit record.

use chrono::{DateTime, Utc};
use tombolo_compiler::name::Fqn;
use tombolo_proto::held::Version;
use uuid::Uuid;

use crate::audit::{self, Outcome, Record, Verb};
use crate::change::Refusal;
use crate::iam::{Asker, Principal};
use crate::idempotency::{Kept, Keyed};
use crate::managed::Hand;
use crate::realm::Opened;
use crate::reply::Answer;

/// Who asks, for the audit record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) principal: Principal,
    pub(crate) source: String,
    pub(crate) request_id: String,
    pub(crate) hand: Hand,
    /// What it calls its write, if it wants that to be done at most once.
    pub(crate) keyed: Option<Keyed>,
    /// That it is in, through other teams too.
    pub(crate) teams: Vec<String>,
    /// When it asked.
    pub(crate) time: DateTime<Utc>,
    /// What was committed when it was looked up. Nothing, of management itself.
    pub(crate) seen: Version,
    /// By the second wall.
    pub(crate) opened: Opened,
    /// What it identified itself with; `None` of management itself.
    pub(crate) credential: Option<Credential>,
}

/// What a caller identified itself with: what it issues to others cannot outlive it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Credential {
    pub(crate) id: Uuid,
    pub(crate) expires_at: Option<DateTime<Utc>>,
}

impl Credential {
    pub(crate) fn is_over(&self, now: DateTime<Utc>) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}

impl Caller {
    /// Management itself, now.
    pub(crate) fn system() -> Caller {
        Caller {
            principal: Principal::System,
            source: String::new(),
            request_id: String::new(),
            hand: Hand::default(),
            keyed: None,
            teams: Vec::new(),
            time: audit::now(),
            seen: Version::default(),
            opened: Opened::Everything,
            credential: None,
        }
    }

    /// The answer that its request was given before.
    pub(crate) fn open(&self, kept: Option<Kept>) -> Result<Option<Answer>, Refusal> {
        match (&self.keyed, kept) {
            (Some(keyed), Some(kept)) => keyed.open(kept).map(Some),
            _ => Ok(None),
        }
    }

    pub(crate) fn is_open(&self, node: &Fqn) -> bool {
        self.asker().is_open(node)
    }

    pub(crate) fn asker(&self) -> Asker<'_> {
        Asker {
            principal: &self.principal,
            source: &self.source,
            time: self.time,
            opened: &self.opened,
        }
    }

    /// Of what it has done, now.
    pub(crate) fn record(&self, verb: Verb, name: &str) -> Record {
        Record {
            teams: self.teams.clone(),
            source: self.source.clone(),
            request_id: self.request_id.clone(),
            ..Record::new(self.principal.to_string(), verb, name, Outcome::Done)
        }
    }
}
