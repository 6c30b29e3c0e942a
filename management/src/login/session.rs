//! Sessions: what somebody holds who has logged in, in a browser's cookie or on a command line. They end by themselves,
//! and at once when they are revoked. Opening and ending one leaves an audit record, and draws no revision.

use std::str::FromStr;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use tombolo_compiler::name::Fqn;
use uuid::Uuid;

use crate::audit::{self, Outcome, Record, Verb};
use crate::caller::{Caller, Credential};
use crate::store::{Store, StoreError, Tx};
use crate::token::{self, Token};

/// Of what a program says it is.
const AGENT_CHARS_MAX: usize = 200;

/// How the person came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Method {
    Password,
    Oidc,
    /// A command line that somebody with a session has let in.
    Device,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no way to log in")]
pub(crate) struct BadMethod(String);

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Session {
    pub(crate) id: Uuid,
    #[serde(skip)]
    pub(crate) user_uid: Uuid,
    pub(crate) method: Method,
    /// What the provider says that the person belongs to.
    pub(crate) groups: Vec<String>,
    pub(crate) source: String,
    /// The program that holds it, by its own word.
    pub(crate) agent: String,
    #[serde(rename = "createTime")]
    pub(crate) created_at: DateTime<Utc>,
    #[serde(rename = "expireTime")]
    pub(crate) expires_at: DateTime<Utc>,
    #[serde(rename = "revokeTime", skip_serializing_if = "Option::is_none")]
    pub(crate) revoked_at: Option<DateTime<Utc>>,
    /// The session that has let it in.
    #[serde(rename = "issuedBy", skip_serializing_if = "Option::is_none")]
    pub(crate) issued_by: Option<Uuid>,
}

/// Who has proven to be whom, and how.
#[derive(Clone, Debug)]
pub(crate) struct Opening {
    pub(crate) user: Fqn,
    pub(crate) user_uid: Uuid,
    pub(crate) method: Method,
    pub(crate) groups: Vec<String>,
    pub(crate) visitor: Visitor,
    pub(crate) lifetime: TimeDelta,
    pub(crate) proof: Proof,
}

/// What must still be so in the transaction that opens the session.
#[derive(Clone, Debug)]
pub(crate) enum Proof {
    /// The hash that the password was compared with: it may have been changed since.
    Password(String),
    /// The provider's word of just now.
    Provider,
    /// The session that lets this one in, which ends with it.
    Session(Credential),
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("the password was changed at this moment")]
    PasswordChanged,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Who sends a request, before it is known who that is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Visitor {
    pub(crate) source: String,
    pub(crate) request_id: String,
    pub(crate) agent: String,
}

impl Visitor {
    pub(crate) fn new(source: String, request_id: String, agent: Option<&str>) -> Visitor {
        let agent = agent.unwrap_or_default();
        Visitor {
            source,
            request_id,
            agent: agent.chars().take(AGENT_CHARS_MAX).collect(),
        }
    }
}

/// Opens it within a transaction of management itself.
///
/// # Errors
/// When its proof holds no longer.
pub(crate) async fn open(
    store: &Store,
    tx: &mut Tx,
    opening: &Opening,
    sha256: [u8; 32],
) -> Result<Session, OpenError> {
    // The head first, as whoever sets a password or ends a session does: what they did is seen here, or they see this.
    let head = store.lock_head(tx).await?;
    let now = audit::now();
    let mut expires_at = now + opening.lifetime;
    let mut issued_by = None;
    match &opening.proof {
        Proof::Password(compared) => {
            if store.password_of(tx, opening.user_uid).await?.as_ref() != Some(compared) {
                return Err(OpenError::PasswordChanged);
            }
        }
        Proof::Provider => {}
        Proof::Session(session) => {
            expires_at = session.expires_at.map_or(expires_at, |end| expires_at.min(end));
            issued_by = Some(session.id);
        }
    }
    let Visitor {
        source,
        request_id,
        agent,
    } = &opening.visitor;
    let session = Session {
        id: Uuid::now_v7(),
        user_uid: opening.user_uid,
        method: opening.method,
        groups: opening.groups.clone(),
        source: source.clone(),
        agent: agent.clone(),
        created_at: now,
        expires_at,
        revoked_at: None,
        issued_by,
    };
    let record = Record {
        source: source.clone(),
        request_id: request_id.clone(),
        reason: format!("session {} by {}", session.id, session.method.as_str()),
        ..Record::new(
            opening.user.as_str(),
            Verb::Login,
            opening.user.as_str(),
            Outcome::Done,
        )
    };
    store.append_write(tx, head, record).await?;
    store.insert_session(tx, &session, sha256).await?;
    Ok(session)
}

/// Ends one of the user's, on behalf of the caller, with all that was made with it. Whether there was such a session that
/// had not ended.
pub(crate) async fn revoke(
    store: &Store,
    tx: &mut Tx,
    caller: &Caller,
    verb: Verb,
    (user, user_uid): (&Fqn, Uuid),
    id: Uuid,
) -> Result<bool, StoreError> {
    let head = store.lock_head(tx).await?;
    let Some(made) = store.revoke_session(tx, user_uid, id, audit::now()).await? else {
        return Ok(false);
    };
    let record = Record {
        reason: token::ended(&format!("session {id}"), &made),
        ..caller.record(verb, user.as_str())
    };
    store.append_write(tx, head, record).await?;
    Ok(true)
}

impl Token {
    /// What a cookie holds is not a bearer token, and the other way round: neither is found by the other's hash.
    pub(crate) fn sha256_in_cookie(&self) -> [u8; 32] {
        self.sha256_for("session cookie")
    }
}

impl Method {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Method::Password => "password",
            Method::Oidc => "oidc",
            Method::Device => "device",
        }
    }
}

impl FromStr for Method {
    type Err = BadMethod;

    fn from_str(text: &str) -> Result<Method, BadMethod> {
        [Method::Password, Method::Oidc, Method::Device]
            .into_iter()
            .find(|method| method.as_str() == text)
            .ok_or_else(|| BadMethod(text.to_owned()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_no_bearer_token() {
        let token = Token::generate().unwrap();
        assert_ne!(token.sha256(), token.sha256_in_cookie());
        assert_eq!(token.sha256_in_cookie(), token.sha256_in_cookie());
    }

    #[test]
    fn methods_read_back() {
        for method in [Method::Password, Method::Oidc, Method::Device] {
            assert_eq!(method.as_str().parse(), Ok(method));
        }
        assert_eq!(
            "magic".parse::<Method>().unwrap_err().to_string(),
            "\"magic\" is no way to log in"
        );
    }
}
