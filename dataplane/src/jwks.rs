//! An issuer's keys (RFC 7517), and whether one of them has signed something. Only public keys that are for signatures are kept: a
//! secret that both sides know (`oct`) is none, so that no public key can be taken for one.

use aws_lc_rs::rsa::PublicKeyComponents;
use aws_lc_rs::signature::{self, EcdsaVerificationAlgorithm, ParsedPublicKey, RsaParameters};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::json::{Json, Object};

mod remote;

pub(crate) use remote::{Fetchers, Place, Remote, RemoteKeys, known};

/// Of one set; issuers have a handful.
const KEYS_MAX: usize = 64;
/// Against which one token is held: whoever makes it up should not make much work.
const TRIED_MAX: usize = 8;

/// How tokens are signed (RFC 7518, section 3.1, and RFC 8037).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    Es512,
    EdDsa,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct KeySet(Box<[Key]>);

#[derive(Clone, Debug)]
struct Key {
    /// Tokens that name another one are not held against it.
    id: Option<Box<str>>,
    /// By each algorithm that it may have been used with: reading a key takes longer than what is then done with it.
    by: Box<[(Algorithm, ParsedPublicKey)]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadKeys {
    #[error("is not a JSON object")]
    Syntax,
    #[error("has no list of keys")]
    NoList,
    #[error("has more than {KEYS_MAX} keys")]
    TooMany,
    #[error("has no public key for signatures that this proxy knows")]
    NoneUsable,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unverified {
    /// There is none of that name for that algorithm.
    NoKey,
    Forged,
}

/// What a token says of its signature.
#[derive(Clone, Copy)]
pub(crate) struct Signed<'a> {
    pub(crate) algorithm: Algorithm,
    pub(crate) key: Option<&'a str>,
    pub(crate) message: &'a [u8],
    pub(crate) signature: &'a [u8],
}

impl Algorithm {
    /// None for those that are no signatures (`none`, `HS256`) and for what nobody knows.
    pub(crate) fn of(name: &str) -> Option<Self> {
        Some(match name {
            "RS256" => Self::Rs256,
            "RS384" => Self::Rs384,
            "RS512" => Self::Rs512,
            "PS256" => Self::Ps256,
            "PS384" => Self::Ps384,
            "PS512" => Self::Ps512,
            "ES256" => Self::Es256,
            "ES384" => Self::Es384,
            "ES512" => Self::Es512,
            "EdDSA" => Self::EdDsa,
            _ => return None,
        })
    }
}

impl KeySet {
    /// Keys that are of no use are left out; a set without one that is, is none.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, BadKeys> {
        let object = Json::object(text).ok_or(BadKeys::Syntax)?;
        let Some(Json::List(keys)) = object.get("keys") else {
            return Err(BadKeys::NoList);
        };
        if keys.len() > KEYS_MAX {
            return Err(BadKeys::TooMany);
        }
        let keys = keys.iter().filter_map(|key| match key {
            Json::Object(key) => Key::new(key),
            _ => None,
        });
        let keys: Box<[Key]> = keys.collect();
        if keys.is_empty() {
            return Err(BadKeys::NoneUsable);
        }
        Ok(Self(keys))
    }

    pub(crate) fn verify(&self, signed: Signed<'_>) -> Result<(), Unverified> {
        let meant = || self.0.iter().filter(|key| key.is_meant(signed));
        let is_named = |key: &&Key| signed.key.is_some() && key.id.as_deref() == signed.key;
        let named = meant().filter(is_named);
        let mut tried = named.chain(meant().filter(|key| !is_named(key))).take(TRIED_MAX);
        if tried.any(|key| key.has_signed(signed)) {
            return Ok(());
        }
        // Where the key of that name is missing, others that have none say nothing of it.
        let is_there = match signed.key {
            Some(_) => meant().any(|key| is_named(&key)),
            None => meant().next().is_some(),
        };
        Err(if is_there {
            Unverified::Forged
        } else {
            Unverified::NoKey
        })
    }
}

