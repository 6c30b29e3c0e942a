//! An export of the record as JSON lines, and its verifier, which needs nothing else than the file and the public key.
//!
//! A line holds the stored bytes of a record as they are, so that a person can read them and their hash can be
//! checked. The first line says what follows, then comes the boundary that retention has left, if it has, then the chain
//! of writes and that of denials, then the latest checkpoint, and a last line without which the file is not whole.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use super::statement::unhex;
use super::{BadStatement, Broken, Chain, Mark, PublicKeys, Signed, StatementKind, Verifier, hex};

/// What a line of an export is, besides a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Line {
    #[serde(rename_all = "camelCase")]
    Export {
        organization: String,
        time: DateTime<Utc>,
        /// Whether every record is there. A filter, or a caller who may not read all, leaves some out.
        complete: bool,
    },
    Boundary(Signed),
    Checkpoint(Signed),
    /// The last record of each chain when the export ended.
    End {
        writes: u64,
        denials: u64,
    },
}

/// Verifies an export line by line, in constant memory.
#[derive(Debug)]
pub struct Export {
    keys: PublicKeys,
    organization: Option<String>,
    chains: BTreeMap<Chain, Track>,
    end: Option<BTreeMap<Chain, u64>>,
    lines: u64,
}

/// What was found out about an export that could be read to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub organization: String,
    pub chains: Vec<ChainReport>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ChainReport {
    pub chain: Chain,
    /// That were found good.
    pub records: u64,
    /// The last of them that a checkpoint vouches for; zero for none.
    pub vouched: u64,
    pub broken: Option<Broken>,
}

/// Why an export cannot be verified at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("line {line} is not one of an export: {reason}")]
    Line { line: u64, reason: String },
    #[error("the statement on line {line} is not to be believed")]
    Statement {
        line: u64,
        #[source]
        source: BadStatement,
    },
    #[error("a checkpoint is not to be believed")]
    Checkpoint(#[source] BadStatement),
    #[error(
        "the export leaves records out, by a filter or because its reader may not read all; export all of it"
    )]
    Incomplete,
    #[error("it is the record of {found}, and a statement speaks of {expected}")]
    OtherOrganization { found: String, expected: String },
    #[error("the export is cut off: its last line is missing; run the export again, it resumes")]
    CutOff,
}

#[derive(Debug, Default)]
struct Track {
    verifier: Verifier,
    /// What statements say that is still to come, by sequence.
    expected: BTreeMap<u64, Expected>,
    vouched: u64,
    broken: Option<Broken>,
}

#[derive(Clone, Debug)]
struct Expected {
    hash: [u8; 32],
    /// The statement's.
    number: u64,
}

#[derive(Deserialize)]
struct RecordHead<'a> {
    chain: Chain,
    sequence: u64,
    hash: &'a str,
}

const HASH: &[u8] = b"\"hash\":\"";
const RECORD: &[u8] = b",\"record\":";
const BYTES: &[u8] = b",\"bytes\":";
/// Where the hash begins at the latest, behind the longest chain and sequence.
const HASH_AT_MAX: usize = 64;

/// The line of a record. Bytes that are not a line of JSON any more, because somebody meddled with them, are Base64.
pub fn record_line(chain: Chain, sequence: u64, hash: &[u8], bytes: &[u8]) -> Vec<u8> {
    let hash = hex(hash);
    let head = format!("{{\"chain\":\"{chain}\",\"sequence\":{sequence},\"hash\":\"{hash}\"");
    let mut line = head.into_bytes();
    let is_json = !bytes.contains(&b'\n') && serde_json::from_slice::<IgnoredAny>(bytes).is_ok();
    if is_json {
        line.extend_from_slice(RECORD);
        line.extend_from_slice(bytes);
    } else {
        line.extend_from_slice(BYTES);
        line.extend_from_slice(format!("\"{}\"", STANDARD.encode(bytes)).as_bytes());
    }
    line.extend_from_slice(b"}\n");
    line
}

