//! What somebody who was asked does to a head. Nothing that says how long a message is, where it ends or where it goes is ever
//! changed for them, whatever they say.

use bytes::{BufMut, BytesMut};
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{HeaderValue as PbHeaderValue, HeaderValueOption};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::config::HeaderEdits;
use crate::matcher::StringMatcher;

/// What concerns one connection or frames the body.
const FRAMING: [HeaderName; 9] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::EXPECT,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Changes to a head, in their order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct HeaderChanges(Vec<Change>);

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Change {
    Remove(HeaderName),
    /// All whose names are like that, in lower case, but for those that nobody changes.
    RemoveLike(StringMatcher),
    /// In place of all lines of that name.
    Set(HeaderName, HeaderValue),
    SetIfThere(HeaderName, HeaderValue),
    /// A line of its own.
    Add(HeaderName, HeaderValue),
    AddIfAbsent(HeaderName, HeaderValue),
    /// Behind a comma, where there is a line.
    Append(HeaderName, HeaderValue),
}

/// What the head is of, which says what may not be changed and what is meant where nothing is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    Request,
    /// That of a host.
    Answer,
    /// One of our own, in which what is said stands in place of what we say.
    Refusal,
}

/// What was said cannot be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unfit {
    #[error("a header has no name or value that is one")]
    Malformed,
    #[error("a request does not go elsewhere for a header")]
    Target,
}

/// Whether a header concerns one connection or frames the body.
pub(crate) fn is_framing(name: &HeaderName) -> bool {
    FRAMING.contains(name)
}

/// Whether hosts may take one name for the other: those that hand headers on as variables (CGI, WSGI) write `_` for `-`.
pub(crate) fn is_read_as(one: &[u8], other: &[u8]) -> bool {
    let plain = |byte: &u8| match byte {
        b'_' => b'-',
        other => other.to_ascii_lowercase(),
    };
    one.len() == other.len() && one.iter().map(plain).eq(other.iter().map(plain))
}

impl HeaderChanges {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many bytes of lines they may add.
    pub(crate) fn bytes(&self) -> usize {
        self.0.iter().map(Change::bytes).sum()
    }

    /// Of the lines that they are about.
    pub(crate) fn names(&self) -> impl Iterator<Item = &HeaderName> {
        self.0.iter().filter_map(Change::name)
    }

