//! Which records of a stretch of a chain hold which terms, and how that is stored: as rows of terms that share the first
//! bits of their keys. Nothing here asks the database.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

use chrono::{DateTime, Utc};

use super::month::month_of;
use crate::audit::{Found, Record, Term};

/// Small segments are made of records, large ones of small ones: a term that is sought in ten million records is read in
/// some hundred rows, and no more than a thousand records wait to be in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tier {
    Small,
    Large,
}

/// Of a segment; a place in it fits two bytes.
pub(super) const SMALL_MAX: u64 = 1024;
/// Small segments in a large one.
pub(super) const MERGED_MAX: usize = 32;
pub(super) const LARGE_MAX: u64 = SMALL_MAX * MERGED_MAX as u64;
/// Of records that are read to make a small segment, or of entries to make a large one. Ordinary ones have a megabyte.
const READ_MAX: u64 = 16 << 20;

/// The bucket of the times.
pub(super) const DIRECTORY: i32 = -1;
/// Of how many records one has its time in the directory: few enough to be read for nothing.
const DIRECTORY_STEP: usize = 128;

/// Places are counted from the first record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) first: u64,
    /// Sequences, from the first to the last. Some may be missing, when somebody has deleted records.
    pub(super) length: u64,
    /// Of some of the records, the first among them, in order.
    times: Vec<(u16, DateTime<Utc>)>,
    /// By the key of the term, in order.
    postings: BTreeMap<u32, Vec<u16>>,
}

/// Terms whose keys begin alike, as they are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bucket {
    pub(super) number: i32,
    pub(super) entries: Vec<u8>,
}

/// The entries of a bucket cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its entries are cut off or lie outside of the segment")]
pub(super) struct Damaged;

/// Some of the records of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Members(Vec<u64>);

/// All of `all`, and one of `any` when there are any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sought {
    pub(super) all: BTreeSet<u32>,
    pub(super) any: BTreeSet<u32>,
}

impl Tier {
    /// In the order in which the chain is read backwards: what is in a small segment is newer than what is in a large one.
    pub(super) const NEWEST_FIRST: [Tier; 2] = [Tier::Small, Tier::Large];

    fn length_max(self) -> u64 {
        match self {
            Tier::Small => SMALL_MAX,
            Tier::Large => LARGE_MAX,
        }
    }

    pub(super) fn number(self) -> i16 {
        match self {
            Tier::Small => 0,
            Tier::Large => 1,
        }
    }

    /// A bucket of either tier has about a kilobyte when records have fifty terms, most of them the same.
    fn bucket_bits(self) -> u32 {
        match self {
            Tier::Small => 6,
            Tier::Large => 11,
        }
    }

    pub(super) fn bucket_of(self, key: u32) -> i32 {
        (key >> (u32::BITS - self.bucket_bits())).cast_signed()
    }
}

/// A segment without its terms, or a record without its bytes, which is one of length one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outline {
    pub(super) first: u64,
    pub(super) length: u64,
    /// Of the first record.
    pub(super) time: DateTime<Utc>,
}

/// How many of the records, which are the next of a chain, make a small segment, or of the small segments, which are the
/// oldest of a chain, a large one; `None` when more may still join them. With the bytes of each.
pub(super) fn next_segment(tier: Tier, parts: &[(Outline, u64)]) -> Option<usize> {
    let (first, _) = parts.first()?;
    let mut end = first.first;
    let mut bytes = 0;
    let joins = |(next, size): &&(Outline, u64)| {
        bytes += size;
        let is_next = next.first >= end && next.first + next.length <= first.first + tier.length_max();
        end = next.first + next.length;
        is_next && month_of(next.time) == month_of(first.time) && bytes <= READ_MAX
    };
    // The first by itself may be larger than is read otherwise.
    let count = parts.iter().take_while(joins).count().max(1);
    let (last, _) = parts[count - 1];
    let is_full = last.first + last.length == first.first + tier.length_max();
    (is_full || count < parts.len()).then_some(count)
}

impl Segment {
    /// Of records in the order of their chain, no more than a small segment holds. Of one whose bytes somebody has
    /// changed, no words are known.
    pub(super) fn of(found: &[Found]) -> Segment {
        let first = found.first().map_or(0, |found| found.sequence);
        let mut segment = Segment {
            first,
            length: found.last().map_or(0, |last| last.sequence + 1 - first),
            times: Vec::new(),
            postings: BTreeMap::new(),
        };
        for (number, found) in found.iter().enumerate() {
            let place = (found.sequence - first) as u16;
            if number % DIRECTORY_STEP == 0 {
                segment.times.push((place, found.index.time));
            }
            for term in found.index.terms() {
                segment.add(term.key(), place);
            }
            let record: Option<Record> = serde_json::from_slice(&found.bytes).ok();
            for word in record.iter().flat_map(Record::words) {
                segment.add(Term::Word(&word).key(), place);
            }
        }
        segment
    }

