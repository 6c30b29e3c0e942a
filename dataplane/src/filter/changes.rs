//! What filters change of a request before it goes on, and the request as those behind them see it.

use http::Method;
use http::header::{self, HeaderName};
use http::uri::PathAndQuery;

use crate::config::HeaderEdits;
use crate::forward::is_end_to_end;
use crate::matcher::RequestView;

/// Before anything that the route says of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Changes {
    pub(crate) edits: HeaderEdits,
    /// What is taken out of the query, by its names.
    pub(crate) parameters: Vec<Box<str>>,
}

/// A request with what was changed of it.
pub(super) struct Changed<'a, R> {
    request: &'a R,
    edits: &'a HeaderEdits,
    /// None where it is the request's own.
    query: Option<Option<String>>,
}

impl Changes {
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(crate) fn target(&self, target: PathAndQuery) -> PathAndQuery {
        let Some(query) = target.query().filter(|_| !self.parameters.is_empty()) else {
            return target;
        };
        let path = target.path();
        let text = match self.rest(query) {
            None => path.to_owned(),
            Some(rest) => format!("{path}?{rest}"),
        };
        text.parse()
            .expect("invariant: a target is one without a part of its query too")
    }

    /// What stays of a query, if anything does.
    fn rest(&self, query: &str) -> Option<String> {
        let stays = |parameter: &&str| !self.parameters.iter().any(|taken| is_named(parameter, taken));
        let rest: Vec<&str> = query.split('&').filter(stays).collect();
        (!rest.is_empty()).then(|| rest.join("&"))
    }

    /// What was said later is said instead.
    pub(super) fn extend(&mut self, later: Self) {
        let Self { edits, parameters } = later;
        self.edits.extend(edits);
        self.parameters.extend(parameters);
    }
}

impl<'a, R: RequestView> Changed<'a, R> {
    pub(super) fn new(request: &'a R, changes: &'a Changes) -> Self {
        let query = request.query().filter(|_| !changes.parameters.is_empty());
        Self {
            request,
            edits: &changes.edits,
            query: query.map(|query| changes.rest(query)),
        }
    }
}

impl<R: RequestView> Changed<'_, R> {
    /// Whether there is a line of that name that goes on: the client's own do not where its `connection` lists them.
    pub(super) fn goes_on(&self, name: &HeaderName) -> bool {
        let mut said = self.edits.set.iter().chain(&self.edits.add);
        let is_it = |option: &[u8]| option.trim_ascii().eq_ignore_ascii_case(name.as_str().as_bytes());
        let is_listed = || {
            let is_in = |line: &[u8]| line.split(|byte| *byte == b',').any(is_it);
            self.request.lines(&header::CONNECTION).any(is_in) && !is_end_to_end(name)
        };
        said.any(|(said, _)| said == name) || self.lines(name).next().is_some() && !is_listed()
    }
}

impl<R: RequestView> RequestView for Changed<'_, R> {
    fn method(&self) -> &Method {
        self.request.method()
    }

    fn query(&self) -> Option<&str> {
        match &self.query {
            None => self.request.query(),
            Some(rest) => rest.as_deref(),
        }
    }

    fn is_open_ended(&self) -> bool {
        self.request.is_open_ended()
    }

    fn lines<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> {
        let is_replaced = self.edits.replaced().any(|replaced| replaced == name);
        let own = (!is_replaced).then(|| self.request.lines(name));
        // The last of a name, as it goes on.
        let set = self.edits.set.iter().rev().find(|(set, _)| set == name);
        let added = self.edits.add.iter().filter(move |(added, _)| added == name);
        let said = set.into_iter().chain(added).map(|(_, value)| value.as_bytes());
        own.into_iter().flatten().chain(said)
    }

    fn names(&self, show: &mut dyn FnMut(&[u8])) {
        let is_it = |name: &[u8], other: &HeaderName| name.eq_ignore_ascii_case(other.as_str().as_bytes());
        self.request.names(&mut |name| {
            if !self.edits.replaced().any(|replaced| is_it(name, replaced)) {
                show(name);
            }
        });
        let said = self.edits.set.iter().chain(&self.edits.add);
        said.for_each(|(name, _)| show(name.as_str().as_bytes()));
    }
}

/// The values of all parameters of a name, however that is written.
pub(super) fn parameters<'a>(query: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    let named = query
        .split('&')
        .filter(move |parameter| is_named(parameter, name));
    named.map(|parameter| parameter.split_once('=').map_or("", |(_, value)| value))
}

