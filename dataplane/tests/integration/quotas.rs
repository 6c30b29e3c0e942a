//! Limits of which a service assigns the proxy a part.

use std::collections::HashMap;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig as PbExtension;
use envoy_types::pb::envoy::config::route::v3::{FilterConfig, Route};
use envoy_types::pb::envoy::extensions::filters::http::rate_limit_quota::v3::rate_limit_quota_bucket_settings::bucket_id_builder::ValueBuilder;
use envoy_types::pb::envoy::extensions::filters::http::rate_limit_quota::v3::rate_limit_quota_bucket_settings::bucket_id_builder::value_builder::ValueSpecifier;
use envoy_types::pb::envoy::extensions::filters::http::rate_limit_quota::v3::rate_limit_quota_bucket_settings::{
    BucketIdBuilder, DenyResponseSettings,
};
use envoy_types::pb::envoy::extensions::filters::http::rate_limit_quota::v3::{
    RateLimitQuotaBucketSettings, RateLimitQuotaFilterConfig, RateLimitQuotaOverride,
};
use envoy_types::pb::envoy::service::rate_limit_quota::v3::rate_limit_quota_response::bucket_action::{
    AbandonAction, BucketAction as Action, QuotaAssignmentAction,
};
use envoy_types::pb::envoy::r#type::matcher::v3::HttpRequestHeaderMatchInput;
use envoy_types::pb::envoy::r#type::v3::rate_limit_strategy::{BlanketRule, Strategy};
use envoy_types::pb::envoy::r#type::v3::{RateLimitStrategy, TokenBucket};
use envoy_types::pb::google::protobuf::{BytesValue, Duration as PbDuration, UInt32Value};
use envoy_types::pb::xds::core::v3::TypedExtensionConfig;
use envoy_types::pb::xds::r#type::matcher::v3::Matcher;
use envoy_types::pb::xds::r#type::matcher::v3::matcher::OnMatch;
use envoy_types::pb::xds::r#type::matcher::v3::matcher::on_match::OnMatch as On;
use envoy_types::util::pack_any;
use prost::Message;

use crate::support::ads::AdsServer;
use crate::support::asking::{self, Stage};
use crate::support::mesh;
use crate::support::proxy::{client, eventually, http2_client};
use crate::support::quotas::Quotas;

const NAME: &str = "envoy.filters.http.rate_limit_quota";
const INTERVAL_MS: i64 = 150;

fn ms(ms: i64) -> PbDuration {
    PbDuration {
        seconds: ms / 1000,
        nanos: i32::try_from(ms % 1000).unwrap() * 1_000_000,
    }
}

fn text(value: &str) -> ValueSpecifier {
    ValueSpecifier::StringValue(value.to_owned())
}

fn header(name: &str) -> ValueSpecifier {
    let input = HttpRequestHeaderMatchInput {
        header_name: name.to_owned(),
    };
    ValueSpecifier::CustomValue(PbExtension {
        name: "header".to_owned(),
        typed_config: Some(pack_any(input)),
    })
}

fn bucket(id: Vec<(&str, ValueSpecifier)>) -> Matcher {
    let part = |(name, value): (&str, ValueSpecifier)| {
        let value_specifier = Some(value);
        (name.to_owned(), ValueBuilder { value_specifier })
    };
    let settings = RateLimitQuotaBucketSettings {
        bucket_id_builder: Some(BucketIdBuilder {
            bucket_id_builder: id.into_iter().map(part).collect::<HashMap<_, _>>(),
        }),
        reporting_interval: Some(ms(INTERVAL_MS)),
        deny_response_settings: Some(DenyResponseSettings {
            http_body: Some(BytesValue {
                value: b"enough".to_vec(),
            }),
            response_headers_to_add: vec![mesh::set_header("x-told", "1")],
            ..DenyResponseSettings::default()
        }),
        ..RateLimitQuotaBucketSettings::default()
    };
    Matcher {
        on_no_match: Some(Box::new(OnMatch {
            on_match: Some(On::Action(TypedExtensionConfig {
                name: "bucket".to_owned(),
                typed_config: Some(pack_any(settings)),
            })),
            ..OnMatch::default()
        })),
        ..Matcher::default()
    }
}

