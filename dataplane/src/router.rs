//! Which route a request takes: the virtual host by its authority, then the first route that matches. Pure and
//! allocation-free on the request path.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use foldhash::HashMap;

use self::index::Index;
use crate::config::Route;
use crate::filter::{Levels, Overrides};
use crate::matcher::{RequestView, Subject};

mod index;

/// The place of the levels on which nothing is said of any filter.
pub(crate) const NO_LEVELS: usize = 0;

/// A route configuration, indexed by domain.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RouteTable {
    ports: Ports,
    levels: Vec<Levels>,
    hosts: Vec<Arc<Host>>,
    domains: Arc<Domains>,
}

/// A virtual host, which may be one of several tables, that of now and those before it.
#[derive(Debug, PartialEq)]
pub(crate) struct Host {
    name: Box<str>,
    /// In lower case.
    domains: Box<[Arc<str>]>,
    routes: Vec<Route>,
    index: Index,
    /// The places of what is said of filters within it, and nowhere else.
    levels: Range<usize>,
}

/// The places of the hosts.
#[derive(Clone, Debug, Default, PartialEq)]
struct Domains {
    exact: HashMap<Arc<str>, usize>,
    /// What names end with (`.shop.example`).
    suffixes: Affixes,
    /// What names begin with (`shop.`).
    prefixes: Affixes,
    any: Option<usize>,
}

/// By their length, the longest first.
type Affixes = BTreeMap<Reverse<usize>, HashMap<Box<str>, usize>>;

/// What a port in a request's authority means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ports {
    Ignored,
    /// Domains may name one, and a request's is a part of its host.
    Matter,
}

impl RouteTable {
    /// Refuses, by its place, a host whose name or domain another one holds. What `held` has of domains is used again where it is
    /// the same.
    pub(crate) fn new(
        ports: Ports,
        levels: Vec<Levels>,
        hosts: Vec<Arc<Host>>,
        held: Option<&Self>,
    ) -> Result<Self, (usize, String)> {
        let domains = match held.filter(|held| is_called_the_same(&held.hosts, &hosts)) {
            Some(held) => Arc::clone(&held.domains),
            None => Arc::new(Domains::new(&hosts)?),
        };
        Ok(Self {
            ports,
            levels,
            hosts,
            domains,
        })
    }

    /// What is said of filters, by the places that routes name.
    pub(crate) fn levels(&self) -> &[Levels] {
        &self.levels
    }

    pub(crate) fn hosts(&self) -> &[Arc<Host>] {
        &self.hosts
    }

    /// The route of a request.
    pub(crate) fn route(&self, subject: &Subject<'_, impl RequestView>) -> Option<&Route> {
        let name = match self.ports {
            Ports::Ignored => without_port(subject.authority),
            Ports::Matter => subject.authority,
        };
        let Host { routes, index, .. } = &*self.hosts[self.domains.host(name)?];
        let matches = |place: usize| routes[place].matcher.matches(subject);
        let first = index.first(subject.path.as_bytes(), matches);
        first.map(|place| &routes[place])
    }

    /// The name of the host that an authority means.
    pub(crate) fn host_name(&self, authority: &str) -> Option<&str> {
        let name = match self.ports {
            Ports::Ignored => without_port(authority),
            Ports::Matter => authority,
        };
        Some(self.hosts[self.domains.host(name)?].name())
    }

    /// What [`Self::route`] must find, by a look at all routes of the host.
    #[cfg(test)]
    pub(crate) fn scan(&self, subject: &Subject<'_, impl RequestView>) -> Option<&Route> {
        let name = match self.ports {
            Ports::Ignored => without_port(subject.authority),
            Ports::Matter => subject.authority,
        };
        let routes = &self.hosts[self.domains.host(name)?].routes;
        routes.iter().find(|route| route.matcher.matches(subject))
    }
}

