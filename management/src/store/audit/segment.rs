//! Which records of a stretch of a chain hold which terms, and how that is stored: as rows of terms that share the first
//! bits of their keys. Nothing here asks the database.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::iter;
use std::ops::Range;

use chrono::{DateTime, Utc};

use super::month::month_of;
use crate::audit::{Found, Record, Term};

/// Small segments are made of records, large ones of small ones, huge ones of large ones: a term that is sought in ten
/// million records is read in less than a hundred rows, each of which may be a read of the disk, and no more than a
/// thousand records wait to be in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tier {
    Small,
    Large,
    Huge,
}

/// Of a segment.
pub(super) const SMALL_MAX: u64 = 1024;
/// Small segments in a large one, and large ones in a huge one.
pub(super) const MERGED_MAX: usize = 32;
pub(super) const LARGE_MAX: u64 = SMALL_MAX * MERGED_MAX as u64;
pub(super) const HUGE_MAX: u64 = LARGE_MAX * MERGED_MAX as u64;
/// Of records that are read to make a small segment, or of entries to make a large one. Ordinary ones have a megabyte. A
/// huge one is made piece by piece.
const READ_MAX: u64 = 16 << 20;
/// Buckets of each part that are merged at a time: of thirty-two parts two megabytes.
const MERGED_BUCKETS: i32 = 64;

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
    times: Vec<(u32, DateTime<Utc>)>,
    /// By the key of the term, in order.
    postings: BTreeMap<u32, Vec<u32>>,
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
    pub(super) const NEWEST_FIRST: [Tier; 3] = [Tier::Small, Tier::Large, Tier::Huge];
    /// Those whose segments are merged, and what they become.
    pub(crate) const MERGED: [(Tier, Tier); 2] = [(Tier::Small, Tier::Large), (Tier::Large, Tier::Huge)];

    fn length_max(self) -> u64 {
        match self {
            Tier::Small => SMALL_MAX,
            Tier::Large => LARGE_MAX,
            Tier::Huge => HUGE_MAX,
        }
    }

    /// Records of a small segment, or segments that are merged, which may be short.
    fn parts_max(self) -> usize {
        match self {
            Tier::Small => SMALL_MAX as usize,
            Tier::Large | Tier::Huge => MERGED_MAX,
        }
    }

    pub(super) fn number(self) -> i16 {
        match self {
            Tier::Small => 0,
            Tier::Large => 1,
            Tier::Huge => 2,
        }
    }

    /// A bucket has about a kilobyte when records have fifty terms, most of them the same. One of a huge segment has about
    /// three, most of which still lie in their row: a small month has a huge segment too, and a row for each bucket.
    fn bucket_bits(self) -> u32 {
        match self {
            Tier::Small => 6,
            Tier::Large => 11,
            Tier::Huge => 14,
        }
    }

    /// Rows that are read at a time, about four megabytes when the terms are not frequent.
    pub(super) fn rows_max(self) -> u64 {
        match self {
            Tier::Small | Tier::Large => 4096,
            Tier::Huge => 1024,
        }
    }

    /// The directory and all others.
    pub(super) fn all_buckets(self) -> Range<i32> {
        DIRECTORY..1 << self.bucket_bits()
    }

    /// The buckets that are merged together, and the buckets of the other tier that they become.
    pub(super) fn pieces(self, into: Tier) -> impl Iterator<Item = (Range<i32>, Range<i32>)> {
        let more = into.bucket_bits() - self.bucket_bits();
        let target = move |number: i32| match number {
            DIRECTORY => DIRECTORY,
            number => number << more,
        };
        let all = self.all_buckets();
        (0..all.end).step_by(MERGED_BUCKETS as usize).map(move |begin| {
            let begin = if begin == 0 { DIRECTORY } else { begin };
            let end = (begin.max(0) + MERGED_BUCKETS).min(all.end);
            (begin..end, target(begin)..target(end))
        })
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

/// How many of the records, which are the next of a chain, make a small segment, or of the segments of a tier, which are its
/// oldest, one of the next tier; `None` when more may still join them. With the bytes of each that are read at once.
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
    let count = parts
        .iter()
        .take(tier.parts_max())
        .take_while(joins)
        .count()
        .max(1);
    let (last, _) = parts[count - 1];
    let is_full = count == tier.parts_max() || last.first + last.length == first.first + tier.length_max();
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
        // Most records have the words of others.
        let mut keys: HashMap<String, u32> = HashMap::new();
        for (number, found) in found.iter().enumerate() {
            let place = (found.sequence - first) as u32;
            if number % DIRECTORY_STEP == 0 {
                segment.times.push((place, found.index.time));
            }
            for term in found.index.terms() {
                segment.add(term.key(), place);
            }
            let record: Option<Record> = serde_json::from_slice(&found.bytes).ok();
            for word in record.iter().flat_map(Record::words) {
                let key = *keys.entry(word).or_insert_with_key(|word| Term::Word(word).key());
                segment.add(key, place);
            }
        }
        segment
    }

    fn add(&mut self, key: u32, place: u32) {
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
            let shift = (part.first - first) as u32;
            let times = part.times.iter().map(|(place, time)| (place + shift, *time));
            merged.times.extend(times);
            for (key, places) in &part.postings {
                let shifted = places.iter().map(|place| place + shift);
                merged.postings.entry(*key).or_default().extend(shifted);
            }
        }
        merged
    }

    pub(super) fn outline(&self) -> Outline {
        Outline {
            first: self.first,
            length: self.length,
            time: self.times.first().map_or(DateTime::UNIX_EPOCH, |(_, time)| *time),
        }
    }

    /// Those of the numbers; the segment has no terms of others. In every bucket's entries: the key of a term, how many
    /// records hold it, and their places, or a bitmap where that is shorter. In those of the directory: a place and its
    /// time in microseconds.
    pub(super) fn buckets(&self, tier: Tier, numbers: Range<i32>) -> Vec<Bucket> {
        let width = Width::of(self.length);
        // Every bucket, also without a term: whoever reads backwards tells by a row that is missing that there is no segment.
        let empty = numbers.map(|number| Bucket {
            number,
            entries: Vec::new(),
        });
        let mut buckets: Vec<Bucket> = empty.collect();
        let begin = buckets.first().map_or(0, |first| first.number);
        if begin == DIRECTORY {
            for (place, time) in &self.times {
                width.push(&mut buckets[0].entries, *place);
                buckets[0].entries.extend(time.timestamp_micros().to_be_bytes());
            }
        }
        for (key, places) in &self.postings {
            let entries = &mut buckets[(tier.bucket_of(*key) - begin) as usize].entries;
            entries.extend(key.to_be_bytes());
            width.push(entries, places.len() as u32);
            match width.is_bitmap(places.len(), self.length) {
                true => {
                    let at = entries.len();
                    entries.resize(at + bitmap_bytes(self.length), 0);
                    for place in places {
                        entries[at + *place as usize / 8] |= 1 << (place % 8);
                    }
                }
                false => places.iter().for_each(|place| width.push(entries, *place)),
            }
        }
        buckets
    }

    /// What the buckets of those numbers tell.
    pub(super) fn read(
        tier: Tier,
        outline: Outline,
        numbers: &Range<i32>,
        buckets: &[Bucket],
    ) -> Result<Segment, Damaged> {
        let Outline { first, length, .. } = outline;
        let mut segment = Segment {
            first,
            length,
            times: Vec::new(),
            postings: BTreeMap::new(),
        };
        if buckets.len() != numbers.len() {
            return Err(Damaged);
        }
        let is_within = |place: u32| u64::from(place) < length;
        for bucket in buckets {
            if bucket.number == DIRECTORY {
                segment.times = times(&bucket.entries, length)?;
                continue;
            }
            let mut rest = bucket.entries.as_slice();
            while !rest.is_empty() {
                let (key, places) = entry(&mut rest, length)?;
                if !numbers.contains(&tier.bucket_of(key)) {
                    return Err(Damaged);
                }
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
    let times = times(directory, length)?;
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
        for (word, at) in members.0.iter_mut().zip((0..).step_by(u64::BITS as usize)) {
            let bit = |place: u64| place.min(length).saturating_sub(at).min(u64::from(u64::BITS)) as u32;
            let (begin, end) = (bit(within.start), bit(within.end));
            let below = |bit: u32| u64::MAX.checked_shr(u64::BITS - bit).unwrap_or(0);
            *word = below(end) & !below(begin);
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
            let mut rest = *word;
            iter::from_fn(move || {
                let bit = rest.checked_ilog2()?;
                rest ^= 1 << bit;
                Some(number as u64 * u64::from(u64::BITS) + u64::from(bit))
            })
        })
    }
}

