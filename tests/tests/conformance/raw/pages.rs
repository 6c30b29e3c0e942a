//! What browsers ask: about other origins, for answers that are compressed, and calls of gRPC-Web.

use envoy_types::pb::envoy::config::route::v3::{Route, RouteAction};
use envoy_types::pb::envoy::extensions::filters::http::compressor::v3::{
    CompressorPerRoute, compressor_per_route,
};
use envoy_types::pb::envoy::extensions::filters::http::cors::v3::CorsPolicy;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatcher, StringMatcher};
use envoy_types::pb::google::protobuf::BoolValue;
use envoy_types::util::pack_any;
use http::{Method, Version};
use tombolo_tests::upstream::WISH;

use super::filters::{CALLS_OF_PAGES, COMPRESSOR, CORS, on, told};
use super::{Site, at, forwards, passes, places, prefix, site};
use crate::case::{Case, Expect, GET};

type Lines = &'static [(&'static str, &'static str)];

const ALLOWED: &str = "access-control-allow-origin";

pub(super) fn sites() -> Vec<Site> {
    vec![origins(), compressed(), calls(), calls_of_others()]
}

fn ask(path: &'static str, headers: Lines) -> Case {
    Case { path, headers, ..GET }
}

fn origins() -> Site {
    let pattern = |pattern| StringMatcher {
        match_pattern: Some(pattern),
        ..StringMatcher::default()
    };
    let full = CorsPolicy {
        allow_origin_string_match: vec![
            pattern(MatchPattern::Exact("https://pages.test".to_owned())),
            pattern(MatchPattern::SafeRegex(RegexMatcher {
                regex: r"https://[a-z]+\.below\.test".to_owned(),
                ..RegexMatcher::default()
            })),
        ],
        allow_methods: "GET,PUT".to_owned(),
        allow_headers: "x-a,x-b".to_owned(),
        expose_headers: "x-c".to_owned(),
        max_age: "600".to_owned(),
        allow_credentials: Some(BoolValue { value: true }),
        ..CorsPolicy::default()
    };
    let bare = CorsPolicy {
        allow_origin_string_match: vec![pattern(MatchPattern::Exact("https://pages.test".to_owned()))],
        ..CorsPolicy::default()
    };
    let routes = vec![
        told(passes(prefix("/full")), CORS, pack_any(full)),
        told(passes(prefix("/bare")), CORS, pack_any(bare)),
        passes(prefix("/")),
    ];
    let page = |path| ask(path, &[("origin", "https://pages.test")]);
    let other = |path| ask(path, &[("origin", "https://other.test")]);
    let preflight = |path, headers| Case {
        method: Method::OPTIONS,
        ..ask(path, headers)
    };
    let by = Expect::Says("\"by\"");
    let header = Expect::Header;
    let untold: &[Expect] = &[by, Expect::NoHeader(ALLOWED)];
    site(
        "other origins",
        "pages.test",
        routes,
        &[
            (
                page("/full"),
                &[
                    by,
                    header(ALLOWED, "https://pages.test"),
                    header("access-control-allow-credentials", "true"),
                    header("access-control-expose-headers", "x-c"),
                    Expect::NoHeader("access-control-allow-methods"),
                    Expect::NoHeader("access-control-max-age"),
                ],
            ),
            (other("/full"), untold),
            (at("/full"), untold),
            (page("/"), untold),
            (
                ask("/full", &[("origin", "https://a.below.test")]),
                &[header(ALLOWED, "https://a.below.test")],
            ),
            (ask("/full", &[("origin", "https://a.b.below.test")]), untold),
            (ask("/full", &[("origin", "https://a.below.test.evil")]), untold),
            (ask("/full", &[("origin", "null")]), untold),
            (
                page("/bare"),
                &[
                    header(ALLOWED, "https://pages.test"),
                    Expect::NoHeader("access-control-allow-credentials"),
                    Expect::NoHeader("access-control-expose-headers"),
                ],
            ),
            (
                preflight(
                    "/full",
                    &[
                        ("origin", "https://pages.test"),
                        ("access-control-request-method", "PUT"),
                    ],
                ),
                &[
                    Expect::Status(200),
                    Expect::Empty,
                    header(ALLOWED, "https://pages.test"),
                    header("access-control-allow-methods", "GET,PUT"),
                    header("access-control-allow-headers", "x-a,x-b"),
                    header("access-control-allow-credentials", "true"),
                    header("access-control-max-age", "600"),
                    Expect::NoHeader("x-answered-by"),
                ],
            ),
            (
                preflight(
                    "/bare",
                    &[
                        ("origin", "https://pages.test"),
                        ("access-control-request-method", "PUT"),
                    ],
                ),
                &[
                    Expect::Status(200),
                    header(ALLOWED, "https://pages.test"),
                    Expect::NoHeader("access-control-allow-methods"),
                ],
            ),
            // The host may know more of it.
            (
                preflight(
                    "/full",
                    &[
                        ("origin", "https://other.test"),
                        ("access-control-request-method", "PUT"),
                    ],
                ),
                &[Expect::Says("\"method\":\"OPTIONS\""), Expect::NoHeader(ALLOWED)],
            ),
            (
                preflight("/full", &[("origin", "https://pages.test")]),
                &[
                    Expect::Says("\"method\":\"OPTIONS\""),
                    header(ALLOWED, "https://pages.test"),
                ],
            ),
            (
                preflight("/full", &[("access-control-request-method", "PUT")]),
                &[Expect::Says("\"method\":\"OPTIONS\"")],
            ),
            // What the host says of it is overruled.
            (
                ask("/full", &[("origin", "https://pages.test"), (WISH, "cors")]),
                &[by, header(ALLOWED, "https://pages.test")],
            ),
            (
                ask("/full", &[("origin", "https://pages.test"), (WISH, "status=500")]),
                &[Expect::Status(500), header(ALLOWED, "https://pages.test")],
            ),
        ],
    )
}

