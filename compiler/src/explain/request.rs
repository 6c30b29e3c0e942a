//! A request that somebody asks about, and the one function that says whether a rule's match takes it.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::http::{HeaderName, HttpMatch, Method, PathMatch, RedirectTo, ValueMatch};

/// What a proxy sees of a request before it reads the body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "RequestDocument", into = "RequestDocument")]
pub struct Request {
    method: String,
    scheme: Scheme,
    /// `host` or `host:port`, in lower case; without the port that its scheme means anyway, as clients send it.
    authority: String,
    /// Without the query.
    path: String,
    query: Option<String>,
    /// One line of each name.
    headers: BTreeMap<HeaderName, String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
}

/// The written form.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RequestDocument {
    #[serde(default = "get")]
    method: String,
    /// `http://host[:port]/path?query`
    url: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<HeaderName, String>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    #[error("{0:?} is not a method; use one such as GET or POST")]
    Method(String),
    #[error("{0:?} is not a URL; use http://HOST/PATH or https://HOST/PATH")]
    Url(String),
    #[error(
        "path {0:?} is not as proxies see it: leave out '.' and '..' segments, backslashes, fragments and spaces, and write letters, digits, '-', '.', '_' and '~' as they are"
    )]
    Path(String),
    #[error("host is a header that the URL gives; write it there")]
    HostHeader,
}

/// Why a match does not take a request; `Display` is for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mismatch<'a> {
    Path {
        wanted: &'a PathMatch,
        given: &'a str,
    },
    Method {
        wanted: Method,
        given: &'a str,
    },
    /// Of a header, a query parameter or a cookie.
    Value {
        what: &'static str,
        name: &'a str,
        wanted: &'a ValueMatch,
        given: Option<&'a str>,
    },
}

impl Request {
    /// `method` in upper case, `url` as users write it.
    ///
    /// # Errors
    /// When one of them is not well-formed, or the path is not in the form in which proxies match it.
    pub fn new(
        method: &str,
        url: &str,
        headers: BTreeMap<HeaderName, String>,
    ) -> Result<Request, BadRequest> {
        if method.is_empty() || !method.bytes().all(|byte| byte.is_ascii_uppercase()) {
            return Err(BadRequest::Method(method.to_owned()));
        }
        if headers.keys().any(|name| name.as_str() == "host") {
            return Err(BadRequest::HostHeader);
        }
        let bad = || BadRequest::Url(url.to_owned());
        let (scheme, rest) = url.split_once("://").ok_or_else(bad)?;
        let scheme = match scheme {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return Err(bad()),
        };
        let at = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(at);
        let (target, query) = match target.split_once('?') {
            Some((target, query)) => (target, Some(query.to_owned())),
            None => (target, None),
        };
        let path = if target.is_empty() { "/" } else { target };
        if !is_as_proxies_see_it(path) {
            return Err(BadRequest::Path(path.to_owned()));
        }
        Ok(Request {
            method: method.to_owned(),
            scheme,
            authority: as_sent(authority, scheme).ok_or_else(bad)?,
            path: path.to_owned(),
            query,
            headers,
        })
    }

    pub fn method(&self) -> &str {
        &self.method
    }

    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The authority without its port.
    pub fn host(&self) -> &str {
        self.authority
            .split_once(':')
            .map_or(self.authority.as_str(), |(host, _)| host)
    }

    /// The port that the authority names.
    pub fn port(&self) -> Option<u16> {
        let (_, port) = self.authority.split_once(':')?;
        port.parse().ok()
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether a browser asks with it what a page of another origin may do.
    pub(super) fn is_preflight(&self) -> bool {
        let has = |wanted: &str| self.headers.keys().any(|name| name.as_str() == wanted);
        self.method == "OPTIONS" && has("origin") && has("access-control-request-method")
    }

    /// The first parameter of that name, as it stands in the URL; empty when it has no `=`.
    pub fn query_param(&self, name: &str) -> Option<&str> {
        let mut params = self.query.as_deref()?.split('&');
        params.find_map(|param| {
            let (given, value) = param.split_once('=').unwrap_or((param, ""));
            (given == name).then_some(value)
        })
    }

    /// The value of the first cookie of that name, without quotes around it.
    pub fn cookie(&self, name: &str) -> Option<&str> {
        let cookies = self
            .headers
            .iter()
            .find(|(header, _)| header.as_str() == "cookie");
        let mut cookies = cookies?.1.split(';');
        cookies.find_map(|cookie| {
            let (given, value) = cookie.trim_start_matches(' ').split_once('=')?;
            let quoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
            (given == name).then_some(quoted.unwrap_or(value))
        })
    }

    pub fn headers(&self) -> &BTreeMap<HeaderName, String> {
        &self.headers
    }

    pub fn url(&self) -> String {
        let query = self
            .query
            .as_ref()
            .map_or_else(String::new, |query| format!("?{query}"));
        format!("{}://{}{}{query}", self.scheme, self.authority, self.path)
    }
}

impl Scheme {
    /// The port that a URL without one means.
    pub fn default_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }
}

