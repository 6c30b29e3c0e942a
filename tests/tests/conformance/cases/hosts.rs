//! Hosts that are served and those that are not, and the operations of an API.

use http::Method;

use crate::case::Expect::{AnsweredBy, Header, Saw, Status, Tries};
use crate::case::{Case, GET, Via};

pub(super) const CASES: &[Case] = &[
    Case {
        name: "a service that is not there, through a sidecar",
        host: "nothing.shop:8080",
        expect: &[Status(404)],
        ..GET
    },
    Case {
        name: "a host that is not there, through a gateway",
        via: Via::Gateway,
        host: "nothing.example.com",
        expect: &[Status(404)],
        ..GET
    },
    Case {
        name: "a host of a gateway",
        via: Via::Gateway,
        host: "PROXY.example.com",
        path: "/exact",
        expect: &[Status(200), AnsweredBy(&["web-v2"])],
        ..GET
    },
    Case {
        name: "a host with a port",
        via: Via::Gateway,
        host: "PROXY.example.com:8080",
        expect: &[
            Status(200),
            AnsweredBy(&["web-v1"]),
            Saw("host", "PROXY.example.com:8080"),
        ],
        ..GET
    },
    Case {
        name: "a host in capitals",
        via: Via::Gateway,
        host: "PROXY.EXAMPLE.COM",
        expect: &[Status(200), AnsweredBy(&["web-v1"])],
        ..GET
    },
    Case {
        name: "an operation of an API",
        via: Via::Gateway,
        method: Method::POST,
        host: "api.PROXY.example.com",
        path: "/v1.0/items?page=1",
        expect: &[Status(200), Saw("path", "/v1.0/items?page=1")],
        ..GET
    },
    Case {
        name: "an operation with a parameter in its path",
        via: Via::Gateway,
        method: Method::DELETE,
        host: "api.PROXY.example.com",
        path: "/v1.0/items/7",
        expect: &[Status(200), Saw("path", "/v1.0/items/7")],
        ..GET
    },
    Case {
        name: "a method that no operation of the path has",
        via: Via::Gateway,
        method: Method::DELETE,
        host: "api.PROXY.example.com",
        path: "/v1.0/items",
        expect: &[Status(404), Tries(0)],
        ..GET
    },
    Case {
        name: "a parameter that is empty",
        via: Via::Gateway,
        host: "api.PROXY.example.com",
        path: "/v1.0/items/",
        expect: &[Status(404), Tries(0)],
        ..GET
    },
    Case {
        name: "a parameter of two segments",
        via: Via::Gateway,
        host: "api.PROXY.example.com",
        path: "/v1.0/items/7/parts",
        expect: &[Status(404), Tries(0)],
        ..GET
    },
    Case {
        name: "a dot of an API's path is a dot",
        via: Via::Gateway,
        host: "api.PROXY.example.com",
        path: "/v1x0/items/7",
        expect: &[Status(404), Tries(0)],
        ..GET
    },
    Case {
        name: "an API without its base path",
        via: Via::Gateway,
        host: "api.PROXY.example.com",
        path: "/items",
        expect: &[Status(404), Tries(0)],
        ..GET
    },
    Case {
        name: "a host that moved",
        via: Via::Gateway,
        host: "moved.PROXY.example.com",
        path: "/a?b=c",
        expect: &[
            Status(308),
            Header("location", "https://new.example.com:8443/a?b=c"),
        ],
        ..GET
    },
];
