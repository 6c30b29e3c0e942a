//! What a service is told, and what its answers mean.

use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{HeaderValue as PbHeaderValue, HeaderValueOption};
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use envoy_types::pb::google::rpc::Status;
use http::Request;

use super::*;
use crate::matcher::{Case as Letters, Text};

fn authz(on_error: OnError, body: Option<Shown>) -> ExtAuthz {
    ExtAuthz {
        service: Arc::new(Authorizer {
            callee: Callee {
                cluster: "authz".into(),
                authority: "authz".parse().unwrap(),
                timeout: Duration::from_millis(200),
                headers: Vec::new(),
            },
            on_error,
            body,
            allowed: None,
            disallowed: Vec::new(),
        }),
        settings: None,
    }
}

fn deny() -> ExtAuthz {
    authz(OnError::Answer(StatusCode::BAD_GATEWAY), None)
}

fn http_of(authz: &ExtAuthz, request: Request<()>, body: Option<Begin>) -> HttpRequest {
    let head = request.into_parts().0;
    let checked = authz.request(Case {
        source: "10.0.0.1:1234".parse().unwrap(),
        principal: "spiffe://acme/web",
        destination: "10.0.0.2:80".parse().unwrap(),
        came: SystemTime::UNIX_EPOCH + Duration::new(5, 6),
        head: &head,
        scheme: "http",
        authority: "shop",
        target: "/a?b=c",
        is_bodiless: false,
        body,
    });
    let attributes = checked.attributes.unwrap();
    assert_eq!(attributes.source.as_ref().unwrap().principal, "spiffe://acme/web");
    let address = |peer: Option<Peer>| match peer.unwrap().address.unwrap().address.unwrap() {
        PbAddressKind::SocketAddress(socket) => (socket.address, socket.port_specifier),
        other => panic!("{other:?}"),
    };
    let of = |ip: &str, port| (ip.to_owned(), Some(PortSpecifier::PortValue(port)));
    assert_eq!(address(attributes.source), of("10.0.0.1", 1234));
    assert_eq!(address(attributes.destination), of("10.0.0.2", 80));
    let request = attributes.request.unwrap();
    assert_eq!(request.time, Some(Timestamp { seconds: 5, nanos: 6 }));
    request.http.unwrap()
}

fn request(lines: &[(&'static str, &'static [u8])]) -> Request<()> {
    let request = Request::post("/a?b=c").header("host", "shop");
    let value = |value| HeaderValue::from_bytes(value).unwrap();
    let request = lines.iter().fold(request, |request, (name, line)| {
        request.header(*name, value(line))
    });
    request.body(()).unwrap()
}

#[test]
fn a_service_is_told_of_the_head() {
    let http = http_of(
        &deny(),
        request(&[
            ("x-request-id", b"id"),
            ("x-two", b"1"),
            ("x-two", b"2"),
            ("x-odd", b"a\xffb\xc3\xa9"),
            // The client's word for what it was not asked.
            ("x-envoy-auth-partial-body", b"false"),
        ]),
        None,
    );
    let expected = [
        (":authority", "shop"),
        (":method", "POST"),
        (":path", "/a?b=c"),
        (":scheme", "http"),
        ("x-request-id", "id"),
        ("x-two", "1,2"),
        ("x-odd", "a!b\u{e9}"),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(http.headers, HashMap::from(expected));
    assert_eq!(
        (&*http.id, &*http.method, &*http.path, &*http.host),
        ("id", "POST", "/a?b=c", "shop")
    );
    assert_eq!(
        (&*http.scheme, &*http.protocol, &*http.query, http.size),
        ("http", "HTTP/1.1", "", -1)
    );
}

#[test]
fn a_service_is_told_what_it_may_know() {
    let starts = |with: &str| vec![StringMatcher::Prefix(Text::new(with, Letters::Matters))];
    let exact = |name: &str| StringMatcher::exact(name);
    for (allowed, disallowed, expected) in [
        (None, vec![], ":authority :method :path :scheme x-a x-b"),
        (
            None,
            vec![exact("x-b"), exact(":path")],
            ":authority :method :scheme x-a",
        ),
        (Some(starts("x-")), vec![], "x-a x-b"),
        (Some(starts("x-")), vec![exact("x-a")], "x-b"),
        (Some(vec![]), vec![], ""),
    ] {
        let mut authz = deny();
        let service = Arc::make_mut(&mut authz.service);
        (service.allowed, service.disallowed) = (allowed, disallowed);
        let http = http_of(&authz, request(&[("x-a", b"1"), ("x-b", b"1")]), None);
        let mut names: Vec<&str> = http.headers.keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names.join(" "), expected);
    }
}

