//! Versions of HTTP, bodies of both sizes, and the headers that a proxy adds or takes away.

use http::{Method, Version};
use tombolo_tests::upstream::WISH;

use crate::case::Expect::{
    AnsweredBy, Body, Bytes as BodyBytes, Echo, Empty, Saw, SawNone, SawSome, SawStart, Status, Trailer,
};
use crate::case::{Case, GET, Via};

const TEN_MEGABYTES: usize = 10 << 20;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "an application is asked for a WebSocket, and need not take it",
        headers: &[
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            (WISH, "status=403"),
        ],
        expect: &[Status(403), Body("status 403 as wished")],
        ..GET
    },
    Case {
        name: "HTTP/2 in, HTTP/1.1 out",
        version: Version::HTTP_2,
        path: "/exact",
        expect: &[
            Status(200),
            AnsweredBy(&["web-v2"]),
            Saw("version", "HTTP/1.1"),
            Saw("host", "web.shop:8080"),
        ],
        ..GET
    },
    Case {
        name: "HTTP/1.1 in, HTTP/2 out",
        host: "grpc.shop:9090",
        expect: &[
            Status(200),
            Saw("version", "HTTP/2.0"),
            Saw("host", "grpc.shop:9090"),
        ],
        ..GET
    },
    Case {
        name: "HTTP/2 in and out, with trailers",
        version: Version::HTTP_2,
        method: Method::POST,
        host: "grpc.shop:9090",
        headers: &[(WISH, "trailers"), ("te", "trailers")],
        body_bytes: 100,
        expect: &[Status(200), Saw("version", "HTTP/2.0"), Trailer("x-end", "yes")],
        ..GET
    },
    Case {
        name: "ten megabytes there and back",
        method: Method::POST,
        headers: &[(WISH, "echo")],
        body_bytes: TEN_MEGABYTES,
        expect: &[Status(200), BodyBytes(TEN_MEGABYTES), Echo],
        ..GET
    },
    Case {
        name: "ten megabytes there and back over HTTP/2",
        version: Version::HTTP_2,
        method: Method::POST,
        host: "grpc.shop:9090",
        headers: &[(WISH, "echo")],
        body_bytes: TEN_MEGABYTES,
        expect: &[Status(200), BodyBytes(TEN_MEGABYTES), Echo],
        ..GET
    },
    Case {
        name: "ten megabytes of answer",
        headers: &[(WISH, "bytes=10485760")],
        expect: &[Status(200), BodyBytes(TEN_MEGABYTES)],
        ..GET
    },
    Case {
        name: "a request gets an id and tells where it came from",
        headers: &[("x-forwarded-for", "10.1.2.3")],
        expect: &[
            Status(200),
            SawSome("x-request-id"),
            // Envoy names its own address where a client is on loopback.
            SawStart("x-forwarded-for", "10.1.2.3,"),
        ],
        ..GET
    },
    Case {
        name: "an application cannot name its destination",
        headers: &[("x-tombolo-destination", "secrets.other:80")],
        expect: &[Status(200), AnsweredBy(&["web-v1"]), SawNone("secrets.other:80")],
        ..GET
    },
    Case {
        name: "an outsider cannot name the destination either",
        via: Via::Gateway,
        host: "PROXY.example.com",
        headers: &[("x-tombolo-destination", "secrets.other:80")],
        expect: &[Status(200), AnsweredBy(&["web-v1"]), SawNone("secrets.other:80")],
        ..GET
    },
    Case {
        name: "HEAD has no body",
        method: Method::HEAD,
        path: "/exact",
        expect: &[Status(200), AnsweredBy(&["web-v2"]), Empty],
        ..GET
    },
];
