//! Which route a request takes: the virtual host by its authority, then the first route that matches. Pure and
//! allocation-free on the request path.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use http::Method;
use http::header::{COOKIE, HeaderName};
use http::request::Parts;

use crate::config::{HeaderMatcher, PathMatcher, Route, RouteMatcher, ValueMatcher};
use crate::filter::{Levels, Overrides};

/// The place of the levels on which nothing is said of any filter.
pub(crate) const NO_LEVELS: usize = 0;

/// A route configuration, indexed by domain.
#[derive(Clone, Debug)]
pub(crate) struct RouteTable {
    ports: Ports,
    levels: Vec<Levels>,
    hosts: Vec<Vec<Route>>,
    exact: HashMap<Box<str>, usize>,
    /// Suffixes with their dot (`.shop.example`), the longest first.
    suffixes: Vec<(Box<str>, usize)>,
    any: Option<usize>,
}

/// What a port in a request's authority means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ports {
    Ignored,
    /// Domains may name one, and a request's is a part of its host.
    Matter,
}

/// What a route is chosen by besides authority and path.
pub(crate) trait RequestView {
    fn method(&self) -> &Method;

    fn query(&self) -> Option<&str>;

    /// The values of a header, line by line.
    fn lines<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]>;
}

impl RequestView for Parts {
    fn method(&self) -> &Method {
        &self.method
    }

    fn query(&self) -> Option<&str> {
        self.uri.query()
    }

    fn lines<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> {
        self.headers.get_all(name).iter().map(http::HeaderValue::as_bytes)
    }
}

impl RouteTable {
    pub(crate) fn new(ports: Ports) -> Self {
        Self {
            ports,
            levels: vec![Levels::new()],
            hosts: Vec::new(),
            exact: HashMap::new(),
            suffixes: Vec::new(),
            any: None,
        }
    }

    /// The place of what is said of filters within what is at `outer`.
    pub(crate) fn levels_below(&mut self, outer: usize, said: Overrides) -> usize {
        if said.is_empty() {
            return outer;
        }
        let mut levels = vec![Arc::new(said)];
        levels.extend_from_slice(&self.levels[outer]);
        self.levels.push(levels);
        self.levels.len() - 1
    }

    /// What is said of filters, by the places that routes name.
    pub(crate) fn levels(&self) -> &[Levels] {
        &self.levels
    }

    /// Adds a virtual host; refuses a domain that another one of this table holds.
    pub(crate) fn add(&mut self, domains: &[String], routes: Vec<Route>) -> Result<(), String> {
        let host = self.hosts.len();
        for domain in domains {
            let domain = domain.to_ascii_lowercase();
            let taken = if domain == "*" {
                self.any.replace(host).is_some()
            } else if let Some(suffix) = domain.strip_prefix('*') {
                if suffix.is_empty() || suffix.contains('*') {
                    return Err(format!(
                        "domain {domain} is not supported: use a name, *.suffix or *"
                    ));
                }
                let taken = self.suffixes.iter().any(|(held, _)| **held == *suffix);
                self.suffixes.push((suffix.into(), host));
                taken
            } else if domain.is_empty() || domain.contains('*') {
                return Err(format!(
                    "domain {domain:?} is not supported: use a name, *.suffix or *"
                ));
            } else {
                self.exact.insert(domain.as_str().into(), host).is_some()
            };
            if taken {
                return Err(format!("domain {domain} is listed twice"));
            }
        }
        self.suffixes
            .sort_by_key(|(suffix, _)| std::cmp::Reverse(suffix.len()));
        self.hosts.push(routes);
        Ok(())
    }

    /// The route of a request for `authority` and `path` (without its query).
    pub(crate) fn route(&self, authority: &str, path: &str, request: &impl RequestView) -> Option<&Route> {
        let name = match self.ports {
            Ports::Ignored => without_port(authority),
            Ports::Matter => authority,
        };
        let host = self.host(name)?;
        self.hosts[host]
            .iter()
            .find(|route| route.matcher.matches(path, request))
    }

