//! What filters do by what requests say: faults that they ask for, limits of some of them, and heads that are changed.

use envoy_types::pb::envoy::config::common::mutation_rules::v3::HeaderMutation as Mutation;
use envoy_types::pb::envoy::config::common::mutation_rules::v3::header_mutation::{Action, RemoveOnMatch};
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption, RuntimeFractionalPercent};
use envoy_types::pb::envoy::config::rbac::v3::permission::Rule;
use envoy_types::pb::envoy::config::rbac::v3::principal::Identifier;
use envoy_types::pb::envoy::config::rbac::v3::rbac::Action as RbacAction;
use envoy_types::pb::envoy::config::rbac::v3::{Permission, Policy, Principal, Rbac as Rules};
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::rate_limit::Action as Describing;
use envoy_types::pb::envoy::config::route::v3::rate_limit::action::{ActionSpecifier, RequestHeaders};
use envoy_types::pb::envoy::config::route::v3::{HeaderMatcher, RateLimit, Route, RouteAction};
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::{
    LocalRateLimitDescriptor, XRateLimitHeadersRfcVersion,
};
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::fault_abort::{ErrorType, HeaderAbort};
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::{FaultAbort, HttpFault};
use envoy_types::pb::envoy::extensions::filters::http::header_mutation::v3::{
    HeaderMutationPerRoute, Mutations,
};
use envoy_types::pb::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit;
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::{Rbac, RbacPerRoute};
use envoy_types::pb::envoy::r#type::matcher::v3::StringMatcher;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::v3::{FractionalPercent, TokenBucket};
use envoy_types::pb::google::protobuf::{BoolValue, Duration};
use envoy_types::util::pack_any;
use http::Method;
use tombolo_tests::ads::contract;

use super::filters::{ACCESS, FAULT, LIMIT, MUTATION, told};
use super::{BOTH, Site, forwards, passes, prefix, says, site};
use crate::case::{Case, Expect, GET};

type Lines = &'static [(&'static str, &'static str)];

pub(super) fn sites() -> Vec<Site> {
    vec![faults(), limits(), mutations()]
}

fn ask(path: &'static str, headers: Lines) -> Case {
    Case { path, headers, ..GET }
}

fn share(numerator: u32) -> FractionalPercent {
    FractionalPercent {
        numerator,
        denominator: 0,
    }
}

fn faults() -> Site {
    let abort = |error_type| {
        Some(FaultAbort {
            error_type: Some(error_type),
            percentage: Some(share(100)),
            ..FaultAbort::default()
        })
    };
    let asked = || HttpFault {
        abort: abort(ErrorType::HeaderAbort(HeaderAbort {})),
        ..HttpFault::default()
    };
    let of_some = HttpFault {
        headers: vec![HeaderMatcher {
            name: "x-test".to_owned(),
            header_match_specifier: Some(HeaderMatchSpecifier::PresentMatch(true)),
            ..HeaderMatcher::default()
        }],
        ..asked()
    };
    let call = HttpFault {
        abort: abort(ErrorType::GrpcStatus(10)),
        ..HttpFault::default()
    };
    let route = |path, fault| -> Route { told(passes(prefix(path)), FAULT, pack_any(fault)) };
    let routes = vec![
        route("/asked", asked()),
        route("/some", of_some),
        route("/call", call),
    ];
    let by: &[Expect] = &[Expect::Says("\"by\"")];
    let teapot: &[Expect] = &[Expect::Status(418), Expect::Body("fault filter abort")];
    let calls = |path, headers| Case {
        path,
        method: Method::POST,
        headers,
        ..GET
    };
    const TEAPOT: (&str, &str) = ("x-envoy-fault-abort-request", "418");
    const CALL: (&str, &str) = ("content-type", "application/grpc");
    site(
        "faults that are asked for",
        "asked-faults.test",
        routes,
        &[
            (ask("/asked", &[]), by),
            (ask("/asked", &[TEAPOT]), teapot),
            (ask("/asked", &[("x-envoy-fault-abort-request", "199")]), by),
            (
                ask(
                    "/asked",
                    &[TEAPOT, ("x-envoy-fault-abort-request-percentage", "0")],
                ),
                by,
            ),
            (
                calls("/asked", &[CALL, ("x-envoy-fault-abort-grpc-request", "5")]),
                &[Expect::Status(200), Expect::Header("grpc-status", "5")],
            ),
            (ask("/some", &[TEAPOT]), by),
            (ask("/some", &[TEAPOT, ("x-test", "1")]), teapot),
            (calls("/call", &[CALL]), &[Expect::Header("grpc-status", "10")]),
            (
                ask("/call", &[]),
                &[Expect::Status(200), Expect::Body("fault filter abort")],
            ),
        ],
    )
}

