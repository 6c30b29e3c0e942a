//! What both proxies do the same.

use http::{Method, Version};
use tombolo_tests::upstream::WISH;

use crate::case::Expect::{
    AnsweredBy, Body, Bytes as BodyBytes, CopiedTo, Echo, Empty, Header, NoHeader, Saw, SawHeader, SawHost,
    SawNone, SawSome, SawStart, Says, Share, Status, Trailer, Tries,
};
use crate::case::{Case, GET, Via};

const TEN_MEGABYTES: usize = 10 << 20;

pub(crate) const CASES: &[Case] = &[
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
        name: "a request without a token",
        via: Via::Gateway,
        host: "tokens.PROXY.example.com",
        path: "/open",
        headers: &[],
        expect: &[Status(401), Body("Jwt is missing"), Tries(0)],
        ..GET
    },
    Case {
        name: "what is no token",
        via: Via::Gateway,
        host: "tokens.PROXY.example.com",
        path: "/open",
        headers: &[("authorization", "Bearer abc")],
        expect: &[
            Status(401),
            Body("Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"),
            Tries(0),
        ],
        ..GET
    },
    Case {
        name: "a token",
        via: Via::Gateway,
        host: "tokens.PROXY.example.com",
        path: "/open",
        headers: &[("authorization", r#"TOKEN {"iss": "conformance"}"#)],
        expect: &[Status(200), AnsweredBy(&["web-v1"]), SawSome("authorization")],
        ..GET
    },
    Case {
        name: "a token that is over",
        via: Via::Gateway,
        host: "tokens.PROXY.example.com",
        path: "/open",
        headers: &[(
            "authorization",
            r#"TOKEN {"iss": "conformance", "exp": 1000000000}"#,
        )],
        expect: &[Status(401), Tries(0)],
        ..GET
    },
    Case {
        name: "a token of somebody else",
        via: Via::Gateway,
        host: "tokens.PROXY.example.com",
        path: "/open",
        headers: &[("authorization", r#"TOKEN {"iss": "stranger"}"#)],
        expect: &[Status(401), Tries(0)],
        ..GET
    },
    Case {
        name: "a token of an issuer whose keys cannot be had",
        via: Via::Gateway,
        host: "tokens.PROXY.example.com",
        path: "/open",
        headers: &[("authorization", r#"TOKEN {"iss": "gone"}"#)],
        expect: &[Status(401), Tries(0)],
        ..GET
    },
    Case {
        name: "a token for others",
        via: Via::Gateway,
        host: "tokens.PROXY.example.com",
        path: "/open",
        headers: &[("authorization", r#"TOKEN {"iss": "partner", "aud": "db"}"#)],
        expect: &[Status(403), Tries(0)],
        ..GET
    },
    Case {
        name: "a token of a second issuer",
        via: Via::Gateway,
        host: "tokens.PROXY.example.com",
        path: "/open",
        headers: &[(
            "authorization",
            r#"TOKEN {"iss": "partner", "aud": ["db", "web"]}"#,
        )],
        expect: &[Status(200), AnsweredBy(&["web-v1"])],
        ..GET
    },
    Case {
        name: "claims that a rule asks for",
        via: Via::Gateway,
        host: "tokens.PROXY.example.com",
        path: "/admin/a",
        headers: &[(
            "authorization",
            r#"TOKEN {"iss": "conformance", "role": "staff", "team": ["db", "web"]}"#,
        )],
        expect: &[Status(200), AnsweredBy(&["web-v1"])],
        ..GET
    },
    Case {
        name: "only one of the claims that a rule asks for",
        via: Via::Gateway,
        host: "tokens.PROXY.example.com",
        path: "/admin",
        headers: &[(
            "authorization",
            r#"TOKEN {"iss": "conformance", "role": "staff"}"#,
        )],
        expect: &[Status(403), Body("RBAC: access denied"), Tries(0)],
        ..GET
    },
    Case {
        name: "a claim of another value",
        via: Via::Gateway,
        host: "tokens.PROXY.example.com",
        path: "/admin",
        headers: &[(
            "authorization",
            r#"TOKEN {"iss": "conformance", "role": "guest", "team": "web"}"#,
        )],
        expect: &[Status(403), Body("RBAC: access denied"), Tries(0)],
        ..GET
    },
    Case {
        name: "one of the words of a scope",
        via: Via::Gateway,
        host: "tokens.PROXY.example.com",
        path: "/read",
        headers: &[(
            "authorization",
            r#"TOKEN {"iss": "conformance", "scope": "write read"}"#,
        )],
        expect: &[Status(200), AnsweredBy(&["web-v1"])],
        ..GET
    },
    Case {
        name: "none of the words of a scope",
        via: Via::Gateway,
        host: "tokens.PROXY.example.com",
        path: "/read",
        headers: &[(
            "authorization",
            r#"TOKEN {"iss": "conformance", "scope": "write reader"}"#,
        )],
        expect: &[Status(403), Body("RBAC: access denied"), Tries(0)],
        ..GET
    },
    Case {
        name: "a claim from the wrong place",
        via: Via::Gateway,
        host: "tokens.PROXY.example.com",
        path: "/",
        headers: &[(
            "authorization",
            r#"TOKEN {"iss": "conformance", "role": "admin"}"#,
        )],
        expect: &[Status(403), Body("RBAC: access denied"), Tries(0)],
        ..GET
    },
    Case {
        name: "a claim that is denied",
        via: Via::Gateway,
        host: "tokens.PROXY.example.com",
        path: "/open",
        headers: &[(
            "authorization",
            r#"TOKEN {"iss": "conformance", "sub": "mallory"}"#,
        )],
        expect: &[Status(403), Body("RBAC: access denied"), Tries(0)],
        ..GET
    },
    Case {
        name: "a token, over HTTP/2",
        via: Via::Gateway,
        host: "tokens.PROXY.example.com",
        path: "/open",
        version: Version::HTTP_2,
        headers: &[("authorization", r#"TOKEN {"iss": "conformance"}"#)],
        expect: &[Status(200), AnsweredBy(&["web-v1"])],
        ..GET
    },
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
    Case {
        name: "a rule that cannot be had answers with the reason",
        path: "/broken",
        expect: &[Status(503), Says("v3")],
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
    Case {
        name: "HEAD has no body",
        method: Method::HEAD,
        path: "/exact",
        expect: &[Status(200), AnsweredBy(&["web-v2"]), Empty],
        ..GET
    },
];
