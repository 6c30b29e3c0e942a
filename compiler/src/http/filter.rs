//! What a rule does to a request on its way, in the words of the Gateway API: `filters` of a rule, and what they add up
//! to.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::mirror::RequestMirror;
use super::rewrite::{PathModifier, PathRewrite};
use super::{HeaderName, HttpMatch};
use crate::name::Hostname;
use crate::proxy::DESTINATION_HEADER;

/// One entry of `filters`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "FilterDocument", into = "FilterDocument")]
pub enum HttpFilter {
    RequestHeaderModifier(HeaderEdits),
    ResponseHeaderModifier(HeaderEdits),
    RequestRedirect(Redirect),
    UrlRewrite(UrlRewrite),
    RequestMirror(RequestMirror),
}

/// `type`, and the field of that name.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct FilterDocument {
    r#type: FilterType,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    request_header_modifier: Option<HeaderEdits>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    response_header_modifier: Option<HeaderEdits>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    request_redirect: Option<Redirect>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    url_rewrite: Option<UrlRewrite>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    request_mirror: Option<RequestMirror>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
enum FilterType {
    RequestHeaderModifier,
    ResponseHeaderModifier,
    RequestRedirect,
    #[serde(rename = "URLRewrite")]
    UrlRewrite,
    RequestMirror,
}

/// Changes to headers: removals first, then what is set in place of all lines of that name, then lines that are added.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "EditsDocument", into = "EditsDocument")]
pub struct HeaderEdits {
    pub remove: BTreeSet<HeaderName>,
    pub set: BTreeMap<HeaderName, String>,
    pub add: BTreeMap<HeaderName, String>,
}

#[derive(Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct EditsDocument {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    set: Vec<HeaderLine>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    add: Vec<HeaderLine>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    remove: Vec<HeaderName>,
}

#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct HeaderLine {
    name: HeaderName,
    value: String,
}

/// Answers with the URL to ask instead. What is left out stays as the client asked for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Redirect {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<RedirectScheme>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<ExactHostname>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<std::num::NonZeroU16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathModifier>,
    /// 302 when it is left out.
    #[serde(default)]
    pub status_code: RedirectStatus,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RedirectScheme {
    Http,
    Https,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub enum RedirectStatus {
    MovedPermanently,
    #[default]
    Found,
    SeeOther,
    TemporaryRedirect,
    PermanentRedirect,
}

/// What the backend is asked for instead. Matches, also those of the service's own route, see the request as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UrlRewrite {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<ExactHostname>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathModifier>,
}

/// A name that is not a wildcard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Hostname", into = "Hostname")]
pub struct ExactHostname(Hostname);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadFilter {
    #[error("a filter of type {wanted} has the field {field} and no other")]
    Field {
        wanted: &'static str,
        field: &'static str,
    },
    #[error("header {0} stands twice in one filter; name each header once")]
    HeaderTwice(String),
    #[error("header {0} belongs to the proxies and cannot be changed by a filter")]
    Header(String),
    #[error("the value of header {0} is not printable ASCII of at most {VALUE_BYTES_MAX} bytes")]
    Value(String),
    #[error("{0} is a wildcard; write one name")]
    Wildcard(Hostname),
    #[error("status code {0} is not a redirect; use 301, 302, 303, 307 or 308")]
    Status(u16),
    #[error(
        "backendRef of a mirror names a service by namespace and name, or a subset of the route's own service"
    )]
    MirrorBackend,
    #[error("{0}/{1} is no fraction of at most 1 that comes to a millionth or more")]
    Fraction(u32, u32),
    #[error("a mirror takes one part of the requests: write percent or fraction, not both")]
    PercentAndFraction,
}

/// What the filters of one rule add up to, or of a gateway's rule and then the service's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Edits {
    #[serde(default, skip_serializing_if = "HeaderEdits::is_empty")]
    pub request_headers: HeaderEdits,
    #[serde(default, skip_serializing_if = "HeaderEdits::is_empty")]
    pub response_headers: HeaderEdits,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<ExactHostname>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathRewrite>,
}

/// Where a redirect leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RedirectTo {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<RedirectScheme>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<ExactHostname>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<std::num::NonZeroU16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathRewrite>,
    pub status: RedirectStatus,
}

