//! `envoy.extensions.filters.http.rate_limit_quota.v3.RateLimitQuotaFilterConfig`, `RateLimitQuotaOverride` of routes, and what the
//! service says of buckets.

use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::{HeaderValueOption, RuntimeFractionalPercent};
use envoy_types::pb::envoy::extensions::filters::http::rate_limit_quota::v3::rate_limit_quota_bucket_settings::bucket_id_builder::ValueBuilder;
use envoy_types::pb::envoy::extensions::filters::http::rate_limit_quota::v3::rate_limit_quota_bucket_settings::bucket_id_builder::value_builder::ValueSpecifier;
use envoy_types::pb::envoy::extensions::filters::http::rate_limit_quota::v3::rate_limit_quota_bucket_settings::expired_assignment_behavior::ExpiredAssignmentBehavior as PbExpiredKind;
use envoy_types::pb::envoy::extensions::filters::http::rate_limit_quota::v3::rate_limit_quota_bucket_settings::no_assignment_behavior::NoAssignmentBehavior as PbUnassignedKind;
use envoy_types::pb::envoy::extensions::filters::http::rate_limit_quota::v3::rate_limit_quota_bucket_settings::{
    BucketIdBuilder, DenyResponseSettings, ExpiredAssignmentBehavior, NoAssignmentBehavior,
};
use envoy_types::pb::envoy::extensions::filters::http::rate_limit_quota::v3::{
    RateLimitQuotaBucketSettings, RateLimitQuotaFilterConfig, RateLimitQuotaOverride,
};
use envoy_types::pb::envoy::r#type::matcher::v3::HttpRequestHeaderMatchInput;
use envoy_types::pb::envoy::r#type::v3::rate_limit_strategy::{BlanketRule, RequestsPerTimeUnit, Strategy as PbStrategy};
use envoy_types::pb::envoy::r#type::v3::{RateLimitStrategy, RateLimitUnit};
use envoy_types::pb::envoy::service::rate_limit_quota::v3::rate_limit_quota_response::BucketAction;
use envoy_types::pb::envoy::service::rate_limit_quota::v3::rate_limit_quota_response::bucket_action::BucketAction as PbAction;
use envoy_types::pb::envoy::service::rate_limit_quota::v3::{BucketId as PbBucketId, RateLimitQuotaResponse};
use envoy_types::pb::google::protobuf::Any;
use envoy_types::pb::xds::r#type::matcher::v3::Matcher;
use envoy_types::pb::xds::r#type::matcher::v3::matcher::on_match::OnMatch;
use http::StatusCode;

use super::local_ratelimit;
use crate::config::{HeaderEdits, MILLION};
use crate::decode::fields::{At, Reason, any, done, duration, required, runtime_fraction};
use crate::decode::{grpc_service, header_rules};
use crate::filter::{
    Adjustment, IdParts, IdValue, Override, QuotaLimit, QuotaService, QuotaSettings, Rate, RateLimitQuota,
    of_name,
};
use crate::grpc::Code;
use crate::quota::{Action, BucketId, Expired, Strategy};

/// For a connection: the stream has no end.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(2);
/// Envoy takes more than that only.
const INTERVAL_MIN: Duration = Duration::from_millis(100);
/// As in Envoy.
const HEADERS_MAX: usize = 10;

pub(super) fn of_listener(config: &Any) -> Result<RateLimitQuota, Reason> {
    let mut pb: RateLimitQuotaFilterConfig = any(config)?;
    let callee = grpc_service::decode(pb.rlqs_server.take(), TIMEOUT_DEFAULT).at("rlqs_server")?;
    let domain = take(&mut pb.domain);
    if domain.is_empty() {
        return Err("domain: is required".to_owned());
    }
    let matchers = required(pb.bucket_matchers.take()).at("bucket_matchers")?;
    let limit = matched(matchers).at("bucket_matchers")?;
    let asked = share(pb.filter_enabled.take()).at("filter_enabled")?;
    let enforced = share(pb.filter_enforced.take()).at("filter_enforced")?;
    let unenforced = edits(
        take(&mut pb.request_headers_to_add_when_not_enforced),
        "request_headers_to_add_when_not_enforced",
    )?;
    done(&pb)?;
    let service = QuotaService {
        callee,
        domain: domain.into(),
        asked,
        enforced,
        unenforced,
    };
    Ok(RateLimitQuota::new(Arc::new(service), limit.map(Arc::new)))
}

pub(super) fn of_route(config: &Any) -> Result<Override, Reason> {
    let mut pb: RateLimitQuotaOverride = any(config)?;
    let domain = Some(take(&mut pb.domain)).filter(|domain| !domain.is_empty());
    let limit = match pb.bucket_matchers.take() {
        None => None,
        Some(matchers) => {
            let limit = matched(matchers).at("bucket_matchers")?;
            Some(Arc::new(required(limit).at("on_no_match").at("bucket_matchers")?))
        }
    };
    done(&pb)?;
    let settings = QuotaSettings {
        domain: domain.map(String::into_boxed_str),
        limit,
    };
    Ok(Override::Adjusted(Adjustment::Quota(Arc::new(settings))))
}