    fn add(&mut self, key: u32, place: u16) {
        let places = self.postings.entry(key).or_default();
        if places.last() != Some(&place) {
            places.push(place);
        }
    }

    /// Of segments in the order of their chain.
    pub(super) fn merge(parts: &[Segment]) -> Segment {
        let first = parts.first().map_or(0, |part| part.first);
        let mut merged = Segment {
            first,
            length: parts.last().map_or(0, |last| last.first + last.length - first),
            times: Vec::new(),
            postings: BTreeMap::new(),
        };
        for part in parts {
            let shift = (part.first - first) as u16;
            let times = part.times.iter().map(|(place, time)| (place + shift, *time));
            merged.times.extend(times);
            for (key, places) in &part.postings {
                let shifted = places.iter().map(|place| place + shift);
                merged.postings.entry(*key).or_default().extend(shifted);
            }
        }
        merged
    }

    /// The time of the first record.
    pub(super) fn begins(&self) -> DateTime<Utc> {
        self.times.first().map_or(DateTime::UNIX_EPOCH, |(_, time)| *time)
    }

    /// In every bucket's entries: the key of a term, how many records hold it, and their places, or a bitmap where that
    /// is shorter. In those of the directory: a place and its time in microseconds.
    pub(super) fn buckets(&self, tier: Tier) -> Vec<Bucket> {
        let mut directory = Vec::new();
        for (place, time) in &self.times {
            directory.extend(place.to_be_bytes());
            directory.extend(time.timestamp_micros().to_be_bytes());
        }
        // Every bucket, also without a term: whoever reads backwards tells by a row that is missing that there is no segment.
        let count = 1 << tier.bucket_bits();
        let mut buckets = vec![Vec::new(); count];
        for (key, places) in &self.postings {
            let entries = &mut buckets[tier.bucket_of(*key) as usize];
            entries.extend(key.to_be_bytes());
            entries.extend((places.len() as u16).to_be_bytes());
            match is_bitmap(places.len(), self.length) {
                true => {
                    let at = entries.len();
                    entries.resize(at + bitmap_bytes(self.length), 0);
                    for place in places {
                        entries[at + usize::from(place / 8)] |= 1 << (place % 8);
                    }
                }
                false => places
                    .iter()
                    .for_each(|place| entries.extend(place.to_be_bytes())),
            }
        }
        let numbered = (0..)
            .zip(buckets)
            .map(|(number, entries)| Bucket { number, entries });
        let directory = Bucket {
            number: DIRECTORY,
            entries: directory,
        };
        std::iter::once(directory).chain(numbered).collect()
    }

    /// From all of its buckets.
    pub(super) fn read(tier: Tier, first: u64, length: u64, buckets: &[Bucket]) -> Result<Segment, Damaged> {
        let mut segment = Segment {
            first,
            length,
            times: Vec::new(),
            postings: BTreeMap::new(),
        };
        // Each, and the directory.
        if buckets.len() != 1 + (1 << tier.bucket_bits()) {
            return Err(Damaged);
        }
        let is_within = |place: u16| u64::from(place) < length;
        for bucket in buckets {
            if bucket.number == DIRECTORY {
                segment.times = times(&bucket.entries)?;
                continue;
            }
            let mut rest = bucket.entries.as_slice();
            while !rest.is_empty() {
                let (key, places) = entry(&mut rest, length)?;
                segment.postings.insert(key, places.all());
            }
        }
        let mut places = segment.postings.values().flatten().copied();
        let mut timed = segment.times.iter().map(|(place, _)| *place);
        match places.all(is_within) && timed.all(is_within) {
            true => Ok(segment),
            false => Err(Damaged),
        }
    }
}

impl Sought {
    /// Those that tell which records are sought. When all are, the directory, which each segment has.
    pub(super) fn buckets(&self, tier: Tier) -> Vec<i32> {
        let terms = self.all.iter().chain(&self.any);
        let buckets: BTreeSet<i32> = terms.map(|key| tier.bucket_of(*key)).collect();
        match buckets.is_empty() {
            true => vec![DIRECTORY],
            false => buckets.into_iter().collect(),
        }
    }

