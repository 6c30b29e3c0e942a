//! Bearer tokens, of which only the SHA-256 is stored, and keys of service accounts, of which only the public half is.

use chrono::{DateTime, Utc};
use sea_query::{Expr, ExprTrait, Order, Query, UpdateStatement};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use tombolo_proto::held::Version;
use uuid::Uuid;

use super::{Store, StoreError, Tokens, Tx, bounded, execute, fetch};
use crate::account_key::PublicKey;
use crate::account_key::assertion::Assertion;
use crate::realm::Opened;
use crate::token::{CredentialKind, MadeWith};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenRow {
    pub(crate) id: Uuid,
    pub(crate) user_uid: Uuid,
    pub(crate) description: String,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) expires_at: Option<DateTime<Utc>>,
    pub(crate) revoked_at: Option<DateTime<Utc>>,
    /// The token, key or session that asked for it.
    pub(crate) issued_by: Option<Uuid>,
    /// Of a key.
    pub(crate) public_key: Option<PublicKey>,
}

/// Whose token, key or session it is that somebody has in hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) held: Held,
    pub(crate) user_uid: Uuid,
    pub(crate) expires_at: Option<DateTime<Utc>>,
    pub(crate) revoked_at: Option<DateTime<Utc>>,
    /// What was committed when this was looked up.
    pub(crate) seen: Version,
    pub(crate) opened: Opened,
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

    /// What ended with it, if there was such a token that was not revoked yet.
    pub(crate) async fn revoke_token(
        &self,
        tx: &mut Tx,
        user_uid: Uuid,
        kind: CredentialKind,
        id: Uuid,
        revoked_at: DateTime<Utc>,
    ) -> Result<Option<Vec<MadeWith>>, StoreError> {
        let of_that_kind = match kind {
            CredentialKind::Token => Expr::col(Tokens::PublicKey).is_null(),
            CredentialKind::Key => Expr::col(Tokens::PublicKey).is_not_null(),
        };
        let statement = revocation(user_uid, revoked_at)
            .and_where(Expr::col(Tokens::Id).eq(id))
            .and_where(of_that_kind)
            .to_owned();
        if execute(tx, "revoke a token", &statement).await? == 0 {
            return Ok(None);
        }
        self.revoke_made_with(tx, user_uid, &[id], None, revoked_at)
            .await
            .map(Some)
    }

    /// Ends what the holder of these, which are revoked, has made for itself with them, but for one that the caller is
    /// using.
    pub(crate) async fn revoke_made_with(
        &self,
        tx: &mut Tx,
        holder: Uuid,
        revoked: &[Uuid],
        kept: Option<Uuid>,
        revoked_at: DateTime<Utc>,
    ) -> Result<Vec<MadeWith>, StoreError> {
        let doing = "revoke what was made with a credential";
        let revoking = sqlx::query("SELECT kind, made FROM revoke_made_with($1, $2, $3, $4)")
            .bind(holder)
            .bind(revoked)
            .bind(kept)
            .bind(revoked_at)
            .fetch_all(&mut **tx);
        let rows = bounded(doing, revoking).await?;
        let read = |row: &PgRow| {
            Ok(MadeWith {
                kind: row.try_get("kind")?,
                id: row.try_get("made")?,
            })
        };
        let made: Result<Vec<MadeWith>, sqlx::Error> = rows.iter().map(read).collect();
        made.map_err(|source| StoreError::Query { doing, source })
    }

    /// Of a token or session that its holder has just used.
    pub(crate) async fn is_unrevoked(&self, tx: &mut Tx, id: Uuid) -> Result<bool, StoreError> {
        let asking = sqlx::query_scalar("SELECT is_unrevoked($1)")
            .bind(id)
            .fetch_one(&mut **tx);
        bounded("look at a token or session", asking).await
    }

    /// Which of these tokens and sessions hold no more, because somebody revoked them.
    pub(crate) async fn revoked_among(&self, ids: &[Uuid]) -> Result<Vec<Uuid>, StoreError> {
        let mut connection = self.connection().await?;
        let asking = sqlx::query_scalar("SELECT id FROM unnest($1::uuid[]) id WHERE NOT is_unrevoked(id)")
            .bind(ids)
            .fetch_all(&mut *connection);
        bounded("look which tokens and sessions are revoked", asking).await
    }

    /// Whether it was not used before, on any replica.
    pub(crate) async fn spend_assertion(&self, assertion: &Assertion) -> Result<bool, StoreError> {
        let mut connection = self.connection().await?;
        let spending = sqlx::query_scalar("SELECT spend_assertion($1, $2)")
            .bind(assertion.sha256.to_vec())
            .bind(assertion.expires_at)
            .fetch_one(&mut *connection);
        bounded("remember that an assertion was used", spending).await
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

/// What [`holder`] reads of a row of `look_up`.
pub(super) const HOLDER: &str =
    "credential, user_uid, expires_at, revoked_at, groups, seen_epoch, seen_revision, realms";

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
            seen: Version {
                epoch: row.try_get("seen_epoch").map(i64::cast_unsigned)?,
                revision: row.try_get("seen_revision").map(i64::cast_unsigned)?,
            },
            opened: Opened::of(row.try_get("realms")?),
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
