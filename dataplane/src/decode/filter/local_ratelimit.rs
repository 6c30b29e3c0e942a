//! `envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit`.

use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::RuntimeFractionalPercent;
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::XRateLimitHeadersRfcVersion;
use envoy_types::pb::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit as PbLocalRateLimit;
use envoy_types::pb::envoy::r#type::v3::TokenBucket;
use envoy_types::pb::google::protobuf::Any;
use http::StatusCode;

use super::{Place, quota};
use crate::decode::fields::{At, Reason, answer_status, any, done, duration, required, runtime_fraction};
use crate::filter::{Limit, LocalRateLimit, Rate};
use crate::grpc::Code;

mod descriptors;

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
    let descriptors = descriptors::descriptors(&mut pb)?;
    let tells = match XRateLimitHeadersRfcVersion::try_from(take(&mut pb.enable_x_ratelimit_headers)) {
        Ok(XRateLimitHeadersRfcVersion::Off) => false,
        Ok(XRateLimitHeadersRfcVersion::DraftVersion03) => true,
        Err(_) => return Err("enable_x_ratelimit_headers: is unknown".to_owned()),
    };
    let told = quota::edits(take(&mut pb.response_headers_to_add), "response_headers_to_add")?;
    let unenforced = take(&mut pb.request_headers_to_add_when_not_enforced);
    let unenforced = quota::edits(unenforced, "request_headers_to_add_when_not_enforced")?;
    done(&pb)?;
    let (place, bucket) = match (place, bucket) {
        (Place::Listener, None) if descriptors.is_none() => return Ok(None),
        (Place::Listener, None) => return Err("token_bucket: is required beside descriptors".to_owned()),
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
        descriptors: descriptors.map(Arc::new),
        tells,
        told,
        unenforced,
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

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
    use envoy_types::pb::envoy::config::route::v3::RateLimit as PbDescribed;
    use envoy_types::pb::envoy::config::route::v3::rate_limit::Action as PbAction;
    use envoy_types::pb::envoy::config::route::v3::rate_limit::action::{ActionSpecifier, GenericKey};
    use envoy_types::pb::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry as PbEntry;
    use envoy_types::pb::envoy::extensions::common::ratelimit::v3::{
        LocalRateLimitDescriptor, VhRateLimitsOptions,
    };
    use envoy_types::pb::google::protobuf::{BoolValue, Duration as PbDuration, UInt32Value};
    use envoy_types::util::pack_any;

    use super::*;
    use crate::filter::{DescribedLimit, Descriptors, Entry, Outer};

    type Change = fn(&mut PbLocalRateLimit);

    fn bucket(tokens: u32) -> TokenBucket {
        TokenBucket {
            max_tokens: tokens,
            tokens_per_fill: None,
            fill_interval: Some(PbDuration { seconds: 1, nanos: 0 }),
        }
    }

    fn described(value: &str) -> LocalRateLimitDescriptor {
        LocalRateLimitDescriptor {
            entries: vec![PbEntry {
                key: "k".to_owned(),
                value: value.to_owned(),
            }],
            token_bucket: Some(bucket(2)),
            ..LocalRateLimitDescriptor::default()
        }
    }

    fn action() -> PbDescribed {
        let key = GenericKey {
            descriptor_value: "v".to_owned(),
            ..GenericKey::default()
        };
        PbDescribed {
            actions: vec![PbAction {
                action_specifier: Some(ActionSpecifier::GenericKey(key)),
            }],
            ..PbDescribed::default()
        }
    }

    fn decoded(change: Change) -> Result<Option<LocalRateLimit>, Reason> {
        let mut pb = PbLocalRateLimit {
            token_bucket: Some(bucket(1)),
            ..PbLocalRateLimit::default()
        };
        change(&mut pb);
        decode("f", &pack_any(pb), Place::Listener)
    }

    #[test]
    fn descriptors_are_limits_of_their_own() {
        let second = Duration::from_secs(1);
        let limit = Limit {
            place: "f".into(),
            rate: Rate::new(1, 1, second),
            asked: 0,
            enforced: 0,
            status: StatusCode::TOO_MANY_REQUESTS,
            code: None,
            descriptors: Some(Arc::new(Descriptors {
                own: Vec::new(),
                stage: 3,
                outer: Outer::Included,
                limits: vec![DescribedLimit {
                    entries: vec![Entry::new("k", "")],
                    rate: Rate::new(2, 1, second),
                }],
                values_max: 20,
                counts_to_all: false,
            })),
            tells: true,
            told: Default::default(),
            unenforced: Default::default(),
        };
        let found = decoded(|pb| {
            pb.descriptors = vec![described("")];
            pb.stage = 3;
            pb.vh_rate_limits = VhRateLimitsOptions::Include as i32;
            pb.always_consume_default_token_bucket = Some(BoolValue { value: false });
            pb.enable_x_ratelimit_headers = XRateLimitHeadersRfcVersion::DraftVersion03 as i32;
        });
        assert_eq!(found, Ok(Some(LocalRateLimit::new(limit))));
        assert_eq!(decoded(|pb| pb.token_bucket = None), Ok(None));
    }

    #[test]
    fn limits_that_cannot_be_had_are_refused() {
        let cases: [(Change, &str); 11] = [
            (
                |pb| {
                    pb.token_bucket = None;
                    pb.descriptors = vec![described("")];
                },
                "token_bucket: is required beside descriptors",
            ),
            (
                |pb| pb.descriptors = vec![described("a"), described("b"), described("a")],
                "descriptors[2].entries: are those of another one",
            ),
            (
                |pb| pb.descriptors = vec![LocalRateLimitDescriptor::default()],
                "descriptors[0].token_bucket: is required",
            ),
            (
                |pb| {
                    pb.descriptors = vec![described("a")];
                    pb.descriptors[0].entries.clear();
                },
                "descriptors[0].entries: at least one is required",
            ),
            (
                |pb| {
                    pb.descriptors = vec![described("a")];
                    pb.descriptors[0].shadow_mode = true;
                },
                "descriptors[0].shadow_mode: is not supported by this proxy",
            ),
            (|pb| pb.stage = 11, "stage: must be 0 to 10"),
            (
                |pb| {
                    pb.rate_limits = vec![action()];
                    pb.rate_limits[0].stage = Some(UInt32Value { value: 1 });
                },
                "rate_limits[0].stage: is not supported here",
            ),
            (
                |pb| pb.max_dynamic_descriptors = Some(UInt32Value { value: 0 }),
                "max_dynamic_descriptors: must be 1 to 100000",
            ),
            (
                |pb| pb.local_rate_limit_per_downstream_connection = true,
                "local_rate_limit_per_downstream_connection: is not supported by this proxy",
            ),
            (
                |pb| pb.enable_x_ratelimit_headers = 7,
                "enable_x_ratelimit_headers: is unknown",
            ),
            (
                |pb| {
                    pb.response_headers_to_add = vec![HeaderValueOption {
                        header: Some(HeaderValue {
                            key: "content-length".to_owned(),
                            value: "1".to_owned(),
                            ..HeaderValue::default()
                        }),
                        ..HeaderValueOption::default()
                    }];
                },
                "response_headers_to_add[0].header.key: content-length cannot be changed",
            ),
        ];
        for (change, expected) in cases {
            assert_eq!(decoded(change).err().as_deref(), Some(expected));
        }
    }
}
