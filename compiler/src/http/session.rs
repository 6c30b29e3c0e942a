//! Sessions that stay with one instance, in the words of the Gateway API.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{BadRule, Span, is_token};

/// The requests of one session go to the instance that answered its first one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "SessionDocument", into = "SessionDocument")]
pub struct SessionPersistence {
    /// Of the cookie or the header.
    pub name: Option<String>,
    pub by: SessionType,
    /// When a session ends whatever happens.
    pub absolute_timeout: Option<Span>,
    /// When a session ends that nothing was heard of.
    pub idle_timeout: Option<Span>,
    pub lifetime: LifetimeType,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SessionType {
    #[default]
    Cookie,
    Header,
}

/// How long a browser keeps the cookie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LifetimeType {
    /// Until it is closed.
    #[default]
    Session,
    /// For the absolute timeout.
    Permanent,
}

#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct SessionDocument {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    session_name: Option<String>,
    #[serde(default)]
    r#type: SessionType,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    absolute_timeout: Option<Span>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    idle_timeout: Option<Span>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cookie_config: Option<CookieConfig>,
}

#[derive(Clone, Copy, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct CookieConfig {
    #[serde(default)]
    lifetime_type: LifetimeType,
}

/// As in the Gateway API.
const NAME_BYTES_MAX: usize = 128;

impl TryFrom<SessionDocument> for SessionPersistence {
    type Error = BadRule;

    fn try_from(document: SessionDocument) -> Result<Self, BadRule> {
        if let Some(name) = &document.session_name
            && (!is_token(name) || name.len() > NAME_BYTES_MAX)
        {
            return Err(BadRule::SessionName(name.clone()));
        }
        if document.r#type == SessionType::Header && document.cookie_config.is_some() {
            return Err(BadRule::HeaderWithCookie);
        }
        let lifetime = document.cookie_config.unwrap_or_default().lifetime_type;
        if lifetime == LifetimeType::Permanent && document.absolute_timeout.is_none() {
            return Err(BadRule::EndlessCookie);
        }
        Ok(SessionPersistence {
            name: document.session_name,
            by: document.r#type,
            absolute_timeout: document.absolute_timeout,
            idle_timeout: document.idle_timeout,
            lifetime,
        })
    }
}

impl From<SessionPersistence> for SessionDocument {
    fn from(session: SessionPersistence) -> SessionDocument {
        let permanent = session.lifetime == LifetimeType::Permanent;
        SessionDocument {
            session_name: session.name,
            r#type: session.by,
            absolute_timeout: session.absolute_timeout,
            idle_timeout: session.idle_timeout,
            cookie_config: permanent.then_some(CookieConfig {
                lifetime_type: session.lifetime,
            }),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sessions_are_given_back_or_refused() {
        for document in [
            json!({"type": "Cookie"}),
            json!({"type": "Header", "sessionName": "x-session", "idleTimeout": "300s"}),
            json!({"type": "Cookie", "absoluteTimeout": "3600s", "cookieConfig": {"lifetimeType": "Permanent"}}),
        ] {
            let session: SessionPersistence = serde_json::from_value(document.clone()).unwrap();
            assert_eq!(serde_json::to_value(session).unwrap(), document);
        }
        for (document, expected) in [
            (
                json!({"sessionName": "a b"}),
                "\"a b\" names no cookie and no header",
            ),
            (
                json!({"type": "Header", "cookieConfig": {}}),
                "cookieConfig is of sessions by cookie",
            ),
            (
                json!({"cookieConfig": {"lifetimeType": "Permanent"}}),
                "give it an absoluteTimeout",
            ),
        ] {
            let error = serde_json::from_value::<SessionPersistence>(document.clone()).unwrap_err();
            assert!(error.to_string().contains(expected), "{document}: {error}");
        }
    }
}
