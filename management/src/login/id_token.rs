//! Whether an ID token is good: signed by the provider, made for us, for this login, and still valid (OpenID Connect
//! Core 1.0, section 3.1.3.7). On aws-lc-rs, as everything that is signed here: a library for this would bring an RSA
//! and elliptic curves of its own.

use aws_lc_rs::digest::{self, SHA256, SHA384, SHA512, digest};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents,
    UnparsedPublicKey, VerificationAlgorithm,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

/// By which two clocks may differ.
const LEEWAY_S: i64 = 60;
/// A person in hundreds of groups has some kilobytes.
const TOKEN_BYTES_MAX: usize = 64 * 1024;
/// Each may have to be tried. A provider has two or three while it changes them.
const KEYS_MAX: usize = 32;
/// OpenID Connect Core 1.0, section 2.
const SUBJECT_BYTES_MAX: usize = 255;
/// How a point on a curve begins that is not compressed (SEC 1, section 2.3.3).
const UNCOMPRESSED: u8 = 4;

/// What a provider signs with (RFC 7517).
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct KeySet {
    #[serde(deserialize_with = "usable")]
    keys: Vec<Key>,
}

/// A public key. What it has not is empty, and verifies nothing.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Key {
    kty: String,
    crv: String,
    kid: Option<String>,
    r#use: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    n: String,
    e: String,
    x: String,
    y: String,
}

