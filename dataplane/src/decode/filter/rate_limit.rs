//! `envoy.extensions.filters.http.ratelimit.v3.RateLimit`, and `RateLimitPerRoute` of routes.

use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::extensions::filters::http::ratelimit::v3::rate_limit::XRateLimitHeadersRfcVersion;
use envoy_types::pb::envoy::extensions::filters::http::ratelimit::v3::rate_limit_per_route::VhRateLimitsOptions;
use envoy_types::pb::envoy::extensions::filters::http::ratelimit::v3::{
    RateLimit as PbRateLimit, RateLimitPerRoute,
};
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use envoy_types::pb::google::protobuf::Any;
use http::StatusCode;

use crate::decode::fields::{At, Reason, answer_status, any, done, positive, required};
use crate::decode::{descriptor, grpc_service};
use crate::filter::{Adjustment, LimitSettings, Limiter, Outer, Override, RateLimit};
use crate::grpc::Code;
use crate::grpc_call::Callee;

/// As in Envoy.
const TIMEOUT_DEFAULT: Duration = Duration::from_millis(20);

pub(super) fn of_listener(config: &Any) -> Result<RateLimit, Reason> {
    let mut pb: PbRateLimit = any(config)?;
    take(&mut pb.stat_prefix);
    let domain = take(&mut pb.domain);
    if domain.is_empty() {
        return Err("domain: is required".to_owned());
    }
    let stage = descriptor::stage(take(&mut pb.stage)).at("stage")?;
    let request_type = take(&mut pb.request_type);
    if !matches!(&*request_type, "" | "both") {
        return Err(format!(
            "request_type: {request_type:?} is not supported, only both"
        ));
    }
    let timeout = match pb.timeout.take() {
        None => TIMEOUT_DEFAULT,
        Some(timeout) => positive(timeout).at("timeout")?,
    };
    let mut service = required(pb.rate_limit_service.take()).at("rate_limit_service")?;
    grpc_service::api_version(take(&mut service.transport_api_version))
        .at("transport_api_version")
        .at("rate_limit_service")?;
    let callee = grpc_service::decode(service.grpc_service.take(), timeout)
        .at("grpc_service")
        .at("rate_limit_service")?;
    done(&service).at("rate_limit_service")?;
    // As in Envoy, the filter's is what counts.
    let callee = Callee { timeout, ..callee };
    let failed =
        status(pb.status_on_error.take(), StatusCode::INTERNAL_SERVER_ERROR).at("status_on_error")?;
    let on_error = take(&mut pb.failure_mode_deny).then_some(failed);
    let status =
        status(pb.rate_limited_status.take(), StatusCode::TOO_MANY_REQUESTS).at("rate_limited_status")?;
    let code = take(&mut pb.rate_limited_as_resource_exhausted).then_some(Code::RESOURCE_EXHAUSTED);
    let says_limited = !take(&mut pb.disable_x_envoy_ratelimited_header);
    let says_limits = match XRateLimitHeadersRfcVersion::try_from(take(&mut pb.enable_x_ratelimit_headers)) {
        Ok(XRateLimitHeadersRfcVersion::Off) => false,
        Ok(XRateLimitHeadersRfcVersion::DraftVersion03) => true,
        Err(_) => return Err("enable_x_ratelimit_headers: is unknown".to_owned()),
    };
    done(&pb)?;
    Ok(RateLimit {
        service: Arc::new(Limiter {
            callee,
            domain: domain.into(),
            stage,
            on_error,
            status,
            code,
            says_limited,
            says_limits,
        }),
        settings: None,
    })
}

