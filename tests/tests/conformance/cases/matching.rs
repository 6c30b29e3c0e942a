//! What a request is matched by: its path, method, query, headers and cookies.

use http::{Method, Version};

use crate::case::Expect::{AnsweredBy, Saw, SawHeader, SawNone, Status};
use crate::case::{Case, GET, Via};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "an exact path",
        path: "/exact?with=query",
        expect: &[
            Status(200),
            AnsweredBy(&["web-v2"]),
            Saw("path", "/exact?with=query"),
        ],
        ..GET
    },
    Case {
        name: "below an exact path is another path",
        path: "/exact/more",
        expect: &[Status(200), AnsweredBy(&["web-v1"])],
        ..GET
    },
    Case {
        name: "a prefix matches itself and whole segments",
        path: "/prefix/more",
        expect: &[Status(200), AnsweredBy(&["web-v2"])],
        ..GET
    },
    Case {
        name: "a prefix does not match half a segment",
        path: "/prefixed",
        expect: &[Status(200), AnsweredBy(&["web-v1"])],
        ..GET
    },
    Case {
        name: "a header",
        headers: &[("X-Variant", "two")],
        expect: &[Status(200), AnsweredBy(&["web-v2"])],
        ..GET
    },
    Case {
        name: "another value of the header",
        headers: &[("x-variant", "Two")],
        expect: &[Status(200), AnsweredBy(&["web-v1"])],
        ..GET
    },
    Case {
        name: "a method",
        method: Method::POST,
        path: "/method",
        expect: &[Status(200), AnsweredBy(&["web-v2"])],
        ..GET
    },
    Case {
        name: "another method",
        path: "/method",
        expect: &[Status(200), AnsweredBy(&["web-v1"])],
        ..GET
    },
    Case {
        name: "a query parameter",
        path: "/query?a=b&variant=two",
        expect: &[Status(200), AnsweredBy(&["web-v2"])],
        ..GET
    },
    Case {
        name: "the first query parameter of a name decides",
        path: "/query?variant=one&variant=two",
        expect: &[Status(200), AnsweredBy(&["web-v1"])],
        ..GET
    },
    Case {
        name: "a query parameter is compared as it stands in the URL",
        path: "/query?variant=tw%6F",
        expect: &[Status(200), AnsweredBy(&["web-v1"])],
        ..GET
    },
    Case {
        name: "a path of a regular expression",
        path: "/pattern/v12/item?with=query",
        expect: &[Status(200), AnsweredBy(&["web-v2"])],
        ..GET
    },
    Case {
        name: "a regular expression matches the whole path",
        path: "/pattern/v12/item/more",
        expect: &[Status(200), AnsweredBy(&["web-v1"])],
        ..GET
    },
    Case {
        name: "a regular expression does not look at the query",
        path: "/pattern/v12?/item",
        expect: &[Status(200), AnsweredBy(&["web-v1"])],
        ..GET
    },
    Case {
        name: "the regular expressions of a gateway and of its service both match",
        via: Via::Gateway,
        host: "PROXY.example.com",
        path: "/pattern/v1/item?a=b",
        expect: &[Status(200), AnsweredBy(&["web-v2"]), SawHeader("x-by", "pattern")],
        ..GET
    },
    Case {
        name: "the regular expression of a gateway alone matches",
        via: Via::Gateway,
        host: "PROXY.example.com",
        path: "/pattern/w/item?a=b",
        expect: &[Status(200), AnsweredBy(&["web-v1"]), SawHeader("x-by", "pattern")],
        ..GET
    },
    Case {
        name: "the regular expression of a gateway does not match the query",
        via: Via::Gateway,
        host: "PROXY.example.com",
        path: "/pattern/v1?/item",
        expect: &[Status(200), AnsweredBy(&["web-v1"]), SawNone("x-by")],
        ..GET
    },
    Case {
        name: "a header of a regular expression",
        path: "/pattern",
        headers: &[("x-variant", "two")],
        expect: &[Status(200), AnsweredBy(&["web-v2"])],
        ..GET
    },
    Case {
        name: "each line of a header is looked at by itself",
        path: "/pattern",
        headers: &[("x-variant", "ten"), ("x-variant", "two")],
        expect: &[Status(200), AnsweredBy(&["web-v2"])],
        ..GET
    },
    Case {
        name: "lines of one header are not one value",
        path: "/pattern",
        headers: &[("x-variant", "ten"), ("x-variant", "2")],
        expect: &[Status(200), AnsweredBy(&["web-v1"])],
        ..GET
    },
    Case {
        name: "a regular expression matches the whole header",
        path: "/pattern",
        headers: &[("x-variant", "two!")],
        expect: &[Status(200), AnsweredBy(&["web-v1"])],
        ..GET
    },
    Case {
        name: "a query parameter of a regular expression",
        path: "/pattern?variant=ten",
        expect: &[Status(200), AnsweredBy(&["web-v2"])],
        ..GET
    },
    Case {
        name: "a regular expression matches the whole query parameter",
        path: "/pattern?variant=tens",
        expect: &[Status(200), AnsweredBy(&["web-v1"])],
        ..GET
    },
    Case {
        name: "a cookie",
        path: "/cookie",
        headers: &[("cookie", "theme=dark; variant=two")],
        expect: &[Status(200), AnsweredBy(&["web-v2"])],
        ..GET
    },
    Case {
        name: "a cookie in quotes",
        path: "/cookie",
        headers: &[("cookie", "variant=\"two\"")],
        expect: &[Status(200), AnsweredBy(&["web-v2"])],
        ..GET
    },
    Case {
        name: "the first cookie of a name decides",
        path: "/cookie",
        headers: &[("cookie", "variant=one; variant=two")],
        expect: &[Status(200), AnsweredBy(&["web-v1"])],
        ..GET
    },
    Case {
        name: "a cookie on a line of its own",
        version: Version::HTTP_2,
        path: "/cookie",
        headers: &[("cookie", "theme=dark"), ("cookie", "variant=two")],
        expect: &[Status(200), AnsweredBy(&["web-v2"])],
        ..GET
    },
    Case {
        name: "a cookie of a regular expression",
        path: "/cookie",
        headers: &[("cookie", "Group=test-7")],
        expect: &[Status(200), AnsweredBy(&["web-v2"])],
        ..GET
    },
    Case {
        name: "the name of a cookie has a case",
        path: "/cookie",
        headers: &[("cookie", "group=test-7")],
        expect: &[Status(200), AnsweredBy(&["web-v1"])],
        ..GET
    },
];
