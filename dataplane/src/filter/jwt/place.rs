//! Where tokens are: in a header, a parameter or a cookie, and there once and in one way, since whoever comes behind us might read
//! another one.

use std::borrow::Cow;

use http::header::{COOKIE, HeaderName};

use super::Flaw;
use crate::filter::changes::parameters;
use crate::header_changes::is_read_as;
use crate::matcher::{RequestView, Subject, cookies};

/// Of a provider.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Behind the prefix, wherever that is.
    Header {
        name: HeaderName,
        prefix: Box<str>,
    },
    Parameter(Box<str>),
    Cookie(Box<str>),
}

impl Place {
    /// What is there, be it a token or not. Two of them are none: who comes behind us might read the other one.
    pub(super) fn token<'r>(
        &'r self,
        subject: &'r Subject<'_, impl RequestView>,
    ) -> Option<Result<Cow<'r, str>, Flaw>> {
        match self {
            Self::Header { name, .. } if has_other_spelling(&subject.request, name) => Some(Err(Flaw::Form)),
            Self::Header { name, prefix } => {
                let value = match only(subject.request.lines(name))? {
                    Ok(value) => text(value),
                    Err(flaw) => return Some(Err(flaw)),
                };
                let before = value.find(&**prefix)?;
                if holds(&value[..before], prefix.trim_ascii_end()) {
                    return Some(Err(Flaw::Form));
                }
                let start = before + prefix.len();
                Some(Ok(match value {
                    Cow::Borrowed(value) => Cow::Borrowed(value[start..].trim_start()),
                    Cow::Owned(value) => Cow::Owned(value[start..].trim_start().to_owned()),
                }))
            }
            Self::Parameter(name) => {
                let found = only(parameters(subject.request.query()?, name))?;
                Some(found.map(Cow::Borrowed))
            }
            Self::Cookie(name) => {
                let found = only(cookies(subject.request.lines(&COOKIE), name))?;
                Some(found.map(text))
            }
        }
    }
}

fn only<T>(mut found: impl Iterator<Item = T>) -> Option<Result<T, Flaw>> {
    let first = found.next()?;
    Some(match found.next() {
        None => Ok(first),
        Some(_) => Err(Flaw::Form),
    })
}

/// Whether there is one that hosts may take for that header.
fn has_other_spelling(request: &impl RequestView, name: &HeaderName) -> bool {
    let name = name.as_str().as_bytes();
    let mut found = false;
    if name.contains(&b'-') || name.contains(&b'_') {
        request.names(&mut |other| found |= is_read_as(other, name) && !other.eq_ignore_ascii_case(name));
    }
    found
}

/// Whether a prefix is in there, in letters of any case.
fn holds(text: &str, prefix: &str) -> bool {
    let prefix = prefix.as_bytes();
    let is_it = |part: &[u8]| part.eq_ignore_ascii_case(prefix);
    !prefix.is_empty() && text.as_bytes().windows(prefix.len()).any(is_it)
}

/// What is not text is no token.
fn text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}