/// What the service says of buckets, one by one.
pub(crate) fn actions(
    response: RateLimitQuotaResponse,
) -> impl Iterator<Item = Result<(BucketId, Action), Reason>> {
    let actions = response.bucket_action.into_iter().enumerate();
    actions.map(|(index, said)| action(said).at_index("bucket_action", index))
}

fn action(said: BucketAction) -> Result<(BucketId, Action), Reason> {
    let PbBucketId { bucket } = required(said.bucket_id).at("bucket_id")?;
    let parts = bucket.into_iter();
    let mut id: Vec<(Box<str>, Box<str>)> = parts.map(|(name, value)| (name.into(), value.into())).collect();
    id.sort_unstable();
    let action = match required(said.bucket_action).at("bucket_action")? {
        PbAction::AbandonAction(_) => Action::Abandon,
        PbAction::QuotaAssignmentAction(assigned) => Action::Assign {
            strategy: match assigned.rate_limit_strategy {
                None => Strategy::AllowAll,
                Some(said) => strategy(said).at("rate_limit_strategy")?,
            },
            lasts: match assigned.assignment_time_to_live {
                None => None,
                Some(lasts) => Some(duration(lasts).at("assignment_time_to_live")?),
            },
        },
    };
    Ok((id.into(), action))
}

/// All requests are when none is said.
fn share(fraction: Option<RuntimeFractionalPercent>) -> Result<u32, Reason> {
    fraction.map_or(Ok(MILLION), runtime_fraction)
}

pub(super) fn edits(lines: Vec<HeaderValueOption>, field: &'static str) -> Result<HeaderEdits, Reason> {
    if lines.len() > HEADERS_MAX {
        return Err(format!("{field}: has more than {HEADERS_MAX}"));
    }
    header_rules::header_edits(lines, field, &[], "")
}

/// Of all requests: what matchers could say routes say.
fn matched(mut pb: Matcher) -> Result<Option<QuotaLimit>, Reason> {
    if pb.matcher_type.is_some() {
        return Err("matcher_type: only on_no_match is supported".to_owned());
    }
    let Some(otherwise) = pb.on_no_match.take() else {
        done(&pb)?;
        return Ok(None);
    };
    done(&pb)?;
    let mut otherwise = *otherwise;
    let Some(OnMatch::Action(mut action)) = otherwise.on_match.take() else {
        return Err("on_no_match: only action is supported".to_owned());
    };
    done(&otherwise).at("on_no_match")?;
    take(&mut action.name);
    let settings = required(action.typed_config.take()).at("typed_config");
    let limit = settings.and_then(|settings| limit(&settings).at("typed_config"));
    let limit = limit.at("action").at("on_no_match")?;
    done(&action).at("action").at("on_no_match")?;
    Ok(Some(limit))
}

fn limit(config: &Any) -> Result<QuotaLimit, Reason> {
    let mut pb: RateLimitQuotaBucketSettings = any(config)?;
    let id = id(required(pb.bucket_id_builder.take()).at("bucket_id_builder")?)
        .at("bucket_id_builder")
        .at("bucket_id_builder")?;
    let interval = duration(required(pb.reporting_interval.take()).at("reporting_interval")?);
    let interval = interval.at("reporting_interval")?;
    if interval <= INTERVAL_MIN {
        let min_ms = INTERVAL_MIN.as_millis();
        return Err(format!("reporting_interval: must be more than {min_ms} ms"));
    }
    let unassigned = match pb.no_assignment_behavior.take() {
        None => Strategy::AllowAll,
        Some(said) => unassigned(said).at("no_assignment_behavior")?,
    };
    let expired = match pb.expired_assignment_behavior.take() {
        None => Expired::OnceMore,
        Some(said) => expired(said).at("expired_assignment_behavior")?,
    };
    let mut denied = pb.deny_response_settings.take().unwrap_or_default();
    done(&pb)?;
    let field = "deny_response_settings";
    let status = status(&mut denied).at(field)?;
    let code = code(&mut denied).at(field)?;
    let body = denied.http_body.take().map(|body| Bytes::from(body.value));
    let told = take(&mut denied.response_headers_to_add);
    let told = edits(told, "response_headers_to_add").at(field)?;
    done(&denied).at(field)?;
    Ok(QuotaLimit {
        id,
        interval,
        unassigned,
        expired,
        status,
        code,
        body: body.unwrap_or_default(),
        told,
    })
}

fn id(pb: BucketIdBuilder) -> Result<IdParts, Reason> {
    let mut id = Vec::with_capacity(pb.bucket_id_builder.len());
    for (name, value) in pb.bucket_id_builder {
        if name.is_empty() {
            return Err("a name is empty".to_owned());
        }
        let value = id_value(value).at(&name)?;
        id.push((name.into_boxed_str(), value));
    }
    if id.is_empty() {
        return Err("at least one is required".to_owned());
    }
    id.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    Ok(id.into())
}

