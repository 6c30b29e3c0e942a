//! Assertions: short JSON Web Tokens (RFC 7519) that a service account signs itself, and sends as its bearer token. Of the
//! many algorithms that the format knows there is one, EdDSA with Ed25519 (RFC 8037).

use aws_lc_rs::signature::Ed25519KeyPair;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tombolo_compiler::name::Fqn;
use uuid::Uuid;

use super::{BadKeyFile, KeyFile, PublicKey, public_of};
use crate::pem;

/// From `iat` to `exp`: one is made for each request, and remembered until it ends.
const LIFE_MAX: TimeDelta = TimeDelta::minutes(5);
/// By which the clock of whoever signs may go wrong.
const SKEW_MAX: TimeDelta = TimeDelta::minutes(1);
/// Of the whole text. A name and an audience have a few hundred bytes.
const TEXT_BYTES_MAX: usize = 4096;
const ALGORITHM: &str = "EdDSA";

/// Signs for the holder of a key's file.
pub struct Signer {
    pair: Ed25519KeyPair,
    file: KeyFile,
}

/// What was signed, and with which key; whose that is, the database knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Assertion {
    pub(crate) key: PublicKey,
    pub(crate) subject: Fqn,
    pub(crate) expires_at: DateTime<Utc>,
    /// Of what was signed, by which it is known again: it lets in once.
    pub(crate) sha256: [u8; 32],
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadAssertion {
    #[error("the assertion is malformed: {0}")]
    Malformed(String),
    #[error("the assertion says alg {0:?}; sign it with {ALGORITHM}")]
    Algorithm(String),
    #[error("the assertion has crit in its header, of which nothing is known here")]
    Critical,
    #[error("the assertion's signature is not that of the key in its kid")]
    Signature,
    #[error("the assertion is for another audience; sign it for {0}")]
    Audience(String),
    #[error("the assertion's iss is not its sub: a service account speaks for itself alone")]
    Issuer,
    #[error("the assertion expired at {}; sign a new one", .0.to_rfc3339())]
    Expired(DateTime<Utc>),
    #[error("the assertion is not good before {}; compare your clock with the server's, where it is {}",
        good_from.to_rfc3339(), now.to_rfc3339())]
    Early {
        good_from: DateTime<Utc>,
        now: DateTime<Utc>,
    },
    #[error("the assertion lives longer than {} s from its iat to its exp", LIFE_MAX.num_seconds())]
    Long,
}

#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    #[serde(skip_serializing)]
    crit: Option<IgnoredAny>,
    kid: String,
}

/// Others are of no concern (RFC 7519, section 4).
#[derive(Serialize, Deserialize)]
struct Claims {
    sub: Fqn,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<String>,
    aud: Audience,
    iat: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    nbf: Option<i64>,
    exp: i64,
    /// Tells one from another that is signed in the same second.
    #[serde(skip_serializing_if = "Option::is_none")]
    jti: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Signer {
    /// # Errors
    /// When the text is not that of a key's file, or its halves do not belong together.
    pub fn new(text: &str) -> Result<Signer, BadKeyFile> {
        let file: KeyFile =
            serde_json::from_str(text).map_err(|error| BadKeyFile::Syntax(error.to_string()))?;
        let der = pem::blocks(&file.private_key, pem::PRIVATE).into_iter().next();
        let pair = der.and_then(|der| Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).ok());
        let pair = pair.ok_or(BadKeyFile::NoPrivateKey)?;
        if public_of(&pair).to_string() != file.public_key {
            return Err(BadKeyFile::OtherPublicKey);
        }
        Ok(Signer { pair, file })
    }

