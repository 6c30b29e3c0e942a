//! Walking one chain: whether every record is there, unchanged and in its place.

use serde::{Deserialize, Serialize};

use super::{Index, Mark, Record, link};

/// A row as it was found: the bytes and hashes, and the columns that repeat parts of the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub sequence: u64,
    pub bytes: Vec<u8>,
    pub previous: Vec<u8>,
    pub hash: Vec<u8>,
    pub index: Index,
}

/// The first record that does not add up, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Broken {
    pub sequence: u64,
    pub reason: String,
}

/// Walks one chain from its first record, or from the first that retention has left; stops at the first that is broken.
#[derive(Clone, Debug, Default)]
pub struct Verifier {
    end: Mark,
    records: u64,
}

impl Verifier {
    /// Expects the record behind `boundary`; sequence zero is before the first.
    pub fn behind(boundary: Mark) -> Verifier {
        Verifier {
            end: boundary,
            records: 0,
        }
    }

    /// How many records were found good.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// The last record that was found good, or the boundary.
    pub fn end(&self) -> Mark {
        self.end
    }

    /// A row, with its columns.
    pub fn next(&mut self, found: &Found) -> Result<(), Broken> {
        let expected = self.end.sequence + 1;
        if found.sequence == expected && found.previous != self.end.hash {
            return Err(Broken::new(expected, "it does not continue the record before it"));
        }
        self.next_link(found.sequence, &found.hash, &found.bytes)?;
        let record: Record = serde_json::from_slice(&found.bytes)
            .map_err(|error| Broken::new(expected, format!("its bytes are no record: {error}")))?;
        if record.index() != found.index {
            return Err(Broken::new(
                expected,
                "its columns say something else than its bytes",
            ));
        }
        Ok(())
    }

    /// The bytes of a record, with the sequence and hash that it claims.
    pub fn next_link(&mut self, sequence: u64, hash: &[u8], bytes: &[u8]) -> Result<(), Broken> {
        let expected = self.end.sequence + 1;
        if sequence != expected {
            let reason = format!("it is missing: the next one is {sequence}");
            return Err(Broken::new(expected, reason));
        }
        let linked = link(&self.end.hash, bytes);
        if hash != linked {
            return Err(Broken::new(expected, "its bytes do not have its hash"));
        }
        self.end = Mark {
            sequence: expected,
            hash: linked,
        };
        self.records += 1;
        Ok(())
    }

    /// Compares the end of the chain with the head that the writers keep.
    pub fn finish(&self, head: Mark) -> Result<(), Broken> {
        if self.end.sequence < head.sequence {
            let reason = format!("it is missing: the head says that there are {}", head.sequence);
            return Err(Broken::new(self.end.sequence + 1, reason));
        }
        if self.end != head {
            return Err(Broken::new(
                self.end.sequence,
                "the head row has another sequence or hash",
            ));
        }
        Ok(())
    }
}

impl Broken {
    pub(crate) fn new(sequence: u64, reason: impl Into<String>) -> Broken {
        Broken {
            sequence,
            reason: reason.into(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{Chain, ChainHead, Outcome, Verb, seal};
    use super::*;

    fn chain(length: u64) -> (Vec<Found>, Mark) {
        let mut head = ChainHead::default();
        let mut rows = Vec::new();
        for number in 0..length {
            let record = Record::new(
                "organizations/acme/users/ann",
                Verb::Create,
                format!("organizations/acme/tenants/t{number}"),
                Outcome::Done,
            );
            let (sealed, next) = seal(Chain::Writes, head, record);
            head = next;
            rows.push(Found {
                sequence: sealed.sequence,
                bytes: sealed.bytes,
                previous: sealed.previous.to_vec(),
                hash: sealed.hash.to_vec(),
                index: sealed.record.index(),
            });
        }
        (rows, head.mark())
    }

    fn verify(rows: &[Found], boundary: Mark, head: Mark) -> Result<u64, Broken> {
        let mut verifier = Verifier::behind(boundary);
        rows.iter().try_for_each(|row| verifier.next(row))?;
        verifier.finish(head)?;
        Ok(verifier.records())
    }

    #[test]
    fn a_chain_shows_every_kind_of_meddling() {
        let (rows, head) = chain(4);
        assert_eq!(verify(&rows, Mark::default(), head), Ok(4));
        type Meddle = fn(&mut Vec<Found>);
        let cases: [(&str, Meddle, u64, &str); 7] = [
            ("edited", |rows| rows[1].bytes[0] ^= 1, 2, "do not have its hash"),
            ("deleted", |rows| drop(rows.remove(1)), 2, "missing"),
            ("cut", |rows| rows.truncate(3), 4, "the head says"),
            ("reordered", |rows| rows.swap(1, 2), 2, "missing"),
            (
                "renumbered",
                |rows| {
                    rows.swap(1, 2);
                    rows[1].sequence = 2;
                    rows[2].sequence = 3;
                },
                2,
                "does not continue",
            ),
            (
                "column",
                |rows| rows[2].index.actor = "somebody".into(),
                3,
                "columns",
            ),
            ("emptied", Vec::clear, 1, "missing"),
        ];
        for (name, meddle, sequence, reason) in cases {
            let mut rows = rows.clone();
            meddle(&mut rows);
            let broken = verify(&rows, Mark::default(), head).unwrap_err();
            assert_eq!(broken.sequence, sequence, "{name}: {}", broken.reason);
            assert!(broken.reason.contains(reason), "{name}: {}", broken.reason);
        }
    }

    #[test]
    fn what_retention_has_left_is_verified_from_its_boundary() {
        let (rows, head) = chain(4);
        let boundary = Mark {
            sequence: 2,
            hash: rows[1].hash.as_slice().try_into().unwrap(),
        };
        assert_eq!(verify(&rows[2..], boundary, head), Ok(2));
        let broken = verify(&rows[3..], boundary, head).unwrap_err();
        assert_eq!(broken.sequence, 3);
        let other = Mark {
            sequence: 2,
            ..Mark::default()
        };
        assert_eq!(verify(&rows[2..], other, head).unwrap_err().sequence, 3);
    }
}
