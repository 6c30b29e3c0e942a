//! What calls of gRPC are told by the proxies themselves, and for which answers a request is tried again.

use envoy_types::pb::envoy::config::core::v3::{DataSource, data_source::Specifier};
use envoy_types::pb::envoy::config::route::v3::redirect_action::RedirectResponseCode;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::{ClusterSpecifier, MaxStreamDuration};
use envoy_types::pb::envoy::config::route::v3::{
    DirectResponseAction, HeaderMatcher, RedirectAction, RetryPolicy, Route, RouteAction,
};
use envoy_types::pb::google::protobuf::{Duration, UInt32Value};
use http::Method;
use tombolo_tests::ads::contract;
use tombolo_tests::upstream::WISH;

use super::{Ask, BOTH, Site, prefix};
use crate::case::{Case, Expect, GET};

const HOST: &str = "calls.test";

type Lines = &'static [(&'static str, &'static str)];

pub(super) fn sites() -> Vec<Site> {
    vec![told(), tried_again(), tried_once(), lasting(), idle()]
}

fn call(path: &'static str, content_type: &'static str) -> Case {
    let headers: Lines = match content_type {
        "application/grpc" => &[("content-type", "application/grpc")],
        "application/grpc+proto" => &[("content-type", "application/grpc+proto")],
        _ => &[("content-type", "application/grpc-web")],
    };
    Case {
        path,
        headers,
        method: Method::POST,
        ..GET
    }
}

fn told() -> Site {
    let of = |status: u32, text: &str| Route {
        r#match: Some(prefix(&format!("/{status}"))),
        action: Some(Action::DirectResponse(DirectResponseAction {
            status,
            body: Some(DataSource {
                specifier: Some(Specifier::InlineString(text.to_owned())),
                ..DataSource::default()
            }),
            ..DirectResponseAction::default()
        })),
        ..Route::default()
    };
    let mut routes = Vec::new();
    let mut asks = Vec::new();
    let mut ask = |path: &'static str, content_type, expects: &[Expect]| {
        asks.extend(expects.iter().map(|expect| Ask {
            host: HOST.to_owned(),
            case: call(path, content_type),
            expect: *expect,
        }));
    };
    for (status, path, code) in [
        (400, "/400", "13"),
        (401, "/401", "16"),
        (403, "/403", "7"),
        (404, "/404", "12"),
        (408, "/408", "2"),
        (429, "/429", "14"),
        (500, "/500", "2"),
        (502, "/502", "14"),
        (503, "/503", "14"),
        (504, "/504", "14"),
    ] {
        routes.push(of(status, "so it is"));
        ask(
            path,
            "application/grpc",
            &[
                Expect::Status(200),
                Expect::Empty,
                Expect::Header("content-type", "application/grpc"),
                Expect::Header("grpc-status", code),
                Expect::Header("grpc-message", "so it is"),
            ],
        );
    }
    routes.push(of(418, "100% \u{e9}~\n"));
    ask(
        "/418",
        "application/grpc+proto",
        &[
            Expect::Status(200),
            Expect::Header("content-type", "application/grpc"),
            Expect::Header("grpc-status", "2"),
            Expect::Header("grpc-message", "100%25 %C3%A9%7E%0A"),
        ],
    );
    ask(
        "/403",
        "application/grpc-web",
        &[
            Expect::Status(403),
            Expect::Body("so it is"),
            Expect::NoHeader("grpc-status"),
        ],
    );
    ask(
        "/nowhere",
        "application/grpc",
        &[Expect::Status(200), Expect::Header("grpc-status", "12")],
    );
    routes.push(Route {
        r#match: Some(prefix("/led")),
        action: Some(Action::Redirect(RedirectAction {
            host_redirect: "new.test".to_owned(),
            response_code: RedirectResponseCode::Found as i32,
            ..RedirectAction::default()
        })),
        ..Route::default()
    });
    ask(
        "/led",
        "application/grpc",
        &[
            Expect::Status(200),
            Expect::Header("grpc-status", "2"),
            Expect::Header("location", "http://new.test/led"),
        ],
    );
    Site {
        name: "calls",
        domains: vec![HOST.to_owned()],
        versions: BOTH,
        routes,
        asks,
    }
}

