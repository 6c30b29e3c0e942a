//! `retry_policy` and `hedge_policy` of a route's action.

use std::mem::take;
use std::time::Duration;

use envoy_types::pb::envoy::config::route::v3::retry_policy::retry_host_predicate::ConfigType as PredicateConfig;
use envoy_types::pb::envoy::config::route::v3::retry_policy::retry_priority::ConfigType as PriorityConfig;
use envoy_types::pb::envoy::config::route::v3::retry_policy::{
    RateLimitedRetryBackOff, ResetHeader, ResetHeaderFormat, RetryBackOff, RetryHostPredicate, RetryPriority,
};
use envoy_types::pb::envoy::config::route::v3::{HedgePolicy, RetryPolicy as PbRetryPolicy};
use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use envoy_types::pb::envoy::extensions::retry::priority::previous_priorities::v3::PreviousPrioritiesConfig;
use http::HeaderName;

use super::fields::{At, Reason, any, done, duration, millionths, positive, required};
use super::matcher::of_answer;
use crate::retry::{
    BackOff, Condition, Reset, ResetFormat, RetryHosts, RetryOn, RetryPolicy, RetryPriorities,
};

/// A worker draws hosts without a pause, and when all were tried it draws this often in vain.
const DRAWS_MAX: u32 = 1000;
/// Envoy's, where none is given.
const RESET_MAX_DEFAULT: Duration = Duration::from_secs(300);

/// Without a policy nothing is repeated, and so nothing is hedged. What takes longer than one try goes on where it would be hedged,
/// also where there may be no other attempt.
pub(super) fn decode(
    policy: Option<PbRetryPolicy>,
    hedging: Option<HedgePolicy>,
) -> Result<Option<RetryPolicy>, Reason> {
    let hedges = hedging.map_or(Ok(false), hedging_on_timeout).at("hedge_policy")?;
    let Some(policy) = policy else {
        return Ok(None);
    };
    let mut policy = retry_policy(policy).at("retry_policy")?;
    if hedges && policy.retries_max == 0 {
        policy.per_try_timeout = None;
    }
    let hedges = hedges && policy.per_try_timeout.is_some();
    Ok(Some(RetryPolicy { hedges, ..policy }))
}

fn hedging_on_timeout(mut pb: HedgePolicy) -> Result<bool, Reason> {
    let hedges = take(&mut pb.hedge_on_per_try_timeout);
    if pb
        .initial_requests
        .take()
        .is_some_and(|requests| requests.value != 1)
    {
        return Err("initial_requests: only 1 is supported".to_owned());
    }
    if let Some(chance) = pb.additional_request_chance.take()
        && millionths(chance).at("additional_request_chance")? != 0
    {
        return Err("additional_request_chance: only 0 is supported".to_owned());
    }
    done(&pb)?;
    Ok(hedges)
}

