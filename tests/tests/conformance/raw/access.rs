//! Who may ask for what: rules that allow, rules that deny, and those that are only tried.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::core::v3::CidrRange;
use envoy_types::pb::envoy::config::rbac::v3::permission::{self, Rule};
use envoy_types::pb::envoy::config::rbac::v3::principal::{self, Identifier};
use envoy_types::pb::envoy::config::rbac::v3::rbac::Action;
use envoy_types::pb::envoy::config::rbac::v3::{Permission, Policy, Principal, Rbac as Rules};
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::{HeaderMatcher, Route};
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::{Rbac, RbacPerRoute};
use envoy_types::pb::envoy::r#type::matcher::v3::path_matcher::Rule as PathRule;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{PathMatcher, StringMatcher};
use envoy_types::pb::envoy::r#type::v3::Int32Range;
use envoy_types::pb::google::protobuf::UInt32Value;
use envoy_types::util::pack_any;
use http::Method;

use super::filters::{ACCESS, told};
use super::{Site, at, passes, prefix, site, with};
use crate::case::{Case, Expect, GET};

const HOST: &str = "access.test";

pub(super) fn sites() -> Vec<Site> {
    vec![rules(), who(), shadows()]
}

fn rules() -> Site {
    let is_admin = || permission(Rule::Header(header("x-role", "admin")));
    let path = |pattern| permission(Rule::UrlPath(path_matcher(pattern)));
    let below = |text: &str| path(MatchPattern::Prefix(text.to_owned()));
    let is = |text: &str| path(MatchPattern::Exact(text.to_owned()));
    let method = |name: &str| permission(Rule::Header(header(":method", name)));
    let set = |rules| permission::Set { rules };
    let routes = vec![
        guarded("/allowed", Action::Allow, vec![is_admin()]),
        guarded("/denied", Action::Deny, vec![is_admin()]),
        guarded(
            "/paths",
            Action::Allow,
            vec![below("/paths/open"), is("/paths/one")],
        ),
        guarded(
            "/all",
            Action::Allow,
            vec![permission(Rule::AndRules(set(vec![method("GET"), is_admin()])))],
        ),
        guarded(
            "/one",
            Action::Allow,
            vec![permission(Rule::OrRules(set(vec![method("PUT"), is_admin()])))],
        ),
        guarded(
            "/not",
            Action::Allow,
            vec![permission(Rule::NotRule(Box::new(is_admin())))],
        ),
        guarded(
            "/port",
            Action::Allow,
            vec![permission(Rule::DestinationPort(8090))],
        ),
        guarded(
            "/other-port",
            Action::Allow,
            vec![permission(Rule::DestinationPort(8091))],
        ),
        guarded(
            "/range",
            Action::Allow,
            vec![permission(Rule::DestinationPortRange(Int32Range {
                start: 8000,
                end: 8090,
            }))],
        ),
        guarded(
            "/to",
            Action::Allow,
            vec![permission(Rule::DestinationIp(block("127.0.29.0", 24)))],
        ),
        told(
            passes(prefix("/nobody")),
            ACCESS,
            per_route(Some(rules_of(Action::Allow, HashMap::new())), None),
        ),
        told(
            passes(prefix("/everybody")),
            ACCESS,
            per_route(Some(rules_of(Action::Deny, HashMap::new())), None),
        ),
        told(
            passes(prefix("/open")),
            ACCESS,
            pack_any(RbacPerRoute { rbac: None }),
        ),
    ];
    let admin = |path| Case {
        path,
        ..with(&[("x-role", "admin")])
    };
    let guest = |path| Case {
        path,
        ..with(&[("x-role", "guest")])
    };
    let put = |path| Case {
        method: Method::PUT,
        ..at(path)
    };
    let yes: &[Expect] = &[Expect::Says("\"by\"")];
    let no: &[Expect] = &[Expect::Status(403)];
    let said: &[Expect] = &[Expect::Status(403), Expect::Body("RBAC: access denied")];
    site(
        "who may ask for what",
        HOST,
        routes,
        &[
            (admin("/allowed"), yes),
            (guest("/allowed"), said),
            (at("/allowed"), no),
            (admin("/denied"), said),
            (guest("/denied"), yes),
            (at("/denied"), yes),
            (at("/paths/open/a?b=c"), yes),
            (at("/paths/one"), yes),
            (at("/paths/one?b=c"), yes),
            (at("/paths/one/more"), no),
            (at("/paths/x/../open"), yes),
            (at("/paths/open/../shut"), no),
            (admin("/all"), yes),
            (guest("/all"), no),
            (put("/all"), no),
            (put("/one"), yes),
            (admin("/one"), yes),
            (guest("/one"), no),
            (admin("/not"), no),
            (guest("/not"), yes),
            (at("/not"), yes),
            (at("/port"), yes),
            (at("/other-port"), no),
            // The range ends before its end.
            (at("/range"), no),
            (at("/to"), yes),
            (at("/nobody"), no),
            (at("/everybody"), yes),
            (at("/open"), yes),
            (
                Case {
                    path: "/nobody",
                    method: Method::POST,
                    ..with(&[("content-type", "application/grpc")])
                },
                &[
                    Expect::Status(200),
                    Expect::Header("grpc-status", "7"),
                    Expect::Header("grpc-message", "RBAC: access denied"),
                ],
            ),
        ],
    )
}