/// Once, for the words that the path names.
fn tried_again() -> Site {
    const AGAIN: &str = "again.test";
    let retried = |path: &str, words: &str| Route {
        r#match: Some(prefix(path)),
        action: Some(Action::Route(RouteAction {
            cluster_specifier: Some(ClusterSpecifier::Cluster(contract::NAME.to_owned())),
            retry_policy: Some(RetryPolicy {
                retry_on: words.to_owned(),
                num_retries: Some(UInt32Value { value: 1 }),
                retriable_status_codes: vec![418],
                retriable_headers: vec![HeaderMatcher {
                    name: "x-envoy-ratelimited".to_owned(),
                    ..HeaderMatcher::default()
                }],
                ..RetryPolicy::default()
            }),
            ..RouteAction::default()
        })),
        ..Route::default()
    };
    let again = Expect::Says("\"by\"");
    let status = Expect::Status;
    let rows: [(&str, Lines, Expect); 21] = [
        ("5xx", &[(WISH, "first=500")], again),
        ("5xx", &[(WISH, "first=503")], again),
        ("5xx", &[(WISH, "first=429")], status(429)),
        ("5xx", &[(WISH, "limited=503")], status(503)),
        ("5xx", &[(WISH, "call=14")], Expect::Header("grpc-status", "14")),
        ("gateway-error", &[(WISH, "first=502")], again),
        ("gateway-error", &[(WISH, "first=500")], status(500)),
        ("retriable-4xx", &[(WISH, "first=409")], again),
        ("retriable-4xx", &[(WISH, "first=404")], status(404)),
        ("retriable-status-codes", &[(WISH, "first=418")], again),
        ("retriable-status-codes", &[(WISH, "limited=418")], status(418)),
        ("envoy-ratelimited", &[(WISH, "limited=429")], again),
        ("envoy-ratelimited", &[(WISH, "first=429")], status(429)),
        ("retriable-headers", &[(WISH, "limited=429")], status(429)),
        ("cancelled", &[(WISH, "call=1")], again),
        ("deadline-exceeded", &[(WISH, "call=4")], again),
        ("resource-exhausted", &[(WISH, "call=8")], again),
        ("internal", &[(WISH, "call=13")], again),
        ("unavailable", &[(WISH, "call=14")], again),
        (
            "unavailable",
            &[(WISH, "call=13")],
            Expect::Header("grpc-status", "13"),
        ),
        ("unavailable,5xx", &[(WISH, "first=500")], again),
    ];
    let mut routes = Vec::new();
    let mut asks = Vec::new();
    for (number, (words, headers, expect)) in rows.into_iter().enumerate() {
        // The path ends with a slash, so that none is the start of another.
        let path: &'static str = format!("/{number}/").leak();
        routes.push(retried(path, words));
        asks.push(Ask {
            host: AGAIN.to_owned(),
            case: Case { path, headers, ..GET },
            expect,
        });
    }
    Site {
        name: "tried again",
        domains: vec![AGAIN.to_owned()],
        versions: BOTH,
        routes,
        asks,
    }
}