impl HttpMatch {
    /// Whether it takes a request, as every proxy decides it; if not, the first of its parts that does not hold.
    ///
    /// # Errors
    /// The part that does not hold.
    pub fn admits<'a>(&'a self, request: &'a Request) -> Result<(), Mismatch<'a>> {
        let path = self.path.iter().flat_map(PathMatch::parts);
        if let Some(wanted) = path.into_iter().find(|part| !part.admits(&request.path)) {
            return Err(Mismatch::Path {
                wanted,
                given: &request.path,
            });
        }
        if let Some(wanted) = self.method
            && wanted.as_str() != request.method
        {
            return Err(Mismatch::Method {
                wanted,
                given: &request.method,
            });
        }
        let headers = self.headers.iter().map(|matched| {
            let given = request.headers.get(&matched.name).map(String::as_str);
            ("header", matched.name.as_str(), &matched.value, given)
        });
        let params = self.query_params.iter().map(|matched| {
            let name = matched.name.as_str();
            ("query parameter", name, &matched.value, request.query_param(name))
        });
        let cookies = self.cookies.iter().map(|matched| {
            let name = matched.name.as_str();
            ("cookie", name, &matched.value, request.cookie(name))
        });
        let mut values = headers.chain(params).chain(cookies);
        let mismatch = values.find(|(_, _, wanted, given)| !given.is_some_and(|given| wanted.admits(given)));
        match mismatch {
            None => Ok(()),
            Some((what, name, wanted, given)) => Err(Mismatch::Value {
                what,
                name,
                wanted,
                given,
            }),
        }
    }
}

impl RedirectTo {
    /// The URL that a client is sent to.
    pub fn location(&self, request: &Request) -> String {
        let asked = request.scheme;
        let scheme = match self.scheme {
            Some(scheme) => scheme.as_str().to_owned(),
            None => asked.to_string(),
        };
        let host = match (&self.host, self.port) {
            (Some(host), _) => host.as_str(),
            (None, Some(_)) => request.host(),
            // The old scheme's port would be wrong for the new one.
            (None, None) if scheme != asked.to_string() && request.port() == Some(asked.default_port()) => {
                request.host()
            }
            (None, None) => request.authority(),
        };
        let port = self.port.map_or_else(String::new, |port| format!(":{port}"));
        let path = match &self.path {
            Some(rewrite) => rewrite.apply(&request.path),
            None => request.path.clone(),
        };
        let query = request
            .query
            .as_ref()
            .map_or_else(String::new, |query| format!("?{query}"));
        format!("{scheme}://{host}{port}{path}{query}")
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        })
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.url())
    }
}

impl fmt::Display for Mismatch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mismatch::Path { wanted, given } => match wanted {
                PathMatch::Exact(path) => write!(f, "path {given} is not {}", path.as_str()),
                PathMatch::PathPrefix(path) => {
                    write!(f, "path {given} is not {} or below it", path.as_str())
                }
                PathMatch::RegularExpression(pattern) => {
                    write!(f, "path {given} does not match {}", pattern.as_str())
                }
                PathMatch::All(_) => write!(f, "path {given} does not match all that is wanted"),
            },
            Mismatch::Method { wanted, given } => write!(f, "method {given} is not {}", wanted.as_str()),
            Mismatch::Value {
                what,
                name,
                wanted,
                given,
            } => match (wanted, given) {
                (ValueMatch::Exact(wanted), Some(given)) => {
                    write!(f, "{what} {name} is {given:?}, not {wanted:?}")
                }
                (ValueMatch::Exact(wanted), None) => {
                    write!(f, "{what} {name} is not there; {wanted:?} is wanted")
                }
                (ValueMatch::RegularExpression(pattern), Some(given)) => {
                    write!(
                        f,
                        "{what} {name} is {given:?}, which does not match {}",
                        pattern.as_str()
                    )
                }
                (ValueMatch::RegularExpression(pattern), None) => {
                    write!(
                        f,
                        "{what} {name} is not there; what matches {} is wanted",
                        pattern.as_str()
                    )
                }
            },
        }
    }
}

