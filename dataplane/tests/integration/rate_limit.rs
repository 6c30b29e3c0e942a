//! Requests that wait for what a rate-limit service says of them.

use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::ratelimit::v3::RateLimitServiceConfig;
use envoy_types::pb::envoy::config::route::v3::rate_limit::Action;
use envoy_types::pb::envoy::config::route::v3::rate_limit::action::{
    ActionSpecifier, GenericKey, RemoteAddress, RequestHeaders,
};
use envoy_types::pb::envoy::config::route::v3::route::Action as RouteActions;
use envoy_types::pb::envoy::config::route::v3::{RateLimit as Described, Route};
use envoy_types::pb::envoy::extensions::filters::http::ratelimit::v3::rate_limit::XRateLimitHeadersRfcVersion;
use envoy_types::pb::envoy::extensions::filters::http::ratelimit::v3::{RateLimit, RateLimitPerRoute};
use envoy_types::pb::google::protobuf::{Duration as PbDuration, UInt32Value};
use envoy_types::util::pack_any;

use crate::support::asking::{self, Stage};
use crate::support::limiter::{self, Asked};
use crate::support::mesh;
use crate::support::proxy::{client, http2_client};

const NAME: &str = "envoy.filters.http.ratelimit";

fn asking(cluster: &str) -> RateLimit {
    RateLimit {
        domain: "shop".to_owned(),
        rate_limit_service: Some(RateLimitServiceConfig {
            grpc_service: Some(asking::service(cluster)),
            transport_api_version: 2,
        }),
        ..RateLimit::default()
    }
}

fn described(actions: Vec<ActionSpecifier>) -> Described {
    let action = |action| Action {
        action_specifier: Some(action),
    };
    Described {
        actions: actions.into_iter().map(action).collect(),
        ..Described::default()
    }
}

fn key(value: &str) -> ActionSpecifier {
    ActionSpecifier::GenericKey(GenericKey {
        descriptor_value: value.to_owned(),
        ..GenericKey::default()
    })
}

/// By what a request says in `x-do`.
fn by_header() -> Described {
    described(vec![
        ActionSpecifier::RemoteAddress(RemoteAddress {}),
        ActionSpecifier::RequestHeaders(RequestHeaders {
            header_name: "x-do".to_owned(),
            descriptor_key: "do".to_owned(),
            skip_if_absent: false,
        }),
    ])
}

fn counted(mut route: Route, limits: Vec<Described>) -> Route {
    if let Some(RouteActions::Route(action)) = &mut route.action {
        action.rate_limits = limits;
    }
    route
}