    pub(crate) fn lines(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn extend(&mut self, more: Self) {
        self.0.extend(more.0);
    }

    pub(crate) fn apply(&self, headers: &mut HeaderMap) {
        for change in &self.0 {
            change.apply(headers);
        }
    }

    /// Does as `options` say to a head that is `of` something.
    pub(crate) fn change(&mut self, options: Vec<HeaderValueOption>, of: Of) -> Result<(), Unfit> {
        let mut added = Vec::with_capacity(options.len());
        for option in options {
            let Some((name, value)) = line(option.header.unwrap_or_default(), of)? else {
                continue;
            };
            #[allow(deprecated, reason = "services have not heard yet of the other field")]
            let appends = option.append.map(|append| append.value);
            let action = HeaderAppendAction::try_from(option.append_action);
            added.push(match (of, appends, action) {
                // What was there before is what we would have said.
                (Of::Refusal, ..) => {
                    self.0.push(Change::Remove(name.clone()));
                    Change::Add(name, value)
                }
                (Of::Request, Some(true), _) => Change::Append(name, value),
                (Of::Answer, Some(true), _) => Change::Add(name, value),
                (_, Some(false), _) | (_, None, Ok(HeaderAppendAction::OverwriteIfExistsOrAdd)) => {
                    Change::Set(name, value)
                }
                (_, None, Ok(HeaderAppendAction::AddIfAbsent)) => Change::AddIfAbsent(name, value),
                (_, None, Ok(HeaderAppendAction::OverwriteIfExists)) => Change::SetIfThere(name, value),
                // The default, which a service that says nothing of it does not mean for a request.
                (Of::Request, None, Ok(HeaderAppendAction::AppendIfExistsOrAdd)) => Change::Set(name, value),
                (Of::Answer, None, Ok(HeaderAppendAction::AppendIfExistsOrAdd)) => Change::Add(name, value),
                (_, None, Err(_)) => return Err(Unfit::Malformed),
            });
        }
        self.0.extend(added);
        Ok(())
    }

    /// Adds lines.
    pub(crate) fn add(&mut self, lines: Vec<PbHeaderValue>, of: Of) -> Result<(), Unfit> {
        let mut added = Vec::with_capacity(lines.len());
        for given in lines {
            let line = line(given, of)?;
            added.extend(line.map(|(name, value)| Change::Add(name, value)));
        }
        if of == Of::Refusal
            && added
                .iter()
                .any(|change| change.name() == Some(&header::CONTENT_TYPE))
        {
            // What we say it is would stand beside.
            self.0.push(Change::Remove(header::CONTENT_TYPE));
        }
        self.0.extend(added);
        Ok(())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Change> {
        self.0.iter()
    }

    pub(crate) fn set(&mut self, name: HeaderName, value: HeaderValue) {
        self.0.push(Change::Set(name, value));
    }

    /// What cannot be removed, or is no name, stays as it is.
    pub(crate) fn remove(&mut self, names: &[String]) {
        let names = names.iter().filter_map(|name| name.parse::<HeaderName>().ok());
        let names = names.filter(|name| *name != header::HOST && !FRAMING.contains(name));
        self.0.extend(names.map(Change::Remove));
    }
}

impl FromIterator<Change> for HeaderChanges {
    fn from_iter<I: IntoIterator<Item = Change>>(changes: I) -> Self {
        Self(changes.into_iter().collect())
    }
}

impl From<HeaderEdits> for HeaderChanges {
    fn from(edits: HeaderEdits) -> Self {
        let set = edits
            .set
            .into_iter()
            .map(|(name, value)| Change::Set(name, value));
        let add = edits
            .add
            .into_iter()
            .map(|(name, value)| Change::Add(name, value));
        let remove = edits.remove.into_iter().map(Change::Remove);
        Self(remove.chain(set).chain(add).collect())
    }
}

impl Change {
    fn apply(&self, headers: &mut HeaderMap) {
        match self {
            Self::Remove(name) => {
                headers.remove(name);
            }
            Self::RemoveLike(like) => {
                let names = headers.keys().filter(|name| is_like(name, like));
                let names: Vec<HeaderName> = names.cloned().collect();
                for name in names {
                    headers.remove(name);
                }
            }
            Self::Set(name, value) => {
                headers.insert(name.clone(), value.clone());
            }
            Self::SetIfThere(name, value) => {
                if headers.contains_key(name) {
                    headers.insert(name.clone(), value.clone());
                }
            }
            Self::Add(name, value) => {
                headers.append(name.clone(), value.clone());
            }
            Self::AddIfAbsent(name, value) => {
                headers.entry(name).or_insert_with(|| value.clone());
            }
            Self::Append(name, value) => {
                if let Some(held) = headers.get_mut(name) {
                    *held = appended(held, value);
                }
            }
        }
    }

    /// If it is about one.
    fn name(&self) -> Option<&HeaderName> {
        match self {
            Self::RemoveLike(_) => None,
            Self::Remove(name)
            | Self::Set(name, _)
            | Self::SetIfThere(name, _)
            | Self::Add(name, _)
            | Self::AddIfAbsent(name, _)
            | Self::Append(name, _) => Some(name),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Remove(_) | Self::RemoveLike(_) => 0,
            Self::Set(name, value)
            | Self::SetIfThere(name, value)
            | Self::Add(name, value)
            | Self::AddIfAbsent(name, value)
            | Self::Append(name, value) => name.as_str().len() + value.len(),
        }
    }
}

/// Whether lines of that name go with all that are like that.
pub(crate) fn is_like(name: &HeaderName, like: &StringMatcher) -> bool {
    like.matches(name.as_str().as_bytes()) && *name != header::HOST && !is_framing(name)
}

fn appended(held: &HeaderValue, value: &HeaderValue) -> HeaderValue {
    let mut joined = BytesMut::with_capacity(held.len() + 1 + value.len());
    joined.put_slice(held.as_bytes());
    joined.put_u8(b',');
    joined.put_slice(value.as_bytes());
    HeaderValue::from_maybe_shared(joined.freeze()).expect("invariant: values with a comma between are one")
}

/// A line that may be written, or nothing in place of one that is ours to write.
fn line(given: PbHeaderValue, of: Of) -> Result<Option<(HeaderName, HeaderValue)>, Unfit> {
    let is_target = given.key.starts_with(':') || given.key.eq_ignore_ascii_case("host");
    match of {
        // Whoever sends it elsewhere would believe that it went there.
        Of::Request if is_target => return Err(Unfit::Target),
        Of::Answer | Of::Refusal if is_target => return Ok(None),
        _ => {}
    }
    let name: HeaderName = given.key.parse().map_err(|_| Unfit::Malformed)?;
    if FRAMING.contains(&name) {
        return Ok(None);
    }
    let value = if given.value.is_empty() {
        given.raw_value
    } else {
        given.value.into_bytes()
    };
    let value = HeaderValue::from_maybe_shared(bytes::Bytes::from(value)).map_err(|_| Unfit::Malformed)?;
    Ok(Some((name, value)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use envoy_types::pb::google::protobuf::BoolValue;

    use super::*;

    #[allow(deprecated, reason = "as services say it")]
    fn option(key: &str, value: &str, append: Option<bool>, action: HeaderAppendAction) -> HeaderValueOption {
        HeaderValueOption {
            header: Some(PbHeaderValue {
                key: key.to_owned(),
                value: value.to_owned(),
                ..PbHeaderValue::default()
            }),
            append: append.map(|value| BoolValue { value }),
            append_action: action as i32,
            ..HeaderValueOption::default()
        }
    }

    fn changed(options: Vec<HeaderValueOption>, of: Of) -> Result<String, Unfit> {
        let mut headers = HeaderMap::new();
        headers.append("a", HeaderValue::from_static("1"));
        let mut changes = HeaderChanges::default();
        changes.change(options, of)?;
        changes.apply(&mut headers);
        let lines = headers
            .iter()
            .map(|(name, value)| format!("{name}={}", value.to_str().unwrap()));
        Ok(lines.collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn names_are_read_as_others() {
        for (one, other, expected) in [
            ("x-user", "x-user", true),
            ("x-user", "X_User", true),
            ("x_user-id", "x-user_id", true),
            ("x-user", "x-users", false),
            ("x-user", "xuser", false),
            ("x-user", "x.user", false),
        ] {
            assert_eq!(
                is_read_as(one.as_bytes(), other.as_bytes()),
                expected,
                "{one} {other}"
            );
        }
    }

    #[test]
    fn headers_are_changed_as_the_option_says() {
        use HeaderAppendAction::{
            AddIfAbsent, AppendIfExistsOrAdd, OverwriteIfExists, OverwriteIfExistsOrAdd,
        };
        for (of, append, action, there, absent) in [
            (Of::Request, None, AppendIfExistsOrAdd, "a=2", "a=1 b=2"),
            (Of::Request, Some(false), AppendIfExistsOrAdd, "a=2", "a=1 b=2"),
            (Of::Request, Some(true), OverwriteIfExistsOrAdd, "a=1,2", "a=1"),
            (Of::Request, None, OverwriteIfExistsOrAdd, "a=2", "a=1 b=2"),
            (Of::Request, None, AddIfAbsent, "a=1", "a=1 b=2"),
            (Of::Request, None, OverwriteIfExists, "a=2", "a=1"),
            (Of::Answer, None, AppendIfExistsOrAdd, "a=1 a=2", "a=1 b=2"),
            (
                Of::Answer,
                Some(true),
                OverwriteIfExistsOrAdd,
                "a=1 a=2",
                "a=1 b=2",
            ),
            (Of::Answer, Some(false), AppendIfExistsOrAdd, "a=2", "a=1 b=2"),
            (Of::Answer, None, AddIfAbsent, "a=1", "a=1 b=2"),
            (Of::Answer, None, OverwriteIfExists, "a=2", "a=1"),
            (Of::Refusal, None, AppendIfExistsOrAdd, "a=2", "a=1 b=2"),
            (Of::Refusal, Some(true), AddIfAbsent, "a=2", "a=1 b=2"),
        ] {
            for (key, expected) in [("A", there), ("b", absent)] {
                let got = changed(vec![option(key, "2", append, action)], of);
                assert_eq!(got.as_deref(), Ok(expected), "{of:?} {append:?} {action:?} {key}");
            }
        }
        let twice = vec![
            option("a", "2", None, AppendIfExistsOrAdd),
            option("a", "3", None, AppendIfExistsOrAdd),
        ];
        assert_eq!(
            changed(twice, Of::Refusal).as_deref(),
            Ok("a=2 a=3"),
            "such as cookies"
        );
    }

    #[test]
    fn nobody_else_frames_or_sends_a_message() {
        let ours = [
            "content-length",
            "Transfer-Encoding",
            "connection",
            "keep-alive",
            "proxy-connection",
            "te",
            "trailer",
            "upgrade",
            "expect",
        ];
        let one = |key: &str, value: &str| {
            vec![option(
                key,
                value,
                None,
                HeaderAppendAction::OverwriteIfExistsOrAdd,
            )]
        };
        for of in [Of::Request, Of::Answer, Of::Refusal] {
            for name in ours {
                assert_eq!(changed(one(name, "7"), of).as_deref(), Ok("a=1"), "{of:?} {name}");
            }
            for (name, value) in [
                ("", "1"),
                ("a b", "1"),
                ("a\r\nb", "1"),
                ("b", "1\r\nc: 2"),
                ("b", "\0"),
            ] {
                assert_eq!(
                    changed(one(name, value), of),
                    Err(Unfit::Malformed),
                    "{of:?} {name:?} {value:?}"
                );
            }
        }
        for name in ["host", "Host", ":path", ":method", ":authority", ":scheme"] {
            assert_eq!(changed(one(name, "x"), Of::Request), Err(Unfit::Target), "{name}");
            assert_eq!(
                changed(one(name, "x"), Of::Answer).as_deref(),
                Ok("a=1"),
                "{name}"
            );
        }
        let mut changes = HeaderChanges::default();
        let names = ["content-length", "Host", ":path", "", "a b", "transfer-encoding"];
        changes.remove(&names.map(str::to_owned));
        assert!(changes.is_empty());
        changes.remove(&["A".to_owned()]);
        let mut headers = HeaderMap::from_iter([(header::AGE, HeaderValue::from_static("1"))]);
        headers.insert("a", HeaderValue::from_static("1"));
        changes.apply(&mut headers);
        assert_eq!(headers.len(), 1);
    }
}
