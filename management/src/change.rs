//! What a write asks for, and the pure part of answering: the tree that would result, or why there is none.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use tombolo_compiler::fields::Fields;
use tombolo_compiler::finding::{Code, Finding, Severity};
use tombolo_compiler::intent::{BuiltinRole, Intent, Resource, Spec};
use tombolo_compiler::name::{Fqn, Kind};
use tombolo_compiler::resolve::{Edit, Resolver};
use uuid::Uuid;

use crate::change_plan::PlanId;
use crate::guard::{self, BrokenInvariants, Withdrawal};
use crate::handover;
use crate::iam::{self, Action, Asker, Bindings, Decision, Principal, decide};
use crate::managed::{FORCE, Manager};
use crate::quota::{self, OverQuota};
use crate::snapshot::{Snapshot, Stored, below};

/// How many names, or findings, a refusal's sentence lists.
const NAMED_MAX: usize = 10;
/// How many findings a refusal carries: one write can break as much as there is, and an answer is for reading.
const FINDINGS_MAX: usize = 100;

/// One resource of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) name: Fqn,
    pub(crate) verb: ChangeVerb,
    /// The uid that the caller has seen; another one means that the name was deleted and created again.
    pub(crate) uid: Option<Uuid>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ChangeVerb {
    Create(Arc<Resource>),
    Update(Arc<Resource>, IfMatch),
    /// Create or update.
    Apply(Arc<Resource>, IfMatch),
    Delete(IfMatch),
    /// Give it another owner, by name.
    Transfer(Fqn),
}

/// Which state the caller has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum IfMatch {
    Etag(String),
    /// Whatever it is: the caller said so.
    Any,
    Missing,
}

/// A write that may happen on `base`, and on nothing else.
#[derive(Clone, Debug)]
pub(crate) struct Prepared {
    pub(crate) base: Arc<Snapshot>,
    /// In the order of the names, parents first.
    pub(crate) steps: Vec<Step>,
    /// What others have offered, and lose by it. It is theirs: nothing of it is told to the caller.
    pub(crate) handed: Vec<Step>,
    /// The tree that results.
    pub(crate) judged: Resolver,
    /// By name, the fields that a manager sets; empty where nobody writes as one.
    pub(crate) set: BTreeMap<Fqn, Fields>,
    /// Of which nothing becomes otherwise than the record of the fields that its manager keeps.
    pub(crate) recorded: BTreeSet<Fqn>,
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Create(Arc<Resource>),
    Update(Arc<Stored>, Arc<Resource>),
    Delete(Arc<Stored>),
    /// To the owner of that uid.
    Transfer(Arc<Stored>, Uuid),
    Keep(Arc<Stored>),
}