/// As whoever comes behind us reads it.
fn is_named(parameter: &str, name: &str) -> bool {
    let given = parameter.split_once('=').map_or(parameter, |(name, _)| name);
    decoded(given).eq(name.bytes())
}

/// As in forms. What is no escape means itself.
fn decoded(text: &str) -> impl Iterator<Item = u8> {
    let digit = |byte: &u8| {
        char::from(*byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    let mut rest = text.as_bytes();
    std::iter::from_fn(move || {
        let (first, behind) = rest.split_first()?;
        let escaped = match (first, behind) {
            (b'%', [high, low, behind @ ..]) => digit(high)
                .zip(digit(low))
                .map(|(high, low)| (high << 4 | low, behind)),
            (b'+', behind) => Some((b' ', behind)),
            _ => None,
        };
        let (byte, behind) = escaped.unwrap_or((*first, behind));
        rest = behind;
        Some(byte)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    use http::Request;
    use http::header::HeaderValue;

    use super::*;

    #[test]
    fn parameters_are_taken_out_of_a_query() {
        let changes = Changes {
            parameters: vec!["a".into(), "b c".into()],
            ..Changes::default()
        };
        for (target, expected) in [
            ("/?a=1", "/"),
            ("/p?a", "/p"),
            ("/p?c=1&a=2&d&b%20c=3&a=4", "/p?c=1&d"),
            ("/p?%61=1&b+c&x", "/p?x"),
            ("/p?ab=1&A=2&c=a", "/p?ab=1&A=2&c=a"),
            ("/p?%6=1&%zz&%&a%", "/p?%6=1&%zz&%&a%"),
            ("/p?&a=1&", "/p?&"),
            ("/a=1", "/a=1"),
            ("/p?", "/p?"),
        ] {
            let changed = changes.target(target.parse().unwrap());
            assert_eq!(changed.as_str(), expected, "{target}");
            let request = Request::get(target).body(()).unwrap().into_parts().0;
            let seen = Changed::new(&request, &changes);
            assert_eq!(seen.query(), changed.query(), "{target}");
        }
    }

    /// What is seen is what goes on.
    #[test]
    fn lines_are_seen_as_they_go_on() {
        let name = HeaderName::from_static;
        let line = |name, value| (HeaderName::from_static(name), HeaderValue::from_static(value));
        let mut changes = Changes {
            edits: HeaderEdits {
                remove: vec![name("a"), name("b")],
                set: vec![line("b", "1"), line("c", "1"), line("c", "2"), line("d", "1")],
                add: vec![line("e", "2"), line("f", "2")],
            },
            ..Changes::default()
        };
        let later = HeaderEdits {
            remove: vec![name("d"), name("f")],
            set: vec![line("f", "3")],
            add: vec![line("b", "4")],
        };
        changes.extend(Changes {
            edits: later,
            ..Changes::default()
        });
        let request = ["a", "b", "b", "c", "d", "e", "f", "g"];
        let request = request
            .iter()
            .fold(Request::get("/"), |request, name| request.header(*name, "own"));
        let request = request.body(()).unwrap().into_parts().0;
        let mut gone_on = request.headers.clone();
        changes.edits.apply(&mut gone_on);
        let seen = Changed::new(&request, &changes);
        let mut names = BTreeSet::new();
        seen.names(&mut |name| {
            names.insert(String::from_utf8_lossy(name).into_owned());
        });
        assert!(names.iter().eq(["b", "c", "e", "f", "g"]), "{names:?}");
        for (name, expected) in [
            ("a", &[][..]),
            ("b", &["1", "4"]),
            ("c", &["2"]),
            ("d", &[]),
            ("e", &["own", "2"]),
            ("f", &["3"]),
            ("g", &["own"]),
            ("h", &[]),
        ] {
            let name = HeaderName::from_static(name);
            let lines: Vec<&[u8]> = seen.lines(&name).collect();
            let expected: Vec<&[u8]> = expected.iter().map(|line| line.as_bytes()).collect();
            assert_eq!(lines, expected, "{name}");
            let gone_on: Vec<&[u8]> = gone_on.get_all(&name).iter().map(HeaderValue::as_bytes).collect();
            assert_eq!(lines, gone_on, "{name}");
        }
    }
}
