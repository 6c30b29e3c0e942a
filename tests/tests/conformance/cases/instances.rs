//! Which instance is asked, which one next, and for how long.

use http::Method;
use tombolo_tests::upstream::WISH;

use crate::case::Expect::{AnsweredBy, Echo, NoHeader, SawHeader, Share, Status, Tries};
use crate::case::{Case, GET, Via};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "a session by header finds its instance",
        via: Via::Gateway,
        host: "PROXY.example.com",
        path: "/session",
        headers: &[("x-session", "ana")],
        times: 20,
        expect: &[Status(200), AnsweredBy(&["pair-a"]), NoHeader("set-cookie")],
        ..GET
    },
    Case {
        name: "another session finds its own",
        via: Via::Gateway,
        host: "PROXY.example.com",
        path: "/session",
        headers: &[("x-session", "dora")],
        times: 20,
        expect: &[Status(200), AnsweredBy(&["pair-b"])],
        ..GET
    },
    Case {
        name: "a session by cookie finds the instance of its value",
        via: Via::Gateway,
        host: "PROXY.example.com",
        path: "/session/cookie",
        headers: &[("cookie", "other=ana; cart=dora")],
        times: 20,
        expect: &[Status(200), AnsweredBy(&["pair-b"]), NoHeader("set-cookie")],
        ..GET
    },
    Case {
        name: "weights",
        path: "/split",
        times: 1000,
        // Six standard deviations of 1.3 %.
        expect: &[Status(200), Share("web-v1", (72, 88)), Share("web-v2", (12, 28))],
        ..GET
    },
    Case {
        name: "a header comes before weights",
        path: "/split",
        headers: &[("x-variant", "two")],
        times: 50,
        expect: &[Status(200), AnsweredBy(&["web-v2"])],
        ..GET
    },
    Case {
        name: "a refused connection is tried on another host",
        host: "pair.shop:8080",
        times: 20,
        dies: Some("pair-b"),
        expect: &[Status(200), AnsweredBy(&["pair-a"])],
        ..GET
    },
    Case {
        name: "a refused connection is tried on another host for POST too",
        method: Method::POST,
        host: "pair.shop:8080",
        headers: &[(WISH, "echo")],
        body_bytes: 1000,
        times: 20,
        dies: Some("pair-a"),
        expect: &[Status(200), AnsweredBy(&["pair-b"]), Echo],
        ..GET
    },
    Case {
        name: "a 503 is tried on another host for GET",
        host: "pair.shop:8080",
        headers: &[(WISH, "first=503")],
        times: 10,
        expect: &[Status(200), Tries(2)],
        ..GET
    },
    Case {
        name: "a 503 is final for POST",
        method: Method::POST,
        host: "pair.shop:8080",
        headers: &[(WISH, "first=503")],
        times: 10,
        expect: &[Status(503), Tries(1)],
        ..GET
    },
    Case {
        name: "another error is final",
        host: "pair.shop:8080",
        headers: &[(WISH, "status=500")],
        expect: &[Status(500), Tries(1)],
        ..GET
    },
    Case {
        name: "a request that takes too long",
        path: "/slow",
        headers: &[(WISH, "hang")],
        expect: &[Status(504)],
        ..GET
    },
    Case {
        name: "the local service dies, another cluster answers",
        host: "far.shop:8080",
        times: 20,
        dies: Some("far-local"),
        expect: &[
            Status(200),
            AnsweredBy(&["far-gateway"]),
            SawHeader("x-tombolo-destination", "far.shop:8080"),
        ],
        ..GET
    },
    Case {
        name: "hosts that are down or dead get nothing",
        host: "half.shop:8080",
        times: 50,
        expect: &[Status(200), AnsweredBy(&["half-up"]), Tries(1)],
        ..GET
    },
];