fn retry_policy(mut pb: PbRetryPolicy) -> Result<RetryPolicy, Reason> {
    let on = retry_on(&take(&mut pb.retry_on)).at("retry_on")?;
    let retries_max = pb.num_retries.take().map_or(1, |retries| retries.value);
    let per_try_timeout = match pb.per_try_timeout.take() {
        Some(timeout) => Some(duration(timeout).at("per_try_timeout")?).filter(|timeout| !timeout.is_zero()),
        None => None,
    };
    let per_try_idle = match pb.per_try_idle_timeout.take() {
        Some(timeout) => {
            Some(duration(timeout).at("per_try_idle_timeout")?).filter(|timeout| !timeout.is_zero())
        }
        None => None,
    };
    let mut statuses = Vec::new();
    for status in take(&mut pb.retriable_status_codes) {
        let status = u16::try_from(status)
            .ok()
            .filter(|status| (100..600).contains(status));
        statuses.push(status.ok_or_else(|| "retriable_status_codes: not a status code".to_owned())?);
    }
    let mut headers = Vec::new();
    for (index, matcher) in take(&mut pb.retriable_headers).into_iter().enumerate() {
        headers.push(of_answer(matcher).at_index("retriable_headers", index)?);
    }
    let draws_max = match take(&mut pb.host_selection_retry_max_attempts) {
        0 => 1,
        attempts => u32::try_from(attempts)
            .ok()
            .filter(|attempts| *attempts <= DRAWS_MAX)
            .ok_or_else(|| format!("host_selection_retry_max_attempts: must be 0 to {DRAWS_MAX}"))?,
    };
    let hosts = match take(&mut pb.retry_host_predicate) {
        predicates if predicates.is_empty() => RetryHosts::Any,
        predicates => {
            for (index, predicate) in predicates.into_iter().enumerate() {
                previous_hosts(predicate).at_index("retry_host_predicate", index)?;
            }
            RetryHosts::Other { draws_max }
        }
    };
    let priorities = match pb.retry_priority.take() {
        None => RetryPriorities::Any,
        Some(priority) => {
            previous_priorities(priority).at("retry_priority")?;
            RetryPriorities::Other
        }
    };
    let back_off = match pb.retry_back_off.take() {
        None => BackOff::DEFAULT,
        Some(back_off) => self::back_off(back_off).at("retry_back_off")?,
    };
    let reset = match pb.rate_limited_retry_back_off.take() {
        None => None,
        Some(reset) => Some(self::reset(reset).at("rate_limited_retry_back_off")?),
    };
    done(&pb)?;
    Ok(RetryPolicy {
        on,
        retries_max,
        per_try_timeout,
        per_try_idle,
        statuses,
        headers,
        hosts,
        priorities,
        back_off,
        reset,
        hedges: false,
    })
}

fn retry_on(conditions: &str) -> Result<RetryOn, Reason> {
    let mut on = RetryOn::default();
    for condition in conditions
        .split(',')
        .map(str::trim)
        .filter(|condition| !condition.is_empty())
    {
        let known = Condition::of(condition).ok_or_else(|| format!("{condition} is not supported"))?;
        on.add(known);
    }
    Ok(on)
}

fn previous_hosts(mut pb: RetryHostPredicate) -> Result<(), Reason> {
    take(&mut pb.name);
    match pb.config_type.take() {
        Some(PredicateConfig::TypedConfig(config)) => {
            any::<PreviousHostsPredicate>(&config).at("typed_config")?;
            done(&pb)
        }
        None => Err("typed_config: is required".to_owned()),
    }
}

fn previous_priorities(mut pb: RetryPriority) -> Result<(), Reason> {
    take(&mut pb.name);
    let Some(PriorityConfig::TypedConfig(config)) = pb.config_type.take() else {
        return Err("typed_config: is required".to_owned());
    };
    done(&pb)?;
    let mut config: PreviousPrioritiesConfig = any(&config).at("typed_config")?;
    match take(&mut config.update_frequency) {
        1 => done(&config).at("typed_config"),
        other => Err(format!(
            "typed_config.update_frequency: {other} is not supported, only 1"
        )),
    }
}

fn back_off(mut pb: RetryBackOff) -> Result<BackOff, Reason> {
    let base = positive(required(pb.base_interval.take()).at("base_interval")?).at("base_interval")?;
    let max = match pb.max_interval.take() {
        Some(max) => positive(max).at("max_interval")?,
        None => base.saturating_mul(10),
    };
    if max < base {
        return Err("max_interval: is less than base_interval".to_owned());
    }
    done(&pb)?;
    Ok(BackOff { base, max })
}

fn reset(mut pb: RateLimitedRetryBackOff) -> Result<Reset, Reason> {
    let max = match pb.max_interval.take() {
        Some(max) => positive(max).at("max_interval")?,
        None => RESET_MAX_DEFAULT,
    };
    let mut headers = Vec::new();
    for (index, header) in take(&mut pb.reset_headers).into_iter().enumerate() {
        headers.push(reset_header(header).at_index("reset_headers", index)?);
    }
    done(&pb)?;
    if headers.is_empty() {
        return Err("reset_headers: is required".to_owned());
    }
    Ok(Reset { headers, max })
}

