//! What a rule matches of a request, in the words of the Gateway API, and what two rules match together.

use std::borrow::Cow;
use std::collections::BTreeSet;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use super::pattern::{PathPattern, ValuePattern};
use super::{BadRule, HeaderName, Path, is_token};

/// All of its parts must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct HttpMatch {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathMatch>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub headers: BTreeSet<HeaderMatch>,
    /// The first parameter of a name decides.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub query_params: BTreeSet<QueryParamMatch>,
    /// The first cookie of a name decides; quotes around its value do not count.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub cookies: BTreeSet<CookieMatch>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Options,
    Trace,
    Patch,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", content = "value", deny_unknown_fields)]
pub enum PathMatch {
    Exact(Path),
    /// By whole segments: `/a` matches `/a` and `/a/b`, not `/ab`.
    PathPrefix(Path),
    /// The whole path, without its query.
    RegularExpression(PathPattern),
    /// Nobody writes it: what a gateway's rule and a service's rule match together. At most one is no pattern.
    #[serde(skip_deserializing)]
    All(BTreeSet<PathMatch>),
}

pub type HeaderMatch = NamedMatch<HeaderName>;
pub type QueryParamMatch = NamedMatch<QueryPart>;
pub type CookieMatch = NamedMatch<CookieName>;

/// The value of what has that name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(
    try_from = "NamedDocument<N>",
    into = "NamedDocument<N>",
    bound(
        serialize = "N: MatchName + Serialize",
        deserialize = "N: MatchName + Deserialize<'de>"
    )
)]
pub struct NamedMatch<N> {
    pub name: N,
    pub value: ValueMatch,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ValueMatch {
    /// Byte by byte.
    Exact(String),
    RegularExpression(ValuePattern),
}

#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct NamedDocument<N> {
    #[serde(default, skip_serializing_if = "ValueType::is_exact")]
    r#type: ValueType,
    name: N,
    /// Compared byte by byte, or the regular expression that all of it matches.
    value: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
enum ValueType {
    #[default]
    Exact,
    RegularExpression,
}

/// What has a value that can be matched.
pub trait MatchName: Clone {
    /// What a match of it is called in schemas.
    const MATCH: &'static str;

    /// # Errors
    /// No request has this value.
    fn check(value: &str) -> Result<(), BadRule>;
}

/// The name or the value of a query parameter as it stands in the URL: escaped, and compared byte by byte.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct QueryPart(String);

/// In the case in which it is sent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CookieName(String);

impl HttpMatch {
    /// What both match; `None` when no request can match both.
    pub fn and(&self, other: &HttpMatch) -> Option<HttpMatch> {
        let path = match (&self.path, &other.path) {
            (None, path) | (path, None) => path.clone(),
            (Some(a), Some(b)) => Some(a.and(b)?),
        };
        let method = match (self.method, other.method) {
            (None, method) | (method, None) => method,
            (Some(a), Some(b)) => (a == b).then_some(Some(a))?,
        };
        Some(HttpMatch {
            path,
            method,
            headers: both(&self.headers, &other.headers)?,
            query_params: both(&self.query_params, &other.query_params)?,
            cookies: both(&self.cookies, &other.cookies)?,
        })
    }

    /// Whether every request matches it.
    pub fn is_catch_all(&self) -> bool {
        let root = PathMatch::PathPrefix(Path::root());
        let any_path = self.path.as_ref().is_none_or(|path| *path == root);
        let any = HttpMatch {
            path: None,
            ..self.clone()
        };
        any_path && any == HttpMatch::default()
    }

