//! Sessions that stay with one instance, in the words of the Gateway API.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{BadRule, CookieName, HeaderName, Span, is_token};

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

/// What of a request decides which instance gets it: as long as the instances stay, the same value finds the same one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Affinity {
    Header(HeaderName),
    Cookie {
        name: CookieName,
        /// A client without it is given one for so long; no time at all is until its browser is closed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        made_for: Option<Span>,
    },
    /// The client's address.
    Source,
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
/// Of a session whose author names neither its cookie nor its header.
const NAME_DEFAULT: &str = "tombolo-session";

impl SessionPersistence {
    pub fn affinity(&self) -> Affinity {
        let name = self.name.clone().unwrap_or_else(|| NAME_DEFAULT.to_owned());
        const TOKEN: &str = "invariant: the name of a session is a token";
        match self.by {
            SessionType::Header => Affinity::Header(HeaderName::try_from(name).expect(TOKEN)),
            SessionType::Cookie => Affinity::Cookie {
                name: CookieName::try_from(name).expect(TOKEN),
                made_for: Some(match self.lifetime {
                    LifetimeType::Session => Span::from_ms(0),
                    LifetimeType::Permanent => self.absolute_timeout.unwrap_or(Span::from_ms(0)),
                }),
            },
        }
    }

    /// Whether it is to end at a time that no browser knows of.
    pub fn ends_unseen(&self) -> bool {
        self.absolute_timeout.is_some() && self.lifetime == LifetimeType::Session
    }
}

impl Affinity {
    /// For a proxy that an earlier one has sent the request to: it makes no cookies.
    pub fn passed_on(&self) -> Affinity {
        match self {
            Affinity::Cookie { name, .. } => Affinity::Cookie {
                name: name.clone(),
                made_for: None,
            },
            other => other.clone(),
        }
    }
}

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
