//! What two processes say to each other, as texts.

use std::fmt;

use super::link::TEXT_BYTES_MAX;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Word {
    TakeOver { version: u32 },
    No { reason: String },
    State { sockets: usize },
    Sockets,
    Ready,
    Yours,
    Mine,
}

impl Word {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (first, rest) = text.split_once(' ').unwrap_or((text, ""));
        match (first, rest) {
            ("tombolo", rest) => {
                let version = rest.strip_prefix("take-over ")?.parse().ok()?;
                Some(Self::TakeOver { version })
            }
            ("no", reason) => Some(Self::No {
                reason: reason.to_owned(),
            }),
            ("state", sockets) => Some(Self::State {
                sockets: sockets.parse().ok()?,
            }),
            ("sockets", "") => Some(Self::Sockets),
            ("ready", "") => Some(Self::Ready),
            ("yours", "") => Some(Self::Yours),
            ("mine", "") => Some(Self::Mine),
            _ => None,
        }
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TakeOver { version } => write!(f, "tombolo take-over {version}"),
            // A message has so much room.
            Self::No { reason } => write!(
                f,
                "no {}",
                &reason[..reason.floor_char_boundary(TEXT_BYTES_MAX - 3)]
            ),
            Self::State { sockets } => write!(f, "state {sockets}"),
            Self::Sockets => f.write_str("sockets"),
            Self::Ready => f.write_str("ready"),
            Self::Yours => f.write_str("yours"),
            Self::Mine => f.write_str("mine"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_understood_as_they_are_said() {
        let words = [
            (Word::TakeOver { version: 1 }, "tombolo take-over 1"),
            (Word::TakeOver { version: 12 }, "tombolo take-over 12"),
            (
                Word::No {
                    reason: "it is busy: wait".to_owned(),
                },
                "no it is busy: wait",
            ),
            (
                Word::No {
                    reason: String::new(),
                },
                "no ",
            ),
            (Word::State { sockets: 300 }, "state 300"),
            (Word::Sockets, "sockets"),
            (Word::Ready, "ready"),
            (Word::Yours, "yours"),
            (Word::Mine, "mine"),
        ];
        for (word, text) in words {
            assert_eq!(word.to_string(), text);
            assert_eq!(Word::parse(text), Some(word));
        }
        for text in [
            "",
            "tombolo",
            "tombolo take-over",
            "tombolo take-over x",
            "state",
            "state -1",
            "state 3 2",
            "ready now",
            "?",
        ] {
            assert_eq!(Word::parse(text), None, "{text:?}");
        }
        let long = Word::No {
            reason: "ö".repeat(TEXT_BYTES_MAX),
        }
        .to_string();
        assert!((TEXT_BYTES_MAX - 2..=TEXT_BYTES_MAX).contains(&long.len()));
    }
}