pub(super) fn of_route(config: &Any) -> Result<Override, Reason> {
    let mut pb: RateLimitPerRoute = any(config)?;
    let domain = Some(take(&mut pb.domain)).filter(|domain| !domain.is_empty());
    let outer = match VhRateLimitsOptions::try_from(take(&mut pb.vh_rate_limits)) {
        Ok(VhRateLimitsOptions::Override) => Outer::Default,
        Ok(VhRateLimitsOptions::Include) => Outer::Included,
        Ok(VhRateLimitsOptions::Ignore) => Outer::Ignored,
        Err(_) => return Err("vh_rate_limits: is unknown".to_owned()),
    };
    let limits = descriptor::decode(take(&mut pb.rate_limits), "rate_limits")?;
    done(&pb)?;
    Ok(Override::Adjusted(Adjustment::RateLimit(Arc::new(
        LimitSettings {
            domain: domain.map(String::into_boxed_str),
            outer,
            limits,
        },
    ))))
}

/// As in Envoy, no success is said to one request too many.
fn status(given: Option<HttpStatus>, default: StatusCode) -> Result<StatusCode, Reason> {
    let Some(given) = given else { return Ok(default) };
    let code = u32::try_from(given.code).map_err(|_| "is negative".to_owned());
    let status = code.and_then(answer_status).at("code")?;
    Ok(if status.as_u16() < 400 { default } else { status })
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::core::v3::GrpcService;
    use envoy_types::pb::envoy::config::core::v3::grpc_service::{EnvoyGrpc, TargetSpecifier};
    use envoy_types::pb::envoy::config::ratelimit::v3::RateLimitServiceConfig;
    use envoy_types::pb::envoy::config::route::v3::rate_limit::Action;
    use envoy_types::pb::envoy::config::route::v3::rate_limit::action::{
        ActionSpecifier, GenericKey, HeaderValueMatch, MaskedRemoteAddress, RequestHeaders, SourceCluster,
    };
    use envoy_types::pb::envoy::config::route::v3::{RateLimit as PbDescribed, RouteAction};
    use envoy_types::pb::google::protobuf::{Duration as PbDuration, UInt32Value};
    use envoy_types::util::pack_any;

    use super::*;

    type Change = fn(&mut PbRateLimit);

    fn asking() -> PbRateLimit {
        let target = EnvoyGrpc {
            cluster_name: "limits".to_owned(),
            ..EnvoyGrpc::default()
        };
        PbRateLimit {
            domain: "shop".to_owned(),
            rate_limit_service: Some(RateLimitServiceConfig {
                grpc_service: Some(GrpcService {
                    target_specifier: Some(TargetSpecifier::EnvoyGrpc(target)),
                    ..GrpcService::default()
                }),
                transport_api_version: 2,
            }),
            ..PbRateLimit::default()
        }
    }

    fn decoded(change: Change) -> Result<RateLimit, Reason> {
        let mut pb = asking();
        change(&mut pb);
        of_listener(&pack_any(pb))
    }

    #[test]
    fn a_service_is_asked_as_the_listener_says() {
        let of = |change: Change| decoded(change).map(|limit| Arc::unwrap_or_clone(limit.service));
        let plain = of(|_| {}).unwrap_or_else(|reason| panic!("{reason}"));
        assert_eq!(
            (plain.callee.timeout, plain.on_error),
            (Duration::from_millis(20), None)
        );
        assert_eq!(plain.status, StatusCode::TOO_MANY_REQUESTS);
        assert!(plain.says_limited && !plain.says_limits);
        let other = of(|pb| {
            pb.failure_mode_deny = true;
            pb.rate_limited_status = Some(HttpStatus { code: 503 });
            pb.timeout = Some(PbDuration { seconds: 1, nanos: 0 });
        });
        let other = other.unwrap_or_else(|reason| panic!("{reason}"));
        assert_eq!(other.on_error, Some(StatusCode::INTERNAL_SERVER_ERROR));
        assert_eq!(
            (other.status.as_u16(), other.callee.timeout),
            (503, Duration::from_secs(1))
        );
        let mild = of(|pb| pb.rate_limited_status = Some(HttpStatus { code: 200 }));
        assert_eq!(
            mild.map(|service| service.status),
            Ok(StatusCode::TOO_MANY_REQUESTS)
        );
    }

    #[test]
    fn what_a_service_cannot_be_asked_is_refused() {
        let cases: [(Change, &str); 7] = [
            (|pb| pb.domain.clear(), "domain: is required"),
            (|pb| pb.stage = 11, "stage: must be 0 to 10"),
            (
                |pb| pb.request_type = "internal".to_owned(),
                "request_type: \"internal\" is not supported, only both",
            ),
            (
                |pb| pb.rate_limit_service = None,
                "rate_limit_service: is required",
            ),
            (
                |pb| pb.rate_limit_service = Some(RateLimitServiceConfig::default()),
                "rate_limit_service.grpc_service: is required",
            ),
            (
                |pb| pb.enable_x_ratelimit_headers = 7,
                "enable_x_ratelimit_headers: is unknown",
            ),
            (
                |pb| pb.rate_limits.push(PbDescribed::default()),
                "rate_limits: is not supported by this proxy",
            ),
        ];
        for (change, expected) in cases {
            assert_eq!(decoded(change).err().as_deref(), Some(expected));
        }
    }

    #[test]
    fn descriptors_that_cannot_be_made_are_refused() {
        let of = |action| PbDescribed {
            actions: vec![Action {
                action_specifier: Some(action),
            }],
            ..PbDescribed::default()
        };
        let key = |value: &str| {
            ActionSpecifier::GenericKey(GenericKey {
                descriptor_value: value.to_owned(),
                ..GenericKey::default()
            })
        };
        let staged = PbDescribed {
            stage: Some(UInt32Value { value: 11 }),
            ..of(key("v"))
        };
        let late = PbDescribed {
            apply_on_stream_done: true,
            ..of(key("v"))
        };
        for (described, expected) in [
            (of(key("v")), None),
            (PbDescribed::default(), Some("actions: at least one is required")),
            (staged, Some("stage: must be 0 to 10")),
            (late, Some("apply_on_stream_done: is not supported by this proxy")),
            (
                of(key("")),
                Some("actions[0].generic_key.descriptor_value: is required"),
            ),
            (
                of(key("%REQ(a)%")),
                Some(
                    "actions[0].generic_key.descriptor_value: \"%REQ(a)%\" has a %, and substitutions are not supported",
                ),
            ),
            (
                of(ActionSpecifier::SourceCluster(SourceCluster {})),
                Some("actions[0].action_specifier: only destination_cluster"),
            ),
            (
                of(ActionSpecifier::RequestHeaders(RequestHeaders {
                    header_name: "a b".to_owned(),
                    descriptor_key: "k".to_owned(),
                    ..RequestHeaders::default()
                })),
                Some("actions[0].request_headers.header_name: \"a b\" is not a header name"),
            ),
            (
                of(ActionSpecifier::HeaderValueMatch(HeaderValueMatch {
                    descriptor_value: "v".to_owned(),
                    ..HeaderValueMatch::default()
                })),
                Some("actions[0].header_value_match.headers: at least one is required"),
            ),
            (
                of(ActionSpecifier::MaskedRemoteAddress(MaskedRemoteAddress {
                    v4_prefix_mask_len: Some(UInt32Value { value: 33 }),
                    ..MaskedRemoteAddress::default()
                })),
                Some("actions[0].masked_remote_address.v4_prefix_mask_len: 33 is more than 32"),
            ),
        ] {
            let action = RouteAction {
                rate_limits: vec![described],
                ..RouteAction::default()
            };
            let got = descriptor::decode(action.rate_limits, "rate_limits").err();
            let expected = expected.map(|reason| format!("rate_limits[0].{reason}"));
            match (got, expected) {
                (None, None) => {}
                (Some(got), Some(expected)) => assert!(got.starts_with(&expected), "{got}"),
                (got, expected) => panic!("{got:?} is not {expected:?}"),
            }
        }
    }
}
