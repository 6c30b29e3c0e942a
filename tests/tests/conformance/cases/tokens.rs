//! Tokens that let in, and their claims.

use http::Version;

use crate::case::Expect::{AnsweredBy, Body, SawSome, Status, Tries};
use crate::case::{Case, GET, Via};

pub(super) const CASES: &[Case] = &[
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
];