/// Why a write is refused. Nothing of it has happened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("{because}")]
    Denied { name: Fqn, because: String },
    #[error("{WALLED}")]
    Walled { name: Fqn },
    #[error("{name} is named twice in one request")]
    NamedTwice { name: Fqn },
    #[error("{name} does not exist")]
    NotFound { name: Fqn },
    #[error("{parent} does not exist; create it first, or in the same request")]
    ParentNotFound { name: Fqn, parent: Fqn },
    #[error("{name} exists already; update it instead")]
    Exists { name: Fqn },
    #[error("{name} has changed since: it has the ETag {current} and not {given}; read it again")]
    Stale {
        name: Fqn,
        given: String,
        current: String,
    },
    #[error("{name} was deleted and created again since; read it again")]
    OtherUid { name: Fqn },
    #[error("{name} exists; say which state you have seen with its ETag")]
    MatchRequired { name: Fqn },
    #[error(
        "{name} still has {}; delete what stands below it first, or in the same request",
        children_of(.children, *.hidden)
    )]
    HasChildren {
        name: Fqn,
        children: Vec<Fqn>,
        /// How many more, which the caller may not read.
        hidden: usize,
    },
    #[error("the organization would be left without an administrator; bind another one first")]
    NoAdministrator,
    #[error(
        "{name} is managed by {by}{}, which would undo this; change it there, or force it (--force, or {FORCE}: true)",
        in_fields(.fields)
    )]
    Managed {
        name: Fqn,
        by: Manager,
        /// Of those that it keeps, the ones that would change.
        fields: Fields,
    },
    #[error(
        "somebody else has set {fields} of {name} to something else; leave it out, or take it over \
         (--force, or {FORCE}: true)"
    )]
    Contested { name: Fqn, fields: Fields },
    #[error(
        "{name} cannot be what its manager and others have set together: {reason}; take out what excludes the other, or take \
         all of it over (--force, or {FORCE}: true)"
    )]
    CannotMerge { name: Fqn, reason: String },
    #[error(
        "what {offer} hands over is managed by a pipeline of its holder, which would undo this; ask for an offer that the \
         pipeline makes itself, or force it (--force, or {FORCE}: true)"
    )]
    HolderManages { offer: Fqn },
    #[error(
        "{name} is protected against deletion; write it with `deletionProtection: false` first, as a change of its own"
    )]
    Protected { name: Fqn },
    #[error("{0}")]
    InvariantBroken(BrokenInvariants),
    #[error("{owner} is not a user or a service account that exists, so it cannot own anything")]
    NoSuchOwner { owner: Fqn },
    #[error("the condition of {name} cannot be evaluated: {reason}")]
    BadCondition { name: Fqn, reason: String },
    #[error(transparent)]
    OverQuota(OverQuota),
    /// A name of the world that somebody else holds.
    #[error("{0}")]
    Claimed(Told),
    /// It would break a resource that is not part of the write.
    #[error("{0}")]
    InUse(Told),
    #[error("{0}")]
    Invalid(Told),
    #[error(
        "the plan {given} is stale: on revision {}, the change would do something else; look at the new plan {found}",
        .found.revision
    )]
    PlanMoved { given: PlanId, found: PlanId },
    #[error(
        "changes of {node} and below need the approval of another person with the role {approver} there ({policy}); make a plan \
         with `tombolo plan submit`, or with --submit, or POST it to /v1/plans?submit=true"
    )]
    NeedsApproval {
        policy: Fqn,
        node: Fqn,
        approver: BuiltinRole,
    },
    #[error("{}; to do it, send it again with ?confirm={plan}", listed_withdrawals(.withdrawals))]
    WithdrawsMuch {
        withdrawals: Vec<Withdrawal>,
        plan: PlanId,
    },
    #[error("the Idempotency-Key {key} was the key of another request; use a new one for each new request")]
    KeyReused { key: String },
    #[error("{node} cannot be rolled back to revision {revision}: {}", .reasons.join("; "))]
    CannotRollBack {
        node: Fqn,
        revision: u64,
        reasons: Vec<String>,
    },
}

/// Findings as one caller is told of them: what it may not read is counted and not named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    /// At most [`FINDINGS_MAX`].
    pub(crate) findings: Vec<Finding>,
    /// How many more there are that the caller may read.
    more: usize,
    /// Resources that the caller may not read.
    hidden: usize,
}

impl Step {
    pub(crate) fn name(&self) -> &Fqn {
        match self {
            Step::Create(resource) => &resource.name,
            Step::Update(stored, _)
            | Step::Delete(stored)
            | Step::Transfer(stored, _)
            | Step::Keep(stored) => stored.name(),
        }
    }

    fn edit(&self) -> Option<Edit> {
        match self {
            Step::Create(resource) | Step::Update(_, resource) => Some(Edit::Put(resource.clone())),
            Step::Delete(stored) => Some(Edit::Remove(stored.name().clone())),
            Step::Transfer(..) | Step::Keep(_) => None,
        }
    }

    /// The word for it in answers.
    pub(crate) fn action(&self) -> &'static str {
        match self {
            Step::Create(_) => "create",
            Step::Update(..) => "update",
            Step::Delete(_) => "delete",
            Step::Transfer(..) => "transfer",
            Step::Keep(_) => "unchanged",
        }
    }
}

