//! What pages of other origins may do (CORS).

use http::{Method, Version};
use tombolo_tests::upstream::WISH;

use crate::case::Expect::{AnsweredBy, Echo, Empty, Header, NoHeader, Status, Tries};
use crate::case::{Case, GET, Via};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "a page of another origin may read",
        via: Via::Gateway,
        host: "pages.PROXY.example.com",
        headers: &[("origin", "https://pages.example.com")],
        expect: &[
            Status(200),
            AnsweredBy(&["web-v1"]),
            Header("access-control-allow-origin", "https://pages.example.com"),
            Header("access-control-allow-credentials", "true"),
            Header("access-control-expose-headers", "x-b"),
            NoHeader("access-control-allow-methods"),
        ],
        ..GET
    },
    Case {
        name: "a page of another origin may read over HTTP/2",
        via: Via::Gateway,
        version: Version::HTTP_2,
        host: "pages.PROXY.example.com",
        headers: &[("origin", "https://pages.example.com")],
        expect: &[
            Status(200),
            Header("access-control-allow-origin", "https://pages.example.com"),
            Header("access-control-expose-headers", "x-b"),
        ],
        ..GET
    },
    Case {
        name: "a page of another origin may send and read",
        via: Via::Gateway,
        method: Method::POST,
        host: "pages.PROXY.example.com",
        headers: &[("origin", "https://pages.example.com"), (WISH, "echo")],
        body_bytes: 10_000,
        expect: &[
            Status(200),
            Echo,
            Header("access-control-allow-origin", "https://pages.example.com"),
        ],
        ..GET
    },
    Case {
        name: "the port is of the origin",
        via: Via::Gateway,
        host: "pages.PROXY.example.com",
        headers: &[("origin", "https://a.example.com:8443")],
        expect: &[
            Status(200),
            Header("access-control-allow-origin", "https://a.example.com:8443"),
        ],
        ..GET
    },
    Case {
        name: "a page of an unknown origin is told nothing",
        via: Via::Gateway,
        host: "pages.PROXY.example.com",
        headers: &[("origin", "https://other.example.com")],
        expect: &[
            Status(200),
            AnsweredBy(&["web-v1"]),
            NoHeader("access-control-allow-origin"),
            NoHeader("access-control-allow-credentials"),
        ],
        ..GET
    },
    Case {
        name: "an origin has a case",
        via: Via::Gateway,
        host: "pages.PROXY.example.com",
        headers: &[("origin", "https://Pages.example.com")],
        expect: &[Status(200), NoHeader("access-control-allow-origin")],
        ..GET
    },
    Case {
        name: "two origins are none",
        via: Via::Gateway,
        host: "pages.PROXY.example.com",
        headers: &[
            ("origin", "https://pages.example.com"),
            ("origin", "https://pages.example.com"),
        ],
        expect: &[Status(200), NoHeader("access-control-allow-origin")],
        ..GET
    },
    Case {
        name: "no page, no word",
        via: Via::Gateway,
        host: "pages.PROXY.example.com",
        expect: &[Status(200), NoHeader("access-control-allow-origin")],
        ..GET
    },
    Case {
        name: "a preflight is answered by the proxy",
        via: Via::Gateway,
        method: Method::OPTIONS,
        host: "pages.PROXY.example.com",
        headers: &[
            ("origin", "https://pages.example.com"),
            ("access-control-request-method", "POST"),
        ],
        expect: &[
            Status(200),
            Empty,
            Tries(0),
            Header("access-control-allow-origin", "https://pages.example.com"),
            Header("access-control-allow-methods", "GET,POST"),
            Header("access-control-allow-headers", "content-type,x-a"),
            Header("access-control-max-age", "600"),
            Header("access-control-allow-credentials", "true"),
            NoHeader("content-type"),
        ],
        ..GET
    },
    Case {
        name: "a preflight over HTTP/2",
        via: Via::Gateway,
        version: Version::HTTP_2,
        method: Method::OPTIONS,
        host: "pages.PROXY.example.com",
        headers: &[
            ("origin", "https://pages.example.com"),
            ("access-control-request-method", "POST"),
        ],
        expect: &[
            Status(200),
            Empty,
            Tries(0),
            Header("access-control-allow-origin", "https://pages.example.com"),
        ],
        ..GET
    },
    Case {
        name: "a preflight of an unknown origin is forwarded",
        via: Via::Gateway,
        method: Method::OPTIONS,
        host: "pages.PROXY.example.com",
        headers: &[
            ("origin", "https://other.example.com"),
            ("access-control-request-method", "POST"),
        ],
        expect: &[
            Status(200),
            Tries(1),
            NoHeader("access-control-allow-origin"),
            NoHeader("access-control-allow-methods"),
        ],
        ..GET
    },
    Case {
        name: "OPTIONS that asks for no method is forwarded",
        via: Via::Gateway,
        method: Method::OPTIONS,
        host: "pages.PROXY.example.com",
        headers: &[("origin", "https://pages.example.com")],
        expect: &[
            Status(200),
            Tries(1),
            Header("access-control-allow-origin", "https://pages.example.com"),
            NoHeader("access-control-allow-methods"),
        ],
        ..GET
    },
    Case {
        name: "a request that names a method is no preflight",
        via: Via::Gateway,
        host: "pages.PROXY.example.com",
        headers: &[
            ("origin", "https://pages.example.com"),
            ("access-control-request-method", "POST"),
        ],
        expect: &[
            Status(200),
            Tries(1),
            Header("access-control-allow-origin", "https://pages.example.com"),
            NoHeader("access-control-allow-methods"),
        ],
        ..GET
    },
    Case {
        name: "a redirect says nothing to pages",
        via: Via::Gateway,
        host: "pages.PROXY.example.com",
        path: "/redirect/secure",
        headers: &[("origin", "https://pages.example.com")],
        expect: &[Status(301), NoHeader("access-control-allow-origin")],
        ..GET
    },
    Case {
        name: "an error that the proxy makes may be read",
        via: Via::Gateway,
        host: "pages.PROXY.example.com",
        path: "/slow",
        headers: &[("origin", "https://pages.example.com"), (WISH, "hang")],
        expect: &[
            Status(504),
            Header("access-control-allow-origin", "https://pages.example.com"),
        ],
        ..GET
    },
    Case {
        name: "what the application says of other origins is not heard",
        via: Via::Gateway,
        host: "open.PROXY.example.com",
        headers: &[("origin", "https://any.example.com"), (WISH, "cors")],
        expect: &[
            Status(200),
            Header("access-control-allow-origin", "https://any.example.com"),
            NoHeader("access-control-allow-credentials"),
            Header("vary", "origin"),
        ],
        ..GET
    },
    Case {
        name: "an unknown origin does not hear the application either",
        via: Via::Gateway,
        host: "pages.PROXY.example.com",
        headers: &[("origin", "https://other.example.com"), (WISH, "cors")],
        expect: &[
            Status(200),
            NoHeader("access-control-allow-origin"),
            NoHeader("access-control-allow-credentials"),
        ],
        ..GET
    },
    Case {
        name: "an origin below a name",
        via: Via::Gateway,
        host: "below.PROXY.example.com",
        headers: &[("origin", "https://a.b.example.com")],
        expect: &[
            Status(200),
            Header("access-control-allow-origin", "https://a.b.example.com"),
        ],
        ..GET
    },
    Case {
        name: "an origin that only ends like it",
        via: Via::Gateway,
        host: "below.PROXY.example.com",
        headers: &[("origin", "https://evil.com/.example.com")],
        expect: &[Status(200), NoHeader("access-control-allow-origin")],
        ..GET
    },
    Case {
        name: "a preflight for any headers",
        via: Via::Gateway,
        host: "below.PROXY.example.com",
        method: Method::OPTIONS,
        headers: &[
            ("origin", "https://a.example.com"),
            ("access-control-request-method", "PUT"),
            ("access-control-request-headers", "x-a,authorization"),
        ],
        expect: &[
            Status(200),
            Empty,
            Header("access-control-allow-headers", "x-a,authorization"),
        ],
        ..GET
    },
    Case {
        name: "a page may read that it was refused",
        via: Via::Gateway,
        host: "guarded.PROXY.example.com",
        headers: &[("origin", "https://pages.example.com")],
        expect: &[
            Status(403),
            Header("access-control-allow-origin", "https://pages.example.com"),
        ],
        ..GET
    },
    Case {
        name: "a preflight asks for no permission",
        via: Via::Gateway,
        host: "guarded.PROXY.example.com",
        method: Method::OPTIONS,
        headers: &[
            ("origin", "https://pages.example.com"),
            ("access-control-request-method", "GET"),
        ],
        expect: &[Status(200), Empty],
        ..GET
    },
    Case {
        name: "any origin is told its own name",
        via: Via::Gateway,
        host: "open.PROXY.example.com",
        headers: &[("origin", "https://any.example.com")],
        expect: &[
            Status(200),
            Header("access-control-allow-origin", "https://any.example.com"),
            NoHeader("access-control-allow-credentials"),
        ],
        ..GET
    },
    Case {
        name: "a preflight of any origin",
        via: Via::Gateway,
        method: Method::OPTIONS,
        host: "open.PROXY.example.com",
        headers: &[("origin", "null"), ("access-control-request-method", "POST")],
        expect: &[
            Status(200),
            Tries(0),
            Header("access-control-allow-origin", "null"),
            NoHeader("access-control-allow-methods"),
            NoHeader("access-control-max-age"),
        ],
        ..GET
    },
];
