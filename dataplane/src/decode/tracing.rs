//! `HttpConnectionManager.Tracing` with OpenTelemetry's tracer.

use std::mem::take;

use envoy_types::pb::envoy::config::trace::v3::OpenTelemetryConfig;
use envoy_types::pb::envoy::config::trace::v3::tracing::Http as Provider;
use envoy_types::pb::envoy::config::trace::v3::tracing::http::ConfigType;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::Tracing as PbTracing;
use envoy_types::pb::envoy::r#type::tracing::v3::CustomTag;
use envoy_types::pb::envoy::r#type::tracing::v3::custom_tag::Type;
use envoy_types::pb::envoy::r#type::v3::Percent;

use super::fields::{At, Reason, any, done, header_name, required};
use super::otlp;
use crate::config::MILLION;
use crate::otlp::{Signal, Stream, string};
use crate::trace::{Sampling, Spans, Tag, TagValue, Tracing};

/// What a span says of a path, as in Envoy.
const PATH_BYTES_DEFAULT: u32 = 256;
/// What OpenTelemetry has for those that do not say who they are.
const SERVICE_NAME_DEFAULT: &str = "unknown_service:tombolo";

pub(super) fn of_listener(mut pb: PbTracing) -> Result<Tracing, Reason> {
    let client = share(pb.client_sampling.take()).at("client_sampling.value")?;
    let random = share(pb.random_sampling.take()).at("random_sampling.value")?;
    let overall = share(pb.overall_sampling.take()).at("overall_sampling.value")?;
    let path_bytes_max = pb.max_path_tag_length.take();
    let path_bytes_max = path_bytes_max.map_or(PATH_BYTES_DEFAULT, |length| length.value);
    let mut tags = Vec::new();
    for (index, given) in take(&mut pb.custom_tags).into_iter().enumerate() {
        tags.push(tag(given).at_index("custom_tags", index)?);
    }
    let of_attempts = pb.spawn_upstream_span.take().is_some_and(|spawn| spawn.value);
    let stream = required(pb.provider.take()).and_then(provider).at("provider")?;
    done(&pb)?;
    Ok(Tracing {
        sampling: Sampling {
            client,
            random,
            overall,
        },
        tags: tags.into(),
        path_bytes_max: usize::try_from(path_bytes_max).unwrap_or(usize::MAX),
        spans: if of_attempts {
            Spans::Attempts
        } else {
            Spans::Request
        },
        stream,
    })
}

/// Of a million requests; all of them where nothing is said.
fn share(percent: Option<Percent>) -> Result<u32, Reason> {
    let Some(Percent { value }) = percent else {
        return Ok(MILLION);
    };
    if !(0.0..=100.0).contains(&value) {
        return Err(format!("{value} is not a percentage"));
    }
    Ok((value * f64::from(MILLION / 100)).round() as u32)
}

fn tag(mut pb: CustomTag) -> Result<Tag, Reason> {
    let name = take(&mut pb.tag);
    if name.is_empty() {
        return Err("tag: is required".to_owned());
    }
    let value = match required(pb.r#type.take()).at("type")? {
        Type::Literal(mut literal) => {
            let value = take(&mut literal.value);
            if value.is_empty() {
                return Err("literal.value: is required".to_owned());
            }
            done(&literal).at("literal")?;
            TagValue::Literal(value.into())
        }
        Type::RequestHeader(mut header) => {
            let name = header_name(&take(&mut header.name)).at("request_header.name")?;
            let or = take(&mut header.default_value).into();
            done(&header).at("request_header")?;
            TagValue::Header { name, or }
        }
        _ => return Err("type: only literal and request_header are supported".to_owned()),
    };
    done(&pb)?;
    Ok(Tag {
        name: name.into(),
        value,
    })
}