fn compressed() -> Site {
    let on_route = |path: &str| told(passes(prefix(path)), COMPRESSOR, on());
    let not = CompressorPerRoute {
        r#override: Some(compressor_per_route::Override::Disabled(true)),
    };
    let routes = vec![
        on_route("/on"),
        told(passes(prefix("/not")), COMPRESSOR, pack_any(not)),
        passes(prefix("/")),
    ];
    let coding = |value| Expect::Header("content-encoding", value);
    let plain = Expect::NoHeader("content-encoding");
    let varies = Expect::Header("vary", "Accept-Encoding");
    site(
        "compressed",
        "compressed.test",
        routes,
        &[
            (
                ask("/on", &[("accept-encoding", "gzip")]),
                &[
                    Expect::Status(200),
                    coding("gzip"),
                    varies,
                    Expect::NoHeader("content-length"),
                ],
            ),
            (
                ask("/on", &[("accept-encoding", "gzip"), (WISH, "bytes=100000")]),
                &[coding("gzip")],
            ),
            (
                ask("/on", &[("accept-encoding", "deflate, gzip;q=0.5")]),
                &[coding("gzip")],
            ),
            (ask("/on", &[("accept-encoding", "*")]), &[coding("gzip")]),
            (ask("/on", &[]), &[plain, varies, Expect::Says("\"by\"")]),
            (ask("/on", &[("accept-encoding", "identity")]), &[plain, varies]),
            (ask("/on", &[("accept-encoding", "gzip;q=0")]), &[plain, varies]),
            (ask("/on", &[("accept-encoding", "br")]), &[plain]),
            // Too short to be worth it.
            (
                ask("/on", &[("accept-encoding", "gzip"), (WISH, "status=404")]),
                &[Expect::Status(404), plain, Expect::Body("status 404 as wished")],
            ),
            (
                ask("/on", &[("accept-encoding", "gzip"), (WISH, "status=204")]),
                &[Expect::Status(204), plain],
            ),
            (ask("/not", &[("accept-encoding", "gzip")]), &[plain]),
            (
                ask("/", &[("accept-encoding", "gzip")]),
                &[plain, Expect::NoHeader("vary")],
            ),
        ],
    )
}

/// A route to a host of gRPC, for pages as well.
pub(super) fn for_pages(path: &str) -> Route {
    let route = forwards(prefix(path), places::CALLS, RouteAction::default());
    told(route, CALLS_OF_PAGES, on())
}

fn calls() -> Site {
    let routes = vec![
        for_pages("/on"),
        forwards(prefix("/"), places::CALLS, RouteAction::default()),
    ];
    let call = |path, headers| Case {
        method: Method::POST,
        ..ask(path, headers)
    };
    site(
        "calls of pages",
        "pages-call.test",
        routes,
        &[
            (
                call(
                    "/on",
                    &[
                        ("content-type", "application/grpc-web+proto"),
                        ("accept", "application/grpc-web+proto"),
                        (WISH, "grpc"),
                    ],
                ),
                &[
                    Expect::Status(200),
                    Expect::Header("content-type", "application/grpc-web+proto"),
                    Expect::Says("grpc-status:0\r\n"),
                    Expect::NoHeader("grpc-status"),
                ],
            ),
            (
                call(
                    "/on",
                    &[
                        ("content-type", "application/grpc-web-text"),
                        ("accept", "application/grpc-web-text"),
                        (WISH, "grpc"),
                    ],
                ),
                &[
                    Expect::Status(200),
                    Expect::Header("content-type", "application/grpc-web-text+proto"),
                    // The flag of trailers and their length of 15 bytes.
                    Expect::Body("gAAAAA9ncnBjLXN0YXR1czowDQo="),
                ],
            ),
            (
                call(
                    "/on",
                    &[("content-type", "application/grpc-web"), (WISH, "call=5")],
                ),
                &[Expect::Status(200), Expect::Header("grpc-status", "5")],
            ),
            (
                call(
                    "/on",
                    &[("content-type", "application/grpc-web"), (WISH, "status=503")],
                ),
                &[Expect::Header("grpc-status", "14")],
            ),
            (
                call("/on", &[("content-type", "application/json")]),
                &[Expect::Says("\"content-type\":\"application/json\"")],
            ),
            (
                call("/", &[("content-type", "application/grpc-web")]),
                &[Expect::Says("\"content-type\":\"application/grpc-web\"")],
            ),
        ],
    )
}

/// Calls of gRPC itself are none of a page's. An Envoy has no trailers over HTTP/1.1.
fn calls_of_others() -> Site {
    let call = Case {
        method: Method::POST,
        ..ask("/", &[("content-type", "application/grpc"), (WISH, "grpc")])
    };
    let calls = site(
        "calls of others",
        "others-call.test",
        vec![for_pages("/")],
        &[(
            call,
            &[
                Expect::Status(200),
                Expect::Header("content-type", "application/grpc"),
                Expect::Trailer("grpc-status", "0"),
            ],
        )],
    );
    Site {
        versions: &[Version::HTTP_2],
        ..calls
    }
}
