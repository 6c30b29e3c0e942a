//! HTTP routing rules in the words of the Kubernetes Gateway API, shared by gateways and service routes.

use std::collections::BTreeSet;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::name::Label;

mod filter;
mod rewrite;

pub use filter::{
    BadFilter, BadFilters, Edits, Effect, ExactHostname, HeaderEdits, HttpFilter, Redirect, RedirectScheme,
    RedirectStatus, RedirectTo, UrlRewrite,
};
pub use rewrite::{PathModifier, PathRewrite};

/// A time span as users write it: `150ms`, `2s`, `1m`; whole milliseconds, at most a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span {
    ms: u64,
}

/// A day: anything longer on a request is a slip of the unit.
const SPAN_MS_MAX: u64 = 24 * 3600 * 1000;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRule {
    #[error("{0:?} is not a duration; write a whole number with ms, s, m or h, at most 24h")]
    Span(String),
    #[error("path {0:?} must start with '/' and hold no '?', '#' or spaces")]
    Path(String),
    #[error("{0:?} is not a header name; use letters, digits and !#$%&'*+-.^_`|~")]
    Header(String),
    #[error("status code {0} is not between 100 and 599")]
    Status(u16),
    #[error(
        "{0:?} cannot stand in a query; write it as in the URL, escaped, without '&', '=', '#' and spaces"
    )]
    Query(String),
}

impl Span {
    pub const fn from_ms(ms: u64) -> Span {
        Span { ms }
    }

    pub fn as_ms(self) -> u64 {
        self.ms
    }
}

impl TryFrom<String> for Span {
    type Error = BadRule;

    fn try_from(text: String) -> Result<Self, BadRule> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let unit_ms = match &text[digits..] {
            "ms" => Some(1),
            "s" => Some(1000),
            "m" => Some(60 * 1000),
            "h" => Some(3600 * 1000),
            _ => None,
        };
        let ms = text[..digits]
            .parse::<u64>()
            .ok()
            .zip(unit_ms)
            .and_then(|(count, unit)| count.checked_mul(unit));
        match ms {
            Some(ms) if ms <= SPAN_MS_MAX => Ok(Span { ms }),
            _ => Err(BadRule::Span(text)),
        }
    }
}

impl From<Span> for String {
    fn from(span: Span) -> String {
        span.to_string()
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.ms.is_multiple_of(1000) {
            write!(f, "{}s", self.ms / 1000)
        } else {
            write!(f, "{}ms", self.ms)
        }
    }
}

/// One rule: what it matches, where that goes. No matches means every request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct HttpRule<B> {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<HttpMatch>,
    /// At most one of each type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<HttpFilter>,
    /// None where a filter redirects.
    #[serde(default = "Vec::<B>::new", skip_serializing_if = "Vec::is_empty")]
    pub backend_refs: Vec<B>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
}

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
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub query_params: BTreeSet<QueryParamMatch>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
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
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeaderMatch {
    pub name: HeaderName,
    /// Compared byte by byte.
    pub value: String,
}

/// The first parameter of that name decides.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QueryParamMatch {
    pub name: QueryPart,
    pub value: QueryPart,
}

/// The name or the value of a query parameter as it stands in the URL: escaped, and compared byte by byte.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct QueryPart(String);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Path(String);

/// Lower-case, as HTTP/2 has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HeaderName(String);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Timeouts {
    /// For the whole request with its retries.
    pub request: Span,
}

/// Retries of every method, also those that are not idempotent: the user asked for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Retry {
    /// How many times after the first try; at most 10.
    pub attempts: Attempts,
    /// Response codes that are retried, beside connection failures.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub codes: BTreeSet<StatusCode>,
    /// The shortest wait between tries; doubled each time, with jitter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff: Option<Span>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct StatusCode(u16);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Attempts(u32);

/// More than ten tries of one request is a storm, not a retry.
pub(crate) const ATTEMPTS_MAX: u32 = 10;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} retries is more than {ATTEMPTS_MAX}")]
pub struct TooManyAttempts(u32);

/// A backend of a gateway rule: a service of the gateway's own workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceBackend {
    pub namespace: Label,
    pub name: Label,
    /// May be left out for a service with one port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
}

/// A backend of a service route: one of the subsets that the route declares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SubsetBackend {
    pub subset: Label,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
}

