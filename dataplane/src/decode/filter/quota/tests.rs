use envoy_types::pb::envoy::config::core::v3::grpc_service::{EnvoyGrpc, TargetSpecifier};
use envoy_types::pb::envoy::config::core::v3::{GrpcService, TypedExtensionConfig as PbExtension};
use envoy_types::pb::envoy::extensions::filters::http::rate_limit_quota::v3::rate_limit_quota_bucket_settings::expired_assignment_behavior::ReuseLastAssignment;
use envoy_types::pb::envoy::r#type::v3::{HttpStatus, TokenBucket};
use envoy_types::pb::envoy::service::rate_limit_quota::v3::rate_limit_quota_response::bucket_action::QuotaAssignmentAction;
use envoy_types::pb::google::protobuf::{Duration as PbDuration, UInt32Value};
use envoy_types::pb::google::rpc::Status;
use envoy_types::pb::xds::core::v3::TypedExtensionConfig;
use envoy_types::pb::xds::r#type::matcher::v3::matcher::OnMatch as PbOnMatch;
use envoy_types::util::pack_any;

use super::*;

type Change<T> = fn(&mut T);
type Check = fn(&QuotaLimit) -> bool;

fn seconds(seconds: i64) -> Option<PbDuration> {
    Some(PbDuration { seconds, nanos: 0 })
}

fn by(strategy: PbStrategy) -> RateLimitStrategy {
    RateLimitStrategy {
        strategy: Some(strategy),
    }
}

fn value(value: ValueSpecifier) -> ValueBuilder {
    ValueBuilder {
        value_specifier: Some(value),
    }
}

fn settings() -> RateLimitQuotaBucketSettings {
    let name = (
        "name".to_owned(),
        value(ValueSpecifier::StringValue("n".to_owned())),
    );
    RateLimitQuotaBucketSettings {
        bucket_id_builder: Some(BucketIdBuilder {
            bucket_id_builder: [name].into(),
        }),
        reporting_interval: seconds(1),
        ..RateLimitQuotaBucketSettings::default()
    }
}

fn id_of(pb: &mut RateLimitQuotaBucketSettings) -> &mut std::collections::HashMap<String, ValueBuilder> {
    &mut pb.bucket_id_builder.get_or_insert_default().bucket_id_builder
}

fn expires(pb: &mut RateLimitQuotaBucketSettings, kind: PbExpiredKind, after: Option<PbDuration>) {
    pb.expired_assignment_behavior = Some(ExpiredAssignmentBehavior {
        expired_assignment_behavior_timeout: after,
        expired_assignment_behavior: Some(kind),
    });
}

fn denies(pb: &mut RateLimitQuotaBucketSettings) -> &mut DenyResponseSettings {
    pb.deny_response_settings.get_or_insert_default()
}

fn matcher(settings: &RateLimitQuotaBucketSettings) -> Matcher {
    Matcher {
        on_no_match: Some(Box::new(PbOnMatch {
            on_match: Some(OnMatch::Action(TypedExtensionConfig {
                name: "any".to_owned(),
                typed_config: Some(pack_any(settings.clone())),
            })),
            ..PbOnMatch::default()
        })),
        ..Matcher::default()
    }
}

fn listed() -> RateLimitQuotaFilterConfig {
    RateLimitQuotaFilterConfig {
        rlqs_server: Some(GrpcService {
            target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
                cluster_name: "edge".to_owned(),
                ..EnvoyGrpc::default()
            })),
            ..GrpcService::default()
        }),
        domain: "shop".to_owned(),
        bucket_matchers: Some(matcher(&settings())),
        ..RateLimitQuotaFilterConfig::default()
    }
}

