//! In what our proxy differs from Envoy where the contract does not say, or says it so: each with its reason.

use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_action::ClusterSpecifier;
use envoy_types::pb::envoy::config::route::v3::{HeaderMatcher, Route, RouteAction, RouteMatch};
use http::{Method, Version};
use tombolo_tests::ads::contract;
use tombolo_tests::upstream::WISH;

use super::pages::for_pages;
use super::trouble::ten_bytes;
use super::{BOTH, Difference, Site, at, prefix, says, with};
use crate::case::{Case, Expect, GET};

const HOST: &str = "differs.test";
const FIRST: &[Version] = &[Version::HTTP_11];
const SECOND: &[Version] = &[Version::HTTP_2];

pub(super) fn site() -> (Site, Vec<Difference>) {
    let identified = RouteMatch {
        headers: vec![HeaderMatcher {
            name: "x-request-id".to_owned(),
            header_match_specifier: Some(HeaderMatchSpecifier::PresentMatch(true)),
            ..HeaderMatcher::default()
        }],
        ..prefix("/identified")
    };
    let site = Site {
        name: "differences",
        domains: vec![HOST.to_owned()],
        versions: BOTH,
        routes: vec![
            says(identified, "identified"),
            says(prefix("/identified"), "plain"),
            says(prefix("/at"), "here"),
            for_pages("/page-call"),
            ten_bytes("/limited"),
            Route {
                r#match: Some(prefix("/application")),
                action: Some(Action::Route(RouteAction {
                    cluster_specifier: Some(ClusterSpecifier::Cluster(contract::NAME.to_owned())),
                    ..RouteAction::default()
                })),
                ..Route::default()
            },
        ],
        asks: vec![],
    };
    let page_call = |headers| Case {
        path: "/page-call",
        method: Method::POST,
        ..with(headers)
    };
    let long = |path| Case {
        path,
        method: Method::POST,
        body_bytes: 11,
        ..GET
    };
    let difference = |case, versions, envoy, ours, reason| Difference {
        host: HOST.to_owned(),
        case,
        versions,
        envoy,
        ours,
        reason,
    };
    let differences = vec![
        difference(
            at("/identified"),
            BOTH,
            Expect::Body("identified"),
            Expect::Body("plain"),
            "routes see what the client has sent, not what the proxy adds to it",
        ),
        difference(
            at("/nowhere"),
            BOTH,
            Expect::Empty,
            Expect::Body("no route"),
            "whoever gets a 404 is told that it is not the application's",
        ),
        difference(
            at("http://elsewhere.test/at"),
            FIRST,
            Expect::Status(404),
            Expect::Status(400),
            "a target that names another host than the host line is read in two ways by those on its way",
        ),
        difference(
            Case {
                path: "/application",
                ..with(&[("connection", "upgrade"), ("upgrade", "websocket")])
            },
            FIRST,
            Expect::Empty,
            Expect::Says("\"upgrade\":\"websocket\""),
            "a host that does not take an upgrade answers the request as it is, RFC 9110, section 7.8, with its body",
        ),
        difference(
            page_call(&[("content-type", "application/grpc-web"), (WISH, "status=503")]),
            BOTH,
            Expect::Status(503),
            Expect::Status(200),
            "a call's failure is what grpc-status says, also where its host has answered something else",
        ),
        difference(
            Case {
                path: "/application",
                ..with(&[("x-request-id", "11111111-2222-4333-8444-555555555555")])
            },
            BOTH,
            Expect::SawNone("11111111-2222-4333-8444-555555555555"),
            Expect::SawHeader("x-request-id", "11111111-2222-4333-8444-555555555555"),
            "who gives a request an id finds it again by that",
        ),
        difference(
            at("/application%zz"),
            BOTH,
            Expect::Saw("path", "/application%zz"),
            Expect::Status(400),
            "a path that escapes nothing may be read in two ways by those behind",
        ),
        difference(
            long("/limited"),
            SECOND,
            Expect::Status(200),
            Expect::Status(413),
            "a body that is too long is, also when it comes whole in one frame",
        ),
    ];
    (site, differences)
}
