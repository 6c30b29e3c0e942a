//! What a request must be like to concern a route or a filter: Envoy's matchers, as pure functions over what is borrowed from
//! the request.

use std::borrow::Cow;
use std::net::IpAddr;
use std::ops::Range;

use http::header::{COOKIE, HeaderName};

use crate::channel::Channel;
use crate::pattern::Pattern;

pub(crate) use text::{Case, StringMatcher, Text};
pub(crate) use view::{Headers, RequestView};

mod text;
mod view;

/// A request as matchers see it.
#[derive(Debug)]
pub(crate) struct Subject<'a, R> {
    /// As the client sent it.
    pub(crate) authority: &'a str,
    /// Normalized, without its query.
    pub(crate) path: &'a str,
    /// Whose the connection is; no header is trusted to say more.
    pub(crate) client: Client<'a>,
    /// Who is connected.
    pub(crate) direct: IpAddr,
    pub(crate) request: R,
}

/// An address, and the connection that it has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client<'a> {
    pub(crate) address: IpAddr,
    pub(crate) channel: &'a Channel,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum PathMatcher {
    Exact(Text),
    Prefix(Text),
    /// `/a` matches `/a` and `/a/b`, not `/ab`.
    Segments(Text),
    Regex(Pattern),
    /// CONNECT, which has no path, and which nothing else matches.
    Connect,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HeaderMatcher {
    pub(crate) of: Of,
    pub(crate) wanted: Wanted,
    pub(crate) inverted: bool,
    /// Whether a request without it is one with an empty value; else nothing is true of it but that it is not there.
    pub(crate) missing_is_empty: bool,
}

/// What of a head.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Of {
    Method,
    Authority,
    /// The path with its query.
    Target,
    /// That of its client's connection, whatever its head says.
    Scheme,
    Header(HeaderName),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Wanted {
    Present(bool),
    Text(StringMatcher),
    /// A decimal integer within it.
    Number(Range<i64>),
}

/// A parameter of the query as it stands in the URL; the first of a name decides.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ParameterMatcher {
    pub(crate) name: Box<str>,
    /// Whatever it is, if there is none.
    pub(crate) wanted: Option<StringMatcher>,
}

/// A cookie without quotes around it; the first of a name decides.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CookieMatcher {
    pub(crate) name: Box<str>,
    pub(crate) wanted: StringMatcher,
    pub(crate) inverted: bool,
}

/// All of it must match.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RouteMatcher {
    pub(crate) path: PathMatcher,
    pub(crate) headers: Vec<HeaderMatcher>,
    pub(crate) query: Vec<ParameterMatcher>,
    pub(crate) cookies: Vec<CookieMatcher>,
}

impl PathMatcher {
    /// How many bytes of a path it looks at, if it does not look at all.
    pub(crate) fn matched_bytes(&self) -> Option<usize> {
        match self {
            Self::Exact(text) | Self::Prefix(text) | Self::Segments(text) => Some(text.bytes.len()),
            Self::Regex(_) | Self::Connect => None,
        }
    }

    pub(crate) fn matches(&self, path: &str) -> bool {
        let path = path.as_bytes();
        match self {
            Self::Connect => path.is_empty(),
            _ if path.is_empty() => false,
            Self::Exact(text) => text.is(path),
            Self::Prefix(text) => text.rest(path).is_some(),
            Self::Segments(text) => text
                .rest(path)
                .is_some_and(|rest| matches!(rest, [] | [b'/', ..])),
            Self::Regex(pattern) => pattern.matches(path),
        }
    }
}

impl RouteMatcher {
    pub(crate) fn matches(&self, subject: &Subject<'_, impl RequestView>) -> bool {
        let query = subject.request.query().unwrap_or_default();
        self.path.matches(subject.path)
            && self.headers.iter().all(|header| header.matches(subject))
            && self.query.iter().all(|parameter| parameter.matches(query))
            && self
                .cookies
                .iter()
                .all(|cookie| cookie.matches(subject.request.lines(&COOKIE)))
    }
}

