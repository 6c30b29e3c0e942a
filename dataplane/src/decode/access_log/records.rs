//! `OpenTelemetryAccessLogConfig`: the shapes of bodies and attributes, with operators in their texts.

use std::mem::take;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::{ApiVersion, GrpcService};
use envoy_types::pb::envoy::extensions::access_loggers::grpc::v3::CommonGrpcAccessLogConfig;
use envoy_types::pb::envoy::extensions::access_loggers::open_telemetry::v3::OpenTelemetryAccessLogConfig;

use super::{formatters, pieces};
use crate::access_log::{Format, Medium, Records, Shape, Shapes, Show};
use crate::decode::fields::{At, Reason, done, only_enum, required};
use crate::decode::otlp;
use crate::otlp::{AnyValue, KeyValueList, Signal, Stream, Value, string};

#[allow(deprecated, reason = "it is where Envoy before 1.37 has the collector")]
pub(super) fn records(mut pb: OpenTelemetryAccessLogConfig) -> Result<(Medium, Format), Reason> {
    take(&mut pb.stat_prefix);
    let (name, service) = match pb.common_config.take() {
        Some(common) => self::common(common).at("common_config")?,
        None => {
            let service = otlp::collector(pb.grpc_service.take()).at("grpc_service")?;
            (take(&mut pb.log_name), service)
        }
    };
    formatters(take(&mut pb.formatters))?;
    let body = pb.body.take().map(shape).transpose().at("body")?;
    let attributes = map(pb.attributes.take().unwrap_or_default()).at("attributes")?;
    let mut resource = Vec::new();
    if !take(&mut pb.disable_builtin_labels) && !name.is_empty() {
        resource.push(string("log_name", name));
    }
    resource.extend(pb.resource_attributes.take().unwrap_or_default().values);
    done(&pb)?;
    let records = Records {
        stream: Stream::new(Signal::Logs, service, resource),
        body,
        attributes,
    };
    let format = records.format();
    Ok((Medium::Records(Arc::new(records)), format))
}

fn common(mut pb: CommonGrpcAccessLogConfig) -> Result<(String, crate::otlp::Collector), Reason> {
    let name = take(&mut pb.log_name);
    only_enum(
        take(&mut pb.transport_api_version),
        &[ApiVersion::Auto as i32, ApiVersion::V3 as i32],
    )
    .at("transport_api_version")?;
    let service: Option<GrpcService> = pb.grpc_service.take();
    done(&pb)?;
    Ok((name, otlp::collector(service).at("grpc_service")?))
}

fn shape(pb: AnyValue) -> Result<Shape, Reason> {
    Ok(match required(pb.value)? {
        Value::StringValue(text) => Shape::Text(Format::new(pieces(&text, Show::Text)?)),
        Value::ArrayValue(list) => {
            let values = list.values.into_iter().enumerate();
            let shapes: Result<_, _> = values
                .map(|(index, value)| shape(value).at_index("values", index))
                .collect();
            Shape::List(shapes?)
        }
        Value::KvlistValue(list) => Shape::Map(map(list)?),
        _ => return Err("only string_value, array_value and kvlist_value are supported".to_owned()),
    })
}

fn map(pb: KeyValueList) -> Result<Shapes, Reason> {
    let pairs = pb.values.into_iter().map(|pair| {
        let shape = required(pair.value).and_then(shape).at_key("values", &pair.key)?;
        Ok((pair.key.into(), shape))
    });
    pairs.collect()
}
