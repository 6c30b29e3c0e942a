//! Passwords of users who have one here: Argon2id, with as much work for a name that nobody has as for one that
//! somebody has, and never more of it at once than the machine has memory for.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

/// What OWASP asks for at least: 19 MiB, two passes, one lane.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;
/// Hashes under way: each takes a core for some 20 ms and 19 MiB.
const AT_ONCE_MAX: usize = 2;
/// A login is better told to come back than kept waiting behind a flood.
const WAIT_MAX: Duration = Duration::from_secs(3);
/// NIST SP 800-63B asks for length, and for nothing else.
const CHARS_MIN: usize = 12;
/// More only costs work.
const BYTES_MAX: usize = 512;

/// A password that may be used. It reaches no log.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Password(String);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PasswordError {
    #[error("a password has at least {CHARS_MIN} characters; a few words in a row are easy to keep in mind")]
    TooShort,
    #[error("a password has at most {BYTES_MAX} bytes")]
    TooLong,
    #[error("too many passwords are being checked at this moment; try again")]
    Busy,
    #[error("the password cannot be hashed")]
    Hash,
}

/// Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Passwords {
    at_once: Arc<Semaphore>,
}

impl Default for Passwords {
    fn default() -> Passwords {
        Passwords {
            at_once: Arc::new(Semaphore::new(AT_ONCE_MAX)),
        }
    }
}

impl Password {
    /// One to be set.
    pub(crate) fn new(text: String) -> Result<Password, PasswordError> {
        if text.chars().count() < CHARS_MIN {
            return Err(PasswordError::TooShort);
        }
        Password::given(text)
    }

    /// One to be compared.
    pub(crate) fn given(text: String) -> Result<Password, PasswordError> {
        match text.len() <= BYTES_MAX {
            true => Ok(Password(text)),
            false => Err(PasswordError::TooLong),
        }
    }
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password(…)")
    }
}

impl Passwords {
    /// As a PHC string.
    pub(crate) async fn hash(&self, password: Password) -> Result<String, PasswordError> {
        let _permit = self.permit().await?;
        let hashed = tokio::task::spawn_blocking(move || hash(&password));
        hashed.await.map_err(|_| PasswordError::Hash)?
    }

    /// Whether it is that password. Without a hash it never is, and takes as long.
    pub(crate) async fn verify(
        &self,
        password: Password,
        hash: Option<String>,
    ) -> Result<bool, PasswordError> {
        let _permit = self.permit().await?;
        let verified = tokio::task::spawn_blocking(move || {
            let wanted = hash.as_deref().unwrap_or(&NOBODYS);
            let same = argon2().verify_password(password.0.as_bytes(), wanted).is_ok();
            same && hash.is_some()
        });
        verified.await.map_err(|_| PasswordError::Hash)
    }

    async fn permit(&self) -> Result<SemaphorePermit<'_>, PasswordError> {
        match timeout(WAIT_MAX, self.at_once.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(PasswordError::Busy),
        }
    }
}

/// What a password is compared with when nobody has it.
static NOBODYS: LazyLock<String> =
    LazyLock::new(|| hash(&Password("nobody's".to_owned())).expect("invariant: the parameters are valid"));

fn hash(password: &Password) -> Result<String, PasswordError> {
    let hashed: Result<PasswordHash, _> = argon2().hash_password(password.0.as_bytes());
    hashed
        .map(|hash| hash.to_string())
        .map_err(|_| PasswordError::Hash)
}

fn argon2() -> Argon2<'static> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None)
        .expect("invariant: the parameters are within their bounds");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_is_known_again_and_nobody_has_none() {
        let passwords = Passwords::default();
        let password = || Password::new("correct horse battery".to_owned()).unwrap();
        let hash = passwords.hash(password()).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        let other = Password::new("correct horse batterx".to_owned()).unwrap();
        let nobodys = Password::given("nobody's".to_owned()).unwrap();
        for (given, held, same) in [
            (password(), Some(hash.clone()), true),
            (other, Some(hash), false),
            (password(), None, false),
            (nobodys, None, false),
            (password(), Some("no hash".to_owned()), false),
        ] {
            assert_eq!(passwords.verify(given, held).await.unwrap(), same);
        }
    }

    #[test]
    fn a_password_is_long_and_hides_itself() {
        for (text, refused) in [
            ("short".to_owned(), Some(PasswordError::TooShort)),
            ("éééééééééééé".to_owned(), None),
            ("x".repeat(BYTES_MAX), None),
            ("x".repeat(BYTES_MAX + 1), Some(PasswordError::TooLong)),
        ] {
            assert_eq!(Password::new(text).err(), refused);
        }
        let shown = format!("{:?}", Password::new("correct horse".to_owned()).unwrap());
        assert!(!shown.contains("horse"));
    }
}
