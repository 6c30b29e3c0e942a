#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use super::samples::{Issuer, encoded, keys};
use super::*;

const MESSAGE: &[u8] = b"signed";

fn set(given: &[Value]) -> Result<KeySet, BadKeys> {
    KeySet::parse(keys(given).as_bytes())
}

fn verified(set: &KeySet, algorithm: &str, key: Option<&str>, signature: &[u8]) -> Result<(), Unverified> {
    set.verify(Signed {
        algorithm: Algorithm::of(algorithm).unwrap(),
        key,
        message: MESSAGE,
        signature,
    })
}

#[test]
fn each_algorithm_takes_its_own_signatures_and_no_others() {
    let issuers = [
        (
            Issuer::rsa(),
            &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"][..],
        ),
        (Issuer::p256(), &["ES256"]),
        (Issuer::p384(), &["ES384"]),
        (Issuer::ed25519(), &["EdDSA"]),
    ];
    let all: Vec<&str> = issuers
        .iter()
        .flat_map(|(_, names)| names.iter().copied())
        .collect();
    for (issuer, names) in &issuers {
        let set = set(&[issuer.key(&json!({}))]).unwrap();
        for name in *names {
            let signature = issuer.sign(name, MESSAGE);
            assert_eq!(verified(&set, name, None, &signature), Ok(()), "{name}");
            for other in all.iter().filter(|other| *other != name) {
                assert!(
                    verified(&set, other, None, &signature).is_err(),
                    "{name} as {other}"
                );
            }
            let mut forged = signature.clone();
            forged[7] ^= 1;
            for bad in [
                &forged[..],
                &signature[1..],
                &[],
                &[signature.clone(), vec![0]].concat(),
            ] {
                assert_eq!(verified(&set, name, None, bad), Err(Unverified::Forged), "{name}");
            }
        }
    }
}

#[test]
fn a_key_is_found_by_its_name_and_algorithm() {
    let (one, two) = (Issuer::p256(), Issuer::p256());
    let set = |one_says: Value, two_says: Value| set(&[one.key(&one_says), two.key(&two_says)]).unwrap();
    let signature = two.sign("ES256", MESSAGE);
    let named = set(
        json!({"kid": "1"}),
        json!({"kid": "2", "alg": "ES256", "use": "sig", "key_ops": ["verify"]}),
    );
    for (key, expected) in [
        (Some("2"), Ok(())),
        (None, Ok(())),
        (Some("1"), Err(Unverified::Forged)),
        (Some("3"), Err(Unverified::NoKey)),
    ] {
        assert_eq!(verified(&named, "ES256", key, &signature), expected, "{key:?}");
    }
    assert_eq!(
        verified(&named, "ES384", Some("2"), &signature),
        Err(Unverified::NoKey)
    );
    let same = set(json!({"kid": "2"}), json!({"kid": "2"}));
    assert_eq!(verified(&same, "ES256", Some("2"), &signature), Ok(()));
    let nameless = set(json!({"kid": "1"}), json!({}));
    assert_eq!(verified(&nameless, "ES256", Some("9"), &signature), Ok(()));
    let other = Issuer::p256().sign("ES256", MESSAGE);
    assert_eq!(
        verified(&nameless, "ES256", Some("9"), &other),
        Err(Unverified::NoKey)
    );
    assert_eq!(
        verified(&nameless, "ES256", Some("1"), &other),
        Err(Unverified::Forged)
    );
    assert_eq!(
        verified(&nameless, "ES256", None, &other),
        Err(Unverified::Forged)
    );
}

#[test]
fn a_token_is_held_against_few_keys() {
    let issuer = Issuer::ed25519();
    let signature = issuer.sign("EdDSA", MESSAGE);
    let other = || Issuer::ed25519().key(&json!({}));
    for (place, expected) in [(TRIED_MAX - 1, Ok(())), (TRIED_MAX, Err(Unverified::Forged))] {
        let mut all: Vec<Value> = (0..place).map(|_| other()).collect();
        all.push(issuer.key(&json!({"kid": "last"})));
        let set = set(&all).unwrap();
        assert_eq!(verified(&set, "EdDSA", None, &signature), expected, "{place}");
        assert_eq!(
            verified(&set, "EdDSA", Some("last"), &signature),
            Ok(()),
            "{place}"
        );
    }
}

#[test]
fn keys_that_are_of_no_use_are_left_out() {
    let issuer = Issuer::p256();
    let good = issuer.key(&json!({"kid": "good"}));
    let bad = |more: Value| issuer.key(&more);
    let other = Issuer::p384().key(&json!({}));
    for key in [
        bad(json!({"use": "enc"})),
        bad(json!({"use": 1})),
        bad(json!({"key_ops": ["sign"]})),
        bad(json!({"key_ops": "verify"})),
        bad(json!({"alg": "HS256"})),
        bad(json!({"alg": "none"})),
        bad(json!({"alg": "RS256"})),
        bad(json!({"alg": "ES384"})),
        bad(json!({"kid": 1})),
        bad(json!({"kty": "RSA"})),
        bad(json!({"kty": "oct", "k": "AAAA"})),
        bad(json!({"crv": "P-384"})),
        bad(json!({"crv": "secp256k1"})),
        bad(json!({"x": other["x"], "y": other["y"]})),
        // Not on the curve.
        bad(json!({"x": encoded([1; 32])})),
        bad(json!({"x": format!("{}=", good["x"].as_str().unwrap())})),
        json!({"kty": "RSA", "n": encoded([0xff; 128]), "e": "AQAB"}),
        json!({"kty": "RSA", "n": encoded([0xff; 2048]), "e": "AQAB"}),
        json!({"kty": "RSA", "n": encoded([0xff; 256]), "e": ""}),
        json!({"kty": "OKP", "crv": "Ed25519", "x": encoded([1; 31])}),
        json!({"kty": "OKP", "crv": "X25519", "x": encoded([1; 32])}),
        json!({}),
        json!(1),
    ] {
        assert_eq!(set(std::slice::from_ref(&key)), Err(BadKeys::NoneUsable), "{key}");
        let among = set(&[key, good.clone()]).unwrap();
        assert_eq!(among.0.len(), 1);
    }
}

#[test]
fn what_is_no_set_of_keys_is_refused() {
    let good = Issuer::ed25519().key(&json!({}));
    let many = vec![good.clone(); KEYS_MAX + 1];
    for (text, expected) in [
        (String::new(), BadKeys::Syntax),
        ("[]".to_owned(), BadKeys::Syntax),
        (format!("{{\"keys\":[{good}],\"keys\":[]}}"), BadKeys::Syntax),
        ("{}".to_owned(), BadKeys::NoList),
        ("{\"keys\":{}}".to_owned(), BadKeys::NoList),
        (keys(&[]), BadKeys::NoneUsable),
        (keys(&many), BadKeys::TooMany),
    ] {
        assert_eq!(KeySet::parse(text.as_bytes()), Err(expected), "{text:.60}");
    }
    assert!(set(&many[..KEYS_MAX]).is_ok());
}