/// One try has its time where it is the only one.
fn tried_once() -> Site {
    const ONCE: &str = "once.test";
    let soon = || {
        Some(Duration {
            seconds: 0,
            nanos: 200_000_000,
        })
    };
    let route = |path: &str, policy| Route {
        r#match: Some(prefix(path)),
        action: Some(Action::Route(RouteAction {
            cluster_specifier: Some(ClusterSpecifier::Cluster(contract::NAME.to_owned())),
            // None, so that nothing else ends it.
            timeout: Some(Duration::default()),
            retry_policy: Some(RetryPolicy {
                num_retries: Some(UInt32Value { value: 0 }),
                ..policy
            }),
            ..RouteAction::default()
        })),
        ..Route::default()
    };
    let timed = RetryPolicy {
        per_try_timeout: soon(),
        ..RetryPolicy::default()
    };
    let idle = RetryPolicy {
        per_try_idle_timeout: soon(),
        ..RetryPolicy::default()
    };
    let ask = |(path, headers, expect)| Ask {
        host: ONCE.to_owned(),
        case: Case { path, headers, ..GET },
        expect,
    };
    let late = Expect::Body("upstream request timeout");
    let rows: [(&'static str, Lines, Expect); 4] = [
        ("/timed", &[(WISH, "hang")], late),
        ("/timed", &[(WISH, "hang")], Expect::Status(504)),
        ("/idle", &[(WISH, "hang")], late),
        ("/timed", &[], Expect::Says("\"by\"")),
    ];
    Site {
        name: "tried once",
        domains: vec![ONCE.to_owned()],
        versions: BOTH,
        routes: vec![route("/timed", timed), route("/idle", idle)],
        asks: rows.into_iter().map(ask).collect(),
    }
}

/// What is told of streams of which nothing moves.
fn idle() -> Site {
    const IDLE: &str = "idle.test";
    let route = |path: &str, timeout_ms: i32, idle_ms: i32| {
        let ms = |ms: i32| {
            Some(Duration {
                seconds: 0,
                nanos: ms * 1_000_000,
            })
        };
        Route {
            r#match: Some(prefix(path)),
            action: Some(Action::Route(RouteAction {
                cluster_specifier: Some(ClusterSpecifier::Cluster(contract::NAME.to_owned())),
                timeout: ms(timeout_ms),
                idle_timeout: ms(idle_ms),
                ..RouteAction::default()
            })),
            ..Route::default()
        }
    };
    let idle = Expect::Body("stream timeout");
    let rows: [(&'static str, Lines, Expect); 6] = [
        ("/idle", &[(WISH, "hang")], idle),
        ("/idle", &[(WISH, "hang")], Expect::Status(504)),
        ("/idle", &[], Expect::Says("\"by\"")),
        (
            "/idle",
            &[(WISH, "hang"), ("content-type", "application/grpc")],
            Expect::Header("grpc-status", "14"),
        ),
        (
            "/never",
            &[(WISH, "hang")],
            Expect::Body("upstream request timeout"),
        ),
        (
            "/timed",
            &[(WISH, "hang")],
            Expect::Body("upstream request timeout"),
        ),
    ];
    let asks = rows.map(|(path, headers, expect)| Ask {
        host: IDLE.to_owned(),
        case: Case { path, headers, ..GET },
        expect,
    });
    Site {
        name: "idle",
        domains: vec![IDLE.to_owned()],
        routes: vec![
            route("/idle", 0, 200),
            route("/never", 300, 0),
            route("/timed", 200, 900),
        ],
        versions: BOTH,
        asks: asks.into(),
    }
}

/// A stream's duration, in place of its route's timeout.
fn lasting() -> Site {
    const LASTING: &str = "lasting.test";
    const IS_CALL: (&str, &str) = ("content-type", "application/grpc");
    let ms = |ms: i32| {
        Some(Duration {
            seconds: 0,
            nanos: ms * 1_000_000,
        })
    };
    let route = |path: &str, duration| Route {
        r#match: Some(prefix(path)),
        action: Some(Action::Route(RouteAction {
            cluster_specifier: Some(ClusterSpecifier::Cluster(contract::NAME.to_owned())),
            timeout: ms(1),
            max_stream_duration: Some(duration),
            ..RouteAction::default()
        })),
        ..Route::default()
    };
    let max = MaxStreamDuration {
        max_stream_duration: ms(200),
        ..MaxStreamDuration::default()
    };
    let said = MaxStreamDuration {
        grpc_timeout_header_max: ms(400),
        grpc_timeout_header_offset: ms(100),
        ..MaxStreamDuration::default()
    };
    let late = Expect::Body("downstream duration timeout");
    let call = Expect::Header("grpc-status", "4");
    let rows: [(&'static str, Lines, Expect); 10] = [
        ("/max", &[(WISH, "hang")], late),
        ("/max", &[(WISH, "hang")], Expect::Status(504)),
        ("/max", &[(WISH, "hang"), IS_CALL], call),
        // It says nothing, and may take all the time that it wants.
        ("/said", &[], Expect::Says("\"by\"")),
        ("/said", &[(WISH, "hang"), ("grpc-timeout", "150m")], late),
        ("/said", &[(WISH, "hang"), ("grpc-timeout", "1H")], late),
        ("/said", &[(WISH, "hang"), ("grpc-timeout", "1m")], late),
        // A call's host is told how long it may last, and nobody else's.
        ("/max", &[IS_CALL], Expect::Says("\"grpc-timeout\":\"200m\"")),
        (
            "/said",
            &[IS_CALL, ("grpc-timeout", "1H")],
            Expect::Says("\"grpc-timeout\":\"300m\""),
        ),
        (
            "/said",
            &[("grpc-timeout", "1H")],
            Expect::Says("\"grpc-timeout\":\"1H\""),
        ),
    ];
    let ask = |(path, headers, expect)| Ask {
        host: LASTING.to_owned(),
        case: Case { path, headers, ..GET },
        expect,
    };
    Site {
        name: "lasting",
        domains: vec![LASTING.to_owned()],
        versions: BOTH,
        routes: vec![route("/max", max), route("/said", said)],
        asks: rows.into_iter().map(ask).collect(),
    }
}
