//! Limits of requests. Each case finds what those before it have left.

use http::{Method, Version};

use crate::case::Expect::{Header, NoHeader, Says, Share, Status, Tries};
use crate::case::{Case, GET, Via};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "so many requests and no more",
        via: Via::Gateway,
        host: "limited.PROXY.example.com",
        times: 100,
        expect: &[Share("web-v1", (30, 30)), Share("", (70, 70))],
        ..GET
    },
    Case {
        name: "one request too many",
        via: Via::Gateway,
        host: "limited.PROXY.example.com",
        times: 5,
        expect: &[
            Status(429),
            Says("local_rate_limited"),
            Tries(0),
            Header("content-type", "text/plain"),
            NoHeader("x-envoy-ratelimited"),
            NoHeader("retry-after"),
        ],
        ..GET
    },
    Case {
        name: "one request too many over HTTP/2",
        via: Via::Gateway,
        version: Version::HTTP_2,
        host: "limited.PROXY.example.com",
        expect: &[Status(429), Says("local_rate_limited"), Tries(0)],
        ..GET
    },
    Case {
        name: "one request with a body too many",
        via: Via::Gateway,
        method: Method::POST,
        host: "limited.PROXY.example.com",
        body_bytes: 10_000,
        expect: &[Status(429), Tries(0)],
        ..GET
    },
    Case {
        name: "a page may read that it was one request too many",
        via: Via::Gateway,
        host: "limited.PROXY.example.com",
        headers: &[("origin", "https://pages.example.com")],
        expect: &[
            Status(429),
            Header("access-control-allow-origin", "https://pages.example.com"),
        ],
        ..GET
    },
    Case {
        name: "a preflight is not counted",
        via: Via::Gateway,
        method: Method::OPTIONS,
        host: "limited.PROXY.example.com",
        headers: &[
            ("origin", "https://pages.example.com"),
            ("access-control-request-method", "POST"),
        ],
        expect: &[
            Status(200),
            Tries(0),
            Header("access-control-allow-origin", "https://pages.example.com"),
        ],
        ..GET
    },
    Case {
        name: "a redirect is counted",
        via: Via::Gateway,
        host: "limited.PROXY.example.com",
        path: "/redirect/secure",
        expect: &[Status(429)],
        ..GET
    },
    Case {
        name: "another host has its own limit, or none",
        via: Via::Gateway,
        host: "pages.PROXY.example.com",
        times: 5,
        expect: &[Status(200)],
        ..GET
    },
];