impl Told {
    fn of(findings: Vec<Finding>, may_read: impl Fn(&Fqn) -> bool) -> Told {
        let (mut findings, hidden): (Vec<Finding>, Vec<Finding>) = findings
            .into_iter()
            .partition(|finding| may_read(&finding.resource));
        let more = findings.len().saturating_sub(FINDINGS_MAX);
        findings.truncate(FINDINGS_MAX);
        let hidden: BTreeSet<Fqn> = hidden.into_iter().map(|finding| finding.resource).collect();
        Told {
            findings,
            more,
            hidden: hidden.len(),
        }
    }

    /// What is to be said beside the first `shown` findings.
    pub(crate) fn rest(&self, shown: usize) -> Vec<String> {
        let more = self.findings.len().saturating_sub(shown) + self.more;
        let more = (more > 0).then(|| format!("and {more} more"));
        let hidden = match self.hidden {
            0 => None,
            1 => Some("1 resource that you may not read depends".to_owned()),
            hidden => Some(format!("{hidden} resources that you may not read depend")),
        };
        let hidden = hidden
            .map(|hidden| format!("{hidden} on what this changes; ask an administrator of the organization"));
        more.into_iter().chain(hidden).collect()
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.findings.iter().take(NAMED_MAX).map(Finding::to_string);
        let parts: Vec<String> = shown.chain(self.rest(NAMED_MAX)).collect();
        f.write_str(&parts.join("; "))
    }
}

impl Prepared {
    pub(crate) fn all(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().chain(&self.handed)
    }

    /// What another person has to agree to where a policy says so.
    pub(crate) fn to_approve(&self) -> impl Iterator<Item = &Step> {
        self.all().filter(|step| !self.recorded.contains(step.name()))
    }

    pub(crate) fn changes_nothing(&self) -> bool {
        self.steps.iter().all(|step| matches!(step, Step::Keep(_)))
    }
}

fn in_fields(fields: &Fields) -> String {
    match fields.is_empty() {
        true => String::new(),
        false => format!(" in {fields}"),
    }
}

/// Told of what the first wall lets through and the second one holds.
pub(crate) const WALLED: &str =
    "row-level security keeps it from you; your rights may have changed a moment ago";

impl Asker<'_> {
    /// Whether the second wall lets it write there. Postgres asks again; but what is refused before that tells of what is there.
    pub(crate) fn check_open(&self, name: &Fqn) -> Result<(), Refusal> {
        match self.is_open(name) {
            true => Ok(()),
            false => Err(Refusal::Walled { name: name.clone() }),
        }
    }
}

/// Decides a write on `base`. Authorization comes first and for all of it, by both walls, so that no other answer tells a
/// caller what exists where it may not look.
pub(crate) fn prepare(
    base: &Arc<Snapshot>,
    asker: &Asker<'_>,
    changes: &[Change],
) -> Result<Prepared, Refusal> {
    authorize(base, asker, changes)?;
    changes
        .iter()
        .try_for_each(|change| asker.check_open(&change.name))?;
    let mut by_name = BTreeMap::new();
    for change in changes {
        if by_name.insert(&change.name, change).is_some() {
            return Err(Refusal::NamedTwice {
                name: change.name.clone(),
            });
        }
    }
    let steps: Vec<Step> = by_name
        .into_values()
        .map(|change| step(base, change))
        .collect::<Result<_, _>>()?;

    match judge(base, asker, steps.clone(), Vec::new()) {
        Err(Refusal::Claimed(told)) => {
            let mut after = base.judged.clone();
            after.update(steps.iter().filter_map(Step::edit));
            let handed = handover::accepted(base, &steps, after.intent(), asker.time);
            match handed.is_empty() {
                true => Err(Refusal::Claimed(told)),
                false => judge(base, asker, steps, handed),
            }
        }
        judged => judged,
    }
}