#[test]
fn a_service_is_shown_as_much_of_a_body_as_it_may_see() {
    let shown = |as_bytes| Shown {
        bytes_max: 4,
        partial: true,
        as_bytes,
    };
    let begin = |is_whole| {
        Some(Begin {
            bytes: b"ab\xff".to_vec(),
            is_whole,
        })
    };
    let cases = [
        (shown(false), true, ("ab!", &b""[..], "false", 3)),
        (shown(false), false, ("ab!", b"", "true", -1)),
        (shown(true), true, ("", b"ab\xff", "false", 3)),
    ];
    for (shown, is_whole, expected) in cases {
        let authz = authz(OnError::Answer(StatusCode::FORBIDDEN), Some(shown));
        let http = http_of(&authz, request(&[]), begin(is_whole));
        let got = (
            &*http.body,
            &*http.raw_body,
            &*http.headers[PARTIAL_BODY],
            http.size,
        );
        assert_eq!(got, expected, "{shown:?} {is_whole}");
    }
}

#[test]
fn a_route_says_more_and_shows_less() {
    let elsewhere = Shown {
        bytes_max: 4,
        partial: true,
        as_bytes: false,
    };
    let here = Shown {
        bytes_max: 8,
        ..elsewhere
    };
    for (body, expected) in [
        (RouteBody::AsElsewhere, Some(elsewhere)),
        (RouteBody::Nothing, None),
        (RouteBody::Shown(here), Some(here)),
    ] {
        let mut authz = authz(OnError::Answer(StatusCode::FORBIDDEN), Some(elsewhere));
        authz.settings = Some(Arc::new(CheckSettings {
            extensions: BTreeMap::from([("k".to_owned(), "v".to_owned())]),
            body,
        }));
        assert_eq!(authz.body(), expected);
        let head = request(&[]).into_parts().0;
        let checked = authz.request(Case {
            source: "10.0.0.1:1".parse().unwrap(),
            principal: "",
            destination: "10.0.0.2:80".parse().unwrap(),
            came: SystemTime::now(),
            head: &head,
            scheme: "http",
            authority: "shop",
            target: "/",
            is_bodiless: true,
            body: None,
        });
        let attributes = checked.attributes.unwrap();
        assert_eq!(attributes.context_extensions["k"], "v");
        assert_eq!(attributes.request.unwrap().http.unwrap().size, 0);
    }
}

fn response(code: i32, http_response: Option<HttpResponse>) -> CheckResponse {
    CheckResponse {
        status: Some(Status {
            code,
            ..Status::default()
        }),
        http_response,
        ..CheckResponse::default()
    }
}

fn option(key: &str, value: &str) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(PbHeaderValue {
            key: key.to_owned(),
            value: value.to_owned(),
            ..PbHeaderValue::default()
        }),
        ..HeaderValueOption::default()
    }
}

fn denied(code: i32, body: &str, headers: Vec<HeaderValueOption>) -> DeniedHttpResponse {
    DeniedHttpResponse {
        status: (code != 0).then_some(HttpStatus { code }),
        headers,
        body: body.to_owned(),
    }
}

