//! The buckets of one stream, by their ids. Those that only configuration names are as many as it has; those of what clients say
//! are bounded, and what is too many shares one.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use foldhash::HashMap;
use tokio::sync::Notify;

use super::bucket::{Bucket, BucketId};
use super::{Action, Fares, Terms};

/// Buckets of what clients say: a few megabytes.
const BUCKETS_MAX: usize = 4096;
/// Of an id that a client has a part in.
pub(crate) const KEY_BYTES_MAX: usize = 512;
/// One that nobody has wanted for so long is forgotten when nothing of it is spent, and sooner where there is no room.
const IDLE_INTERVALS_MAX: u32 = 60;
/// Behind each name and each value of a key; nothing in UTF-8.
const END: u8 = 0xff;

#[derive(Debug)]
pub(crate) struct Buckets {
    terms: Terms,
    /// By their keys. It is locked for a look or an entry.
    known: RwLock<HashMap<Box<[u8]>, Arc<Bucket>>>,
    /// There is one of which the service does not know yet.
    pub(super) begun: Notify,
    /// The service has said something.
    pub(super) changed: Notify,
    pub(crate) fares: Fares,
}

/// A bucket's id as it is looked for, in a space that the caller has.
pub(crate) struct Key<'a> {
    space: &'a mut [u8; KEY_BYTES_MAX],
    len: usize,
}

impl<'a> Key<'a> {
    pub(crate) fn new(space: &'a mut [u8; KEY_BYTES_MAX]) -> Self {
        Self { space, len: 0 }
    }

    /// Nothing where there is no room, or where it would be taken for the end of something.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Option<()> {
        if bytes.contains(&END) {
            return None;
        }
        self.write(bytes)
    }

    pub(crate) fn end(&mut self) -> Option<()> {
        self.write(&[END])
    }

    fn write(&mut self, bytes: &[u8]) -> Option<()> {
        let place = self.space.get_mut(self.len..self.len.checked_add(bytes.len())?)?;
        place.copy_from_slice(bytes);
        self.len += bytes.len();
        Some(())
    }

    fn bytes(&self) -> &[u8] {
        &self.space[..self.len]
    }

    /// Nothing where it is no text.
    fn id(&self) -> Option<BucketId> {
        let mut parts = self.bytes().split(|byte| *byte == END);
        let mut id = Vec::new();
        while let (Some(name), Some(value)) = (parts.next(), parts.next()) {
            let text = |bytes| std::str::from_utf8(bytes).ok().map(Box::from);
            id.push((text(name)?, text(value)?));
        }
        Some(id.into())
    }
}

impl Buckets {
    pub(crate) fn new(terms: Terms) -> Self {
        Self {
            terms,
            known: RwLock::default(),
            begun: Notify::new(),
            changed: Notify::new(),
            fares: Fares::default(),
        }
    }

    pub(crate) fn terms(&self) -> &Terms {
        &self.terms
    }

    /// One that configuration names.
    pub(crate) fn named(&self, id: &BucketId) -> Arc<Bucket> {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Bucket::new(id.clone(), &self.terms));
        Arc::clone(known.entry(key(id)).or_insert_with(new))
    }

    /// Whether a request may pass that is of a bucket that configuration names.
    pub(crate) fn take(&self, bucket: &Bucket, now: Instant) -> bool {
        if bucket.want() {
            self.begun.notify_one();
        }
        bucket.take(now)
    }

    /// Whether one may pass that is of the bucket of `key`, or of `others` where there is no room for it.
    pub(crate) fn take_at(&self, key: &Key<'_>, others: &Bucket, now: Instant) -> bool {
        {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(bucket) = known.get(key.bytes()) {
                return self.take(bucket, now);
            }
            if known.len() >= BUCKETS_MAX {
                return self.take(others, now);
            }
        }
        let Some(id) = key.id() else {
            return self.take(others, now);
        };
        let bucket = self.named(&id);
        self.take(&bucket, now)
    }

    /// Does what the service says of a bucket; one that it makes up is nobody's.
    pub(super) fn on(&self, id: &BucketId, action: Action, now: Instant) {
        let held = {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            known.get(&key(id)).map(Arc::clone)
        };
        if let Some(bucket) = held {
            bucket.on(action, now, &self.terms);
        }
    }

    pub(super) fn all(&self) -> Vec<Arc<Bucket>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.values().map(Arc::clone).collect()
    }

    /// Lets what is over be over; returns when something is next.
    pub(super) fn age(&self, now: Instant) -> Option<Instant> {
        let all = self.all();
        all.iter().filter_map(|bucket| bucket.age(now, &self.terms)).min()
    }

    /// Looks at each interval for those that nobody wants.
    pub(super) fn sweep(&self, now: Instant) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.values().for_each(|bucket| bucket.look());
        let has_room = known.len() < BUCKETS_MAX;
        let idle_max = if has_room { IDLE_INTERVALS_MAX } else { 1 };
        let is_wanted =
            |bucket: &Arc<Bucket>| bucket.idle_intervals() < idle_max || Arc::strong_count(bucket) > 1;
        known.retain(|_, bucket| is_wanted(bucket) || bucket.is_spent(now));
        if known.len() >= BUCKETS_MAX {
            known.retain(|_, bucket| is_wanted(bucket));
        }
    }
}