/// Whether the steps, and what others hand over with them, lead to a tree that may be.
fn judge(
    base: &Arc<Snapshot>,
    asker: &Asker<'_>,
    steps: Vec<Step>,
    handed: Vec<Step>,
) -> Result<Prepared, Refusal> {
    let all: Vec<Step> = steps.iter().chain(&handed).cloned().collect();
    guard::check_protection(&all)?;
    let edits: Vec<Edit> = all.iter().filter_map(Step::edit).collect();
    let private = base.private_after(&edits);
    let mut judged = base.judged.clone();
    judged.update(edits);
    let intent = judged.intent();
    let may_read = |name: &Fqn| asker.may_read(name, &base.bindings);
    all.iter()
        .try_for_each(|step| check_place(intent, step, may_read))?;
    if let Some(private) = private {
        check_policy(base, asker, &private, &steps)?;
    }
    let created = steps.iter().filter(|step| matches!(step, Step::Create(_)));
    quota::check(intent, created.map(Step::name)).map_err(Refusal::OverQuota)?;
    check_findings(base, asker, &judged, &all)?;
    let misses = handover::misses(&steps, intent);
    if !misses.is_empty() {
        return Err(Refusal::Invalid(Told::of(misses, may_read)));
    }
    guard::check_invariants(base, &judged, may_read)?;
    Ok(Prepared {
        base: base.clone(),
        steps,
        handed,
        judged,
        set: BTreeMap::new(),
        recorded: BTreeSet::new(),
    })
}

fn authorize(base: &Snapshot, asker: &Asker<'_>, changes: &[Change]) -> Result<(), Refusal> {
    for change in changes {
        let action = match change.verb {
            ChangeVerb::Create(_) => Action::Create,
            ChangeVerb::Update(..) | ChangeVerb::Apply(..) => Action::Update,
            ChangeVerb::Delete(_) => Action::Delete,
            ChangeVerb::Transfer(_) => Action::SetPolicy,
        };
        authorize_one(base, asker, action, &change.name)?;
        // Only whoever may update a name learns that an apply would create it.
        if matches!(change.verb, ChangeVerb::Apply(..)) && base.get(&change.name).is_none() {
            authorize_one(base, asker, Action::Create, &change.name)?;
        }
        check_transfer(base, asker, change)?;
        // Whoever offers a claim gives it away.
        if let (Kind::ClaimOffer, Some(workspace)) = (change.name.kind(), change.name.parent()) {
            authorize_one(base, asker, Action::Update, &workspace)?;
        }
    }
    check_user(base, asker.principal)
}

/// What [`prepare`] checks first, for a write that is not about resources.
pub(crate) fn authorize_one(
    base: &Snapshot,
    asker: &Asker<'_>,
    action: Action,
    name: &Fqn,
) -> Result<(), Refusal> {
    if let Decision::Deny(lack) = decide(asker, action, name, &base.bindings) {
        return Err(Refusal::Denied {
            name: name.clone(),
            because: lack.to_string(),
        });
    }
    check_user(base, asker.principal)
}

/// Between the look at the token and the lock, the user may have gone.
fn check_user(base: &Snapshot, principal: &Principal) -> Result<(), Refusal> {
    if let (Some(name), Some(uid)) = (principal.name(), principal.uid())
        && base.get(name).is_none_or(|stored| stored.uid != uid)
    {
        return Err(Refusal::Denied {
            name: name.clone(),
            because: format!("{name} does not exist any more"),
        });
    }
    Ok(())
}