    /// Sorts as the Gateway API prefers: an exact path, then the longest pattern, then the longest prefix, then a method,
    /// then the most headers, then the most query parameters, then the most cookies. Ties keep the order in which they
    /// were written, so sort stably.
    pub fn precedence(&self) -> impl Ord + use<> {
        std::cmp::Reverse((
            self.path.as_ref().map_or((0, 0), PathMatch::precedence),
            self.method.is_some(),
            self.headers.len(),
            self.query_params.len(),
            self.cookies.len(),
        ))
    }
}

/// What both hold of the values of names; `None` when they contradict each other.
fn both<N: Clone + Ord>(
    a: &BTreeSet<NamedMatch<N>>,
    b: &BTreeSet<NamedMatch<N>>,
) -> Option<BTreeSet<NamedMatch<N>>> {
    let all: BTreeSet<NamedMatch<N>> = a.union(b).cloned().collect();
    let exact = |name: &N| {
        all.iter().find_map(|held| match &held.value {
            ValueMatch::Exact(value) if held.name == *name => Some(value),
            _ => None,
        })
    };
    let mut kept = BTreeSet::new();
    for held in &all {
        match (exact(&held.name), &held.value) {
            (Some(value), _) if !held.value.admits(value) => return None,
            // It says less than the value itself.
            (Some(_), ValueMatch::RegularExpression(_)) => {}
            _ => drop(kept.insert(held.clone())),
        }
    }
    Some(kept)
}

impl PathMatch {
    /// Whether it takes that path, without its query.
    pub(crate) fn admits(&self, path: &str) -> bool {
        match self {
            PathMatch::Exact(exact) => exact.as_str() == path,
            PathMatch::PathPrefix(prefix) => prefix.is_prefix_of(path),
            PathMatch::RegularExpression(pattern) => pattern.matches(path),
            PathMatch::All(parts) => parts.iter().all(|part| part.admits(path)),
        }
    }

    /// Itself, unless it is all of several.
    pub fn parts(&self) -> Vec<&PathMatch> {
        match self {
            PathMatch::All(parts) => parts.iter().collect(),
            one => vec![one],
        }
    }

    fn and(&self, other: &PathMatch) -> Option<PathMatch> {
        let mut plain: Option<PathMatch> = None;
        let mut patterns = BTreeSet::new();
        for part in self.parts().into_iter().chain(other.parts()) {
            match (part, &plain) {
                (PathMatch::RegularExpression(_), _) => drop(patterns.insert(part.clone())),
                (_, None) => plain = Some(part.clone()),
                (_, Some(held)) => plain = Some(narrower(held, part)?.clone()),
            }
        }
        if let Some(PathMatch::Exact(path)) = &plain {
            let admitted = patterns.iter().all(|pattern| pattern.admits(path.as_str()));
            return plain.filter(|_| admitted);
        }
        let mut parts = patterns;
        parts.extend(plain);
        if parts.len() == 1 {
            parts.pop_first()
        } else {
            Some(PathMatch::All(parts))
        }
    }

    fn precedence(&self) -> (u8, usize) {
        match self {
            PathMatch::Exact(path) => (2, path.as_str().len()),
            PathMatch::RegularExpression(pattern) => (1, pattern.as_str().len()),
            PathMatch::PathPrefix(path) => (0, path.as_str().trim_end_matches('/').len()),
            PathMatch::All(parts) => parts.iter().map(PathMatch::precedence).max().unwrap_or_default(),
        }
    }
}

/// Of two that are no patterns, the one that takes what both take.
fn narrower<'a>(a: &'a PathMatch, b: &'a PathMatch) -> Option<&'a PathMatch> {
    let within = |inner: &PathMatch, outer: &PathMatch| match (inner, outer) {
        (PathMatch::Exact(a), PathMatch::Exact(b)) => a == b,
        (PathMatch::Exact(path) | PathMatch::PathPrefix(path), PathMatch::PathPrefix(prefix)) => {
            prefix.is_prefix_of(path.as_str())
        }
        _ => false,
    };
    if within(b, a) {
        Some(b)
    } else {
        within(a, b).then_some(a)
    }
}

impl Path {
    fn is_prefix_of(&self, path: &str) -> bool {
        let prefix = self.as_str().trim_end_matches('/');
        path.strip_prefix(prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl ValueMatch {
    pub(crate) fn admits(&self, given: &str) -> bool {
        match self {
            ValueMatch::Exact(value) => given == value,
            ValueMatch::RegularExpression(pattern) => pattern.matches(given),
        }
    }
}

impl ValueType {
    fn is_exact(&self) -> bool {
        *self == ValueType::Exact
    }
}

impl<N: MatchName + JsonSchema> JsonSchema for NamedMatch<N> {
    fn schema_name() -> Cow<'static, str> {
        N::MATCH.into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        NamedDocument::<N>::json_schema(generator)
    }
}

impl<N: MatchName> TryFrom<NamedDocument<N>> for NamedMatch<N> {
    type Error = BadRule;

    fn try_from(document: NamedDocument<N>) -> Result<Self, BadRule> {
        let value = match document.r#type {
            ValueType::Exact => {
                N::check(&document.value)?;
                ValueMatch::Exact(document.value)
            }
            ValueType::RegularExpression => ValueMatch::RegularExpression(document.value.try_into()?),
        };
        Ok(NamedMatch {
            name: document.name,
            value,
        })
    }
}

impl<N> From<NamedMatch<N>> for NamedDocument<N> {
    fn from(matched: NamedMatch<N>) -> NamedDocument<N> {
        let (r#type, value) = match matched.value {
            ValueMatch::Exact(value) => (ValueType::Exact, value),
            ValueMatch::RegularExpression(pattern) => (ValueType::RegularExpression, pattern.into()),
        };
        NamedDocument {
            r#type,
            name: matched.name,
            value,
        }
    }
}

impl MatchName for HeaderName {
    const MATCH: &'static str = "HeaderMatch";

