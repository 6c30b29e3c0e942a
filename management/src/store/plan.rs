//! Plans that wait for approval, and the votes on them.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sea_query::{Expr, ExprTrait, OnConflict, Order, Query, SelectStatement};
use serde_json::Value;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use tombolo_compiler::name::Fqn;
use uuid::Uuid;

use super::{PlanVotes, Plans, Store, StoreError, Tx, execute, fetch};
use crate::change_plan::PlanId;

/// Of one list; whoever has more open plans than this reads none of them.
const LISTED_MAX: u64 = 500;

/// A plan as it was submitted, with the votes on it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StoredPlan {
    pub(crate) id: Uuid,
    pub(crate) node: Fqn,
    pub(crate) author: Fqn,
    pub(crate) author_uid: Uuid,
    pub(crate) description: String,
    pub(crate) plan: PlanId,
    /// As they were sent.
    pub(crate) documents: Vec<Value>,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) expires_at: DateTime<Utc>,
    pub(crate) state: PlanState,
    pub(crate) votes: Vec<Vote>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PlanState {
    Open,
    Rejected,
    Applied,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Vote {
    pub(crate) voter: Fqn,
    pub(crate) voter_uid: Uuid,
    pub(crate) approves: bool,
    pub(crate) comment: String,
    pub(crate) time: DateTime<Utc>,
}

impl PlanState {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            PlanState::Open => "open",
            PlanState::Rejected => "rejected",
            PlanState::Applied => "applied",
        }
    }
}

impl Store {
    pub(crate) async fn insert_plan(&self, tx: &mut Tx, plan: &StoredPlan) -> Result<(), StoreError> {
        let statement = Query::insert()
            .into_table(Plans::Table)
            .columns(COLUMNS.into_iter().chain([Plans::Organization]))
            .values_panic([
                plan.id.into(),
                plan.node.as_str().into(),
                plan.author.as_str().into(),
                plan.author_uid.into(),
                plan.description.as_str().into(),
                plan.plan.to_string().into(),
                Value::from(plan.documents.clone()).into(),
                plan.created_at.into(),
                plan.expires_at.into(),
                plan.state.as_str().into(),
                self.organization.as_str().into(),
            ])
            .to_owned();
        execute(tx, "store a plan", &statement).await?;
        Ok(())
    }

    /// Of each voter the last vote counts.
    pub(crate) async fn insert_vote(
        &self,
        tx: &mut Tx,
        plan: &StoredPlan,
        vote: &Vote,
    ) -> Result<(), StoreError> {
        let statement = Query::insert()
            .into_table(PlanVotes::Table)
            .columns([
                PlanVotes::PlanId,
                PlanVotes::Organization,
                PlanVotes::Node,
                PlanVotes::Voter,
                PlanVotes::VoterUid,
                PlanVotes::Approves,
                PlanVotes::Comment,
                PlanVotes::Time,
            ])
            .values_panic([
                plan.id.into(),
                self.organization.as_str().into(),
                plan.node.as_str().into(),
                vote.voter.as_str().into(),
                vote.voter_uid.into(),
                vote.approves.into(),
                vote.comment.as_str().into(),
                vote.time.into(),
            ])
            .on_conflict(
                OnConflict::columns([PlanVotes::PlanId, PlanVotes::VoterUid])
                    .update_columns([PlanVotes::Approves, PlanVotes::Comment, PlanVotes::Time])
                    .to_owned(),
            )
            .to_owned();
        execute(tx, "store a vote", &statement).await?;
        Ok(())
    }

    /// Whether it was open.
    pub(crate) async fn move_plan(
        &self,
        tx: &mut Tx,
        id: Uuid,
        from: PlanState,
        to: PlanState,
    ) -> Result<bool, StoreError> {
        let statement = Query::update()
            .table(Plans::Table)
            .value(Plans::State, to.as_str())
            .and_where(Expr::col(Plans::Id).eq(id))
            .and_where(Expr::col(Plans::Organization).eq(self.organization.as_str()))
            .and_where(Expr::col(Plans::State).eq(from.as_str()))
            .to_owned();
        Ok(execute(tx, "move a plan", &statement).await? == 1)
    }

    pub(crate) async fn find_plan(
        &self,
        connection: &mut PgConnection,
        id: Uuid,
    ) -> Result<Option<StoredPlan>, StoreError> {
        let statement = self
            .select_plans()
            .and_where(Expr::col(Plans::Id).eq(id))
            .to_owned();
        Ok(self.plans_of(connection, &statement).await?.pop())
    }