fn leasing(cluster: &str, matchers: Matcher) -> RateLimitQuotaFilterConfig {
    RateLimitQuotaFilterConfig {
        rlqs_server: Some(asking::service(cluster)),
        domain: "shop".to_owned(),
        bucket_matchers: Some(matchers),
        ..RateLimitQuotaFilterConfig::default()
    }
}

fn assign(strategy: Strategy, lasts_ms: i64) -> Option<Action> {
    Some(Action::QuotaAssignmentAction(QuotaAssignmentAction {
        assignment_time_to_live: Some(ms(lasts_ms)),
        rate_limit_strategy: Some(RateLimitStrategy {
            strategy: Some(strategy),
        }),
    }))
}

const DENY: Strategy = Strategy::BlanketRule(BlanketRule::DenyAll as i32);

fn overridden(mut route: Route, said: RateLimitQuotaOverride) -> Route {
    route
        .typed_per_filter_config
        .insert(NAME.to_owned(), pack_any(said));
    route
}

async fn start(filter: RateLimitQuotaFilterConfig, routes: Vec<Route>) -> (Stage, Quotas) {
    let quotas = Quotas::start().await;
    let table = mesh::routes("in", routes);
    let stage = Stage::start(vec![(NAME, pack_any(filter))], table, quotas.address).await;
    (stage, quotas)
}

/// Streams that are up, those that are down, and how often one has failed.
async fn streams(stage: &Stage, cluster: &str) -> [u64; 3] {
    let metrics = stage.proxy.admin("/metrics").await.unwrap().body;
    let of = format!("cluster=\"{cluster}\",domain=\"shop\"");
    [
        format!("tombolo_quota_streams{{{of},state=\"up\"}} "),
        format!("tombolo_quota_streams{{{of},state=\"down\"}} "),
        format!("tombolo_quota_stream_failures_total{{{of}}} "),
    ]
    .map(|line| {
        let value = metrics.lines().find_map(|found| found.strip_prefix(&*line));
        value
            .unwrap_or_else(|| panic!("{line} is missing in\n{metrics}"))
            .parse()
            .unwrap()
    })
}

async fn status(stage: &Stage, path: &str, lines: &[(&str, &str)]) -> u16 {
    stage.ask(&client(), path, lines, b"").await.status.as_u16()
}