/// A bucket has a token for each version that a row is asked in, and none again while this lasts.
fn limits() -> Site {
    let bucket = |tokens: usize| {
        Some(TokenBucket {
            max_tokens: u32::try_from(tokens).unwrap_or(u32::MAX),
            tokens_per_fill: None,
            fill_interval: Some(Duration {
                seconds: 3600,
                nanos: 0,
            }),
        })
    };
    let always = || {
        Some(RuntimeFractionalPercent {
            default_value: Some(share(100)),
            ..RuntimeFractionalPercent::default()
        })
    };
    let by_user = || RateLimit {
        actions: vec![Describing {
            action_specifier: Some(ActionSpecifier::RequestHeaders(RequestHeaders {
                header_name: "x-user".to_owned(),
                descriptor_key: "user".to_owned(),
                skip_if_absent: false,
            })),
        }],
        ..RateLimit::default()
    };
    let of = |value: &str, tokens| LocalRateLimitDescriptor {
        entries: vec![Entry {
            key: "user".to_owned(),
            value: value.to_owned(),
        }],
        token_bucket: bucket(tokens),
        ..LocalRateLimitDescriptor::default()
    };
    let each = BOTH.len();
    let limit = |rate_limits| LocalRateLimit {
        stat_prefix: "raw".to_owned(),
        token_bucket: bucket(each),
        filter_enabled: always(),
        filter_enforced: always(),
        descriptors: vec![of("gold", 2 * each), of("", each)],
        rate_limits,
        always_consume_default_token_bucket: Some(BoolValue { value: false }),
        enable_x_ratelimit_headers: XRateLimitHeadersRfcVersion::DraftVersion03 as i32,
        response_headers_to_add: vec![line(
            "x-limited",
            "yes",
            HeaderAppendAction::OverwriteIfExistsOrAdd,
        )],
        ..LocalRateLimit::default()
    };
    let of_route = RouteAction {
        rate_limits: vec![by_user()],
        ..RouteAction::default()
    };
    let both = LocalRateLimit {
        always_consume_default_token_bucket: None,
        ..limit(vec![by_user()])
    };
    let routes = vec![
        told(passes(prefix("/own")), LIMIT, pack_any(limit(vec![by_user()]))),
        told(
            forwards(prefix("/of-route"), contract::NAME, of_route),
            LIMIT,
            pack_any(limit(vec![])),
        ),
        told(passes(prefix("/both")), LIMIT, pack_any(both)),
    ];
    let by: &[Expect] = &[Expect::Says("\"by\"")];
    let refused: &[Expect] = &[Expect::Status(429), Expect::Header("x-limited", "yes")];
    const GOLD: Lines = &[("x-user", "gold")];
    const ANNA: Lines = &[("x-user", "anna")];
    site(
        "limits of some",
        "some-limits.test",
        routes,
        &[
            (ask("/own", GOLD), &[Expect::Header("x-ratelimit-limit", "4")]),
            (ask("/own", GOLD), by),
            (ask("/own", GOLD), refused),
            (ask("/own", ANNA), &[Expect::NoHeader("x-limited")]),
            (ask("/own", ANNA), refused),
            (
                ask("/own", ANNA),
                &[
                    Expect::Header("x-ratelimit-limit", "2"),
                    Expect::Header("x-ratelimit-remaining", "0"),
                ],
            ),
            (ask("/own", &[("x-user", "otto")]), by),
            (ask("/own", &[]), by),
            (ask("/own", &[]), refused),
            (ask("/of-route", ANNA), by),
            (ask("/of-route", ANNA), refused),
            (ask("/both", ANNA), by),
            // All of it is taken by now.
            (ask("/both", &[]), refused),
            (ask("/both", GOLD), refused),
        ],
    )
}

