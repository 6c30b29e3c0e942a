//! Idempotency keys: a write that carries one is done at most once, and a retry of it is given the first answer.
//!
//! The answer is stored in the transaction of the write, so that there is never one without the other. A write that is
//! refused stores nothing, and so leaves its key free: it is decided anew.

use std::collections::BTreeSet;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::TimeDelta;
use sha2::{Digest, Sha256};
use tokio::time::{MissedTickBehavior, interval};
use tombolo_runtime::shutdown::Shutdown;
use tombolo_runtime::telemetry::chain;
use uuid::Uuid;

use crate::audit::now;
use crate::change::Refusal;
use crate::reply::Answer;
use crate::store::{Store, StoreError};

/// Longer than any client goes on trying.
const KEPT: TimeDelta = TimeDelta::hours(24);
/// How often those that have been kept for so long are dropped.
const PRUNE_INTERVAL: Duration = Duration::from_secs(60);
/// A UUID has 36, and some put what they do before it.
const KEY_BYTES_MAX: usize = 255;

/// What a client calls one write, in all its tries.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key(String);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Idempotency-Key: use 1 to {KEY_BYTES_MAX} printable ASCII characters, such as a UUID")]
pub(crate) struct BadKey;

/// The whole of a request that carries a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Keyed {
    pub(crate) key: Key,
    /// SHA-256 of all that the request asks for.
    pub(crate) request: [u8; 32],
}

/// An answer that was given before, and to which request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) request: Vec<u8>,
    pub(crate) answer: Answer,
}

/// The keys of requests that this process is working on. Another replica knows nothing of them: there a retry waits for
/// the lock that the first try holds, and is given its answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct InFlight {
    keys: Arc<Mutex<BTreeSet<(Uuid, Key)>>>,
}

/// As long as it lives, its key is taken.
#[derive(Debug)]
pub(crate) struct Turn {
    in_flight: InFlight,
    key: (Uuid, Key),
}

impl Key {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Key {
    type Err = BadKey;

    fn from_str(text: &str) -> Result<Key, BadKey> {
        let usable =
            (1..=KEY_BYTES_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        usable.then(|| Key(text.to_owned())).ok_or(BadKey)
    }
}

impl Keyed {
    /// `parts` are what the request asks for: its method, its target, what its headers add, and its body.
    pub(crate) fn new(key: Key, parts: &[&[u8]]) -> Keyed {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        Keyed {
            key,
            request: hash.finalize().into(),
        }
    }

    /// The answer to this very request.
    ///
    /// # Errors
    /// When it was given to another request.
    pub(crate) fn open(&self, kept: Kept) -> Result<Answer, Refusal> {
        match kept.request == self.request {
            true => Ok(kept.answer),
            false => Err(Refusal::KeyReused {
                key: self.key.as_str().to_owned(),
            }),
        }
    }
}

impl InFlight {
    /// `None` while an earlier request of the principal with that key is being worked on.
    pub(crate) fn enter(&self, principal: Uuid, key: &Key) -> Option<Turn> {
        let key = (principal, key.clone());
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.insert(key.clone()).then(|| Turn {
            in_flight: self.clone(),
            key,
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let keys = &self.in_flight.keys;
        keys.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.key);
    }
}

/// Drops answers that have been kept for long enough. Every replica does.
pub(crate) async fn prune(store: Store, mut shutdown: Shutdown) {
    let mut due = interval(PRUNE_INTERVAL);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = due.tick() => {}
            () = shutdown.wait() => return,
        }
        if let Err(error) = prune_once(&store).await {
            tracing::warn!(error = chain(&error), "cannot drop old idempotency keys");
        }
    }
}

async fn prune_once(store: &Store) -> Result<(), StoreError> {
    while store.prune_answers(now() - KEPT).await? {}
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_printable_and_short() {
        assert_eq!("a-1".parse::<Key>().unwrap().as_str(), "a-1");
        assert!("k".repeat(KEY_BYTES_MAX).parse::<Key>().is_ok());
        for text in ["", "a b", "ä", "\u{7f}", &"k".repeat(KEY_BYTES_MAX + 1)] {
            assert_eq!(text.parse::<Key>(), Err(BadKey), "{text:?}");
        }
    }

    #[test]
    fn parts_of_a_request_do_not_run_into_each_other() {
        let request = |parts: &[&[u8]]| Keyed::new(Key("k".to_owned()), parts).request;
        assert_eq!(request(&[b"POST", b"/v1/a"]), request(&[b"POST", b"/v1/a"]));
        assert_ne!(request(&[b"POST", b"/v1/a"]), request(&[b"POST/", b"v1/a"]));
        assert_ne!(request(&[b"a"]), request(&[b"a", b""]));
    }

    #[test]
    fn a_key_is_taken_while_its_request_runs() {
        let (in_flight, key) = (InFlight::default(), Key("k".to_owned()));
        let (ann, bob) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let first = in_flight.enter(ann, &key);
        assert!(first.is_some());
        assert!(in_flight.enter(ann, &key).is_none());
        assert!(in_flight.enter(bob, &key).is_some(), "it is hers alone");
        drop(first);
        assert!(in_flight.enter(ann, &key).is_some());
    }
}
