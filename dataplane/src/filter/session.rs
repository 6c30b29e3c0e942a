//! `envoy.filters.http.stateful_session`: requests of a session go to the host that answered the first of them, whose address the
//! client carries. It is taken for what it is, the client's word: it chooses among the hosts of the cluster, and leads nowhere else.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use http::header::{COOKIE, HeaderMap, HeaderName, HeaderValue, SET_COOKIE};
use prost::Message;

use super::Verdict;
use crate::hash::MadeCookie;
use crate::matcher::{RequestView, Subject, first_cookie};

/// More than an address and a time take in base64.
const VALUE_BYTES_MAX: usize = 256;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StatefulSession {
    pub(crate) carrier: Carrier,
    /// What a request is answered whose host is not one of the cluster's, where it may go to no other.
    pub(crate) strict: Option<StatusCode>,
}

/// In what a client carries the address.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Carrier {
    Cookie { name: Box<str>, made: MadeCookie },
    Header(HeaderName),
}

/// A request of a session.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Session {
    of: Arc<StatefulSession>,
    pub(crate) wanted: Wanted,
}

/// Where a request wants to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Anywhere,
    Host(SocketAddr),
    /// What it says is no address.
    Nowhere,
}

/// Envoy's `envoy.Cookie`.
#[derive(Clone, PartialEq, Message)]
struct Cookie {
    #[prost(string, tag = "1")]
    address: String,
    /// In seconds of Unix time; 0 for never.
    #[prost(uint64, tag = "2")]
    expires: u64,
}

impl StatefulSession {
    pub(super) fn judge(self: &Arc<Self>, subject: &Subject<'_, impl RequestView>, verdict: &mut Verdict) {
        let wanted = match &self.carrier {
            Carrier::Header(name) => subject
                .request
                .lines(name)
                .next()
                .map_or(Wanted::Anywhere, of_header),
            Carrier::Cookie { made, .. } if !is_below(subject.path, &made.path) => return,
            Carrier::Cookie { name, .. } => {
                let given = first_cookie(subject.request.lines(&COOKIE), name);
                given.map_or(Wanted::Anywhere, |value| of_cookie(value, unix_s()))
            }
        };
        verdict.session = Some(Box::new(Session {
            of: Arc::clone(self),
            wanted,
        }));
    }
}

impl Session {
    /// What a request is answered that may go to no other host, where there is none such.
    pub(crate) fn strict(&self) -> Option<StatusCode> {
        self.of.strict
    }

    /// Tells the client which host has answered, if that is news to it.
    pub(crate) fn tell(&self, host: SocketAddr, headers: &mut HeaderMap) {
        if self.wanted == Wanted::Host(host) {
            return;
        }
        match &self.of.carrier {
            Carrier::Header(name) => {
                let value = HeaderValue::try_from(STANDARD.encode(host.to_string()));
                headers.extend(value.ok().map(|value| (Some(name.clone()), value)));
            }
            Carrier::Cookie { name, made } => {
                let value = cookie(host, made.ttl.map(|ttl| unix_s() + ttl.as_secs()));
                if let Some(line) = made.line(name, &value) {
                    headers.append(SET_COOKIE, line);
                }
            }
        }
    }
}

/// Whether a cookie of `cookie_path` is one of a request for `path`.
fn is_below(path: &str, cookie_path: &str) -> bool {
    match path.strip_prefix(cookie_path) {
        None => false,
        Some(rest) => {
            matches!(cookie_path, "" | "/")
                || cookie_path.ends_with('/')
                || rest.is_empty()
                || rest.starts_with('/')
        }
    }
}

/// What a header says, which is the address. As in Envoy, what is not base64 says nothing.
fn of_header(value: &[u8]) -> Wanted {
    decoded(value).map_or_else(|nothing| nothing, |address| parsed(&address))
}

/// What a cookie says: an `envoy.Cookie`, or, as Envoys wrote it once, the address alone. What has expired says nothing.
fn of_cookie(value: &[u8], now_unix_s: u64) -> Wanted {
    let bytes = match decoded(value) {
        Ok(bytes) => bytes,
        Err(nothing) => return nothing,
    };
    match Cookie::decode(&bytes[..]) {
        Err(_) => parsed(&bytes),
        Ok(Cookie { address, .. }) if address.is_empty() => Wanted::Anywhere,
        Ok(Cookie { expires, .. }) if expires != 0 && expires < now_unix_s => Wanted::Anywhere,
        Ok(Cookie { address, .. }) => parsed(address.as_bytes()),
    }
}

fn cookie(host: SocketAddr, expires_unix_s: Option<u64>) -> String {
    let cookie = Cookie {
        address: host.to_string(),
        expires: expires_unix_s.unwrap_or(0),
    };
    STANDARD.encode(cookie.encode_to_vec())
}

/// What there is of it, if it is anything; what is too long is no address.
fn decoded(value: &[u8]) -> Result<Vec<u8>, Wanted> {
    if value.len() > VALUE_BYTES_MAX {
        return Err(Wanted::Nowhere);
    }
    let bytes = STANDARD.decode(value).ok().filter(|bytes| !bytes.is_empty());
    bytes.ok_or(Wanted::Anywhere)
}

