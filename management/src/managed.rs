//! Who keeps which fields of a resource in step with a source outside, such as a folder that `tombolo sync` applies, so that
//! a person and a pipeline do not undo each other's work without knowing.
//!
//! This is courtesy among those who may write, and no access control: a manager is whatever name a writer gives.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use axum::http::{HeaderMap, HeaderName};
use tombolo_compiler::fields::{Fields, Kept};
use tombolo_compiler::intent::Resource;
use tombolo_compiler::name::Fqn;

use crate::change::{Change, ChangeVerb, Prepared, Refusal, Step};
use crate::handover;
use crate::snapshot::{Snapshot, Stored};

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
    /// The last at which what it keeps was as it has written it. The resource's own is greater when somebody else has forced a
    /// change to that since.
    pub(crate) revision: u64,
    /// What of the resource it keeps.
    pub(crate) kept: Kept,
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

    /// Changes as a manager means them: what they set, beside what others have set. What nobody writes as a manager is meant as
    /// it is sent.
    pub(crate) fn merged<'a>(
        &self,
        base: &Snapshot,
        changes: &'a [Change],
    ) -> Result<Cow<'a, [Change]>, Refusal> {
        let Some(manager) = &self.manager else {
            return Ok(Cow::Borrowed(changes));
        };
        let merge = |change: &Change| {
            let (ChangeVerb::Update(sent, if_match) | ChangeVerb::Apply(sent, if_match)) = &change.verb
            else {
                return Ok(change.clone());
            };
            let Some(held) = base.get(&change.name) else {
                return Ok(change.clone());
            };
            let merged = self.merge(manager, held, sent)?;
            let verb = match change.verb {
                ChangeVerb::Update(..) => ChangeVerb::Update(merged, if_match.clone()),
                _ => ChangeVerb::Apply(merged, if_match.clone()),
            };
            Ok(Change {
                verb,
                ..change.clone()
            })
        };
        changes
            .iter()
            .map(merge)
            .collect::<Result<_, _>>()
            .map(Cow::Owned)
    }

    fn merge(
        &self,
        manager: &Manager,
        held: &Stored,
        sent: &Arc<Resource>,
    ) -> Result<Arc<Resource>, Refusal> {
        let own = match &held.managed {
            Some(managed) if managed.by == *manager => Some(managed),
            // It is refused when it is claimed.
            Some(_) if !self.force => return Ok(sent.clone()),
            _ => None,
        };
        let kept = own.map_or_else(|| Fields::default().into(), |managed| managed.kept.clone());
        let (before, wanted) = (held.resource.to_json(), sent.to_json());
        let contested = kept.contested(&before, &wanted);
        if own.is_some() && !self.force && !contested.is_empty() {
            return Err(Refusal::Contested {
                name: held.name().clone(),
                fields: contested,
            });
        }
        match Resource::from_json(kept.merged(&before, &wanted)) {
            Ok(merged) => Ok(Arc::new(merged)),
            Err(_) if self.force => Ok(sent.clone()),
            Err(error) => Err(Refusal::CannotMerge {
                name: held.name().clone(),
                reason: error.to_string(),
            }),
        }
    }

    /// Refuses what changes fields that somebody else manages, also where it is handed over. What a manager sets becomes its
    /// own, also when it changes nothing else.
    pub(crate) fn claim(&self, mut prepared: Prepared, changes: &[Change]) -> Result<Prepared, Refusal> {
        prepared.set = match self.manager {
            None => BTreeMap::new(),
            Some(_) => changes.iter().filter_map(set).collect(),
        };
        for step in &mut prepared.steps {
            // Whose it is, is not what a manager keeps.
            let (held, after) = match &*step {
                Step::Create(_) | Step::Transfer(..) => continue,
                Step::Update(held, after) => (held, Some(after)),
                Step::Delete(held) => (held, None),
                Step::Keep(held) => (held, Some(&held.resource)),
            };
            let is_news = self.takes(held, after.map(AsRef::as_ref), prepared.set.get(held.name()))?;
            if let Step::Keep(held) = step
                && is_news
            {
                if held.managed.as_ref().map(|managed| &managed.by) == self.manager.as_ref() {
                    prepared.recorded.insert(held.name().clone());
                }
                *step = Step::Update(held.clone(), held.resource.clone());
            }
        }
        match handover::kept(&prepared.handed, self.manager.as_ref()) {
            Some(offer) if !self.force => Err(Refusal::HolderManages { offer }),
            _ => Ok(prepared),
        }
    }

    /// Whether it is news who manages what of a resource that becomes `after`, or is deleted.
    fn takes(&self, held: &Stored, after: Option<&Resource>, set: Option<&Fields>) -> Result<bool, Refusal> {
        let Some(managed) = &held.managed else {
            return Ok(self.manager.is_some());
        };
        if self.manager.as_ref() == Some(&managed.by) {
            return Ok(set.is_some_and(|set| managed.kept != Kept::Fields(set.clone())));
        }
        let fields = match (&self.manager, after) {
            // Nobody in particular may change what the manager does not keep.
            (None, Some(after)) => managed.kept.differing(&held.resource.to_json(), &after.to_json()),
            _ => Fields::default(),
        };
        let is_beside = self.manager.is_none() && after.is_some() && fields.is_empty();
        match is_beside || self.force {
            true => Ok(self.manager.is_some()),
            false => Err(Refusal::Managed {
                name: held.name().clone(),
                by: managed.by.clone(),
                fields,
            }),
        }
    }

    /// Who manages what this hand has created; `set` are the fields that it set.
    pub(crate) fn created(
        &self,
        resource: &Resource,
        set: Option<&Fields>,
        revision: u64,
    ) -> Option<Managed> {
        let by = self.manager.clone()?;
        let set = set.cloned().unwrap_or_else(|| Fields::of(&resource.to_json()));
        Some(Managed {
            by,
            revision,
            kept: set.into(),
        })
    }

    /// Who manages what this hand has written. A change by nobody in particular leaves it with its manager, who will find a
    /// forced one.
    pub(crate) fn updated(
        &self,
        held: &Stored,
        resource: &Resource,
        set: Option<&Fields>,
        revision: u64,
    ) -> Option<Managed> {
        let by_this = self.created(resource, set, revision);
        by_this.or_else(|| Some(held.managed.as_ref()?.beside(held, resource, revision)))
    }
}

impl Managed {
    /// After a change by somebody else.
    pub(crate) fn beside(&self, held: &Stored, resource: &Resource, revision: u64) -> Managed {
        let is_as_written = held.revision == self.revision
            && self
                .kept
                .differing(&held.resource.to_json(), &resource.to_json())
                .is_empty();
        Managed {
            revision: if is_as_written { revision } else { self.revision },
            ..self.clone()
        }
    }
}

/// The fields that a change sets.
fn set(change: &Change) -> Option<(Fqn, Fields)> {
    match &change.verb {
        ChangeVerb::Create(sent) | ChangeVerb::Update(sent, _) | ChangeVerb::Apply(sent, _) => {
            Some((change.name.clone(), Fields::of(&sent.to_json())))
        }
        ChangeVerb::Delete(_) | ChangeVerb::Transfer(_) => None,
    }
}
