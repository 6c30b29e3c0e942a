//! Bearer tokens, of which only the SHA-256 is stored, and keys of service accounts, of which only the public half is.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use sea_query::{Asterisk, Expr, ExprTrait, Func, Order, Query, UpdateStatement};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::{Store, StoreError, Tokens, Tx, execute, fetch};
use crate::account_key::PublicKey;
use crate::token::CredentialKind;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenRow {
    pub(crate) id: Uuid,
    pub(crate) user_uid: Uuid,
    pub(crate) description: String,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) expires_at: Option<DateTime<Utc>>,
    pub(crate) revoked_at: Option<DateTime<Utc>>,
    /// The token or key that asked for it.
    pub(crate) issued_by: Option<Uuid>,
    /// Of a key.
    pub(crate) public_key: Option<PublicKey>,
}

/// Whose token or key it is that somebody has in hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) token: Uuid,
    pub(crate) user_uid: Uuid,
    pub(crate) expires_at: Option<DateTime<Utc>>,
    pub(crate) revoked_at: Option<DateTime<Utc>>,
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
                Tokens::PublicKey,
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
                token.public_key.map(|key| key.bytes().to_vec()).into(),
            ])
            .to_owned();
        execute(tx, "store a token", &statement).await?;
        Ok(())
    }

    /// Asked for each request: a token that is revoked anywhere is refused everywhere at once.
    pub(crate) async fn find_token(&self, sha256: [u8; 32]) -> Result<Option<Holder>, StoreError> {
        let statement = Query::select()
            .expr(Expr::col(Asterisk))
            .from_function(Func::cust(ACT_BY_TOKEN).arg(sha256.to_vec()), Tokens::Table)
            .to_owned();
        let mut connection = self.connection().await?;
        let rows = fetch(&mut connection, "look up a token", &statement).await?;
        rows.first().map(holder).transpose()
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
        kind: CredentialKind,
        id: Uuid,
        revoked_at: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        let tokens = self.tokens_of(tx, user_uid).await?;
        if !tokens
            .iter()
            .any(|token| token.id == id && token.kind() == kind && token.revoked_at.is_none())
        {
            return Ok(false);
        }
        let mut revoked = BTreeSet::from([id]);
        let mut ahead = vec![id];
        while let Some(issuer) = ahead.pop() {
            let issued = tokens.iter().filter(|token| token.issued_by == Some(issuer));
            ahead.extend(issued.map(|token| token.id).filter(|id| revoked.insert(*id)));
        }
        let statement = revocation(user_uid, revoked_at)
            .and_where(Expr::col(Tokens::Id).is_in(revoked))
            .to_owned();
        execute(tx, "revoke a token", &statement).await?;
        Ok(true)
    }

    /// Of a token that its holder has just used.
    pub(crate) async fn is_unrevoked(&self, tx: &mut Tx, id: Uuid) -> Result<bool, StoreError> {
        let statement = Query::select()
            .column(Tokens::Id)
            .from(Tokens::Table)
            .and_where(Expr::col(Tokens::Id).eq(id))
            .and_where(Expr::col(Tokens::RevokedAt).is_null())
            .to_owned();
        let rows = fetch(tx, "look at a token", &statement).await?;
        Ok(!rows.is_empty())
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

/// Knows whose token it is, and makes the transaction that user's.
pub(super) const ACT_BY_TOKEN: &str = "act_by_token";

const COLUMNS: [Tokens; 8] = [
    Tokens::Id,
    Tokens::UserUid,
    Tokens::Description,
    Tokens::CreatedAt,
    Tokens::ExpiresAt,
    Tokens::RevokedAt,
    Tokens::IssuedBy,
    Tokens::PublicKey,
];

pub(super) fn holder(row: &PgRow) -> Result<Holder, StoreError> {
    let read = || -> Result<Holder, sqlx::Error> {
        Ok(Holder {
            token: row.try_get("token")?,
            user_uid: row.try_get("user_uid")?,
            expires_at: row.try_get("expires_at")?,
            revoked_at: row.try_get("revoked_at")?,
        })
    };
    read().map_err(|source| StoreError::Query {
        doing: "read a token's row",
        source,
    })
}

fn revocation(user_uid: Uuid, revoked_at: DateTime<Utc>) -> UpdateStatement {
    Query::update()
        .table(Tokens::Table)
        .value(Tokens::RevokedAt, revoked_at)
        .and_where(Expr::col(Tokens::UserUid).eq(user_uid))
        .and_where(Expr::col(Tokens::RevokedAt).is_null())
        .to_owned()
}

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
            public_key: row
                .try_get::<Option<&[u8]>, _>("public_key")?
                .and_then(PublicKey::from_bytes),
        })
    };
    read().map_err(|source| StoreError::Query {
        doing: "read a token's row",
        source,
    })
}