async fn start(filter: RateLimit, routes: Vec<Route>, of_host: Vec<Described>) -> (Stage, Asked) {
    let (service, asked) = limiter::start().await;
    let mut table = mesh::routes("in", routes);
    table.virtual_hosts[0].rate_limits = of_host;
    let stage = Stage::start(vec![(NAME, pack_any(filter))], table, service).await;
    (stage, asked)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_says_whether_there_may_be_more() {
    let filter = RateLimit {
        enable_x_ratelimit_headers: XRateLimitHeadersRfcVersion::DraftVersion03 as i32,
        // A busy machine may not connect in those 20 ms.
        timeout: Some(PbDuration { seconds: 1, nanos: 0 }),
        ..asking("service")
    };
    let routes = vec![counted(mesh::to_cluster("/", "a"), vec![by_header()])];
    let (stage, asked) = start(filter, routes, vec![]).await;
    for client in [client(), http2_client()] {
        for (does, status, body) in [
            ("go", 200, "a / 123"),
            ("over", 429, "busy"),
            // It does not deny what it cannot count.
            ("hang", 200, "a / 123"),
            ("break", 200, "a / 123"),
        ] {
            let began = Instant::now();
            let answer = stage.ask(&client, "/", &[("x-do", does)], b"123").await;
            assert_eq!((answer.status.as_u16(), &*answer.body), (status, body), "{does}");
            assert!(began.elapsed() < Duration::from_secs(5), "{does}");
            let limited = answer
                .headers
                .get("x-envoy-ratelimited")
                .map(|said| said.to_str().unwrap());
            assert_eq!(limited, (does == "over").then_some("true"), "{does}");
            assert_eq!(answer.headers["content-length"], body.len().to_string(), "{does}");
            let types: Vec<_> = answer.headers.get_all("content-type").iter().collect();
            if does == "over" {
                assert_eq!(types, ["application/json"]);
            }
            if matches!(does, "go" | "over") {
                assert_eq!(answer.headers["x-told"], "1");
                assert_eq!(answer.headers["x-ratelimit-limit"], "5, 5;w=60");
                assert_eq!(answer.headers["x-ratelimit-remaining"], "3");
            }
            if does == "go" {
                assert_eq!(stage.upstream.last_headers()["x-counted"], "1");
            }
        }
        let call = [("x-do", "over"), ("content-type", "application/grpc")];
        let called = stage.ask(&client, "/", &call, b"").await;
        assert_eq!(
            (called.status.as_u16(), &called.headers["grpc-status"]),
            (200, &"14".parse().unwrap())
        );
        let types: Vec<_> = called.headers.get_all("content-type").iter().collect();
        assert_eq!(types, ["application/grpc"], "a call is answered as one");
    }
    assert_eq!(asked.lock().unwrap()[0], "shop|remote_address=127.0.0.1,do=go");
    let metrics = stage.proxy.metrics().await;
    let line = "tombolo_requests_flagged_total{listener=\"in\",cluster=\"-\",flag=\"RL\"} ";
    assert!(metrics.contains(line), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_counted_may_be_denied() {
    let filter = RateLimit {
        failure_mode_deny: true,
        ..asking("dead")
    };
    let routes = vec![counted(mesh::to_cluster("/", "a"), vec![by_header()])];
    let (stage, _) = start(filter, routes, vec![]).await;
    for (does, status) in [(Some("go"), 500), (None, 200)] {
        let lines: Vec<(&str, &str)> = does.map(|does| ("x-do", does)).into_iter().collect();
        let answer = stage.ask(&client(), "/", &lines, b"").await;
        assert_eq!(answer.status.as_u16(), status, "{does:?}");
    }
    let metrics = stage.proxy.metrics().await;
    let line = "tombolo_requests_flagged_total{listener=\"in\",cluster=\"-\",flag=\"RLSE\"} 1";
    assert!(metrics.contains(line), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_and_hosts_say_what_is_counted() {
    let filter = RateLimit {
        timeout: Some(PbDuration { seconds: 1, nanos: 0 }),
        ..asking("service")
    };
    let says = |mut route: Route, said: RateLimitPerRoute| {
        route
            .typed_per_filter_config
            .insert(NAME.to_owned(), pack_any(said));
        route
    };
    let other_stage = Described {
        stage: Some(UInt32Value { value: 1 }),
        ..described(vec![key("later")])
    };
    let routes = vec![
        counted(
            mesh::to_cluster("/own", "a"),
            vec![described(vec![key("own")]), other_stage],
        ),
        says(
            counted(mesh::to_cluster("/both", "a"), vec![described(vec![key("own")])]),
            RateLimitPerRoute {
                vh_rate_limits: 1,
                domain: "other".to_owned(),
                ..RateLimitPerRoute::default()
            },
        ),
        says(
            mesh::to_cluster("/none", "a"),
            RateLimitPerRoute {
                vh_rate_limits: 2,
                ..RateLimitPerRoute::default()
            },
        ),
        says(
            counted(mesh::to_cluster("/said", "a"), vec![described(vec![key("own")])]),
            RateLimitPerRoute {
                rate_limits: vec![described(vec![key("said")])],
                ..RateLimitPerRoute::default()
            },
        ),
        mesh::answer("/answered", 204, ""),
        mesh::to_cluster("/", "a"),
    ];
    let (stage, asked) = start(filter, routes, vec![described(vec![key("host")])]).await;
    for (path, expected) in [
        ("/own", Some("shop|generic_key=own")),
        ("/both", Some("other|generic_key=own|generic_key=host")),
        ("/none", None),
        ("/said", Some("shop|generic_key=said")),
        ("/answered", None),
        ("/", Some("shop|generic_key=host")),
    ] {
        asked.lock().unwrap().clear();
        let answer = stage.ask(&client(), path, &[], b"").await;
        assert!(answer.status.is_success(), "{path}");
        assert_eq!(
            asked.lock().unwrap().first().map(String::as_str),
            expected,
            "{path}"
        );
    }
}