    fn check(_: &str) -> Result<(), BadRule> {
        Ok(())
    }
}

impl MatchName for QueryPart {
    const MATCH: &'static str = "QueryParamMatch";

    fn check(value: &str) -> Result<(), BadRule> {
        QueryPart::try_from(value.to_owned()).map(drop)
    }
}

impl MatchName for CookieName {
    const MATCH: &'static str = "CookieMatch";

    fn check(value: &str) -> Result<(), BadRule> {
        // RFC 6265, section 4.1.1.
        let octet = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b',' | b';' | b'\\');
        if value.bytes().all(octet) {
            Ok(())
        } else {
            Err(BadRule::CookieValue(value.to_owned()))
        }
    }
}

impl Method {
    pub fn as_str(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Delete => "DELETE",
            Method::Options => "OPTIONS",
            Method::Trace => "TRACE",
            Method::Patch => "PATCH",
        }
    }
}

impl QueryPart {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl CookieName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for QueryPart {
    type Error = BadRule;

    fn try_from(text: String) -> Result<Self, BadRule> {
        let plain = text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'&' && byte != b'#' && byte != b'=');
        if plain && !text.is_empty() {
            Ok(QueryPart(text))
        } else {
            Err(BadRule::Query(text))
        }
    }
}

impl From<QueryPart> for String {
    fn from(part: QueryPart) -> String {
        part.0
    }
}

impl TryFrom<String> for CookieName {
    type Error = BadRule;

    fn try_from(text: String) -> Result<Self, BadRule> {
        if is_token(&text) {
            Ok(CookieName(text))
        } else {
            Err(BadRule::CookieName(text))
        }
    }
}

