//! Tokens: what is read is read in one way, and nothing but what their owners have signed is taken for theirs. Their private keys
//! are gone, so that nobody can sign any more.

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::{Target, mutate_text, one_of, place};
use crate::filter::Unproven;
use crate::jwks::KeySet;
use crate::worker::Random;

pub(super) const TOKENS: Target = Target {
    name: "tokens",
    check,
    mutate,
};

static KEYS: LazyLock<KeySet> = LazyLock::new(|| KeySet::parse(include_bytes!("keys.json")).unwrap());

const WORDS: &[&[u8]] = &[
    b".",
    b"=",
    b"-",
    b"_",
    b"\"",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b",",
    b"\\u0061",
    b"\\ud800",
    b"null",
    b"-1",
    b"1e400",
    b"18446744073709551616",
    b"\"alg\":\"none\"",
    b"\"alg\":\"HS256\"",
    b"\"alg\":\"RS256\"",
    b"\"alg\":\"PS256\"",
    b"\"alg\":\"ES256\"",
    b"\"alg\":\"EdDSA\"",
    b"\"kid\":\"r\"",
    b"\"kid\":\"e\"",
    b"\"crit\":[\"b64\"]",
    b"\"aud\":",
    b"\"exp\":",
    b"\"iss\":",
    b"\xff",
];

/// Mostly of what is inside, so that it is still read.
fn mutate(random: &Random, pool: &[Vec<u8>]) -> Vec<u8> {
    if place(random, 3) == 0 {
        return mutate_text(random, pool, WORDS);
    }
    let input = one_of::<Vec<u8>>(random, pool);
    let mut parts: Vec<Vec<u8>> = input.split(|byte| *byte == b'.').map(<[u8]>::to_vec).collect();
    let last = parts.len() - 1;
    let part = &mut parts[place(random, last)];
    if let Ok(inside) = URL_SAFE_NO_PAD.decode(&part[..]) {
        *part = URL_SAFE_NO_PAD
            .encode(mutate_text(random, &[inside], WORDS))
            .into();
    }
    parts.join(&b'.')
}

fn check(input: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(input) else {
        return "no text".to_owned();
    };
    let unproven = match Unproven::read(text) {
        Ok(unproven) => unproven,
        Err(flaw) => return flaw.text().to_owned(),
    };
    let parts: Vec<&str> = text.split('.').collect();
    assert_eq!(parts.len(), 3);
    for part in parts {
        let again = URL_SAFE_NO_PAD.encode(URL_SAFE_NO_PAD.decode(part).unwrap());
        assert_eq!(again, part, "what means the same has one text");
    }
    let verified = KEYS.verify(unproven.signed());
    assert!(
        verified.is_err() || SIGNED.contains(&text),
        "nobody has signed this"
    );
    format!("{verified:?} {}", unproven.token.claims.len())
}

const SIGNED: [&str; 4] = [
    include_str!("../../fuzz/tokens/eddsa"),
    include_str!("../../fuzz/tokens/es256"),
    include_str!("../../fuzz/tokens/ps256"),
    include_str!("../../fuzz/tokens/rs256"),
];

#[test]
fn what_was_signed_is_verified() {
    for text in SIGNED {
        let unproven = Unproven::read(text).unwrap();
        assert_eq!(KEYS.verify(unproven.signed()), Ok(()), "{text}");
    }
}
