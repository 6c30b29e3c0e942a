//! Logins that are under way at the provider, and who its people are here. Only management itself reads them.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Store, StoreError, Tx, bounded};

impl Store {
    /// Also forgets those that nobody has finished.
    pub(crate) async fn insert_attempt(
        &self,
        tx: &mut Tx,
        state_sha256: [u8; 32],
        return_to: &str,
        expires_at: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let forgetting =
            sqlx::query("DELETE FROM login_attempts WHERE expires_at < now()").execute(&mut **tx);
        bounded("forget old logins", forgetting).await?;
        let inserting = sqlx::query(
            "INSERT INTO login_attempts (state_sha256, organization, return_to, expires_at) VALUES ($1, $2, $3, $4)",
        )
        .bind(state_sha256.to_vec())
        .bind(self.organization.as_str())
        .bind(return_to)
        .bind(expires_at)
        .execute(&mut **tx);
        bounded("begin a login", inserting).await?;
        Ok(())
    }

    /// Where it goes on, once: whoever comes second finds nothing.
    pub(crate) async fn take_attempt(
        &self,
        tx: &mut Tx,
        state_sha256: [u8; 32],
        now: DateTime<Utc>,
    ) -> Result<Option<String>, StoreError> {
        let taking = sqlx::query_scalar(
            "DELETE FROM login_attempts WHERE state_sha256 = $1 AND organization = $2 AND expires_at > $3 \
             RETURNING return_to",
        )
        .bind(state_sha256.to_vec())
        .bind(self.organization.as_str())
        .bind(now)
        .fetch_optional(&mut **tx);
        bounded("finish a login", taking).await
    }

    pub(crate) async fn identity(
        &self,
        tx: &mut Tx,
        issuer: &str,
        subject: &str,
    ) -> Result<Option<Uuid>, StoreError> {
        let reading = sqlx::query_scalar(
            "SELECT user_uid FROM identities WHERE organization = $1 AND issuer = $2 AND subject = $3",
        )
        .bind(self.organization.as_str())
        .bind(issuer)
        .bind(subject)
        .fetch_optional(&mut **tx);
        bounded("look up a person of the provider", reading).await
    }

    pub(crate) async fn set_identity(
        &self,
        tx: &mut Tx,
        issuer: &str,
        subject: &str,
        user_uid: Uuid,
    ) -> Result<(), StoreError> {
        let setting = sqlx::query(
            "INSERT INTO identities (organization, issuer, subject, user_uid) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (organization, issuer, subject) DO UPDATE SET user_uid = excluded.user_uid",
        )
        .bind(self.organization.as_str())
        .bind(issuer)
        .bind(subject)
        .bind(user_uid)
        .execute(&mut **tx);
        bounded("remember a person of the provider", setting).await?;
        Ok(())
    }
}
