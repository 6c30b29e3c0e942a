//! `envoy.extensions.filters.http.ext_authz.v3.ExtAuthz`, and `ExtAuthzPerRoute` of routes.

use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::ext_authz::Services;
use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::ext_authz_per_route::Override as PbOverride;
use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::{
    BufferSettings, CheckSettings as PbCheckSettings, ExtAuthz as PbExtAuthz, ExtAuthzPerRoute,
};
use envoy_types::pb::envoy::r#type::matcher::v3::ListStringMatcher;
use envoy_types::pb::google::protobuf::Any;
use http::StatusCode;

use crate::decode::fields::{At, Reason, answer_status, any, done, required};
use crate::decode::grpc_service;
use crate::decode::matcher::string;
use crate::filter::{Adjustment, Authorizer, CheckSettings, ExtAuthz, OnError, Override, RouteBody, Shown};

/// As in Envoy.
const TIMEOUT_DEFAULT: Duration = Duration::from_millis(200);
/// What servers of gRPC take of a message if nobody tells them otherwise is 4 MiB; one of three quarters leaves room for a head.
const SHOWN_BYTES_MAX: u32 = 3 << 20;

pub(super) fn of_listener(config: &Any) -> Result<ExtAuthz, Reason> {
    let mut pb: PbExtAuthz = any(config)?;
    take(&mut pb.stat_prefix);
    // Whatever it says is checked.
    take(&mut pb.validate_mutations);
    let service = match pb.services.take() {
        Some(Services::GrpcService(service)) => {
            grpc_service::decode(Some(service), TIMEOUT_DEFAULT).at("grpc_service")?
        }
        Some(Services::HttpService(_)) => {
            return Err("http_service: is not supported by this proxy".to_owned());
        }
        None => return Err("grpc_service: is required".to_owned()),
    };
    grpc_service::api_version(take(&mut pb.transport_api_version)).at("transport_api_version")?;
    let says_so = take(&mut pb.failure_mode_allow_header_add);
    let status = match pb.status_on_error.take() {
        None => StatusCode::FORBIDDEN,
        Some(status) => {
            let code = u32::try_from(status.code).map_err(|_| "is negative".to_owned());
            code.and_then(answer_status).at("status_on_error.code")?
        }
    };
    let on_error = if take(&mut pb.failure_mode_allow) {
        OnError::GoOn { says_so }
    } else {
        OnError::Answer(status)
    };
    let body = match pb.with_request_body.take() {
        None => None,
        Some(settings) => Some(shown(settings).at("with_request_body")?),
    };
    let allowed = match pb.allowed_headers.take() {
        None => None,
        Some(list) => Some(strings(list).at("allowed_headers")?),
    };
    let disallowed = match pb.disallowed_headers.take() {
        None => Vec::new(),
        Some(list) => strings(list).at("disallowed_headers")?,
    };
    done(&pb)?;
    Ok(ExtAuthz {
        service: Arc::new(Authorizer {
            callee: service,
            on_error,
            body,
            allowed,
            disallowed,
        }),
        settings: None,
    })
}

