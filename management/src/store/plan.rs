//! Plans that wait for approval, and the votes on them.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sea_query::{Cond, Expr, ExprTrait, OnConflict, Order, Query, SelectStatement};
use serde_json::Value;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use tombolo_compiler::name::Fqn;
use uuid::Uuid;

use super::{PlanVotes, Plans, Store, StoreError, Tx, execute, fetch};
use crate::change_plan::PlanId;
use crate::managed::{Hand, Manager};

/// A plan as it was submitted, without its documents, with the votes on it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StoredPlan {
    pub(crate) id: Uuid,
    pub(crate) node: Fqn,
    pub(crate) author: Fqn,
    pub(crate) author_uid: Uuid,
    pub(crate) description: String,
    pub(crate) plan: PlanId,
    /// As whom it was planned, and is to be applied.
    pub(crate) hand: Hand,
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
    /// With its documents as they were sent.
    pub(crate) async fn insert_plan(
        &self,
        tx: &mut Tx,
        plan: &StoredPlan,
        documents: &[Value],
    ) -> Result<(), StoreError> {
        let manager = plan.hand.manager.as_ref();
        let statement = Query::insert()
            .into_table(Plans::Table)
            .columns(COLUMNS.into_iter().chain([Plans::Documents, Plans::Organization]))
            .values_panic([
                plan.id.into(),
                plan.node.as_str().into(),
                plan.author.as_str().into(),
                plan.author_uid.into(),
                plan.description.as_str().into(),
                plan.plan.to_string().into(),
                plan.created_at.into(),
                plan.expires_at.into(),
                plan.state.as_str().into(),
                manager.map(|manager| manager.as_str().to_owned()).into(),
                plan.hand.force.into(),
                Value::from(documents.to_vec()).into(),
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

    /// What it was made of, as that was sent.
    pub(crate) async fn plan_documents(
        &self,
        connection: &mut PgConnection,
        id: Uuid,
    ) -> Result<Vec<Value>, StoreError> {
        let statement = Query::select()
            .column(Plans::Documents)
            .from(Plans::Table)
            .and_where(Expr::col(Plans::Organization).eq(self.organization.as_str()))
            .and_where(Expr::col(Plans::Id).eq(id))
            .to_owned();
        let rows = fetch(connection, "read the documents of a plan", &statement).await?;
        match rows.first().map(|row| column(row, "documents")).transpose()? {
            Some(Value::Array(documents)) => Ok(documents),
            _ => Err(StoreError::Corrupt {
                table: "plans",
                name: id.to_string(),
                reason: "its documents are no list".to_owned(),
            }),
        }
    }

    /// Those that wait, newest first, from behind that one on.
    pub(crate) async fn open_plans(
        &self,
        connection: &mut PgConnection,
        now: DateTime<Utc>,
        behind: Option<Uuid>,
        limit: u64,
    ) -> Result<Vec<StoredPlan>, StoreError> {
        let mut statement = self.select_plans();
        statement
            .cond_where(is_open(now))
            .order_by(Plans::Id, Order::Desc)
            .limit(limit);
        if let Some(behind) = behind {
            statement.and_where(Expr::col(Plans::Id).lt(behind));
        }
        self.plans_of(connection, &statement).await
    }

    /// How many of an author's plans wait.
    pub(crate) async fn count_open_plans(
        &self,
        connection: &mut PgConnection,
        author: Uuid,
        now: DateTime<Utc>,
    ) -> Result<u64, StoreError> {
        let statement = Query::select()
            .expr(Expr::col(Plans::Id).count())
            .from(Plans::Table)
            .and_where(Expr::col(Plans::Organization).eq(self.organization.as_str()))
            .and_where(Expr::col(Plans::AuthorUid).eq(author))
            .cond_where(is_open(now))
            .to_owned();
        let rows = fetch(connection, "count the open plans of a user", &statement).await?;
        let count: Option<i64> = rows.first().map(|row| column(row, "count")).transpose()?;
        Ok(count.unwrap_or_default().cast_unsigned())
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

const COLUMNS: [Plans; 11] = [
    Plans::Id,
    Plans::Node,
    Plans::Author,
    Plans::AuthorUid,
    Plans::Description,
    Plans::Plan,
    Plans::CreatedAt,
    Plans::ExpiresAt,
    Plans::State,
    Plans::Manager,
    Plans::Force,
];

fn is_open(now: DateTime<Utc>) -> Cond {
    Cond::all()
        .add(Expr::col(Plans::State).eq(PlanState::Open.as_str()))
        .add(Expr::col(Plans::ExpiresAt).gt(now))
}

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
    let manager: Option<String> = column(row, "manager")?;
    let manager = manager.map(|manager| Manager::parse(&manager)).transpose();
    Ok(StoredPlan {
        id,
        node: name("node")?,
        author: name("author")?,
        author_uid: column(row, "author_uid")?,
        description: column(row, "description")?,
        plan: text.parse().map_err(|error| corrupt(format!("{error}")))?,
        hand: Hand {
            manager: manager.map_err(|error| corrupt(error.to_string()))?,
            force: column(row, "force")?,
        },
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
