//! `/v1/plans/<id>`: plans that wait for the approval of another person.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use chrono::TimeDelta;
use serde::Deserialize;
use serde_json::{Value, json};
use tombolo_compiler::intent::PLAN_EXPIRY_HOURS;
use tombolo_compiler::name::Fqn;
use tombolo_runtime::telemetry::chain;
use uuid::Uuid;

use super::body::Body;
use super::paging::page_size;
use super::plans::Taking;
use super::{App, Params, plans};
use crate::approval::{Leave, Required, required, required_around, required_of};
use crate::audit::{self, Record, Verb};
use crate::caller::Caller;
use crate::change::{Prepared, Refusal, Step};
use crate::change_plan::PlanId;
use crate::document;
use crate::iam::{Action, Principal, holds};
use crate::problem::Problem;
use crate::realm::Opened;
use crate::reply::Answer;
use crate::store::plan::{PlanState, StoredPlan, Vote};
use crate::store::{self, StoreError};
use crate::wish::{Order, Wish};
use crate::writer::{Committed, WriteError, lock_for};

/// Of a description or a comment.
const TEXT_BYTES_MAX: usize = 2000;
/// Of one author: more are a pipeline that nobody reads, and each of them is kept for days.
const OPEN_PLANS_MAX: u64 = 100;