/// What a rule does with a request beside sending it somewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    Pass(Box<Edits>, Vec<RequestMirror>),
    Redirect(Box<RedirectTo>),
}

/// Why the filters of a rule do not go together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadFilters {
    #[error("there are two filters of type {0}; write one")]
    Twice(&'static str),
    #[error("a redirect answers by itself: it goes with no other filter, no fault and no backendRefs")]
    RedirectAndMore,
    #[error(
        "ReplacePrefixMatch needs a prefix to replace: each match of the rule must be a PathPrefix, of one value"
    )]
    NoPrefix,
}

/// Of a header's value. Envoy refuses a whole table of routes for one of more than 16 KiB; no client of a mesh sends a
/// header of this size either.
const VALUE_BYTES_MAX: usize = 4096;

/// Frames the message or names its target (RFC 9110, RFC 9112), or tells the next proxy where it goes.
const HEADERS_OF_PROXIES: [&str; 11] = [
    "connection",
    "content-length",
    DESTINATION_HEADER,
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

impl HttpFilter {
    fn kind(&self) -> &'static str {
        match self {
            HttpFilter::RequestHeaderModifier(_) => "RequestHeaderModifier",
            HttpFilter::ResponseHeaderModifier(_) => "ResponseHeaderModifier",
            HttpFilter::RequestRedirect(_) => "RequestRedirect",
            HttpFilter::UrlRewrite(_) => "URLRewrite",
            HttpFilter::RequestMirror(_) => "RequestMirror",
        }
    }
}

impl Effect {
    /// What the filters of a rule with these matches do together.
    ///
    /// # Errors
    /// When they contradict each other, or a prefix is to be replaced and the matches have none.
    pub fn of(filters: &[HttpFilter], matches: &[HttpMatch]) -> Result<Effect, BadFilters> {
        let mut kinds = BTreeSet::new();
        let is_mirror = |filter: &HttpFilter| matches!(filter, HttpFilter::RequestMirror(_));
        let twice = |filter: &&HttpFilter| !kinds.insert(filter.kind()) && !is_mirror(filter);
        if let Some(twice) = filters.iter().find(twice) {
            return Err(BadFilters::Twice(twice.kind()));
        }
        let mut edits = Edits::default();
        let mut mirrors = Vec::new();
        for filter in filters {
            match filter {
                HttpFilter::RequestHeaderModifier(headers) => edits.request_headers = headers.clone(),
                HttpFilter::ResponseHeaderModifier(headers) => edits.response_headers = headers.clone(),
                HttpFilter::UrlRewrite(rewrite) => {
                    edits.host = rewrite.hostname.clone();
                    edits.path = PathRewrite::of(rewrite.path.as_ref(), matches)?;
                }
                HttpFilter::RequestMirror(mirror) => mirrors.push(mirror.clone()),
                HttpFilter::RequestRedirect(_) if filters.len() > 1 => {
                    return Err(BadFilters::RedirectAndMore);
                }
                HttpFilter::RequestRedirect(redirect) => {
                    return Ok(Effect::Redirect(Box::new(RedirectTo {
                        scheme: redirect.scheme,
                        host: redirect.hostname.clone(),
                        port: redirect.port,
                        path: PathRewrite::of(redirect.path.as_ref(), matches)?,
                        status: redirect.status_code,
                    })));
                }
            }
        }
        Ok(Effect::Pass(Box::new(edits), mirrors))
    }
}

impl Edits {
    /// These and those of whoever is nearer to the service: a request meets these first, its response last.
    pub fn then(&self, nearer: &Edits) -> Edits {
        Edits {
            request_headers: self.request_headers.then(&nearer.request_headers),
            response_headers: nearer.response_headers.then(&self.response_headers),
            host: nearer.host.clone().or_else(|| self.host.clone()),
            path: nearer.path.clone().or_else(|| self.path.clone()),
        }
    }

    pub fn is_empty(&self) -> bool {
        *self == Edits::default()
    }
}

