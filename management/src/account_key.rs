//! Keys of service accounts: Ed25519 pairs of which management keeps the public half alone. Whoever has the private half
//! shows it by signing an [`assertion`].

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::error::Unspecified;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tombolo_compiler::name::Fqn;

use crate::pem;

pub mod assertion;

/// Before the bytes of a public key, so that its hash is that of no token, whose bytes are as many.
const CONTEXT: &[u8] = b"tombolo service account key 1\n";

/// Its text is what assertions give as their `kid`, so that one is verified before anything is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PublicKey([u8; 32]);

/// What a key's holder keeps. It is told once, when the key is issued.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyFile {
    /// The service account.
    pub subject: Fqn,
    /// For whom assertions are.
    pub audience: String,
    /// Base64url.
    pub public_key: String,
    /// PKCS #8, in PEM.
    pub private_key: String,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadKeyFile {
    #[error("it is not the file of a service account's key, as `tombolo key create` writes it: {0}")]
    Syntax(String),
    #[error("privateKey holds no Ed25519 private key in PEM (PKCS #8)")]
    NoPrivateKey,
    #[error("publicKey is not that of privateKey")]
    OtherPublicKey,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is no Ed25519 public key, which is 43 letters in base64url")]
pub(crate) struct BadPublicKey;

impl PublicKey {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<PublicKey> {
        bytes.try_into().ok().map(PublicKey)
    }

    /// By which its row is found.
    pub(crate) fn sha256(&self) -> [u8; 32] {
        Sha256::new()
            .chain_update(CONTEXT)
            .chain_update(self.0)
            .finalize()
            .into()
    }

    fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0)
            .verify(message, signature)
            .is_ok()
    }
}

impl FromStr for PublicKey {
    type Err = BadPublicKey;

    fn from_str(text: &str) -> Result<Self, BadPublicKey> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| BadPublicKey)?;
        PublicKey::from_bytes(&bytes).ok_or(BadPublicKey)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for KeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyFile({} of {})", self.public_key, self.subject)
    }
}

/// A new pair, of which the private half is in the file alone.
///
/// # Errors
/// When the system has no randomness to give.
pub(crate) fn generate(subject: &Fqn) -> Result<(PublicKey, KeyFile), Unspecified> {
    let pair = Ed25519KeyPair::generate()?;
    let pkcs8 = pair.to_pkcs8v1()?;
    let public = public_of(&pair);
    let file = KeyFile {
        subject: subject.clone(),
        audience: subject.organization().to_string(),
        public_key: public.to_string(),
        private_key: pem::encode(pem::PRIVATE, pkcs8.as_ref()),
    };
    Ok((public, file))
}

fn public_of(pair: &Ed25519KeyPair) -> PublicKey {
    PublicKey::from_bytes(pair.public_key().as_ref()).expect("invariant: an Ed25519 public key has 32 bytes")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::token::Token;

    #[test]
    fn a_public_key_in_hand_is_no_token() {
        let (public, file) = generate(&"organizations/acme/serviceaccounts/ci".parse().unwrap()).unwrap();
        assert_eq!(file.public_key.parse(), Ok(public));
        let posing: Token = format!("tb_{public}").parse().unwrap();
        assert_ne!(posing.sha256(), public.sha256());
        assert!(!format!("{file:?}").contains("PRIVATE"));
    }

    #[test]
    fn what_is_no_public_key_is_refused() {
        let padded = format!("{}=", "A".repeat(43));
        for text in ["", "AAAA", &padded, &"A".repeat(44), &"!".repeat(43)] {
            assert_eq!(text.parse::<PublicKey>(), Err(BadPublicKey), "{text}");
        }
    }
}
