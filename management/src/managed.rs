//! Who keeps a resource in step with a source outside, such as a folder that `tombolo sync` applies, so that a person
//! and a pipeline do not undo each other's work without knowing.
//!
//! This is courtesy among those who may write, and no access control: a manager is whatever name a writer gives.

use std::fmt;

use axum::http::{HeaderMap, HeaderName};

use crate::change::{Prepared, Refusal, Step};
use crate::handover;

/// Names the manager as whom a request writes.
pub(crate) const MANAGER: HeaderName = HeaderName::from_static("tombolo-manager");
/// `true`: also what somebody else manages.
pub(crate) const FORCE: HeaderName = HeaderName::from_static("tombolo-force");

/// `sync/` and the longest name of a resource fit.
const MANAGER_BYTES_MAX: usize = 600;

/// A word of the manager's own choice, such as `sync/organizations/acme/tenants/payments`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manager(String);

/// Who manages a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Managed {
    pub(crate) by: Manager,
    /// Of the manager's last write. The resource's own is greater when somebody else has forced a change since.
    pub(crate) revision: u64,
}

/// As whom a request writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hand {
    pub(crate) manager: Option<Manager>,
    /// Whether it also takes what others manage.
    pub(crate) force: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadHand {
    #[error("the header {MANAGER} does not hold 1 to {MANAGER_BYTES_MAX} visible ASCII characters")]
    Manager,
    #[error("the header {FORCE} is neither true nor false")]
    Force,
}

impl Manager {
    pub(crate) fn parse(text: &str) -> Result<Manager, BadHand> {
        let visible = text.bytes().all(|byte| byte.is_ascii_graphic());
        if visible && (1..=MANAGER_BYTES_MAX).contains(&text.len()) {
            Ok(Manager(text.to_owned()))
        } else {
            Err(BadHand::Manager)
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Hand {
    pub(crate) fn of(headers: &HeaderMap) -> Result<Hand, BadHand> {
        let manager = headers
            .get(MANAGER)
            .map(|value| value.to_str().unwrap_or_default());
        let force = headers.get(FORCE).map(|value| value.to_str().unwrap_or_default());
        Ok(Hand {
            manager: manager.map(Manager::parse).transpose()?,
            force: match force {
                None | Some("false") => false,
                Some("true") => true,
                Some(_) => return Err(BadHand::Force),
            },
        })
    }

    /// Refuses what somebody else manages, also where it is handed over. What a manager applies becomes its own, also when
    /// it changes nothing else.
    pub(crate) fn claim(&self, mut prepared: Prepared) -> Result<Prepared, Refusal> {
        for step in &mut prepared.steps {
            let (held, keeps) = match step {
                // Whose it is, is not what a manager keeps.
                Step::Create(_) | Step::Transfer(..) => continue,
                Step::Update(held, _) | Step::Delete(held) => (&*held, false),
                Step::Keep(held) => (&*held, true),
            };
            let holder = held.managed.as_ref().map(|managed| &managed.by);
            if holder == self.manager.as_ref() || (keeps && self.manager.is_none()) {
                continue;
            }
            if let Some(by) = holder.filter(|_| !self.force) {
                return Err(Refusal::Managed {
                    name: held.name().clone(),
                    by: by.clone(),
                });
            }
            if keeps {
                *step = Step::Update(held.clone(), held.resource.clone());
            }
        }
        match handover::kept(&prepared.handed, self.manager.as_ref()) {
            Some(offer) if !self.force => Err(Refusal::HolderManages { offer }),
            _ => Ok(prepared),
        }
    }

    /// Who manages what this hand has written. A forced change by nobody in particular leaves it with its manager, who
    /// will find it.
    pub(crate) fn after(&self, held: Option<&Managed>, revision: u64) -> Option<Managed> {
        match &self.manager {
            Some(by) => Some(Managed {
                by: by.clone(),
                revision,
            }),
            None => held.cloned(),
        }
    }
}