impl Key {
    fn new(fields: &Object) -> Option<Self> {
        let text = |name: &str| match fields.get(name) {
            None | Some(Json::Null) => Some(None),
            Some(Json::Text(text)) => Some(Some(&**text)),
            Some(_) => None,
        };
        let is_for_signatures = text("use")?.is_none_or(|used| used == "sig");
        let verifies = match fields.get("key_ops") {
            None | Some(Json::Null) => true,
            Some(Json::List(operations)) => operations.iter().any(|one| one.text() == Some("verify")),
            Some(_) => false,
        };
        if !is_for_signatures || !verifies {
            return None;
        }
        let said = match text("alg")? {
            None => None,
            Some(name) => Some(Algorithm::of(name)?),
        };
        let number = |name: &str| URL_SAFE_NO_PAD.decode(text(name)??).ok();
        let mut by = match (text("kty")??, text("crv")?) {
            ("RSA", _) => rsa(&number("n")?, &number("e")?)?,
            ("EC", Some(curve)) => vec![on_curve(curve, &number("x")?, &number("y")?)?],
            ("OKP", Some("Ed25519")) => {
                let key = ParsedPublicKey::new(&signature::ED25519, number("x")?).ok()?;
                vec![(Algorithm::EdDsa, key)]
            }
            _ => return None,
        };
        by.retain(|(algorithm, _)| said.is_none_or(|said| said == *algorithm));
        // One that says an algorithm of another kind can have signed nothing.
        (!by.is_empty()).then_some(Self {
            id: text("kid")?.filter(|id| !id.is_empty()).map(Box::from),
            by: by.into(),
        })
    }

    fn is_meant(&self, signed: Signed<'_>) -> bool {
        let is_named = match (&self.id, signed.key) {
            (Some(id), Some(named)) => **id == *named,
            (None, _) | (_, None) => true,
        };
        is_named && self.by(signed.algorithm).is_some()
    }

    fn has_signed(&self, signed: Signed<'_>) -> bool {
        let key = self.by(signed.algorithm);
        key.is_some_and(|key| key.verify_sig(signed.message, signed.signature).is_ok())
    }

    fn by(&self, algorithm: Algorithm) -> Option<&ParsedPublicKey> {
        let mut by = self.by.iter();
        by.find(|(other, _)| *other == algorithm).map(|(_, key)| key)
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        let is_same = |(one, other): (&(Algorithm, ParsedPublicKey), &(Algorithm, ParsedPublicKey))| {
            one.0 == other.0 && one.1.as_ref() == other.1.as_ref()
        };
        self.id == other.id && self.by.len() == other.by.len() && self.by.iter().zip(&other.by).all(is_same)
    }
}

/// Of 2048 to 8192 bits, as whoever verifies has it.
fn rsa(n: &[u8], e: &[u8]) -> Option<Vec<(Algorithm, ParsedPublicKey)>> {
    let of: [(Algorithm, &'static RsaParameters); 6] = [
        (Algorithm::Rs256, &signature::RSA_PKCS1_2048_8192_SHA256),
        (Algorithm::Rs384, &signature::RSA_PKCS1_2048_8192_SHA384),
        (Algorithm::Rs512, &signature::RSA_PKCS1_2048_8192_SHA512),
        (Algorithm::Ps256, &signature::RSA_PSS_2048_8192_SHA256),
        (Algorithm::Ps384, &signature::RSA_PSS_2048_8192_SHA384),
        (Algorithm::Ps512, &signature::RSA_PSS_2048_8192_SHA512),
    ];
    let stripped = |number: &'_ [u8]| {
        let zeros = number.iter().take_while(|byte| **byte == 0).count();
        number[zeros..].to_vec()
    };
    let (n, e) = (stripped(n), stripped(e));
    if !(256..=1024).contains(&n.len()) || !(1..=8).contains(&e.len()) {
        return None;
    }
    let key = PublicKeyComponents { n, e };
    let parsed = |(algorithm, parameters)| Some((algorithm, key.to_parsed_public_key(parameters).ok()?));
    of.into_iter().map(parsed).collect()
}

fn on_curve(name: &str, x: &[u8], y: &[u8]) -> Option<(Algorithm, ParsedPublicKey)> {
    let (algorithm, parameters, coordinate_bytes): (_, &'static EcdsaVerificationAlgorithm, _) = match name {
        "P-256" => (Algorithm::Es256, &signature::ECDSA_P256_SHA256_FIXED, 32),
        "P-384" => (Algorithm::Es384, &signature::ECDSA_P384_SHA384_FIXED, 48),
        "P-521" => (Algorithm::Es512, &signature::ECDSA_P521_SHA512_FIXED, 66),
        _ => return None,
    };
    if x.len() != coordinate_bytes || y.len() != coordinate_bytes {
        return None;
    }
    // The point, not compressed.
    let key = ParsedPublicKey::new(parameters, [&[4], x, y].concat()).ok()?;
    Some((algorithm, key))
}

#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod tests;
