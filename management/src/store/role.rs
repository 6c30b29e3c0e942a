//! The roles behind which row-level security holds. They belong to the whole server, not to one database, so that
//! replicas and other organizations may be making them at the same time.

use sqlx::{AssertSqlSafe, PgConnection, Row};

use super::{StoreError, bounded};
use crate::iam::Principal;

/// Works for one principal at a time.
pub(super) const APP: &str = "tombolo_app";
/// Reads what is published.
pub(super) const PUBLISHER: &str = "tombolo_publisher";
/// Management itself.
pub(super) const SYSTEM: &str = "tombolo_system";

const ALL: [&str; 3] = [APP, PUBLISHER, SYSTEM];

/// SQLSTATEs of what somebody else has just made: a duplicate object, a unique violation, and a catalogue row that was
/// updated by two at once.
const MADE_MEANWHILE: [&str; 3] = ["42710", "23505", "XX000"];
/// Each attempt that fails has seen another one succeed; there are few roles to make.
const ATTEMPTS_MAX: usize = 10;

/// What of a role is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Lack {
    Role,
    /// The connecting role may not work as it.
    Membership,
}

/// As which one works for the principal.
pub(super) fn of(principal: &Principal) -> &'static str {
    match principal {
        Principal::System => SYSTEM,
        Principal::User { .. } | Principal::ServiceAccount { .. } | Principal::BreakGlass { .. } => APP,
    }
}

/// Makes the roles that are missing, and lets the connecting role work as each.
pub(super) async fn ensure(owner: &mut PgConnection) -> Result<(), StoreError> {
    for _ in 0..ATTEMPTS_MAX {
        let lacks = lacks(owner).await?;
        if lacks.is_empty() {
            return Ok(());
        }
        for (role, lack) in lacks {
            match bounded("make the roles", execute(owner, statement(role, &lack))).await {
                Ok(()) => {}
                Err(StoreError::Query { source, .. }) if made_meanwhile(&source) => break,
                Err(StoreError::Walled { .. }) => return Err(by_hand(owner).await?),
                Err(error) => return Err(error),
            }
        }
    }
    Err(by_hand(owner).await?)
}

async fn lacks(owner: &mut PgConnection) -> Result<Vec<(&'static str, Lack)>, StoreError> {
    // Since Postgres 16 a member may be one that inherits and still may not SET ROLE.
    let query = "SELECT rolname::text AS name, rolsuper OR rolbypassrls AS strong, \
                 pg_has_role(current_user, oid, CASE WHEN current_setting('server_version_num')::int >= 160000 \
                 THEN 'SET' ELSE 'MEMBER' END) AS member FROM pg_roles WHERE rolname = ANY($1)";
    let asked = sqlx::query(query).bind(&ALL[..]).fetch_all(owner);
    let rows = bounded("look at the roles", asked).await?;
    let mut lacks = Vec::new();
    for role in ALL {
        let Some(row) = rows.iter().find(|row| row.get::<String, _>("name") == role) else {
            lacks.extend([(role, Lack::Role), (role, Lack::Membership)]);
            continue;
        };
        if row.get("strong") {
            return Err(StoreError::RoleTooStrong {
                role: role.to_owned(),
            });
        }
        if !row.get::<bool, _>("member") {
            lacks.push((role, Lack::Membership));
        }
    }
    Ok(lacks)
}

fn statement(role: &str, lack: &Lack) -> String {
    match lack {
        Lack::Role => format!("CREATE ROLE {role} NOLOGIN"),
        Lack::Membership => format!("GRANT {role} TO CURRENT_USER"),
    }
}

async fn by_hand(owner: &mut PgConnection) -> Result<StoreError, StoreError> {
    let asked = sqlx::query_scalar("SELECT quote_ident(current_user)").fetch_one(&mut *owner);
    let user: String = bounded("look at the roles", asked).await?;
    let statements = lacks(owner).await?.into_iter().map(|(role, lack)| match lack {
        Lack::Role => statement(role, &lack),
        Lack::Membership => format!("GRANT {role} TO {user}"),
    });
    let sql = statements.collect::<Vec<String>>().join("; ");
    Ok(StoreError::RolesMissing { user, sql })
}

async fn execute(owner: &mut PgConnection, statement: String) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(owner).await?;
    Ok(())
}

fn made_meanwhile(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| MADE_MEANWHILE.contains(&code.as_ref()))
}
