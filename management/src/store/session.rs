//! Sessions and passwords, which only management itself reads. What somebody holds is stored as its SHA-256.

use chrono::{DateTime, Utc};
use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::{Store, StoreError, Tx, bounded};
use crate::login::session::Session;
use crate::token::MadeWith;

/// Sessions that have ended are listed, and kept, for as long.
const KEPT_DAYS: i32 = 30;

impl Store {
    /// Also forgets those of the user that ended long ago.
    pub(crate) async fn insert_session(
        &self,
        tx: &mut Tx,
        session: &Session,
        sha256: [u8; 32],
    ) -> Result<(), StoreError> {
        let forgetting = sqlx::query(
            "DELETE FROM sessions WHERE user_uid = $1 AND expires_at < now() - make_interval(days => $2)",
        )
        .bind(session.user_uid)
        .bind(KEPT_DAYS)
        .execute(&mut **tx);
        bounded("forget old sessions", forgetting).await?;
        let inserting = sqlx::query(
            "INSERT INTO sessions (id, organization, sha256, user_uid, method, groups, source, agent, created_at, \
             expires_at, issued_by) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        )
        .bind(session.id)
        .bind(self.organization.as_str())
        .bind(sha256.to_vec())
        .bind(session.user_uid)
        .bind(session.method.as_str())
        .bind(&session.groups)
        .bind(&session.source)
        .bind(&session.agent)
        .bind(session.created_at)
        .bind(session.expires_at)
        .bind(session.issued_by)
        .execute(&mut **tx);
        bounded("store a session", inserting).await?;
        Ok(())
    }

    /// Newest first.
    pub(crate) async fn sessions_of(&self, tx: &mut Tx, user_uid: Uuid) -> Result<Vec<Session>, StoreError> {
        let reading = sqlx::query(
            "SELECT id, user_uid, method, groups, source, agent, created_at, expires_at, revoked_at, \
             issued_by FROM sessions \
             WHERE user_uid = $1 AND organization = $2 ORDER BY id DESC",
        )
        .bind(user_uid)
        .bind(self.organization.as_str())
        .fetch_all(&mut **tx);
        let rows = bounded("list sessions", reading).await?;
        rows.iter().map(session).collect()
    }

    /// From where a user has logged in itself, as far as its sessions are kept. Where it has let a command line in, somebody
    /// may have talked it into that.
    pub(crate) async fn sources_of(&self, tx: &mut Tx, user_uid: Uuid) -> Result<Vec<String>, StoreError> {
        let reading = sqlx::query_scalar(
            "SELECT DISTINCT source FROM sessions WHERE user_uid = $1 AND organization = $2 AND method <> 'device'",
        )
        .bind(user_uid)
        .bind(self.organization.as_str())
        .fetch_all(&mut **tx);
        bounded("list from where a user has logged in", reading).await
    }

    /// What ended with it, if there was such a session that had not ended.
    pub(crate) async fn revoke_session(
        &self,
        tx: &mut Tx,
        user_uid: Uuid,
        id: Uuid,
        now: DateTime<Utc>,
    ) -> Result<Option<Vec<MadeWith>>, StoreError> {
        let revoking = sqlx::query(
            "UPDATE sessions SET revoked_at = $3 \
             WHERE user_uid = $1 AND id = $2 AND organization = $4 AND revoked_at IS NULL AND expires_at > $3",
        )
        .bind(user_uid)
        .bind(id)
        .bind(now)
        .bind(self.organization.as_str())
        .execute(&mut **tx);
        if bounded("revoke a session", revoking).await?.rows_affected() == 0 {
            return Ok(None);
        }
        self.revoke_made_with(tx, user_uid, &[id], None, now)
            .await
            .map(Some)
    }

    /// All of the user's but one, which the caller may be using. With what ended with them.
    pub(crate) async fn revoke_other_sessions(
        &self,
        tx: &mut Tx,
        user_uid: Uuid,
        kept: Uuid,
        now: DateTime<Utc>,
    ) -> Result<Vec<MadeWith>, StoreError> {
        let revoking = sqlx::query_scalar(
            "UPDATE sessions SET revoked_at = $3 \
             WHERE user_uid = $1 AND id <> $2 AND organization = $4 AND revoked_at IS NULL AND expires_at > $3 \
             RETURNING id",
        )
        .bind(user_uid)
        .bind(kept)
        .bind(now)
        .bind(self.organization.as_str())
        .fetch_all(&mut **tx);
        let revoked: Vec<Uuid> = bounded("revoke sessions", revoking).await?;
        let made = self
            .revoke_made_with(tx, user_uid, &revoked, Some(kept), now)
            .await?;
        let sessions = revoked.into_iter().map(|id| MadeWith {
            kind: "session".to_owned(),
            id,
        });
        Ok(sessions.chain(made).collect())
    }

    /// Until when a session lasts that has not ended.
    pub(crate) async fn session_end(
        &self,
        tx: &mut Tx,
        id: Uuid,
        now: DateTime<Utc>,
    ) -> Result<Option<DateTime<Utc>>, StoreError> {
        let reading = sqlx::query_scalar(
            "SELECT expires_at FROM sessions \
             WHERE id = $1 AND organization = $2 AND revoked_at IS NULL AND expires_at > $3",
        )
        .bind(id)
        .bind(self.organization.as_str())
        .bind(now)
        .fetch_optional(&mut **tx);
        bounded("look at a session", reading).await
    }

    /// Its hash, as a PHC string.
    pub(crate) async fn password_of(
        &self,
        tx: &mut Tx,
        user_uid: Uuid,
    ) -> Result<Option<String>, StoreError> {
        let reading =
            sqlx::query_scalar("SELECT hash FROM passwords WHERE user_uid = $1 AND organization = $2")
                .bind(user_uid)
                .bind(self.organization.as_str())
                .fetch_optional(&mut **tx);
        bounded("read a password", reading).await
    }

    pub(crate) async fn set_password(
        &self,
        tx: &mut Tx,
        user_uid: Uuid,
        hash: &str,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let setting = sqlx::query(
            "INSERT INTO passwords (user_uid, organization, hash, set_at) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (user_uid) DO UPDATE SET hash = excluded.hash, set_at = excluded.set_at",
        )
        .bind(user_uid)
        .bind(self.organization.as_str())
        .bind(hash)
        .bind(now)
        .execute(&mut **tx);
        bounded("store a password", setting).await?;
        Ok(())
    }
}

fn session(row: &PgRow) -> Result<Session, StoreError> {
    let read = || -> Result<Session, sqlx::Error> {
        let method: String = row.try_get("method")?;
        Ok(Session {
            id: row.try_get("id")?,
            user_uid: row.try_get("user_uid")?,
            method: method
                .parse()
                .map_err(|error| sqlx::Error::Decode(Box::new(error)))?,
            groups: row.try_get("groups")?,
            source: row.try_get("source")?,
            agent: row.try_get("agent")?,
            created_at: row.try_get("created_at")?,
            expires_at: row.try_get("expires_at")?,
            revoked_at: row.try_get("revoked_at")?,
            issued_by: row.try_get("issued_by")?,
        })
    };
    read().map_err(|source| StoreError::Query {
        doing: "read a session's row",
        source,
    })
}