/// What is kept of a plan beside what it comes to.
pub(crate) struct Submission {
    pub(crate) documents: Vec<Value>,
    pub(crate) description: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct ListParams {
    page_size: Option<usize>,
    page_token: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Opinion {
    #[serde(default)]
    comment: String,
}

/// Keeps a plan, and tells who may approve it.
pub(crate) async fn submit(
    app: &App,
    caller: &Caller,
    prepared: &Prepared,
    mut described: Value,
    submission: Submission,
) -> Result<Response, Problem> {
    let (Principal::User { name, uid } | Principal::ServiceAccount { name, uid }) = &caller.principal else {
        return Err(Problem::bad_request(
            "only users and service accounts submit plans",
        ));
    };
    if prepared.changes_nothing() {
        return Err(Problem::bad_request(
            "there is nothing to do, and so nothing to approve",
        ));
    }
    check_text("description", &submission.description)?;
    let policies = required(&prepared.base, prepared.to_approve());
    let hours = policies.iter().map(|policy| policy.expires_after_hours).min();
    let created_at = audit::now();
    let plan = StoredPlan {
        id: Uuid::now_v7(),
        node: common_node(&prepared.steps).unwrap_or_else(|| app.organization.clone()),
        author: name.clone(),
        author_uid: *uid,
        description: submission.description,
        plan: PlanId::of(prepared),
        hand: caller.hand.clone(),
        created_at,
        expires_at: created_at + TimeDelta::hours(hours.unwrap_or(PLAN_EXPIRY_HOURS).into()),
        state: PlanState::Open,
        votes: Vec::new(),
    };
    let mut tx = app.store.begin_as(&Principal::System).await?;
    // First of all, for what is inserted holds on to its row, and two who did would wait for each other.
    let head = lock_for(&app.store, &mut tx, caller).await;
    let head = head.map_err(|error| Problem::of_write(error, &caller.principal, Verb::SubmitPlan))?;
    let kept = app.store.kept_answer(&mut tx, caller).await?;
    if let Some(answer) = caller.open(kept)? {
        return Ok(answer.into_response());
    }
    if app.store.count_open_plans(&mut tx, *uid, created_at).await? >= OPEN_PLANS_MAX {
        return Err(too_many(name));
    }
    app.store
        .insert_plan(&mut tx, &plan, &submission.documents)
        .await?;
    let record = Record {
        after: Some(json!({"documents": submission.documents})),
        ..record(caller, Verb::SubmitPlan, &plan, &plan.description)
    };
    app.store.append_write(&mut tx, head, record).await?;
    for (field, value) in told(&plan) {
        described[field] = value;
    }
    described["approvals"] = policies.iter().map(policy).collect();
    let answer = Answer {
        status: StatusCode::CREATED.as_u16(),
        location: Some(format!("/v1/plans/{}", plan.id)),
        ..Answer::ok(&described)
    };
    app.store.keep_answer(&mut tx, caller, &answer).await?;
    store::commit(tx).await?;
    Ok(answer.into_response())
}

/// Those that wait and that the caller may read, newest first.
pub(crate) async fn list(
    State(app): State<App>,
    caller: Caller,
    Params(params): Params<ListParams>,
) -> Result<Json<Value>, Problem> {
    let page_size = page_size(params.page_size)?;
    let mut behind: Option<Uuid> = match &params.page_token {
        None => None,
        Some(token) => Some(
            token
                .parse()
                .map_err(|_| Problem::bad_request(format!("pageToken {token:?} is not from this list")))?,
        ),
    };
    let mut tx = app.store.read_as(&caller.principal).await?;
    let (now, snapshot) = (audit::now(), app.writes.snapshot());
    let mut shown: Vec<StoredPlan> = Vec::new();
    // One more than a page tells whether there is another one.
    while shown.len() <= page_size {
        let plans = app
            .store
            .open_plans(&mut tx, now, behind, page_size as u64 + 1)
            .await?;
        let is_last = plans.len() <= page_size;
        behind = plans.last().map(|plan| plan.id);
        shown.extend(
            plans
                .into_iter()
                .filter(|plan| caller.may_read(&snapshot, &plan.node)),
        );
        if is_last {
            break;
        }
    }
    let has_more = shown.len() > page_size;
    shown.truncate(page_size);
    let items: Vec<Value> = shown
        .iter()
        .map(|plan| told(plan).into_iter().collect())
        .collect();
    let mut page = json!({ "items": items });
    if let Some(last) = shown.last().filter(|_| has_more) {
        page["nextPageToken"] = json!(last.id);
    }
    Ok(Json(page))
}

pub(crate) async fn get(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    let plan = find(&app, &caller, &id, Verb::Get).await?;
    let mut shown: Value = told(&plan).into_iter().collect();
    let snapshot = app.writes.snapshot();
    let may_read = |name: &Fqn| caller.may_read(&snapshot, name);
    let (documents, hidden) = document::readable(documents(&app, &plan).await?, may_read);
    shown["documents"] = documents.into();
    shown["documentsHidden"] = hidden.into();
    Ok(Json(shown))
}

/// `:approve`, `:reject` and `:apply`.
pub(crate) async fn act(
    State(app): State<App>,
    caller: Caller,
    Path(path): Path<String>,
    body: Body,
) -> Result<Response, Problem> {
    let Some((id, verb)) = path.rsplit_once(':') else {
        let detail = format!("/v1/plans/{path}: POST :approve, :reject or :apply");
        return Err(Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method", detail));
    };
    let opinion: Opinion = body.parse()?;
    check_text("comment", &opinion.comment)?;
    match verb {
        "approve" => vote(&app, &caller, id, opinion, true).await,
        "reject" => vote(&app, &caller, id, opinion, false).await,
        "apply" => apply(&app, &caller, id).await,
        _ => Err(Problem::not_found(format!("the question {verb:?} about a plan"))),
    }
}

/// An approval is good for what the plan comes to, and the plan must still come to that.
async fn vote(
    app: &App,
    caller: &Caller,
    id: &str,
    opinion: Opinion,
    approves: bool,
) -> Result<Response, Problem> {
    let verb = if approves {
        Verb::ApprovePlan
    } else {
        Verb::RejectPlan
    };
    let mut plan = find(app, caller, id, verb).await?;
    check_open(&plan)?;
    let (name, uid) = match &caller.principal {
        Principal::User { name, uid } => (name, uid),
        // A pipeline takes its own plans back, and decides about none.
        Principal::ServiceAccount { name, uid } if !approves && *uid == plan.author_uid => (name, uid),
        _ => return Err(Problem::bad_request("only users approve plans")),
    };
    let deny = |because: &str| Problem::denied(because, &caller.principal, verb, &plan.node);
    if approves && *uid == plan.author_uid {
        return Err(deny(
            "nobody approves their own plan; ask somebody else who holds the role",
        ));
    }
    let author = app.writes.snapshot().get(&plan.author).cloned();
    if approves && author.is_some_and(|author| author.owner == Some(*uid)) {
        return Err(deny(
            "whoever owns a service account does not approve its plans; ask somebody else who holds the role",
        ));
    }
    let withdraws = !approves && *uid == plan.author_uid;
    let policies = match (approves, withdraws) {
        (true, _) => policies_of(app, caller, &plan).await?,
        (false, true) => Vec::new(),
        // What it would come to now is nothing to whoever does not want it.
        (false, false) => policies_above(app, caller, &plan).await?,
    };
    let snapshot = app.writes.snapshot();
    let may = |policy: &Required| {
        holds(
            &caller.principal,
            policy.approver,
            &policy.node,
            &snapshot.bindings,
        )
    };
    if !withdraws && !policies.iter().any(may) {
        let wanted: Vec<String> = policies
            .iter()
            .map(|policy| format!("{} on {}", policy.approver, policy.node))
            .collect();
        return Err(match wanted.is_empty() {
            true => Problem::new(
                StatusCode::CONFLICT,
                "needs-no-approval",
                "no approval policy asks for an approval of this plan; apply it",
            ),
            false => deny(&format!("it needs somebody who is {}", wanted.join(" or "))),
        });
    }
    let vote = Vote {
        voter: name.clone(),
        voter_uid: *uid,
        approves,
        comment: opinion.comment,
        time: audit::now(),
    };
    let mut tx = app.store.begin_as(&Principal::System).await?;
    let head = lock_for(&app.store, &mut tx, caller).await;
    let head = head.map_err(|error| Problem::of_write(error, &caller.principal, verb))?;
    let kept = app.store.kept_answer(&mut tx, caller).await?;
    if let Some(answer) = caller.open(kept)? {
        return Ok(answer.into_response());
    }
    app.store.insert_vote(&mut tx, &plan, &vote).await?;
    if !approves
        && !app
            .store
            .move_plan(&mut tx, plan.id, PlanState::Open, PlanState::Rejected)
            .await?
    {
        return Err(closed(&plan));
    }
    let record = record(caller, verb, &plan, &vote.comment);
    app.store.append_write(&mut tx, head, record).await?;
    if !approves {
        plan.state = PlanState::Rejected;
    }
    plan.votes.retain(|before| before.voter_uid != vote.voter_uid);
    plan.votes.push(vote);
    let answer = Answer::ok(&told(&plan).into_iter().collect());
    app.store.keep_answer(&mut tx, caller, &answer).await?;
    store::commit(tx).await?;
    Ok(answer.into_response())
}

async fn apply(app: &App, caller: &Caller, id: &str) -> Result<Response, Problem> {
    let plan = find(app, caller, id, Verb::Change).await?;
    check_open(&plan)?;
    let documents = documents(app, &plan).await?;
    let caller = &Caller {
        hand: plan.hand.clone(),
        ..caller.clone()
    };
    let wish = plans::wish_of(app, caller, documents, Taking::PLANNED).await?;
    let approvers = plan.votes.iter().filter(|vote| vote.approves);
    let leave = Leave::Approved {
        plan: plan.id,
        author: plan.author_uid,
        approvers: approvers
            .map(|vote| Principal::User {
                name: vote.voter.clone(),
                uid: vote.voter_uid,
            })
            .collect(),
    };
    let order = Order {
        leave,
        ..app.order(wish, Some(plan.plan.clone()))
    };
    // A task, for whoever hangs up must not leave it half done.
    let applied = tokio::spawn(apply_once(app.clone(), caller.clone(), plan, order)).await;
    let committed = applied.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
    Ok(committed.into_response())
}

/// Closes the plan before the write, so that of a rejection and this one wins, and an approval is good for one write.
/// Should management end in between, the plan has to be made again.
async fn apply_once(app: App, caller: Caller, plan: StoredPlan, order: Order) -> Result<Committed, Problem> {
    if !move_plan(&app, &plan, PlanState::Open, PlanState::Applied).await? {
        return Err(closed(&plan));
    }
    match app.writes.write(caller.clone(), order).await {
        Ok(committed) => Ok(committed),
        // It may be done: who looks finds out, and the plan stays closed.
        Err(error @ WriteError::Uncertain(_)) => Err(plans::refused(&app, &caller, error).await),
        Err(error) => {
            if let Err(kept) = move_plan(&app, &plan, PlanState::Applied, PlanState::Open).await {
                tracing::warn!(plan = %plan.id, error = chain(&kept), "a plan that was not applied stays closed");
            }
            Err(plans::refused(&app, &caller, error).await)
        }
    }
}

async fn move_plan(app: &App, plan: &StoredPlan, from: PlanState, to: PlanState) -> Result<bool, StoreError> {
    let mut tx = app.store.begin_as(&Principal::System).await?;
    let moved = app.store.move_plan(&mut tx, plan.id, from, to).await?;
    store::commit(tx).await?;
    Ok(moved)
}

/// The policies that a plan comes under now, if it still comes to what it said.
async fn policies_of(app: &App, caller: &Caller, plan: &StoredPlan) -> Result<Vec<Required>, Problem> {
    // Decided with the author's rights: whoever approves need not be able to write it. What the second wall opens to the
    // author was asked when it planned, and is asked again when it is applied.
    let author = Caller {
        principal: Principal::of(plan.author.clone(), plan.author_uid),
        hand: plan.hand.clone(),
        opened: Opened::Everything,
        ..caller.clone()
    };
    let wish = plans::wish_of(app, &author, documents(app, plan).await?, Taking::PLANNED).await?;
    let order = Order {
        plan: Some(plan.plan.clone()),
        ..wish.into()
    };
    let prepared = app.writes.dry_run(&author, &order.wish).await;
    let prepared = prepared.and_then(|prepared| order.hold(&prepared).map(|()| prepared).map_err(Into::into));
    match prepared {
        Ok(prepared) => Ok(required(&prepared.base, prepared.to_approve())),
        Err(WriteError::Refused(refusal)) if !matches!(refusal, Refusal::PlanMoved { .. }) => {
            // Why is for the author, who may read other things than the caller.
            let detail = format!(
                "plan {}: {} could not make this change any more; make it again",
                plan.id, plan.author
            );
            Err(Problem::new(
                StatusCode::PRECONDITION_FAILED,
                "plan-moved",
                detail,
            ))
        }
        Err(error) => Err(plans::refused(app, caller, error).await),
    }
}

/// The policies that a plan comes under by what it names, whether it could be made or not.
async fn policies_above(app: &App, caller: &Caller, plan: &StoredPlan) -> Result<Vec<Required>, Problem> {
    let wish = plans::wish_of(app, caller, documents(app, plan).await?, Taking::PLANNED).await;
    let snapshot = app.writes.snapshot();
    Ok(match wish {
        Ok(Wish::Changes(changes)) => required_of(&snapshot, changes.iter().map(|change| &change.name)),
        Ok(Wish::Rollback(_)) | Err(_) => required_around(&snapshot, &plan.node),
    })
}

async fn documents(app: &App, plan: &StoredPlan) -> Result<Vec<Value>, StoreError> {
    let mut tx = app.store.read_as(&Principal::System).await?;
    app.store.plan_documents(&mut tx, plan.id).await
}

async fn find(app: &App, caller: &Caller, id: &str, verb: Verb) -> Result<StoredPlan, Problem> {
    let missing = || Problem::not_found(format!("plan {id}"));
    let id: Uuid = id.parse().map_err(|_| missing())?;
    // Also one that the caller may not read: to try it is a denial, and belongs on record.
    let mut tx = app.store.read_as(&Principal::System).await?;
    let plan = app.store.find_plan(&mut tx, id).await?.ok_or_else(missing)?;
    let snapshot = app.writes.snapshot();
    app.allow(&snapshot, caller, Action::Read, &plan.node, verb)
        .map_err(|denied| {
            let mut problem = missing();
            problem.denied = denied.denied;
            problem
        })?;
    Ok(plan)
}

fn check_open(plan: &StoredPlan) -> Result<(), Problem> {
    if plan.state != PlanState::Open {
        return Err(closed(plan));
    }
    if plan.expires_at <= audit::now() {
        let detail = format!("plan {} expired at {}; make it again", plan.id, plan.expires_at);
        return Err(Problem::new(StatusCode::GONE, "expired", detail));
    }
    Ok(())
}

fn closed(plan: &StoredPlan) -> Problem {
    let detail = format!("plan {} is not open any more; make it again", plan.id);
    Problem::new(StatusCode::CONFLICT, "closed", detail)
}

fn check_text(field: &str, text: &str) -> Result<(), Problem> {
    match text.len() > TEXT_BYTES_MAX || text.contains('\0') {
        true => Err(Problem::bad_request(format!(
            "{field}: longer than {TEXT_BYTES_MAX} bytes, or with a NUL character"
        ))),
        false => Ok(()),
    }
}

/// The nearest node that all of it is at or below.
fn common_node(steps: &[Step]) -> Option<Fqn> {
    let mut names = steps.iter().map(Step::name);
    let first = names.next()?;
    let rest: Vec<&Fqn> = names.collect();
    first
        .lineage()
        .find(|node| rest.iter().all(|name| name.is_within(node)))
}

fn told(plan: &StoredPlan) -> Vec<(String, Value)> {
    let votes: Vec<Value> = plan
        .votes
        .iter()
        .map(|vote| {
            json!({"voter": vote.voter, "approves": vote.approves, "comment": vote.comment, "time": vote.time})
        })
        .collect();
    [
        ("id", json!(plan.id)),
        ("node", json!(plan.node)),
        ("author", json!(plan.author)),
        ("description", json!(plan.description)),
        ("plan", json!(plan.plan.to_string())),
        ("state", json!(plan.state.as_str())),
        ("createTime", json!(plan.created_at)),
        ("expireTime", json!(plan.expires_at)),
        ("votes", votes.into()),
    ]
    .map(|(field, value)| (field.to_owned(), value))
    .into()
}

fn policy(required: &Required) -> Value {
    json!({"policy": required.policy, "node": required.node, "approver": required.approver})
}

fn too_many(author: &Fqn) -> Problem {
    let detail = format!(
        "{author} has {OPEN_PLANS_MAX} open plans already; apply those that are approved, or take some back \
         (`tombolo plan list`, `tombolo plan reject`)"
    );
    Problem::new(StatusCode::CONFLICT, "over-quota", detail)
}

fn record(caller: &Caller, verb: Verb, plan: &StoredPlan, comment: &str) -> Record {
    let comment = if comment.is_empty() {
        String::new()
    } else {
        format!(": {comment}")
    };
    Record {
        reason: format!("plan {} ({}){comment}", plan.id, plan.plan),
        ..caller.record(verb, plan.node.as_str())
    }
}
