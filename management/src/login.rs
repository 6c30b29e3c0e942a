//! How people prove who they are: passwords, an OIDC provider, and command lines that a browser lets in. What comes of
//! each is a session. What is decided here are pure functions; the HTTP around them is `api::login`, `api::pages`,
//! `api::oidc` and `api::device`.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use axum::http::Uri;
use chrono::TimeDelta;
use tokio::time::Instant;

use crate::limit::{Allowance, Limits};

pub(crate) mod attempt;
pub(crate) mod browser;
pub(crate) mod device;
pub(crate) mod id_token;
pub(crate) mod oidc;
pub(crate) mod password;
pub(crate) mod person;
pub(crate) mod session;
pub(crate) mod source;

use browser::Site;
use oidc::Provider;
pub use oidc::{OidcConfig, OidcError};
use password::Passwords;
use source::Source;

/// A working day, so that nobody is asked twice in one.
const SESSION_LIFETIME: Duration = Duration::from_secs(12 * 60 * 60);
/// Whoever wants more wants a token.
const SESSION_LIFETIME_MAX: TimeDelta = TimeDelta::days(365);
/// Attempts on one account that may come at once; they come back over [`ATTEMPTS_TIME`]. Few enough that a password of
/// twelve letters is never guessed, and enough for a person who has several of them in mind.
const ACCOUNT_ATTEMPTS: NonZeroU32 = NonZeroU32::new(10).expect("invariant: it is not zero");
/// The same for one source, whatever the account: an office may share an address.
const SOURCE_ATTEMPTS: NonZeroU32 = NonZeroU32::new(60).expect("invariant: it is not zero");
const ATTEMPTS_TIME: Duration = Duration::from_secs(60);

/// How people log in.
#[derive(Clone, Debug)]
pub struct LoginConfig {
    /// Where browsers reach management, such as `https://mesh.example.com`; what they ask for, when it is not given.
    pub public_url: Option<Uri>,
    /// From the login to its end.
    pub session_lifetime: Duration,
    pub oidc: Option<OidcConfig>,
}

impl Default for LoginConfig {
    fn default() -> LoginConfig {
        LoginConfig {
            public_url: None,
            session_lifetime: SESSION_LIFETIME,
            oidc: None,
        }
    }
}

/// What logging in works with. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Login {
    pub(crate) site: Arc<Site>,
    pub(crate) session_lifetime: TimeDelta,
    pub(crate) passwords: Passwords,
    pub(crate) provider: Option<Arc<Provider>>,
    /// By the name that was given, whether there is such a user or not.
    accounts: Limits<String>,
    sources: Limits<Source>,
}

/// Somebody tries too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many attempts to log in; try again in {} s", wait.as_secs_f64().ceil())]
pub(crate) struct TooOften {
    pub(crate) wait: Duration,
}

impl Login {
    /// # Errors
    /// What is said of the provider cannot be used.
    pub(crate) fn new(config: &LoginConfig) -> Result<Login, OidcError> {
        let provider = config.oidc.clone().map(Provider::new).transpose()?;
        Ok(Login {
            site: Arc::new(Site::new(config.public_url.as_ref())),
            session_lifetime: TimeDelta::from_std(config.session_lifetime)
                .unwrap_or(SESSION_LIFETIME_MAX)
                .min(SESSION_LIFETIME_MAX),
            passwords: Passwords::default(),
            provider: provider.map(Arc::new),
            accounts: Limits::new(ACCOUNT_ATTEMPTS, ATTEMPTS_TIME),
            sources: Limits::new(SOURCE_ATTEMPTS, ATTEMPTS_TIME),
        })
    }

    /// Counts an attempt from there: whatever costs us work before anybody is known.
    pub(crate) fn attempt_from(&self, source: &str) -> Result<(), TooOften> {
        of(self.sources.take(Source::of(source), Instant::now()))
    }

    /// Counts an attempt on that account.
    pub(crate) fn attempt_on(&self, account: &str) -> Result<(), TooOften> {
        of(self.accounts.take(account.to_owned(), Instant::now()))
    }
}

fn of(allowance: Allowance) -> Result<(), TooOften> {
    match allowance.allowed {
        true => Ok(()),
        false => Err(TooOften { wait: allowance.wait }),
    }
}