    /// The records that may be sought, of these places. More than are, when keys of different terms are equal.
    pub(super) fn members(
        &self,
        tier: Tier,
        length: u64,
        within: Range<u64>,
        buckets: &HashMap<i32, Vec<u8>>,
    ) -> Result<Members, Damaged> {
        let of_term = |key: &u32| {
            let entries = buckets.get(&tier.bucket_of(*key)).ok_or(Damaged)?;
            places(*key, entries, length)
        };
        let mut members = Members::range(within, length);
        for key in &self.all {
            members.retain(&of_term(key)?);
            if members.is_empty() {
                return Ok(members);
            }
        }
        if !self.any.is_empty() {
            let mut any = Members::none(length);
            for key in &self.any {
                any.add(&of_term(key)?);
            }
            members.retain(&any);
        }
        Ok(members)
    }
}

/// The places between which all records of these times lie, both ends of the times included.
pub(super) fn places_between(
    directory: &[u8],
    length: u64,
    since: Option<DateTime<Utc>>,
    until: Option<DateTime<Utc>>,
) -> Result<Range<u64>, Damaged> {
    let times = times(directory)?;
    if times.is_empty() {
        return Err(Damaged);
    }
    let begin = since.and_then(|since| times.iter().rev().find(|(_, time)| *time <= since));
    let end = until.and_then(|until| times.iter().find(|(_, time)| *time > until));
    Ok(begin.map_or(0, |(place, _)| u64::from(*place))..end.map_or(length, |(place, _)| u64::from(*place)))
}

impl Members {
    fn none(length: u64) -> Members {
        Members(vec![0; length.div_ceil(u64::from(u64::BITS)) as usize])
    }

    pub(super) fn range(within: Range<u64>, length: u64) -> Members {
        let mut members = Members::none(length);
        for place in within {
            members.insert(place);
        }
        members
    }

    fn insert(&mut self, place: u64) {
        if let Some(word) = self.0.get_mut((place / u64::from(u64::BITS)) as usize) {
            *word |= 1 << (place % u64::from(u64::BITS));
        }
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    fn retain(&mut self, other: &Members) {
        for (word, other) in self.0.iter_mut().zip(&other.0) {
            *word &= other;
        }
    }

    fn add(&mut self, other: &Members) {
        for (word, other) in self.0.iter_mut().zip(&other.0) {
            *word |= other;
        }
    }

    /// The last first.
    pub(super) fn backwards(&self) -> impl Iterator<Item = u64> {
        let words = self.0.iter().enumerate().rev();
        words.flat_map(|(number, word)| {
            let bits = (0..u64::BITS).rev().filter(move |bit| word & (1 << bit) != 0);
            bits.map(move |bit| number as u64 * u64::from(u64::BITS) + u64::from(bit))
        })
    }
}

/// As they are stored.
enum Places<'a> {
    List(&'a [u8]),
    Bitmap(&'a [u8]),
}

impl Places<'_> {
    fn all(&self) -> Vec<u16> {
        match self {
            Places::List(bytes) => bytes
                .chunks_exact(2)
                .map(|place| u16::from_be_bytes([place[0], place[1]]))
                .collect(),
            Places::Bitmap(bytes) => (0_u16..)
                .zip(*bytes)
                .flat_map(|(at, byte)| {
                    (0..8)
                        .filter(move |bit| byte & (1 << bit) != 0)
                        .map(move |bit| at * 8 + bit)
                })
                .collect(),
        }
    }

    fn members(&self, length: u64) -> Members {
        let mut members = Members::none(length);
        match self {
            Places::List(_) => self
                .all()
                .into_iter()
                .for_each(|place| members.insert(u64::from(place))),
            Places::Bitmap(bytes) => {
                for (word, bytes) in members.0.iter_mut().zip(bytes.chunks(8)) {
                    let mut eight = [0; 8];
                    eight[..bytes.len()].copy_from_slice(bytes);
                    *word = u64::from_le_bytes(eight);
                }
            }
        }
        members
    }
}

fn bitmap_bytes(length: u64) -> usize {
    length.div_ceil(8) as usize
}

fn is_bitmap(count: usize, length: u64) -> bool {
    count * 2 > bitmap_bytes(length)
}

/// The first of the entries, which it takes.
fn entry<'a>(rest: &mut &'a [u8], length: u64) -> Result<(u32, Places<'a>), Damaged> {
    let (head, behind) = rest.split_first_chunk::<6>().ok_or(Damaged)?;
    let key = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
    let count = usize::from(u16::from_be_bytes([head[4], head[5]]));
    let is_bitmap = is_bitmap(count, length);
    let bytes = if is_bitmap {
        bitmap_bytes(length)
    } else {
        count * 2
    };
    let (places, behind) = behind.split_at_checked(bytes).ok_or(Damaged)?;
    *rest = behind;
    let places = if is_bitmap {
        Places::Bitmap(places)
    } else {
        Places::List(places)
    };
    Ok((key, places))
}

