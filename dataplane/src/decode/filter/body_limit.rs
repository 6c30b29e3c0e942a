//! `envoy.extensions.filters.http.buffer.v3`.

use envoy_types::pb::envoy::extensions::filters::http::buffer::v3::buffer_per_route::Override;
use envoy_types::pb::envoy::extensions::filters::http::buffer::v3::{Buffer, BufferPerRoute};
use envoy_types::pb::google::protobuf::Any;

use crate::decode::fields::{At, Reason, any, done, required};
use crate::filter::BodyLimit;

pub(super) fn of_listener(config: &Any) -> Result<BodyLimit, Reason> {
    limit(any(config)?)
}

/// `None` where there is no limit.
pub(super) fn of_route(config: &Any) -> Result<Option<BodyLimit>, Reason> {
    let pb: BufferPerRoute = any(config)?;
    match required(pb.r#override).at("override")? {
        Override::Disabled(true) => Ok(None),
        Override::Disabled(false) => Err("disabled: only true is supported".to_owned()),
        Override::Buffer(buffer) => limit(buffer).map(Some).at("buffer"),
    }
}

fn limit(mut pb: Buffer) -> Result<BodyLimit, Reason> {
    let bytes = required(pb.max_request_bytes.take())
        .at("max_request_bytes")?
        .value;
    done(&pb)?;
    if bytes == 0 {
        return Err("max_request_bytes: must be more than 0".to_owned());
    }
    Ok(BodyLimit(bytes))
}