/// Of places and counts, as they are stored: two bytes where all of the segment fit.
#[derive(Clone, Copy, Debug)]
struct Width(usize);

impl Width {
    fn of(length: u64) -> Width {
        Width(if length <= LARGE_MAX { 2 } else { 4 })
    }

    fn push(self, bytes: &mut Vec<u8>, number: u32) {
        bytes.extend(&number.to_be_bytes()[4 - self.0..]);
    }

    fn split(self, bytes: &[u8]) -> Option<(u32, &[u8])> {
        let (number, rest) = bytes.split_at_checked(self.0)?;
        let number = number
            .iter()
            .fold(0, |number, byte| number << 8 | u32::from(*byte));
        Some((number, rest))
    }

    fn is_bitmap(self, count: usize, length: u64) -> bool {
        count * self.0 > bitmap_bytes(length)
    }
}

/// As they are stored.
enum Places<'a> {
    List(Width, &'a [u8]),
    Bitmap(&'a [u8]),
}

impl Places<'_> {
    fn all(&self) -> Vec<u32> {
        match self {
            Places::List(width, bytes) => {
                let mut rest = *bytes;
                let places = iter::from_fn(|| {
                    let (place, behind) = width.split(rest)?;
                    rest = behind;
                    Some(place)
                });
                places.collect()
            }
            Places::Bitmap(bytes) => (0_u32..)
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
            Places::List(..) => self
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

/// The first of the entries, which it takes.
fn entry<'a>(rest: &mut &'a [u8], length: u64) -> Result<(u32, Places<'a>), Damaged> {
    let width = Width::of(length);
    let (key, behind) = rest.split_first_chunk::<4>().ok_or(Damaged)?;
    let (count, behind) = width.split(behind).ok_or(Damaged)?;
    let is_bitmap = width.is_bitmap(count as usize, length);
    let bytes = if is_bitmap {
        bitmap_bytes(length)
    } else {
        count as usize * width.0
    };
    let (places, behind) = behind.split_at_checked(bytes).ok_or(Damaged)?;
    *rest = behind;
    let places = if is_bitmap {
        Places::Bitmap(places)
    } else {
        Places::List(width, places)
    };
    Ok((u32::from_be_bytes(*key), places))
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

fn times(directory: &[u8], length: u64) -> Result<Vec<(u32, DateTime<Utc>)>, Damaged> {
    let width = Width::of(length);
    let read = |entry: &[u8]| {
        let (place, time) = width.split(entry)?;
        let micros = i64::from_be_bytes(time.try_into().ok()?);
        Some((place, DateTime::from_timestamp_micros(micros)?))
    };
    let entries = directory.chunks(width.0 + size_of::<i64>());
    entries.map(|entry| read(entry).ok_or(Damaged)).collect()
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
            .buckets(tier, tier.all_buckets())
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
        let whole = Segment::of(&found);
        let parts = [
            Segment::of(&found[..128]),
            Segment::of(&found[128..256]),
            Segment::of(&found[256..]),
        ];
        for (from, into) in Tier::MERGED {
            let mut merged = Vec::new();
            for (numbers, target) in from.pieces(into) {
                let read = |part: &Segment| {
                    let buckets = of_numbers(part, from, &numbers);
                    Segment::read(from, part.outline(), &numbers, &buckets).unwrap()
                };
                let read: Vec<Segment> = parts.iter().map(read).collect();
                merged.extend(Segment::merge(&read).buckets(into, target));
            }
            assert_eq!(merged, whole.buckets(into, into.all_buckets()), "{from:?}");
        }
    }

    fn of_numbers(segment: &Segment, tier: Tier, numbers: &Range<i32>) -> Vec<Bucket> {
        let mut buckets = segment.buckets(tier, tier.all_buckets());
        buckets.retain(|bucket| numbers.contains(&bucket.number));
        buckets
    }

    #[test]
    fn a_huge_segment_holds_places_that_two_bytes_cannot_tell() {
        let length = 3 * LARGE_MAX;
        let time: DateTime<Utc> = "2026-03-01T00:00:00Z".parse().unwrap();
        let term = |word: &'static str| Term::Word(word).key();
        let places: [Vec<u32>; 3] = [
            vec![0, 65_535, 65_536, 98_303],
            vec![65_536],
            (0..98_304).step_by(2).collect(),
        ];
        let segment = Segment {
            first: 1,
            length,
            times: vec![(0, time), (70_000, time)],
            postings: ["few", "one", "half"]
                .map(term)
                .into_iter()
                .zip(places.clone())
                .collect(),
        };
        let all_buckets = Tier::Huge.all_buckets();
        let buckets = segment.buckets(Tier::Huge, all_buckets.clone());
        assert_eq!(
            Segment::read(Tier::Huge, segment.outline(), &all_buckets, &buckets).as_ref(),
            Ok(&segment)
        );
        for (word, places) in ["few", "one", "half"].into_iter().zip(places) {
            let found = look_up(&segment, Tier::Huge, &all(&[Term::Word(word)]), 0..length);
            let expected: Vec<u64> = places.iter().rev().map(|place| 1 + u64::from(*place)).collect();
            assert_eq!(found, expected, "{word}");
        }
        let both = all(&[Term::Word("few"), Term::Word("half")]);
        assert_eq!(look_up(&segment, Tier::Huge, &both, 0..length), [65_537, 1]);
        assert_eq!(look_up(&segment, Tier::Huge, &both, 1..65_536), [0; 0]);
    }

    #[test]
    fn a_range_has_its_ends() {
        for within in [0..0, 0..1, 63..64, 63..65, 64..128, 5..200, 0..200, 199..300] {
            let expected: Vec<u64> = within.clone().rev().filter(|place| *place < 200).collect();
            let members: Vec<u64> = Members::range(within.clone(), 200).backwards().collect();
            assert_eq!(members, expected, "{within:?}");
        }
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
            let length = match tier {
                Tier::Small => 1,
                Tier::Large => SMALL_MAX,
                Tier::Huge => LARGE_MAX,
            };
            let parts = (0..count).map(|number| (part(1 + number * length, length, 3), size));
            parts.collect::<Vec<_>>()
        };
        let with = |mut parts: Vec<(Outline, u64)>, last: Outline| {
            parts.push((last, 1));
            parts
        };
        for (tier, full) in [(Tier::Small, 1024), (Tier::Large, 32), (Tier::Huge, 32)] {
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
                    with(few.clone(), part(end + tier.length_max(), 1, 3)),
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
            if tier != Tier::Small {
                let short = |number: u64| (part(1 + number * 7, 7, 3), 1);
                let short: Vec<_> = (0..=full).map(short).collect();
                assert_eq!(
                    next_segment(tier, &short),
                    Some(full as usize),
                    "{tier:?}: all are short"
                );
            }
            for (parts, expected, case) in cases {
                assert_eq!(next_segment(tier, &parts), expected, "{tier:?}: {case}");
            }
        }
    }

    #[test]
    fn the_directory_narrows_to_a_few_records_too_many_and_none_too_few() {
        let found = records(1000, "2026-03-01T00:00:00Z");
        let segment = Segment::of(&found);
        let directory = segment
            .buckets(Tier::Small, Tier::Small.all_buckets())
            .remove(0)
            .entries;
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
        let numbers = Tier::Small.all_buckets();
        let buckets = segment.buckets(Tier::Small, numbers.clone());
        let outline = segment.outline();
        let filled = buckets.iter().filter(|bucket| !bucket.entries.is_empty());
        for bucket in filled {
            let mut cut_off = buckets.clone();
            for cut in cut_off.iter_mut().filter(|one| one.number == bucket.number) {
                cut.entries.pop();
            }
            assert_eq!(
                Segment::read(Tier::Small, outline, &numbers, &cut_off),
                Err(Damaged),
                "{bucket:?}"
            );
        }
        assert_eq!(
            Segment::read(Tier::Small, outline, &numbers, &buckets[1..]),
            Err(Damaged),
            "a bucket is missing"
        );
        assert_eq!(
            Segment::read(
                Tier::Small,
                Outline {
                    length: 99,
                    ..outline
                },
                &numbers,
                &buckets
            ),
            Err(Damaged),
            "a place lies behind the end"
        );
        let half = numbers.end / 2;
        assert_eq!(
            Segment::read(
                Tier::Small,
                outline,
                &(half..numbers.end),
                &of_numbers(&segment, Tier::Small, &(0..half))
            ),
            Err(Damaged),
            "a term lies in the bucket of another"
        );
        let sought = all(&[Term::Word("nowhere")]);
        assert_eq!(
            sought.members(Tier::Small, 100, 0..100, &HashMap::new()),
            Err(Damaged)
        );
    }
}
