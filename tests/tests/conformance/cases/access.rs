//! Paths, methods and addresses that are open, and what only looks like them.

use http::{Method, Version};

use crate::case::Expect::{AnsweredBy, Body, Status, Tries};
use crate::case::{Case, GET, Via};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "a path that is open",
        via: Via::Gateway,
        host: "guarded.PROXY.example.com",
        path: "/open",
        expect: &[Status(200), AnsweredBy(&["web-v1"])],
        ..GET
    },
    Case {
        name: "a path below one that is open",
        via: Via::Gateway,
        host: "guarded.PROXY.example.com",
        path: "/open/a?b",
        expect: &[Status(200), AnsweredBy(&["web-v1"])],
        ..GET
    },
    Case {
        name: "a path below one that is open, over HTTP/2",
        via: Via::Gateway,
        host: "guarded.PROXY.example.com",
        path: "/open/a?b",
        version: Version::HTTP_2,
        expect: &[Status(200), AnsweredBy(&["web-v1"])],
        ..GET
    },
    Case {
        name: "a path that only begins like one that is open",
        via: Via::Gateway,
        host: "guarded.PROXY.example.com",
        path: "/opening",
        expect: &[Status(403), Body("RBAC: access denied"), Tries(0)],
        ..GET
    },
    Case {
        name: "a path that is not open",
        via: Via::Gateway,
        host: "guarded.PROXY.example.com",
        path: "/",
        expect: &[Status(403), Body("RBAC: access denied"), Tries(0)],
        ..GET
    },
    Case {
        name: "a path that is not open, over HTTP/2",
        via: Via::Gateway,
        host: "guarded.PROXY.example.com",
        path: "/",
        version: Version::HTTP_2,
        expect: &[Status(403), Body("RBAC: access denied"), Tries(0)],
        ..GET
    },
    Case {
        name: "a method that is not open",
        via: Via::Gateway,
        host: "guarded.PROXY.example.com",
        path: "/open",
        method: Method::POST,
        expect: &[Status(403), Body("RBAC: access denied"), Tries(0)],
        ..GET
    },
    Case {
        name: "a path that is denied within one that is open",
        via: Via::Gateway,
        host: "guarded.PROXY.example.com",
        path: "/open/not/a",
        expect: &[Status(403), Body("RBAC: access denied"), Tries(0)],
        ..GET
    },
    Case {
        name: "a denied path in another spelling",
        via: Via::Gateway,
        host: "guarded.PROXY.example.com",
        path: "/open/x/../%6eot",
        expect: &[Status(403), Body("RBAC: access denied"), Tries(0)],
        ..GET
    },
    Case {
        name: "a path out of one that is open",
        via: Via::Gateway,
        host: "guarded.PROXY.example.com",
        path: "/open/../secret",
        expect: &[Status(403), Body("RBAC: access denied"), Tries(0)],
        ..GET
    },
    Case {
        name: "an address that is near",
        via: Via::Gateway,
        host: "guarded.PROXY.example.com",
        path: "/near",
        method: Method::PUT,
        expect: &[Status(200), AnsweredBy(&["web-v1"])],
        ..GET
    },
    Case {
        name: "who was connected to somebody before is not asked",
        via: Via::Gateway,
        host: "guarded.PROXY.example.com",
        path: "/",
        headers: &[("x-forwarded-for", "192.0.2.1")],
        expect: &[Status(403), Body("RBAC: access denied"), Tries(0)],
        ..GET
    },
    Case {
        name: "an empty segment is not read as none",
        via: Via::Gateway,
        host: "guarded.PROXY.example.com",
        path: "/open//not",
        expect: &[Status(403), Body("RBAC: access denied"), Tries(0)],
        ..GET
    },
    Case {
        name: "an escaped slash is not read as one",
        via: Via::Gateway,
        host: "guarded.PROXY.example.com",
        path: "/open/%2E%2E%2Fsecret",
        expect: &[Status(403), Body("RBAC: access denied"), Tries(0)],
        ..GET
    },
    Case {
        name: "an escaped slash in small letters",
        via: Via::Gateway,
        host: "guarded.PROXY.example.com",
        path: "/open%2fnot",
        expect: &[Status(403), Body("RBAC: access denied"), Tries(0)],
        ..GET
    },
    Case {
        name: "an escaped backslash is not read as a slash",
        via: Via::Gateway,
        host: "guarded.PROXY.example.com",
        path: "/open%5cnot",
        expect: &[Status(403), Body("RBAC: access denied"), Tries(0)],
        ..GET
    },
    Case {
        name: "a parameter of a segment is not overlooked",
        via: Via::Gateway,
        host: "guarded.PROXY.example.com",
        path: "/open/not%3Ba/b",
        expect: &[Status(403), Body("RBAC: access denied"), Tries(0)],
        ..GET
    },
    Case {
        name: "other escapes pass",
        via: Via::Gateway,
        host: "guarded.PROXY.example.com",
        path: "/open/a%20b",
        expect: &[Status(200), AnsweredBy(&["web-v1"])],
        ..GET
    },
    Case {
        name: "nobody is let in",
        via: Via::Gateway,
        host: "shut.PROXY.example.com",
        path: "/",
        expect: &[Status(403), Body("RBAC: access denied"), Tries(0)],
        ..GET
    },
];
