//! What requests that belong together have in common: the key of a route's `hash_policy`, by which some balancers choose. Pure
//! functions over the request.

use std::time::Duration;

use http::header::{COOKIE, HeaderName, HeaderValue};

use crate::balance::xxh64;
use crate::matcher::{RequestView, Subject, first_cookie, first_parameter};

/// One part of a key.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HashPolicy {
    pub(crate) of: Of,
    /// Nothing after it counts if there is a key by then.
    pub(crate) is_terminal: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Of {
    Authority,
    Header(HeaderName),
    Cookie(CookieHash),
    /// Of the query.
    Parameter(Box<str>),
    SourceIp,
}

/// A cookie, which clients that have none are given if it has a time to live.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CookieHash {
    pub(crate) name: Box<str>,
    pub(crate) made: Option<MadeCookie>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MadeCookie {
    /// None for as long as the browser runs.
    pub(crate) ttl: Option<Duration>,
    pub(crate) path: Box<str>,
}

/// A key, and the cookies that the client is given for it.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Hashed {
    pub(crate) key: Option<u64>,
    pub(crate) cookies: Vec<HeaderValue>,
}

/// The key of a request, with new cookies of whatever `draw` says.
pub(crate) fn hashed(
    policies: &[HashPolicy],
    subject: &Subject<'_, impl RequestView>,
    draw: impl Fn() -> u64,
) -> Hashed {
    let mut hashed = Hashed::default();
    for policy in policies {
        let part = match &policy.of {
            Of::Authority => Some(xxh64(subject.authority.as_bytes(), 0)),
            Of::Header(name) => lines(&subject.request, name),
            Of::Parameter(name) => {
                let query = subject.request.query().unwrap_or_default();
                first_parameter(query, name).map(|value| xxh64(value.as_bytes(), 0))
            }
            Of::SourceIp => Some(xxh64(subject.client.address.to_string().as_bytes(), 0)),
            Of::Cookie(CookieHash { name, made }) => {
                let given = first_cookie(subject.request.lines(&COOKIE), name);
                match (given.filter(|value| !value.is_empty()), made) {
                    (Some(value), _) => Some(xxh64(value, 0)),
                    (None, None) => None,
                    (None, Some(made)) => {
                        let value = format!("{:016x}", draw());
                        hashed.cookies.extend(made.line(name, &value));
                        Some(xxh64(value.as_bytes(), 0))
                    }
                }
            }
        };
        if let Some(part) = part {
            // Turned, so that two equal parts do not make none.
            hashed.key = Some(hashed.key.unwrap_or(0).rotate_left(1) ^ part);
        }
        if policy.is_terminal && hashed.key.is_some() {
            break;
        }
    }
    hashed
}

/// All values of a header, in whatever order they came.
fn lines(request: &impl RequestView, name: &HeaderName) -> Option<u64> {
    let mut lines = request.lines(name);
    let first = lines.next()?;
    let Some(second) = lines.next() else {
        return Some(xxh64(first, 0));
    };
    let mut all: Vec<&[u8]> = [first, second].into_iter().chain(lines).collect();
    all.sort_unstable();
    Some(all.into_iter().fold(0, |seed, line| xxh64(line, seed)))
}

