//! `envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit`.

use std::mem::take;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::RuntimeFractionalPercent;
use envoy_types::pb::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit as PbLocalRateLimit;
use envoy_types::pb::envoy::r#type::v3::TokenBucket;
use envoy_types::pb::google::protobuf::Any;
use http::StatusCode;

use super::Place;
use crate::decode::fields::{At, Reason, answer_status, any, done, duration, required, runtime_fraction};
use crate::filter::{Limit, LocalRateLimit, Rate};
use crate::grpc::Code;

/// Envoy fills no bucket more often.
const FILL_INTERVAL_MIN: Duration = Duration::from_millis(50);

/// A listener's may be without a bucket: it says that routes have some.
pub(super) fn decode(name: &str, config: &Any, place: Place<'_>) -> Result<Option<LocalRateLimit>, Reason> {
    let mut pb: PbLocalRateLimit = any(config)?;
    take(&mut pb.stat_prefix);
    let bucket = pb.token_bucket.take();
    let asked = share(pb.filter_enabled.take()).at("filter_enabled")?;
    let enforced = share(pb.filter_enforced.take()).at("filter_enforced")?;
    let status = match pb.status.take() {
        None => StatusCode::TOO_MANY_REQUESTS,
        Some(status) => limited(status.code).at("status.code")?,
    };
    let code = take(&mut pb.rate_limited_as_resource_exhausted).then_some(Code::RESOURCE_EXHAUSTED);
    done(&pb)?;
    let (place, bucket) = match (place, bucket) {
        (Place::Listener, None) => return Ok(None),
        (Place::Routes(_), None) => return Err("token_bucket: is required".to_owned()),
        (Place::Listener, Some(bucket)) => (name.to_owned(), bucket),
        (Place::Routes(place), Some(bucket)) => (format!("{place}/{name}"), bucket),
    };
    Ok(Some(LocalRateLimit::new(Limit {
        place: place.into(),
        rate: rate(bucket).at("token_bucket")?,
        asked,
        enforced,
        status,
        code,
    })))
}

fn share(fraction: Option<RuntimeFractionalPercent>) -> Result<u32, Reason> {
    fraction.map_or(Ok(0), runtime_fraction)
}

/// As in Envoy, no success is an answer to one request too many.
pub(super) fn limited(code: i32) -> Result<StatusCode, Reason> {
    let status = u32::try_from(code).map_err(|_| "is negative".to_owned())?;
    let status = answer_status(status)?;
    Ok(if status.as_u16() < 400 {
        StatusCode::TOO_MANY_REQUESTS
    } else {
        status
    })
}

pub(super) fn rate(mut pb: TokenBucket) -> Result<Rate, Reason> {
    let tokens_max = take(&mut pb.max_tokens);
    if tokens_max == 0 {
        return Err("max_tokens: must be more than 0".to_owned());
    }
    let tokens_per_fill = pb.tokens_per_fill.take().map_or(1, |tokens| tokens.value);
    if tokens_per_fill == 0 {
        return Err("tokens_per_fill: must be more than 0".to_owned());
    }
    let interval = duration(required(pb.fill_interval.take()).at("fill_interval")?).at("fill_interval")?;
    if interval < FILL_INTERVAL_MIN {
        return Err(format!(
            "fill_interval: must be at least {} ms",
            FILL_INTERVAL_MIN.as_millis()
        ));
    }
    done(&pb)?;
    Ok(Rate::new(tokens_max, tokens_per_fill, interval))
}
