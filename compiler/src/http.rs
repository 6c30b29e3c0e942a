//! HTTP routing rules in the words of the Kubernetes Gateway API, shared by gateways and service routes.

use std::collections::BTreeSet;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::name::Label;

mod fault;
mod filter;
mod matches;
mod mirror;
mod pattern;
mod rewrite;
mod session;

pub use fault::{Abort, Delay, Fault};
pub use filter::{
    BadFilter, BadFilters, Edits, Effect, ExactHostname, HeaderEdits, HttpFilter, Redirect, RedirectScheme,
    RedirectStatus, RedirectTo, UrlRewrite,
};
pub use matches::{
    CookieMatch, CookieName, HeaderMatch, HttpMatch, MatchName, Method, NamedMatch, PathMatch,
    QueryParamMatch, QueryPart, ValueMatch,
};
pub use mirror::{BadShare, MirrorBackend, RequestMirror, Share};
pub(crate) use pattern::PATTERN_BYTES_MAX;
pub use pattern::{BadPattern, PathPattern, ValuePattern};
pub use rewrite::{PathModifier, PathRewrite};
pub use session::{Affinity, LifetimeType, SessionPersistence, SessionType};

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
    #[error("{0:?} is not the name of a cookie; use letters, digits and !#$%&'*+-.^_`|~")]
    CookieName(String),
    #[error(
        "{0:?} cannot be the value of a cookie: leave out quotes, commas, semicolons, backslashes and spaces"
    )]
    CookieValue(String),
    #[error("a fault has a delay, an abort, or both")]
    NoFault,
    #[error("a delay of no time is none; leave it out, or give it a duration")]
    NoDelay,
    #[error("no request can be answered with {0}; use a status code from 200 to 599")]
    Abort(u16),
    #[error("{0:?} names no cookie and no header; use at most 128 letters, digits and !#$%&'*+-.^_`|~")]
    SessionName(String),
    #[error("cookieConfig is of sessions by cookie, and this one is by header; leave it out")]
    HeaderWithCookie,
    #[error("a permanent cookie ends some time; give it an absoluteTimeout")]
    EndlessCookie,
    #[error(transparent)]
    Pattern(#[from] BadPattern),
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
    /// At most one of each type; several mirrors.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<HttpFilter>,
    /// None where a filter redirects.
    #[serde(default = "Vec::<B>::new", skip_serializing_if = "Vec::is_empty")]
    pub backend_refs: Vec<B>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// What goes wrong on purpose; a gateway's counts before its service's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_persistence: Option<SessionPersistence>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Path(String);

/// A path without patterns: what settings and policies know, so that two of them always meet in a third.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", content = "value", deny_unknown_fields)]
pub enum PlainPath {
    Exact(Path),
    /// By whole segments: `/a` matches `/a` and `/a/b`, not `/ab`.
    PathPrefix(Path),
}

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

/// The percentage of each backend. A single backend needs none; of several, each needs one and they add up to 100:
/// stricter than the Gateway API's free proportions, because a slip of a digit there moves real traffic.
pub fn shares<B: Weighted>(backends: &[B]) -> Result<Vec<u32>, BadWeights> {
    match backends {
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

impl<B: Weighted> HttpRule<B> {
    /// As [`shares`].
    pub fn shares(&self) -> Result<Vec<u32>, BadWeights> {
        shares(&self.backend_refs)
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

    /// Whether `path` is this one, or is below it by whole segments.
    pub fn is_above(&self, path: &str) -> bool {
        path.strip_prefix(self.0.trim_end_matches('/'))
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl PlainPath {
    pub fn as_str(&self) -> &str {
        match self {
            PlainPath::Exact(path) | PlainPath::PathPrefix(path) => path.as_str(),
        }
    }

    pub fn admits(&self, path: &str) -> bool {
        match self {
            PlainPath::Exact(exact) => exact.as_str() == path,
            PlainPath::PathPrefix(prefix) => prefix.is_above(path),
        }
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
        if is_token(&text) {
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

/// RFC 9110, section 5.6.2.
fn is_token(text: &str) -> bool {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(token)
}

#[cfg(test)]
mod tests {
    use super::*;

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