impl Line {
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).expect("invariant: a line has string keys and no floats");
        line.push(b'\n');
        line
    }
}

impl Export {
    /// `checkpoints` are those that have left the system.
    pub fn new(keys: PublicKeys, checkpoints: &[Signed]) -> Result<Export, Fault> {
        let mut export = Export {
            keys,
            organization: None,
            chains: [Chain::Writes, Chain::Denials]
                .map(|chain| (chain, Track::default()))
                .into(),
            end: None,
            lines: 0,
        };
        for signed in checkpoints {
            export.expect(signed, Fault::Checkpoint)?;
        }
        Ok(export)
    }

    /// The next line, with or without its end.
    pub fn line(&mut self, line: &[u8]) -> Result<(), Fault> {
        self.lines += 1;
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        if line.starts_with(b"{\"chain\":") {
            return self.record(line);
        }
        let number = self.lines;
        let statement = move |source| Fault::Statement { line: number, source };
        match serde_json::from_slice(line).map_err(|error| self.unreadable(&error))? {
            Line::Export { complete: false, .. } => Err(Fault::Incomplete),
            Line::Export { organization, .. } => self.belongs(organization),
            Line::Checkpoint(signed) => self.expect(&signed, statement),
            Line::Boundary(signed) => {
                let boundary = self.keys.verify(&signed).map_err(statement)?;
                self.belongs(boundary.organization.clone())?;
                for (chain, track) in &mut self.chains {
                    track.begin(boundary.mark(*chain));
                }
                Ok(())
            }
            Line::End { writes, denials } => {
                self.end = Some([(Chain::Writes, writes), (Chain::Denials, denials)].into());
                Ok(())
            }
        }
    }

    pub fn finish(self) -> Result<Report, Fault> {
        let end = self.end.ok_or(Fault::CutOff)?;
        let reports = self
            .chains
            .into_iter()
            .map(|(chain, track)| track.report(chain, end.get(&chain).copied()));
        Ok(Report {
            organization: self.organization.unwrap_or_default(),
            chains: reports.collect(),
        })
    }

    fn record(&mut self, line: &[u8]) -> Result<(), Fault> {
        let (head, content) = split(line).ok_or_else(|| self.unreadable(&"it has no record"))?;
        let head: RecordHead<'_> = serde_json::from_slice(&head).map_err(|error| self.unreadable(&error))?;
        let hash = unhex(head.hash).ok_or_else(|| self.unreadable(&"its hash is not 64 digits"))?;
        let decoded;
        let bytes = match (content.strip_prefix(RECORD), content.strip_prefix(BYTES)) {
            (Some(bytes), _) => bytes,
            (None, Some(text)) => {
                let text: &str = serde_json::from_slice(text).map_err(|error| self.unreadable(&error))?;
                decoded = STANDARD.decode(text).map_err(|error| self.unreadable(&error))?;
                &decoded
            }
            (None, None) => return Err(self.unreadable(&"it has no record")),
        };
        if let Some(track) = self.chains.get_mut(&head.chain) {
            track.next(head.sequence, &hash, bytes);
        }
        Ok(())
    }

    fn expect(&mut self, signed: &Signed, fault: impl FnOnce(BadStatement) -> Fault) -> Result<(), Fault> {
        let statement = self.keys.verify(signed).map_err(fault)?;
        self.belongs(statement.organization.clone())?;
        for (chain, track) in &mut self.chains {
            track.expect(statement.mark(*chain), statement.kind, statement.number);
        }
        Ok(())
    }

    fn belongs(&mut self, organization: String) -> Result<(), Fault> {
        let expected = self.organization.get_or_insert_with(|| organization.clone());
        if *expected != organization {
            return Err(Fault::OtherOrganization {
                found: expected.clone(),
                expected: organization,
            });
        }
        Ok(())
    }

    fn unreadable(&self, reason: &dyn ToString) -> Fault {
        Fault::Line {
            line: self.lines,
            reason: reason.to_string(),
        }
    }
}

