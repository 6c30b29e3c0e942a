//! What a rule does to a request besides: copies, faults, headers, rewrites, redirects.

use http::{Method, Version};
use tombolo_tests::upstream::WISH;

use crate::case::Expect::{
    AnsweredBy, CopiedTo, Echo, Empty, Header, NoHeader, Saw, SawHeader, SawHost, SawNone, Says, Share,
    Status, Tries,
};
use crate::case::{Case, GET, Via};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "a copy of a request",
        path: "/mirror",
        times: 5,
        expect: &[Status(200), AnsweredBy(&["web-v1"]), CopiedTo("web-v2")],
        ..GET
    },
    Case {
        name: "a copy of a request with a body",
        version: Version::HTTP_2,
        method: Method::POST,
        path: "/mirror",
        headers: &[(WISH, "echo")],
        body_bytes: 10_000,
        expect: &[Status(200), AnsweredBy(&["web-v1"]), Echo, CopiedTo("web-v2")],
        ..GET
    },
    Case {
        name: "copies for a gateway and for its service",
        via: Via::Gateway,
        host: "PROXY.example.com",
        path: "/mirror",
        expect: &[
            Status(200),
            AnsweredBy(&["web-v1"]),
            CopiedTo("web-v2"),
            CopiedTo("far-local"),
        ],
        ..GET
    },
    Case {
        name: "no copy of no percent",
        path: "/mirror/never",
        times: 20,
        expect: &[Status(200), AnsweredBy(&["web-v1"]), Tries(1)],
        ..GET
    },
    Case {
        name: "an error on purpose",
        path: "/fault/abort",
        times: 5,
        expect: &[Status(429), Says("fault filter abort"), Tries(0)],
        ..GET
    },
    Case {
        name: "a gateway's fault comes before its service's",
        via: Via::Gateway,
        host: "PROXY.example.com",
        path: "/fault/abort/gateway",
        expect: &[Status(451), Tries(0)],
        ..GET
    },
    Case {
        name: "a gateway's request meets the fault of its service",
        via: Via::Gateway,
        host: "PROXY.example.com",
        path: "/fault/abort",
        expect: &[Status(429), Tries(0)],
        ..GET
    },
    Case {
        name: "an error on purpose for some",
        path: "/fault/half",
        times: 1000,
        // Six standard deviations of 1.6 %.
        expect: &[Share("web-v1", (40, 60)), Share("", (40, 60))],
        ..GET
    },
    Case {
        name: "a delay on purpose is not of the timeout",
        path: "/fault/delay",
        expect: &[Status(200), AnsweredBy(&["web-v1"])],
        ..GET
    },
    Case {
        name: "headers set, added and removed",
        path: "/headers",
        headers: &[("x-set", "old"), ("x-add", "some"), ("x-remove", "gone")],
        expect: &[
            Status(200),
            SawHeader("x-set", "100%"),
            SawHeader("x-add", "some,more"),
            SawNone("gone"),
            Header("x-route", "filtered"),
            NoHeader("content-type"),
        ],
        ..GET
    },
    Case {
        name: "a prefix of the path is replaced",
        path: "/rewrite/prefix/a?b=c",
        expect: &[Status(200), Saw("path", "/new/a?b=c")],
        ..GET
    },
    Case {
        name: "a path that is the prefix is replaced",
        path: "/rewrite/prefix",
        expect: &[Status(200), Saw("path", "/new")],
        ..GET
    },
    Case {
        name: "a prefix of the path is taken away",
        path: "/rewrite/root/a",
        expect: &[Status(200), Saw("path", "/a")],
        ..GET
    },
    Case {
        name: "a path that is the prefix is taken away",
        path: "/rewrite/root",
        expect: &[Status(200), Saw("path", "/")],
        ..GET
    },
    Case {
        name: "the whole path and the host are replaced",
        path: "/rewrite/whole/a?b=c",
        expect: &[
            Status(200),
            Saw("path", "/whole?b=c"),
            SawHost("other.example.com"),
        ],
        ..GET
    },
    Case {
        name: "a gateway's request meets the rewrite of its service",
        via: Via::Gateway,
        host: "PROXY.example.com",
        path: "/rewrite/prefix/a",
        expect: &[Status(200), Saw("path", "/new/a")],
        ..GET
    },
    Case {
        name: "a redirect to another scheme",
        path: "/redirect/secure/a?b=c",
        expect: &[
            Status(301),
            Header("location", "https://web.shop:8080/redirect/secure/a?b=c"),
            Empty,
        ],
        ..GET
    },
    Case {
        name: "a redirect to another host, port and path",
        path: "/redirect/elsewhere/a?b=c",
        expect: &[
            Status(308),
            Header("location", "http://elsewhere.example.com:8443/there?b=c"),
        ],
        ..GET
    },
    Case {
        name: "a redirect to another prefix",
        path: "/redirect/prefix/a",
        expect: &[Status(307), Header("location", "http://web.shop:8080/moved/a")],
        ..GET
    },
    Case {
        name: "a rule that cannot be had answers with the reason",
        path: "/broken",
        expect: &[Status(503), Says("v3")],
        ..GET
    },
];
