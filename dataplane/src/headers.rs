//! Looking for single lines of a head in a map: most heads have few, which costs less to look through than to hash a name.

use http::{HeaderMap, HeaderName, HeaderValue};

pub(crate) fn has(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers.keys().any(|held| held == name)
}

/// The first line of that name.
pub(crate) fn first<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut lines = headers.iter();
    lines.find(|(held, _)| *held == name).map(|(_, value)| value)
}

/// Takes out what there is of those names.
pub(crate) fn remove(headers: &mut HeaderMap, names: &[HeaderName]) {
    if headers.keys().any(|held| names.contains(held)) {
        for name in names {
            headers.remove(name);
        }
    }
}

/// Whether a name may have several lines.
pub(crate) fn are_any_repeated(headers: &HeaderMap) -> bool {
    headers.len() > headers.keys_len()
}
