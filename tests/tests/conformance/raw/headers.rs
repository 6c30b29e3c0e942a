//! What routes make of heads on their way there and back.

use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use envoy_types::pb::envoy::config::route::v3::route_action::HostRewriteSpecifier;
use envoy_types::pb::envoy::config::route::v3::{Route, RouteAction};
use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatchAndSubstitute, RegexMatcher};
use tombolo_tests::ads::contract;
use tombolo_tests::upstream::WISH;

use super::{Site, at, forwards, passes, prefix, says, site};
use crate::case::{Case, Expect, GET};

type Lines = &'static [(&'static str, &'static str)];

pub(super) fn sites() -> Vec<Site> {
    vec![changes(), rewrites()]
}

fn ask(path: &'static str, headers: Lines) -> Case {
    Case { path, headers, ..GET }
}

fn changes() -> Site {
    use HeaderAppendAction::{AppendIfExistsOrAdd, OverwriteIfExistsOrAdd};
    let line = |name: &str, value: &str, action: HeaderAppendAction| HeaderValueOption {
        header: Some(HeaderValue {
            key: name.to_owned(),
            value: value.to_owned(),
            ..HeaderValue::default()
        }),
        append_action: action as i32,
        ..HeaderValueOption::default()
    };
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let routes = vec![
        Route {
            request_headers_to_add: vec![
                line("x-set", "by-route", OverwriteIfExistsOrAdd),
                line("x-more", "by-route", AppendIfExistsOrAdd),
                line("x-share", "100%%", OverwriteIfExistsOrAdd),
            ],
            request_headers_to_remove: names(&["x-gone", "x-again"]),
            ..passes(prefix("/there"))
        },
        // What is taken out may be put in again.
        Route {
            request_headers_to_add: vec![line("x-again", "by-route", AppendIfExistsOrAdd)],
            request_headers_to_remove: names(&["x-again"]),
            ..passes(prefix("/again"))
        },
        Route {
            response_headers_to_add: vec![
                line("x-set", "by-route", OverwriteIfExistsOrAdd),
                line("x-answered-by", "nobody", OverwriteIfExistsOrAdd),
            ],
            response_headers_to_remove: names(&["x-envoy-ratelimited"]),
            ..passes(prefix("/back"))
        },
        Route {
            response_headers_to_add: vec![line("x-answered-by", "by-route", AppendIfExistsOrAdd)],
            ..passes(prefix("/more"))
        },
        // What it is of is said behind that.
        Route {
            response_headers_to_add: vec![line("x-set", "by-route", OverwriteIfExistsOrAdd)],
            response_headers_to_remove: names(&["content-type"]),
            ..says(prefix("/here"), "here")
        },
        passes(prefix("/")),
    ];
    let saw = Expect::SawHeader;
    site(
        "headers",
        "headers.test",
        routes,
        &[
            (
                at("/there"),
                &[
                    saw("x-set", "by-route"),
                    saw("x-more", "by-route"),
                    saw("x-share", "100%"),
                ],
            ),
            (
                ask("/there", &[("x-set", "by-client"), ("x-more", "by-client")]),
                &[saw("x-set", "by-route"), saw("x-more", "by-client,by-route")],
            ),
            (
                ask("/there", &[("x-set", "one"), ("x-set", "two")]),
                &[saw("x-set", "by-route")],
            ),
            (
                ask(
                    "/there",
                    &[
                        ("x-gone", "for-good"),
                        ("x-gone", "for-good"),
                        ("x-stays", "here"),
                    ],
                ),
                &[
                    Expect::SawNone("for-good"),
                    Expect::SawNone("x-gone"),
                    saw("x-stays", "here"),
                ],
            ),
            (
                ask("/there", &[("X-Gone", "for-good")]),
                &[Expect::SawNone("for-good")],
            ),
            (
                ask("/again", &[("x-again", "by-client")]),
                &[saw("x-again", "by-route")],
            ),
            (ask("/", &[("x-gone", "stays")]), &[saw("x-gone", "stays")]),
            (
                ask("/", &[("x-twice", "a"), ("x-twice", "b")]),
                &[saw("x-twice", "a,b")],
            ),
            (ask("/", &[("x-empty", "")]), &[saw("x-empty", "")]),
            (
                at("/back"),
                &[
                    Expect::Header("x-set", "by-route"),
                    Expect::Header("x-answered-by", "nobody"),
                ],
            ),
            (
                ask("/back", &[(WISH, "limited=404")]),
                &[Expect::Status(404), Expect::NoHeader("x-envoy-ratelimited")],
            ),
            (
                at("/here"),
                &[
                    Expect::Body("here"),
                    Expect::Header("x-set", "by-route"),
                    Expect::Header("content-type", "text/plain"),
                ],
            ),
            // The first of two lines.
            (at("/more"), &[Expect::Header("x-answered-by", "application")]),
            (
                ask("/back", &[(WISH, "status=500")]),
                &[Expect::Status(500), Expect::Header("x-set", "by-route")],
            ),
            (
                at("/"),
                &[
                    Expect::Header("x-answered-by", "application"),
                    Expect::NoHeader("x-set"),
                ],
            ),
        ],
    )
}

fn rewrites() -> Site {
    let pattern = |regex: &str, substitution: &str| RouteAction {
        regex_rewrite: Some(RegexMatchAndSubstitute {
            pattern: Some(RegexMatcher {
                regex: regex.to_owned(),
                ..RegexMatcher::default()
            }),
            substitution: substitution.to_owned(),
        }),
        ..RouteAction::default()
    };
    let route = |path: &str, action| forwards(prefix(path), contract::NAME, action);
    let start = |text: &str| RouteAction {
        prefix_rewrite: text.to_owned(),
        ..RouteAction::default()
    };
    let routes = vec![
        route("/prefix", start("/new")),
        route("/root/", start("/")),
        route("/pattern", pattern("^/pattern/([a-z]+)/([a-z]+)", r"/\2/\1")),
        route("/each", pattern("a", "b")),
        route(
            "/host",
            RouteAction {
                host_rewrite_specifier: Some(HostRewriteSpecifier::HostRewriteLiteral(
                    "new.test:81".to_owned(),
                )),
                ..RouteAction::default()
            },
        ),
        passes(prefix("/")),
    ];
    let path = |text: &'static str| Expect::Saw("path", text);
    site(
        "rewrites",
        "rewrites.test",
        routes,
        &[
            (at("/prefix"), &[path("/new")]),
            (at("/prefix/a?b=/prefix"), &[path("/new/a?b=/prefix")]),
            (at("/prefixed"), &[path("/newed")]),
            (at("/root/a"), &[path("/a")]),
            (at("/root/?a"), &[path("/?a")]),
            (at("/pattern/a/b?c/d"), &[path("/b/a?c/d")]),
            (at("/pattern/a/b/c"), &[path("/b/a/c")]),
            (at("/pattern/1/2"), &[path("/pattern/1/2")]),
            (at("/each/a/aa?a"), &[path("/ebch/b/bb?a")]),
            (at("/host"), &[Expect::SawHost("new.test:81")]),
            (at("/"), &[Expect::SawHost("rewrites.test")]),
            // What is between slashes is as it was, and dots are gone.
            (at("//a//b"), &[path("//a//b")]),
            (at("/a/./b/../c"), &[path("/a/c")]),
            (at("/a%2Fb"), &[path("/a%2Fb")]),
            (at("/%61"), &[path("/a")]),
        ],
    )
}