async fn until(stage: &Stage, what: &str, path: &str, lines: &[(&str, &str)], expected: u16) {
    eventually(what, || async { status(stage, path, lines).await == expected }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_assigns_what_there_is() {
    let filter = leasing("service", bucket(vec![("name", text("n"))]));
    let (stage, quotas) = start(filter, vec![mesh::to_cluster("/", "a")]).await;
    // Nothing is assigned yet.
    for _ in 0..3 {
        assert_eq!(status(&stage, "/", &[]).await, 200);
    }
    eventually("it is told", || async { quotas.told("name=n").allowed == 3 }).await;
    assert_eq!(quotas.domains(), ["shop"]);
    let once = TokenBucket {
        max_tokens: 2,
        tokens_per_fill: Some(UInt32Value { value: 1 }),
        fill_interval: Some(ms(3_600_000)),
    };
    quotas.say(assign(Strategy::TokenBucket(once), 60_000));
    until(&stage, "there is no more", "/", &[], 429).await;
    for client in [client(), http2_client()] {
        let answer = stage.ask(&client, "/", &[], b"").await;
        assert_eq!((answer.status.as_u16(), &*answer.body), (429, "enough"));
        assert_eq!(answer.headers["x-told"], "1");
        let call = stage
            .ask(&client, "/", &[("content-type", "application/grpc")], b"")
            .await;
        assert_eq!(call.headers["grpc-status"], "14");
    }
    eventually("it is told of those too", || async {
        quotas.told("name=n").denied >= 5
    })
    .await;
    // It goes on being told when there is nothing to tell.
    let before = quotas.told("name=n");
    eventually("it is told each interval", || async {
        quotas.told("name=n").reports >= before.reports + 3
    })
    .await;
    let after = quotas.told("name=n");
    assert_eq!((after.allowed, after.denied), (before.allowed, before.denied));
    let metrics = stage.proxy.metrics().await;
    let line = "tombolo_requests_flagged_total{listener=\"in\",cluster=\"-\",flag=\"RL\"} ";
    assert!(metrics.contains(line), "{metrics}");
    // What is abandoned is as it was, and is asked for anew.
    quotas.say(Some(Action::AbandonAction(AbandonAction {})));
    until(&stage, "it is abandoned", "/", &[], 200).await;
    quotas.say(assign(DENY, 60_000));
    until(&stage, "it is assigned again", "/", &[], 429).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_and_clients_have_buckets_of_their_own() {
    let by_user = bucket(vec![("name", text("n")), ("user", header("x-user"))]);
    let filter = leasing("service", Matcher::default());
    let says = |path: &str, domain: &str, matchers: Option<Matcher>| {
        let said = RateLimitQuotaOverride {
            domain: domain.to_owned(),
            bucket_matchers: matchers,
        };
        overridden(mesh::to_cluster(path, "a"), said)
    };
    let routes = vec![
        says("/user", "", Some(by_user)),
        says("/b", "other", Some(bucket(vec![("name", text("b"))]))),
        // The same as the one before, elsewhere.
        says("/too", "other", Some(bucket(vec![("name", text("b"))]))),
        mesh::to_cluster("/", "a"),
    ];
    let (stage, quotas) = start(filter, routes).await;
    for (path, user) in [
        ("/user", Some("ann")),
        ("/user", Some("bob")),
        ("/user", None),
        ("/b", None),
        ("/too", None),
        ("/", None),
    ] {
        let lines: Vec<_> = user.map(|user| ("x-user", user)).into_iter().collect();
        assert_eq!(status(&stage, path, &lines).await, 200, "{path} {user:?}");
    }
    let expected = ["name=b", "name=n,user=ann", "name=n,user=bob"];
    eventually("all buckets are told", || async { quotas.buckets() == expected }).await;
    eventually("two routes have one", || async {
        quotas.told("name=b").allowed == 2
    })
    .await;
    let mut domains = quotas.domains();
    domains.sort_unstable();
    assert_eq!(domains, ["other", "shop"]);
    // Who is told of one domain on a stream has had nothing of the other.
    let names = quotas.names();
    assert!(matches!(&names[..], [one, other] if one != other), "{names:?}");
    quotas.say(assign(DENY, 60_000));
    for (path, lines, expected) in [
        ("/user", &[("x-user", "ann")][..], 429),
        ("/user", &[("x-user", "bob")], 429),
        ("/b", &[], 429),
        ("/too", &[], 429),
        ("/user", &[], 200),
        ("/", &[], 200),
    ] {
        until(&stage, path, path, lines, expected).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_assigned_outlives_its_service_for_a_while() {
    let filter = leasing("service", bucket(vec![("name", text("n"))]));
    let (stage, quotas) = start(filter, vec![mesh::to_cluster("/", "a")]).await;
    quotas.say(assign(DENY, 1000));
    until(&stage, "it is assigned", "/", &[], 429).await;
    assert_eq!(streams(&stage, "service").await[..2], [1, 0]);
    let stopped = std::time::Instant::now();
    quotas.stop();
    // It goes on for its time and once more, and no longer; what was said last may be some intervals old.
    until(&stage, "it is over", "/", &[], 200).await;
    assert!(stopped.elapsed() > Duration::from_millis(1200), "once more");
    // Requests go on while nobody assigns anything, and count.
    let before = quotas.told("name=n");
    for _ in 0..4 {
        assert_eq!(status(&stage, "/", &[]).await, 200);
    }
    let [up, down, failures] = streams(&stage, "service").await;
    assert_eq!((up, down), (0, 1));
    assert!(failures >= 2, "it has ended, and is tried again: {failures}");
    quotas.again().await;
    until(&stage, "it is assigned again", "/", &[], 429).await;
    let [up, down, again] = streams(&stage, "service").await;
    assert_eq!((up, down), (1, 0));
    assert!(again >= failures);
    eventually("it is told what was used meanwhile", || async {
        quotas.told("name=n").allowed >= before.allowed + 4
    })
    .await;
    // It knows that it is the same proxy's.
    let names = quotas.names();
    assert!(
        names.len() > 1 && !names[0].is_empty() && names.iter().all(|name| *name == names[0]),
        "{names:?}"
    );
    // A configuration that says the same again goes on with what was assigned, whoever says nothing more.
    quotas.say(assign(DENY, 60_000));
    let before = quotas.told("name=n").reports;
    eventually("it is assigned for longer", || async {
        quotas.told("name=n").reports > before + 1
    })
    .await;
    quotas.say(None);
    let streams = quotas.domains().len();
    let off = FilterConfig {
        disabled: true,
        ..FilterConfig::default()
    };
    let mut free = mesh::answer("/free", 204, "");
    free.typed_per_filter_config
        .insert(NAME.to_owned(), pack_any(off));
    // Its filters are other ones, with the same to say.
    let same = overridden(mesh::to_cluster("/", "a"), RateLimitQuotaOverride::default());
    let table = mesh::routes("in", vec![free, same]);
    stage.edge.put("in", &table);
    until(&stage, "there is another route", "/free", &[], 204).await;
    assert_eq!(status(&stage, "/", &[]).await, 429);
    assert_eq!(quotas.domains().len(), streams);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_new_or_over_waits_for_no_interval() {
    let mut matchers = bucket(vec![("name", text("n"))]);
    if let Some(On::Action(action)) = &mut matchers.on_no_match.as_mut().unwrap().on_match {
        let config = action.typed_config.as_mut().unwrap();
        let mut settings = RateLimitQuotaBucketSettings::decode(config.value.as_slice()).unwrap();
        settings.reporting_interval = Some(ms(600_000));
        *config = pack_any(settings);
    }
    let (stage, quotas) = start(leasing("service", matchers), vec![mesh::to_cluster("/", "a")]).await;
    quotas.say(assign(DENY, 300));
    for round in ["first", "again"] {
        until(&stage, round, "/", &[], 429).await;
        until(&stage, "it is over", "/", &[], 200).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_edge_itself_assigns_what_its_cluster_is_named_for() {
    let quotas = Quotas::start().await;
    let edge = AdsServer::start_beside(&quotas).await;
    let filter = leasing("xds", bucket(vec![("name", text("n"))]));
    let table = mesh::routes("in", vec![mesh::to_cluster("/", "a")]);
    let filters = vec![(NAME, pack_any(filter))];
    let stage = Stage::start_under(edge, filters, table, quotas.address).await;
    assert_eq!(status(&stage, "/", &[]).await, 200);
    eventually("it is told", || async { quotas.told("name=n").allowed == 1 }).await;
    quotas.say(assign(DENY, 60_000));
    until(&stage, "it is assigned", "/", &[], 429).await;
    // Whoever is elsewhere is not asked.
    assert_eq!(quotas.names().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_a_service_that_is_not_there() {
    let filter = leasing("dead", bucket(vec![("name", text("n"))]));
    let (stage, quotas) = start(filter, vec![mesh::to_cluster("/", "a")]).await;
    for _ in 0..3 {
        let began = std::time::Instant::now();
        assert_eq!(status(&stage, "/", &[]).await, 200);
        assert!(began.elapsed() < Duration::from_secs(1));
    }
    assert!(quotas.buckets().is_empty());
    eventually("it is told that it fails", || async {
        let [up, down, failures] = streams(&stage, "dead").await;
        (up, down) == (0, 1) && failures > 0
    })
    .await;
}