    /// An assertion from `now` on.
    pub fn sign(&self, now: DateTime<Utc>, life: TimeDelta) -> String {
        let header = Header {
            alg: ALGORITHM.to_owned(),
            crit: None,
            kid: self.file.public_key.clone(),
        };
        let claims = Claims {
            sub: self.file.subject.clone(),
            iss: Some(self.file.subject.to_string()),
            aud: Audience::One(self.file.audience.clone()),
            iat: now.timestamp(),
            nbf: None,
            exp: (now + life).timestamp(),
            jti: Some(Uuid::now_v7().to_string()),
        };
        let signed = format!("{}.{}", encode(&header), encode(&claims));
        let signature = self.pair.sign(signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signer({:?})", self.file)
    }
}

/// Whether somebody takes it for an assertion, and no token of ours.
pub(crate) fn is_one(text: &str) -> bool {
    text.contains('.')
}

/// What is signed is looked at last: until then it is anybody's word.
///
/// # Errors
/// When it is not signed by the key that it names, is for others, or not of now.
pub(crate) fn verify(text: &str, audience: &Fqn, now: DateTime<Utc>) -> Result<Assertion, BadAssertion> {
    let malformed = |what: &str| BadAssertion::Malformed(what.to_owned());
    if text.len() > TEXT_BYTES_MAX {
        return Err(malformed("it is too long"));
    }
    let (signed, signature) = text.rsplit_once('.').ok_or_else(|| malformed("it has no dots"))?;
    let (header, claims) = signed
        .split_once('.')
        .ok_or_else(|| malformed("it has not three parts"))?;
    let header: Header = decode("header", header)?;
    if header.alg != ALGORITHM {
        return Err(BadAssertion::Algorithm(header.alg));
    }
    if header.crit.is_some() {
        return Err(BadAssertion::Critical);
    }
    let key: PublicKey = header
        .kid
        .parse()
        .map_err(|error| BadAssertion::Malformed(format!("kid: {error}")))?;
    let signature = URL_SAFE_NO_PAD
        .decode(signature)
        .map_err(|_| malformed("its signature is not base64url"))?;
    if !key.has_signed(signed.as_bytes(), &signature) {
        return Err(BadAssertion::Signature);
    }
    let claims: Claims = decode("claims", claims)?;
    check(&claims, audience, now).map(|expires_at| Assertion {
        key,
        subject: claims.sub,
        expires_at,
        sha256: Sha256::digest(signed).into(),
    })
}

/// When it ends.
fn check(claims: &Claims, audience: &Fqn, now: DateTime<Utc>) -> Result<DateTime<Utc>, BadAssertion> {
    let for_us = match &claims.aud {
        Audience::One(one) => one == audience.as_str(),
        Audience::Many(many) => many.iter().any(|one| one == audience.as_str()),
    };
    if !for_us {
        return Err(BadAssertion::Audience(audience.to_string()));
    }
    if claims.iss.as_ref().is_some_and(|iss| *iss != claims.sub.as_str()) {
        return Err(BadAssertion::Issuer);
    }
    let (from, until) = (instant("iat", claims.iat)?, instant("exp", claims.exp)?);
    let good_from = match claims.nbf {
        Some(nbf) => instant("nbf", nbf)?.max(from),
        None => from,
    };
    if until <= now {
        return Err(BadAssertion::Expired(until));
    }
    if good_from > now + SKEW_MAX {
        return Err(BadAssertion::Early { good_from, now });
    }
    if until - from > LIFE_MAX {
        return Err(BadAssertion::Long);
    }
    Ok(until)
}

fn instant(claim: &str, seconds: i64) -> Result<DateTime<Utc>, BadAssertion> {
    DateTime::from_timestamp(seconds, 0)
        .ok_or_else(|| BadAssertion::Malformed(format!("{claim}: out of range")))
}

fn encode(part: &impl Serialize) -> String {
    let text =
        serde_json::to_vec(part).expect("invariant: a header and claims have string keys and no floats");
    URL_SAFE_NO_PAD.encode(text)
}

fn decode<T: DeserializeOwned>(what: &str, part: &str) -> Result<T, BadAssertion> {
    let bytes = URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_| BadAssertion::Malformed(format!("its {what} is not base64url")))?;
    serde_json::from_slice(&bytes).map_err(|error| BadAssertion::Malformed(format!("its {what}: {error}")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::{Value, json};

    use super::super::generate;
    use super::*;

    const ACCOUNT: &str = "organizations/acme/tenants/pay/serviceaccounts/ci";
    const MINUTE: TimeDelta = TimeDelta::minutes(1);

    fn signer() -> Signer {
        let (_, file) = generate(&ACCOUNT.parse().unwrap()).unwrap();
        Signer::new(&serde_json::to_string(&file).unwrap()).unwrap()
    }

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 0).unwrap()
    }

    fn acme() -> Fqn {
        "organizations/acme".parse().unwrap()
    }

