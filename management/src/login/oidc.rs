//! An OpenID provider: what it publishes, where a login begins there, and whom its token names (OpenID Connect Core
//! 1.0, authorization-code flow with PKCE).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::uri::Authority;
use http::{Method, Request, Uri};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tombolo_runtime::telemetry::chain;

use super::attempt::Attempt;
use super::browser::is_loopback;
use super::id_token::{BadIdToken, Expected, KeySet, verify};
use super::person::{Person, display_name, groups};
use crate::audit;
use crate::outbound::{Outbound, OutboundError};

/// What a provider publishes is read again after so long.
const KNOWN_TIME: Duration = Duration::from_secs(10 * 60);
/// And earlier when none of its keys has signed a token, but no more often than this.
const KNOWN_TIME_MIN: Duration = Duration::from_secs(10);
/// When it could not be read, nobody asks again for so long: who waits for an answer that does not come has waited for all.
const FAILED_TIME: Duration = Duration::from_secs(2);
/// OpenID Connect Discovery 1.0, section 4.
const WELL_KNOWN: &str = "/.well-known/openid-configuration";
const BASIC: &str = "client_secret_basic";
const POST: &str = "client_secret_post";

/// The provider that people log in at.
#[derive(Clone)]
pub struct OidcConfig {
    /// As it stands in its tokens, such as `https://id.example.com`.
    pub issuer: String,
    pub client_id: String,
    /// `None` for a public client.
    pub client_secret: Option<String>,
    /// Asked for besides `openid`.
    pub scopes: Vec<String>,
    /// Which claim of the ID token names the groups of a person.
    pub groups_claim: String,
    /// The authorities that the provider is believed by, a PEM file; the public ones by default.
    pub authorities: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub enum OidcError {
    /// Codes, secrets and keys would be anybody's on the way.
    #[error(
        "the provider {issuer} has to be asked over TLS: name it by an https:// address, or one on loopback"
    )]
    Plain { issuer: String },
    #[error("cannot use the authorities of the provider {issuer}")]
    Authorities {
        issuer: String,
        #[source]
        source: OutboundError,
    },
    #[error("cannot ask the provider for {url}")]
    Outbound {
        url: String,
        #[source]
        source: OutboundError,
    },
    #[error("cannot use what the provider publishes at {url}: {reason}")]
    Published { url: String, reason: String },
    #[error("the provider could not be asked a moment ago: {reason}")]
    Failed { reason: String },
    /// The code is wrong, was used before, or belongs to another login.
    #[error("the provider does not take the code: {reason}")]
    Code { reason: String },
    #[error("the provider's token is not good: {reason}")]
    Token { reason: String },
}

/// Where a browser is sent, and from where it comes back.
#[derive(Debug)]
pub(crate) struct Provider {
    config: OidcConfig,
    outbound: Outbound,
    known: Mutex<Known>,
}

/// What came of asking for what the provider publishes.
#[derive(Debug, Default)]
struct Known {
    published: Option<(Arc<Published>, Instant)>,
    failed: Option<(String, Instant)>,
}

/// What a provider says of itself.
#[derive(Debug)]
struct Published {
    document: Document,
    keys: KeySet,
}

/// OpenID Connect Discovery 1.0, section 3.
#[derive(Debug, Deserialize)]
struct Document {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
}

/// OpenID Connect Core 1.0, section 3.1.3.3.
#[derive(Deserialize)]
struct Answer {
    id_token: String,
    access_token: Option<String>,
}

impl Provider {
    /// Asks nothing yet: management starts also while its provider is away.
    ///
    /// # Errors
    /// The provider's authorities cannot be read, or anybody could listen.
    pub(crate) fn new(config: OidcConfig) -> Result<Provider, OidcError> {
        if !is_private(&config.issuer, &config.issuer) {
            return Err(OidcError::Plain {
                issuer: config.issuer,
            });
        }
        let outbound = Outbound::new(config.authorities.as_deref());
        let outbound = outbound.map_err(|source| OidcError::Authorities {
            issuer: config.issuer.clone(),
            source,
        })?;
        Ok(Provider {
            config,
            outbound,
            known: Mutex::default(),
        })
    }

    pub(crate) fn issuer(&self) -> &str {
        &self.config.issuer
    }

