//! `envoy.extensions.filters.http.cors.v3.CorsPolicy`, and the empty `Cors` of a listener.

use std::mem::take;

use envoy_types::pb::envoy::extensions::filters::http::cors::v3::CorsPolicy;
use envoy_types::pb::google::protobuf::Any;
use http::HeaderValue;

use crate::config::MILLION;
use crate::decode::fields::{At, Reason, any, done, only_bool, runtime_fraction};
use crate::decode::matcher::string;
use crate::filter::Cors;

pub(super) fn decode(config: &Any) -> Result<Cors, Reason> {
    let mut pb: CorsPolicy = any(config)?;
    let mut origins = Vec::new();
    for (index, origin) in take(&mut pb.allow_origin_string_match).into_iter().enumerate() {
        origins.push(string(origin).at_index("allow_origin_string_match", index)?);
    }
    let cors = Cors {
        origins,
        methods: line(take(&mut pb.allow_methods)).at("allow_methods")?,
        headers: line(take(&mut pb.allow_headers)).at("allow_headers")?,
        exposed: line(take(&mut pb.expose_headers)).at("expose_headers")?,
        max_age: line(take(&mut pb.max_age)).at("max_age")?,
        credentials: pb.allow_credentials.take().is_some_and(|allowed| allowed.value),
    };
    if let Some(enabled) = pb.filter_enabled.take()
        && runtime_fraction(enabled).at("filter_enabled")? != MILLION
    {
        return Err("filter_enabled: only 100 % is supported".to_owned());
    }
    only_bool(pb.allow_private_network_access.take(), false).at("allow_private_network_access")?;
    only_bool(pb.forward_not_matching_preflights.take(), true).at("forward_not_matching_preflights")?;
    done(&pb)?;
    Ok(cors)
}

/// Nothing where it is empty.
fn line(text: String) -> Result<Option<HeaderValue>, Reason> {
    if text.is_empty() {
        return Ok(None);
    }
    let line = HeaderValue::try_from(text);
    line.map(Some).map_err(|_| "is not a header value".to_owned())
}