    /// With other parts, signed all the same.
    fn signed(signer: &Signer, header: Value, claims: Value) -> String {
        let fields = |base: Value, more: Value| {
            let mut all = base;
            for (name, value) in more.as_object().unwrap() {
                all[name] = value.clone();
            }
            all.as_object_mut().unwrap().retain(|_, value| !value.is_null());
            encode(&all)
        };
        let header = fields(json!({"alg": "EdDSA", "kid": signer.file.public_key}), header);
        let base = json!({"sub": ACCOUNT, "aud": "organizations/acme", "iat": now().timestamp(),
            "exp": now().timestamp() + 60});
        let text = format!("{header}.{}", fields(base, claims));
        let signature = signer.pair.sign(text.as_bytes());
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    #[test]
    fn an_assertion_says_who_signed_it_until_it_ends() {
        let signer = signer();
        let text = signer.sign(now(), MINUTE);
        assert!(is_one(&text));
        let expected = Assertion {
            key: signer.file.public_key.parse().unwrap(),
            subject: ACCOUNT.parse().unwrap(),
            expires_at: now() + MINUTE,
            sha256: Sha256::digest(text.rsplit_once('.').unwrap().0).into(),
        };
        for (at, found) in [
            (now(), Ok(expected.clone())),
            (now() - MINUTE, Ok(expected.clone())),
            (now() + MINUTE - TimeDelta::seconds(1), Ok(expected)),
            (now() + MINUTE, Err(BadAssertion::Expired(now() + MINUTE))),
            (
                now() - TimeDelta::seconds(61),
                Err(BadAssertion::Early {
                    good_from: now(),
                    now: now() - TimeDelta::seconds(61),
                }),
            ),
        ] {
            assert_eq!(verify(&text, &acme(), at), found, "{at}");
        }
        let other = "organizations/other".parse().unwrap();
        assert_eq!(
            verify(&text, &other, now()),
            Err(BadAssertion::Audience("organizations/other".to_owned()))
        );
    }

    #[test]
    fn claims_and_headers_are_taken_at_their_word_and_no_further() {
        let signer = signer();
        let at = now().timestamp();
        for (header, claims, error) in [
            (json!({}), json!({}), None),
            (
                json!({"typ": "JWT", "x": 1}),
                json!({"iss": ACCOUNT, "more": {}}),
                None,
            ),
            (
                json!({}),
                json!({"aud": ["elsewhere", "organizations/acme"]}),
                None,
            ),
            (json!({}), json!({"exp": at + 300}), None),
            (
                json!({}),
                json!({"exp": at + 301}),
                Some("lives longer than 300 s"),
            ),
            (
                json!({}),
                json!({"iat": at - 300}),
                Some("lives longer than 300 s"),
            ),
            (json!({}), json!({"nbf": at + 61}), Some("not good before")),
            (json!({}), json!({"aud": ["elsewhere"]}), Some("another audience")),
            (json!({}), json!({"iss": "somebody"}), Some("iss is not its sub")),
            (json!({}), json!({"exp": null}), Some("missing field `exp`")),
            (json!({}), json!({"iat": null}), Some("missing field `iat`")),
            (json!({}), json!({"aud": null}), Some("missing field `aud`")),
            (json!({}), json!({"sub": "ann"}), Some("malformed")),
            (json!({}), json!({"exp": i64::MAX}), Some("exp: out of range")),
            (
                json!({"alg": "none"}),
                json!({}),
                Some("says alg \"none\"; sign it with EdDSA"),
            ),
            (json!({"alg": "HS256"}), json!({}), Some("says alg \"HS256\"")),
            (
                json!({"kid": "k1"}),
                json!({}),
                Some("kid: it is no Ed25519 public key"),
            ),
            (json!({"crit": ["b64"]}), json!({}), Some("has crit")),
        ] {
            let text = signed(&signer, header, claims);
            let found = verify(&text, &acme(), now()).err().map(|error| error.to_string());
            assert_eq!(found.is_some(), error.is_some(), "{text}: {found:?}");
            let found = found.unwrap_or_default();
            assert!(
                found.contains(error.unwrap_or_default()),
                "{found} and not {error:?}"
            );
        }
    }

    #[test]
    fn what_was_tampered_with_is_refused() {
        let (ours, theirs) = (signer(), signer());
        let text = ours.sign(now(), MINUTE);
        let parts: Vec<&str> = text.split('.').collect();
        let [header, claims, signature] = parts[..] else {
            panic!("{text}")
        };
        let later = signed(&ours, json!({}), json!({"exp": now().timestamp() + 200}));
        let later = later.split('.').nth(1).unwrap();
        let posing = signed(&theirs, json!({"kid": ours.file.public_key}), json!({}));
        for bad in [
            format!("{header}.{later}.{signature}"),
            format!("{header}.{claims}."),
            posing,
        ] {
            assert_eq!(
                verify(&bad, &acme(), now()),
                Err(BadAssertion::Signature),
                "{bad}"
            );
        }
        let long = "a".repeat(5000);
        for bad in [
            "",
            ".",
            "..",
            &format!("{header}.{claims}"),
            &format!("{header}.{claims}.{signature}="),
            &format!("{header}.{claims}.{signature}.x"),
            &long,
        ] {
            let found = verify(bad, &acme(), now());
            assert!(
                matches!(found, Err(BadAssertion::Malformed(_))),
                "{bad}: {found:?}"
            );
        }
    }

    /// RFC 8037, appendix A.4.
    #[test]
    fn signatures_are_those_of_other_software() {
        let public: PublicKey = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo".parse().unwrap();
        let signature =
            "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        assert!(public.has_signed(
            b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc",
            &signature
        ));
    }

    #[test]
    fn a_file_whose_halves_differ_is_refused() {
        let (ours, theirs) = (signer(), signer());
        let mixed = KeyFile {
            public_key: theirs.file.public_key,
            ..ours.file.clone()
        };
        let empty = KeyFile {
            private_key: String::new(),
            ..ours.file
        };
        let text = |file: &KeyFile| serde_json::to_string(file).unwrap();
        assert_eq!(
            Signer::new(&text(&mixed)).unwrap_err(),
            BadKeyFile::OtherPublicKey
        );
        assert_eq!(Signer::new(&text(&empty)).unwrap_err(), BadKeyFile::NoPrivateKey);
        let error = Signer::new("{}").unwrap_err().to_string();
        assert!(error.contains("missing field `subject`"), "{error}");
    }
}