fn step(base: &Snapshot, change: &Change) -> Result<Step, Refusal> {
    let name = || change.name.clone();
    let Some(stored) = base.get(&change.name) else {
        return match &change.verb {
            ChangeVerb::Apply(_, IfMatch::Etag(_))
            | ChangeVerb::Update(..)
            | ChangeVerb::Delete(_)
            | ChangeVerb::Transfer(_) => Err(Refusal::NotFound { name: name() }),
            ChangeVerb::Create(resource) | ChangeVerb::Apply(resource, _) => {
                Ok(Step::Create(resource.clone()))
            }
        };
    };
    let (if_match, resource) = match &change.verb {
        ChangeVerb::Create(_) => return Err(Refusal::Exists { name: name() }),
        ChangeVerb::Update(resource, if_match) | ChangeVerb::Apply(resource, if_match) => {
            (if_match, Some(resource))
        }
        ChangeVerb::Delete(if_match) => (if_match, None),
        ChangeVerb::Transfer(owner) => {
            let uid = owner_uid(base, owner)?;
            return Ok(match stored.owner == Some(uid) {
                true => Step::Keep(stored.clone()),
                false => Step::Transfer(stored.clone(), uid),
            });
        }
    };
    if change.uid.is_some_and(|uid| uid != stored.uid) {
        return Err(Refusal::OtherUid { name: name() });
    }
    let same = resource.is_some_and(|resource| *resource == stored.resource);
    match if_match {
        IfMatch::Etag(given) if *given != stored.etag => {
            return Err(Refusal::Stale {
                name: name(),
                given: given.clone(),
                current: stored.etag.clone(),
            });
        }
        // Applying what is there already needs no proof of having seen it.
        IfMatch::Missing if !(same && matches!(change.verb, ChangeVerb::Apply(..))) => {
            return Err(Refusal::MatchRequired { name: name() });
        }
        _ => {}
    }
    Ok(match resource {
        Some(_) if same => Step::Keep(stored.clone()),
        Some(resource) => Step::Update(stored.clone(), resource.clone()),
        None => Step::Delete(stored.clone()),
    })
}

fn check_place(intent: &Intent, step: &Step, may_read: impl Fn(&Fqn) -> bool) -> Result<(), Refusal> {
    match step {
        Step::Create(resource) => match resource.name.parent() {
            Some(parent) if !intent.contains_key(&parent) => Err(Refusal::ParentNotFound {
                name: resource.name.clone(),
                parent,
            }),
            _ => Ok(()),
        },
        Step::Delete(stored) => {
            let (children, hidden): (Vec<Fqn>, Vec<Fqn>) = below(intent, stored.name().as_str())
                .map(|resource| resource.name.clone())
                .partition(may_read);
            if children.is_empty() && hidden.is_empty() {
                return Ok(());
            }
            Err(Refusal::HasChildren {
                name: stored.name().clone(),
                children,
                hidden: hidden.len(),
            })
        }
        Step::Update(..) | Step::Transfer(..) | Step::Keep(_) => Ok(()),
    }
}

/// Ownership is given by who holds what an owner holds.
fn check_transfer(base: &Snapshot, asker: &Asker<'_>, change: &Change) -> Result<(), Refusal> {
    let ChangeVerb::Transfer(owner) = &change.verb else {
        return Ok(());
    };
    match iam::owns_more(asker, owner, &change.name, &base.bindings) {
        Some(excess) => Err(Refusal::Denied {
            because: excess.to_string(),
            name: excess.node,
        }),
        None => Ok(()),
    }
}

fn owner_uid(base: &Snapshot, owner: &Fqn) -> Result<Uuid, Refusal> {
    let stored = base
        .get(owner)
        .filter(|stored| stored.name().kind().is_principal());
    let stored = stored.ok_or_else(|| Refusal::NoSuchOwner { owner: owner.clone() })?;
    Ok(stored.uid)
}

/// What a change of who there is and who may do what has to keep. `intent` is what results, as far as it is about that.
fn check_policy(base: &Snapshot, asker: &Asker<'_>, intent: &Intent, steps: &[Step]) -> Result<(), Refusal> {
    steps.iter().try_for_each(check_condition)?;
    let after = Bindings::of(intent, base.tree.clone());
    if let Some(excess) = iam::excess(asker, &base.bindings, &after) {
        return Err(Refusal::Denied {
            because: excess.to_string(),
            name: excess.node,
        });
    }
    let organization = base.tree.keys().next().map(Fqn::organization);
    if organization.is_some_and(|organization| !after.has_holder(BuiltinRole::Admin, &organization)) {
        return Err(Refusal::NoAdministrator);
    }
    Ok(())
}