impl Host {
    pub(crate) fn new(name: &str, domains: &[String], routes: Vec<Route>, levels: Range<usize>) -> Self {
        let index = Index::new(routes.iter().map(|route| &route.matcher.path));
        let domains = domains.iter().map(|domain| domain.to_ascii_lowercase().into());
        Self {
            name: name.into(),
            domains: domains.collect(),
            routes,
            index,
            // Where nothing is said its place means nothing, least of all in another table.
            levels: if levels.is_empty() { 0..0 } else { levels },
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn levels(&self) -> Range<usize> {
        self.levels.clone()
    }
}

impl Domains {
    fn new(hosts: &[Arc<Host>]) -> Result<Self, (usize, String)> {
        let mut all = Self::default();
        let mut names = HashSet::with_capacity(hosts.len());
        for (place, host) in hosts.iter().enumerate() {
            // As in Envoy, no two hosts of a table have the same name.
            if !names.insert(host.name()) {
                let reason = format!("name: {:?} is another virtual host's too", host.name());
                return Err((place, reason));
            }
            for domain in &host.domains {
                let added = all.add(domain, place);
                added.map_err(|reason| (place, format!("domains: {reason}")))?;
            }
        }
        Ok(all)
    }

    fn add(&mut self, domain: &Arc<str>, host: usize) -> Result<(), String> {
        let starred = (domain.strip_prefix('*'), domain.strip_suffix('*'));
        let taken = match (&**domain, starred) {
            ("*", _) => self.any.replace(host).is_some(),
            (_, (Some(end), None)) if !end.contains('*') => put(&mut self.suffixes, end, host),
            (_, (None, Some(start))) if !start.contains('*') => put(&mut self.prefixes, start, host),
            (name, _) if name.is_empty() || name.contains('*') => {
                return Err(format!(
                    "domain {domain:?} is not supported: use a name, *.suffix, prefix.* or *"
                ));
            }
            _ => self.exact.insert(Arc::clone(domain), host).is_some(),
        };
        if taken {
            return Err(format!("domain {domain} is listed twice"));
        }
        Ok(())
    }

    fn host(&self, name: &str) -> Option<usize> {
        let name = &*lowercase(name);
        let end = |length: usize| name.get(name.len().checked_sub(length)?..);
        let start = |length: usize| name.get(..length);
        let exact = self.exact.get(name).copied();
        exact
            .or_else(|| longest(&self.suffixes, name, end))
            .or_else(|| longest(&self.prefixes, name, start))
            .or(self.any)
    }
}

/// The place of what is said of filters within what is at `outer`.
pub(crate) fn levels_below(levels: &mut Vec<Levels>, outer: usize, said: Overrides) -> usize {
    if said.is_empty() {
        return outer;
    }
    let mut below = vec![Arc::new(said)];
    below.extend_from_slice(&levels[outer]);
    levels.push(below);
    levels.len() - 1
}

fn is_called_the_same(these: &[Arc<Host>], those: &[Arc<Host>]) -> bool {
    let same = |(this, that): (&Arc<Host>, &Arc<Host>)| {
        Arc::ptr_eq(this, that) || (this.name == that.name && this.domains == that.domains)
    };
    these.len() == those.len() && these.iter().zip(those).all(same)
}

/// Whether it was there before.
fn put(affixes: &mut Affixes, text: &str, host: usize) -> bool {
    let of_length = affixes.entry(Reverse(text.len())).or_default();
    of_length.insert(text.into(), host).is_some()
}

/// The host of the longest affix that is a part of the name, which has something besides.
fn longest<'a>(affixes: &Affixes, name: &str, part: impl Fn(usize) -> Option<&'a str>) -> Option<usize> {
    let mut shorter = affixes.range(Reverse(name.len().saturating_sub(1))..);
    shorter.find_map(|(Reverse(length), texts)| texts.get(part(*length)?).copied())
}

/// The path as routes see it and as it is forwarded: dot segments resolved and needlessly escaped characters
/// unescaped, as Envoy's `normalize_path` does; escaped slashes stay as they are. `None` when it is not
/// a path, or a `%` in it escapes nothing, or a NUL.
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
/// escapes a route. `None` when a `%` escapes nothing: with what is unescaped behind it, as in `%2%65`, it would. And with a
/// NUL, at which many who come behind would end the path.
fn unescape_unreserved(path: &str) -> Option<String> {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        let (before, escaped) = (&rest[..at], rest.get(at..at + 3)?);
        // The parser alone would take a sign.
        let is_hex = escaped[1..].bytes().all(|digit| digit.is_ascii_hexdigit());
        let byte = u8::from_str_radix(&escaped[1..], 16).ok();
        let byte = byte.filter(|byte| is_hex && *byte != 0)?;
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
    use http::header::HeaderName;
    use http::{Request, StatusCode};

    use super::*;
    use crate::config::Action;
    use crate::matcher::{Case, HeaderMatcher, Of, PathMatcher, RouteMatcher, StringMatcher, Text, Wanted};

    fn route(path: PathMatcher, headers: Vec<HeaderMatcher>, answer: &'static str) -> Route {
        Route {
            name: Box::default(),
            levels: NO_LEVELS,
            matcher: RouteMatcher {
                path,
                headers,
                query: vec![],
                cookies: vec![],
            },
            edits: Arc::default(),
            action: Action::Respond {
                status: StatusCode::OK,
                body: answer.into(),
                edits: Arc::default(),
            },
        }
    }

    fn prefix(text: &str) -> PathMatcher {
        PathMatcher::Prefix(Text::new(text, Case::Matters))
    }

    fn answer<'a>(
        table: &'a RouteTable,
        authority: &str,
        path: &str,
        request: Request<()>,
    ) -> Option<&'a str> {
        let subject = Subject {
            authority,
            path,
            client: [10, 0, 0, 1].into(),
            direct: [10, 0, 0, 9].into(),
            request: &request.into_parts().0,
        };
        table.route(&subject).map(|route| match &route.action {
            Action::Respond { body, .. } => std::str::from_utf8(body).unwrap(),
            Action::Forward(_) | Action::Redirect(_) => unreachable!(),
        })
    }

    fn table(ports: Ports, hosts: Vec<(Vec<&str>, Vec<Route>)>) -> Result<RouteTable, String> {
        let host = |(place, (domains, routes)): (usize, (Vec<&str>, Vec<Route>))| {
            let domains: Vec<String> = domains.into_iter().map(str::to_owned).collect();
            Arc::new(Host::new(&place.to_string(), &domains, routes, 0..0))
        };
        let hosts = hosts.into_iter().enumerate().map(host).collect();
        RouteTable::new(ports, vec![Levels::new()], hosts, None).map_err(|(_, reason)| reason)
    }

    #[test]
    fn the_most_specific_domain_wins() {
        let hosts = [
            (vec!["*"], "any"),
            (vec!["*.example.com"], "suffix"),
            (vec!["*.shop.example.com"], "longer suffix"),
            (vec!["reviews.shop.example.com", "reviews"], "exact"),
            (vec!["reviews.*"], "prefix"),
            (vec!["reviews.shop-*"], "longer prefix"),
        ];
        let hosts = hosts.map(|(domains, name)| (domains, vec![route(prefix("/"), vec![], name)]));
        let table = table(Ports::Ignored, hosts.into()).unwrap();
        let cases = [
            ("reviews", "exact"),
            ("REVIEWS:8080", "exact"),
            ("reviews.shop.example.com", "exact"),
            ("ratings.shop.example.com:80", "longer suffix"),
            ("shop.example.com", "suffix"),
            ("example.com", "any"),
            (".example.com", "any"),
            ("reviews.example.com", "suffix"),
            ("Reviews.example.org", "prefix"),
            ("reviews.shop-2.example.org", "longer prefix"),
            ("reviews.", "any"),
            ("", "any"),
            ("\u{e9}.example.com", "suffix"),
            ("reviews.\u{e9}", "prefix"),
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
        let domains = ["web.shop:8080", "web.shop"];
        for (ports, with_port, with_other) in [
            (Ports::Ignored, Some("second"), Some("second")),
            (Ports::Matter, Some("first"), None),
        ] {
            let host = |(domain, name)| (vec![domain], vec![route(prefix("/"), vec![], name)]);
            let hosts = domains.into_iter().zip(["first", "second"]).map(host);
            let table = table(ports, hosts.collect()).unwrap();
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
        let cases: [(&[&str], &str); 7] = [
            (&["a", "A"], "domain a is listed twice"),
            (&["*", "*"], "domain * is listed twice"),
            (&["*.a", "*.a"], "domain *.a is listed twice"),
            (&["a.*", "A.*"], "domain a.* is listed twice"),
            (
                &["a*b"],
                "domain \"a*b\" is not supported: use a name, *.suffix, prefix.* or *",
            ),
            (
                &["*a*"],
                "domain \"*a*\" is not supported: use a name, *.suffix, prefix.* or *",
            ),
            (
                &["**"],
                "domain \"**\" is not supported: use a name, *.suffix, prefix.* or *",
            ),
        ];
        for (domains, expected) in cases {
            let refused = table(Ports::Ignored, vec![(domains.to_vec(), vec![])]);
            assert_eq!(refused, Err(format!("domains: {expected}")));
        }
    }

    #[test]
    fn the_first_route_that_matches_wins() {
        let user = |wanted| HeaderMatcher {
            of: Of::Header(HeaderName::from_static("x-user")),
            wanted,
            inverted: false,
            missing_is_empty: false,
        };
        let text = |path: &str| Text::new(path, Case::Matters);
        let anna = Wanted::Text(StringMatcher::exact("anna"));
        let routes = vec![
            route(PathMatcher::Exact(text("/exact")), vec![], "exact"),
            route(PathMatcher::Segments(text("/seg")), vec![], "segments"),
            route(prefix("/"), vec![user(anna)], "anna"),
            route(prefix("/m"), vec![user(Wanted::Present(false))], "no user"),
            route(prefix("/"), vec![user(Wanted::Present(true))], "some user"),
        ];
        let table = table(Ports::Ignored, vec![(vec!["*"], routes)]).unwrap();
        for (path, users, expected) in [
            ("/exact", &[][..], Some("exact")),
            ("/exact/", &[], None),
            ("/seg", &["anna"], Some("segments")),
            ("/seg/a", &[], Some("segments")),
            ("/segment", &[], None),
            ("/x", &["anna"], Some("anna")),
            ("/x", &["bert"], Some("some user")),
            ("/x", &["bert", "anna"], Some("anna")),
            ("/m", &[], Some("no user")),
            ("/m", &["bert"], Some("some user")),
        ] {
            let request = users
                .iter()
                .fold(Request::get("/"), |request, user| request.header("x-user", *user));
            let request = request.body(()).unwrap();
            assert_eq!(answer(&table, "any", path, request), expected, "{path} {users:?}");
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
            ("/a%00", None),
            ("/a%2500", Some("/a%2500")),
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
