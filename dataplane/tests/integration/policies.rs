//! What filters do by what requests say: faults that they ask for, limits of some of them, heads that are changed, and logs of those
//! that rules are about.

use std::path::Path;
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::accesslog::v3::access_log_filter::FilterSpecifier;
use envoy_types::pb::envoy::config::accesslog::v3::{AccessLogFilter, MetadataFilter};
use envoy_types::pb::envoy::config::common::mutation_rules::v3::HeaderMutation as Mutation;
use envoy_types::pb::envoy::config::common::mutation_rules::v3::header_mutation::Action as MutationAction;
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption, RuntimeFractionalPercent};
use envoy_types::pb::envoy::config::listener::v3::filter;
use envoy_types::pb::envoy::config::rbac::v3::permission::Rule as PermissionRule;
use envoy_types::pb::envoy::config::rbac::v3::principal::Identifier;
use envoy_types::pb::envoy::config::rbac::v3::rbac::Action as RbacAction;
use envoy_types::pb::envoy::config::rbac::v3::{Permission, Policy, Principal, Rbac as Rules};
use envoy_types::pb::envoy::config::route::v3::HeaderMatcher;
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::rate_limit::Action;
use envoy_types::pb::envoy::config::route::v3::rate_limit::action::{ActionSpecifier, RequestHeaders};
use envoy_types::pb::envoy::config::route::v3::route::Action as RouteActions;
use envoy_types::pb::envoy::config::route::v3::{RateLimit as Described, Route};
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::{
    LocalRateLimitDescriptor, XRateLimitHeadersRfcVersion,
};
use envoy_types::pb::envoy::extensions::filters::common::fault::v3::FaultDelay;
use envoy_types::pb::envoy::extensions::filters::common::fault::v3::fault_delay::{
    FaultDelaySecifier, HeaderDelay,
};
use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::ExtAuthz;
use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::ext_authz::Services;
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::fault_abort::{ErrorType, HeaderAbort};
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::{FaultAbort, HttpFault};
use envoy_types::pb::envoy::extensions::filters::http::header_mutation::v3::{
    HeaderMutation, HeaderMutationPerRoute, Mutations,
};
use envoy_types::pb::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit;
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::Rbac;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::r#type::matcher::v3::metadata_matcher::PathSegment;
use envoy_types::pb::envoy::r#type::matcher::v3::metadata_matcher::path_segment::Segment;
use envoy_types::pb::envoy::r#type::matcher::v3::value_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{MetadataMatcher, ValueMatcher};
use envoy_types::pb::envoy::r#type::v3::{FractionalPercent, TokenBucket};
use envoy_types::pb::google::protobuf::{Any, BoolValue, Duration as PbDuration, UInt32Value};
use envoy_types::util::pack_any;
use prost::Message;

use crate::support::asking::{Stage, service};
use crate::support::mesh;
use crate::support::proxy::{client, eventually, free_address, http2_client};

const AUTHZ: &str = "envoy.filters.http.ext_authz";
const FAULT: &str = "envoy.filters.http.fault";
const LIMIT: &str = "envoy.filters.http.local_ratelimit";
const MUTATION: &str = "envoy.filters.http.header_mutation";
const RBAC: &str = "envoy.filters.http.rbac";

async fn start(filters: Vec<(&str, Any)>, routes: Vec<Route>) -> Stage {
    Stage::start(filters, mesh::routes("in", routes), free_address()).await
}

fn told(mut route: Route, filter: &str, config: Any) -> Route {
    route.typed_per_filter_config.insert(filter.to_owned(), config);
    route
}

fn all() -> Option<FractionalPercent> {
    Some(FractionalPercent {
        numerator: 100,
        denominator: 0,
    })
}