impl HeaderEdits {
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    /// What remains when `later` is done after this.
    fn then(&self, later: &HeaderEdits) -> HeaderEdits {
        let decided = |name: &HeaderName| later.remove.contains(name) || later.set.contains_key(name);
        let kept = |lines: &BTreeMap<HeaderName, String>| -> BTreeMap<HeaderName, String> {
            let kept = lines.iter().filter(|(name, _)| !decided(name));
            kept.map(|(name, value)| (name.clone(), value.clone())).collect()
        };
        let (mut set, mut add) = (kept(&self.set), kept(&self.add));
        set.extend(later.set.clone());
        for (name, value) in &later.add {
            // One line for each name: what would be two is one value, as RFC 9110 reads it.
            add.entry(name.clone())
                .and_modify(|line| *line = format!("{line}, {value}"))
                .or_insert_with(|| value.clone());
        }
        HeaderEdits {
            remove: self.remove.union(&later.remove).cloned().collect(),
            set,
            add,
        }
    }
}

impl ExactHostname {
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl RedirectScheme {
    pub fn as_str(self) -> &'static str {
        match self {
            RedirectScheme::Http => "http",
            RedirectScheme::Https => "https",
        }
    }
}

impl TryFrom<FilterDocument> for HttpFilter {
    type Error = BadFilter;

    fn try_from(document: FilterDocument) -> Result<Self, BadFilter> {
        let FilterDocument {
            r#type,
            request_header_modifier: request,
            response_header_modifier: response,
            request_redirect: redirect,
            url_rewrite: rewrite,
            request_mirror: mirror,
        } = document;
        let given = [
            request.is_some(),
            response.is_some(),
            redirect.is_some(),
            rewrite.is_some(),
            mirror.is_some(),
        ];
        let only = given.into_iter().filter(|given| *given).count() == 1;
        let (filter, wanted, field) = match r#type {
            FilterType::RequestHeaderModifier => (
                request.map(HttpFilter::RequestHeaderModifier),
                "RequestHeaderModifier",
                "requestHeaderModifier",
            ),
            FilterType::ResponseHeaderModifier => (
                response.map(HttpFilter::ResponseHeaderModifier),
                "ResponseHeaderModifier",
                "responseHeaderModifier",
            ),
            FilterType::RequestRedirect => (
                redirect.map(HttpFilter::RequestRedirect),
                "RequestRedirect",
                "requestRedirect",
            ),
            FilterType::UrlRewrite => (rewrite.map(HttpFilter::UrlRewrite), "URLRewrite", "urlRewrite"),
            FilterType::RequestMirror => (
                mirror.map(HttpFilter::RequestMirror),
                "RequestMirror",
                "requestMirror",
            ),
        };
        filter.filter(|_| only).ok_or(BadFilter::Field { wanted, field })
    }
}

impl From<HttpFilter> for FilterDocument {
    fn from(filter: HttpFilter) -> FilterDocument {
        let of = |r#type| FilterDocument {
            r#type,
            request_header_modifier: None,
            response_header_modifier: None,
            request_redirect: None,
            url_rewrite: None,
            request_mirror: None,
        };
        match filter {
            HttpFilter::RequestHeaderModifier(edits) => FilterDocument {
                request_header_modifier: Some(edits),
                ..of(FilterType::RequestHeaderModifier)
            },
            HttpFilter::ResponseHeaderModifier(edits) => FilterDocument {
                response_header_modifier: Some(edits),
                ..of(FilterType::ResponseHeaderModifier)
            },
            HttpFilter::RequestRedirect(redirect) => FilterDocument {
                request_redirect: Some(redirect),
                ..of(FilterType::RequestRedirect)
            },
            HttpFilter::UrlRewrite(rewrite) => FilterDocument {
                url_rewrite: Some(rewrite),
                ..of(FilterType::UrlRewrite)
            },
            HttpFilter::RequestMirror(mirror) => FilterDocument {
                request_mirror: Some(mirror),
                ..of(FilterType::RequestMirror)
            },
        }
    }
}

impl TryFrom<EditsDocument> for HeaderEdits {
    type Error = BadFilter;

