//! What browsers are told and what they tell: the origin that they know management by, cookies, and whether a request
//! comes from a page of ours.

use std::fmt;
use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use chrono::TimeDelta;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// Where one goes who came from nowhere.
pub(crate) const HOME: &str = "/auth/login";
/// Of a path to come back to.
const PATH_BYTES_MAX: usize = 2000;

/// Where management is, for browsers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Site {
    /// As it is configured; else what each request asks for.
    public: Option<Origin>,
}

/// `http://127.0.0.1:8080`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    scheme: String,
    authority: String,
}

/// A cookie of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cookie {
    Session,
    /// Of a login that is under way at the provider.
    Attempt,
}

impl Site {
    pub(crate) fn new(public_url: Option<&Uri>) -> Site {
        let public = public_url.and_then(|url| {
            Some(Origin {
                scheme: url.scheme_str()?.to_owned(),
                authority: url.authority()?.as_str().to_owned(),
            })
        });
        Site { public }
    }

    /// The origin that a request was sent to.
    pub(crate) fn origin(&self, headers: &HeaderMap) -> Origin {
        self.public.clone().unwrap_or_else(|| Origin {
            scheme: "http".to_owned(),
            authority: text(headers, &header::HOST).unwrap_or("localhost").to_owned(),
        })
    }
}

impl Origin {
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{self}{path}")
    }

    /// Whether a page of this origin sent the request. A browser tells it with every write; what tells nothing is no
    /// browser, and has no business with a cookie.
    pub(crate) fn sent(&self, headers: &HeaderMap) -> bool {
        match text(headers, &SEC_FETCH_SITE) {
            Some(site) => site == "same-origin",
            None => text(headers, &header::ORIGIN) == Some(self.to_string().as_str()),
        }
    }

    /// What the cookie holds.
    pub(crate) fn read<'a>(&self, headers: &'a HeaderMap, cookie: Cookie) -> Option<&'a str> {
        let name = self.name(cookie);
        let lines = headers.get_all(header::COOKIE).into_iter();
        let pairs = lines
            .filter_map(|line| line.to_str().ok())
            .flat_map(|line| line.split(';'));
        let mut pairs = pairs.filter_map(|pair| pair.trim().split_once('='));
        pairs.find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    /// The header that sets it.
    pub(crate) fn set(&self, cookie: Cookie, value: &str, lifetime: TimeDelta) -> HeaderValue {
        let secure = if self.is_secure() { "; Secure" } else { "" };
        let name = self.name(cookie);
        let seconds = lifetime.num_seconds();
        let text = format!("{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}");
        HeaderValue::try_from(text).expect("invariant: a cookie of ours is base64")
    }

    pub(crate) fn clear(&self, cookie: Cookie) -> HeaderValue {
        self.set(cookie, "", TimeDelta::zero())
    }

    /// On the loopback interface there is nobody to listen, and no certificate.
    fn is_secure(&self) -> bool {
        self.scheme == "https" || !is_loopback(&self.authority)
    }

    /// Browsers take a name that begins with `__Host-` from this very host only, and only with TLS.
    fn name(&self, cookie: Cookie) -> String {
        let name = match cookie {
            Cookie::Session => "tombolo-session",
            Cookie::Attempt => "tombolo-login",
        };
        match self.is_secure() {
            true => format!("__Host-{name}"),
            false => name.to_owned(),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.authority)
    }
}

/// The path of ours that a login comes back to: never another site's address.
pub(crate) fn return_path(given: Option<&str>) -> &str {
    let ours = |path: &&str| {
        path.starts_with('/')
            && !path.starts_with("//")
            && path.len() <= PATH_BYTES_MAX
            && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\')
    };
    given.filter(ours).unwrap_or(HOME)
}

/// Of a host, with or without its port.
pub(crate) fn is_loopback(authority: &str) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    let address: Option<IpAddr> = host.trim_start_matches('[').trim_end_matches(']').parse().ok();
    host == "localhost" || address.is_some_and(|address| address.is_loopback())
}