fn header(name: &str) -> HeaderMatcher {
    HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::PresentMatch(true)),
        ..HeaderMatcher::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_ask_for_faults() {
    let fault = HttpFault {
        delay: Some(FaultDelay {
            fault_delay_secifier: Some(FaultDelaySecifier::HeaderDelay(HeaderDelay {})),
            percentage: all(),
        }),
        abort: Some(FaultAbort {
            error_type: Some(ErrorType::HeaderAbort(HeaderAbort {})),
            percentage: all(),
            ..FaultAbort::default()
        }),
        headers: vec![header("x-test")],
        max_active_faults: Some(UInt32Value { value: 1 }),
        ..HttpFault::default()
    };
    let routes = vec![mesh::to_cluster("/", "a")];
    let stage = start(vec![(FAULT, pack_any(fault))], routes).await;
    let (delay, abort) = ("x-envoy-fault-delay-request", "x-envoy-fault-abort-request");
    let share = "x-envoy-fault-abort-request-percentage";
    let test = ("x-test", "1");
    for client in [client(), http2_client()] {
        for (lines, status, waited_ms) in [
            (&[test][..], 200, 0),
            (&[test, (abort, "418")], 418, 0),
            (&[test, (abort, "418"), (share, "0")], 200, 0),
            (&[(abort, "418"), (delay, "300")], 200, 0),
            (&[test, (delay, "300")], 200, 300),
            (&[test, (delay, "300"), (abort, "418")], 418, 300),
        ] {
            let began = Instant::now();
            let answer = stage.ask(&client, "/", lines, b"").await;
            assert_eq!(answer.status, status, "{lines:?}");
            assert!(began.elapsed() >= Duration::from_millis(waited_ms), "{lines:?}");
            let body = if status == 200 {
                "a / "
            } else {
                "fault filter abort"
            };
            assert_eq!(answer.body, body, "{lines:?}");
        }
        let call = [
            test,
            ("x-envoy-fault-abort-grpc-request", "5"),
            ("content-type", "application/grpc"),
        ];
        let answer = stage.ask(&client, "/", &call, b"").await;
        assert_eq!(
            (
                answer.status.as_u16(),
                answer.headers["grpc-status"].to_str().unwrap()
            ),
            (200, "5")
        );
    }
    // One waits, and nothing is done to others as long as it does.
    let waits = async {
        let began = Instant::now();
        stage.ask(&client(), "/", &[test, (delay, "3000")], b"").await;
        began.elapsed()
    };
    let others = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let is_spared = || async {
            let answer = stage.ask(&client(), "/", &[test, (abort, "418")], b"").await;
            answer.status == 200
        };
        eventually("others are spared", is_spared).await;
    };
    let (waited, ()) = tokio::join!(waits, others);
    assert!(waited >= Duration::from_millis(3000));
    let answer = stage.ask(&client(), "/", &[test, (abort, "418")], b"").await;
    assert_eq!(answer.status, 418, "it is over");
}

fn bucket(tokens: u32) -> Option<TokenBucket> {
    Some(TokenBucket {
        max_tokens: tokens,
        tokens_per_fill: None,
        fill_interval: Some(PbDuration {
            seconds: 3600,
            nanos: 0,
        }),
    })
}

/// By what a request says in that header.
fn by_header(name: &str) -> Vec<Described> {
    let action = ActionSpecifier::RequestHeaders(RequestHeaders {
        header_name: name.to_owned(),
        descriptor_key: "user".to_owned(),
        skip_if_absent: false,
    });
    vec![Described {
        actions: vec![Action {
            action_specifier: Some(action),
        }],
        ..Described::default()
    }]
}