fn reset_header(mut pb: ResetHeader) -> Result<(HeaderName, ResetFormat), Reason> {
    let name = take(&mut pb.name);
    let name = name
        .parse()
        .map_err(|_| format!("name: {name:?} is not a header name"))?;
    let format = match ResetHeaderFormat::try_from(take(&mut pb.format)) {
        Ok(ResetHeaderFormat::Seconds) => ResetFormat::Seconds,
        Ok(ResetHeaderFormat::UnixTimestamp) => ResetFormat::UnixTimestamp,
        Err(_) => return Err("format: is unknown".to_owned()),
    };
    done(&pb)?;
    Ok((name, format))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use envoy_types::pb::envoy::r#type::v3::FractionalPercent;
    use envoy_types::pb::google::protobuf::{Duration as PbDuration, UInt32Value};

    use super::*;

    fn seconds(seconds: i64) -> Option<PbDuration> {
        Some(PbDuration { seconds, nanos: 0 })
    }

    #[test]
    fn what_is_late_is_hedged_where_it_may_be_repeated() {
        let hedge = |on| HedgePolicy {
            hedge_on_per_try_timeout: on,
            initial_requests: Some(UInt32Value { value: 1 }),
            additional_request_chance: Some(FractionalPercent::default()),
        };
        let retries = |value, per_try| PbRetryPolicy {
            retry_on: "5xx".to_owned(),
            num_retries: Some(UInt32Value { value }),
            per_try_timeout: per_try,
            ..PbRetryPolicy::default()
        };
        for (policy, hedging, expected) in [
            (retries(1, seconds(1)), Some(hedge(true)), true),
            (retries(1, seconds(1)), Some(hedge(false)), false),
            (retries(1, seconds(1)), None, false),
            (retries(0, seconds(1)), Some(hedge(true)), false),
            (retries(1, None), Some(hedge(true)), false),
        ] {
            let policy = decode(Some(policy), hedging).unwrap();
            assert_eq!(policy.unwrap().hedges, expected);
        }
        assert_eq!(decode(None, Some(hedge(true))), Ok(None));
        let two = HedgePolicy {
            initial_requests: Some(UInt32Value { value: 2 }),
            ..hedge(true)
        };
        let maybe = HedgePolicy {
            additional_request_chance: Some(FractionalPercent {
                numerator: 1,
                ..FractionalPercent::default()
            }),
            ..hedge(true)
        };
        for (hedging, reason) in [
            (two, "hedge_policy.initial_requests: only 1 is supported"),
            (
                maybe,
                "hedge_policy.additional_request_chance: only 0 is supported",
            ),
        ] {
            assert_eq!(decode(None, Some(hedging)), Err(reason.to_owned()));
        }
    }

    #[test]
    fn hosts_may_say_when_to_ask_again() {
        let header = |name: &str, format| ResetHeader {
            name: name.to_owned(),
            format,
        };
        let given = |headers: &[ResetHeader], max_interval| RateLimitedRetryBackOff {
            reset_headers: headers.to_vec(),
            max_interval,
        };
        let both = [header("Retry-After", 0), header("x-reset", 1)];
        let taken = |max_s| {
            Ok(Reset {
                headers: vec![
                    (HeaderName::from_static("retry-after"), ResetFormat::Seconds),
                    (HeaderName::from_static("x-reset"), ResetFormat::UnixTimestamp),
                ],
                max: Duration::from_secs(max_s),
            })
        };
        for (pb, expected) in [
            (given(&both, None), taken(300)),
            (given(&both, seconds(5)), taken(5)),
            (
                given(&both, seconds(0)),
                Err("max_interval: must be more than 0".to_owned()),
            ),
            (given(&[], None), Err("reset_headers: is required".to_owned())),
            (
                given(&[header("", 0)], None),
                Err("reset_headers[0].name: \"\" is not a header name".to_owned()),
            ),
            (
                given(&[header("a", 2)], None),
                Err("reset_headers[0].format: is unknown".to_owned()),
            ),
        ] {
            assert_eq!(reset(pb.clone()), expected, "{pb:?}");
        }
    }
}