impl Of {
    /// Of a request, if it is there; of a header the first line.
    pub(crate) fn first<'a>(&'a self, subject: &'a Subject<'_, impl RequestView>) -> Option<Cow<'a, [u8]>> {
        match self {
            Self::Method => Some(Cow::Borrowed(subject.request.method().as_str().as_bytes())),
            Self::Authority => Some(Cow::Borrowed(subject.authority.as_bytes())),
            Self::Scheme => Some(Cow::Borrowed(subject.client.channel.scheme.as_bytes())),
            Self::Target => Some(Cow::Owned(subject.target().into_owned().into_bytes())),
            Self::Header(name) => subject.request.lines(name).next().map(Cow::Borrowed),
        }
    }
}

impl HeaderMatcher {
    pub(crate) fn matches(&self, subject: &Subject<'_, impl RequestView>) -> bool {
        let is_wanted = |value: &[u8]| self.is_wanted(value);
        self.concludes(match &self.of {
            Of::Method => Some(is_wanted(subject.request.method().as_str().as_bytes())),
            Of::Authority => Some(is_wanted(subject.authority.as_bytes())),
            Of::Scheme => Some(is_wanted(subject.client.channel.scheme.as_bytes())),
            Of::Target => Some(is_wanted(subject.target().as_bytes())),
            Of::Header(name) => any_line(&subject.request, name, is_wanted),
        })
    }

    /// Whether an answer's head matches, which has nothing but headers.
    pub(crate) fn matches_answer(&self, headers: &impl Headers) -> bool {
        let Of::Header(name) = &self.of else {
            return false;
        };
        self.matches_lines(headers.lines(name))
    }

    /// Of one header.
    pub(crate) fn matches_lines<'a>(&self, lines: impl Iterator<Item = &'a [u8]>) -> bool {
        let mut lines = lines.peekable();
        let found = lines.peek().is_some();
        self.concludes(found.then(|| lines.any(|value| self.is_wanted(value))))
    }

    fn is_wanted(&self, value: &[u8]) -> bool {
        match &self.wanted {
            Wanted::Present(_) => true,
            Wanted::Text(text) => text.matches(value),
            Wanted::Number(range) => integer(value).is_some_and(|number| range.contains(&number)),
        }
    }

    /// By whether a line was one that is wanted, if there was any.
    fn concludes(&self, found: Option<bool>) -> bool {
        let matched = match (&self.wanted, found) {
            (Wanted::Present(wanted), found) => found.is_some() == *wanted,
            (_, Some(matched)) => matched,
            (_, None) if self.missing_is_empty => self.is_wanted(b""),
            (_, None) => return false,
        };
        matched != self.inverted
    }
}

impl<'a, R> Subject<'a, R> {
    /// The same with another head.
    pub(crate) fn with<Q>(&self, request: Q) -> Subject<'a, Q> {
        Subject {
            authority: self.authority,
            path: self.path,
            client: self.client,
            direct: self.direct,
            request,
        }
    }
}

impl<R: RequestView> Subject<'_, R> {
    pub(crate) fn target(&self) -> Cow<'_, str> {
        match self.request.query() {
            None => Cow::Borrowed(self.path),
            Some(query) => Cow::Owned(format!("{}?{query}", self.path)),
        }
    }
}

/// Whether a line of a header matches, if there is any. Each is looked at by itself; only cookies are one line, however HTTP/2
/// sends them.
fn any_line(request: &impl RequestView, name: &HeaderName, matches: impl Fn(&[u8]) -> bool) -> Option<bool> {
    let mut lines = request.lines(name).peekable();
    lines.peek()?;
    if *name != COOKIE {
        return Some(lines.any(matches));
    }
    let lines: Vec<&[u8]> = lines.collect();
    Some(matches(&lines.join(&b"; "[..])))
}

fn integer(value: &[u8]) -> Option<i64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

impl ParameterMatcher {
    pub(crate) fn matches(&self, query: &str) -> bool {
        let given = first_parameter(query, &self.name);
        match (&self.wanted, given) {
            (None, given) => given.is_some(),
            (Some(wanted), Some(given)) => wanted.matches(given.as_bytes()),
            (Some(_), None) => false,
        }
    }
}

impl CookieMatcher {
    fn matches<'a>(&self, lines: impl Iterator<Item = &'a [u8]>) -> bool {
        let given = first_cookie(lines, &self.name);
        given.is_some_and(|given| self.wanted.matches(given) != self.inverted)
    }
}

/// The first of that name, as it stands in the URL.
pub(crate) fn first_parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|parameter| {
        let (given, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        (given == name).then_some(value)
    })
}