fn id_value(pb: ValueBuilder) -> Result<IdValue, Reason> {
    match pb.value_specifier {
        Some(ValueSpecifier::StringValue(text)) if !text.is_empty() => Ok(IdValue::Text(text.into())),
        Some(ValueSpecifier::CustomValue(mut custom)) => {
            take(&mut custom.name);
            let config = required(custom.typed_config.take()).at("typed_config");
            let header = config.and_then(|config| any::<HttpRequestHeaderMatchInput>(&config));
            let header = header.at("custom_value")?;
            done(&custom).at("custom_value")?;
            let name = header.header_name;
            let of = of_name(&name);
            let of = of.ok_or_else(|| format!("custom_value.header_name: {name:?} is not a header name"))?;
            Ok(IdValue::Request(of))
        }
        Some(ValueSpecifier::StringValue(_)) | None => Err("is required".to_owned()),
    }
}

fn unassigned(pb: NoAssignmentBehavior) -> Result<Strategy, Reason> {
    match required(pb.no_assignment_behavior)? {
        PbUnassignedKind::FallbackRateLimit(said) => strategy(said).at("fallback_rate_limit"),
    }
}

/// Without a time it is over at once, as in Envoy.
fn expired(pb: ExpiredAssignmentBehavior) -> Result<Expired, Reason> {
    let timeout = match pb.expired_assignment_behavior_timeout {
        None => Duration::ZERO,
        Some(timeout) => duration(timeout).at("expired_assignment_behavior_timeout")?,
    };
    match required(pb.expired_assignment_behavior)? {
        PbExpiredKind::ReuseLastAssignment(_) => Ok(Expired::Reuse(timeout)),
        PbExpiredKind::FallbackRateLimit(said) => {
            let fallback = strategy(said).at("fallback_rate_limit")?;
            Ok(Expired::Fallback(fallback, timeout))
        }
    }
}

fn strategy(pb: RateLimitStrategy) -> Result<Strategy, Reason> {
    match required(pb.strategy)? {
        PbStrategy::BlanketRule(rule) => match BlanketRule::try_from(rule) {
            Ok(BlanketRule::AllowAll) => Ok(Strategy::AllowAll),
            Ok(BlanketRule::DenyAll) => Ok(Strategy::DenyAll),
            Err(_) => Err("blanket_rule: is unknown".to_owned()),
        },
        PbStrategy::RequestsPerTimeUnit(said) => requests_per_unit(said).at("requests_per_time_unit"),
        PbStrategy::TokenBucket(said) => {
            let rate = local_ratelimit::rate(said).at("token_bucket")?;
            Ok(Strategy::Rate(rate))
        }
    }
}

fn requests_per_unit(pb: RequestsPerTimeUnit) -> Result<Strategy, Reason> {
    /// As protobuf has no calendar: of 30 and 365 days, as a rate-limit service has them.
    const DAY_S: u64 = 24 * 3600;
    if pb.requests_per_time_unit == 0 {
        return Ok(Strategy::DenyAll);
    }
    let seconds = match RateLimitUnit::try_from(pb.time_unit) {
        Ok(RateLimitUnit::Second) => 1,
        Ok(RateLimitUnit::Minute) => 60,
        Ok(RateLimitUnit::Hour) => 3600,
        Ok(RateLimitUnit::Day) => DAY_S,
        Ok(RateLimitUnit::Month) => 30 * DAY_S,
        Ok(RateLimitUnit::Year) => 365 * DAY_S,
        Ok(RateLimitUnit::Unknown) | Err(_) => return Err("time_unit: is unknown".to_owned()),
    };
    // Nobody serves more in a second.
    let requests = u32::try_from(pb.requests_per_time_unit).unwrap_or(u32::MAX);
    Ok(Strategy::Rate(Rate::new(
        requests,
        requests,
        Duration::from_secs(seconds),
    )))
}

fn status(pb: &mut DenyResponseSettings) -> Result<StatusCode, Reason> {
    match pb.http_status.take() {
        None => Ok(StatusCode::TOO_MANY_REQUESTS),
        Some(status) => local_ratelimit::limited(status.code).at("http_status.code"),
    }
}

fn code(pb: &mut DenyResponseSettings) -> Result<Code, Reason> {
    let Some(mut status) = pb.grpc_status.take() else {
        return Ok(Code::UNAVAILABLE);
    };
    let code = Code::read(take(&mut status.code).to_string().as_bytes());
    done(&status).at("grpc_status")?;
    match code {
        // One too many would have gone well.
        Some(Code::OK) => Err("grpc_status.code: must be more than 0".to_owned()),
        Some(code) => Ok(code),
        None => Err("grpc_status.code: is unknown".to_owned()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