/// By where they come from, and as whom.
fn who() -> Site {
    let only = |path: &str, identifier| {
        let policy = Policy {
            permissions: vec![permission(Rule::Any(true))],
            principals: vec![principal(identifier)],
            ..Policy::default()
        };
        let rules = rules_of(Action::Allow, HashMap::from([("only".to_owned(), policy)]));
        told(passes(prefix(path)), ACCESS, per_route(Some(rules), None))
    };
    let set = |identifiers: Vec<Identifier>| principal::Set {
        ids: identifiers.into_iter().map(principal).collect(),
    };
    let here = || Identifier::DirectRemoteIp(block("127.0.0.0", 8));
    let admin = || Identifier::Header(header("x-role", "admin"));
    let routes = vec![
        only("/here", here()),
        only("/there", Identifier::DirectRemoteIp(block("192.0.2.0", 24))),
        only("/client", Identifier::RemoteIp(block("127.0.0.0", 8))),
        only("/six", Identifier::RemoteIp(block("::", 0))),
        only("/both", Identifier::AndIds(set(vec![here(), admin()]))),
        only(
            "/either",
            Identifier::OrIds(set(vec![
                Identifier::DirectRemoteIp(block("192.0.2.0", 24)),
                admin(),
            ])),
        ),
        only("/not", Identifier::NotId(Box::new(principal(here())))),
        only(
            "/path",
            Identifier::UrlPath(path_matcher(MatchPattern::Suffix("/a".to_owned()))),
        ),
    ];
    let admin = |path| Case {
        path,
        ..with(&[("x-role", "admin")])
    };
    let yes: &[Expect] = &[Expect::Says("\"by\"")];
    let no: &[Expect] = &[Expect::Status(403)];
    site(
        "who may ask",
        "who.test",
        routes,
        &[
            (at("/here"), yes),
            (at("/there"), no),
            (at("/client"), yes),
            (at("/six"), no),
            (admin("/both"), yes),
            (at("/both"), no),
            (admin("/either"), yes),
            (at("/either"), no),
            (at("/not"), no),
            (at("/path/a?b"), yes),
            (at("/path/b"), no),
            // Nobody is believed to be somebody else.
            (
                Case {
                    path: "/there",
                    ..with(&[("x-forwarded-for", "192.0.2.1")])
                },
                no,
            ),
        ],
    )
}

/// What is only tried refuses nobody.
fn shadows() -> Site {
    let rules = |action| {
        let policy = Policy {
            permissions: vec![permission(Rule::Header(header("x-role", "admin")))],
            principals: vec![principal(Identifier::Any(true))],
            ..Policy::default()
        };
        rules_of(action, HashMap::from([("only".to_owned(), policy)]))
    };
    let nobody = || rules_of(Action::Allow, HashMap::new());
    let route =
        |path: &str, enforced, tried| told(passes(prefix(path)), ACCESS, per_route(enforced, Some(tried)));
    let routes = vec![
        route("/tried", None, nobody()),
        route("/denied", None, rules(Action::Deny)),
        route("/as-well", Some(rules(Action::Allow)), nobody()),
        route("/the-other", Some(rules(Action::Deny)), rules(Action::Allow)),
    ];
    let admin = |path| Case {
        path,
        ..with(&[("x-role", "admin")])
    };
    let yes: &[Expect] = &[Expect::Says("\"by\"")];
    let no: &[Expect] = &[Expect::Status(403)];
    site(
        "rules that are tried",
        "shadows.test",
        routes,
        &[
            (at("/tried"), yes),
            (admin("/denied"), yes),
            (at("/denied"), yes),
            (admin("/as-well"), yes),
            (at("/as-well"), no),
            (admin("/the-other"), no),
            (at("/the-other"), yes),
            (GET, &[Expect::Status(404)]),
        ],
    )
}

/// For anybody who has one of these permissions.
fn guarded(path: &str, action: Action, permissions: Vec<Permission>) -> Route {
    let policy = Policy {
        permissions,
        principals: vec![principal(Identifier::Any(true))],
        ..Policy::default()
    };
    let rules = rules_of(action, HashMap::from([("only".to_owned(), policy)]));
    told(passes(prefix(path)), ACCESS, per_route(Some(rules), None))
}

fn per_route(rules: Option<Rules>, shadow: Option<Rules>) -> envoy_types::pb::google::protobuf::Any {
    pack_any(RbacPerRoute {
        rbac: Some(Rbac {
            rules,
            shadow_rules: shadow,
            ..Rbac::default()
        }),
    })
}

fn rules_of(action: Action, policies: HashMap<String, Policy>) -> Rules {
    Rules {
        action: action as i32,
        policies,
        ..Rules::default()
    }
}

fn permission(rule: Rule) -> Permission {
    Permission { rule: Some(rule) }
}

fn principal(identifier: Identifier) -> Principal {
    Principal {
        identifier: Some(identifier),
    }
}

fn header(name: &str, value: &str) -> HeaderMatcher {
    HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(StringMatcher {
            match_pattern: Some(MatchPattern::Exact(value.to_owned())),
            ..StringMatcher::default()
        })),
        ..HeaderMatcher::default()
    }
}

fn path_matcher(pattern: MatchPattern) -> PathMatcher {
    PathMatcher {
        rule: Some(PathRule::Path(StringMatcher {
            match_pattern: Some(pattern),
            ..StringMatcher::default()
        })),
    }
}

fn block(address: &str, bits: u32) -> CidrRange {
    CidrRange {
        address_prefix: address.to_owned(),
        prefix_len: Some(UInt32Value { value: bits }),
    }
}