impl From<CookieName> for String {
    fn from(name: CookieName) -> String {
        name.0
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn exact(path: &str) -> PathMatch {
        PathMatch::Exact(path.to_owned().try_into().unwrap())
    }

    fn prefix(path: &str) -> PathMatch {
        PathMatch::PathPrefix(path.to_owned().try_into().unwrap())
    }

    fn regex(path: &str) -> PathMatch {
        PathMatch::RegularExpression(path.to_owned().try_into().unwrap())
    }

    fn all(parts: &[PathMatch]) -> PathMatch {
        PathMatch::All(parts.iter().cloned().collect())
    }

    fn parse(document: &Value) -> HttpMatch {
        serde_json::from_value(document.clone()).unwrap()
    }

    #[test]
    fn two_paths_together() {
        for (a, b, both) in [
            (exact("/a"), exact("/a"), Some(exact("/a"))),
            (exact("/a"), exact("/b"), None),
            (prefix("/a"), exact("/a/b"), Some(exact("/a/b"))),
            (prefix("/a"), exact("/ab"), None),
            (prefix("/"), prefix("/a"), Some(prefix("/a"))),
            (prefix("/a/"), prefix("/a"), Some(prefix("/a"))),
            (prefix("/a"), prefix("/b"), None),
            (regex("/a.*"), exact("/ab"), Some(exact("/ab"))),
            (regex("/a.*"), exact("/b"), None),
            (regex("/a.*"), regex("/a.*"), Some(regex("/a.*"))),
            (
                regex("/a.*"),
                regex("/.*b"),
                Some(all(&[regex("/a.*"), regex("/.*b")])),
            ),
            (
                regex("/a.*"),
                prefix("/a"),
                Some(all(&[regex("/a.*"), prefix("/a")])),
            ),
            (
                all(&[regex("/a.*"), prefix("/a")]),
                exact("/a/x"),
                Some(exact("/a/x")),
            ),
            (all(&[regex("/a.*"), prefix("/a")]), prefix("/b"), None),
        ] {
            assert_eq!(a.and(&b), both, "{a:?} and {b:?}");
            assert_eq!(b.and(&a).is_some(), both.is_some(), "{b:?} and {a:?}");
        }
    }

    #[test]
    fn two_matches_together() {
        let query = |value: &str| json!({"queryParams": [{"name": "q", "value": value}]});
        let cookie = |value: &str| json!({"cookies": [{"name": "c", "value": value}]});
        let pattern =
            |value: &str| json!({"cookies": [{"type": "RegularExpression", "name": "c", "value": value}]});
        let (get, post) = (json!({"method": "GET"}), json!({"method": "POST"}));
        for (a, b, possible) in [
            (&get, &get, true),
            (&get, &post, false),
            (&get, &query("1"), true),
            (&query("1"), &query("1"), true),
            (&query("1"), &query("2"), false),
            (&cookie("1"), &query("2"), true),
            (&cookie("1"), &cookie("2"), false),
            (&cookie("1"), &pattern("[0-9]"), true),
            (&cookie("a"), &pattern("[0-9]"), false),
            (&pattern("[a-z]"), &pattern("[0-9]"), true),
        ] {
            let both = parse(a).and(&parse(b));
            assert_eq!(both.is_some(), possible, "{a} and {b}");
            assert_eq!(parse(b).and(&parse(a)), both, "{b} and {a}");
        }
        let joined = parse(&cookie("1")).and(&parse(&pattern("[0-9]")));
        assert_eq!(joined, Some(parse(&cookie("1"))), "the value says it all");
    }

    #[test]
    fn matches_are_written_as_the_gateway_api_writes_them() {
        for document in [
            json!({"path": {"type": "RegularExpression", "value": "/v[0-9]+"}}),
            json!({"headers": [{"name": "x-a", "value": "1"}]}),
            json!({"headers": [{"type": "RegularExpression", "name": "x-a", "value": "1|2"}]}),
            json!({"queryParams": [{"type": "RegularExpression", "name": "q", "value": ".+"}]}),
            json!({"cookies": [{"name": "User", "value": "anna"}]}),
        ] {
            assert_eq!(serde_json::to_value(parse(&document)).unwrap(), document);
        }
        for (document, expected) in [
            (
                json!({"cookies": [{"name": "a b", "value": "1"}]}),
                "\"a b\" is not the name of a cookie",
            ),
            (
                json!({"cookies": [{"name": "a", "value": "1;2"}]}),
                "\"1;2\" cannot be the value of a cookie",
            ),
            (
                json!({"queryParams": [{"name": "a", "value": "1&2"}]}),
                "cannot stand in a query",
            ),
            (
                json!({"headers": [{"type": "RegularExpression", "name": "x-a", "value": "("}]}),
                "unclosed group",
            ),
            (
                json!({"path": {"type": "RegularExpression", "value": "["}}),
                "unclosed character class",
            ),
            (
                json!({"path": {"type": "All", "value": []}}),
                "unknown variant `All`",
            ),
        ] {
            let error = serde_json::from_value::<HttpMatch>(document.clone()).unwrap_err();
            assert!(error.to_string().contains(expected), "{document}: {error}");
        }
    }

    #[test]
    fn the_most_specific_match_comes_first() {
        let mut matches: Vec<HttpMatch> = [
            json!({"cookies": [{"name": "a", "value": "1"}]}),
            json!({"queryParams": [{"name": "a", "value": "1"}]}),
            json!({"headers": [{"name": "a", "value": "1"}]}),
            json!({"method": "GET"}),
            json!({"path": {"type": "PathPrefix", "value": "/a"}}),
            json!({"path": {"type": "PathPrefix", "value": "/abc"}}),
            json!({"path": {"type": "RegularExpression", "value": "/"}}),
            json!({"path": {"type": "Exact", "value": "/"}}),
        ]
        .iter()
        .map(parse)
        .collect();
        let expected: Vec<HttpMatch> = matches.iter().rev().cloned().collect();
        matches.sort_by_key(HttpMatch::precedence);
        assert_eq!(matches, expected);
    }
}