    fn try_from(document: EditsDocument) -> Result<Self, BadFilter> {
        let mut lines = document.set.iter().chain(&document.add);
        let mut seen = BTreeSet::new();
        for name in lines.clone().map(|line| &line.name).chain(&document.remove) {
            if HEADERS_OF_PROXIES.contains(&name.as_str()) {
                return Err(BadFilter::Header(name.as_str().to_owned()));
            }
            if !seen.insert(name) {
                return Err(BadFilter::HeaderTwice(name.as_str().to_owned()));
            }
        }
        let good = |value: &str| {
            let printable = value
                .bytes()
                .all(|byte| byte == b'\t' || (b' '..=b'~').contains(&byte));
            printable && value.len() <= VALUE_BYTES_MAX
        };
        if let Some(bad) = lines.find(|line| !good(&line.value)) {
            return Err(BadFilter::Value(bad.name.as_str().to_owned()));
        }
        let pairs = |lines: Vec<HeaderLine>| lines.into_iter().map(|line| (line.name, line.value)).collect();
        Ok(HeaderEdits {
            remove: document.remove.into_iter().collect(),
            set: pairs(document.set),
            add: pairs(document.add),
        })
    }
}

impl From<HeaderEdits> for EditsDocument {
    fn from(edits: HeaderEdits) -> EditsDocument {
        let lines = |pairs: BTreeMap<HeaderName, String>| {
            let lines = pairs.into_iter().map(|(name, value)| HeaderLine { name, value });
            lines.collect()
        };
        EditsDocument {
            set: lines(edits.set),
            add: lines(edits.add),
            remove: edits.remove.into_iter().collect(),
        }
    }
}

impl TryFrom<Hostname> for ExactHostname {
    type Error = BadFilter;

    fn try_from(host: Hostname) -> Result<Self, BadFilter> {
        if host.as_str().starts_with('*') {
            Err(BadFilter::Wildcard(host))
        } else {
            Ok(ExactHostname(host))
        }
    }
}

impl From<ExactHostname> for Hostname {
    fn from(host: ExactHostname) -> Hostname {
        host.0
    }
}

impl TryFrom<u16> for RedirectStatus {
    type Error = BadFilter;

    fn try_from(code: u16) -> Result<Self, BadFilter> {
        match code {
            301 => Ok(RedirectStatus::MovedPermanently),
            302 => Ok(RedirectStatus::Found),
            303 => Ok(RedirectStatus::SeeOther),
            307 => Ok(RedirectStatus::TemporaryRedirect),
            308 => Ok(RedirectStatus::PermanentRedirect),
            _ => Err(BadFilter::Status(code)),
        }
    }
}