impl Track {
    fn begin(&mut self, boundary: Mark) {
        self.verifier = Verifier::behind(boundary);
        self.meet();
        // Of what was dropped there is nothing left to compare.
        self.expected = self.expected.split_off(&(boundary.sequence + 1));
    }

    fn expect(&mut self, mark: Mark, kind: StatementKind, number: u64) {
        if mark.sequence == 0 || kind == StatementKind::Boundary {
            return;
        }
        let expected = Expected {
            hash: mark.hash,
            number,
        };
        self.expected.insert(mark.sequence, expected);
        if self.verifier.end().sequence == mark.sequence {
            self.meet();
        }
    }

    fn next(&mut self, sequence: u64, hash: &[u8], bytes: &[u8]) {
        if self.broken.is_some() {
            return;
        }
        match self.verifier.next_link(sequence, hash, bytes) {
            Ok(()) => self.meet(),
            Err(broken) => self.broken = Some(broken),
        }
    }

    /// Compares the record that was just reached with what a statement says of it.
    fn meet(&mut self) {
        let end = self.verifier.end();
        match self.expected.remove(&end.sequence) {
            Some(expected) if expected.hash == end.hash => self.vouched = end.sequence,
            Some(expected) => {
                let number = expected.number;
                let reason = format!(
                    "checkpoint {number} has another hash for it: it or a record before it was made anew"
                );
                self.broken = Some(Broken::new(end.sequence, reason));
            }
            None => {}
        }
    }

    fn report(self, chain: Chain, end: Option<u64>) -> ChainReport {
        let reached = self.verifier.end().sequence;
        let missing = |reason: String| Some(Broken::new(reached + 1, reason));
        let told = self.expected.last_key_value();
        let broken = match (self.broken, told, end) {
            (Some(broken), _, _) => Some(broken),
            (None, Some((sequence, expected)), _) if *sequence > reached => {
                let number = expected.number;
                missing(format!("it is missing: checkpoint {number} tells of {sequence}"))
            }
            (None, _, Some(end)) if end != reached => {
                missing(format!("it is missing: the export says that it ends with {end}"))
            }
            _ => None,
        };
        ChainReport {
            chain,
            records: self.verifier.records(),
            vouched: self.vouched,
            broken,
        }
    }
}

impl Report {
    pub fn is_whole(&self) -> bool {
        self.chains.iter().all(|chain| chain.broken.is_none())
    }
}

