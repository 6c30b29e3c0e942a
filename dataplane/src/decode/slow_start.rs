//! What `ROUND_ROBIN` and `LEAST_REQUEST` are told besides, which is `SlowStartConfig`.

use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    LbConfig, LbPolicy, LeastRequestLbConfig, RoundRobinLbConfig, SlowStartConfig,
};

use super::fields::{At, Reason, done, positive};
use crate::slow_start::SlowStart;

/// Envoy's, where none is given.
const AGGRESSION_DEFAULT: f64 = 1.0;
const MIN_WEIGHT_DEFAULT_PERCENT: f64 = 10.0;
/// The only number of hosts among which `LEAST_REQUEST` chooses, and Envoy's.
const CHOICES: u32 = 2;

/// Takes the configuration of `policy`, if it is one of those and it is theirs.
pub(super) fn taken(policy: i32, config: &mut Option<LbConfig>) -> Result<Option<SlowStart>, Reason> {
    let (field, given) = match (LbPolicy::try_from(policy), config.take()) {
        (Ok(LbPolicy::RoundRobin), Some(LbConfig::RoundRobinLbConfig(pb))) => {
            ("round_robin_lb_config", round_robin(pb))
        }
        (Ok(LbPolicy::LeastRequest), Some(LbConfig::LeastRequestLbConfig(pb))) => {
            ("least_request_lb_config", least_request(pb))
        }
        (_, other) => {
            *config = other;
            return Ok(None);
        }
    };
    let given = given.at(field)?;
    given
        .map_or(Ok(None), |given| slow_start(given).at("slow_start_config"))
        .at(field)
}

fn round_robin(mut pb: RoundRobinLbConfig) -> Result<Option<SlowStartConfig>, Reason> {
    let given = pb.slow_start_config.take();
    done(&pb)?;
    Ok(given)
}

fn least_request(mut pb: LeastRequestLbConfig) -> Result<Option<SlowStartConfig>, Reason> {
    let given = pb.slow_start_config.take();
    let choices = pb.choice_count.take().map_or(CHOICES, |count| count.value);
    if choices != CHOICES {
        return Err(format!("choice_count: must be {CHOICES}"));
    }
    done(&pb)?;
    Ok(given)
}

fn slow_start(mut pb: SlowStartConfig) -> Result<Option<SlowStart>, Reason> {
    let window = pb.slow_start_window.take();
    // There is no runtime that its key could be of.
    let aggression = pb.aggression.take();
    let aggression = aggression.map_or(AGGRESSION_DEFAULT, |aggression| aggression.default_value);
    if !(aggression > 0.0 && aggression.is_finite()) {
        return Err("aggression: must be more than 0".to_owned());
    }
    let percent = pb.min_weight_percent.take();
    let percent = percent.map_or(MIN_WEIGHT_DEFAULT_PERCENT, |percent| percent.value);
    if !(0.0..=100.0).contains(&percent) {
        return Err(format!("min_weight_percent: {percent} is not a percentage"));
    }
    done(&pb)?;
    let Some(window) = window else {
        return Ok(None);
    };
    Ok(Some(SlowStart {
        window: positive(window).at("slow_start_window")?,
        aggression,
        share_min: percent / 100.0,
    }))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use envoy_types::pb::envoy::config::core::v3::RuntimeDouble;
    use envoy_types::pb::envoy::r#type::v3::Percent;
    use envoy_types::pb::google::protobuf::{Duration as PbDuration, UInt32Value};

    use super::*;

    fn given(seconds: i64, aggression: Option<f64>, percent: Option<f64>) -> SlowStartConfig {
        SlowStartConfig {
            slow_start_window: Some(PbDuration { seconds, nanos: 0 }),
            aggression: aggression.map(|default_value| RuntimeDouble {
                default_value,
                runtime_key: "k".to_owned(),
            }),
            min_weight_percent: percent.map(|value| Percent { value }),
        }
    }

    #[test]
    fn it_is_said_of_two_balancers() {
        let start = |aggression, share_min| {
            Ok(Some(SlowStart {
                window: Duration::from_secs(30),
                aggression,
                share_min,
            }))
        };
        let refused = |reason: &str| Err(format!("round_robin_lb_config.slow_start_config.{reason}"));
        for (config, expected) in [
            (SlowStartConfig::default(), Ok(None)),
            (given(30, None, None), start(1.0, 0.1)),
            (given(30, Some(2.5), Some(0.0)), start(2.5, 0.0)),
            (
                given(0, None, None),
                refused("slow_start_window: must be more than 0"),
            ),
            (
                given(30, Some(0.0), None),
                refused("aggression: must be more than 0"),
            ),
            (
                given(30, Some(f64::NAN), None),
                refused("aggression: must be more than 0"),
            ),
            (
                given(30, None, Some(101.0)),
                refused("min_weight_percent: 101 is not a percentage"),
            ),
        ] {
            let mut config = Some(LbConfig::RoundRobinLbConfig(RoundRobinLbConfig {
                slow_start_config: Some(config),
            }));
            assert_eq!(taken(LbPolicy::RoundRobin as i32, &mut config), expected);
            assert_eq!(config, None);
        }
        let least = |count| {
            Some(LbConfig::LeastRequestLbConfig(LeastRequestLbConfig {
                choice_count: count,
                slow_start_config: Some(given(30, None, None)),
                ..Default::default()
            }))
        };
        let number = |value| Some(UInt32Value { value });
        let of_least = |count| taken(LbPolicy::LeastRequest as i32, &mut least(count));
        assert_eq!(of_least(None), start(1.0, 0.1));
        assert_eq!(of_least(number(2)), start(1.0, 0.1));
        let refused = "least_request_lb_config.choice_count: must be 2".to_owned();
        assert_eq!(of_least(number(3)), Err(refused));
        let mut others = least(None);
        assert_eq!(taken(LbPolicy::Maglev as i32, &mut others), Ok(None));
        assert_eq!(others, least(None), "it is refused with the others");
    }
}
