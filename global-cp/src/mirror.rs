//! What one peer has told us: the hash of every resource as the feed's session holds it, and of each the last body
//! that made sense. A resource that cannot be read is refused alone, and its last readable body stays.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tombolo_proto::frame::Rejection;
use tombolo_proto::held::{Held, Stamp, Version};
use tombolo_proto::resource::{ContentHash, Resource};
use tombolo_proto::session::Applied;
use tombolo_runtime::telemetry::chain;

/// What the resources of one hop mean to central.
pub(crate) trait Item: Sized {
    /// Whether the set only makes sense as a whole, so that no step may be used before it is complete.
    const WHOLE: bool;

    /// # Errors
    /// The reason, for the peer to read.
    fn read(resource: &Resource) -> Result<Self, String>;
}

#[derive(Debug)]
pub(crate) struct Mirror<T> {
    stamp: Option<Stamp>,
    complete: bool,
    /// It was complete at some time: what it does not name is known not to exist.
    known: bool,
    entries: BTreeMap<String, Entry>,
    /// Of the entries those of which nothing was ever read: they exist, and what they say is not known.
    unread: BTreeSet<String>,
    /// Removals that wait for an operator.
    braked: BTreeSet<String>,
    /// The last version of which everything was taken, removals too.
    settled: Option<Version>,
    pending: BTreeMap<String, Change<T>>,
}

#[derive(Debug)]
pub(crate) enum Change<T> {
    Put(T, Resource),
    Removed,
}

/// What happened since somebody last asked.
#[derive(Debug)]
pub(crate) struct News<T> {
    /// What may be claimed: while removals wait for an operator, the version before them.
    pub(crate) version: Option<Version>,
    pub(crate) known: bool,
    /// Something exists of which nothing could ever be read.
    pub(crate) has_unread: bool,
    /// Removals that wait for an operator.
    pub(crate) braked: BTreeSet<String>,
    pub(crate) changes: BTreeMap<String, Change<T>>,
}