#[test]
fn what_is_not_said_is_as_in_envoy() {
    let quota = of_listener(&pack_any(listed())).unwrap();
    assert_eq!((quota.service.asked, quota.service.enforced), (MILLION, MILLION));
    assert_eq!(quota.service.callee.timeout, TIMEOUT_DEFAULT);
    let limit = quota.limit.unwrap();
    assert_eq!((limit.status.as_u16(), limit.code), (429, Code::UNAVAILABLE));
    assert_eq!(
        (limit.unassigned, limit.expired),
        (Strategy::AllowAll, Expired::OnceMore)
    );
    assert!(limit.body.is_empty());
    // A listener's may be without, where routes have some.
    let empty = RateLimitQuotaFilterConfig {
        bucket_matchers: Some(Matcher::default()),
        ..listed()
    };
    assert_eq!(of_listener(&pack_any(empty)).unwrap().limit, None);
    let nothing = of_route(&pack_any(RateLimitQuotaOverride::default())).unwrap();
    let settings = QuotaSettings {
        domain: None,
        limit: None,
    };
    assert_eq!(nothing, Override::Adjusted(Adjustment::Quota(Arc::new(settings))));
}

#[test]
fn what_is_said_is_taken() {
    let deny = || by(PbStrategy::BlanketRule(BlanketRule::DenyAll as i32));
    let cases: [(Change<RateLimitQuotaBucketSettings>, Check); 5] = [
        (
            |pb| {
                expires(
                    pb,
                    PbExpiredKind::ReuseLastAssignment(ReuseLastAssignment {}),
                    None,
                );
            },
            |limit| limit.expired == Expired::Reuse(Duration::ZERO),
        ),
        (
            |pb| {
                let rule = PbStrategy::BlanketRule(BlanketRule::AllowAll as i32);
                expires(pb, PbExpiredKind::FallbackRateLimit(by(rule)), seconds(5));
            },
            |limit| limit.expired == Expired::Fallback(Strategy::AllowAll, Duration::from_secs(5)),
        ),
        (
            |pb| {
                denies(pb).http_status = Some(HttpStatus { code: 503 });
                denies(pb).grpc_status = Some(Status {
                    code: 8,
                    ..Status::default()
                });
            },
            |limit| limit.status.as_u16() == 503 && limit.code == Code::RESOURCE_EXHAUSTED,
        ),
        // No success is an answer to one too many.
        (
            |pb| denies(pb).http_status = Some(HttpStatus { code: 200 }),
            |limit| limit.status.as_u16() == 429,
        ),
        (
            |pb| {
                id_of(pb).insert("a".to_owned(), value(ValueSpecifier::StringValue("b".to_owned())));
            },
            |limit| limit.id.iter().map(|(name, _)| &**name).eq(["a", "name"]),
        ),
    ];
    for (nth, (change, is_so)) in cases.into_iter().enumerate() {
        let mut pb = settings();
        change(&mut pb);
        assert!(is_so(&limit(&pack_any(pb)).unwrap()), "{nth}");
    }
    let mut pb = settings();
    pb.no_assignment_behavior = Some(NoAssignmentBehavior {
        no_assignment_behavior: Some(PbUnassignedKind::FallbackRateLimit(deny())),
    });
    assert_eq!(limit(&pack_any(pb)).unwrap().unassigned, Strategy::DenyAll);
}

