//! What is of one hop only, what the proxy says of itself, and how it reads methods and paths.

use http::{Method, Version};
use tombolo_tests::upstream::WISH;

use super::{Site, at, passes, prefix, says, site};
use crate::case::{Case, Expect, GET};

type Lines = &'static [(&'static str, &'static str)];

pub(super) fn sites() -> Vec<Site> {
    vec![heads(), first_version(), methods(), paths()]
}

fn ask(path: &'static str, headers: Lines) -> Case {
    Case { path, headers, ..GET }
}

fn heads() -> Site {
    let saw = Expect::SawHeader;
    site(
        "heads",
        "heads.test",
        vec![passes(prefix("/"))],
        &[
            (
                at("/"),
                &[
                    saw("x-forwarded-proto", "http"),
                    Expect::SawSome("x-forwarded-for"),
                    Expect::SawSome("x-request-id"),
                    Expect::SawNone("\"te\""),
                    Expect::SawNone("\"connection\""),
                    Expect::NoHeader("server"),
                ],
            ),
            (ask("/", &[("te", "trailers")]), &[saw("te", "trailers")]),
            (ask("/", &[("user-agent", "a b")]), &[Expect::Says("\"a b\"")]),
            (
                ask("/", &[("cookie", "a=b"), ("cookie", "c=d")]),
                &[Expect::SawSome("cookie")],
            ),
            (
                ask(
                    "/",
                    &[
                        ("x-envoy-retry-on", "5xx"),
                        ("x-envoy-max-retries", "3"),
                        (WISH, "first=500"),
                    ],
                ),
                &[Expect::Status(500)],
            ),
        ],
    )
}

/// Over HTTP/2 these are malformed.
fn first_version() -> Site {
    let one = site(
        "heads of HTTP/1.1",
        "first-heads.test",
        vec![passes(prefix("/"))],
        &[
            (
                ask(
                    "/",
                    &[
                        ("connection", "x-mine"),
                        ("x-mine", "dropped"),
                        ("x-other", "kept"),
                    ],
                ),
                &[Expect::SawNone("dropped"), Expect::SawHeader("x-other", "kept")],
            ),
            (
                ask("/", &[("connection", "close")]),
                &[Expect::Status(200), Expect::Header("connection", "close")],
            ),
            (
                ask("/", &[("proxy-connection", "keep-alive")]),
                &[Expect::SawNone("proxy-connection")],
            ),
            (
                ask("/", &[("keep-alive", "timeout=5")]),
                &[Expect::SawNone("timeout=5")],
            ),
            (
                ask("/", &[("expect", "100-continue")]),
                &[Expect::Status(200), Expect::Says("\"by\"")],
            ),
        ],
    );
    Site {
        versions: &[Version::HTTP_11],
        ..one
    }
}

fn methods() -> Site {
    let of = |method, path| Case { method, ..at(path) };
    let saw = |method| Expect::Saw("method", method);
    site(
        "methods",
        "methods.test",
        vec![says(prefix("/said"), "words"), passes(prefix("/"))],
        &[
            (of(Method::PUT, "/"), &[saw("PUT")]),
            (of(Method::PATCH, "/"), &[saw("PATCH")]),
            (of(Method::DELETE, "/"), &[saw("DELETE")]),
            (of(Method::OPTIONS, "/"), &[saw("OPTIONS")]),
            (
                of(Method::HEAD, "/"),
                &[
                    Expect::Status(200),
                    Expect::Empty,
                    Expect::Header("x-answered-by", "application"),
                ],
            ),
            (of(Method::HEAD, "/said"), &[Expect::Status(200), Expect::Empty]),
            (of(Method::POST, "/said"), &[Expect::Body("words")]),
            (
                ask("/", &[(WISH, "status=204")]),
                &[
                    Expect::Status(204),
                    Expect::Empty,
                    Expect::NoHeader("content-length"),
                ],
            ),
            (
                ask("/", &[(WISH, "status=304")]),
                &[Expect::Status(304), Expect::Empty],
            ),
            (ask("/", &[(WISH, "bytes=300000")]), &[Expect::Bytes(300_000)]),
        ],
    )
}

fn paths() -> Site {
    let path = |text: &'static str| Expect::Saw("path", text);
    site(
        "paths",
        "paths.test",
        vec![says(prefix("/secret"), "secret"), passes(prefix("/"))],
        &[
            (at("/a/%2e%2e/b"), &[path("/b")]),
            (at("/a/%2E/b"), &[path("/a/b")]),
            (at("/a/..%2Fb"), &[path("/a/..%2Fb")]),
            (at("/../../a"), &[path("/a")]),
            (at("/a/.."), &[path("/")]),
            (at("/a/."), &[path("/a/")]),
            (at("/a/..b"), &[path("/a/..b")]),
            (at("/a?b=/../c"), &[path("/a?b=/../c")]),
            (at("/a/../secret"), &[Expect::Body("secret")]),
            (at("/%73ecret"), &[Expect::Body("secret")]),
            (at("/secret/../a"), &[path("/a")]),
            (at("/SECRET"), &[path("/SECRET")]),
            (at("/a;b=c/../d"), &[path("/d")]),
            (at("/a%3Fb"), &[path("/a%3Fb")]),
            (at("/a%25"), &[path("/a%25")]),
            (at("/%e4"), &[path("/%e4")]),
            (at("/~a"), &[path("/~a")]),
            (at("/%7ea"), &[path("/~a")]),
            (at("/a?%zz"), &[path("/a?%zz")]),
            (at("/%00"), &[Expect::Status(400)]),
            (at("/a\\b"), &[path("/a/b")]),
        ],
    )
}
