//! Bearer tokens. Only their SHA-256 is stored.

use chrono::{DateTime, Utc};
use sea_query::{Asterisk, Expr, ExprTrait, Func, Order, Query};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::{Store, StoreError, Tokens, Tx, execute, fetch};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenRow {
    pub(crate) id: Uuid,
    pub(crate) user_uid: Uuid,
    pub(crate) description: String,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) expires_at: Option<DateTime<Utc>>,
    pub(crate) revoked_at: Option<DateTime<Utc>>,
}

/// Whose token or session it is that somebody has in hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) held: Held,
    pub(crate) user_uid: Uuid,
    pub(crate) expires_at: Option<DateTime<Utc>>,
    pub(crate) revoked_at: Option<DateTime<Utc>>,
}

/// What a caller identifies itself with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    Token(Uuid),
    /// With the groups that the provider named at its login.
    Session(Uuid, Vec<String>),
}

impl Held {
    pub(crate) fn id(&self) -> Uuid {
        match self {
            Held::Token(id) | Held::Session(id, _) => *id,
        }
    }
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
            ])
            .values_panic([
                token.id.into(),
                self.organization.as_str().into(),
                sha256.to_vec().into(),
                token.user_uid.into(),
                token.description.as_str().into(),
                token.created_at.into(),
                token.expires_at.into(),
            ])
            .to_owned();
        execute(tx, "store a token", &statement).await?;
        Ok(())
    }

    /// Asked for each request: what is revoked anywhere is refused everywhere at once.
    pub(crate) async fn find_credential(&self, sha256: [u8; 32]) -> Result<Option<Holder>, StoreError> {
        let statement = Query::select()
            .expr(Expr::col(Asterisk))
            .from_function(Func::cust(ACT_BY_CREDENTIAL).arg(sha256.to_vec()), Tokens::Table)
            .to_owned();
        let mut connection = self.connection().await?;
        let rows = fetch(&mut connection, "look up a credential", &statement).await?;
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

    /// Whether there was such a token that was not revoked yet.
    pub(crate) async fn revoke_token(
        &self,
        tx: &mut Tx,
        user_uid: Uuid,
        id: Uuid,
        revoked_at: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        let statement = Query::update()
            .table(Tokens::Table)
            .value(Tokens::RevokedAt, revoked_at)
            .and_where(Expr::col(Tokens::Id).eq(id))
            .and_where(Expr::col(Tokens::UserUid).eq(user_uid))
            .and_where(Expr::col(Tokens::RevokedAt).is_null())
            .to_owned();
        Ok(execute(tx, "revoke a token", &statement).await? == 1)
    }
}

/// Knows whose token or session it is, and makes the transaction that user's.
pub(super) const ACT_BY_CREDENTIAL: &str = "act_by_credential";

const COLUMNS: [Tokens; 6] = [
    Tokens::Id,
    Tokens::UserUid,
    Tokens::Description,
    Tokens::CreatedAt,
    Tokens::ExpiresAt,
    Tokens::RevokedAt,
];

pub(super) fn holder(row: &PgRow) -> Result<Holder, StoreError> {
    let read = || -> Result<Holder, sqlx::Error> {
        let id = row.try_get("credential")?;
        let groups: Option<Vec<String>> = row.try_get("groups")?;
        Ok(Holder {
            held: match groups {
                None => Held::Token(id),
                Some(groups) => Held::Session(id, groups),
            },
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

fn token(row: &PgRow) -> Result<TokenRow, StoreError> {
    let read = || -> Result<TokenRow, sqlx::Error> {
        Ok(TokenRow {
            id: row.try_get("id")?,
            user_uid: row.try_get("user_uid")?,
            description: row.try_get("description")?,
            created_at: row.try_get("created_at")?,
            expires_at: row.try_get("expires_at")?,
            revoked_at: row.try_get("revoked_at")?,
        })
    };
    read().map_err(|source| StoreError::Query {
        doing: "read a token's row",
        source,
    })
}