#[test]
fn what_this_proxy_cannot_count_is_refused() {
    let cases: [(Change<RateLimitQuotaBucketSettings>, &str); 10] = [
        (|pb| pb.bucket_id_builder = None, "bucket_id_builder: is required"),
        (
            |pb| id_of(pb).clear(),
            "bucket_id_builder.bucket_id_builder: at least one is required",
        ),
        (
            |pb| {
                id_of(pb).insert("b".to_owned(), ValueBuilder::default());
            },
            "bucket_id_builder.bucket_id_builder.b: is required",
        ),
        (
            |pb| {
                let other = PbExtension {
                    typed_config: Some(pack_any(UInt32Value { value: 1 })),
                    ..PbExtension::default()
                };
                id_of(pb).insert("b".to_owned(), value(ValueSpecifier::CustomValue(other)));
            },
            "bucket_id_builder.bucket_id_builder.b.custom_value: type.googleapis.com/google.protobuf.UInt32Value is not supported here, expected type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput",
        ),
        (
            |pb| pb.reporting_interval = None,
            "reporting_interval: is required",
        ),
        (
            |pb| {
                pb.reporting_interval = Some(PbDuration {
                    seconds: 0,
                    nanos: 100_000_000,
                });
            },
            "reporting_interval: must be more than 100 ms",
        ),
        (
            |pb| pb.no_assignment_behavior = Some(NoAssignmentBehavior::default()),
            "no_assignment_behavior: is required",
        ),
        (
            |pb| {
                let bucket = PbStrategy::TokenBucket(TokenBucket::default());
                expires(pb, PbExpiredKind::FallbackRateLimit(by(bucket)), None);
            },
            "expired_assignment_behavior.fallback_rate_limit.token_bucket.max_tokens: must be more than 0",
        ),
        (
            |pb| {
                denies(pb).grpc_status = Some(Status {
                    message: "no".to_owned(),
                    ..Status::default()
                });
            },
            "deny_response_settings.grpc_status.message: is not supported by this proxy",
        ),
        (
            |pb| denies(pb).grpc_status = Some(Status::default()),
            "deny_response_settings.grpc_status.code: must be more than 0",
        ),
    ];
    for (change, expected) in cases {
        let mut pb = settings();
        change(&mut pb);
        let config = RateLimitQuotaFilterConfig {
            bucket_matchers: Some(matcher(&pb)),
            ..listed()
        };
        let at = "bucket_matchers.on_no_match.action.typed_config";
        let got = of_listener(&pack_any(config)).unwrap_err();
        assert_eq!(got, format!("{at}.{expected}"));
    }
    let cases: [(Change<RateLimitQuotaFilterConfig>, &str); 4] = [
        (|pb| pb.rlqs_server = None, "rlqs_server: is required"),
        (|pb| pb.domain.clear(), "domain: is required"),
        (|pb| pb.bucket_matchers = None, "bucket_matchers: is required"),
        (
            |pb| pb.request_headers_to_add_when_not_enforced = vec![Default::default(); 11],
            "request_headers_to_add_when_not_enforced: has more than 10",
        ),
    ];
    for (change, expected) in cases {
        let mut pb = listed();
        change(&mut pb);
        assert_eq!(of_listener(&pack_any(pb)).unwrap_err(), expected);
    }
}

#[test]
fn what_a_service_says_is_taken_one_by_one() {
    let per = |requests_per_time_unit, unit: RateLimitUnit| {
        by(PbStrategy::RequestsPerTimeUnit(RequestsPerTimeUnit {
            requests_per_time_unit,
            time_unit: unit as i32,
        }))
    };
    let rate = |tokens, interval| Strategy::Rate(Rate::new(tokens, tokens, Duration::from_secs(interval)));
    for (said, expected) in [
        (None, Ok(Strategy::AllowAll)),
        (Some(per(5, RateLimitUnit::Minute)), Ok(rate(5, 60))),
        (Some(per(0, RateLimitUnit::Unknown)), Ok(Strategy::DenyAll)),
        (Some(per(u64::MAX, RateLimitUnit::Second)), Ok(rate(u32::MAX, 1))),
        (
            Some(per(5, RateLimitUnit::Unknown)),
            Err("bucket_action[0].rate_limit_strategy.requests_per_time_unit.time_unit: is unknown"),
        ),
        (
            Some(RateLimitStrategy::default()),
            Err("bucket_action[0].rate_limit_strategy: is required"),
        ),
    ] {
        let action = |rate_limit_strategy| BucketAction {
            bucket_id: Some(PbBucketId {
                bucket: [("b", "2"), ("a", "1")]
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .into(),
            }),
            bucket_action: Some(PbAction::QuotaAssignmentAction(QuotaAssignmentAction {
                assignment_time_to_live: seconds(9),
                rate_limit_strategy,
            })),
        };
        let response = RateLimitQuotaResponse {
            bucket_action: vec![action(said), action(None)],
        };
        let got: Vec<_> = actions(response).collect();
        let id: BucketId = [("a".into(), "1".into()), ("b".into(), "2".into())].into();
        let assigned = |strategy| {
            let lasts = Some(Duration::from_secs(9));
            (id.clone(), Action::Assign { strategy, lasts })
        };
        assert_eq!(got[0], expected.map(assigned).map_err(str::to_owned), "{said:?}");
        // One that is nothing costs the others nothing.
        assert_eq!(got[1], Ok(assigned(Strategy::AllowAll)), "{said:?}");
    }
}