fn check_condition(step: &Step) -> Result<(), Refusal> {
    let (Step::Create(resource) | Step::Update(_, resource)) = step else {
        return Ok(());
    };
    let Spec::Binding(binding) = &resource.spec else {
        return Ok(());
    };
    let checked = binding.condition.as_ref().map_or(Ok(()), iam::check_condition);
    checked.map_err(|reason| Refusal::BadCondition {
        name: resource.name.clone(),
        reason: reason.to_string(),
    })
}

/// Errors that the tree does not have yet refuse the write.
fn check_findings(
    base: &Snapshot,
    asker: &Asker<'_>,
    judged: &Resolver,
    steps: &[Step],
) -> Result<(), Refusal> {
    let changed = steps.iter().filter(|step| !matches!(step, Step::Keep(_)));
    let changed: BTreeSet<&Fqn> = changed.map(Step::name).collect();
    let refuses = |finding: &Finding| {
        let writes_it = changed.contains(&finding.resource);
        // Whoever lends may end it without asking those who borrow.
        let is_recalled =
            finding.code == Code::NotGranted && base.judged.resolved().loans.contains_key(&finding.resource);
        match finding.severity {
            Severity::Error => writes_it || !is_recalled,
            Severity::Warning => writes_it && finding.code.refuses_its_writer(),
        }
    };
    let new: Vec<Finding> = judged
        .findings_since(&base.judged)
        .filter(|finding| refuses(finding))
        .map(|finding| with_clusters(base, asker, finding.clone()))
        .collect();
    let written: BTreeSet<&Fqn> = steps.iter().map(Step::name).collect();
    let claims: Vec<Finding> = new
        .iter()
        .filter(|finding| finding.claim.is_some())
        .filter_map(|finding| {
            if written.contains(&finding.resource) {
                Some(finding.clone())
            } else {
                finding.turned()
            }
        })
        .collect();
    let may_read = |name: &Fqn| asker.may_read(name, &base.bindings);
    if new.is_empty() {
        Ok(())
    } else if !claims.is_empty() {
        // What else would break for the one who holds the name is not the writer's to know.
        Err(Refusal::Claimed(Told::of(claims, may_read)))
    } else if new.iter().any(|finding| !written.contains(&finding.resource)) {
        Err(Refusal::InUse(Told::of(new, may_read)))
    } else {
        Err(Refusal::Invalid(Told::of(new, may_read)))
    }
}

fn listed_withdrawals(withdrawals: &[Withdrawal]) -> String {
    let withdrawals: Vec<String> = withdrawals.iter().map(Withdrawal::to_string).collect();
    withdrawals.join("; ")
}

/// Names the clusters that exist, as far as the asker may read them.
fn with_clusters(base: &Snapshot, asker: &Asker<'_>, mut finding: Finding) -> Finding {
    if finding.code != Code::UnknownCluster {
        return finding;
    }
    let clusters = base.clusters();
    let known = clusters.values().map(|(stored, _)| stored.name());
    let known = known.filter(|name| asker.may_read(name, &base.bindings));
    let known: Vec<Fqn> = known.cloned().collect();
    if !known.is_empty() {
        finding
            .message
            .push_str(&format!("; there are {}", listed(&known)));
    }
    finding
}

fn children_of(children: &[Fqn], hidden: usize) -> String {
    let shown = (!children.is_empty()).then(|| listed(children));
    let hidden = (hidden > 0).then(|| format!("{hidden} below it that you may not read"));
    let parts: Vec<String> = shown.into_iter().chain(hidden).collect();
    parts.join(", and ")
}

fn listed(names: &[Fqn]) -> String {
    let shown: Vec<&str> = names.iter().take(NAMED_MAX).map(Fqn::as_str).collect();
    let rest = names.len() - shown.len();
    match rest {
        0 => shown.join(", "),
        _ => format!("{} and {rest} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests;