fn key(id: &BucketId) -> Box<[u8]> {
    let mut key = Vec::new();
    for (name, value) in id {
        for part in [name, value] {
            key.extend_from_slice(part.as_bytes());
            key.push(END);
        }
    }
    key.into()
}

#[cfg(test)]
pub(super) mod samples {
    use std::time::Duration;

    use http::uri::Authority;

    use super::super::{Expired, Strategy};
    use super::*;
    use crate::grpc_call::Callee;

    pub(crate) fn terms() -> Terms {
        Terms {
            callee: Callee {
                cluster: "edge".into(),
                authority: Authority::from_static("edge"),
                timeout: Duration::from_secs(1),
                headers: Vec::new(),
            },
            domain: "shop".into(),
            interval: Duration::from_secs(1),
            unassigned: Strategy::AllowAll,
            expired: Expired::Reuse(Duration::ZERO),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::filter::Rate;
    use crate::quota::Strategy;

    fn id(user: &str) -> BucketId {
        [("name".into(), "n".into()), ("user".into(), user.into())].into()
    }

    fn take(buckets: &Buckets, user: &[u8], others: &Bucket) -> bool {
        let mut space = [0; KEY_BYTES_MAX];
        let mut key = Key::new(&mut space);
        let pushed = [b"name", &b"n"[..], b"user", user].map(|part| key.push(part).and_then(|()| key.end()));
        assert!(pushed.iter().all(Option::is_some));
        buckets.take_at(&key, others, Instant::now())
    }

    const DENY: Action = Action::Assign {
        strategy: Strategy::DenyAll,
        lasts: None,
    };

    #[test]
    fn an_id_is_one_bucket_however_it_is_said() {
        let buckets = Buckets::new(samples::terms());
        let others = buckets.named(&id("*"));
        let named = buckets.named(&id("a"));
        assert!(take(&buckets, b"a", &others) && take(&buckets, b"b", &others));
        buckets.on(&id("a"), DENY, Instant::now());
        assert!(!take(&buckets, b"a", &others) && take(&buckets, b"b", &others));
        assert!(!buckets.take(&named, Instant::now()));
        // What is no text is one of the others.
        buckets.on(&id("*"), DENY, Instant::now());
        assert!(!take(&buckets, b"\xfe", &others));
        assert_eq!(buckets.all().len(), 3);
    }

    #[test]
    fn clients_make_up_no_more_than_so_many() {
        let buckets = Buckets::new(samples::terms());
        let others = buckets.named(&id("*"));
        buckets.on(&id("*"), DENY, Instant::now());
        let user = |n: usize| n.to_string().into_bytes();
        for n in 1..BUCKETS_MAX {
            assert!(take(&buckets, &user(n), &others), "{n}");
        }
        assert!(!take(&buckets, b"one more", &others), "it shares a bucket");
        assert_eq!(buckets.all().len(), BUCKETS_MAX);
        // Those that were not wanted for an interval make room; not what configuration names.
        buckets.sweep(Instant::now());
        assert!(take(&buckets, &user(1), &others));
        buckets.sweep(Instant::now());
        assert!(take(&buckets, b"one more", &others));
        let mut left: Vec<_> = buckets.all().iter().map(|bucket| bucket.id.clone()).collect();
        left.sort_unstable();
        assert_eq!(left, [id("*"), id("1"), id("one more")]);
        // Where there is room it takes longer.
        for _ in 0..IDLE_INTERVALS_MAX {
            assert_eq!(buckets.all().len(), 3);
            buckets.sweep(Instant::now());
        }
        assert!(buckets.all().len() < 3);
    }

    #[test]
    fn who_has_spent_all_begins_anew_by_no_pause() {
        const HOUR: Duration = Duration::from_secs(3600);
        let mut terms = samples::terms();
        terms.unassigned = Strategy::Rate(Rate::new(1, 1, HOUR));
        let buckets = Buckets::new(terms);
        let others = buckets.named(&id("*"));
        assert!(take(&buckets, b"a", &others) && take(&buckets, b"denied", &others));
        buckets.on(&id("denied"), DENY, Instant::now());
        for _ in 0..2 * IDLE_INTERVALS_MAX {
            buckets.sweep(Instant::now());
        }
        assert!(!take(&buckets, b"a", &others) && !take(&buckets, b"denied", &others));
        // Where there is no room those make it first who have all of theirs.
        for n in buckets.all().len()..BUCKETS_MAX {
            buckets.named(&id(&n.to_string()));
        }
        for _ in 0..2 {
            buckets.sweep(Instant::now());
        }
        assert_eq!(buckets.all().len(), 3);
        // And the others when that is not enough.
        for n in buckets.all().len()..BUCKETS_MAX {
            assert!(take(&buckets, n.to_string().as_bytes(), &others), "{n}");
        }
        buckets.sweep(Instant::now());
        let ids: Vec<_> = buckets.all().iter().map(|bucket| bucket.id.clone()).collect();
        assert_eq!(ids.len(), BUCKETS_MAX - 2);
        assert!(!ids.contains(&id("a")) && !ids.contains(&id("denied")));
        // What is full again is forgotten as ever.
        assert!(take(&buckets, b"a", &others));
        for _ in 0..=IDLE_INTERVALS_MAX {
            buckets.sweep(Instant::now() + 2 * HOUR);
        }
        assert_eq!(buckets.all().len(), 1);
    }
}
