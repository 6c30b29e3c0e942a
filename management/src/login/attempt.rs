//! A login that a browser has begun at the provider. One secret, in a cookie of that browser, is behind all that ties
//! its end to its beginning: so nothing that is stored is secret, any replica can finish what another has begun, and
//! who follows somebody else's link to the end gets nowhere.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::TimeDelta;
use sha2::{Digest, Sha256};

use crate::token::Token;

/// For a person to log in at the provider.
pub(crate) const ATTEMPT_TIME: TimeDelta = TimeDelta::minutes(10);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attempt(Token);

impl Attempt {
    pub(crate) fn new(secret: Token) -> Attempt {
        Attempt(secret)
    }

    /// The text of the cookie.
    pub(crate) fn reveal(&self) -> String {
        self.0.reveal()
    }

    /// What the provider sends back with the code: it shows that this browser asked.
    pub(crate) fn state(&self) -> String {
        self.derive("state")
    }

    /// What the provider puts into the token: it shows that the token was made for this login.
    pub(crate) fn nonce(&self) -> String {
        self.derive("nonce")
    }

    /// What is shown to the provider with the code, which knows its hash: who has the code alone has nothing.
    pub(crate) fn verifier(&self) -> String {
        self.derive("pkce verifier")
    }

    /// What the provider is told of the verifier (RFC 7636, section 4.2).
    pub(crate) fn challenge(&self) -> String {
        URL_SAFE_NO_PAD.encode(Sha256::digest(self.verifier()))
    }

    fn derive(&self, purpose: &str) -> String {
        URL_SAFE_NO_PAD.encode(self.0.sha256_for(purpose))
    }
}

/// Under which the attempt is stored.
pub(crate) fn state_sha256(state: &str) -> [u8; 32] {
    Sha256::digest(state).into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_derived_differs_and_comes_again() {
        let attempt = Attempt::new(Token::generate().unwrap());
        let again = Attempt::new(attempt.reveal().parse().unwrap());
        let derived = [attempt.state(), attempt.nonce(), attempt.verifier()];
        assert_eq!(derived, [again.state(), again.nonce(), again.verifier()]);
        let other = Attempt::new(Token::generate().unwrap());
        let mut all = derived.to_vec();
        all.extend([other.state(), other.nonce(), other.verifier()]);
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 6);
        // RFC 7636, section 4.1.
        assert!(derived.iter().all(|text| text.len() == 43));
    }
}
