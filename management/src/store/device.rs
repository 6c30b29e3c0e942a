//! Command lines that wait for somebody to let them in. Only management itself reads them, and their codes are stored
//! as their SHA-256.

use chrono::{DateTime, Utc};
use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::{Store, StoreError, Tx, bounded};
use crate::login::device::{Device, DeviceState, Grant};

const COLUMNS: &str = "source, agent, expires_at, interval_s, polled_at, state, user_uid, groups, granted_by";

/// As what a row is found.
#[derive(Clone, Copy, Debug)]
pub(crate) enum DeviceKey {
    /// The command line's own.
    Device([u8; 32]),
    /// The person's.
    User([u8; 32]),
}

impl Store {
    /// Also forgets those that nobody has let in.
    pub(crate) async fn insert_device(
        &self,
        tx: &mut Tx,
        device: &Device,
        device_sha256: [u8; 32],
        user_code_sha256: [u8; 32],
    ) -> Result<(), StoreError> {
        let forgetting = sqlx::query("DELETE FROM device_codes WHERE expires_at < now()").execute(&mut **tx);
        bounded("forget old command lines", forgetting).await?;
        let inserting = sqlx::query(
            "INSERT INTO device_codes (device_sha256, organization, user_code_sha256, source, agent, expires_at, \
             interval_s, state) VALUES ($1, $2, $3, $4, $5, $6, $7, 'waiting')",
        )
        .bind(device_sha256.to_vec())
        .bind(self.organization.as_str())
        .bind(user_code_sha256.to_vec())
        .bind(&device.source)
        .bind(&device.agent)
        .bind(device.expires_at)
        .bind(device.interval_s)
        .execute(&mut **tx);
        bounded("store a command line", inserting).await?;
        Ok(())
    }

    pub(crate) async fn find_device(
        &self,
        tx: &mut Tx,
        key: DeviceKey,
    ) -> Result<Option<Device>, StoreError> {
        let (column, sha256) = match key {
            DeviceKey::Device(sha256) => ("device_sha256", sha256),
            DeviceKey::User(sha256) => ("user_code_sha256", sha256),
        };
        let sql = format!("SELECT {COLUMNS} FROM device_codes WHERE {column} = $1 AND organization = $2");
        let reading = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(sha256.to_vec())
            .bind(self.organization.as_str())
            .fetch_optional(&mut **tx);
        let row = bounded("look up a command line", reading).await?;
        row.as_ref().map(device).transpose()
    }

    pub(crate) async fn set_polled(
        &self,
        tx: &mut Tx,
        device_sha256: [u8; 32],
        interval_s: i32,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let setting =
            sqlx::query("UPDATE device_codes SET polled_at = $2, interval_s = $3 WHERE device_sha256 = $1")
                .bind(device_sha256.to_vec())
                .bind(now)
                .bind(interval_s)
                .execute(&mut **tx);
        bounded("remember that a command line has asked", setting).await?;
        Ok(())
    }

    /// Whether it was still waiting, and the session that lets it in holds: of two who decide, one has. For a transaction
    /// that holds the head, which whoever revokes a session takes first.
    pub(crate) async fn decide_device(
        &self,
        tx: &mut Tx,
        user_code_sha256: [u8; 32],
        grant: Option<&Grant>,
        now: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        let state = if grant.is_some() { "granted" } else { "denied" };
        let setting = sqlx::query(
            "UPDATE device_codes SET state = $2, user_uid = $3, groups = $4, granted_by = $5 \
             WHERE user_code_sha256 = $1 AND state = 'waiting' AND expires_at > $6 \
             AND ($5 IS NULL OR EXISTS (SELECT FROM sessions WHERE id = $5 AND revoked_at IS NULL AND expires_at > $6))",
        )
        .bind(user_code_sha256.to_vec())
        .bind(state)
        .bind(grant.map(|grant| grant.user_uid))
        .bind(grant.map(|grant| grant.groups.as_slice()))
        .bind(grant.map(|grant| grant.session))
        .bind(now)
        .execute(&mut **tx);
        let done = bounded("decide about a command line", setting).await?;
        Ok(done.rows_affected() == 1)
    }

    /// Whether it was there: of two that take it, one has.
    pub(crate) async fn take_device(&self, tx: &mut Tx, device_sha256: [u8; 32]) -> Result<bool, StoreError> {
        let deleting = sqlx::query("DELETE FROM device_codes WHERE device_sha256 = $1")
            .bind(device_sha256.to_vec())
            .execute(&mut **tx);
        Ok(bounded("take a command line", deleting).await?.rows_affected() == 1)
    }
}

fn device(row: &PgRow) -> Result<Device, StoreError> {
    let read = || -> Result<Device, sqlx::Error> {
        let state: String = row.try_get("state")?;
        let user_uid: Option<Uuid> = row.try_get("user_uid")?;
        let groups: Option<Vec<String>> = row.try_get("groups")?;
        let granted_by: Option<Uuid> = row.try_get("granted_by")?;
        Ok(Device {
            source: row.try_get("source")?,
            agent: row.try_get("agent")?,
            expires_at: row.try_get("expires_at")?,
            interval_s: row.try_get("interval_s")?,
            polled_at: row.try_get("polled_at")?,
            state: match (state.as_str(), user_uid, groups, granted_by) {
                ("waiting", ..) => DeviceState::Waiting,
                ("granted", Some(user_uid), Some(groups), Some(session)) => DeviceState::Granted(Grant {
                    user_uid,
                    groups,
                    session,
                }),
                _ => DeviceState::Denied,
            },
        })
    };
    read().map_err(|source| StoreError::Query {
        doing: "read a command line's row",
        source,
    })
}