    fn host(&self, name: &str) -> Option<usize> {
        let name = lowercase(name);
        if let Some(host) = self.exact.get(&*name) {
            return Some(*host);
        }
        self.suffixes
            .iter()
            .find(|(suffix, _)| name.len() > suffix.len() && name.ends_with(&**suffix))
            .map(|(_, host)| *host)
            .or(self.any)
    }
}

impl RouteMatcher {
    fn matches(&self, path: &str, request: &impl RequestView) -> bool {
        let query = request.query();
        self.path.matches(path)
            && self.headers.iter().all(|header| header.matches(path, request))
            && self.query.iter().all(|(name, wanted)| {
                let given = first_param(query.unwrap_or_default(), name);
                given.is_some_and(|given| wanted.matches(given.as_bytes()))
            })
            && self.cookies.iter().all(|(name, wanted)| {
                let given = first_cookie(request.lines(&COOKIE), name);
                given.is_some_and(|given| wanted.matches(given))
            })
    }
}

impl PathMatcher {
    fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => path == &**exact,
            Self::Prefix(prefix) => path.starts_with(&**prefix),
            Self::Segments(prefix) => path
                .strip_prefix(&**prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
            Self::Regex(pattern) => pattern.matches(path.as_bytes()),
        }
    }
}

impl ValueMatcher {
    pub(crate) fn matches(&self, given: &[u8]) -> bool {
        match self {
            Self::Exact(wanted) => given == wanted.as_bytes(),
            Self::Regex(pattern) => pattern.matches(given),
        }
    }
}

impl HeaderMatcher {
    fn matches(&self, path: &str, request: &impl RequestView) -> bool {
        match self {
            Self::Method(methods) => methods.contains(request.method()),
            Self::Target(pattern) => match request.query() {
                None => pattern.matches(path.as_bytes()),
                Some(query) => pattern.matches(format!("{path}?{query}").as_bytes()),
            },
            Self::Present(name) => request.lines(name).next().is_some(),
            Self::Absent(name) => request.lines(name).next().is_none(),
            Self::Exact(name, value) => any_line(request, name, |line| line == value.as_bytes()),
            Self::Regex(name, pattern) => any_line(request, name, |line| pattern.matches(line)),
        }
    }
}

/// Each line of a header is looked at by itself, as in Envoy; only cookies are one line, however HTTP/2 sends them.
fn any_line(request: &impl RequestView, name: &HeaderName, matches: impl Fn(&[u8]) -> bool) -> bool {
    let mut lines = request.lines(name);
    if *name != COOKIE {
        return lines.any(matches);
    }
    let lines: Vec<&[u8]> = lines.collect();
    !lines.is_empty() && matches(&lines.join(&b"; "[..]))
}

/// The value of the first parameter of that name; empty when it has no `=`.
fn first_param<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|param| {
        let (given, value) = param.split_once('=').unwrap_or((param, ""));
        (given == name).then_some(value)
    })
}

/// The value of the first cookie of that name, without quotes around it, as Envoy reads them.
fn first_cookie<'a>(lines: impl Iterator<Item = &'a [u8]>, name: &str) -> Option<&'a [u8]> {
    let mut cookies = lines.flat_map(|line| line.split(|byte| *byte == b';'));
    cookies.find_map(|cookie| {
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

/// The path as routes see it and as it is forwarded: dot segments resolved and needlessly escaped characters
/// unescaped, as Envoy's `normalize_path` does; escaped slashes stay as they are. `None` when it is not
/// a path, or a `%` in it escapes nothing.
pub(crate) fn normalize_path(path: &str) -> Option<Cow<'_, str>> {
    if !path.starts_with('/') {
        return None;
    }
    let plain = !path.contains("/.") && !path.bytes().any(|byte| matches!(byte, b'%' | b'\\'));
    if plain {
        return Some(Cow::Borrowed(path));
    }
    let path = unescape_unreserved(path)?.replace('\\', "/");
    let mut segments: Vec<&str> = Vec::new();
    let mut directory = false;
    for segment in path[1..].split('/') {
        directory = matches!(segment, "." | "..");
        match segment {
            "." => {}
            // Climbing above the root stays at the root, as in browsers and in Envoy.
            ".." => {
                segments.pop();
            }
            _ => segments.push(segment),
        }
    }
    if directory {
        segments.push("");
    }
    Some(Cow::Owned(format!("/{}", segments.join("/"))))
}

/// The name of an authority: `a.b:80` is `a.b`, `[::1]:80` is `[::1]`.
pub(crate) fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.is_empty() => {
            // A bare IPv6 address has colons and no port.
            if name.contains(':') && !name.ends_with(']') {
                authority
            } else {
                name
            }
        }
        _ => authority,
    }
}