    /// Those that wait, newest first.
    pub(crate) async fn open_plans(
        &self,
        connection: &mut PgConnection,
        now: DateTime<Utc>,
    ) -> Result<Vec<StoredPlan>, StoreError> {
        let statement = self
            .select_plans()
            .and_where(Expr::col(Plans::State).eq(PlanState::Open.as_str()))
            .and_where(Expr::col(Plans::ExpiresAt).gt(now))
            .order_by(Plans::Id, Order::Desc)
            .limit(LISTED_MAX)
            .to_owned();
        self.plans_of(connection, &statement).await
    }

    fn select_plans(&self) -> SelectStatement {
        Query::select()
            .columns(COLUMNS)
            .from(Plans::Table)
            .and_where(Expr::col(Plans::Organization).eq(self.organization.as_str()))
            .to_owned()
    }

    async fn plans_of(
        &self,
        connection: &mut PgConnection,
        statement: &SelectStatement,
    ) -> Result<Vec<StoredPlan>, StoreError> {
        let rows = fetch(connection, "read plans", statement).await?;
        let mut plans: Vec<StoredPlan> = rows.iter().map(plan).collect::<Result<_, _>>()?;
        let votes = Query::select()
            .columns([
                PlanVotes::PlanId,
                PlanVotes::Voter,
                PlanVotes::VoterUid,
                PlanVotes::Approves,
                PlanVotes::Comment,
                PlanVotes::Time,
            ])
            .from(PlanVotes::Table)
            .and_where(Expr::col(PlanVotes::Organization).eq(self.organization.as_str()))
            .and_where(Expr::col(PlanVotes::PlanId).is_in(plans.iter().map(|plan| plan.id)))
            .order_by(PlanVotes::Time, Order::Asc)
            .to_owned();
        let rows = fetch(connection, "read the votes on plans", &votes).await?;
        let mut votes: BTreeMap<Uuid, Vec<Vote>> = BTreeMap::new();
        for row in &rows {
            votes.entry(column(row, "plan_id")?).or_default().push(vote(row)?);
        }
        for plan in &mut plans {
            plan.votes = votes.remove(&plan.id).unwrap_or_default();
        }
        Ok(plans)
    }
}

const COLUMNS: [Plans; 10] = [
    Plans::Id,
    Plans::Node,
    Plans::Author,
    Plans::AuthorUid,
    Plans::Description,
    Plans::Plan,
    Plans::Documents,
    Plans::CreatedAt,
    Plans::ExpiresAt,
    Plans::State,
];

fn plan(row: &PgRow) -> Result<StoredPlan, StoreError> {
    let id: Uuid = column(row, "id")?;
    let corrupt = |reason: String| StoreError::Corrupt {
        table: "plans",
        name: id.to_string(),
        reason,
    };
    let name = |field| -> Result<Fqn, StoreError> {
        let text: String = column(row, field)?;
        text.parse().map_err(|error| corrupt(format!("{error}")))
    };
    let text: String = column(row, "plan")?;
    let state: String = column(row, "state")?;
    let Value::Array(documents) = column(row, "documents")? else {
        return Err(corrupt("its documents are no list".to_owned()));
    };
    Ok(StoredPlan {
        id,
        node: name("node")?,
        author: name("author")?,
        author_uid: column(row, "author_uid")?,
        description: column(row, "description")?,
        plan: text.parse().map_err(|error| corrupt(format!("{error}")))?,
        documents,
        created_at: column(row, "created_at")?,
        expires_at: column(row, "expires_at")?,
        state: match state.as_str() {
            "open" => PlanState::Open,
            "rejected" => PlanState::Rejected,
            _ => PlanState::Applied,
        },
        votes: Vec::new(),
    })
}

fn vote(row: &PgRow) -> Result<Vote, StoreError> {
    let voter: String = column(row, "voter")?;
    Ok(Vote {
        voter: voter.parse().map_err(|error| StoreError::Corrupt {
            table: "plan_votes",
            name: voter.clone(),
            reason: format!("{error}"),
        })?,
        voter_uid: column(row, "voter_uid")?,
        approves: column(row, "approves")?,
        comment: column(row, "comment")?,
        time: column(row, "time")?,
    })
}

fn column<'r, T>(row: &'r PgRow, name: &'static str) -> Result<T, StoreError>
where
    T: sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    row.try_get(name).map_err(|source| StoreError::Query {
        doing: "read a plan's row",
        source,
    })
}