pub(crate) fn first_cookie<'a>(lines: impl Iterator<Item = &'a [u8]>, name: &str) -> Option<&'a [u8]> {
    cookies(lines, name).next()
}

/// As Envoy reads them.
pub(crate) fn cookies<'a>(
    lines: impl Iterator<Item = &'a [u8]>,
    name: &str,
) -> impl Iterator<Item = &'a [u8]> {
    let cookies = lines.flat_map(|line| line.split(|byte| *byte == b';'));
    cookies.filter_map(move |cookie| {
        let start = cookie.iter().position(|byte| *byte != b' ')?;
        let end = cookie.iter().position(|byte| *byte == b'=')?;
        let given = cookie.get(start..end)?;
        let value = &cookie[end + 1..];
        let value = match value {
            [b'"', quoted @ .., b'"'] => quoted,
            plain => plain,
        };
        (given == name.as_bytes()).then_some(value)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http::Request;
    use http::request::Parts;

    use super::*;

    fn pattern(text: &str) -> StringMatcher {
        StringMatcher::Regex(Pattern::new(text).unwrap())
    }

    /// With `x-a` on these lines.
    fn request(method: &str, uri: &str, name: &str, lines: &[&str]) -> Parts {
        let request = lines
            .iter()
            .fold(Request::builder().method(method).uri(uri), |request, line| {
                request.header(name, *line)
            });
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn texts_are_found_where_they_are_wanted() {
        use StringMatcher::{Contains, Exact, Prefix, Suffix};
        let text = |text| Text::new(text, Case::Matters);
        let any_case = |text| Text::new(text, Case::Ignored);
        for (matcher, found, not_found) in [
            (Exact(text("aB")), &["aB"][..], &["ab", "aBc", "a", ""][..]),
            (Exact(any_case("aB")), &["aB", "Ab"], &["abc", "\u{e1}B"]),
            (Prefix(text("ab")), &["ab", "abc"], &["a", "Ab", "cab", ""]),
            (Prefix(any_case("ab")), &["AB", "aBc"], &["a", "cab"]),
            (Suffix(text("ab")), &["ab", "cab"], &["b", "aB", "abc", ""]),
            (Suffix(any_case("ab")), &["AB", "cAb"], &["b", "abc"]),
            (
                Contains(text("ab")),
                &["ab", "cab", "abc", "aab"],
                &["a", "aB", ""],
            ),
            (Contains(any_case("ab")), &["cABc", "aAb"], &["a", "a b"]),
            (pattern("a|ab"), &["a", "ab"], &["abc", "ba", ""]),
        ] {
            let matches = |given: &&&str| matcher.matches(given.as_bytes());
            assert_eq!(found.iter().filter(matches).count(), found.len(), "{matcher:?}");
            assert_eq!(not_found.iter().filter(matches).count(), 0, "{matcher:?}");
        }
    }

    #[test]
    fn paths_are_matched_without_their_query() {
        use PathMatcher::{Exact, Prefix, Regex, Segments};
        let text = |text| Text::new(text, Case::Matters);
        let any_case = |text| Text::new(text, Case::Ignored);
        let regex = |text| Regex(Pattern::new(text).unwrap());
        for (matcher, found, not_found) in [
            (Exact(text("/a")), &["/a"][..], &["/A", "/a/", "/"][..]),
            (Exact(any_case("/a")), &["/a", "/A"], &["/ab"]),
            (Prefix(text("/a")), &["/a", "/ab", "/a/b"], &["/A", "/"]),
            (Prefix(any_case("/a")), &["/AB", "/a"], &["/b"]),
            (Segments(text("/a")), &["/a", "/a/b", "/a/"], &["/ab", "/"]),
            (Segments(any_case("/a")), &["/A/b"], &["/AB"]),
            (regex("/a.*"), &["/ab", "/a"], &["/b", "/b/a"]),
        ] {
            let matches = |path: &&&str| matcher.matches(path);
            assert_eq!(found.iter().filter(matches).count(), found.len(), "{matcher:?}");
            assert_eq!(not_found.iter().filter(matches).count(), 0, "{matcher:?}");
        }
    }

    #[test]
    fn headers_are_matched_line_by_line() {
        let text = |text: &str| Wanted::Text(StringMatcher::exact(text));
        let (inverted, missing_is_empty) = (true, true);
        for (wanted, (inverted, missing_is_empty), lines, expected) in [
            (text("1"), (false, false), &["1"][..], true),
            (text("1"), (false, false), &["2", "1"], true),
            (text("1,2"), (false, false), &["1", "2"], false),
            (text("1"), (false, false), &[], false),
            (text("1"), (inverted, false), &["1"], false),
            (text("1"), (inverted, false), &["2"], true),
            (text("1"), (inverted, false), &[], false),
            (text("1"), (inverted, missing_is_empty), &[], true),
            (text(""), (false, missing_is_empty), &[], true),
            (text(""), (false, false), &[], false),
            (Wanted::Present(true), (false, false), &[""], true),
            (Wanted::Present(true), (false, false), &[], false),
            (Wanted::Present(false), (false, false), &[], true),
            (Wanted::Present(true), (inverted, false), &[], true),
            (Wanted::Number(-1..5), (false, false), &["-1"], true),
            (Wanted::Number(-1..5), (false, false), &["4"], true),
            (Wanted::Number(-1..5), (false, false), &["5"], false),
            (Wanted::Number(-1..5), (false, false), &["4.0"], false),
            (Wanted::Number(-1..5), (false, missing_is_empty), &[], false),
        ] {
            let matcher = HeaderMatcher {
                of: Of::Header(HeaderName::from_static("x-a")),
                wanted,
                inverted,
                missing_is_empty,
            };
            let subject = Subject {
                authority: "a",
                path: "/",
                client: [10, 0, 0, 1].into(),
                direct: [10, 0, 0, 9].into(),
                request: &request("GET", "/", "x-a", lines),
            };
            assert_eq!(matcher.matches(&subject), expected, "{matcher:?} {lines:?}");
        }
    }

    #[test]
    fn a_head_has_more_than_headers() {
        let text = StringMatcher::exact;
        for (of, wanted, expected) in [
            (Of::Method, text("PUT"), true),
            (Of::Method, pattern("GET|PUT"), true),
            (Of::Method, text("put"), false),
            (Of::Authority, text("A.example:80"), true),
            (Of::Target, text("/a?b"), true),
            (Of::Target, text("/a"), false),
            (Of::Header(COOKIE), text("a=1; b=2"), true),
            (Of::Header(COOKIE), text("a=1"), false),
        ] {
            let matcher = HeaderMatcher {
                of,
                wanted: Wanted::Text(wanted),
                inverted: false,
                missing_is_empty: false,
            };
            let subject = Subject {
                authority: "A.example:80",
                path: "/a",
                client: [10, 0, 0, 1].into(),
                direct: [10, 0, 0, 9].into(),
                request: &request("PUT", "/a?b", "cookie", &["a=1", "b=2"]),
            };
            assert_eq!(matcher.matches(&subject), expected, "{matcher:?}");
        }
    }

    #[test]
    fn the_first_parameter_of_a_name_decides() {
        for (query, is_one, is_there) in [
            ("q=1", true, true),
            ("a=b&q=1&q=2", true, true),
            ("q=2&q=1", false, true),
            ("q", false, true),
            ("qq=1", false, false),
            ("q=%31", false, true),
            ("", false, false),
        ] {
            let matches = |wanted| {
                let name = "q".into();
                ParameterMatcher { name, wanted }.matches(query)
            };
            assert_eq!(matches(Some(StringMatcher::exact("1"))), is_one, "{query}");
            assert_eq!(matches(None), is_there, "{query}");
        }
    }

    #[test]
    fn the_first_cookie_of_a_name_decides() {
        for (lines, is_anna, is_not) in [
            (&["User=anna"][..], true, false),
            (&["theme=dark;  User=\"anna\"; User=bert"], true, false),
            (&["theme=dark", "User=anna"], true, false),
            (&["User=bert; User=anna"], false, true),
            (&["user=anna"], false, false),
            (&["User=anna "], false, true),
            (&["User"], false, false),
            (&["; =; User=\""], false, true),
            (&[], false, false),
        ] {
            let matches = |inverted| {
                let matcher = CookieMatcher {
                    name: "User".into(),
                    wanted: StringMatcher::exact("anna"),
                    inverted,
                };
                matcher.matches(lines.iter().map(|line| line.as_bytes()))
            };
            assert_eq!(matches(false), is_anna, "{lines:?}");
            assert_eq!(matches(true), is_not, "{lines:?}");
        }
    }
}