impl TryFrom<RequestDocument> for Request {
    type Error = BadRequest;

    fn try_from(document: RequestDocument) -> Result<Request, BadRequest> {
        Request::new(&document.method, &document.url, document.headers)
    }
}

impl From<Request> for RequestDocument {
    fn from(request: Request) -> RequestDocument {
        RequestDocument {
            url: request.url(),
            method: request.method,
            headers: request.headers,
        }
    }
}

fn get() -> String {
    "GET".to_owned()
}

fn as_sent(authority: &str, scheme: Scheme) -> Option<String> {
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port.parse::<u16>().ok()?)),
        None => (authority, None),
    };
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if host.is_empty() || !host.bytes().all(is_name) {
        return None;
    }
    let host = host.to_ascii_lowercase();
    Some(match port.filter(|port| *port != scheme.default_port()) {
        Some(port) => format!("{host}:{port}"),
        None => host,
    })
}

/// Proxies resolve dot segments and needless escapes before they match; here they are refused, so that what is written
/// is what is matched.
fn is_as_proxies_see_it(path: &str) -> bool {
    let plain = path
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'\\' | b'#'));
    let dots = path.split('/').any(|segment| matches!(segment, "." | ".."));
    let needless = path.match_indices('%').any(|(at, _)| {
        let byte = path
            .get(at + 1..at + 3)
            .filter(|hex| hex.bytes().all(|digit| digit.is_ascii_hexdigit()))
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        byte.is_none_or(|byte| byte.is_ascii_alphanumeric() || matches!(byte, 0 | b'-' | b'.' | b'_' | b'~'))
    });
    path.starts_with('/') && plain && !dots && !needless
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn request(url: &str, headers: &[(&str, &str)]) -> Request {
        let headers = headers
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::try_from((*name).to_owned()).unwrap(),
                    (*value).to_owned(),
                )
            })
            .collect();
        Request::new("GET", url, headers).unwrap()
    }

    #[test]
    fn a_request_is_what_a_client_would_send() {
        for (url, authority, path, port) in [
            ("http://Reviews.shop", "reviews.shop", "/", None),
            ("http://reviews.shop:80/a?b=c", "reviews.shop", "/a", None),
            ("https://reviews.shop:443/a", "reviews.shop", "/a", None),
            ("https://reviews.shop:80/a", "reviews.shop:80", "/a", Some(80)),
            ("http://reviews.shop:9080?x", "reviews.shop:9080", "/", Some(9080)),
            ("http://reviews/a%2Fb", "reviews", "/a%2Fb", None),
        ] {
            let found = request(url, &[]);
            assert_eq!(
                (found.authority(), found.path(), found.port()),
                (authority, path, port),
                "{url}"
            );
        }
        for (method, url) in [
            ("get", "http://a/"),
            ("GET", "reviews.shop/a"),
            ("GET", "ftp://a/"),
            ("GET", "http:///a"),
            ("GET", "http://a:b/"),
            ("GET", "http://a/../b"),
            ("GET", "http://a/%41"),
            ("GET", "http://a/%00"),
            ("GET", "http://a/%+f"),
            ("GET", "http://a/b c"),
            ("GET", "http://a/b#c"),
        ] {
            assert!(
                Request::new(method, url, BTreeMap::new()).is_err(),
                "{method} {url}"
            );
        }
    }

    #[test]
    fn a_match_takes_a_request_or_says_what_is_wrong() {
        let cookies = "theme=dark; User=\"anna\";User=bert; flag";
        let given = request("http://a/a/b?c&d=1&d=2", &[("x-a", "1"), ("cookie", cookies)]);
        for (matches, expected) in [
            (json!({}), None),
            (json!({"path": {"type": "Exact", "value": "/a/b"}}), None),
            (json!({"path": {"type": "PathPrefix", "value": "/"}}), None),
            (json!({"path": {"type": "PathPrefix", "value": "/a"}}), None),
            (json!({"path": {"type": "PathPrefix", "value": "/a/"}}), None),
            (
                json!({"path": {"type": "Exact", "value": "/a"}}),
                Some("path /a/b is not /a"),
            ),
            (
                json!({"path": {"type": "PathPrefix", "value": "/a/bc"}}),
                Some("path /a/b is not /a/bc or below it"),
            ),
            (json!({"headers": [{"name": "x-a", "value": "1"}]}), None),
            (
                json!({"headers": [{"name": "x-a", "value": "2"}]}),
                Some("header x-a is \"1\", not \"2\""),
            ),
            (
                json!({"headers": [{"name": "x-b", "value": "2"}]}),
                Some("header x-b is not there; \"2\" is wanted"),
            ),
            (json!({"method": "GET"}), None),
            (json!({"method": "POST"}), Some("method GET is not POST")),
            (json!({"queryParams": [{"name": "d", "value": "1"}]}), None),
            (
                json!({"queryParams": [{"name": "d", "value": "2"}]}),
                Some("query parameter d is \"1\", not \"2\""),
            ),
            (
                json!({"queryParams": [{"name": "e", "value": "2"}]}),
                Some("query parameter e is not there; \"2\" is wanted"),
            ),
            (
                json!({"path": {"type": "RegularExpression", "value": "/a/."}}),
                None,
            ),
            (
                json!({"path": {"type": "RegularExpression", "value": "/a"}}),
                Some("path /a/b does not match /a"),
            ),
            (
                json!({"headers": [{"type": "RegularExpression", "name": "x-a", "value": "[2-9]"}]}),
                Some("header x-a is \"1\", which does not match [2-9]"),
            ),
            (
                json!({"queryParams": [{"type": "RegularExpression", "name": "e", "value": ".*"}]}),
                Some("query parameter e is not there; what matches .* is wanted"),
            ),
            (
                json!({"queryParams": [{"type": "RegularExpression", "name": "c", "value": ""}]}),
                None,
            ),
            (json!({"cookies": [{"name": "User", "value": "anna"}]}), None),
            (
                json!({"cookies": [{"name": "User", "value": "bert"}]}),
                Some("cookie User is \"anna\", not \"bert\""),
            ),
            (
                json!({"cookies": [{"name": "flag", "value": ""}]}),
                Some("cookie flag is not there; \"\" is wanted"),
            ),
        ] {
            let matcher: HttpMatch = serde_json::from_value(matches.clone()).unwrap();
            let found = matcher.admits(&given).err().map(|mismatch| mismatch.to_string());
            assert_eq!(found.as_deref(), expected, "{matches}");
        }
    }

    #[test]
    fn a_redirect_leads_where_proxies_lead() {
        for (to, url, location) in [
            (
                json!({"status": 302}),
                "http://a:8080/x?y=1",
                "http://a:8080/x?y=1",
            ),
            (
                json!({"status": 301, "scheme": "https"}),
                "http://a/x",
                "https://a/x",
            ),
            (
                json!({"status": 301, "scheme": "https"}),
                "http://a:8080/x",
                "https://a:8080/x",
            ),
            (
                json!({"status": 302, "host": "b"}),
                "http://a:8080/x",
                "http://b/x",
            ),
            (
                json!({"status": 302, "port": 90}),
                "http://a:8080/x",
                "http://a:90/x",
            ),
            (
                json!({"status": 302, "path": {"prefix": {"from": "/x", "to": "/z"}}}),
                "http://a/x/y?q",
                "http://a/z/y?q",
            ),
            (
                json!({"status": 302, "path": {"full": "/z"}}),
                "http://a/x/y?q",
                "http://a/z?q",
            ),
        ] {
            let redirect: RedirectTo = serde_json::from_value(to.clone()).unwrap();
            assert_eq!(redirect.location(&request(url, &[])), location, "{to} {url}");
        }
    }

    #[test]
    fn a_request_survives_its_json() {
        let document = json!({"method": "POST", "url": "http://a:8080/b?c=d", "headers": {"x-a": "1"}});
        let request: Request = serde_json::from_value(document.clone()).unwrap();
        assert_eq!(serde_json::to_value(&request).unwrap(), document);
    }
}
