//! In what our proxy differs from Envoy where the contract does not say, or says it so: each with its reason.

use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::{HeaderMatcher, RouteMatch};
use http::Version;

use super::{Difference, Site, at, prefix, says, with};
use crate::case::{Case, Expect};

const HOST: &str = "differs.test";
const BOTH: &[Version] = &[Version::HTTP_11, Version::HTTP_2];
const FIRST: &[Version] = &[Version::HTTP_11];

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
        routes: vec![
            says(identified, "identified"),
            says(prefix("/identified"), "plain"),
            says(prefix("/at"), "here"),
        ],
        asks: vec![],
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
                path: "/at",
                ..with(&[("connection", "upgrade"), ("upgrade", "websocket")])
            },
            FIRST,
            Expect::Status(403),
            Expect::Body("here"),
            "an upgrade that nobody has configured is left out, as RFC 9110, section 7.8, lets a server do",
        ),
    ];
    (site, differences)
}
