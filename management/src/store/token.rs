//! Bearer tokens. Only their SHA-256 is stored.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use sea_query::{Expr, ExprTrait, Order, Query, UpdateStatement};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::{Store, StoreError, Tokens, Tx, classify, execute, fetch};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenRow {
    pub(crate) id: Uuid,
    pub(crate) user_uid: Uuid,
    pub(crate) description: String,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) expires_at: Option<DateTime<Utc>>,
    pub(crate) revoked_at: Option<DateTime<Utc>>,
    /// The token that asked for it.
    pub(crate) issued_by: Option<Uuid>,
}

impl Store {
    pub(crate) async fn insert_token(
        &self,
        tx: &mut Tx,
        token: &TokenRow,
        sha256: [u8; 32],
    ) -> Result<(), StoreError> {
        let statement = Query::insert()
            .into_table(Tokens::Table)
            .columns([
                Tokens::Id,
                Tokens::Organization,
                Tokens::Sha256,
                Tokens::UserUid,
                Tokens::Description,
                Tokens::CreatedAt,
                Tokens::ExpiresAt,
                Tokens::IssuedBy,
            ])
            .values_panic([
                token.id.into(),
                self.organization.as_str().into(),
                sha256.to_vec().into(),
                token.user_uid.into(),
                token.description.as_str().into(),
                token.created_at.into(),
                token.expires_at.into(),
                token.issued_by.into(),
            ])
            .to_owned();
        execute(tx, "store a token", &statement).await?;
        Ok(())
    }

    /// Asked for each request: a token that is revoked anywhere is refused everywhere at once.
    pub(crate) async fn find_token(&self, sha256: [u8; 32]) -> Result<Option<TokenRow>, StoreError> {
        let statement = Query::select()
            .columns(COLUMNS)
            .from(Tokens::Table)
            .and_where(Expr::col(Tokens::Sha256).eq(sha256.to_vec()))
            .and_where(Expr::col(Tokens::Organization).eq(self.organization.as_str()))
            .to_owned();
        let mut connection = self
            .pool
            .acquire()
            .await
            .map_err(|source| classify("connect", source))?;
        let rows = fetch(&mut connection, "look up a token", &statement).await?;
        rows.first().map(token).transpose()
    }

    pub(crate) async fn tokens_of(
        &self,
        connection: &mut PgConnection,
        user_uid: Uuid,
    ) -> Result<Vec<TokenRow>, StoreError> {
        let statement = Query::select()
            .columns(COLUMNS)
            .from(Tokens::Table)
            .and_where(Expr::col(Tokens::UserUid).eq(user_uid))
            .order_by(Tokens::Id, Order::Asc)
            .to_owned();
        let rows = fetch(connection, "list tokens", &statement).await?;
        rows.iter().map(token).collect()
    }

    /// Whether there was such a token that was not revoked yet. With it go those that its user had issued to itself
    /// with it, so that whoever stole it keeps none.
    pub(crate) async fn revoke_token(
        &self,
        tx: &mut Tx,
        user_uid: Uuid,
        id: Uuid,
        revoked_at: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        let tokens = self.tokens_of(tx, user_uid).await?;
        if !tokens
            .iter()
            .any(|token| token.id == id && token.revoked_at.is_none())
        {
            return Ok(false);
        }
        // In the order of their ids, which is the order in which they were issued.
        let mut revoked = BTreeSet::from([id]);
        for token in &tokens {
            if token.issued_by.is_some_and(|issuer| revoked.contains(&issuer)) {
                revoked.insert(token.id);
            }
        }
        let statement = revocation(user_uid, revoked_at)
            .and_where(Expr::col(Tokens::Id).is_in(revoked))
            .to_owned();
        execute(tx, "revoke a token", &statement).await?;
        Ok(true)
    }

    /// All of somebody who is deleted.
    pub(crate) async fn revoke_tokens_of(
        &self,
        tx: &mut Tx,
        user_uid: Uuid,
        revoked_at: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        execute(tx, "revoke tokens", &revocation(user_uid, revoked_at)).await?;
        Ok(())
    }
}

fn revocation(user_uid: Uuid, revoked_at: DateTime<Utc>) -> UpdateStatement {
    Query::update()
        .table(Tokens::Table)
        .value(Tokens::RevokedAt, revoked_at)
        .and_where(Expr::col(Tokens::UserUid).eq(user_uid))
        .and_where(Expr::col(Tokens::RevokedAt).is_null())
        .to_owned()
}

const COLUMNS: [Tokens; 7] = [
    Tokens::Id,
    Tokens::UserUid,
    Tokens::Description,
    Tokens::CreatedAt,
    Tokens::ExpiresAt,
    Tokens::RevokedAt,
    Tokens::IssuedBy,
];

fn token(row: &PgRow) -> Result<TokenRow, StoreError> {
    let read = || -> Result<TokenRow, sqlx::Error> {
        Ok(TokenRow {
            id: row.try_get("id")?,
            user_uid: row.try_get("user_uid")?,
            description: row.try_get("description")?,
            created_at: row.try_get("created_at")?,
            expires_at: row.try_get("expires_at")?,
            revoked_at: row.try_get("revoked_at")?,
            issued_by: row.try_get("issued_by")?,
        })
    };
    read().map_err(|source| StoreError::Query {
        doing: "read a token's row",
        source,
    })
}