fn places(key: u32, entries: &[u8], length: u64) -> Result<Members, Damaged> {
    let mut rest = entries;
    while !rest.is_empty() {
        let (found, places) = entry(&mut rest, length)?;
        if found == key {
            return Ok(places.members(length));
        }
    }
    Ok(Members::none(length))
}

fn times(directory: &[u8]) -> Result<Vec<(u16, DateTime<Utc>)>, Damaged> {
    let (entries, rest) = directory.as_chunks::<10>();
    if !rest.is_empty() {
        return Err(Damaged);
    }
    let read = |entry: &[u8; 10]| {
        let (place, time) = entry.split_first_chunk::<2>()?;
        let micros = i64::from_be_bytes(time.try_into().ok()?);
        Some((
            u16::from_be_bytes(*place),
            DateTime::from_timestamp_micros(micros)?,
        ))
    };
    entries.iter().map(|entry| read(entry).ok_or(Damaged)).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::audit::{Chain, ChainHead, Outcome, Verb, seal};

    const PAY: &str = "organizations/acme/tenants/pay";

    /// A minute apart. Every third is about `pay`, and each has a word of its own.
    fn records(count: u64, begins: &str) -> Vec<Found> {
        let mut head = ChainHead::default();
        let begins: DateTime<Utc> = begins.parse().unwrap();
        let mut found = Vec::new();
        for number in 0..count {
            let tenant = if number % 3 == 0 { "pay" } else { "media" };
            let record = Record {
                time: begins + chrono::TimeDelta::minutes(number.cast_signed()),
                request_id: format!("r{number}"),
                ..Record::new(
                    "organizations/acme/users/ann",
                    Verb::Update,
                    format!("organizations/acme/tenants/{tenant}"),
                    Outcome::Done,
                )
            };
            let (sealed, next) = seal(Chain::Writes, head, record);
            head = next;
            found.push(Found {
                sequence: sealed.sequence,
                index: sealed.record.index(),
                bytes: sealed.bytes,
                previous: sealed.previous.to_vec(),
                hash: sealed.hash.to_vec(),
            });
        }
        found
    }

    /// The sequences that the stored segment gives, the last first.
    fn look_up(segment: &Segment, tier: Tier, sought: &Sought, within: Range<u64>) -> Vec<u64> {
        let stored: HashMap<i32, Vec<u8>> = segment
            .buckets(tier)
            .into_iter()
            .map(|bucket| (bucket.number, bucket.entries))
            .collect();
        let members = sought.members(tier, segment.length, within, &stored).unwrap();
        members.backwards().map(|place| segment.first + place).collect()
    }

    fn all(terms: &[Term<'_>]) -> Sought {
        Sought {
            all: terms.iter().map(|term| term.key()).collect(),
            ..Sought::default()
        }
    }

    #[test]
    fn a_segment_finds_the_records_of_all_terms() {
        let found = records(1000, "2026-03-01T00:00:00Z");
        let segment = Segment::of(&found[10..]);
        assert_eq!((segment.first, segment.length), (11, 990));
        let of_pay: Vec<u64> = (11..=1000)
            .rev()
            .filter(|sequence| (sequence - 1) % 3 == 0)
            .collect();
        let everything: Vec<u64> = (11..=1000).rev().collect();
        let one_of = Sought {
            any: [
                Term::Word("r700").key(),
                Term::Word("r20").key(),
                Term::Word("r3").key(),
            ]
            .into(),
            ..Sought::default()
        };
        let cases: [(Sought, Vec<u64>); 6] = [
            (Sought::default(), everything.clone()),
            (all(&[Term::Verb("update")]), everything),
            (all(&[Term::Node(PAY), Term::Verb("update")]), of_pay),
            (all(&[Term::Node(PAY), Term::Word("r21")]), vec![22]),
            (all(&[Term::Node(PAY), Term::Word("r22")]), vec![]),
            (one_of, vec![701, 21]),
        ];
        for tier in Tier::NEWEST_FIRST {
            for (sought, expected) in &cases {
                assert_eq!(look_up(&segment, tier, sought, 0..990), *expected, "{sought:?}");
            }
        }
        assert_eq!(
            look_up(&segment, Tier::Small, &Sought::default(), 5..8),
            [18, 17, 16]
        );
    }

    #[test]
    fn what_is_merged_is_what_one_segment_of_all_would_be() {
        let found = records(300, "2026-03-01T00:00:00Z");
        let parts = [
            Segment::of(&found[..128]),
            Segment::of(&found[128..256]),
            Segment::of(&found[256..]),
        ];
        let stored: Vec<Segment> = parts
            .iter()
            .map(|part| {
                Segment::read(Tier::Small, part.first, part.length, &part.buckets(Tier::Small)).unwrap()
            })
            .collect();
        assert_eq!(stored, parts);
        assert_eq!(Segment::merge(&stored), Segment::of(&found));
    }

    #[test]
    fn a_segment_ends_when_it_is_full_or_large_or_with_its_month() {
        let time = |month: u32| -> DateTime<Utc> { format!("2026-{month:02}-01T00:00:00Z").parse().unwrap() };
        let part = |first: u64, length: u64, month: u32| Outline {
            first,
            length,
            time: time(month),
        };
        // From the first to the last, all of March.
        let run = |tier: Tier, count: u64, size: u64| {
            let length = tier.length_max()
                / if tier == Tier::Small {
                    SMALL_MAX
                } else {
                    MERGED_MAX as u64
                };
            let parts = (0..count).map(|number| (part(1 + number * length, length, 3), size));
            parts.collect::<Vec<_>>()
        };
        let with = |mut parts: Vec<(Outline, u64)>, last: Outline| {
            parts.push((last, 1));
            parts
        };
        for (tier, full) in [(Tier::Small, 1024), (Tier::Large, 32)] {
            let few = run(tier, 3, 1);
            let (last, _) = few[2];
            let end = last.first + last.length;
            let cases = [
                (run(tier, 0, 1), None, "none"),
                (run(tier, full - 1, 1), None, "one too few"),
                (run(tier, full, 1), Some(full as usize), "full"),
                (run(tier, full + 1, 1), Some(full as usize), "one more than full"),
                (
                    with(few.clone(), part(end, 1, 4)),
                    Some(3),
                    "the next is of another month",
                ),
                (
                    with(few.clone(), part(end + 40_000, 1, 3)),
                    Some(3),
                    "the next is far away",
                ),
                (
                    with(few.clone(), part(1, 1, 3)),
                    Some(3),
                    "the next is one of before",
                ),
                (run(tier, 4, READ_MAX / 2), Some(2), "large"),
                (run(tier, 2, READ_MAX + 1), Some(1), "each by itself is too large"),
                (run(tier, 1, READ_MAX + 1), None, "the only one is too large"),
            ];
            for (parts, expected, case) in cases {
                assert_eq!(next_segment(tier, &parts), expected, "{tier:?}: {case}");
            }
        }
    }

    #[test]
    fn the_directory_narrows_to_a_few_records_too_many_and_none_too_few() {
        let found = records(1000, "2026-03-01T00:00:00Z");
        let segment = Segment::of(&found);
        let directory = segment.buckets(Tier::Small).remove(0).entries;
        let time = |number: usize| Some(found[number].index.time);
        let cases = [
            (None, None, 0..1000),
            (time(0), time(999), 0..1000),
            (time(130), None, 128..1000),
            (time(128), time(128), 128..256),
            (None, time(127), 0..128),
            (None, Some(DateTime::UNIX_EPOCH), 0..0),
        ];
        for (since, until, expected) in cases {
            let places = places_between(&directory, 1000, since, until).unwrap();
            assert_eq!(places, expected, "{since:?} {until:?}");
        }
    }

    #[test]
    fn damaged_entries_are_an_error() {
        let segment = Segment::of(&records(100, "2026-03-01T00:00:00Z"));
        let buckets = segment.buckets(Tier::Small);
        let filled = buckets.iter().filter(|bucket| !bucket.entries.is_empty());
        for bucket in filled {
            let mut cut_off = buckets.clone();
            for cut in cut_off.iter_mut().filter(|one| one.number == bucket.number) {
                cut.entries.pop();
            }
            assert_eq!(
                Segment::read(Tier::Small, 1, 100, &cut_off),
                Err(Damaged),
                "{bucket:?}"
            );
        }
        assert_eq!(
            Segment::read(Tier::Small, 1, 100, &buckets[1..]),
            Err(Damaged),
            "a bucket is missing"
        );
        assert_eq!(
            Segment::read(Tier::Small, 1, 99, &buckets),
            Err(Damaged),
            "a place lies behind the end"
        );
        let sought = all(&[Term::Word("nowhere")]);
        assert_eq!(
            sought.members(Tier::Small, 100, 0..100, &HashMap::new()),
            Err(Damaged)
        );
    }
}