pub(super) fn of_route(config: &Any) -> Result<Override, Reason> {
    let mut pb: ExtAuthzPerRoute = any(config)?;
    let said = required(pb.r#override.take()).at("override")?;
    done(&pb)?;
    match said {
        PbOverride::Disabled(true) => Ok(Override::Off),
        PbOverride::Disabled(false) => Ok(Override::On),
        PbOverride::CheckSettings(settings) => {
            let settings = self::settings(settings).at("check_settings")?;
            Ok(Override::Adjusted(Adjustment::ExtAuthz(Arc::new(settings))))
        }
    }
}

fn settings(mut pb: PbCheckSettings) -> Result<CheckSettings, Reason> {
    let extensions = take(&mut pb.context_extensions).into_iter().collect();
    let body = match (
        take(&mut pb.disable_request_body_buffering),
        pb.with_request_body.take(),
    ) {
        (true, None) => RouteBody::Nothing,
        (false, None) => RouteBody::AsElsewhere,
        (false, Some(settings)) => RouteBody::Shown(shown(settings).at("with_request_body")?),
        (true, Some(_)) => {
            return Err(
                "with_request_body: is not supported beside disable_request_body_buffering".to_owned(),
            );
        }
    };
    done(&pb)?;
    Ok(CheckSettings { extensions, body })
}

fn shown(mut pb: BufferSettings) -> Result<Shown, Reason> {
    let bytes_max = take(&mut pb.max_request_bytes);
    if bytes_max == 0 || bytes_max > SHOWN_BYTES_MAX {
        return Err(format!("max_request_bytes: must be 1 to {SHOWN_BYTES_MAX}"));
    }
    let partial = take(&mut pb.allow_partial_message);
    let as_bytes = take(&mut pb.pack_as_bytes);
    done(&pb)?;
    Ok(Shown {
        bytes_max: bytes_max as usize,
        partial,
        as_bytes,
    })
}

fn strings(mut pb: ListStringMatcher) -> Result<Vec<crate::matcher::StringMatcher>, Reason> {
    let mut matchers = Vec::new();
    for (index, pattern) in take(&mut pb.patterns).into_iter().enumerate() {
        matchers.push(string(pattern).at_index("patterns", index)?);
    }
    done(&pb)?;
    Ok(matchers)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use envoy_types::pb::envoy::config::core::v3::grpc_service::{EnvoyGrpc, GoogleGrpc, TargetSpecifier};
    use envoy_types::pb::envoy::config::core::v3::{GrpcService, HeaderValue};
    use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::HttpService;
    use envoy_types::pb::envoy::r#type::v3::HttpStatus;
    use envoy_types::pb::google::protobuf::Duration as PbDuration;
    use envoy_types::util::pack_any;

    use super::*;

    type Change = fn(&mut PbExtAuthz);

    fn asking() -> PbExtAuthz {
        let target = EnvoyGrpc {
            cluster_name: "authz".to_owned(),
            ..EnvoyGrpc::default()
        };
        PbExtAuthz {
            services: Some(Services::GrpcService(GrpcService {
                target_specifier: Some(TargetSpecifier::EnvoyGrpc(target)),
                ..GrpcService::default()
            })),
            transport_api_version: 2,
            ..PbExtAuthz::default()
        }
    }

    fn decoded(change: Change) -> Result<ExtAuthz, Reason> {
        let mut pb = asking();
        change(&mut pb);
        of_listener(&pack_any(pb))
    }

    fn service(pb: &mut PbExtAuthz, change: fn(&mut GrpcService)) {
        if let Some(Services::GrpcService(service)) = &mut pb.services {
            change(service);
        }
    }

    fn target(pb: &mut PbExtAuthz, change: fn(&mut EnvoyGrpc)) {
        if let Some(Services::GrpcService(service)) = &mut pb.services
            && let Some(TargetSpecifier::EnvoyGrpc(target)) = &mut service.target_specifier
        {
            change(target);
        }
    }

    fn body(max_request_bytes: u32) -> Option<BufferSettings> {
        Some(BufferSettings {
            max_request_bytes,
            allow_partial_message: true,
            ..BufferSettings::default()
        })
    }

    #[test]
    fn a_service_is_asked_as_the_listener_says() {
        let of = |change: Change| decoded(change).map(|authz| Arc::unwrap_or_clone(authz.service));
        let plain = of(|_| {}).unwrap_or_else(|reason| panic!("{reason}"));
        assert_eq!(
            (&*plain.callee.cluster, plain.callee.authority.as_str()),
            ("authz", "authz")
        );
        assert_eq!(plain.callee.timeout, Duration::from_millis(200));
        assert_eq!(plain.on_error, OnError::Answer(StatusCode::FORBIDDEN));
        let other = of(|pb| {
            target(pb, |target| target.authority = "a.b:1".to_owned());
            service(pb, |service| {
                service.timeout = Some(PbDuration { seconds: 1, nanos: 0 });
            });
            pb.failure_mode_allow = true;
            pb.failure_mode_allow_header_add = true;
            pb.with_request_body = body(8);
        });
        let other = other.unwrap_or_else(|reason| panic!("{reason}"));
        assert_eq!(other.callee.authority.as_str(), "a.b:1");
        assert_eq!(other.callee.timeout, Duration::from_secs(1));
        assert_eq!(other.on_error, OnError::GoOn { says_so: true });
        let shown = Shown {
            bytes_max: 8,
            partial: true,
            as_bytes: false,
        };
        assert_eq!(other.body, Some(shown));
    }

    #[test]
    fn what_a_service_cannot_be_asked_is_refused() {
        let cases: [(Change, &str); 14] = [
            (|pb| pb.services = None, "grpc_service: is required"),
            (
                |pb| pb.services = Some(Services::HttpService(HttpService::default())),
                "http_service: is not supported by this proxy",
            ),
            (
                |pb| {
                    service(pb, |service| {
                        service.target_specifier = Some(TargetSpecifier::GoogleGrpc(GoogleGrpc::default()));
                    });
                },
                "grpc_service.target_specifier: only envoy_grpc is supported",
            ),
            (
                |pb| target(pb, |target| target.cluster_name.clear()),
                "grpc_service.envoy_grpc.cluster_name: is required",
            ),
            (
                |pb| target(pb, |target| target.authority = "a b".to_owned()),
                "grpc_service.envoy_grpc.authority: \"a b\" is no authority",
            ),
            (
                |pb| target(pb, |target| target.retry_policy = Some(Default::default())),
                "grpc_service.envoy_grpc.retry_policy: is not supported by this proxy",
            ),
            (
                |pb| service(pb, |service| service.timeout = Some(PbDuration::default())),
                "grpc_service.timeout: must be more than 0",
            ),
            (
                |pb| {
                    service(pb, |service| {
                        service.initial_metadata.push(HeaderValue {
                            key: "a b".to_owned(),
                            ..HeaderValue::default()
                        });
                    });
                },
                "grpc_service.initial_metadata[0].key: \"a b\" is not a header name",
            ),
            (
                |pb| pb.transport_api_version = 1,
                "transport_api_version: value 1 is not supported",
            ),
            (
                |pb| pb.clear_route_cache = true,
                "clear_route_cache: is not supported by this proxy",
            ),
            (
                |pb| pb.status_on_error = Some(HttpStatus { code: 100 }),
                "status_on_error.code: must be 200 to 599",
            ),
            (
                |pb| pb.with_request_body = body(0),
                "with_request_body.max_request_bytes: must be 1 to 3145728",
            ),
            (
                |pb| pb.with_request_body = body(u32::MAX),
                "with_request_body.max_request_bytes: must be 1 to 3145728",
            ),
            (
                |pb| {
                    pb.allowed_headers = Some(ListStringMatcher {
                        patterns: vec![Default::default()],
                    });
                },
                "allowed_headers.patterns[0]",
            ),
        ];
        for (change, expected) in cases {
            let got = decoded(change).err().unwrap_or_default();
            assert!(got.starts_with(expected), "{got} is not {expected}");
        }
    }

    #[test]
    fn routes_say_what_a_service_is_asked() {
        let of = |said| {
            let pb = ExtAuthzPerRoute { r#override: said };
            of_route(&pack_any(pb))
        };
        let check = |settings| of(Some(PbOverride::CheckSettings(settings)));
        let adjusted = |extensions, body| {
            let settings = CheckSettings { extensions, body };
            Ok(Override::Adjusted(Adjustment::ExtAuthz(Arc::new(settings))))
        };
        let refused = |reason: &str| Err(reason.to_owned());
        let shown = Shown {
            bytes_max: 8,
            partial: true,
            as_bytes: false,
        };
        for (got, expected) in [
            (of(None), refused("override: is required")),
            (of(Some(PbOverride::Disabled(true))), Ok(Override::Off)),
            (of(Some(PbOverride::Disabled(false))), Ok(Override::On)),
            (
                check(PbCheckSettings {
                    context_extensions: [("k".to_owned(), "v".to_owned())].into(),
                    ..PbCheckSettings::default()
                }),
                adjusted(
                    BTreeMap::from([("k".to_owned(), "v".to_owned())]),
                    RouteBody::AsElsewhere,
                ),
            ),
            (
                check(PbCheckSettings {
                    disable_request_body_buffering: true,
                    ..PbCheckSettings::default()
                }),
                adjusted(BTreeMap::new(), RouteBody::Nothing),
            ),
            (
                check(PbCheckSettings {
                    with_request_body: body(8),
                    ..PbCheckSettings::default()
                }),
                adjusted(BTreeMap::new(), RouteBody::Shown(shown)),
            ),
            (
                check(PbCheckSettings {
                    with_request_body: body(8),
                    disable_request_body_buffering: true,
                    ..PbCheckSettings::default()
                }),
                refused(
                    "check_settings.with_request_body: is not supported beside disable_request_body_buffering",
                ),
            ),
        ] {
            assert_eq!(got, expected);
        }
    }
}