impl MadeCookie {
    /// A `set-cookie`, as Envoy writes it.
    pub(crate) fn line(&self, name: &str, value: &str) -> Option<HeaderValue> {
        let age = self.ttl.map(|ttl| format!("; Max-Age={}", ttl.as_secs()));
        let path = Some(&self.path).filter(|path| !path.is_empty());
        let path = path.map(|path| format!("; Path={path}"));
        let (age, path) = (age.unwrap_or_default(), path.unwrap_or_default());
        HeaderValue::try_from(format!("{name}=\"{value}\"{age}{path}; HttpOnly")).ok()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn policy(of: Of) -> HashPolicy {
        HashPolicy {
            of,
            is_terminal: false,
        }
    }

    fn header(name: &'static str) -> HashPolicy {
        policy(Of::Header(HeaderName::from_static(name)))
    }

    fn of(policies: &[HashPolicy], uri: &str, lines: &[(&str, &str)]) -> Hashed {
        let request = http::Request::get(uri);
        let request = lines
            .iter()
            .fold(request, |request, (name, value)| request.header(*name, *value));
        let subject = Subject {
            authority: "a",
            path: "/",
            client: [10, 0, 0, 1].into(),
            direct: [10, 0, 0, 9].into(),
            request: &request.body(()).unwrap().into_parts().0,
        };
        hashed(policies, &subject, || 0xfeed)
    }

    fn text(text: &str) -> Option<u64> {
        Some(xxh64(text.as_bytes(), 0))
    }

    #[test]
    fn a_key_is_made_of_what_there_is() {
        let cookie = || {
            policy(Of::Cookie(CookieHash {
                name: "c".into(),
                made: None,
            }))
        };
        let two = [header("k"), header("l")];
        let both = Some(text("a").unwrap().rotate_left(1) ^ text("b").unwrap());
        for (policies, uri, lines, expected) in [
            (&[][..], "/?q=1", &[("k", "a")][..], None),
            (&[header("k")], "/", &[], None),
            (&[policy(Of::Authority)], "/", &[], text("a")),
            (&[header("k")], "/", &[("k", "a")], text("a")),
            (&[header("k")], "/", &[("k", "")], text("")),
            (&two, "/", &[("k", "a"), ("l", "b")], both),
            (&two, "/", &[("l", "b")], text("b")),
            (&[cookie()], "/", &[("cookie", "d=1; c=a; c=b")], text("a")),
            (&[cookie()], "/", &[("cookie", "c=")], None),
            (
                &[policy(Of::Parameter("q".into()))],
                "/?p=b&q=a&q=b",
                &[],
                text("a"),
            ),
            (&[policy(Of::Parameter("q".into()))], "/?p=b", &[], None),
            (&[policy(Of::SourceIp)], "/", &[], text("10.0.0.1")),
        ] {
            assert_eq!(
                of(policies, uri, lines).key,
                expected,
                "{policies:?} {uri} {lines:?}"
            );
        }
        let one_way = of(&[header("k")], "/", &[("k", "a"), ("k", "b")]).key;
        assert_eq!(one_way, of(&[header("k")], "/", &[("k", "b"), ("k", "a")]).key);
        assert_ne!(one_way, text("a"));
    }

    #[test]
    fn a_terminal_part_is_the_last_if_there_is_one() {
        let mut policies = [header("k"), header("l")];
        policies[0].is_terminal = true;
        let lines = [("k", "a"), ("l", "b")];
        assert_eq!(of(&policies, "/", &lines).key, text("a"));
        assert_eq!(of(&policies, "/", &lines[1..]).key, text("b"));
    }

    #[test]
    fn clients_without_a_cookie_are_given_one() {
        for (ttl_s, path, line) in [
            (
                Some(60),
                "/p",
                "c=\"000000000000feed\"; Max-Age=60; Path=/p; HttpOnly",
            ),
            (None, "", "c=\"000000000000feed\"; HttpOnly"),
        ] {
            let made = MadeCookie {
                ttl: ttl_s.map(Duration::from_secs),
                path: path.into(),
            };
            let cookie = CookieHash {
                name: "c".into(),
                made: Some(made),
            };
            let policies = [policy(Of::Cookie(cookie))];
            let hashed = of(&policies, "/", &[]);
            assert_eq!(hashed.cookies, [line]);
            assert_eq!(
                hashed.key,
                text("000000000000feed"),
                "it comes back to the same host"
            );
            let known = of(&policies, "/", &[("cookie", "c=x")]);
            assert_eq!((known.key, known.cookies.len()), (text("x"), 0));
        }
    }
}