/// A backend that takes a share of a rule's requests.
pub trait Weighted {
    fn weight(&self) -> Option<u32>;
}

impl Weighted for ServiceBackend {
    fn weight(&self) -> Option<u32> {
        self.weight
    }
}

impl Weighted for SubsetBackend {
    fn weight(&self) -> Option<u32> {
        self.weight
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadWeights {
    #[error("the rule has no backend")]
    NoBackend,
    #[error("the weights add up to {0}, not to 100")]
    Sum(u64),
    #[error("backend {0} of several has no weight; give each one, adding up to 100")]
    Missing(usize),
}

impl<B: Weighted> HttpRule<B> {
    /// The percentage of each backend. A single backend needs none; of several, each needs one and they add up to
    /// 100: stricter than the Gateway API's free proportions, because a slip of a digit there moves real traffic.
    pub fn shares(&self) -> Result<Vec<u32>, BadWeights> {
        match self.backend_refs.as_slice() {
            [] => Err(BadWeights::NoBackend),
            [only] if only.weight().is_none() => Ok(vec![100]),
            many => {
                let weights: Vec<u32> = many
                    .iter()
                    .enumerate()
                    .map(|(at, backend)| backend.weight().ok_or(BadWeights::Missing(at)))
                    .collect::<Result<_, _>>()?;
                let sum = weights.iter().map(|weight| u64::from(*weight)).sum();
                if sum == 100 {
                    Ok(weights)
                } else {
                    Err(BadWeights::Sum(sum))
                }
            }
        }
    }
}

impl Path {
    /// `/`
    pub fn root() -> Path {
        Path("/".to_owned())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl HeaderName {
    /// [`DESTINATION_HEADER`](crate::proxy::DESTINATION_HEADER)
    pub fn destination() -> HeaderName {
        HeaderName(crate::proxy::DESTINATION_HEADER.to_owned())
    }

    pub fn as_str(&self) -> &str {
        &self.0
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

impl StatusCode {
    pub fn as_u16(self) -> u16 {
        self.0
    }
}

impl Attempts {
    pub fn as_u32(self) -> u32 {
        self.0
    }
}

impl TryFrom<String> for Path {
    type Error = BadRule;

    fn try_from(text: String) -> Result<Self, BadRule> {
        let printable = text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'?' && byte != b'#');
        if text.starts_with('/') && printable {
            Ok(Path(text))
        } else {
            Err(BadRule::Path(text))
        }
    }
}

impl From<Path> for String {
    fn from(path: Path) -> String {
        path.0
    }
}

impl TryFrom<String> for HeaderName {
    type Error = BadRule;

    fn try_from(text: String) -> Result<Self, BadRule> {
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        let valid = !text.is_empty() && text.bytes().all(token);
        if valid {
            Ok(HeaderName(text.to_ascii_lowercase()))
        } else {
            Err(BadRule::Header(text))
        }
    }
}

impl From<HeaderName> for String {
    fn from(name: HeaderName) -> String {
        name.0
    }
}

impl TryFrom<u16> for StatusCode {
    type Error = BadRule;

    fn try_from(code: u16) -> Result<Self, BadRule> {
        if (100..600).contains(&code) {
            Ok(StatusCode(code))
        } else {
            Err(BadRule::Status(code))
        }
    }
}

impl From<StatusCode> for u16 {
    fn from(code: StatusCode) -> u16 {
        code.0
    }
}

impl TryFrom<u32> for Attempts {
    type Error = TooManyAttempts;

    fn try_from(count: u32) -> Result<Self, TooManyAttempts> {
        if count <= ATTEMPTS_MAX {
            Ok(Attempts(count))
        } else {
            Err(TooManyAttempts(count))
        }
    }
}

impl From<Attempts> for u32 {
    fn from(attempts: Attempts) -> u32 {
        attempts.0
    }
}

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
        let headers: BTreeSet<HeaderMatch> = self.headers.union(&other.headers).cloned().collect();
        let names: BTreeSet<&HeaderName> = headers.iter().map(|header| &header.name).collect();
        let query_params: BTreeSet<QueryParamMatch> =
            self.query_params.union(&other.query_params).cloned().collect();
        let params: BTreeSet<&QueryPart> = query_params.iter().map(|param| &param.name).collect();
        let possible = names.len() == headers.len() && params.len() == query_params.len();
        possible.then_some(HttpMatch {
            path,
            method,
            headers,
            query_params,
        })
    }

    /// Whether every request matches it.
    pub fn is_catch_all(&self) -> bool {
        let any_path = match &self.path {
            None => true,
            Some(PathMatch::PathPrefix(path)) => path.0 == "/",
            Some(PathMatch::Exact(_)) => false,
        };
        any_path && self.method.is_none() && self.headers.is_empty() && self.query_params.is_empty()
    }

    /// Sorts as the Gateway API prefers: an exact path, then the longest prefix, then a method, then the most headers,
    /// then the most query parameters. Ties keep the order in which they were written, so sort stably.
    pub fn precedence(&self) -> impl Ord + use<> {
        let (exact, length) = match &self.path {
            Some(PathMatch::Exact(path)) => (true, path.0.len()),
            Some(PathMatch::PathPrefix(path)) => (false, path.0.trim_end_matches('/').len()),
            None => (false, 0),
        };
        std::cmp::Reverse((
            exact,
            length,
            self.method.is_some(),
            self.headers.len(),
            self.query_params.len(),
        ))
    }
}

impl PathMatch {
    /// Whether it takes that path, without its query.
    pub(crate) fn admits(&self, path: &str) -> bool {
        match self {
            PathMatch::Exact(exact) => exact.as_str() == path,
            PathMatch::PathPrefix(prefix) => prefix.is_prefix_of(path),
        }
    }

    fn and(&self, other: &PathMatch) -> Option<PathMatch> {
        match (self, other) {
            (PathMatch::Exact(a), PathMatch::Exact(b)) => (a == b).then(|| self.clone()),
            (PathMatch::Exact(path), PathMatch::PathPrefix(prefix))
            | (PathMatch::PathPrefix(prefix), PathMatch::Exact(path)) => prefix
                .is_prefix_of(path.as_str())
                .then(|| PathMatch::Exact(path.clone())),
            (PathMatch::PathPrefix(a), PathMatch::PathPrefix(b)) => {
                let narrow = if a.is_prefix_of(b.as_str()) { b } else { a };
                let wide = if a.is_prefix_of(b.as_str()) { a } else { b };
                wide.is_prefix_of(narrow.as_str())
                    .then(|| PathMatch::PathPrefix(narrow.clone()))
            }
        }
    }
}

impl Path {
    fn is_prefix_of(&self, path: &str) -> bool {
        let prefix = self.0.trim_end_matches('/');
        path.strip_prefix(prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact(path: &str) -> PathMatch {
        PathMatch::Exact(Path(path.to_owned()))
    }

    fn prefix(path: &str) -> PathMatch {
        PathMatch::PathPrefix(Path(path.to_owned()))
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
        ] {
            assert_eq!(a.and(&b), both, "{a:?} and {b:?}");
            assert_eq!(b.and(&a).is_some(), both.is_some(), "{b:?} and {a:?}");
        }
    }

    #[test]
    fn two_matches_together() {
        let parse = |document: &serde_json::Value| -> HttpMatch {
            serde_json::from_value(document.clone()).expect("a match of this test")
        };
        let query = |value: &str| serde_json::json!({"queryParams": [{"name": "q", "value": value}]});
        let (get, post) = (
            serde_json::json!({"method": "GET"}),
            serde_json::json!({"method": "POST"}),
        );
        for (a, b, possible) in [
            (&get, &get, true),
            (&get, &post, false),
            (&get, &query("1"), true),
            (&query("1"), &query("1"), true),
            (&query("1"), &query("2"), false),
        ] {
            let both = parse(a).and(&parse(b));
            assert_eq!(both.is_some(), possible, "{a} and {b}");
            assert_eq!(parse(b).and(&parse(a)), both, "{b} and {a}");
        }
    }

    #[test]
    fn spans_are_written_with_their_unit() {
        for (text, ms) in [
            ("0s", Some(0)),
            ("150ms", Some(150)),
            ("2s", Some(2000)),
            ("24h", Some(SPAN_MS_MAX)),
        ] {
            assert_eq!(
                Span::try_from(text.to_owned()).ok().map(Span::as_ms),
                ms,
                "{text}"
            );
        }
        for bad in ["", "5", "s", "1.5s", "-1s", "25h", "99999999999999999999s", "1d"] {
            assert!(Span::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