fn lowercase(name: &str) -> Cow<'_, str> {
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

/// Replaces `%41` by `A` where the character needs no escape (RFC 3986, section 2.3), so that no spelling of a path
/// escapes a route. `None` when a `%` escapes nothing: with what is unescaped behind it, as in `%2%65`, it would.
fn unescape_unreserved(path: &str) -> Option<String> {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        let (before, escaped) = (&rest[..at], rest.get(at..at + 3)?);
        // The parser alone would take a sign.
        let is_hex = escaped[1..].bytes().all(|digit| digit.is_ascii_hexdigit());
        let byte = u8::from_str_radix(&escaped[1..], 16).ok().filter(|_| is_hex)?;
        out.push_str(before);
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(escaped);
        }
        rest = &rest[at + 3..];
    }
    out.push_str(rest);
    Some(out)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http::{HeaderValue, Method, Request, StatusCode};

    use super::*;
    use crate::config::{Action, HeaderEdits};
    use crate::pattern::Pattern;

    fn route(path: PathMatcher, headers: Vec<HeaderMatcher>, answer: &'static str) -> Route {
        Route {
            levels: NO_LEVELS,
            matcher: RouteMatcher {
                path,
                headers,
                query: vec![],
                cookies: vec![],
            },
            edits: HeaderEdits::default(),
            action: Action::Respond {
                status: StatusCode::OK,
                body: answer.into(),
            },
        }
    }

    fn answer<'a>(
        table: &'a RouteTable,
        authority: &str,
        path: &str,
        request: Request<()>,
    ) -> Option<&'a str> {
        table
            .route(authority, path, &request.into_parts().0)
            .map(|route| match &route.action {
                Action::Respond { body, .. } => std::str::from_utf8(body).unwrap(),
                Action::Forward(_) | Action::Redirect(_) => unreachable!(),
            })
    }

    #[test]
    fn the_most_specific_domain_wins() {
        let mut table = RouteTable::new(Ports::Ignored);
        for (domains, name) in [
            (vec!["*"], "any"),
            (vec!["*.example.com"], "suffix"),
            (vec!["*.shop.example.com"], "longer suffix"),
            (vec!["reviews.shop.example.com", "reviews"], "exact"),
        ] {
            let domains: Vec<String> = domains.into_iter().map(str::to_owned).collect();
            table
                .add(
                    &domains,
                    vec![route(PathMatcher::Prefix("/".into()), vec![], name)],
                )
                .unwrap();
        }
        let cases = [
            ("reviews", "exact"),
            ("REVIEWS:8080", "exact"),
            ("reviews.shop.example.com", "exact"),
            ("ratings.shop.example.com:80", "longer suffix"),
            ("shop.example.com", "suffix"),
            ("example.com", "any"),
            ("[::1]:80", "any"),
        ];
        for (authority, expected) in cases {
            assert_eq!(
                answer(&table, authority, "/", Request::new(())),
                Some(expected),
                "{authority}"
            );
        }
    }

    #[test]
    fn ports_matter_where_the_table_says_so() {
        let domains = ["web.shop:8080".to_owned(), "web.shop".to_owned()];
        for (ports, with_port, with_other) in [
            (Ports::Ignored, Some("second"), Some("second")),
            (Ports::Matter, Some("first"), None),
        ] {
            let mut table = RouteTable::new(ports);
            for (domain, name) in domains.iter().zip(["first", "second"]) {
                let routes = vec![route(PathMatcher::Prefix("/".into()), vec![], name)];
                table.add(std::slice::from_ref(domain), routes).unwrap();
            }
            assert_eq!(
                answer(&table, "web.shop", "/", Request::new(())),
                Some("second"),
                "{ports:?}"
            );
            assert_eq!(
                answer(&table, "Web.shop:8080", "/", Request::new(())),
                with_port,
                "{ports:?}"
            );
            assert_eq!(
                answer(&table, "web.shop:9090", "/", Request::new(())),
                with_other,
                "{ports:?}"
            );
        }
    }

    #[test]
    fn a_domain_may_be_listed_once() {
        let cases: [(&[&str], &str); 5] = [
            (&["a", "A"], "domain a is listed twice"),
            (&["*", "*"], "domain * is listed twice"),
            (&["*.a", "*.a"], "domain *.a is listed twice"),
            (
                &["a.*"],
                "domain \"a.*\" is not supported: use a name, *.suffix or *",
            ),
            (&["**"], "domain ** is not supported: use a name, *.suffix or *"),
        ];
        for (domains, expected) in cases {
            let domains: Vec<String> = domains.iter().map(|domain| (*domain).to_owned()).collect();
            assert_eq!(
                RouteTable::new(Ports::Ignored).add(&domains, vec![]),
                Err(expected.to_owned())
            );
        }
    }

    #[test]
    fn the_first_route_that_matches_wins() {
        let name = HeaderName::from_static("x-user");
        let mut table = RouteTable::new(Ports::Ignored);
        table
            .add(
                &["*".to_owned()],
                vec![
                    route(PathMatcher::Exact("/exact".into()), vec![], "exact"),
                    route(PathMatcher::Segments("/seg".into()), vec![], "segments"),
                    route(
                        PathMatcher::Prefix("/".into()),
                        vec![HeaderMatcher::Exact(
                            name.clone(),
                            HeaderValue::from_static("anna"),
                        )],
                        "anna",
                    ),
                    route(
                        PathMatcher::Prefix("/m".into()),
                        vec![
                            HeaderMatcher::Method(vec![Method::PUT]),
                            HeaderMatcher::Absent(name.clone()),
                        ],
                        "put without user",
                    ),
                    route(
                        PathMatcher::Prefix("/".into()),
                        vec![HeaderMatcher::Present(name)],
                        "some user",
                    ),
                ],
            )
            .unwrap();
        let get = |headers: &[&str]| {
            headers
                .iter()
                .fold(Request::get("/"), |request, value| {
                    request.header("x-user", *value)
                })
                .body(())
                .unwrap()
        };
        let cases = [
            ("/exact", get(&[]), Some("exact")),
            ("/exact/", get(&[]), None),
            ("/seg", get(&[]), Some("segments")),
            ("/seg/a", get(&[]), Some("segments")),
            ("/segment", get(&[]), None),
            ("/x", get(&["anna"]), Some("anna")),
            ("/x", get(&["bert"]), Some("some user")),
            ("/x", get(&["bert", "anna"]), Some("anna")),
            (
                "/m",
                Request::put("/m").body(()).unwrap(),
                Some("put without user"),
            ),
            ("/m", get(&[]), None),
        ];
        for (path, request, expected) in cases {
            let shown = format!("{path} {request:?}");
            assert_eq!(answer(&table, "any", path, request), expected, "{shown}");
        }
    }

    #[test]
    fn the_first_parameter_of_a_name_decides() {
        let mut by_query = route(PathMatcher::Prefix("/".into()), vec![], "found");
        by_query.matcher.query = vec![("q".into(), ValueMatcher::Exact("1".into()))];
        let mut table = RouteTable::new(Ports::Ignored);
        table.add(&["*".to_owned()], vec![by_query]).unwrap();
        for (uri, found) in [
            ("/?q=1", true),
            ("/?a=b&q=1&q=2", true),
            ("/?q=2&q=1", false),
            ("/?q", false),
            ("/?qq=1", false),
            ("/?q=%31", false),
            ("/", false),
        ] {
            let request = Request::get(uri).body(()).unwrap();
            assert_eq!(answer(&table, "a", "/", request).is_some(), found, "{uri}");
        }
    }

    #[test]
    fn the_first_cookie_of_a_name_decides() {
        let mut by_cookie = route(PathMatcher::Prefix("/".into()), vec![], "found");
        by_cookie.matcher.cookies = vec![("User".into(), ValueMatcher::Exact("anna".into()))];
        let mut table = RouteTable::new(Ports::Ignored);
        table.add(&["*".to_owned()], vec![by_cookie]).unwrap();
        for (lines, found) in [
            (&["User=anna"][..], true),
            (&["theme=dark;  User=\"anna\"; User=bert"], true),
            (&["theme=dark", "User=anna"], true),
            (&["User=bert; User=anna"], false),
            (&["user=anna"], false),
            (&["User=anna "], false),
            (&["User"], false),
            (&["; =; User=\""], false),
            (&[], false),
        ] {
            let request = lines
                .iter()
                .fold(Request::get("/"), |request, line| request.header("cookie", *line));
            let request = request.body(()).unwrap();
            assert_eq!(answer(&table, "a", "/", request).is_some(), found, "{lines:?}");
        }
    }

    #[test]
    fn patterns_match_the_whole_of_what_they_look_at() {
        let pattern = |text: &str| Pattern::new(text).unwrap();
        let header = HeaderName::from_static("x-a");
        for (matcher, uri, expected) in [
            (
                route(PathMatcher::Regex(pattern("/a.*")), vec![], "found"),
                "/ab?c",
                true,
            ),
            (
                route(PathMatcher::Regex(pattern("/a")), vec![], "found"),
                "/a?c",
                true,
            ),
            (
                route(PathMatcher::Regex(pattern("/a")), vec![], "found"),
                "/ab",
                false,
            ),
            (
                route(
                    PathMatcher::Prefix("/".into()),
                    vec![HeaderMatcher::Target(pattern(r"/a(?:\?.*)?"))],
                    "found",
                ),
                "/a?b",
                true,
            ),
            (
                route(
                    PathMatcher::Prefix("/".into()),
                    vec![HeaderMatcher::Regex(header.clone(), pattern("2|3"))],
                    "found",
                ),
                "/",
                true,
            ),
            (
                route(
                    PathMatcher::Prefix("/".into()),
                    vec![HeaderMatcher::Regex(header.clone(), pattern("1,2"))],
                    "found",
                ),
                "/",
                false,
            ),
        ] {
            let mut table = RouteTable::new(Ports::Ignored);
            let shown = format!("{:?} {uri}", matcher.matcher);
            table.add(&["*".to_owned()], vec![matcher]).unwrap();
            let request = Request::get(uri).header("x-a", "1").header("x-a", "2");
            let request = request.body(()).unwrap();
            let path = request.uri().path().to_owned();
            assert_eq!(answer(&table, "a", &path, request).is_some(), expected, "{shown}");
        }
    }

    #[test]
    fn paths_are_normalized_as_envoy_does() {
        let cases = [
            ("/", Some("/")),
            ("/a/b", Some("/a/b")),
            ("//a", Some("//a")),
            ("/a/./b", Some("/a/b")),
            ("/a/../b", Some("/b")),
            ("/a/..", Some("/")),
            ("/a/.", Some("/a/")),
            ("/../a", Some("/a")),
            ("/a/%2e%2E/b", Some("/b")),
            ("/%61dmin", Some("/admin")),
            ("/a%2Fb", Some("/a%2Fb")),
            ("/a%20%c3%A9", Some("/a%20%c3%A9")),
            ("/a/%252e%252e/b", Some("/a/%252e%252e/b")),
            // What is left over would make another escape with what is unescaped behind it.
            ("/a/%2%65%2%65/b", None),
            ("/a/%%32e%%32e/b", None),
            ("/a%", None),
            ("/a%4", None),
            ("/a%zz", None),
            ("/a%+f", None),
            ("/a\\b", Some("/a/b")),
            ("/.well-known/x", Some("/.well-known/x")),
            ("/%é", None),
            ("/é%41", Some("/éA")),
            ("*", None),
            ("", None),
        ];
        for (path, expected) in cases {
            assert_eq!(normalize_path(path).as_deref(), expected, "{path}");
        }
    }
}