fn provider(mut pb: Provider) -> Result<Stream, Reason> {
    take(&mut pb.name);
    let Some(ConfigType::TypedConfig(config)) = pb.config_type.take() else {
        return Err("typed_config: is required".to_owned());
    };
    done(&pb)?;
    let mut config: OpenTelemetryConfig = any(&config).at("typed_config")?;
    let collector = otlp::collector(config.grpc_service.take()).at("typed_config.grpc_service")?;
    let name = take(&mut config.service_name);
    done(&config).at("typed_config")?;
    let name = if name.is_empty() {
        SERVICE_NAME_DEFAULT
    } else {
        &name
    };
    let resource = vec![string("service.name", name)];
    Ok(Stream::new(Signal::Traces, collector, resource))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use envoy_types::pb::envoy::config::core::v3::grpc_service::{EnvoyGrpc, GoogleGrpc, TargetSpecifier};
    use envoy_types::pb::envoy::config::core::v3::{GrpcService, HttpService};
    use envoy_types::pb::envoy::r#type::tracing::v3::custom_tag::{Environment, Header, Literal};
    use envoy_types::pb::google::protobuf::{Any, Duration};
    use envoy_types::util::pack_any;
    use prost::Message;

    use super::*;

    fn right() -> PbTracing {
        PbTracing {
            provider: Some(Provider {
                name: "any".to_owned(),
                config_type: Some(ConfigType::TypedConfig(pack_any(OpenTelemetryConfig {
                    grpc_service: Some(GrpcService {
                        target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
                            cluster_name: "c".to_owned(),
                            ..Default::default()
                        })),
                        ..Default::default()
                    }),
                    ..Default::default()
                }))),
            }),
            ..Default::default()
        }
    }

    fn config(pb: &mut PbTracing, change: impl FnOnce(&mut OpenTelemetryConfig)) {
        if let Some(ConfigType::TypedConfig(packed)) = &mut pb.provider.as_mut().unwrap().config_type {
            let mut config = OpenTelemetryConfig::decode(packed.value.as_slice()).unwrap();
            change(&mut config);
            *packed = pack_any(config);
        }
    }

    fn service(pb: &mut PbTracing, change: impl FnOnce(&mut GrpcService)) {
        config(pb, |config| change(config.grpc_service.as_mut().unwrap()));
    }

    fn at(pb: &mut PbTracing, uri: &str) {
        let target = GoogleGrpc {
            target_uri: uri.to_owned(),
            ..Default::default()
        };
        service(pb, |service| {
            service.target_specifier = Some(TargetSpecifier::GoogleGrpc(target));
        });
    }

    fn tagged(pb: &mut PbTracing, r#type: Type) {
        pb.custom_tags = vec![CustomTag {
            tag: "t".to_owned(),
            r#type: Some(r#type),
        }];
    }

    #[test]
    fn tracing_is_as_the_contract_says() {
        type Case = (fn(&mut PbTracing), Result<(), &'static str>);
        let cases: [Case; 18] = [
            (|_| {}, Ok(())),
            (|pb| at(pb, "collector:4317"), Ok(())),
            (
                |pb| pb.verbose = true,
                Err("verbose: is not supported by this proxy"),
            ),
            (|pb| pb.provider = None, Err("provider: is required")),
            (
                |pb| pb.random_sampling = Some(Percent { value: 100.5 }),
                Err("random_sampling.value: 100.5 is not a percentage"),
            ),
            (
                |pb| pb.client_sampling = Some(Percent { value: f64::NAN }),
                Err("client_sampling.value: NaN is not a percentage"),
            ),
            (
                |pb| pb.custom_tags.push(CustomTag::default()),
                Err("custom_tags[0].tag: is required"),
            ),
            (
                |pb| tagged(pb, Type::Literal(Literal::default())),
                Err("custom_tags[0].literal.value: is required"),
            ),
            (
                |pb| tagged(pb, Type::Environment(Environment::default())),
                Err("custom_tags[0].type: only literal and request_header are supported"),
            ),
            (
                |pb| {
                    let name = "a b".to_owned();
                    tagged(
                        pb,
                        Type::RequestHeader(Header {
                            name,
                            ..Default::default()
                        }),
                    );
                },
                Err("custom_tags[0].request_header.name: \"a b\" is not a header name"),
            ),
            (
                |pb| {
                    pb.provider.as_mut().unwrap().config_type = Some(ConfigType::TypedConfig(Any::default()));
                },
                Err(
                    "provider.typed_config:  is not supported here, expected type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig",
                ),
            ),
            (
                |pb| config(pb, |config| config.http_service = Some(HttpService::default())),
                Err("provider.typed_config.http_service: is not supported by this proxy"),
            ),
            (
                |pb| config(pb, |config| config.grpc_service = None),
                Err("provider.typed_config.grpc_service: is required"),
            ),
            (
                |pb| service(pb, |service| service.target_specifier = None),
                Err("provider.typed_config.grpc_service.target_specifier: is required"),
            ),
            (
                |pb| service(pb, |service| service.timeout = Some(Duration::default())),
                Err("provider.typed_config.grpc_service.timeout: must be more than 0"),
            ),
            (
                |pb| service(pb, |service| service.retry_policy = Some(Default::default())),
                Err("provider.typed_config.grpc_service.retry_policy: is not supported by this proxy"),
            ),
            (
                |pb| at(pb, "collector"),
                Err(
                    "provider.typed_config.grpc_service.google_grpc.target_uri: \"collector\" is not HOST:PORT",
                ),
            ),
            (
                |pb| at(pb, "dns:///collector:1"),
                Err(
                    "provider.typed_config.grpc_service.google_grpc.target_uri: \"dns:///collector:1\" is not a host with or without a port",
                ),
            ),
        ];
        for (change, expected) in cases {
            let mut pb = right();
            change(&mut pb);
            let got = of_listener(pb).map(drop);
            assert_eq!(got, expected.map_err(str::to_owned));
        }
    }

    #[test]
    fn what_is_not_said_is_as_in_envoy() {
        let tracing = of_listener(right()).unwrap();
        let all = Sampling {
            client: MILLION,
            random: MILLION,
            overall: MILLION,
        };
        assert_eq!((tracing.sampling, tracing.spans), (all, Spans::Request));
        assert_eq!(tracing.path_bytes_max, 256);
        let mut pb = right();
        pb.random_sampling = Some(Percent { value: 12.345_678 });
        assert_eq!(of_listener(pb).unwrap().sampling.random, 123_457);
    }
}