/// Whether the request says where it comes from, as browsers do with every write.
pub(crate) fn is_told(headers: &HeaderMap) -> bool {
    headers.contains_key(SEC_FETCH_SITE) || headers.contains_key(header::ORIGIN)
}

pub(crate) fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| {
            let name: HeaderName = name.parse().unwrap();
            (name, HeaderValue::from_str(value).unwrap())
        });
        pairs.collect()
    }

    fn origin(url: &str) -> Origin {
        let url: Uri = url.parse().unwrap();
        Site::new(Some(&url)).origin(&HeaderMap::new())
    }

    #[test]
    fn a_write_comes_from_a_page_of_ours_or_is_refused() {
        let ours = origin("https://mesh.example.com");
        let cases: [(&[(&str, &str)], bool); 8] = [
            (&[("sec-fetch-site", "same-origin")], true),
            (&[("sec-fetch-site", "same-site")], false),
            (&[("sec-fetch-site", "cross-site")], false),
            (&[("sec-fetch-site", "none")], false),
            (
                &[
                    ("sec-fetch-site", "cross-site"),
                    ("origin", "https://mesh.example.com"),
                ],
                false,
            ),
            (&[("origin", "https://mesh.example.com")], true),
            (&[("origin", "https://evil.example.com")], false),
            (&[], false),
        ];
        for (given, sent) in cases {
            assert_eq!(ours.sent(&headers(given)), sent, "{given:?}");
        }
    }

    #[test]
    fn cookies_are_secure_but_on_loopback() {
        for (url, cookie) in [
            (
                "https://mesh.example.com/",
                "__Host-tombolo-session=x; Path=/; Max-Age=60; HttpOnly; SameSite=Lax; Secure",
            ),
            (
                "http://mesh.example.com",
                "__Host-tombolo-session=x; Path=/; Max-Age=60; HttpOnly; SameSite=Lax; Secure",
            ),
            (
                "http://127.0.0.1:8080",
                "tombolo-session=x; Path=/; Max-Age=60; HttpOnly; SameSite=Lax",
            ),
            (
                "http://localhost:8080",
                "tombolo-session=x; Path=/; Max-Age=60; HttpOnly; SameSite=Lax",
            ),
            (
                "http://[::1]:8080",
                "tombolo-session=x; Path=/; Max-Age=60; HttpOnly; SameSite=Lax",
            ),
        ] {
            assert_eq!(
                origin(url).set(Cookie::Session, "x", TimeDelta::minutes(1)),
                cookie
            );
        }
    }

    #[test]
    fn a_cookie_is_found_among_others_and_by_its_own_name_only() {
        let loopback = origin("http://127.0.0.1:8080");
        let secure = origin("https://mesh.example.com");
        let sent = headers(&[
            ("cookie", "a=b; tombolo-session=one;c=d"),
            ("cookie", "__Host-tombolo-session=two"),
        ]);
        assert_eq!(loopback.read(&sent, Cookie::Session), Some("one"));
        assert_eq!(secure.read(&sent, Cookie::Session), Some("two"));
        assert_eq!(loopback.read(&sent, Cookie::Attempt), None);
    }

    #[test]
    fn without_a_public_url_the_origin_is_what_was_asked_for() {
        let site = Site::new(None);
        let asked = headers(&[("host", "127.0.0.1:9")]);
        assert_eq!(site.origin(&asked).url("/x"), "http://127.0.0.1:9/x");
    }

    #[test]
    fn one_comes_back_to_a_path_of_ours() {
        for (given, path) in [
            (Some("/auth/device?code=A"), "/auth/device?code=A"),
            (Some("https://evil.example.com"), HOME),
            (Some("//evil.example.com"), HOME),
            (Some("/\\evil.example.com"), HOME),
            (Some("/a b"), HOME),
            (Some(""), HOME),
            (None, HOME),
        ] {
            assert_eq!(return_path(given), path, "{given:?}");
        }
    }
}
