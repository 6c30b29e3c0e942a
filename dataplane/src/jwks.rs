//! An issuer's keys (RFC 7517), and whether one of them has signed something. Only public keys that are for signatures are kept: a
//! secret that both sides know (`oct`) is none, so that no public key can be taken for one.

use aws_lc_rs::rsa::PublicKeyComponents;
use aws_lc_rs::signature::{
    self, EcdsaVerificationAlgorithm, ParsedPublicKey, RsaParameters, UnparsedPublicKey,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::json::{Json, Object};

mod remote;

pub(crate) use remote::{Fetchers, Remote, RemoteKeys, known};

/// Of one set. A token that names none is held against each of them, and issuers have a handful.
const KEYS_MAX: usize = 64;

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

#[derive(Clone, Debug, PartialEq)]
struct Key {
    /// Tokens that name another one are not held against it.
    id: Option<Box<str>>,
    algorithm: Option<Algorithm>,
    material: Material,
}

#[derive(Clone, Debug, PartialEq)]
enum Material {
    Rsa {
        n: Box<[u8]>,
        e: Box<[u8]>,
    },
    /// The point, not compressed.
    Curve(Curve, Box<[u8]>),
    Ed25519(Box<[u8]>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Curve {
    P256,
    P384,
    P521,
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

    fn rsa(self) -> Option<&'static RsaParameters> {
        Some(match self {
            Self::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
            Self::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
            Self::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
            Self::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
            Self::Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
            Self::Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
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
        let mut verified = Err(Unverified::NoKey);
        for key in self.0.iter().filter(|key| key.is_meant(signed)) {
            if key.material.has_signed(signed) {
                return Ok(());
            }
            verified = Err(Unverified::Forged);
        }
        verified
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
        let algorithm = match text("alg")? {
            None => None,
            Some(name) => Some(Algorithm::of(name)?),
        };
        let number = |name: &str| URL_SAFE_NO_PAD.decode(text(name)??).ok();
        let material = match (text("kty")??, text("crv")?) {
            ("RSA", _) => Material::rsa(&number("n")?, &number("e")?)?,
            ("EC", Some(curve)) => Material::curve(Curve::of(curve)?, &number("x")?, &number("y")?)?,
            ("OKP", Some("Ed25519")) => {
                let key = number("x")?;
                ParsedPublicKey::new(&signature::ED25519, &key).ok()?;
                Material::Ed25519(key.into())
            }
            _ => return None,
        };
        let key = Self {
            id: text("kid")?.filter(|id| !id.is_empty()).map(Box::from),
            algorithm,
            material,
        };
        // One that says an algorithm of another kind can have signed nothing.
        key.algorithm
            .is_none_or(|algorithm| key.material.fits(algorithm))
            .then_some(key)
    }

    fn is_meant(&self, signed: Signed<'_>) -> bool {
        let is_named = match (&self.id, signed.key) {
            (Some(id), Some(named)) => **id == *named,
            (None, _) | (_, None) => true,
        };
        is_named
            && self
                .algorithm
                .is_none_or(|algorithm| algorithm == signed.algorithm)
            && self.material.fits(signed.algorithm)
    }
}

impl Curve {
    fn of(name: &str) -> Option<Self> {
        match name {
            "P-256" => Some(Self::P256),
            "P-384" => Some(Self::P384),
            "P-521" => Some(Self::P521),
            _ => None,
        }
    }

    /// Of a coordinate.
    fn bytes(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }

    fn algorithm(self) -> &'static EcdsaVerificationAlgorithm {
        match self {
            Self::P256 => &signature::ECDSA_P256_SHA256_FIXED,
            Self::P384 => &signature::ECDSA_P384_SHA384_FIXED,
            Self::P521 => &signature::ECDSA_P521_SHA512_FIXED,
        }
    }
}

impl Material {
    /// Of 2048 to 8192 bits, as whoever verifies has it.
    fn rsa(n: &[u8], e: &[u8]) -> Option<Self> {
        let stripped = |number: &[u8]| {
            let zeros = number.iter().take_while(|byte| **byte == 0).count();
            Box::<[u8]>::from(&number[zeros..])
        };
        let (n, e) = (stripped(n), stripped(e));
        let is_fit = (256..=1024).contains(&n.len()) && (1..=8).contains(&e.len());
        is_fit.then_some(Self::Rsa { n, e })
    }

    fn curve(curve: Curve, x: &[u8], y: &[u8]) -> Option<Self> {
        if x.len() != curve.bytes() || y.len() != curve.bytes() {
            return None;
        }
        let point = [&[4], x, y].concat();
        ParsedPublicKey::new(curve.algorithm(), &point).ok()?;
        Some(Self::Curve(curve, point.into()))
    }

    fn fits(&self, algorithm: Algorithm) -> bool {
        match self {
            Self::Rsa { .. } => algorithm.rsa().is_some(),
            Self::Curve(Curve::P256, _) => algorithm == Algorithm::Es256,
            Self::Curve(Curve::P384, _) => algorithm == Algorithm::Es384,
            Self::Curve(Curve::P521, _) => algorithm == Algorithm::Es512,
            Self::Ed25519(_) => algorithm == Algorithm::EdDsa,
        }
    }

    fn has_signed(&self, signed: Signed<'_>) -> bool {
        let Signed {
            message, signature, ..
        } = signed;
        match self {
            Self::Rsa { n, e } => signed.algorithm.rsa().is_some_and(|parameters| {
                let key = PublicKeyComponents { n, e };
                key.verify(parameters, message, signature).is_ok()
            }),
            Self::Curve(curve, point) => UnparsedPublicKey::new(curve.algorithm(), point)
                .verify(message, signature)
                .is_ok(),
            Self::Ed25519(key) => UnparsedPublicKey::new(&signature::ED25519, key)
                .verify(message, signature)
                .is_ok(),
        }
    }
}

#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod tests;