fn limit(rate_limits: Vec<Described>) -> LocalRateLimit {
    let share = Some(RuntimeFractionalPercent {
        default_value: all(),
        ..RuntimeFractionalPercent::default()
    });
    let descriptor = |value: &str, tokens| LocalRateLimitDescriptor {
        entries: vec![Entry {
            key: "user".to_owned(),
            value: value.to_owned(),
        }],
        token_bucket: bucket(tokens),
        ..LocalRateLimitDescriptor::default()
    };
    LocalRateLimit {
        stat_prefix: "limit".to_owned(),
        token_bucket: bucket(100),
        filter_enabled: share.clone(),
        filter_enforced: share,
        rate_limits,
        descriptors: vec![descriptor("gold", 3), descriptor("", 1)],
        enable_x_ratelimit_headers: XRateLimitHeadersRfcVersion::DraftVersion03 as i32,
        response_headers_to_add: vec![mesh::set_header("x-limited", "yes")],
        always_consume_default_token_bucket: Some(BoolValue { value: false }),
        ..LocalRateLimit::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_count_some_requests_apart() {
    let listener = LocalRateLimit {
        stat_prefix: "limit".to_owned(),
        ..LocalRateLimit::default()
    };
    let own = mesh::to_cluster("/own", "a");
    let mut by_route = mesh::to_cluster("/", "a");
    if let Some(RouteActions::Route(action)) = &mut by_route.action {
        action.rate_limits = by_header("x-user");
    }
    let routes = vec![
        told(own, LIMIT, pack_any(limit(by_header("x-other")))),
        told(by_route, LIMIT, pack_any(limit(vec![]))),
    ];
    let stage = start(vec![(LIMIT, pack_any(listener))], routes).await;
    let client = client();
    for (path, name) in [("/", "x-user"), ("/own", "x-other")] {
        for (user, status, left) in [
            ("gold", 200, "3 2 0"),
            ("gold", 200, "3 1 0"),
            ("gold", 200, "3 0 3600"),
            ("gold", 429, "3 0 3600"),
            ("anna", 200, "1 0 3600"),
            ("anna", 429, "1 0 3600"),
            ("otto", 200, "1 0 3600"),
        ] {
            let answer = stage.ask(&client, path, &[(name, user)], b"").await;
            let of = |name: &str| answer.headers[name].to_str().unwrap().to_owned();
            let told = ["limit", "remaining", "reset"].map(|what| of(&format!("x-ratelimit-{what}")));
            assert_eq!(
                (answer.status.as_u16(), &*told.join(" ")),
                (status, left),
                "{path} {user}"
            );
            let is_limited = answer.headers.contains_key("x-limited");
            assert_eq!(is_limited, status == 429, "{path} {user}");
        }
        let answer = stage.ask(&client, path, &[], b"").await;
        assert_eq!(answer.headers["x-ratelimit-remaining"], "99", "{path}");
    }
}

fn change(name: &str, value: &str, action: HeaderAppendAction) -> Mutation {
    let option = HeaderValueOption {
        header: Some(HeaderValue {
            key: name.to_owned(),
            value: value.to_owned(),
            ..HeaderValue::default()
        }),
        append_action: action as i32,
        ..HeaderValueOption::default()
    };
    Mutation {
        action: Some(MutationAction::Append(option)),
    }
}

fn remove(name: &str) -> Mutation {
    Mutation {
        action: Some(MutationAction::Remove(name.to_owned())),
    }
}

fn route_changes(request: Vec<Mutation>, answer: Vec<Mutation>) -> Any {
    pack_any(HeaderMutationPerRoute {
        mutations: Some(Mutations {
            request_mutations: request,
            response_mutations: answer,
            ..Mutations::default()
        }),
    })
}

fn answer_changes(changes: Vec<Mutation>) -> Any {
    pack_any(HeaderMutation {
        mutations: Some(Mutations {
            response_mutations: changes,
            ..Mutations::default()
        }),
        ..HeaderMutation::default()
    })
}

/// Asks somebody who never answers, and goes on.
fn asks_nobody() -> Any {
    pack_any(ExtAuthz {
        services: Some(Services::GrpcService(service("dead"))),
        transport_api_version: 2,
        failure_mode_allow: true,
        ..ExtAuthz::default()
    })
}

fn denies(name: &str) -> Any {
    pack_any(Rbac {
        rules: Some(rules(RbacAction::Deny, name)),
        ..Rbac::default()
    })
}

/// About requests that have such a header.
fn rules(action: RbacAction, name: &str) -> Rules {
    let policy = Policy {
        permissions: vec![Permission {
            rule: Some(PermissionRule::Header(header(name))),
        }],
        principals: vec![Principal {
            identifier: Some(Identifier::Any(true)),
        }],
        ..Policy::default()
    };
    Rules {
        action: action as i32,
        policies: [("p".to_owned(), policy)].into(),
        ..Rules::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_are_changed_by_all_who_say_so() {
    use HeaderAppendAction::{AddIfAbsent, AppendIfExistsOrAdd, OverwriteIfExists, OverwriteIfExistsOrAdd};
    let listener = HeaderMutation {
        mutations: Some(Mutations {
            request_mutations: vec![
                remove("x-gone"),
                change("x-trail", "listener", AppendIfExistsOrAdd),
                change("x-there", "new", OverwriteIfExists),
                change("x-absent", "new", AddIfAbsent),
            ],
            response_mutations: vec![
                change("x-safe", "yes", OverwriteIfExistsOrAdd),
                change("content-type", "text/html", OverwriteIfExists),
            ],
            ..Mutations::default()
        }),
        ..HeaderMutation::default()
    };
    let route = told(
        mesh::to_cluster("/", "a"),
        MUTATION,
        route_changes(
            vec![change("x-trail", "route", AppendIfExistsOrAdd)],
            vec![change("x-of-route", "yes", AddIfAbsent)],
        ),
    );
    let filters = vec![(RBAC, denies("x-no")), (MUTATION, pack_any(listener))];
    let stage = start(filters, vec![mesh::answer("/own", 200, "own"), route]).await;
    for client in [client(), http2_client()] {
        let lines = [("x-gone", "1"), ("x-there", "old"), ("x-trail", "client")];
        let answer = stage.ask(&client, "/", &lines, b"").await;
        assert_eq!(answer.body, "a / ");
        assert_eq!(answer.headers["x-safe"], "yes");
        assert_eq!(answer.headers["x-of-route"], "yes");
        assert!(!answer.headers.contains_key("content-type"));
        let seen = stage.upstream.last_headers();
        assert!(!seen.contains_key("x-gone"));
        let trail: Vec<_> = seen.get_all("x-trail").iter().collect();
        assert_eq!(trail, ["client", "listener", "route"]);
        assert_eq!(
            (&seen["x-there"], &seen["x-absent"]),
            (&"new".parse().unwrap(), &"new".parse().unwrap())
        );
        stage.ask(&client, "/", &[("x-absent", "old")], b"").await;
        let seen = stage.upstream.last_headers();
        assert_eq!(seen["x-absent"], "old");
        assert!(!seen.contains_key("x-there"));
        // What the proxy answers itself is changed too, also by a filter behind the one that answers.
        for (path, lines, status) in [("/own", &[][..], 200), ("/", &[("x-no", "1")], 403)] {
            let answer = stage.ask(&client, path, lines, b"").await;
            assert_eq!(answer.status, status);
            assert_eq!(answer.headers["x-safe"], "yes", "{path}");
            assert_eq!(answer.headers["content-type"], "text/html", "{path}");
        }
    }
}

/// As in Envoy the last filter is the first that sees the answer, whoever of them asks somebody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_changed_from_behind() {
    use HeaderAppendAction::AppendIfExistsOrAdd;
    let says = |said: &str| answer_changes(vec![change("x-trail", said, AppendIfExistsOrAdd)]);
    let filters = vec![
        ("first", says("first")),
        (AUTHZ, asks_nobody()),
        ("second", says("second")),
        ("third", says("third")),
        ("again", asks_nobody()),
        ("last", says("last")),
    ];
    let routes = vec![mesh::answer("/own", 200, "own"), mesh::to_cluster("/", "a")];
    let stage = start(filters, routes).await;
    for path in ["/own", "/"] {
        let answer = stage.ask(&client(), path, &[], b"").await;
        let trail: Vec<_> = answer.headers.get_all("x-trail").iter().collect();
        assert_eq!(trail, ["last", "third", "second", "first"], "{path}");
    }
}

/// What a client lists in `connection` goes no further, and what is added for want of it does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_takes_out_nothing_that_is_added() {
    use HeaderAppendAction::AddIfAbsent;
    let changes = HeaderMutation {
        mutations: Some(Mutations {
            request_mutations: vec![
                change("x-tier", "free", AddIfAbsent),
                change("x-tier", "unsaid", AddIfAbsent),
                change("x-request-id", "unsaid", AddIfAbsent),
            ],
            ..Mutations::default()
        }),
        ..HeaderMutation::default()
    };
    let stage = start(
        vec![(MUTATION, pack_any(changes))],
        vec![mesh::to_cluster("/", "a")],
    )
    .await;
    for (connection, tier) in [("keep-alive", "gold"), ("close, X-Tier, x-request-id", "free")] {
        let lines = [
            ("connection", connection),
            ("x-tier", "gold"),
            ("x-request-id", "mine"),
        ];
        stage.ask(&client(), "/", &lines, b"").await;
        let seen = stage.upstream.last_headers();
        for (name, expected) in [("x-tier", tier), ("x-request-id", "mine")] {
            let lines: Vec<_> = seen.get_all(name).iter().collect();
            assert_eq!(lines, [expected], "{connection} {name}");
        }
    }
}

/// Also where the delay comes behind a filter that asks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delay_is_no_longer_than_a_stream_may_be_idle() {
    let fault = || {
        pack_any(HttpFault {
            delay: Some(FaultDelay {
                fault_delay_secifier: Some(FaultDelaySecifier::HeaderDelay(HeaderDelay {})),
                percentage: all(),
            }),
            ..HttpFault::default()
        })
    };
    let mut route = mesh::to_cluster("/", "a");
    if let Some(RouteActions::Route(action)) = &mut route.action {
        action.idle_timeout = Some(PbDuration {
            seconds: 0,
            nanos: 500_000_000,
        });
    }
    for filters in [
        vec![(FAULT, fault())],
        vec![(AUTHZ, asks_nobody()), (FAULT, fault())],
    ] {
        let stage = start(filters, vec![route.clone()]).await;
        for client in [client(), http2_client()] {
            for (delay, status, body) in [
                ("100", 200, "a / "),
                ("4000", 504, "stream timeout"),
                ("86400000", 504, "stream timeout"),
            ] {
                let began = Instant::now();
                let line = ("x-envoy-fault-delay-request", delay);
                let answer = stage.ask(&client, "/", &[line], b"").await;
                assert_eq!((answer.status.as_u16(), &*answer.body), (status, body), "{delay}");
                assert!(began.elapsed() < Duration::from_millis(4000), "{delay}");
            }
        }
    }
}

/// The listener's log has only requests that rules are about.
fn logged_by_hint(stage: &Stage, path: &Path) {
    let matcher = MetadataMatcher {
        filter: "envoy.common".to_owned(),
        path: vec![PathSegment {
            segment: Some(Segment::Key("access_log_hint".to_owned())),
        }],
        value: Some(ValueMatcher {
            match_pattern: Some(MatchPattern::BoolMatch(true)),
        }),
        ..MetadataMatcher::default()
    };
    let hint = FilterSpecifier::MetadataFilter(MetadataFilter {
        matcher: Some(matcher),
        match_if_key_not_found: Some(BoolValue { value: false }),
    });
    let rules = pack_any(Rbac {
        rules: Some(rules(RbacAction::Log, "x-user")),
        ..Rbac::default()
    });
    let mut listener = crate::support::asking::with_filters(
        mesh::listener("in", stage.listener, "in"),
        vec![(RBAC, rules)],
        path,
    );
    if let Some(filter::ConfigType::TypedConfig(config)) =
        &mut listener.filter_chains[0].filters[0].config_type
    {
        let mut manager = HttpConnectionManager::decode(config.value.as_slice()).unwrap();
        manager.access_log[0].filter = Some(AccessLogFilter {
            filter_specifier: Some(hint),
        });
        *config = pack_any(manager);
    }
    stage.edge.put("in", &listener);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_say_what_is_logged() {
    let stage = start(vec![], vec![mesh::to_cluster("/", "a")]).await;
    let data = tempfile::tempdir().unwrap();
    let path = data.path().join("hinted.log");
    logged_by_hint(&stage, &path);
    let logged = || std::fs::read_to_string(&path).unwrap_or_default();
    let asks = || async {
        let answer = stage.ask(&client(), "/first", &[("x-user", "me")], b"").await;
        assert_eq!(answer.status, 200);
        logged().contains("/first me")
    };
    eventually("it is logged", asks).await;
    for (path, lines) in [("/unsaid", &[][..]), ("/last", &[("x-user", "me")])] {
        for client in [client(), http2_client()] {
            assert_eq!(stage.ask(&client, path, lines, b"").await.status, 200);
        }
    }
    eventually("the last are logged", || async {
        logged().matches("/last").count() == 2
    })
    .await;
    assert!(!logged().contains("/unsaid"));
}