#[test]
fn a_status_says_whether_a_request_may_go_on() {
    let of = |code, body: &'static str| Some((code, body));
    let deny_as = |code, body: &str| Some(HttpResponse::DeniedResponse(denied(code, body, vec![])));
    let fail_as = |code, body: &str| Some(HttpResponse::ErrorResponse(denied(code, body, vec![])));
    let ok = || Some(HttpResponse::OkResponse(OkHttpResponse::default()));
    for (response, expected) in [
        (response(0, None), None),
        (response(0, ok()), None),
        (response(0, deny_as(401, "no")), None),
        (response(7, None), of(403, "")),
        (response(7, ok()), of(403, "")),
        (response(16, deny_as(0, "no")), of(403, "no")),
        (response(16, deny_as(401, "no")), of(401, "no")),
        (response(16, deny_as(204, "no")), of(204, "")),
        (response(16, deny_as(101, "no")), of(500, "")),
        (response(16, deny_as(99_999, "no")), of(500, "")),
        (response(16, deny_as(-1, "no")), of(500, "")),
        // Its status is 0 then.
        (CheckResponse::default(), None),
        (response(0, fail_as(0, "sick")), of(502, "sick")),
        (response(13, fail_as(503, "sick")), of(503, "sick")),
    ] {
        let said = deny().said(response.clone());
        let answer = said.answer.as_ref();
        let got = answer.map(|answer| (answer.status.as_u16(), std::str::from_utf8(&answer.body).unwrap()));
        assert_eq!(got, expected, "{response:?}");
        assert!(answer.is_none_or(|answer| answer.flag == Flag::Unauthorized));
    }
    let pass = authz(OnError::GoOn { says_so: false }, None);
    assert_eq!(pass.said(response(13, fail_as(503, "sick"))), Said::default());
    assert_eq!(pass.failed(), Said::default());
    assert_eq!(deny().failed().answer.unwrap().status, 502);
    let mut headers = HeaderMap::new();
    authz(OnError::GoOn { says_so: true }, None)
        .failed()
        .request
        .apply(&mut headers);
    assert_eq!(headers["x-envoy-auth-failure-mode-allowed"], "true");
}

#[test]
fn what_cannot_be_done_goes_nowhere() {
    let changes = |headers| OkHttpResponse {
        headers,
        ..OkHttpResponse::default()
    };
    let to_client = |headers| OkHttpResponse {
        response_headers_to_add: headers,
        ..OkHttpResponse::default()
    };
    for changes in [
        changes(vec![option("x-a", "1"), option(":path", "/elsewhere")]),
        changes(vec![option("host", "elsewhere")]),
        changes(vec![option("x-a", "1\r\nx-b: 2")]),
        changes(vec![option("x a", "1")]),
        to_client(vec![option("x-a", "\0")]),
    ] {
        let said = deny().said(response(0, Some(HttpResponse::OkResponse(changes.clone()))));
        assert_eq!(said.answer.unwrap().status, 500, "{changes:?}");
        assert!(said.request.is_empty() && said.response.is_empty());
    }
}

#[test]
fn parameters_are_set_and_removed() {
    let parameter = |(key, value): &(&str, &str)| QueryParameter {
        key: (*key).to_owned(),
        value: (*value).to_owned(),
    };
    for (target, set, removed, expected) in [
        ("/a?b=1&c=2", &[("b", "3")][..], &[][..], Ok("/a?c=2&b=3")),
        ("/a?b=1&b=2&c", &[], &["b"], Ok("/a?c")),
        ("/a?b=1", &[], &["b"], Ok("/a")),
        ("/a?b", &[], &["b"], Ok("/a")),
        ("/a", &[("b", "%20")], &["c"], Ok("/a?b=%20")),
        ("/a?bb=1", &[], &["b"], Ok("/a?bb=1")),
        ("/a?b=1", &[("b", "2"), ("c", "3")], &["b"], Ok("/a?c=3")),
        ("/a", &[("b", "c d")], &[], Err(Unfit::Malformed)),
        ("/a", &[("b", "c#d")], &[], Err(Unfit::Malformed)),
        ("/a", &[("b", "c\r\nd")], &[], Err(Unfit::Malformed)),
    ] {
        let removed = removed.iter().map(|name: &&str| (*name).to_owned()).collect();
        let changes = QueryChanges::new(set.iter().map(parameter).collect(), removed);
        let got = changes.applied(&PathAndQuery::from_static(target));
        let got = got.as_ref().map(PathAndQuery::as_str).map_err(|unfit| *unfit);
        assert_eq!(got, expected, "{target} {set:?}");
    }
}