/// The head of a record's line as an object of its own, and what follows it. The head ends with the hash, so that
/// nothing in a record is taken for part of it.
fn split(line: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let at = line
        .windows(HASH.len())
        .take(HASH_AT_MAX)
        .position(|window| window == HASH)?;
    let end = at + HASH.len() + 2 * size_of::<[u8; 32]>() + 1;
    let head = [line.get(..end)?, b"}"].concat();
    Some((head, line.get(end..)?.strip_suffix(b"}")?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{ChainHead, Outcome, Record, SigningKey, Statement, Verb, seal};
    use super::*;

    /// An organization with a key, `WRITES` records and one denial, and what was signed of it.
    struct World {
        key: SigningKey,
        rows: Vec<(Chain, u64, [u8; 32], Vec<u8>)>,
        /// The place of the checkpoint that has left the system.
        checkpoint: Signed,
    }

    const WRITES: usize = 6;
    const SIGNED: usize = 4;

    fn chain(chain: Chain, length: usize, actor: &str) -> Vec<(Chain, u64, [u8; 32], Vec<u8>)> {
        let mut head = ChainHead::default();
        let seal_next = |number: usize| {
            let name = format!("organizations/acme/tenants/t{number}");
            let record = Record::new(actor, Verb::Create, name, Outcome::Done);
            let (sealed, next) = seal(chain, head, record);
            head = next;
            (chain, sealed.sequence, sealed.hash, sealed.bytes)
        };
        (0..length).map(seal_next).collect()
    }

    fn world() -> World {
        let dir = tempfile::tempdir().unwrap();
        let key = SigningKey::open_or_create(&dir.path().join("key.pem")).unwrap();
        let writes = chain(Chain::Writes, WRITES, "ann");
        let denials = chain(Chain::Denials, 1, "bob");
        let checkpoint = key.sign(&statement(3, &writes[SIGNED - 1], &denials[0]));
        World {
            key,
            rows: [writes, denials].concat(),
            checkpoint,
        }
    }

    type Row = (Chain, u64, [u8; 32], Vec<u8>);

    fn statement(number: u64, write: &Row, denial: &Row) -> Statement {
        let mark = |row: &Row| Mark {
            sequence: row.1,
            hash: row.2,
        };
        Statement {
            kind: StatementKind::Checkpoint,
            organization: "acme".to_owned(),
            number,
            time: DateTime::UNIX_EPOCH,
            writes: mark(write),
            denials: mark(denial),
        }
    }

    fn begin() -> Line {
        Line::Export {
            organization: "acme".to_owned(),
            time: DateTime::UNIX_EPOCH,
            complete: true,
        }
    }

    /// As the server writes it of these rows.
    fn file(rows: &[Row]) -> Vec<Vec<u8>> {
        let last = |chain| {
            let of_chain = rows.iter().filter(|row| row.0 == chain);
            of_chain.map(|row| row.1).max().unwrap_or_default()
        };
        let end = Line::End {
            writes: last(Chain::Writes),
            denials: last(Chain::Denials),
        };
        let records = rows
            .iter()
            .map(|(chain, sequence, hash, bytes)| record_line(*chain, *sequence, hash, bytes));
        [begin().to_bytes()]
            .into_iter()
            .chain(records)
            .chain([end.to_bytes()])
            .collect()
    }

    fn verify(world: &World, lines: &[Vec<u8>], checkpoints: &[Signed]) -> Result<Report, Fault> {
        let keys = [world.key.public()].into_iter().collect();
        let mut export = Export::new(keys, checkpoints)?;
        lines.iter().try_for_each(|line| export.line(line))?;
        export.finish()
    }

    #[test]
    fn an_export_as_it_was_made_is_whole() {
        let world = world();
        let report = verify(
            &world,
            &file(&world.rows),
            std::slice::from_ref(&world.checkpoint),
        )
        .unwrap();
        assert!(report.is_whole(), "{report:?}");
        let found: Vec<(u64, u64)> = report
            .chains
            .iter()
            .map(|chain| (chain.records, chain.vouched))
            .collect();
        assert_eq!(found, [(WRITES as u64, SIGNED as u64), (1, 1)]);
        let unsigned = verify(&world, &file(&world.rows), &[]).unwrap();
        assert!(unsigned.is_whole() && unsigned.chains[0].vouched == 0);
    }

    /// Whoever administers the database can do each of these, and export what is there afterwards.
    #[test]
    fn every_kind_of_meddling_is_found_against_a_checkpoint() {
        type Meddle = fn(&mut Vec<Row>);
        let cases: [(&str, Meddle, u64, &str); 6] = [
            (
                "edited",
                |rows| {
                    let text = String::from_utf8(rows[1].3.clone()).unwrap();
                    rows[1].3 = text.replace("ann", "eve").into_bytes();
                },
                2,
                "its bytes do not have its hash",
            ),
            (
                "dropped",
                |rows| drop(rows.remove(1)),
                2,
                "missing: the next one is 3",
            ),
            (
                "reordered",
                |rows| rows.swap(1, 2),
                2,
                "missing: the next one is 3",
            ),
            (
                "tail cut",
                |rows| drop(rows.drain(3..WRITES)),
                4,
                "missing: checkpoint 3 tells of 4",
            ),
            (
                "chain made anew",
                |rows| {
                    let anew = chain(Chain::Writes, WRITES, "eve");
                    rows.splice(..WRITES, anew);
                },
                4,
                "checkpoint 3 has another hash for it",
            ),
            (
                "emptied",
                |rows| drop(rows.drain(..WRITES)),
                1,
                "missing: checkpoint 3 tells of 4",
            ),
        ];
        for (name, meddle, sequence, reason) in cases {
            let mut world = world();
            meddle(&mut world.rows);
            let checkpoint = std::slice::from_ref(&world.checkpoint);
            let report = verify(&world, &file(&world.rows), checkpoint).unwrap();
            let broken = report.chains[0].broken.clone();
            let broken = broken.unwrap_or_else(|| panic!("{name} was not found"));
            assert_eq!(broken.sequence, sequence, "{name}: {}", broken.reason);
            assert!(broken.reason.contains(reason), "{name}: {}", broken.reason);
            assert_eq!(report.chains[1].broken, None, "{name}");
        }
    }

    #[test]
    fn what_has_no_checkpoint_yet_can_be_made_anew() {
        let mut world = world();
        let anew = chain(Chain::Writes, WRITES, "eve");
        world.rows.splice(..WRITES, anew);
        assert!(verify(&world, &file(&world.rows), &[]).unwrap().is_whole());
    }

    #[test]
    fn the_rest_is_verified_from_a_signed_boundary() {
        let world = world();
        let boundary = Statement {
            kind: StatementKind::Boundary,
            denials: Mark::default(),
            ..statement(2, &world.rows[2], &world.rows[2])
        };
        let boundary = Line::Boundary(world.key.sign(&boundary)).to_bytes();
        let mut lines = file(&world.rows[3..]);
        let checkpoints = std::slice::from_ref(&world.checkpoint);
        let without = verify(&world, &lines, checkpoints).unwrap();
        assert_eq!(without.chains[0].broken.as_ref().unwrap().sequence, 1);
        lines.insert(1, boundary);
        let report = verify(&world, &lines, checkpoints).unwrap();
        assert!(report.is_whole(), "{report:?}");
        assert_eq!((report.chains[0].records, report.chains[0].vouched), (3, 4));
    }

    #[test]
    fn what_cannot_be_judged_says_why() {
        let world = world();
        let whole = file(&world.rows);
        let cut = &whole[..whole.len() - 1];
        assert_eq!(verify(&world, cut, &[]), Err(Fault::CutOff));
        let some = begin_with(&whole, |line| {
            line.replace("\"complete\":true", "\"complete\":false")
        });
        assert_eq!(verify(&world, &some, &[]), Err(Fault::Incomplete));
        let other = begin_with(&whole, |line| line.replace("acme", "other"));
        let error = verify(&world, &other, std::slice::from_ref(&world.checkpoint)).unwrap_err();
        assert!(matches!(error, Fault::OtherOrganization { .. }), "{error}");
        let garbled = [b"{\"chain\":\"writes\"}".to_vec()];
        let error = verify(&world, &garbled, &[]).unwrap_err().to_string();
        assert_eq!(error, "line 1 is not one of an export: it has no record");
        let stranger = self::world();
        let error = verify(&world, &whole, &[stranger.checkpoint]).unwrap_err();
        assert!(
            matches!(error, Fault::Checkpoint(BadStatement::OtherKey(_))),
            "{error}"
        );
    }

    fn begin_with(lines: &[Vec<u8>], change: impl Fn(String) -> String) -> Vec<Vec<u8>> {
        let mut lines = lines.to_vec();
        lines[0] = change(String::from_utf8(lines[0].clone()).unwrap()).into_bytes();
        lines
    }

    #[test]
    fn bytes_that_are_no_json_are_exported_all_the_same() {
        for bytes in [&b"\xff\xfe"[..], b"{\"a\":\n1}", b"{\"a\":\",\\\"bytes\\\":\"}"] {
            let world = world();
            let hash = super::super::link(&[0; 32], bytes);
            let rows = [(Chain::Writes, 1, hash, bytes.to_vec())];
            let report = verify(&world, &file(&rows), &[]).unwrap();
            assert_eq!(report.chains[0].records, 1, "{report:?}");
        }
    }
}