#[derive(Debug)]
struct Entry {
    held: ContentHash,
    good: Option<Resource>,
    /// Why what is held is not what is used.
    fault: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum BadMirror {
    #[error("it is not what this version writes")]
    Format(#[from] serde_json::Error),
}

/// Why one entry of a file is not used.
#[derive(Debug, thiserror::Error)]
enum BadEntry {
    #[error("the stored entry is not what this version writes")]
    Format(#[from] serde_json::Error),
    #[error("the stored entry has the bad hash {given:?}")]
    Hash { given: String },
    #[error("the stored entry is no resource")]
    Resource(#[from] tombolo_proto::resource::BadResource),
}

/// The form on disk.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    stamp: Option<StoredStamp>,
    complete: bool,
    known: bool,
    /// Each is a [`StoredEntry`], read alone so that one that cannot be read costs only itself.
    entries: BTreeMap<String, serde_json::Value>,
    braked: BTreeSet<String>,
    /// Epoch and revision, where they are not the stamp's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    settled: Option<(u64, u64)>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredStamp {
    epoch: u64,
    revision: u64,
    source: String,
    sequence: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredEntry {
    /// In hexadecimal digits; the hash of `good` where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    held: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    good: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fault: Option<String>,
}

impl<T> Default for Mirror<T> {
    fn default() -> Self {
        Self {
            stamp: None,
            complete: false,
            known: false,
            entries: BTreeMap::new(),
            unread: BTreeSet::new(),
            braked: BTreeSet::new(),
            settled: None,
            pending: BTreeMap::new(),
        }
    }
}

impl<T: Item> Mirror<T> {
    /// Takes one step of the session; returns what could not be read.
    pub(crate) fn apply(&mut self, applied: Applied) -> Vec<Rejection> {
        let mut rejections = Vec::new();
        for resource in applied.put {
            self.braked.remove(resource.name());
            if let Err(rejection) = self.put(resource) {
                rejections.push(rejection);
            }
        }
        for name in applied.removed {
            self.braked.remove(&name);
            self.entries.remove(&name);
            self.unread.remove(&name);
            self.pending.insert(name, Change::Removed);
        }
        if applied.complete {
            self.settled = Some(applied.stamp.version);
        }
        self.stamp = Some(applied.stamp);
        self.complete = applied.complete;
        self.known |= applied.complete;
        rejections
    }

    pub(crate) fn brake(&mut self, names: Vec<String>) {
        self.braked.extend(names);
    }

    /// What changed since the last call; `None` while that would be a mixture of two states of the peer.
    pub(crate) fn news(&mut self) -> Option<News<T>> {
        let usable = !T::WHOLE || self.is_settled();
        usable.then(|| News {
            version: self.version(),
            known: self.known,
            has_unread: !self.unread.is_empty(),
            braked: self.braked.clone(),
            changes: std::mem::take(&mut self.pending),
        })
    }

    /// All that the peer has is here, or what is missing to that waits for an operator.
    pub(crate) fn is_settled(&self) -> bool {
        self.complete || !self.braked.is_empty()
    }

    pub(crate) fn stamp(&self) -> Option<&Stamp> {
        self.stamp.as_ref()
    }

    pub(crate) fn braked(&self) -> &BTreeSet<String> {
        &self.braked
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.complete
    }

    fn version(&self) -> Option<Version> {
        let held = self.stamp.as_ref().map(|stamp| stamp.version);
        if self.braked.is_empty() {
            held
        } else {
            self.settled.or(held)
        }
    }

    /// What the peer should be told again, for it does not remember.
    pub(crate) fn rejections(&self) -> Vec<Rejection> {
        let faults = self
            .entries
            .iter()
            .filter_map(|(name, entry)| Some((name, entry.fault.as_ref()?)));
        faults
            .map(|(name, reason)| Rejection {
                name: name.clone(),
                reason: reason.clone(),
            })
            .collect()
    }

    pub(crate) fn held(&self) -> Held {
        Held {
            stamp: self.stamp.clone(),
            names: self
                .entries
                .iter()
                .map(|(name, entry)| (name.clone(), entry.held))
                .collect(),
            complete: self.complete,
        }
    }

    /// The bytes of a last-good file; `None` while they would hold a mixture.
    pub(crate) fn to_bytes(&self) -> Option<Vec<u8>> {
        if T::WHOLE && !self.is_settled() {
            return None;
        }
        let stored = Stored {
            stamp: self.stamp.as_ref().map(StoredStamp::from),
            complete: self.complete,
            known: self.known,
            entries: self
                .entries
                .iter()
                .map(|(name, entry)| (name.clone(), stored(entry)))
                .collect(),
            braked: self.braked.clone(),
            settled: self
                .settled
                .filter(|_| !self.braked.is_empty())
                .map(|version| (version.epoch, version.revision)),
        };
        Some(serde_json::to_vec(&stored).expect("invariant: names are strings and nothing else can fail"))
    }

    /// # Errors
    /// When the bytes are not of a mirror. What cannot be read of an entry is a fault of that entry alone.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, BadMirror> {
        let stored: Stored = serde_json::from_slice(bytes)?;
        let mut mirror = Self {
            stamp: stored.stamp.map(Stamp::from),
            complete: stored.complete,
            known: stored.known,
            entries: BTreeMap::new(),
            unread: BTreeSet::new(),
            braked: stored.braked,
            settled: stored
                .settled
                .map(|(epoch, revision)| Version { epoch, revision }),
            pending: BTreeMap::new(),
        };
        for (name, entry) in stored.entries {
            mirror.restore(name, entry);
        }
        Ok(mirror)
    }

    fn put(&mut self, resource: Resource) -> Result<(), Rejection> {
        let name = resource.name().to_owned();
        let held = resource.hash();
        match T::read(&resource) {
            Ok(item) => {
                let entry = Entry {
                    held,
                    good: Some(resource.clone()),
                    fault: None,
                };
                self.unread.remove(&name);
                self.entries.insert(name.clone(), entry);
                self.pending.insert(name, Change::Put(item, resource));
                Ok(())
            }
            Err(reason) => {
                let good = self.entries.remove(&name).and_then(|before| before.good);
                if good.is_none() {
                    self.unread.insert(name.clone());
                }
                let fault = Some(reason.clone());
                self.entries.insert(name.clone(), Entry { held, good, fault });
                Err(Rejection { name, reason })
            }
        }
    }

    /// Takes an entry from the disk. One that cannot be read stays as a fault, under a hash that no content has, so
    /// that the peer sends it again.
    fn restore(&mut self, name: String, stored: serde_json::Value) {
        let mut entry = Entry::read(&name, stored).unwrap_or_else(|error| {
            tracing::error!(
                name,
                error = chain(&error),
                "starting without an entry of a last-good file"
            );
            Entry {
                held: ContentHash::from_bytes([0; 16]),
                good: None,
                fault: Some(chain(&error).to_string()),
            }
        });
        if let Some(good) = &entry.good {
            match T::read(good) {
                Ok(item) => {
                    self.pending.insert(name.clone(), Change::Put(item, good.clone()));
                }
                Err(reason) => {
                    tracing::error!(name, reason, "starting without an entry of a last-good file");
                    entry.good = None;
                    entry.fault.get_or_insert(reason);
                }
            }
        }
        if entry.good.is_none() {
            self.unread.insert(name.clone());
        }
        self.entries.insert(name, entry);
    }
}

impl Entry {
    fn read(name: &str, stored: serde_json::Value) -> Result<Self, BadEntry> {
        let stored: StoredEntry = serde_json::from_value(stored)?;
        let good = stored
            .good
            .map(|body| Resource::new(name.to_owned(), body))
            .transpose()?;
        let held = match (stored.held, &good) {
            (Some(given), _) => hash_of(&given).ok_or(BadEntry::Hash { given })?,
            (None, Some(good)) => good.hash(),
            (None, None) => {
                return Err(BadEntry::Hash { given: String::new() });
            }
        };
        Ok(Self {
            held,
            good,
            fault: stored.fault,
        })
    }
}

fn stored(entry: &Entry) -> serde_json::Value {
    serde_json::to_value(StoredEntry::from(entry)).expect("invariant: an entry is of strings only")
}

impl From<&Stamp> for StoredStamp {
    fn from(stamp: &Stamp) -> Self {
        Self {
            epoch: stamp.version.epoch,
            revision: stamp.version.revision,
            source: stamp.source.clone(),
            sequence: stamp.sequence,
        }
    }
}

impl From<StoredStamp> for Stamp {
    fn from(stored: StoredStamp) -> Self {
        Self {
            version: Version {
                epoch: stored.epoch,
                revision: stored.revision,
            },
            source: stored.source,
            sequence: stored.sequence,
        }
    }
}

impl From<&Entry> for StoredEntry {
    fn from(entry: &Entry) -> Self {
        let is_good = entry.good.as_ref().is_some_and(|good| good.hash() == entry.held);
        Self {
            held: (!is_good).then(|| entry.held.to_string()),
            // What was read is JSON, so it is UTF-8.
            good: entry
                .good
                .as_ref()
                .map(|good| String::from_utf8_lossy(good.body()).into_owned()),
            fault: entry.fault.clone(),
        }
    }
}

fn hash_of(hex: &str) -> Option<ContentHash> {
    let sixteen = (hex.len() == 32).then_some(hex)?;
    let number = u128::from_str_radix(sixteen, 16).ok()?;
    Some(ContentHash::from_bytes(number.to_be_bytes()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A number; read as a whole set or item by item.
    #[derive(Debug, PartialEq)]
    struct Number<const WHOLE: bool>(u32);

    impl<const WHOLE: bool> Item for Number<WHOLE> {
        const WHOLE: bool = WHOLE;

        fn read(resource: &Resource) -> Result<Self, String> {
            let text = std::str::from_utf8(resource.body()).unwrap();
            text.parse()
                .map(Number)
                .map_err(|_| format!("{text:?} is no number"))
        }
    }

    fn step(revision: u64, put: &[(&str, &str)], removed: &[&str], complete: bool) -> Applied {
        Applied {
            stamp: Stamp {
                version: Version { epoch: 1, revision },
                source: "test".to_owned(),
                sequence: 0,
            },
            put: put
                .iter()
                .map(|(name, body)| Resource::new(*name, (*body).to_owned()).unwrap())
                .collect(),
            removed: removed.iter().map(|name| (*name).to_owned()).collect(),
            complete,
        }
    }

    fn put_of<T: Copy, const W: bool>(
        news: &News<Number<W>>,
        of: impl Fn(&Number<W>) -> T,
    ) -> Vec<(&str, T)> {
        let puts = news.changes.iter().filter_map(|(name, change)| match change {
            Change::Put(item, _) => Some((name.as_str(), of(item))),
            Change::Removed => None,
        });
        puts.collect()
    }

    #[test]
    fn nonsense_is_refused_alone_and_the_old_value_survives_a_restart() {
        let mut mirror = Mirror::<Number<false>>::default();
        assert!(
            mirror
                .apply(step(1, &[("a", "1"), ("b", "2")], &[], true))
                .is_empty()
        );
        let refused = mirror.apply(step(2, &[("a", "x"), ("b", "3")], &[], true));
        assert_eq!(refused.len(), 1);
        assert_eq!(refused[0].name, "a");
        assert_eq!(refused[0].reason, "\"x\" is no number");
        let number = |n: &Number<false>| n.0;
        assert_eq!(put_of(&mirror.news().unwrap(), number), [("a", 1), ("b", 3)]);

        let mut back = Mirror::<Number<false>>::from_bytes(&mirror.to_bytes().unwrap()).unwrap();
        assert_eq!(
            back.held(),
            mirror.held(),
            "what is held is the nonsense, by its hash"
        );
        assert_eq!(back.rejections(), refused);
        assert_eq!(put_of(&back.news().unwrap(), number), [("a", 1), ("b", 3)]);
    }

    #[test]
    fn a_set_that_makes_sense_as_a_whole_waits_for_it() {
        let mut mirror = Mirror::<Number<true>>::default();
        mirror.apply(step(1, &[("a", "1")], &[], false));
        assert!(mirror.news().is_none());
        assert!(mirror.to_bytes().is_none());
        mirror.apply(step(1, &[], &["a"], true));
        let news = mirror.news().unwrap();
        assert!(matches!(news.changes["a"], Change::Removed));
        assert!(mirror.news().unwrap().changes.is_empty(), "told once");
    }

    #[test]
    fn what_the_brake_holds_is_used_and_kept() {
        let mut mirror = Mirror::<Number<true>>::default();
        mirror.apply(step(1, &[("a", "1"), ("b", "2")], &[], true));
        mirror.news();
        mirror.apply(step(2, &[("c", "3")], &[], false));
        mirror.brake(vec!["a".to_owned(), "b".to_owned()]);
        let news = mirror.news().unwrap();
        assert_eq!(put_of(&news, |n| n.0), [("c", 3)]);
        let before = Some(Version {
            epoch: 1,
            revision: 1,
        });
        assert_eq!(
            (news.version, news.braked.len()),
            (before, 2),
            "not yet at revision 2"
        );
        let mut back = Mirror::<Number<true>>::from_bytes(&mirror.to_bytes().unwrap()).unwrap();
        assert_eq!(back.held().names.len(), 3);
        assert_eq!(back.news().unwrap().version, before, "also after a restart");
        mirror.apply(step(2, &[], &["a", "b"], true));
        assert!(mirror.braked().is_empty());
        let news = mirror.news().unwrap();
        assert_eq!((news.changes.len(), news.version.unwrap().revision), (2, 2));
    }

    #[test]
    fn an_entry_that_cannot_be_read_costs_only_itself() {
        for entry in [
            "{}",
            r#"{"held":"zz"}"#,
            r#"{"good":"1","of a later version":true}"#,
            "[]",
            r#"{"good":"x"}"#,
        ] {
            let bytes = format!(
                r#"{{"stamp":null,"complete":true,"known":true,"braked":[],"entries":{{"a":{entry},"b":{{"good":"2"}}}}}}"#
            );
            let mut mirror = Mirror::<Number<true>>::from_bytes(bytes.as_bytes()).unwrap();
            assert_eq!(put_of(&mirror.news().unwrap(), |n| n.0), [("b", 2)], "{entry}");
            assert_eq!(mirror.rejections().len(), 1, "{entry}");
            assert_eq!(mirror.held().names.len(), 2, "{entry}");
            assert!(mirror.news().unwrap().has_unread, "{entry}");
            mirror.apply(step(2, &[("a", "1")], &[], true));
            assert!(!mirror.news().unwrap().has_unread, "{entry}, said again");
        }
    }

    #[test]
    fn bytes_that_are_no_mirror_are_an_error() {
        for bytes in [
            "",
            "{}",
            r#"{"stamp":null,"complete":true,"known":true,"braked":[],"entries":[]}"#,
        ] {
            assert!(
                Mirror::<Number<true>>::from_bytes(bytes.as_bytes()).is_err(),
                "{bytes}"
            );
        }
    }
}
