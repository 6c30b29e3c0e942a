//! `envoy.filters.http.cors`: which pages of other origins a browser lets read the answers. As in Envoy it concerns requests that
//! are forwarded, not those that a route answers itself, and a preflight of an origin that may not read is forwarded.

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, HeaderName, ORIGIN,
};
use http::{HeaderValue, Method, StatusCode};

use super::{Answer, Verdict};
use crate::exchange::Flag;
use crate::matcher::{RequestView, StringMatcher};

/// What is `None` is not said.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Cors {
    /// Those that may read.
    pub(crate) origins: Vec<StringMatcher>,
    pub(crate) methods: Option<HeaderValue>,
    pub(crate) headers: Option<HeaderValue>,
    pub(crate) exposed: Option<HeaderValue>,
    pub(crate) max_age: Option<HeaderValue>,
    pub(crate) credentials: bool,
}

impl Cors {
    pub(super) fn judge(&self, request: &impl RequestView, verdict: &mut Verdict) {
        let mut lines = request.lines(&ORIGIN);
        // Two origins are none: no browser sends them.
        let (Some(origin), None) = (lines.next(), lines.next()) else {
            return;
        };
        if origin.is_empty() || !self.origins.iter().any(|allowed| allowed.matches(origin)) {
            return;
        }
        let Ok(origin) = HeaderValue::from_bytes(origin) else {
            return;
        };
        let credentials = self.credentials.then(|| HeaderValue::from_static("true"));
        let mut said = vec![
            (ACCESS_CONTROL_ALLOW_ORIGIN, Some(origin)),
            (ACCESS_CONTROL_ALLOW_CREDENTIALS, credentials),
            (ACCESS_CONTROL_EXPOSE_HEADERS, self.exposed.clone()),
        ];
        let mut asked = request.lines(&ACCESS_CONTROL_REQUEST_METHOD);
        if *request.method() == Method::OPTIONS && asked.any(|method| !method.is_empty()) {
            let methods = or_asked(self.methods.as_ref(), request, &ACCESS_CONTROL_REQUEST_METHOD);
            let headers = or_asked(self.headers.as_ref(), request, &ACCESS_CONTROL_REQUEST_HEADERS);
            said.extend([
                (ACCESS_CONTROL_ALLOW_METHODS, methods),
                (ACCESS_CONTROL_ALLOW_HEADERS, headers),
                (ACCESS_CONTROL_MAX_AGE, self.max_age.clone()),
            ]);
            verdict.answer = Some(Answer {
                status: StatusCode::OK,
                code: None,
                flag: Flag::None,
                body: Bytes::new(),
            });
        }
        let said = said.into_iter().filter_map(|(name, value)| Some((name, value?)));
        verdict.response.set.extend(said);
    }
}

/// `*` allows what the page asks for, as in Envoy: to a browser that sends credentials a star would be a name.
fn or_asked(
    allowed: Option<&HeaderValue>,
    request: &impl RequestView,
    asked: &HeaderName,
) -> Option<HeaderValue> {
    if allowed.is_some_and(|allowed| allowed == "*") {
        let lines: Vec<&[u8]> = request.lines(asked).collect();
        return HeaderValue::from_bytes(&lines.join(&b","[..]))
            .ok()
            .filter(|asked| !asked.is_empty());
    }
    allowed.cloned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http::Request;

    use super::*;
    use crate::pattern::Pattern;

    const PREFLIGHT: (&str, &str) = ("access-control-request-method", "POST");
    const ALLOWED: (&str, &str) = ("origin", "https://a.example");

    #[test]
    fn pages_of_some_origins_may_read() {
        let value = |text| Some(HeaderValue::from_static(text));
        let policy = Cors {
            origins: vec![
                StringMatcher::exact("https://a.example"),
                StringMatcher::Regex(Pattern::new(r"https://[a-z]+\.b\.example").unwrap()),
            ],
            methods: value("GET,POST"),
            headers: value("x-a"),
            exposed: value("x-b"),
            max_age: value("600"),
            credentials: true,
        };
        let read = "allow-origin allow-credentials expose-headers";
        let answered = "allow-origin allow-credentials expose-headers allow-methods allow-headers max-age";
        for (method, lines, expected) in [
            ("GET", &[][..], (false, "")),
            ("GET", &[ALLOWED], (false, read)),
            ("GET", &[("origin", "https://x.b.example")], (false, read)),
            ("GET", &[("origin", "https://x.b.example.c")], (false, "")),
            ("GET", &[("origin", "HTTPS://A.example")], (false, "")),
            ("GET", &[("origin", "")], (false, "")),
            ("GET", &[ALLOWED, ALLOWED], (false, "")),
            ("GET", &[ALLOWED, PREFLIGHT], (false, read)),
            ("OPTIONS", &[ALLOWED], (false, read)),
            (
                "OPTIONS",
                &[ALLOWED, ("access-control-request-method", "")],
                (false, read),
            ),
            ("OPTIONS", &[ALLOWED, PREFLIGHT], (true, answered)),
            ("OPTIONS", &[("origin", "https://other"), PREFLIGHT], (false, "")),
            ("OPTIONS", &[PREFLIGHT], (false, "")),
        ] {
            let request = Request::builder().method(method);
            let request = lines
                .iter()
                .fold(request, |request, (name, value)| request.header(*name, *value));
            let mut verdict = Verdict::default();
            policy.judge(&request.body(()).unwrap().into_parts().0, &mut verdict);
            let said = verdict
                .response
                .set
                .iter()
                .map(|(name, _)| name.as_str().strip_prefix("access-control-").unwrap());
            let found = said.collect::<Vec<_>>().join(" ");
            assert_eq!(
                (verdict.answer.is_some(), &*found),
                expected,
                "{method} {lines:?}"
            );
        }
    }

    #[test]
    fn a_star_is_what_the_page_asks_for() {
        let policy = Cors {
            origins: vec![StringMatcher::exact("https://a.example")],
            methods: Some(HeaderValue::from_static("*")),
            headers: Some(HeaderValue::from_static("*")),
            ..Cors::default()
        };
        let request = Request::options("/")
            .header(ALLOWED.0, ALLOWED.1)
            .header(PREFLIGHT.0, PREFLIGHT.1)
            .header("access-control-request-headers", "x-a,x-b");
        let mut verdict = Verdict::default();
        policy.judge(&request.body(()).unwrap().into_parts().0, &mut verdict);
        let said = verdict
            .response
            .set
            .iter()
            .map(|(_, value)| value.to_str().unwrap());
        assert_eq!(said.collect::<Vec<_>>(), [ALLOWED.1, "POST", "x-a,x-b"]);
    }

    #[test]
    fn what_is_not_said_is_left_out() {
        let policy = Cors {
            origins: vec![StringMatcher::exact("https://a.example")],
            ..Cors::default()
        };
        let request = Request::options("/")
            .header(ALLOWED.0, ALLOWED.1)
            .header(PREFLIGHT.0, PREFLIGHT.1);
        let mut verdict = Verdict::default();
        policy.judge(&request.body(()).unwrap().into_parts().0, &mut verdict);
        let origin = HeaderValue::from_static(ALLOWED.1);
        assert_eq!(verdict.response.set, [(ACCESS_CONTROL_ALLOW_ORIGIN, origin)]);
        assert!(verdict.answer.is_some());
    }
}