fn line(name: &str, value: &str, action: HeaderAppendAction) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: name.to_owned(),
            value: value.to_owned(),
            ..HeaderValue::default()
        }),
        append_action: action as i32,
        ..HeaderValueOption::default()
    }
}

/// With rules that log, which change nothing.
fn mutations() -> Site {
    use HeaderAppendAction::{AddIfAbsent, AppendIfExistsOrAdd, OverwriteIfExists, OverwriteIfExistsOrAdd};
    let change = |action| Mutation { action: Some(action) };
    let append = |name, value, action| change(Action::Append(line(name, value, action)));
    let remove = |name: &str| change(Action::Remove(name.to_owned()));
    let like = change(Action::RemoveOnMatch(RemoveOnMatch {
        key_matcher: Some(StringMatcher {
            match_pattern: Some(MatchPattern::Prefix("x-like-".to_owned())),
            ..StringMatcher::default()
        }),
    }));
    let changed = |route, request_mutations, response_mutations| {
        let mutations = Mutations {
            request_mutations,
            response_mutations,
            ..Mutations::default()
        };
        let config = HeaderMutationPerRoute {
            mutations: Some(mutations),
        };
        told(route, MUTATION, pack_any(config))
    };
    let back = || {
        vec![
            append("x-set", "by-route", OverwriteIfExistsOrAdd),
            append("x-answered-by", "nobody", OverwriteIfExists),
            append("x-nobody", "there", OverwriteIfExists),
        ]
    };
    let log = Rules {
        action: RbacAction::Log as i32,
        policies: [(
            "all".to_owned(),
            Policy {
                permissions: vec![Permission {
                    rule: Some(Rule::Any(true)),
                }],
                principals: vec![Principal {
                    identifier: Some(Identifier::Any(true)),
                }],
                ..Policy::default()
            },
        )]
        .into(),
        ..Rules::default()
    };
    let logs = RbacPerRoute {
        rbac: Some(Rbac {
            rules: Some(log),
            ..Rbac::default()
        }),
    };
    let routes = vec![
        changed(
            passes(prefix("/there")),
            vec![
                append("x-set", "by-route", OverwriteIfExistsOrAdd),
                append("x-more", "by-route", AppendIfExistsOrAdd),
                append("x-absent", "by-route", AddIfAbsent),
                append("x-present", "by-route", OverwriteIfExists),
                remove("x-gone"),
                append("x-gone", "again", AddIfAbsent),
                like,
            ],
            vec![],
        ),
        changed(passes(prefix("/back")), vec![], back()),
        changed(says(prefix("/own"), "own"), vec![], back()),
        told(passes(prefix("/logged")), ACCESS, pack_any(logs)),
    ];
    site(
        "mutations",
        "mutations.test",
        routes,
        &[
            (
                ask(
                    "/there",
                    &[
                        ("x-set", "client"),
                        ("x-present", "client"),
                        ("x-gone", "client"),
                        ("x-like-this", "client"),
                    ],
                ),
                &[
                    Expect::SawHeader("x-set", "by-route"),
                    Expect::SawHeader("x-more", "by-route"),
                    Expect::SawHeader("x-absent", "by-route"),
                    Expect::SawHeader("x-present", "by-route"),
                    Expect::SawHeader("x-gone", "again"),
                    Expect::SawNone("x-like-this"),
                ],
            ),
            (
                ask("/there", &[("x-absent", "client")]),
                &[
                    Expect::SawHeader("x-absent", "client"),
                    Expect::SawNone("x-present"),
                ],
            ),
            (
                ask("/back", &[]),
                &[
                    Expect::Header("x-set", "by-route"),
                    Expect::Header("x-answered-by", "nobody"),
                    Expect::NoHeader("x-nobody"),
                ],
            ),
            (
                ask("/own", &[]),
                &[
                    Expect::Body("own"),
                    Expect::Header("x-set", "by-route"),
                    Expect::NoHeader("x-answered-by"),
                ],
            ),
            (ask("/logged", &[]), &[Expect::Says("\"by\"")]),
        ],
    )
}
