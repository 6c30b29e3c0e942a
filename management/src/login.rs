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
/// Attempts on one account from one source that may come at once; they come back over [`PAIR_TIME`]. Enough for a person who
/// has several passwords in mind. Whoever uses them up holds back nobody who is elsewhere.
const PAIR_ATTEMPTS: NonZeroU32 = NonZeroU32::new(10).expect("invariant: it is not zero");
/// One in three minutes: so slow that it takes ten sources to use up what there is for an account.
const PAIR_TIME: Duration = Duration::from_secs(30 * 60);
/// The same for one account, wherever they come from: few enough that a password of twelve letters is not guessed from many
/// sources either. When they are used up, only who is where the account has logged in before may go on.
const ACCOUNT_ATTEMPTS: NonZeroU32 = NonZeroU32::new(200).expect("invariant: it is not zero");
const ACCOUNT_TIME: Duration = Duration::from_secs(60 * 60);
/// The same for one source, whatever the account: an office may share an address.
const SOURCE_ATTEMPTS: NonZeroU32 = NonZeroU32::new(60).expect("invariant: it is not zero");
const SOURCE_TIME: Duration = Duration::from_secs(60);

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
    pairs: Limits<(String, Source)>,
    accounts: Limits<String>,
    sources: Limits<Source>,
}

/// From where an attempt may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    Anywhere,
    /// From where the account has logged in before; all others have tried too often, together.
    Known(TooOften),
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
            pairs: Limits::new(PAIR_ATTEMPTS, PAIR_TIME),
            accounts: Limits::new(ACCOUNT_ATTEMPTS, ACCOUNT_TIME),
            sources: Limits::new(SOURCE_ATTEMPTS, SOURCE_TIME),
        })
    }

    /// Counts an attempt from there: whatever costs us work before anybody is known.
    pub(crate) fn attempt_from(&self, source: &str) -> Result<(), TooOften> {
        of(self.sources.take(Source::of(source), Instant::now()))
    }

    /// Counts an attempt on that account from there. It tells whether it may go on anyway, or only from where the account
    /// has logged in before.
    pub(crate) fn attempt_on(
        &self,
        account: &str,
        source: &str,
        now: Instant,
    ) -> Result<Admission, TooOften> {
        of(self.pairs.take((account.to_owned(), Source::of(source)), now))?;
        Ok(match of(self.accounts.take(account.to_owned(), now)) {
            Ok(()) => Admission::Anywhere,
            Err(error) => Admission::Known(error),
        })
    }
}

fn of(allowance: Allowance) -> Result<(), TooOften> {
    match allowance.allowed {
        true => Ok(()),
        false => Err(TooOften { wait: allowance.wait }),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// As often as it may, and as often again.
    fn guess(login: &Login, source: &str, now: Instant) -> Vec<Result<Admission, TooOften>> {
        let often = 2 * PAIR_ATTEMPTS.get();
        (0..often).map(|_| login.attempt_on("ann", source, now)).collect()
    }

    #[test]
    fn who_guesses_holds_back_nobody_elsewhere() {
        let login = Login::new(&LoginConfig::default()).unwrap();
        let start = Instant::now();
        let guesses = guess(&login, "203.0.113.1", start);
        let let_by = guesses.iter().filter(|guess| guess.is_ok()).count();
        assert_eq!(let_by, PAIR_ATTEMPTS.get() as usize);
        let anywhere = Ok(Admission::Anywhere);
        assert_eq!(login.attempt_on("ann", "192.0.2.1", start), anywhere);
        assert_eq!(login.attempt_on("bob", "203.0.113.1", start), anywhere);
        // For a whole day.
        for minute in 0..24 * 60 {
            let now = start + Duration::from_secs(60 * minute);
            guess(&login, "203.0.113.1", now);
            assert_eq!(
                login.attempt_on("ann", &format!("2001:db8:{minute}::1"), now),
                anywhere
            );
        }
    }

    #[test]
    fn who_guesses_from_many_sources_is_held_back_with_all_who_are_not_known() {
        let login = Login::new(&LoginConfig::default()).unwrap();
        let now = Instant::now();
        let sources = 2 * ACCOUNT_ATTEMPTS.get() / PAIR_ATTEMPTS.get();
        let guesses = (0..sources).flat_map(|host| guess(&login, &format!("203.0.113.{host}"), now));
        let anywhere = guesses.filter(|guess| *guess == Ok(Admission::Anywhere)).count();
        assert_eq!(anywhere, ACCOUNT_ATTEMPTS.get() as usize);
        let admission = login.attempt_on("ann", "192.0.2.1", now);
        assert!(matches!(admission, Ok(Admission::Known(_))), "{admission:?}");
    }
}
