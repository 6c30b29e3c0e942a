//! Texts that are looked for in what requests say.

use crate::pattern::Pattern;

/// Bytes to be found in others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Text {
    pub(super) bytes: Box<[u8]>,
    case: Case,
}

/// Of ASCII letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Case {
    Matters,
    Ignored,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum StringMatcher {
    Exact(Text),
    Prefix(Text),
    Suffix(Text),
    Contains(Text),
    Regex(Pattern),
}

impl Text {
    pub(crate) fn new(text: impl Into<String>, case: Case) -> Self {
        Self {
            bytes: text.into().into_bytes().into(),
            case,
        }
    }

    /// Its bytes, if they mean only themselves.
    pub(crate) fn literal(&self) -> Option<&[u8]> {
        (self.case == Case::Matters).then_some(&*self.bytes)
    }

    pub(super) fn is(&self, given: &[u8]) -> bool {
        match self.case {
            Case::Matters => *self.bytes == *given,
            Case::Ignored => self.bytes.eq_ignore_ascii_case(given),
        }
    }

    /// What is behind it in `given`, if that begins with it.
    pub(super) fn rest<'a>(&self, given: &'a [u8]) -> Option<&'a [u8]> {
        let (start, rest) = given.split_at_checked(self.bytes.len())?;
        self.is(start).then_some(rest)
    }

    fn ends(&self, given: &[u8]) -> bool {
        let end = given.len().checked_sub(self.bytes.len());
        end.is_some_and(|at| self.is(&given[at..]))
    }

    fn is_in(&self, given: &[u8]) -> bool {
        (0..=given.len()).any(|at| self.rest(&given[at..]).is_some())
    }
}

impl StringMatcher {
    #[cfg(test)]
    pub(crate) fn exact(text: &str) -> Self {
        Self::Exact(Text::new(text, Case::Matters))
    }

    pub(crate) fn matches(&self, given: &[u8]) -> bool {
        match self {
            Self::Exact(text) => text.is(given),
            Self::Prefix(text) => text.rest(given).is_some(),
            Self::Suffix(text) => text.ends(given),
            Self::Contains(text) => text.is_in(given),
            Self::Regex(pattern) => pattern.matches(given),
        }
    }
}