    /// The address at the provider where the login goes on.
    pub(crate) async fn begin(&self, attempt: &Attempt, redirect: &str) -> Result<String, OidcError> {
        let published = self.published(KNOWN_TIME).await?;
        let there = &published.document.authorization_endpoint;
        let scope = [&["openid".to_owned()], self.config.scopes.as_slice()]
            .concat()
            .join(" ");
        let query = form(&[
            ("response_type", "code"),
            ("client_id", &self.config.client_id),
            ("redirect_uri", redirect),
            ("scope", &scope),
            ("state", &attempt.state()),
            ("nonce", &attempt.nonce()),
            ("code_challenge", &attempt.challenge()),
            ("code_challenge_method", "S256"),
        ]);
        let joint = if there.contains('?') { '&' } else { '?' };
        Ok(format!("{there}{joint}{query}"))
    }

    /// Whom the provider names for the code.
    pub(crate) async fn finish(
        &self,
        attempt: &Attempt,
        redirect: &str,
        code: &str,
    ) -> Result<Person, OidcError> {
        let published = self.published(KNOWN_TIME).await?;
        let answer = self
            .exchange(&published.document, attempt, redirect, code)
            .await?;
        let found = self.person(&answer, &published.keys, attempt);
        let found = match found {
            // Its keys may have changed since they were read.
            Err(BadIdToken::Signature) => {
                let newer = self.published(KNOWN_TIME_MIN).await?;
                self.person(&answer, &newer.keys, attempt)
            }
            found => found,
        };
        found.map_err(|error| OidcError::Token {
            reason: error.to_string(),
        })
    }

    /// The ID token, and what came with it.
    async fn exchange(
        &self,
        document: &Document,
        attempt: &Attempt,
        redirect: &str,
        code: &str,
    ) -> Result<Answer, OidcError> {
        let verifier = attempt.verifier();
        let mut fields = vec![
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", redirect),
            ("code_verifier", &verifier),
        ];
        let id = self.config.client_id.as_str();
        let methods = document.token_endpoint_auth_methods_supported.as_deref();
        let takes = |method: &str| methods.is_some_and(|methods| methods.iter().any(|given| given == method));
        let mut request = Request::builder().header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        match &self.config.client_secret {
            None => fields.push(("client_id", id)),
            Some(secret) if takes(POST) && !takes(BASIC) => {
                fields.extend([("client_id", id), ("client_secret", secret.as_str())]);
            }
            // RFC 6749, section 2.3.1: each is encoded like a field of a form.
            Some(secret) => {
                let pair = format!("{}:{}", form_value(id), form_value(secret));
                request = request.header(AUTHORIZATION, format!("Basic {}", STANDARD.encode(pair)));
            }
        }
        let body = form(&fields).into_bytes();
        let answer = self
            .ask(request.method(Method::POST), &document.token_endpoint, body)
            .await?;
        if !answer.status().is_success() {
            let told: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
            let word = told["error"].as_str().unwrap_or("no reason given");
            return Err(OidcError::Code {
                reason: format!("{}, {word}", answer.status()),
            });
        }
        serde_json::from_slice(answer.body()).map_err(|error| OidcError::Token {
            reason: error.to_string(),
        })
    }

    fn person(&self, answer: &Answer, keys: &KeySet, attempt: &Attempt) -> Result<Person, BadIdToken> {
        let expected = Expected {
            issuer: &self.config.issuer,
            client_id: &self.config.client_id,
            nonce: &attempt.nonce(),
            access_token: answer.access_token.as_deref(),
            now: audit::now(),
        };
        let claims = verify(&answer.id_token, keys, &expected)?;
        let text = |name: &str| claims.get(name).and_then(Value::as_str).map(str::to_owned);
        Ok(Person {
            issuer: self.config.issuer.clone(),
            subject: text("sub").unwrap_or_default(),
            login: text("preferred_username").or_else(|| text("email")),
            display_name: display_name(claims.get("name")),
            groups: groups(claims.get(&self.config.groups_claim)),
        })
    }