impl From<RedirectStatus> for u16 {
    fn from(status: RedirectStatus) -> u16 {
        match status {
            RedirectStatus::MovedPermanently => 301,
            RedirectStatus::Found => 302,
            RedirectStatus::SeeOther => 303,
            RedirectStatus::TemporaryRedirect => 307,
            RedirectStatus::PermanentRedirect => 308,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn filters(documents: Value) -> Vec<HttpFilter> {
        serde_json::from_value(documents).unwrap()
    }

    #[test]
    fn filters_are_written_as_the_gateway_api_writes_them() {
        for document in [
            json!({"type": "RequestHeaderModifier", "requestHeaderModifier": {
                "set": [{"name": "x-a", "value": "1"}], "add": [{"name": "x-b", "value": "2"}], "remove": ["x-c"]}}),
            json!({"type": "ResponseHeaderModifier", "responseHeaderModifier": {"remove": ["server"]}}),
            json!({"type": "RequestRedirect", "requestRedirect": {
                "scheme": "https", "hostname": "a.example.com", "port": 8443, "statusCode": 301,
                "path": {"type": "ReplaceFullPath", "replaceFullPath": "/x"}}}),
            json!({"type": "URLRewrite", "urlRewrite": {
                "hostname": "a.example.com", "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}}}),
            json!({"type": "RequestMirror", "requestMirror": {
                "backendRef": {"namespace": "shop", "name": "web", "port": 80}, "percent": 12.5}}),
        ] {
            let filter: HttpFilter = serde_json::from_value(document.clone()).unwrap();
            assert_eq!(serde_json::to_value(filter).unwrap(), document);
        }
    }

    #[test]
    fn a_filter_that_cannot_be_had_says_why() {
        let headers = |edits: Value| json!({"type": "RequestHeaderModifier", "requestHeaderModifier": edits});
        for (document, expected) in [
            (json!({"type": "ExtensionRef"}), "unknown variant `ExtensionRef`"),
            (
                json!({"type": "URLRewrite"}),
                "a filter of type URLRewrite has the field urlRewrite and no other",
            ),
            (
                json!({"type": "URLRewrite", "urlRewrite": {}, "requestRedirect": {}}),
                "has the field urlRewrite and no other",
            ),
            (
                headers(json!({"remove": ["Host"]})),
                "header host belongs to the proxies",
            ),
            (
                headers(json!({"set": [{"name": "x-tombolo-destination", "value": "a"}]})),
                "belongs to the proxies",
            ),
            (
                headers(json!({"set": [{"name": "x-a", "value": "1"}], "remove": ["X-A"]})),
                "header x-a stands twice",
            ),
            (
                headers(json!({"set": [{"name": "x-a", "value": "1\r\nx-b: 2"}]})),
                "the value of header x-a is not printable ASCII of at most 4096 bytes",
            ),
            (
                headers(json!({"set": [{"name": "x-a", "value": "café"}]})),
                "the value of header x-a is not printable ASCII of at most 4096 bytes",
            ),
            (
                headers(json!({"set": [{"name": "x-a", "value": "a".repeat(VALUE_BYTES_MAX + 1)}]})),
                "the value of header x-a is not printable ASCII of at most 4096 bytes",
            ),
            (
                json!({"type": "RequestRedirect", "requestRedirect": {"statusCode": 304}}),
                "status code 304 is not a redirect",
            ),
            (
                json!({"type": "RequestRedirect", "requestRedirect": {"hostname": "*.a.com"}}),
                "*.a.com is a wildcard",
            ),
        ] {
            let error = serde_json::from_value::<HttpFilter>(document.clone()).unwrap_err();
            assert!(error.to_string().contains(expected), "{document}: {error}");
        }
    }

    #[test]
    fn filters_that_do_not_go_together_are_refused() {
        let redirect = json!({"type": "RequestRedirect", "requestRedirect": {}});
        let headers = json!({"type": "RequestHeaderModifier", "requestHeaderModifier": {"remove": ["a"]}});
        let prefix = json!({"type": "URLRewrite", "urlRewrite": {
            "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/x"}}});
        let exact = json!([{"path": {"type": "Exact", "value": "/a"}}]);
        let two = json!([{"path": {"type": "PathPrefix", "value": "/a"}}, {}]);
        for (given, matches, expected) in [
            (
                json!([headers, headers]),
                json!([]),
                BadFilters::Twice("RequestHeaderModifier"),
            ),
            (json!([redirect, headers]), json!([]), BadFilters::RedirectAndMore),
            (json!([prefix]), exact, BadFilters::NoPrefix),
            (json!([prefix]), two, BadFilters::NoPrefix),
        ] {
            let matches: Vec<HttpMatch> = serde_json::from_value(matches).unwrap();
            assert_eq!(
                Effect::of(&filters(given.clone()), &matches),
                Err(expected),
                "{given}"
            );
        }
    }

    #[test]
    fn the_nearer_edits_win() {
        let edits = |document: Value| -> HeaderEdits { serde_json::from_value(document).unwrap() };
        let line = |name: &str, value: &str| json!([{"name": name, "value": value}]);
        for (first, later, together) in [
            (
                json!({"set": line("a", "1")}),
                json!({"set": line("a", "2")}),
                json!({"set": line("a", "2")}),
            ),
            (
                json!({"set": line("a", "1")}),
                json!({"remove": ["a"]}),
                json!({"remove": ["a"]}),
            ),
            (
                json!({"add": line("a", "1")}),
                json!({"add": line("a", "2")}),
                json!({"add": line("a", "1, 2")}),
            ),
            (
                json!({"add": line("a", "1"), "remove": ["b"]}),
                json!({"set": line("a", "2")}),
                json!({"set": line("a", "2"), "remove": ["b"]}),
            ),
        ] {
            let found = edits(first.clone()).then(&edits(later.clone()));
            assert_eq!(
                serde_json::to_value(found).unwrap(),
                together,
                "{first} then {later}"
            );
        }
    }
}
