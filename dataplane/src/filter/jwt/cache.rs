//! Tokens that this worker has verified, so that a signature is not looked at with every request. Whether a token is still good is
//! asked each time; what is remembered is who has signed it, by which keys.

use std::cell::RefCell;
use std::collections::HashMap;
use std::mem;
use std::rc::Rc;
use std::sync::Arc;

use super::token::Token;
use crate::jwks::KeySet;

/// Of one generation, of which there are two; with what is decoded of them they are a few megabytes at most.
const TOKENS_MAX: usize = 128;
/// Longer ones are verified each time.
const TOKEN_BYTES_MAX: usize = 4096;

thread_local! {
    static CACHE: RefCell<Cache> = RefCell::default();
}

/// Those that were used of late, and those that were before.
#[derive(Default)]
struct Cache {
    young: Generation,
    old: Generation,
}

type Generation = HashMap<Box<str>, Proven>;

/// A token, and the keys one of which has signed it.
#[derive(Clone)]
pub(super) struct Proven {
    pub(super) keys: Arc<KeySet>,
    pub(super) token: Rc<Token>,
}

pub(super) fn get(text: &str) -> Option<Proven> {
    CACHE.with_borrow_mut(|cache| cache.get(text))
}

pub(super) fn put(text: &str, proven: Proven) {
    CACHE.with_borrow_mut(|cache| cache.put(text, proven));
}

impl Cache {
    fn get(&mut self, text: &str) -> Option<Proven> {
        if let Some(found) = self.young.get(text) {
            return Some(found.clone());
        }
        let found = self.old.remove(text)?;
        self.put(text, found.clone());
        Some(found)
    }

    fn put(&mut self, text: &str, proven: Proven) {
        if text.len() > TOKEN_BYTES_MAX {
            return;
        }
        if self.young.len() >= TOKENS_MAX {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(text.into(), proven);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::filter::jwt::token::Unproven;
    use crate::jwks::samples::{Issuer, keys};

    fn proven() -> Proven {
        let set = keys(&[Issuer::ed25519().key(&json!({}))]);
        let token = Unproven::read("eyJhbGciOiJFZERTQSJ9.e30.AAAA").unwrap().token;
        Proven {
            keys: Arc::new(KeySet::parse(set.as_bytes()).unwrap()),
            token: Rc::new(token),
        }
    }

    #[test]
    fn few_are_remembered_and_those_in_use_the_longest() {
        let proven = proven();
        let mut cache = Cache::default();
        cache.put("used", proven.clone());
        for number in 0..10 * TOKENS_MAX {
            cache.put(&number.to_string(), proven.clone());
            assert!(cache.get("used").is_some(), "{number}");
            assert!(cache.young.len() + cache.old.len() <= 2 * TOKENS_MAX);
        }
        assert!(cache.get("0").is_none());
        let long = "x".repeat(TOKEN_BYTES_MAX + 1);
        cache.put(&long, proven);
        assert!(cache.get(&long).is_none());
    }
}
