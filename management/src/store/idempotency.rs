//! What writes with an idempotency key were answered.

use chrono::{DateTime, Utc};
use sea_query::{Expr, ExprTrait, Query};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};

use super::{IdempotencyKeys, Store, StoreError, Tx, commit, execute, fetch};
use crate::audit::now;
use crate::caller::Caller;
use crate::iam::Principal;
use crate::idempotency::Kept;
use crate::reply::Answer;

/// Of one statement that drops answers, so that it ends well before its timeout.
const PRUNED_MAX: u64 = 1000;

impl Store {
    /// What was stored under the key of the caller's request, if it has one. Who holds the head's lock and finds nothing may
    /// store.
    pub(crate) async fn kept_answer(
        &self,
        connection: &mut PgConnection,
        caller: &Caller,
    ) -> Result<Option<Kept>, StoreError> {
        let (Some(keyed), Some(uid)) = (&caller.keyed, caller.principal.uid()) else {
            return Ok(None);
        };
        let statement = Query::select()
            .columns([
                IdempotencyKeys::Request,
                IdempotencyKeys::Status,
                IdempotencyKeys::Location,
                IdempotencyKeys::Etag,
                IdempotencyKeys::Body,
            ])
            .from(IdempotencyKeys::Table)
            .and_where(Expr::col(IdempotencyKeys::Organization).eq(self.organization.as_str()))
            .and_where(Expr::col(IdempotencyKeys::Principal).eq(uid))
            .and_where(Expr::col(IdempotencyKeys::Key).eq(keyed.key.as_str()))
            .to_owned();
        let rows = fetch(connection, "look up an idempotency key", &statement).await?;
        rows.first().map(kept).transpose()
    }

    /// Stores what the caller is answered, if its request has a key.
    pub(crate) async fn keep_answer(
        &self,
        tx: &mut Tx,
        caller: &Caller,
        answer: &Answer,
    ) -> Result<(), StoreError> {
        let (Some(keyed), Some(uid)) = (&caller.keyed, caller.principal.uid()) else {
            return Ok(());
        };
        let statement = Query::insert()
            .into_table(IdempotencyKeys::Table)
            .columns([
                IdempotencyKeys::Organization,
                IdempotencyKeys::Principal,
                IdempotencyKeys::Key,
                IdempotencyKeys::Request,
                IdempotencyKeys::Status,
                IdempotencyKeys::Location,
                IdempotencyKeys::Etag,
                IdempotencyKeys::Body,
                IdempotencyKeys::CreatedAt,
            ])
            .values_panic([
                self.organization.as_str().into(),
                uid.into(),
                keyed.key.as_str().into(),
                keyed.request.to_vec().into(),
                answer.status.cast_signed().into(),
                answer.location.clone().into(),
                answer.etag.clone().into(),
                answer.body.clone().into(),
                now().into(),
            ])
            .to_owned();
        execute(tx, "store an idempotency key", &statement).await?;
        Ok(())
    }

    /// Drops some of those from before `time`; whether there may be more.
    pub(crate) async fn prune_answers(&self, time: DateTime<Utc>) -> Result<bool, StoreError> {
        let columns = [
            IdempotencyKeys::Organization,
            IdempotencyKeys::Principal,
            IdempotencyKeys::Key,
        ];
        let old = Query::select()
            .columns(columns)
            .from(IdempotencyKeys::Table)
            .and_where(Expr::col(IdempotencyKeys::Organization).eq(self.organization.as_str()))
            .and_where(Expr::col(IdempotencyKeys::CreatedAt).lt(time))
            .limit(PRUNED_MAX)
            .to_owned();
        let statement = Query::delete()
            .from_table(IdempotencyKeys::Table)
            .and_where(Expr::tuple(columns.map(Expr::col)).in_subquery(old))
            .to_owned();
        let mut tx = self.begin_as(&Principal::System).await?;
        let dropped = execute(&mut tx, "drop old idempotency keys", &statement).await?;
        commit(tx).await?;
        Ok(dropped == PRUNED_MAX)
    }
}

fn kept(row: &PgRow) -> Result<Kept, StoreError> {
    let read = || -> Result<Kept, sqlx::Error> {
        Ok(Kept {
            request: row.try_get("request")?,
            answer: Answer {
                status: row.try_get::<i16, _>("status")?.cast_unsigned(),
                location: row.try_get("location")?,
                etag: row.try_get("etag")?,
                body: row.try_get("body")?,
                is_replayed: true,
            },
        })
    };
    read().map_err(|source| StoreError::Query {
        doing: "read the row of an idempotency key",
        source,
    })
}