/// What the token must say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected<'a> {
    pub(crate) issuer: &'a str,
    pub(crate) client_id: &'a str,
    pub(crate) nonce: &'a str,
    /// That came with it, if one did.
    pub(crate) access_token: Option<&'a str>,
    pub(crate) now: DateTime<Utc>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadIdToken {
    #[error("it is not a signed JSON web token, or longer than {TOKEN_BYTES_MAX} bytes")]
    Malformed,
    /// The secret of the client can sign nothing: whoever has it is not the provider.
    #[error("it is signed with {0:?}, which is not taken")]
    Algorithm(String),
    #[error("none of the provider's keys has signed it")]
    Signature,
    #[error("its claim {claim} is not what it must be")]
    Claim { claim: &'static str },
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<Value>,
}

/// What a key of a sort verifies with.
enum Algorithm {
    Rsa(&'static RsaParameters),
    Curve {
        name: &'static str,
        verifies: &'static dyn VerificationAlgorithm,
    },
    Ed25519,
}

/// The claims of a token that is good.
pub(crate) fn verify(
    token: &str,
    keys: &KeySet,
    expected: &Expected<'_>,
) -> Result<Map<String, Value>, BadIdToken> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(BadIdToken::Malformed);
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(BadIdToken::Malformed)?;
    let (header, payload) = signed.split_once('.').ok_or(BadIdToken::Malformed)?;
    let header: Header = json(header)?;
    let signature = decoded(signature).ok_or(BadIdToken::Malformed)?;
    let algorithm = algorithm(&header.alg).ok_or_else(|| BadIdToken::Algorithm(header.alg.clone()))?;
    // Whatever it says must be understood is nothing that we do.
    if header.crit.is_some() {
        return Err(BadIdToken::Malformed);
    }
    let mut keys = keys.keys.iter().filter(|key| key.may_verify(&header));
    if !keys.any(|key| key.verifies(&algorithm, signed.as_bytes(), &signature)) {
        return Err(BadIdToken::Signature);
    }
    let claims: Map<String, Value> = json(payload)?;
    check(&claims, &header.alg, expected)?;
    Ok(claims)
}

fn check(claims: &Map<String, Value>, algorithm: &str, expected: &Expected<'_>) -> Result<(), BadIdToken> {
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    let time = |name: &str| claims.get(name).and_then(Value::as_f64);
    let now = expected.now.timestamp() as f64;
    let leeway = LEEWAY_S as f64;
    let audience = match claims.get("aud") {
        Some(Value::String(one)) => one == expected.client_id,
        // One that is for others as well must say that it was asked for by us.
        Some(Value::Array(many)) => {
            many.iter().any(|one| one == expected.client_id)
                && (many.len() == 1 || text("azp") == Some(expected.client_id))
        }
        _ => false,
    };
    let subject = text("sub").is_some_and(|subject| {
        (1..=SUBJECT_BYTES_MAX).contains(&subject.len()) && !subject.contains(char::is_control)
    });
    let access_token = match (claims.get("at_hash"), expected.access_token) {
        (Some(hash), Some(access_token)) => *hash == half_hash(algorithm, access_token),
        _ => true,
    };
    for (claim, holds) in [
        ("iss", text("iss") == Some(expected.issuer)),
        ("aud", audience),
        (
            "azp",
            claims.get("azp").is_none_or(|azp| azp == expected.client_id),
        ),
        ("nonce", text("nonce") == Some(expected.nonce)),
        ("exp", time("exp").is_some_and(|at| now < at + leeway)),
        ("iat", time("iat").is_some_and(|at| at < now + leeway)),
        (
            "nbf",
            !claims.contains_key("nbf") || time("nbf").is_some_and(|at| at < now + leeway),
        ),
        ("sub", subject),
        ("at_hash", access_token),
    ] {
        if !holds {
            return Err(BadIdToken::Claim { claim });
        }
    }
    Ok(())
}

impl Key {
    fn may_verify(&self, header: &Header) -> bool {
        let same = |own: &Option<String>, other: &str| own.as_ref().is_none_or(|own| own == other);
        let verifies = |uses: &Vec<String>| uses.iter().any(|given| given == "verify");
        same(&self.r#use, "sig")
            && self.key_ops.as_ref().is_none_or(verifies)
            && same(&self.alg, &header.alg)
            && header
                .kid
                .as_ref()
                .is_none_or(|kid| self.kid.as_ref() == Some(kid))
    }

    fn verifies(&self, algorithm: &Algorithm, signed: &[u8], signature: &[u8]) -> bool {
        let parts = |one: &str, other: &str| Some((decoded(one)?, decoded(other)?));
        match algorithm {
            Algorithm::Rsa(parameters) if self.kty == "RSA" => {
                parts(&self.n, &self.e).is_some_and(|(n, e)| {
                    RsaPublicKeyComponents { n, e }
                        .verify(parameters, signed, signature)
                        .is_ok()
                })
            }
            Algorithm::Curve { name, verifies } if self.kty == "EC" && self.crv == *name => {
                parts(&self.x, &self.y).is_some_and(|(x, y)| {
                    let point = [&[UNCOMPRESSED], x.as_slice(), y.as_slice()].concat();
                    UnparsedPublicKey::new(*verifies, point)
                        .verify(signed, signature)
                        .is_ok()
                })
            }
            Algorithm::Ed25519 if self.kty == "OKP" && self.crv == "Ed25519" => {
                decoded(&self.x).is_some_and(|x| {
                    UnparsedPublicKey::new(&ED25519, x)
                        .verify(signed, signature)
                        .is_ok()
                })
            }
            _ => false,
        }
    }
}

/// RFC 7518, section 3.1, without those that need a shared secret, and without `none`.
fn algorithm(name: &str) -> Option<Algorithm> {
    Some(match name {
        "RS256" => Algorithm::Rsa(&RSA_PKCS1_2048_8192_SHA256),
        "RS384" => Algorithm::Rsa(&RSA_PKCS1_2048_8192_SHA384),
        "RS512" => Algorithm::Rsa(&RSA_PKCS1_2048_8192_SHA512),
        "PS256" => Algorithm::Rsa(&RSA_PSS_2048_8192_SHA256),
        "PS384" => Algorithm::Rsa(&RSA_PSS_2048_8192_SHA384),
        "PS512" => Algorithm::Rsa(&RSA_PSS_2048_8192_SHA512),
        "ES256" => Algorithm::Curve {
            name: "P-256",
            verifies: &ECDSA_P256_SHA256_FIXED,
        },
        "ES384" => Algorithm::Curve {
            name: "P-384",
            verifies: &ECDSA_P384_SHA384_FIXED,
        },
        "EdDSA" => Algorithm::Ed25519,
        _ => return None,
    })
}

/// Which access token it belongs to (OpenID Connect Core 1.0, section 3.1.3.6), with the hash of the signature.
fn half_hash(algorithm: &str, access_token: &str) -> String {
    let with: &digest::Algorithm = match algorithm {
        "RS256" | "PS256" | "ES256" => &SHA256,
        "RS384" | "PS384" | "ES384" => &SHA384,
        _ => &SHA512,
    };
    let hash = digest(with, access_token.as_bytes());
    let (half, _) = hash.as_ref().split_at(hash.as_ref().len() / 2);
    URL_SAFE_NO_PAD.encode(half)
}

/// Keys that we do not understand are nothing to us (RFC 7517, section 5).
fn usable<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Key>, D::Error> {
    let all = Vec::<Value>::deserialize(deserializer)?.into_iter();
    let keys = all.filter_map(|key| serde_json::from_value(key).ok());
    Ok(keys.take(KEYS_MAX).collect())
}

fn json<T: serde::de::DeserializeOwned>(part: &str) -> Result<T, BadIdToken> {
    let bytes = decoded(part).ok_or(BadIdToken::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| BadIdToken::Malformed)
}

fn decoded(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
    use serde_json::json;

    use super::*;

    const NOW: i64 = 1_800_000_000;

    struct Signer(EcdsaKeyPair);

    impl Signer {
        fn new() -> Signer {
            Signer(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
        }

        fn key(&self) -> Value {
            let point = self.0.public_key().as_ref();
            let (x, y) = point[1..].split_at(32);
            let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
            json!({"kty": "EC", "crv": "P-256", "kid": "1", "use": "sig", "alg": "ES256", "x": x, "y": y})
        }

        fn sign(&self, header: &Value, claims: &Value) -> String {
            let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
            let signed = format!("{}.{}", part(header), part(claims));
            let signature = self.0.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
            format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
        }
    }

    fn claims(changes: &Value) -> Value {
        let mut claims = json!({
            "iss": "https://id.example.com", "aud": "tombolo", "sub": "7", "nonce": "n",
            "iat": NOW - 1, "exp": NOW + 300, "groups": ["ops"],
        });
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims
    }

    fn verified(token: &str, keys: &[Value]) -> Result<Map<String, Value>, BadIdToken> {
        let keys: KeySet = serde_json::from_value(json!({ "keys": keys })).unwrap();
        let expected = Expected {
            issuer: "https://id.example.com",
            client_id: "tombolo",
            nonce: "n",
            access_token: Some("the access token"),
            now: DateTime::from_timestamp(NOW, 0).unwrap(),
        };
        verify(token, &keys, &expected)
    }

    #[test]
    fn what_a_token_says_must_be_so() {
        let signer = Signer::new();
        let header = json!({"alg": "ES256", "kid": "1"});
        let cases = [
            (json!({}), None),
            (json!({"aud": ["tombolo"]}), None),
            (json!({"aud": ["other", "tombolo"], "azp": "tombolo"}), None),
            (json!({"aud": ["other", "tombolo"]}), Some("aud")),
            (json!({"aud": "other"}), Some("aud")),
            (json!({"aud": null}), Some("aud")),
            (json!({"azp": "other"}), Some("azp")),
            (json!({"iss": "https://id.example.com/"}), Some("iss")),
            (json!({"nonce": "m"}), Some("nonce")),
            (json!({"nonce": null}), Some("nonce")),
            (json!({"exp": NOW - 59}), None),
            (json!({"exp": NOW - 60}), Some("exp")),
            (json!({"exp": null}), Some("exp")),
            (json!({"exp": "soon"}), Some("exp")),
            (json!({"iat": NOW + 60}), Some("iat")),
            (json!({"nbf": NOW + 60}), Some("nbf")),
            (json!({"nbf": NOW + 59}), None),
            (json!({"iat": null}), Some("iat")),
            (json!({"iss": ["https://id.example.com"]}), Some("iss")),
            (json!({"aud": []}), Some("aud")),
            (json!({"aud": ["tombolo", "tombolo"]}), Some("aud")),
            (json!({"aud": ["other"], "azp": "tombolo"}), Some("aud")),
            (json!({"azp": 7}), Some("azp")),
            (json!({"nbf": "soon"}), Some("nbf")),
            (json!({"sub": ""}), Some("sub")),
            (json!({"sub": 7}), Some("sub")),
            (json!({"sub": "7\u{0}"}), Some("sub")),
            (json!({"sub": "7".repeat(256)}), Some("sub")),
            (json!({"at_hash": "ChiCrYlmOdtslRLz0UnVjg"}), Some("at_hash")),
            (json!({"at_hash": half_hash("ES256", "the access token")}), None),
            (
                json!({"at_hash": half_hash("ES384", "the access token")}),
                Some("at_hash"),
            ),
            (json!({"at_hash": 7}), Some("at_hash")),
        ];
        for (changes, wrong) in cases {
            let token = signer.sign(&header, &claims(&changes));
            let found = verified(&token, &[signer.key()]).map(|claims| claims["groups"].clone());
            let expected = wrong.map_or_else(|| Ok(json!(["ops"])), |claim| Err(BadIdToken::Claim { claim }));
            assert_eq!(found, expected, "{changes}");
        }
    }

    #[test]
    fn only_the_providers_key_signs_and_only_with_its_algorithm() {
        let (signer, other) = (Signer::new(), Signer::new());
        let good = claims(&json!({}));
        let keys = [other.key(), signer.key()];
        let es256 = json!({"alg": "ES256", "kid": "1"});
        let token = signer.sign(&es256, &good);
        verified(&token, &keys).unwrap();
        let without_kid = signer.sign(&json!({"alg": "ES256"}), &good);
        verified(&without_kid, &keys).unwrap();

        let (signed, signature) = token.rsplit_once('.').unwrap();
        let (header, _) = signed.split_once('.').unwrap();
        let forged = URL_SAFE_NO_PAD.encode(claims(&json!({"sub": "1"})).to_string());
        let mut encrypts = signer.key();
        encrypts["use"] = json!("enc");
        let mut signs = signer.key();
        signs["key_ops"] = json!(["sign"]);
        let mut of_another_algorithm = signer.key();
        of_another_algorithm["alg"] = json!("ES384");
        let mut of_another_curve = signer.key();
        of_another_curve["crv"] = json!("P-384");
        let mut nameless = signer.key();
        nameless["kid"] = Value::Null;
        // What would verify if the header chose what the key is taken for.
        let shared = json!({"kty": "oct", "kid": "1", "k": "c2VjcmV0"});
        let algorithm = |name: &str| BadIdToken::Algorithm(name.to_owned());
        for (token, keys, wrong) in [
            (token.clone(), vec![other.key()], BadIdToken::Signature),
            (token.clone(), vec![], BadIdToken::Signature),
            (token.clone(), vec![encrypts], BadIdToken::Signature),
            (token.clone(), vec![signs], BadIdToken::Signature),
            (token.clone(), vec![of_another_algorithm], BadIdToken::Signature),
            (token.clone(), vec![of_another_curve], BadIdToken::Signature),
            (token.clone(), vec![nameless], BadIdToken::Signature),
            (token.clone(), vec![shared], BadIdToken::Signature),
            (
                format!("{token}{}", "A".repeat(TOKEN_BYTES_MAX)),
                keys.to_vec(),
                BadIdToken::Malformed,
            ),
            (format!("{token}="), keys.to_vec(), BadIdToken::Malformed),
            (
                format!("{signed}.x.{signature}"),
                keys.to_vec(),
                BadIdToken::Signature,
            ),
            (
                signer.sign(
                    &json!({"alg": "ES256", "kid": "1", "jwk": other.key()}),
                    &json!("no object"),
                ),
                keys.to_vec(),
                BadIdToken::Malformed,
            ),
            (
                format!("{header}.{forged}.{signature}"),
                keys.to_vec(),
                BadIdToken::Signature,
            ),
            (format!("{signed}."), keys.to_vec(), BadIdToken::Signature),
            (signed.to_owned(), keys.to_vec(), BadIdToken::Malformed),
            (
                signer.sign(&json!({"alg": "ES256", "kid": "2"}), &good),
                keys.to_vec(),
                BadIdToken::Signature,
            ),
            (
                signer.sign(&json!({"alg": "none"}), &good),
                keys.to_vec(),
                algorithm("none"),
            ),
            (
                signer.sign(&json!({"alg": "HS256"}), &good),
                keys.to_vec(),
                algorithm("HS256"),
            ),
            (
                signer.sign(&json!({"alg": "nOnE"}), &good),
                keys.to_vec(),
                algorithm("nOnE"),
            ),
            (
                signer.sign(&json!({"alg": "ES384", "kid": "1"}), &good),
                keys.to_vec(),
                BadIdToken::Signature,
            ),
            (
                signer.sign(&json!({"kid": "1"}), &good),
                keys.to_vec(),
                BadIdToken::Malformed,
            ),
            (
                signer.sign(&json!({"alg": ["ES256"]}), &good),
                keys.to_vec(),
                BadIdToken::Malformed,
            ),
            (
                signer.sign(&json!({"alg": "RS256", "kid": "1"}), &good),
                keys.to_vec(),
                BadIdToken::Signature,
            ),
            (
                signer.sign(&json!({"alg": "ES256", "kid": "1", "crit": ["b64"]}), &good),
                keys.to_vec(),
                BadIdToken::Malformed,
            ),
            (String::new(), keys.to_vec(), BadIdToken::Malformed),
        ] {
            assert_eq!(verified(&token, &keys), Err(wrong), "{token}");
        }
    }

    #[test]
    fn a_key_that_is_not_understood_is_passed_over_and_there_are_only_so_many() {
        let signer = Signer::new();
        let token = signer.sign(&json!({"alg": "ES256", "kid": "1"}), &claims(&json!({})));
        let odd = [
            json!(7),
            json!({"kty": "EC", "x": 7}),
            json!({"kty": "AKP", "pub": "AAAA"}),
        ];
        let keys = [odd.to_vec(), vec![signer.key()]].concat();
        verified(&token, &keys).unwrap();
        let others = vec![Signer::new().key(); KEYS_MAX];
        let keys = [others, vec![signer.key()]].concat();
        assert_eq!(verified(&token, &keys), Err(BadIdToken::Signature));
    }
}
