//! Versions, and what a subscriber holds: the state that outlives a connection.

use std::collections::BTreeMap;
use std::fmt;

use crate::resource::{ContentHash, Digest};

/// Orders all that is published about one thing. Of intent it is (epoch, revision): a restored database is a
/// new epoch. Of reports it is (incarnation of the edge, sequence).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    pub epoch: u64,
    pub revision: u64,
}

/// Which state of the publisher something is.
///
/// A publisher changes its stamp whenever it changes its set. `source` names the process in this life of it
/// when its `sequence` starts again with the process (`central-1/0198c…`), and the thing published when every
/// replica would publish the same bytes at one version (management's intent).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Stamp {
    pub version: Version,
    pub source: String,
    /// Orders the updates of one source at one version: a central publishes slices again at the same
    /// revision when reports change.
    pub sequence: u64,
}

/// What a subscriber holds. The plane keeps the resources themselves, and stores both in one last-good file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// `None` when nothing was ever received.
    pub stamp: Option<Stamp>,
    pub names: BTreeMap<String, ContentHash>,
    /// The publisher said that `names` is all it has at `stamp`.
    pub complete: bool,
}

/// How an offered stamp relates to the one that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offer {
    Newer,
    Same,
    Older,
}

impl Held {
    pub fn digest(&self) -> Digest {
        Digest::of(&self.names)
    }
}

/// No component goes backwards. Updates of one source are ordered by version and sequence; of two sources
/// only by version, because following another replica at the same version is safe.
pub(crate) fn judge(held: Option<&Stamp>, offered: &Stamp) -> Offer {
    use std::cmp::Ordering;
    let Some(held) = held else {
        return Offer::Newer;
    };
    if held.source != offered.source {
        return if offered.version >= held.version {
            Offer::Newer
        } else {
            Offer::Older
        };
    }
    match (offered.version, offered.sequence).cmp(&(held.version, held.sequence)) {
        Ordering::Greater => Offer::Newer,
        Ordering::Equal => Offer::Same,
        Ordering::Less => Offer::Older,
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.revision)
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{} of {}", self.version, self.sequence, self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::{Offer, Stamp, Version, judge};

    fn stamp(source: &str, epoch: u64, revision: u64, sequence: u64) -> Stamp {
        Stamp {
            version: Version { epoch, revision },
            source: source.to_owned(),
            sequence,
        }
    }

    #[test]
    fn offers_are_judged_by_source_version_and_sequence() {
        let held = stamp("a", 1, 7, 3);
        let cases = [
            (stamp("a", 1, 7, 3), Offer::Same),
            (stamp("a", 1, 7, 4), Offer::Newer),
            (stamp("a", 1, 8, 0), Offer::Newer),
            (stamp("a", 2, 0, 0), Offer::Newer),
            (stamp("a", 1, 7, 2), Offer::Older),
            (stamp("a", 1, 6, 9), Offer::Older),
            (stamp("a", 0, 9, 9), Offer::Older),
            (stamp("b", 1, 7, 0), Offer::Newer),
            (stamp("b", 1, 8, 0), Offer::Newer),
            (stamp("b", 1, 6, 9), Offer::Older),
            (stamp("b", 0, 9, 9), Offer::Older),
        ];
        for (offered, expected) in cases {
            assert_eq!(judge(Some(&held), &offered), expected, "{offered} over {held}");
        }
        assert_eq!(judge(None, &held), Offer::Newer);
    }
}