    /// What the provider publishes, read less than that ago. Those who need it at the same time wait for one answer.
    async fn published(&self, time: Duration) -> Result<Arc<Published>, OidcError> {
        let mut known = self.known.lock().await;
        if let Some((published, since)) = &known.published
            && since.elapsed() < time
        {
            return Ok(published.clone());
        }
        if let Some((reason, at)) = &known.failed
            && at.elapsed() < FAILED_TIME
        {
            return Err(OidcError::Failed {
                reason: reason.clone(),
            });
        }
        match self.read_published().await {
            Ok(published) => {
                let published = Arc::new(published);
                known.published = Some((published.clone(), Instant::now()));
                Ok(published)
            }
            Err(error) => {
                known.failed = Some((chain(&error), Instant::now()));
                Err(error)
            }
        }
    }

    async fn read_published(&self) -> Result<Published, OidcError> {
        let url = format!("{}{WELL_KNOWN}", self.config.issuer.trim_end_matches('/'));
        let document: Document = self.read(&url).await?;
        if document.issuer != self.config.issuer {
            let reason = format!(
                "it is that of {}, and not of {}",
                document.issuer, self.config.issuer
            );
            return Err(OidcError::Published { url, reason });
        }
        for named in [
            &document.authorization_endpoint,
            &document.token_endpoint,
            &document.jwks_uri,
        ] {
            if !is_private(named, &self.config.issuer) {
                let reason = format!("{named} is no https:// address");
                return Err(OidcError::Published { url, reason });
            }
        }
        let keys = self.read(&document.jwks_uri).await?;
        Ok(Published { document, keys })
    }

    async fn read<T: DeserializeOwned>(&self, url: &str) -> Result<T, OidcError> {
        let unusable = |reason: String| OidcError::Published {
            url: url.to_owned(),
            reason,
        };
        let answer = self.ask(Request::builder(), url, Vec::new()).await?;
        if !answer.status().is_success() {
            return Err(unusable(format!("it answers {}", answer.status())));
        }
        serde_json::from_slice(answer.body()).map_err(|error| unusable(error.to_string()))
    }

    async fn ask(
        &self,
        request: http::request::Builder,
        url: &str,
        body: Vec<u8>,
    ) -> Result<http::Response<Vec<u8>>, OidcError> {
        let unusable = |reason: String| OidcError::Published {
            url: url.to_owned(),
            reason,
        };
        let uri: Uri = url
            .parse()
            .map_err(|error| unusable(format!("no address: {error}")))?;
        let request = request.uri(uri).header(ACCEPT, "application/json");
        let request = request.body(body).map_err(|error| unusable(error.to_string()))?;
        let asked = Box::pin(self.outbound.fetch(request)).await;
        asked.map_err(|source| OidcError::Outbound {
            url: url.to_owned(),
            source,
        })
    }
}

/// Whether nobody listens on the way there: with TLS, or on loopback, where the provider is then as well.
fn is_private(url: &str, issuer: &str) -> bool {
    let on_loopback = |url: &str| {
        let url: Option<Uri> = url.parse().ok();
        url.is_some_and(|url| {
            let authority = url.authority().map(Authority::as_str);
            url.scheme_str() == Some("http") && authority.is_some_and(is_loopback)
        })
    };
    url.starts_with("https://") || (on_loopback(url) && on_loopback(issuer))
}

fn form(fields: &[(&str, &str)]) -> String {
    serde_urlencoded::to_string(fields).expect("invariant: pairs of texts are a form")
}

fn form_value(text: &str) -> String {
    let pair = form(&[("", text)]);
    pair.trim_start_matches('=').to_owned()
}

/// Without the secret.
impl std::fmt::Debug for OidcConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OidcConfig")
            .field("issuer", &self.issuer)
            .field("client_id", &self.client_id)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_is_asked_over_tls_but_on_loopback() {
        let (there, here) = ("https://id.example.com", "http://127.0.0.1:9000");
        for (url, issuer, private) in [
            (there, there, true),
            (here, here, true),
            ("http://localhost:9000/jwks", here, true),
            ("https://id.example.com/jwks", here, true),
            ("http://id.example.com", "http://id.example.com", false),
            ("http://id.example.com/jwks", there, false),
            (here, there, false),
            ("http://127.0.0.1.example.com", here, false),
            ("ftp://127.0.0.1/jwks", here, false),
            ("/jwks", here, false),
        ] {
            assert_eq!(is_private(url, issuer), private, "{url} of {issuer}");
        }
    }
}