fn parsed(address: &[u8]) -> Wanted {
    let text = std::str::from_utf8(address).ok();
    text.and_then(|text| text.parse().ok())
        .map_or(Wanted::Nowhere, Wanted::Host)
}

fn unix_s() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn host(port: u16) -> SocketAddr {
        ([127, 0, 77, 1], port).into()
    }

    /// What Envoy 1.40 wrote and made of what it was sent.
    #[test]
    fn cookies_are_envoys() {
        assert_eq!(cookie(host(8103), None), "Cg8xMjcuMC43Ny4xOjgxMDM=");
        assert_eq!(
            cookie(host(8101), Some(1_795_408_008)),
            "Cg8xMjcuMC43Ny4xOjgxMDEQiIGP2AY="
        );
        let raw = |text: &str| STANDARD.encode(text);
        let long = "A".repeat(VALUE_BYTES_MAX + 4);
        for (value, expected) in [
            ("Cg8xMjcuMC43Ny4xOjgxMDM=", Wanted::Host(host(8103))),
            ("Cg8xMjcuMC43Ny4xOjgxMDEQiIGP2AY=", Wanted::Host(host(8101))),
            (&cookie(host(8101), Some(1_700_000_000)), Wanted::Host(host(8101))),
            (&cookie(host(8101), Some(1_699_999_999)), Wanted::Anywhere),
            (&raw("127.0.77.1:8102"), Wanted::Host(host(8102))),
            (
                &cookie("[::1]:80".parse().unwrap(), None),
                Wanted::Host("[::1]:80".parse().unwrap()),
            ),
            (&raw("rubbish"), Wanted::Nowhere),
            (&cookie(host(0), None), Wanted::Host(host(0))),
            (&long, Wanted::Nowhere),
            ("", Wanted::Anywhere),
            ("xx", Wanted::Anywhere),
            ("%%%", Wanted::Anywhere),
            ("Cg8xMjcuMC43Ny4xOjgxMDI", Wanted::Anywhere),
        ] {
            assert_eq!(of_cookie(value.as_bytes(), 1_700_000_000), expected, "{value:?}");
        }
    }

    #[test]
    fn headers_are_envoys() {
        for (value, expected) in [
            ("MTI3LjAuNzcuMTo4MTAy", Wanted::Host(host(8102))),
            ("rubb", Wanted::Nowhere),
            ("%%%", Wanted::Anywhere),
            ("MTI3LjAuNzcuMTo4MTAy,x", Wanted::Anywhere),
            ("", Wanted::Anywhere),
        ] {
            assert_eq!(of_header(value.as_bytes()), expected, "{value:?}");
        }
    }

    #[test]
    fn a_cookie_is_of_what_is_below_its_path() {
        for (path, cookie_path, expected) in [
            ("/a", "", true),
            ("/a", "/", true),
            ("/a", "/a", true),
            ("/a/b", "/a", true),
            ("/ab", "/a", false),
            ("/a", "/a/", false),
            ("/a/", "/a/", true),
            ("/a/b", "/a/", true),
            ("/b", "/a", false),
        ] {
            assert_eq!(is_below(path, cookie_path), expected, "{path} {cookie_path}");
        }
    }

    #[test]
    fn a_client_is_told_what_is_news_to_it() {
        let told = |carrier: &Carrier, wanted| {
            let session = Session {
                of: Arc::new(StatefulSession {
                    carrier: carrier.clone(),
                    strict: None,
                }),
                wanted,
            };
            let mut headers = HeaderMap::new();
            headers.insert("x-s", HeaderValue::from_static("the host's"));
            headers.insert(SET_COOKIE, HeaderValue::from_static("the=host's"));
            session.tell(host(8102), &mut headers);
            let lines = headers.get_all(SET_COOKIE).iter();
            let lines: Vec<String> = lines.map(|line| line.to_str().unwrap().to_owned()).collect();
            (headers["x-s"].to_str().unwrap().to_owned(), lines)
        };
        let header = Carrier::Header(HeaderName::from_static("x-s"));
        let cookie = |ttl_s: Option<u64>| Carrier::Cookie {
            name: "s".into(),
            made: MadeCookie {
                ttl: ttl_s.map(Duration::from_secs),
                path: "/p".into(),
            },
        };
        for wanted in [Wanted::Anywhere, Wanted::Nowhere, Wanted::Host(host(8101))] {
            assert_eq!(told(&header, wanted).0, "MTI3LjAuNzcuMTo4MTAy", "{wanted:?}");
            let (untouched, lines) = told(&cookie(None), wanted);
            assert_eq!(untouched, "the host's");
            let expected = "s=\"Cg8xMjcuMC43Ny4xOjgxMDI=\"; Path=/p; HttpOnly";
            assert_eq!(lines, ["the=host's", expected], "{wanted:?}");
            let lasting = told(&cookie(Some(60)), wanted).1;
            assert!(
                lasting[1].ends_with("\"; Max-Age=60; Path=/p; HttpOnly"),
                "{lasting:?}"
            );
        }
        for carrier in [header, cookie(None)] {
            let told = told(&carrier, Wanted::Host(host(8102)));
            assert_eq!(told, ("the host's".to_owned(), vec!["the=host's".to_owned()]));
        }
    }
}
